//! Content too large for a segment streams into a file of its own, `large/<name>.eml`: synced, and its directory too,
//! before the record that names it. A file that no live capture names is removed at start.
//!
//! Bounded memory: at most one piece is held. What is written is written back as it comes, so that the last sync is short.

use std::{io, sync::Arc};

use super::{
    JournalError,
    disk::{Area, DiskFile},
    format::LargeRef,
    keeper::Job,
    shared::{Shared, failed},
};

const PIECE_BYTES: usize = 256 << 10;
/// Synced in between, so that a large message does not make everyone's sync wait for all of it at its end.
const SYNC_BYTES: u64 = 16 << 20;

pub(super) fn file_name(name: u64) -> String {
    format!("{name:016x}.eml")
}

pub(super) fn from_file_name(file: &str) -> Option<u64> {
    let hex = file.strip_suffix(".eml").filter(|hex| hex.len() == 16)?;
    u64::from_str_radix(hex, 16).ok()
}

pub(super) struct LargeDraft {
    shared: Arc<Shared>,
    name: u64,
    file: Arc<dyn DiskFile>,
    piece: Vec<u8>,
    crc: crc32fast::Hasher,
    written: u64,
    synced: u64,
    keep: bool,
}

impl LargeDraft {
    pub(super) async fn create(shared: Arc<Shared>) -> Result<Self, JournalError> {
        shared.check_free_space(PIECE_BYTES as u64)?;
        // 0 stands for "no file" in a record.
        let name = rand::random::<u64>().max(1);
        let disk = shared.log.disk.clone();
        let file = blocking(move || disk.create(Area::Large, &file_name(name)))
            .await
            .map_err(failed("create a large file"))?;
        Ok(Self {
            shared,
            name,
            file,
            piece: Vec::with_capacity(PIECE_BYTES),
            crc: crc32fast::Hasher::new(),
            written: 0,
            synced: 0,
            keep: false,
        })
    }

    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> Result<(), JournalError> {
        self.crc.update(bytes);
        while !bytes.is_empty() {
            let room = PIECE_BYTES - self.piece.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == PIECE_BYTES {
                self.write_piece().await?;
            }
        }
        Ok(())
    }

    async fn write_piece(&mut self) -> Result<(), JournalError> {
        let shared = self.shared.clone();
        let promise = shared.promise_space(self.piece.len() as u64)?;
        let piece = std::mem::take(&mut self.piece);
        let (file, at) = (self.file.clone(), self.written);
        self.written += piece.len() as u64;
        let sync = self.written - self.synced >= SYNC_BYTES;
        if sync {
            self.synced = self.written;
        }
        let done = move || {
            file.write_at(&piece, at)?;
            if sync {
                file.sync()?;
            }
            Ok(piece)
        };
        let written = blocking(done).await;
        drop(promise);
        self.piece = written.map_err(failed("write a large file"))?;
        self.piece.clear();
        Ok(())
    }

    /// Makes the content durable.
    pub(super) async fn finish(&mut self) -> Result<LargeRef, JournalError> {
        if !self.piece.is_empty() {
            self.write_piece().await?;
        }
        let (file, disk) = (self.file.clone(), self.shared.log.disk.clone());
        blocking(move || {
            file.sync()?;
            disk.sync_directory(Area::Large)
        })
        .await
        .map_err(failed("sync a large file"))?;
        Ok(LargeRef {
            name: self.name,
            crc: self.crc.clone().finalize(),
        })
    }

    /// A synced record names the file: it stays.
    pub(super) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for LargeDraft {
    fn drop(&mut self) {
        if !self.keep {
            self.shared.keeper.give([Job::RemoveLarge(self.name)]);
        }
    }
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(f).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::other("the runtime is shutting down")),
    }
}
