//! After an unclean stop: which rows are backed by bytes?
//!
//! `meta.synced_blob` says up to which row a sync has covered everything. It is written one round later, so after a stop
//! the rows beyond it are of the last two rounds. For each blob row, exactly one case holds:
//!
//! | row | file | what it was | now |
//! |---|---|---|---|
//! | ≤ mark | any | confirmed, or about to be removed as an orphan | kept, not read |
//! | > mark | right size and SHA-256 | confirmed, or whole though never confirmed | kept |
//! | > mark | missing, short, other bytes | never confirmed: its sync had not returned | row dropped, with the e-mail and sightings that name it |
//! | none | any | never confirmed | no row, so never read; replaced when it comes again |
//!
//! A sender that was not confirmed sends again, so a dropped row costs a repeat. SQLite's own WAL holds the index to a
//! prefix of its commits.

use std::io::Read;

use rusqlite::{Connection, params};
use sha2::{Digest, Sha256};

use super::{Blobs, StoreError, rows};

/// Verifies the blobs behind the mark, drops what is not whole; how many were dropped.
pub(super) fn verify_unsynced(connection: &Connection, blobs: &Blobs) -> Result<usize, StoreError> {
    let unsynced: Vec<rows::BlobRow> = connection
        .prepare(
            "SELECT row, k1, k2, bytes FROM blobs
             WHERE row > (SELECT synced_blob FROM meta) ORDER BY row",
        )?
        .query_map([], rows::blob_from)?
        .collect::<Result<_, _>>()?;
    if unsynced.is_empty() {
        return Ok(0);
    }
    let mut dropped = 0;
    connection.execute_batch("BEGIN IMMEDIATE")?;
    for blob in &unsynced {
        if !is_whole(blobs, blob)? {
            tracing::warn!(blob = %blob.k1, "vault: dropped a blob that was never confirmed");
            drop_blob(connection, blob.row)?;
            dropped += 1;
        }
    }
    connection.execute_batch("COMMIT")?;
    tracing::info!(
        verified = unsynced.len(),
        dropped,
        "vault: verified what the last stop left unsynced"
    );
    Ok(dropped)
}

fn is_whole(blobs: &Blobs, blob: &rows::BlobRow) -> Result<bool, StoreError> {
    let failed = |error| StoreError::io("verify", error);
    let mut reader = match blobs.open(&blob.k1) {
        Ok(reader) => reader,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut piece = vec![0; 64 * 1024];
    loop {
        let count = reader.read(&mut piece).map_err(failed)?;
        if count == 0 {
            break;
        }
        bytes += count as u64;
        hash.update(&piece[..count]);
    }
    Ok(bytes == blob.bytes && hash.finalize()[..] == blob.k1.0)
}

fn drop_blob(connection: &Connection, row: i64) -> rusqlite::Result<()> {
    if let Some(email) = rows::email_by_row(connection, row)? {
        let unread = i64::from(!rows::has_keyword(&email.keywords, "$seen"));
        for mailbox in &email.mailboxes {
            connection.execute(
                "UPDATE mailboxes SET emails = emails - 1, unread = unread - ?2 WHERE row = ?1",
                [*mailbox, unread],
            )?;
            connection.execute(
                "DELETE FROM filed WHERE mailbox = ?1 AND received_at = ?2 AND email = ?3",
                [*mailbox, email.received_at.0 as i64, row],
            )?;
        }
        connection.execute("DELETE FROM emails WHERE row = ?1", [row])?;
    }
    connection.execute(
        "DELETE FROM sightings WHERE email = ?1 OR blob = ?1",
        params![row],
    )?;
    connection.execute("DELETE FROM blobs WHERE row = ?1", [row])?;
    Ok(())
}
