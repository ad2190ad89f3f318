//! Hosting jobs: what a pass sealed is spread over peers, and how far that is outlives the engine.

use super::{PublishState, Writer};
use crate::base::sync::lock;
use crate::engine::keep;
use crate::engine::record::{self, JobRecord};
use crate::engine::status::Work;
use crate::node::effect::Progress;
use crate::node::input::{Group, JobId};
use crate::store::StoreError;
use std::collections::BTreeMap;
use tokio::sync::watch;
use tracing::warn;

impl Writer {
    /// Starts a hosting job and writes its progress down until it is done.
    pub(super) fn follow(&self, job: u64, groups: Vec<Group>) -> watch::Receiver<Progress> {
        let receiver = self.inner.swarm.publish(JobId(job), groups, self.inner.keeping.lease());
        lock(&self.inner.jobs).insert(job, receiver.clone());
        let (writer, mut changes) = (self.clone(), receiver.clone());
        tokio::spawn(async move {
            let mut written = JobRecord::default();
            while changes.changed().await.is_ok() {
                let progress = *changes.borrow_and_update();
                // On one peer is not on as many as wanted: it goes on spreading over those who come.
                let spread = progress.hosts_min >= progress.hosts_wanted;
                let done = progress.wanted > 0 && progress.hosted >= progress.wanted && spread;
                let now = JobRecord { hosts: progress.hosts_min, wanted: progress.hosts_wanted, done };
                if now != written {
                    written = now;
                    let this = writer.clone();
                    let saved = tokio::task::spawn_blocking(move || this.save_job(job, now)).await;
                    if let Ok(Err(error)) = saved {
                        warn!(%error, job, "progress of hosting not written down");
                    }
                }
                if done {
                    lock(&writer.inner.known).insert(job, now);
                    lock(&writer.inner.jobs).remove(&job);
                    writer.inner.swarm.unpublish(JobId(job));
                    writer.inner.idle.notify_waiters();
                    return;
                }
            }
        });
        receiver
    }

    fn save_job(&self, job: u64, now: JobRecord) -> Result<(), StoreError> {
        // From its end on the state is read from these.
        self.inner.keeping.write_confirmed();
        let store = &self.inner.store;
        let finished = if now.done {
            store.state().range(record::PENDING, &job.to_be_bytes(), None, usize::MAX)?
        } else {
            Vec::new()
        };
        store.state().write(false, |tx| {
            tx.put(record::JOBS, &job.to_be_bytes(), &now.to_bytes())?;
            for (key, _) in &finished {
                tx.delete(record::PENDING, key)?;
            }
            Ok(())
        })
    }

    /// Groups that wait for hosts, of the jobs whose numbers begin so.
    pub(super) fn pending(&self, prefix: &[u8]) -> BTreeMap<u64, Vec<Group>> {
        let mut jobs: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        match self.inner.store.state().range(record::PENDING, prefix, None, usize::MAX) {
            Ok(records) => {
                for (key, value) in records {
                    if let (Some(job), Ok(group)) = (record::pending_job(&key), record::group_from_bytes(&value)) {
                        jobs.entry(job).or_default().push(group);
                    }
                }
            }
            Err(error) => warn!(%error, "unfinished hosting could not be read"),
        }
        jobs
    }

    /// The state of what a pass sealed: of its own groups and of those that earlier passes had handed to their jobs.
    pub(super) fn job_state(&self, job: u64) -> PublishState {
        let earlier = self.inner.store.state().value(record::EARLIER, &record::job_to_bytes(job)).ok().flatten();
        let earlier = earlier.unwrap_or_default();
        let jobs = std::iter::once(job).chain(record::jobs_from_bytes(&earlier));
        match jobs.filter_map(|job| self.hosts(job)).min_by_key(|hosts| keep::share(*hosts)) {
            None | Some((0, _)) => PublishState::Stored,
            Some((hosts, wanted)) => PublishState::Hosted { hosts, wanted },
        }
    }

    /// Distinct hosts of a job's worst group and how many it should have; `None` when the job has no groups.
    fn hosts(&self, job: u64) -> Option<(u16, u16)> {
        let progress = lock(&self.inner.jobs).get(&job).map(|progress| *progress.borrow());
        let placed = progress.map(|progress| (progress.hosts_min, progress.hosts_wanted));
        // Who confirmed may be gone before the last one does.
        let found = [placed, self.inner.keeping.job(job)].into_iter().flatten().min_by_key(|hosts| keep::share(*hosts));
        if found.is_some() {
            return found;
        }
        let known = lock(&self.inner.known).get(&job).copied();
        let record = match known {
            Some(record) => record,
            None => {
                let bytes = self.inner.store.state().value(record::JOBS, &record::job_to_bytes(job)).ok()??;
                let found = JobRecord::from_bytes(&bytes).ok()?;
                lock(&self.inner.known).insert(job, found);
                found
            }
        };
        Some((record.hosts, record.wanted))
    }

    /// Copies hosted, of those wanted, over all unfinished jobs.
    pub(in crate::engine) fn hosting(&self) -> Work {
        let jobs = lock(&self.inner.jobs);
        let mut work = Work::default();
        for progress in jobs.values() {
            let progress = *progress.borrow();
            work.done += progress.hosted;
            work.total += progress.wanted;
        }
        work
    }
}
