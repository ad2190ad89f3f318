//! One name: what is known of where it leads, what of that is on disk, and when it is to be looked after.

use super::{BRING_FEW, BRING_NONE, BRING_WELL, FRESH, KEEPERS, LATELY, MOVE_PAUSE, OFTEN, SELDOM};
use crate::base::codec::{DecodeError, Reader, Writer as Bytes};
use crate::base::head::HeadId;
use crate::content::head::{HeadKey, HeadRef};
use crate::content::reference::RootRef;
use crate::wire::head::SignedHead;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use tokio::time::Instant;

/// Longest reference on record.
const SHOWN_BYTES_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) head: HeadRef,
    /// Of the own tree; none of what is followed.
    pub(super) path: Option<PathBuf>,
    /// The newest state that was seen, whether its tree can be read or not: one older is never gone back to.
    pub(super) newest: Option<SignedHead>,
    /// Where it is shown to lead: where the newest state does or, until the top of that tree is here, where it was shown to lead before.
    pub(super) shown: Option<RootRef>,
    /// What follows is not on disk. When it was last brought or asked for, and by whom that was answered.
    pub(super) asked: Option<Instant>,
    pub(super) brought: Option<Instant>,
    pub(super) moved: Option<Instant>,
    pub(super) peers: usize,
    pub(super) looked: Option<Instant>,
    /// Somebody waited for its first state in vain.
    pub(super) given_up: Option<Instant>,
    /// Somebody wants to know now; or the tree may have moved on.
    pub(super) due: bool,
    pub(super) busy: bool,
    pub(super) trouble: Option<String>,
}

impl Name {
    pub(super) fn new(head: HeadRef, path: Option<PathBuf>) -> Name {
        Name {
            head,
            path,
            newest: None,
            shown: None,
            asked: None,
            brought: None,
            moved: None,
            peers: 0,
            looked: None,
            given_up: None,
            due: true,
            busy: false,
            trouble: None,
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Bytes::new();
        out.raw(&self.head.id.0);
        out.raw(&self.head.key.0);
        out.byte(u8::from(self.path.is_some()));
        if let Some(path) = &self.path {
            out.bytes(path.as_os_str().as_bytes());
        }
        out.byte(u8::from(self.newest.is_some()));
        if let Some(newest) = &self.newest {
            newest.write(&mut out);
        }
        out.bytes(self.shown.map(|root| root.to_string()).unwrap_or_default().as_bytes());
        out.into_bytes()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Name, DecodeError> {
        let mut from = Reader::new(bytes);
        let head = HeadRef { id: HeadId(from.array()?), key: HeadKey(from.array()?) };
        let path = match from.byte()? {
            0 => None,
            _ => Some(PathBuf::from(OsStr::from_bytes(from.bytes("length of a path", 1 << 16)?))),
        };
        let newest = match from.byte()? {
            0 => None,
            _ => Some(SignedHead::read(&mut from)?),
        };
        let shown = match from.bytes("length of a reference", SHOWN_BYTES_MAX)? {
            [] => None,
            text => Some(
                std::str::from_utf8(text)
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .ok_or(DecodeError::Invalid("reference"))?,
            ),
        };
        from.finish()?;
        Ok(Name { newest, shown, ..Name::new(head, path) })
    }

    /// When the swarm has to do with it next, if nobody looks.
    fn next(&self) -> Option<Instant> {
        let Some(asked) = self.asked else { return self.path.is_none().then(Instant::now) };
        Some(match (&self.path, self.peers) {
            (Some(_), KEEPERS..) => asked + BRING_WELL,
            (Some(_), 1..) => asked + BRING_FEW,
            (Some(_), 0) => asked + BRING_NONE,
            (None, _) if self.looked.is_some_and(|looked| looked.elapsed() < LATELY) => asked + OFTEN,
            (None, 0) => asked + BRING_NONE,
            (None, _) => asked + SELDOM,
        })
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        if self.busy {
            return false;
        }
        let paused = match self.path {
            Some(_) => self.moved.is_some_and(|moved| now < moved + MOVE_PAUSE),
            None => self.asked.is_some_and(|asked| now < asked + FRESH),
        };
        self.due && !paused || self.next().is_some_and(|next| next <= now)
    }
}

/// What counts of what was seen and what was found now: never a state older than one that was seen.
pub(super) fn latest(seen: Option<SignedHead>, found: Option<SignedHead>) -> Option<SignedHead> {
    match (seen, found) {
        (Some(seen), Some(found)) => Some(if found.replaces(&seen) { found } else { seen }),
        (seen, found) => seen.or(found),
    }
}

pub(super) fn open(head: &HeadRef, state: &SignedHead) -> Result<RootRef, String> {
    head.key.open(&head.id, state.number, &state.sealed).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::NameKeys;
    use super::*;
    use crate::base::digest::ChunkId;
    use crate::content::cipher::ReadKey;
    use crate::content::head::NONCE_BYTES;
    use crate::content::reference::{Kind, NodeRef};
    use crate::net::identity::Identity;

    fn keys() -> NameKeys {
        NameKeys::of(&Identity::from_seed(&[3; 32]))
    }

    #[test]
    fn a_name_on_record_comes_back() {
        let (text, head) = ("films", keys().reference("films"));
        let root = RootRef { kind: Kind::File, node: NodeRef { id: ChunkId([1; 32]), len: 9, key: ReadKey([2; 32]) } };
        let sealed = head.key.seal(&head.id, 4, &root, [7; NONCE_BYTES]);
        let mut state = SignedHead { id: head.id, number: 4, sealed, signature: [0; 64] };
        state.signature = keys().signer(text).sign(&state.signed());
        assert!(state.is_signed());
        let other = RootRef { kind: Kind::Directory, ..root };
        for (path, newest, shown) in [
            (None, None, None),
            (Some(PathBuf::from("a/b")), Some(state.clone()), Some(root)),
            (None, Some(state.clone()), Some(other)),
            (None, Some(state), None),
        ] {
            let name = Name { newest, shown, ..Name::new(head, path) };
            assert_eq!(Name::from_bytes(&name.to_bytes()).unwrap(), name);
        }
        assert!(Name::from_bytes(&[0; 10]).is_err());
    }

    #[test]
    fn a_state_older_than_one_that_was_seen_counts_for_nothing() {
        let state = |number, sealed| {
            Some(SignedHead { id: keys().reference("films").id, number, sealed: vec![sealed], signature: [0; 64] })
        };
        assert_eq!(latest(None, None), None);
        for (seen, found, counts) in [
            (None, state(3, 1), state(3, 1)),
            (state(3, 1), None, state(3, 1)),
            (state(3, 1), state(2, 9), state(3, 1)),
            (state(3, 1), state(4, 0), state(4, 0)),
            // Two of one number: all agree on one, whichever came first.
            (state(3, 1), state(3, 2), state(3, 2)),
            (state(3, 2), state(3, 1), state(3, 2)),
        ] {
            assert_eq!(latest(seen, found), counts);
        }
    }
}
