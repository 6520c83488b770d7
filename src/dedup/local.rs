//! The dedup map of one host: a concurrent map in front of a database in front of which stands a filter.
//!
//! ```text
//! claim ─→ entries (dashmap): claimed, just confirmed, the youngest copies      most duplicates end here
//!      └→  filter: may the database hold it?                                    most new messages end here
//!      └→  database (fjall): all copies                                         an old duplicate: one read
//! confirm ─→ entries, filter, writer's queue ─→ one synced batch ─→ Durable
//! ```
//!
//! A claim never waits for another claim, nor for the writer. Its database read is about 10 µs, or one disk read when
//! cold, and is made on the caller's thread: claims are the forwarder's, one a message, never a front end's, and a hop
//! to another thread costs as much. A long message is looked up once more, before it is read. After a restart a
//! background scan fills the filter; until it is done every look-up that the entries do not answer reads. An entry that
//! cannot be read counts as absent. Memory: the filter (1.5 bytes an entry), the entries (bounded), the database's cache
//! and write buffers (bounded).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use dashmap::Entry as Slot;
use parking_lot::Mutex;

use super::{
    Claim, DedupError, StoredCopy,
    claim::{ClaimLease, Durable, Entry, Released},
    shared::Shared,
    store::{self, Key, Memory, Store},
    writer::{self, Job},
};
use crate::{
    message::{CaptureId, K2},
    metrics::Metrics,
};

/// Where the map lies, and the memory that it may take beside the filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A directory of the map's own, made when missing.
    pub dir: PathBuf,
    /// Copies kept in memory; about 250 bytes each.
    pub cached_entries_max: usize,
    /// The database's block cache.
    pub cache_bytes: u64,
}

impl Options {
    /// Defaults for a map in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            cached_entries_max: 100_000,
            cache_bytes: 32 * 1024 * 1024,
        }
    }
}

const WRITE_BUFFER_BYTES: u64 = 16 * 1024 * 1024;

/// The open map; clones share it, and the last one dropped writes what is left and closes.
#[derive(Clone)]
pub struct Dedup {
    open: Arc<Open>,
}

struct Open {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The copies that the map knows at one target, from the disk.
pub struct Copies(Box<dyn Iterator<Item = Result<StoredCopy, DedupError>> + Send>);

impl Dedup {
    /// To be called before [`Dedup::open`] where a map must have been before: one that is not there is lost.
    pub fn expect(dir: &Path) -> Result<(), DedupError> {
        if dir.exists() {
            return Ok(());
        }
        store::note_lost(dir).map_err(|source| DedupError::Io {
            step: "note that it is lost",
            source,
        })
    }

    /// Opens the map, or makes an empty one. A corrupt one is set aside, loudly; see [`super::store`].
    pub fn open(options: Options, metrics: &Metrics) -> Result<Self, DedupError> {
        let store = Store::open(
            &options.dir,
            Memory {
                cache_bytes: options.cache_bytes,
                write_buffer_bytes: WRITE_BUFFER_BYTES,
            },
        )?;
        let shared = Arc::new(Shared::new(store, options.cached_entries_max, metrics)?);
        // The snapshot is taken here, before the first claim: what comes later counts itself.
        let keys = shared.store.keys();
        let (writing, scanning) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            spawn("dedup-writer", move || writer::run(&writing))?,
            spawn("dedup-scan", move || scanning.fill_filter(keys))?,
        ];
        Ok(Self {
            open: Arc::new(Open {
                shared,
                threads: Mutex::new(threads),
            }),
        })
    }

    /// May copies be at the targets that the map has lost? Then New does not mean that the target has none: whoever sends
    /// looks there before. True from the claim on that could not be read, and with a lost map for as long as it lies
    /// aside.
    pub fn has_lost(&self) -> bool {
        self.open.shared.has_lost()
    }

    /// Who sends this message to that target? Never waits.
    pub fn claim(&self, target: &str, k2: &K2, who: CaptureId) -> Claim {
        let shared = &self.open.shared;
        let key = Key::new(shared.target_number(target), k2);
        let claimed = |removing| Entry::Claimed {
            holder: who,
            released: None,
            removing,
        };
        let may_be_on_disk = match shared.entries.entry(key) {
            Slot::Vacant(vacant) => {
                vacant.insert(claimed(false));
                true
            }
            Slot::Occupied(mut occupied) => match occupied.get_mut() {
                Entry::Claimed {
                    holder, released, ..
                } => {
                    shared.lookups.busy.inc();
                    return Claim::Busy {
                        holder: *holder,
                        released: Released::of(released),
                    };
                }
                Entry::Stored { copy, .. } => {
                    shared.lookups.stored.inc();
                    return Claim::Stored((**copy).clone());
                }
                removing => {
                    *removing = claimed(true);
                    false
                }
            },
        };
        // The claim stands while the disk is asked, so that no two callers can both be told New.
        let lease = ClaimLease::new(Arc::clone(shared), key, who);
        match may_be_on_disk.then(|| shared.on_disk(&key)).flatten() {
            Some(copy) => {
                shared.lookups.stored.inc();
                Claim::Stored(copy)
            }
            None => {
                shared.lookups.new.inc();
                Claim::New(lease)
            }
        }
    }

    /// The copy at a target, if the map knows one; claims nothing.
    pub fn stored(&self, target: &str, k2: &K2) -> Option<StoredCopy> {
        let shared = &self.open.shared;
        let key = Key::new(shared.known_target(target)?, k2);
        match shared.entries.get(&key).as_deref() {
            Some(Entry::Stored { copy, .. }) => return Some((**copy).clone()),
            Some(Entry::Claimed { .. } | Entry::Removing) => return None,
            None => {}
        }
        shared.on_disk(&key)
    }

    /// The target has not what the map says: the next claim is New. Leaves alone what has been claimed or confirmed anew.
    pub fn remove(&self, target: &str, k2: &K2, missing: &StoredCopy) {
        let shared = &self.open.shared;
        let key = Key::new(shared.target_number(target), k2);
        match shared.entries.entry(key) {
            Slot::Occupied(mut occupied) => match occupied.get_mut() {
                Entry::Stored { copy, .. } if **copy == *missing => {
                    occupied.insert(Entry::Removing);
                }
                _ => return,
            },
            Slot::Vacant(vacant) => {
                vacant.insert(Entry::Removing);
            }
        }
        shared.queue.push(Job::Remove(key));
    }

    /// Forgets every copy at a target: it was emptied, or is another store under the same name now.
    pub fn forget(&self, target: &str) {
        let shared = &self.open.shared;
        let Some(old) = shared.renumber(target) else {
            return;
        };
        shared.queue.push(Job::Forget(old));
        shared
            .entries
            .retain(|key, entry| key.target() != old || matches!(entry, Entry::Claimed { .. }));
    }

    /// The copies that the map knows at a target, as the disk has them now; for `mailtee verify`. Blocks as it is read.
    pub fn copies(&self, target: &str) -> Copies {
        let shared = &self.open.shared;
        match shared.known_target(target) {
            Some(number) => Copies(Box::new(shared.store.copies_at(number))),
            None => Copies(Box::new(std::iter::empty())),
        }
    }

    /// How many copies the map knows, at all targets; grows to the truth while the scan after opening runs.
    pub fn entries(&self) -> u64 {
        self.open.shared.entries()
    }

    /// Whether the scan after opening is done.
    pub fn scanned(&self) -> bool {
        self.open.shared.scanned()
    }

    /// Waits until all that was confirmed so far is on disk; false where the disk failed.
    pub async fn flush(&self) -> bool {
        let shared = &self.open.shared;
        Durable::new(shared, Some(shared.queue.serial()))
            .wait()
            .await
    }

    /// Bytes of the filter in memory, and of the database on disk.
    pub fn size_bytes(&self) -> (u64, u64) {
        let shared = &self.open.shared;
        (shared.filter.bytes() as u64, shared.store.disk_bytes())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.close();
        for thread in self.threads.get_mut().drain(..) {
            // A panic there was reported when it happened.
            let _ = thread.join();
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, DedupError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|source| DedupError::Io {
            step: "start a thread",
            source,
        })
}

impl Iterator for Copies {
    type Item = Result<StoredCopy, DedupError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::{super::samples::*, *};

    #[tokio::test]
    async fn entries_survive_a_restart_before_and_after_the_scan() {
        let (dir, dedup) = open();
        fill(&dedup, "vault", 0..500);
        fill(&dedup, "archive", 400..600);
        drop(dedup);
        let dedup = open_at(&dir).unwrap();
        for _ in 0..2 {
            assert_eq!(known(&dedup, "vault", 0..1000), 500);
            assert_eq!(known(&dedup, "archive", 0..1000), 200);
            assert!(
                matches!(dedup.claim("vault", &k2(3), id(9)), Claim::Stored(c) if c == copy(3))
            );
            assert!(matches!(
                dedup.claim("vault", &k2(550), id(9)),
                Claim::New(_)
            ));
            scanned(&dedup).await;
        }
        assert_eq!(dedup.entries(), 700);
        assert_eq!(dedup.copies("archive").map(Result::unwrap).count(), 200);
        assert_eq!(dedup.copies("unheard of").count(), 0);
    }

    /// The directory as it lies on disk while the process runs is what a kill leaves.
    #[tokio::test]
    async fn what_was_durable_survives_a_kill() {
        let (dir, dedup) = open();
        fill(&dedup, "vault", 0..100);
        assert!(dedup.flush().await);
        let killed = TempDir::new().unwrap();
        copy_dir(&dir.path().join("map"), &killed.path().join("map"));
        fill(&dedup, "vault", 100..200);
        assert_eq!(known(&open_at(&killed).unwrap(), "vault", 0..200), 100);
    }

    #[tokio::test]
    async fn memory_holds_the_youngest_and_the_disk_all() {
        let dir = TempDir::new().unwrap();
        let options = Options {
            cached_entries_max: 10,
            ..Options::new(dir.path().join("map"))
        };
        let metrics = Metrics::new();
        let dedup = Dedup::open(options, &metrics).unwrap();
        fill(&dedup, "vault", 0..300);
        assert!(dedup.flush().await);
        assert_eq!(dedup.open.shared.entries.len(), 10);
        assert_eq!(known(&dedup, "vault", 0..300), 300);
        assert_eq!(metrics.dedup_entries.get(), 300);
        let lookups = |result| {
            metrics
                .dedup_lookups_total
                .with_label_values(&[result])
                .get()
        };
        assert_eq!((lookups("new"), lookups("stored")), (300, 0));
    }

    #[tokio::test]
    async fn a_copy_that_the_target_lost_is_new_again_at_once_and_after_a_restart() {
        let (dir, dedup) = open();
        fill(&dedup, "vault", 0..3);
        assert!(dedup.flush().await);
        dedup.remove("vault", &k2(1), &copy(1));
        let Claim::New(lease) = dedup.claim("vault", &k2(1), id(8)) else {
            panic!("what was removed is New");
        };
        dedup.remove("vault", &k2(1), &copy(1));
        assert!(matches!(
            dedup.claim("vault", &k2(1), id(9)),
            Claim::Busy { .. }
        ));
        drop(lease);
        dedup.remove("vault", &k2(2), &copy(1));
        assert_eq!(known(&dedup, "vault", 0..3), 2);
        drop(dedup);
        let dedup = open_at(&dir).unwrap();
        assert_eq!(known(&dedup, "vault", 0..3), 2);
        dedup.remove("vault", &k2(0), &copy(0));
        fill(&dedup, "vault", 0..1);
        assert!(dedup.flush().await);
        assert_eq!(known(&dedup, "vault", 0..3), 2);
    }

    #[tokio::test]
    async fn forgetting_a_target_leaves_the_others() {
        let (dir, dedup) = open();
        fill(&dedup, "vault", 0..50);
        fill(&dedup, "archive", 0..50);
        dedup.forget("archive");
        assert_eq!(known(&dedup, "archive", 0..50), 0);
        fill(&dedup, "archive", 0..5);
        assert!(dedup.flush().await);
        scanned(&dedup).await;
        assert_eq!(dedup.entries(), 55);
        drop(dedup);
        let dedup = open_at(&dir).unwrap();
        scanned(&dedup).await;
        assert_eq!(
            (
                known(&dedup, "archive", 0..50),
                known(&dedup, "vault", 0..50)
            ),
            (5, 50)
        );
        assert_eq!(dedup.entries(), 55);
    }

    #[test]
    fn a_corrupt_map_is_set_aside_whole_and_an_empty_one_opened() {
        for round in 1..=2 {
            let (dir, dedup) = open();
            fill(&dedup, "vault", 0..10);
            drop(dedup);
            let map = dir.path().join("map");
            // Once every file, once the smallest that is not empty.
            let mut files = files_in(&map);
            let all = files.len();
            files.retain(|file| fs::metadata(file).unwrap().len() > 0);
            files.sort_by_key(|file| fs::metadata(file).unwrap().len());
            for file in &files[..if round == 1 { files.len() } else { 1 }] {
                fs::write(file, b"these are not the bytes that were written").unwrap();
            }
            let dedup = open_at(&dir).unwrap();
            assert_eq!(known(&dedup, "vault", 0..10), 0);
            assert!(dedup.has_lost());
            fill(&dedup, "vault", 0..10);
            let aside = files_in(&dir.path().join("map.corrupt-1"));
            assert_eq!(aside.len(), all, "round {round}");
        }
    }

    #[test]
    fn what_was_lost_is_remembered_through_restarts_until_it_is_deleted() {
        let (dir, dedup) = open();
        assert!(!dedup.has_lost(), "a first map has lost nothing");
        drop(dedup);
        fs::create_dir(dir.path().join("map.corrupt-2")).unwrap();
        fs::create_dir(dir.path().join("another.corrupt-1")).unwrap();
        assert!(open_at(&dir).unwrap().has_lost());
        fs::remove_dir(dir.path().join("map.corrupt-2")).unwrap();
        assert!(!open_at(&dir).unwrap().has_lost());

        // One that somebody took away.
        fs::remove_dir_all(dir.path().join("map")).unwrap();
        Dedup::expect(&dir.path().join("map")).unwrap();
        assert!(open_at(&dir).unwrap().has_lost());
        fs::remove_dir(dir.path().join("map.lost")).unwrap();
        Dedup::expect(&dir.path().join("map")).unwrap();
        assert!(!open_at(&dir).unwrap().has_lost(), "it is there again");
    }

    #[test]
    fn a_map_that_another_process_holds_is_left_alone() {
        let (dir, dedup) = open();
        assert!(matches!(open_at(&dir), Err(DedupError::InUse(_))));
        assert!(!dir.path().join("map.corrupt-1").exists());
        drop(dedup);
        open_at(&dir).unwrap();
    }

    #[test]
    fn a_place_that_cannot_be_a_directory_is_the_disks_error_not_a_corrupt_map() {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("file"), b"").unwrap();
        let options = Options::new(dir.path().join("file/map"));
        assert!(matches!(
            Dedup::open(options, &Metrics::new()),
            Err(DedupError::Io { .. })
        ));
    }

    async fn scanned(dedup: &Dedup) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !dedup.scanned() {
            assert!(
                std::time::Instant::now() < deadline,
                "the scan does not end"
            );
            tokio::task::yield_now().await;
        }
    }

    fn files_in(dir: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => files.extend(files_in(&path)),
                false => files.push(path),
            }
        }
        files
    }

    fn copy_dir(from: &Path, to: &Path) {
        for file in files_in(from) {
            let target = to.join(file.strip_prefix(from).unwrap());
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(file, target).unwrap();
        }
    }
}
