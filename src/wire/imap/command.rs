//! A command on its way (RFC 9051 section 6): what it is by its first line, and what is remembered of it until its reply.

use super::{
    lexis::{Token, Tokens, is, name, split_word},
    removing::{Deed, deed},
    saving::Saving,
    words::{CommandLine, is_tag},
};
use crate::{
    message::WireText,
    wire::sasl::{self, AuthWatch},
};

/// Awaits its reply.
#[derive(Debug)]
pub(super) struct Command {
    /// Tells apart those of one tag.
    pub(super) serial: u32,
    pub(super) tag: Box<[u8]>,
    pub(super) kind: Kind,
    /// The server may have answered it without its tag: nothing waits for it.
    pub(super) doubted: bool,
}

#[derive(Debug)]
pub(super) enum Kind {
    Login(Option<WireText>),
    Authenticate(Box<Authenticating>),
    StartTls,
    Compress,
    Unauthenticate,
    Logout,
    Idle,
    Id,
    Select(Box<Selecting>),
    /// CLOSE, UNSELECT.
    Deselect,
    Save(Box<Saving>),
    /// COPY, MOVE.
    Copy,
    /// Cyrus's SYNCAPPLY and what else a replica is fed by.
    Replicate,
    /// FETCH: whole messages may come.
    Show,
    Other,
}

#[derive(Debug)]
pub(super) struct Authenticating {
    pub(super) sasl: AuthWatch,
    /// Whether another server can be told the same: not the answer to a challenge.
    pub(super) moves: bool,
    /// It may encrypt what follows.
    pub(super) layered: bool,
    /// The user was told.
    pub(super) told: bool,
    /// The command, while no answer to a challenge was given.
    pub(super) line: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) struct Selecting {
    pub(super) folder: Option<WireText>,
    pub(super) uid_validity: Option<u32>,
}

/// The tag, and what the command is.
pub(super) fn parse(text: &[u8]) -> (&[u8], Kind) {
    let CommandLine {
        tag,
        verb,
        arguments: rest,
    } = CommandLine::of(text);
    let other = || match deed(text.iter().copied().chain(*b"\n")) {
        Some(Deed::Shows | Deed::Unclear) => Kind::Show,
        _ => Kind::Other,
    };
    let kind = match verb.to_ascii_uppercase().as_slice() {
        b"LOGIN" => Kind::Login(name(Tokens(rest).next())),
        b"AUTHENTICATE" => {
            let (mechanism, _) = split_word(rest);
            Kind::Authenticate(Box::new(Authenticating {
                sasl: AuthWatch::begin(rest),
                moves: !is(mechanism, "CRAM-MD5"),
                layered: super::capability::may_be_layered(mechanism),
                told: false,
                line: Vec::new(),
            }))
        }
        b"STARTTLS" => Kind::StartTls,
        b"COMPRESS" => Kind::Compress,
        b"UNAUTHENTICATE" => Kind::Unauthenticate,
        b"LOGOUT" => Kind::Logout,
        b"IDLE" => Kind::Idle,
        b"ID" => Kind::Id,
        b"SELECT" | b"EXAMINE" => Kind::Select(Box::new(Selecting {
            folder: name(Tokens(rest).next()),
            uid_validity: None,
        })),
        b"CLOSE" | b"UNSELECT" => Kind::Deselect,
        b"APPEND" => save(rest, false),
        b"REPLACE" => save(rest, true),
        b"COPY" | b"MOVE" => Kind::Copy,
        b"SYNCAPPLY" | b"SYNCGET" | b"SYNCRESTART" | b"SYNCRESTORE" => Kind::Replicate,
        b"UID" => {
            let (verb, rest) = split_word(rest);
            match verb.to_ascii_uppercase().as_slice() {
                b"REPLACE" => save(rest, true),
                b"COPY" | b"MOVE" => Kind::Copy,
                _ => other(),
            }
        }
        _ => other(),
    };
    (tag, kind)
}

fn save(rest: &[u8], replaces: bool) -> Kind {
    let mut saving = Saving::new(replaces);
    saving.words(rest);
    Kind::Save(Box::new(saving))
}

/// While logins are withheld: is this whole line surely none that hands over its secret? Before a login there are few
/// commands, and servers read odd blanks and control characters each in a way of its own.
pub(super) fn passes_in_clear(text: &[u8]) -> bool {
    let CommandLine {
        tag,
        verb,
        arguments,
    } = CommandLine::of(text);
    let is_known = if is(verb, "AUTHENTICATE") {
        let (mechanism, _) = split_word(arguments);
        !sasl::shows_secret(mechanism)
    } else {
        ["CAPABILITY", "ID", "LOGOUT", "NOOP", "STARTTLS"]
            .iter()
            .any(|name| is(verb, name))
    };
    is_known && is_tag(tag) && !text.iter().any(u8::is_ascii_control)
}

/// Must the line be whole before any of it is handed on? What [`parse`] may find in it is told, edited or answered.
pub(super) fn is_held(begun: &[u8]) -> bool {
    const HELD: [&str; 4] = ["LOGIN", "AUTHENTICATE", "STARTTLS", "ID"];
    HELD.iter().any(|verb| CommandLine::may_become(begun, verb))
}

/// A client's ID (RFC 2971) without the wish that the server's stream be framed (Dovecot's proxies have it); none: as it
/// came.
pub(super) fn without_multiplex(line: &[u8]) -> Option<Vec<u8>> {
    const NAME: &[u8] = b"\"x-multiplex\"";
    let at = line
        .windows(NAME.len())
        .position(|window| window.eq_ignore_ascii_case(NAME))?;
    let behind = &line[at + NAME.len()..];
    let mut tokens = Tokens(behind);
    match tokens.next()? {
        Token::Quoted(_) | Token::Atom(_) => {}
        _ => return None,
    }
    let mut before = &line[..at];
    let mut rest = tokens.0;
    // One of the spaces around the pair goes with it.
    match rest.strip_prefix(b" ") {
        Some(text) => rest = text,
        None => before = before.strip_suffix(b" ").unwrap_or(before),
    }
    Some([before, rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_name_the_user_or_be_edited_is_held() {
        for held in [
            "",
            "a1",
            "a1 ",
            "a1 l",
            "a1 LOGIN",
            "a1 login anna",
            "a id (",
            "a starttls\r",
            "a\rb starttls",
        ] {
            assert!(is_held(held.as_bytes()), "{held}");
        }
        for passed in ["a1 LIST", "a1 logout", "a1 IDLE\r", "a1 STARTTLSX", "a i "] {
            assert!(!is_held(passed.as_bytes()), "{passed}");
        }
    }

    #[test]
    fn only_what_is_surely_no_login_passes_in_clear() {
        for withheld in [
            "a LOGIN anna secret",
            "a login {4+}",
            "a AUTHENTICATE PLAIN",
            "a authenticate xoauth2 dXNlcj1h",
            "a AUTHENTICATE  LOGIN",
            "a AUTHENTICATE \"OAUTHBEARER\" x",
            "a AUTHENTICATE \"PL\\AIN\"",
            "a AUTHENTICATE PLAIN\0",
            "a AUTHENTICATE CRAM-MD5\rPLAIN",
            "a AUTHENTICATE ",
            "a  LOGIN anna secret",
            "a\tLOGIN anna secret",
            "a NOOP\tLOGIN anna secret",
            " a LOGIN anna secret",
            "a \"LOGIN\" anna secret",
            "a LOGINS anna secret",
            "+ NOOP",
            "a( NOOP",
            "a SELECT x",
            "LOGIN",
        ] {
            assert!(!passes_in_clear(withheld.as_bytes()), "{withheld}");
        }
        for passes in [
            "a AUTHENTICATE SCRAM-SHA-256 PLAIN",
            "a authenticate cram-md5",
            "a noop",
            "a CAPABILITY",
            "a ID (\"name\" \"LOGIN\")",
            "a STARTTLS",
            "a LOGOUT",
        ] {
            assert!(passes_in_clear(passes.as_bytes()), "{passes}");
        }
    }

    #[test]
    fn the_multiplex_pair_goes_and_nothing_else() {
        for (line, expected) in [
            (
                "a ID (\"name\" \"d\" \"x-multiplex\" \"0\")\r\n",
                Some("a ID (\"name\" \"d\")\r\n"),
            ),
            (
                "a ID (\"x-multiplex\" \"0\" \"name\" \"d\")\r\n",
                Some("a ID (\"name\" \"d\")\r\n"),
            ),
            ("a ID (\"X-Multiplex\" \"0\")\r\n", Some("a ID ()\r\n")),
            ("a ID NIL\r\n", None),
        ] {
            let out = without_multiplex(line.as_bytes());
            assert_eq!(out.as_deref(), expected.map(str::as_bytes), "{line}");
        }
    }
}
