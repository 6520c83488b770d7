//! Replies: where one ends, what its code is, and the making of our own.

/// A reply never grows beyond this many bytes; EHLO replies stay far below.
pub const REPLY_BYTES_MAX: usize = 64 * 1024;

/// What the start of a byte string is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// A whole reply of this many bytes, its code from the last line.
    Reply { bytes: usize, code: u16 },
    /// The beginning of one.
    Partial,
    /// No reply at all: not three digits and a space, a hyphen or a line end.
    Malformed,
}

/// Finds the end of the first reply. Lines may end in LF alone: next hops are not ours to correct.
pub fn scan(bytes: &[u8]) -> Scan {
    let mut at = 0;
    loop {
        let Some(end) = memchr::memchr(b'\n', &bytes[at..]) else {
            return if bytes.len() > REPLY_BYTES_MAX {
                Scan::Malformed
            } else {
                Scan::Partial
            };
        };
        let line = &bytes[at..at + end];
        at += end + 1;
        let Some(code) = code(line) else {
            return Scan::Malformed;
        };
        match line.get(3) {
            Some(b'-') => {}
            None | Some(b' ' | b'\r') => return Scan::Reply { bytes: at, code },
            Some(_) => return Scan::Malformed,
        }
    }
}

/// The code that a reply begins with.
pub fn code(reply: &[u8]) -> Option<u16> {
    match reply {
        [a, b, c, ..] if [a, b, c].iter().all(|d| d.is_ascii_digit()) => {
            Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
        }
        _ => None,
    }
}

/// 2xx: the command was done.
pub fn is_success(code: u16) -> bool {
    code / 100 == 2
}

/// The lines of a reply without code, separator and line end.
pub fn lines(reply: &[u8]) -> impl Iterator<Item = &[u8]> {
    reply
        .split_inclusive(|b| *b == b'\n')
        .map(|line| line.trim_ascii_end().get(4..).unwrap_or_default())
}

/// A reply as it is kept and logged: without its last line end.
pub fn text(reply: &[u8]) -> &[u8] {
    reply.trim_ascii_end()
}

/// A growing multi-line reply with one code.
pub struct Multiline<'a> {
    out: &'a mut Vec<u8>,
    code: [u8; 3],
    last_line: usize,
}

impl<'a> Multiline<'a> {
    /// Lines go to the end of `out`.
    pub fn new(out: &'a mut Vec<u8>, code: &[u8; 3]) -> Self {
        let last_line = out.len();
        Self {
            out,
            code: *code,
            last_line,
        }
    }

    /// Adds a line, without its line end.
    pub fn line(&mut self, text: &[u8]) {
        self.last_line = self.out.len();
        self.out.extend_from_slice(&self.code);
        self.out.push(b'-');
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }

    /// Makes the last line the last one.
    pub fn end(self) {
        if let Some(separator) = self.out.get_mut(self.last_line + 3) {
            *separator = b' ';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_ends_with_its_last_line() {
        let two = b"250-first\r\n250 second\r\n220 next\r\n";
        assert_eq!(
            scan(two),
            Scan::Reply {
                bytes: 23,
                code: 250
            }
        );
        assert_eq!(
            scan(b"354\r\n"),
            Scan::Reply {
                bytes: 5,
                code: 354
            }
        );
        assert_eq!(
            scan(b"250 lf\n"),
            Scan::Reply {
                bytes: 7,
                code: 250
            }
        );
        assert_eq!(scan(b"250-first\r\n25"), Scan::Partial);
        assert_eq!(scan(b"hello\r\n"), Scan::Malformed);
        assert_eq!(scan(b"250+x\r\n"), Scan::Malformed);
        assert_eq!(scan(&[b'2'; REPLY_BYTES_MAX + 1]), Scan::Malformed);
    }

    #[test]
    fn a_reply_of_our_own_has_one_last_line() {
        let mut out = Vec::new();
        let mut reply = Multiline::new(&mut out, b"250");
        reply.line(b"host");
        reply.line(b"PIPELINING");
        reply.end();
        assert_eq!(out, b"250-host\r\n250 PIPELINING\r\n");
        assert_eq!(
            lines(&out).collect::<Vec<_>>(),
            [&b"host"[..], b"PIPELINING"]
        );
    }
}
