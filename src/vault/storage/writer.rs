//! What a round may do to the index. Every method is one step of the open transaction; nothing here is durable, or
//! told to anyone, before the round's sync.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::{
    StoreError,
    rows::{self, BlobRow, EmailRow, MailboxRow},
};
use crate::message::{CaptureId, Fingerprint, K1, UnixMillis};

/// Counters that live in `meta`, held in memory by the one writer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counters {
    pub next_row: i64,
    pub state: i64,
}

pub(crate) struct Writer<'a> {
    pub(super) connection: &'a Connection,
    pub(super) counters: &'a mut Counters,
    /// E-mails added by this job.
    pub(super) added: i64,
    /// Mailbox → e-mails and unread ones more or fewer, not yet in its row: one update a job, not one a message.
    pub(super) counts: BTreeMap<i64, (i64, i64)>,
    pub(super) now: UnixMillis,
}

/// What became of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Imported {
    New,
    /// The same message is there, in the bytes of this K1.
    Exists(K1),
}

/// What became of a sighting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    New,
    /// This very sighting is there already.
    Same {
        email: i64,
    },
}

pub(crate) struct NewSighting<'a> {
    pub id: CaptureId,
    pub email: i64,
    /// A variant's own blob.
    pub blob: Option<i64>,
    pub captured_at: UnixMillis,
    pub sighting: &'a str,
    pub acceptance: &'a str,
    pub difference: Option<&'a str>,
}

impl Writer<'_> {
    pub(crate) fn connection(&self) -> &Connection {
        self.connection
    }

    pub(crate) fn now(&self) -> UnixMillis {
        self.now
    }

    fn next_row(&mut self) -> i64 {
        let row = self.counters.next_row;
        self.counters.next_row += 1;
        row
    }

    fn next_state(&mut self) -> i64 {
        self.counters.state += 1;
        self.counters.state
    }

    pub(crate) fn state(&self) -> i64 {
        self.counters.state
    }

    /// Records a blob whose bytes are written.
    pub(crate) fn put_blob(
        &mut self,
        fingerprint: &Fingerprint,
        bytes: u64,
    ) -> Result<BlobRow, StoreError> {
        // Uploaded again: its day before it counts as an orphan starts anew.
        let row = self.next_row();
        let row = self
            .connection
            .prepare_cached(
                "INSERT INTO blobs (row, k1, k2, core, bytes, uploaded_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (k1) DO UPDATE SET uploaded_at = excluded.uploaded_at RETURNING row",
            )?
            .query_row(
                params![
                    row,
                    &fingerprint.k1.0,
                    &fingerprint.k2.0,
                    &fingerprint.core.0,
                    bytes as i64,
                    self.now.0 as i64
                ],
                |row| row.get(0),
            )?;
        Ok(BlobRow {
            row,
            k1: fingerprint.k1,
            k2: fingerprint.k2,
            bytes,
        })
    }

    /// Makes an e-mail of a blob, unless the vault holds the same message (K1 or K2) already.
    pub(crate) fn import(
        &mut self,
        blob: &BlobRow,
        mailboxes: &[i64],
        keywords: &str,
        received_at: UnixMillis,
    ) -> Result<Imported, StoreError> {
        if let Some(email) = rows::email_by_k2(self.connection, &blob.k2)? {
            return Ok(Imported::Exists(email.k1));
        }
        let state = self.next_state();
        self.connection
            .prepare_cached(
                "INSERT INTO emails (row, k2, received_at, mailboxes, keywords, created_state, changed_state)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
            )?
            .execute(params![
                blob.row,
                &blob.k2.0,
                received_at.0 as i64,
                rows::join(mailboxes),
                keywords,
                state
            ])?;
        let unread = i64::from(!rows::has_keyword(keywords, "$seen"));
        for &mailbox in mailboxes {
            self.file(mailbox, received_at.0 as i64, blob.row, 1, unread)?;
        }
        self.added += 1;
        Ok(Imported::New)
    }

    /// Changes where an e-mail is filed and what it is marked with.
    pub(crate) fn refile(
        &mut self,
        email: &EmailRow,
        mailboxes: &[i64],
        keywords: &str,
    ) -> Result<(), StoreError> {
        let state = self.next_state();
        self.connection
            .prepare_cached(
                "UPDATE emails SET mailboxes = ?2, keywords = ?3, changed_state = ?4 WHERE row = ?1",
            )?
            .execute(params![email.row, rows::join(mailboxes), keywords, state])?;
        let was_unread = i64::from(!rows::has_keyword(&email.keywords, "$seen"));
        let unread = i64::from(!rows::has_keyword(keywords, "$seen"));
        for &mailbox in &email.mailboxes {
            self.file(
                mailbox,
                email.received_at.0 as i64,
                email.row,
                -1,
                -was_unread,
            )?;
        }
        for &mailbox in mailboxes {
            self.file(mailbox, email.received_at.0 as i64, email.row, 1, unread)?;
        }
        Ok(())
    }

    fn file(
        &mut self,
        mailbox: i64,
        received_at: i64,
        email: i64,
        emails: i64,
        unread: i64,
    ) -> Result<(), StoreError> {
        let change = if emails > 0 {
            "INSERT INTO filed (mailbox, received_at, email) VALUES (?1, ?2, ?3)"
        } else {
            "DELETE FROM filed WHERE mailbox = ?1 AND received_at = ?2 AND email = ?3"
        };
        self.connection
            .prepare_cached(change)?
            .execute([mailbox, received_at, email])?;
        let count = self.counts.entry(mailbox).or_default();
        count.0 += emails;
        count.1 += unread;
        Ok(())
    }

    /// Brings the mailboxes' rows up to what was filed.
    pub(crate) fn settle_counts(&mut self) -> Result<(), StoreError> {
        for (mailbox, (emails, unread)) in std::mem::take(&mut self.counts) {
            self.connection
                .prepare_cached(
                    "UPDATE mailboxes SET emails = emails + ?2, unread = unread + ?3, changed_state = ?4 WHERE row = ?1",
                )?
                .execute([mailbox, emails, unread, self.counters.state])?;
        }
        Ok(())
    }

    /// Records a sighting of an e-mail; the same id twice is one record.
    pub(crate) fn record(&mut self, new: &NewSighting<'_>) -> Result<Recorded, StoreError> {
        let row = self.next_row();
        let added = self
            .connection
            .prepare_cached(
                "INSERT INTO sightings (row, id, email, blob, captured_at, sighting, acceptance, difference)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (id) DO NOTHING",
            )?
            .execute(params![
                row,
                &new.id.to_bytes(),
                new.email,
                new.blob,
                new.captured_at.0 as i64,
                new.sighting,
                new.acceptance,
                new.difference
            ])?;
        if added == 1 {
            return Ok(Recorded::New);
        }
        let email = self
            .connection
            .prepare_cached("SELECT email FROM sightings WHERE id = ?1")?
            .query_row([&new.id.to_bytes()], |row| row.get(0))?;
        Ok(Recorded::Same { email })
    }

    /// Makes a mailbox; its row. The caller has checked that no sibling has the name.
    pub(crate) fn create_mailbox(
        &mut self,
        name: &str,
        parent: i64,
        role: Option<&str>,
        sort_order: i64,
    ) -> Result<i64, StoreError> {
        let (row, state) = (self.next_row(), self.next_state());
        self.connection
            .prepare_cached(
                "INSERT INTO mailboxes (row, name, parent, role, sort_order, emails, unread, created_state, changed_state)
                 VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, ?6, ?6)",
            )?
            .execute(params![row, name, parent, role, sort_order, state])?;
        Ok(row)
    }

    pub(crate) fn update_mailbox(&mut self, mailbox: &MailboxRow) -> Result<(), StoreError> {
        let state = self.next_state();
        self.connection
            .prepare_cached(
                "UPDATE mailboxes SET name = ?2, parent = ?3, role = ?4, sort_order = ?5, changed_state = ?6 WHERE row = ?1",
            )?
            .execute(params![
                mailbox.row,
                mailbox.name,
                mailbox.parent,
                mailbox.role,
                mailbox.sort_order,
                state
            ])?;
        Ok(())
    }

    /// Removes the rows of blobs uploaded before `before` that nothing names; their files go after the sync.
    pub(super) fn drop_orphans(&mut self, before: i64) -> Result<Vec<K1>, StoreError> {
        let orphans: Vec<(i64, [u8; 32])> = self
            .connection
            .prepare_cached(
                "SELECT row, k1 FROM blobs b WHERE uploaded_at < ?1
                 AND NOT EXISTS (SELECT 1 FROM emails e WHERE e.row = b.row)
                 AND NOT EXISTS (SELECT 1 FROM sightings s WHERE s.blob = b.row)
                 LIMIT 10000",
            )?
            .query_map([before], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        for (row, _) in &orphans {
            self.connection
                .prepare_cached("DELETE FROM blobs WHERE row = ?1")?
                .execute([row])?;
        }
        Ok(orphans.into_iter().map(|(_, k1)| K1(k1)).collect())
    }
}
