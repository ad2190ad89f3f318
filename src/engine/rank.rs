//! Looks for proof of work in the background, within its part of one processor, once it is of use.

use super::swarm::Swarm;
use crate::base::peer::PeerId;
use crate::ledger::rank::{Puzzle, rank};
use crate::node::input::Command;
use crate::store::{Store, StoreError, Table};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tracing::{info, warn};

const TABLE: Table = Table("rank.1");
const KEY: &[u8] = b"nonce";
/// Further steps would take hours of a processor.
const RANK_ENOUGH: u8 = 8;
/// Nonces tried between two looks at the clock: about a millisecond.
const BATCH: u64 = 5_000;
/// The longest pause: as long a stopping node may have to wait.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The nonce found by an earlier run for this identity; 0: none.
pub(super) fn recall(store: &Store, peer: &PeerId) -> u64 {
    let bytes = store.state().value(TABLE, KEY).ok().flatten().unwrap_or_default();
    let nonce = bytes.try_into().map_or(0, u64::from_le_bytes);
    // The data directory may have been given another identity.
    if rank(peer, nonce) > 0 { nonce } else { 0 }
}

/// The search that may begin.
pub(super) struct Search {
    pub(super) store: Arc<Store>,
    pub(super) swarm: Swarm,
    pub(super) peer: PeerId,
    /// Part of one processor that it may take, in percent; 0: there is none.
    pub(super) percent: u8,
    pub(super) begun: AtomicBool,
}

impl Search {
    /// Carries out `Effect::Rank`: searches on a thread of its own for more than the rank that there is, until enough is found or the
    /// engine stops.
    pub(super) fn begin(self: &Arc<Self>, rank: u8) {
        if self.percent == 0 || rank >= RANK_ENOUGH || self.begun.swap(true, Ordering::Relaxed) {
            return;
        }
        let this = self.clone();
        let work = move || run(&this.store, &this.swarm, &this.peer, rank, u32::from(this.percent.min(100)));
        if let Err(error) = std::thread::Builder::new().name("rank".to_string()).spawn(work) {
            warn!(%error, "no rank is looked for");
        }
    }
}

fn run(store: &Store, swarm: &Swarm, peer: &PeerId, mut best: u8, percent: u32) {
    let puzzle = Puzzle::of(peer);
    let mut start = [0; 8];
    if getrandom::fill(&mut start).is_err() {
        return;
    }
    let mut next = u64::from_le_bytes(start);
    while best < RANK_ENOUGH && !swarm.events.is_closed() {
        let began = Instant::now();
        let found = puzzle.better(next, BATCH, best).filter(|(nonce, _)| *nonce != 0);
        next = next.wrapping_add(BATCH);
        if let Some((nonce, rank)) = found {
            best = rank;
            let kept: Result<(), StoreError> =
                store.state().write(false, |tx| tx.put(TABLE, KEY, &nonce.to_le_bytes()));
            if let Err(error) = kept {
                warn!(%error, "the rank found is not kept");
            }
            info!(rank, "rank found");
            swarm.command(Command::Rank(nonce));
        }
        let pause = began.elapsed() * (100 - percent) / percent;
        std::thread::sleep(pause.min(PAUSE_MAX));
    }
}
