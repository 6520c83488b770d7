//! The mbox format "mboxrd": `From sender date`, the message with `>` before every line that is `From ` behind any number
//! of `>`, an empty line. It can be undone exactly but for a line end that the message lacked at its end.

use std::io::{self, Write};

use crate::message::UnixMillis;

/// The line before a message. `sender` is the envelope's; empty for the null sender.
pub(super) fn begin(out: &mut impl Write, sender: &str, at: UnixMillis) -> io::Result<()> {
    // Blanks would end the address; nobody reads it but people.
    let sender: String = sender.chars().filter(|c| !c.is_whitespace()).collect();
    let sender = if sender.is_empty() {
        "MAILER-DAEMON"
    } else {
        &sender
    };
    let date = jiff::Timestamp::from_millisecond(at.0 as i64).unwrap_or_default();
    writeln!(
        out,
        "From {sender} {}",
        date.strftime("%a %b %e %H:%M:%S %Y")
    )
}

/// Passes a message on, quoted.
pub(super) struct Quoting<W: Write> {
    out: W,
    line: Line,
    last: u8,
}

/// Where in a line we are.
enum Line {
    /// `>`s seen at its beginning, and how much of `From ` behind them; nothing of it is written yet.
    Begins {
        quotes: usize,
        matched: usize,
    },
    Goes,
}

const FROM: &[u8] = b"From ";

impl<W: Write> Quoting<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            line: Line::Begins {
                quotes: 0,
                matched: 0,
            },
            last: b'\n',
        }
    }

    /// Ends the message: a line end where it had none, and the empty line.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.release()?;
        if self.last != b'\n' {
            self.out.write_all(b"\n")?;
        }
        self.out.write_all(b"\n")
    }

    /// Writes what a line's beginning has held back.
    fn release(&mut self) -> io::Result<()> {
        if let Line::Begins { quotes, matched } = self.line {
            for _ in 0..quotes {
                self.out.write_all(b">")?;
            }
            self.out.write_all(&FROM[..matched])?;
        }
        self.line = Line::Goes;
        Ok(())
    }

    fn take(&mut self, byte: u8) -> io::Result<()> {
        if let Line::Begins { quotes, matched } = &mut self.line {
            if *matched == 0 && byte == b'>' {
                *quotes += 1;
                return Ok(());
            }
            if byte == FROM[*matched] {
                *matched += 1;
                if *matched == FROM.len() {
                    *quotes += 1;
                    self.release()?;
                }
                return Ok(());
            }
            self.release()?;
        }
        self.out.write_all(&[byte])?;
        if byte == b'\n' {
            self.line = Line::Begins {
                quotes: 0,
                matched: 0,
            };
        }
        Ok(())
    }
}

impl<W: Write> Write for Quoting<W> {
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len();
        if let Some(last) = bytes.last() {
            self.last = *last;
        }
        while let [byte, rest @ ..] = bytes {
            if matches!(self.line, Line::Goes) {
                // The middle of a line goes through in one piece.
                let end = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
                self.out.write_all(&bytes[..end])?;
                bytes = &bytes[end..];
                if let [newline, rest @ ..] = bytes {
                    self.take(*newline)?;
                    bytes = rest;
                }
            } else {
                self.take(*byte)?;
                bytes = rest;
            }
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quoted(message: &[u8], chunk: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let mut quoting = Quoting::new(&mut out);
        for piece in message.chunks(chunk) {
            quoting.write_all(piece).unwrap();
        }
        quoting.finish().unwrap();
        out
    }

    /// What a reader of mboxrd does.
    fn unquoted(mbox: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        for line in mbox[..mbox.len() - 1].split_inclusive(|byte| *byte == b'\n') {
            let quotes = line.iter().take_while(|byte| **byte == b'>').count();
            let is_quoted = quotes > 0 && line[quotes..].starts_with(b"From ");
            message.extend_from_slice(&line[usize::from(is_quoted)..]);
        }
        message
    }

    #[test]
    fn a_from_line_behind_any_number_of_marks_gets_one_more() {
        let message = b"From x\n>From y\nFro\n>>Fram\nnot From\n>";
        let wanted = b">From x\n>>From y\nFro\n>>Fram\nnot From\n>\n\n";
        for chunk in [1, 7, 1000] {
            assert_eq!(quoted(message, chunk), wanted);
        }
    }

    #[test]
    fn the_first_line_names_sender_and_time() {
        let mut out = Vec::new();
        begin(&mut out, "a b@c", UnixMillis(86_400_000 * 9)).unwrap();
        assert_eq!(out, b"From ab@c Sat Jan 10 00:00:00 1970\n");
    }

    proptest! {
        #[test]
        fn reading_undoes_quoting(message in "([>From \r\nx]{0,9}\n){0,9}", chunk in 1usize..9) {
            prop_assert_eq!(unquoted(&quoted(message.as_bytes(), chunk)), message.as_bytes());
        }
    }
}
