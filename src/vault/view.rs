//! Messages as people see them: the rows of a list, one message with its sightings. The page and the command line show
//! the same; both are plain values, ready for JSON.

use std::collections::BTreeMap;

use mail_parser::{MimeHeaders, PartType};
use rusqlite::Connection;
use serde::Serialize;

use super::{
    index::Entry,
    mime,
    storage::{
        Blobs, StoreError,
        query::{self, EmailFilter, Page, Part, SortBy},
        rows::{self, EmailRow, HeaderRow},
    },
};
use crate::message::{Acceptance, CaptureId, Difference, Fidelity, K1, Sighting};

/// Header fields shown of one message.
const HEADERS_MAX: usize = 500;
/// So much of a message is looked at for a list while it is not indexed.
const LISTED_BYTES_MAX: u64 = 256 << 10;
/// Text of one message shown at once.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Sightings of one message shown at once.
const SIGHTINGS_MAX: u32 = 1000;

/// One line of a list.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The e-mail's id in JMAP.
    pub id: String,
    pub k1: K1,
    /// RFC 3339.
    pub received_at: String,
    pub sent_at: Option<String>,
    pub sender: String,
    pub recipients: String,
    pub subject: String,
    pub preview: String,
    pub bytes: u64,
    pub attachments: u32,
    /// How many; one message shown has the list of them under the name itself.
    #[serde(rename = "seen")]
    pub sightings: u64,
}

impl Row {
    /// Day and minute.
    pub(crate) fn day(&self) -> String {
        self.received_at
            .chars()
            .take(16)
            .collect::<String>()
            .replace('T', " ")
    }

    pub(crate) fn size(&self) -> String {
        size(self.bytes)
    }
}

/// One message.
#[derive(Debug, Serialize)]
pub struct Shown {
    #[serde(flatten)]
    pub row: Row,
    pub message_id: String,
    pub mailboxes: Vec<String>,
    pub keywords: Vec<String>,
    /// Name and value, decoded, in order.
    pub headers: Vec<(String, String)>,
    /// The text parts, one after the other.
    pub text: String,
    pub has_html: bool,
    pub parts: Vec<Attachment>,
    pub sightings: Vec<Seen>,
    /// Only the beginning was looked at: the message is larger than what is parsed or shown.
    pub is_partial: bool,
}

/// A part that is offered as a file.
#[derive(Clone, Debug, Serialize)]
pub struct Attachment {
    /// Its number in the message.
    pub part: u32,
    pub name: String,
    pub media_type: String,
    pub bytes: usize,
}

/// One sighting of the message.
#[derive(Debug, Serialize)]
pub struct Seen {
    pub id: CaptureId,
    pub kept_as: KeptAs,
    pub sighting: Sighting,
    pub acceptance: Acceptance,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<Difference>,
}

/// Where a sighting's exact bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeptAs {
    /// They are the copy's.
    Copy,
    /// The copy's, with other trace headers.
    Difference,
    /// A blob of their own.
    Variant,
}

/// What a list is asked for; everything absent takes all.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Words anywhere in the message or its envelopes.
    pub words: Option<String>,
    pub received_after: Option<crate::message::UnixMillis>,
    pub received_before: Option<crate::message::UnixMillis>,
}

impl Search {
    fn filter(&self) -> EmailFilter {
        let mut all = Vec::new();
        if let Some(words) = self
            .words
            .as_deref()
            .filter(|words| !words.trim().is_empty())
        {
            all.push(EmailFilter::Words(Part::Anywhere, words.to_owned()));
        }
        all.extend(self.received_after.map(EmailFilter::After));
        all.extend(self.received_before.map(EmailFilter::Before));
        EmailFilter::And(all)
    }
}

/// A page of messages, newest first.
pub(crate) fn list(
    index: &Connection,
    blobs: &Blobs,
    search: &Search,
    position: u64,
    limit: u64,
) -> Result<Vec<Row>, StoreError> {
    let newest_first = [(SortBy::ReceivedAt, false)];
    let page = Page { position, limit };
    let found = query::emails(index, &search.filter(), &newest_first, page)?;
    let mut list = Vec::with_capacity(found.len());
    for (email, _) in found {
        if let Some(email) = rows::email_by_row(index, email)? {
            // The indexer comes by later: until then the message is asked itself, by its beginning.
            let headers = match rows::headers(index, email.row)? {
                Some(headers) => headers,
                None => HeaderRow::from(&Entry::of_blob(blobs, &email.k1, LISTED_BYTES_MAX)),
            };
            list.push(row(index, &email, headers)?);
        }
    }
    Ok(list)
}

pub(crate) fn count(index: &Connection, search: &Search) -> Result<u64, StoreError> {
    Ok(query::count_emails(index, &search.filter())?)
}

fn row(index: &Connection, email: &EmailRow, headers: HeaderRow) -> Result<Row, StoreError> {
    let sent_at = headers.sent_at.and_then(|at| u64::try_from(at).ok());
    Ok(Row {
        id: super::email_id(&email.k1),
        k1: email.k1,
        received_at: email.received_at.to_rfc3339(),
        sent_at: sent_at.map(|at| crate::message::UnixMillis(at).to_rfc3339()),
        sender: headers.sender,
        recipients: headers.recipients,
        subject: headers.subject,
        preview: headers.preview,
        bytes: email.bytes,
        attachments: headers.attachments,
        sightings: query::count_sightings(
            index,
            &query::SightingFilter {
                email: Some(email.row),
                ..Default::default()
            },
        )?,
    })
}

/// One message, read from its bytes: nothing here waits for the indexer.
pub(crate) fn show(
    index: &Connection,
    blobs: &Blobs,
    email: &EmailRow,
) -> Result<Shown, StoreError> {
    let content = blobs
        .read(&email.k1, mime::PARSED_BYTES_MAX)
        .map_err(|error| StoreError::io("blob", error))?;
    let message = mime::parse(&content);
    let row = row(index, email, HeaderRow::from(&Entry::of(&message)))?;
    let mut text = String::new();
    for at in 0..message.text_body_count() {
        let part = message.body_text(at).unwrap_or_default();
        text.push_str(mime::beginning(&part, TEXT_BYTES_MAX - text.len()));
    }
    let names: BTreeMap<i64, String> = rows::mailboxes(index)?
        .into_iter()
        .map(|mailbox| (mailbox.row, mailbox.name))
        .collect();
    let filed = email.mailboxes.iter();
    let marks = email.keywords.split(' ').filter(|mark| !mark.is_empty());
    Ok(Shown {
        is_partial: email.bytes > mime::PARSED_BYTES_MAX || text.len() + 4 > TEXT_BYTES_MAX,
        message_id: message.message_id().unwrap_or_default().to_owned(),
        mailboxes: filed.filter_map(|row| names.get(row).cloned()).collect(),
        keywords: marks.map(str::to_owned).collect(),
        headers: mime::headers(&message, HEADERS_MAX),
        text,
        has_html: mime::html(&message).is_some(),
        parts: attachments(&message),
        sightings: seen(index, email)?,
        row,
    })
}

fn attachments(message: &mail_parser::Message<'_>) -> Vec<Attachment> {
    let mut list = Vec::new();
    for &id in &message.attachments {
        let Some(part) = message.part(id) else {
            continue;
        };
        let name = part.attachment_name().map(str::to_owned);
        list.push(Attachment {
            part: id,
            name: name.unwrap_or_else(|| match part.body {
                PartType::Message(_) => format!("message-{id}.eml"),
                _ => format!("part-{id}"),
            }),
            media_type: mime::media_type(part),
            bytes: part.contents().len(),
        });
    }
    list
}

fn seen(index: &Connection, email: &EmailRow) -> Result<Vec<Seen>, StoreError> {
    let mut list = Vec::new();
    for row in rows::sightings(index, email.row, SIGHTINGS_MAX)? {
        let unreadable = |error: serde_json::Error| StoreError::Unavailable {
            step: "sighting",
            cause: error.to_string(),
        };
        list.push(Seen {
            id: row.id,
            kept_as: match (row.blob, &row.difference) {
                (Some(_), _) => KeptAs::Variant,
                (None, Some(_)) => KeptAs::Difference,
                (None, None) => KeptAs::Copy,
            },
            sighting: serde_json::from_str(&row.sighting).map_err(unreadable)?,
            acceptance: serde_json::from_str(&row.acceptance).map_err(unreadable)?,
            difference: row
                .difference
                .as_deref()
                .map(serde_json::from_str)
                .transpose()
                .map_err(unreadable)?,
        });
    }
    Ok(list)
}

/// Words for people.
impl Seen {
    pub(crate) fn acceptance_word(&self) -> &'static str {
        match self.acceptance {
            Acceptance::Accepted { .. } => "accepted",
            Acceptance::Rejected { .. } => "rejected",
            Acceptance::Unknown => "unknown",
            Acceptance::NotAsked => "not asked",
        }
    }

    /// The next hop's own words.
    pub(crate) fn reply(&self) -> Option<String> {
        match &self.acceptance {
            Acceptance::Accepted { reply } | Acceptance::Rejected { reply } => {
                Some(reply.to_string())
            }
            Acceptance::Unknown | Acceptance::NotAsked => None,
        }
    }

    pub(crate) fn kept_word(&self) -> String {
        match (self.kept_as, &self.difference) {
            (KeptAs::Copy, _) => "the copy".into(),
            (KeptAs::Variant, _) => "a variant".into(),
            (KeptAs::Difference, difference) => {
                let bytes = difference.as_ref().map_or(0, Difference::bytes);
                format!("the copy, {bytes} bytes of trace differ")
            }
        }
    }

    pub(crate) fn fidelity_words(&self) -> Vec<&'static str> {
        let word = |fidelity: &Fidelity| match fidelity {
            Fidelity::CrLfReplaced => "bare line ends replaced",
            Fidelity::Milter => "rebuilt from milter events",
            Fidelity::AfterDelivery => "as stored after delivery",
            Fidelity::Decoded => "transfer encodings undone by the server",
            Fidelity::Joined => "header and text, as the server showed them one by one",
            Fidelity::ReportUnparsed => "a whole journal report",
        };
        self.sighting.fidelity.iter().map(word).collect()
    }
}

impl Attachment {
    pub(crate) fn bytes_shown(&self) -> String {
        size(self.bytes as u64)
    }
}

/// `12.3 kB`: bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    let mut amount = bytes as f64;
    for unit in ["bytes", "kB", "MB"] {
        if amount < 1000.0 {
            return match unit {
                "bytes" => format!("{bytes} bytes"),
                _ => format!("{amount:.1} {unit}"),
            };
        }
        amount /= 1000.0;
    }
    format!("{amount:.1} GB")
}
