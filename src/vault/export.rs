//! Everything back as files: one message, one sighting's exact bytes, an mbox, a Maildir. Also lists and shows, for the
//! command line. Reads the vault's directory beside a running server, changes nothing.
//!
//! What comes out is what crossed the wire: each message is hashed on its way and compared with its name (K1).

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::{
    VaultError, mbox,
    storage::{
        Blobs, StoreError,
        query::{self, EmailFilter, Page, SortBy},
        rows::{self, EmailRow},
        schema,
    },
    view::{self, Row, Search, Shown},
};
use crate::message::{CaptureId, Difference, K1, Sighting, difference};

/// E-mails read from the index at a time.
const PAGE: u64 = 500;
const PIECE_BYTES: usize = 64 * 1024;

/// Why nothing, or not all, came out.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("export: no such message or sighting: {0}")]
    NotFound(String),
    /// More than one message begins so.
    #[error("export: {0}: not the beginning of one id only")]
    Ambiguous(String),
    /// The bytes on disk are not those that were confirmed.
    #[error("export: {what}: its bytes have K1 {found}, expected {expected}")]
    Damaged {
        what: String,
        found: K1,
        expected: K1,
    },
    #[error("export: {path}: {cause}")]
    File {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("export: write: {0}")]
    Write(#[from] io::Error),
}

impl From<rusqlite::Error> for ExportError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// A vault's directory, open for reading.
pub struct Archive {
    index: Connection,
    blobs: Blobs,
}

impl Archive {
    /// `data_dir` is the vault's own. A server may run beside.
    pub fn open(data_dir: &Path) -> Result<Self, VaultError> {
        let index = schema::open_reader(data_dir).map_err(StoreError::from)?;
        let blobs = Blobs::to_read(data_dir).map_err(|e| StoreError::io("blobs", e))?;
        Ok(Self { index, blobs })
    }

    /// A page of messages, newest first.
    pub fn list(
        &self,
        search: &Search,
        position: u64,
        limit: u64,
    ) -> Result<Vec<Row>, ExportError> {
        Ok(view::list(
            &self.index,
            &self.blobs,
            search,
            position,
            limit,
        )?)
    }

    /// How many messages a search finds.
    pub fn count(&self, search: &Search) -> Result<u64, ExportError> {
        Ok(view::count(&self.index, search)?)
    }

    /// One message with its sightings; `id` as in [`Archive::eml`].
    pub fn show(&self, id: &str) -> Result<Shown, ExportError> {
        let email = self.email(id)?;
        Ok(view::show(&self.index, &self.blobs, &email)?)
    }

    /// Writes one message. `id` is the e-mail's id, its blob's, the K1, or the beginning of one of them that fits no other.
    pub fn eml(&self, id: &str, out: impl Write) -> Result<K1, ExportError> {
        let email = self.email(id)?;
        copy(&self.blobs, &email.k1, out)?;
        Ok(email.k1)
    }

    /// Writes a sighting's exact bytes, made from the copy and what the sighting alone had.
    pub fn sighting(&self, id: CaptureId, out: impl Write) -> Result<K1, ExportError> {
        sighting(&self.index, &self.blobs, id, out)
    }

    /// Writes all messages as one mbox ("mboxrd"), oldest first; how many.
    pub fn mbox(&self, out: impl Write) -> Result<u64, ExportError> {
        let mut out = BufWriter::new(out);
        let mut count = 0;
        self.each(|email| {
            let sender = self.envelope_sender(email.row)?;
            mbox::begin(&mut out, &sender, email.received_at)?;
            let mut quoting = mbox::Quoting::new(&mut out);
            copy(&self.blobs, &email.k1, &mut quoting)?;
            quoting.finish()?;
            count += 1;
            Ok(())
        })?;
        out.flush()?;
        Ok(count)
    }

    /// Writes all messages into a Maildir, which may be there already: what it holds is not written again. How many are
    /// new.
    pub fn maildir(&self, dir: &Path) -> Result<u64, ExportError> {
        let file_error = |path: &Path| {
            let path = path.to_owned();
            move |cause| ExportError::File { path, cause }
        };
        for sub in ["tmp", "new", "cur"] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).map_err(file_error(&path))?;
        }
        let mut count = 0;
        self.each(|email| {
            let seconds = email.received_at.0 / 1000;
            let name = format!(
                "{seconds}.{}.mailtee,S={}:2,{}",
                email.k1,
                email.bytes,
                flags(email)
            );
            let path = dir.join("cur").join(&name);
            if path.exists() {
                return Ok(());
            }
            let beside = dir.join("tmp").join(&name);
            let mut file = File::create(&beside).map_err(file_error(&beside))?;
            copy(&self.blobs, &email.k1, &mut file)?;
            file.sync_all().map_err(file_error(&beside))?;
            fs::rename(&beside, &path).map_err(file_error(&path))?;
            count += 1;
            Ok(())
        })?;
        Ok(count)
    }

    fn each(
        &self,
        mut act: impl FnMut(&EmailRow) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let all = EmailFilter::And(Vec::new());
        let oldest_first = [(SortBy::ReceivedAt, true)];
        let mut position = 0;
        loop {
            let page = Page {
                position,
                limit: PAGE,
            };
            let found = query::emails(&self.index, &all, &oldest_first, page)?;
            for (row, _) in &found {
                if let Some(email) = rows::email_by_row(&self.index, *row)? {
                    act(&email)?;
                }
            }
            position += PAGE;
            if (found.len() as u64) < PAGE {
                return Ok(());
            }
        }
    }

    fn envelope_sender(&self, email: i64) -> Result<String, ExportError> {
        let first = rows::sightings(&self.index, email, 1)?;
        let sighting = first
            .first()
            .map(|row| serde_json::from_str::<Sighting>(&row.sighting));
        Ok(match sighting {
            Some(Ok(sighting)) => {
                let envelope = sighting.envelope();
                envelope
                    .map(|envelope| envelope.sender.to_string())
                    .unwrap_or_default()
            }
            _ => String::new(),
        })
    }

    fn email(&self, id: &str) -> Result<EmailRow, ExportError> {
        let digits = id.trim_start_matches(['M', 'G', 'T']);
        let found = rows::emails_by_prefix(&self.index, digits)?;
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (Some(row), None) => rows::email_by_row(&self.index, row)?
                .ok_or_else(|| ExportError::NotFound(id.into())),
            (None, _) => Err(ExportError::NotFound(id.into())),
            (Some(_), Some(_)) => Err(ExportError::Ambiguous(id.into())),
        }
    }
}

/// Writes a sighting's exact bytes; see [`Archive::sighting`].
pub(super) fn sighting(
    index: &Connection,
    blobs: &Blobs,
    id: CaptureId,
    out: impl Write,
) -> Result<K1, ExportError> {
    let missing = || ExportError::NotFound(id.to_string());
    let row = rows::sighting(index, id)?.ok_or_else(missing)?;
    let unreadable = |error: serde_json::Error| StoreError::Unavailable {
        step: "sighting",
        cause: error.to_string(),
    };
    if let Some(variant) = row.blob {
        let blob = rows::blob_by_row(index, variant)?.ok_or_else(missing)?;
        copy(blobs, &blob.k1, out)?;
        return Ok(blob.k1);
    }
    let email = rows::email_by_row(index, row.email)?.ok_or_else(missing)?;
    let Some(difference) = &row.difference else {
        copy(blobs, &email.k1, out)?;
        return Ok(email.k1);
    };
    let seen: Sighting = serde_json::from_str(&row.sighting).map_err(unreadable)?;
    let difference: Difference = serde_json::from_str(difference).map_err(unreadable)?;
    let stored = blobs
        .open(&email.k1)
        .map_err(|error| StoreError::io("blob", error))?;
    let found = difference::rebuild(stored, &difference, out)?;
    intact(format!("sighting {id}"), found, seen.fingerprint.k1)?;
    Ok(found)
}

/// Copies a blob out, and compares what went by with its name.
fn copy(blobs: &Blobs, k1: &K1, mut out: impl Write) -> Result<(), ExportError> {
    let failed = |error| StoreError::io("blob", error);
    let mut blob = blobs.open(k1).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = blob.read(&mut piece).map_err(failed)?;
        if count == 0 {
            break;
        }
        hash.update(&piece[..count]);
        out.write_all(&piece[..count])?;
    }
    intact(format!("message {k1}"), K1(hash.finalize().into()), *k1)
}

fn intact(what: String, found: K1, expected: K1) -> Result<(), ExportError> {
    match found == expected {
        true => Ok(()),
        false => Err(ExportError::Damaged {
            what,
            found,
            expected,
        }),
    }
}

/// Maildir flags, in the order of the alphabet.
fn flags(email: &EmailRow) -> String {
    let known = [
        ("$draft", 'D'),
        ("$flagged", 'F'),
        ("$forwarded", 'P'),
        ("$answered", 'R'),
        ("$seen", 'S'),
    ];
    let set = known
        .iter()
        .filter(|(keyword, _)| rows::has_keyword(&email.keywords, keyword));
    set.map(|(_, flag)| flag).collect()
}
