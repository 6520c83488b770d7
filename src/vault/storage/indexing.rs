//! How far the full-text search has come, and how far somebody waits for it to come: the meeting point of the indexer, which
//! stands back while mail comes in, and of who searches, for whom it hurries.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

/// What is not found by then is not found: the indexer is far behind.
const PATIENCE: Duration = Duration::from_secs(5);

/// Both count rows: those below are indexed, or are to be.
pub(crate) struct Indexing {
    reached: watch::Sender<i64>,
    wanted: watch::Sender<i64>,
}

impl Indexing {
    pub(super) fn new() -> Self {
        Self {
            reached: watch::Sender::new(0),
            wanted: watch::Sender::new(0),
        }
    }

    /// All rows below are indexed.
    pub(crate) fn reach(&self, row_end: i64) {
        self.reached.send_replace(row_end);
    }

    /// Returns when somebody waits for what is not indexed.
    pub(crate) async fn is_wanted(&self) {
        let reached = *self.reached.borrow();
        let mut wanted = self.wanted.subscribe();
        if wanted.wait_for(|&wanted| wanted > reached).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until the rows below are indexed, for [`PATIENCE`] at most.
    pub(super) async fn wait_for(&self, row_end: i64) {
        self.wanted.send_if_modified(|wanted| {
            let is_more = row_end > *wanted;
            *wanted = row_end.max(*wanted);
            is_more
        });
        let mut reached = self.reached.subscribe();
        let _ = timeout(PATIENCE, reached.wait_for(|&reached| reached >= row_end)).await;
    }
}
