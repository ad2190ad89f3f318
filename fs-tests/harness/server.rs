//! Servers of chain data that know transactions by address, whatever their kind: what tests want of them, and how they lie.

use super::bitcoin::Bitcoin;
use bdk_wallet::bitcoin::block::Header;
use bdk_wallet::bitcoin::{BlockHash, Transaction, Txid};
use std::sync::{Arc, Mutex};
use tornet::chain::Backend;

/// A server of one kind.
pub trait Server: Sized {
    /// How the wallet calls it.
    const KIND: &'static str;
    /// The one beside a node, started when it is asked for first.
    fn beside(node: &Bitcoin) -> &Self;
    /// The same, once it was started.
    fn beside_mut(node: &mut Bitcoin) -> &mut Self;
    /// Where it is.
    fn url(&self) -> String;
    /// Ends it.
    fn stop(&mut self);
    /// Starts it again where it was stopped.
    fn go_on(&mut self);
    /// Another way to it, which lies when it is told to.
    fn liar(&self) -> Liar;
    /// One of this kind at an address, as a wallet is told of it.
    fn backend(url: String) -> Backend;

    /// The one beside a node, as a wallet is told of it.
    fn source(node: &Bitcoin) -> Backend {
        Self::backend(Self::beside(node).url())
    }
}

/// What a lie does to the truth.
type Change<T> = Box<dyn FnMut(&mut T) + Send>;

/// What is said falsely.
pub enum Lie {
    /// Headers by their heights.
    Headers(Change<Vec<Header>>),
    /// The hashes of a proof.
    Proofs(Change<Vec<String>>),
    /// The text of a transaction.
    Transactions(Change<Transaction>),
    /// Which transactions use a script, and the heights of their blocks.
    Histories(Change<Vec<(Txid, u32)>>),
}

/// The lie that is told at present.
pub type Present = Arc<Mutex<Option<Lie>>>;

/// A server that lies, honest at first.
pub struct Liar {
    /// Where it is.
    pub url: String,
    pub(super) present: Present,
}

impl Liar {
    /// Lies from now on.
    pub fn lie(&self, lie: Lie) {
        *self.present.lock().unwrap() = Some(lie);
    }

    /// Lies about the block that follows this one.
    pub fn forge(&self, parent: BlockHash, mut change: impl FnMut(&mut Header) + Send + 'static) {
        self.lie(Lie::Headers(Box::new(move |headers| {
            headers.iter_mut().filter(|header| header.prev_blockhash == parent).for_each(&mut change);
        })));
    }

    /// Tells the truth again.
    pub fn repent(&self) {
        *self.present.lock().unwrap() = None;
    }
}
