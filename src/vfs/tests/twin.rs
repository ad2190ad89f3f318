//! A tree in memory, as plain as can be: what operations on the own tree should come to.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::io::Errno;

use crate::base::time::Timestamp;

pub(super) const KEEP_SIZE: u32 = 1;
pub(super) const PUNCH: u32 = 2 | KEEP_SIZE;
pub(super) const ZERO: u32 = 16;
pub(super) const NOREPLACE: u32 = 1;
pub(super) const EXCHANGE: u32 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    File(Vec<u8>),
    Directory(BTreeMap<String, usize>),
    Link(String),
}

#[derive(Clone, Debug)]
pub(super) struct Twin {
    pub(super) body: Body,
    pub(super) mode: u32,
    /// Where it was set and nothing changed since.
    pub(super) modified: Option<Timestamp>,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    pub(super) links: u32,
}

/// The tree as it should be. The first is the top.
#[derive(Debug)]
pub(super) struct Model(pub(super) Vec<Twin>);

pub(super) type Answer<T> = std::result::Result<T, Errno>;

impl Model {
    pub(super) fn new() -> Model {
        Model(vec![Twin::new(Body::Directory(BTreeMap::new()), 0o755)])
    }

    pub(super) fn names(&self, at: usize) -> Answer<&BTreeMap<String, usize>> {
        match &self.0[at].body {
            Body::Directory(names) => Ok(names),
            _ => Err(Errno::NOTDIR),
        }
    }

    pub(super) fn at(&self, path: &Path) -> Option<usize> {
        path.iter().try_fold(0, |at, name| self.names(at).ok()?.get(name.to_str()?).copied())
    }

    pub(super) fn names_mut(&mut self, at: usize) -> &mut BTreeMap<String, usize> {
        self.0[at].modified = None;
        match &mut self.0[at].body {
            Body::Directory(names) => names,
            _ => unreachable!("it was looked at before"),
        }
    }

    pub(super) fn is_directory(&self, at: usize) -> bool {
        matches!(self.0[at].body, Body::Directory(_))
    }

    pub(super) fn is_empty(&self, at: usize) -> bool {
        self.names(at).is_ok_and(BTreeMap::is_empty)
    }

    /// The directories in whose trees `at` is, with itself.
    pub(super) fn holds(&self, above: usize, at: usize) -> bool {
        above == at || self.names(above).is_ok_and(|names| names.values().any(|child| self.holds(*child, at)))
    }

    pub(super) fn make(&mut self, parent: usize, name: &str, twin: Twin) -> Answer<usize> {
        if self.names(parent)?.contains_key(name) {
            return Err(Errno::EXIST);
        }
        self.0.push(twin);
        let at = self.0.len() - 1;
        self.names_mut(parent).insert(name.into(), at);
        Ok(at)
    }

    pub(super) fn remove(&mut self, parent: usize, name: &str, directory: bool) -> Answer<()> {
        let at = *self.names(parent)?.get(name).ok_or(Errno::NOENT)?;
        match (directory, self.is_directory(at)) {
            (true, false) => return Err(Errno::NOTDIR),
            (false, true) => return Err(Errno::ISDIR),
            (true, true) if !self.is_empty(at) => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        self.names_mut(parent).remove(name);
        self.0[at].links -= 1;
        Ok(())
    }

    pub(super) fn rename(&mut self, from: (usize, &str), to: (usize, &str), flags: u32) -> Answer<()> {
        let moved = *self.names(from.0)?.get(from.1).ok_or(Errno::NOENT)?;
        let there = self.names(to.0)?.get(to.1).copied();
        match there {
            Some(_) if flags == NOREPLACE => return Err(Errno::EXIST),
            None if flags == EXCHANGE => return Err(Errno::NOENT),
            _ => {}
        }
        if self.is_directory(moved) && self.holds(moved, to.0) {
            return Err(Errno::INVAL);
        }
        if let Some(there) = there {
            if self.is_directory(there) && self.holds(there, from.0) {
                return Err(if flags == EXCHANGE { Errno::INVAL } else { Errno::NOTEMPTY });
            }
            if there == moved {
                return Ok(());
            }
            if flags != EXCHANGE {
                match (self.is_directory(moved), self.is_directory(there)) {
                    (true, false) => return Err(Errno::NOTDIR),
                    (false, true) => return Err(Errno::ISDIR),
                    (true, true) if !self.is_empty(there) => return Err(Errno::NOTEMPTY),
                    _ => self.0[there].links -= 1,
                }
            }
        }
        self.names_mut(from.0).remove(from.1);
        self.names_mut(to.0).insert(to.1.into(), moved);
        if let Some(there) = there.filter(|_| flags == EXCHANGE) {
            self.names_mut(from.0).insert(from.1.into(), there);
        }
        Ok(())
    }

    pub(super) fn file(&mut self, at: usize) -> Answer<&mut Vec<u8>> {
        match &mut self.0[at].body {
            Body::File(bytes) => Ok(bytes),
            Body::Directory(_) | Body::Link(_) => Err(Errno::INVAL),
        }
    }

    pub(super) fn write(&mut self, at: usize, offset: u64, data: &[u8]) -> Answer<()> {
        let (start, end) = (offset as usize, offset as usize + data.len());
        let bytes = self.file(at)?;
        if !data.is_empty() {
            bytes.resize(bytes.len().max(end), 0);
            bytes[start..end].copy_from_slice(data);
            self.0[at].modified = None;
        }
        Ok(())
    }

    pub(super) fn allocate(&mut self, at: usize, mode: u32, offset: u64, len: u64) -> Answer<()> {
        if len == 0 {
            return Err(Errno::INVAL);
        }
        let bytes = self.file(at)?;
        let (start, end) = (offset as usize, (offset + len) as usize);
        if mode & KEEP_SIZE == 0 {
            bytes.resize(bytes.len().max(end), 0);
        }
        if mode & ((PUNCH - KEEP_SIZE) | ZERO) != 0 {
            let len = bytes.len();
            bytes[start.min(len)..end.min(len)].fill(0);
        }
        self.0[at].modified = None;
        Ok(())
    }
}

impl Twin {
    pub(super) fn new(body: Body, mode: u32) -> Twin {
        Twin { body, mode, modified: None, xattrs: BTreeMap::new(), links: 1 }
    }
}
