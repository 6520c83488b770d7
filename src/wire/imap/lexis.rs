//! The words of IMAP (RFC 9051 section 9): where a line announces a literal, and what stands between the literals.
//!
//! Nothing here holds more than it is given, and nothing is rejected: what cannot be told for sure is a [`Doubt`].

use std::borrow::Cow;

use crate::message::WireText;

/// `{n}`, `{n+}`, `~{n}` or `~{n+}` at a line's end: so many bytes follow, then the line goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Literal {
    pub(super) bytes: u64,
    /// The other side has to say that it takes it (RFC 7888 does without).
    pub(super) waits: bool,
}

/// A line's end looks like a literal's announcement, and peers disagree on whether it is one: it stands in an open quoted
/// string or at a word's end, before a bare LF, or its number has no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Doubt;

/// Follows a line byte by byte, for the announcement at its end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Framing {
    quoted: bool,
    escaped: bool,
    /// Within a word.
    joined: bool,
    mark: Mark,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mark {
    #[default]
    None,
    /// In the number. None: it has no bound.
    Digits {
        number: Option<u64>,
        any: bool,
        apart: bool,
    },
    Plus(Option<u64>, bool),
    Closed {
        number: Option<u64>,
        apart: bool,
        waits: bool,
    },
    /// … and a CR behind it.
    Ended {
        number: Option<u64>,
        apart: bool,
        waits: bool,
    },
}

/// A byte of a word: right behind it, an announcement would be the word's end.
fn joins(byte: u8) -> bool {
    !matches!(byte, b' ' | b'(' | b'[' | b'~')
}

impl Framing {
    /// A byte of the line, the LF not among them.
    pub(super) fn byte(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.quoted => self.escaped = true,
            b'"' => self.quoted = !self.quoted,
            _ => {}
        }
        let was_joined = std::mem::replace(&mut self.joined, joins(byte));
        // Nearly every byte: nothing is announced, and this one announces nothing.
        if byte != b'{' && matches!(self.mark, Mark::None) {
            return;
        }
        self.mark = match (self.mark, byte) {
            (_, b'{') => Mark::Digits {
                number: Some(0),
                any: false,
                apart: !was_joined,
            },
            (Mark::Digits { number, apart, .. }, b'0'..=b'9') => Mark::Digits {
                number: number
                    .and_then(|n| n.checked_mul(10)?.checked_add(u64::from(byte - b'0')))
                    .filter(|n| *n <= i64::MAX as u64),
                any: true,
                apart,
            },
            (
                Mark::Digits {
                    number,
                    any: true,
                    apart,
                },
                b'+',
            ) => Mark::Plus(number, apart),
            (
                Mark::Digits {
                    number,
                    any: true,
                    apart,
                },
                b'}',
            ) => Mark::Closed {
                number,
                apart,
                waits: true,
            },
            (Mark::Plus(number, apart), b'}') => Mark::Closed {
                number,
                apart,
                waits: false,
            },
            (
                Mark::Closed {
                    number,
                    apart,
                    waits,
                },
                b'\r',
            ) => Mark::Ended {
                number,
                apart,
                waits,
            },
            _ => Mark::None,
        };
    }

    /// Nothing hangs on the next byte: bytes that announce nothing may [`pass`](Self::pass).
    pub(super) fn is_idle(&self) -> bool {
        !self.escaped && matches!(self.mark, Mark::None)
    }

    /// Bytes of the line, of which this is the last; no quote, backslash or opening brace is among them.
    pub(super) fn pass(&mut self, last: u8) {
        self.joined = joins(last);
    }

    /// At the LF.
    pub(super) fn end(&self) -> Result<Option<Literal>, Doubt> {
        match self.mark {
            Mark::Ended {
                number: Some(bytes),
                apart: true,
                waits,
            } if !self.quoted => Ok(Some(Literal { bytes, waits })),
            Mark::Ended { .. } | Mark::Closed { .. } => Err(Doubt),
            _ => Ok(None),
        }
    }

    /// The same, for a line at hand, its LF included.
    pub(super) fn of(line: &[u8]) -> Result<Option<Literal>, Doubt> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text_end = text.strip_suffix(b"\r").unwrap_or(text);
        if text_end.last() != Some(&b'}') {
            return Ok(None);
        }
        let mut framing = Self::default();
        text.iter().for_each(|byte| framing.byte(*byte));
        framing.end()
    }
}

/// The first word, and what is behind the space.
pub(super) fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b' ', text) {
        Some(space) => (&text[..space], &text[space + 1..]),
        None => (text, b""),
    }
}

pub(super) fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

pub(super) fn number<N: std::str::FromStr>(word: &[u8]) -> Option<N> {
    if word.is_empty() || !word.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// What a response code says, without the brackets: of `[APPENDUID 1 2] done`, `APPENDUID` and `1 2`.
pub(super) fn code(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.strip_prefix(b"[")?;
    let end = memchr::memchr(b']', text)?;
    Some(split_word(&text[..end]))
}

/// The `place`th number of a set in which each member stands for itself (`3,7:9`; RFC 4315 section 3).
pub(super) fn member(set: &[u8], place: usize) -> Option<u32> {
    let mut place = u32::try_from(place).ok()?;
    for part in set.split(|b| *b == b',') {
        let (first, last) = range(part)?;
        match place.checked_sub(last - first + 1) {
            None => return Some(first + place),
            Some(rest) => place = rest,
        }
    }
    None
}

/// How many numbers a set has.
pub(super) fn members(set: &[u8]) -> Option<u64> {
    set.split(|b| *b == b',')
        .map(|part| range(part).map(|(first, last)| u64::from(last - first) + 1))
        .sum()
}

/// A range, whichever end stands first; it has less than 2^32 - 1 members, as 0 is none.
fn range(part: &[u8]) -> Option<(u32, u32)> {
    let mut ends = part.splitn(2, |b| *b == b':');
    let first: u32 = number(ends.next()?)?;
    let last: u32 = match ends.next() {
        Some(last) => number(last)?,
        None => first,
    };
    (first.min(last) > 0).then(|| (first.min(last), first.max(last)))
}

/// A piece of a command between two literals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Open,
    Close,
    Atom(&'a [u8]),
    Quoted(Cow<'a, [u8]>),
    /// A quoted string without an end.
    Broken,
}

pub(super) struct Tokens<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        while let Some((b' ' | b'\r' | b'\n', rest)) = self.0.split_first() {
            self.0 = rest;
        }
        let (&first, rest) = self.0.split_first()?;
        match first {
            b'(' => {
                self.0 = rest;
                Some(Token::Open)
            }
            b')' => {
                self.0 = rest;
                Some(Token::Close)
            }
            b'"' => Some(self.quoted(rest)),
            _ => {
                let ends = |b: &u8| matches!(b, b' ' | b'(' | b')' | b'"' | b'\r' | b'\n');
                let end = self.0.iter().position(ends).unwrap_or(self.0.len());
                let (atom, rest) = self.0.split_at(end);
                self.0 = rest;
                Some(Token::Atom(atom))
            }
        }
    }
}

impl<'a> Tokens<'a> {
    fn quoted(&mut self, text: &'a [u8]) -> Token<'a> {
        let mut unescaped: Option<Vec<u8>> = None;
        let mut at = 0;
        while let Some(&byte) = text.get(at) {
            match byte {
                b'"' => {
                    self.0 = &text[at + 1..];
                    return Token::Quoted(unescaped.map_or(Cow::from(&text[..at]), Cow::from));
                }
                b'\\' => {
                    let out = unescaped.get_or_insert_with(|| text[..at].to_vec());
                    at += 1;
                    out.extend(text.get(at));
                }
                _ => {
                    if let Some(out) = &mut unescaped {
                        out.push(byte);
                    }
                }
            }
            at += 1;
        }
        self.0 = b"";
        Token::Broken
    }
}

/// A name of a user or a folder, at most: longer ones are not remembered.
pub(super) const NAME_BYTES_MAX: usize = 1 << 10;

/// A name as a command has it: an atom or quoted.
pub(super) fn name(token: Option<Token<'_>>) -> Option<WireText> {
    let name = match token? {
        Token::Atom(atom) => Cow::from(atom),
        Token::Quoted(text) => text,
        _ => return None,
    };
    (name.len() <= NAME_BYTES_MAX).then(|| WireText::from(name.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(bytes: u64, waits: bool) -> Result<Option<Literal>, Doubt> {
        Ok(Some(Literal { bytes, waits }))
    }

    #[test]
    fn announcements_are_told_from_what_looks_like_them() {
        for (line, expected) in [
            ("a APPEND x {12}\r\n", literal(12, true)),
            ("a APPEND x {12+}\r\n", literal(12, false)),
            ("a APPEND x ~{0}\r\n", literal(0, true)),
            ("a APPEND x UTF8 (~{7+}\r\n", literal(7, false)),
            ("{0007}\r\n", literal(7, true)),
            ("a {}\r\n", Ok(None)),
            ("a {+}\r\n", Ok(None)),
            ("a {1 }\r\n", Ok(None)),
            ("a {1}x\r\n", Ok(None)),
            ("a {1} \r\n", Ok(None)),
            ("a {1}\r\r\n", Ok(None)),
            ("a \"{1}\"\r\n", Ok(None)),
            ("a \"\\\"\" {1}\r\n", literal(1, true)),
            ("a x{1}\r\n", Err(Doubt)),
            ("a \0{1}\r\n", Err(Doubt)),
            ("a {1}\n", Err(Doubt)),
            ("a \"b {1}\r\n", Err(Doubt)),
            ("a {18446744073709551616}\r\n", Err(Doubt)),
            ("a {9223372036854775808}\r\n", Err(Doubt)),
        ] {
            assert_eq!(Framing::of(line.as_bytes()), expected, "{line:?}");
        }
    }

    #[test]
    fn sets_are_counted() {
        assert_eq!(member(b"4", 0), Some(4));
        assert_eq!(member(b"4,7:9", 2), Some(8));
        assert_eq!(member(b"4,9:7", 3), Some(9));
        assert_eq!(member(b"4,7:9", 4), None);
        assert_eq!(member(b"0:4294967295", 0), None);
        assert_eq!(member(b"1:4294967295", 0), Some(1));
        assert_eq!(members(b"1:3,9"), Some(4));
        assert_eq!(members(b"1:*"), None);
    }

    #[test]
    fn tokens_are_atoms_strings_and_parentheses() {
        let tokens: Vec<_> = Tokens(b"\"a \\\"b\" (\\Seen x) \"open").collect();
        assert_eq!(
            tokens,
            [
                Token::Quoted(Cow::from(&b"a \"b"[..])),
                Token::Open,
                Token::Atom(b"\\Seen"),
                Token::Atom(b"x"),
                Token::Close,
                Token::Broken,
            ]
        );
    }
}
