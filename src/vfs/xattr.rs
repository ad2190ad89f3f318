//! Extended attributes: those of the files, and those by which tornet tells of itself.
//!
//! `user.tornet.ref`, `.verify` and `.state` answer to their names on every file and directory, and are not listed: programs that
//! copy or compare a file's attributes (`cp -a`, `mv`, `rsync -X`, `tar --xattrs`) would carry them along, and never find two
//! copies alike. They are nobody's to set or remove: who tries is told so.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::error::Result;
use super::filesystem::{Family, Filesystem};
use super::outcome::Outcome;
use super::own_attr::supported;

/// What every attribute of ours begins with.
const PREFIX: &[u8] = b"user.tornet.";
const REFERENCE: &[u8] = b"user.tornet.ref";
const VERIFY: &[u8] = b"user.tornet.verify";
const STATE: &[u8] = b"user.tornet.state";

impl Filesystem {
    /// The value of an attribute.
    pub fn xattr(&self, node: u64, name: &OsStr) -> Outcome<Vec<u8>> {
        // What is not supported anywhere is refused first: the kernel asks it of each file, and some of it once only.
        if let Err(errno) = supported(name) {
            return Outcome::refused(errno);
        }
        let ours = name.as_bytes().starts_with(PREFIX);
        match Family::of(node) {
            Family::Own if ours => self.own_xattr(node, name),
            Family::Own => self.own.xattr(node, name).into(),
            Family::Control => Outcome::refused(Errno::NODATA),
            Family::Foreign => self.foreign_xattr(node, name).into(),
        }
    }

    fn own_xattr(&self, node: u64, name: &OsStr) -> Outcome<Vec<u8>> {
        let Some(path) = self.own.path(node) else { return Outcome::refused(Errno::NODATA) };
        let text = match name.as_bytes() {
            STATE => return Outcome::Now(Ok(self.swarm.state(&path).into_bytes())),
            REFERENCE => self.swarm.reference(&path),
            VERIFY => self.swarm.verify_reference(&path),
            _ => return Outcome::refused(Errno::NODATA),
        };
        Outcome::later(async { Ok(text.await?.ok_or(Errno::NODATA)?.into_bytes()) })
    }

    fn foreign_xattr(&self, node: u64, name: &OsStr) -> Result<Vec<u8>> {
        if name.as_bytes() == REFERENCE {
            return Ok(self.foreign.reference(node)?.ok_or(Errno::NODATA)?.into_bytes());
        }
        let node = self.foreign.find(node)?;
        let found = node.xattrs.iter().find(|(known, _)| known == name.as_bytes());
        Ok(found.map(|(_, value)| value.clone()).ok_or(Errno::NODATA)?)
    }

    /// The names of the file's own attributes, each ended by a zero byte.
    pub fn xattrs(&self, node: u64) -> Outcome<Vec<u8>> {
        let listed = |name: &[u8]| !name.starts_with(PREFIX) && supported(OsStr::from_bytes(name)).is_ok();
        match Family::of(node) {
            Family::Own => self.own.xattrs(node).into(),
            Family::Control => Outcome::Now(Ok(Vec::new())),
            Family::Foreign => Outcome::Now(self.foreign.find(node).map(|found| {
                let names = found.xattrs.iter().map(|(name, _)| name.as_slice()).filter(|name| listed(name));
                names.flat_map(|name| [name, &b"\0"[..]].concat()).collect()
            })),
        }
    }

    /// Sets an attribute, with the flags of `setxattr`.
    pub fn set_xattr(&self, node: u64, name: &OsStr, value: &[u8], flags: u32) -> Result<()> {
        self.writable(node)?;
        if name.as_bytes().starts_with(PREFIX) {
            return Err(Errno::PERM.into());
        }
        Ok(self.own.set_xattr(node, name, value, flags)?)
    }

    /// Removes an attribute.
    pub fn remove_xattr(&self, node: u64, name: &OsStr) -> Result<()> {
        self.writable(node)?;
        if name.as_bytes().starts_with(PREFIX) {
            return Err(Errno::PERM.into());
        }
        Ok(self.own.remove_xattr(node, name)?)
    }
}
