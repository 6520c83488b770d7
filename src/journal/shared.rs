//! What all parts of the open journal share: the index, the writer's inbox, the keeper, the limits.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::{
    JournalError, Options,
    capture::{Captured, Reserved},
    disk::Disk,
    format::{CaptureHead, Location, Record},
    index::Index,
    keeper::Keeper,
    large::LargeDraft,
    space::{Promise, Space},
};
use crate::{message::Acceptance, metrics::Metrics};

/// The log as it stands: enough to read it.
pub(super) struct Log {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) index: Mutex<Index>,
}

pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) metrics: Arc<Metrics>,
    pub(super) log: Arc<Log>,
    pub(super) inbox: Inbox,
    pub(super) keeper: Keeper,
    /// Bytes of content that drafts hold in memory.
    pub(super) draft_memory: AtomicU64,
    /// Bytes of drafts that the index does not count yet, wherever they lie.
    pub(super) draft_bytes: AtomicU64,
    /// What the index counts, to be read without its lock.
    pub(super) live_bytes: AtomicU64,
    /// Drafts not yet dropped or told of their sync.
    pub(super) open_drafts: AtomicUsize,
    pub(super) quarantined: AtomicU64,
    /// The latest capture was refused because no segment could be had for it.
    pub(super) lacks_segment: AtomicBool,
    pub(super) space: Space,
}

/// Room that is to be left for the journal to count as open: a message larger than most.
const COMMON_BYTES: u64 = 1 << 20;

impl Shared {
    pub(super) fn new(
        options: Options,
        disk: Arc<dyn Disk>,
        metrics: Arc<Metrics>,
        index: Index,
        keeper: Keeper,
    ) -> Self {
        Self {
            options,
            metrics,
            live_bytes: AtomicU64::new(index.live_bytes),
            log: Arc::new(Log {
                disk,
                index: Mutex::new(index),
            }),
            inbox: Inbox::new(),
            keeper,
            draft_memory: AtomicU64::new(0),
            draft_bytes: AtomicU64::new(0),
            open_drafts: AtomicUsize::new(0),
            quarantined: AtomicU64::new(0),
            lacks_segment: AtomicBool::new(false),
            space: Space::default(),
        }
    }

    /// May `more` bytes be taken in now?
    pub(super) fn check_room(&self, more: u64) -> Result<(), JournalError> {
        if self.inbox.is_closed() {
            return Err(JournalError::Closed);
        }
        let held = self.log.index.lock().live_bytes + self.draft_bytes.load(Relaxed);
        let capacity = self.options.capacity_bytes;
        if held.saturating_add(more) > capacity {
            return Err(JournalError::Full(format!(
                "{held} of {capacity} bytes in use"
            )));
        }
        self.check_free_space(more)
    }

    /// Would the next messages be taken, not only the smallest one that still fits?
    pub(super) fn check_open(&self) -> Result<(), JournalError> {
        self.check_room(COMMON_BYTES.min(self.options.capacity_bytes / 100))?;
        match self.lacks_segment.load(Relaxed) && !self.keeper.has_next() {
            true => self.check_free_space(self.options.segment_bytes),
            false => Ok(()),
        }
    }

    pub(super) fn check_free_space(&self, more: u64) -> Result<(), JournalError> {
        self.space
            .check(&self.log, self.options.free_bytes_min, more)
    }

    /// Free space for a write of so many bytes, held until it is over.
    pub(super) fn promise_space(&self, bytes: u64) -> Result<Promise<'_>, JournalError> {
        self.space
            .promise(&self.log, self.options.free_bytes_min, bytes)
    }

    /// Counts a record that was set aside.
    pub(super) fn count_quarantined(&self) {
        let count = self.quarantined.fetch_add(1, Relaxed) + 1;
        self.metrics.quarantined_records.set(count as i64);
    }
}

/// Gives an I/O error its step; a file system without space is [`JournalError::Full`].
pub(super) fn failed(step: &'static str) -> impl FnOnce(io::Error) -> JournalError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            JournalError::Full(format!("{step}: no space on the file system"))
        }
        _ => JournalError::Io { step, source },
    }
}

/// How long what nobody waits for may wait for company before it is written …
const LINGER: Duration = Duration::from_millis(10);
/// … and how much of it.
const LINGER_OPS_MAX: usize = 1024;

/// What the writer is asked to do.
pub(super) enum Op {
    Capture(Box<CaptureOp>),
    Change(Change),
    Move(Box<MoveOp>),
    /// All moves that were wanted have been asked for.
    MovesEnd,
    Targets(TargetsOp),
    Close(oneshot::Sender<Result<(), JournalError>>),
}

pub(super) struct CaptureOp {
    pub(super) head: CaptureHead,
    /// Head and sighting, encoded.
    pub(super) meta: Vec<u8>,
    pub(super) body: Vec<u8>,
    /// Removes the content's own file unless the writer tells it that a synced record names it.
    pub(super) large: Option<LargeDraft>,
    /// Over meta and body; computed by the session, so that the one writer need not.
    pub(super) crc: u32,
    /// Nobody has the message unless the reply is heard.
    pub(super) discard_unheard: bool,
    pub(super) reserved: Reserved,
    pub(super) reply: oneshot::Sender<Result<Captured, JournalError>>,
}

/// Who the targets are from now on.
pub(super) struct TargetsOp {
    pub(super) names: Vec<String>,
    /// May go with what waits for them.
    pub(super) abandon: Vec<String>,
    pub(super) reply: std::sync::mpsc::SyncSender<Result<(), JournalError>>,
}

/// A capture is to be written again at the end of the log.
pub(super) struct MoveOp {
    pub(super) from: Location,
    /// As it stands there.
    pub(super) payload: Bytes,
    pub(super) acceptance: Acceptance,
}

/// Something becomes of a capture.
pub(super) struct Change {
    pub(super) record: Record,
    /// For a settle: of the target that held the lease.
    pub(super) generation: Option<u64>,
    /// Told once it is synced, whether there was such a capture.
    pub(super) reply: Option<oneshot::Sender<Result<bool, JournalError>>>,
}

impl Op {
    fn is_awaited(&self) -> bool {
        match self {
            Self::Change(change) => change.reply.is_some(),
            _ => true,
        }
    }
}

impl Change {
    pub(super) fn of(record: Record) -> Op {
        Op::Change(Self {
            record,
            generation: None,
            reply: None,
        })
    }
}

/// The writer's queue. Bounded by who may write into it: one operation a draft, a capture or a lease at a time.
pub(super) struct Inbox {
    /// `None` once the writer has ended: what comes then is dropped, which tells whoever waits.
    queue: Mutex<Option<Queued>>,
    arrived: Condvar,
    closed: AtomicBool,
}

#[derive(Default)]
struct Queued {
    ops: VecDeque<Op>,
    captures: usize,
    /// Somebody waits for one of these.
    is_awaited: bool,
    /// Wake the writer when so many captures are queued.
    crowd: usize,
}

/// How long the writer waits for sessions that shared its last sync to come with their next message.
pub(super) struct Patience {
    pub(super) captures: usize,
    pub(super) time: Duration,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            queue: Mutex::new(Some(Queued::default())),
            arrived: Condvar::new(),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn push(&self, op: Op) {
        let mut queue = self.queue.lock();
        let Some(queued) = &mut *queue else {
            // Dropping a capture takes this lock again.
            drop(queue);
            return;
        };
        let is_awaited = op.is_awaited();
        let is_news = queued.ops.is_empty() || (is_awaited && !queued.is_awaited);
        let is_capture = matches!(op, Op::Capture(_));
        queued.captures += usize::from(is_capture);
        queued.is_awaited |= is_awaited;
        queued.ops.push_back(op);
        let is_crowd = is_capture && queued.captures == queued.crowd;
        if is_news || is_crowd || queued.ops.len() == LINGER_OPS_MAX {
            self.arrived.notify_one();
        }
    }

    /// Everything queued, waiting for something until `deadline` (for ever without one).
    ///
    /// What nobody waits for lingers a moment: most of it then goes out with the next capture, without a write and a
    /// wake-up of its own. Captures are taken with patience for a crowd: else the first session back from a sync would
    /// have the next one for itself, and all others wait for two. The crowd is as large as the last one, or as many as
    /// have a draft open, twice the last one at most: a draft may stay open for hours.
    pub(super) fn take(
        &self,
        deadline: Option<Instant>,
        patience: &Patience,
        open_drafts: &AtomicUsize,
    ) -> VecDeque<Op> {
        let mut queue = self.queue.lock();
        while queue.as_ref().is_some_and(|queued| queued.ops.is_empty()) {
            match deadline {
                None => self.arrived.wait(&mut queue),
                Some(deadline) if self.arrived.wait_until(&mut queue, deadline).timed_out() => {
                    break;
                }
                Some(_) => {}
            }
        }
        let lingers = Instant::now() + LINGER;
        let may_linger = |queue: &Option<Queued>| {
            queue.as_ref().is_some_and(|queued| {
                !queued.ops.is_empty() && !queued.is_awaited && queued.ops.len() < LINGER_OPS_MAX
            })
        };
        while may_linger(&queue) && !self.arrived.wait_until(&mut queue, lingers).timed_out() {}
        if patience.captures > 1 {
            let ends = Instant::now() + patience.time;
            let open = open_drafts.load(Relaxed).min(2 * patience.captures);
            let crowd = open.max(patience.captures);
            let is_short = |queue: &Option<Queued>| {
                queue
                    .as_ref()
                    .is_some_and(|queued| queued.captures > 0 && queued.captures < crowd)
            };
            if let Some(queued) = &mut *queue {
                queued.crowd = crowd;
            }
            while is_short(&queue) && !self.arrived.wait_until(&mut queue, ends).timed_out() {}
        }
        let taken = queue.as_mut().map(std::mem::take);
        taken.unwrap_or_default().ops
    }

    /// The writer is gone.
    pub(super) fn end(&self) {
        let rest = self.queue.lock().take();
        drop(rest);
    }

    /// Refuses drafts from now on; changes are taken until the writer ends.
    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }
}
