//! Where the bytes lie: one object a message, `blobs/<first two digits>/<K1>`, so `sha256sum` checks any of them.
//!
//! A local directory is written here, by hand: `object_store` would take a temporary name, a link and a thread hop a
//! message. The layout is the one that its `LocalFileSystem` reads, so reading, listing and buckets go through the
//! interface. 256 directories, not 65,536: a batch dirties a third of the directory blocks, which makes three
//! times the files a second on ext4.
//!
//! A file may be half written, or left over from a stop, only while no row in the index names it; nobody reads it then.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart, path::Path as ObjectPath};
use tokio::runtime::Handle;

use crate::message::K1;

/// Piece size for what is streamed.
const PIECE_BYTES: usize = 64 * 1024;

pub(crate) struct Blobs {
    store: Arc<dyn ObjectStore>,
    place: Place,
    /// Large uploads grow here before they have a name.
    incoming: PathBuf,
}

enum Place {
    /// Files under this directory, on the index's file system: one `syncfs` covers both.
    Directory(PathBuf),
    /// A bucket: each PUT is durable when it returns. Blocking threads wait for it through this handle.
    Bucket(Handle),
}

impl Blobs {
    /// Blobs in a directory of the vault's own.
    pub(crate) fn in_directory(data_dir: &Path) -> io::Result<Self> {
        let root = data_dir.join("blobs");
        for shard in 0..=255u8 {
            fs::create_dir_all(root.join(format!("{shard:02x}")))?;
        }
        let store = object_store::local::LocalFileSystem::new_with_prefix(data_dir)
            .map_err(io::Error::other)?;
        Ok(Self {
            store: Arc::new(store),
            incoming: fresh_incoming(data_dir)?,
            place: Place::Directory(root),
        })
    }

    /// The same directory, only to read from beside the process that writes it.
    pub(crate) fn to_read(data_dir: &Path) -> io::Result<Self> {
        let store = object_store::local::LocalFileSystem::new_with_prefix(data_dir)
            .map_err(io::Error::other)?;
        Ok(Self {
            store: Arc::new(store),
            incoming: data_dir.join("incoming"),
            place: Place::Directory(data_dir.join("blobs")),
        })
    }

    /// Blobs in any other object store; only the index and unfinished uploads lie in `data_dir`.
    pub(crate) fn in_bucket(
        data_dir: &Path,
        store: Arc<dyn ObjectStore>,
        runtime: Handle,
    ) -> io::Result<Self> {
        Ok(Self {
            store,
            incoming: fresh_incoming(data_dir)?,
            place: Place::Bucket(runtime),
        })
    }

    /// Writes a message held in memory. Blocking; durable only after the round's sync. What a failure leaves is a leftover
    /// under this name, for [`super::Store::discard`]: here, the name may be another upload's by then.
    pub(crate) fn write(&self, k1: &K1, bytes: &[u8]) -> io::Result<()> {
        match &self.place {
            Place::Directory(root) => {
                let path = file_path(root, k1);
                // The one creator writes in place. A leftover, or another upload of the same bytes at this moment, is
                // replaced whole, and synced before: a name that a row may already hold never shows a partial file, nor
                // loses what a round has confirmed.
                match OpenOptions::new().write(true).create_new(true).open(&path) {
                    Ok(mut file) => file.write_all(bytes),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        let mut staged = self.stage()?;
                        staged.write_all(bytes)?;
                        staged.as_file().sync_data()?;
                        staged.persist(&path).map(drop).map_err(|e| e.error)
                    }
                    Err(error) => Err(error),
                }
            }
            Place::Bucket(runtime) => {
                let name = object_path(k1);
                let put = self.store.put(&name, Bytes::copy_from_slice(bytes).into());
                runtime.block_on(put).map(drop).map_err(io_error)
            }
        }
    }

    /// A file for an upload of unknown length; it vanishes unless [`Blobs::adopt`] takes it.
    pub(crate) fn stage(&self) -> io::Result<tempfile::NamedTempFile> {
        tempfile::NamedTempFile::new_in(&self.incoming)
    }

    /// Makes a finished upload the blob. Blocking; durable only after the round's sync.
    pub(crate) fn adopt(&self, k1: &K1, staged: tempfile::NamedTempFile) -> io::Result<()> {
        match &self.place {
            Place::Directory(root) => {
                // The pages are many: written out here, they do not hold up the round that many share. Before the name,
                // as above.
                staged.as_file().sync_data()?;
                let named = staged.persist(file_path(root, k1));
                named.map(drop).map_err(|error| error.error)
            }
            Place::Bucket(runtime) => runtime.block_on(async {
                let mut file = File::open(staged.path())?;
                let upload = self.store.put_multipart(&object_path(k1)).await;
                let mut parts = WriteMultipart::new(upload.map_err(io_error)?);
                let mut piece = vec![0; PIECE_BYTES];
                loop {
                    let count = file.read(&mut piece)?;
                    if count == 0 {
                        break parts.finish().await.map(drop).map_err(io_error);
                    }
                    parts.wait_for_capacity(4).await.map_err(io_error)?;
                    parts.write(&piece[..count]);
                }
            }),
        }
    }

    /// The bytes as they come, for a download.
    pub(crate) async fn stream(
        &self,
        k1: &K1,
    ) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        let found = self.store.get(&object_path(k1)).await.map_err(io_error)?;
        Ok(found.into_stream().map_err(io_error).boxed())
    }

    /// A blocking reader from the first byte.
    pub(crate) fn open(&self, k1: &K1) -> io::Result<Box<dyn Read + Send>> {
        match &self.place {
            Place::Directory(root) => Ok(Box::new(File::open(file_path(root, k1))?)),
            Place::Bucket(runtime) => {
                let found = runtime.block_on(self.store.get(&object_path(k1)));
                Ok(Box::new(Pieces {
                    stream: found
                        .map_err(io_error)?
                        .into_stream()
                        .map_err(io_error)
                        .boxed(),
                    piece: Bytes::new(),
                    runtime: runtime.clone(),
                }))
            }
        }
    }

    /// At most the first `bytes_max` bytes, in memory. Blocking.
    pub(crate) fn read(&self, k1: &K1, bytes_max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(k1)?.take(bytes_max).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Removes what no row names. Blocking; one that is not there is no error.
    pub(crate) fn remove(&self, k1: &K1) -> io::Result<()> {
        let done = match &self.place {
            Place::Directory(root) => fs::remove_file(file_path(root, k1)),
            Place::Bucket(runtime) => runtime
                .block_on(self.store.delete(&object_path(k1)))
                .map_err(io_error),
        };
        match done {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

struct Pieces {
    stream: BoxStream<'static, io::Result<Bytes>>,
    piece: Bytes,
    runtime: Handle,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.runtime.block_on(self.stream.next()) {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = out.len().min(self.piece.len());
        out[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

/// Unfinished uploads of an earlier run were never confirmed: they go.
fn fresh_incoming(data_dir: &Path) -> io::Result<PathBuf> {
    let incoming = data_dir.join("incoming");
    match fs::remove_dir_all(&incoming) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir_all(&incoming)?,
    }
    Ok(incoming)
}

fn file_path(root: &Path, k1: &K1) -> PathBuf {
    let name = k1.to_string();
    root.join(&name[..2]).join(name)
}

fn object_path(k1: &K1) -> ObjectPath {
    let name = k1.to_string();
    ObjectPath::from_iter(["blobs", &name[..2], &name])
}

fn io_error(error: object_store::Error) -> io::Error {
    let kind = match &error {
        object_store::Error::NotFound { .. } => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use sha2::Digest;

    fn k1(bytes: &[u8]) -> K1 {
        K1(sha2::Sha256::digest(bytes).into())
    }

    #[test]
    fn a_leftover_half_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::in_directory(dir.path()).unwrap();
        let name = k1(b"whole message");
        fs::write(file_path(&dir.path().join("blobs"), &name), b"whole m").unwrap();
        blobs.write(&name, b"whole message").unwrap();
        assert_eq!(blobs.read(&name, 100).unwrap(), b"whole message");
    }

    /// A tmpfs of a few pages, gone on drop; root is needed to mount it.
    struct SmallDisk(tempfile::TempDir);

    impl SmallDisk {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut mount = Command::new("mount");
            let mount = mount.args(["-t", "tmpfs", "-o", "size=128k", "tmpfs"]);
            assert!(mount.arg(dir.path()).status().unwrap().success());
            Self(dir)
        }
    }

    impl Drop for SmallDisk {
        fn drop(&mut self) {
            let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
            assert!(unmounted.is_ok_and(|status| status.success()));
        }
    }

    #[test]
    fn a_failed_write_takes_no_name_away_that_another_upload_may_hold_by_then() {
        let disk = SmallDisk::new();
        let root = disk.0.path().join("blobs");
        let incoming = disk.0.path().join("incoming");
        let large = vec![7u8; 1 << 20];
        let name = k1(&large);
        fs::create_dir_all(root.join(&name.to_string()[..2])).unwrap();
        fs::create_dir_all(&incoming).unwrap();
        let blobs = Blobs {
            store: Arc::new(object_store::memory::InMemory::new()),
            place: Place::Directory(root.clone()),
            incoming,
        };
        let error = blobs.write(&name, &large).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(file_path(&root, &name).exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_bucket_gives_back_what_was_put_by_either_way() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = Arc::new(object_store::memory::InMemory::new());
        let blobs = Blobs::in_bucket(dir.path(), bucket, Handle::current()).unwrap();
        let large = vec![7u8; 300_000];
        let (small_name, large_name) = (k1(b"small"), k1(&large));
        tokio::task::spawn_blocking(move || {
            blobs.write(&small_name, b"small").unwrap();
            let mut staged = blobs.stage().unwrap();
            staged.write_all(&large).unwrap();
            blobs.adopt(&large_name, staged).unwrap();
            assert_eq!(blobs.read(&small_name, 100).unwrap(), b"small");
            assert_eq!(blobs.read(&large_name, 1 << 20).unwrap(), large);
            blobs.remove(&small_name).unwrap();
            blobs.remove(&small_name).unwrap();
            let gone = blobs.open(&small_name).err().unwrap();
            assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        })
        .await
        .unwrap();
    }
}
