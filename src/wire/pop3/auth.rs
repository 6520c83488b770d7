//! One AUTH (RFC 5034): the client's lines until the server says `+OK` or `-ERR`.

use crate::{message::WireText, wire::sasl::AuthWatch};

/// A dialogue under way.
#[derive(Debug)]
pub(super) struct Auth {
    dialogue: AuthWatch,
    /// The command, for another server to hear; empty if the name came with it.
    before: Vec<u8>,
    is_named: bool,
    /// The server has asked: the client's next line is the answer.
    pub(super) is_prompted: bool,
}

impl Auth {
    /// `argument` is that of the command, `line` all of it, where it is short enough to be known.
    pub(super) fn begin(argument: &[u8], line: &[u8]) -> Self {
        Self {
            dialogue: AuthWatch::begin(argument),
            before: match has_response(argument) {
                true => Vec::new(),
                false => line.to_vec(),
            },
            is_named: false,
            is_prompted: false,
        }
    }

    /// The client's answer. A cancelled dialogue (`*`) is one that decodes to nothing.
    pub(super) fn answer(&mut self, line: &[u8]) {
        self.is_prompted = false;
        self.dialogue.answer(line);
    }

    /// Whose mailbox it is to be, and what another server must hear first: told once.
    pub(super) fn newly_named(&mut self) -> Option<(WireText, Vec<u8>)> {
        let user = self
            .dialogue
            .mailbox()
            .cloned()
            .filter(|_| !self.is_named)?;
        self.is_named = true;
        Some((user, std::mem::take(&mut self.before)))
    }

    pub(super) fn into_user(self) -> Option<WireText> {
        self.dialogue.mailbox().cloned()
    }
}

/// `=` is an empty one.
fn has_response(argument: &[u8]) -> bool {
    let mut words = argument
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    words.nth(1).is_some_and(|response| response != b"=")
}
