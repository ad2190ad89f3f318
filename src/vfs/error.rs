//! Why an operation was refused: the one table from causes to error numbers.

use std::fmt;

use rustix::io::Errno;

/// A refusal: the number that programs see, and the reason in full where there is more to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What the system call returns.
    pub errno: Errno,
    /// What `tornet why` tells; names the setting and the remedy.
    pub reason: Option<String>,
}

/// What most operations return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A refusal that needs words.
    pub fn because(errno: Errno, reason: impl Into<String>) -> Error {
        Error { errno, reason: Some(reason.into()) }
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        Error { errno, reason: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => f.write_str(reason),
            None => write!(f, "{}", self.errno),
        }
    }
}

impl std::error::Error for Error {}
