//! The durable middle. A front end drafts a message into it and hears back only when it is synced; forwarding leases
//! what waits and settles it.
//!
//! | file | what |
//! |---|---|
//! | `format` | the bytes on disk, explained before the code |
//! | `scan`, `recovery` | from bytes to records, from files to the index: two tables of cases |
//! | `disk`, `space` | the only file access; free space, and what of it is promised |
//! | `index`, `target` | what waits, for whom: rebuilt from the log, about 40 bytes a capture |
//! | `capture`, `large` | the way in: drafts, and content with a file of its own |
//! | `writer`, `backlog`, `keeper` | the one writer with its shared syncs; segments made and cleared beside it |
//! | `queue`, `reader`, `quarantine` | the way out: leases, reading back, what cannot be read |
//!
//! It never knows the network, never answers before the sync, and keeps no second truth beside the log.

mod backlog;
mod capture;
mod disk;
mod format;
mod fsck;
mod index;
mod keeper;
mod large;
mod operator;
mod outcome;
mod quarantine;
mod queue;
mod reader;
mod recovery;
mod scan;
mod shared;
mod space;
mod target;
mod view;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

pub use self::{
    capture::{Captured, Draft},
    fsck::{FsckReport, fsck},
    index::TARGETS_MAX,
    outcome::Outcome,
    queue::{Batch, Lease, Queue, Wants},
    recovery::BadRecord,
    scan::recover_bytes,
    view::{Filter, Listed, Page, PageToken, Shown, TargetState, View},
};
use self::{
    disk::{Disk, RealDisk},
    format::Record,
    keeper::Keeper,
    shared::{Op, Shared, TargetsOp},
    writer::Writer,
};
use crate::metrics::Metrics;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The journal lies in the directory `journal` of this one.
    pub data_dir: PathBuf,
    /// Size of one segment file, preallocated; from 64 KiB to 1 GiB. One is read at a time when the journal opens.
    pub segment_bytes: u64,
    /// The journal answers "full" beyond this many bytes not settled everywhere …
    pub capacity_bytes: u64,
    /// … and where its next write would leave the file system fewer free bytes than this. Its own writes never do; those of
    /// others, of which it hears within a second, may, and its file system's own records of where files lie.
    pub free_bytes_min: u64,
    /// Content beyond this goes to a file of its own; at most a quarter of a segment.
    pub large_bytes_min: u64,
    /// Memory for all drafts together; a draft that finds none left goes to a file early.
    pub draft_memory_bytes: u64,
    /// Targets that may be dropped with what waits for them.
    pub abandon_targets: Vec<String>,
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
    #[error("journal: {0}: another process has it open")]
    Locked(PathBuf),
    #[error(
        "journal: target {target}: {captures} captures are not settled for it and would be copied nowhere; name it again until they are, or allow it: [journal] abandon_targets = [\"{target}\"]"
    )]
    Backlog { target: String, captures: u64 },
    #[error("journal: closed")]
    Closed,
    #[error("journal: {0}")]
    Corrupt(String),
}

impl JournalError {
    /// The same error for another session whose message was in the same write.
    fn again(&self) -> Self {
        match self {
            Self::Full(why) => Self::Full(why.clone()),
            Self::Io { step, source } => Self::Io {
                step,
                source: match source.raw_os_error() {
                    Some(code) => std::io::Error::from_raw_os_error(code),
                    None => source.kind().into(),
                },
            },
            Self::Locked(path) => Self::Locked(path.clone()),
            Self::Backlog { target, captures } => Self::Backlog {
                target: target.clone(),
                captures: *captures,
            },
            Self::Closed => Self::Closed,
            Self::Corrupt(what) => Self::Corrupt(what.clone()),
        }
    }
}

/// The open journal; clones share it.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    threads: Arc<Threads>,
}

/// Dropped with the last clone of the journal: closes what was not closed, so that the lock is given back.
struct Threads {
    shared: Arc<Shared>,
    running: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Threads {
    fn end(&self, reply: oneshot::Sender<Result<(), JournalError>>) {
        self.shared.inbox.push(Op::Close(reply));
        let threads = std::mem::take(&mut *self.running.lock());
        let mut threads = threads.into_iter();
        // A panic there was logged where it happened; there is nothing left to close.
        let _ = threads.next().map(thread::JoinHandle::join);
        self.shared.keeper.close();
        let _ = threads.next().map(thread::JoinHandle::join);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.inbox.close();
        self.end(oneshot::channel().0);
    }
}

fn open_disk(root: &Path) -> Result<RealDisk, JournalError> {
    RealDisk::open(root).map_err(|source| match source.kind() {
        std::io::ErrorKind::WouldBlock => JournalError::Locked(root.to_owned()),
        std::io::ErrorKind::Unsupported => {
            JournalError::Corrupt(format!("{}: of another format", root.display()))
        }
        _ => shared::failed("open")(source),
    })
}

impl Journal {
    /// Opens the journal of `options.data_dir`, recovering what an earlier process left. Blocks while it reads the log.
    /// Refuses where a target with a backlog is not among `targets`, unless `options.abandon_targets` names it.
    pub fn open(
        options: Options,
        targets: &[String],
        metrics: Arc<Metrics>,
    ) -> Result<Journal, JournalError> {
        let root = options.data_dir.join("journal");
        let disk = open_disk(&root)?;
        Self::open_on(Arc::new(disk), options, targets, metrics)
    }

    fn open_on(
        disk: Arc<dyn Disk>,
        mut options: Options,
        targets: &[String],
        metrics: Arc<Metrics>,
    ) -> Result<Journal, JournalError> {
        options.segment_bytes = options.segment_bytes.clamp(64 << 10, 1 << 30);
        options.large_bytes_min = options.large_bytes_min.min(options.segment_bytes / 4);
        let mut recovered =
            recovery::recover(&*disk, recovery::Mode::Repair).map_err(shared::failed("recover"))?;
        let slots = recovered
            .index
            .plan_targets(targets, &options.abandon_targets)?;
        // Not written here: the next segment's opening names the targets.
        recovered
            .index
            .apply(index::START, 0, &Record::Targets(slots));
        let quarantined =
            quarantine::count(&*disk).map_err(shared::failed("read the quarantine"))?;
        metrics.quarantined_records.set(quarantined as i64);
        metrics
            .journal_capacity_bytes
            .set(options.capacity_bytes as i64);
        metrics.journal_bytes.set(recovered.index.live_bytes as i64);
        let keeper = Keeper::new(recovered.next_ordinal, recovered.spares);
        let shared = Arc::new(Shared::new(options, disk, metrics, recovered.index, keeper));
        shared
            .quarantined
            .store(quarantined, std::sync::atomic::Ordering::Relaxed);
        let writer = Writer::new(shared.clone(), recovered.previous, recovered.backlog);
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            thread::Builder::new()
                .name(name.into())
                .spawn(run)
                .map_err(shared::failed("start a thread"))
        };
        let for_keeper = shared.clone();
        let threads = vec![
            spawn("journal-writer", Box::new(move || writer.run()))?,
            spawn("journal-keeper", Box::new(move || keeper::run(&for_keeper)))?,
        ];
        Ok(Self {
            threads: Arc::new(Threads {
                shared: shared.clone(),
                running: Mutex::new(threads),
            }),
            shared,
        })
    }

    /// Starts a draft, or says why none can be taken now.
    pub fn draft(&self) -> Result<Draft, JournalError> {
        self.shared.check_room(0)?;
        Ok(Draft::new(self.shared.clone()))
    }

    /// Whether mail is taken now, and why not: what a draft would be told, a moment before it is.
    pub fn check_open(&self) -> Result<(), JournalError> {
        self.shared.check_open()
    }

    pub fn queue(&self, target: &str) -> Queue {
        Queue::new(self.shared.clone(), target.to_owned())
    }

    /// The targets after a reload: a new one sees captures from now on, a removed one's wait is over. Refused, as at
    /// [`Journal::open`], where one with a backlog would go and is not among `abandon`. Blocks for a sync.
    pub fn set_targets(&self, targets: &[String], abandon: &[String]) -> Result<(), JournalError> {
        let (reply, answer) = std::sync::mpsc::sync_channel(1);
        self.shared.inbox.push(Op::Targets(TargetsOp {
            names: targets.to_vec(),
            abandon: abandon.to_vec(),
            reply,
        }));
        answer.recv().map_err(|_| JournalError::Closed)?
    }

    /// Refuses later drafts and ends every wait for a lease, without closing anything yet.
    pub fn refuse(&self) {
        self.shared.inbox.close();
        for target in self.shared.log.index.lock().targets.iter().flatten() {
            target.notify.notify_waiters();
        }
    }

    /// Syncs what is pending and closes the files; later drafts are refused.
    pub async fn close(&self) -> Result<(), JournalError> {
        self.refuse();
        let (reply, answer) = oneshot::channel();
        let threads = self.threads.clone();
        let ended = tokio::task::spawn_blocking(move || threads.end(reply));
        // No answer: it was closed before.
        let done = answer.await.unwrap_or(Ok(()));
        let _ = ended.await;
        done
    }
}
