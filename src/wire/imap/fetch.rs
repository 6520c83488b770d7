//! A FETCH or UIDFETCH response, read byte by byte: any length, any order of its items, in fixed memory.
//!
//! A whole message is the value of `BODY[]`, `RFC822` or `BINARY[]` (RFC 9051 section 7.5.2, RFC 3516), as a literal or a
//! quoted string. What belongs to it, the UID perhaps, may come behind it: the response is over at its parenthesis.
//! Header and text by themselves (`BODY[HEADER]`, `BODY[TEXT]`, and the same of `RFC822`) are the message too, if both
//! are shown, the header first: fetchmail and clients by c-client's library read all their mail so.

use super::{
    date::date_time,
    lexis::{Doubt, Framing, Literal, number},
};
use crate::{
    message::{UnixMillis, WireText},
    wire::watch::Form,
};

/// What is kept of a name or a value.
const VALUE_BYTES_MAX: usize = 1 << 10;

#[derive(Debug, Default)]
pub(super) struct Fetch {
    at: At,
    depth: u32,
    framing: Framing,
    line_is_blank: bool,
    word: Vec<u8>,
    item: Item,
    pub(super) uid: Option<u32>,
    pub(super) flags: Vec<WireText>,
    pub(super) internal_date: Option<UnixMillis>,
    /// A message was shown in part.
    pub(super) in_part: bool,
    /// The message's header was shown before: with its text it is whole.
    pub(super) joins: bool,
    /// A whole message was shown: another one in the same response is the same.
    pub(super) whole: bool,
    /// … and in this form.
    pub(super) form: Form,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Before the parenthesis that opens all.
    #[default]
    Head,
    Name,
    /// Within `BODY[…]`.
    Section,
    SectionQuoted,
    /// Before the first byte of a value.
    Value,
    Atom,
    Quoted,
    QuotedEscape,
    /// In a quoted string that is a whole message.
    ContentFirst,
    Content,
    ContentEscape,
    List,
    ListQuoted,
    ListEscape,
    /// Behind the last parenthesis.
    Over,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Item {
    Whole,
    /// Whole, without transfer encodings.
    Decoded,
    Header,
    Text,
    Part,
    Uid,
    Flags,
    InternalDate,
    #[default]
    Other,
}

/// What a literal is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shown {
    /// A whole message, or the text that makes it whole.
    Content,
    Header,
    #[default]
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A quoted string that is content begins.
    Begin,
    /// The next bytes, so many, are content.
    Content(usize),
    /// The line ends with a literal.
    Literal {
        bytes: u64,
        shown: Shown,
    },
    /// The last parenthesis: all is said.
    End,
    /// The line after that is another response.
    Over,
    /// The line ended before the last parenthesis did.
    CutOff,
    Doubt,
}

impl Fetch {
    /// `uid` of a UIDFETCH (RFC 9586).
    pub(super) fn new(uid: Option<u32>, joins: bool) -> Self {
        Self {
            uid,
            joins,
            line_is_blank: true,
            ..Self::default()
        }
    }

    /// Reads up to the next event: so many bytes, and the event behind them. None: more is awaited.
    pub(super) fn read(&mut self, bytes: &[u8]) -> (usize, Option<Event>) {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let plain = self.plain(&bytes[at..]);
            if plain > 0 {
                at += plain;
                continue;
            }
            if byte == b'\n' {
                return (at + 1, self.line_end());
            }
            match (self.at, byte) {
                (At::ContentFirst, b'"') if self.item != Item::Text => self.value_ends(),
                (At::Content, b'"') => self.value_ends(),
                (At::ContentFirst, _) => {
                    self.at = At::Content;
                    self.is_shown();
                    return (at, Some(Event::Begin));
                }
                (At::Content, b'\\') => self.at = At::ContentEscape,
                (At::Content, _) => {
                    let ends = |b: &u8| matches!(b, b'"' | b'\\' | b'\n');
                    let run = bytes[at..].iter().position(ends);
                    return (at, Some(Event::Content(run.unwrap_or(bytes.len() - at))));
                }
                (At::ContentEscape, _) => return (at, Some(Event::Content(1))),
                (_, b'\r') => {}
                _ => {
                    if self.byte(byte) {
                        return (at + 1, Some(Event::End));
                    }
                }
            }
            self.framing.byte(byte);
            self.line_is_blank &= byte == b'\r';
            at += 1;
        }
        (at, None)
    }

    /// How many bytes at the front only make a word longer, as most do: they are taken all at once.
    fn plain(&mut self, bytes: &[u8]) -> usize {
        let is_kept = match self.at {
            At::Name | At::Section | At::SectionQuoted | At::Atom | At::Quoted => true,
            At::List => self.item == Item::Flags,
            _ => return 0,
        };
        if !self.framing.is_idle() {
            return 0;
        }
        let run = bytes.iter().position(|byte| !is_plain(*byte));
        let run = &bytes[..run.unwrap_or(bytes.len())];
        let Some(&last) = run.last() else {
            return 0;
        };
        self.framing.pass(last);
        if is_kept {
            let room = VALUE_BYTES_MAX - self.word.len();
            self.word.extend_from_slice(&run[..room.min(run.len())]);
        }
        self.line_is_blank = false;
        run.len()
    }

    /// What [`Event::Content`] told of is behind.
    pub(super) fn content_read(&mut self) {
        if self.at == At::ContentEscape {
            self.framing.byte(b'x');
            self.at = At::Content;
        }
    }

    /// True at the last parenthesis.
    fn byte(&mut self, byte: u8) -> bool {
        match (self.at, byte) {
            (At::Head, b'(') => {
                self.depth = 1;
                self.at = At::Name;
            }
            (At::Name, b' ') if self.word.is_empty() => {}
            (At::Name, b' ') => {
                self.item = Item::of(&self.word);
                self.word.clear();
                self.at = At::Value;
            }
            (At::Name | At::Value | At::Atom, b')') => {
                self.value_ends();
                return self.closed();
            }
            (At::Name, b'[') => self.push(byte, At::Section),
            (At::Section, b']') => self.push(byte, At::Name),
            (At::Section, b'"') => self.push(byte, At::SectionQuoted),
            (At::SectionQuoted, b'"') => self.push(byte, At::Section),
            (At::Value, b' ') => {}
            (At::Value, b'(') => {
                self.depth = 2;
                self.at = At::List;
            }
            (At::Value, b'"') if self.is_content() => {
                self.at = At::ContentFirst;
            }
            (At::Value, b'"') => self.at = At::Quoted,
            (At::Value, _) => self.push(byte, At::Atom),
            (At::Atom, b' ') => self.value_ends(),
            (At::Quoted, b'"') => {
                self.in_part |= self.item.is_part();
                self.value_ends();
            }
            (At::Quoted, b'\\') => self.at = At::QuotedEscape,
            (At::Quoted | At::QuotedEscape, _) => self.push(byte, At::Quoted),
            (At::List, b'(') => self.depth = self.depth.saturating_add(1),
            (At::List, b')') => {
                self.depth -= 1;
                if self.depth == 1 {
                    self.value_ends();
                }
            }
            (At::List, b'"') => self.at = At::ListQuoted,
            (At::List, _) if self.item == Item::Flags => self.push(byte, At::List),
            (At::ListQuoted, b'"') => self.at = At::List,
            (At::ListQuoted, b'\\') => self.at = At::ListEscape,
            (At::ListEscape, _) => self.at = At::ListQuoted,
            (At::Name | At::Section | At::SectionQuoted | At::Atom, _) => self.push(byte, self.at),
            _ => {}
        }
        false
    }

    fn push(&mut self, byte: u8, at: At) {
        self.at = at;
        if self.word.len() < VALUE_BYTES_MAX {
            self.word.push(byte);
        }
    }

    /// Is the item at hand a message, or what makes it whole, and the first of this response?
    fn is_content(&self) -> bool {
        !self.whole && (self.item.is_whole() || (self.item == Item::Text && self.joins))
    }

    /// It is shown.
    fn is_shown(&mut self) {
        self.whole = true;
        self.form = match self.item {
            Item::Decoded => Form::Decoded,
            Item::Text => Form::Joined,
            _ => Form::AsItLies,
        };
    }

    fn closed(&mut self) -> bool {
        self.depth = 0;
        self.at = At::Over;
        true
    }

    fn value_ends(&mut self) {
        match self.item {
            Item::Uid => self.uid = number(&self.word).or(self.uid),
            Item::InternalDate => self.internal_date = date_time(&self.word),
            Item::Flags => {
                let flags = self.word.split(|b| *b == b' ').filter(|f| !f.is_empty());
                self.flags = flags.map(WireText::from).collect();
            }
            Item::Whole | Item::Decoded | Item::Header | Item::Text | Item::Part | Item::Other => {}
        }
        self.word.clear();
        self.item = Item::Other;
        self.at = At::Name;
    }

    fn line_end(&mut self) -> Option<Event> {
        let framing = std::mem::take(&mut self.framing);
        let is_blank = std::mem::replace(&mut self.line_is_blank, true);
        match framing.end() {
            Err(Doubt) => Some(Event::Doubt),
            Ok(Some(literal)) => Some(self.literal(literal)),
            Ok(None) if self.at == At::Over => Some(Event::Over),
            // Some servers put one behind a literal.
            Ok(None) if is_blank && self.depth > 0 => None,
            Ok(None) => Some(Event::CutOff),
        }
    }

    fn literal(&mut self, literal: Literal) -> Event {
        let bytes = literal.bytes;
        let mut shown = Shown::Other;
        match self.at {
            At::Section | At::List => {}
            At::Atom => {
                // A text may be empty, and the message has but a header.
                if self.is_content() && (bytes > 0 || self.item == Item::Text) {
                    self.is_shown();
                    shown = Shown::Content;
                } else if self.item == Item::Header {
                    shown = Shown::Header;
                }
                self.in_part |= self.item.is_part();
                // Not its value: what announces it.
                self.item = Item::Other;
                self.value_ends();
            }
            _ => return Event::Doubt,
        }
        Event::Literal { bytes, shown }
    }
}

/// It means nothing by itself, neither to a response nor to its framing.
fn is_plain(byte: u8) -> bool {
    !matches!(
        byte,
        b' ' | b'"' | b'\\' | b'(' | b')' | b'[' | b']' | b'{' | b'\r' | b'\n'
    )
}

impl Item {
    fn is_whole(self) -> bool {
        matches!(self, Self::Whole | Self::Decoded)
    }

    fn is_part(self) -> bool {
        matches!(self, Self::Header | Self::Text | Self::Part)
    }

    fn of(name: &[u8]) -> Self {
        let is = |names: &[&str]| {
            let mut names = names.iter();
            names.any(|word| name.eq_ignore_ascii_case(word.as_bytes()))
        };
        let starts = |word: &str| {
            let start = name.get(..word.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()))
        };
        if is(&["BODY[]", "RFC822"]) {
            Self::Whole
        } else if is(&["BINARY[]"]) {
            Self::Decoded
        } else if is(&["BODY[HEADER]", "RFC822.HEADER"]) {
            Self::Header
        } else if is(&["BODY[TEXT]", "RFC822.TEXT"]) {
            Self::Text
        } else if starts("BODY[") || starts("BINARY[") {
            Self::Part
        } else if is(&["UID"]) {
            Self::Uid
        } else if is(&["FLAGS"]) {
            Self::Flags
        } else if is(&["INTERNALDATE"]) {
            Self::InternalDate
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content that a response shows, and what is known at its end.
    fn read(response: &[u8], size: usize) -> (Vec<u8>, Fetch, Vec<Event>) {
        let mut fetch = Fetch::new(None, false);
        let (mut content, mut seen) = (Vec::new(), Vec::new());
        let (mut skip, mut shown) = (0, false);
        for piece in response.chunks(size) {
            let mut piece = piece;
            while !piece.is_empty() {
                if skip > 0 {
                    let n = skip.min(piece.len());
                    if shown {
                        content.extend_from_slice(&piece[..n]);
                    }
                    skip -= n;
                    piece = &piece[n..];
                    continue;
                }
                let (n, event) = fetch.read(piece);
                piece = &piece[n..];
                match event {
                    Some(Event::Literal { bytes, shown: what }) => {
                        (skip, shown) = (bytes as usize, what == Shown::Content)
                    }
                    Some(Event::Content(n)) => {
                        (skip, shown) = (n, true);
                        fetch.content_read();
                    }
                    Some(event) => seen.push(event),
                    None => {}
                }
            }
        }
        (content, fetch, seen)
    }

    #[test]
    fn the_message_is_found_wherever_it_stands() {
        for response in [
            "(UID 7 FLAGS (\\Seen $A) BODY[] {5}\r\nab(\r\n)\r\n",
            "(BODY[] {5}\r\nab(\r\n FLAGS (\\Seen $A) UID 7)\r\n",
            "(ENVELOPE (\"{1}\" {3}\r\nUID NIL (\"\\\"\")) BODY[HEADER.FIELDS (\"]\" {1}\r\n))] {2}\r\n)) rfc822 {5}\r\nab(\r\n \
             UID 7 flags (\\Seen $A))\r\n",
            "(BINARY[] ~{5}\r\nab(\r\n\r\n UID 7 FLAGS (\\Seen $A) BODY[] {2}\r\nno)\r\n",
        ] {
            for size in [1, 7, 1000] {
                let (content, fetch, seen) = read(response.as_bytes(), size);
                assert_eq!(content, b"ab(\r\n", "{response:?}");
                assert_eq!(fetch.uid, Some(7));
                assert_eq!(fetch.flags, ["\\Seen".into(), "$A".into()]);
                assert_eq!(seen, [Event::End, Event::Over]);
            }
        }
    }

    #[test]
    fn a_quoted_message_is_unescaped() {
        for size in [1, 7, 1000] {
            let (content, fetch, seen) = read(b"(BODY[] \"a\\\"b\\\\c\" UID 1)\r\n", size);
            assert_eq!(content, b"a\"b\\c");
            assert_eq!(fetch.uid, Some(1));
            assert_eq!(seen, [Event::Begin, Event::End, Event::Over]);
        }
        // No string may have one (RFC 9051 section 9), and it was said all the same.
        let (content, ..) = read(b"(BODY[] \"\ra\\\r\r\")\r\n", 1);
        assert_eq!(content, b"\ra\r\r");
        let (_, fetch, seen) = read(b"(BODY[] \"\" RFC822 NIL)\r\n", 1);
        assert!(!fetch.whole && !fetch.in_part);
        assert_eq!(seen, [Event::End, Event::Over]);
    }

    #[test]
    fn parts_are_no_messages() {
        for part in [
            "BODY[]<0>",
            "BODY[TEXT]",
            "BODY[1.MIME]",
            "BINARY[2]",
            "RFC822.TEXT",
        ] {
            let (content, fetch, _) = read(format!("({part} {{1}}\r\nx)\r\n").as_bytes(), 7);
            assert!(
                content.is_empty() && fetch.in_part && !fetch.whole,
                "{part}"
            );
        }
        let (_, fetch, _) = read(b"(BODY[1] NIL BODY (\"TEXT\") RFC822.SIZE 5)\r\n", 7);
        assert!(!fetch.in_part);
    }

    #[test]
    fn what_is_cut_off_or_doubtful_is_said() {
        for (response, event) in [
            ("(FLAGS (\\Seen)\r\n", Event::CutOff),
            ("(BODY \"{1}\r\n", Event::Doubt),
            ("(UID 1) {5}\r\n", Event::Doubt),
            ("(UID 1 {5}\r\n", Event::Doubt),
        ] {
            let (_, _, seen) = read(response.as_bytes(), 7);
            assert_eq!(seen.last(), Some(&event), "{response:?}");
        }
    }
}
