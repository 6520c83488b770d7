//! Storage: blobs in files (or a bucket), what is known of them in SQLite. Nothing is confirmed before it is synced.
//!
//! **Rounds.** A file and an fsync a message is 800 messages a second on ext4. So requests write their blobs side by side,
//! then hand their index work to one writer, which runs all that wait in one transaction, commits, and calls `syncfs`
//! once: blobs, their directories and the index are on disk together, then all of the round hear yes. Requests that come
//! meanwhile share the next round. Readers see a commit before its sync, so a read that may have seen one waits for it:
//! an answer never rests on what a power cut could take back.
//!
//! **After a stop in mid-round** rows may be there whose bytes are not. `meta.synced_blob` trails one round behind the
//! syncs: see `recovery.rs`. A failed sync ends all writing until a restart, since the kernel reports it only once.
//!
//! Absent on purpose: no fsync a file, no lock around a request, no removal of anything an e-mail or a sighting names.

mod blobs;
mod committer;
mod indexing;
pub(crate) mod query;
mod recovery;
pub(crate) mod rows;
pub(crate) mod schema;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fs::File,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    thread::JoinHandle,
    time::SystemTime,
};

use object_store::ObjectStore;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::{
    runtime::Handle,
    sync::{OwnedRwLockReadGuard, RwLock, Semaphore, mpsc, oneshot, watch},
};

use crate::{
    message::{K1, UnixMillis},
    metrics::Metrics,
};

pub(crate) use blobs::Blobs;
pub(crate) use writer::{Imported, NewSighting, Recorded, Writer};

pub(crate) use committer::Progress;
use committer::{Committer, Task, Work};
use indexing::Indexing;

/// An upload that no e-mail and no sighting names is removed after a day.
const ORPHAN_MILLIS: u64 = 24 * 3600 * 1000;
/// Requests that wait for the writer; beyond it, senders wait.
const JOBS_WAITING_MAX: usize = 256;
/// Reads at a time, a connection each.
const READS_MAX: usize = 8;

#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No space, or over quota: try again later.
    #[error("vault: {step}: disk full: {cause}")]
    Full { step: &'static str, cause: String },
    #[error("vault: {step}: {cause}")]
    Unavailable { step: &'static str, cause: String },
    /// The disk failed a sync. What was written since is unknown until a restart has looked.
    #[error("vault: sync: failed earlier; writing stops until a restart")]
    SyncFailed,
    #[error("vault: closed")]
    Closed,
    #[error("vault: {path}: in use by another process")]
    InUse { path: String },
}

impl StoreError {
    pub(crate) fn io(step: &'static str, error: std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let cause = error.to_string();
        match error.kind() {
            StorageFull | QuotaExceeded => Self::Full { step, cause },
            _ => Self::Unavailable { step, cause },
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let step = "index";
        let cause = error.to_string();
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full { step, cause },
            _ => Self::Unavailable { step, cause },
        }
    }
}

/// The open store; shared by an `Arc`.
pub(crate) struct Store {
    pub(crate) data_dir: PathBuf,
    pub(crate) blobs: Arc<Blobs>,
    jobs: Mutex<Option<mpsc::Sender<Box<dyn Work>>>>,
    committer: Mutex<Option<JoinHandle<()>>>,
    /// Rounds whose commit has begun: readers may see them.
    committed: Arc<AtomicU64>,
    progress: watch::Receiver<Progress>,
    pub(crate) indexing: Indexing,
    readers: Mutex<Vec<Connection>>,
    reads: Semaphore,
    /// Held for reading from a blob's write until its row is synced, for writing while orphans go: so no blob is removed
    /// under a request that is about to name it.
    uploads: Arc<RwLock<()>>,
    /// Held as long as the store is open: one process a directory.
    _lock: File,
}

impl Store {
    /// Opens or makes the store, and mends what a stop in mid-round left. Blocking.
    pub(crate) fn open(
        data_dir: &Path,
        bucket: Option<(Arc<dyn ObjectStore>, Handle)>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, StoreError> {
        // Nobody else on this machine reads the mail; what lies within need not say so again.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .map_err(|e| StoreError::io("data directory", e))?;
        let lock = lock(data_dir)?;
        let blobs = match bucket {
            None => Blobs::in_directory(data_dir),
            Some((store, runtime)) => Blobs::in_bucket(data_dir, store, runtime),
        };
        let blobs = Arc::new(blobs.map_err(|e| StoreError::io("blobs", e))?);
        let search = schema::open_search(data_dir)?;
        let index = schema::open_index(data_dir)?;
        recovery::verify_unsynced(&index, &blobs)?;
        schema::attach_search(&index, data_dir)?;
        drop(search);

        let directory = File::open(data_dir).map_err(|e| StoreError::io("data directory", e))?;
        let (jobs, queue) = mpsc::channel(JOBS_WAITING_MAX);
        let (announce, progress) = watch::channel(Progress::default());
        let committed = Arc::new(AtomicU64::new(0));
        let committer = Committer::new(index, directory, announce, committed.clone(), metrics)?;
        let thread = std::thread::Builder::new()
            .name("vault-writer".into())
            .spawn(move || committer.run(queue))
            .map_err(|e| StoreError::io("thread", e))?;
        Ok(Arc::new(Self {
            data_dir: data_dir.to_owned(),
            blobs,
            jobs: Mutex::new(Some(jobs)),
            committer: Mutex::new(Some(thread)),
            committed,
            progress,
            indexing: Indexing::new(),
            readers: Mutex::new(Vec::new()),
            reads: Semaphore::new(READS_MAX),
            uploads: Arc::default(),
            _lock: lock,
        }))
    }

    /// Runs `work` in a round; returns when the round is synced. An error of `work` undoes its own steps only.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Writer<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let jobs = self.jobs.lock().clone().ok_or(StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let task = Task::new(work, reply);
        jobs.send(Box::new(task))
            .await
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs `work` on a connection of its own, off the async threads; returns when what it saw is synced.
    pub(crate) async fn read<T, E, F>(self: &Arc<Self>, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        let permit = self.reads.acquire().await;
        let _permit = permit.map_err(|_| StoreError::Closed)?;
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || store.read_blocking(work));
        let answer = done.await.map_err(|error| StoreError::Unavailable {
            step: "read",
            cause: error.to_string(),
        })??;
        self.settled().await?;
        Ok(answer)
    }

    /// As [`Store::read`], on this thread, without waiting for a sync: for what concerns synced rows only.
    pub(crate) fn read_blocking<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        let idle = self.readers.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => schema::open_reader(&self.data_dir).map_err(StoreError::from)?,
        };
        let answer = work(&connection);
        let mut readers = self.readers.lock();
        if readers.len() < READS_MAX {
            readers.push(connection);
        }
        answer
    }

    /// Waits until all that a reader can have seen so far is synced.
    async fn settled(&self) -> Result<(), StoreError> {
        let seen = self.committed.load(Ordering::SeqCst);
        let mut progress = self.progress.clone();
        let reached = progress
            .wait_for(|progress| progress.synced >= seen || progress.failed)
            .await
            .map_err(|_| StoreError::Closed)?;
        match reached.synced >= seen {
            true => Ok(()),
            false => Err(StoreError::SyncFailed),
        }
    }

    /// What is synced: all that the indexer may read.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Waits until what is synced now can be searched, as far as that is soon.
    pub(crate) async fn searchable(&self) {
        let row_end = self.progress.borrow().row_end;
        self.indexing.wait_for(row_end).await;
    }

    /// To hold from a blob's write until the round that names it has returned.
    pub(crate) async fn uploading(&self) -> OwnedRwLockReadGuard<()> {
        self.uploads.clone().read_owned().await
    }

    /// Removes uploads of more than a day ago that nothing names; how many.
    pub(crate) async fn remove_orphans(&self, now: UnixMillis) -> Result<usize, StoreError> {
        let _alone = self.uploads.clone().write_owned().await;
        let before = now.0.saturating_sub(ORPHAN_MILLIS) as i64;
        let gone = self
            .write(move |writer| writer.drop_orphans(before))
            .await?;
        let (blobs, count) = (self.blobs.clone(), gone.len());
        let removed =
            tokio::task::spawn_blocking(move || gone.iter().try_for_each(|k1| blobs.remove(k1)));
        match removed.await {
            Ok(done) => done.map_err(|e| StoreError::io("orphan", e))?,
            Err(_) => return Err(StoreError::Closed),
        }
        Ok(count)
    }

    /// Removes what a request wrote and then could not name, because the disk was full or its round failed.
    pub(crate) async fn discard(self: &Arc<Self>, written: Vec<K1>) {
        if written.is_empty() {
            return;
        }
        let _alone = self.uploads.clone().write_owned().await;
        let store = self.clone();
        let removed = tokio::task::spawn_blocking(move || {
            store.read_blocking(|index| {
                for k1 in &written {
                    if rows::blob(index, k1)?.is_none() {
                        let removed = store.blobs.remove(k1);
                        removed.map_err(|error| StoreError::io("discard", error))?;
                    }
                }
                Ok::<_, StoreError>(())
            })
        });
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(%error, "vault: files that no row names stay");
        }
    }

    /// Lets the open round end, syncs and closes the index. Later writes are refused. Blocking.
    pub(crate) fn close(&self) {
        drop(self.jobs.lock().take());
        let thread = self.committer.lock().take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        self.readers.lock().clear();
    }
}

fn lock(data_dir: &Path) -> Result<File, StoreError> {
    let path = data_dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| StoreError::io("lock", e))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
        |_| StoreError::InUse {
            path: data_dir.display().to_string(),
        },
    )?;
    Ok(file)
}

pub(crate) fn now() -> UnixMillis {
    UnixMillis::from_system(SystemTime::now())
}
