//! The properties of an e-mail that come from its content (RFC 8621 sections 4.1.2 to 4.1.4).

use mail_parser::{Address, HeaderForm, HeaderValue, Message, MessagePart, MimeHeaders, PartType};
use serde_json::{Map, Value, json};

use super::call::Fault;
use crate::{message::K1, targets::jmap::shapes::blob_id, vault::mime};

/// What `Email/get` shows beside the indexed properties, where none are named.
pub(super) const DEFAULT_PROPERTIES: &[&str] = &[
    "messageId",
    "inReplyTo",
    "references",
    "sender",
    "from",
    "to",
    "cc",
    "bcc",
    "replyTo",
    "subject",
    "sentAt",
    "hasAttachment",
    "preview",
    "bodyValues",
    "textBody",
    "htmlBody",
    "attachments",
];

const PART_PROPERTIES: [&str; 10] = [
    "partId",
    "blobId",
    "size",
    "name",
    "type",
    "charset",
    "disposition",
    "cid",
    "language",
    "location",
];

const PREVIEW_BYTES: usize = 256;

pub(super) struct BodyOptions {
    pub part_properties: Option<Vec<String>>,
    pub text_values: bool,
    pub html_values: bool,
    pub all_values: bool,
    pub value_bytes_max: usize,
}

pub(super) fn property(
    k1: &K1,
    message: &Message<'_>,
    name: &str,
    options: &BodyOptions,
) -> Result<Value, Fault> {
    let parts = |ids: &[u32]| -> Result<Value, Fault> {
        let shown: Result<Vec<Value>, Fault> = ids
            .iter()
            .map(|id| show_part(k1, message, *id, options))
            .collect();
        Ok(shown?.into())
    };
    Ok(match name {
        "messageId" => ids(message.header("Message-ID")),
        "inReplyTo" => ids(message.header("In-Reply-To")),
        "references" => ids(message.header("References")),
        "sender" => addresses(message.sender()),
        "from" => addresses(message.from()),
        "to" => addresses(message.to()),
        "cc" => addresses(message.cc()),
        "bcc" => addresses(message.bcc()),
        "replyTo" => addresses(message.reply_to()),
        "subject" => message.subject().into(),
        "sentAt" => message.date().map(|date| date.to_rfc3339()).into(),
        "hasAttachment" => (message.attachment_count() > 0).into(),
        "preview" => message
            .body_preview(PREVIEW_BYTES)
            .map(String::from)
            .unwrap_or_default()
            .into(),
        "bodyValues" => body_values(message, options),
        "textBody" => parts(&message.text_body)?,
        "htmlBody" => parts(&message.html_body)?,
        "attachments" => parts(&message.attachments)?,
        "bodyStructure" => structure(k1, message, 0, options, 0)?,
        "headers" => {
            let raw = message.headers_raw();
            raw.map(|(name, value)| json!({"name": name, "value": value}))
                .collect()
        }
        other => match other.strip_prefix("header:") {
            Some(field) => header(message, field)?,
            None => return Err(Fault::arguments(format!("property {other}"))),
        },
    })
}

/// `header:Name`, `header:Name:asForm`, either with `:all` (RFC 8621 section 4.1.3).
fn header(message: &Message<'_>, field: &str) -> Result<Value, Fault> {
    let mut words = field.split(':');
    let name = words.next().unwrap_or_default();
    let (mut form, mut all) = (HeaderForm::Raw, false);
    for word in words {
        match word {
            "all" => all = true,
            "asRaw" => form = HeaderForm::Raw,
            "asText" => form = HeaderForm::Text,
            "asAddresses" => form = HeaderForm::Addresses,
            "asGroupedAddresses" => form = HeaderForm::GroupedAddresses,
            "asMessageIds" => form = HeaderForm::MessageIds,
            "asDate" => form = HeaderForm::Date,
            "asURLs" => form = HeaderForm::URLs,
            _ => return Err(Fault::arguments(format!("property header:{field}"))),
        }
    }
    let values = message.header_as(name.to_owned(), form);
    let mut shown: Vec<Value> = values
        .iter()
        .map(|value| header_value(value, form))
        .collect();
    Ok(match all {
        true => shown.into(),
        false => shown.pop().unwrap_or(Value::Null),
    })
}

fn header_value(value: &HeaderValue<'_>, form: HeaderForm) -> Value {
    match value {
        HeaderValue::Address(Address::Group(groups)) if form == HeaderForm::GroupedAddresses => {
            let group = |group: &mail_parser::Group<'_>| {
                let list = Address::List(group.addresses.clone());
                json!({"name": group.name, "addresses": addresses(Some(&list))})
            };
            groups.iter().map(group).collect()
        }
        HeaderValue::Address(list) if form == HeaderForm::GroupedAddresses => {
            json!([{"name": null, "addresses": addresses(Some(list))}])
        }
        HeaderValue::Address(list) => addresses(Some(list)),
        HeaderValue::DateTime(date) => date.to_rfc3339().into(),
        HeaderValue::Text(text) if matches!(form, HeaderForm::MessageIds | HeaderForm::URLs) => {
            json!([text])
        }
        HeaderValue::Text(text) => text.as_ref().into(),
        HeaderValue::TextList(texts) => texts.iter().map(|text| text.as_ref()).collect(),
        _ => Value::Null,
    }
}

fn addresses(found: Option<&Address<'_>>) -> Value {
    let Some(found) = found else {
        return Value::Null;
    };
    found
        .iter()
        .map(|one| json!({"name": one.name(), "email": one.address().unwrap_or_default()}))
        .collect()
}

fn ids(value: Option<&HeaderValue<'_>>) -> Value {
    match value {
        Some(HeaderValue::Text(text)) => json!([text]),
        Some(HeaderValue::TextList(texts)) => texts.iter().map(|text| text.as_ref()).collect(),
        _ => Value::Null,
    }
}

/// The blob id of a part: the message's, and the part's number.
pub(super) fn part_blob_id(k1: &K1, part: u32) -> String {
    format!("{}-{part}", blob_id(k1))
}

fn show_part(
    k1: &K1,
    message: &Message<'_>,
    id: u32,
    options: &BodyOptions,
) -> Result<Value, Fault> {
    let Some(part) = message.part(id) else {
        return Ok(Value::Null);
    };
    let mut shown = Map::new();
    match &options.part_properties {
        None => {
            for name in PART_PROPERTIES {
                shown.insert(name.into(), part_property(k1, part, id, name)?);
            }
        }
        Some(names) => {
            // Sub-parts are the structure's to show, not a property of this part.
            for name in names.iter().filter(|name| *name != "subParts") {
                shown.insert(name.clone(), part_property(k1, part, id, name)?);
            }
        }
    }
    Ok(Value::Object(shown))
}

fn part_property(k1: &K1, part: &MessagePart<'_>, id: u32, name: &str) -> Result<Value, Fault> {
    let is_leaf = !part.is_multipart();
    Ok(match name {
        "partId" => is_leaf.then(|| id.to_string()).into(),
        "blobId" => is_leaf.then(|| part_blob_id(k1, id)).into(),
        "size" => if is_leaf { part.contents().len() } else { 0 }.into(),
        "name" => part.attachment_name().into(),
        "type" => mime::media_type(part).into(),
        "charset" => {
            let given = part
                .content_type()
                .and_then(|kind| kind.attribute("charset"));
            given.or(part.is_text().then_some("us-ascii")).into()
        }
        "disposition" => part.content_disposition().map(|how| how.ctype()).into(),
        "cid" => part.content_id().into(),
        "language" => Value::Null,
        "location" => part.content_location().into(),
        "headers" => {
            let names = part.headers.iter().map(|header| header.name());
            names.map(|name| json!({"name": name})).collect()
        }
        other => return Err(Fault::arguments(format!("bodyProperties: {other}"))),
    })
}

/// The tree of parts; `depth` is bounded by the parser, and here again.
fn structure(
    k1: &K1,
    message: &Message<'_>,
    id: u32,
    options: &BodyOptions,
    depth: usize,
) -> Result<Value, Fault> {
    let mut shown = show_part(k1, message, id, options)?;
    let sub_parts = message.part(id).and_then(|part| part.sub_parts());
    if let (Some(sub_parts), true) = (sub_parts, depth < 32) {
        let inner: Result<Vec<Value>, Fault> = sub_parts
            .iter()
            .map(|id| structure(k1, message, *id, options, depth + 1))
            .collect();
        shown["subParts"] = inner?.into();
    }
    Ok(shown)
}

fn body_values(message: &Message<'_>, options: &BodyOptions) -> Value {
    let mut wanted = Vec::new();
    if options.text_values {
        wanted.extend(&message.text_body);
    }
    if options.html_values {
        wanted.extend(&message.html_body);
    }
    if options.all_values {
        wanted.extend(0..message.parts.len() as u32);
    }
    let mut values = Map::new();
    for id in wanted {
        let Some(part) = message.part(id) else {
            continue;
        };
        if let PartType::Text(text) | PartType::Html(text) = &part.body {
            let shown = mime::beginning(text, options.value_bytes_max);
            let value = json!({
                "value": shown,
                "isTruncated": shown.len() < text.len(),
                "isEncodingProblem": part.is_encoding_problem,
            });
            values.insert(id.to_string(), value);
        }
    }
    Value::Object(values)
}
