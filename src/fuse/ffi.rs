//! The few calls to the FUSE device that have no safe form.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, fcntl_getfd};
use rustix::ioctl::{Opcode, Setter, opcode};

/// The device through which the kernel talks with a file system.
pub(super) const DEVICE: &str = "/dev/fuse";

const CLONE: Opcode = opcode::read::<u32>(229, 0);

/// Opens the device; not connected to a mount yet.
pub(super) fn open_device() -> Result<OwnedFd, Errno> {
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// A second descriptor of a mount's device, with a queue of its own: threads then do not wait for each other.
pub(super) fn clone_device(device: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let clone = open_device()?;
    fcntl_getfd(device)?;
    // SAFETY: FUSE_DEV_IOC_CLONE reads a 32-bit descriptor number through the pointer, which `Setter` keeps valid for
    // the call; it changes no memory of ours.
    unsafe {
        rustix::ioctl::ioctl(&clone, Setter::<CLONE, u32>::new(device.as_raw_fd() as u32))?;
    }
    Ok(clone)
}
