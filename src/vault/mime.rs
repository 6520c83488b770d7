//! Messages read as MIME, by `mail-parser`, for what people see and search. Never on the way to a confirmation: a message
//! that does not parse is stored all the same, and shows as text.
//!
//! Of each message at most [`PARSED_BYTES_MAX`] bytes are looked at, so that memory does not depend on its size; what is
//! beyond them is stored and downloaded like any other byte, but not shown or found.

use base64::{Engine, engine::general_purpose::STANDARD};
use mail_parser::{
    Address, HeaderValue, Message, MessageParser, MessagePart, MimeHeaders, PartType,
};

pub(crate) const PARSED_BYTES_MAX: u64 = 8 << 20;

/// Always a message: bytes that are none make one empty part, which the parser's own accessors count on.
pub(crate) fn parse(content: &[u8]) -> Message<'_> {
    let parsed = MessageParser::default().parse(content);
    parsed
        .filter(|message| !message.parts.is_empty())
        .unwrap_or_else(|| Message {
            parts: vec![MessagePart::default()],
            ..Message::default()
        })
}

/// A message id without its angle brackets.
pub(crate) fn bare_message_id(id: &str) -> &str {
    let id = id.trim();
    id.strip_prefix('<')
        .and_then(|id| id.strip_suffix('>'))
        .unwrap_or(id)
}

/// `Name <address>, …`, for people.
pub(crate) fn show_addresses(addresses: Option<&Address<'_>>) -> String {
    let mut shown = String::new();
    for address in addresses.into_iter().flat_map(Address::iter) {
        if !shown.is_empty() {
            shown.push_str(", ");
        }
        match (address.name(), address.address()) {
            (Some(name), Some(address)) => {
                shown.push_str(name);
                shown.push_str(" <");
                shown.push_str(address);
                shown.push('>');
            }
            (Some(one), None) | (None, Some(one)) => shown.push_str(one),
            (None, None) => {}
        }
    }
    shown
}

/// When the author says it was sent, in Unix milliseconds.
pub(crate) fn sent_at(message: &Message<'_>) -> Option<i64> {
    let date = message.date()?;
    date.is_valid()
        .then(|| date.to_timestamp().saturating_mul(1000))
}

/// The beginning of a text, at most `bytes_max` bytes of it, cut between characters.
pub(crate) fn beginning(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// The names of the attachments, in order.
pub(crate) fn attachment_names(message: &Message<'_>) -> Vec<String> {
    let names = message.attachments().map(|part| part.attachment_name());
    names
        .map(|name| name.unwrap_or_default().to_owned())
        .collect()
}

/// The first `most` header fields, decoded, for people: name and value.
pub(crate) fn headers(message: &Message<'_>, most: usize) -> Vec<(String, String)> {
    let mut shown = Vec::new();
    for header in message.headers().iter().take(most) {
        let value = match &header.value {
            HeaderValue::Text(text) => text.to_string(),
            HeaderValue::TextList(texts) => texts.join(", "),
            HeaderValue::Address(addresses) => show_addresses(Some(addresses)),
            // Dates, content types and traces read best as they stand.
            _ => {
                let span = header.offset_start as usize..header.offset_end as usize;
                let raw = message.raw_message.get(span).unwrap_or_default();
                String::from_utf8_lossy(raw).trim().to_owned()
            }
        };
        shown.push((header.name().to_owned(), value));
    }
    shown
}

/// The media type of a part, lower case.
pub(crate) fn media_type(part: &MessagePart<'_>) -> String {
    match part.content_type() {
        Some(kind) => match kind.subtype() {
            Some(subtype) => format!("{}/{subtype}", kind.ctype()).to_lowercase(),
            None => kind.ctype().to_lowercase(),
        },
        None if part.is_message() => "message/rfc822".into(),
        None => "text/plain".into(),
    }
}

/// The first HTML part, where an author wrote one.
pub(crate) fn html<'m>(message: &'m Message<'_>) -> Option<&'m str> {
    message.html_bodies().find_map(|part| match &part.body {
        PartType::Html(html) => Some(html.as_ref()),
        _ => None,
    })
}

/// The HTML part with the pictures that the message itself brings put in place, as many as `picture_bytes_max` allows.
/// Nothing else of it is changed: what it may do is the page's policy, not its text.
pub(crate) fn html_with_pictures(
    message: &Message<'_>,
    picture_bytes_max: usize,
) -> Option<String> {
    let mut html = html(message)?.to_owned();
    let mut left = picture_bytes_max;
    for part in &message.parts {
        let Some(id) = part.content_id() else {
            continue;
        };
        let kind = media_type(part);
        let content = part.contents();
        let mark = format!("cid:{}", bare_message_id(id));
        let places = html.matches(&mark).count();
        if !kind.starts_with("image/") || places == 0 || content.len() > left {
            continue;
        }
        let picture = format!("data:{kind};base64,{}", STANDARD.encode(content));
        // It stands at each of its places: a small one at a million places is large.
        let Some(rest) = picture
            .len()
            .checked_mul(places)
            .and_then(|bytes| left.checked_sub(bytes))
        else {
            continue;
        };
        left = rest;
        html = html.replace(&mark, &picture);
    }
    Some(html)
}

#[cfg(test)]
mod tests {
    use mail_parser::MessageParser;

    use super::*;

    #[test]
    fn a_small_picture_at_many_places_counts_at_each() {
        let picture = STANDARD.encode([7; 300]);
        let mail = |places: usize| {
            format!(
                "Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n{}\r\n\
                 --b\r\nContent-Type: image/png\r\nContent-ID: <p@x>\r\nContent-Transfer-Encoding: base64\r\n\r\n{picture}\r\n--b--\r\n",
                "<img src='cid:p@x'>".repeat(places)
            )
        };
        let shown = |places| {
            let mail = mail(places);
            let message = MessageParser::default().parse(&mail).unwrap();
            html_with_pictures(&message, 4096).unwrap()
        };
        assert!(shown(2).contains("data:image/png;base64,"));
        let many = shown(1000);
        assert!(
            many.contains("cid:p@x") && many.len() < 64 << 10,
            "{}",
            many.len()
        );
    }
}
