//! The node's end of the control socket: who may speak, one request at a time, bounded answers.

use super::message::{Answer, Progress, Reply, Request};
use super::{CONNECTIONS_MAX, REPLIES_WAITING_MAX, REQUEST_BYTES_MAX, SOCKET_NAME, socket_name};
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

/// What answers requests. An error is the text that the user reads.
pub trait Service: Send + Sync + 'static {
    /// Serves one request; everything before the last line goes through `replies`. Dropped when the client goes away.
    fn serve(&self, request: Request, replies: Replies) -> impl Future<Output = Result<Answer, String>> + Send;
}

/// What can go wrong when the socket is opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the control socket {path}: {source}")]
pub struct ServeError {
    path: PathBuf,
    source: io::Error,
}

/// The way back to the client while a request is served.
#[derive(Clone)]
pub struct Replies(mpsc::Sender<Progress>);

impl Replies {
    /// Reports progress; left out when the client is slow to read.
    pub fn progress(&self, progress: Progress) {
        let _ = self.0.try_send(progress);
    }
}

/// An open control socket; closed and removed when dropped.
pub struct Server {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        let _ = fs::remove_file(&self.path);
    }
}

impl Server {
    /// Opens the socket in `dir`, which the caller holds locked: a socket found there was left by a node that is gone.
    pub fn open<S: Service>(dir: &Path, service: Arc<S>) -> Result<Server, ServeError> {
        let path = dir.join(SOCKET_NAME);
        let failed = |source| ServeError { path: path.clone(), source };
        let listener = (|| {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let (name, _folder) = socket_name(dir)?;
            let listener = UnixListener::bind(name)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        })()
        .map_err(failed)?;
        Ok(Server { path, task: tokio::spawn(accept(listener, service)) })
    }
}

async fn accept<S: Service>(listener: UnixListener, service: Arc<S>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors or the like: give the others time to end.
                warn!(%error, "control connection refused");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        if !allowed(&stream) {
            continue;
        }
        let Ok(place) = places.clone().try_acquire_owned() else {
            warn!(limit = CONNECTIONS_MAX, "control connection refused: too many");
            continue;
        };
        let service = service.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &*service).await {
                debug!(%error, "control connection ended");
            }
            drop(place);
        });
    }
}

/// Whether the process at the other end belongs to this node's user, or to root, who may do anything anyway.
fn allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == own || peer.uid() == 0 => true,
        Ok(peer) => {
            warn!(uid = peer.uid(), "control connection of another user refused");
            false
        }
        Err(error) => {
            warn!(%error, "control connection refused: its user is not known");
            false
        }
    }
}

async fn converse<S: Service>(stream: UnixStream, service: &S) -> io::Result<()> {
    let (input, output) = stream.into_split();
    let mut input = BufReader::new(input);
    let mut output = BufWriter::with_capacity(64 * 1024, output);
    while let Some(line) = request_line(&mut input).await? {
        let last = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => match answer(service, request, &mut input, &mut output).await? {
                Some(last) => last,
                None => return Ok(()),
            },
            Err(error) => Reply::Failed(format!("the node does not know this request: {error}")),
        };
        write_reply(&mut output, &last).await?;
        output.flush().await?;
    }
    Ok(())
}

/// The next line without its end; `None` when the client closed. A line over the limit is an error.
async fn request_line<R: AsyncBufRead + Unpin>(input: &mut R) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        let part = input.fill_buf().await?;
        if part.is_empty() {
            return Ok(None);
        }
        let end = part.iter().position(|b| *b == b'\n');
        let taken = end.map_or(part.len(), |at| at + 1);
        line.extend(part.iter().take(end.unwrap_or(part.len())));
        input.consume(taken);
        if line.len() > REQUEST_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "request line too long"));
        }
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}

/// Runs one request while writing its lines; `None` when the client closed in the midst of it.
async fn answer<S: Service, R: AsyncBufRead + Unpin, W: AsyncWrite + Unpin>(
    service: &S,
    request: Request,
    input: &mut R,
    output: &mut W,
) -> io::Result<Option<Reply>> {
    let (sender, mut lines) = mpsc::channel(REPLIES_WAITING_MAX);
    let mut work = std::pin::pin!(service.serve(request, Replies(sender)));
    let mut watching = true;
    let last = loop {
        tokio::select! {
            biased;
            Some(line) = lines.recv() => {
                write_reply(output, &Reply::Progress(line)).await?;
                if lines.is_empty() {
                    output.flush().await?;
                }
            }
            result = &mut work => break last_line(result),
            part = input.fill_buf(), if watching => {
                if part?.is_empty() {
                    return Ok(None);
                }
                watching = false;
            }
        }
    };
    while let Ok(line) = lines.try_recv() {
        write_reply(output, &Reply::Progress(line)).await?;
    }
    Ok(Some(last))
}

fn last_line(result: Result<Answer, String>) -> Reply {
    match result {
        Ok(answer) => Reply::Done(answer),
        Err(message) => Reply::Failed(message),
    }
}

async fn write_reply<W: AsyncWrite + Unpin>(output: &mut W, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply).map_err(io::Error::other)?;
    line.push(b'\n');
    output.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use super::super::client::{Client, ClientError};
    use super::super::message::{PathText, Pinned, Reference};
    use super::*;
    use std::io::{Read, Write};
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Fake {
        cancelled: Arc<AtomicBool>,
    }

    struct SetOnDrop(Arc<AtomicBool>);
    impl Drop for SetOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    impl Service for Fake {
        async fn serve(&self, request: Request, replies: Replies) -> Result<Answer, String> {
            match request {
                Request::Ref { .. } => Ok(Answer::Reference(Reference { reference: "tornet1x".into() })),
                Request::Pin { .. } => {
                    for done in 0..5 {
                        replies.progress(Progress { stage: "fetching".into(), done, total: 5, unit: "chunks".into() });
                        tokio::task::yield_now().await;
                    }
                    Ok(Answer::Pinned(Pinned { chunks: 5, bytes: 50 }))
                }
                Request::Verify { .. } => {
                    let _guard = SetOnDrop(self.cancelled.clone());
                    std::future::pending().await
                }
                _ => Err("cannot: because; do this".into()),
            }
        }
    }

    fn serve(dir: &Path) -> (tokio::runtime::Runtime, Server, Arc<AtomicBool>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let cancelled = Arc::new(AtomicBool::new(false));
        let service = Arc::new(Fake { cancelled: cancelled.clone() });
        let server = runtime.block_on(async { Server::open(dir, service) }).unwrap();
        (runtime, server, cancelled)
    }

    #[test]
    fn requests_are_answered_one_after_the_other_over_a_real_socket() {
        let dir = tempfile::tempdir().unwrap();
        let (_runtime, server, _) = serve(dir.path());
        let mode = fs::metadata(dir.path().join(SOCKET_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let mut client = Client::connect(dir.path()).unwrap();
        let answer = client.ask(&Request::Ref { path: PathText("/x".into()) }).unwrap();
        assert_eq!(answer, Answer::Reference(Reference { reference: "tornet1x".into() }));

        let error = client.ask(&Request::Status).unwrap_err();
        assert_eq!(error.to_string(), "cannot: because; do this");

        let mut seen = 0;
        let answer = client.ask_with(&Request::Pin { reference: "r".into() }, |progress| {
            assert_eq!((progress.done, progress.total), (seen, 5));
            seen += 1;
        });
        assert_eq!(answer.unwrap(), Answer::Pinned(Pinned { chunks: 5, bytes: 50 }));
        assert!(seen > 0);

        drop(server);
        assert!(!dir.path().join(SOCKET_NAME).exists());
    }

    #[test]
    fn a_client_that_goes_away_cancels_its_request() {
        let dir = tempfile::tempdir().unwrap();
        let (_runtime, _server, cancelled) = serve(dir.path());
        let mut raw = std::os::unix::net::UnixStream::connect(dir.path().join(SOCKET_NAME)).unwrap();
        raw.write_all(b"{\"verify\":{\"reference\":\"r\"}}\n").unwrap();
        drop(raw);
        while !cancelled.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    #[test]
    fn nonsense_is_refused_and_an_endless_line_ends_the_connection() {
        let dir = tempfile::tempdir().unwrap();
        let (_runtime, _server, _) = serve(dir.path());
        let mut raw = std::os::unix::net::UnixStream::connect(dir.path().join(SOCKET_NAME)).unwrap();
        raw.write_all(b"make me a sandwich\n").unwrap();
        let mut answer = [0; 64];
        let count = raw.read(&mut answer).unwrap();
        assert!(answer[..count].starts_with(b"{\"failed\":\"the node does not know this request"));
        // The server may close before all is written; what counts is that it closes.
        let _ = raw.write_all(&vec![b'x'; REQUEST_BYTES_MAX * 2]);
        let mut rest = Vec::new();
        let _ = raw.read_to_end(&mut rest);
        assert!(!String::from_utf8_lossy(&rest).contains("done"));
    }

    #[test]
    fn without_a_node_the_error_says_so_and_a_long_path_is_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Client::connect(dir.path()), Err(ClientError::NotRunning { .. })));
        let deep = dir.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let (_runtime, _server, _) = serve(&deep);
        assert!(Client::connect(&deep).unwrap().ask(&Request::Ref { path: PathText::default() }).is_ok());
    }
}
