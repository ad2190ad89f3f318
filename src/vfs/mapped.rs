//! Files whose pages programs may have mapped for writing past us.
//!
//! Where the kernel serves a file by itself (`backing`) a shared map of it is one of the file below: no word of it reaches us, not when it
//! is made, nor when it is stored to, nor when it ends, which may be long after the file was closed. Only a file opened for reading and
//! writing can be mapped so. Of such files, until nobody can write to them any more (`lease`):
//! - the kernel is told to ask for attributes every time;
//! - times are looked at every second;
//! - the publisher writes their pages to the disk before it reads them. A store into a page that is dirty already leaves no trace;
//!   one into a page that was written out moves the file's times.

use crate::base::sync::lock;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use super::lease;
use super::node::{Key, Node};

/// Closed files that are remembered; the oldest go first. A map that stands for longer than so many others are mapped, or, where the file
/// system does not tell who can write, opened and closed, is looked at again only when the file is.
const CLOSED_MAX: usize = 512;

#[derive(Default)]
struct State {
    nodes: HashMap<Key, Arc<Node>>,
    /// In the order in which they were closed; those opened again are among them, too.
    closed: VecDeque<Key>,
}

/// The files that may be mapped now.
#[derive(Default)]
pub(crate) struct Mapped(Mutex<State>);

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").finish_non_exhaustive()
    }
}

impl Mapped {
    /// A file was opened so that it may be mapped. Tells whether it could not have been before.
    pub(super) fn opened(&self, node: &Arc<Node>) -> bool {
        lock(&self.0).nodes.insert(node.key, node.clone()).is_none()
    }

    /// The last to have the file open has closed it.
    pub(super) fn closed(&self, node: &Node) {
        let mut state = lock(&self.0);
        if !state.nodes.contains_key(&node.key) {
            return;
        }
        state.closed.retain(|key| *key != node.key);
        state.closed.push_back(node.key);
        while state.closed.len() > CLOSED_MAX {
            let Some(oldest) = state.closed.pop_front() else { return };
            if state.nodes.get(&oldest).is_some_and(|node| !node.openings.are_any()) {
                state.nodes.remove(&oldest);
            }
        }
    }

    /// Nobody could write to the file any more.
    pub(super) fn ended(&self, node: &Node) {
        let mut state = lock(&self.0);
        // Who opens it now finds it gone, or stands among the openings.
        if !node.openings.are_any() {
            state.remove(node);
        }
    }

    /// The kernel has forgotten the node, so nothing maps it.
    pub(super) fn forgotten(&self, node: &Node) {
        lock(&self.0).remove(node);
    }

    /// Whether the file, which is open for reading alone, may be stored to past us.
    pub(super) fn may_be_stored_to(&self, file: &File) -> bool {
        rustix::fs::fstat(file).is_ok_and(|stat| self.holds((&stat).into())) && lease::has_writers(file.as_fd())
    }

    /// Whether the file may be mapped.
    pub(crate) fn holds(&self, key: Key) -> bool {
        lock(&self.0).nodes.contains_key(&key)
    }

    pub(super) fn all(&self) -> Vec<Arc<Node>> {
        lock(&self.0).nodes.values().cloned().collect()
    }
}

impl State {
    fn remove(&mut self, node: &Node) {
        // Its inode number may stand for another file by now.
        if self.nodes.get(&node.key).is_some_and(|known| std::ptr::eq(&**known, node)) {
            self.nodes.remove(&node.key);
            self.closed.retain(|key| *key != node.key);
        }
    }
}
