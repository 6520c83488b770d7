//! The two canonical forms under K2, as streams: the header fields of a message, and its body.
//!
//! **Header**: DKIM's `relaxed` (RFC 6376 3.4.2), since refolding, a tab for a space, a lost blank after the colon (a
//! milter without LEADSPC) and another case of the name are what relays do to fields: name in lower case, no blanks
//! around the colon, unfolded, runs of blanks one space, none at the end. **Body**: like DKIM's `simple` (3.4.3): every
//! line end CRLF, those at the end of the message dropped, so that a store that writes LF, or completes the last line,
//! or adds an empty one, keeps the same message. Here a line ends with LF and a CR before it; a bare CR is an ordinary
//! byte in both. What the body lost is kept by [`Deviations`], so that form and deviations together are the bytes.

use blake3::Hasher;

/// BLAKE3 hashes eight 1 KiB chunks at once where it gets them aligned and together, and more the faster.
const BLOCK: usize = 8 * 1024;

/// Gathers small writes into blocks that are hashed fast.
#[derive(Debug)]
pub(super) struct Gathered {
    hasher: Hasher,
    block: Vec<u8>,
}

impl Gathered {
    pub(super) fn new() -> Self {
        Self {
            hasher: Hasher::new(),
            block: Vec::new(),
        }
    }

    pub(super) fn put(&mut self, mut bytes: &[u8]) {
        if !self.block.is_empty() {
            let taken = bytes.len().min(BLOCK - self.block.len());
            self.block.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.block.len() < BLOCK {
                return;
            }
            self.hasher.update(&self.block);
            self.block.clear();
        }
        let (whole, rest) = bytes.split_at(bytes.len() - bytes.len() % BLOCK);
        self.hasher.update(whole);
        self.block.extend_from_slice(rest);
    }

    pub(super) fn finish(mut self) -> [u8; 32] {
        self.hasher.update(&self.block);
        *self.hasher.finalize().as_bytes()
    }
}

/// Header fields in relaxed form; each ends with CRLF, and no value holds an LF, so the form is unambiguous.
#[derive(Debug)]
pub(super) struct Fields {
    out: Gathered,
    place: Place,
    /// Blanks seen since the last byte that counts.
    blank: bool,
    /// A CR that may belong to a line end.
    held_cr: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Nowhere,
    Name,
    /// After the colon, before the first byte of the value.
    Colon,
    Value,
}

impl Fields {
    pub(super) fn new() -> Self {
        Self {
            out: Gathered::new(),
            place: Place::Nowhere,
            blank: false,
            held_cr: false,
        }
    }

    /// The next bytes are a new field's first.
    pub(super) fn begin(&mut self) {
        self.end();
        self.place = Place::Name;
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            if self.place == Place::Value && !is_special(byte) {
                // The bulk of a value: everything up to the next blank or line end.
                let run = rest
                    .iter()
                    .position(|b| is_special(*b))
                    .unwrap_or(rest.len());
                self.emit(&rest[..run]);
                rest = &rest[run..];
            } else {
                self.put_byte(byte);
                rest = after;
            }
        }
    }

    fn put_byte(&mut self, byte: u8) {
        match (self.place, byte) {
            (_, b'\n') => self.held_cr = false,
            (_, b'\r') => {
                self.flush_cr();
                self.held_cr = true;
            }
            (Place::Nowhere, _) => {}
            (Place::Name, b':') => {
                self.out.put(b":");
                self.place = Place::Colon;
            }
            (Place::Name, b' ' | b'\t') => {}
            (Place::Name, _) => self.out.put(&[byte.to_ascii_lowercase()]),
            (Place::Colon | Place::Value, b' ' | b'\t') => {
                self.flush_cr();
                self.blank = true;
            }
            (Place::Colon | Place::Value, _) => self.emit(&[byte]),
        }
    }

    /// Bytes that count, after the blanks before them.
    fn emit(&mut self, bytes: &[u8]) {
        self.flush_cr();
        if self.blank && self.place == Place::Value {
            self.out.put(b" ");
        }
        self.blank = false;
        self.place = Place::Value;
        self.out.put(bytes);
    }

    fn flush_cr(&mut self) {
        if std::mem::take(&mut self.held_cr) {
            self.emit(b"\r");
        }
    }

    fn end(&mut self) {
        self.flush_cr();
        if self.place != Place::Nowhere {
            self.out.put(b"\r\n");
        }
        self.place = Place::Nowhere;
        self.blank = false;
    }

    pub(super) fn finish(mut self) -> [u8; 32] {
        self.end();
        self.out.finish()
    }
}

fn is_special(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// A body with CRLF line ends and none at its end.
#[derive(Debug)]
pub(super) struct Body {
    out: Gathered,
    /// Line ends seen since the last other byte.
    line_ends: u64,
    held_cr: bool,
    deviations: Deviations,
}

/// What a body's canonical form does not say: where an LF stands alone, and how long the body really is.
#[derive(Debug, Default)]
struct Deviations {
    bytes: u64,
    bare_lf: Option<Box<Gathered>>,
    after_cr: bool,
}

impl Body {
    pub(super) fn new() -> Self {
        Self {
            out: Gathered::new(),
            line_ends: 0,
            held_cr: false,
            deviations: Deviations::default(),
        }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        let plain = !self.deviations.note(bytes);
        self.put_noted(bytes, plain);
    }

    /// `plain`: every LF has its CR.
    fn put_noted(&mut self, mut bytes: &[u8], plain: bool) {
        if self.held_cr {
            self.held_cr = false;
            match bytes {
                [b'\n', rest @ ..] => {
                    self.line_ends += 1;
                    bytes = rest;
                }
                _ => self.content(b"\r"),
            }
        }
        if let [rest @ .., b'\r'] = bytes {
            self.held_cr = true;
            bytes = rest;
        }
        let mut ends = 0;
        let mut content = bytes;
        while let [rest @ .., b'\n'] = content {
            content = rest.strip_suffix(b"\r").unwrap_or(rest);
            ends += 1;
        }
        if plain {
            self.content(content);
        } else {
            let mut from = 0;
            for at in memchr::memchr_iter(b'\n', content) {
                let line = &content[from..at];
                self.content(line.strip_suffix(b"\r").unwrap_or(line));
                self.line_ends += 1;
                from = at + 1;
            }
            self.content(&content[from..]);
        }
        self.line_ends += ends;
    }

    fn content(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        for _ in 0..std::mem::take(&mut self.line_ends) {
            self.out.put(b"\r\n");
        }
        self.out.put(bytes);
    }

    /// The digest of the canonical form, and that of the deviations.
    pub(super) fn finish(mut self) -> ([u8; 32], [u8; 32]) {
        if self.held_cr {
            self.content(b"\r");
        }
        (self.out.finish(), self.deviations.finish())
    }
}

impl Deviations {
    /// Takes note of the next bytes of the body; true where an LF among them stands alone.
    fn note(&mut self, bytes: &[u8]) -> bool {
        let first = bytes.first() == Some(&b'\n') && !self.after_cr;
        // Without a branch, so that the compiler compares many bytes at a time.
        let (before, after) = (bytes.split_last(), bytes.split_first());
        let later = match (before, after) {
            (Some((_, before)), Some((_, after))) => {
                before.iter().zip(after).fold(0, |found, (before, byte)| {
                    found | (u8::from(*byte == b'\n') & u8::from(*before != b'\r'))
                })
            }
            _ => 0,
        };
        let found = first || later != 0;
        if found {
            let offsets = self
                .bare_lf
                .get_or_insert_with(|| Box::new(Gathered::new()));
            for at in memchr::memchr_iter(b'\n', bytes) {
                let after_cr = match at {
                    0 => self.after_cr,
                    _ => bytes[at - 1] == b'\r',
                };
                if !after_cr {
                    offsets.put(&(self.bytes + at as u64).to_le_bytes());
                }
            }
        }
        self.bytes += bytes.len() as u64;
        self.after_cr = bytes.last() == Some(&b'\r');
        found
    }

    fn finish(self) -> [u8; 32] {
        let mut offsets = match self.bare_lf {
            Some(offsets) => *offsets,
            None => Gathered::new(),
        };
        // The length is the last of the numbers, so list and length are told apart.
        offsets.put(&self.bytes.to_le_bytes());
        offsets.finish()
    }
}
