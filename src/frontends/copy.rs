//! The copy in the making: content into a draft, fingerprints beside it, a sighting at its end.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::timeout;

use super::{FrontEnd, reports::Reports};
use crate::{
    journal::{Captured, Draft, Journal, JournalError},
    message::{
        CaptureId, Fidelity, Fingerprint, Fingerprinter, Origin, Protocol, Sighting, UnixMillis,
        journal_report::ReportError,
    },
    wire::smtp::{Role, relay::Ended},
};

/// One message on its way into the journal.
pub(super) struct Copy {
    pub(super) id: CaptureId,
    captured_at: UnixMillis,
    whole: Part,
    /// At a journal endpoint: the message inside the report.
    reports: Option<Box<Reports>>,
}

/// Content and its fingerprint.
pub(super) struct Part {
    draft: Draft,
    /// None: what there is is in memory, and hashed at its end.
    fingerprinter: Option<Fingerprinter>,
    /// So many bytes stay in memory.
    room: u64,
    bytes: u64,
    /// For the disk to take what is written to it: large content goes there as it comes.
    patience: Duration,
}

/// All of a message, and its fingerprint.
pub(super) struct Whole {
    draft: Draft,
    fingerprint: Fingerprint,
    bytes: u64,
}

/// What is known of a message at its end, beside its bytes.
pub(super) struct Seen {
    pub(super) id: CaptureId,
    pub(super) captured_at: UnixMillis,
    pub(super) frontend: String,
    pub(super) protocol: Protocol,
    pub(super) session: String,
    pub(super) origin: Origin,
    pub(super) fidelity: Vec<Fidelity>,
    /// Nobody passes the message on before the sync.
    pub(super) discard_unheard: bool,
}

/// The disk had its time.
pub(super) fn late(step: &'static str) -> JournalError {
    JournalError::Io {
        step,
        source: io::ErrorKind::TimedOut.into(),
    }
}

/// The id for a message that arrives now.
pub(super) fn next_id() -> (CaptureId, UnixMillis) {
    let now = UnixMillis::from_system(SystemTime::now());
    (CaptureId::from_parts(now, rand::random()), now)
}

impl Part {
    pub(super) fn begin(journal: &Journal, patience: Duration) -> Result<Self, JournalError> {
        Ok(Self {
            patience,
            draft: journal.draft()?,
            fingerprinter: Some(Fingerprinter::new()),
            room: 0,
            bytes: 0,
        })
    }

    /// For content of about so many bytes that may come to nothing: where they have room in memory, no work is done
    /// before [`finish`](Self::finish).
    pub(super) fn begin_late(
        journal: &Journal,
        patience: Duration,
        bytes: u64,
    ) -> Result<Self, JournalError> {
        let mut part = Self::begin(journal, patience)?;
        if part.draft.hold(bytes) {
            part.room = bytes;
            part.fingerprinter = None;
        }
        Ok(part)
    }

    /// A digest of what there is, for who remembers content: the fastest to be had, so the same content may have two.
    pub(super) fn digest(&self) -> [u8; 32] {
        match &self.fingerprinter {
            Some(fingerprinter) => fingerprinter.k1().0,
            None => blake3::hash(self.unhashed()).into(),
        }
    }

    fn unhashed(&self) -> &[u8] {
        let held = self.draft.held();
        held.expect("what goes to a file is hashed before")
    }

    /// The next bytes where they stay in memory; false: they do not, and must be [written](Self::write).
    pub(super) fn write_held(&mut self, bytes: &[u8]) -> Result<bool, JournalError> {
        if self.bytes + bytes.len() as u64 > self.room {
            self.hash_from_here();
        }
        let is_held = self.draft.write_held(bytes)?;
        if is_held {
            self.count(bytes);
        }
        Ok(is_held)
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        if self.write_held(bytes)? {
            return Ok(());
        }
        self.hash_from_here();
        self.count(bytes);
        let written = timeout(self.patience, self.draft.write(bytes)).await;
        written.unwrap_or_else(|_| Err(late("write in time")))
    }

    fn hash_from_here(&mut self) {
        let held = self.draft.held();
        self.fingerprinter.get_or_insert_with(|| {
            let mut fingerprinter = Fingerprinter::new();
            fingerprinter.update(held.unwrap_or_default());
            fingerprinter
        });
    }

    fn count(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some(fingerprinter) = &mut self.fingerprinter {
            fingerprinter.update(bytes);
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Nothing more comes.
    pub(super) fn finish(self) -> Whole {
        let fingerprint = match self.fingerprinter {
            Some(fingerprinter) => fingerprinter.finish(),
            None => Fingerprinter::of(self.unhashed()),
        };
        Whole {
            draft: self.draft,
            bytes: self.bytes,
            fingerprint,
        }
    }
}

impl Whole {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Survives power loss when it returns.
    pub(super) async fn commit(mut self, seen: Seen) -> Result<Captured, JournalError> {
        let sighting = Sighting {
            id: seen.id,
            captured_at: seen.captured_at,
            frontend: seen.frontend,
            protocol: seen.protocol,
            session: seen.session,
            origin: seen.origin,
            fidelity: seen.fidelity,
            bytes: self.bytes,
            fingerprint: self.fingerprint,
        };
        if seen.discard_unheard {
            self.draft.discard_unheard();
        }
        self.draft.commit(&sighting).await
    }
}

impl Copy {
    pub(super) fn begin(
        front: &FrontEnd,
        id: CaptureId,
        captured_at: UnixMillis,
    ) -> Result<Self, JournalError> {
        let patience = front.options.limits.capture;
        let reports = (front.options.protocol == Protocol::Journal)
            .then(|| Box::new(Reports::new(&front.journal, &front.reports, patience)));
        Ok(Self {
            id,
            captured_at,
            whole: Part::begin(&front.journal, patience)?,
            reports,
        })
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        if let Some(reports) = &mut self.reports {
            reports.write(bytes).await?;
        }
        self.whole.write(bytes).await
    }

    /// Survives power loss when it returns.
    pub(super) async fn commit(
        self,
        front: &Arc<FrontEnd>,
        session: &str,
        ended: Ended,
    ) -> Result<Captured, JournalError> {
        let mut fidelity = Vec::new();
        if ended.replaced {
            fidelity.push(Fidelity::CrLfReplaced);
        }
        let (mut part, mut envelope) = (self.whole, ended.envelope);
        if let Some(reports) = self.reports {
            match reports.finish().await? {
                Ok((inner, reported)) => {
                    part = inner;
                    envelope = reported;
                }
                Err(ReportError::NotAReport) => {}
                Err(error) => {
                    tracing::warn!(capture = %self.id, %error, "kept the whole report");
                    fidelity.push(Fidelity::ReportUnparsed);
                }
            }
        }
        let seen = Seen {
            id: self.id,
            captured_at: self.captured_at,
            frontend: front.options.name.clone(),
            protocol: front.options.protocol,
            session: session.to_owned(),
            origin: Origin::Transaction {
                envelope,
                client: ended.client,
            },
            fidelity,
            // The next hop hears the end, or the client its 250, only after the sync: out of time, nobody has the message.
            discard_unheard: front.rules.hold_end || front.options.role == Role::Journal,
        };
        part.finish().commit(seen).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{journal, metrics::Metrics};

    /// The digest before the end, and the fingerprint.
    async fn hashed(mut part: Part, content: &[u8], size: usize) -> ([u8; 32], Fingerprint) {
        for piece in content.chunks(size) {
            part.write(piece).await.unwrap();
        }
        let digest = part.digest();
        let whole = part.finish();
        assert_eq!(whole.bytes, content.len() as u64);
        (digest, whole.fingerprint)
    }

    #[tokio::test]
    async fn the_fingerprint_is_the_same_whenever_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let options = journal::Options {
            data_dir: dir.path().to_owned(),
            segment_bytes: 64 << 10,
            capacity_bytes: 64 << 20,
            free_bytes_min: 0,
            large_bytes_min: 16 << 10,
            draft_memory_bytes: 1 << 20,
            abandon_targets: Vec::new(),
        };
        let metrics = Arc::new(Metrics::new());
        let journal = Journal::open(options, &["vault".to_owned()], metrics).unwrap();
        let patience = Duration::from_secs(60);
        for length in [0, 1, 700, 10_000, 30_000] {
            let line = b"Subject: a message\r\n\r\nand its text\n";
            let content: Vec<u8> = line.iter().copied().cycle().take(length).collect();
            let expected = Fingerprinter::of(&content);
            let mut digests = Vec::new();
            for size in [7, 4_096, 100_000] {
                let part = Part::begin(&journal, patience).unwrap();
                let (digest, fingerprint) = hashed(part, &content, size).await;
                assert_eq!((digest, fingerprint), (expected.k1.0, expected));
                // As announced; less and more than was announced.
                for announced in [length, length + 100, length / 2, 0] {
                    let part = Part::begin_late(&journal, patience, announced as u64).unwrap();
                    let (digest, fingerprint) = hashed(part, &content, size).await;
                    assert_eq!(fingerprint, expected, "{length} in {size} of {announced}");
                    if announced == length {
                        digests.push(digest);
                    }
                }
            }
            digests.dedup();
            assert_eq!(digests.len(), 1, "{length}: it is remembered by one name");
        }
    }
}
