//! What a peer was asked to pay, and what came: one address for each, given to nobody else.

use super::payment::{read_outpoint, write_outpoint};
use crate::base::amount::Msat;
use crate::base::bitcoin::{Outpoint, Sat};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::peer::PeerId;
use crate::wire::payment::Invoice;
use std::collections::BTreeMap;

/// Outputs of one address that count: further ones stay ours, and uncounted. A debtor needs one.
const OUTPUTS_MAX: usize = 64;

/// What came to an address: where it stands, how much it is, how many blocks hold it.
pub type Came = Vec<(Outpoint, Sat, u32)>;

/// An invoice of ours, and what was paid on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bill {
    /// The debtor.
    pub peer: PeerId,
    /// As it was last sent, without signature. Number, network, confirmations and address never change.
    pub invoice: Invoice,
    /// Something was paid on it, or is said to have been: the next invoice gets an address of its own.
    pub used: bool,
    /// What came, and how many blocks hold it.
    pub came: BTreeMap<Outpoint, (Sat, u32)>,
}

impl Bill {
    /// What it credits the debtor with.
    pub fn credits(&self) -> Msat {
        let each = self.came.values().map(|(value, blocks)| self.invoice.credits(*value, *blocks));
        each.fold(Msat::ZERO, Msat::saturating_add)
    }

    /// What came to its address as the chain says now. Gives whether that makes a difference.
    pub(super) fn seen(&mut self, found: &[(Outpoint, Sat, u32)]) -> bool {
        let before = (self.used, self.credits(), self.came.len());
        let known: BTreeMap<Outpoint, (Sat, u32)> =
            found.iter().take(OUTPUTS_MAX).map(|(outpoint, value, blocks)| (*outpoint, (*value, *blocks))).collect();
        self.used |= !known.is_empty();
        self.came = known;
        before != (self.used, self.credits(), self.came.len())
    }

    /// As it stands in the table.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(&self.peer.0);
        self.invoice.write(&mut out);
        out.byte(u8::from(self.used));
        out.uint(self.came.len() as u64);
        for (outpoint, (value, blocks)) in &self.came {
            write_outpoint(&mut out, outpoint);
            out.uint(value.0);
            out.uint(u64::from(*blocks));
        }
        out.into_bytes()
    }

    /// From the table.
    pub fn from_bytes(bytes: &[u8]) -> Result<Bill, DecodeError> {
        let mut from = Reader::new(bytes);
        let (peer, invoice, used) = (PeerId(from.array()?), Invoice::read(&mut from)?, from.byte()? > 0);
        let count = from.count("outputs", OUTPUTS_MAX, 34)?;
        let mut came = BTreeMap::new();
        for _ in 0..count {
            let outpoint = read_outpoint(&mut from)?;
            came.insert(outpoint, (Sat(from.uint()?), from.uint_max("blocks", u64::from(u32::MAX))? as u32));
        }
        from.finish()?;
        Ok(Bill { peer, invoice, used, came })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::invoice;
    use super::*;
    use crate::base::bitcoin::Txid;
    use proptest::prelude::*;

    fn outpoint(byte: u8) -> Outpoint {
        Outpoint { txid: Txid([byte; 32]), vout: 1 }
    }

    #[test]
    fn each_output_counts_once_and_no_longer_than_blocks_hold_it() {
        let mut bill = Bill { peer: PeerId([1; 32]), invoice: invoice(1), used: false, came: BTreeMap::new() };
        assert!(!bill.seen(&[]));
        assert!(bill.seen(&[(outpoint(1), Sat(5), 0)]) && bill.used);
        assert_eq!(bill.credits(), Msat::ZERO);
        let both = [(outpoint(1), Sat(5), 1), (outpoint(1), Sat(5), 1), (outpoint(2), Sat(7), 3)];
        assert!(bill.seen(&both) && !bill.seen(&both));
        assert_eq!(bill.credits(), Msat(12_000));
        assert!(bill.seen(&[(outpoint(2), Sat(7), 0)]));
        assert_eq!((bill.credits(), bill.used), (Msat::ZERO, true));
    }

    proptest! {
        #[test]
        fn bills_come_back(used: bool, came in proptest::collection::btree_map(any::<u8>(), any::<(u32, u32)>(), 0..9)) {
            let came = came.into_iter().map(|(byte, (value, blocks))| (outpoint(byte), (Sat(value.into()), blocks)));
            let bill = Bill { peer: PeerId([1; 32]), invoice: invoice(1), used, came: came.collect() };
            prop_assert_eq!(Bill::from_bytes(&bill.to_bytes()), Ok(bill));
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Bill::from_bytes(&bytes);
        }
    }
}
