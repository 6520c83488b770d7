//! The unique ids that a session has been told (RFC 1939, UIDL), so that a message that is read later has its own.

use std::{collections::BTreeMap, str::FromStr};

use crate::message::WireText;

/// What one session may know at most; the messages beyond have none.
const ENTRIES_MAX: usize = 100_000;
const BYTES_MAX: usize = 8 << 20;
/// RFC 1939 allows 70 characters; some servers say more.
const UIDL_BYTES_MAX: usize = 255;

/// By message number.
#[derive(Debug, Default)]
pub(super) struct Uidls {
    /// Where in `text` each id begins: a byte that says how long it is, then the id.
    entries: BTreeMap<u32, u32>,
    text: Vec<u8>,
}

impl Uidls {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// A line of the list, or what is behind the `+OK` of one message's answer: number and id.
    pub(super) fn learn(&mut self, line: &[u8]) {
        let mut words = line
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        let Some(number) = words.next().and_then(number) else {
            return;
        };
        let uidl = words.next().unwrap_or_default();
        let Some(length) = u8::try_from(uidl.len()).ok().filter(|length| *length > 0) else {
            return;
        };
        let full = self.entries.len() >= ENTRIES_MAX || self.bytes() > BYTES_MAX;
        if full || self.find(number) == Some(uidl) {
            return;
        }
        let at = u32::try_from(self.text.len()).expect("BYTES_MAX is less than 4 GiB");
        self.entries.insert(number, at);
        self.text.push(length);
        self.text.extend_from_slice(uidl);
    }

    pub(super) fn of(&self, number: u32) -> Option<WireText> {
        self.find(number).map(WireText::from)
    }

    fn find(&self, number: u32) -> Option<&[u8]> {
        let at = usize::try_from(*self.entries.get(&number)?).ok()?;
        let (&length, text) = self.text.get(at..)?.split_first()?;
        text.get(..length.into())
    }

    fn bytes(&self) -> usize {
        self.text.len() + size_of::<(u32, u32)>() * self.entries.len()
    }
}

/// A list that arrives in pieces, line by line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Shows each line that ends in `bytes`. One that is too long to matter is shown cut.
    pub(super) fn each(&mut self, bytes: &[u8], mut show: impl FnMut(&[u8])) {
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            if self.partial.is_empty() {
                show(&rest[..end]);
            } else {
                self.keep(&rest[..end]);
                show(&self.partial);
                self.partial.clear();
            }
            rest = &rest[end + 1..];
        }
        self.keep(rest);
    }

    fn keep(&mut self, bytes: &[u8]) {
        // So much longer than any id that counts that a cut one never counts.
        let room = (UIDL_BYTES_MAX + 64).saturating_sub(self.partial.len());
        self.partial
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// A message number, or another.
pub(super) fn number<T: FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(uidls: &Uidls, number: u32) -> Option<String> {
        uidls.of(number).map(|uidl| uidl.to_string())
    }

    #[test]
    fn a_list_is_learnt_in_any_pieces_and_order() {
        let list = b"1 whqtswO00WBw418f9t5JxYwZ\r\n3 c\r\n2 QhdPYR:00WBw1Ph7x7\r\nnonsense\r\n4\r\n3 d\r\n";
        for step in [1, 7, 100] {
            let (mut uidls, mut lines) = (Uidls::default(), Lines::default());
            for piece in list.chunks(step) {
                lines.each(piece, |line| uidls.learn(line));
            }
            let first = Some("whqtswO00WBw418f9t5JxYwZ");
            assert_eq!(known(&uidls, 1).as_deref(), first);
            assert_eq!(known(&uidls, 2).as_deref(), Some("QhdPYR:00WBw1Ph7x7"));
            assert_eq!(known(&uidls, 3).as_deref(), Some("d"));
            assert_eq!(known(&uidls, 4), None);
        }
    }

    #[test]
    fn no_list_is_too_long_for_it() {
        let mut uidls = Uidls::default();
        for number in 1..=ENTRIES_MAX + 10 {
            uidls.learn(format!("{number} {}", "u".repeat(70)).as_bytes());
        }
        assert!(uidls.bytes() <= BYTES_MAX + 100);
        assert!(known(&uidls, 90_000).is_some());
        assert_eq!(known(&uidls, 100_001), None);
        let mut lines = Lines::default();
        lines.each(&[b'9'; 10_000], |_| panic!("no line has ended"));
        assert!(lines.partial.len() < 400);
    }
}
