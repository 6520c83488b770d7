//! Just enough of MIME headers: which fields there are, a content type with its parameters.

use super::{ReportError, WireText, transfer::Encoding};

/// A header block, raw, its blank line included.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    /// The first field of this name (in lower case), unfolded and without its outer white space.
    pub(super) fn value(&self, name: &[u8]) -> Option<Vec<u8>> {
        let mut lines = self.0.split_inclusive(|byte| *byte == b'\n').peekable();
        while let Some(line) = lines.next() {
            let Some(colon) = memchr::memchr(b':', line) else {
                continue;
            };
            if !line[..colon].trim_ascii_end().eq_ignore_ascii_case(name) {
                continue;
            }
            let mut value = line[colon + 1..].trim_ascii().to_vec();
            while let Some(folded) =
                lines.next_if(|next| matches!(next.first(), Some(b' ' | b'\t')))
            {
                value.push(b' ');
                value.extend_from_slice(folded.trim_ascii());
            }
            return Some(value);
        }
        None
    }

    /// Exchange and Microsoft 365 mark reports with an empty header, WorkMail with the value `journal`.
    pub(super) fn announce_a_report(&self) -> bool {
        self.value(b"x-ms-journal-report").is_some()
            || self
                .value(b"x-wm-journal-report")
                .is_some_and(|value| value.eq_ignore_ascii_case(b"journal"))
    }
}

/// A part's media type (lower case), the parameters that matter, and its transfer encoding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ContentType {
    pub(super) media_type: Vec<u8>,
    /// Only of a multipart type.
    pub(super) boundary: Option<Vec<u8>>,
    pub(super) charset: Option<Vec<u8>>,
    pub(super) encoding: Encoding,
}

impl ContentType {
    /// Without a Content-Type field, text/plain (RFC 2045 section 5.2).
    pub(super) fn of(fields: &Fields<'_>) -> Result<Self, ReportError> {
        let encoding = match fields.value(b"content-transfer-encoding") {
            None => Encoding::Identity,
            Some(name) => Encoding::named(&name)
                .ok_or_else(|| ReportError::UnknownEncoding(WireText::from(name)))?,
        };
        let value = fields
            .value(b"content-type")
            .unwrap_or_else(|| b"text/plain".to_vec());
        let end = memchr::memchr(b';', &value).unwrap_or(value.len());
        let (media_type, mut rest) = value.split_at(end);
        let mut this = Self {
            media_type: media_type.trim_ascii().to_ascii_lowercase(),
            encoding,
            ..Self::default()
        };
        while let Some((name, content, after)) = parameter(rest) {
            match name.as_slice() {
                b"boundary"
                    if this.media_type.starts_with(b"multipart/") && !content.is_empty() =>
                {
                    this.boundary = Some(content);
                }
                b"charset" => this.charset = Some(content),
                _ => {}
            }
            rest = after;
        }
        Ok(this)
    }
}

/// `; name=value` or `; name="value"` at the start of `bytes`: the name in lower case, the value, what follows.
fn parameter(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>, &[u8])> {
    let bytes = bytes.trim_ascii_start().strip_prefix(b";")?;
    let equals = memchr::memchr(b'=', bytes)?;
    let name = bytes[..equals].trim_ascii().to_ascii_lowercase();
    let value = bytes[equals + 1..].trim_ascii_start();
    let Some(mut quoted) = value.strip_prefix(b"\"") else {
        let end = value
            .iter()
            .position(|byte| *byte == b';' || byte.is_ascii_whitespace())
            .unwrap_or(value.len());
        // Behind a token only white space or the next parameter may stand (a comment is passed over with it).
        let next = memchr::memchr(b';', &value[end..]).map_or(value.len(), |at| end + at);
        return Some((name, value[..end].to_vec(), &value[next..]));
    };
    let mut content = Vec::new();
    loop {
        match quoted {
            [b'"', after @ ..] => {
                let next = memchr::memchr(b';', after).unwrap_or(after.len());
                return Some((name, content, &after[next..]));
            }
            [b'\\', byte, after @ ..] | [byte, after @ ..] => {
                content.push(*byte);
                quoted = after;
            }
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content_type(header: &str) -> ContentType {
        ContentType::of(&Fields(header.as_bytes())).unwrap()
    }

    #[test]
    fn parameters_are_found_however_they_are_written() {
        for header in [
            "Content-Type: multipart/mixed; boundary=\"a;b=c\"\r\n\r\n",
            "CONTENT-TYPE:Multipart/Mixed ;\r\n\tcharset=x;\r\n Boundary = \"a;b\\=c\" ; z=1\r\n\r\n",
        ] {
            assert_eq!(content_type(header).boundary.unwrap(), b"a;b=c", "{header}");
        }
        let token = content_type(
            "X: 1\nContent-Type: multipart/mixed; boundary=abc (comment); charset=utf-8\n\n",
        );
        assert_eq!(token.boundary.unwrap(), b"abc");
        assert_eq!(token.charset.unwrap(), b"utf-8");
    }

    #[test]
    fn a_boundary_belongs_to_multipart_and_is_not_empty() {
        for header in [
            "Content-Type: text/plain; boundary=abc\r\n\r\n",
            "Content-Type: multipart/mixed; boundary=\"\"\r\n\r\n",
            "Content-Type: multipart/mixed; boundary=\"unclosed\r\n\r\n",
            "\r\n",
        ] {
            assert_eq!(content_type(header).boundary, None, "{header}");
        }
    }

    #[test]
    fn reports_announce_themselves() {
        for (header, is) in [
            ("X-MS-Journal-Report:\r\n\r\n", true),
            ("x-ms-journal-report: \r\n\r\n", true),
            ("X-WM-Journal-Report: journal\r\n\r\n", true),
            ("X-WM-Journal-Report: other\r\n\r\n", false),
            (
                "Subject: X-MS-Journal-Report:\r\n X-MS-Journal-Report:\r\n\r\n",
                false,
            ),
        ] {
            assert_eq!(
                Fields(header.as_bytes()).announce_a_report(),
                is,
                "{header}"
            );
        }
    }
}
