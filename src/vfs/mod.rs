//! Floor 6: the meaning of file operations: own tree, references, control files.
//!
//! Nothing here knows a kernel's interface: the floor above turns its requests into calls of [`Filesystem`].

mod attr;
mod backing;
mod control;
mod engine;
mod error;
mod filesystem;
mod foreign;
mod foreign_list;
mod handle;
mod lease;
mod mapped;
mod node;
mod outcome;
mod own;
mod own_attr;
mod own_file;
mod own_list;
mod refusal;
mod swarm;
mod xattr;

pub use attr::{Attr, Caller, Entry, Item, KEPT, Listing, Lookup, Opened, SetAttr, SetTime, Space};
pub use backing::{Lend, Lent};
pub use control::is_control;
pub use engine::{EngineSwarm, WhereMounted};
pub use error::{Error, Result};
pub use filesystem::{Filesystem, Settings};
pub use outcome::{Outcome, Waiting};
pub use own::{RESERVED, enter_thread};
pub use refusal::Refusals;
pub use swarm::{
    AskOpenFiles, MayBeMapped, Reach, Remote, RemoteContent, RemoteDirectory, RemoteEntry, RemoteFile, RemoteKind,
    Swarm,
};

#[cfg(test)]
mod tests;
