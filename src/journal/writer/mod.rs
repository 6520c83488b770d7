//! The one writer, in a thread of its own: everything queued goes out in one write and one `fdatasync`, however many
//! sessions wait for it.
//!
//! A capture is told to its session, and known to the index, only after the sync that covers it. What becomes of
//! captures is written at once, so that it can be read back, and synced with the next capture or within [`SYNC_WITHIN`]:
//! a lost settle is sent again and targets are idempotent. A failed sync is never repeated: its segment ends at the last
//! good one, its captures fail, and what is worth keeping is written again in the next segment.
//! Without space for a new segment captures are answered `Full`, while settles have a reserve, so that space comes back.

mod room;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

pub(super) use room::reserve_bytes;

use super::{
    JournalError, Outcome,
    backlog::Backlog,
    capture::Captured,
    disk::DiskFile,
    format::{CaptureHead, Kind, Location, Record, SegmentId, record_bytes},
    keeper::Job,
    large::LargeDraft,
    shared::{CaptureOp, Change, MoveOp, Op, Patience, Shared, TargetsOp, failed},
};

/// Most bytes in one write.
const BATCH_BYTES: usize = 8 << 20;
/// What becomes of captures is synced within this time.
const SYNC_WITHIN: Duration = Duration::from_millis(50);
/// Longest wait for the sessions of the last sync to come again.
const PATIENCE_MAX: Duration = Duration::from_millis(1);
/// How often to look for captures that pin a segment; the look goes through all segments.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Writes end on a page, so that the kernel need not read an old one to change half of it.
const PAGE_BYTES: usize = 4096;

pub(super) struct Writer {
    shared: Arc<Shared>,
    current: Option<Current>,
    /// Where the segments ended that the next opening is to tell of.
    previous: Vec<Location>,
    buffer: Vec<u8>,
    staged: Vec<Staged>,
    backlog: Backlog,
    sync_by: Option<Instant>,
    /// Files of failed captures: their records may be on disk until the next opening says that they are not in the log.
    doomed: Vec<LargeDraft>,
    /// When to look for captures that pin a segment again.
    look_at: Instant,
    /// The keeper is reading captures that are to be moved.
    is_moving: bool,
    has_staged_move: bool,
    patience: Patience,
}

struct Current {
    id: SegmentId,
    file: Arc<dyn DiskFile>,
    bytes: u64,
    /// Where the buffer will be written.
    base: u64,
    synced: u64,
}

/// In the buffer, not yet written.
enum Staged {
    Capture(Location, u32, Box<CaptureOp>),
    /// The last is where it stood before.
    Move(Location, u32, Record, Location),
    Change(
        Location,
        u32,
        Record,
        Option<oneshot::Sender<Result<bool, JournalError>>>,
    ),
    Targets(
        Location,
        Record,
        std::sync::mpsc::SyncSender<Result<(), JournalError>>,
    ),
}

impl Writer {
    /// `previous` and `backlog` are what recovery left to be written.
    pub(super) fn new(shared: Arc<Shared>, previous: Vec<Location>, backlog: Vec<Record>) -> Self {
        Self {
            shared,
            current: None,
            previous,
            buffer: Vec::new(),
            staged: Vec::new(),
            backlog: Backlog::of_unwritten(backlog),
            sync_by: None,
            doomed: Vec::new(),
            look_at: Instant::now(),
            is_moving: false,
            has_staged_move: false,
            patience: Patience {
                captures: 0,
                time: Duration::ZERO,
            },
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let ops =
                self.shared
                    .inbox
                    .take(self.sync_by, &self.patience, &self.shared.open_drafts);
            let mut closing = None;
            for op in ops {
                match op {
                    Op::Capture(op) => self.capture(op),
                    Op::Change(change) => self.change(change),
                    Op::Move(moving) => self.relocate(*moving),
                    Op::MovesEnd => {
                        self.is_moving = false;
                        self.look_at = Instant::now();
                        self.sync_by = Some(self.look_at);
                    }
                    Op::Targets(op) => self.targets(op),
                    Op::Close(reply) => closing = Some(reply),
                }
                if self.buffer.len() >= BATCH_BYTES {
                    self.flush(true);
                }
            }
            if let Some(reply) = closing {
                let done = self.close();
                self.shared.inbox.end();
                let _ = reply.send(done);
                return;
            }
            let due = self.sync_by.is_some_and(|by| by <= Instant::now());
            self.flush(due);
        }
    }

    fn capture(&mut self, op: Box<CaptureOp>) {
        if op.discard_unheard && op.reply.is_closed() {
            return;
        }
        let payload = op.meta.len() + op.body.len();
        let size = record_bytes(payload) as u64;
        let reserve = reserve_bytes(self.shared.options.segment_bytes);
        let room = self.make_room(size, reserve);
        let lacks_segment = matches!(room, Err(JournalError::Full(_)));
        self.shared.lacks_segment.store(lacks_segment, Relaxed);
        match room {
            Ok(()) => {
                let at = self.stage(Kind::Capture, &[&op.meta, &op.body], op.crc);
                self.staged.push(Staged::Capture(at, size as u32, op));
            }
            Err(error) => {
                let _ = op.reply.send(Err(error));
            }
        }
    }

    fn change(&mut self, change: Change) {
        if self.has_staged_move {
            self.flush(true);
        }
        if let Record::Settle {
            of,
            slot,
            outcome: Outcome::Dropped,
        } = &change.record
        {
            // What was asked before counts: it may let the capture go.
            self.flush(false);
            if !self.shared.log.index.lock().is_at_rest(*of, *slot) {
                if let Some(reply) = change.reply {
                    let _ = reply.send(Ok(false));
                }
                return;
            }
        }
        if let (Record::Settle { slot, .. }, Some(generation)) = (&change.record, change.generation)
        {
            let index = self.shared.log.index.lock();
            if index
                .target(*slot)
                .is_none_or(|t| t.generation != generation)
            {
                return;
            }
        }
        self.record(change.record, change.reply);
    }

    /// Logs and applies what became of a capture.
    fn record(
        &mut self,
        record: Record,
        reply: Option<oneshot::Sender<Result<bool, JournalError>>>,
    ) {
        let (kind, payload) = record.encode();
        let size = record_bytes(payload.len()) as u64;
        match self.make_room(size, 0) {
            Ok(()) => {
                let at = self.stage(kind, &[&payload], crc32fast::hash(&payload));
                self.staged
                    .push(Staged::Change(at, size as u32, record, reply));
            }
            Err(error) => {
                // No space even for this: it holds as long as the process does, and is written when space is back.
                tracing::warn!(%error, "journal: what became of a capture is not on disk yet");
                self.flush(false);
                self.apply_unwritten(record, reply);
                // A segment that is done as a whole needs no record of it. (A large file does: its capture would be
                // found again without it.)
                let freed = self.shared.log.index.lock().free_front();
                self.shared.keeper.give(freed.into_iter().map(Job::Free));
            }
        }
    }

    fn apply_unwritten(
        &mut self,
        record: Record,
        reply: Option<oneshot::Sender<Result<bool, JournalError>>>,
    ) {
        let mut index = self.shared.log.index.lock();
        let known = subject(&record).and_then(|of| index.entry(of).map(|e| (of, !e.is_finished())));
        if let Some((of, _)) = known {
            // The fate is not to be found on disk: at the capture's own place it reads as unknown.
            index.apply(of, 0, &record);
            self.shared.live_bytes.store(index.live_bytes, Relaxed);
        }
        drop(index);
        if let Some(reply) = reply {
            let _ = reply.send(Ok(known.is_some_and(|(_, live)| live)));
        }
        self.backlog.is_unwritten(record);
    }

    fn targets(&mut self, op: TargetsOp) {
        let reply = op.reply;
        // The plan is made and applied with nothing in between: no capture comes to a target that is on its way out.
        self.flush(false);
        let index = self.shared.log.index.lock();
        let planned = index.plan_targets(&op.names, &op.abandon);
        drop(index);
        let slots = match planned {
            Ok(slots) => slots,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        let record = Record::Targets(slots);
        let (kind, payload) = record.encode();
        match self.make_room(record_bytes(payload.len()) as u64, 0) {
            Ok(()) => {
                let at = self.stage(kind, &[&payload], crc32fast::hash(&payload));
                self.staged.push(Staged::Targets(at, record, reply));
                self.flush(true);
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Writes a capture again with all that became of it. Nothing may change between the state that is written and the
    /// moment it counts: what is staged is applied before, and [`Writer::change`] waits for the move.
    fn relocate(&mut self, op: MoveOp) {
        if !self.has_staged_move {
            self.flush(false);
        }
        let Some(head) = CaptureHead::parse(&op.payload) else {
            return;
        };
        let Some(state) = self
            .shared
            .log
            .index
            .lock()
            .begin_move(op.from, op.acceptance)
        else {
            return;
        };
        let record = Record::Moved(state, head, 0);
        let (kind, state) = record.encode();
        let size = record_bytes(state.len() + op.payload.len()) as u64;
        let reserve = reserve_bytes(self.shared.options.segment_bytes);
        if self.make_room(size, reserve).is_ok() {
            let mut crc = crc32fast::Hasher::new();
            crc.update(&state);
            crc.update(&op.payload);
            let at = self.stage(kind, &[&state, &op.payload], crc.finalize());
            self.staged
                .push(Staged::Move(at, size as u32, record, op.from));
            self.has_staged_move = true;
        } else {
            self.shared.log.index.lock().end_move(op.from);
        }
    }

    /// Writes the buffer, syncs if asked to, and tells everyone.
    fn flush(&mut self, sync: bool) {
        let has_unsynced = self.sync_by.is_some() || !self.buffer.is_empty();
        if self.current.is_none() {
            self.sync_by = None;
            return;
        }
        // Nobody is ever told before the sync, whoever asked for the write.
        let sync = sync || self.staged.iter().any(Staged::is_awaited);
        if !has_unsynced || (self.buffer.is_empty() && !sync) {
            return;
        }
        self.has_staged_move = false;
        let started = Instant::now();
        if let Err(error) = self.write(sync) {
            self.abandon_segment(error);
            return;
        }
        if sync {
            let took = started.elapsed();
            self.shared
                .metrics
                .journal_sync_seconds
                .observe(took.as_secs_f64());
            let is_capture = |staged: &&Staged| matches!(staged, Staged::Capture(..));
            self.patience = Patience {
                captures: self.staged.iter().filter(is_capture).count(),
                time: (took * 2).min(PATIENCE_MAX),
            };
            self.sync_by = None;
            self.backlog.synced();
            self.doomed.clear();
            self.previous.clear();
        } else {
            let within = started + SYNC_WITHIN;
            self.sync_by = Some(self.sync_by.map_or(within, |by| by.min(within)));
        }
        self.tell_success(sync);
        if sync {
            self.housekeeping();
        }
    }

    fn write(&mut self, sync: bool) -> Result<(), JournalError> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        if !self.buffer.is_empty() {
            let length = self.buffer.len() as u64;
            let end = (current.base + length)
                .next_multiple_of(PAGE_BYTES as u64)
                .min(current.bytes);
            self.buffer.resize((end - current.base) as usize, 0);
            let written = current.file.write_at(&self.buffer, current.base);
            self.buffer.clear();
            self.buffer.shrink_to(2 * BATCH_BYTES);
            written.map_err(failed("write"))?;
            current.base += length;
        }
        if sync {
            current.file.sync().map_err(failed("sync"))?;
            current.synced = current.base;
        }
        Ok(())
    }

    fn tell_success(&mut self, synced: bool) {
        let mut index = self.shared.log.index.lock();
        let mut captured = Vec::new();
        let mut changed = Vec::new();
        for staged in self.staged.drain(..) {
            match staged {
                Staged::Capture(at, bytes, mut op) => {
                    index.apply(at, bytes, &Record::Capture(op.head));
                    self.shared.live_bytes.store(index.live_bytes, Relaxed);
                    op.reserved.give_back();
                    captured.push((at, op));
                }
                Staged::Change(at, bytes, record, reply) => {
                    let of = subject(&record);
                    let live = of
                        .and_then(|of| index.entry(of))
                        .is_some_and(|e| !e.is_finished());
                    index.apply(at, bytes, &record);
                    changed.push((record, reply, live));
                }
                Staged::Move(at, bytes, record, from) => {
                    index.apply(at, bytes, &record);
                    index.end_move(from);
                }
                Staged::Targets(at, record, reply) => {
                    index.apply(at, 0, &record);
                    let _ = reply.send(Ok(()));
                }
            }
        }
        self.shared.live_bytes.store(index.live_bytes, Relaxed);
        drop(index);
        for (at, mut op) in captured {
            if let Some(large) = &mut op.large {
                large.keep();
            }
            let captured = Captured::new(self.shared.clone(), at, &op);
            // A receiver that is gone gives it back, and dropping it says what becomes of it.
            let _ = op.reply.send(Ok(captured));
        }
        for (record, reply, live) in changed {
            if let Some(reply) = reply {
                let _ = reply.send(Ok(live));
            }
            if !synced {
                self.backlog.was_written(record);
            }
        }
    }

    /// A write or sync failed: the kernel may have dropped what it had, so nothing behind the last good sync counts.
    fn abandon_segment(&mut self, error: JournalError) {
        tracing::error!(%error, "journal: segment abandoned");
        self.sync_by = None;
        self.buffer.clear();
        if let Some(current) = self.current.take() {
            self.shared.log.index.lock().seal(current.id);
            self.previous.push(Location {
                segment: current.id,
                offset: current.synced as u32,
            });
        }
        self.backlog.lost();
        for staged in std::mem::take(&mut self.staged) {
            match staged {
                Staged::Capture(_, _, op) => {
                    let _ = op.reply.send(Err(error.again()));
                    self.doomed.extend(op.large);
                }
                Staged::Move(.., from) => self.shared.log.index.lock().end_move(from),
                Staged::Change(_, _, record, reply) => self.apply_unwritten(record, reply),
                Staged::Targets(_, _, reply) => {
                    let _ = reply.send(Err(error.again()));
                }
            }
        }
    }

    /// After a sync: what is done everywhere is cleared away.
    fn housekeeping(&mut self) {
        let mut index = self.shared.log.index.lock();
        let freed = index.free_front();
        let large = match self.backlog.all_written() {
            true => std::mem::take(&mut index.large_done),
            false => Vec::new(),
        };
        let now = Instant::now();
        let moving = if self.is_moving {
            Vec::new()
        } else if now < self.look_at {
            self.sync_by.get_or_insert(self.look_at);
            Vec::new()
        } else {
            self.look_at = now + LOOK_EVERY;
            index.stragglers(self.shared.options.segment_bytes)
        };
        self.is_moving |= !moving.is_empty();
        let live = index.live_bytes;
        drop(index);
        self.shared.metrics.journal_bytes.set(live as i64);
        let jobs = freed
            .into_iter()
            .map(Job::Free)
            .chain(large.into_iter().map(Job::RemoveLarge))
            .chain((!moving.is_empty()).then_some(Job::Move(moving)));
        let mut jobs = jobs.peekable();
        if jobs.peek().is_some() {
            self.shared.keeper.give(jobs);
        }
    }

    fn close(&mut self) -> Result<(), JournalError> {
        self.flush(true);
        for large in &mut self.doomed {
            // The next start finds out whether their records came through.
            large.keep();
        }
        if self.current.is_none() && self.backlog.all_written() {
            return Ok(());
        }
        let (kind, payload) = Record::Closed.encode();
        self.make_room(record_bytes(0) as u64, 0)?;
        self.stage(kind, &[&payload], crc32fast::hash(&payload));
        self.write(true)
    }
}

impl Drop for Writer {
    /// Whether it ended in order or by a panic: nobody waits for it any more.
    fn drop(&mut self) {
        self.shared.inbox.close();
        self.shared.inbox.end();
    }
}

impl Staged {
    /// Does someone wait for its sync?
    fn is_awaited(&self) -> bool {
        match self {
            Self::Capture(..) | Self::Targets(..) | Self::Move(..) => true,
            Self::Change(_, _, _, reply) => reply.is_some(),
        }
    }
}

/// The capture that a record is about.
fn subject(record: &Record) -> Option<Location> {
    match record {
        Record::Fate { of, .. }
        | Record::Settle { of, .. }
        | Record::Hold { of, .. }
        | Record::Retry { of, .. }
        | Record::Quarantined { of } => Some(*of),
        _ => None,
    }
}
