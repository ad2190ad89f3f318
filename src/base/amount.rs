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
}

impl fmt::Display for Msat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sat, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 { write!(f, "{sat} sat") } else { write!(f, "{sat}.{rest:03} sat") }
    }
}
