//! Journal reports: the message inside is drafted while the report arrives. The whole is drafted beside it, for until
//! its end nobody knows whether the report can be taken apart.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::copy::Part;
use crate::{
    journal::{Journal, JournalError},
    message::{
        Envelope,
        journal_report::{Limits, ReportError, ReportParser, Standing},
    },
};

/// What the reports of all sessions of one front end may hold in memory together: four with 300,000 recipients each, or
/// thousands of usual ones.
const HELD_BYTES_MAX: usize = 64 << 20;

/// What the reports that arrive just now hold in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Budget(Arc<AtomicUsize>);

/// One report's part of it; given back when dropped.
struct Share {
    budget: Budget,
    bytes: usize,
}

impl Share {
    /// False: it is too much for all together, and nothing has changed.
    fn resize(&mut self, bytes: usize) -> bool {
        let others = |held: usize| held - self.bytes;
        let resized = self
            .budget
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                let total = others(held) + bytes;
                (bytes <= self.bytes || total <= HELD_BYTES_MAX).then_some(total)
            });
        if resized.is_ok() {
            self.bytes = bytes;
        }
        resized.is_ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.resize(0);
    }
}

pub(super) struct Reports {
    journal: Journal,
    patience: Duration,
    share: Share,
    parser: ReportParser,
    inner: Option<Part>,
    buffer: Vec<u8>,
}

impl Reports {
    pub(super) fn new(journal: &Journal, budget: &Budget, patience: Duration) -> Self {
        Self {
            journal: journal.clone(),
            patience,
            share: Share {
                budget: budget.clone(),
                bytes: 0,
            },
            parser: ReportParser::new(Limits::default()),
            inner: None,
            buffer: Vec::new(),
        }
    }

    /// An error also where the reports of all sessions hold too much: this one may come again later.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        let standing = self.parser.feed(bytes, &mut self.buffer);
        if !self.share.resize(self.parser.held_bytes()) {
            return Err(JournalError::Io {
                step: "hold a journal report",
                source: io::ErrorKind::OutOfMemory.into(),
            });
        }
        if standing == Standing::Whole {
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
            None => Part::begin(&self.journal, self.patience)?,
        };
        inner.write(&self.buffer).await?;
        self.buffer.clear();
        self.inner = Some(inner);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reports_of_all_sessions_share_one_bound() {
        let budget = Budget::default();
        let share = || Share {
            budget: budget.clone(),
            bytes: 0,
        };
        let (mut first, mut second) = (share(), share());
        assert!(first.resize(HELD_BYTES_MAX - 10));
        assert!(second.resize(10));
        assert!(!second.resize(11), "too much together");
        assert!(second.resize(9), "less is never refused");
        drop(first);
        assert!(second.resize(11), "what is dropped is given back");
        drop(second);
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }
}
