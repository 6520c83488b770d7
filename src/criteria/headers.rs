//! The header fields of a message, read only when a rule asks for one.

use std::io::{self, Read};

use mail_parser::{HeaderName, MessageParser};

use crate::message::header::{Part, Piece, Scanner};

/// A header longer than this is looked at so far: no rule is worth more memory.
const HEADER_BYTES_MAX: usize = 256 * 1024;

/// Where a rule looks a header up.
pub trait HeaderLookup {
    /// Each value of the fields of this name, unfolded, as text with encoded words decoded (RFC 2047).
    fn values(&mut self, name: &str) -> io::Result<Vec<String>>;
}

/// Reads the header on the first question, and keeps it for the next ones.
pub struct LazyHeaders<F> {
    open: F,
    /// Name and raw value.
    fields: Option<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl<F, R> LazyHeaders<F>
where
    F: FnMut() -> io::Result<R>,
    R: Read,
{
    /// `open` gives a reader from the message's first byte, as [`Body::open`](crate::message::Body::open) does.
    pub fn new(open: F) -> Self {
        Self { open, fields: None }
    }

    fn fields(&mut self) -> io::Result<&[(Vec<u8>, Vec<u8>)]> {
        if self.fields.is_none() {
            self.fields = Some(read_fields((self.open)()?)?);
        }
        Ok(self.fields.as_deref().unwrap_or_default())
    }
}

impl<F, R> HeaderLookup for LazyHeaders<F>
where
    F: FnMut() -> io::Result<R>,
    R: Read,
{
    fn values(&mut self, name: &str) -> io::Result<Vec<String>> {
        let fields = self.fields()?.iter();
        Ok(fields
            .filter(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| decoded(value))
            .collect())
    }
}

fn read_fields(message: impl Read) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut raw: Vec<Vec<u8>> = Vec::new();
    let mut scanner = Scanner::new();
    let mut sink = |piece: Piece<'_>| {
        if matches!(piece.part, Part::Field | Part::Trace) {
            match raw.last_mut() {
                Some(field) if !piece.begins => field.extend_from_slice(piece.bytes),
                _ => raw.push(piece.bytes.to_vec()),
            }
        }
    };
    let mut message = message.take(HEADER_BYTES_MAX as u64);
    let mut block = vec![0; 8 * 1024];
    while !scanner.in_body() {
        match message.read(&mut block) {
            Ok(0) => break,
            Ok(read) => scanner.feed(&block[..read], &mut sink),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let fields = raw.iter().filter_map(|field| {
        // An mbox line has no colon, or none that ends a name.
        let colon = field.iter().position(|b| *b == b':')?;
        Some((
            field[..colon].trim_ascii_end().to_vec(),
            field[colon + 1..].to_vec(),
        ))
    });
    Ok(fields.collect())
}

/// A field's value as a reader sees it.
fn decoded(value: &[u8]) -> String {
    // The parser decodes the fields that it takes for text; any field is one under the name of one.
    let field = [b"Subject:", value.trim_ascii_end(), b"\r\n\r\n"].concat();
    let parsed = MessageParser::new()
        .header_text(HeaderName::Subject)
        .parse_headers(&field)
        .and_then(|message| message.subject().map(|text| text.trim().to_owned()));
    parsed.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] = b"From a@b Mon Jan 1 10:00:00 2026\r\nReceived: one\r\nreceived : two\r\n\
        Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\n =?utf-8?Q?_an_alle?=\r\nX-Empty:\r\nX-Folded: a\r\n\tb\r\n\r\nX-Body: no\r\n";

    #[test]
    fn values_are_unfolded_and_decoded() {
        let mut headers = LazyHeaders::new(|| Ok(MESSAGE));
        let mut values = |name| headers.values(name).unwrap();
        assert_eq!(values("RECEIVED"), ["one", "two"]);
        assert_eq!(values("subject"), ["Grüße an alle"]);
        assert_eq!(values("x-empty"), [""]);
        assert_eq!(values("x-folded"), ["a b"]);
        assert!(values("x-body").is_empty());
        assert!(values("from").is_empty());
    }

    #[test]
    fn the_message_is_opened_once_and_only_when_asked() {
        let opened = std::cell::Cell::new(0);
        let mut headers = LazyHeaders::new(|| {
            opened.set(opened.get() + 1);
            Ok(MESSAGE)
        });
        assert_eq!(opened.get(), 0);
        headers.values("a").unwrap();
        headers.values("b").unwrap();
        assert_eq!(opened.get(), 1);
    }
}
