//! Queries over the index and the search: a checked filter becomes SQL with parameters, never with text.

use rusqlite::{Connection, params_from_iter, types::Value};

use crate::message::{CaptureId, K1, UnixMillis};

/// Which e-mails. `And` of nothing takes all.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum EmailFilter {
    And(Vec<EmailFilter>),
    Or(Vec<EmailFilter>),
    /// None of them holds.
    Not(Vec<EmailFilter>),
    InMailbox(i64),
    /// Received before it.
    Before(UnixMillis),
    /// Received at it or later.
    After(UnixMillis),
    /// At least so many bytes.
    MinSize(u64),
    /// Fewer bytes.
    MaxSize(u64),
    HasKeyword(String),
    NotKeyword(String),
    HasAttachment(bool),
    /// Words in a part of the message, or anywhere in it and in its envelopes.
    Words(Part, String),
    MessageId(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Anywhere,
    Sender,
    Recipients,
    Subject,
    Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SortBy {
    ReceivedAt,
    SentAt,
    Size,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    pub position: u64,
    pub limit: u64,
}

const FROM: &str =
    "FROM emails e JOIN blobs b ON b.row = e.row LEFT JOIN search.headers h ON h.email = e.row";

/// The K1s and rows of a page of e-mails. `sort` is a property and whether it ascends; the row decides between equals.
pub(crate) fn emails(
    index: &Connection,
    filter: &EmailFilter,
    sort: &[(SortBy, bool)],
    page: Page,
) -> rusqlite::Result<Vec<(i64, K1)>> {
    let mut values = Vec::new();
    let condition = condition(filter, &mut values);
    let mut order = String::new();
    for (by, ascends) in sort {
        order.push_str(match by {
            SortBy::ReceivedAt => "e.received_at",
            SortBy::SentAt => "h.sent_at",
            SortBy::Size => "b.bytes",
        });
        order.push_str(if *ascends { ", " } else { " DESC, " });
    }
    let last = match sort.last() {
        Some((_, true)) => "e.row",
        _ => "e.row DESC",
    };
    values.push(Value::Integer(page.limit.min(i64::MAX as u64) as i64));
    values.push(Value::Integer(page.position.min(i64::MAX as u64) as i64));
    index
        .prepare_cached(&format!(
            "SELECT e.row, b.k1 {FROM} WHERE {condition} ORDER BY {order}{last} LIMIT ? OFFSET ?"
        ))?
        .query_map(params_from_iter(values), |row| {
            Ok((row.get(0)?, K1(row.get(1)?)))
        })?
        .collect()
}

pub(crate) fn count_emails(index: &Connection, filter: &EmailFilter) -> rusqlite::Result<u64> {
    let mut values = Vec::new();
    let condition = condition(filter, &mut values);
    let count: i64 = index
        .prepare_cached(&format!("SELECT count(*) {FROM} WHERE {condition}"))?
        .query_row(params_from_iter(values), |row| row.get(0))?;
    Ok(count as u64)
}

impl EmailFilter {
    /// Whether it asks for what only the indexer knows.
    pub(crate) fn is_searched(&self) -> bool {
        match self {
            Self::And(inner) | Self::Or(inner) | Self::Not(inner) => {
                inner.iter().any(Self::is_searched)
            }
            Self::HasAttachment(_) | Self::MessageId(_) | Self::Words(..) => true,
            Self::InMailbox(_)
            | Self::Before(_)
            | Self::After(_)
            | Self::MinSize(_)
            | Self::MaxSize(_)
            | Self::HasKeyword(_)
            | Self::NotKeyword(_) => false,
        }
    }
}

fn condition(filter: &EmailFilter, values: &mut Vec<Value>) -> String {
    let mut number = |value: u64| values.push(Value::Integer(value.min(i64::MAX as u64) as i64));
    match filter {
        EmailFilter::And(all) => joined(all, " AND ", "1", values),
        EmailFilter::Or(any) => joined(any, " OR ", "0", values),
        EmailFilter::Not(none) => format!("NOT {}", joined(none, " OR ", "0", values)),
        EmailFilter::InMailbox(row) => {
            values.push(Value::Integer(*row));
            "EXISTS (SELECT 1 FROM filed f WHERE f.mailbox = ? AND f.received_at = e.received_at AND f.email = e.row)".into()
        }
        EmailFilter::Before(at) => {
            number(at.0);
            "e.received_at < ?".into()
        }
        EmailFilter::After(at) => {
            number(at.0);
            "e.received_at >= ?".into()
        }
        EmailFilter::MinSize(bytes) => {
            number(*bytes);
            "b.bytes >= ?".into()
        }
        EmailFilter::MaxSize(bytes) => {
            number(*bytes);
            "b.bytes < ?".into()
        }
        EmailFilter::HasKeyword(keyword) => {
            values.push(Value::Text(format!(" {keyword} ")));
            "instr(' ' || e.keywords || ' ', ?) > 0".into()
        }
        EmailFilter::NotKeyword(keyword) => {
            values.push(Value::Text(format!(" {keyword} ")));
            "instr(' ' || e.keywords || ' ', ?) = 0".into()
        }
        EmailFilter::HasAttachment(true) => "h.attachments > 0".into(),
        EmailFilter::HasAttachment(false) => "h.attachments = 0".into(),
        EmailFilter::MessageId(id) => {
            values.push(Value::Text(id.clone()));
            "h.message_id = ?".into()
        }
        EmailFilter::Words(part, text) => words(*part, text, values),
    }
}

fn joined(filters: &[EmailFilter], with: &str, none: &str, values: &mut Vec<Value>) -> String {
    if filters.is_empty() {
        return none.into();
    }
    let parts: Vec<String> = filters.iter().map(|f| condition(f, values)).collect();
    format!("({})", parts.join(with))
}

fn words(part: Part, text: &str, values: &mut Vec<Value>) -> String {
    let Some(expression) = expression(text) else {
        // Nothing to look for is found nowhere.
        return "0".into();
    };
    let column = match part {
        Part::Anywhere => "",
        Part::Sender => "sender : ",
        Part::Recipients => "recipients : ",
        Part::Subject => "subject : ",
        Part::Body => "{body attachments} : ",
    };
    values.push(Value::Text(format!("{column}({expression})")));
    let in_message = "e.row IN (SELECT rowid FROM search.words WHERE words MATCH ?)";
    if part != Part::Anywhere {
        return in_message.into();
    }
    values.push(Value::Text(expression));
    format!(
        "({in_message} OR e.row IN (SELECT email FROM search.envelope_words WHERE envelope_words MATCH ?))"
    )
}

/// What a person types, as an FTS5 expression: all words, `"a phrase"`, `begin*`. Everything is quoted, so no operator
/// of FTS5 comes through.
fn expression(text: &str) -> Option<String> {
    let mut terms = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let (term, is_prefix) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"').unwrap_or(quoted.len());
                let term = &quoted[..end];
                rest = quoted.get(end + 1..).unwrap_or("");
                (term, false)
            }
            None => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                let word = &rest[..end];
                rest = &rest[end..];
                match word.strip_suffix('*') {
                    Some(start) => (start, true),
                    None => (word, false),
                }
            }
        };
        if term.contains(char::is_alphanumeric) {
            let star = if is_prefix { "*" } else { "" };
            terms.push(format!("\"{}\"{star}", term.replace('"', "\"\"")));
        }
        if rest.is_empty() {
            break;
        }
    }
    (!terms.is_empty()).then(|| terms.join(" AND "))
}

/// Which sightings; `None` takes all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SightingFilter {
    pub email: Option<i64>,
    pub after: Option<UnixMillis>,
    pub before: Option<UnixMillis>,
}

impl SightingFilter {
    fn condition(&self, values: &mut Vec<Value>) -> String {
        let mut all = vec!["1"];
        if let Some(email) = self.email {
            all.push("email = ?");
            values.push(Value::Integer(email));
        }
        if let Some(at) = self.after {
            all.push("captured_at >= ?");
            values.push(Value::Integer(at.0 as i64));
        }
        if let Some(at) = self.before {
            all.push("captured_at < ?");
            values.push(Value::Integer(at.0 as i64));
        }
        all.join(" AND ")
    }
}

/// Ids of sightings in the order in which they came.
pub(crate) fn sightings(
    index: &Connection,
    filter: &SightingFilter,
    position: u64,
    limit: u64,
) -> rusqlite::Result<Vec<CaptureId>> {
    let mut values = Vec::new();
    let condition = filter.condition(&mut values);
    values.push(Value::Integer(limit.min(i64::MAX as u64) as i64));
    values.push(Value::Integer(position.min(i64::MAX as u64) as i64));
    index
        .prepare_cached(&format!(
            "SELECT id FROM sightings WHERE {condition} ORDER BY row LIMIT ? OFFSET ?"
        ))?
        .query_map(params_from_iter(values), |row| {
            Ok(CaptureId::from_bytes(row.get(0)?))
        })?
        .collect()
}

pub(crate) fn count_sightings(
    index: &Connection,
    filter: &SightingFilter,
) -> rusqlite::Result<u64> {
    let mut values = Vec::new();
    let condition = filter.condition(&mut values);
    let count: i64 = index
        .prepare_cached(&format!("SELECT count(*) FROM sightings WHERE {condition}"))?
        .query_row(params_from_iter(values), |row| row.get(0))?;
    Ok(count as u64)
}

/// An e-mail that changed: its K1, when it was made, when it changed last.
pub(crate) struct Changed {
    pub k1: K1,
    pub created: i64,
    pub changed: i64,
}

/// What changed after a state, oldest change first.
pub(crate) fn changed(
    index: &Connection,
    since: i64,
    limit: u64,
) -> rusqlite::Result<Vec<Changed>> {
    index
        .prepare_cached(
            "SELECT b.k1, e.created_state, e.changed_state FROM emails e JOIN blobs b ON b.row = e.row
             WHERE e.changed_state > ?1 ORDER BY e.changed_state LIMIT ?2",
        )?
        .query_map([since, limit.min(i64::MAX as u64) as i64], |row| {
            Ok(Changed {
                k1: K1(row.get(0)?),
                created: row.get(1)?,
                changed: row.get(2)?,
            })
        })?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_types_never_reaches_fts_as_an_operator() {
        let is = |text: &str| expression(text).unwrap_or_default();
        assert_eq!(is("invoice  march"), r#""invoice" AND "march""#);
        assert_eq!(is(r#""two words" inv*"#), r#""two words" AND "inv"*"#);
        assert_eq!(is("NOT a"), r#""NOT" AND "a""#);
        assert_eq!(is(r#"x"y"#), r#""x""y""#);
        assert_eq!(is("subject:x"), r#""subject:x""#);
        assert_eq!(is(r#"open "quote"#), r#""open" AND "quote""#);
        assert_eq!(expression(" ** \"\" -- "), None);
    }
}
