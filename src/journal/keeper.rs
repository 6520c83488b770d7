//! Makes the next segment before it is needed and clears away what is done, in a thread of its own, so that no session
//! ever waits for a file to be made.
//!
//! A segment is made by writing zeros over its whole length and syncing it, or by giving a cleared one a new name: either
//! way a later sync finds written space, which is more than twice as fast as one that must also record allocation.
//! Names are durable before the writer gets the segment. When none can be made, the writer is told why, and asks again.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    JournalError,
    disk::{Area, DiskFile},
    format::{Location, SegmentId},
    large, quarantine,
    reader::{self, ReadError},
    shared::{MoveOp, Op, Shared},
};

/// Cleared segments kept for the next ones; more are removed.
const SPARES_MAX: usize = 2;
const RETRY_AFTER: Duration = Duration::from_millis(100);
const ZEROS: &[u8] = &[0; 1 << 20];

pub(super) struct Prepared {
    pub(super) id: SegmentId,
    pub(super) file: Arc<dyn DiskFile>,
}

pub(super) enum Job {
    Free(SegmentId),
    RemoveLarge(u64),
    /// Read these captures and have the writer write them again.
    Move(Vec<Location>),
}

pub(super) struct Keeper {
    state: Mutex<State>,
    asked: Condvar,
    made: Condvar,
}

struct State {
    jobs: VecDeque<Job>,
    prepared: Option<Prepared>,
    wanted: bool,
    failure: Option<(Instant, Failure)>,
    next_ordinal: u32,
    spares: Vec<String>,
    closed: bool,
}

/// What of an [`io::Error`] can be told twice.
#[derive(Clone, Copy)]
enum Failure {
    Os(i32),
    Kind(io::ErrorKind),
}

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) => Self::Os(code),
            None => Self::Kind(error.kind()),
        }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Os(code) => Self::from_raw_os_error(code),
            Failure::Kind(kind) => Self::from(kind),
        }
    }
}

impl Keeper {
    pub(super) fn new(next_ordinal: u32, spares: Vec<String>) -> Self {
        Self {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                prepared: None,
                wanted: true,
                failure: None,
                next_ordinal,
                spares,
                closed: false,
            }),
            asked: Condvar::new(),
            made: Condvar::new(),
        }
    }

    /// The next segment; waits while it is being made. After a failure, answers with it until it is time to try again.
    pub(super) fn take(&self) -> io::Result<Prepared> {
        let mut state = self.state.lock();
        loop {
            if let Some(prepared) = state.prepared.take() {
                state.wanted = true;
                self.asked.notify_one();
                return Ok(prepared);
            }
            match state.failure {
                Some((retry_at, failure)) if Instant::now() < retry_at => {
                    return Err(failure.into());
                }
                _ => state.failure = None,
            }
            if state.closed {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            state.wanted = true;
            self.asked.notify_one();
            self.made.wait(&mut state);
        }
    }

    /// Can a segment be had without new space?
    pub(super) fn has_next(&self) -> bool {
        let state = self.state.lock();
        state.prepared.is_some() || !state.spares.is_empty()
    }

    pub(super) fn give(&self, jobs: impl IntoIterator<Item = Job>) {
        self.state.lock().jobs.extend(jobs);
        self.asked.notify_one();
    }

    /// Ends the thread once its jobs are done.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.asked.notify_one();
        self.made.notify_one();
    }
}

/// The thread's loop.
pub(super) fn run(shared: &Shared) {
    let keeper = &shared.keeper;
    let mut state = keeper.state.lock();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            let spare = state.spares.len() < SPARES_MAX;
            let left = MutexGuard::unlocked(&mut state, || do_job(job, shared, spare));
            if let Some(name) = left {
                state.spares.push(name);
                state.failure = None;
            }
        } else if state.closed {
            return;
        } else if state.wanted && state.prepared.is_none() && state.failure.is_none() {
            let spare = state.spares.pop();
            let ordinal = state.next_ordinal;
            state.next_ordinal += 1;
            match MutexGuard::unlocked(&mut state, || prepare(shared, ordinal, spare)) {
                Ok(prepared) => {
                    state.prepared = Some(prepared);
                    state.wanted = false;
                }
                Err(error) => {
                    tracing::warn!(%error, "journal: cannot make the next segment");
                    let retry_at = Instant::now() + RETRY_AFTER;
                    state.failure = Some((retry_at, Failure::from(&error)));
                }
            }
            keeper.made.notify_one();
        } else {
            keeper.asked.wait(&mut state);
        }
    }
}

/// The name of the spare that the job left.
fn do_job(job: Job, shared: &Shared, spare: bool) -> Option<String> {
    let disk = &*shared.log.disk;
    let done = match job {
        Job::Free(id) if spare => {
            let name = format!("{:016x}.spare", id.0);
            let renamed = disk
                .rename(Area::Segments, &id.file_name(), &name)
                .and_then(|()| disk.sync_directory(Area::Segments));
            if renamed.is_ok() {
                return Some(name);
            }
            renamed
        }
        Job::Free(id) => disk
            .remove(Area::Segments, &id.file_name())
            .and_then(|()| disk.sync_directory(Area::Segments)),
        // Not synced: what a crash brings back, recovery removes again.
        Job::RemoveLarge(name) => disk.remove(Area::Large, &large::file_name(name)),
        Job::Move(captures) => {
            relocate(shared, &captures);
            Ok(())
        }
    };
    if let Err(error) = done {
        tracing::warn!(%error, "journal: cannot clear a file away; the next start will");
    }
    None
}

/// Has the writer write captures again, so that their segment can be freed.
pub(super) fn relocate(shared: &Shared, captures: &[Location]) {
    for from in captures {
        let read = reader::capture_payload(&shared.log, *from)
            .and_then(|payload| Ok((payload, reader::acceptance(&shared.log, *from)?)));
        match read {
            Ok((payload, acceptance)) => shared.inbox.push(Op::Move(Box::new(MoveOp {
                from: *from,
                payload,
                acceptance,
            }))),
            Err(ReadError::Gone) => {}
            Err(ReadError::Damaged(cause)) => quarantine::set_aside(shared, *from, cause),
            Err(ReadError::Io(error)) => {
                tracing::error!(%error, "journal: cannot read a capture to move it");
            }
        }
    }
    shared.inbox.push(Op::MovesEnd);
}

fn prepare(shared: &Shared, ordinal: u32, spare: Option<String>) -> io::Result<Prepared> {
    let disk = &*shared.log.disk;
    let segment_bytes = shared.options.segment_bytes;
    let id = SegmentId::new(ordinal, rand::random());
    let name = id.file_name();
    if let Some(spare) = spare {
        let file = disk.open(Area::Segments, &spare)?;
        // One of another size is from another configuration.
        if file.bytes()? == segment_bytes {
            disk.rename(Area::Segments, &spare, &name)?;
            disk.sync_directory(Area::Segments)?;
            return Ok(Prepared { id, file });
        }
        disk.remove(Area::Segments, &spare)?;
    }
    shared.space.ask_again();
    let _promise = shared
        .promise_space(segment_bytes)
        .map_err(|error| match error {
            JournalError::Io { source, .. } => source,
            _ => io::ErrorKind::StorageFull.into(),
        })?;
    let unfinished = format!("{:016x}.new", id.0);
    let file = disk.create(Area::Segments, &unfinished)?;
    let filled = fill(&*file, 0, segment_bytes)
        .and_then(|()| disk.rename(Area::Segments, &unfinished, &name))
        .and_then(|()| disk.sync_directory(Area::Segments));
    match filled {
        Ok(()) => Ok(Prepared { id, file }),
        Err(error) => {
            // Gives the space back; whichever name it has by now.
            let _ = disk.remove(Area::Segments, &unfinished);
            let _ = disk.remove(Area::Segments, &name);
            Err(error)
        }
    }
}

/// Writes zeros from `at` to `end`, and syncs.
pub(super) fn fill(file: &dyn DiskFile, mut at: u64, end: u64) -> io::Result<()> {
    while at < end {
        let piece = (end - at).min(ZEROS.len() as u64);
        file.write_at(&ZEROS[..piece as usize], at)?;
        at += piece;
    }
    file.sync()
}
