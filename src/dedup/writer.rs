//! The one writer of the map on disk: takes what has gathered, writes it as one synced batch, tells who waits.
//!
//! While a batch syncs the next one gathers, so the rate of syncs adapts to the disk by itself. A crash loses at most the
//! batch under way and the one that gathers: their copies are at the target, so they are sent again and recognised;
//! who awaits [`Durable`](super::Durable) before it settles loses none. When the disk fails, the writer gives up for good
//! (after a failed sync nobody knows what is on disk), says so loudly, and the map lives in memory until a restart.

use std::{collections::VecDeque, mem};

use parking_lot::{Condvar, Mutex};

use super::{
    claim::Entry,
    shared::Shared,
    store::{Change, Key},
};

/// Copies that may wait for the writer; beyond, they are refused: a stalled disk must not fill the memory.
const WAITING_MAX: usize = 64 * 1024;

/// Removals in one batch of `forget`: bounded memory.
const FORGET_BATCH: usize = 4096;

pub(super) enum Job {
    Put(Key, Vec<u8>),
    Remove(Key),
    /// A target's number, new or changed.
    Target(String, u32),
    /// All copies of a target number.
    Forget(u32),
}

#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: Vec<Job>,
    /// Jobs ever taken in.
    serial: u64,
    closing: bool,
}

/// How far the writer has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// Jobs up to this serial are done, well or badly.
    pub(super) done: u64,
    /// Jobs beyond this serial were not written.
    pub(super) sound: u64,
}

impl Queue {
    /// An operator's job, or the correction of an error: rare, and never refused.
    pub(super) fn push(&self, job: Job) {
        self.waiting.lock().push(job);
        self.changed.notify_one();
    }

    /// The job's serial; `None` where too many wait.
    pub(super) fn push_put(&self, key: Key, value: Vec<u8>) -> Option<u64> {
        let mut waiting = self.waiting.lock();
        if waiting.jobs.len() >= WAITING_MAX {
            return None;
        }
        let serial = waiting.push(Job::Put(key, value));
        drop(waiting);
        self.changed.notify_one();
        Some(serial)
    }

    /// The serial of the last job.
    pub(super) fn serial(&self) -> u64 {
        self.waiting.lock().serial
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closing = true;
        self.changed.notify_one();
    }

    /// What has gathered, and the serial of its last job; `None` once closed and empty.
    fn take(&self) -> Option<(Vec<Job>, u64)> {
        let mut waiting = self.waiting.lock();
        while waiting.jobs.is_empty() {
            if waiting.closing {
                return None;
            }
            self.changed.wait(&mut waiting);
        }
        Some((mem::take(&mut waiting.jobs), waiting.serial))
    }
}

impl Waiting {
    fn push(&mut self, job: Job) -> u64 {
        self.jobs.push(job);
        self.serial += 1;
        self.serial
    }
}

/// Runs on a thread of its own until the queue closes.
pub(super) fn run(shared: &Shared) {
    // In order of arrival: the oldest leaves memory first.
    let mut cached = VecDeque::new();
    let mut sound = true;
    while let Some((jobs, serial)) = shared.queue.take() {
        let put: Vec<Key> = jobs
            .iter()
            .filter_map(|job| match job {
                Job::Put(key, _) => Some(*key),
                _ => None,
            })
            .collect();
        let removed: Vec<Key> = jobs
            .iter()
            .filter_map(|job| match job {
                Job::Remove(key) => Some(*key),
                _ => None,
            })
            .collect();
        if sound && let Err(error) = write(shared, jobs) {
            sound = false;
            tracing::error!(%error, "the dedup map is kept in memory only until a restart");
        }
        if sound {
            removed.into_iter().for_each(|key| shared.removed(key));
        }
        keep_bounded(shared, &mut cached, put);
        shared.publish_entries();
        shared.progress.send_modify(|progress| {
            progress.done = serial;
            if sound {
                progress.sound = serial;
            }
        });
    }
}

fn write(shared: &Shared, jobs: Vec<Job>) -> Result<(), super::DedupError> {
    let mut changes = Vec::with_capacity(jobs.len());
    for job in jobs {
        match job {
            Job::Put(key, value) => changes.push(Change::Put(key, value)),
            Job::Target(name, number) => changes.push(Change::Target(name, number)),
            Job::Remove(key) => {
                // The batch so far first: it may hold the entry.
                shared.store.write(mem::take(&mut changes))?;
                if shared.store.contains(&key) {
                    shared.count_entries(-1);
                    changes.push(Change::Remove(key));
                }
            }
            Job::Forget(number) => {
                shared.store.write(mem::take(&mut changes))?;
                forget(shared, number)?;
            }
        }
    }
    shared.store.write(changes)
}

fn forget(shared: &Shared, number: u32) -> Result<(), super::DedupError> {
    let mut batch = Vec::with_capacity(FORGET_BATCH);
    for key in shared.store.keys_of(number) {
        batch.push(Change::Remove(key));
        shared.count_entries(-1);
        if batch.len() == FORGET_BATCH {
            shared.store.write(mem::take(&mut batch))?;
        }
    }
    shared.store.write(batch)
}

/// Entries that are on disk may leave memory; the oldest do.
fn keep_bounded(shared: &Shared, cached: &mut VecDeque<Key>, put: Vec<Key>) {
    for key in put {
        if let Some(mut entry) = shared.entries.get_mut(&key)
            && let Entry::Stored { written, .. } = entry.value_mut()
        {
            *written = true;
            cached.push_back(key);
        }
    }
    while cached.len() > shared.cached_entries_max {
        if let Some(key) = cached.pop_front() {
            shared.entries.remove_if(&key, |_, entry| {
                matches!(entry, Entry::Stored { written: true, .. })
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dedup::samples::k2;

    #[test]
    fn a_stalled_disk_does_not_fill_the_memory() {
        let queue = Queue::default();
        let put = |n: usize| queue.push_put(Key::new(1, &k2(n as u64)), Vec::new());
        assert!((1..=WAITING_MAX).all(|n| put(n) == Some(n as u64)));
        assert_eq!(put(0), None);
        queue.push(Job::Forget(1));
        let (jobs, serial) = queue.take().unwrap();
        assert_eq!(
            (jobs.len(), serial),
            (WAITING_MAX + 1, WAITING_MAX as u64 + 1)
        );
        assert_eq!(put(0), Some(serial + 1));
        queue.close();
        assert!(queue.take().is_some(), "what was taken in is written");
        assert!(queue.take().is_none());
    }
}
