//! `[payments]`: the wallet, its chain and where the chain's data come from.

use super::file::RawWallet;
use super::{ConfigError, Environment, Layers, Setting, Source, typed};
use crate::chain::{Backend, Network};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Kinds of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    /// Bitcoin's own network.
    P2p,
    /// The RPC of a full node.
    Bitcoind,
    /// An Electrum server.
    #[cfg(feature = "electrum")]
    Electrum,
    /// An Esplora server.
    #[cfg(feature = "esplora")]
    Esplora,
}

/// Kinds of sources that are not in every build, with the feature that brings them and whether this one has it.
const OPTIONAL: [(&str, bool); 2] = [("electrum", cfg!(feature = "electrum")), ("esplora", cfg!(feature = "esplora"))];

impl FromStr for BackendKind {
    type Err = String;
    fn from_str(text: &str) -> Result<BackendKind, String> {
        match text {
            "p2p" => Ok(BackendKind::P2p),
            "bitcoind" => Ok(BackendKind::Bitcoind),
            #[cfg(feature = "electrum")]
            "electrum" => Ok(BackendKind::Electrum),
            #[cfg(feature = "esplora")]
            "esplora" => Ok(BackendKind::Esplora),
            _ => Err(not_a_kind(text)),
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BackendKind::P2p => "p2p",
            BackendKind::Bitcoind => "bitcoind",
            #[cfg(feature = "electrum")]
            BackendKind::Electrum => "electrum",
            #[cfg(feature = "esplora")]
            BackendKind::Esplora => "esplora",
        })
    }
}

fn not_a_kind(text: &str) -> String {
    if OPTIONAL.iter().any(|(name, _)| *name == text) {
        return format!(
            "this tornet was built without {text:?}: build it with `cargo build --release --features {text}`, or use \"p2p\" or \"bitcoind\""
        );
    }
    let built = OPTIONAL.iter().filter(|(_, built)| *built).map(|(name, _)| *name);
    let kinds: Vec<String> = ["p2p", "bitcoind"].into_iter().chain(built).map(|name| format!("{name:?}")).collect();
    format!("{text:?} is none of {}", kinds.join(", "))
}

/// Settings of the wallet, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletSettings {
    /// Which chain of blocks.
    pub network: Setting<Network>,
    /// What kind of source.
    pub backend: Setting<BackendKind>,
    /// Full nodes to ask over bitcoin's own network; none: they are looked for.
    pub peers: Setting<Vec<SocketAddr>>,
    /// Where the RPC of a full node is.
    pub bitcoind: Setting<String>,
    /// The file by which that node knows its user.
    pub cookie: Setting<PathBuf>,
    /// Where the Electrum server is.
    pub electrum: Setting<String>,
    /// Where the Esplora server is.
    pub esplora: Setting<String>,
    /// The file that holds the wallet's passphrase.
    pub passphrase_file: Setting<Option<PathBuf>>,
}

fn rpc_port(network: Network) -> u16 {
    match network {
        Network::Bitcoin => 8332,
        Network::Signet => 38332,
        Network::Testnet4 => 48332,
        Network::Regtest => 18443,
    }
}

/// Where electrs, and others as it does, serve the Electrum protocol.
fn electrum_port(network: Network) -> u16 {
    match network {
        Network::Bitcoin => 50001,
        Network::Signet => 60601,
        Network::Testnet4 => 40001,
        Network::Regtest => 60401,
    }
}

/// Where Esplora's own electrs serves its REST interface; testnet4, which it does not know, has the next number.
fn esplora_port(network: Network) -> u16 {
    match network {
        Network::Bitcoin => 3000,
        Network::Signet => 3003,
        Network::Testnet4 => 3004,
        Network::Regtest => 3002,
    }
}

/// Where a full node of this user leaves its cookie.
fn usual_cookie(network: Network, env: Environment<'_>) -> PathBuf {
    let home = PathBuf::from(env("HOME").unwrap_or_default()).join(".bitcoin");
    match network {
        Network::Bitcoin => home.join(".cookie"),
        other => home.join(other.to_string()).join(".cookie"),
    }
}

fn url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").unwrap_or_default();
    if rest.is_empty() || rest.contains(['/', '@', ' ']) {
        return Err(format!("{text:?} is no address of an RPC: write it as in \"http://127.0.0.1:8332\""));
    }
    Ok(text.to_string())
}

fn electrum_url(text: &str) -> Result<String, String> {
    if text.starts_with("ssl://") || text.starts_with("tls://") {
        return Err(format!(
            "{text:?} asks for TLS, which tornet does not speak with Electrum servers: lead it through a tunnel (ssh, stunnel, a VPN), and \
             write that one's near end as in \"tcp://127.0.0.1:50001\""
        ));
    }
    let port = |place: &str| {
        place.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    let place = text.strip_prefix("tcp://").filter(|place| port(place) && !place.contains(['/', '@', ' ']));
    place.map(|_| text.to_string()).ok_or_else(|| {
        format!("{text:?} is no address of an Electrum server: write it as in \"tcp://127.0.0.1:50001\"")
    })
}

fn esplora_url(text: &str) -> Result<String, String> {
    let wrong = || {
        Err(format!(
            "{text:?} is no address of an Esplora server: write where its REST interface begins, as in \"https://esplora.example/api\" or \
             \"http://127.0.0.1:3000\""
        ))
    };
    let Some((scheme, rest)) = text.split_once("://") else { return wrong() };
    let (place, _) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match place.strip_prefix('[').and_then(|place| place.split_once(']')) {
        Some((host, port)) => (host, port),
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    let port = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    if host.is_empty() || !port || rest.contains(['@', '?', '#']) || rest.contains(|c: char| !c.is_ascii_graphic()) {
        return wrong();
    }
    let near = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match scheme {
        "https" => Ok(text.to_string()),
        "http" if near => Ok(text.to_string()),
        "http" => Err(format!(
            "{text:?} would be asked in plain text over the network: write https://, or lead a tunnel to it (ssh, a VPN) and write \
             that one's near end as in \"http://127.0.0.1:3000\""
        )),
        _ => wrong(),
    }
}

fn path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err(format!("{text:?} is not absolute: begin it with /")) }
}

impl WalletSettings {
    pub(super) fn load(layers: &Layers<'_>, raw: &RawWallet) -> Result<WalletSettings, ConfigError> {
        let pick_path = |key, variable, file, default| layers.pick(key, variable, file, default, path);
        let network =
            layers.pick("payments.network", "TORNET_PAYMENTS_NETWORK", raw.network.as_ref(), Network::Signet, typed)?;
        let backend = layers.pick(
            "payments.backend",
            "TORNET_PAYMENTS_BACKEND",
            raw.backend.as_ref(),
            BackendKind::P2p,
            typed,
        )?;
        let usual = format!("http://127.0.0.1:{}", rpc_port(network.value));
        let bitcoind =
            layers.pick("payments.bitcoind", "TORNET_PAYMENTS_BITCOIND", raw.bitcoind.as_ref(), usual, url)?;
        let usual = usual_cookie(network.value, layers.env);
        let cookie = pick_path("payments.cookie", "TORNET_PAYMENTS_COOKIE", raw.cookie.as_ref(), usual)?;
        let usual = format!("tcp://127.0.0.1:{}", electrum_port(network.value));
        let electrum =
            layers.pick("payments.electrum", "TORNET_PAYMENTS_ELECTRUM", raw.electrum.as_ref(), usual, electrum_url)?;
        let usual = format!("http://127.0.0.1:{}", esplora_port(network.value));
        let esplora =
            layers.pick("payments.esplora", "TORNET_PAYMENTS_ESPLORA", raw.esplora.as_ref(), usual, esplora_url)?;
        let passphrase_file = layers.pick(
            "payments.passphrase_file",
            "TORNET_PAYMENTS_PASSPHRASE_FILE",
            raw.passphrase_file.as_ref(),
            None,
            |text| path(text).map(Some),
        )?;
        let peers = peers(layers, raw)?;
        Ok(WalletSettings { network, backend, peers, bitcoind, cookie, electrum, esplora, passphrase_file })
    }

    /// The source that is set.
    pub fn source(&self) -> Backend {
        match self.backend.value {
            BackendKind::P2p => Backend::P2p { peers: self.peers.value.clone() },
            BackendKind::Bitcoind => {
                Backend::Bitcoind { url: self.bitcoind.value.clone(), cookie: self.cookie.value.clone() }
            }
            #[cfg(feature = "electrum")]
            BackendKind::Electrum => Backend::Electrum { url: self.electrum.value.clone() },
            #[cfg(feature = "esplora")]
            BackendKind::Esplora => Backend::Esplora { url: self.esplora.value.clone() },
        }
    }

    pub(super) fn list(&self) -> Vec<(&'static str, String, String)> {
        let peers: Vec<String> = self.peers.value.iter().map(ToString::to_string).collect();
        let peers = if peers.is_empty() { "found by themselves".to_string() } else { peers.join(" ") };
        let file = &self.passphrase_file.value;
        let file = file.as_ref().map_or("none".to_string(), |file| file.display().to_string());
        vec![
            ("payments.network", self.network.value.to_string(), self.network.source.to_string()),
            ("payments.backend", self.backend.value.to_string(), self.backend.source.to_string()),
            ("payments.peers", peers, self.peers.source.to_string()),
            ("payments.bitcoind", self.bitcoind.value.clone(), self.bitcoind.source.to_string()),
            ("payments.cookie", self.cookie.value.display().to_string(), self.cookie.source.to_string()),
            ("payments.electrum", self.electrum.value.clone(), self.electrum.source.to_string()),
            ("payments.esplora", self.esplora.value.clone(), self.esplora.source.to_string()),
            ("payments.passphrase_file", file, self.passphrase_file.source.to_string()),
        ]
    }
}

/// Of the highest layer that names any.
fn peers(layers: &Layers<'_>, raw: &RawWallet) -> Result<Setting<Vec<SocketAddr>>, ConfigError> {
    let variable = "TORNET_PAYMENTS_PEERS";
    let texts: Vec<(String, Source)> = match (layers.env)(variable) {
        Some(list) => {
            let items = list.split([' ', ',']).filter(|text| !text.is_empty());
            items.map(|text| (text.to_string(), Source::Environment(variable))).collect()
        }
        None => {
            let file = |at| Source::File(layers.path.to_path_buf(), at);
            raw.peers.iter().map(|(text, at)| (text.clone(), file(*at))).collect()
        }
    };
    let source = texts.first().map_or(Source::Default, |(_, source)| source.clone());
    let parse = |(text, place): (String, Source)| {
        text.parse().map_err(|_| ConfigError::Value {
            place,
            key: "payments.peers",
            message: format!("{text:?} is no address: write it as in \"192.0.2.7:8333\""),
        })
    };
    let value = texts.into_iter().map(parse).collect::<Result<_, _>>()?;
    Ok(Setting { value, source })
}
