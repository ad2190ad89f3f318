//! How far a peer is trusted: the terms of this node, and what it lends to newcomers.

use crate::base::amount::Msat;
use crate::base::time::Instant;
use crate::wire::message::Price;
use std::time::Duration;

/// On which terms this node serves and is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreditConfig {
    /// What it charges. With a price of zero nothing is booked.
    pub price: Price,
    /// Bytes, at its price, that a peer may owe for each unit of its rank.
    pub line_bytes: u64,
    /// Bytes, at its price, that all peers together may owe beyond their lines for each day.
    pub newcomer_bytes: u64,
    /// Bytes that are served to a peer beyond its newest receipt.
    pub window_bytes: u64,
    /// Bytes received after which a receipt is due.
    pub receipt_bytes: u64,
    /// Received and not acknowledged for so long: a receipt is due, too.
    pub receipt_after: Duration,
    /// The most that this node pays.
    pub price_max: Price,
    /// What it charges for keeping a GiB for a day; not where its price is zero.
    pub host_price: Msat,
    /// The most that it pays for that.
    pub host_price_max: Msat,
}

/// The most that is paid where nothing else is set.
pub const PRICE_MAX_DEFAULT: Price = Price { per_gib: Msat(50_000), per_request: Msat(5) };
/// The most that is paid for a GiB and day where nothing else is set.
pub const HOST_PRICE_MAX_DEFAULT: Msat = Msat(1_000);
/// Of what its rank is worth a peer may owe so many times what it provided to us.
const RECORD_TIMES: u64 = 2;
/// Its line grows by this part of what it provided to us.
const RECORD_SHARE: u64 = 8;
/// What is lent in a day to all peers on their rank alone: what so many units of it are worth.
const STRANGERS_RANKS: u64 = 40;
/// When of all that a peer may owe less than this part is left, it is asked to pay: before it is refused.
const RESERVE_SHARE: u64 = 4;
/// Up to this part of what a peer acknowledged may go lost without being held against it: more than honest peers, which ask for
/// 5 % twice and give one of both up, leave unacknowledged.
const LOSS_SHARE: u64 = 16;
const DAY: Duration = Duration::from_secs(86_400);

impl Default for CreditConfig {
    fn default() -> CreditConfig {
        CreditConfig {
            price: Price::default(),
            line_bytes: 25_000_000,
            newcomer_bytes: 1 << 30,
            window_bytes: 64 << 20,
            receipt_bytes: 16 << 20,
            receipt_after: Duration::from_secs(1),
            price_max: PRICE_MAX_DEFAULT,
            host_price: Msat::ZERO,
            host_price_max: HOST_PRICE_MAX_DEFAULT,
        }
    }
}

impl CreditConfig {
    /// What an answer of so many bytes costs with `carry` parts of a millisatoshi left over from earlier ones, and what is left
    /// over then, both in 2^-30. Never more than `Price::of` says.
    pub(super) fn charge(&self, bytes: u64, carry: u64) -> (Msat, u64) {
        let parts =
            u128::from(self.price.per_gib.0).saturating_mul(u128::from(bytes)).saturating_add(u128::from(carry));
        let whole = Msat((parts >> 30).min(u128::from(u64::MAX)) as u64);
        (whole.saturating_add(self.price.per_request), (parts & ((1 << 30) - 1)) as u64)
    }

    /// What a peer of this rank may owe at most before its record counts.
    pub(super) fn base(&self, rank: u8) -> Msat {
        self.price.of(self.line_bytes).times(u64::from(rank))
    }

    /// The credit line of a peer that gave and paid so much and was lent so much, and what of its rank's is not open yet. The rank says how
    /// far the line may open; it does so with what the peer gives, and before that out of what is lent to all strangers of a day.
    /// Else a minute of work would be worth a line at each of a thousand sellers.
    pub(super) fn line(&self, rank: u8, ours: Msat, lent: Msat) -> (Msat, Msat) {
        let base = self.base(rank);
        let open = base.min(Msat(ours.0.saturating_mul(RECORD_TIMES))).max(lent.min(base));
        let record = Msat(ours.0.checked_div(RECORD_SHARE).unwrap_or(0));
        (open.saturating_add(lent.over(base)).saturating_add(record), base.over(open))
    }

    /// Whether who owes so much of all that it may owe should pay now.
    pub(super) fn runs_short(&self, owed: Msat, most: Msat) -> bool {
        owed > most.over(Msat(most.0.checked_div(RESERVE_SHARE).unwrap_or(0)))
    }

    /// How much of what a peer does not acknowledge is held against it.
    pub(super) fn held_against(&self, disputed: Msat, acknowledged: Msat) -> Msat {
        disputed.over(Msat(acknowledged.0.checked_div(LOSS_SHARE).unwrap_or(0)))
    }

    /// Most that is provided beyond the newest receipt.
    pub(super) fn window(&self) -> Msat {
        self.price.of(self.window_bytes)
    }

    /// By how much the durable mark runs ahead of what was provided.
    pub(super) fn mark_step(&self) -> Msat {
        Msat(self.window().0.div_ceil(2))
    }

    /// What may be provided beyond the durable mark while the next one is written down.
    pub(super) fn mark_slack(&self) -> Msat {
        Msat(self.window().0.div_ceil(4))
    }
}

/// What is left of a day's sum that is lent to many peers, all of them together: it does not matter how many identities share it.
#[derive(Debug)]
pub(super) struct Pool {
    most: Msat,
    left: Msat,
    at: Instant,
}

impl Pool {
    fn new(most: Msat) -> Pool {
        Pool { most, left: most, at: Instant::default() }
    }

    /// For peers beyond their lines.
    pub(super) fn newcomers(config: &CreditConfig) -> Pool {
        Pool::new(config.price.of(config.newcomer_bytes).over(config.price.per_request))
    }

    /// For peers on their rank alone.
    pub(super) fn strangers(config: &CreditConfig) -> Pool {
        Pool::new(config.base(1).times(STRANGERS_RANKS))
    }

    /// Another daily sum. What was lent of the old one stays lent.
    pub(super) fn configure(&mut self, fresh: Pool) {
        let lent = self.most.over(self.left);
        (self.most, self.left) = (fresh.most, fresh.most.over(lent));
    }

    /// What can be lent now.
    pub(super) fn left(&mut self, now: Instant) -> Msat {
        let passed = now.since(self.at).min(DAY);
        let grown = u128::from(self.most.0).saturating_mul(passed.as_millis());
        let grown = Msat(grown.checked_div(DAY.as_millis()).unwrap_or(0).min(u128::from(u64::MAX)) as u64);
        // Parts of a millisatoshi are waited for.
        if grown > Msat::ZERO {
            self.left = self.left.saturating_add(grown).min(self.most);
            let took = u128::from(grown.0).saturating_mul(DAY.as_millis()).checked_div(u128::from(self.most.0));
            let took = Duration::from_millis(took.unwrap_or(0).min(u128::from(u64::MAX)) as u64);
            self.at = if passed < DAY { self.at.after(took) } else { now };
        }
        self.left
    }

    /// What was lent and not used.
    pub(super) fn give_back(&mut self, amount: Msat) {
        self.left = self.left.saturating_add(amount).min(self.most);
    }

    pub(super) fn lend(&mut self, amount: Msat) {
        self.left = self.left.over(amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newcomers_share_one_daily_sum() {
        let price = Price { per_gib: Msat(10_000), ..Price::default() };
        let config = CreditConfig { price, newcomer_bytes: 10 << 30, ..CreditConfig::default() };
        let mut pool = Pool::newcomers(&config);
        assert_eq!(pool.left(Instant(0)), Msat(100_000));
        pool.lend(Msat(90_000));
        assert_eq!(pool.left(Instant(0)), Msat(10_000));
        let mut now = Instant(0);
        for _ in 0..4 * 3600 {
            now = now.after(Duration::from_secs(3));
            pool.left(now);
        }
        let half_day = pool.left(now);
        assert!((59_000..=60_000).contains(&half_day.0), "{half_day}");
        pool.lend(Msat(9_000));
        pool.configure(Pool::newcomers(&CreditConfig { newcomer_bytes: 8 << 30, ..config }));
        let less = pool.left(now);
        assert!((30_000..=31_000).contains(&less.0), "{less}");
        assert_eq!(pool.left(now.after(10 * DAY)), Msat(80_000));
    }

    #[test]
    fn the_line_opens_with_what_was_given_up_to_rank_times_the_setting_and_grows_by_record() {
        let price = Price { per_gib: Msat(1_073_741_824), ..Price::default() };
        let config = CreditConfig { price, line_bytes: 1000, ..CreditConfig::default() };
        let line = |rank, ours, lent| {
            let (line, closed) = config.line(rank, Msat(ours), Msat(lent));
            (line.0, closed.0)
        };
        assert_eq!(line(0, 0, 0), (0, 0));
        assert_eq!(line(3, 0, 0), (0, 3000), "nothing is open to a stranger");
        assert_eq!(line(3, 800, 0), (1700, 1400));
        assert_eq!(line(3, 8000, 0), (4000, 0));
        assert_eq!(line(3, 0, 500), (500, 2500), "what is lent is part of it");
        assert_eq!(line(3, 800, 500), (1700, 1400));
        assert_eq!(line(3, 800, 3500), (3600, 0), "or comes on top");
        assert_eq!(line(0, 80, 500), (510, 0));
        assert_eq!(config.held_against(Msat(10), Msat(160)), Msat::ZERO);
        assert_eq!(config.held_against(Msat(11), Msat(160)), Msat(1));
    }
}
