//! Which debts are settled now, with how much, in one transaction.

use super::cap::{Caps, Limit, PayConfig};
use super::payment::Output;
use crate::base::amount::Msat;
use crate::base::bitcoin::Sat;
use crate::base::digest::ChunkId;
use crate::base::peer::PeerId;
use crate::base::units::{FeeRate, GibPrice};
use crate::wire::payment::Invoice;
use std::collections::BTreeMap;
use std::fmt;

/// Creditors paid in one transaction.
pub(super) const OUTPUTS_MAX: usize = 32;
/// Virtual bytes of a transaction with one taproot input and change, and of each further output (BIP 341).
const VBYTES_BASE: u64 = 112;
const VBYTES_OUTPUT: u64 = 43;

/// A debt that may be settled.
#[derive(Debug, Clone)]
pub struct Due {
    /// To whom.
    pub peer: PeerId,
    /// What is owed beyond what is on its way already.
    pub owed: Msat,
    /// What the creditor charges for a GiB, if that is known.
    pub price: Option<Msat>,
    /// To be paid beyond that, if no amount is ordered.
    pub prepay: Sat,
    /// What it asks for.
    pub invoice: Invoice,
    /// The user asked for a payment of so much.
    pub ordered: Option<Sat>,
    /// May be paid beyond the limits, out of what the user allowed for these trees.
    pub allowed: Vec<ChunkId>,
}

impl Due {
    fn wanted(&self) -> Sat {
        let owed = Sat::covering(self.owed);
        self.ordered.unwrap_or(Sat(owed.0.saturating_add(self.prepay.0)))
    }
}

/// A debt that is not settled, or not all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked {
    /// To whom.
    pub peer: PeerId,
    /// By which limit.
    pub limit: Limit,
    /// What was to be paid, or the fee rate that is to be paid, in the limit's unit.
    pub wanted: u64,
    /// What the limit leaves, in the same unit.
    pub left: u64,
    /// What would pay the debt once.
    pub remedy: Remedy,
}

/// What the user can do once about a debt that a limit keeps from being paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Allow so much beyond the limits, fee included.
    Allow(Sat),
    /// Pay so much: in advance what is more than is owed.
    Pay(Sat),
    /// Wait, or raise the limit.
    Wait,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Blocked { limit, wanted, left, .. } = *self;
        let (due, rest) = (Sat(wanted), Sat(left));
        match limit {
            Limit::Payment | Limit::Day | Limit::PeerDay => write!(f, "{due} are due, {limit} leaves {rest}"),
            Limit::TopUp => write!(f, "{due} are due, {limit} is {rest}: smaller payments would go to fees"),
            Limit::FeeShare => write!(f, "the fee would be {due}, {limit} allows {rest}"),
            Limit::FeeRate => write!(f, "miners want {}, {limit} is {}", FeeRate(wanted), FeeRate(left)),
            Limit::Price => write!(f, "it charges {}, {limit} is {}", GibPrice(Msat(wanted)), GibPrice(Msat(left))),
        }
    }
}

/// A transaction to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) outputs: Vec<Output>,
    pub(super) fee_cap: Sat,
    /// Of the fee cap, what counts towards the limits.
    pub(super) fee_charged: Sat,
    pub(super) fee_rate: FeeRate,
    /// What is left then of what the user allowed.
    pub(super) pools: BTreeMap<ChunkId, Sat>,
}

pub(super) fn share(amount: Sat, percent: u8) -> Sat {
    let part = u128::from(amount.0).saturating_mul(u128::from(percent)).checked_div(100).unwrap_or(0);
    Sat(part.min(u128::from(u64::MAX)) as u64)
}

/// The most that can be paid so that it and its fee fit into `room`.
fn before_fee(room: Sat, percent: u8) -> Sat {
    let whole = 100u128.saturating_add(u128::from(percent));
    let part = u128::from(room.0).saturating_mul(100).checked_div(whole).unwrap_or(0);
    Sat(part.min(u128::from(u64::MAX)) as u64)
}

/// What leaves when so much is paid, with the highest fee: of this `before_fee` gives no less again.
fn with_fee(amount: Sat, percent: u8) -> Sat {
    let whole = 100u128.saturating_add(u128::from(percent));
    let sum = u128::from(amount.0).saturating_mul(whole).div_ceil(100);
    Sat(sum.min(u128::from(u64::MAX)) as u64)
}

fn left(limit: Sat, used: Sat) -> Sat {
    Sat(limit.0.saturating_sub(used.0))
}

/// What is paid now, and what keeps the rest from being paid. Orders of the user come first, then the largest debts.
pub(super) fn plan(
    config: &PayConfig,
    caps: &Caps,
    civil: u64,
    fee_rate: FeeRate,
    mut dues: Vec<Due>,
    mut pools: BTreeMap<ChunkId, Sat>,
) -> (Option<Plan>, Vec<Blocked>) {
    let mut blocked = Vec::new();
    dues.sort_by_key(|due| (due.ordered.is_none(), std::cmp::Reverse(due.owed), due.peer));
    if fee_rate > config.fee_rate_max {
        let (wanted, left, remedy) = (fee_rate.0, config.fee_rate_max.0, Remedy::Wait);
        blocked.extend(dues.iter().map(|due| Blocked { peer: due.peer, limit: Limit::FeeRate, wanted, left, remedy }));
        return (None, blocked);
    }
    let percent = config.fee_share_max;
    let day = before_fee(left(config.day_max, caps.day(civil)), percent);
    let payment = before_fee(config.payment_max, percent);
    let mut outputs: Vec<Output> = Vec::new();
    let (mut total, mut charged) = (Sat(0), Sat(0));
    for due in dues {
        let wanted = due.wanted();
        let stop = |limit, room: Sat| {
            let remedy = Remedy::Allow(with_fee(left(wanted, room), percent));
            Blocked { peer: due.peer, limit, wanted: wanted.0, left: room.0, remedy }
        };
        let least = config.least();
        if wanted < least {
            blocked.push(Blocked { remedy: Remedy::Pay(least), ..stop(Limit::TopUp, least) });
            continue;
        }
        let peer = left(config.peer_day_max, caps.peer_day(civil, &due.peer));
        let dear = due.price.filter(|price| *price > config.price_max);
        let rooms = [
            (Limit::Price, if dear.is_some() { Sat(0) } else { wanted }),
            (Limit::PeerDay, peer),
            (Limit::Day, left(day, charged)),
            (Limit::Payment, left(payment, charged)),
        ];
        let narrowest = rooms.into_iter().min_by_key(|(_, room)| *room).unwrap_or((Limit::Day, Sat(0)));
        let within = wanted.min(narrowest.1);
        let pool = due.allowed.iter().filter_map(|tree| pools.get(tree));
        let pool = pool.fold(Sat(0), |sum, left| Sat(sum.0.saturating_add(left.0)));
        let allowed = left(wanted, within).min(before_fee(pool, percent));
        let value = Sat(within.0.saturating_add(allowed.0));
        if value < wanted {
            let stop = stop(narrowest.0, narrowest.1);
            blocked.push(match dear {
                Some(price) => Blocked { limit: Limit::Price, wanted: price.0, left: config.price_max.0, ..stop },
                None => stop,
            });
        }
        if value < least || outputs.len() >= OUTPUTS_MAX {
            continue;
        }
        let mut spent = Sat(allowed.0.saturating_add(share(allowed, percent).0));
        for tree in &due.allowed {
            let Some(pool) = pools.get_mut(tree) else { continue };
            let part = spent.min(*pool);
            (*pool, spent) = (left(*pool, part), left(spent, part));
        }
        (total, charged) = (Sat(total.0.saturating_add(value.0)), Sat(charged.0.saturating_add(within.0)));
        outputs.push(Output { peer: due.peer, value, allowed, invoice: due.invoice, outpoint: None });
    }
    if outputs.is_empty() {
        return (None, blocked);
    }
    let fee_cap = share(total, percent);
    let vbytes = VBYTES_BASE.saturating_add(VBYTES_OUTPUT.saturating_mul(outputs.len() as u64));
    let fee = fee_rate.of(vbytes);
    if fee > fee_cap {
        // The fee is a smaller part of a larger payment.
        let remedy = match fee.0.saturating_mul(100).div_ceil(u64::from(percent.max(1))) {
            _ if percent == 0 || outputs.len() > 1 => Remedy::Wait,
            large => Remedy::Pay(Sat(large)),
        };
        let (limit, wanted, left) = (Limit::FeeShare, fee.0, fee_cap.0);
        blocked.extend(outputs.iter().map(|output| Blocked { peer: output.peer, limit, wanted, left, remedy }));
        return (None, blocked);
    }
    let fee_charged = share(charged, percent);
    (Some(Plan { outputs, fee_cap, fee_charged, fee_rate, pools }), blocked)
}

#[cfg(test)]
mod tests {
    use super::super::cap::Charge;
    use super::super::payment::PaymentId;
    use super::*;
    use crate::base::bitcoin::BitcoinNetwork;

    const NOW: u64 = 1_800_000_000;

    fn due(name: u8, sat: u64) -> Due {
        let invoice = Invoice {
            number: 1,
            network: BitcoinNetwork::Regtest,
            confirmations: 1,
            amount: Msat(sat * 1000),
            expires: NOW + 3600,
            address: format!("bcrt1p{name}"),
            signature: [0; 64],
        };
        let (owed, price) = (Msat(sat * 1000), Some(Msat(10_000)));
        Due { peer: PeerId([name; 32]), owed, prepay: Sat(0), price, invoice, ordered: None, allowed: Vec::new() }
    }

    type Planned = (Vec<(u8, u64)>, Vec<(u8, Limit)>);

    fn planned(config: &PayConfig, caps: &Caps, dues: Vec<Due>) -> Planned {
        let (plan, blocked) = plan(config, caps, NOW, FeeRate(1_000), dues, BTreeMap::new());
        let outputs = plan.map(|plan| plan.outputs).unwrap_or_default();
        let outputs = outputs.into_iter().map(|output| (output.peer.0[0], output.value.0)).collect();
        (outputs, blocked.into_iter().map(|blocked| (blocked.peer.0[0], blocked.limit)).collect())
    }

    #[test]
    fn several_creditors_are_settled_to_zero_in_one_transaction() {
        let config = PayConfig::default();
        let owed = Due { owed: Msat(4_000_001), ..due(2, 0) };
        let (outputs, blocked) = planned(&config, &Caps::default(), vec![due(1, 3_100), owed, due(3, 3_099)]);
        assert_eq!((outputs, blocked), (vec![(2, 4_001), (1, 3_100)], vec![(3, Limit::TopUp)]));
        let prepaid = Due { prepay: Sat(1), ..due(3, 3_099) };
        assert_eq!(planned(&config, &Caps::default(), vec![prepaid]), (vec![(3, 3_100)], vec![]));
    }

    #[test]
    fn each_limit_holds_and_is_named() {
        let config = PayConfig::default();
        let with = |config: PayConfig, dues: Vec<Due>| planned(&config, &Caps::default(), dues);
        assert_eq!(with(config, vec![due(1, 19_047), due(2, 5_000)]).0, [(1, 19_047)], "20,000 with five percent");
        assert_eq!(with(config, vec![due(1, 30_000)]), (vec![(1, 19_047)], vec![(1, Limit::Payment)]));
        let tight = PayConfig { peer_day_max: Sat(4_000), ..config };
        assert_eq!(with(tight, vec![due(1, 5_000)]), (vec![(1, 4_000)], vec![(1, Limit::PeerDay)]));
        let tight = PayConfig { day_max: Sat(4_000), ..config };
        assert_eq!(with(tight, vec![due(1, 5_000)]), (vec![(1, 3_809)], vec![(1, Limit::Day)]));
        let none = PayConfig { day_max: Sat(3_000), ..config };
        assert_eq!(with(none, vec![due(1, 5_000)]), (vec![], vec![(1, Limit::Day)]));
        let dear = Due { price: Some(Msat(50_001)), ..due(1, 5_000) };
        assert_eq!(with(config, vec![dear]), (vec![], vec![(1, Limit::Price)]));
        let share = PayConfig { fee_share_max: 2, ..config };
        assert_eq!(with(share, vec![due(1, 5_000)]), (vec![], vec![(1, Limit::FeeShare)]));
        let dues = vec![due(1, 5_000)];
        let (plan, blocked) = plan(&config, &Caps::default(), NOW, FeeRate(20_001), dues, BTreeMap::new());
        assert!(plan.is_none());
        let (peer, limit) = (PeerId([1; 32]), Limit::FeeRate);
        assert_eq!(blocked, [Blocked { peer, limit, wanted: 20_001, left: 20_000, remedy: Remedy::Wait }]);
    }

    #[test]
    fn what_was_paid_today_counts() {
        let mut caps = Caps::default();
        let shares = vec![(PeerId([1; 32]), Sat(17_000))];
        caps.charge(PaymentId([1; 16]), Charge { shares, fee: Sat(850), closed: Some(NOW - 5) });
        let config = PayConfig { peer_day_max: Sat(21_000), ..PayConfig::default() };
        assert_eq!(planned(&config, &caps, vec![due(1, 9_000)]), (vec![(1, 4_000)], vec![(1, Limit::PeerDay)]));
    }

    #[test]
    fn what_is_allowed_goes_beyond_every_limit_but_counts_towards_none() {
        let config = PayConfig { peer_day_max: Sat(4_000), ..PayConfig::default() };
        let tree = |byte: u8| ChunkId([byte; 32]);
        let pools = BTreeMap::from([(tree(1), Sat(2_000)), (tree(2), Sat(9_000)), (tree(3), Sat(100))]);
        let due = Due { allowed: vec![tree(1), tree(3)], ..due(1, 7_000) };
        let (plan, blocked) = plan(&config, &Caps::default(), NOW, FeeRate(1_000), vec![due], pools);
        let plan = plan.unwrap();
        let left: Vec<u64> = plan.pools.values().map(|left| left.0).collect();
        assert_eq!(left, [0, 9_000, 0], "what was allowed for other trees stays");
        assert_eq!((plan.outputs[0].value, plan.outputs[0].allowed), (Sat(6_000), Sat(2_000)));
        assert_eq!((plan.fee_cap, plan.fee_charged), (Sat(300), Sat(200)));
        assert_eq!(blocked[0].limit, Limit::PeerDay);
    }

    #[test]
    fn what_is_named_as_a_remedy_pays_all_of_it() {
        let usual = PayConfig { topup_min: Sat(1_000), ..PayConfig::default() };
        let cases = [
            (PayConfig { payment_max: Sat(4_321), ..usual }, Limit::Payment),
            (PayConfig { day_max: Sat(0), ..usual }, Limit::Day),
            (PayConfig { peer_day_max: Sat(4_999), fee_share_max: 7, ..usual }, Limit::PeerDay),
            (PayConfig { price_max: Msat(9_999), ..usual }, Limit::Price),
            (PayConfig { topup_min: Sat(6_001), ..usual }, Limit::TopUp),
            (PayConfig { fee_share_max: 3, ..usual }, Limit::FeeShare),
        ];
        for (config, limit) in cases {
            let tree = ChunkId([1; 32]);
            let due = Due { allowed: vec![tree], ..due(1, 5_000) };
            let planned = |due: Due, pool: Sat| {
                let pools = BTreeMap::from([(tree, pool)]);
                plan(&config, &Caps::default(), NOW, FeeRate(1_000), vec![due], pools)
            };
            let (_, blocked) = planned(due.clone(), Sat(0));
            assert_eq!(blocked.iter().map(|blocked| blocked.limit).collect::<Vec<_>>(), [limit]);
            let (again, blocked) = match blocked[0].remedy {
                Remedy::Allow(sat) => planned(due, sat),
                Remedy::Pay(sat) => planned(Due { ordered: Some(sat), ..due }, Sat(0)),
                Remedy::Wait => panic!("{limit} can be met"),
            };
            assert!(again.unwrap().outputs[0].value >= Sat(5_000) && blocked.is_empty(), "{limit}: {blocked:?}");
        }
    }
}
