//! The words of a client's line: its verb, and what is behind. All that reads them reads them here.
//!
//! RFC 1939 section 3: a keyword of three or four letters (RFC 2449: printing characters), a space, arguments, CRLF. Servers
//! take more. They were asked what they carry out as QUIT in a session with a message to remove, and before the login:
//!
//! | | Dovecot 2.3.19, login | in its session | Cyrus 3.6 | Courier |
//! |---|---|---|---|---|
//! | before the verb | CR is passed over | nothing | nothing | spaces, tabs, CRs |
//! | within the verb | CR is passed over | nothing | nothing | nothing |
//! | the verb ends at | space, NUL, and after 8 bytes, each CR counted | space, NUL | NUL | space, tab, CR, NUL |
//! | the line ends at | LF | LF | LF, and after 8,191 bytes | LF; behind a NUL at the second |
//!
//! So a line that they read each in a way of its own is no [`command`]. No client needs one.

/// Of the longest verb that we know, XCLIENT; RFC 2449 section 4 allows four letters. What is longer may be a secret that
/// went astray.
const VERB_BYTES_MAX: usize = 7;

/// What all servers read alike.
#[derive(Debug)]
pub(super) struct Command<'l> {
    /// In capitals; empty where the line is.
    verb: Vec<u8>,
    argument: &'l [u8],
}

/// The command of a whole line. None: some server may read another one, or the next line, in it.
pub(super) fn command(line: &[u8]) -> Option<Command<'_>> {
    let line = line_of(line);
    let end = memchr::memchr(b' ', line).unwrap_or(line.len());
    let (verb, rest) = line.split_at(end);
    let is_verb = verb.len() <= VERB_BYTES_MAX && verb.iter().all(u8::is_ascii_graphic);
    // Courier takes the next line with a NUL, wherever it is: `NOOP \0` has no answer before that has come.
    if !is_verb || (verb.is_empty() && !rest.is_empty()) || line.contains(&0) {
        return None;
    }
    let command = Command {
        verb: verb.to_ascii_uppercase(),
        argument: rest.trim_ascii(),
    };
    command.has_clear_name(rest).then_some(command)
}

/// A line without its end.
pub(super) fn line_of(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

impl<'l> Command<'l> {
    pub(super) fn verb(&self) -> &[u8] {
        &self.verb
    }

    /// What is behind the verb, without the blanks around.
    pub(super) fn argument(&self) -> &'l [u8] {
        self.argument
    }

    pub(super) fn words(&self) -> impl Iterator<Item = &'l [u8]> {
        let words = self.argument.split(u8::is_ascii_whitespace);
        words.filter(|word| !word.is_empty())
    }

    /// Where it names a user: in words of one reading, one blank between them, `rest` being all that is behind the verb. A
    /// second blank behind AUTH makes it a question for the mechanisms to Dovecot, and one in its response joins two halves.
    fn has_clear_name(&self, rest: &[u8]) -> bool {
        let words_max = match &*self.verb {
            b"USER" => usize::MAX,
            b"APOP" | b"AUTH" => 2,
            _ => return true,
        };
        let Some(words) = rest.strip_prefix(b" ") else {
            return true;
        };
        let mut words = words.split(|byte| *byte == b' ');
        let is_clear = |word: &[u8]| !word.is_empty() && !word.iter().any(u8::is_ascii_control);
        words.by_ref().take(words_max).all(is_clear) && words.next().is_none()
    }

    /// May some server take it for QUIT (RFC 1939 section 6: that removes what was marked)?
    pub(super) fn may_remove(&self) -> bool {
        let behind = self.verb.strip_prefix(b"QUIT");
        behind.is_some_and(|rest| {
            rest.first()
                .is_none_or(|byte| !byte.is_ascii_alphanumeric())
        })
    }

    /// It is not asked for beside others: another server may be to answer it, or it may remove.
    pub(super) fn is_alone(&self) -> bool {
        self.may_remove() || matches!(self.verb(), b"USER" | b"APOP" | b"AUTH")
    }
}

/// May some server that knows XCLIENT or XOIP take the line for one?
pub(super) fn may_name_client(line: &[u8]) -> bool {
    let graphic = || line.iter().filter(|byte| byte.is_ascii_graphic());
    let letters = || graphic().map(u8::to_ascii_uppercase);
    let begins = |verb: &[u8]| letters().take(verb.len()).eq(verb.iter().copied());
    begins(b"XCLIENT") || begins(b"XOIP")
}

/// Is it base64, or `*`, to all servers? Dovecot passes over blanks in it.
pub(super) fn is_clear_answer(line: &[u8]) -> bool {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    line_of(line) == b"*" || line_of(line).iter().all(is_base64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_verb_and_what_is_behind() {
        for (line, verb, argument) in [
            ("RETR 1\r\n", "RETR", "1"),
            ("retr 1 2 \n", "RETR", "1 2"),
            ("LIST \r\n", "LIST", ""),
            ("noop\r\n", "NOOP", ""),
            ("XCLIENT ADDR=x\r\n", "XCLIENT", "ADDR=x"),
            ("\r\n", "", ""),
            ("USER anna@x\r\n", "USER", "anna@x"),
            ("PASS  a\tb\rc \r\n", "PASS", "a\tb\rc"),
            ("AUTH\r\n", "AUTH", ""),
            ("auth plain\r\n", "AUTH", "plain"),
            ("AUTH PLAIN =\r\n", "AUTH", "PLAIN ="),
            ("APOP anna c4c9\r\n", "APOP", "anna c4c9"),
        ] {
            let command = command(line.as_bytes()).expect(line);
            assert_eq!(command.verb(), verb.as_bytes(), "{line:?}");
            assert_eq!(command.argument(), argument.as_bytes(), "{line:?}");
            assert!(!command.may_remove());
        }
    }

    /// What real servers take for QUIT, and what some other may.
    #[test]
    fn what_any_server_may_take_for_quit_may_remove_or_is_no_command() {
        let may_remove = |line: &str| command(line.as_bytes()).map(|command| command.may_remove());
        for line in ["QUIT\r\n", "quit\n", "QUIT x\r\n", "QUIT;\r\n"] {
            assert_eq!(may_remove(line), Some(true), "{line:?}");
        }
        for line in ["QUITX\r\n", "QUI\r\n", "NOOP QUIT\r\n"] {
            assert_eq!(may_remove(line), Some(false), "{line:?}");
        }
    }

    #[test]
    fn what_servers_read_each_in_its_own_way_is_no_command() {
        for line in [
            // Courier
            " QUIT\r\n",
            "\tQUIT\r\n",
            "\rQUIT\r\n",
            "QUIT\r\r\n",
            "QUIT\rx\r\n",
            "NOOP \0\r\n",
            // Cyrus and Courier
            "USER\tberta\r\n",
            "RETR\t1\r\n",
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
            "AUTH  PLAIN\r\n",
            "AUTH \rPLAIN\r\n",
            "AUTH \r\n",
            "AUTH PLAIN AGFubmEA c2VjcmV0\r\n",
            "AUTH PLAIN AGFubmEAc2VjcmV0 \r\n",
            "USER an\rna\r\n",
            "USER  anna\r\n",
            "APOP anna  c4c9\r\n",
            // Cyrus, whose name is all but the last
            "APOP anna x c4c9\r\n",
            // nobody that was asked
            "Q\0UIT\r\n",
            "\0QUIT\r\n",
            " \x01QUIT\r\n",
            " \r\n",
            "Q\x7fUIT\r\n",
            "QUIT\x0b\r\n",
            "NO\rOP\r\n",
            "QUI\u{d4}\r\n",
            "XCLIENTADDR=x\r\n",
            "XCLIENTS ADDR=x\r\n",
            "secretsecret\r\n",
        ] {
            assert!(command(line.as_bytes()).is_none(), "{line:?}");
        }
    }

    #[test]
    fn whatever_dovecot_takes_for_xclient_may_name_a_client() {
        for line in [
            "XCLIENT a",
            "xoip a",
            "\rXCLIENTADDR",
            "X\rCLI ENT",
            " XOIP",
        ] {
            assert!(may_name_client(line.as_bytes()), "{line:?}");
        }
        for line in ["XCLIEN", "XOI", "NOOP XOIP", ""] {
            assert!(!may_name_client(line.as_bytes()), "{line:?}");
        }
    }
}
