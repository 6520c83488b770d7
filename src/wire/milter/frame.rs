//! From bytes to frames. A body is handed on as it comes, without a copy; every other frame is whole.

use super::command::{BODY, END_OF_BODY};

/// The longest frame taken, with its command: Postfix sends headers of 100 KiB, Sendmail body pieces of up to 1 MiB where
/// a milter lets it.
pub const FRAME_BYTES_MAX: usize = (1 << 20) + 1;
/// Kept for the next frame; more is given back.
const KEPT_BYTES_MAX: usize = 4 << 10;
const HEAD_BYTES: usize = 5;

/// Why no more of this connection can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Garbage {
    #[error("this is not a milter peer ({}: {})", looks_like(.0), .0.escape_ascii())]
    NotAMilter([u8; HEAD_BYTES]),
    #[error("a frame of {0} bytes")]
    FrameLength(u32),
    #[error("version {0} of the milter protocol")]
    Version(u32),
    #[error("command {:?} here", char::from(*.0))]
    OutOfOrder(u8),
    #[error("command {:?} is malformed", char::from(*.0))]
    Malformed(u8),
}

/// What a peer speaks whose first bytes are these.
fn looks_like(first: &[u8; HEAD_BYTES]) -> &'static str {
    match first {
        [0x16, 0x03, ..] => "looks like TLS",
        [b'E' | b'H' | b'L', b'E' | b'H', b'L', b'O', ..] | [b'Q', b'U', b'I', b'T', ..] => {
            "looks like SMTP"
        }
        [b'G', b'E', b'T', b' ', ..]
        | [b'P', b'O' | b'R' | b'U', ..]
        | [b'H', b'E', b'A', b'D', ..]
        | [b'O', b'P', b'T', b'I', ..] => "looks like HTTP",
        [b'S', b'S', b'H', b'-', ..] => "looks like SSH",
        _ => "garbage",
    }
}

/// A frame, or a part of one that carries body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'s, 'i> {
    Whole {
        command: u8,
        payload: &'s [u8],
    },
    Starts(u8),
    /// As it lies in the input.
    Part(&'i [u8]),
    Ends(u8),
}

/// Takes frames out of a stream of bytes in any chunking.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// Payload still to come.
    left: usize,
    /// The payload so far of a frame that came in pieces.
    held: Vec<u8>,
    /// `held` was handed out whole.
    spent: bool,
}

impl Splitter {
    /// The head of the latest frame.
    pub(super) fn head(&self) -> [u8; HEAD_BYTES] {
        self.head
    }

    /// Takes one piece from the front of `input`; none where it takes all and needs more.
    pub(super) fn next<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Piece<'s, 'i>>, Garbage> {
        if std::mem::take(&mut self.spent) {
            self.held.clear();
            self.held.shrink_to(KEPT_BYTES_MAX);
        }
        if self.head_bytes < HEAD_BYTES {
            let some = take(input, HEAD_BYTES - self.head_bytes);
            self.head[self.head_bytes..][..some.len()].copy_from_slice(some);
            self.head_bytes += some.len();
            if self.head_bytes < HEAD_BYTES {
                return Ok(None);
            }
            let [a, b, c, d, command] = self.head;
            let length = u32::from_be_bytes([a, b, c, d]);
            if length == 0 || length as usize > FRAME_BYTES_MAX {
                return Err(Garbage::FrameLength(length));
            }
            self.left = length as usize - 1;
            if is_streamed(command) {
                return Ok(Some(Piece::Starts(command)));
            }
        }
        let command = self.head[HEAD_BYTES - 1];
        if is_streamed(command) {
            if self.left == 0 {
                self.head_bytes = 0;
                return Ok(Some(Piece::Ends(command)));
            }
            let bytes = take(input, self.left);
            self.left -= bytes.len();
            return Ok((!bytes.is_empty()).then_some(Piece::Part(bytes)));
        }
        let some = take(input, self.left);
        self.left -= some.len();
        if self.left > 0 {
            self.held.extend_from_slice(some);
            return Ok(None);
        }
        self.head_bytes = 0;
        let payload = if self.held.is_empty() {
            some
        } else {
            self.held.extend_from_slice(some);
            self.spent = true;
            &self.held
        };
        Ok(Some(Piece::Whole { command, payload }))
    }
}

fn is_streamed(command: u8) -> bool {
    matches!(command, BODY | END_OF_BODY)
}

fn take<'a>(input: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (some, rest) = input.split_at(count.min(input.len()));
    *input = rest;
    some
}

/// Appends a frame.
pub(super) fn put(out: &mut Vec<u8>, command: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len() + 1).expect("our frames are short");
    out.extend_from_slice(&length.to_be_bytes());
    out.push(command);
    out.extend_from_slice(payload);
}

/// The strings of a payload, each ended by NUL; a last one without its NUL is none.
pub(super) fn strings(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let whole = payload.iter().rposition(|&byte| byte == 0);
    let whole = whole.map(|end| &payload[..end]);
    whole.into_iter().flat_map(|it| it.split(|&byte| byte == 0))
}

/// The next four bytes as a number.
pub(super) fn number(payload: &mut &[u8]) -> Option<u32> {
    let (number, rest) = payload.split_first_chunk()?;
    *payload = rest;
    Some(u32::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(bytes: &[u8], step: usize) -> Result<Vec<(u8, Vec<u8>)>, Garbage> {
        let (mut splitter, mut frames, mut body) = (Splitter::default(), Vec::new(), Vec::new());
        for mut input in bytes.chunks(step) {
            while let Some(piece) = splitter.next(&mut input)? {
                match piece {
                    Piece::Whole { command, payload } => frames.push((command, payload.to_vec())),
                    Piece::Starts(_) => body.clear(),
                    Piece::Part(bytes) => body.extend_from_slice(bytes),
                    Piece::Ends(command) => frames.push((command, body.clone())),
                }
            }
        }
        Ok(frames)
    }

    #[test]
    fn any_chunking_gives_the_same_frames() {
        let frames = [
            (b'O', b"thirteen".to_vec()),
            (b'B', vec![b'x'; 70_000]),
            (b'L', vec![b'h'; 5_000]),
            (b'A', Vec::new()),
            (b'B', Vec::new()),
            (b'E', b"last".to_vec()),
            (b'E', Vec::new()),
        ];
        let mut bytes = Vec::new();
        for (command, payload) in &frames {
            put(&mut bytes, *command, payload);
        }
        for step in [1, 2, 3, 4, 5, 6, 7, 4096, bytes.len()] {
            assert_eq!(split(&bytes, step).unwrap(), frames, "{step}");
        }
    }

    #[test]
    fn a_frame_that_cannot_be_is_garbage() {
        assert_eq!(split(&[0, 0, 0, 0, b'O'], 5), Err(Garbage::FrameLength(0)));
        let longest = u32::try_from(FRAME_BYTES_MAX).unwrap();
        let mut head = longest.to_be_bytes().to_vec();
        head.push(b'L');
        assert_eq!(split(&head, 5), Ok(Vec::new()));
        head[..4].copy_from_slice(&(longest + 1).to_be_bytes());
        assert_eq!(split(&head, 5), Err(Garbage::FrameLength(longest + 1)));
    }

    #[test]
    fn strings_end_with_nul() {
        let all = |payload| strings(payload).collect::<Vec<_>>();
        assert_eq!(all(b"<a@b>\0SIZE=1\0"), [b"<a@b>".as_slice(), b"SIZE=1"]);
        assert_eq!(all(b"\0"), [b""]);
        assert_eq!(all(b"cut"), Vec::<&[u8]>::new());
        assert_eq!(all(b""), Vec::<&[u8]>::new());
    }

    #[test]
    fn who_is_not_a_milter_peer_is_named() {
        for (first, name) in [
            (b"GET /", "HTTP"),
            (b"EHLO ", "SMTP"),
            (b"\x16\x03\x01\x02\x00", "TLS"),
            (b"\0\0\0\0\0", "garbage"),
        ] {
            let said = Garbage::NotAMilter(*first).to_string();
            assert!(said.contains(name), "{said}");
        }
    }
}
