//! The index on disk: tables, and how a connection to them is opened.
//!
//! `index.db` is the truth about what the vault holds. `search.db` is derived from it and from the blobs, by the indexer
//! alone: deleted, it is built again. Two files, so that filling the one never waits for a writer of the other.
//!
//! Row numbers are handed out by the writer and never used again, also after a crash: `search.db` names rows.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use super::StoreError;

const VERSION: i64 = 1;

const INDEX: &str = "
CREATE TABLE meta (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    synced_blob INTEGER NOT NULL,   -- blobs up to this row are known to be on disk, whole
    next_row INTEGER NOT NULL,
    state INTEGER NOT NULL          -- JMAP state: one step a change of an e-mail or a mailbox
);
INSERT INTO meta VALUES (1, 2, 3, 1);
CREATE TABLE blobs (
    row INTEGER PRIMARY KEY,
    k1 BLOB NOT NULL UNIQUE,
    k2 BLOB NOT NULL,
    core BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    uploaded_at INTEGER NOT NULL    -- times are Unix milliseconds
);
CREATE TABLE emails (
    row INTEGER PRIMARY KEY,        -- its blob's row
    k2 BLOB NOT NULL,
    received_at INTEGER NOT NULL,
    mailboxes TEXT NOT NULL,        -- rows of mailboxes, blank between
    keywords TEXT NOT NULL,         -- blank between; no keyword holds one (RFC 8621 section 4.1.1)
    created_state INTEGER NOT NULL,
    changed_state INTEGER NOT NULL
);
CREATE INDEX emails_k2 ON emails (k2);
CREATE INDEX emails_changed ON emails (changed_state);
CREATE INDEX emails_received ON emails (received_at);
CREATE TABLE filed (
    mailbox INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    email INTEGER NOT NULL,
    PRIMARY KEY (mailbox, received_at, email)
) WITHOUT ROWID;
CREATE TABLE mailboxes (
    row INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    parent INTEGER NOT NULL,        -- 0: top level
    role TEXT,
    sort_order INTEGER NOT NULL,
    emails INTEGER NOT NULL,
    unread INTEGER NOT NULL,
    created_state INTEGER NOT NULL,
    changed_state INTEGER NOT NULL,
    UNIQUE (parent, name)
);
INSERT INTO mailboxes VALUES (1, 'Inbox', 0, 'inbox', 1, 0, 0, 1, 1);
INSERT INTO mailboxes VALUES (2, 'Archive', 0, 'archive', 2, 0, 0, 1, 1);
CREATE TABLE sightings (
    row INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    email INTEGER NOT NULL,
    blob INTEGER,                   -- a variant's own bytes
    captured_at INTEGER NOT NULL,
    sighting TEXT NOT NULL,         -- JSON
    acceptance TEXT NOT NULL,       -- JSON
    difference TEXT                 -- JSON
);
CREATE INDEX sightings_email ON sightings (email);
CREATE INDEX sightings_blob ON sightings (blob) WHERE blob IS NOT NULL;
";

const SEARCH: &str = "
CREATE TABLE progress (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    state INTEGER NOT NULL,         -- e-mails changed up to this state are indexed
    sighting INTEGER NOT NULL       -- sightings up to this row are indexed
);
INSERT INTO progress VALUES (1, 0, 0);
CREATE TABLE headers (
    email INTEGER PRIMARY KEY,
    sent_at INTEGER,
    subject TEXT NOT NULL,
    sender TEXT NOT NULL,
    recipients TEXT NOT NULL,
    message_id TEXT NOT NULL,
    preview TEXT NOT NULL,
    attachments INTEGER NOT NULL
);
CREATE INDEX headers_sent ON headers (sent_at);
CREATE INDEX headers_message_id ON headers (message_id);
CREATE VIRTUAL TABLE words USING fts5(
    subject, sender, recipients, body, attachments,
    content='', contentless_delete=1, tokenize='unicode61 remove_diacritics 2'
);
CREATE VIRTUAL TABLE envelope_words USING fts5(
    addresses, email UNINDEXED, tokenize='unicode61 remove_diacritics 2'
);
";

/// The connection that changes `index.db`. There is one.
pub(super) fn open_index(data_dir: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(data_dir.join("index.db"))?;
    prepare(&connection, INDEX)?;
    Ok(connection)
}

/// The connection that changes `search.db`. There is one, the indexer's; it reads `index.db` beside it.
pub(crate) fn open_search(data_dir: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(data_dir.join("search.db"))?;
    prepare(&connection, SEARCH)?;
    Ok(connection)
}

/// A connection that reads both.
pub(crate) fn open_reader(data_dir: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(data_dir.join("index.db"), flags)?;
    attach_search(&connection, data_dir)?;
    tune(&connection)?;
    Ok(connection)
}

/// Lets a connection to `index.db` read `search.db` too, under the name `search`.
pub(super) fn attach_search(connection: &Connection, data_dir: &Path) -> rusqlite::Result<()> {
    let path = data_dir.join("search.db");
    connection.execute("ATTACH ?1 AS search", [path.to_string_lossy()])?;
    Ok(())
}

fn prepare(connection: &Connection, tables: &str) -> Result<(), StoreError> {
    // NORMAL syncs around a checkpoint only, which the order of WAL and database needs; a commit is made durable by the
    // round's own sync.
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")?;
    tune(connection)?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version == 0 {
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {tables} PRAGMA user_version = {VERSION}; COMMIT;"
        ))?;
    } else if version != VERSION {
        return Err(StoreError::Unavailable {
            step: "index",
            cause: format!("made by another version (layout {version}, expected {VERSION})"),
        });
    }
    Ok(())
}

fn tune(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(64);
    // Else SQLite plans a cached statement again whenever a value is bound that its plan might depend on.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.execute_batch(
        "PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16000; PRAGMA wal_autocheckpoint = 4000; PRAGMA trusted_schema = OFF;",
    )
}
