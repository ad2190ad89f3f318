//! The commands' end of the control socket: blocking, one request after the other.

use super::message::{Answer, Progress, Reply, Request};
use super::{REPLY_BYTES_MAX, socket_name};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// How a node is started, for those who have none.
pub const START: &str = "start one with `tornet-mount MOUNTPOINT`, or `tornet node` without a mount";

/// Why a command got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no node is running with the data directory {dir}: {START}")]
    NotRunning {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// The node refused or failed; its own words.
    #[error("{0}")]
    Failed(String),
    /// The node ended while it answered.
    #[error("the node ended before it answered; its log is the file `log` in its data directory")]
    Ended,
    /// The node speaks otherwise than this program.
    #[error("the node's answer is not understood ({0}): it is of another version; restart it")]
    Strange(String),
    /// Reading or writing failed here.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A connection to a running node.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the node that runs with this data directory.
    pub fn connect(dir: &Path) -> Result<Client, ClientError> {
        let not_running = || ClientError::NotRunning { dir: dir.to_path_buf() };
        let absent = |e: &io::Error| {
            matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory
            )
        };
        let (name, _folder) = match socket_name(dir) {
            Err(e) if absent(&e) => return Err(not_running()),
            found => found?,
        };
        match UnixStream::connect(name) {
            Ok(stream) => Ok(Client { stream: BufReader::with_capacity(16 * 1024, stream) }),
            Err(e) if absent(&e) => Err(not_running()),
            Err(e) => Err(io::Error::new(e.kind(), format!("cannot reach the node in {}: {e}", dir.display())).into()),
        }
    }

    /// Asks, and waits for the last line.
    pub fn ask(&mut self, request: &Request) -> Result<Answer, ClientError> {
        self.ask_with(request, |_| ())
    }

    /// Asks, and hands every line before the last to `each`.
    pub fn ask_with(&mut self, request: &Request, mut each: impl FnMut(Progress)) -> Result<Answer, ClientError> {
        let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(ended)?;
        loop {
            line.clear();
            (&mut self.stream).take(REPLY_BYTES_MAX as u64).read_until(b'\n', &mut line).map_err(ended)?;
            if line.last() != Some(&b'\n') {
                return Err(ClientError::Ended);
            }
            match serde_json::from_slice::<Reply>(&line).map_err(|e| ClientError::Strange(e.to_string()))? {
                Reply::Progress(progress) => each(progress),
                Reply::Done(answer) => return Ok(answer),
                Reply::Failed(message) => return Err(ClientError::Failed(message)),
            }
        }
    }
}

/// A connection cut by the node's end is no fault of reading or writing.
fn ended(error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::Ended,
        _ => error.into(),
    }
}
