//! The user's limits, and what counts towards them: a payment is charged with its amount and the most that its fee may become when it
//! is reserved, and counts until a day after it was confirmed. So in no day more leaves than the limit, whenever it is sent.

use super::payment::PaymentId;
use crate::base::amount::Msat;
use crate::base::bitcoin::{BitcoinNetwork, Sat};
use crate::base::peer::PeerId;
use crate::base::units::FeeRate;
use std::collections::BTreeMap;
use std::fmt;

/// Seconds for which a payment counts after it was confirmed.
const DAY: u64 = 86_400;
/// Outputs of less are not carried by the network: 330 sat for taproot, with a reserve for dearer forms of address.
pub(super) const TOPUP_MIN: Sat = Sat(546);

/// On which terms this node pays and is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayConfig {
    /// Whether it does at all.
    pub enabled: bool,
    /// On which chain.
    pub network: BitcoinNetwork,
    /// Peers that charge more for a GiB are not paid.
    pub price_max: Msat,
    /// Most for one payment, its fee included.
    pub payment_max: Sat,
    /// Most within a day, fees included.
    pub day_max: Sat,
    /// Most to one peer within a day.
    pub peer_day_max: Sat,
    /// Highest fee rate.
    pub fee_rate_max: FeeRate,
    /// Highest part of the amount, in percent, that a fee may be.
    pub fee_share_max: u8,
    /// No peer is paid less at once.
    pub topup_min: Sat,
    /// Paid beyond what is owed.
    pub prepay: Sat,
    /// Blocks that must hold a payment to us before it counts.
    pub confirmations: u8,
}

impl Default for PayConfig {
    fn default() -> PayConfig {
        PayConfig {
            enabled: false,
            network: BitcoinNetwork::Signet,
            price_max: Msat(50_000),
            payment_max: Sat(20_000),
            day_max: Sat(50_000),
            peer_day_max: Sat(20_000),
            fee_rate_max: FeeRate(20_000),
            fee_share_max: 5,
            topup_min: Sat(3_100),
            prepay: Sat(0),
            confirmations: 1,
        }
    }
}

impl PayConfig {
    /// The least that is paid to a peer at once.
    pub(super) fn least(&self) -> Sat {
        self.topup_min.max(TOPUP_MIN)
    }
}

/// Why a payment is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// `per_payment`.
    Payment,
    /// `per_day`.
    Day,
    /// `per_peer_day`.
    PeerDay,
    /// `fee_rate_max`.
    FeeRate,
    /// `fee_share_max`.
    FeeShare,
    /// `max_price`.
    Price,
    /// `min_topup`.
    TopUp,
}

impl Limit {
    /// The setting that names it.
    pub fn setting(self) -> &'static str {
        match self {
            Limit::Payment => "payments.per_payment",
            Limit::Day => "payments.per_day",
            Limit::PeerDay => "payments.per_peer_day",
            Limit::FeeRate => "payments.fee_rate_max",
            Limit::FeeShare => "payments.fee_share_max",
            Limit::Price => "payments.max_price",
            Limit::TopUp => "payments.min_topup",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.setting())
    }
}

/// What one payment counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Charge {
    /// What each creditor gets, without what was allowed beyond the limits.
    pub(super) shares: Vec<(PeerId, Sat)>,
    /// What its fee may become, or was.
    pub(super) fee: Sat,
    /// When it was confirmed, in seconds since 1970.
    pub(super) closed: Option<u64>,
}

impl Charge {
    fn counts(&self, civil: u64) -> bool {
        self.closed.is_none_or(|closed| closed.saturating_add(DAY) > civil)
    }

    fn sum(&self) -> Sat {
        self.shares.iter().fold(self.fee, |sum, (_, share)| Sat(sum.0.saturating_add(share.0)))
    }
}

/// All payments that still count.
#[derive(Debug, Default)]
pub struct Caps {
    charges: BTreeMap<PaymentId, Charge>,
}

impl Caps {
    /// What a payment counts from now on; it replaces what the same payment counted before.
    pub(super) fn charge(&mut self, id: PaymentId, charge: Charge) {
        self.charges.insert(id, charge);
    }

    /// A payment was cancelled for good. A second time it changes nothing.
    pub(super) fn release(&mut self, id: PaymentId) {
        self.charges.remove(&id);
    }

    /// Forgets what counts no more.
    pub(super) fn prune(&mut self, civil: u64) {
        self.charges.retain(|_, charge| charge.counts(civil));
    }

    /// What counts towards the limit of a day.
    pub fn day(&self, civil: u64) -> Sat {
        let counting = self.charges.values().filter(|charge| charge.counts(civil));
        counting.fold(Sat(0), |sum, charge| Sat(sum.0.saturating_add(charge.sum().0)))
    }

    /// What counts towards the limit of a day for one peer.
    pub fn peer_day(&self, civil: u64, peer: &PeerId) -> Sat {
        let counting = self.charges.values().filter(|charge| charge.counts(civil));
        let shares = counting.flat_map(|charge| &charge.shares).filter(|(to, _)| to == peer);
        shares.fold(Sat(0), |sum, (_, share)| Sat(sum.0.saturating_add(share.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payment_counts_while_it_is_open_and_a_day_longer_and_is_released_once() {
        let mut caps = Caps::default();
        let (one, two) = (PeerId([1; 32]), PeerId([2; 32]));
        let charge = Charge { shares: vec![(one, Sat(100)), (two, Sat(50))], fee: Sat(10), closed: None };
        caps.charge(PaymentId([1; 16]), charge.clone());
        caps.charge(PaymentId([1; 16]), charge.clone());
        assert_eq!((caps.day(u64::MAX), caps.peer_day(5, &one), caps.peer_day(5, &two)), (Sat(160), Sat(100), Sat(50)));
        caps.charge(PaymentId([1; 16]), Charge { fee: Sat(4), closed: Some(1_000), ..charge.clone() });
        assert_eq!((caps.day(1_000 + DAY - 1), caps.day(1_000 + DAY)), (Sat(154), Sat(0)));
        assert_eq!(caps.day(0), Sat(154), "a clock that was put back gives no room");
        caps.charge(PaymentId([2; 16]), charge);
        caps.release(PaymentId([1; 16]));
        caps.release(PaymentId([1; 16]));
        assert_eq!(caps.day(1_000), Sat(160));
        caps.prune(u64::MAX);
        assert_eq!(caps.day(1_000), Sat(160));
    }
}
