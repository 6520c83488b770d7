//! Commands that can take messages out of a mailbox, or a mailbox with all that is in it; and those that show messages.
//!
//! One that removes waits until every command before it that may show or save whole messages is answered, and then until
//! the copies are settled ([`Step::Settle`](crate::wire::watch::Step::Settle)): a message that is gone from the server is
//! nowhere but in its copy. What the server says never depends on the command that waits.

use super::{Move, Watcher, command::Kind, words::Words};

/// What a command may do to messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Shows,
    Removes,
    /// No two servers need read it alike: one may see in it what removes messages, another what shows them.
    Unclear,
    Neither,
}

/// By themselves or behind UID. STORE: there are servers that expunge what is marked as deleted.
const SHOWING: &[&str] = &["FETCH", "XCONVFETCH"];
const REMOVING: &[&str] = &[
    "EXPUNGE",
    "STORE",
    "MOVE",
    "XMOVE",
    "REPLACE",
    "CLOSE",
    "DELETE",
    // Cyrus's, for those who administer it.
    "LOCALDELETE",
    "XFER",
];

/// What the command of this line does. None: its words are not there yet.
pub(super) fn deed(line: impl IntoIterator<Item = u8>) -> Option<Deed> {
    let mut words = Words::of(line);
    let (tag, mut verb) = (words.next(), words.next());
    let mut is_unclear = tag.is_unclear || verb.is_unclear;
    if verb.is("UID") {
        verb = words.next();
        is_unclear |= verb.is_unclear;
    }
    let is_among = |names: &[&str]| names.iter().any(|name| verb.is(name));
    match () {
        () if is_unclear => Some(Deed::Unclear),
        () if !verb.is_whole => None,
        () if is_among(REMOVING) => Some(Deed::Removes),
        () if is_among(SHOWING) => Some(Deed::Shows),
        () => Some(Deed::Neither),
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
            "a DELETE\"x\"\r\n",
            "a UID STORE(",
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
        for line in [
            "a EXPUNGE\0\r\n",
            "a EXPUNGE\0x\r\n",
            "a\0b EXPUNGE\r\n",
            "\0",
            "a UID FETCH\x01 1 BODY[]\r\n",
        ] {
            assert_eq!(of(line), Some(Deed::Unclear), "{line:?}");
        }
        for line in ["", "a", "a ", "a EXPUNGE", "a UID", "a UID STORE"] {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
