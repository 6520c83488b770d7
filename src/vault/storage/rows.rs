//! Rows of the index as values, and the look-ups by key. All of it works on any connection: a reader's, or the writer's
//! inside a round.

use rusqlite::{Connection, OptionalExtension, Row};

use crate::message::{CaptureId, K1, K2, UnixMillis, fingerprint::Core};

#[derive(Clone, Debug)]
pub(crate) struct BlobRow {
    pub row: i64,
    pub k1: K1,
    pub k2: K2,
    pub bytes: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct EmailRow {
    pub row: i64,
    pub k1: K1,
    pub k2: K2,
    pub core: Core,
    pub bytes: u64,
    pub received_at: UnixMillis,
    pub mailboxes: Vec<i64>,
    /// Blank between.
    pub keywords: String,
}

#[derive(Clone, Debug)]
pub(crate) struct MailboxRow {
    pub row: i64,
    pub name: String,
    /// 0 at the top level.
    pub parent: i64,
    pub role: Option<String>,
    pub sort_order: i64,
    pub emails: i64,
    pub unread: i64,
}

/// A sighting as it was sent: its parts are JSON.
#[derive(Clone, Debug)]
pub(crate) struct SightingRow {
    pub id: CaptureId,
    pub email: i64,
    pub blob: Option<i64>,
    pub sighting: String,
    pub acceptance: String,
    pub difference: Option<String>,
}

pub(crate) type Found<T> = rusqlite::Result<Option<T>>;

pub(crate) fn blob(connection: &Connection, k1: &K1) -> Found<BlobRow> {
    connection
        .prepare_cached("SELECT row, k1, k2, bytes FROM blobs WHERE k1 = ?1")?
        .query_row([&k1.0], blob_from)
        .optional()
}

pub(crate) fn blob_by_row(connection: &Connection, row: i64) -> Found<BlobRow> {
    connection
        .prepare_cached("SELECT row, k1, k2, bytes FROM blobs WHERE row = ?1")?
        .query_row([row], blob_from)
        .optional()
}

/// Blobs beyond a row, in the order of their rows.
pub(crate) fn blobs_after(
    connection: &Connection,
    row: i64,
    limit: u32,
) -> rusqlite::Result<Vec<BlobRow>> {
    connection
        .prepare_cached(
            "SELECT row, k1, k2, bytes FROM blobs WHERE row > ?1 ORDER BY row LIMIT ?2",
        )?
        .query_map([row, i64::from(limit)], blob_from)?
        .collect()
}

pub(super) fn blob_from(row: &Row<'_>) -> rusqlite::Result<BlobRow> {
    Ok(BlobRow {
        row: row.get(0)?,
        k1: K1(row.get(1)?),
        k2: K2(row.get(2)?),
        bytes: row.get::<_, i64>(3)? as u64,
    })
}

const EMAIL: &str =
    "SELECT e.row, b.k1, b.k2, b.core, b.bytes, e.received_at, e.mailboxes, e.keywords
    FROM emails e JOIN blobs b ON b.row = e.row";

/// An e-mail by the K1 of its bytes.
pub(crate) fn email(connection: &Connection, k1: &K1) -> Found<EmailRow> {
    connection
        .prepare_cached(&format!("{EMAIL} WHERE b.k1 = ?1"))?
        .query_row([&k1.0], email_from)
        .optional()
}

pub(crate) fn email_by_row(connection: &Connection, row: i64) -> Found<EmailRow> {
    connection
        .prepare_cached(&format!("{EMAIL} WHERE e.row = ?1"))?
        .query_row([row], email_from)
        .optional()
}

fn email_from(row: &Row<'_>) -> rusqlite::Result<EmailRow> {
    Ok(EmailRow {
        row: row.get(0)?,
        k1: K1(row.get(1)?),
        k2: K2(row.get(2)?),
        core: Core(row.get(3)?),
        bytes: row.get::<_, i64>(4)? as u64,
        received_at: UnixMillis(row.get::<_, i64>(5)? as u64),
        mailboxes: split(&row.get::<_, String>(6)?),
        keywords: row.get(7)?,
    })
}

/// The e-mail that holds this message, whatever its bytes.
pub(crate) fn email_by_k2(connection: &Connection, k2: &K2) -> Found<EmailRow> {
    connection
        .prepare_cached(&format!("{EMAIL} WHERE e.k2 = ?1 ORDER BY e.row LIMIT 1"))?
        .query_row([&k2.0], email_from)
        .optional()
}

const MAILBOX: &str = "SELECT row, name, parent, role, sort_order, emails, unread FROM mailboxes";

pub(crate) fn mailboxes(connection: &Connection) -> rusqlite::Result<Vec<MailboxRow>> {
    connection
        .prepare_cached(&format!("{MAILBOX} ORDER BY sort_order, name, row"))?
        .query_map([], mailbox_from)?
        .collect()
}

pub(crate) fn mailbox(connection: &Connection, row: i64) -> Found<MailboxRow> {
    connection
        .prepare_cached(&format!("{MAILBOX} WHERE row = ?1"))?
        .query_row([row], mailbox_from)
        .optional()
}

fn mailbox_from(row: &Row<'_>) -> rusqlite::Result<MailboxRow> {
    Ok(MailboxRow {
        row: row.get(0)?,
        name: row.get(1)?,
        parent: row.get(2)?,
        role: row.get(3)?,
        sort_order: row.get(4)?,
        emails: row.get(5)?,
        unread: row.get(6)?,
    })
}

const SIGHTING: &str = "SELECT id, email, blob, sighting, acceptance, difference FROM sightings";

pub(crate) fn sighting(connection: &Connection, id: CaptureId) -> Found<SightingRow> {
    connection
        .prepare_cached(&format!("{SIGHTING} WHERE id = ?1"))?
        .query_row([&id.to_bytes()], sighting_from)
        .optional()
}

/// The sighting that brought the copy; none where another client imported it.
pub(crate) fn first_sighting(connection: &Connection, email: i64) -> Found<CaptureId> {
    connection
        .prepare_cached("SELECT id FROM sightings WHERE email = ?1 ORDER BY row LIMIT 1")?
        .query_row([email], |row| Ok(CaptureId::from_bytes(row.get(0)?)))
        .optional()
}

pub(super) fn sighting_from(row: &Row<'_>) -> rusqlite::Result<SightingRow> {
    Ok(SightingRow {
        id: CaptureId::from_bytes(row.get(0)?),
        email: row.get(1)?,
        blob: row.get(2)?,
        sighting: row.get(3)?,
        acceptance: row.get(4)?,
        difference: row.get(5)?,
    })
}

/// The JMAP state as a connection sees it.
pub(crate) fn state(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("SELECT state FROM meta")?
        .query_row([], |row| row.get(0))
}

pub(crate) fn email_count(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT count(*) FROM emails", [], |row| row.get(0))
}

pub(crate) fn has_keyword(keywords: &str, wanted: &str) -> bool {
    keywords.split(' ').any(|keyword| keyword == wanted)
}

pub(super) fn join(rows: &[i64]) -> String {
    let text: Vec<String> = rows.iter().map(i64::to_string).collect();
    text.join(" ")
}

fn split(rows: &str) -> Vec<i64> {
    rows.split(' ').filter_map(|row| row.parse().ok()).collect()
}

/// What the list of messages shows.
#[derive(Clone, Debug)]
pub(crate) struct HeaderRow {
    pub sent_at: Option<i64>,
    pub subject: String,
    pub sender: String,
    pub recipients: String,
    pub preview: String,
    pub attachments: u32,
}

pub(crate) fn headers(connection: &Connection, email: i64) -> Found<HeaderRow> {
    connection
        .prepare_cached(
            "SELECT sent_at, subject, sender, recipients, preview, attachments
             FROM search.headers WHERE email = ?1",
        )?
        .query_row([email], |row| {
            Ok(HeaderRow {
                sent_at: row.get(0)?,
                subject: row.get(1)?,
                sender: row.get(2)?,
                recipients: row.get(3)?,
                preview: row.get(4)?,
                attachments: row.get(5)?,
            })
        })
        .optional()
}

/// The sightings of an e-mail in the order in which they came, at most `limit`.
pub(crate) fn sightings(
    connection: &Connection,
    email: i64,
    limit: u32,
) -> rusqlite::Result<Vec<SightingRow>> {
    connection
        .prepare_cached(&format!(
            "{SIGHTING} WHERE email = ?1 ORDER BY row LIMIT ?2"
        ))?
        .query_map([email, i64::from(limit)], sighting_from)?
        .collect()
}

/// E-mails whose K1 begins with these digits: none, one, or the first two of more.
pub(crate) fn emails_by_prefix(
    connection: &Connection,
    digits: &str,
) -> rusqlite::Result<Vec<i64>> {
    let is_digit = |c: char| c.is_ascii_hexdigit();
    if digits.is_empty() || digits.len() > 64 || !digits.chars().all(is_digit) {
        return Ok(Vec::new());
    }
    let bound = |fill: &str| {
        let text: String = digits
            .chars()
            .chain(fill.repeat(64 - digits.len()).chars())
            .collect();
        text.parse::<K1>().unwrap_or_default().0
    };
    connection
        .prepare_cached(
            "SELECT e.row FROM blobs b JOIN emails e ON e.row = b.row WHERE b.k1 BETWEEN ?1 AND ?2 LIMIT 2",
        )?
        .query_map([bound("0"), bound("f")], |row| row.get(0))?
        .collect()
}
