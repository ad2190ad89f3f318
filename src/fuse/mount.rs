//! Attaching the device to a directory, and taking it off: by the system call where we may, else through `fusermount3`.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use thiserror::Error;

use super::options::MountOptions;
use super::table::{self, KIND, Mounted};

/// How long a mount that is there already may take to show that it is alive.
const PROBE_MAX: Duration = Duration::from_secs(2);
/// The device through which the kernel talks with a file system.
const DEVICE: &str = "/dev/fuse";

/// Why a file system could not be mounted or unmounted.
#[derive(Debug, Error)]
pub enum MountError {
    /// The kernel's part is missing.
    #[error("{DEVICE} does not exist: load the kernel module (modprobe fuse), or give the container the device (--device {DEVICE})", DEVICE = DEVICE)]
    NoDevice,
    /// The device refuses.
    #[error("cannot open {DEVICE}: {0}", DEVICE = DEVICE)]
    Device(#[source] io::Error),
    /// The device is for root alone.
    #[error("only root may open {DEVICE} here: give it the usual mode (chmod 666 {DEVICE}), or run as root", DEVICE = DEVICE)]
    Reserved,
    /// The helper for ordinary users is missing.
    #[error(
        "mounting as an ordinary user needs fusermount3: install the package fuse3 (Debian, Ubuntu, Fedora, Arch: fuse3), or run as root"
    )]
    NoHelper,
    /// The helper could not be run.
    #[error("cannot run {0}: {1}")]
    Helper(PathBuf, #[source] io::Error),
    /// The helper refused.
    #[error("fusermount3 refused: {0}")]
    HelperRefused(String),
    /// Nothing to mount on.
    #[error("mount point {0} does not exist: create it first (mkdir -p {0})")]
    NotFound(PathBuf),
    /// Nothing to mount on, though its name is there.
    #[error(
        "mount point {0} is a symbolic link to {1}, which does not exist: create that (mkdir -p), or name another mount point"
    )]
    Dangling(PathBuf, PathBuf),
    /// Only a directory can be mounted on.
    #[error("mount point {0} is not a directory")]
    NotDirectory(PathBuf),
    /// What is in it would be hidden.
    #[error("mount point {0} is not empty: choose an empty directory, or hide its files with -o nonempty")]
    NotEmpty(PathBuf),
    /// A living mount is there.
    #[error("{0} is mounted already: unmount it first (tornet umount {0})")]
    AlreadyMounted(PathBuf),
    /// The mount would contain what it is made from, or the other way round.
    #[error("mount point {mountpoint} and data directory {data} may not lie in each other")]
    Nested {
        /// Where it should be mounted.
        mountpoint: PathBuf,
        /// Where the data is.
        data: PathBuf,
    },
    /// It would lie in what is to be seen there.
    #[error("{0} lies in the mount {1}: choose a mount point outside of it")]
    Inside(PathBuf, PathBuf),
    /// The kernel lets only root show a file system in a further place.
    #[error(
        "the node is mounted on {first} already, and only root can add a mount: make a link (ln -s {first} PATH), or let root do it (mount --bind {first} {target})"
    )]
    FurtherByUser {
        /// Where it is mounted.
        first: PathBuf,
        /// Where it should be, too.
        target: PathBuf,
    },
    /// What one file system cannot have both ways.
    #[error(
        "the node is mounted on {first} already, {has} {option}, which holds for all mounts of a node: unmount it first, or mount with the same options"
    )]
    Differs {
        /// Where it is mounted.
        first: PathBuf,
        /// `with` or `without`.
        has: &'static str,
        /// The option that is wanted otherwise.
        option: &'static str,
    },
    /// The node has lost its mount and ends.
    #[error("the node is ending")]
    Ending,
    /// Something about the mount point cannot be found out.
    #[error("cannot use mount point {0}: {1}")]
    Unusable(PathBuf, #[source] io::Error),
    /// The system call failed.
    #[error("cannot mount on {0}: {1}")]
    Refused(PathBuf, #[source] io::Error),
    /// The kernel is too old, or something else answered.
    #[error("the kernel and tornet do not understand each other: Linux 5.11 or later is needed ({0})")]
    Protocol(#[source] io::Error),
    /// Threads could not be started.
    #[error("cannot start the threads that serve the mount: {0}")]
    Threads(#[source] io::Error),
    /// The tree to be mounted cannot be opened.
    #[error("{0}")]
    Tree(String),
    /// It is in use.
    #[error(
        "{0} is in use: close the files and leave the directories in it (fuser -vm {0} lists who), then unmount again"
    )]
    Busy(PathBuf),
    /// It cannot be unmounted.
    #[error("cannot unmount {0}: {1}")]
    Unmount(PathBuf, #[source] io::Error),
}

/// Checks the mount point and gives its full path; a mount left by a killed process is taken off.
pub(super) fn prepare(mountpoint: &Path, options: &MountOptions, data: &Path) -> Result<PathBuf, MountError> {
    let full = full_path(mountpoint)?;
    if !clear(&full)? {
        return Err(MountError::AlreadyMounted(full));
    }
    let unusable = |error| MountError::Unusable(full.clone(), error);
    let meta = full.metadata().map_err(unusable)?;
    if !meta.is_dir() {
        return Err(MountError::NotDirectory(full));
    }
    let data = data.canonicalize().unwrap_or_else(|_| data.to_path_buf());
    if data.starts_with(&full) || full.starts_with(&data) {
        return Err(MountError::Nested { mountpoint: full, data });
    }
    if !options.non_empty && full.read_dir().map_err(unusable)?.next().is_some() {
        return Err(MountError::NotEmpty(full));
    }
    Ok(full)
}

/// Takes off a mount that a killed process left, without touching one that answers; whether none is there now.
pub(super) fn clear(target: &Path) -> Result<bool, MountError> {
    if !mounted(target).is_some_and(|mounted| mounted.is_ours()) {
        return Ok(true);
    }
    match probe(target) {
        Some(Err(Errno::NOTCONN | Errno::CONNABORTED)) => {
            tracing::info!(mountpoint = %target.display(), "taking off a mount left by a process that was killed");
            detach(target)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// The full path, without touching what may be a dead mount at its end.
pub(super) fn full_path(mountpoint: &Path) -> Result<PathBuf, MountError> {
    match mountpoint.canonicalize() {
        Ok(full) => return Ok(full),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(match mountpoint.read_link() {
                Ok(target) => MountError::Dangling(mountpoint.to_path_buf(), target),
                Err(_) => MountError::NotFound(mountpoint.to_path_buf()),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(MountError::NotDirectory(mountpoint.to_path_buf()));
        }
        Err(error) if !is_dead(&error) => return Err(MountError::Unusable(mountpoint.to_path_buf(), error)),
        Err(_) => {}
    }
    let unusable = |error| MountError::Unusable(mountpoint.to_path_buf(), error);
    let absolute = std::path::absolute(mountpoint).map_err(unusable)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize().map_err(unusable)?.join(name)),
        _ => Ok(absolute),
    }
}

fn is_dead(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOTCONN | Errno::CONNABORTED))
}

/// The mount to be seen exactly at `path`.
fn mounted(path: &Path) -> Option<Mounted> {
    table::find(&table::table().ok()?, path).cloned()
}

/// Asks a mount for its attributes; `None` when it does not answer in time.
fn probe(path: &Path) -> Option<Result<(), Errno>> {
    let (sender, answer) = mpsc::channel();
    let path = path.to_path_buf();
    // Only a thread of its own can be left behind if the mount hangs.
    std::thread::spawn(move || {
        // The root's attributes may be cached; its space is not.
        let _ = sender.send(rustix::fs::statfs(&path).map(|_| ()));
    });
    answer.recv_timeout(PROBE_MAX).ok()
}

/// Mounts on `target`, and gives the device.
pub(super) fn attach(target: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    match attach_directly(target, options) {
        Err(MountError::Refused(_, error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            attach_by_helper(target, options)
        }
        other => other,
    }
}

/// Opens the device; not connected to a mount yet.
fn open_device() -> Result<OwnedFd, Errno> {
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// What the kernel sees to in each place where the file system is to be seen.
fn flags(options: &MountOptions) -> MountFlags {
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NOEXEC, options.no_exec);
    flags.set(MountFlags::NOATIME, options.no_atime);
    flags
}

fn attach_directly(target: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let device = open_device().map_err(|errno| match errno {
        Errno::NOENT | Errno::NXIO | Errno::NODEV => MountError::NoDevice,
        // Some systems give ordinary users no access; the helper has it.
        Errno::ACCESS | Errno::PERM if !rustix::process::geteuid().is_root() => {
            MountError::Refused(target.into(), errno.into())
        }
        _ => MountError::Device(errno.into()),
    })?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).expect("made of digits and words");
    // Not for reading alone at first: that would hold for every further place, too.
    let writable = MountOptions { read_only: false, ..options.clone() };
    let refused = |errno: Errno| MountError::Refused(target.into(), errno.into());
    rustix::mount::mount(options.source(), target, KIND, flags(&writable), Some(data.as_c_str())).map_err(refused)?;
    if options.read_only {
        restrict(target, options)?;
    }
    Ok(device)
}

/// The device numbers of the file system mounted at `target`, as the mount table has them.
pub(super) fn device_of(target: &Path) -> Option<String> {
    mounted(target).map(|mounted| mounted.device)
}

/// Lets the whole of the file system that is mounted at `first` be seen at `target` as well, under options of its own.
pub(super) fn bind(first: &Path, target: &Path, options: &MountOptions) -> Result<(), MountError> {
    rustix::mount::mount_bind(first, target).map_err(|errno| match errno {
        Errno::PERM => MountError::FurtherByUser { first: first.into(), target: target.into() },
        _ => MountError::Refused(target.into(), errno.into()),
    })?;
    restrict(target, options)
}

/// Gives one place options of its own; if that fails it is taken off.
fn restrict(target: &Path, options: &MountOptions) -> Result<(), MountError> {
    rustix::mount::mount_remount(target, MountFlags::BIND | flags(options), "").map_err(|errno| {
        let _ = detach(target);
        MountError::Refused(target.into(), errno.into())
    })
}

/// Where `fusermount3` is, or its older namesake.
fn helper() -> Result<PathBuf, MountError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(usual).collect();
    let names = ["fusermount3", "fusermount"];
    let mut candidates = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    candidates.find(|candidate| candidate.is_file()).ok_or(MountError::NoHelper)
}

fn run_helper(helper: &Path, arguments: &[&OsStr], socket: Option<&OwnedFd>) -> Result<(), MountError> {
    let mut command = Command::new(helper);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    if let Some(socket) = socket {
        command.env("_FUSE_COMMFD", socket.as_raw_fd().to_string());
    }
    let output = command.output().map_err(|error| MountError::Helper(helper.into(), error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches("fusermount3: ").trim_start_matches("fusermount: ");
    if said.contains("user_allow_other") {
        return Err(MountError::HelperRefused(
            "allow_other is not permitted to ordinary users here: add the line user_allow_other to /etc/fuse.conf"
                .into(),
        ));
    }
    if said.contains("failed to open /dev/fuse: Permission denied") {
        return Err(MountError::Reserved);
    }
    // It looks for a mount of this user's.
    if said.contains("not found in") && said.contains("mtab") {
        return Err(MountError::HelperRefused(
            "another user mounted it: only that user and root may take it off".into(),
        ));
    }
    Err(MountError::HelperRefused(if said.is_empty() { output.status.to_string() } else { said.into() }))
}

fn attach_by_helper(target: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let helper = helper()?;
    if !Path::new(DEVICE).exists() {
        return Err(MountError::NoDevice);
    }
    // The name goes into a list of options.
    let source = options.source().replace('\\', "\\\\").replace(',', "\\,");
    let mut list = format!("nosuid,nodev,default_permissions,fsname={source},subtype=tornet");
    let flags = [
        (options.read_only, ",ro"),
        (options.no_exec, ",noexec"),
        (options.no_atime, ",noatime"),
        (options.allow_other, ",allow_other"),
    ];
    flags.iter().filter(|(set, _)| *set).for_each(|(_, text)| list.push_str(text));
    let refused = |errno: Errno| MountError::Refused(target.into(), errno.into());
    // The helper's end must outlive its start, so it is not closed on exec.
    let (theirs, ours) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None).map_err(refused)?;
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC).map_err(refused)?;
    let arguments = ["-o".as_ref(), OsStr::new(&list), "--".as_ref(), target.as_os_str()];
    run_helper(&helper, &arguments, Some(&theirs))?;
    drop(theirs);
    let device = receive_descriptor(&ours).map_err(refused)?;
    rustix::io::fcntl_setfd(&device, rustix::io::FdFlags::CLOEXEC).map_err(refused)?;
    Ok(device)
}

fn receive_descriptor(socket: &OwnedFd) -> Result<OwnedFd, Errno> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [io::IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptors.ok_or(Errno::BADMSG)
}

/// Unmounts `target` unless it is in use.
pub(super) fn unmount(target: &Path) -> Result<(), MountError> {
    take_off(target, false)
}

/// Takes the mount away from sight at once; it ends when the last file in it is closed.
pub(super) fn detach(target: &Path) -> Result<(), MountError> {
    take_off(target, true)
}

fn take_off(target: &Path, lazily: bool) -> Result<(), MountError> {
    let flags = if lazily { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(target, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        // No mount is there any more.
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(Errno::BUSY) => Err(MountError::Busy(target.into())),
        Err(Errno::PERM) => {
            let helper = helper()?;
            let mut arguments: Vec<OsString> = vec!["-u".into()];
            if lazily {
                arguments.push("-z".into());
            }
            arguments.extend(["--".into(), target.as_os_str().to_owned()]);
            let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
            match run_helper(&helper, &arguments, None) {
                Err(MountError::HelperRefused(said)) if said.contains("busy") => Err(MountError::Busy(target.into())),
                // Gone meanwhile.
                Err(MountError::HelperRefused(_)) if !mounted(target).is_some_and(|mounted| mounted.is_ours()) => {
                    Ok(())
                }
                other => other,
            }
        }
        Err(errno) => Err(MountError::Unmount(target.into(), errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_useless_mount_point_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let options = MountOptions::default();
        let data = Path::new("/nonexistent/data");
        let refused = |path: &Path| prepare(path, &options, data).unwrap_err();
        assert!(matches!(refused(&dir.path().join("none")), MountError::NotFound(_)));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert!(matches!(refused(&link), MountError::Dangling(..)));
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(refused(&file), MountError::NotDirectory(_)));
        assert!(matches!(refused(dir.path()), MountError::NotEmpty(_)));
        let empty = dir.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        assert!(prepare(&empty, &options, data).is_ok());
        assert!(matches!(prepare(&empty, &options, &empty.join("data")), Err(MountError::Nested { .. })));
    }
}
