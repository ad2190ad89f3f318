//! Floor 8: logs.

mod file;

pub use file::LogFile;

use std::path::Path;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The log's name inside the data directory.
pub const LOG_NAME: &str = "log";

/// Where the log goes.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// To the standard error, for a node in the foreground.
    Stderr,
    /// To the file `log` in this directory.
    File(&'a Path),
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened.
    #[error("cannot open the log {path}: {source}")]
    Open {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The filter is not understood.
    #[error(
        "TORNET_LOG={text:?} is not understood: write a level (error, warn, info, debug, trace) or as in \"tornet::net=debug\""
    )]
    Filter {
        /// What was written.
        text: String,
    },
}

/// Starts logging for the whole process; only the first call has an effect. `filter` is the text of `TORNET_LOG`.
pub fn start(target: Target<'_>, filter: Option<&str>, verbose: bool) -> Result<(), LogError> {
    let filter = self::filter(filter, verbose)?;
    match target {
        Target::Stderr => install(filter, std::io::stderr),
        Target::File(dir) => {
            let path = dir.join(LOG_NAME);
            let file = LogFile::open(&path).map_err(|source| LogError::Open { path, source })?;
            install(filter, file);
        }
    }
    Ok(())
}

fn filter(text: Option<&str>, verbose: bool) -> Result<EnvFilter, LogError> {
    let text = match text.map(str::trim) {
        Some(text) if !text.is_empty() => text,
        // Other crates speak of their own affairs: only what goes wrong with them matters.
        _ if verbose => "warn,tornet=debug",
        _ => "warn,tornet=info",
    };
    let level = ["off", "error", "warn", "info", "debug", "trace"].contains(&text);
    let full = if level { format!("warn,tornet={text}") } else { text.to_string() };
    EnvFilter::try_new(full).map_err(|_| LogError::Filter { text: text.to_string() })
}

fn install<W>(filter: EnvFilter, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // A second start finds a subscriber already there, which is as good.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false).try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_ours_alone_and_nonsense_is_named() {
        assert_eq!(filter(Some("debug"), false).unwrap().to_string(), "tornet=debug,warn");
        assert_eq!(filter(None, false).unwrap().to_string(), "tornet=info,warn");
        assert!(filter(Some("a=b=c"), false).unwrap_err().to_string().starts_with("TORNET_LOG=\"a=b=c\""));
    }
}
