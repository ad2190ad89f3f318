//! Floor 7: the door to commands: a Unix socket that only its user can open.
//!
//! One request is one line of JSON; the answer is any number of `progress` lines and one last line, `done` or `failed`. A
//! connection carries one request after the other. A client that goes away cancels what it asked for.

pub mod client;
pub mod message;
pub mod server;
pub mod service;
pub mod wallet;

use std::io;
use std::path::{Path, PathBuf};

/// The socket's name inside the data directory.
pub const SOCKET_NAME: &str = "control";
/// The longest request line.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// The longest line of an answer.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;
/// Commands that are served at once.
pub const CONNECTIONS_MAX: usize = 64;
/// Lines of an answer that may wait for a slow client.
pub const REPLIES_WAITING_MAX: usize = 16;

/// A path by which the socket in `dir` can be named. The kernel's socket addresses end at 107 bytes; a longer path is named
/// through a descriptor of its directory, which must live as long as the name is used.
fn socket_name(dir: &Path) -> io::Result<(PathBuf, Option<std::fs::File>)> {
    let plain = dir.join(SOCKET_NAME);
    if plain.as_os_str().len() < 100 {
        return Ok((plain, None));
    }
    use std::os::fd::AsRawFd;
    let folder = std::fs::File::open(dir)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(SOCKET_NAME);
    Ok((short, Some(folder)))
}
