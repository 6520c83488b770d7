//! The queue as an operator sees it: listed, shown, exported; from the open journal or, read only, beside it.
//!
//! Everything here reads the disk and blocks: call it off the runtime's own threads. Captures come and go meanwhile; a
//! page is right when it is made, and no later.

use std::{fmt, io, path::Path, str::FromStr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

use super::{
    JournalError,
    disk::RealDisk,
    format::{Location, SegmentId},
    index::{Entry, Index, START},
    reader::{self, ReadError, Whole},
    recovery::{self, Mode},
    shared::{Log, failed},
};
use crate::message::{Acceptance, CaptureId, Protocol, Sighting, UnixMillis, WireText};

/// A way to look at the captures that are not finished.
#[derive(Clone)]
pub struct View {
    log: Arc<Log>,
}

/// What a capture is for one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum TargetState {
    /// The next hop has not answered yet.
    Unanswered,
    Waiting,
    /// Being forwarded now.
    Leased {
        attempts: u32,
    },
    /// Tried, and to be tried again.
    Postponed {
        attempts: u32,
        why: String,
        due_in_secs: u64,
    },
    Parked {
        why: String,
    },
    /// An operator holds it back.
    Held,
    Done,
}

impl TargetState {
    /// The word of listings and of `--state`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unanswered => "unanswered",
            Self::Waiting => "waiting",
            Self::Leased { .. } => "leased",
            Self::Postponed { .. } => "postponed",
            Self::Parked { .. } => "parked",
            Self::Held => "held",
            Self::Done => "done",
        }
    }
}

/// Which captures to list; an empty filter is all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Not done for this target.
    pub target: Option<String>,
    /// In this state, by [`TargetState::name`], for that target (for any, when none is named).
    pub state: Option<String>,
}

/// A row of the queue.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    pub id: CaptureId,
    pub captured_at: UnixMillis,
    pub frontend: String,
    pub protocol: Protocol,
    pub sender: WireText,
    /// Those that the next hop took.
    pub recipients: Vec<WireText>,
    /// Content length.
    pub bytes: u64,
    /// By target, in no particular order.
    pub targets: Vec<(String, TargetState)>,
}

/// Everything about one capture but its content.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    pub sighting: Sighting,
    pub acceptance: Acceptance,
    pub targets: Vec<(String, TargetState)>,
}

/// Where a listing goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageToken(Location);

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:08x}", self.0.segment.0, self.0.offset)
    }
}

impl FromStr for PageToken {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (segment, offset) = text.split_once('-').unwrap_or((text, ""));
        Ok(Self(Location {
            segment: SegmentId(u64::from_str_radix(segment, 16)?),
            offset: u32::from_str_radix(offset, 16)?,
        }))
    }
}

/// Some of the queue, and where the next page begins.
#[derive(Clone, Debug)]
pub struct Page {
    pub captures: Vec<Listed>,
    /// `None` on the last page.
    pub next: Option<PageToken>,
}

/// Captures looked at under one hold of the lock.
const GLANCE: usize = 1_000;
/// How far the time in an id and the time of capture may lie apart for the quick search.
const ID_SLACK: Duration = Duration::from_secs(3_600);

impl View {
    pub(super) fn new(log: Arc<Log>) -> Self {
        Self { log }
    }

    /// Reads the journal of a data directory as it is on disk, whether a daemon has it open or not.
    pub fn open(data_dir: &Path) -> Result<Self, JournalError> {
        let disk = RealDisk::open_read_only(&data_dir.join("journal")).map_err(failed("open"))?;
        let recovered = recovery::recover(&disk, Mode::Look).map_err(failed("read"))?;
        Ok(Self::new(Arc::new(Log {
            disk: Arc::new(disk),
            index: Mutex::new(recovered.index),
        })))
    }

    /// At most `count` captures in the order of the log, from `page` on.
    pub fn list(
        &self,
        filter: &Filter,
        page: Option<PageToken>,
        count: usize,
    ) -> Result<Page, JournalError> {
        let mut captures = Vec::new();
        let mut next = page.map(|token| token.0);
        loop {
            let (glance, rest) = self.glance(next, |index, of, entry| {
                filter.admits(&states(index, of, entry))
            });
            next = rest;
            for of in glance {
                if captures.len() == count {
                    return Ok(Page {
                        captures,
                        next: Some(PageToken(of)),
                    });
                }
                captures.extend(self.listed(of)?);
            }
            if next.is_none() {
                return Ok(Page {
                    captures,
                    next: None,
                });
            }
        }
    }

    /// One capture by its id; `None` where it is finished or never was.
    pub fn show(&self, id: CaptureId) -> Result<Option<Shown>, JournalError> {
        let Some((of, whole)) = self.whole(id)? else {
            return Ok(None);
        };
        Ok(Some(Shown {
            sighting: whole.sighting,
            acceptance: whole.acceptance,
            targets: self.states(of),
        }))
    }

    /// Writes the content, byte for byte, and says how long it is.
    pub fn export(
        &self,
        id: CaptureId,
        out: &mut dyn io::Write,
    ) -> Result<Option<u64>, JournalError> {
        let Some((_, whole)) = self.whole(id)? else {
            return Ok(None);
        };
        let mut content = whole.body.open().map_err(failed("open a large file"))?;
        let copied = io::copy(&mut content, out).map_err(failed("export"))?;
        Ok(Some(copied))
    }

    fn whole(&self, id: CaptureId) -> Result<Option<(Location, Whole)>, JournalError> {
        while let Some(of) = self.find(id)? {
            match reader::whole(&self.log, of) {
                Ok(whole) => return Ok(Some((of, whole))),
                // Moved, or finished and cleared away: the next look tells.
                Err(ReadError::Gone) if !self.is_live(of) => {}
                Err(error) => return unreadable(error).map(|()| None),
            }
        }
        Ok(None)
    }

    /// Looks for a capture by its id: first among those captured about the time that the id tells.
    pub(super) fn find(&self, id: CaptureId) -> Result<Option<Location>, JournalError> {
        let mut millis = [0; 8];
        millis[2..].copy_from_slice(&id.to_bytes()[..6]);
        let told = u64::from_be_bytes(millis);
        let slack = ID_SLACK.as_millis() as u64;
        for quick in [true, false] {
            let mut next = None;
            loop {
                let (glance, rest) = self.glance(next, |_, _, entry| {
                    (entry.captured_at.abs_diff(told) <= slack) == quick
                });
                for of in glance {
                    if self.is_at(of, id)? {
                        return Ok(Some(of));
                    }
                }
                next = rest;
                if next.is_none() {
                    break;
                }
            }
        }
        // One that was moved meanwhile may have been missed in its old place, being gone from there when it was read.
        loop {
            let (moves, moved) = {
                let index = self.log.index.lock();
                (index.moves, index.moved())
            };
            for of in moved {
                if self.is_at(of, id)? {
                    return Ok(Some(of));
                }
            }
            if self.log.index.lock().moves == moves {
                return Ok(None);
            }
        }
    }

    fn is_live(&self, of: Location) -> bool {
        let index = self.log.index.lock();
        index.entry(of).is_some_and(|entry| !entry.is_finished())
    }

    fn is_at(&self, of: Location, id: CaptureId) -> Result<bool, JournalError> {
        match reader::id_of(&self.log, of) {
            Ok(found) => Ok(found == id),
            Err(error) => unreadable(error).map(|()| false),
        }
    }

    /// The next unfinished captures from `from` on that are wanted, and where to go on.
    fn glance(
        &self,
        from: Option<Location>,
        wanted: impl Fn(&Index, Location, &Entry) -> bool,
    ) -> (Vec<Location>, Option<Location>) {
        let index = self.log.index.lock();
        let mut found = Vec::new();
        let start = from.unwrap_or(START);
        for (seen, (of, entry)) in index.entries_from(start).enumerate() {
            if seen == GLANCE {
                return (found, Some(of));
            }
            if !entry.is_finished() && wanted(&index, of, entry) {
                found.push(of);
            }
        }
        (found, None)
    }

    fn listed(&self, of: Location) -> Result<Option<Listed>, JournalError> {
        let sighting = match reader::sighting(&self.log, of) {
            Ok(sighting) => sighting,
            Err(error) => return unreadable(error).map(|()| None),
        };
        let (sender, recipients) = match sighting.envelope() {
            Some(envelope) => (
                envelope.sender.clone(),
                envelope.accepted().map(|r| r.address.clone()).collect(),
            ),
            None => (WireText::default(), Vec::new()),
        };
        Ok(Some(Listed {
            id: sighting.id,
            captured_at: sighting.captured_at,
            protocol: sighting.protocol,
            sender,
            recipients,
            bytes: sighting.bytes,
            targets: self.states(of),
            frontend: sighting.frontend,
        }))
    }

    fn states(&self, of: Location) -> Vec<(String, TargetState)> {
        let index = self.log.index.lock();
        match index.entry(of) {
            Some(entry) => states(&index, of, entry),
            None => Vec::new(),
        }
    }
}

impl Filter {
    fn admits(&self, states: &[(String, TargetState)]) -> bool {
        if self.target.is_none() && self.state.is_none() {
            return true;
        }
        states.iter().any(|(name, state)| {
            self.target.as_ref().is_none_or(|target| target == name)
                && match &self.state {
                    Some(wanted) => wanted == state.name(),
                    None => *state != TargetState::Done,
                }
        })
    }
}

fn states(index: &Index, of: Location, entry: &Entry) -> Vec<(String, TargetState)> {
    let targets = index.targets.iter().enumerate();
    let named = targets.filter_map(|(slot, target)| Some((slot as u8, target.as_ref()?)));
    named
        .map(|(slot, target)| {
            let tried = target.tried.get(&of);
            let attempts = tried.map_or(0, |tried| tried.attempts);
            let state = if entry.is_done_for(slot) {
                TargetState::Done
            } else if !entry.has_fate() {
                TargetState::Unanswered
            } else if let Some(why) = target.parked.get(&of) {
                TargetState::Parked {
                    why: why.to_string(),
                }
            } else if entry.is_held() {
                TargetState::Held
            } else if target.leased.contains(&of) {
                TargetState::Leased { attempts }
            } else if let Some((tried, due)) =
                tried.and_then(|tried| tried.due.map(|due| (tried, due)))
            {
                TargetState::Postponed {
                    attempts,
                    why: tried.why.to_string(),
                    due_in_secs: due.saturating_duration_since(Instant::now()).as_secs(),
                }
            } else {
                TargetState::Waiting
            };
            (target.name.clone(), state)
        })
        .collect()
}

/// A capture that went while it was looked at, or that the quarantine will have, is left out.
fn unreadable(error: ReadError) -> Result<(), JournalError> {
    match error {
        ReadError::Gone | ReadError::Damaged(_) => Ok(()),
        ReadError::Io(source) => Err(failed("read a capture")(source)),
    }
}
