//! What commands ask a running node, and what it answers. These are also the objects that `--json` prints.

use super::wallet::{WalletAnswer, WalletRequest};
use serde::{Deserialize, Serialize};

pub use crate::base::path::PathText;
pub use crate::engine::{
    AllowanceStatus, AuditEntry, BalanceStatus, MarketStatus, NameStatus, PaymentStatus, PeerStatus, RentStatus,
    Status, StoreStatus, UploadStatus, Work,
};

/// What a command asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The health of the node. Answer: `Status`.
    Status,
    /// Peers that it has a link with. Answer: `Peers`.
    Peers,
    /// What it and its peers owe each other. Answer: `Balances`.
    Balances,
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
    /// Have other nodes prove that they hold every chunk. Answer: `Verified`.
    Verify {
        /// Text form of a read or verify reference.
        reference: String,
    },
    /// The same, and make what is missing of the rest, and have it hosted. Answer: `Verified`, how it is then.
    Repair {
        /// Text form of a read or verify reference.
        reference: String,
    },
    /// Why a path could not be read or is not published yet. Answer: `Why`.
    Why {
        /// Absolute path.
        path: PathText,
    },
    /// Pay a peer. Answer: `Paid`.
    Pay {
        /// Whom: its name, or the first digits of it.
        peer: String,
        /// How much; left out, what is owed.
        amount_sat: Option<u64>,
    },
    /// Allow payments beyond the limits, once, to peers that refuse a read of a tree. Answer: `Allowed`.
    Allow {
        /// Text form.
        reference: String,
        /// How much, fees included.
        amount_sat: u64,
    },
    /// Payments of this node. Answer: `Payments`.
    Payments,
    /// The audit log from an entry on. Answer: `Audit`, empty at its end.
    Audit {
        /// Number of the first entry.
        from: u64,
    },
    /// Something of mutable names. Answer: `Names`.
    Name(NameRequest),
    /// Something of the wallet. Answer: `Wallet`.
    Wallet(WalletRequest),
    /// Mount the node in one more place. Answer: `Mounted`.
    Mount {
        /// Absolute path of the mount point.
        path: PathText,
        /// Lists of mount options, as `-o` takes them.
        options: Vec<String>,
    },
    /// The settings in force. Answer: `Settings`.
    Settings,
    /// Unmount, write everything down and end. Answer: `Nothing`, before the process ends.
    Stop,
}

/// What is asked of mutable names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum NameRequest {
    /// Make one that stands for a path of the own tree.
    Create {
        /// Its name.
        name: String,
        /// Absolute path inside the mount, or inside the data directory's tree; left out: the own tree.
        path: Option<PathText>,
    },
    /// Follow somebody's under a name of one's own.
    Follow {
        /// The name.
        name: String,
        /// Text form.
        reference: String,
    },
    /// Forget one.
    Remove {
        /// Its name.
        name: String,
    },
    /// What there is.
    List,
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
    Peers(Vec<PeerStatus>),
    /// To `Balances`.
    Balances(Vec<BalanceStatus>),
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
    /// To `Verify` and `Repair`.
    Verified(Verified),
    /// To `Why`.
    Why(Why),
    /// To `Pay`.
    Paid(Paid),
    /// To `Allow`.
    Allowed(Allowed),
    /// To `Payments`.
    Payments(Vec<PaymentStatus>),
    /// To `Audit`.
    Audit(Vec<AuditEntry>),
    /// To `Name`: all names as they are then.
    Names(Vec<NameStatus>),
    /// To `Wallet`.
    Wallet(WalletAnswer),
    /// To `Mount`.
    Mounted {
        /// The mount point in full; none if the node is ending and mounts nothing any more.
        path: Option<PathText>,
    },
    /// To `Settings`.
    Settings(Vec<Setting>),
}

/// A setting in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Setting {
    /// Its name, as in `storage.cache`.
    pub key: String,
    /// Its value as text.
    pub value: String,
    /// Who set it.
    pub source: String,
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
    /// Whether other nodes were found to hold enough of it to be read without this one; `None`: none were asked, as without `wait`.
    pub readable_elsewhere: Option<bool>,
}

/// A tree copied to plain files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Fetched {
    /// What it became.
    pub dest: PathText,
    /// Bytes of its files, those that were here before included.
    pub bytes: u64,
    /// What of the tree could not be fetched, as far as it fits in an answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
    /// How much that is in all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missing_count: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A part of a tree that could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Missing {
    /// Where it lies in the tree.
    pub path: PathText,
    /// Why.
    pub error: String,
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
    /// Chunks that a repair gave to new hosts.
    pub repaired: u64,
}

/// A payment that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Paid {
    /// Its name.
    pub payment: String,
}

/// What was allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Allowed {
    /// The id of the tree's root.
    pub tree: String,
    /// So many peers are kept from being paid by a limit now.
    pub peers: usize,
    /// So much.
    pub amount_sat: u64,
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
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::path::PathBuf;

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
