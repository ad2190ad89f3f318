//! Money: integer millisatoshi with checked arithmetic.

use std::fmt;

/// An amount of money in millisatoshi (1 sat = 1,000 msat). Never negative: a balance is a pair of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Msat(pub u64);

impl Msat {
    /// Nothing.
    pub const ZERO: Msat = Msat(0);

    /// The sum, or `None` when it does not fit.
    pub fn checked_add(self, other: Msat) -> Option<Msat> {
        self.0.checked_add(other.0).map(Msat)
    }

    /// The difference, or `None` when `other` is larger.
    pub fn checked_sub(self, other: Msat) -> Option<Msat> {
        self.0.checked_sub(other.0).map(Msat)
    }

    /// The sum, or the largest amount when it does not fit: for bounds, never for what is booked.
    pub fn saturating_add(self, other: Msat) -> Msat {
        Msat(self.0.saturating_add(other.0))
    }

    /// By how much it is more than `other`; nothing when it is not.
    pub fn over(self, other: Msat) -> Msat {
        Msat(self.0.saturating_sub(other.0))
    }

    /// So many times the amount, or the largest amount when that does not fit.
    pub fn times(self, count: u64) -> Msat {
        Msat(self.0.saturating_mul(count))
    }
}

impl fmt::Display for Msat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sat, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 { write!(f, "{sat} sat") } else { write!(f, "{sat}.{rest:03} sat") }
    }
}
