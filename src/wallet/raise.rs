//! A higher fee by the user's hand, for a payment that no block holds.

use super::core::{Doing, Wallet, WalletAction};
use super::payment::{PaymentId, State};
use crate::base::bitcoin::Sat;
use crate::base::time::Instant;
use crate::base::units::FeeRate;

/// What became of the user's wish to raise a fee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Raise {
    /// It is being signed and sent.
    Waiting,
    /// The fee is this now.
    Done(Sat),
    /// It stays as it was.
    Failed(String),
}

impl Wallet {
    /// The user wants a payment to be sent again at this rate, or what miners want at present, within its own limit of fees and that of
    /// rates. `raised` tells what became of it.
    pub fn raise(&mut self, now: Instant, id: PaymentId, rate: Option<FeeRate>, fee_max: Option<Sat>) {
        let outcome = match self.try_raise(now, id, rate, fee_max) {
            Ok(()) => Raise::Waiting,
            Err(why) => Raise::Failed(why),
        };
        self.raises.retain(|_, outcome| *outcome == Raise::Waiting);
        self.raises.insert(id, outcome);
    }

    fn try_raise(
        &mut self,
        now: Instant,
        id: PaymentId,
        rate: Option<FeeRate>,
        fee_max: Option<Sat>,
    ) -> Result<(), String> {
        let payment = self.payments.get(&id).ok_or("no such payment is known")?;
        let (Some(civil), Some(today)) = (self.civil(now), self.fee_rate) else {
            return Err("the wallet does not follow the chain at present: `tornet wallet balance` tells why".into());
        };
        match payment.state {
            State::Sent => {}
            State::Reserved | State::Signed => return Err("it was not sent yet".into()),
            State::Confirmed(_) => return Err("a block holds it already".into()),
            State::Cancelling | State::Cancelled(_) => return Err("it is taken back".into()),
        }
        if self.doing.contains_key(&id) {
            return Err("something else is being done with it: try again in a moment".into());
        }
        let max = self.config.fee_rate_max;
        let rate = rate.unwrap_or(today.min(max));
        if rate > max {
            return Err(format!("{rate} is over payments.fee_rate_max, which is {max}"));
        }
        if rate <= payment.fee_rate {
            return Err(format!("it was sent at {} already: only a higher rate takes its place", payment.fee_rate));
        }
        let fee_cap = fee_max.map_or(payment.fee_cap, |most| most.min(payment.fee_cap));
        self.bumped.insert(id, civil);
        self.doing.insert(id, Doing::Bump(rate));
        self.actions.push_back(WalletAction::Bump { id, fee_rate: rate, fee_cap });
        Ok(())
    }

    /// A step ended that may have been such a wish.
    pub(super) fn raise_ended(&mut self, id: PaymentId, failed: Option<String>) {
        let Some(outcome) = self.raises.get_mut(&id).filter(|outcome| **outcome == Raise::Waiting) else { return };
        let payment = self.payments.get(&id);
        *outcome = match (failed, payment.map(|payment| (payment.state, payment.fee))) {
            (Some(why), _) => Raise::Failed(why),
            (None, Some((State::Sent, fee))) => Raise::Done(fee),
            (None, _) => Raise::Failed("meanwhile a block holds it, or it was taken back".into()),
        };
    }

    /// What became of that.
    pub fn raised(&self, id: &PaymentId) -> Option<&Raise> {
        self.raises.get(id)
    }
}
