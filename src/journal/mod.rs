//! The durable middle. A front end drafts a message into it and hears back only when it is synced; forwarding leases
//! what waits and settles it. See `format.rs` for the bytes on disk.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::message::{Acceptance, Body, CaptureId, Sighting, UnixMillis, WireText};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub data_dir: PathBuf,
    /// Size of one segment file, preallocated.
    pub segment_bytes: u64,
    /// The journal answers "full" beyond this many bytes …
    pub capacity_bytes: u64,
    /// … and when the file system has fewer free bytes than this.
    pub free_bytes_min: u64,
    /// Content beyond this goes to a file of its own.
    pub large_bytes_min: u64,
    /// Memory for all drafts together; a draft that finds none left goes to a file early.
    pub draft_memory_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("journal: full: {0}")]
    Full(String),
    #[error("journal: {step}: {source}")]
    Io {
        step: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("journal: closed")]
    Closed,
    #[error("journal: {0}")]
    Corrupt(String),
}

/// The open journal; clones share it.
#[derive(Clone)]
pub struct Journal {}

/// A message being received. Dropped before `commit`, it never was.
pub struct Draft {}

/// A synced capture whose fate at the next hop is not yet known. Dropped without a word, it is forwarded as
/// [`Acceptance::Unknown`].
#[must_use]
pub struct Captured {}

/// One target's view of the journal.
#[derive(Clone)]
pub struct Queue {}

/// A capture handed out to be forwarded. Dropped, it goes back to waiting.
#[must_use]
pub struct Lease {}

/// What became of a capture for one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target confirmed it; the target's own id for the copy.
    Stored { remote_id: String },
    /// The same message is already there; this sighting was recorded beside it.
    Duplicate { of: CaptureId, remote_id: String },
    /// A criterion said no; the rule's name.
    Excluded { rule: String },
    /// The target refused it for good; kept until an operator retries or exports it.
    Parked { why: String },
}

impl Journal {
    pub fn open(
        _options: Options,
        _targets: &[String],
        _metrics: Arc<crate::metrics::Metrics>,
    ) -> Result<Journal, JournalError> {
        unimplemented!()
    }
    /// Starts a draft, or says why none can be taken now.
    pub fn draft(&self) -> Result<Draft, JournalError> {
        unimplemented!()
    }
    pub fn queue(&self, _target: &str) -> Queue {
        unimplemented!()
    }
    /// The targets after a reload: a new one sees captures from now on, a removed one's wait is over.
    pub fn set_targets(&self, _targets: &[String]) -> Result<(), JournalError> {
        unimplemented!()
    }
    /// Syncs what is pending and closes the files; later drafts are refused.
    pub async fn close(&self) -> Result<(), JournalError> {
        unimplemented!()
    }
}

impl Draft {
    pub async fn write(&mut self, _bytes: &[u8]) -> Result<(), JournalError> {
        unimplemented!()
    }
    /// Survives power loss when it returns.
    pub async fn commit(self, _sighting: &Sighting) -> Result<Captured, JournalError> {
        unimplemented!()
    }
}

impl Captured {
    pub fn id(&self) -> CaptureId {
        unimplemented!()
    }
    /// Records what the next hop said and lets the capture go to the targets. `Rejected` discards it unless the
    /// front end keeps rejected ones.
    pub fn release(self, _acceptance: Acceptance) {
        unimplemented!()
    }
    /// The next hop refused it and nobody wants the copy.
    pub fn discard(self, _reply: WireText) {
        unimplemented!()
    }
}

impl Queue {
    /// The oldest captures that wait, at most `count` and about `bytes`; waits until there is one.
    pub async fn lease(&self, _count: usize, _bytes: u64) -> Vec<Lease> {
        unimplemented!()
    }
    /// Age of the oldest capture not settled and not parked; 0 when there is none.
    pub fn lag_seconds(&self, _now: UnixMillis) -> f64 {
        unimplemented!()
    }
    pub fn waiting(&self) -> u64 {
        unimplemented!()
    }
    pub fn parked(&self) -> u64 {
        unimplemented!()
    }
}

impl Lease {
    pub fn sighting(&self) -> &Arc<Sighting> {
        unimplemented!()
    }
    pub fn acceptance(&self) -> &Acceptance {
        unimplemented!()
    }
    pub fn body(&self) -> &Body {
        unimplemented!()
    }
    /// Failed attempts so far since start.
    pub fn attempts(&self) -> u32 {
        unimplemented!()
    }
    /// Records the outcome; durable with the next sync (a lost one is settled again, targets are idempotent).
    pub fn settle(self, _outcome: Outcome) {
        unimplemented!()
    }
    /// Back to waiting, not before `delay` has passed.
    pub fn postpone(self, _delay: Duration, _why: &str) {
        unimplemented!()
    }
}
