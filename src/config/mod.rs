//! Floor 8: the configuration file and where things are.
//!
//! Order of precedence: default < file < environment < flag. The file is the user's: it is read, never written.

pub mod file;
mod market;
mod payments;
pub mod place;
mod schedule;
mod terms;
mod upload;
mod value;

pub use market::MarketSettings;
pub use payments::{BackendKind, WalletSettings};
pub use schedule::Schedule;
pub use terms::TermSettings;
pub use upload::Upload;
pub use value::{Convergence, Listen, Redundancy, Setting, Source};

use crate::base::amount::Msat;
use crate::base::peer::Contact;
use crate::base::units::{GibPrice, Percent, Rate, Size, Span};
use crate::ledger::{HOST_PRICE_MAX_DEFAULT, PRICE_MAX_DEFAULT};
use file::{Position, RawFile, ReadError};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// The UDP port that is tried first when none is set.
pub const PORT_DEFAULT: u16 = 41641;
/// How often hosts prove what they hold, and how long they may be away, when that is not set.
pub const CHECK_DEFAULT: Span = Span(Duration::from_secs(86_400));
/// See `CHECK_DEFAULT`.
pub const PATIENCE_DEFAULT: Span = Span(Duration::from_secs(86_400));
/// What proofs and repair may take when that is not set.
pub const RATE_DEFAULT: Rate = Rate(8_000_000);
/// The cache's limit when none is set.
pub const CACHE_DEFAULT: Size = Size(20 << 30);
/// The smallest with which files can be read: a stripe of 8+4 MiB several times, and what waits to be written.
pub const CACHE_MIN: Size = Size(32 << 20);
/// What is kept for others when none is set.
pub const HOSTING_DEFAULT: Size = Size(10 << 30);

/// Variables of the environment that mean something.
pub const VARIABLES: [&str; 44] = [
    "TORNET_CONFIG",
    "TORNET_CREDIT_CREDIT_LINE",
    "TORNET_CREDIT_MAX_PRICE",
    "TORNET_CREDIT_MAX_REQUEST_PRICE",
    "TORNET_CREDIT_HOST_PRICE",
    "TORNET_CREDIT_MAX_HOST_PRICE",
    "TORNET_CREDIT_NEWCOMERS",
    "TORNET_CREDIT_PRICE",
    "TORNET_CREDIT_RANK_CPU",
    "TORNET_CREDIT_REQUEST_PRICE",
    "TORNET_DATA_DIR",
    "TORNET_LOG",
    "TORNET_MARKET_DISK",
    "TORNET_MARKET_PER_DAY",
    "TORNET_NETWORK_BOOTSTRAP",
    "TORNET_NETWORK_MDNS",
    "TORNET_NETWORK_PORT",
    "TORNET_NETWORK_SCHEDULE",
    "TORNET_NETWORK_UPLOAD",
    "TORNET_PAYMENTS_BACKEND",
    "TORNET_PAYMENTS_BITCOIND",
    "TORNET_PAYMENTS_CONFIRMATIONS",
    "TORNET_PAYMENTS_COOKIE",
    "TORNET_PAYMENTS_ELECTRUM",
    "TORNET_PAYMENTS_ENABLED",
    "TORNET_PAYMENTS_ESPLORA",
    "TORNET_PAYMENTS_FEE_RATE_MAX",
    "TORNET_PAYMENTS_FEE_SHARE_MAX",
    "TORNET_PAYMENTS_MAX_PRICE",
    "TORNET_PAYMENTS_MIN_TOPUP",
    "TORNET_PAYMENTS_NETWORK",
    "TORNET_PAYMENTS_PASSPHRASE_FILE",
    "TORNET_PAYMENTS_PEERS",
    "TORNET_PAYMENTS_PER_DAY",
    "TORNET_PAYMENTS_PER_PAYMENT",
    "TORNET_PAYMENTS_PER_PEER_DAY",
    "TORNET_PAYMENTS_PREPAY",
    "TORNET_REPAIR_CHECK",
    "TORNET_REPAIR_PATIENCE",
    "TORNET_REPAIR_RATE",
    "TORNET_STORAGE_CACHE",
    "TORNET_STORAGE_CONVERGENCE",
    "TORNET_STORAGE_HOSTING",
    "TORNET_STORAGE_REDUNDANCY",
];
/// What a peer may owe, at our price, for each unit of its rank, when nothing is set.
pub const CREDIT_LINE_DEFAULT: Size = Size(25_000_000);
/// What all peers together may owe beyond their lines, for each day, when nothing is set.
pub const NEWCOMERS_DEFAULT: Size = Size(1 << 30);
/// Part of one processor that looks for a better rank, once a peer charges something, when nothing is set.
pub const RANK_CPU_DEFAULT: Percent = Percent(5);

/// What flags may say. They override everything else.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<SocketAddr>,
    /// `--bootstrap`, as often as given.
    pub bootstrap: Vec<String>,
}

/// All settings, validated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Identity, tree and store lie here.
    pub data_dir: Setting<PathBuf>,
    /// The configuration file that was looked for, and whether it is there.
    pub file: Setting<PathBuf>,
    /// Whether that file exists.
    pub file_found: bool,
    /// Limit of the store of cached chunks.
    pub cache: Setting<Size>,
    /// Limit of what is kept on behalf of others.
    pub hosting: Setting<Size>,
    /// What may be bought to be held for others.
    pub market: MarketSettings,
    /// How files are coded.
    pub redundancy: Setting<Redundancy>,
    /// Who makes the same chunks.
    pub convergence: Setting<Convergence>,
    /// How often hosts prove what they hold.
    pub check: Setting<Span>,
    /// How long a host may be away.
    pub patience: Setting<Span>,
    /// What proofs and repair may take.
    pub rate: Setting<Rate>,
    /// Where the node listens.
    pub listen: Setting<Listen>,
    /// Peers to begin with.
    pub bootstrap: Setting<Vec<Contact>>,
    /// Whether peers are looked for on the local network.
    pub mdns: Setting<bool>,
    /// How much is sent of chunks.
    pub upload: Setting<Upload>,
    /// The same at set times of the week.
    pub schedule: Setting<Schedule>,
    /// What a GiB costs.
    pub price: Setting<GibPrice>,
    /// What a request costs besides.
    pub request_price: Setting<Msat>,
    /// The most that is paid for a GiB.
    pub max_price: Setting<GibPrice>,
    /// The most that is paid for a request besides.
    pub max_request_price: Setting<Msat>,
    /// What it costs to have a GiB kept for a day.
    pub host_price: Setting<GibPrice>,
    /// The most that is paid for that.
    pub max_host_price: Setting<GibPrice>,
    /// What a peer may owe, at our price, for each unit of its rank.
    pub credit_line: Setting<Size>,
    /// What all peers together may owe beyond their lines, for each day.
    pub newcomers: Setting<Size>,
    /// Part of one processor that looks for a better rank.
    pub rank_cpu: Setting<Percent>,
    /// The wallet.
    pub wallet: WalletSettings,
    /// On which terms peers are paid, and pay.
    pub terms: TermSettings,
}

/// Why the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no home to put things in.
    #[error(transparent)]
    Place(#[from] place::PlaceError),
    /// The file cannot be read or understood.
    #[error(transparent)]
    File(#[from] ReadError),
    /// A value is not acceptable.
    #[error("{place}: {key}: {message}")]
    Value {
        /// Who set it.
        place: Source,
        /// Which setting.
        key: &'static str,
        /// What is wrong and what is accepted.
        message: String,
    },
}

/// The environment, as an argument so that tests need not change their own.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

struct Layers<'a> {
    env: Environment<'a>,
    path: &'a Path,
}

impl Layers<'_> {
    /// The highest layer below flags that sets `key`, parsed; else the default.
    fn pick<T>(
        &self,
        key: &'static str,
        variable: &'static str,
        file: Option<&(String, Position)>,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Setting<T>, ConfigError> {
        let (text, source) = if let Some(text) = (self.env)(variable) {
            (text, Source::Environment(variable))
        } else if let Some((text, at)) = file {
            (text.clone(), Source::File(self.path.to_path_buf(), *at))
        } else {
            return Ok(Setting { value: default, source: Source::Default });
        };
        match parse(&text) {
            Ok(value) => Ok(Setting { value, source }),
            Err(message) => Err(ConfigError::Value { place: source, key, message }),
        }
    }
}

fn typed<T: FromStr>(text: &str) -> Result<T, String>
where
    T::Err: fmt::Display,
{
    text.trim().parse().map_err(|e: T::Err| e.to_string())
}

fn switch(text: &str) -> Result<bool, String> {
    match text.trim() {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        other => Err(format!("{other:?} is neither \"true\" nor \"false\"")),
    }
}

fn port(text: &str) -> Result<Listen, String> {
    let port = text.trim().parse().map_err(|_| format!("{text:?} is no port: write a number from 0 to 65535"))?;
    Ok(Listen { addr: SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), flexible: false })
}

impl Settings {
    /// Reads all layers once.
    pub fn load(flags: &Flags, env: Environment<'_>) -> Result<Settings, ConfigError> {
        let data_dir = place::data_dir(flags.data_dir.as_deref(), env)?;
        let file = place::config_file(flags.config.as_deref(), env)?;
        // A file that was asked for must be there; the usual place may be empty.
        let raw = RawFile::read(&file.value, file.source != Source::Default)?;
        let file_found = raw.is_some();
        let raw = raw.unwrap_or_default();
        let layers = Layers { env, path: &file.value };

        let cache =
            layers.pick("storage.cache", "TORNET_STORAGE_CACHE", raw.cache.as_ref(), CACHE_DEFAULT, typed::<Size>)?;
        if cache.value < CACHE_MIN {
            let message = format!(
                "{} is less than {CACHE_MIN}, the smallest cache with which files can be read: who reads needs several whole stripes at once",
                cache.value
            );
            return Err(ConfigError::Value { place: cache.source, key: "storage.cache", message });
        }
        // It is a part of the cache: whoever sets a small cache need not think of it, whoever sets both must agree with himself.
        let share = HOSTING_DEFAULT.min(cache.value);
        let hosting = layers.pick("storage.hosting", "TORNET_STORAGE_HOSTING", raw.hosting.as_ref(), share, typed)?;
        if hosting.value > cache.value {
            let message = format!(
                "{} is more than the whole cache of {} ({}), of which it is a part",
                hosting.value, cache.value, cache.source
            );
            return Err(ConfigError::Value { place: hosting.source, key: "storage.hosting", message });
        }
        let market = MarketSettings::load(&layers, &raw.market, &cache)?;
        let redundancy = layers.pick(
            "storage.redundancy",
            "TORNET_STORAGE_REDUNDANCY",
            raw.redundancy.as_ref(),
            Redundancy::Auto,
            typed,
        )?;
        let convergence = layers.pick(
            "storage.convergence",
            "TORNET_STORAGE_CONVERGENCE",
            raw.convergence.as_ref(),
            Convergence::Private,
            typed,
        )?;
        let anywhere = Listen { addr: SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT_DEFAULT)), flexible: true };
        let mut listen = layers.pick("network.port", "TORNET_NETWORK_PORT", raw.port.as_ref(), anywhere, port)?;
        if let Some(addr) = flags.listen {
            listen = Setting { value: Listen { addr, flexible: false }, source: Source::Flag("--listen") };
        }
        let mdns = layers.pick("network.mdns", "TORNET_NETWORK_MDNS", raw.mdns.as_ref(), true, switch)?;
        let upload =
            layers.pick("network.upload", "TORNET_NETWORK_UPLOAD", raw.upload.as_ref(), Upload::default(), typed)?;
        let schedule = schedule::load(&layers, &raw.schedule)?;
        let bootstrap = bootstrap(flags, env, &raw, &file.value)?;
        let price =
            layers.pick("credit.price", "TORNET_CREDIT_PRICE", raw.price.as_ref(), GibPrice::default(), typed)?;
        let request_price = layers.pick(
            "credit.request_price",
            "TORNET_CREDIT_REQUEST_PRICE",
            raw.request_price.as_ref(),
            Msat::ZERO,
            typed,
        )?;
        let max_price = layers.pick(
            "credit.max_price",
            "TORNET_CREDIT_MAX_PRICE",
            raw.max_price.as_ref(),
            GibPrice(PRICE_MAX_DEFAULT.per_gib),
            typed,
        )?;
        let max_request_price = layers.pick(
            "credit.max_request_price",
            "TORNET_CREDIT_MAX_REQUEST_PRICE",
            raw.max_request_price.as_ref(),
            PRICE_MAX_DEFAULT.per_request,
            typed,
        )?;
        let host_price = layers.pick(
            "credit.host_price",
            "TORNET_CREDIT_HOST_PRICE",
            raw.host_price.as_ref(),
            GibPrice::default(),
            typed,
        )?;
        if host_price.value != GibPrice::default()
            && price.value == GibPrice::default()
            && request_price.value == Msat::ZERO
        {
            let message =
                "it is charged together with what is read, which is free here: set credit.price, too".to_string();
            return Err(ConfigError::Value { place: host_price.source, key: "credit.host_price", message });
        }
        let max_host_price = layers.pick(
            "credit.max_host_price",
            "TORNET_CREDIT_MAX_HOST_PRICE",
            raw.max_host_price.as_ref(),
            GibPrice(HOST_PRICE_MAX_DEFAULT),
            typed,
        )?;
        let check = layers.pick("repair.check", "TORNET_REPAIR_CHECK", raw.check.as_ref(), CHECK_DEFAULT, typed)?;
        let patience =
            layers.pick("repair.patience", "TORNET_REPAIR_PATIENCE", raw.patience.as_ref(), PATIENCE_DEFAULT, typed)?;
        let rate = layers.pick("repair.rate", "TORNET_REPAIR_RATE", raw.rate.as_ref(), RATE_DEFAULT, typed)?;
        let credit_line = layers.pick(
            "credit.credit_line",
            "TORNET_CREDIT_CREDIT_LINE",
            raw.credit_line.as_ref(),
            CREDIT_LINE_DEFAULT,
            typed,
        )?;
        let newcomers = layers.pick(
            "credit.newcomers",
            "TORNET_CREDIT_NEWCOMERS",
            raw.newcomers.as_ref(),
            NEWCOMERS_DEFAULT,
            typed,
        )?;
        let rank_cpu =
            layers.pick("credit.rank_cpu", "TORNET_CREDIT_RANK_CPU", raw.rank_cpu.as_ref(), RANK_CPU_DEFAULT, typed)?;
        let wallet = WalletSettings::load(&layers, &raw.wallet)?;
        let terms = TermSettings::load(&layers, &raw.terms)?;
        Ok(Settings {
            data_dir,
            file,
            file_found,
            cache,
            hosting,
            market,
            redundancy,
            convergence,
            check,
            patience,
            rate,
            listen,
            bootstrap,
            mdns,
            upload,
            schedule,
            price,
            request_price,
            max_price,
            max_request_price,
            host_price,
            max_host_price,
            credit_line,
            newcomers,
            rank_cpu,
            wallet,
            terms,
        })
    }

    /// Every setting in force: its name, its value as text, and where it came from.
    pub fn list(&self) -> Vec<(&'static str, String, String)> {
        fn row<T: fmt::Display>(key: &'static str, setting: &Setting<T>) -> (&'static str, String, String) {
            (key, setting.value.to_string(), setting.source.to_string())
        }
        let path =
            |key, setting: &Setting<PathBuf>| (key, setting.value.display().to_string(), setting.source.to_string());
        let bootstrap = if self.bootstrap.value.is_empty() {
            "none".to_string()
        } else {
            self.bootstrap.value.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let mut config = path("config", &self.file);
        if !self.file_found {
            config.1.push_str(" (not there)");
        }
        let mut rows = vec![
            path("data-dir", &self.data_dir),
            config,
            row("storage.cache", &self.cache),
            row("storage.hosting", &self.hosting),
            row("storage.redundancy", &self.redundancy),
            row("storage.convergence", &self.convergence),
            row("repair.check", &self.check),
            row("repair.patience", &self.patience),
            row("repair.rate", &self.rate),
            row("network.port", &self.listen),
            ("network.bootstrap", bootstrap, self.bootstrap.source.to_string()),
            row("network.mdns", &self.mdns),
            row("network.upload", &self.upload),
            row("network.schedule", &self.schedule),
            row("credit.price", &self.price),
            row("credit.request_price", &self.request_price),
            row("credit.max_price", &self.max_price),
            row("credit.max_request_price", &self.max_request_price),
            row("credit.host_price", &self.host_price),
            row("credit.max_host_price", &self.max_host_price),
            row("credit.credit_line", &self.credit_line),
            row("credit.newcomers", &self.newcomers),
            row("credit.rank_cpu", &self.rank_cpu),
        ];
        rows.extend(self.market.list());
        rows.extend(self.wallet.list());
        rows.extend(self.terms.list());
        rows
    }
}

/// Whether a change of this setting takes effect while a node runs.
pub fn is_live(key: &str) -> bool {
    ["network.upload", "network.schedule"].contains(&key)
        || terms::KEYS.contains(&key)
        || (key.starts_with("credit.") && key != "credit.rank_cpu")
}

/// Variables of the environment that are named like ours and mean nothing.
pub fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    let known = |name: &str| VARIABLES.contains(&name);
    let mut unknown: Vec<String> = names.filter(|name| name.starts_with("TORNET_") && !known(name)).collect();
    unknown.sort();
    unknown
}

/// The peers to begin with, of the highest layer that names any.
fn bootstrap(
    flags: &Flags,
    env: Environment<'_>,
    raw: &RawFile,
    path: &Path,
) -> Result<Setting<Vec<Contact>>, ConfigError> {
    let mut texts: Vec<(String, Source)> = Vec::new();
    let variable = "TORNET_NETWORK_BOOTSTRAP";
    if !flags.bootstrap.is_empty() {
        texts.extend(flags.bootstrap.iter().map(|text| (text.clone(), Source::Flag("--bootstrap"))));
    } else if let Some(list) = env(variable) {
        let items = list.split([' ', ',']).filter(|text| !text.is_empty());
        texts.extend(items.map(|text| (text.to_string(), Source::Environment(variable))));
    } else {
        let items = raw.bootstrap.iter();
        texts.extend(items.map(|(text, at)| (text.clone(), Source::File(path.to_path_buf(), *at))));
    }
    let source = texts.first().map_or(Source::Default, |(_, source)| source.clone());
    let mut value = Vec::new();
    for (text, source) in texts {
        let peer = typed(&text).map_err(|message| ConfigError::Value {
            place: source,
            key: "network.bootstrap",
            message: format!("{text:?}: {message}"),
        })?;
        value.push(peer);
    }
    Ok(Setting { value, source })
}

#[cfg(test)]
mod tests;
