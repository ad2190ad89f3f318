//! What commands ask a running node, and what it answers. These are also the objects that `--json` prints.

use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A path or file name, whatever its bytes: a JSON string where it is UTF-8, a list of its bytes where not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PathText(pub PathBuf);

impl From<&Path> for PathText {
    fn from(path: &Path) -> PathText {
        PathText(path.to_path_buf())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PathForm {
    Text(String),
    Bytes(Vec<u8>),
}

impl Serialize for PathText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => PathForm::Bytes(self.0.as_os_str().as_bytes().to_vec()).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for PathText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<PathText, D::Error> {
        Ok(PathText(match PathForm::deserialize(deserializer)? {
            PathForm::Text(text) => PathBuf::from(text),
            PathForm::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        }))
    }
}

/// What a command asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The health of the node. Answer: `Status`.
    Status,
    /// Peers that it has a link with. Answer: `Peers`.
    Peers,
    /// The reference of a file or directory of the own tree or under `ref/`. Answer: `Reference`.
    Ref {
        /// Absolute path inside the mount, or inside the data directory's tree.
        path: PathText,
    },
    /// Publish a file or directory that is not in the own tree. Answer: `Published`.
    Publish {
        /// Absolute path.
        path: PathText,
        /// Answer only when other nodes find it.
        wait: bool,
    },
    /// Copy what a reference points to into plain files. Answer: `Fetched`.
    Get {
        /// Text form.
        reference: String,
        /// Absolute path of the file or directory that it becomes.
        dest: PathText,
    },
    /// Fetch everything under a reference and keep it until unpinned. Answer: `Pinned`.
    Pin {
        /// Text form.
        reference: String,
    },
    /// No longer keep it. Answer: `Unpinned`.
    Unpin {
        /// Text form.
        reference: String,
    },
    /// Ask the swarm for the holders of every chunk. Answer: `Verified`.
    Verify {
        /// Text form of a read or verify reference.
        reference: String,
    },
    /// Why a path could not be read or is not published yet. Answer: `Why`.
    Why {
        /// Absolute path.
        path: PathText,
    },
    /// Unmount, write everything down and end. Answer: `Nothing`, before the process ends.
    Stop,
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Reply {
    /// How far it is; may be left out or thinned.
    Progress(Progress),
    /// The end, well.
    Done(Answer),
    /// The end, not well: what failed, why, and what to do.
    Failed(String),
}

/// How far a long request is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub struct Progress {
    /// What is being done: `reading`, `sealing`, `hosting`, `fetching`, `checking`.
    pub stage: String,
    /// Done so far, in `unit`.
    pub done: u64,
    /// Of how many; 0 when not known yet.
    pub total: u64,
    /// `bytes`, `chunks` or `copies`.
    pub unit: String,
}

/// The last line of an answer that went well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Answer {
    /// Nothing but that it is done.
    Nothing,
    /// To `Status`.
    Status(Box<Status>),
    /// To `Peers`.
    Peers(Vec<Peer>),
    /// To `Ref`.
    Reference(Reference),
    /// To `Publish`.
    Published(Published),
    /// To `Get`.
    Fetched(Fetched),
    /// To `Pin`.
    Pinned(Pinned),
    /// To `Unpin`.
    Unpinned(Unpinned),
    /// To `Verify`.
    Verified(Verified),
    /// To `Why`.
    Why(Why),
}

/// Health of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Process number.
    pub pid: u32,
    /// The node's name, 64 hexadecimal digits.
    pub peer: String,
    /// What other nodes bootstrap from.
    pub address: String,
    /// The UDP address it listens at.
    pub listen: String,
    /// Where its identity, tree and store are.
    pub data_dir: PathText,
    /// Where it is mounted, if it is.
    pub mountpoint: Option<PathText>,
    /// Seconds since it started.
    pub uptime: u64,
    /// Peers with an open link.
    pub peers_linked: u64,
    /// Peers known.
    pub peers_known: u64,
    /// Reference of the own tree as last published.
    pub tree: Option<String>,
    /// Changed paths of the own tree that are not published yet.
    pub staged: u64,
    /// Why they could not be published when that was tried last, or why the store takes no more.
    pub trouble: Option<String>,
    /// Bytes that are being sealed.
    pub publishing: Option<Work>,
    /// Chunk copies that peers hold for us, of those wanted.
    pub hosting: Work,
    /// Whether others hold everything published, as wanted, and nothing is staged.
    pub safe_to_shut_down: bool,
    /// Disk use.
    pub store: Store,
    /// Damaged slices that reading found and dropped.
    pub damaged: u64,
}

/// Done and in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Work {
    /// So far.
    pub done: u64,
    /// In all.
    pub total: u64,
}

/// Bytes on disk by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub struct Store {
    /// Own chunks.
    pub own_bytes: u64,
    /// Kept for others.
    pub hosted_bytes: u64,
    /// Given up when space is needed.
    pub cached_bytes: u64,
    /// Kept until unpinned.
    pub pinned_bytes: u64,
    /// The limit of cached and hosted together.
    pub limit_bytes: u64,
}

/// A peer with an open link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub struct Peer {
    /// Its name, 64 hexadecimal digits.
    pub peer: String,
    /// Where it is.
    pub address: String,
    /// Round trip, milliseconds.
    pub rtt_ms: f64,
    /// Bytes that we sent it.
    pub sent_bytes: u64,
    /// Bytes that it sent us.
    pub received_bytes: u64,
}

/// A reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Reference {
    /// Text form: whoever has it can read the tree.
    pub reference: String,
}

/// A publication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Published {
    /// Text form: whoever has it can read the tree.
    pub reference: String,
    /// How far it is, in words.
    pub state: String,
    /// Whether other nodes were found to hold enough of it to be read without this one; only with `wait`.
    pub readable_elsewhere: bool,
}

/// A tree copied to plain files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Fetched {
    /// What it became.
    pub dest: PathText,
    /// Bytes of its files, those that were here before included.
    pub bytes: u64,
}

/// A pinned tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pinned {
    /// Chunks kept.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A tree that is pinned no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Unpinned {
    /// Whether it was.
    pub was_pinned: bool,
}

/// The condition of a tree in the swarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Verified {
    /// Stripes and lone chunks of the tree.
    pub groups: u64,
    /// Those of which every chunk was found.
    pub whole: u64,
    /// Those of which enough chunks were found to read them, though not all.
    pub weak: u64,
    /// Those that cannot be read from the swarm now.
    pub lost: u64,
    /// Chunks looked for.
    pub chunks: u64,
    /// Chunks found on other nodes.
    pub found: u64,
    /// Nodes that hold any of them.
    pub peers: u64,
}

/// An explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Why {
    /// The state in a word or two, as in `user.tornet.state`.
    pub state: String,
    /// What happened, why, and what to do; several lines.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_path_comes_back_whatever_its_bytes(bytes in proptest::collection::vec(1u8.., 0..40)) {
            let path = PathText(PathBuf::from(OsString::from_vec(bytes)));
            let request = Request::Ref { path };
            let text = serde_json::to_string(&request).unwrap();
            prop_assert!(!text.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        }

        #[test]
        fn any_line_is_read_or_refused(text in "\\PC{0,60}") {
            let _ = serde_json::from_str::<Request>(&text);
        }
    }

    #[test]
    fn the_lines_are_as_written_down() {
        let line = |request: &Request| serde_json::to_string(request).unwrap();
        assert_eq!(line(&Request::Status), r#""status""#);
        assert_eq!(
            line(&Request::Publish { path: PathText("/a b".into()), wait: true }),
            r#"{"publish":{"path":"/a b","wait":true}}"#
        );
        assert_eq!(serde_json::to_string(&Reply::Done(Answer::Nothing)).unwrap(), r#"{"done":"nothing"}"#);
        assert!(serde_json::from_str::<Request>(r#"{"pin":{"reference":"x","more":1}}"#).is_err());
    }
}
