//! One peer's account: its sums, and what of them is on disk.

use crate::base::amount::Msat;
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::time::Instant;
use crate::wire::receipt::{RECEIPT_AMOUNT_MAX, Receipt};

/// What of an account survives a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// No more than this, and the slack above it, was ever provided.
    pub mark: Msat,
    /// The peer's newest receipt.
    pub proof: Option<Receipt>,
    /// What the peer was lent as a newcomer: part of its line for good.
    pub lent: Msat,
    /// Provided by the peer's word alone: it acknowledged more than this ledger knows of.
    pub vouched: Msat,
    /// Provided, and never to be acknowledged as far as can be told.
    pub disputed: Msat,
    /// What the peer provided to us.
    pub received: Msat,
    /// Number of our newest receipt: the one of that amount.
    pub sequence: u64,
}

impl Record {
    /// As it stands in the table.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.uint(self.mark.0);
        out.uint(self.lent.0);
        out.uint(self.vouched.0);
        out.uint(self.disputed.0);
        out.uint(self.received.0);
        out.uint(self.sequence);
        out.byte(u8::from(self.proof.is_some()));
        if let Some(proof) = &self.proof {
            proof.write(&mut out);
        }
        out.into_bytes()
    }

    /// From the table.
    pub fn from_bytes(bytes: &[u8]) -> Result<Record, DecodeError> {
        let mut from = Reader::new(bytes);
        let mut amount = || from.uint_max("amount of an account", RECEIPT_AMOUNT_MAX.0).map(Msat);
        let (mark, lent, vouched, disputed, received) = (amount()?, amount()?, amount()?, amount()?, amount()?);
        let sequence = from.uint()?;
        let proof = match from.byte()? {
            0 => None,
            1 => Some(Receipt::read(&mut from)?),
            _ => return Err(DecodeError::Invalid("receipt flag")),
        };
        from.finish()?;
        Ok(Record { mark, proof, lent, vouched, disputed, received, sequence })
    }
}

/// A peer's account.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    /// Worth of what was sent to the peer.
    pub(super) provided: Msat,
    /// Reserved for answers that are on their way.
    pub(super) held: Msat,
    /// Durable: what `provided` and `held` may reach, and a little more.
    pub(super) mark: Msat,
    /// The mark that is being written down.
    pub(super) mark_next: Msat,
    /// Of `provided`: what the peer will not acknowledge any more, as far as can be told.
    pub(super) disputed: Msat,
    pub(super) proof: Option<Receipt>,
    pub(super) lent: Msat,
    /// Of `provided`: what only the peer knows of.
    pub(super) vouched: Msat,
    /// Parts of a millisatoshi not charged yet, in 2^-30.
    pub(super) carry: u64,
    /// Worth of what came from the peer, and its bytes.
    pub(super) received: Msat,
    pub(super) received_bytes: u64,
    /// Of these, what is on disk, under its number.
    pub(super) written: Msat,
    pub(super) written_bytes: u64,
    pub(super) written_sequence: u64,
    /// The highest number known of a receipt of ours.
    pub(super) sequence: u64,
    /// Bytes that the newest receipt sent on this link covers.
    pub(super) told_bytes: u64,
    pub(super) received_at: Instant,
    pub(super) rank: u8,
    pub(super) linked: bool,
    /// The peer said hello on this link: its rank is known.
    pub(super) greeted: bool,
    /// A receipt of the peer came on this link.
    pub(super) synced: bool,
    /// A receipt of ours was sent on this link, or is about to be.
    pub(super) opened: bool,
    /// The next receipt is the first on its link.
    pub(super) opening: bool,
    /// A receipt is on its way: its amount, and whether it is the first on its link.
    pub(super) telling: Option<(Msat, bool)>,
    /// Something that it was asked for is waited for.
    pub(super) waiting: bool,
    /// The newest receipt sent on this link did not say that all is settled.
    pub(super) unsettled: bool,
    /// A receipt is to be sent once everything received is on disk.
    pub(super) wants_receipt: bool,
    /// The mark is to be moved on.
    pub(super) wants_mark: bool,
    /// A timer for the next receipt runs.
    pub(super) timed: bool,
}

impl Account {
    /// As it was left. What may have been provided beyond the newest receipt counts as provided until the peer says otherwise.
    pub(super) fn restored(record: &Record) -> Account {
        let acknowledged = record.proof.map_or(Msat::ZERO, |proof| proof.amount);
        Account {
            provided: record.mark.max(acknowledged),
            mark: record.mark,
            proof: record.proof,
            lent: record.lent,
            vouched: record.vouched,
            disputed: record.disputed,
            received: record.received,
            written: record.received,
            written_sequence: record.sequence,
            sequence: record.sequence,
            ..Account::default()
        }
    }

    /// As it is to be written down with this mark.
    pub(super) fn record(&self, mark: Msat) -> Record {
        let sequence =
            if self.received > self.written { self.sequence.saturating_add(1) } else { self.written_sequence };
        Record {
            mark: mark.min(RECEIPT_AMOUNT_MAX),
            proof: self.proof,
            lent: self.lent,
            vouched: self.vouched,
            disputed: self.disputed,
            received: self.received,
            sequence,
        }
    }

    /// What the peer acknowledged.
    pub(super) fn acknowledged(&self) -> Msat {
        self.proof.map_or(Msat::ZERO, |proof| proof.amount)
    }

    /// Provided, about to be, and not acknowledged yet.
    pub(super) fn unacknowledged(&self) -> Msat {
        self.reach().over(self.settled())
    }

    /// What of that the peer acknowledged, or never will.
    pub(super) fn settled(&self) -> Msat {
        self.acknowledged().saturating_add(self.disputed)
    }

    /// Bytes received that no receipt on this link covers.
    pub(super) fn untold(&self) -> u64 {
        self.received_bytes.saturating_sub(self.told_bytes)
    }

    /// What the mark must cover.
    pub(super) fn reach(&self) -> Msat {
        self.provided.saturating_add(self.held)
    }

    /// What is acknowledged was provided, or is on its way still; what is acknowledged is not disputed.
    pub(super) fn settle(&mut self) {
        let unknown = self.acknowledged().over(self.held).over(self.provided);
        self.vouched = self.vouched.saturating_add(unknown);
        self.provided = self.provided.saturating_add(unknown);
        self.disputed = self.disputed.min(self.provided.over(self.acknowledged()));
    }

    /// How much it is about, for the choice of whom to forget. What a peer says of itself does not count: who invents debts
    /// could have others forgotten.
    pub(super) fn weight(&self) -> Msat {
        self.reach().over(self.vouched).max(self.received)
    }

    /// Whether nothing is worth being written down.
    pub(super) fn is_blank(&self) -> bool {
        self.reach().max(self.received).max(self.lent) == Msat::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_come_back(amounts: [u32; 5], sequence: u64, proof: Option<(u64, u32, u8)>) {
            let proof = proof.map(|(sequence, amount, byte)| {
                Receipt { sequence, amount: Msat(amount.into()), signature: [byte; 64] }
            });
            let [mark, lent, vouched, disputed, received] = amounts.map(|amount| Msat(amount.into()));
            let record = Record { mark, proof, lent, vouched, disputed, received, sequence };
            prop_assert_eq!(Record::from_bytes(&record.to_bytes()), Ok(record));
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = Record::from_bytes(&bytes);
        }
    }
}
