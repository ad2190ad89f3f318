//! The configuration file as text: which keys there are, and where in the file each value stands.

use std::path::{Path, PathBuf};
use std::{fs, io};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A place in the file, counted from 1; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// Why the file is refused.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is longer than any sensible file.
    #[error("the configuration file {path} is over {max} bytes")]
    Long {
        /// Which.
        path: PathBuf,
        /// The bound.
        max: u64,
    },
    /// It is not understood.
    #[error("{path}:{line}:{column}: {message}", line = at.line, column = at.column)]
    Text {
        /// Which.
        path: PathBuf,
        /// Where in it.
        at: Position,
        /// What is wrong.
        message: String,
    },
}

/// A value as text, whatever its TOML type, and where it stands.
pub type Placed = (String, Position);

/// The file's values, not yet validated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawFile {
    /// `[storage] cache`.
    pub cache: Option<Placed>,
    /// `[storage] hosting`.
    pub hosting: Option<Placed>,
    /// `[market]`.
    pub market: RawMarket,
    /// `[storage] redundancy`.
    pub redundancy: Option<Placed>,
    /// `[storage] convergence`.
    pub convergence: Option<Placed>,
    /// `[repair] check`.
    pub check: Option<Placed>,
    /// `[repair] patience`.
    pub patience: Option<Placed>,
    /// `[repair] rate`.
    pub rate: Option<Placed>,
    /// `[network] port`.
    pub port: Option<Placed>,
    /// `[network] bootstrap`.
    pub bootstrap: Vec<Placed>,
    /// `[network] mdns`.
    pub mdns: Option<Placed>,
    /// `[network] upload`.
    pub upload: Option<Placed>,
    /// `[network] schedule`.
    pub schedule: Vec<Placed>,
    /// `[credit] price`.
    pub price: Option<Placed>,
    /// `[credit] request_price`.
    pub request_price: Option<Placed>,
    /// `[credit] max_price`.
    pub max_price: Option<Placed>,
    /// `[credit] max_request_price`.
    pub max_request_price: Option<Placed>,
    /// `[credit] host_price`.
    pub host_price: Option<Placed>,
    /// `[credit] max_host_price`.
    pub max_host_price: Option<Placed>,
    /// `[credit] credit_line`.
    pub credit_line: Option<Placed>,
    /// `[credit] newcomers`.
    pub newcomers: Option<Placed>,
    /// `[credit] rank_cpu`.
    pub rank_cpu: Option<Placed>,
    /// `[payments]`, as far as the wallet is meant.
    pub wallet: RawWallet,
    /// `[payments]`, as far as its terms are meant.
    pub terms: RawTerms,
}

/// The limits of what is bought, not yet validated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawMarket {
    /// `[market] per_day`.
    pub per_day: Option<Placed>,
    /// `[market] disk`.
    pub disk: Option<Placed>,
}

/// The wallet's values, not yet validated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawWallet {
    /// `[payments] network`.
    pub network: Option<Placed>,
    /// `[payments] backend`.
    pub backend: Option<Placed>,
    /// `[payments] peers`.
    pub peers: Vec<Placed>,
    /// `[payments] bitcoind`.
    pub bitcoind: Option<Placed>,
    /// `[payments] cookie`.
    pub cookie: Option<Placed>,
    /// `[payments] electrum`.
    pub electrum: Option<Placed>,
    /// `[payments] esplora`.
    pub esplora: Option<Placed>,
    /// `[payments] passphrase_file`.
    pub passphrase_file: Option<Placed>,
}

/// The terms of payment, not yet validated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawTerms {
    /// `[payments] enabled`.
    pub enabled: Option<Placed>,
    /// `[payments] max_price`.
    pub max_price: Option<Placed>,
    /// `[payments] per_payment`.
    pub per_payment: Option<Placed>,
    /// `[payments] per_day`.
    pub per_day: Option<Placed>,
    /// `[payments] per_peer_day`.
    pub per_peer_day: Option<Placed>,
    /// `[payments] fee_rate_max`.
    pub fee_rate_max: Option<Placed>,
    /// `[payments] fee_share_max`.
    pub fee_share_max: Option<Placed>,
    /// `[payments] min_topup`.
    pub min_topup: Option<Placed>,
    /// `[payments] prepay`.
    pub prepay: Option<Placed>,
    /// `[payments] confirmations`.
    pub confirmations: Option<Placed>,
}

const FILE_BYTES_MAX: u64 = 1 << 20;

/// Keys that do something, by section.
const KNOWN: &[(&str, &[&str])] = &[
    ("storage", &["cache", "hosting", "redundancy", "convergence"]),
    ("market", &["per_day", "disk"]),
    ("repair", &["check", "patience", "rate"]),
    ("network", &["port", "bootstrap", "mdns", "upload", "schedule"]),
    (
        "credit",
        &[
            "price",
            "request_price",
            "max_price",
            "max_request_price",
            "host_price",
            "max_host_price",
            "credit_line",
            "newcomers",
            "rank_cpu",
        ],
    ),
    (
        "payments",
        &[
            "enabled",
            "network",
            "backend",
            "peers",
            "bitcoind",
            "cookie",
            "electrum",
            "esplora",
            "passphrase_file",
            "max_price",
            "per_payment",
            "per_day",
            "per_peer_day",
            "fee_rate_max",
            "fee_share_max",
            "min_topup",
            "prepay",
            "confirmations",
        ],
    ),
];

/// Keys of versions to come. To accept one silently would promise what does not happen.
const LATER: &[(&str, &[&str])] = &[("network", &["download", "mode"]), ("payments", &["deny_programs"])];

enum Shape {
    Text,
    Number,
    Switch,
    List,
    /// One text, or a list of them.
    Texts,
}

fn shape(section: &str, key: &str) -> Shape {
    match (section, key) {
        ("network", "port") | ("payments", "confirmations") => Shape::Number,
        ("network", "mdns") | ("payments", "enabled") => Shape::Switch,
        ("network", "bootstrap") | ("payments", "peers") => Shape::List,
        ("network", "schedule") => Shape::Texts,
        _ => Shape::Text,
    }
}

impl RawFile {
    /// Reads the file; `None` when it is not there and need not be.
    pub fn read(path: &Path, required: bool) -> Result<Option<RawFile>, ReadError> {
        let failed = |source| ReadError::Read { path: path.to_path_buf(), source };
        match fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && !required => return Ok(None),
            Ok(found) if found.len() > FILE_BYTES_MAX => {
                return Err(ReadError::Long { path: path.to_path_buf(), max: FILE_BYTES_MAX });
            }
            found => found.map_err(failed)?,
        };
        let text = fs::read_to_string(path).map_err(failed)?;
        RawFile::parse(&text).map(Some).map_err(|(at, message)| ReadError::Text {
            path: path.to_path_buf(),
            at: position(&text, at),
            message,
        })
    }

    /// An error is its place in bytes, and its message.
    fn parse(text: &str) -> Result<RawFile, (usize, String)> {
        let document = DeTable::parse(text)
            .map_err(|e| (e.span().map_or(0, |span| span.start), e.message().trim_end().to_string()))?;
        let mut raw = RawFile::default();
        for (section, value) in document.get_ref() {
            let at = section.span().start;
            let name: &str = section.get_ref();
            let known = KNOWN.iter().find(|(known, _)| *known == name).map(|(_, keys)| *keys);
            let DeValue::Table(table) = value.get_ref() else {
                return Err((at, format!("`{name}` stands outside a section: put it under one of {}", sections())));
            };
            let Some(known) = known else {
                return Err((at, format!("unknown section [{name}]; known: {}", sections())));
            };
            for (key, value) in table {
                let word: &str = key.get_ref();
                if LATER.iter().any(|(section, keys)| *section == name && keys.contains(&word)) {
                    return Err((key.span().start, format!("`{word}` in [{name}] is not in this version yet")));
                }
                if !known.contains(&word) {
                    let known = known.join(", ");
                    return Err((key.span().start, format!("unknown key `{word}` in [{name}]; known here: {known}")));
                }
                raw.take(text, name, word, value)?;
            }
        }
        Ok(raw)
    }

    fn take(
        &mut self,
        text: &str,
        section: &str,
        key: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), (usize, String)> {
        let at = value.span().start;
        let wrong = |what: &str| (at, format!("`{key}` in [{section}] must be {what}"));
        let here = position(text, at);
        let placed = match (shape(section, key), value.get_ref()) {
            (Shape::Text, DeValue::String(word)) => (word.to_string(), here),
            (Shape::Text, _) => return Err(wrong("text in quotes")),
            (Shape::Number, DeValue::Integer(number)) => (number.to_string(), here),
            (Shape::Number, _) => return Err(wrong("a whole number")),
            (Shape::Switch, DeValue::Boolean(on)) => (on.to_string(), here),
            (Shape::Switch, _) => return Err(wrong("true or false")),
            (Shape::Texts, DeValue::String(word)) => {
                self.schedule.push((word.to_string(), here));
                return Ok(());
            }
            (Shape::List | Shape::Texts, DeValue::Array(items)) => {
                let list = match key {
                    "peers" => &mut self.wallet.peers,
                    "schedule" => &mut self.schedule,
                    _ => &mut self.bootstrap,
                };
                for item in items {
                    let DeValue::String(word) = item.get_ref() else { return Err(wrong("a list of texts in quotes")) };
                    list.push((word.to_string(), position(text, item.span().start)));
                }
                return Ok(());
            }
            (Shape::List, _) => return Err(wrong("a list of texts in quotes")),
            (Shape::Texts, _) => return Err(wrong("text in quotes, or a list of such texts")),
        };
        let place = match key {
            "cache" => &mut self.cache,
            "hosting" => &mut self.hosting,
            "per_day" if section == "market" => &mut self.market.per_day,
            "disk" => &mut self.market.disk,
            "redundancy" => &mut self.redundancy,
            "convergence" => &mut self.convergence,
            "check" => &mut self.check,
            "patience" => &mut self.patience,
            "rate" => &mut self.rate,
            "port" => &mut self.port,
            "price" => &mut self.price,
            "request_price" => &mut self.request_price,
            "max_price" if section == "payments" => &mut self.terms.max_price,
            "max_price" => &mut self.max_price,
            "max_request_price" => &mut self.max_request_price,
            "host_price" => &mut self.host_price,
            "max_host_price" => &mut self.max_host_price,
            "credit_line" => &mut self.credit_line,
            "newcomers" => &mut self.newcomers,
            "rank_cpu" => &mut self.rank_cpu,
            "enabled" => &mut self.terms.enabled,
            "per_payment" => &mut self.terms.per_payment,
            "per_day" => &mut self.terms.per_day,
            "per_peer_day" => &mut self.terms.per_peer_day,
            "fee_rate_max" => &mut self.terms.fee_rate_max,
            "fee_share_max" => &mut self.terms.fee_share_max,
            "min_topup" => &mut self.terms.min_topup,
            "prepay" => &mut self.terms.prepay,
            "confirmations" => &mut self.terms.confirmations,
            "network" => &mut self.wallet.network,
            "backend" => &mut self.wallet.backend,
            "bitcoind" => &mut self.wallet.bitcoind,
            "cookie" => &mut self.wallet.cookie,
            "electrum" => &mut self.wallet.electrum,
            "esplora" => &mut self.wallet.esplora,
            "passphrase_file" => &mut self.wallet.passphrase_file,
            "upload" => &mut self.upload,
            _ => &mut self.mdns,
        };
        *place = Some(placed);
        Ok(())
    }
}

fn sections() -> String {
    KNOWN.iter().map(|(section, _)| format!("[{section}]")).collect::<Vec<_>>().join(", ")
}

fn position(text: &str, at: usize) -> Position {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
    Position { line, column }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_position_counts_characters_from_one() {
        let at = |text: &str, at| {
            let place = position(text, at);
            (place.line, place.column)
        };
        assert_eq!(at("ab\nä=c", 0), (1, 1));
        assert_eq!(at("ab\nä=c", 5), (2, 2));
        assert_eq!(at("ab", 99), (1, 3));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            let _ = RawFile::parse(&text);
        }

        #[test]
        fn any_value_is_read_or_refused(section in "storage|network|x", key in "cache|port|mdns|bootstrap|y", value in "\\PC{0,20}") {
            let _ = RawFile::parse(&format!("[{section}]\n{key} = {value}\n"));
        }
    }
}
