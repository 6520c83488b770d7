//! The text part: one field a line, unknown ones passed over (MS-XJRNL section 2.1 has Label, Mailbox, SentUtc …).
//!
//! ```text
//! Sender: anna@example.org
//! On-Behalf-Of: board@example.org
//! Subject: Budget
//! Message-ID: <1@example.org>
//! To: bert@example.org
//! Bcc: cleo@example.org, Expanded: all@example.org
//! ```

use mail_parser::decoders::charsets::map::charset_decoder;

use super::{Report, ReportError};
use crate::message::{Envelope, Recipient, RecipientRole, WireText};

/// The text in UTF-8. Bytes in UTF-8, in ASCII or in no known charset stay as they are.
pub(super) fn to_utf8(charset: Option<&[u8]>, bytes: Vec<u8>) -> Vec<u8> {
    let decoder = charset
        .filter(|name| !name.is_empty() && !is_ascii_or_utf8(name))
        .and_then(charset_decoder);
    match decoder {
        Some(decode) => decode(&bytes).into_bytes(),
        None => bytes,
    }
}

fn is_ascii_or_utf8(charset: &[u8]) -> bool {
    [b"utf-8".as_slice(), b"utf8", b"us-ascii", b"ascii"]
        .iter()
        .any(|name| charset.eq_ignore_ascii_case(name))
}

pub(super) fn parse(text: &[u8]) -> Result<Report, ReportError> {
    let mut sender = None;
    let mut recipients = Vec::new();
    let mut on_behalf_of = None;
    let mut subject = None;
    let mut message_id = None;
    for line in text.split(|byte| *byte == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else {
            continue;
        };
        let value = line[colon + 1..].trim_ascii();
        let role = match line[..colon].trim_ascii().to_ascii_lowercase().as_slice() {
            b"sender" => {
                sender.get_or_insert_with(|| WireText::from(bare_address(value)));
                continue;
            }
            b"subject" => {
                subject.get_or_insert_with(|| WireText::from(value));
                continue;
            }
            b"message-id" => {
                message_id.get_or_insert_with(|| WireText::from(value));
                continue;
            }
            b"on-behalf-of" => {
                on_behalf_of.get_or_insert_with(|| recipient(value, RecipientRole::OnBehalfOf));
                continue;
            }
            b"to" => RecipientRole::To,
            b"cc" => RecipientRole::Cc,
            b"bcc" => RecipientRole::Bcc,
            b"recipient" => RecipientRole::Recipient,
            _ => continue,
        };
        let recipient = recipient(value, role);
        if recipient.address.is_empty() {
            return Err(ReportError::NoAddress(WireText::from(line.trim_ascii())));
        }
        recipients.push(recipient);
    }
    if recipients.is_empty() {
        return Err(ReportError::NoRecipient);
    }
    recipients.extend(on_behalf_of);
    Ok(Report {
        envelope: Envelope {
            sender: sender.ok_or(ReportError::NoSender)?,
            sender_parameters: WireText::default(),
            recipients,
        },
        message_id,
        subject,
    })
}

/// `address`, or `address, Expanded: list`, or `address, Forwarded: old`, or both.
fn recipient(value: &[u8], role: RecipientRole) -> Recipient {
    let mut parts = split_outside_quotes(value);
    let mut recipient = Recipient {
        address: bare_address(parts.next().unwrap_or_default()).into(),
        role: Some(role),
        ..Recipient::default()
    };
    for part in parts {
        let Some(colon) = memchr::memchr(b':', part) else {
            continue;
        };
        let source = Some(WireText::from(bare_address(part[colon + 1..].trim_ascii())));
        match part[..colon].trim_ascii().to_ascii_lowercase().as_slice() {
            b"expanded" => recipient.expanded_from = source,
            b"forwarded" => recipient.forwarded_from = source,
            _ => {}
        }
    }
    recipient
}

/// A comma within a quoted local part (`"last, first"@example.org`) parts nothing.
fn split_outside_quotes(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    value
        .split(move |byte| {
            let parts = *byte == b',' && !quoted;
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ => {}
            }
            parts
        })
        .map(<[u8]>::trim_ascii)
}

/// `<>` is the null sender, as it is in SMTP.
fn bare_address(value: &[u8]) -> &[u8] {
    match value
        .strip_prefix(b"<")
        .and_then(|rest| rest.strip_suffix(b">"))
    {
        Some(bare) => bare,
        None => value,
    }
}
