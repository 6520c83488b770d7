//! Command lines: which verb, and of MAIL, RCPT and BDAT the parts that we keep.
//!
//! Lenient where a next hop may be: what we do not recognise is passed on and judged there. Nothing here is an error,
//! so nothing here can turn a message away.

/// The verbs that change what we do; every other one is `Other` and passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Helo,
    Ehlo,
    Lhlo,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    StartTls,
    Auth,
    Xforward,
    Xclient,
    Burl,
    Noop,
    Quit,
    Other,
}

const VERBS: [(&[u8], Verb); 15] = [
    (b"MAIL", Verb::Mail),
    (b"RCPT", Verb::Rcpt),
    (b"DATA", Verb::Data),
    (b"BDAT", Verb::Bdat),
    (b"BURL", Verb::Burl),
    (b"EHLO", Verb::Ehlo),
    (b"HELO", Verb::Helo),
    (b"LHLO", Verb::Lhlo),
    (b"RSET", Verb::Rset),
    (b"QUIT", Verb::Quit),
    (b"NOOP", Verb::Noop),
    (b"AUTH", Verb::Auth),
    (b"STARTTLS", Verb::StartTls),
    (b"XFORWARD", Verb::Xforward),
    (b"XCLIENT", Verb::Xclient),
];

/// A command line without its line end, split at the verb.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    pub verb: Verb,
    /// What follows the verb, without surrounding white space.
    pub argument: &'a [u8],
}

impl<'a> Command<'a> {
    /// White space before the verb is skipped, as Postfix does: a next hop that sees DATA or RCPT where we did not
    /// would take a message that nobody copied. It is what C's `isspace` says, vertical tab included.
    pub fn parse(line: &'a [u8]) -> Self {
        let line = trim_start(line);
        let length = line
            .iter()
            .rposition(|b| !is_white(b))
            .map_or(0, |at| at + 1);
        let line = &line[..length];
        let end = line.iter().position(is_white).unwrap_or(line.len());
        let (word, argument) = line.split_at(end);
        let verb = VERBS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(word))
            .map_or(Verb::Other, |(_, verb)| *verb);
        Self {
            verb,
            argument: trim_start(argument),
        }
    }

    /// The path and the parameters of MAIL or RCPT. An argument in no known form is all path.
    pub fn path(&self) -> Path<'a> {
        let rest = match memchr::memchr(b':', self.argument) {
            // FROM: or TO:, the only words that stand here
            Some(colon) if colon <= 5 => self.argument[colon + 1..].trim_ascii_start(),
            _ => self.argument,
        };
        let (address, parameters) = if rest.first() == Some(&b'<') {
            let end = closing_bracket(rest);
            (&rest[1..end], rest.get(end + 1..).unwrap_or_default())
        } else {
            let end = rest.iter().position(|b| *b == b' ').unwrap_or(rest.len());
            rest.split_at(end)
        };
        Path {
            address,
            parameters: parameters.trim_ascii_start(),
        }
    }

    /// The size of a chunk and whether it is the last (RFC 3030 section 2); `None` when it is neither.
    pub fn chunk(&self) -> Option<(u64, bool)> {
        let mut words = self.argument.split(is_white).filter(|w| !w.is_empty());
        let size = decimal(words.next()?)?;
        let last = match words.next() {
            None => false,
            Some(word) if word.eq_ignore_ascii_case(b"LAST") => true,
            Some(_) => return None,
        };
        words.next().is_none().then_some((size, last))
    }
}

fn is_white(byte: &u8) -> bool {
    byte.is_ascii_whitespace() || *byte == 0x0b
}

fn trim_start(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|b| !is_white(b));
    &bytes[start.unwrap_or(bytes.len())..]
}

/// The index of the `>` that ends a path; one inside a quoted local part does not. Without one, the path is the rest.
fn closing_bracket(path: &[u8]) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (i, byte) in path.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return i,
            _ => {}
        }
    }
    path.len()
}

/// What MAIL and RCPT name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path<'a> {
    /// Without angle brackets; empty for the null sender.
    pub address: &'a [u8],
    /// Byte for byte, without the space before them.
    pub parameters: &'a [u8],
}

impl<'a> Path<'a> {
    /// The value of a parameter, by its name in any case.
    pub fn parameter(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.parameters.split(|b| *b == b' ').find_map(|word| {
            let equals = memchr::memchr(b'=', word)?;
            word[..equals]
                .eq_ignore_ascii_case(name)
                .then_some(&word[equals + 1..])
        })
    }
}

/// A number of at most 18 digits.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    digits.iter().try_fold(0u64, |n, digit| {
        digit
            .is_ascii_digit()
            .then(|| n * 10 + u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(line: &str) -> (&str, &str) {
        let path = Command::parse(line.as_bytes()).path();
        (
            std::str::from_utf8(path.address).unwrap(),
            std::str::from_utf8(path.parameters).unwrap(),
        )
    }

    #[test]
    fn verbs_are_found_in_any_case_and_behind_white_space() {
        for (line, verb) in [
            ("mail FROM:<>", Verb::Mail),
            (" \tData", Verb::Data),
            ("\x0bRCPT TO:<a@b>", Verb::Rcpt),
            ("MAIL\x0bFROM:<a@b>", Verb::Mail),
            ("StartTLS ", Verb::StartTls),
            ("DATAX", Verb::Other),
            ("", Verb::Other),
        ] {
            assert_eq!(Command::parse(line.as_bytes()).verb, verb, "{line}");
        }
    }

    #[test]
    fn paths_keep_their_parameters_byte_for_byte() {
        for (line, address, parameters) in [
            ("MAIL FROM:<> SIZE=10", "", "SIZE=10"),
            (
                "MAIL FROM: <a@b> BODY=8BITMIME  X=y",
                "a@b",
                "BODY=8BITMIME  X=y",
            ),
            ("RCPT TO:<\"a> b\\\"\"@c> N=1", "\"a> b\\\"\"@c", "N=1"),
            ("RCPT TO:a@b NOTIFY=NEVER", "a@b", "NOTIFY=NEVER"),
            ("RCPT TO:<@x,@y:a@b>", "@x,@y:a@b", ""),
            ("RCPT TO:<a@b", "a@b", ""),
            ("RCPT a@[IPv6:::1]", "a@[IPv6:::1]", ""),
            ("MAIL FROM:", "", ""),
        ] {
            assert_eq!(path(line), (address, parameters), "{line}");
        }
    }

    #[test]
    fn a_chunk_has_a_size_and_perhaps_the_word_last() {
        for (line, chunk) in [
            ("BDAT 10", Some((10, false))),
            ("bdat 0 last", Some((0, true))),
            ("BDAT", None),
            ("BDAT -1", None),
            ("BDAT 1 LAST 2", None),
            ("BDAT 1 FIRST", None),
            ("BDAT 99999999999999999999", None),
        ] {
            assert_eq!(Command::parse(line.as_bytes()).chunk(), chunk, "{line}");
        }
    }
}
