//! Does the vault hold what its index says? Reads every blob that a row names and hashes it, looks for the blob of every
//! e-mail and sighting, and names the files that no row names.
//!
//! Changes nothing, and may run beside the server: what is taken away meanwhile is not missed. A leftover is no damage: a
//! failed upload's file, replaced when the same bytes come again, or an upload under way. What the last rounds before a
//! power cut wrote may show as damage until the vault has started once, see `storage/recovery.rs`.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use rusqlite::Connection;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    VaultError,
    storage::{
        Blobs, StoreError,
        rows::{self, BlobRow},
        schema,
    },
};
use crate::message::{CaptureId, K1};

/// Findings named; more are only counted.
const NAMED_MAX: usize = 10_000;
/// Rows read from the index at a time, so that a long look holds up no checkpoint of the server's.
const PAGE: u32 = 500;
const PIECE_BYTES: usize = 64 * 1024;

/// What was read, and what of it is not as it should be.
#[derive(Debug, Default, Serialize)]
pub struct Checked {
    /// Blobs that the index names.
    pub blobs: u64,
    pub bytes: u64,
    pub damages: u64,
    pub leftovers: u64,
    /// The first [`NAMED_MAX`] of both.
    pub named: Vec<Finding>,
}

/// One thing that is not as it should be.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "lowercase")]
pub enum Finding {
    /// The index is not a sound database; nothing else was looked at.
    Index { why: String },
    /// A row, and no blob.
    Missing { k1: K1, bytes: u64 },
    /// A blob of other bytes than its name says.
    Damaged { k1: K1, found: K1, bytes: u64 },
    /// A blob that the disk does not give out.
    Unreadable { k1: K1, why: String },
    /// An e-mail or a sighting whose blob or e-mail has no row.
    Dangling { row: String },
    /// A file that no row names.
    Leftover { file: String, bytes: u64 },
}

impl Checked {
    fn add(&mut self, finding: Finding) {
        match finding {
            Finding::Leftover { .. } => self.leftovers += 1,
            _ => self.damages += 1,
        }
        if self.named.len() < NAMED_MAX {
            self.named.push(finding);
        }
    }
}

/// Checks the vault in `data_dir`. Blocking, as long as reading all of it takes.
pub fn fsck(data_dir: &Path) -> Result<Checked, VaultError> {
    let index = schema::open_reader(data_dir).map_err(StoreError::from)?;
    let blobs = Blobs::to_read(data_dir).map_err(|error| StoreError::io("blobs", error))?;
    let mut checked = Checked::default();
    if let Some(why) = index_fault(&index) {
        checked.add(Finding::Index { why });
        return Ok(checked);
    }
    each_blob(&index, |row| {
        checked.blobs += 1;
        checked.bytes += row.bytes;
        if let Some(finding) = look(&blobs, row)
            && rows::blob_by_row(&index, row.row)?.is_some()
        {
            checked.add(finding);
        }
        Ok(())
    })?;
    for row in dangling(&index).map_err(StoreError::from)? {
        checked.add(Finding::Dangling { row });
    }
    leftovers(&index, &data_dir.join("blobs"), &mut checked)?;
    Ok(checked)
}

fn index_fault(index: &Connection) -> Option<String> {
    let said = index.query_row("PRAGMA main.quick_check(1)", [], |row| {
        row.get::<_, String>(0)
    });
    match said {
        Ok(said) => (said != "ok").then_some(said),
        Err(error) => Some(error.to_string()),
    }
}

fn each_blob(
    index: &Connection,
    mut act: impl FnMut(&BlobRow) -> rusqlite::Result<()>,
) -> Result<(), StoreError> {
    let mut after = 0;
    loop {
        let page = rows::blobs_after(index, after, PAGE)?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = last.row;
        for row in &page {
            act(row)?;
        }
    }
}

/// What is wrong with a blob, if anything.
fn look(blobs: &Blobs, row: &BlobRow) -> Option<Finding> {
    let k1 = row.k1;
    let hashed = blobs.open(&k1).and_then(hash);
    match hashed {
        Ok((found, bytes)) if (found, bytes) == (k1, row.bytes) => None,
        Ok((found, bytes)) => Some(Finding::Damaged { k1, found, bytes }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Finding::Missing {
            k1,
            bytes: row.bytes,
        }),
        Err(error) => Some(Finding::Unreadable {
            k1,
            why: error.to_string(),
        }),
    }
}

fn hash(mut blob: impl Read) -> io::Result<(K1, u64)> {
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = blob.read(&mut piece)?;
        if count == 0 {
            return Ok((K1(hash.finalize().into()), bytes));
        }
        bytes += count as u64;
        hash.update(&piece[..count]);
    }
}

/// E-mails without their blob, sightings without their e-mail or without their own blob.
fn dangling(index: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut emails =
        index.prepare("SELECT row FROM emails WHERE row NOT IN (SELECT row FROM blobs)")?;
    let emails = emails.query_map([], |row| {
        let row: i64 = row.get(0)?;
        Ok(format!("e-mail in row {row}"))
    })?;
    let mut sightings = index.prepare(
        "SELECT id FROM sightings WHERE email NOT IN (SELECT row FROM emails)
         OR (blob IS NOT NULL AND blob NOT IN (SELECT row FROM blobs))",
    )?;
    let sightings = sightings.query_map([], |row| {
        let id = CaptureId::from_bytes(row.get(0)?);
        Ok(format!("sighting {id}"))
    })?;
    emails.chain(sightings).take(NAMED_MAX).collect()
}

fn leftovers(index: &Connection, root: &Path, checked: &mut Checked) -> Result<(), StoreError> {
    let failed = |error| StoreError::io("blobs", error);
    for shard in fs::read_dir(root).map_err(failed)? {
        let shard = shard.map_err(failed)?.path();
        if !shard.is_dir() {
            continue;
        }
        for file in fs::read_dir(&shard).map_err(failed)? {
            let file = file.map_err(failed)?;
            let name = file.file_name();
            let k1 = name.to_str().and_then(|name| name.parse::<K1>().ok());
            let is_named = match k1 {
                Some(k1) => rows::blob(index, &k1)?.is_some(),
                None => false,
            };
            // One that has gone since it was listed is no leftover.
            if let (false, Ok(facts)) = (is_named, file.metadata()) {
                let path = file.path();
                let within = path.strip_prefix(root).unwrap_or(&path);
                checked.add(Finding::Leftover {
                    file: within.display().to_string(),
                    bytes: facts.len(),
                });
            }
        }
    }
    Ok(())
}
