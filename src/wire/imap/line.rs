//! One direction's current line: its first 8 KiB are kept to be read, however long it is and in whatever pieces it comes.

use super::lexis::{Doubt, Framing, Literal};
use crate::wire::sasl::{extend, overwrite, wipe};

/// What is kept of a line.
pub(super) const LINE_BYTES_MAX: usize = 8 << 10;

/// The part of a line that came before the bytes at hand.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) kept: Vec<u8>,
    /// So much of `kept` is with the other side.
    pub(super) passed: usize,
    /// For the bytes that are not kept.
    beyond: Option<Box<Framing>>,
}

/// How far a line has come.
type Mark = (usize, Option<Box<Framing>>);

/// A line that is complete.
#[derive(Debug)]
pub(super) struct Whole<'b> {
    /// Without its end and without the literal's announcement; its first bytes where it is long.
    pub(super) text: &'b [u8],
    /// With all that; cut as well.
    pub(super) raw: &'b [u8],
    /// More than is kept.
    pub(super) long: bool,
    pub(super) literal: Result<Option<Literal>, Doubt>,
}

impl Line {
    /// A piece without LF.
    pub(super) fn add(&mut self, piece: &[u8]) {
        let room = LINE_BYTES_MAX - self.kept.len();
        let (kept, beyond) = piece.split_at(room.min(piece.len()));
        extend(&mut self.kept, kept);
        if beyond.is_empty() {
            return;
        }
        let framing = self.beyond.get_or_insert_with(|| {
            let mut framing = Framing::default();
            self.kept.iter().for_each(|byte| framing.byte(*byte));
            Box::new(framing)
        });
        beyond.iter().for_each(|byte| framing.byte(*byte));
    }

    /// Is it longer than what is kept?
    pub(super) fn is_long(&self) -> bool {
        self.beyond.is_some()
    }

    /// What the other side has not had yet.
    pub(super) fn unsaid(&self) -> &[u8] {
        &self.kept[self.passed..]
    }

    /// So far; its last piece may have to come again.
    pub(super) fn mark(&self) -> Mark {
        (self.kept.len(), self.beyond.clone())
    }

    /// As it was.
    pub(super) fn back_to(&mut self, (kept, beyond): Mark) {
        overwrite(&mut self.kept[kept..]);
        self.kept.truncate(kept);
        self.beyond = beyond;
    }

    /// Its last piece, up to the LF. Where there was no other, nothing is copied.
    pub(super) fn complete<'b>(&'b mut self, piece: &'b [u8]) -> Whole<'b> {
        if self.kept.is_empty() {
            return Whole::of(piece);
        }
        let text = &piece[..piece.len() - 1];
        self.add(text);
        if let Some(framing) = &self.beyond {
            return Whole {
                text: &self.kept,
                raw: &self.kept,
                long: true,
                literal: framing.end(),
            };
        }
        if self.kept.len() == LINE_BYTES_MAX {
            // As a line of one piece is cut: the LF is beyond.
            return Whole {
                text: &self.kept,
                raw: &self.kept,
                long: true,
                literal: Framing::of(&self.kept),
            };
        }
        extend(&mut self.kept, b"\n");
        Whole::of(&self.kept)
    }

    /// The memory goes too, and what it held, which may be a password.
    pub(super) fn clear(&mut self) {
        if !self.kept.is_empty() {
            wipe(&mut self.kept);
            *self = Self::default();
        }
    }
}

impl<'b> Whole<'b> {
    fn of(line: &'b [u8]) -> Self {
        let literal = Framing::of(line);
        if line.len() > LINE_BYTES_MAX {
            return Self {
                text: &line[..LINE_BYTES_MAX],
                raw: &line[..LINE_BYTES_MAX],
                long: true,
                literal,
            };
        }
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let mut text = text.strip_suffix(b"\r").unwrap_or(text);
        if literal != Ok(None) {
            let marker = memchr::memrchr(b'{', text).unwrap_or(text.len());
            text = &text[..marker];
            text = text.strip_suffix(b"~").unwrap_or(text);
        }
        Self {
            text,
            raw: line,
            long: false,
            literal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_piece_that_comes_again_is_read_once() {
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        for (start, last) in [(&long[..], &b"\" {9}\r\n"[..]), (b"a \"b", b"\" {9}\r\n")] {
            let mut line = Line::default();
            line.add(start);
            let mark = line.mark();
            let literal = line.complete(last).literal;
            line.back_to(mark);
            assert_eq!(line.complete(last).literal, literal);
        }
    }

    #[test]
    fn a_line_is_the_same_in_one_piece_and_in_many() {
        for length in [
            10,
            LINE_BYTES_MAX - 1,
            LINE_BYTES_MAX,
            LINE_BYTES_MAX + 1,
            20_000,
        ] {
            let mut text = vec![b'x'; length - 6];
            text.extend_from_slice(b" {9}\r\n");
            let whole = Whole::of(&text);
            for size in [1, 7, 5000] {
                let mut line = Line::default();
                let (last, rest) = text.split_last().unwrap();
                rest.chunks(size).for_each(|piece| line.add(piece));
                let pieces = line.complete(std::slice::from_ref(last));
                assert_eq!(pieces.text, whole.text, "{length} in {size}");
                assert_eq!(pieces.long, whole.long);
                assert_eq!(pieces.literal, whole.literal);
            }
        }
    }
}
