//! The only place that touches files. Behind traits, so that the tests can put a disk that stops, tears or lies in the
//! place of the real one.
//!
//! Nothing here decides anything: each function is one system call with its retry on EINTR and its short writes made
//! whole. An error goes up as it came; nobody retries a failed sync and believes it.

use std::{
    fs, io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, FileExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

/// The journal's directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Area {
    Segments,
    Large,
    Quarantine,
}

impl Area {
    pub(super) const ALL: [Self; 3] = [Self::Segments, Self::Large, Self::Quarantine];

    fn directory(self) -> &'static str {
        match self {
            Self::Segments => "segments",
            Self::Large => "large",
            Self::Quarantine => "quarantine",
        }
    }
}

pub(super) trait Disk: Send + Sync {
    /// Names in a directory, in any order.
    fn list(&self, area: Area) -> io::Result<Vec<String>>;
    fn open(&self, area: Area, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes an empty file; one of the same name is emptied.
    fn create(&self, area: Area, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn rename(&self, area: Area, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, area: Area, name: &str) -> io::Result<()>;
    /// Makes names in the directory durable: created, renamed, removed.
    fn sync_directory(&self, area: Area) -> io::Result<()>;
    /// Bytes that an unprivileged process may still use.
    fn free_bytes(&self) -> io::Result<u64>;
}

pub(super) trait DiskFile: Send + Sync {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Fills `bytes` from `offset`, as far as the file goes; how many came.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// `fdatasync`.
    fn sync(&self) -> io::Result<()>;
    fn bytes(&self) -> io::Result<u64>;
}

/// Directories on a real file system.
pub(super) struct RealDisk {
    root: PathBuf,
    /// Holds the exclusive lock as long as the journal is open for writing.
    _lock: Option<fs::File>,
}

/// What the lock file says; another format's journal is refused.
const FORMAT: &[u8] = b"mailtee journal 1\n";

impl RealDisk {
    /// Makes the directories and takes the exclusive lock.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        // Mail is nobody else's to read.
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        for area in Area::ALL {
            private.create(root.join(area.directory()))?;
        }
        let lock = fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(root.join("lock"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        let mut found = [0; FORMAT.len()];
        match FileExt::read_at(&lock, &mut found, 0)? {
            0 => {
                lock.write_all_at(FORMAT, 0)?;
                lock.sync_all()?;
                fs::File::open(root)?.sync_all()?;
                if let Some(parent) = root.parent() {
                    fs::File::open(parent)?.sync_all()?;
                }
            }
            _ if found == FORMAT => {}
            _ => return Err(io::Error::from(io::ErrorKind::Unsupported)),
        }
        Ok(Self {
            root: root.to_owned(),
            _lock: Some(lock),
        })
    }

    /// For reading beside whoever holds the lock.
    pub(super) fn open_read_only(root: &Path) -> io::Result<Self> {
        fs::metadata(root.join(Area::Segments.directory()))?;
        Ok(Self {
            root: root.to_owned(),
            _lock: None,
        })
    }

    fn path(&self, area: Area, name: &str) -> PathBuf {
        self.root.join(area.directory()).join(name)
    }
}

impl Disk for RealDisk {
    fn list(&self, area: Area) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(area.directory()))? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, area: Area, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = fs::File::options()
            .read(true)
            .write(self._lock.is_some())
            .open(self.path(area, name))?;
        Ok(Arc::new(file))
    }

    fn create(&self, area: Area, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path(area, name))?;
        Ok(Arc::new(file))
    }

    fn rename(&self, area: Area, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(area, from), self.path(area, to))
    }

    fn remove(&self, area: Area, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(area, name))
    }

    fn sync_directory(&self, area: Area) -> io::Result<()> {
        fs::File::open(self.root.join(area.directory()))?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let facts = rustix::fs::statvfs(&self.root)?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }
}

impl DiskFile for fs::File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            match FileExt::read_at(self, &mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(self.as_fd())?)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}
