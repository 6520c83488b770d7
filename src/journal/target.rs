//! One target's lists: which captures are out of turn, and why. Everything else it walks in the order of the log.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use tokio::{sync::Notify, time::Instant};

use super::{format::Location, index::START};

/// A capture's failed attempts at this target since start.
#[derive(Clone, Debug)]
pub(super) struct Tried {
    pub(super) attempts: u32,
    pub(super) why: Arc<str>,
    /// When it is to be tried again, while it is postponed.
    pub(super) due: Option<Instant>,
}

pub(super) struct Target {
    pub(super) name: String,
    /// Tells this target from an earlier one of the same name or slot.
    pub(super) generation: u64,
    /// Everything before it has been handed out, is on a list below, or is not available yet.
    pub(super) cursor: Location,
    /// Available again, or only now, behind the cursor's back.
    pub(super) ready: BTreeSet<Location>,
    pub(super) postponed: BTreeSet<(Instant, Location)>,
    pub(super) leased: HashSet<Location>,
    pub(super) tried: HashMap<Location, Tried>,
    pub(super) parked: BTreeMap<Location, Arc<str>>,
    /// Captures to be forwarded: neither done, nor parked, nor held.
    pub(super) waiting: u64,
    pub(super) held: u64,
    /// Where to begin to look for the oldest: no segment of a lower ordinal has one that waits.
    pub(super) oldest_from: u32,
    pub(super) notify: Arc<Notify>,
}

impl Target {
    pub(super) fn new(name: String, generation: u64) -> Self {
        Self {
            name,
            generation,
            cursor: START,
            ready: BTreeSet::new(),
            postponed: BTreeSet::new(),
            leased: HashSet::new(),
            tried: HashMap::new(),
            parked: BTreeMap::new(),
            waiting: 0,
            held: 0,
            oldest_from: 0,
            notify: Arc::new(Notify::new()),
        }
    }

    /// Takes the capture off every list.
    pub(super) fn forget(&mut self, of: Location) {
        self.ready.remove(&of);
        self.leased.remove(&of);
        self.parked.remove(&of);
        if let Some(due) = self.tried.remove(&of).and_then(|tried| tried.due) {
            self.postponed.remove(&(due, of));
        }
    }

    /// One more attempt failed; the next is due then.
    pub(super) fn postpone(&mut self, of: Location, due: Instant, why: &str) {
        let tried = self.tried.entry(of).or_insert_with(|| Tried {
            attempts: 0,
            why: why.into(),
            due: None,
        });
        tried.attempts += 1;
        tried.due = Some(due);
        if *tried.why != *why {
            tried.why = why.into();
        }
        self.postponed.insert((due, of));
    }

    /// The capture has gone from one place in the log to another, and its attempts with it. Is it postponed?
    pub(super) fn follow(&mut self, from: Location, to: Location) -> bool {
        let tried = self.tried.remove(&from);
        self.forget(from);
        let Some(tried) = tried else { return false };
        let due = tried.due;
        self.tried.insert(to, tried);
        if let Some(due) = due {
            self.postponed.remove(&(due, from));
            self.postponed.insert((due, to));
        }
        due.is_some()
    }

    /// Moves what has come due to `ready`; when the next one will.
    pub(super) fn wake_due(&mut self, now: Instant) -> Option<Instant> {
        while let Some((due, of)) = self.postponed.first().copied() {
            if due > now {
                return Some(due);
            }
            self.postponed.pop_first();
            if let Some(tried) = self.tried.get_mut(&of) {
                tried.due = None;
            }
            self.ready.insert(of);
        }
        None
    }
}
