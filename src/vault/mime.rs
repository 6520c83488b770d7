//! Messages read as MIME, by `mail-parser`, for what people see and search. Never on the way to a confirmation: a message
//! that does not parse is stored all the same, and shows as text.
//!
//! Of each message at most [`PARSED_BYTES_MAX`] bytes are looked at, so that memory does not depend on its size; what is
//! beyond them is stored and downloaded like any other byte, but not shown or found.

use mail_parser::{Address, Message, MessageParser, MessagePart, MimeHeaders};

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
