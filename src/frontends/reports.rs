//! Journal reports: the message inside is drafted while the report arrives. The whole is drafted beside it, for until
//! its end nobody knows whether the report can be taken apart.

use super::copy::Part;
use crate::{
    journal::{Journal, JournalError},
    message::{
        Envelope,
        journal_report::{Limits, ReportError, ReportParser, Standing},
    },
};

pub(super) struct Reports {
    journal: Journal,
    parser: ReportParser,
    inner: Option<Part>,
    buffer: Vec<u8>,
}

impl Reports {
    pub(super) fn new(journal: &Journal) -> Self {
        Self {
            journal: journal.clone(),
            parser: ReportParser::new(Limits::default()),
            inner: None,
            buffer: Vec::new(),
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        if self.parser.feed(bytes, &mut self.buffer) == Standing::Whole {
            self.inner = None;
            return Ok(());
        }
        self.drain().await
    }

    /// The inner message and its envelope; an error where the whole has to be kept.
    pub(super) async fn finish(
        mut self: Box<Self>,
    ) -> Result<Result<(Part, Envelope), ReportError>, JournalError> {
        let parser = std::mem::replace(&mut self.parser, ReportParser::new(Limits::default()));
        let report = match parser.finish(&mut self.buffer) {
            Ok(report) => report,
            Err(error) => return Ok(Err(error)),
        };
        self.drain().await?;
        Ok(match self.inner {
            Some(inner) => Ok((inner, report.envelope)),
            None => Err(ReportError::EmptyInner),
        })
    }

    async fn drain(&mut self) -> Result<(), JournalError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut inner = match self.inner.take() {
            Some(inner) => inner,
            None => Part::begin(&self.journal)?,
        };
        inner.write(&self.buffer).await?;
        self.buffer.clear();
        self.inner = Some(inner);
        Ok(())
    }
}
