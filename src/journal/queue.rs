//! The way out: a target's queue hands out leases, and a lease is settled, postponed, or goes back.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

use super::{
    Outcome,
    format::{Location, Record},
    reader::{self, ReadError},
    shared::{Change, Op, Shared},
};
use crate::message::{Acceptance, Body, Sighting, UnixMillis};

/// One target's view of the journal.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
    target: String,
}

/// Is the content of a capture with this sighting wanted? Asked of long ones alone.
pub type Wants = Arc<dyn Fn(&Sighting) -> bool + Send + Sync>;

/// What was leased at once.
#[derive(Default)]
pub struct Batch {
    pub leases: Vec<Lease>,
    /// It ends where it does because of the limits: more may wait.
    pub is_full: bool,
}

struct Taken {
    claimed: Vec<Claimed>,
    is_full: bool,
    /// When a postponed one is due.
    due: Option<Instant>,
}

/// A disk that cannot be read now is asked again after this time.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(10);

impl Queue {
    pub(super) fn new(shared: Arc<Shared>, target: String) -> Self {
        Self { shared, target }
    }

    /// The oldest captures that wait, at most `count` and about `bytes`; waits until there is one. Empty only when the
    /// journal was closed or the target removed.
    pub async fn lease(&self, count: usize, bytes: u64) -> Vec<Lease> {
        let wants = Arc::new(|_: &Sighting| true);
        self.lease_batch(count, bytes, wants).await.leases
    }

    /// The same, with word of whether the batch is full, and without the content that nobody wants.
    pub async fn lease_batch(&self, count: usize, bytes: u64, wants: Wants) -> Batch {
        loop {
            let Some(notify) = self.notify() else {
                return Batch::default();
            };
            // Armed before the look, so that what comes in between is not missed.
            let woken = notify.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let Some(taken) = self.take(count, bytes) else {
                return Batch::default();
            };
            if !taken.claimed.is_empty() {
                let wants = wants.clone();
                let lease = move |claimed| lease_wanted(claimed, &*wants);
                let leases = lease_each(taken.claimed, lease).await;
                if !leases.is_empty() {
                    let is_full = taken.is_full;
                    return Batch { leases, is_full };
                }
                continue;
            }
            match taken.due {
                Some(due) => {
                    let _ = tokio::time::timeout_at(due, woken).await;
                }
                None => woken.await,
            }
        }
    }

    fn notify(&self) -> Option<Arc<Notify>> {
        let index = self.shared.log.index.lock();
        let target = index.target(index.slot_of(&self.target)?)?;
        Some(target.notify.clone())
    }

    /// What can be had now; `None` once there is nothing to wait for any more.
    fn take(&self, count: usize, bytes: u64) -> Option<Taken> {
        if self.shared.inbox.is_closed() {
            return None;
        }
        let mut index = self.shared.log.index.lock();
        let slot = index.slot_of(&self.target)?;
        let due = index.target_mut(slot)?.wake_due(Instant::now());
        let (taken, is_full) = index.lease(slot, count.max(1), bytes);
        let target = index.target(slot)?;
        if !taken.is_empty() {
            // Another waiter may have been woken by the same notice; there may be more to take.
            target.notify.notify_one();
        }
        let claimed = taken.into_iter().map(|of| Claimed {
            attempts: target.tried.get(&of).map_or(0, |tried| tried.attempts),
            shared: self.shared.clone(),
            of,
            slot,
            generation: target.generation,
            open: true,
        });
        Some(Taken {
            claimed: claimed.collect(),
            is_full,
            due,
        })
    }

    /// Age of the oldest capture not settled, not held and not parked; 0 when there is none.
    pub fn lag_seconds(&self, now: UnixMillis) -> f64 {
        let mut index = self.shared.log.index.lock();
        let slot = index.slot_of(&self.target);
        let oldest = slot.and_then(|slot| index.oldest_waiting(slot));
        oldest.map_or(0.0, |at| at.age_seconds(now))
    }

    /// Captures to be forwarded: neither settled, nor parked, nor held.
    pub fn waiting(&self) -> u64 {
        self.counted(|target| target.waiting)
    }

    /// Captures that the target refused for good.
    pub fn parked(&self) -> u64 {
        self.counted(|target| target.parked.len() as u64)
    }

    /// Captures that an operator holds back.
    pub fn held(&self) -> u64 {
        self.counted(|target| target.held)
    }

    fn counted(&self, count: impl Fn(&super::target::Target) -> u64) -> u64 {
        let index = self.shared.log.index.lock();
        let target = index
            .slot_of(&self.target)
            .and_then(|slot| index.target(slot));
        target.map_or(0, count)
    }
}

/// Reads off the runtime's own threads.
async fn lease_each(
    claimed: Vec<Claimed>,
    lease: impl Fn(Claimed) -> Option<Lease> + Send + 'static,
) -> Vec<Lease> {
    let lease_all = move || claimed.into_iter().filter_map(lease).collect();
    match tokio::task::spawn_blocking(lease_all).await {
        Ok(leases) => leases,
        // Who was asked what is wanted has panicked: not again and again with the same capture.
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down: the claims were dropped and went back.
        Err(_) => Vec::new(),
    }
}

fn lease_wanted(claimed: Claimed, wants: &dyn Fn(&Sighting) -> bool) -> Option<Lease> {
    let (log, of) = (&claimed.shared.log, claimed.of);
    match reader::sighting_alone(log, of) {
        Ok(Some(sighting)) if !wants(&sighting) => {
            let acceptance = reader::acceptance(log, of);
            lease(
                claimed,
                acceptance.map(|acceptance| (sighting, acceptance, None)),
            )
        }
        // What cannot be read alone is told of by the reading of the whole.
        _ => lease_whole(claimed),
    }
}

fn lease_whole(claimed: Claimed) -> Option<Lease> {
    let whole = reader::whole(&claimed.shared.log, claimed.of);
    let parts = whole.map(|whole| (whole.sighting, whole.acceptance, Some(whole.body)));
    lease(claimed, parts)
}

fn lease(
    mut claimed: Claimed,
    read: Result<(Sighting, Acceptance, Option<Body>), ReadError>,
) -> Option<Lease> {
    match read {
        Ok((sighting, acceptance, body)) => Some(Lease {
            sighting: Arc::new(sighting),
            acceptance,
            body,
            claimed,
        }),
        Err(ReadError::Gone) => None,
        Err(ReadError::Damaged(cause)) => {
            claimed.open = false;
            super::quarantine::set_aside(&claimed.shared, claimed.of, cause);
            None
        }
        Err(ReadError::Io(error)) => {
            tracing::error!(%error, "journal: cannot read a capture");
            claimed.give_back(Some((READ_AGAIN_AFTER, "the journal cannot be read")));
            None
        }
    }
}

/// Out of the queue, to be given back unless something becomes of it.
struct Claimed {
    shared: Arc<Shared>,
    of: Location,
    slot: u8,
    generation: u64,
    attempts: u32,
    open: bool,
}

impl Claimed {
    fn give_back(&mut self, later: Option<(Duration, &str)>) {
        self.open = false;
        let later = later.map(|(delay, why)| (Instant::now() + delay, why));
        let mut index = self.shared.log.index.lock();
        let same = |t: &super::target::Target| t.generation == self.generation;
        if index.target(self.slot).is_some_and(same) {
            index.give_back(self.of, self.slot, later);
        }
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if self.open {
            self.give_back(None);
        }
    }
}

/// A capture handed out to be forwarded. Dropped, it goes back to waiting.
#[must_use]
pub struct Lease {
    sighting: Arc<Sighting>,
    acceptance: Acceptance,
    body: Option<Body>,
    claimed: Claimed,
}

impl Lease {
    /// Everything about the capture but its bytes and its fate.
    pub fn sighting(&self) -> &Arc<Sighting> {
        &self.sighting
    }

    /// What the next hop made of it.
    pub fn acceptance(&self) -> &Acceptance {
        &self.acceptance
    }

    /// `None`: not [read](Self::read) yet.
    pub fn body(&self) -> Option<&Body> {
        self.body.as_ref()
    }

    /// With its body. `None` where that cannot be read: the capture went back to the queue, or to the quarantine.
    pub async fn read(self) -> Option<Self> {
        if self.body.is_some() {
            return Some(self);
        }
        lease_each(vec![self.claimed], lease_whole).await.pop()
    }

    /// Failed attempts so far since start.
    pub fn attempts(&self) -> u32 {
        self.claimed.attempts
    }

    /// Records the outcome; durable with the next sync (a lost one is settled again, targets are idempotent).
    pub fn settle(mut self, outcome: Outcome) {
        self.claimed.open = false;
        self.claimed.shared.inbox.push(Op::Change(Change {
            record: Record::Settle {
                of: self.claimed.of,
                slot: self.claimed.slot,
                outcome,
            },
            generation: Some(self.claimed.generation),
            reply: None,
        }));
    }

    /// Back to waiting, not before `delay` has passed.
    pub fn postpone(mut self, delay: Duration, why: &str) {
        self.claimed.give_back(Some((delay, why)));
    }
}
