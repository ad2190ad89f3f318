//! Which chain of blocks.

use bdk_wallet::bitcoin;
use std::fmt;
use std::str::FromStr;

/// A chain of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The real one.
    Bitcoin,
    /// For trying, with signed blocks; its coins have no value.
    Signet,
    /// For trying; its coins have no value.
    Testnet4,
    /// Of this machine alone.
    Regtest,
}

/// A word that names no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: use one of \"bitcoin\", \"signet\", \"testnet4\", \"regtest\"")]
pub struct NetworkError(String);

impl FromStr for Network {
    type Err = NetworkError;
    fn from_str(text: &str) -> Result<Network, NetworkError> {
        match text {
            "bitcoin" => Ok(Network::Bitcoin),
            "signet" => Ok(Network::Signet),
            "testnet4" => Ok(Network::Testnet4),
            "regtest" => Ok(Network::Regtest),
            _ => Err(NetworkError(text.into())),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Network::Bitcoin => "bitcoin",
            Network::Signet => "signet",
            Network::Testnet4 => "testnet4",
            Network::Regtest => "regtest",
        })
    }
}

impl From<Network> for bitcoin::Network {
    fn from(network: Network) -> bitcoin::Network {
        match network {
            Network::Bitcoin => bitcoin::Network::Bitcoin,
            Network::Signet => bitcoin::Network::Signet,
            Network::Testnet4 => bitcoin::Network::Testnet4,
            Network::Regtest => bitcoin::Network::Regtest,
        }
    }
}
