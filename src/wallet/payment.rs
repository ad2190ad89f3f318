//! One payment, from its reservation to its place in the chain and, when that is reorganised, back.

use super::allowance::Drawn;
use super::cap::Charge;
use crate::base::bitcoin::{Outpoint, Sat, Txid};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::digest::{ChunkId, hex};
use crate::base::limit::ALLOWANCES_MAX;
use crate::base::peer::PeerId;
use crate::base::units::FeeRate;
use crate::wire::payment::Invoice;
use std::fmt;

/// Names a payment, here and at the signer: it signs no two payments for one name. Ascending by time, and random, so that no name comes again
/// where a ledger was put back to an older copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PaymentId(pub [u8; 16]);

impl fmt::Display for PaymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

/// How far a payment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Written down, charged to the limits; perhaps signed.
    Reserved,
    /// Signed, its coins locked.
    Signed,
    /// Sent at least once.
    Sent,
    /// In the chain, with so many blocks from its own on.
    Confirmed(u32),
    /// To be taken back: given up before it was sent, or replaced by a transaction to ourselves.
    Cancelling,
    /// Taken back: so many blocks hold what took its coins, or nobody ever saw it (`u32::MAX`).
    Cancelled(u32),
}

/// What one creditor gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The creditor.
    pub peer: PeerId,
    /// How much.
    pub value: Sat,
    /// Of that, what the user allowed beyond the limits.
    pub allowed: Sat,
    /// What is paid on.
    pub invoice: Invoice,
    /// Where it stands in the transaction, once that is signed; another one after the fee was raised.
    pub outpoint: Option<Outpoint>,
}

/// What the signer and the chain say of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The signer never heard of it.
    Unknown,
    /// It can no longer be paid: taken back, or another transaction in a block took its coins.
    Void {
        /// How many blocks hold that; `u32::MAX`: nobody ever saw the payment.
        blocks: u32,
    },
    /// Signed, perhaps sent; no block holds it.
    Pending {
        /// In the order of the payment's outputs.
        outpoints: Vec<Outpoint>,
        /// Its fee now.
        fee: Sat,
    },
    /// Blocks hold it.
    Confirmed {
        /// In the order of the payment's outputs.
        outpoints: Vec<Outpoint>,
        /// Its fee.
        fee: Sat,
        /// How many, from its own on.
        blocks: u32,
    },
}

/// A payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// Its name.
    pub id: PaymentId,
    /// Seconds since 1970 when it was reserved.
    pub at: u64,
    /// Whom it pays.
    pub outputs: Vec<Output>,
    /// At this rate it was signed last.
    pub fee_rate: FeeRate,
    /// What its fee may become.
    pub fee_cap: Sat,
    /// Of that, what counts towards the limits.
    pub fee_charged: Sat,
    /// What its fee is.
    pub fee: Sat,
    /// How far it is.
    pub state: State,
    /// Seconds since 1970 when it was confirmed.
    pub closed: Option<u64>,
    /// What it took of what the user allowed beyond the limits.
    pub drawn: Vec<Drawn>,
}

impl Payment {
    /// Whether money may have left for it, or may yet.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.state, State::Confirmed(_) | State::Cancelled(_))
    }

    /// What it counts towards the limits; nothing once it is cancelled.
    pub(super) fn charge(&self) -> Option<Charge> {
        let shares =
            self.outputs.iter().map(|output| (output.peer, Sat(output.value.0.saturating_sub(output.allowed.0))));
        let (fee, closed) = match self.state {
            State::Cancelled(_) => return None,
            State::Confirmed(_) => (self.fee.min(self.fee_charged), self.closed),
            _ => (self.fee_charged, None),
        };
        Some(Charge { shares: shares.collect(), fee, closed })
    }

    /// What the signer or the chain says of it. Gives whether it changed, but for the number of blocks. `civil`: seconds since 1970.
    pub(super) fn report(&mut self, civil: u64, report: &Report) -> bool {
        let before = (self.state, self.fee, self.outputs.first().and_then(|output| output.outpoint));
        let next = match (self.state, report) {
            (_, Report::Void { blocks }) => State::Cancelled(*blocks),
            (State::Cancelling, Report::Unknown) => State::Cancelled(u32::MAX),
            // The signer lost it: another transaction could pay twice, so it is waited for.
            (state, Report::Unknown) => state,
            (State::Reserved, Report::Pending { .. }) => State::Signed,
            (State::Confirmed(_), Report::Pending { .. }) => State::Sent,
            // What was taken back may come back when the chain is reorganised.
            (State::Cancelled(_), Report::Pending { .. }) => State::Cancelling,
            (state, Report::Pending { .. }) => state,
            (_, Report::Confirmed { blocks, .. }) => State::Confirmed(*blocks),
        };
        if let Report::Pending { outpoints, fee } | Report::Confirmed { outpoints, fee, .. } = report {
            for (output, outpoint) in self.outputs.iter_mut().zip(outpoints) {
                output.outpoint = Some(*outpoint);
            }
            self.fee = *fee;
        }
        match next {
            State::Confirmed(_) => self.closed = Some(self.closed.unwrap_or(civil)),
            _ => self.closed = None,
        }
        self.state = next;
        let same = std::mem::discriminant(&before.0) == std::mem::discriminant(&next);
        let after = (next, self.fee, self.outputs.first().and_then(|output| output.outpoint));
        (before.1, before.2) != (after.1, after.2) || !same
    }

    /// As it stands in the table.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.uint(self.at);
        out.uint(self.fee_rate.0);
        out.uint(self.fee_cap.0);
        out.uint(self.fee_charged.0);
        out.uint(self.fee.0);
        let (code, blocks) = match self.state {
            State::Reserved => (0, 0),
            State::Signed => (1, 0),
            State::Sent => (2, 0),
            State::Confirmed(blocks) => (3, blocks),
            State::Cancelling => (4, 0),
            State::Cancelled(blocks) => (5, blocks),
        };
        out.byte(code);
        out.uint(u64::from(blocks));
        out.uint(self.closed.unwrap_or(0));
        out.uint(self.outputs.len() as u64);
        for output in &self.outputs {
            out.raw(&output.peer.0);
            out.uint(output.value.0);
            out.uint(output.allowed.0);
            output.invoice.write(&mut out);
            out.byte(u8::from(output.outpoint.is_some()));
            if let Some(outpoint) = &output.outpoint {
                write_outpoint(&mut out, outpoint);
            }
        }
        // Rows of before end here.
        if !self.drawn.is_empty() {
            out.uint(self.drawn.len() as u64);
            for drawn in &self.drawn {
                out.raw(&drawn.tree.0);
                out.uint(drawn.of.0);
                out.uint(drawn.of.1.0);
                out.uint(drawn.part.0);
            }
        }
        out.into_bytes()
    }

    /// From the table.
    pub fn from_bytes(id: PaymentId, bytes: &[u8]) -> Result<Payment, DecodeError> {
        let mut from = Reader::new(bytes);
        let (at, fee_rate) = (from.uint()?, FeeRate(from.uint()?));
        let (fee_cap, fee_charged, fee) = (Sat(from.uint()?), Sat(from.uint()?), Sat(from.uint()?));
        let (code, blocks) = (from.byte()?, from.uint_max("blocks", u64::from(u32::MAX))? as u32);
        let state = match code {
            0 => State::Reserved,
            1 => State::Signed,
            2 => State::Sent,
            3 => State::Confirmed(blocks),
            4 => State::Cancelling,
            5 => State::Cancelled(blocks),
            got => return Err(DecodeError::Unknown { what: "state of a payment", got: u64::from(got) }),
        };
        let closed = Some(from.uint()?).filter(|closed| *closed > 0);
        let count = from.count("outputs", super::policy::OUTPUTS_MAX, 32)?;
        let mut outputs = Vec::with_capacity(count);
        for _ in 0..count {
            let (peer, value, allowed) = (PeerId(from.array()?), Sat(from.uint()?), Sat(from.uint()?));
            let invoice = Invoice::read(&mut from)?;
            let outpoint = if from.byte()? > 0 { Some(read_outpoint(&mut from)?) } else { None };
            outputs.push(Output { peer, value, allowed, invoice, outpoint });
        }
        let count = if from.remaining() > 0 { from.count("allowances", ALLOWANCES_MAX, 35)? } else { 0 };
        let mut drawn = Vec::with_capacity(count);
        for _ in 0..count {
            let tree = ChunkId(from.array()?);
            drawn.push(Drawn { tree, of: (from.uint()?, Sat(from.uint()?)), part: Sat(from.uint()?) });
        }
        from.finish()?;
        Ok(Payment { id, at, outputs, fee_rate, fee_cap, fee_charged, fee, state, closed, drawn })
    }
}

pub(super) fn write_outpoint(out: &mut Writer, outpoint: &Outpoint) {
    out.raw(&outpoint.txid.0);
    out.uint(u64::from(outpoint.vout));
}

pub(super) fn read_outpoint(from: &mut Reader<'_>) -> Result<Outpoint, DecodeError> {
    let txid = Txid(from.array()?);
    Ok(Outpoint { txid, vout: from.uint_max("place of an output", u64::from(u32::MAX))? as u32 })
}

#[cfg(test)]
mod tests {
    use super::super::tests::invoice;
    use super::*;
    use proptest::prelude::*;

    fn payment(state: State) -> Payment {
        let output = |name: u8, value| Output {
            peer: PeerId([name; 32]),
            value: Sat(value),
            allowed: Sat(10),
            invoice: invoice(name),
            outpoint: None,
        };
        Payment {
            id: PaymentId([1; 16]),
            at: 5,
            outputs: vec![output(1, 1_000), output(2, 2_000)],
            fee_rate: FeeRate(1_000),
            fee_cap: Sat(200),
            fee_charged: Sat(150),
            fee: Sat(0),
            state,
            closed: None,
            drawn: Vec::new(),
        }
    }

    fn at(byte: u8) -> Vec<Outpoint> {
        (0..2).map(|vout| Outpoint { txid: Txid([byte; 32]), vout }).collect()
    }

    #[test]
    fn a_reorganisation_moves_it_back_and_the_charge_opens_again() {
        let mut this = payment(State::Reserved);
        assert!(this.report(9, &Report::Pending { outpoints: at(1), fee: Sat(160) }));
        assert_eq!(this.state, State::Signed);
        assert!(!this.report(9, &Report::Pending { outpoints: at(1), fee: Sat(160) }));
        this.state = State::Sent;
        assert!(this.report(10, &Report::Confirmed { outpoints: at(1), fee: Sat(160), blocks: 1 }));
        assert_eq!((this.closed, this.charge().unwrap().fee), (Some(10), Sat(150)), "never more than was charged");
        assert!(!this.report(20, &Report::Confirmed { outpoints: at(1), fee: Sat(160), blocks: 2 }));
        assert_eq!((this.state, this.closed), (State::Confirmed(2), Some(10)));
        assert!(this.report(30, &Report::Pending { outpoints: at(2), fee: Sat(190) }));
        assert_eq!((this.state, this.closed, this.charge().unwrap().closed), (State::Sent, None, None));
        assert_eq!(this.outputs[1].outpoint, Some(at(2)[1]));
        assert!(!this.report(31, &Report::Unknown), "what may have been sent is never made anew");
    }

    #[test]
    fn what_is_taken_back_counts_until_that_is_final_and_a_lost_race_counts_for_good() {
        let mut this = payment(State::Cancelling);
        assert!(!this.report(9, &Report::Pending { outpoints: vec![], fee: Sat(0) }));
        assert_eq!(this.charge().unwrap().fee, Sat(150));
        assert!(this.report(9, &Report::Void { blocks: 1 }) && !this.report(9, &Report::Void { blocks: 2 }));
        assert_eq!((this.state, this.charge()), (State::Cancelled(2), None));
        assert!(this.report(10, &Report::Confirmed { outpoints: at(1), fee: Sat(90), blocks: 1 }));
        assert_eq!(this.charge().unwrap().shares[1], (PeerId([2; 32]), Sat(1_990)));
    }

    proptest! {
        #[test]
        fn payments_come_back(state in 0usize..6, blocks: u32, numbers: [u32; 6], placed: bool) {
            let state = [State::Reserved, State::Signed, State::Sent, State::Confirmed(blocks), State::Cancelling,
                State::Cancelled(blocks)][state];
            let [at_time, fee_rate, cap, charged, fee, closed] = numbers.map(u64::from);
            let mut this = payment(state);
            (this.at, this.fee_rate, this.fee_cap) = (at_time, FeeRate(fee_rate), Sat(cap));
            (this.fee_charged, this.fee, this.closed) = (Sat(charged), Sat(fee), Some(closed).filter(|at| *at > 0));
            this.outputs[1].outpoint = placed.then(|| at(7)[1]);
            if placed {
                let (tree, part) = (ChunkId([8; 32]), Sat(cap));
                this.drawn = vec![Drawn { tree, of: (at_time, Sat(fee)), part }, Drawn { tree, of: (closed, Sat(0)), part }];
            }
            prop_assert_eq!(Payment::from_bytes(this.id, &this.to_bytes()), Ok(this));
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Payment::from_bytes(PaymentId([1; 16]), &bytes);
        }
    }
}
