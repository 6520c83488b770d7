//! The copy in the making: content into a draft, fingerprints beside it, a sighting at its end.

use std::{sync::Arc, time::SystemTime};

use super::{FrontEnd, reports::Reports};
use crate::{
    journal::{Captured, Draft, Journal, JournalError},
    message::{
        CaptureId, Fidelity, Fingerprinter, Origin, Protocol, Sighting, UnixMillis,
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
}

/// The id for a message that arrives now.
pub(super) fn next_id() -> (CaptureId, UnixMillis) {
    let now = UnixMillis::from_system(SystemTime::now());
    (CaptureId::from_parts(now, rand::random()), now)
}

impl Part {
    pub(super) fn begin(journal: &Journal) -> Result<Self, JournalError> {
        Ok(Self {
            draft: journal.draft()?,
            fingerprinter: Fingerprinter::new(),
            bytes: 0,
        })
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        self.bytes += bytes.len() as u64;
        self.fingerprinter.update(bytes);
        self.draft.write(bytes).await
    }
}

impl Copy {
    pub(super) fn begin(
        front: &FrontEnd,
        id: CaptureId,
        captured_at: UnixMillis,
    ) -> Result<Self, JournalError> {
        let reports = (front.options.protocol == Protocol::Journal)
            .then(|| Box::new(Reports::new(&front.journal, &front.reports)));
        Ok(Self {
            id,
            captured_at,
            whole: Part::begin(&front.journal)?,
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
        let sighting = Sighting {
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
            bytes: part.bytes,
            fingerprint: part.fingerprinter.finish(),
        };
        if front.rules.hold_end || front.options.role == Role::Journal {
            // The next hop hears the end, or the client its 250, only after this: out of time, nobody has the message.
            part.draft.discard_unheard();
        }
        part.draft.commit(&sighting).await
    }
}
