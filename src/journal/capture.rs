//! The way in: a draft gathers a message, commits it, and becomes a capture that awaits its fate.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::sync::oneshot;

use super::{
    JournalError,
    format::{CaptureHead, Location, Record},
    large::LargeDraft,
    shared::{CaptureOp, Change, Op, Shared},
};
use crate::message::{Acceptance, CaptureId, Sighting, WireText};

/// A message being received. Dropped before `commit`, it never was.
pub struct Draft {
    shared: Arc<Shared>,
    content: Content,
    bytes: u64,
    reserved: Reserved,
    discard_unheard: bool,
}

enum Content {
    Memory(Vec<u8>),
    File(LargeDraft),
}

impl Draft {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        shared.open_drafts.fetch_add(1, Relaxed);
        Self {
            content: Content::Memory(Vec::new()),
            bytes: 0,
            reserved: Reserved {
                shared: shared.clone(),
                bytes: 0,
                memory: 0,
            },
            discard_unheard: false,
            shared,
        }
    }

    /// Nobody passes the message on before `commit` returns: where its caller goes away instead, the capture is
    /// discarded. Without this it is forwarded as unknown, since somebody may have it.
    pub fn discard_unheard(&mut self) {
        self.discard_unheard = true;
    }

    /// Takes memory for a draft of so many bytes, before the first of them; false: there is none, it goes to a file.
    pub fn hold(&mut self, bytes: u64) -> bool {
        let Content::Memory(held) = &mut self.content else {
            return false;
        };
        let has_room = bytes <= self.shared.options.large_bytes_min && self.reserved.memory(bytes);
        if has_room {
            // At most `large_bytes_min`, so it fits.
            held.reserve_exact(bytes as usize);
        }
        has_room
    }

    /// What was written, while it is in memory.
    pub fn held(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Memory(held) => Some(held),
            Content::File(_) => None,
        }
    }

    /// Adds the next bytes where they stay in memory; false: they do not, and must be [written](Self::write).
    pub fn write_held(&mut self, bytes: &[u8]) -> Result<bool, JournalError> {
        let count = bytes.len() as u64;
        let whole = self.bytes + count;
        let Content::Memory(held) = &mut self.content else {
            return Ok(false);
        };
        if whole > self.shared.options.large_bytes_min || !self.reserved.memory(whole) {
            return Ok(false);
        }
        self.reserved.capacity(count)?;
        self.bytes = whole;
        held.extend_from_slice(bytes);
        Ok(true)
    }

    /// Adds the next bytes. On an error the draft is of no more use: drop it.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        if self.write_held(bytes)? {
            return Ok(());
        }
        let count = bytes.len() as u64;
        self.bytes += count;
        self.reserved.capacity(count)?;
        if let Content::Memory(held) = &mut self.content {
            let mut file = LargeDraft::create(self.shared.clone()).await?;
            file.write(&std::mem::take(held)).await?;
            self.content = Content::File(file);
            self.reserved.give_memory_back();
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
        let meta = head.encode(&json);
        self.reserved.capacity(meta.len() as u64)?;
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
            discard_unheard: self.discard_unheard,
            reserved: self.reserved,
            reply,
        })));
        // A caller that goes away here leaves a capture whose drop says what becomes of it.
        let mut captured = answer.await.map_err(|_| JournalError::Closed)??;
        captured.discard_dropped = false;
        Ok(captured)
    }
}

/// What a draft takes of the journal's limits; given back when the index counts the capture, or nobody needs it.
pub(super) struct Reserved {
    shared: Arc<Shared>,
    /// Counted in the shared `draft_bytes`.
    bytes: u64,
    /// Counted in the shared `draft_memory`.
    memory: u64,
}

impl Reserved {
    fn capacity(&mut self, count: u64) -> Result<(), JournalError> {
        self.bytes += count;
        let drafts = self.shared.draft_bytes.fetch_add(count, Relaxed) + count;
        let held = drafts + self.shared.live_bytes.load(Relaxed);
        match held > self.shared.options.capacity_bytes {
            // Counted twice, maybe, while the writer hands it over to the index: asked again under the lock.
            true => self.shared.check_room(0),
            false => Ok(()),
        }
    }

    /// For a draft that holds so many bytes in all.
    fn memory(&mut self, bytes: u64) -> bool {
        let count = bytes.saturating_sub(self.memory);
        if count == 0 {
            return true;
        }
        let limit = self.shared.options.draft_memory_bytes;
        let held = self.shared.draft_memory.fetch_add(count, Relaxed) + count;
        match held > limit {
            true => _ = self.shared.draft_memory.fetch_sub(count, Relaxed),
            false => self.memory += count,
        }
        held <= limit
    }

    pub(super) fn give_back(&mut self) {
        self.give_memory_back();
        self.shared.draft_bytes.fetch_sub(self.bytes, Relaxed);
        self.bytes = 0;
    }

    fn give_memory_back(&mut self) {
        self.shared.draft_memory.fetch_sub(self.memory, Relaxed);
        self.memory = 0;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.give_back();
        self.shared.open_drafts.fetch_sub(1, Relaxed);
    }
}

/// A synced capture whose fate at the next hop is not yet known. Dropped without a word, it is forwarded as
/// [`Acceptance::Unknown`].
#[must_use]
pub struct Captured {
    shared: Arc<Shared>,
    at: Location,
    id: CaptureId,
    told: bool,
    /// On its way to who committed it: see [`Draft::discard_unheard`].
    discard_dropped: bool,
}

impl Captured {
    pub(super) fn new(shared: Arc<Shared>, at: Location, op: &CaptureOp) -> Self {
        Self {
            shared,
            at,
            id: op.head.id,
            told: false,
            discard_dropped: op.discard_unheard,
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
            self.tell(Acceptance::Unknown, self.discard_dropped);
        }
    }
}
