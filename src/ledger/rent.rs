//! Rent: what it costs to have bytes kept for a time. A host charges it in arrears, together with a proof that it keeps them: the answer to a
//! spot check costs what a slice costs, and what has come due since the last one. The owner pays no more than what was proved is worth at
//! the price that he offered, so a host that loses chunks, or names a higher sum, goes without.

use crate::base::amount::Msat;
use crate::base::limit::ACCOUNTS_MAX;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// A rent in parts of a millisatoshi: bytes x millisatoshi a GiB and day x microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Rent(u128);

/// So many parts are one millisatoshi.
const WHOLE: u128 = (1 << 30) * 86_400_000_000;

impl Rent {
    /// None.
    pub const ZERO: Rent = Rent(0);

    /// What so many bytes cost for so long, at this price for a GiB and day.
    pub fn of(bytes: u64, price: Msat, time: Duration) -> Rent {
        Rent(u128::from(bytes).saturating_mul(u128::from(price.0)).saturating_mul(time.as_micros()))
    }

    fn whole(amount: Msat) -> Rent {
        Rent(u128::from(amount.0).saturating_mul(WHOLE))
    }

    /// The same in millisatoshi, rounded down.
    pub fn amount(self) -> Msat {
        Msat(self.0.checked_div(WHOLE).unwrap_or(0).min(u128::from(u64::MAX)) as u64)
    }

    fn plus(self, other: Rent) -> Rent {
        Rent(self.0.saturating_add(other.0))
    }

    fn minus(self, other: Rent) -> Rent {
        Rent(self.0.saturating_sub(other.0))
    }
}

#[derive(Debug)]
struct Claim {
    bytes: u64,
    price: Msat,
    due: Rent,
    /// As of when.
    at: Instant,
    /// When it was charged last, or began.
    charged_at: Instant,
}

impl Claim {
    fn due(&self, now: Instant) -> Rent {
        self.due.plus(Rent::of(self.bytes, self.price, now.since(self.at)))
    }
}

/// What the owners of hosted chunks are to pay. Forgotten with a restart, so what was not charged until then is lost.
#[derive(Debug, Default)]
pub struct Claims {
    owners: BTreeMap<PeerId, Claim>,
    charged: Msat,
}

impl Claims {
    /// From now on so many bytes are kept for an owner. With the last of them its claim ends.
    pub fn keeps(&mut self, now: Instant, owner: PeerId, bytes: u64) {
        if bytes == 0 {
            self.owners.remove(&owner);
            return;
        }
        let fresh = || Claim { bytes, price: Msat::ZERO, due: Rent::ZERO, at: now, charged_at: now };
        let claim = self.owners.entry(owner).or_insert_with(fresh);
        (claim.due, claim.at, claim.bytes) = (claim.due(now), now, bytes);
    }

    /// Bytes kept for an owner.
    pub fn bytes(&self, owner: &PeerId) -> u64 {
        self.owners.get(owner).map_or(0, |claim| claim.bytes)
    }

    /// From now on an owner pays this price for a GiB and day.
    pub fn agree(&mut self, now: Instant, owner: &PeerId, price: Msat) {
        if let Some(claim) = self.owners.get_mut(owner) {
            (claim.due, claim.at, claim.price) = (claim.due(now), now, price);
        }
    }

    /// What an owner owes and was not charged yet.
    pub fn due(&self, now: Instant, owner: &PeerId) -> Msat {
        self.owners.get(owner).map_or(Msat::ZERO, |claim| claim.due(now).amount())
    }

    /// An owner is charged so much of it.
    pub fn charge(&mut self, now: Instant, owner: &PeerId, amount: Msat) {
        let Some(claim) = self.owners.get_mut(owner).filter(|_| amount > Msat::ZERO) else { return };
        (claim.due, claim.at, claim.charged_at) = (claim.due(now).minus(Rent::whole(amount)), now, now);
        self.charged = self.charged.saturating_add(amount);
    }

    /// Whether something came due and nothing could be charged for so long.
    pub fn is_late(&self, now: Instant, owner: &PeerId, patience: Duration) -> bool {
        let late = |claim: &Claim| now.since(claim.charged_at) > patience && claim.due(now).amount() > Msat::ZERO;
        self.owners.get(owner).is_some_and(late)
    }

    /// Charged to all owners since the start.
    pub fn charged(&self) -> Msat {
        self.charged
    }
}

/// What was set aside for one proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    all: Rent,
    /// Of that, for what is to be proved now.
    new: Rent,
}

impl Reserve {
    /// What may be charged beside the slice.
    pub fn amount(&self) -> Msat {
        self.all.amount()
    }
}

/// What hosts may charge: for what they proved, at the price that was offered.
#[derive(Debug, Default)]
pub struct Dues {
    hosts: BTreeMap<PeerId, Rent>,
    paid: Msat,
}

impl Dues {
    /// A host is asked to prove what is worth so much. Nothing of that is set aside twice, however many proofs are asked for at once.
    pub fn reserve(&mut self, host: &PeerId, new: Rent) -> Reserve {
        let proved = self.hosts.remove(host).unwrap_or_default();
        Reserve { all: proved.plus(new), new }
    }

    /// It gave the proof, and charged so much beside the slice; or it did not.
    pub fn settle(&mut self, host: PeerId, reserve: Reserve, charged: Option<Msat>) {
        let left = match charged {
            Some(amount) => {
                let amount = amount.min(reserve.amount());
                self.paid = self.paid.saturating_add(amount);
                reserve.all.minus(Rent::whole(amount))
            }
            None => reserve.all.minus(reserve.new),
        };
        if left > Rent::ZERO && (self.hosts.len() < ACCOUNTS_MAX || self.hosts.contains_key(&host)) {
            let due = self.hosts.entry(host).or_default();
            *due = due.plus(left);
        }
    }

    /// Charged by all hosts since the start.
    pub fn paid(&self) -> Msat {
        self.paid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const DAY_US: u64 = 86_400_000_000;

    fn peer(name: u8) -> PeerId {
        PeerId([name; 32])
    }

    #[test]
    fn rent_is_bytes_times_price_times_time() {
        assert_eq!(Rent::of(1 << 30, Msat(1000), DAY).amount(), Msat(1000));
        assert_eq!(Rent::of(1 << 20, Msat(1000), DAY).amount(), Msat::ZERO);
        assert_eq!(Rent::of(3 << 40, Msat(7), DAY * 30).amount(), Msat(3 * 1024 * 7 * 30));
        assert_eq!(Rent::of(u64::MAX, Msat(u64::MAX), DAY).amount(), Msat((u128::MAX / WHOLE) as u64));
    }

    #[test]
    fn what_is_less_than_a_millisatoshi_is_not_lost_however_often_it_is_asked_for() {
        let mut claims = Claims::default();
        claims.keeps(Instant(0), peer(1), 1 << 20);
        claims.agree(Instant(0), &peer(1), Msat(1000));
        let mut charged = 0;
        for hour in 1..=24 * 100 {
            let now = Instant(hour * DAY_US / 24);
            let due = claims.due(now, &peer(1));
            claims.charge(now, &peer(1), due);
            charged += due.0;
        }
        // 100 days x 1000 / 1024.
        assert_eq!((charged, claims.charged()), (97, Msat(97)));
    }

    #[test]
    fn more_bytes_and_another_price_count_from_when_they_came() {
        let mut claims = Claims::default();
        claims.keeps(Instant(0), peer(1), 1 << 30);
        claims.agree(Instant(0), &peer(1), Msat(10));
        claims.keeps(Instant(DAY_US), peer(1), 3 << 30);
        assert_eq!(claims.due(Instant(2 * DAY_US), &peer(1)), Msat(40));
        claims.agree(Instant(2 * DAY_US), &peer(1), Msat(1));
        assert_eq!(claims.due(Instant(3 * DAY_US), &peer(1)), Msat(43));
        assert_eq!(claims.due(Instant(3 * DAY_US), &peer(2)), Msat::ZERO);
        assert!(
            claims.is_late(Instant(3 * DAY_US), &peer(1), 2 * DAY)
                && !claims.is_late(Instant(3 * DAY_US), &peer(1), 3 * DAY)
        );
        claims.charge(Instant(3 * DAY_US), &peer(1), Msat(40));
        assert!(!claims.is_late(Instant(4 * DAY_US), &peer(1), 2 * DAY));
        assert_eq!(claims.due(Instant(3 * DAY_US), &peer(1)), Msat(3));
        claims.keeps(Instant(4 * DAY_US), peer(1), 0);
        assert_eq!(claims.due(Instant(9 * DAY_US), &peer(1)), Msat::ZERO);
    }

    #[test]
    fn who_pays_nothing_because_it_costs_nothing_is_never_late() {
        let mut claims = Claims::default();
        claims.keeps(Instant(0), peer(1), 1 << 40);
        assert!(!claims.is_late(Instant(100 * DAY_US), &peer(1), DAY));
    }

    proptest! {
        // However proofs overlap, fail and are charged for, a host gets no more than what it proved is worth.
        #[test]
        fn no_host_gets_more_than_it_proved(steps in proptest::collection::vec((any::<bool>(), 0u64..5000, 0usize..4, 0u64..4000), 0..80)) {
            let mut dues = Dues::default();
            let (mut open, mut proved, mut got): (Vec<(Reserve, Rent)>, Rent, u64) = (Vec::new(), Rent::ZERO, 0);
            for (given, worth, place, wants) in steps {
                let new = Rent(u128::from(worth) * (WHOLE / 1000));
                open.push((dues.reserve(&peer(1), new), new));
                if open.len() > place {
                    let (reserve, new) = open.remove(place);
                    let charged = Msat(wants).min(reserve.amount());
                    dues.settle(peer(1), reserve, given.then_some(charged));
                    if given {
                        proved = proved.plus(new);
                        got += charged.0;
                    }
                }
                // What is being proved was set aside before it is: it may be charged for with its own proof alone.
                let under_way = open.iter().fold(Rent::ZERO, |sum, (_, new)| sum.plus(*new));
                prop_assert!(Rent::whole(Msat(got)) <= proved.plus(under_way));
            }
            for (reserve, _) in open {
                dues.settle(peer(1), reserve, None);
            }
            let left = dues.reserve(&peer(1), Rent::ZERO).all;
            prop_assert_eq!(left.plus(Rent::whole(Msat(got))), proved);
            prop_assert_eq!(dues.paid(), Msat(got));
        }
    }
}
