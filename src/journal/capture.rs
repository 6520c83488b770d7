//! The way in: a draft gathers a message, commits it, and becomes a capture that awaits its fate.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::sync::oneshot;

use super::{
    JournalError,
    format::{CAPTURE_HEAD_BYTES, CaptureHead, Location, Record},
    large::LargeDraft,
    shared::{CaptureOp, Change, Op, Shared},
};
use crate::message::{Acceptance, CaptureId, Sighting, WireText};

/// A message being received. Dropped before `commit`, it never was.
pub struct Draft {
    shared: Arc<Shared>,
    content: Content,
    /// Counted in the shared `draft_bytes`.
    bytes: u64,
    /// Counted in the shared `draft_memory`.
    memory: u64,
}

enum Content {
    Memory(Vec<u8>),
    File(LargeDraft),
}

impl Draft {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            content: Content::Memory(Vec::new()),
            bytes: 0,
            memory: 0,
        }
    }

    /// Adds the next bytes. On an error the draft is of no more use: drop it.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        let count = bytes.len() as u64;
        self.bytes += count;
        let drafts = self.shared.draft_bytes.fetch_add(count, Relaxed) + count;
        if drafts > self.shared.options.capacity_bytes {
            self.shared.check_room(0)?;
        }
        if let Content::Memory(held) = &mut self.content {
            if self.bytes <= self.shared.options.large_bytes_min && reserve(&self.shared, count) {
                self.memory += count;
                held.extend_from_slice(bytes);
                return Ok(());
            }
            let mut file = LargeDraft::create(self.shared.clone()).await?;
            file.write(&std::mem::take(held)).await?;
            self.content = Content::File(file);
            self.give_memory_back();
        }
        match &mut self.content {
            Content::File(file) => file.write(bytes).await,
            Content::Memory(_) => unreachable!("made a file just above"),
        }
    }

    /// Survives power loss when it returns. `sighting.bytes` must be what was written.
    pub async fn commit(mut self, sighting: &Sighting) -> Result<Captured, JournalError> {
        let (body, large) = match std::mem::replace(&mut self.content, Content::Memory(Vec::new()))
        {
            Content::Memory(body) => (body, None),
            Content::File(mut file) => {
                let made = file.finish().await?;
                (Vec::new(), Some((made, file)))
            }
        };
        let json = serde_json::to_vec(sighting).map_err(|error| JournalError::Io {
            step: "encode the sighting",
            source: error.into(),
        })?;
        let head = CaptureHead {
            id: sighting.id,
            captured_at: sighting.captured_at.0,
            content_bytes: self.bytes,
            sighting_bytes: u32::try_from(json.len()).unwrap_or(u32::MAX),
            large: large.as_ref().map(|(made, _)| *made),
        };
        let mut meta = Vec::with_capacity(CAPTURE_HEAD_BYTES + json.len());
        head.encode(&mut meta);
        meta.extend_from_slice(&json);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&meta);
        crc.update(&body);
        let (reply, answer) = oneshot::channel();
        self.shared.inbox.push(Op::Capture(Box::new(CaptureOp {
            head,
            meta,
            body,
            large: large.map(|(_, file)| file),
            crc: crc.finalize(),
            reply,
        })));
        // A caller that goes away here leaves a capture that the writer releases as unknown.
        answer.await.map_err(|_| JournalError::Closed)?
    }

    fn give_memory_back(&mut self) {
        self.shared.draft_memory.fetch_sub(self.memory, Relaxed);
        self.memory = 0;
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.give_memory_back();
        self.shared.draft_bytes.fetch_sub(self.bytes, Relaxed);
    }
}

fn reserve(shared: &Shared, count: u64) -> bool {
    let limit = shared.options.draft_memory_bytes;
    let held = shared.draft_memory.fetch_add(count, Relaxed) + count;
    if held > limit {
        shared.draft_memory.fetch_sub(count, Relaxed);
    }
    held <= limit
}

/// A synced capture whose fate at the next hop is not yet known. Dropped without a word, it is forwarded as
/// [`Acceptance::Unknown`].
#[must_use]
pub struct Captured {
    shared: Arc<Shared>,
    at: Location,
    id: CaptureId,
    told: bool,
}

impl Captured {
    pub(super) fn new(shared: Arc<Shared>, at: Location, id: CaptureId) -> Self {
        Self {
            shared,
            at,
            id,
            told: false,
        }
    }

    /// The name under which logs, targets and operators know it.
    pub fn id(&self) -> CaptureId {
        self.id
    }

    /// Records what the next hop said and lets the capture go to the targets, a rejected one too: a front end that does
    /// not keep those calls [`Captured::discard`].
    pub fn release(mut self, acceptance: Acceptance) {
        self.tell(acceptance, false);
    }

    /// The next hop refused it and nobody wants the copy.
    pub fn discard(mut self, reply: WireText) {
        self.tell(Acceptance::Rejected { reply }, true);
    }

    fn tell(&mut self, acceptance: Acceptance, discard: bool) {
        self.told = true;
        self.shared.inbox.push(Change::of(Record::Fate {
            of: self.at,
            discard,
            acceptance,
        }));
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        if !self.told {
            self.tell(Acceptance::Unknown, false);
        }
    }
}
