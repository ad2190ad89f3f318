//! Values of settings that only settings have, and where values come from.

use super::file::Position;
use crate::content::erasure::Scheme;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File(PathBuf, Position),
    /// An environment variable.
    Environment(&'static str),
    /// A flag on the command line.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => write!(f, "default"),
            Source::File(path, at) => write!(f, "{}:{}:{}", path.display(), at.line, at.column),
            Source::Environment(name) => write!(f, "environment variable {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A value in force and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Who set it.
    pub source: Source,
}

/// Where the node listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// The address.
    pub addr: SocketAddr,
    /// Whether another port will do when this one is taken.
    pub flexible: bool,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.addr, if self.flexible { " (another port where that is taken)" } else { "" })
    }
}

/// Who can make the same chunks from the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convergence {
    /// This node alone: nobody can confirm that it holds a known file.
    Private,
    /// Everybody who chose the same: the swarm keeps one copy.
    Public,
}

impl FromStr for Convergence {
    type Err = String;
    fn from_str(text: &str) -> Result<Convergence, String> {
        match text {
            "private" => Ok(Convergence::Private),
            "public" => Ok(Convergence::Public),
            _ => Err(format!("{text:?} is neither \"private\" nor \"public\"")),
        }
    }
}

impl fmt::Display for Convergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Convergence::Private => "private",
            Convergence::Public => "public",
        })
    }
}

/// How files are coded for hosts that come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redundancy {
    /// As this version thinks best: 8+4 until a node measures how often its hosts are away.
    Auto,
    /// A fixed scheme.
    Fixed(Scheme),
}

impl Redundancy {
    /// The scheme to code with.
    pub fn scheme(self) -> Scheme {
        match self {
            Redundancy::Auto => Scheme { k: 8, m: 4 },
            Redundancy::Fixed(scheme) => scheme,
        }
    }
}

impl FromStr for Redundancy {
    type Err = String;
    fn from_str(text: &str) -> Result<Redundancy, String> {
        if text == "auto" {
            return Ok(Redundancy::Auto);
        }
        let wrong = |e| format!("{text:?} is neither \"auto\" nor a scheme such as \"8+4\": {e}");
        text.parse().map(Redundancy::Fixed).map_err(|e: crate::content::erasure::SchemeError| wrong(e))
    }
}

impl fmt::Display for Redundancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Redundancy::Auto => write!(f, "auto ({})", self.scheme()),
            Redundancy::Fixed(scheme) => write!(f, "{scheme}"),
        }
    }
}
