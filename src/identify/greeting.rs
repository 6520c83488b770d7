//! What a server's first words tell. Pure: bytes in, a guess out.

/// What the first words are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// SMTP or LMTP; EHLO tells which.
    Smtp,
    Imap,
    Pop3,
    ManageSieve,
    Nntp,
    Http,
    /// A voice, but none that is known here.
    Unknown,
}

/// How a greeting of each protocol begins, in upper case. Two starts of one protocol may overlap.
const STARTS: &[(&str, Greeting)] = &[
    // RFC 3501 section 7.1
    ("* OK", Greeting::Imap),
    ("* PREAUTH", Greeting::Imap),
    ("* BYE", Greeting::Imap),
    // RFC 1939 section 3
    ("+OK", Greeting::Pop3),
    ("-ERR", Greeting::Pop3),
    // RFC 5321 section 4.2; 421 and 554 are said instead of a welcome
    ("220", Greeting::Smtp),
    ("421", Greeting::Smtp),
    ("450", Greeting::Smtp),
    ("451", Greeting::Smtp),
    ("521", Greeting::Smtp),
    ("550", Greeting::Smtp),
    ("554", Greeting::Smtp),
    // RFC 3977 section 5.1
    ("200", Greeting::Nntp),
    ("201", Greeting::Nntp),
    ("400", Greeting::Nntp),
    ("502", Greeting::Nntp),
    // RFC 5804 section 1.7
    ("\"IMPLEMENTATION\"", Greeting::ManageSieve),
    ("\"SIEVE\"", Greeting::ManageSieve),
    ("\"SASL\"", Greeting::ManageSieve),
    ("\"STARTTLS\"", Greeting::ManageSieve),
    ("\"VERSION\"", Greeting::ManageSieve),
    ("HTTP/", Greeting::Http),
];

/// Reads the beginning of what came; none while more bytes could still make it one thing or another. `ended`: none will.
pub(super) fn read(bytes: &[u8], ended: bool) -> Option<Greeting> {
    let line_end = bytes.iter().position(|byte| *byte == b'\n');
    let line = &bytes[..line_end.unwrap_or(bytes.len())];
    for (start, greeting) in STARTS {
        let start = start.as_bytes();
        if line.len() >= start.len() {
            let follows = line.get(start.len());
            let is_separate =
                follows.is_none_or(|byte| b" -\r/:".contains(byte)) || *greeting == Greeting::Http;
            if line[..start.len()].eq_ignore_ascii_case(start) && is_separate {
                return Some(*greeting);
            }
        } else if line_end.is_none() && !ended && line.eq_ignore_ascii_case(&start[..line.len()]) {
            return None;
        }
    }
    Some(Greeting::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_is_told_by_its_first_words() {
        for (text, greeting) in [
            ("220 mail.example.org ESMTP\r\n", Greeting::Smtp),
            ("220-wait\r\n", Greeting::Smtp),
            ("220\r\n", Greeting::Smtp),
            ("554 5.7.1 go away\r\n", Greeting::Smtp),
            ("* OK [CAPABILITY IMAP4rev1] ready\r\n", Greeting::Imap),
            ("* preauth\r\n", Greeting::Imap),
            ("+OK <1.2@example.org>\r\n", Greeting::Pop3),
            ("+OK\n", Greeting::Pop3),
            ("-ERR busy\r\n", Greeting::Pop3),
            ("\"IMPLEMENTATION\" \"Dovecot\"\r\n", Greeting::ManageSieve),
            ("201 posting prohibited\r\n", Greeting::Nntp),
            ("HTTP/1.1 408 Request Timeout\r\n", Greeting::Http),
            ("SSH-2.0-OpenSSH\r\n", Greeting::Unknown),
            ("2200\r\n", Greeting::Unknown),
            ("* OKAY\r\n", Greeting::Unknown),
            ("\r\n", Greeting::Unknown),
        ] {
            assert_eq!(read(text.as_bytes(), false), Some(greeting), "{text:?}");
        }
    }

    #[test]
    fn byte_by_byte_it_is_never_taken_for_something_else() {
        for (start, greeting) in STARTS {
            let line = format!("{start} and more\r\n");
            for length in 0..line.len() {
                let guess = read(&line.as_bytes()[..length], false);
                assert!(guess.is_none_or(|it| it == *greeting), "{line:?} {length}");
            }
        }
    }

    #[test]
    fn what_can_become_nothing_is_told_at_once() {
        assert_eq!(read(b"\x00", false), Some(Greeting::Unknown));
        assert_eq!(read(b"22", false), None);
        assert_eq!(read(b"22", true), Some(Greeting::Unknown));
        assert_eq!(read(b"", false), None);
    }
}
