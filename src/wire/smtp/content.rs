//! Message content on the wire: dot-stuffing undone and redone, and the one sequence that ends it.
//!
//! Only CRLF `.` CRLF ends data (RFC 5321 section 4.1.1.4, and the smuggling attacks of VU#302671). A CR or LF that
//! stands alone never starts a line, so no dot behind it is special. What leaves for the next hop is stuffed anew from
//! the decoded bytes; the client's stuffing is never copied.
//!
//! ```text
//!   state      CR        LF             .        other
//!   LineStart  Cr        bare, Text     Dot      Text
//!   Text       Cr        bare, Text     Text     Text
//!   Cr         bare, Cr  LineStart      bare, …  bare, Text      (the CR is held back until its LF is seen)
//!   Dot        DotCr     bare, Text     Text     Text            (the dot is dropped: it was stuffing)
//!   DotCr      bare, Cr  THE END        bare, …  bare, Text
//! ```

use memchr::{memchr2, memmem};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    LineStart,
    Text,
    Cr,
    Dot,
    DotCr,
}

/// What DATA content decodes to. A bare CR or LF comes out as a space: the same length, and no line end anywhere.
#[derive(Clone, Debug)]
pub struct DataDecoder {
    state: State,
    bare: bool,
}

impl Default for DataDecoder {
    fn default() -> Self {
        Self {
            state: State::LineStart,
            bare: false,
        }
    }
}

/// How far one call of [`DataDecoder::decode`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    pub consumed: usize,
    /// The end of data was in what was consumed; nothing behind it was looked at.
    pub ended: bool,
}

impl DataDecoder {
    /// Was there a CR or LF that stood alone?
    pub fn saw_bare(&self) -> bool {
        self.bare
    }

    /// Appends what `input` decodes to, up to the end of data.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Decoded {
        let mut at = 0;
        // Input from here to `at` is decoded as it stands, but not yet copied.
        let mut run = 0;
        while at < input.len() {
            let byte = input[at];
            match (self.state, byte) {
                (State::Text | State::LineStart, b'\r') if input.get(at + 1) == Some(&b'\n') => {
                    at += 2;
                    self.state = State::LineStart;
                }
                (State::LineStart, b'.') => {
                    out.extend_from_slice(&input[run..at]);
                    at += 1;
                    run = at;
                    self.state = State::Dot;
                }
                (State::Text | State::LineStart, b'\r') => {
                    out.extend_from_slice(&input[run..at]);
                    at += 1;
                    run = at;
                    self.state = State::Cr;
                }
                (State::Text | State::LineStart, b'\n') => {
                    out.extend_from_slice(&input[run..at]);
                    self.bare_end(out);
                    at += 1;
                    run = at;
                    self.state = State::Text;
                }
                (State::Text | State::LineStart, _) => {
                    at += memchr2(b'\r', b'\n', &input[at..]).unwrap_or(input.len() - at);
                    self.state = State::Text;
                }
                (State::Cr, b'\n') => {
                    out.extend_from_slice(b"\r\n");
                    at += 1;
                    run = at;
                    self.state = State::LineStart;
                }
                (State::DotCr, b'\n') => {
                    return Decoded {
                        consumed: at + 1,
                        ended: true,
                    };
                }
                (State::Cr | State::DotCr, b'\r') => {
                    self.bare_end(out);
                    at += 1;
                    run = at;
                    self.state = State::Cr;
                }
                (State::Cr | State::DotCr, _) => {
                    self.bare_end(out);
                    self.state = State::Text;
                }
                (State::Dot, b'\r') => {
                    at += 1;
                    run = at;
                    self.state = State::DotCr;
                }
                (State::Dot, _) => self.state = State::Text,
            }
        }
        out.extend_from_slice(&input[run..at]);
        Decoded {
            consumed: at,
            ended: false,
        }
    }

    fn bare_end(&mut self, out: &mut Vec<u8>) {
        self.bare = true;
        out.push(b' ');
    }
}

/// Stuffs decoded content for the next hop.
#[derive(Clone, Debug)]
pub struct Stuffer {
    line_start: bool,
}

impl Default for Stuffer {
    fn default() -> Self {
        Self { line_start: true }
    }
}

impl Stuffer {
    /// Appends the stuffed form of the next bytes (RFC 5321 section 4.5.2).
    pub fn stuff(&mut self, mut content: &[u8], out: &mut Vec<u8>) {
        let Some(last) = content.last() else { return };
        if self.line_start && content[0] == b'.' {
            out.push(b'.');
        }
        self.line_start = *last == b'\n';
        while let Some(found) = memmem::find(content, b"\n.") {
            out.extend_from_slice(&content[..found + 2]);
            out.push(b'.');
            content = &content[found + 2..];
        }
        out.extend_from_slice(content);
    }
}

/// Passes the chunks of BDAT, with a space for each CR or LF that stands alone. The framing is by length (RFC 3030), so
/// nothing here ends data; but a next hop that hands the message on with DATA would send such bytes on, so the rule is
/// one. Lengths never change.
#[derive(Clone, Debug, Default)]
pub struct ChunkDecoder {
    cr: Cr,
    bare: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Cr {
    #[default]
    None,
    /// Inside a chunk, not passed on before the byte behind it is seen.
    Held,
    /// The last byte of a chunk, passed on: its chunk's reply waits for it, and its LF may begin the next chunk.
    Passed,
}

/// A CR that ended a chunk turned out to be bare; it is gone and cannot be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLate;

impl ChunkDecoder {
    /// Was there a CR or LF that stood alone?
    pub fn saw_bare(&self) -> bool {
        self.bare
    }

    /// Appends what `piece` is passed on as. `chunk_ends`: its last byte is the chunk's last; `content_ends`: and the
    /// message's.
    pub fn decode(
        &mut self,
        piece: &[u8],
        chunk_ends: bool,
        content_ends: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), TooLate> {
        let mut rest = piece;
        if let Some(first) = piece.first() {
            match (self.cr, *first) {
                (Cr::Held, b'\n') => {
                    out.extend_from_slice(b"\r\n");
                    rest = &piece[1..];
                }
                (Cr::Passed, b'\n') => {
                    out.push(b'\n');
                    rest = &piece[1..];
                }
                (Cr::Held, _) => self.bare_end(out),
                (Cr::Passed, _) => {
                    self.bare = true;
                    return Err(TooLate);
                }
                (Cr::None, _) => {}
            }
            self.cr = Cr::None;
        }
        while let Some(found) = memchr2(b'\r', b'\n', rest) {
            if rest[found..].starts_with(b"\r\n") {
                out.extend_from_slice(&rest[..found + 2]);
                rest = &rest[found + 2..];
                continue;
            }
            out.extend_from_slice(&rest[..found]);
            let cr_at_end = rest[found] == b'\r' && found + 1 == rest.len();
            rest = &rest[found + 1..];
            if cr_at_end {
                self.cr = Cr::Held;
            } else {
                self.bare_end(out);
            }
        }
        out.extend_from_slice(rest);
        if chunk_ends && self.cr == Cr::Held {
            if content_ends {
                self.cr = Cr::None;
                self.bare_end(out);
            } else {
                self.cr = Cr::Passed;
                out.push(b'\r');
            }
        }
        if content_ends && self.cr == Cr::Passed {
            self.bare = true;
            return Err(TooLate);
        }
        Ok(())
    }

    fn bare_end(&mut self, out: &mut Vec<u8>) {
        self.bare = true;
        out.push(b' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(input: &[u8], step: usize) -> (Vec<u8>, bool, Option<usize>) {
        let (mut decoder, mut out, mut at) = (DataDecoder::default(), Vec::new(), 0);
        for piece in input.chunks(step) {
            let decoded = decoder.decode(piece, &mut out);
            at += decoded.consumed;
            if decoded.ended {
                return (out, decoder.saw_bare(), Some(at));
            }
        }
        (out, decoder.saw_bare(), None)
    }

    /// Every published kind of smuggling: none of these ends data, and no line end is left that a laxer server would see.
    #[test]
    fn only_crlf_dot_crlf_ends_data() {
        for (input, content) in [
            ("a\n.\n", "a . "),
            ("a\n.\r\n", "a .\r\n"),
            ("a\r.\r", "a . "),
            ("a\r.\r\n", "a .\r\n"),
            ("a\r\n.\r", "a\r\n "),
            ("a\r\n.\n", "a\r\n "),
            ("a\r\n\r.\r\n", "a\r\n .\r\n"),
            ("a\n\n.\r\n", "a  .\r\n"),
            ("a\r\n.\rx", "a\r\n x"),
            ("a\r\n.\r\r\n", "a\r\n \r\n"),
            ("a\r\r\n.x", "a \r\nx"),
            ("a\0\r\n.\0\r\n", "a\0\r\n\0\r\n"),
        ] {
            for step in [1, 2, 3, 7, 100] {
                let input = format!("{input}z\r\n.\r\nMAIL");
                let (out, bare, end) = decode(input.as_bytes(), step);
                assert_eq!(
                    String::from_utf8(out).unwrap(),
                    format!("{content}z\r\n"),
                    "{input:?}"
                );
                assert_eq!(end, Some(input.len() - 4), "{input:?}");
                assert_eq!(bare, content.contains(' '), "{input:?}");
            }
        }
    }

    #[test]
    fn an_empty_message_ends_at_once() {
        assert_eq!(decode(b".\r\n", 1), (Vec::new(), false, Some(3)));
    }

    fn chunk(pieces: &[(&[u8], bool, bool)]) -> (Vec<u8>, bool) {
        let (mut decoder, mut out) = (ChunkDecoder::default(), Vec::new());
        let late = pieces.iter().any(|(piece, chunk, content)| {
            decoder.decode(piece, *chunk, *content, &mut out).is_err()
        });
        (out, late)
    }

    #[test]
    fn a_chunk_may_end_between_cr_and_lf() {
        assert_eq!(
            chunk(&[(b"a\r", true, false), (b"\nb", true, true)]),
            (b"a\r\nb".to_vec(), false)
        );
        assert!(chunk(&[(b"a\r", true, false), (b"b", true, true)]).1);
        assert!(chunk(&[(b"a\r", true, false), (b"", true, true)]).1);
        assert_eq!(
            chunk(&[(b"a\r", false, false), (b"b\n\r", true, true)]),
            (b"a b  ".to_vec(), false)
        );
    }

    proptest! {
        /// Stuffing and unstuffing are inverse, in any chunking of either.
        #[test]
        fn stuffed_content_decodes_to_itself(
            lines in prop::collection::vec("[.a ]{0,5}", 0..8),
            step in 1usize..9,
        ) {
            let content: Vec<u8> = lines.iter().flat_map(|l| [l.as_bytes(), b"\r\n"].concat()).collect();
            let (mut stuffer, mut wire) = (Stuffer::default(), Vec::new());
            for piece in content.chunks(step) {
                stuffer.stuff(piece, &mut wire);
            }
            wire.extend_from_slice(b".\r\n");
            prop_assert_eq!(decode(&wire, step), (content, false, Some(wire.len())));
        }

        /// Chunking never changes what is decoded, and nothing bare is left in it.
        #[test]
        fn chunking_changes_nothing(input in "[\r\n.a]{0,24}", step in 1usize..9) {
            let whole = decode(input.as_bytes(), 1000);
            prop_assert_eq!(&decode(input.as_bytes(), step), &whole);
            let text = String::from_utf8(whole.0).unwrap().replace("\r\n", "");
            prop_assert!(!text.contains(['\r', '\n']));
        }

        #[test]
        fn chunks_keep_their_length(input in "[\r\na]{0,24}", step in 1usize..9) {
            let (mut decoder, mut out) = (ChunkDecoder::default(), Vec::new());
            let pieces = input.len().div_ceil(step);
            for (i, piece) in input.as_bytes().chunks(step).enumerate() {
                let last = i + 1 == pieces;
                prop_assert!(decoder.decode(piece, last, last, &mut out).is_ok());
            }
            prop_assert_eq!(out.len(), input.len());
            let text = String::from_utf8(out).unwrap().replace("\r\n", "");
            prop_assert!(!text.contains(['\r', '\n']));
        }
    }
}
