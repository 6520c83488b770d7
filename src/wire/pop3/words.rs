//! The words of a client's line: its verb, and what is behind. All that reads them reads them here.
//!
//! RFC 1939 section 3: a keyword of three or four letters (RFC 2449: printing characters), a space, arguments, CRLF. Servers
//! take more. They were asked what they carry out as QUIT in a session with a message to remove, Dovecot before the login as
//! well (seen of 2.3.19), where it has another parser:
//!
//! | | Dovecot 2.3, login | Dovecot 2.3, session | Cyrus 3.6 | Courier |
//! |---|---|---|---|---|
//! | before the verb | CR is passed over | nothing | nothing | spaces, tabs, CRs |
//! | within the verb | CR is passed over | nothing | nothing | nothing |
//! | the verb ends at | space, NUL, and after 8 bytes, each CR counted | space, NUL | NUL | space, tab, CR, NUL |
//! | the line ends at | LF | LF | LF | LF; behind a NUL at the second |
//!
//! What they read each in its own way is [`Verb::is_unclear`]: ours to answer.

/// One more than the longest verb that we know (XCLIENT); RFC 2449 section 4 allows four letters. What is longer may be a
/// secret that went astray.
const VERB_BYTES_MAX: usize = 8;

/// A verb, or what is there of it.
#[derive(Debug, Default)]
pub(super) struct Verb {
    /// In capitals and cut, without what is no printing character.
    letters: Vec<u8>,
    is_unclear: bool,
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
                _ => verb.is_unclear = true,
            }
            is_begun = true;
            if verb.letters.len() == VERB_BYTES_MAX {
                verb.is_unclear = true;
                verb.is_whole = true;
            }
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

    /// Servers read it each in a way of its own: anything is in or before it that is neither blank nor printing, or it is
    /// longer than any that we know.
    ///
    /// Dovecot's eight bytes make an XCLIENT of `\rXCLIENTADDR=192.0.2.1`, and a USER of `\r\r\r\rUSERanna`. Courier passes
    /// over the whole line that follows one with a NUL, so that `NOOP\0` has no answer before that has come
    /// (`NOOP \0` has none either, and is ours to answer for that). No client needs such a verb.
    pub(super) fn is_unclear(&self) -> bool {
        self.is_unclear
    }

    /// If it is clear: may some server take it for QUIT (RFC 1939 section 6: that removes what was marked)?
    pub(super) fn may_remove(&self) -> bool {
        let behind = self.letters.strip_prefix(b"QUIT");
        behind.is_some_and(|rest| {
            rest.first()
                .is_none_or(|byte| !byte.is_ascii_alphanumeric())
        })
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
        ] {
            let (verb, found) = command(line.as_bytes());
            assert_eq!(verb.letters(), letters.as_bytes(), "{line:?}");
            assert_eq!(found, argument.as_bytes(), "{line:?}");
            assert!(verb.is_whole() && !verb.is_unclear(), "{line:?}");
            assert!(!verb.may_remove());
        }
    }

    /// What real servers take for QUIT, and what some other may.
    #[test]
    fn what_any_server_may_take_for_quit_may_remove_or_is_unclear() {
        for line in [
            "QUIT\r\n",
            "quit\n",
            "QUIT x\r\n",
            "QUIT\tx\r\n",
            // Courier
            " QUIT\r\n",
            "\tQUIT\r\n",
            // nobody that was asked
            "QUIT;\r\n",
        ] {
            let verb = Verb::of(line.as_bytes());
            assert!(verb.may_remove() && !verb.is_unclear(), "{line:?}");
        }
        for line in ["QUITX\r\n", "QUI\r\n", "NOOP QUIT\r\n", "NOOP \r\x01\r\n"] {
            let verb = Verb::of(line.as_bytes());
            assert!(!verb.may_remove() && !verb.is_unclear(), "{line:?}");
        }
    }

    #[test]
    fn a_stray_character_or_too_many_make_a_verb_unclear() {
        for line in [
            // Courier
            "\rQUIT\r\n",
            "QUIT\r\r\n",
            "QUIT\rx\r\n",
            // all of them
            "QUIT\0\r\n",
            "QUIT\0x\r\n",
            // Dovecot, before the login
            "QU\rIT\r\n",
            "\r\r\r\rQUITx\r\n",
            "\rXCLIENTADDR=x\r\n",
            "XCL\rIENT ADDR=x\r\n",
            "XCLIENT\0 ADDR=x\r\n",
            "\r\r\r\rSTLSx\r\n",
            // nobody that was asked
            "Q\0UIT\r\n",
            "\0QUIT\r\n",
            " \x01QUIT\r\n",
            "Q\x7fUIT\r\n",
            "QUIT\x0b\r\n",
            "NO\rOP\r\n",
            "QUI\u{d4}\r\n",
            "XCLIENTADDR=x\r\n",
            "XCLIENTS ADDR=x\r\n",
            "secretsecret\r\n",
        ] {
            let verb = Verb::of(line.as_bytes());
            assert!(verb.is_unclear() && verb.is_whole(), "{line:?}");
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
