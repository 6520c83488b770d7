//! A request written straight into one buffer: the content of a batch is copied once, into what is sent.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

#[derive(Default)]
pub(super) struct Json(Vec<u8>);

impl Json {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// JSON text as it is.
    pub(super) fn raw(&mut self, json: &str) -> &mut Self {
        self.0.extend_from_slice(json.as_bytes());
        self
    }

    pub(super) fn number(&mut self, number: usize) -> &mut Self {
        self.value(&number)
    }

    pub(super) fn value(&mut self, value: &impl Serialize) -> &mut Self {
        serde_json::to_writer(&mut self.0, value)
            .expect("our own types have string keys and memory does not fail");
        self
    }

    /// The inside of a JSON string: base64 needs no escapes.
    fn base64(&mut self, bytes: &[u8]) -> &mut Self {
        let start = self.0.len();
        self.0.resize(start + base64_bytes(bytes.len()), 0);
        STANDARD
            .encode_slice(bytes, &mut self.0[start..])
            .expect("the room was made to measure");
        self
    }

    /// The value of a creation in `Blob/upload` (RFC 9404 section 4.1), in base64: it says the same to every server.
    pub(super) fn base64_blob(&mut self, bytes: &[u8]) -> &mut Self {
        self.raw(r#"{"type":"message/rfc822","data":[{"data:asBase64":""#)
            .base64(bytes)
            .raw(r#""}]}"#)
    }

    /// The same as text where that is shorter, which it is for most mail: a third less on the way.
    pub(super) fn blob(&mut self, bytes: &[u8]) -> &mut Self {
        match plain_text(bytes) {
            Some((text, _)) => self
                .raw(r#"{"type":"message/rfc822","data":[{"data:asText":"#)
                .value(&text)
                .raw("}]}"),
            None => self.base64_blob(bytes),
        }
    }

    pub(super) fn comma_unless(&mut self, first: bool) -> &mut Self {
        if !first {
            self.0.push(b',');
        }
        self
    }

    pub(super) fn into_bytes(self) -> bytes::Bytes {
        self.0.into()
    }
}

/// Length of the content that [`Json::blob`] writes.
pub(super) fn blob_bytes(bytes: &[u8]) -> usize {
    plain_text(bytes).map_or_else(|| base64_bytes(bytes.len()), |(_, length)| length)
}

/// Content that JSON carries as text in fewer bytes than as base64, and in how many. Control characters other than those
/// of plain text go as base64: nobody is to interpret them on the way.
fn plain_text(bytes: &[u8]) -> Option<(&str, usize)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (mut escapes, mut odd) = (0, 0);
    // Counted without branches and in a single byte, so that the compiler takes many bytes at once.
    for piece in bytes.chunks(usize::from(u8::MAX)) {
        let mut count = 0_u8;
        for &byte in piece {
            let escaped = matches!(byte, b'\r' | b'\n' | b'\t' | b'"' | b'\\');
            count += u8::from(escaped);
            odd |= u8::from((byte < b' ' || byte == 0x7f) && !escaped);
        }
        escapes += usize::from(count);
    }
    let length = bytes.len() + escapes;
    (odd == 0 && length <= base64_bytes(bytes.len())).then_some((text, length))
}

/// Length of base64 with padding.
pub(super) fn base64_bytes(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::jmap::shapes::NewBlob;

    #[test]
    fn content_comes_back_whichever_way_it_goes() {
        let quotes = "\"".repeat(1000);
        for (content, as_text) in [
            (
                &b"Subject: a \"b\"\r\n\r\n\\o/\ttab and some more text\r\n"[..],
                true,
            ),
            ("Grüße, привет, \u{2028} and \u{feff}\r\n".as_bytes(), true),
            (b"na\xefve\r\n", false),
            (b"a\0b", false),
            (b"bell \x07 and delete \x7f", false),
            (quotes.as_bytes(), false),
            (b"", true),
        ] {
            let mut json = Json::default();
            json.blob(content);
            let blob: NewBlob = serde_json::from_slice(&json.0).unwrap();
            let piece = &blob.data[0];
            let back = match (&piece.as_text, &piece.as_base64) {
                (Some(text), None) => text.0.as_bytes().to_vec(),
                (None, Some(text)) => STANDARD.decode(text.0.as_bytes()).unwrap(),
                _ => panic!("one way"),
            };
            assert_eq!(back, content);
            assert_eq!(piece.as_text.is_some(), as_text, "{content:?}");
            let frame = json.0.len() - blob_bytes(content);
            assert!(frame < 64, "{frame}");
        }
    }

    #[test]
    fn base64_fills_exactly_the_room_made_for_it() {
        for length in 0..200 {
            let bytes: Vec<u8> = (0..length).map(|i| i as u8 ^ 0xa5).collect();
            let mut json = Json::default();
            json.raw("\"").base64(&bytes).raw("\"");
            let text: String = serde_json::from_slice(&json.into_bytes()).unwrap();
            assert_eq!(STANDARD.decode(text).unwrap(), bytes);
        }
    }
}
