//! A request written straight into one buffer: base64 of a batch is made where it is sent from, once.

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

    /// The value of a creation in `Blob/upload` (RFC 9404 section 4.1).
    pub(super) fn blob(&mut self, bytes: &[u8]) -> &mut Self {
        self.raw(r#"{"type":"message/rfc822","data":[{"data:asBase64":""#)
            .base64(bytes)
            .raw(r#""}]}"#)
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

/// Length of base64 with padding.
pub(super) fn base64_bytes(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

#[cfg(test)]
mod tests {
    use super::*;

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
