//! What the map's callers, its leases, its writer and its scan have in common.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering},
};

use dashmap::{DashMap, Entry as Slot};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::{
    DedupError, StoredCopy,
    claim::Entry,
    filter::Filter,
    store::{Key, Store},
    writer::{Job, Progress, Queue},
};
use crate::metrics::{IntCounter, IntGauge, Metrics};

pub(super) struct Shared {
    pub(super) entries: DashMap<Key, Entry>,
    pub(super) store: Store,
    pub(super) queue: Queue,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) cached_entries_max: usize,
    pub(super) filter: Filter,
    /// The filter knows every key on disk.
    filter_complete: AtomicBool,
    targets: RwLock<HashMap<String, u32>>,
    highest_target: AtomicU32,
    /// What is on disk, here or of an earlier map, is not all known.
    has_lost: AtomicBool,
    closing: AtomicBool,
    count: AtomicI64,
    entries_gauge: IntGauge,
    pub(super) lookups: Lookups,
}

pub(super) struct Lookups {
    pub(super) new: IntCounter,
    pub(super) busy: IntCounter,
    pub(super) stored: IntCounter,
    unreadable: IntCounter,
}

impl Shared {
    pub(super) fn new(
        store: Store,
        cached_entries_max: usize,
        metrics: &Metrics,
    ) -> Result<Self, DedupError> {
        let on_disk = store.entries_about();
        let targets = store.targets()?;
        let lookups = |result| metrics.dedup_lookups_total.with_label_values(&[result]);
        Ok(Self {
            entries: DashMap::new(),
            queue: Queue::default(),
            progress: watch::Sender::new(Progress { done: 0, sound: 0 }),
            cached_entries_max,
            filter: Filter::sized(on_disk + on_disk / 4),
            filter_complete: AtomicBool::new(on_disk == 0),
            highest_target: AtomicU32::new(targets.values().copied().max().unwrap_or(0)),
            targets: RwLock::new(targets),
            has_lost: AtomicBool::new(store.has_lost()),
            closing: AtomicBool::new(false),
            count: AtomicI64::new(0),
            entries_gauge: metrics.dedup_entries.clone(),
            lookups: Lookups {
                new: lookups("new"),
                busy: lookups("busy"),
                stored: lookups("stored"),
                unreadable: lookups("unreadable"),
            },
            store,
        })
    }

    /// The copy that the database holds; one that cannot be read counts as absent.
    pub(super) fn on_disk(&self, key: &Key) -> Option<StoredCopy> {
        if self.scanned() && !self.filter.may_contain(key.digest()) {
            return None;
        }
        self.store.copy(key).unwrap_or_else(|error| {
            self.lookups.unreadable.inc();
            self.has_lost.store(true, Ordering::Relaxed);
            tracing::warn!(%error, "an entry of the dedup map counts as absent");
            None
        })
    }

    /// The writer has taken an entry off the disk.
    pub(super) fn removed(&self, key: Key) {
        if let Slot::Occupied(mut occupied) = self.entries.entry(key) {
            match occupied.get_mut() {
                Entry::Removing => drop(occupied.remove()),
                Entry::Claimed { removing, .. } => *removing = false,
                Entry::Stored { .. } => {}
            }
        }
    }

    pub(super) fn known_target(&self, target: &str) -> Option<u32> {
        self.targets.read().get(target).copied()
    }

    /// The number under which a target's copies lie; a new target gets the next one.
    pub(super) fn target_number(&self, target: &str) -> u32 {
        if let Some(number) = self.known_target(target) {
            return number;
        }
        let mut targets = self.targets.write();
        match targets.get(target) {
            Some(number) => *number,
            None => self.number_target(&mut targets, target),
        }
    }

    /// Gives a known target another number; answers the one that it had.
    pub(super) fn renumber(&self, target: &str) -> Option<u32> {
        let mut targets = self.targets.write();
        let old = targets.get(target).copied()?;
        self.number_target(&mut targets, target);
        Some(old)
    }

    fn number_target(&self, targets: &mut HashMap<String, u32>, target: &str) -> u32 {
        let number = self.highest_target.fetch_add(1, Ordering::Relaxed) + 1;
        targets.insert(target.to_owned(), number);
        self.queue.push(Job::Target(target.to_owned(), number));
        number
    }

    /// Reads every key once. Those of a target number that no target has are what a crash left of `forget`.
    pub(super) fn fill_filter(&self, keys: impl Iterator<Item = Result<Key, DedupError>>) {
        let mut last = None;
        let mut orphaned = Vec::new();
        for key in keys {
            if self.closing.load(Ordering::Relaxed) {
                return;
            }
            let key = match key {
                Ok(key) => key,
                Err(error) => {
                    // Every look-up goes on reading, and the disk answers for the parts that can be read.
                    tracing::error!(
                        %error,
                        "the dedup map cannot be read whole: messages may be sent again; it works on, more slowly"
                    );
                    return;
                }
            };
            if last != Some(key.target()) {
                last = Some(key.target());
                if !self.targets.read().values().any(|n| *n == key.target()) {
                    orphaned.push(key.target());
                }
            }
            self.filter.insert(key.digest());
            self.count_entries(1);
        }
        self.filter_complete.store(true, Ordering::Release);
        self.publish_entries();
        for number in orphaned {
            self.queue.push(Job::Forget(number));
        }
    }

    pub(super) fn count_entries(&self, change: i64) {
        self.count.fetch_add(change, Ordering::Relaxed);
    }

    pub(super) fn entries(&self) -> u64 {
        self.count.load(Ordering::Relaxed).max(0) as u64
    }

    pub(super) fn publish_entries(&self) {
        self.entries_gauge.set(self.entries() as i64);
    }

    pub(super) fn has_lost(&self) -> bool {
        self.has_lost.load(Ordering::Relaxed)
    }

    pub(super) fn scanned(&self) -> bool {
        self.filter_complete.load(Ordering::Acquire)
    }

    /// Ends the scan and, once its queue is empty, the writer.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.queue.close();
    }
}
