//! The map on disk: a fjall database with one keyspace.
//!
//! ```text
//! a copy    key    target number (4, big-endian, from 1)  K2 (its first 16 bytes)
//!           value  K1 (32)  Core (32)  first capture (16)  the target's id (the rest, UTF-8)
//! a target  key    0 (4)  name          value  number (4, big-endian); numbers are never given twice
//! ```
//!
//! A database that cannot be opened because its content is wrong is set aside beside itself, whole, and an empty one
//! takes its place: messages are sent again and found to be there already. As long as one lies aside, [`Store::has_lost`]
//! says so, through every restart: deleting it is how an operator ends the look-ups at the target. A disk that fails, or
//! another process that holds the map, is an error instead: neither is mended by starting empty.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{DedupError, StoredCopy, filter::Digest};
use crate::message::{CaptureId, K1, K2, fingerprint::Core};

const KEY_BYTES: usize = 20;

/// The prefix of target names, where copies have a target's number.
const NAMES: [u8; 4] = [0; 4];

/// What a corrupt map's new name, and the sign of one that is gone, have after the map's own.
const ASIDE: &str = ".corrupt-";
const LOST: &str = ".lost";

/// What may have to be read again when the map is opened after a kill; as little as the database can be told.
const JOURNALS_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A message at a target.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; KEY_BYTES]);

impl Key {
    pub(super) fn new(target: u32, k2: &K2) -> Self {
        let mut key = [0; KEY_BYTES];
        key[..4].copy_from_slice(&target.to_be_bytes());
        key[4..].copy_from_slice(&k2.0[..16]);
        Self(key)
    }

    pub(super) fn target(&self) -> u32 {
        u32::from_be_bytes(self.word(0))
    }

    pub(super) fn digest(&self) -> Digest {
        // K2 is random; the target only has to move the key to another block.
        let target = u64::from(self.target()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Digest {
            block: u64::from_le_bytes(self.word(4)).wrapping_add(target),
            bits: u64::from_le_bytes(self.word(12)),
        }
    }

    fn word<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|i| self.0[at + i])
    }
}

pub(super) struct Store {
    database: Database,
    map: Keyspace,
    /// An earlier map lies aside, or is gone: what it knew, this one does not.
    has_lost: bool,
}

/// Memory that the database may take, apart from the filter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) cache_bytes: u64,
    pub(super) write_buffer_bytes: u64,
}

/// A change that goes to disk.
pub(super) enum Change {
    Put(Key, Vec<u8>),
    Remove(Key),
    Target(String, u32),
}

impl Store {
    pub(super) fn open(dir: &Path, memory: Memory) -> Result<Self, DedupError> {
        let error = match Self::try_open(dir, memory) {
            Ok(store) => {
                if store.has_lost {
                    tracing::warn!(
                        map = %dir.display(),
                        "an earlier dedup map was lost: every message is looked for at its target before it is sent; delete {}{ASIDE}* and {}{LOST} to end that",
                        dir.display(), dir.display()
                    );
                }
                return Ok(store);
            }
            Err(error) => error,
        };
        if let Some(cause) = cause_outside(dir, &error) {
            return Err(cause);
        }
        let aside = set_aside(dir).map_err(|source| DedupError::Io {
            step: "set aside a corrupt map",
            source,
        })?;
        tracing::error!(
            map = %dir.display(), aside = %aside.display(), cause = %error,
            "the dedup map is corrupt: starting an empty one; as long as the corrupt one lies aside, every message is looked for at its target before it is sent"
        );
        Self::try_open(dir, memory).map_err(|error| match cause_outside(dir, &error) {
            Some(cause) => cause,
            None => unreadable("open an empty map", &error),
        })
    }

    fn try_open(dir: &Path, memory: Memory) -> Result<Self, fjall::Error> {
        // The database asserts what it reads in places; a wrong byte must not end the daemon.
        catch_unwind(AssertUnwindSafe(|| {
            let database = Database::builder(dir)
                .cache_size(memory.cache_bytes)
                // One writes buffers out while the other compacts, which may take minutes in a large map.
                .worker_threads(2)
                .max_journaling_size(JOURNALS_BYTES_MAX)
                .open()?;
            let options =
                || KeyspaceCreateOptions::default().max_memtable_size(memory.write_buffer_bytes);
            Ok(Self {
                map: database.keyspace("map", options)?,
                database,
                has_lost: has_lost(dir),
            })
        }))
        .unwrap_or(Err(fjall::Error::Unrecoverable))
    }

    pub(super) fn has_lost(&self) -> bool {
        self.has_lost
    }

    pub(super) fn targets(&self) -> Result<HashMap<String, u32>, DedupError> {
        let wrong = |e: fjall::Error| unreadable("read the targets", &e);
        let mut targets = HashMap::new();
        for row in self.map.prefix(NAMES) {
            let (key, number) = row.into_inner().map_err(wrong)?;
            let name = std::str::from_utf8(&key[NAMES.len()..]);
            if let (Ok(name), Ok(number)) = (name, (&*number).try_into()) {
                targets.insert(name.to_owned(), u32::from_be_bytes(number));
            }
        }
        Ok(targets)
    }

    pub(super) fn copy(&self, key: &Key) -> Result<Option<StoredCopy>, DedupError> {
        match self.map.get(key.0) {
            Ok(None) => Ok(None),
            Ok(Some(value)) => decode(&value).map(Some),
            Err(error) => Err(unreadable("look up", &error)),
        }
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.map.contains_key(key.0).unwrap_or(false)
    }

    /// Every copy's key, of a snapshot taken now.
    pub(super) fn keys(&self) -> impl Iterator<Item = Result<Key, DedupError>> + Send + use<> {
        let copies = 1u32.to_be_bytes()..;
        let keys = self.map.range(copies).filter_map(|row| match row.key() {
            Ok(key) => (&*key).try_into().ok().map(|key| Ok(Key(key))),
            Err(error) => Some(Err(unreadable("read the keys", &error))),
        });
        // The snapshot of an empty database shows what comes later all the same.
        let mut keys = keys.peekable();
        let some = keys.peek().is_some().then_some(keys);
        some.into_iter().flatten()
    }

    /// The keys of one target.
    pub(super) fn keys_of(&self, target: u32) -> impl Iterator<Item = Key> + use<> {
        self.map
            .prefix(target.to_be_bytes())
            .filter_map(|row| Some(Key((&*row.key().ok()?).try_into().ok()?)))
    }

    /// The copies at one target, of a snapshot taken now.
    pub(super) fn copies_at(
        &self,
        target: u32,
    ) -> impl Iterator<Item = Result<StoredCopy, DedupError>> + Send + use<> {
        self.map
            .prefix(target.to_be_bytes())
            .map(|row| match row.value() {
                Ok(value) => decode(&value),
                Err(error) => Err(unreadable("read the copies", &error)),
            })
    }

    /// On disk, all of them, when it returns.
    pub(super) fn write(&self, changes: Vec<Change>) -> Result<(), DedupError> {
        let mut batch = self
            .database
            .batch()
            .durability(Some(PersistMode::SyncData));
        for change in changes {
            match change {
                Change::Put(key, value) => batch.insert(&self.map, key.0, value),
                Change::Remove(key) => batch.remove(&self.map, key.0),
                Change::Target(name, number) => {
                    let key = [&NAMES, name.as_bytes()].concat();
                    batch.insert(&self.map, key, number.to_be_bytes());
                }
            }
        }
        batch.commit().map_err(|error| unreadable("write", &error))
    }

    /// About how many entries there are.
    pub(super) fn entries_about(&self) -> usize {
        self.map.approximate_len()
    }

    /// Bytes on disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.database.disk_space().unwrap_or(0)
    }
}

fn unreadable(step: &'static str, error: &fjall::Error) -> DedupError {
    DedupError::Unreadable {
        step,
        cause: error.to_string(),
    }
}

/// What keeps a map from being opened although nothing is wrong with it.
fn cause_outside(dir: &Path, error: &fjall::Error) -> Option<DedupError> {
    let io = match error {
        fjall::Error::Locked => return Some(DedupError::InUse(dir.to_owned())),
        fjall::Error::Io(io) => io,
        fjall::Error::Storage(fjall::LsmError::Io(io)) => io,
        _ => return None,
    };
    // A file that ends too early, is missing or says nonsense is the map's own fault.
    match io.kind() {
        ErrorKind::UnexpectedEof
        | ErrorKind::InvalidData
        | ErrorKind::NotFound
        | ErrorKind::Other => None,
        kind => Some(DedupError::Io {
            step: "open",
            source: io
                .raw_os_error()
                .map_or_else(|| kind.into(), io::Error::from_raw_os_error),
        }),
    }
}

/// Renames a map to the first free name beside it.
fn set_aside(dir: &Path) -> io::Result<PathBuf> {
    let aside = (1..)
        .map(|n: u32| beside(dir, &format!("{ASIDE}{n}")))
        .find(|path| !path.exists())
        .expect("fewer than four thousand million corrupt maps lie there");
    std::fs::rename(dir, &aside)?;
    Ok(aside)
}

/// A name that begins with the map's own.
fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Leaves a sign beside a map that is about to be made, that there was one before.
pub(super) fn note_lost(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(beside(dir, LOST))
}

/// Does an earlier map lie aside, or is one known to be gone? Where nobody can tell, it does: that costs time only.
fn has_lost(dir: &Path) -> bool {
    let (Some(parent), Some(own)) = (dir.parent(), dir.file_name()) else {
        return true;
    };
    let parent = match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    };
    let Ok(entries) = std::fs::read_dir(parent) else {
        return true;
    };
    let own = own.as_encoded_bytes();
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let suffix = name.as_encoded_bytes().strip_prefix(own);
        suffix.is_some_and(|s| s == LOST.as_bytes() || s.starts_with(ASIDE.as_bytes()))
    })
}

pub(super) fn encode(copy: &StoredCopy) -> Vec<u8> {
    [
        &copy.k1.0[..],
        &copy.core.0,
        &copy.first.to_bytes(),
        copy.remote_id.as_bytes(),
    ]
    .concat()
}

fn decode(value: &[u8]) -> Result<StoredCopy, DedupError> {
    let wrong = || DedupError::Unreadable {
        step: "look up",
        cause: format!("an entry of {} bytes is no entry", value.len()),
    };
    let (k1, rest) = value.split_first_chunk().ok_or_else(wrong)?;
    let (core, rest) = rest.split_first_chunk().ok_or_else(wrong)?;
    let (first, remote_id) = rest.split_first_chunk().ok_or_else(wrong)?;
    Ok(StoredCopy {
        first: CaptureId::from_bytes(*first),
        k1: K1(*k1),
        core: Core(*core),
        remote_id: String::from_utf8(remote_id.to_vec()).map_err(|_| wrong())?,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::{super::samples::*, *};

    const ENTRIES: u64 = 2000;

    /// So small that most entries leave the database's journal for its tables.
    const SMALL: Memory = Memory {
        cache_bytes: 1024 * 1024,
        write_buffer_bytes: 64 * 1024,
    };

    fn key(n: u64) -> Key {
        Key::new(1, &k2(n))
    }

    fn filled() -> TempDir {
        let dir = TempDir::new().unwrap();
        let store = Store::open(&dir.path().join("map"), SMALL).unwrap();
        let entries: Vec<u64> = (0..ENTRIES).collect();
        for batch in entries.chunks(100) {
            let put = |n: &u64| Change::Put(key(*n), encode(&copy(*n)));
            store.write(batch.iter().map(put).collect()).unwrap();
        }
        store
            .write(vec![Change::Target("vault".to_owned(), 1)])
            .unwrap();
        dir
    }

    fn files_in(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let (dirs, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        let mut files: Vec<_> = files
            .into_iter()
            .chain(dirs.iter().flat_map(|d| files_in(d)))
            .collect();
        files.sort();
        files
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = filled();
        let store = Store::open(&dir.path().join("map"), SMALL).unwrap();
        assert!(
            files_in(dir.path())
                .iter()
                .any(|file| file.to_string_lossy().contains("tables")),
            "{:?}",
            files_in(dir.path())
        );
        assert_eq!(
            store.targets().unwrap(),
            HashMap::from([("vault".to_owned(), 1)])
        );
        assert_eq!(store.keys().map(Result::unwrap).count() as u64, ENTRIES);
        assert_eq!(
            store.copies_at(1).map(Result::unwrap).count() as u64,
            ENTRIES
        );
        assert_eq!(store.copies_at(2).count(), 0);
        assert_eq!(store.copy(&key(7)).unwrap(), Some(copy(7)));
        assert_eq!(store.copy(&key(ENTRIES)).unwrap(), None);
    }

    #[test]
    fn keys_are_those_of_the_moment_however_late_they_are_read() {
        let dir = TempDir::new().unwrap();
        let store = Store::open(&dir.path().join("map"), SMALL).unwrap();
        for n in 0..3 {
            let keys = store.keys();
            let put = Change::Put(key(n), encode(&copy(n)));
            store.write(vec![put]).unwrap();
            assert_eq!(keys.map(Result::unwrap).count() as u64, n);
        }
    }

    /// One byte of one file is wrong: the map is set aside, or says that it cannot read, or has lost entries; it never
    /// names a copy that was not stored, and never panics.
    #[test]
    fn a_wrong_byte_anywhere_loses_entries_at_most() {
        let dir = filled();
        let original = dir.path().join("map");
        let files = files_in(&original);
        let mut place = 1u64;
        for round in 0..2 * files.len() {
            let damaged = TempDir::new().unwrap();
            let map = damaged.path().join("map");
            for file in &files {
                let to = map.join(file.strip_prefix(&original).unwrap());
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::copy(file, to).unwrap();
            }
            let file = map.join(files[round % files.len()].strip_prefix(&original).unwrap());
            let mut bytes = fs::read(&file).unwrap();
            if bytes.is_empty() {
                continue;
            }
            place = place
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let at = (place >> 33) as usize % bytes.len();
            bytes[at] ^= 0x40;
            fs::write(&file, bytes).unwrap();
            let what = format!("byte {at} of {}", file.display());

            let store = Store::open(&map, SMALL).unwrap_or_else(|e| panic!("{what}: {e}"));
            for n in (0..ENTRIES).step_by(97) {
                if let Ok(Some(found)) = store.copy(&key(n)) {
                    assert_eq!(found, copy(n), "{what}");
                }
            }
            let readable = store.keys().filter(Result::is_ok).count() as u64;
            assert!(readable <= ENTRIES, "{what}");
        }
    }
}
