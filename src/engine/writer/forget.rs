//! When the collector runs, and what becomes of jobs whose chunks it forgot.

use super::Writer;
use crate::base::sync::lock;
use crate::engine::collect::Collector;
use crate::engine::mark::MarkError;
use crate::node::input::JobId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, warn};

/// Forgotten chunks are looked for so long after the tree moved on, or as many times as long as the last look took.
const COLLECT_PAUSE: Duration = Duration::from_secs(2);
const COLLECT_SHARE: u32 = 20;
/// After so many looks that a pass interrupted, passes wait for one.
const COLLECT_TRIES: u32 = 5;
/// A job with forgotten groups that gets no further for so long begins anew without them.
const TRIM_PAUSE: Duration = Duration::from_secs(60);

impl Writer {
    /// Forgets chunks of trees that moved on, some time after each move, until the engine stops.
    pub(in crate::engine) async fn collect(self) {
        let (store, gate, tree) = (self.inner.store.clone(), self.inner.gate.clone(), self.inner.tree.clone());
        let collector = Arc::new(Collector { store, gate, tree });
        let mut stopping = self.inner.stopping.subscribe();
        let (mut took, mut tries, mut due) = (Duration::ZERO, 0, false);
        // Jobs with forgotten groups, and how far they were when last looked at.
        let mut trimmed: BTreeMap<u64, u64> = BTreeMap::new();
        loop {
            while !due {
                tokio::select! {
                    () = self.inner.moved.notified() => due = true,
                    () = tokio::time::sleep(TRIM_PAUSE), if !trimmed.is_empty() => {
                        trimmed.retain(|job, hosted| self.trim(*job, hosted));
                    }
                    _ = stopping.wait_for(|stopping| *stopping) => return,
                }
            }
            tokio::select! {
                () = tokio::time::sleep(COLLECT_PAUSE.max(took * COLLECT_SHARE)) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            let (this, writer, patient) = (collector.clone(), self.clone(), tries < COLLECT_TRIES);
            let started = Instant::now();
            let work = move || this.run(patient, &|| !writer.stopping());
            let Ok(result) = tokio::task::spawn_blocking(work).await else { return };
            took = started.elapsed();
            due = matches!(result, Ok(None));
            tries = if due { tries + 1 } else { 0 };
            match result {
                Ok(Some(collected)) => {
                    debug!(chunks = collected.chunks, ms = took.as_millis(), "forgotten chunks are cached from now on");
                    for job in collected.jobs {
                        let mut hosted = u64::MAX;
                        if !trimmed.contains_key(&job) && self.trim(job, &mut hosted) {
                            trimmed.insert(job, hosted);
                        }
                    }
                }
                Ok(None) => {}
                Err(MarkError::Stopped) => return,
                Err(error) => warn!(%error, "chunks of former trees are kept for now"),
            }
        }
    }

    /// Some of a job's groups need no hosts any more. A job without any other ends; one that got no further than `hosted` goes on
    /// with the others alone, which then begin anew. Tells whether to look at it again.
    fn trim(&self, job: u64, hosted: &mut u64) -> bool {
        let Some(now) = lock(&self.inner.jobs).get(&job).map(|progress| progress.borrow().hosted) else { return false };
        let rest = self.pending(&job.to_be_bytes()).remove(&job).unwrap_or_default();
        if rest.is_empty() {
            lock(&self.inner.jobs).remove(&job);
            self.inner.swarm.unpublish(JobId(job));
            return false;
        }
        if now == *hosted {
            self.follow(job, rest);
            return false;
        }
        *hosted = now;
        true
    }
}
