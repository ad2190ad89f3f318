//! The node's key pair: made on first start, kept in a file that only its user can read.

use crate::base::peer::PeerId;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// First word of the file.
const MAGIC: &str = "tornet-identity-1";
/// No identity file is longer.
const FILE_BYTES_MAX: usize = 256;

/// An ed25519 key pair. Signs receipts and announcements; its x25519 form authenticates links. The secret is wiped on drop.
#[derive(Clone)]
pub struct Identity {
    signing: SigningKey,
}

/// Why there is no identity to work with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file or its folder can be read or written by others.
    #[error("{path} is open to other users (mode {mode:03o}); close it with: chmod {wanted:o} '{path}'")]
    TooOpen {
        /// File or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they must be.
        wanted: u32,
    },
    /// The file or its folder belongs to another user.
    #[error(
        "{path} belongs to user {owner}, not to user {user} who runs this node; correct it with: chown {user} '{path}'"
    )]
    Owner {
        /// File or folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it must be.
        user: u32,
    },
    /// Not a file (a symbolic link, folder, device).
    #[error("{path} is not a regular file; move it away, and a new identity is made")]
    NotFile {
        /// Where.
        path: PathBuf,
    },
    /// The file is there and holds no key.
    #[error(
        "{path} is damaged: {why}; restore it from a backup, or move it away to begin anew under a new identity \
         (what peers owe to the old one is then lost)"
    )]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The operating system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// No randomness to make a key from.
    #[error("the system gives no random bytes")]
    Random,
}

impl Identity {
    /// A fresh key pair that is not kept.
    pub fn generate() -> Result<Identity, IdentityError> {
        let mut seed = Zeroizing::new([0u8; 32]);
        getrandom::fill(&mut *seed).map_err(|_| IdentityError::Random)?;
        Ok(Identity::from_seed(&seed))
    }

    /// The key pair of a 32-byte secret (RFC 8032).
    pub fn from_seed(seed: &[u8; 32]) -> Identity {
        Identity { signing: SigningKey::from_bytes(seed) }
    }

    /// Reads the identity file at `path`, or makes it (mode 0600, in a folder of mode 0700, which is made too).
    pub fn load_or_create(path: &Path) -> Result<Identity, IdentityError> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder) {
            Ok(()) => {}
            Err(source) => return Err(io_error("make", folder, source)),
        }
        check_closed(folder, &std::fs::metadata(folder).map_err(|e| io_error("inspect", folder, e))?, 0o700)?;
        match open_secret(path, OFlags::RDONLY) {
            Ok(file) => load(path, file),
            Err(rustix::io::Errno::NOENT) => create(path, folder),
            Err(rustix::io::Errno::LOOP) => Err(IdentityError::NotFile { path: path.into() }),
            Err(errno) => Err(io_error("open", path, errno.into())),
        }
    }

    /// Its name in the network: the public key.
    pub fn peer(&self) -> PeerId {
        PeerId(self.signing.verifying_key().to_bytes())
    }

    /// An ed25519 signature of `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }

    /// The x25519 secret that belongs to the same key pair (the clamped scalar of RFC 8032).
    pub(super) fn agreement_secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.signing.to_scalar_bytes())
    }

    /// A secret for `purpose`, derived from the key and the same after every start.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, self.signing.as_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.peer())
    }
}

/// Whether `signature` is `peer`'s signature of `message` (strict: no second form of a signature passes).
pub fn verify(peer: &PeerId, message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(&peer.0)
        .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
}

/// The x25519 public key of a peer: its ed25519 key mapped from the Edwards to the Montgomery curve. `None` for bytes that
/// are no point of the curve, or one of small order.
pub(super) fn agreement_public(peer: &PeerId) -> Option<[u8; 32]> {
    let key = VerifyingKey::from_bytes(&peer.0).ok()?;
    if key.is_weak() { None } else { Some(key.to_montgomery().to_bytes()) }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Io { action, path: path.into(), source }
}

fn check_closed(path: &Path, metadata: &std::fs::Metadata, wanted: u32) -> Result<(), IdentityError> {
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user {
        return Err(IdentityError::Owner { path: path.into(), owner: metadata.uid(), user });
    }
    let mode = metadata.mode() & 0o777;
    if mode & !wanted & 0o077 != 0 {
        return Err(IdentityError::TooOpen { path: path.into(), mode, wanted });
    }
    Ok(())
}

fn open_secret(path: &Path, flags: OFlags) -> Result<File, rustix::io::Errno> {
    // NONBLOCK: somebody may have put a pipe in the file's place.
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(File::from(rustix::fs::openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)?))
}

fn load(path: &Path, file: File) -> Result<Identity, IdentityError> {
    let metadata = file.metadata().map_err(|e| io_error("inspect", path, e))?;
    if !metadata.is_file() {
        return Err(IdentityError::NotFile { path: path.into() });
    }
    check_closed(path, &metadata, 0o600)?;
    // Sized in advance, so that no copy of the secret is left behind by growing.
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX + 1));
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut text).map_err(|e| io_error("read", path, e))?;
    let seed = parse(&text).map_err(|why| IdentityError::Damaged { path: path.into(), why })?;
    Ok(Identity::from_seed(&seed))
}

fn create(path: &Path, folder: &Path) -> Result<Identity, IdentityError> {
    let mut seed = Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *seed).map_err(|_| IdentityError::Random)?;
    // Written whole under another name first: a crash must not leave half a key under the right one.
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    match std::fs::remove_file(&draft) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(io_error("remove", &draft, e)),
    }
    let mut file = open_secret(&draft, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
        .map_err(|errno| io_error("create", &draft, errno.into()))?;
    file.write_all(&print(&seed)).and_then(|()| file.sync_all()).map_err(|e| io_error("write", &draft, e))?;
    match rustix::fs::renameat_with(CWD, &draft, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        // File systems that cannot promise it: the folder is ours alone, so nobody else made the file meanwhile.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            std::fs::rename(&draft, path).map_err(|e| io_error("create", path, e))?;
        }
        Err(errno) => return Err(io_error("create", path, errno.into())),
    }
    File::open(folder).and_then(|dir| dir.sync_all()).map_err(|e| io_error("write", folder, e))?;
    Ok(Identity::from_seed(&seed))
}

/// `tornet-identity-1 SEED CHECK`, both in hexadecimal; CHECK is the first 8 bytes of the BLAKE3 hash of the seed.
fn print(seed: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX));
    let check = blake3::hash(seed);
    text.extend_from_slice(MAGIC.as_bytes());
    for part in [&seed[..], &check.as_bytes()[..8]] {
        text.push(b' ');
        for byte in part {
            text.extend([byte >> 4, byte & 15].map(|nibble| b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    text.push(b'\n');
    text
}

fn parse(text: &[u8]) -> Result<Zeroizing<[u8; 32]>, &'static str> {
    let text = text.strip_suffix(b"\n").ok_or("it ends too early")?;
    let mut words = text.split(|byte| *byte == b' ');
    if words.next() != Some(MAGIC.as_bytes()) {
        return Err("it does not begin with 'tornet-identity-1'");
    }
    let (Some(seed), Some(check), None) = (words.next(), words.next(), words.next()) else {
        return Err("it does not hold a key and its check");
    };
    let seed: Zeroizing<[u8; 32]> = Zeroizing::new(unhex(seed).ok_or("its key is not 64 hexadecimal digits")?);
    let check: [u8; 8] = unhex(check).ok_or("its check is not 16 hexadecimal digits")?;
    if blake3::hash(&*seed).as_bytes()[..8] != check {
        return Err("key and check do not agree");
    }
    Ok(seed)
}

fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != N * 2 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|value| value as u8);
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        if let [high, low] = pair {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        folder
    }

    #[test]
    fn identity_is_made_once_and_closed_to_others() {
        let folder = folder();
        let path = folder.path().join("deep/identity");
        let made = Identity::load_or_create(&path).unwrap();
        let read = Identity::load_or_create(&path).unwrap();
        assert_eq!(made.peer(), read.peer());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert!(!format!("{made:?}").contains(&format!("{:02x?}", made.signing.as_bytes())));
    }

    #[test]
    fn open_file_or_folder_is_refused_with_the_remedy() {
        let folder = folder();
        let path = folder.path().join("identity");
        Identity::load_or_create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(matches!(error, IdentityError::TooOpen { mode: 0o640, .. }));
        assert!(error.to_string().contains("chmod 600 '"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        Identity::load_or_create(&path).unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(error.to_string().contains("chmod 700 '"), "{error}");
    }

    #[test]
    fn symbolic_link_and_pipe_are_not_followed() {
        let folder = folder();
        let real = folder.path().join("real");
        Identity::load_or_create(&real).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(matches!(Identity::load_or_create(&link), Err(IdentityError::NotFile { .. })));
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(matches!(Identity::load_or_create(&pipe), Err(IdentityError::NotFile { .. })));
    }

    #[test]
    fn any_changed_byte_is_noticed_and_nothing_is_overwritten() {
        let folder = folder();
        let path = folder.path().join("identity");
        Identity::load_or_create(&path).unwrap();
        let text = std::fs::read(&path).unwrap();
        for place in 0..text.len() {
            let mut bad = text.clone();
            bad[place] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(Identity::load_or_create(&path), Err(IdentityError::Damaged { .. })), "byte {place}");
            assert_eq!(std::fs::read(&path).unwrap(), bad);
        }
        for length in 0..text.len() {
            std::fs::write(&path, &text[..length]).unwrap();
            assert!(matches!(Identity::load_or_create(&path), Err(IdentityError::Damaged { .. })), "length {length}");
        }
    }

    #[test]
    fn file_and_keys_match_the_format_page() {
        let identity = Identity::from_seed(&[7; 32]);
        assert_eq!(std::str::from_utf8(&print(&[7; 32])).unwrap().split(' ').nth(1).unwrap(), "07".repeat(32));
        let public = agreement_public(&identity.peer()).unwrap();
        let secret = x25519_dalek::StaticSecret::from(*identity.agreement_secret());
        assert_eq!(x25519_dalek::PublicKey::from(&secret).to_bytes(), public);
        assert!(verify(&identity.peer(), b"message", &identity.sign(b"message")));
        assert!(!verify(&identity.peer(), b"massage", &identity.sign(b"message")));
        assert_eq!(agreement_public(&PeerId([0; 32])), None);
        assert_eq!(agreement_public(&PeerId([2; 32])), None);
    }
}
