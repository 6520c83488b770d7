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
    fingerprinter: Fingerprinter,
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
            fingerprinter: Fingerprinter::new(),
            bytes: 0,
        })
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        self.bytes += bytes.len() as u64;
        self.fingerprinter.update(bytes);
        let written = timeout(self.patience, self.draft.write(bytes)).await;
        written.unwrap_or_else(|_| Err(late("write in time")))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Nothing more comes.
    pub(super) fn finish(self) -> Whole {
        Whole {
            draft: self.draft,
            bytes: self.bytes,
            fingerprint: self.fingerprinter.finish(),
        }
    }
}

impl Whole {
    pub(super) fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

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
