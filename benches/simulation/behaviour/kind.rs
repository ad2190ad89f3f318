//! Who behaves how.

use tornet::base::amount::Msat;
use tornet::wire::message::Price;

/// What a GiB costs at honest nodes: 10 sat.
pub const PRICE: Price = Price { per_gib: Msat(10_000), per_request: Msat::ZERO };
/// What gougers charge: the most that is paid by default.
pub const GOUGE: Price = Price { per_gib: Msat(50_000), per_request: Msat::ZERO };
/// Identities of one Sybil machine.
pub const SYBILS: usize = 10;

/// A behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Honest, wants less than it could give.
    Equal,
    /// Honest, wants much more than it could give: waits or pays.
    Heavy,
    /// Gives nothing.
    Free,
    /// Gives nothing, and is somebody else as soon as it is refused.
    Whitewasher,
    /// BitTyrant: gives only as much as keeps it served.
    Tyrant,
    /// BitThief: gives nothing and asks everybody.
    Thief,
    /// One machine with many identities that vouch for each other; gives nothing.
    Sybil,
    /// Serves, dearly.
    Gouger,
    /// Delivers as little as makes it paid in advance, then takes payment and delivers nothing.
    Cheat,
}

impl Kind {
    /// All that are not honest.
    pub const ATTACKS: [Kind; 7] =
        [Kind::Free, Kind::Whitewasher, Kind::Tyrant, Kind::Thief, Kind::Sybil, Kind::Gouger, Kind::Cheat];

    /// Whether it does what it should.
    pub fn honest(self) -> bool {
        matches!(self, Kind::Equal | Kind::Heavy)
    }

    /// Whether it says that it has something.
    pub fn announces(self) -> bool {
        self.honest() || matches!(self, Kind::Tyrant | Kind::Gouger | Kind::Cheat)
    }

    /// What it charges.
    pub fn price(self) -> Price {
        if self == Kind::Gouger { GOUGE } else { PRICE }
    }

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Equal => "honest, equal",
            Kind::Heavy => "honest, wants more",
            Kind::Free => "free rider",
            Kind::Whitewasher => "whitewasher",
            Kind::Tyrant => "BitTyrant",
            Kind::Thief => "BitThief",
            Kind::Sybil => "Sybil group",
            Kind::Gouger => "gouger",
            Kind::Cheat => "paid, delivers nothing",
        }
    }
}
