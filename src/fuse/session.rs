//! One mount's conversation with the kernel: agreement at the start, threads that take requests, answers that come later, interruptions.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::abi::{self, Answer, HEADER_BYTES, init, op};
use super::dispatch::Request;
use super::ffi;
use super::reply::Reply;
use crate::vfs::{self, Filesystem, Result, Waiting};

/// Data of one read or write at most.
pub(super) const DATA_BYTES_MAX: usize = 1 << 20;
/// Pages of that size.
const PAGES_MAX: u16 = 256;
/// Room for a request beside its data.
const REQUEST_BYTES_EXTRA: usize = 64 << 10;
/// Requests that the kernel makes ahead of need (readahead, write-back) at once.
const BACKGROUND_MAX: u16 = 64;
/// How often a thread that was sent a harmless signal is looked at again.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);
/// Marks a seat whose request was interrupted: the kernel's request numbers are even.
const INTERRUPTED: u64 = 1;

/// A mount being served.
pub(super) struct Session {
    pub(super) filesystem: Arc<Filesystem>,
    pub(super) request_bytes_max: usize,
    runtime: Handle,
    seats: Vec<Seat>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<()>>>,
}

/// What one thread is at: the number of its request, 0 for none.
#[derive(Debug, Default)]
pub(super) struct Seat(AtomicU64);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Agrees with the kernel on what both can do. The device must be freshly mounted.
pub(super) fn agree(device: &Arc<OwnedFd>, writeback: bool) -> std::result::Result<(), Errno> {
    let mut buffer = vec![0; DATA_BYTES_MAX + REQUEST_BYTES_EXTRA];
    loop {
        let Some(len) = receive(device, &mut buffer)? else { return Err(Errno::NOTCONN) };
        let (header, mut body) = buffer.get(..len).and_then(abi::request).ok_or(Errno::PROTO)?;
        let reply = Reply::new(device.clone(), header.unique);
        if header.opcode != op::INIT {
            return Err(Errno::PROTO);
        }
        let mut field = || body.u32().ok_or(Errno::PROTO);
        let (major, minor, readahead, flags) = (field()?, field()?, field()?, u64::from(field()?));
        let (version_major, version_minor) = abi::VERSION;
        if major > version_major {
            // A kernel of a later major version asks again in ours.
            reply.answer(Answer::default().u32(version_major).u32(version_minor).zeros(56));
            continue;
        }
        if (major, minor) < (version_major, abi::MINOR_MIN) {
            reply.error(Errno::PROTO);
            return Err(Errno::PROTONOSUPPORT);
        }
        // Not ATOMIC_O_TRUNC: a file would be cut by opening it before the kernel finds that it is being executed.
        let mut wanted = init::ASYNC_READ
            | init::BIG_WRITES
            | init::DO_READDIRPLUS
            | init::READDIRPLUS_AUTO
            | init::ASYNC_DIO
            | init::PARALLEL_DIROPS
            | init::MAX_PAGES
            | init::CACHE_SYMLINKS
            | init::EXPLICIT_INVAL_DATA
            | init::HANDLE_KILLPRIV_V2;
        if writeback {
            wanted |= init::WRITEBACK_CACHE;
        }
        let high = if flags & init::INIT_EXT != 0 { u64::from(field().unwrap_or(0)) << 32 } else { 0 };
        let agreed = wanted & (flags | high);
        tracing::debug!(minor, offered = flags | high, agreed, "agreed with the kernel");
        reply.answer(
            Answer::default()
                .u32(version_major)
                .u32(version_minor.min(minor))
                .u32(readahead)
                .u32(agreed as u32)
                .u16(BACKGROUND_MAX)
                .u16(BACKGROUND_MAX * 3 / 4)
                .u32(DATA_BYTES_MAX as u32)
                .u32(1) // times in nanoseconds
                .u16(PAGES_MAX)
                .zeros(2)
                .u32((agreed >> 32) as u32)
                .zeros(28),
        );
        return Ok(());
    }
}

/// The next request; `None` when the mount is gone.
fn receive(device: &Arc<OwnedFd>, buffer: &mut [u8]) -> std::result::Result<Option<usize>, Errno> {
    loop {
        match rustix::io::read(device, &mut *buffer) {
            Ok(len) => return Ok(Some(len)),
            // ENOENT: the request was taken back before it was read.
            Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => {}
            Err(Errno::NODEV) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

impl Session {
    /// Starts `threads` threads that serve the mount. The sender's drop tells that all have ended.
    pub(super) fn start(
        filesystem: Arc<Filesystem>,
        device: &Arc<OwnedFd>,
        threads: usize,
        runtime: Handle,
        ended: watch::Sender<()>,
    ) -> std::io::Result<()> {
        let seats = (0..threads).map(|_| Seat::default()).collect();
        let session = Arc::new(Session {
            filesystem,
            request_bytes_max: DATA_BYTES_MAX,
            runtime,
            seats,
            waiting: Mutex::default(),
        });
        let ended = Arc::new(ended);
        for index in 0..threads {
            // Threads with queues of their own do not wait for each other; where that fails they share one.
            let device = match ffi::clone_device(device.as_fd()) {
                Ok(clone) if index > 0 => Arc::new(clone),
                _ => device.clone(),
            };
            let (session, ended) = (session.clone(), ended.clone());
            std::thread::Builder::new().name(format!("fuse-{index}")).spawn(move || {
                session.serve(index, &device);
                drop(ended);
            })?;
        }
        Ok(())
    }

    fn serve(self: &Arc<Self>, index: usize, device: &Arc<OwnedFd>) {
        let Some(seat) = self.seats.get(index) else { return };
        if let Err(error) = vfs::enter_thread() {
            tracing::warn!(%error, "this thread keeps the program's file mode mask; new files may get stricter modes");
        }
        let mut buffer = vec![0; DATA_BYTES_MAX + REQUEST_BYTES_EXTRA];
        let mut scratch = Vec::new();
        loop {
            let len = match receive(device, &mut buffer) {
                Ok(Some(len)) => len,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "the kernel's requests cannot be read any more");
                    return;
                }
            };
            let Some((header, body)) = buffer.get(..len).filter(|_| len >= HEADER_BYTES).and_then(abi::request) else {
                tracing::warn!(len, "malformed request from the kernel");
                continue;
            };
            seat.0.store(header.unique, Ordering::SeqCst);
            let reply = Reply::new(device.clone(), header.unique);
            let request = Request { session: self, seat, header, body, reply, scratch: &mut scratch };
            // A panic answers this request with EIO, and must not silence the mount.
            match std::panic::catch_unwind(AssertUnwindSafe(|| request.serve())) {
                Ok(Some(())) => {}
                Ok(None) => tracing::warn!(opcode = header.opcode, "request from the kernel is too short"),
                Err(_) => tracing::error!(opcode = header.opcode, node = header.node, "a file operation panicked"),
            }
            seat.0.store(0, Ordering::SeqCst);
        }
    }

    /// Runs `work` aside and answers with what it comes to, or with EINTR once the asking thread is to be interrupted.
    pub(super) fn wait<T: Send + 'static>(
        self: &Arc<Self>,
        seat: &Seat,
        pid: u32,
        reply: Reply,
        work: Waiting<T>,
        send: impl FnOnce(Reply, Result<T>) + Send + 'static,
    ) {
        let unique = reply.unique();
        let (interrupt, interrupted) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            // From here on an interruption finds the request in the list.
            if seat.0.swap(0, Ordering::SeqCst) & INTERRUPTED == 0 {
                waiting.insert(unique, interrupt);
            } else {
                let _ = interrupt.send(());
            }
        }
        let this = self.clone();
        self.runtime.spawn(async move {
            let gone = Gone { session: this, unique };
            tokio::select! {
                biased;
                result = work => send(reply, result),
                () = wants_out(interrupted, pid) => reply.error(Errno::INTR),
            }
            drop(gone);
        });
    }

    /// Interrupts a request; false when it is not here.
    pub(super) fn interrupt(&self, unique: u64) -> bool {
        let mut waiting = lock(&self.waiting);
        if let Some(interrupt) = waiting.remove(&unique) {
            let _ = interrupt.send(());
            return true;
        }
        // Being started: whether it will wait is not known yet. What does not wait is done before anyone could miss it.
        let mark = |seat: &Seat| {
            seat.0.compare_exchange(unique, unique | INTERRUPTED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        };
        self.seats.iter().any(mark)
    }
}

/// Takes a request off the list when its task ends, however it does.
struct Gone {
    session: Arc<Session>,
    unique: u64,
}

impl Drop for Gone {
    fn drop(&mut self) {
        lock(&self.session.waiting).remove(&self.unique);
    }
}

/// Ends when the thread `pid` was interrupted by a signal that means "stop".
async fn wants_out(interrupted: oneshot::Receiver<()>, pid: u32) {
    if interrupted.await.is_err() {
        std::future::pending::<()>().await;
    }
    // The kernel tells of the first signal only, whatever it is. Programs that read a disk do not expect to be
    // interrupted by timers or children, so those wait on; a deadly signal that follows must still get through.
    while !stop_signal(pid) {
        tokio::time::sleep(SIGNAL_INTERVAL).await;
    }
}

/// Whether a signal that asks the thread to stop is waiting for it.
fn stop_signal(pid: u32) -> bool {
    // HUP, INT, QUIT, KILL, TERM; one that would end the program arrives as KILL.
    const STOP: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 8 | 1 << 14;
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    let signals = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    (signals("SigPnd:") | signals("ShdPnd:")) & !signals("SigBlk:") & STOP != 0
}
