//! An answer owed to the kernel: given exactly once, by whoever holds it.

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::abi::{ANSWER_BYTES, Answer};

/// A request that is not answered yet. Dropped unanswered (by a panic, say), it is answered with EIO.
#[derive(Debug)]
pub(super) struct Reply {
    device: Option<Arc<OwnedFd>>,
    unique: u64,
}

impl Reply {
    pub(super) fn new(device: Arc<OwnedFd>, unique: u64) -> Reply {
        Reply { device: Some(device), unique }
    }

    pub(super) fn unique(&self) -> u64 {
        self.unique
    }

    fn send(&mut self, error: i32, body: &[u8]) {
        let Some(device) = self.device.take() else { return };
        let len = u32::try_from(ANSWER_BYTES + body.len()).unwrap_or(u32::MAX);
        let mut header = [0; ANSWER_BYTES];
        let fields = len.to_ne_bytes().into_iter().chain(error.to_ne_bytes()).chain(self.unique.to_ne_bytes());
        header.iter_mut().zip(fields).for_each(|(byte, value)| *byte = value);
        let parts = [IoSlice::new(&header), IoSlice::new(body)];
        let parts = if body.is_empty() { &parts[..1] } else { &parts[..] };
        match rustix::io::writev(&*device, parts) {
            // Whoever asked is gone, or the mount is.
            Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => {
                tracing::debug!(unique = self.unique, %errno, "answer to the kernel refused");
                // It must have some answer, or the program waits for ever.
                if error == 0 {
                    self.device = Some(device);
                    self.send(-Errno::IO.raw_os_error(), &[]);
                }
            }
        }
    }

    pub(super) fn bytes(mut self, body: &[u8]) {
        self.send(0, body);
    }

    pub(super) fn answer(self, answer: Answer) {
        self.bytes(&answer.0);
    }

    pub(super) fn done(self) {
        self.bytes(&[]);
    }

    pub(super) fn error(mut self, errno: Errno) {
        self.send(-errno.raw_os_error(), &[]);
    }

    /// Nothing is owed after all.
    pub(super) fn none(mut self) {
        self.device = None;
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send(-Errno::IO.raw_os_error(), &[]);
    }
}
