//! What is ours to answer in the server's place, to the line's end, however long it is: commands that only we are to hear,
//! what servers read each in a way of its own, and a login that is withheld. In a dialogue the server must hear something:
//! that it is over.

use super::{
    client::LINE_BYTES_MAX,
    words::{Command, command, may_name_client},
    *,
};
use crate::wire::{
    sasl::{self, extend, wipe},
    watch::why_withheld,
};

/// Ends a dialogue.
const CANCEL: &[u8] = b"*\r\n";

/// No login, or one that shows no secret: so is AUTH of some mechanisms.
const IN_CLEAR: [&[u8]; 8] = [
    b"", b"CAPA", b"APOP", b"STLS", b"QUIT", b"NOOP", b"LANG", b"UTF8",
];

/// Why the server does not hear a line.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ours {
    /// It is a login that shows its secret, or half of one.
    Login,
    /// Some servers answer it and some do not.
    NoCommand,
    /// It may be any command, or take the next line with it.
    Unclear,
    /// Some servers take its rest for the next line.
    Long,
    /// In a dialogue: either of these.
    Answer,
    /// Dovecot would believe it who the client is, and by XOIP too.
    Xclient,
    Stls,
}

impl Watcher {
    /// What the server is to hear of a whole line.
    pub(super) fn for_server<'l>(&self, line: &'l [u8]) -> Result<Command<'l>, Ours> {
        let command = command(line);
        let is_login = !command.as_ref().is_some_and(Command::passes_in_clear);
        match command.as_ref().map(Command::verb) {
            Some(b"XCLIENT" | b"XOIP") => Err(Ours::Xclient),
            _ if is_login && self.withholds_logins() => Err(Ours::Login),
            Some(b"") => Err(Ours::NoCommand),
            Some(b"STLS") => Err(Ours::Stls),
            _ => command.ok_or(Ours::Unclear),
        }
    }

    /// Takes a line up to its end, where it is answered.
    pub(super) fn long_line_of_ours<'a>(&mut self, input: &mut &'a [u8], ours: Ours) -> Heard<'a> {
        if let Some(passed) = self.client.pass(input) {
            return Heard::Step(passed);
        }
        wipe(&mut self.client.held);
        let Some(lf) = memchr::memchr(b'\n', input) else {
            *input = b"";
            return Heard::Wait;
        };
        *input = &input[lf..];
        let ours = match ours {
            // The server has ended the dialogue meanwhile.
            Ours::Answer if !self.is_answer() => Ours::Long,
            ours => ours,
        };
        if !self.is_quiet() && !matches!(ours, Ours::Answer) {
            return Heard::Wait;
        }
        *input = &input[1..];
        self.long = None;
        Heard::Step(self.answer(ours))
    }

    /// Once track is lost all is handed on; where that was before the login, lines of no more than [`LINE_BYTES_MAX`] that do
    /// not name the client: it would be believed, and nobody sees it let in any more. The others have no answer, nor has the
    /// rest of a line whose beginning was not handed on: nobody knows where it would belong.
    pub(super) fn hear_lost_client<'a>(&mut self, input: &mut &'a [u8]) -> Option<Step<'a>> {
        loop {
            if let Some(passed) = self.client.pass(input) {
                return Some(passed);
            }
            if self.long.is_some() {
                wipe(&mut self.client.held);
                let end = memchr::memchr(b'\n', input).map(|lf| lf + 1);
                *input = &input[end.unwrap_or(input.len())..];
                end?;
                self.long = None;
            }
            if self.place.folder.is_some() {
                return self.client.blindly(input);
            }
            match self.client.line_end(input, LINE_BYTES_MAX) {
                LineEnd::Awaited => return self.client.hold(input),
                LineEnd::TooLong => self.long = Some(Ours::Long),
                LineEnd::At(end) => {
                    extend(&mut self.client.held, &input[..end]);
                    *input = &input[end..];
                    if !may_name_client(&self.client.held) {
                        return self.client.release();
                    }
                    wipe(&mut self.client.held);
                }
            }
        }
    }

    pub(super) fn answer(&mut self, ours: Ours) -> Step<'static> {
        let why = match ours {
            Ours::Login => return self.withhold(),
            Ours::Answer => return self.cancel(),
            Ours::NoCommand => "No command",
            Ours::Unclear => "No such command",
            Ours::Long => "That line is too long",
            Ours::Xclient => "That is not for clients",
            Ours::Stls => "STLS is not available now",
        };
        Step::Reply(format!("-ERR {why}\r\n").into_bytes())
    }

    /// RFC 5034 section 4: the server says no, as to any dialogue that the client ends.
    fn cancel(&mut self) -> Step<'static> {
        if let Some(Awaited::Auth(auth)) = self.awaited.back_mut() {
            auth.answer(CANCEL);
        }
        Step::Say(CANCEL.to_vec())
    }

    /// RFC 3206 section 4.
    fn withhold(&self) -> Step<'static> {
        let why = why_withheld(self.rules.stls.then_some("STLS"));
        let reply = format!("-ERR [AUTH] {why}\r\n").into_bytes();
        Step::Withhold { reply }
    }
}

impl Command<'_> {
    /// While logins are withheld: is this surely none that hands over its secret, or half of it?
    fn passes_in_clear(&self) -> bool {
        match self.verb() {
            b"AUTH" => {
                let mechanism = self.words().next();
                mechanism.is_none_or(|name| !sasl::shows_secret(name))
            }
            verb => IN_CLEAR.contains(&verb),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pop3::{
        fuzz::{Outcome, Side, session},
        tests::{talk_by, text},
    };

    const WITHHOLDS: Rules = Rules {
        stls: false,
        withholds_logins: true,
    };

    fn refusals(outcome: &Outcome, why: &str) -> usize {
        let replies = text(&outcome.replies);
        assert_eq!(
            replies.lines().count(),
            replies.matches(why).count(),
            "{replies}"
        );
        replies.lines().count()
    }

    #[test]
    fn a_login_that_shows_its_secret_is_not_said_to_the_server() {
        let outcome = talk_by(
            WITHHOLDS,
            "S: +OK <1@a>
             C: CAPA
             S: +OK
             S: TOP
             S: USER
             S: SASL PLAIN CRAM-MD5 LOGIN
             S: .
             C: USER anna
             C: PASS secret
             C: pass secret
             C: AUTH PLAIN AGFubmEAc2VjcmV0
             C: auth login
             C: AUTH XOAUTH2 eA==
             C: AUTH OAUTHBEARER
             C: NOOP
             S: +OK",
        );
        assert_eq!(refusals(&outcome, "[AUTH]"), 7);
        assert_eq!(text(&outcome.to_server), "CAPA\r\nNOOP\r\n");
        let heard = "+OK <1@a>\r\n+OK\r\nTOP\r\nSASL CRAM-MD5\r\n.\r\n+OK\r\n";
        assert_eq!(text(&outcome.to_client), heard);
        assert!(outcome.told.is_empty(), "{outcome:?}");
    }

    #[test]
    fn who_proves_to_know_the_secret_is_let_in() {
        let outcome = talk_by(
            WITHHOLDS,
            "S: +OK <1@a>
             C: APOP anna c4c9334bac560ecc979e58001b3e22fb
             S: +OK
             C: USER berta
             S: -ERR not now",
        );
        assert_eq!(outcome.place.user, Some("anna".into()));
        assert!(outcome.replies.is_empty());
        let outcome = talk_by(
            WITHHOLDS,
            "S: +OK
             C: AUTH CRAM-MD5
             S: + PDFAYT4=
             C: YW5uYSBkaWdlc3Q=
             S: +OK",
        );
        assert_eq!(outcome.place.user, Some("anna".into()));
    }

    #[test]
    fn under_tls_nothing_is_withheld() {
        let rules = Rules {
            stls: true,
            ..WITHHOLDS
        };
        let outcome = talk_by(
            rules,
            "S: +OK
             C: CAPA
             C: USER anna
             C: STLS
             S: +OK
             S: USER
             S: .
             C: CAPA
             S: +OK
             S: USER
             S: .
             C: USER anna
             S: +OK
             C: PASS secret
             S: +OK",
        );
        assert_eq!(
            text(&outcome.replies),
            "-ERR [AUTH] Passwords are not taken without TLS: say STLS first\r\n"
        );
        let heard = "+OK\r\n+OK\r\nSTLS\r\n.\r\n+OK\r\nUSER\r\n.\r\n+OK\r\n+OK\r\n";
        assert_eq!(text(&outcome.to_client), heard);
        assert_eq!(outcome.place.user, Some("anna".into()));
    }

    #[test]
    fn our_answer_comes_behind_those_of_the_server() {
        let outcome = talk_by(
            WITHHOLDS,
            "C: CAPA
             C: USER anna
             C: PASS secret",
        );
        assert!(outcome.replies.is_empty());
        assert_eq!(text(&outcome.to_server), "CAPA\r\n");
        let outcome = talk_by(
            WITHHOLDS,
            "S: +OK
             C: NOOP
             C: PASS secret
             C: NOOP
             S: +OK
             C: QUIT
             S: +OK
             S: +OK",
        );
        assert_eq!(refusals(&outcome, "[AUTH]"), 1);
        assert_eq!(text(&outcome.to_server), "NOOP\r\nNOOP\r\nQUIT\r\n");
    }

    #[test]
    fn no_login_is_too_long_to_be_withheld() {
        let long = |start: &str| format!("{start} {}\r\n", "x".repeat(50_000)).into_bytes();
        let said = [
            (Side::Server, b"+OK\r\n".to_vec()),
            (Side::Client, long("PASS")),
            (Side::Client, long("AUTH XOAUTH2")),
            (Side::Client, b"NOOP\r\n".to_vec()),
            (Side::Client, long("USER")),
            (Side::Server, b"+OK\r\n".to_vec()),
            (Side::Client, b"QUIT\r\n".to_vec()),
        ];
        for step in [1, 100, usize::MAX] {
            let outcome = session(WITHHOLDS, &said, step);
            assert_eq!(refusals(&outcome, "[AUTH]"), 3, "{step}");
            assert_eq!(text(&outcome.to_server), "NOOP\r\nQUIT\r\n");
            assert!(outcome.kept.concat().is_empty());
        }
    }
}
