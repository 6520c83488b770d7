//! The one writer of the index: takes what waits, runs it in one transaction, commits, syncs once, answers all.

use std::{
    collections::BTreeMap,
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::{StoreError, Writer, rows, writer::Counters};
use crate::metrics::Metrics;

/// A round takes no more than this many jobs, so that the first of them does not wait for all that keep coming.
const ROUND_JOBS_MAX: usize = 64;

/// How far syncing has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(super) synced: u64,
    pub(super) failed: bool,
    /// The JMAP state that is synced.
    pub(crate) state: i64,
    /// Rows below this are synced.
    pub(crate) row_end: i64,
}

/// A job of unknown answer, so that one queue takes all.
pub(super) trait Work: Send {
    /// False: its steps are to be undone.
    fn run(&mut self, writer: &mut Writer<'_>) -> bool;
    /// The round's end: its own answer, or why the whole round failed.
    fn settle(self: Box<Self>, round: Result<(), StoreError>);
}

pub(super) struct Task<F, T> {
    work: Option<F>,
    made: Result<T, StoreError>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Task<F, T> {
    pub(super) fn new(work: F, reply: oneshot::Sender<Result<T, StoreError>>) -> Self {
        Self {
            work: Some(work),
            made: Err(StoreError::Closed),
            reply,
        }
    }
}

impl<F, T> Work for Task<F, T>
where
    T: Send,
    F: FnOnce(&mut Writer<'_>) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, writer: &mut Writer<'_>) -> bool {
        if let Some(work) = self.work.take() {
            // One request's fault is its own: the writer serves all.
            self.made = catch_unwind(AssertUnwindSafe(|| work(writer))).unwrap_or_else(|_| {
                Err(StoreError::Unavailable {
                    step: "write",
                    cause: "the request panicked".into(),
                })
            });
        }
        self.made.is_ok()
    }

    fn settle(self: Box<Self>, round: Result<(), StoreError>) {
        // Nobody waits any more: the client went away. What was written stays; it is idempotent.
        let _ = self.reply.send(round.and(self.made));
    }
}

pub(super) struct Committer {
    connection: Connection,
    /// Any descriptor on the vault's file system.
    directory: File,
    announce: watch::Sender<Progress>,
    committed: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
    counters: Counters,
    /// The last row that a sync has covered.
    synced_row: i64,
    failed: bool,
}

impl Committer {
    pub(super) fn new(
        connection: Connection,
        directory: File,
        announce: watch::Sender<Progress>,
        committed: Arc<AtomicU64>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let counters = connection.query_row("SELECT next_row, state FROM meta", [], |row| {
            Ok(Counters {
                next_row: row.get(0)?,
                state: row.get(1)?,
            })
        })?;
        metrics.vault_messages.set(rows::email_count(&connection)?);
        let mut this = Self {
            connection,
            directory,
            announce,
            committed,
            metrics,
            synced_row: counters.next_row - 1,
            counters,
            failed: false,
        };
        // What recovery found good, and what it dropped, holds from here.
        this.sync()?;
        this.note_progress();
        Ok(this)
    }

    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Box<dyn Work>>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut round = Vec::new();
            let before = self.counters;
            let outcome = match self.failed {
                true => {
                    round.push(first);
                    Err(StoreError::SyncFailed)
                }
                false => self.round(first, &mut jobs, &mut round),
            };
            if let Err(error) = &outcome {
                tracing::error!(%error, jobs = round.len(), "vault: round failed");
                if !self.connection.is_autocommit() {
                    let _ = self.connection.execute_batch("ROLLBACK");
                }
                if !self.failed {
                    self.counters = before;
                }
            }
            self.note_progress();
            for job in round {
                job.settle(outcome.clone());
            }
        }
        if !self.failed
            && let Err(error) = self.finish()
        {
            tracing::error!(%error, "vault: close");
        }
    }

    fn round(
        &mut self,
        first: Box<dyn Work>,
        jobs: &mut mpsc::Receiver<Box<dyn Work>>,
        round: &mut Vec<Box<dyn Work>>,
    ) -> Result<(), StoreError> {
        round.push(first);
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut added = 0;
        loop {
            let job = round
                .last_mut()
                .expect("the round holds the job just pushed");
            self.connection.execute_batch("SAVEPOINT job")?;
            let before = self.counters;
            let mut writer = Writer {
                connection: &self.connection,
                counters: &mut self.counters,
                added: 0,
                counts: BTreeMap::new(),
                now: super::now(),
            };
            if job.run(&mut writer) {
                writer.settle_counts()?;
                added += writer.added;
            } else {
                self.connection.execute_batch("ROLLBACK TO job")?;
                self.counters = before;
            }
            self.connection.execute_batch("RELEASE job")?;
            if round.len() == ROUND_JOBS_MAX {
                break;
            }
            match jobs.try_recv() {
                Ok(job) => round.push(job),
                Err(_) => break,
            }
        }
        self.connection
            .prepare_cached("UPDATE meta SET synced_blob = ?1, next_row = ?2, state = ?3")?
            .execute([self.synced_row, self.counters.next_row, self.counters.state])?;
        // Before the commit: a reader that sees it must know that it is not synced.
        self.committed.fetch_add(1, Ordering::SeqCst);
        self.connection.execute_batch("COMMIT")?;
        self.sync()?;
        self.synced_row = self.counters.next_row - 1;
        self.metrics.vault_messages.add(added);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        rustix::fs::syncfs(&self.directory).map_err(|errno| {
            self.failed = true;
            StoreError::io("sync", errno.into())
        })
    }

    fn note_progress(&self) {
        let committed = self.committed.load(Ordering::SeqCst);
        let failed = self.failed;
        let (state, row_end) = (self.counters.state, self.counters.next_row);
        self.announce.send_modify(|progress| {
            progress.failed = failed;
            if !failed {
                // A round that was rolled back is "synced": nothing of it can be seen.
                *progress = Progress {
                    synced: committed,
                    failed,
                    state,
                    row_end,
                };
            }
        });
    }

    /// A clean stop leaves nothing to verify.
    fn finish(&mut self) -> Result<(), StoreError> {
        self.connection
            .execute("UPDATE meta SET synced_blob = ?1", [self.synced_row])?;
        self.connection
            .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
        self.sync()
    }
}
