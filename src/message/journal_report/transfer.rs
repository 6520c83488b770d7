//! Content transfer encodings (RFC 2045 section 6), undone as bytes arrive.
//!
//! `message/rfc822` should never be encoded as base64 or quoted-printable (RFC 2046 section 5.2.1); gateways do it.

use super::ReportError;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Encoding {
    /// `7bit`, `8bit`, `binary`
    #[default]
    Identity,
    Base64,
    QuotedPrintable,
}

impl Encoding {
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_slice() {
            b"7bit" | b"8bit" | b"binary" => Self::Identity,
            b"base64" => Self::Base64,
            b"quoted-printable" => Self::QuotedPrintable,
            _ => return None,
        })
    }
}

#[derive(Debug)]
pub(super) enum Transfer {
    Identity,
    Base64 {
        bits: u32,
        /// Characters of the present group of four.
        count: u8,
        padding: u8,
    },
    QuotedPrintable {
        /// What may still be an escape or white space at a line's end.
        held: Vec<u8>,
    },
}

/// Spaces at the end of a line are dropped as transport padding; a longer run is taken for content.
const HELD_BYTES_MAX: usize = 1000;
const BROKEN_BASE64: ReportError = ReportError::BrokenEncoding("base64");
const BROKEN_QUOTED: ReportError = ReportError::BrokenEncoding("quoted-printable");

impl Transfer {
    pub(super) fn new(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Identity => Self::Identity,
            Encoding::Base64 => Self::Base64 {
                bits: 0,
                count: 0,
                padding: 0,
            },
            Encoding::QuotedPrintable => Self::QuotedPrintable { held: Vec::new() },
        }
    }

    pub(super) fn encoding(&self) -> Encoding {
        match self {
            Self::Identity => Encoding::Identity,
            Self::Base64 { .. } => Encoding::Base64,
            Self::QuotedPrintable { .. } => Encoding::QuotedPrintable,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ReportError> {
        match self {
            Self::Identity => {
                out.extend_from_slice(bytes);
                Ok(())
            }
            Self::Base64 {
                bits,
                count,
                padding,
            } => {
                for byte in bytes.iter().filter(|byte| !byte.is_ascii_whitespace()) {
                    push_base64(*byte, bits, count, padding, out)?;
                }
                Ok(())
            }
            Self::QuotedPrintable { held } => bytes
                .iter()
                .try_for_each(|byte| push_quoted(*byte, held, out)),
        }
    }

    pub(super) fn finish(mut self, out: &mut Vec<u8>) -> Result<(), ReportError> {
        match &mut self {
            Self::Identity => Ok(()),
            // Without its padding a last group of one character says nothing; some writers leave padding out.
            Self::Base64 {
                bits,
                count,
                padding,
            } => match (*count, *padding) {
                (0, _) => Ok(()),
                (2 | 3, 0) => {
                    let (count, bits) = (*count, *bits << (6 * (4 - u32::from(*count))));
                    out.extend_from_slice(&bits.to_be_bytes()[1..usize::from(count)]);
                    Ok(())
                }
                _ => Err(BROKEN_BASE64),
            },
            Self::QuotedPrintable { held } => match held.as_slice() {
                [b'=', digit, ..] if digit.is_ascii_hexdigit() => Err(BROKEN_QUOTED),
                _ => Ok(()),
            },
        }
    }
}

fn push_base64(
    byte: u8,
    bits: &mut u32,
    count: &mut u8,
    padding: &mut u8,
    out: &mut Vec<u8>,
) -> Result<(), ReportError> {
    let value = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        b'=' if *count >= 2 => {
            *padding += 1;
            0
        }
        _ => return Err(BROKEN_BASE64),
    };
    // After padding the data has ended.
    if *padding > 0 && (byte != b'=' || *count == 0) {
        return Err(BROKEN_BASE64);
    }
    *bits = *bits << 6 | u32::from(value);
    *count += 1;
    if *count == 4 {
        let length = 3 - usize::from(*padding);
        out.extend_from_slice(&bits.to_be_bytes()[1..=length]);
        (*bits, *count) = (0, 0);
    }
    Ok(())
}

fn push_quoted(byte: u8, held: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), ReportError> {
    match (held.as_slice(), byte) {
        (b"=", b'\r') | (b"=", b' ' | b'\t') => held.push(byte),
        (b"=", b'0'..=b'9' | b'A'..=b'F' | b'a'..=b'f') => held.push(byte),
        // A soft line break, with the padding that a gateway may have added before its line end.
        ([b'=', padding @ ..], b'\n') if padding.iter().all(u8::is_ascii_whitespace) => {
            held.clear()
        }
        ([b'=', padding @ ..], b' ' | b'\t' | b'\r')
            if padding.iter().all(u8::is_ascii_whitespace) && padding.len() < HELD_BYTES_MAX =>
        {
            held.push(byte);
        }
        ([b'=', high], low) => {
            let digits = (char::from(*high).to_digit(16), char::from(low).to_digit(16));
            let (Some(high), Some(low)) = digits else {
                return Err(BROKEN_QUOTED);
            };
            out.push((high * 16 + low) as u8);
            held.clear();
        }
        ([b'=', ..], _) => return Err(BROKEN_QUOTED),
        (_, b'\r' | b'\n') => {
            held.clear();
            out.push(byte);
        }
        (_, b' ' | b'\t') if held.len() < HELD_BYTES_MAX => held.push(byte),
        _ => {
            out.append(held);
            if byte == b'=' {
                held.push(byte)
            } else {
                out.push(byte)
            }
        }
    }
    Ok(())
}

/// Undoes an encoding over bytes that are in memory as a whole.
pub(super) fn decode(encoding: Encoding, bytes: &[u8]) -> Result<Vec<u8>, ReportError> {
    let mut out = Vec::new();
    let mut transfer = Transfer::new(encoding);
    transfer.push(bytes, &mut out)?;
    transfer.finish(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base64(text: &str) -> Result<Vec<u8>, ReportError> {
        decode(Encoding::Base64, text.as_bytes())
    }

    fn quoted(text: &str) -> Result<Vec<u8>, ReportError> {
        decode(Encoding::QuotedPrintable, text.as_bytes())
    }

    #[test]
    fn base64_is_undone_and_what_is_none_is_refused() {
        assert_eq!(base64("aGVsbG8g\r\nd29ybGQ=\r\n").unwrap(), b"hello world");
        assert_eq!(base64("aGVsbG8gd29ybGQ").unwrap(), b"hello world");
        assert_eq!(base64("aA==").unwrap(), b"h");
        for broken in [
            "a", "a===", "aA=", "aA==bbbb", "aA=b", "a!bc", "=aaa", "====",
        ] {
            assert_eq!(base64(broken), Err(BROKEN_BASE64), "{broken}");
        }
    }

    #[test]
    fn quoted_printable_is_undone_and_what_is_none_is_refused() {
        assert_eq!(
            quoted("a=3Db = \r\nc\td \t\r\n e=").unwrap(),
            b"a=b c\td\r\n e"
        );
        assert_eq!(quoted("=c3=A4\n").unwrap(), "ä\n".as_bytes());
        for broken in ["=", "=3", "=G0", "=0G", "= x"] {
            let ends_as_a_soft_break = broken == "=";
            assert_eq!(quoted(broken).is_ok(), ends_as_a_soft_break, "{broken}");
        }
    }
}
