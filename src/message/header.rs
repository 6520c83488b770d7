//! The header scan: tells a message's header fields, traces and body apart in a stream of bytes, and keeps none of them.
//!
//! ```text
//! From a@example Mon Jan …       trace: an mbox line, only before the first field that is no trace
//! Received: from a               trace: the name is on the list ([`super::trace`])
//!  by b                          … and a line that begins with a blank belongs to the field before it
//! Subject: hello                 field
//!                                end: an empty line, CRLF or LF
//! body …                         body
//! ```
//!
//! A line ends with LF; a CR before it belongs to it, any other CR is a byte of the line. The header also ends, without
//! an empty line, before the first line that is no field: no colon within [`NAME_BYTES_MAX`], a byte that no name may
//! have (RFC 5322 2.2: printable ASCII; blanks before the colon are let pass, 4.5), a continuation of nothing. That line
//! begins the body, as it does for Postfix and Sendmail. Never fails, never panics; memory is one name.

use super::trace::is_trace;

/// A colon must come within this many bytes of a line for the line to be a field; real names are under 80.
pub const NAME_BYTES_MAX: usize = 256;

/// What a byte of a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A field that the way added, or an mbox `From ` line.
    Trace,
    /// Any other field.
    Field,
    /// The empty line.
    End,
    Body,
}

/// Consecutive bytes of one part. All pieces together are the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    pub part: Part,
    /// These are the first bytes of a field (never set for `End` and `Body`).
    pub begins: bool,
    pub bytes: &'a [u8],
}

/// Takes a message in any chunking, gives its pieces.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    /// The part of the field to which a continuation line belongs.
    field: Option<Part>,
    /// A field that is no trace was seen.
    beyond_traces: bool,
    /// The beginning of a line that cannot be judged yet; under [`NAME_BYTES_MAX`] bytes.
    held: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    LineStart,
    InLine(Part),
    Body,
}

/// What a line is, and how many of its bytes it took to know.
enum Verdict {
    Unknown,
    Begins(Part, usize),
    Continues(usize),
    Empty(usize),
    NoField,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    pub fn new() -> Self {
        Self {
            state: State::LineStart,
            field: None,
            beyond_traces: false,
            held: Vec::new(),
        }
    }

    /// The header is over: all further bytes are body.
    pub fn in_body(&self) -> bool {
        self.state == State::Body
    }

    /// Takes the next bytes; `sink` gets the pieces that are certain by now.
    pub fn feed(&mut self, mut bytes: &[u8], sink: &mut impl FnMut(Piece<'_>)) {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::LineStart if self.held.is_empty() => {
                    let verdict = self.judge(bytes);
                    self.begin_line(verdict, bytes, sink)
                }
                State::LineStart => self.feed_held(bytes, sink),
                State::InLine(part) => self.rest_of_line(part, false, bytes, sink),
                State::Body => {
                    sink(piece(Part::Body, false, bytes));
                    &[]
                }
            };
        }
    }

    /// The message is over: a line that could not be judged is no field.
    pub fn finish(&mut self, sink: &mut impl FnMut(Piece<'_>)) {
        if !self.held.is_empty() {
            self.state = State::Body;
            sink(piece(Part::Body, false, &std::mem::take(&mut self.held)));
        }
    }

    /// A line whose beginning came in an earlier chunk.
    fn feed_held<'a>(&mut self, bytes: &'a [u8], sink: &mut impl FnMut(Piece<'_>)) -> &'a [u8] {
        let before = self.held.len();
        let taken = bytes.len().min(NAME_BYTES_MAX - before);
        let mut line = std::mem::take(&mut self.held);
        line.extend_from_slice(&bytes[..taken]);
        match self.judge(&line) {
            Verdict::Unknown => {
                self.held = line;
                &bytes[taken..]
            }
            verdict => {
                // Judging looks at no more bytes than it needs, so it needed all that was held and at least one more.
                let used = match verdict {
                    Verdict::Begins(_, used) | Verdict::Continues(used) | Verdict::Empty(used) => {
                        used.max(before)
                    }
                    Verdict::NoField | Verdict::Unknown => before,
                };
                line.truncate(used);
                self.begin_line(verdict, &line, sink);
                &bytes[used - before..]
            }
        }
    }

    fn begin_line<'a>(
        &mut self,
        verdict: Verdict,
        line: &'a [u8],
        sink: &mut impl FnMut(Piece<'_>),
    ) -> &'a [u8] {
        match verdict {
            Verdict::Unknown => {
                self.held.extend_from_slice(line);
                &[]
            }
            Verdict::Begins(part, _) => {
                self.field = Some(part);
                self.beyond_traces |= part == Part::Field;
                self.rest_of_line(part, true, line, sink)
            }
            Verdict::Continues(_) => {
                let part = self.field.unwrap_or(Part::Field);
                self.rest_of_line(part, false, line, sink)
            }
            Verdict::Empty(used) => {
                self.state = State::Body;
                sink(piece(Part::End, false, &line[..used]));
                &line[used..]
            }
            Verdict::NoField => {
                self.state = State::Body;
                sink(piece(Part::Body, false, line));
                &[]
            }
        }
    }

    fn rest_of_line<'a>(
        &mut self,
        part: Part,
        begins: bool,
        bytes: &'a [u8],
        sink: &mut impl FnMut(Piece<'_>),
    ) -> &'a [u8] {
        let end = memchr::memchr(b'\n', bytes).map(|at| at + 1);
        self.state = match end {
            Some(_) => State::LineStart,
            None => State::InLine(part),
        };
        let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        sink(piece(part, begins, line));
        rest
    }

    /// Judges a line by its first bytes, and by nothing that depends on how many of them happen to be here.
    fn judge(&self, line: &[u8]) -> Verdict {
        let line = &line[..line.len().min(NAME_BYTES_MAX)];
        let more = if line.len() < NAME_BYTES_MAX {
            Verdict::Unknown
        } else {
            Verdict::NoField
        };
        match line {
            [b'\n', ..] => return Verdict::Empty(1),
            [b'\r', b'\n', ..] => return Verdict::Empty(2),
            [b'\r'] => return Verdict::Unknown,
            [b' ' | b'\t', ..] if self.field.is_some() => return Verdict::Continues(1),
            _ => {}
        }
        let Some(name_end) = line.iter().position(|b| !is_name_byte(*b)) else {
            return more;
        };
        let name = &line[..name_end];
        if name.is_empty() {
            return Verdict::NoField;
        }
        let after = &line[name_end..];
        let Some(blanks) = after.iter().position(|b| !matches!(b, b' ' | b'\t')) else {
            return more;
        };
        let known = name_end + blanks + 1;
        if after[blanks] == b':' {
            let part = if is_trace(name) {
                Part::Trace
            } else {
                Part::Field
            };
            Verdict::Begins(part, known)
        } else if !self.beyond_traces && after[0] == b' ' && is_mbox_from(name) {
            Verdict::Begins(Part::Trace, known - 1)
        } else {
            Verdict::NoField
        }
    }
}

fn piece(part: Part, begins: bool, bytes: &[u8]) -> Piece<'_> {
    Piece {
        part,
        begins,
        bytes,
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b':'
}

/// `From`, or quoted `>From`: the first word of an mbox separator.
fn is_mbox_from(word: &[u8]) -> bool {
    let unquoted = word.iter().position(|b| *b != b'>').unwrap_or(word.len());
    &word[unquoted..] == b"From"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, expected: &[(Part, &str)]) {
        for chunk in [1, 2, 7, message.len().max(1)] {
            let mut found: Vec<(Part, Vec<u8>)> = Vec::new();
            let mut scanner = Scanner::new();
            let mut sink = |p: Piece<'_>| match found.last_mut() {
                Some((part, field)) if *part == p.part && !p.begins => field.extend(p.bytes),
                _ => found.push((p.part, p.bytes.to_vec())),
            };
            for bytes in message.as_bytes().chunks(chunk) {
                scanner.feed(bytes, &mut sink);
            }
            scanner.finish(&mut sink);
            let found: Vec<_> = found
                .iter()
                .map(|(part, field)| (*part, std::str::from_utf8(field).unwrap()))
                .collect();
            assert_eq!(found, expected, "chunks of {chunk}");
        }
    }

    #[test]
    fn a_continuation_goes_with_its_field_and_the_first_empty_line_ends_the_header() {
        check(
            "Received: a\r\n\tb\r\nSubject: c\r\n d\r\nreceived: e\r\n\r\nReceived: body\r\n",
            &[
                (Part::Trace, "Received: a\r\n\tb\r\n"),
                (Part::Field, "Subject: c\r\n d\r\n"),
                (Part::Trace, "received: e\r\n"),
                (Part::End, "\r\n"),
                (Part::Body, "Received: body\r\n"),
            ],
        );
    }

    #[test]
    fn an_mbox_line_is_a_trace_before_the_first_field_and_body_after_it() {
        check(
            "From a@b Mon Jan 1\nReceived: x\n>From c@d\nFrom : a@b\nFrom e@f\n",
            &[
                (Part::Trace, "From a@b Mon Jan 1\n"),
                (Part::Trace, "Received: x\n"),
                (Part::Trace, ">From c@d\n"),
                (Part::Field, "From : a@b\n"),
                (Part::Body, "From e@f\n"),
            ],
        );
    }

    #[test]
    fn a_line_that_is_no_field_begins_the_body() {
        for line in [
            "no colon\r\n",
            ": no name\r\n",
            "na\0me: x\r\n",
            "\r\r\n",
            "näme: x\r\n",
            "\x7f: x\r\n",
        ] {
            check(
                &format!("A: b\r\n{line}Received: c\r\n"),
                &[
                    (Part::Field, "A: b\r\n"),
                    (Part::Body, &format!("{line}Received: c\r\n")),
                ],
            );
        }
        check(
            " continuation of nothing: x\n",
            &[(Part::Body, " continuation of nothing: x\n")],
        );
    }

    #[test]
    fn messages_without_header_body_or_anything() {
        check("", &[]);
        check("\n", &[(Part::End, "\n")]);
        check("\r", &[(Part::Body, "\r")]);
        check("A: b", &[(Part::Field, "A: b")]);
        check("A", &[(Part::Body, "A")]);
        check("From ", &[(Part::Body, "From ")]);
        check("\r\nA: b", &[(Part::End, "\r\n"), (Part::Body, "A: b")]);
    }

    #[test]
    fn a_name_is_long_enough_at_its_limit_and_too_long_beyond_it() {
        let longest = format!("{}:\r\n", "n".repeat(NAME_BYTES_MAX - 1));
        check(&longest, &[(Part::Field, &longest)]);
        let too_long = format!("{}:\r\n", "n".repeat(NAME_BYTES_MAX));
        check(&too_long, &[(Part::Body, &too_long)]);
    }
}
