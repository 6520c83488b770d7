//! The words of a client's line: its verb, and what is behind. All that reads them reads them here.
//!
//! RFC 1939 section 3: a keyword of three or four letters (RFC 2449: printing characters), a space, arguments, CRLF. Servers
//! take more. They were asked what they carry out as QUIT in a session with a message to remove, Dovecot before the login as
//! well, where it has another parser:
//!
//! | | Dovecot 2.3, login | Dovecot 2.3, session | Cyrus 3.6 | Courier |
//! |---|---|---|---|---|
//! | before the verb | nothing | nothing | nothing | spaces, tabs, CRs |
//! | within the verb | CR is passed over | nothing | nothing | nothing |
//! | the verb ends at | space, NUL | space, NUL | NUL | space, tab, CR, NUL |
//! | the line ends at | LF | LF | LF | LF |
//!
//! So a verb with anything in or before it that is neither blank nor printing is [`Verb::is_unclear`]: it is handed on as it
//! is, held as if it were QUIT, and its answer may be any; what is ours to answer is so in either reading.

/// One more than the longest verb that we know: what is longer may be a secret that went astray.
const VERB_BYTES_MAX: usize = 8;

/// A verb, or what is there of it.
#[derive(Debug, Default)]
pub(super) struct Verb {
    /// In capitals and cut, without what is no printing character.
    letters: Vec<u8>,
    /// Something was left out, behind so many letters.
    left_out: Option<usize>,
    /// Nothing can come that makes another one of it.
    is_whole: bool,
}

impl Verb {
    /// `line` may be all of it, up to its LF.
    pub(super) fn of<'b>(line: impl IntoIterator<Item = &'b u8>) -> Self {
        let mut verb = Self::default();
        let mut bytes = line.into_iter().peekable();
        let mut is_begun = false;
        while let Some(&byte) = bytes.next() {
            let ends_line = byte == b'\n' || (byte == b'\r' && bytes.peek() == Some(&&b'\n'));
            match byte {
                _ if ends_line => verb.is_whole = true,
                b' ' | b'\t' if is_begun => verb.is_whole = true,
                b' ' | b'\t' => continue,
                _ if byte.is_ascii_graphic() => verb.letters.push(byte.to_ascii_uppercase()),
                _ => {
                    verb.left_out.get_or_insert(verb.letters.len());
                }
            }
            is_begun = true;
            verb.is_whole |= verb.letters.len() == VERB_BYTES_MAX;
            if verb.is_whole {
                break;
            }
        }
        verb
    }

    /// To all servers the same, as far as it goes.
    pub(super) fn letters(&self) -> &[u8] {
        &self.letters
    }

    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Servers read it each in a way of its own.
    pub(super) fn is_unclear(&self) -> bool {
        self.left_out.is_some()
    }

    /// Is it this to all servers?
    pub(super) fn is(&self, name: &[u8]) -> bool {
        self.is_whole && !self.is_unclear() && self.letters == name
    }

    /// Is it this to a server that passes over what is left out, or to one for which the verb ends there?
    pub(super) fn may_be(&self, name: &[u8]) -> bool {
        let first = &self.letters[..self.left_out.unwrap_or(self.letters.len())];
        self.letters == name || first == name
    }

    /// May some server take it for QUIT (RFC 1939 section 6: that removes what was marked)?
    pub(super) fn may_remove(&self) -> bool {
        let behind = self.letters.strip_prefix(b"QUIT");
        let is_quit = behind.is_some_and(|rest| {
            rest.first()
                .is_none_or(|byte| !byte.is_ascii_alphanumeric())
        });
        is_quit || self.is_unclear() || !self.is_whole
    }
}

/// A line's verb and what is behind it, without the blanks around.
pub(super) fn command(line: &[u8]) -> (Verb, &[u8]) {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = line.iter().position(|byte| !is_blank(byte));
    let text = &line[start.unwrap_or(line.len())..];
    let end = text.iter().position(is_blank).unwrap_or(text.len());
    (Verb::of(line), text[end..].trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_verb_and_what_is_behind() {
        for (line, letters, argument) in [
            ("RETR 1\r\n", "RETR", "1"),
            ("retr\t1 2 \n", "RETR", "1 2"),
            ("  noop\r\n", "NOOP", ""),
            ("XCLIENT ADDR=x\r\n", "XCLIENT", "ADDR=x"),
            ("\r\n", "", ""),
            (" \t\r\n", "", ""),
            ("secretsecret\r\n", "SECRETSE", ""),
        ] {
            let (verb, found) = command(line.as_bytes());
            assert_eq!(verb.letters(), letters.as_bytes(), "{line:?}");
            assert_eq!(found, argument.as_bytes(), "{line:?}");
            assert!(verb.is_whole() && !verb.is_unclear(), "{line:?}");
            assert!(!verb.may_remove() && verb.is(letters.as_bytes()));
        }
    }

    /// What real servers take for QUIT, and what some other may.
    #[test]
    fn what_any_server_may_take_for_quit_may_remove() {
        for line in [
            "QUIT\r\n",
            "quit\n",
            "QUIT x\r\n",
            "QUIT\tx\r\n",
            // Courier
            " QUIT\r\n",
            "\tQUIT\r\n",
            "\rQUIT\r\n",
            "QUIT\r\r\n",
            "QUIT\rx\r\n",
            // all of them
            "QUIT\0\r\n",
            "QUIT\0x\r\n",
            // Dovecot, before the login
            "QU\rIT\r\n",
            "Q\r\rUIT\r\n",
            // nobody that was asked
            "Q\0UIT\r\n",
            "\0QUIT\r\n",
            "\x01QUIT\r\n",
            "Q\x7fUIT\r\n",
            "QUIT\x0b\r\n",
            "NO\rOP\r\n",
            "QUI\u{d4}\r\n",
            "QUIT;\r\n",
        ] {
            assert!(Verb::of(line.as_bytes()).may_remove(), "{line:?}");
        }
        for line in ["QUITX\r\n", "QUI\r\n", "NOOP QUIT\r\n", "NOOP \r\0\r\n"] {
            assert!(!Verb::of(line.as_bytes()).may_remove(), "{line:?}");
        }
    }

    #[test]
    fn what_is_left_out_makes_a_verb_unclear_and_hides_none() {
        for (line, name) in [
            ("XCL\rIENT ADDR=x\r\n", "XCLIENT"),
            ("XCLIENT\0 ADDR=x\r\n", "XCLIENT"),
            ("STLS\rx\r\n", "STLS"),
            ("\0STLS\r\n", "STLS"),
        ] {
            let verb = Verb::of(line.as_bytes());
            assert!(verb.may_be(name.as_bytes()), "{line:?}");
            assert!(!verb.is(name.as_bytes()) && verb.is_unclear());
        }
    }

    #[test]
    fn a_beginning_is_known_when_nothing_can_change_it() {
        for line in ["", " ", "N", "NOOP", "NOOP\r", "RETR\0", "\0", "XCLIENT"] {
            assert!(!Verb::of(line.as_bytes()).is_whole(), "{line:?}");
        }
        for line in ["NOOP ", "NOOP\n", "NOOP\r\n", "\r\n", "SECRETSE"] {
            assert!(Verb::of(line.as_bytes()).is_whole(), "{line:?}");
        }
    }
}
