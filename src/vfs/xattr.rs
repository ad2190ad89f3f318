//! Extended attributes: those of the files, and those by which tornet tells of itself.
//!
//! `user.tornet.ref`, `.verify` and `.state` stand on every file and directory. Setting or removing one is accepted and
//! forgotten: `cp -a`, `mv` and `rsync -X` carry them along with a file's own attributes and would complain of a refusal.

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

    /// The names of all attributes, each ended by a zero byte.
    pub fn xattrs(&self, node: u64) -> Outcome<Vec<u8>> {
        let list = |names: Vec<&[u8]>| names.iter().flat_map(|name| [name, &b"\0"[..]].concat()).collect::<Vec<u8>>();
        match Family::of(node) {
            Family::Own => self.own_xattrs(node),
            Family::Control => Outcome::Now(Ok(Vec::new())),
            Family::Foreign => Outcome::Now((|| {
                let reference = self.foreign.reference(node)?;
                let found = self.foreign.find(node)?;
                let mut names: Vec<&[u8]> = found.xattrs.iter().map(|(name, _)| name.as_slice()).collect();
                names.retain(|name| !name.starts_with(PREFIX) && supported(OsStr::from_bytes(name)).is_ok());
                if reference.is_some() {
                    names.push(REFERENCE);
                }
                Ok(list(names))
            })()),
        }
    }

    fn own_xattrs(&self, node: u64) -> Outcome<Vec<u8>> {
        let listed = self.own.xattrs(node).map(|mut names| {
            let carries = self.own.nodes.find(node).is_ok_and(|node| node.kind != rustix::fs::FileType::Symlink);
            if let Some(path) = self.own.path(node).filter(|_| carries) {
                // A reference is listed where there is one: a program that copies all attributes asks for each.
                let known: &[&[u8]] = if self.swarm.published(&path) { &[REFERENCE, VERIFY, STATE] } else { &[STATE] };
                known.iter().for_each(|name| names.extend_from_slice(&[name, &b"\0"[..]].concat()));
            }
            names
        });
        listed.into()
    }

    /// Sets an attribute, with the flags of `setxattr`.
    pub fn set_xattr(&self, node: u64, name: &OsStr, value: &[u8], flags: u32) -> Result<()> {
        self.writable(node)?;
        if name.as_bytes().starts_with(PREFIX) {
            return Ok(());
        }
        Ok(self.own.set_xattr(node, name, value, flags)?)
    }

    /// Removes an attribute.
    pub fn remove_xattr(&self, node: u64, name: &OsStr) -> Result<()> {
        self.writable(node)?;
        if name.as_bytes().starts_with(PREFIX) {
            return Ok(());
        }
        Ok(self.own.remove_xattr(node, name)?)
    }
}
