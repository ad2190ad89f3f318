//! The answer to an operation: at hand, or to be waited for.

use std::future::Future;
use std::pin::Pin;

use super::error::{Error, Result};

/// Work that ends in an answer.
pub type Waiting<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// What an operation came to.
pub enum Outcome<T> {
    /// Done.
    Now(Result<T>),
    /// Needs the network or a slow disk: to be run away from the threads that take requests.
    Later(Waiting<T>),
}

impl<T> Outcome<T> {
    /// An answer that `work` will give.
    pub fn later(work: impl Future<Output = Result<T>> + Send + 'static) -> Outcome<T> {
        Outcome::Later(Box::pin(work))
    }

    /// A refusal.
    pub fn refused(error: impl Into<Error>) -> Outcome<T> {
        Outcome::Now(Err(error.into()))
    }

    /// The answer, however long it takes.
    pub async fn wait(self) -> Result<T> {
        match self {
            Outcome::Now(result) => result,
            Outcome::Later(work) => work.await,
        }
    }
}

impl<T, E: Into<Error>> From<std::result::Result<T, E>> for Outcome<T> {
    fn from(result: std::result::Result<T, E>) -> Outcome<T> {
        Outcome::Now(result.map_err(Into::into))
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for Outcome<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Now(result) => f.debug_tuple("Now").field(result).finish(),
            Outcome::Later(_) => f.write_str("Later"),
        }
    }
}
