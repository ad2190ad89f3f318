//! `[network] upload`: how much is sent of chunks. Read again while the node runs.

use crate::base::units::Rate;
use std::fmt;
use std::str::FromStr;

/// Of less, one answer would take longer than anybody waits.
const UPLOAD_MIN: Rate = Rate(256_000);

/// A limit of upload, if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Upload(pub Option<Rate>);

impl FromStr for Upload {
    type Err = String;
    fn from_str(text: &str) -> Result<Upload, String> {
        if text.trim() == "unlimited" {
            return Ok(Upload(None));
        }
        let rate: Rate = text.parse().map_err(|error| format!("{error}, or \"unlimited\""))?;
        if rate < UPLOAD_MIN {
            return Err(format!("{rate} is less than anybody would wait for: {UPLOAD_MIN} or more"));
        }
        Ok(Upload(Some(rate)))
    }
}

impl fmt::Display for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rate) => rate.fmt(f),
            None => f.write_str("unlimited"),
        }
    }
}
