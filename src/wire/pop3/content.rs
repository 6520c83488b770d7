//! A multi-line answer on the wire (RFC 1939 section 3): dot-stuffing undone without copying, and the one sequence that
//! ends it. Only CRLF `.` CRLF does; a CR or LF that stands alone is content, and no dot behind it is special.
//!
//! ```text
//!   state      CR       LF               .      other
//!   LineStart  Cr       Text             Dot    Text
//!   Text       Cr       Text             Text   Text
//!   Cr         Cr       LineStart        Text   Text
//!   Dot        DotCr    Text             Text   Text     (the dot was stuffing)
//!   DotCr      Cr       THE END          Text   Text     (the CR is given late)
//! ```

use memchr::memmem;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    LineStart,
    Text,
    Cr,
    Dot,
    DotCr,
}

/// Where in a multi-line answer we are; at its first line to begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unstuffer(State);

/// What the first `taken` bytes of an input are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run<'a> {
    pub(super) content: &'a [u8],
    pub(super) taken: usize,
    /// The answer is over, with the last of the bytes taken.
    pub(super) ended: bool,
}

impl Unstuffer {
    /// The next run of content. Nothing is taken only where a CR is given late, or of an empty input.
    pub(super) fn run<'a>(&mut self, input: &'a [u8]) -> Run<'a> {
        let run = |content, taken| Run {
            content,
            taken,
            ended: false,
        };
        let Some(&first) = input.first() else {
            return run(b"", 0);
        };
        match (self.0, first) {
            (State::LineStart, b'.') => {
                self.0 = State::Dot;
                run(b"", 1)
            }
            (State::Dot, b'\r') => {
                self.0 = State::DotCr;
                run(b"", 1)
            }
            (State::DotCr, b'\n') => {
                self.0 = State::LineStart;
                Run {
                    content: b"",
                    taken: 1,
                    ended: true,
                }
            }
            (State::DotCr, _) => {
                self.0 = State::Text;
                run(b"\r", 0)
            }
            (State::LineStart | State::Text | State::Cr | State::Dot, _) => {
                let taken = self.text(input);
                run(&input[..taken], taken)
            }
        }
    }

    /// How much of the input goes on to the next dot at the start of a line.
    fn text(&mut self, input: &[u8]) -> usize {
        let after_cr = self.0 == State::Cr;
        let ends_line = |lf: usize| match lf.checked_sub(1) {
            Some(before) => input[before] == b'\r',
            None => after_cr,
        };
        let dot = memmem::find_iter(input, b"\n.").find(|&lf| ends_line(lf));
        let (taken, state) = match (dot, input) {
            (Some(lf), _) => (lf + 1, State::LineStart),
            (None, [.., b'\r']) => (input.len(), State::Cr),
            (None, [.., b'\n']) if ends_line(input.len() - 1) => (input.len(), State::LineStart),
            (None, _) => (input.len(), State::Text),
        };
        self.0 = state;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content, and what is left behind the end, if it came.
    fn unstuffed(wire: &[u8], step: usize) -> (Vec<u8>, Option<usize>) {
        let (mut unstuffer, mut content, mut total) = (Unstuffer::default(), Vec::new(), 0);
        for piece in wire.chunks(step) {
            let mut rest = piece;
            while !rest.is_empty() {
                let run = unstuffer.run(rest);
                content.extend_from_slice(run.content);
                total += run.taken;
                if run.ended {
                    return (content, Some(wire.len() - total));
                }
                rest = &rest[run.taken..];
            }
        }
        (content, None)
    }

    #[test]
    fn dots_are_undone_and_only_the_true_end_ends() {
        let cases: &[(&[u8], &[u8], Option<usize>)] = &[
            (b".\r\n+OK", b"", Some(3)),
            (b"a\r\n.\r\n", b"a\r\n", Some(0)),
            (b"..\r\n.a\r\n...\r\n.\r\n", b".\r\na\r\n..\r\n", Some(0)),
            (b"\r\n.\r\n", b"\r\n", Some(0)),
            (b"a\n.\nb\n.\r\nc\r\n.\r\n", b"a\n.\nb\n.\r\nc\r\n", Some(0)),
            (b"a\r.\r\nb\r\n.\r\n", b"a\r.\r\nb\r\n", Some(0)),
            (b"a\r\n.\rb\r\n.\r\n", b"a\r\n\rb\r\n", Some(0)),
            (b"a\r\n.\r\r\n.\r\n", b"a\r\n\r\r\n", Some(0)),
            (b"a\r\r\n.\r\n", b"a\r\r\n", Some(0)),
            (b"a\r\n.\nb\r\n.\r\n", b"a\r\n\nb\r\n", Some(0)),
            (b"a\n.\r\n", b"a\n.\r\n", None),
            (b"\n.\r\n", b"\n.\r\n", None),
            (b"a\r\n.", b"a\r\n", None),
        ];
        for (wire, content, end) in cases {
            for step in [1, 2, 3, 7, 100] {
                let outcome = unstuffed(wire, step);
                let what = format!("{} at {step}", wire.escape_ascii());
                assert_eq!(outcome, (content.to_vec(), *end), "{what}");
            }
        }
    }
}
