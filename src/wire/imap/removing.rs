//! Commands that can take messages out of a mailbox, or a mailbox with all that is in it; and those that show messages.
//!
//! One that removes waits until every command before it that may show or save whole messages is answered, and then until
//! the copies are settled ([`Step::Settle`](crate::wire::watch::Step::Settle)): a message that is gone from the server is
//! nowhere but in its copy. What the server says never depends on the command that waits.

use super::{Move, Watcher, command::Kind};

/// What a command may do to messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Shows,
    Removes,
    Neither,
}

/// Longer than any word that is looked for.
const WORD_BYTES_MAX: usize = 16;

/// By themselves or behind UID. STORE: there are servers that expunge what is marked as deleted.
const SHOWING: &[&[u8]] = &[b"FETCH", b"XCONVFETCH"];
const REMOVING: &[&[u8]] = &[
    b"EXPUNGE",
    b"STORE",
    b"MOVE",
    b"XMOVE",
    b"REPLACE",
    b"CLOSE",
    b"DELETE",
    // Cyrus's, for those who administer it.
    b"LOCALDELETE",
    b"XFER",
];

/// What the command of this line does. None: its words are not there yet. Blanks are taken as servers take them that take
/// more than one, lest a command be overlooked.
pub(super) fn deed(line: impl IntoIterator<Item = u8>) -> Option<Deed> {
    let mut words = Words {
        bytes: line.into_iter(),
        is_over: false,
    };
    words.next()?;
    let mut verb = words.next()?;
    if verb.is(b"UID") {
        verb = words.next()?;
    }
    let is_among = |names: &[&[u8]]| names.iter().any(|name| verb.is(name));
    Some(match () {
        () if is_among(REMOVING) => Deed::Removes,
        () if is_among(SHOWING) => Deed::Shows,
        () => Deed::Neither,
    })
}

struct Words<I> {
    bytes: I,
    /// The line has ended: every further word is empty.
    is_over: bool,
}

/// A word, cut.
#[derive(Default)]
struct Word {
    start: [u8; WORD_BYTES_MAX],
    length: usize,
}

impl<I: Iterator<Item = u8>> Words<I> {
    /// None: it may go on.
    fn next(&mut self) -> Option<Word> {
        let mut word = Word::default();
        while !self.is_over {
            match self.bytes.next()? {
                b'\n' => self.is_over = true,
                b' ' | b'\t' | b'\r' if word.length == 0 => {}
                b' ' | b'\t' | b'\r' => break,
                byte => {
                    if let Some(place) = word.start.get_mut(word.length) {
                        *place = byte;
                    }
                    word.length += 1;
                }
            }
        }
        Some(word)
    }
}

impl Word {
    fn is(&self, name: &[u8]) -> bool {
        let start = self.start.get(..self.length);
        start.is_some_and(|word| word.eq_ignore_ascii_case(name))
    }
}

impl Watcher {
    /// What must be before a command that removes; none: it may go on.
    pub(super) fn settle_first(&mut self) -> Option<Move> {
        if self.client.is_settled {
            return None;
        }
        let mut commands = self.commands.iter();
        let is_owed =
            commands.any(|it| !it.doubted && matches!(it.kind, Kind::Show | Kind::Save(_)));
        // A server may show messages unasked, too.
        if is_owed || !self.server.is_between_lines() || !self.to_client.is_empty() {
            return Some(Move::Wait);
        }
        self.client.is_settled = true;
        self.to_server.settle = true;
        Some(Move::Take(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<Deed> {
        deed(line.bytes())
    }

    #[test]
    fn a_command_is_known_by_its_words() {
        for line in [
            "a EXPUNGE\r\n",
            "a expunge\n",
            "a  UID\tExpunge 1:*\r\n",
            "a CLOSE\r\n",
            "a MOVE 1 x",
            "a UID MOVE 1 {1}\r\n",
            "a XMOVE 1 x",
            "a STORE 1 +FLAGS (\\Deleted)\r\n",
            "a UID STORE ",
            "a DELETE {3+}\r\n",
            "a UID REPLACE 3 x {4}\r\n",
            "a replace 3 x {4}\r\n",
        ] {
            assert_eq!(of(line), Some(Deed::Removes), "{line}");
        }
        for line in ["a FETCH 1 BODY[]\r\n", "a uid fetch ", "a XCONVFETCH x "] {
            assert_eq!(of(line), Some(Deed::Shows), "{line}");
        }
        for line in [
            "\r\n",
            "a\n",
            "EXPUNGE\r\n",
            "a UID\r\n",
            "a NOOP EXPUNGE\r\n",
            "a UNSELECT\r\n",
            "a DELETEACL x y\r\n",
            "a UID UID EXPUNGE 1\r\n",
            "a EXPUNGEEXPUNGEEXPUNGE\r\n",
        ] {
            assert_eq!(of(line), Some(Deed::Neither), "{line}");
        }
        for line in ["", "a", "a ", "a EXPUNGE", "a UID", "a UID STORE"] {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
