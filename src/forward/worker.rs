//! The worker of one target: waits for whatever happens next, then applies it. All state is its own; only the requests
//! themselves run beside it.

use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rand::random;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Options,
    admission::{Admission, Admitted, Entry, read, wait},
    breaker::{Admits, Breaker},
    outcome::{Done, Tally},
};
use crate::{
    dedup::{ClaimLease, Dedup, Released},
    journal::{Batch, Lease, Outcome, Queue},
    message::{Body, CaptureId, Sighting, UnixMillis},
    metrics::Metrics,
    targets::{PutError, RemoteStore},
};

/// The criteria of a target, asked of a capture whose content may not have been read.
pub type Decide = Arc<dyn Fn(&Sighting, Option<&Body>) -> Decided + Send + Sync>;

/// What they say of it.
#[derive(Debug)]
pub enum Decided {
    Goes,
    /// This rule keeps it from the target.
    Excluded {
        rule: String,
    },
    /// A rule asks for the header, and there is no content yet.
    NeedsHeader,
    /// A rule asks for the header, which cannot be read.
    NoHeader(io::Error),
}

/// Leases held in memory while another capture of the same message is on its way; beyond, they go back to the journal.
const WAITING_MAX: usize = 2_000;
const WAITING_BYTES_MAX: u64 = 16 * 1024 * 1024;
const WAIT_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Failing messages whose claim is kept, so that no other capture of the same message overtakes them.
const TROUBLES_MAX: usize = 10_000;

/// Everything that is known of one target while it runs; one task owns it.
pub struct Worker {
    pub(super) options: Options,
    pub(super) queue: Queue,
    pub(super) store: Arc<dyn RemoteStore>,
    pub(super) admission: Admission,
    pub(super) breaker: Breaker,
    pub(super) troubles: Troubles,
    pub(super) tally: Tally,
    /// To go next, before anything else is leased.
    pub(super) ready: VecDeque<Lease>,
    waiting: FuturesUnordered<BoxFuture<'static, Lease>>,
    waiting_bytes: u64,
    in_flight: JoinSet<Done>,
    /// More waited than the latest lease could take.
    more_waits: bool,
    /// The next batch waits until then, so that it fills.
    fills_until: Option<Instant>,
    /// Confirmed, and settled as soon as the dedup map has them on disk.
    pub(super) settling: FuturesUnordered<BoxFuture<'static, ()>>,
    /// Leased without their content, and wanted with it.
    reading: FuturesUnordered<BoxFuture<'static, Result<Lease, CaptureId>>>,
}

/// What is remembered of messages that failed.
#[derive(Default)]
pub(super) struct Troubles(HashMap<CaptureId, Trouble>);

#[derive(Default)]
pub(super) struct Trouble {
    claim: Option<ClaimLease>,
    /// Times that it failed alone.
    pub failures: u32,
    /// How often in a row the target took something else right after, when this was the one message in trouble.
    pub vouched: u32,
    /// Messages that had passed when it last failed.
    pub passed: u64,
    /// Times that it was alone when the target took nothing, others having passed in between.
    pub alone: u32,
    /// Messages that had passed when that was last counted.
    pub passed_alone: u64,
    /// None while it is on its way again.
    kept_at: Option<Instant>,
}

impl Troubles {
    pub(super) fn claim_of(&mut self, id: CaptureId) -> Option<ClaimLease> {
        let trouble = self.0.get_mut(&id)?;
        trouble.kept_at = None;
        trouble.claim.take()
    }

    /// Keeps the claim for the next attempt; past the limit it is given up, which only costs a repeat.
    pub(super) fn keep(&mut self, id: CaptureId, claim: Option<ClaimLease>) -> &mut Trouble {
        if self.0.len() >= TROUBLES_MAX && !self.0.contains_key(&id) {
            self.0.clear();
        }
        let trouble = self.0.entry(id).or_default();
        trouble.kept_at = Some(Instant::now());
        trouble.claim = claim;
        trouble
    }

    /// Whether no other message failed of late. In an outage others do, as soon as there are any.
    fn has_no_other(&self, id: CaptureId) -> bool {
        self.0.keys().all(|other| *other == id)
    }

    /// Whether it may be this message that makes the target take nothing.
    fn is_suspect(&self, id: CaptureId) -> bool {
        self.0.get(&id).is_some_and(|trouble| trouble.alone > 0)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets messages that did not come again in all this time: an operator holds or has dropped them, and another
    /// capture of the same message must not wait for that.
    fn forget_absent(&mut self, now: Instant, patience: Duration) {
        self.0
            .retain(|_, trouble| trouble.kept_at.is_none_or(|at| at + patience >= now));
    }

    pub(super) fn forget(&mut self, id: CaptureId) {
        if !self.0.is_empty() {
            self.0.remove(&id);
        }
    }
}

impl Worker {
    /// Sends nothing until [`run`](Self::run).
    pub fn new(
        target: &str,
        options: Options,
        queue: Queue,
        dedup: Dedup,
        decide: Decide,
        store: Arc<dyn RemoteStore>,
        metrics: Arc<Metrics>,
    ) -> Self {
        metrics.touch_target(target);
        Self {
            breaker: Breaker::new(options.target, options.failures_to_open),
            options,
            queue,
            store,
            admission: Admission {
                target: target.to_owned(),
                dedup,
                decide,
                started: UnixMillis::from_system(SystemTime::now()),
            },
            troubles: Troubles::default(),
            tally: Tally::new(target, metrics),
            ready: VecDeque::new(),
            waiting: FuturesUnordered::new(),
            waiting_bytes: 0,
            in_flight: JoinSet::new(),
            more_waits: false,
            fills_until: None,
            settling: FuturesUnordered::new(),
            reading: FuturesUnordered::new(),
        }
    }

    /// Runs until `stop` or until the journal has no such target any more; then finishes what is in flight. Dropped
    /// instead, what is in flight is sent again by the next run.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut leasing: Option<BoxFuture<'static, Batch>> = None;
        let mut probing: Option<BoxFuture<'static, Result<(), PutError>>> = None;
        // No delay of a message is longer than its cap, but for the target's own pauses.
        let patience = 2 * self.options.message.cap;
        let mut sweep = tokio::time::interval(patience / 2);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let admits = self.breaker.admits(Instant::now());
            if admits == Admits::Probe {
                let store = self.store.clone();
                probing = Some(Box::pin(async move { store.probe().await }));
            }
            self.send_ready(admits);
            let idle = leasing.is_none() && self.reading.is_empty() && self.ready.is_empty();
            if idle && self.has_room(admits) {
                leasing = Some(self.lease());
            }
            let woken = self.breaker.wakes_at();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = self.in_flight.join_next() => match done {
                    Ok(done) => self.apply(done),
                    Err(error) => {
                        tracing::error!(target_name = self.admission.target, %error, "a batch ended without an answer");
                        let now = Instant::now();
                        self.target_failed(now, now, None, false, "internal failure");
                    }
                },
                Some(()) = self.settling.next() => {}
                Some(read) = self.reading.next() => match read {
                    Ok(lease) => self.ready.push_back(lease),
                    Err(id) => self.troubles.forget(id),
                },
                Some(lease) = self.waiting.next() => {
                    self.waiting_bytes -= held_bytes(&lease);
                    self.ready.push_back(lease);
                }
                batch = poll_some(&mut leasing) => {
                    leasing = None;
                    if batch.leases.is_empty() {
                        break;
                    }
                    self.more_waits = batch.is_full;
                    self.ready.extend(batch.leases);
                }
                probed = poll_some(&mut probing) => {
                    probing = None;
                    self.probed(probed);
                }
                _ = sweep.tick(), if matches!(admits, Admits::All | Admits::Batch(2..)) && !self.troubles.is_empty() => {
                    self.troubles.forget_absent(Instant::now(), patience);
                }
                () = sleep_until(woken.unwrap_or_else(Instant::now).into()), if woken.is_some() => {}
            }
        }
        drop(leasing);
        self.drain().await;
    }

    async fn drain(&mut self) {
        self.ready.clear();
        self.waiting.clear();
        self.reading.clear();
        while let Some(done) = self.in_flight.join_next().await {
            if let Ok(done) = done {
                self.apply(done);
            }
        }
        self.ready.clear();
        while self.settling.next().await.is_some() {}
    }

    fn has_room(&self, admits: Admits) -> bool {
        match admits {
            Admits::All => self.in_flight.len() < self.store.batch_limits().in_flight.max(1),
            Admits::Batch(_) => true,
            Admits::Nothing | Admits::Probe => false,
        }
    }

    fn lease(&self) -> BoxFuture<'static, Batch> {
        let limits = self.store.batch_limits();
        let queue = self.queue.clone();
        let (fills_until, wants) = (self.fills_until, self.admission.wants());
        Box::pin(async move {
            if let Some(instant) = fills_until {
                sleep_until(instant.into()).await;
            }
            queue
                .lease_batch(limits.count.max(1), limits.bytes, wants)
                .await
        })
    }

    /// Sends what is ready, as far as the breaker and the target's limits let it.
    fn send_ready(&mut self, admits: Admits) {
        while !self.ready.is_empty() && self.has_room(admits) {
            let limits = self.store.batch_limits();
            let count_max = match admits {
                Admits::Batch(count) => count.min(limits.count.max(1)),
                _ => limits.count.max(1),
            };
            let (mut entries, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
            while entries.len() < count_max && (bytes < limits.bytes || entries.is_empty()) {
                let Some(lease) = self.ready.pop_front() else {
                    break;
                };
                let alone = self.troubles.is_suspect(lease.sighting().id);
                if alone && !entries.is_empty() {
                    self.ready.push_front(lease);
                    break;
                }
                match self.admission.admit(lease, &mut self.troubles) {
                    Admitted::Goes(entry, outgoing) => {
                        bytes += held_bytes(&entry.lease);
                        entries.push(entry);
                        batch.push(outgoing);
                    }
                    Admitted::Settled(lease, outcome) => self.settle_unsent(lease, outcome),
                    Admitted::Waits(lease, released) => self.wait_for(lease, released),
                    Admitted::Unread(lease) => self.reading.push(read(lease)),
                    Admitted::Unreadable(lease, why) => {
                        tracing::error!(capture = %lease.sighting().id, why, "content cannot be read");
                        lease.postpone(self.options.message.cap, &why);
                    }
                }
                if alone && !entries.is_empty() {
                    break;
                }
            }
            if entries.is_empty() {
                continue;
            }
            // A batch costs the target a sync and both sides a request, however small it is. A backlog fills them by
            // itself; and where something failed, messages go one by one, and each answer is news.
            let paced = !self.more_waits && admits == Admits::All && self.troubles.is_empty();
            self.fills_until = paced.then(|| Instant::now() + self.options.linger);
            self.breaker.sent();
            let store = self.store.clone();
            let trial = admits == Admits::Batch(1);
            let lone = match &entries[..] {
                [entry] => self.troubles.has_no_other(entry.id()),
                _ => false,
            };
            self.in_flight.spawn(async move {
                let sent_at = Instant::now();
                let results = store.put(&batch).await;
                let failed = matches!(results[..], [Err(PutError::Failed { .. })]);
                let vouched = lone && failed && store.vouch().await.is_ok();
                Done {
                    entries,
                    batch,
                    results,
                    sent_at,
                    trial,
                    vouched,
                }
            });
            if matches!(admits, Admits::Batch(_)) {
                return;
            }
        }
    }

    fn settle_unsent(&mut self, lease: Lease, outcome: Outcome) {
        self.troubles.forget(lease.sighting().id);
        self.tally.settled(&outcome);
        lease.settle(outcome);
    }

    fn wait_for(&mut self, lease: Lease, released: Released) {
        let bytes = held_bytes(&lease);
        if self.waiting.len() < WAITING_MAX && self.waiting_bytes + bytes <= WAITING_BYTES_MAX {
            self.waiting_bytes += bytes;
            self.waiting.push(wait(lease, released));
        } else {
            lease.postpone(WAIT_AGAIN_AFTER, "the same message is on its way");
        }
    }

    fn probed(&mut self, probed: Result<(), PutError>) {
        let now = Instant::now();
        match probed {
            Ok(()) => self.breaker.probed(),
            Err(error) => {
                let unauthorized = matches!(error, PutError::Unauthorized { .. });
                let retry_after = error.retry_after();
                self.target_failed(now, now, retry_after, unauthorized, &error.to_string());
            }
        }
    }

    pub(super) fn target_answered(&mut self, now: Instant) {
        if let Some(away) = self.breaker.succeeded(now) {
            let target_name = &self.admission.target;
            let (away_secs, waiting) = (away.as_secs(), self.queue.waiting());
            tracing::info!(target_name, away_secs, waiting, "the target is back");
        }
        self.tally.set_up(self.breaker.is_up());
    }

    pub(super) fn target_failed(
        &mut self,
        sent_at: Instant,
        now: Instant,
        retry_after: Option<Duration>,
        unauthorized: bool,
        why: &str,
    ) {
        let was_up = self.breaker.is_up();
        self.breaker
            .failed(sent_at, now, retry_after, unauthorized, random());
        let target_name = &self.admission.target;
        match self.breaker.is_up() {
            true => tracing::warn!(target_name, why, "the target takes nothing now"),
            false if was_up => tracing::error!(target_name, why, "the target is down"),
            false => tracing::debug!(target_name, why, "the target is still down"),
        }
        self.tally.set_up(self.breaker.is_up());
    }
}

impl Entry {
    pub(super) fn id(&self) -> CaptureId {
        self.lease.sighting().id
    }
}

/// Memory that a lease holds: large content stays in its file.
fn held_bytes(lease: &Lease) -> u64 {
    match lease.body() {
        Some(Body::Small(bytes)) => bytes.len() as u64,
        Some(Body::Large(_)) | None => 0,
    }
}

/// Ready when there is a future and it is.
async fn poll_some<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.as_mut().await,
        None => pending().await,
    }
}
