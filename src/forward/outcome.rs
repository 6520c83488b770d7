//! What the target said of a batch, applied: confirm and settle, try again, park, or send the bytes after all.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use rand::random;

use super::{admission::Entry, worker::Worker};
use crate::{
    dedup::{ClaimLease, Durable, StoredCopy},
    journal::{Lease, Outcome},
    message::{Sighting, UnixMillis},
    metrics::Metrics,
    targets::{Content, Outgoing, PutError, Receipt},
};

/// A batch that was answered.
pub(super) struct Done {
    pub entries: Vec<Entry>,
    pub batch: Vec<Outgoing>,
    pub results: Vec<Result<Receipt, PutError>>,
    pub sent_at: Instant,
    /// The one message that tries whether the target is back.
    pub trial: bool,
    /// It was one message, it alone is in trouble, and the target took something else right after it failed.
    pub vouched: bool,
}

/// What a batch says of the target as a whole.
#[derive(Default)]
struct Signs {
    /// It took or rejected a message for good, or took something else: it works.
    answered: bool,
    /// See [`Done::vouched`].
    vouched: bool,
    /// A message failed alone, and why.
    failed: Option<String>,
    unavailable: Option<(String, Option<Duration>)>,
    unauthorized: bool,
    /// The message that was alone when the target took nothing, how often that came to pass, and why.
    suspect: Option<(Lease, u32, String)>,
}

impl Worker {
    pub(super) fn apply(&mut self, done: Done) {
        let now = Instant::now();
        let mut signs = Signs::default();
        let mut settled: Vec<(Lease, Outcome)> = Vec::with_capacity(done.entries.len());
        let mut durable = None;
        let alone = done.entries.len() == 1;
        signs.answered = done.vouched;
        signs.vouched = done.vouched;
        for ((entry, outgoing), result) in
            done.entries.into_iter().zip(done.batch).zip(done.results)
        {
            match result {
                Ok(receipt) => {
                    signs.answered = true;
                    let (lease, outcome, confirmed) = self.passed(entry, &outgoing, receipt);
                    durable = confirmed.or(durable);
                    settled.push((lease, outcome));
                }
                Err(error) => self.failed(entry, &outgoing, error, alone, &mut signs),
            }
        }
        self.settle(settled, durable);
        match (signs.unavailable, signs.failed) {
            (Some((why, retry_after)), _) => {
                self.target_failed(done.sent_at, now, retry_after, signs.unauthorized, &why)
            }
            (None, _) if signs.answered => self.target_answered(now),
            // A target that fails on whatever it is tried with is not back.
            (None, Some(why)) if done.trial => {
                self.target_failed(done.sent_at, now, None, false, &why)
            }
            (None, _) => self.breaker.trial_again(),
        }
        if let Some((lease, failures, why)) = signs.suspect {
            // Behind the pause, so that another message tries whether it is over.
            let pause = self.breaker.wakes_at();
            let pause = pause.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
            let delay = self.options.message.delay(failures, None, random());
            lease.postpone(pause + delay, &why);
        }
    }

    fn passed(
        &mut self,
        entry: Entry,
        outgoing: &Outgoing,
        receipt: Receipt,
    ) -> (Lease, Outcome, Option<Durable>) {
        let Entry { lease, claim } = entry;
        let sighting = &outgoing.sighting;
        let Receipt { remote_id, already } = receipt;
        let first = match (&already, &outgoing.content) {
            (Some(copy), _) => copy.first,
            (None, Content::Copy(_)) => sighting.id,
            (None, Content::Duplicate { of, .. } | Content::Variant { of, .. }) => of.first,
        };
        let outcome = match first == sighting.id {
            true => Outcome::Stored {
                remote_id: remote_id.clone(),
            },
            false => Outcome::Duplicate {
                of: first,
                remote_id: remote_id.clone(),
            },
        };
        let durable = claim.map(|claim| {
            claim.confirm(already.unwrap_or_else(|| StoredCopy {
                first,
                k1: sighting.fingerprint.k1,
                core: sighting.fingerprint.core,
                remote_id,
            }))
        });
        self.troubles.forget(sighting.id);
        self.tally.confirmed(sighting);
        self.tally.settled(&outcome);
        (lease, outcome, durable)
    }

    fn failed(
        &mut self,
        entry: Entry,
        outgoing: &Outgoing,
        error: PutError,
        alone: bool,
        signs: &mut Signs,
    ) {
        let id = entry.id();
        let Entry { lease, claim } = entry;
        let why = error.to_string();
        match error {
            PutError::Unavailable {
                retry_after: None, ..
            }
            | PutError::Unauthorized { .. }
                if alone =>
            {
                signs.unauthorized = matches!(error, PutError::Unauthorized { .. });
                self.suspect(lease, claim, why, signs);
            }
            PutError::Unavailable { retry_after, .. } => {
                let longest = match &signs.unavailable {
                    Some((_, before)) => retry_after.max(*before),
                    None => retry_after,
                };
                signs.unavailable = Some((why.clone(), longest));
                self.troubles.keep(id, claim);
                self.tally.failed();
                // The breaker says when; the journal only has to hand it out again, oldest first.
                lease.postpone(Duration::ZERO, &why);
            }
            PutError::Unauthorized { .. } => {
                signs.unauthorized = true;
                signs.unavailable = Some((why.clone(), None));
                self.troubles.keep(id, claim);
                self.tally.failed();
                lease.postpone(Duration::ZERO, &why);
            }
            PutError::Failed { .. } => {
                signs.failed = Some(why.clone());
                self.tally.failed();
                let passed = self.tally.passed;
                let attempts_to_park = self.options.attempts_to_park;
                let trouble = self.troubles.keep(id, claim);
                let others_passed = trouble.failures > 0 && passed > trouble.passed;
                trouble.failures = trouble.failures.saturating_add(1);
                trouble.passed = passed;
                trouble.vouched = match signs.vouched {
                    true => trouble.vouched.saturating_add(1),
                    // It was not well, or others fail as well: an outage, it seems.
                    false => 0,
                };
                // What passes while nothing else comes says less than another message would: it has to say it for longer.
                let is_its_own = trouble.vouched >= attempts_to_park.saturating_mul(4);
                if is_its_own || (trouble.failures >= attempts_to_park && others_passed) {
                    self.park(lease, why);
                } else {
                    let delay = self.options.message.delay(trouble.failures, None, random());
                    let target_name = self.admission.target.as_str();
                    tracing::warn!(capture = %id, target_name, why, "failed, and comes again");
                    lease.postpone(delay, &why);
                }
            }
            PutError::Refused { .. } => {
                signs.answered = true;
                drop(claim);
                self.park(lease, why);
            }
            PutError::CopyMissing { .. } => {
                if let Content::Duplicate { of, .. } | Content::Variant { of, .. } =
                    &outgoing.content
                {
                    let k2 = &outgoing.sighting.fingerprint.k2;
                    self.admission.dedup.remove(&self.admission.target, k2, of);
                }
                let target_name = self.admission.target.as_str();
                tracing::warn!(capture = %id, target_name, why, "the copy is gone: its bytes go again");
                self.ready.push_back(lease);
            }
        }
    }

    /// A message was alone when the target took nothing: the fault may be its own, as where a filter before the target
    /// breaks the connection at what it reads. An outage counts once, however often it is tried meanwhile; parked is what
    /// fails so again and again while others pass in between.
    fn suspect(&mut self, lease: Lease, claim: Option<ClaimLease>, why: String, signs: &mut Signs) {
        let passed = self.tally.passed;
        // A target that comes and goes meets the same message several times by chance.
        let attempts_to_park = self.options.attempts_to_park.saturating_mul(4);
        self.tally.failed();
        let trouble = self.troubles.keep(lease.sighting().id, claim);
        let first = trouble.alone == 0;
        let others_passed = !first && passed > trouble.passed_alone;
        if first || others_passed {
            trouble.alone += 1;
            trouble.passed_alone = passed;
        }
        let failures = trouble.alone;
        if others_passed && failures >= attempts_to_park {
            // It was the message: the target is there.
            signs.answered = true;
            self.park(lease, why);
            return;
        }
        signs.unavailable = Some((why.clone(), None));
        if first {
            // Most often it is the target, and the message goes as soon as that is back.
            lease.postpone(Duration::ZERO, &why);
        } else {
            signs.suspect = Some((lease, failures, why));
        }
    }

    fn park(&mut self, lease: Lease, why: String) {
        let id = lease.sighting().id;
        tracing::error!(capture = %id, target_name = self.admission.target, why, "parked");
        self.troubles.forget(id);
        let outcome = Outcome::Parked { why };
        self.tally.settled(&outcome);
        lease.settle(outcome);
    }

    /// Settles once the dedup map has the copies on disk: a crash between the two repeats, and finds its copy.
    fn settle(&mut self, settled: Vec<(Lease, Outcome)>, durable: Option<Durable>) {
        if settled.is_empty() {
            return;
        }
        // Confirmed in order: the last one's batch is the last.
        self.settling.push(Box::pin(async move {
            if let Some(durable) = durable {
                durable.wait().await;
            }
            for (lease, outcome) in settled {
                lease.settle(outcome);
            }
        }));
    }
}

impl PutError {
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Counts for the operator, and for the rule that parks only while others pass.
pub(super) struct Tally {
    target: String,
    metrics: Arc<Metrics>,
    pub passed: u64,
}

impl Tally {
    pub(super) fn new(target: &str, metrics: Arc<Metrics>) -> Self {
        Self {
            target: target.to_owned(),
            metrics,
            passed: 0,
        }
    }

    fn confirmed(&mut self, sighting: &Sighting) {
        self.passed += 1;
        let now = UnixMillis::from_system(SystemTime::now());
        let labels = &[self.target.as_str()];
        let metrics = &self.metrics;
        metrics
            .forward_seconds
            .with_label_values(labels)
            .observe(sighting.captured_at.age_seconds(now));
        metrics
            .forwarded_bytes_total
            .with_label_values(labels)
            .inc_by(sighting.bytes);
        metrics
            .target_last_success_timestamp_seconds
            .with_label_values(labels)
            .set(now.0 as f64 / 1000.0);
    }

    pub(super) fn settled(&self, outcome: &Outcome) {
        let name = match outcome {
            Outcome::Stored { .. } => "stored",
            Outcome::Duplicate { .. } => "duplicate",
            Outcome::Excluded { .. } => "excluded",
            Outcome::Parked { .. } => "parked",
            Outcome::Dropped => "dropped",
        };
        self.count(name);
        if matches!(outcome, Outcome::Excluded { .. }) {
            self.metrics
                .criteria_excluded_total
                .with_label_values(&[&self.target])
                .inc();
        }
    }

    fn failed(&self) {
        self.count("failed");
    }

    fn count(&self, outcome: &str) {
        self.metrics
            .forwarded_messages_total
            .with_label_values(&[self.target.as_str(), outcome])
            .inc();
    }

    pub(super) fn set_up(&self, up: bool) {
        self.metrics
            .target_up
            .with_label_values(&[&self.target])
            .set(up.into());
    }
}
