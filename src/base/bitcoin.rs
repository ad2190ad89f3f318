//! Bitcoin as the cores see it: networks, whole satoshi, and the names of transaction outputs. What they mean on the chain only `chain` knows.

use super::amount::Msat;
use super::digest::hex;
use std::fmt;
use std::str::FromStr;

/// A chain on which payments are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BitcoinNetwork {
    /// The one whose coins have a price.
    Bitcoin,
    /// The public test chain that anybody can mine.
    Testnet4,
    /// The public test chain whose blocks are signed.
    Signet,
    /// A chain of one's own, for tests.
    Regtest,
}

/// All networks with their codes on wire and disk, and their names; codes are never used anew for something else.
pub const BITCOIN_NETWORKS: [(u8, BitcoinNetwork, &str); 4] = [
    (0, BitcoinNetwork::Bitcoin, "bitcoin"),
    (1, BitcoinNetwork::Testnet4, "testnet4"),
    (2, BitcoinNetwork::Signet, "signet"),
    (3, BitcoinNetwork::Regtest, "regtest"),
];

impl BitcoinNetwork {
    fn row(self) -> (u8, BitcoinNetwork, &'static str) {
        *BITCOIN_NETWORKS.iter().find(|row| row.1 == self).expect("every network stands in the table")
    }

    /// Its code on wire and disk.
    pub fn code(self) -> u8 {
        self.row().0
    }

    /// The network behind a code.
    pub fn from_code(code: u8) -> Option<BitcoinNetwork> {
        BITCOIN_NETWORKS.iter().find(|row| row.0 == code).map(|row| row.1)
    }
}

impl fmt::Display for BitcoinNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().2)
    }
}

impl FromStr for BitcoinNetwork {
    type Err = String;
    fn from_str(text: &str) -> Result<BitcoinNetwork, String> {
        let names = || BITCOIN_NETWORKS.map(|row| format!("{:?}", row.2)).join(", ");
        let found = BITCOIN_NETWORKS.iter().find(|row| row.2 == text.trim()).map(|row| row.1);
        found.ok_or_else(|| format!("{text:?} is no network of bitcoin: use one of {}", names()))
    }
}

/// Whole satoshi: what a transaction moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sat(pub u64);

/// All satoshi there will ever be.
pub const SAT_MAX: Sat = Sat(21_000_000 * 100_000_000);

impl Sat {
    /// The fewest satoshi that are worth at least `amount`.
    pub fn covering(amount: Msat) -> Sat {
        Sat(amount.0.div_ceil(1000))
    }

    /// The most satoshi that are worth at most `amount`.
    pub fn within(amount: Msat) -> Sat {
        Sat(amount.0 / 1000)
    }

    /// The same in millisatoshi; at most what `SAT_MAX` is.
    pub fn msat(self) -> Msat {
        Msat(self.0.min(SAT_MAX.0) * 1000)
    }
}

impl fmt::Display for Sat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sat", self.0)
    }
}

/// Names a transaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txid(pub [u8; 32]);

impl fmt::Display for Txid {
    /// Last byte first, as bitcoin shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.0;
        bytes.reverse();
        hex(&bytes, f)
    }
}

impl fmt::Debug for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:.8}")
    }
}

/// An output of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outpoint {
    /// Of which.
    pub txid: Txid,
    /// Its place there.
    pub vout: u32,
}

impl fmt::Display for Outpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.txid, self.vout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_one_code_and_one_name() {
        for (code, network, name) in BITCOIN_NETWORKS {
            assert_eq!(BitcoinNetwork::from_code(code), Some(network));
            assert_eq!((network.code(), network.to_string().parse()), (code, Ok(network)));
            assert_eq!(network.to_string(), name);
        }
        assert_eq!(BitcoinNetwork::from_code(4), None);
        assert!("mainnet".parse::<BitcoinNetwork>().unwrap_err().contains("\"testnet4\""));
    }

    #[test]
    fn satoshi_cover_a_debt_and_stay_within_a_limit() {
        assert_eq!((Sat::covering(Msat(1)), Sat::within(Msat(1_999))), (Sat(1), Sat(1)));
        assert_eq!((Sat::covering(Msat(2_000)), Sat(u64::MAX).msat()), (Sat(2), SAT_MAX.msat()));
        let txid = Txid([1; 32]);
        assert!(Outpoint { txid, vout: 3 }.to_string().ends_with("0101:3"));
    }
}
