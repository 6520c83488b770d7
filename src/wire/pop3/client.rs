//! What the client says: commands, and answers in an AUTH dialogue.

use super::{
    ours::Ours,
    uidl::number,
    words::{Command, is_clear_answer},
    *,
};
use crate::wire::sasl::{extend, wipe};

/// No line is longer than this with its end: of a longer one Cyrus takes the rest for the next command, and Courier does in a
/// dialogue. RFC 2449 section 4 allows 255 bytes, but some secrets are long.
pub(super) const LINE_BYTES_MAX: usize = 8_191;

/// What is to be done with a line.
enum Verdict {
    Pass,
    /// Once the server has said all that it is asked for already.
    Later,
    Ours(Ours),
    StartTls,
    /// Once the copies are settled.
    Settle,
}

impl Watcher {
    pub(super) fn hear_client<'a>(&mut self, input: &mut &'a [u8]) -> Heard<'a> {
        if let Some(ours) = self.long {
            return self.long_line_of_ours(input, ours);
        }
        let unseen = &input[self.client.seen..];
        if unseen.is_empty() || self.must_wait() {
            return self.client.pass(input).into();
        }
        match self.client.line_end(input, LINE_BYTES_MAX) {
            LineEnd::At(end) => self.whole_line(input, end),
            LineEnd::Awaited => self.client.hold(input).into(),
            LineEnd::TooLong => {
                self.long = Some(match () {
                    () if self.is_answer() => Ours::Answer,
                    () if self.withholds_logins() => Ours::Login,
                    () => Ours::Long,
                });
                Heard::More
            }
        }
    }

    /// What the client's next line is depends on what the server will say.
    fn must_wait(&self) -> bool {
        match self.awaited.back() {
            Some(Awaited::Auth(auth)) => !auth.is_prompted,
            Some(Awaited::Unknown | Awaited::Xtnd) => true,
            _ => self.awaited.len() >= AWAITED_MAX,
        }
    }

    /// Is all before the line at hand handed on, and answered?
    fn is_alone(&self) -> bool {
        self.is_quiet() && self.client.seen == 0
    }

    /// Is it the server that asked, in a dialogue?
    pub(super) fn is_answer(&self) -> bool {
        matches!(self.awaited.back(), Some(Awaited::Auth(auth)) if auth.is_prompted)
    }

    /// The line that ends at `end` of what is unseen.
    fn whole_line<'a>(&mut self, input: &mut &'a [u8], end: usize) -> Heard<'a> {
        let (seen, held) = (self.client.seen, self.client.held.len());
        let line = &input[seen..seen + end];
        let verdict = if held == 0 {
            self.line(line)
        } else {
            let mut whole = mem::take(&mut self.client.held);
            extend(&mut whole, line);
            let verdict = self.line(&whole);
            self.client.held = whole;
            verdict
        };
        let answer = match verdict {
            Verdict::Pass if held == 0 => {
                self.client.seen += end;
                return Heard::More;
            }
            Verdict::Pass => {
                *input = &input[end..];
                // Behind the steps that are due before it.
                let line = self.client.release();
                self.client.steps.extend(line);
                return Heard::More;
            }
            Verdict::Later => {
                self.client.hold_only(held);
                return self.client.pass(input).into();
            }
            Verdict::Settle => {
                self.client.hold_only(held);
                return Heard::Step(Step::Settle);
            }
            Verdict::Ours(ours) => self.answer(ours),
            Verdict::StartTls => Step::StartTls {
                reply: BEGIN_TLS.to_vec(),
            },
        };
        // All before it was handed on, and answered.
        *input = &input[seen + end..];
        wipe(&mut self.client.held);
        self.client.held = Vec::new();
        Heard::Step(answer)
    }

    fn line(&mut self, line: &[u8]) -> Verdict {
        if let Some(Awaited::Auth(auth)) = self.awaited.back_mut()
            && auth.is_prompted
        {
            if !is_clear_answer(line) {
                return Verdict::Ours(Ours::Answer);
            }
            auth.answer(line);
            if let Some((user, before)) = auth.newly_named() {
                self.client.steps.push_back(Step::Login { user, before });
            }
            return Verdict::Pass;
        }
        let said = self.for_server(line);
        if said.as_ref().map_or(true, Command::is_alone) && !self.is_alone() {
            return Verdict::Later;
        }
        let command = match said {
            Ok(command) => command,
            Err(Ours::Stls) if self.offers_stls() => return Verdict::StartTls,
            Err(ours) => return Verdict::Ours(ours),
        };
        if command.may_remove() && !self.is_settled {
            self.is_settled = true;
            return Verdict::Settle;
        }
        self.is_settled = false;
        let awaited = self.awaited(&command, line);
        self.awaited.push_back(awaited);
        Verdict::Pass
    }

    /// What comes in answer to a command, whose `line` is about to be handed on.
    fn awaited(&mut self, command: &Command<'_>, line: &[u8]) -> Awaited {
        let mut words = command.words();
        let has_argument = !command.argument().is_empty();
        match command.verb() {
            b"USER" => Awaited::User(self.named(command.argument())),
            b"PASS" => Awaited::Pass,
            b"APOP" => Awaited::Enter(self.named(words.next().unwrap_or_default())),
            b"AUTH" if has_argument => {
                let mut auth = Auth::begin(command.argument(), line);
                if let Some((user, before)) = auth.newly_named() {
                    self.client.steps.push_back(Step::Login { user, before });
                }
                Awaited::Auth(Box::new(auth))
            }
            b"RETR" => Awaited::Message(words.next().and_then(number)),
            b"TOP" => Awaited::Top(Top {
                number: words.next().and_then(number),
                lines: words.next().and_then(number),
            }),
            b"CAPA" => Awaited::Capabilities,
            b"STAT" => Awaited::Stat,
            b"UIDL" if has_argument => Awaited::Uidl,
            b"UIDL" => Awaited::Uidls,
            b"LIST" if !has_argument => Awaited::Scan,
            // LANG lists the languages (RFC 6856 section 3.2), AUTH the mechanisms (an old habit).
            b"LANG" | b"AUTH" if !has_argument => Awaited::List,
            b"LIST" | b"LANG" | b"DELE" | b"NOOP" | b"RSET" | b"QUIT" | b"LAST" | b"UTF8" => {
                Awaited::Line
            }
            b"XTND" => Awaited::Xtnd,
            _ => Awaited::Unknown,
        }
    }

    /// Who the client says that it is: another server may be the right one.
    fn named(&mut self, name: &[u8]) -> Option<WireText> {
        let user: Option<WireText> = (!name.is_empty()).then(|| name.into());
        self.client
            .steps
            .extend(user.clone().map(|user| Step::Login {
                user,
                before: Vec::new(),
            }));
        user
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pop3::{
        fuzz::{Side, session},
        tests::{talk_by, text},
    };

    /// Dovecot ends a verb before the login after 8 bytes, passes over a CR in it, and takes a NUL for its end; Courier
    /// awaits another line behind a NUL.
    #[test]
    fn what_servers_may_read_each_in_its_own_way_is_ours_to_answer() {
        let lines = [
            "XCLIENT ADDR=127.0.0.7",
            "xoip 127.0.0.8",
            " XOIP\t127.0.0.8",
            "XCLIENTADDR=127.0.0.7",
            "\rXCLIENTADDR=127.0.0.7",
            "X\rCLIENTADDR=127.0.0.6",
            "XCL\rIENT ADDR=127.0.0.7",
            "XCLIENT\0 ADDR=127.0.0.7",
            "\r\r\r\rXOIP127.0.0.7",
            "\r\r\r\rSTLSx",
            "ST\rLS",
            "STLS\0",
            "STLS",
            "\r\r\r\rUSERname",
            "\r\r\r\rQUIT",
            "\r QUIT",
            "QU\rIT",
            "QUIT\0",
            "QUIT\rx",
            "NOOP\0",
            "NOOP \0",
            "LIST 1\0",
            "NOOP\u{e4}",
            "\x01",
            "secretsecret",
            " QUIT",
            "USER\tberta",
            "AUTH  PLAIN",
            "AUTH \rPLAIN",
            "AUTH PLAIN AGFubmEA c2VjcmV0",
            "",
        ];
        for line in lines {
            let outcome = talk_by(
                Rules::default(),
                &format!(
                    "S: +OK\nC: LIST\nC: {line}\nC: NOOP\nS: +OK\nS: .\nC: NOOP\nS: +OK\nS: +OK"
                ),
            );
            let all = "LIST\r\nNOOP\r\nNOOP\r\n";
            assert_eq!(text(&outcome.to_server), all, "{line:?}");
            assert_eq!(text(&outcome.replies).matches("-ERR").count(), 1);
            assert!(outcome.told.is_empty() && outcome.settled.is_empty());
        }
        // in its order: not before the server has answered what was asked before
        let outcome = talk_by(Rules::default(), "S: +OK\nC: NOOP\nC: NOOP\0");
        assert!(outcome.replies.is_empty());
    }

    /// USER is refused for its form by one server, and taken by another.
    #[test]
    fn a_name_counts_when_the_server_has_taken_it() {
        let outcome = talk_by(
            Rules::default(),
            "S: +OK
             C: USER anna
             S: +OK
             C: USER berta
             S: -ERR
             C: PASS secret
             S: -ERR
             C: PASS secret
             S: +OK",
        );
        assert_eq!(outcome.place.user, Some("anna".into()));
    }

    /// Cyrus reads a second command in a line of more than 8,191 bytes.
    #[test]
    fn a_line_for_two_is_ours_to_answer() {
        for (bytes, is_ours) in [(8_191, false), (8_192, true), (8_197, true)] {
            let line = format!("NOOP {}\r\n", "x".repeat(bytes - 7));
            let said = [
                (Side::Server, b"+OK\r\n".to_vec()),
                (Side::Client, format!("{line}QUIT\r\n").into_bytes()),
                (Side::Server, b"+OK\r\n".to_vec()),
            ];
            for step in [1, 100, usize::MAX] {
                let outcome = session(Rules::default(), &said, step);
                let heard = text(&outcome.to_server);
                assert_eq!(heard.starts_with("NOOP"), !is_ours, "{bytes} by {step}");
                assert!(heard.ends_with("QUIT\r\n"));
                assert_eq!(text(&outcome.replies).lines().count(), usize::from(is_ours));
            }
        }
    }

    /// Courier takes the rest of a long one for a command, and Dovecot passes over blanks.
    #[test]
    fn an_answer_that_servers_read_each_in_its_own_way_cancels_the_dialogue() {
        for answer in [
            "x".repeat(8_190),
            "x".repeat(30_000),
            "YW5u YQ==".to_owned(),
            "YW5uYQ==\0".to_owned(),
        ] {
            let said = [
                (Side::Server, b"+OK\r\n".to_vec()),
                (Side::Client, b"AUTH LOGIN\r\n".to_vec()),
                (Side::Server, b"+ \r\n".to_vec()),
                (Side::Client, format!("{answer}\r\nNOOP\r\n").into_bytes()),
                (Side::Server, b"-ERR\r\n".to_vec()),
                (Side::Server, b"+OK\r\n".to_vec()),
            ];
            for step in [1, 100, usize::MAX] {
                let outcome = session(Rules::default(), &said, step);
                let heard = text(&outcome.to_server);
                assert_eq!(heard, "AUTH LOGIN\r\n*\r\nNOOP\r\n", "{step}");
                assert!(
                    outcome.told.is_empty() && outcome.replies.is_empty(),
                    "{outcome:?}"
                );
            }
        }
    }

    /// It would hear `*` as a command.
    #[test]
    fn a_dialogue_that_the_server_has_ended_is_not_cancelled() {
        let said = [
            (Side::Server, b"+OK\r\n".to_vec()),
            (Side::Client, b"AUTH LOGIN\r\n".to_vec()),
            (Side::Server, b"+ \r\n".to_vec()),
            (Side::Client, "x".repeat(10_000).into_bytes()),
            (Side::Server, b"-ERR too late\r\n".to_vec()),
            (Side::Client, b"x\r\nNOOP\r\n".to_vec()),
            (Side::Server, b"+OK\r\n".to_vec()),
        ];
        for step in [1, 100, usize::MAX] {
            let outcome = session(Rules::default(), &said, step);
            assert_eq!(text(&outcome.to_server), "AUTH LOGIN\r\nNOOP\r\n");
            assert_eq!(text(&outcome.replies), "-ERR That line is too long\r\n");
            assert!(outcome.told.is_empty());
        }
    }

    #[test]
    fn what_is_ours_to_answer_is_so_however_long_it_is() {
        let x = "x".repeat(20_000);
        for line in [
            format!("{}QUIT\r\n", " ".repeat(20_000)),
            format!("Q\rUIT {x}\r\n"),
            format!("XCLIENT {x}\r\n"),
            format!("XOIP {x}\r\n"),
            format!("NOOP \0{x}\r\n"),
            format!("STLS {x}\r\n"),
            format!("{x}\r\n"),
        ] {
            let said = [
                (Side::Server, b"+OK\r\n".to_vec()),
                (Side::Client, format!("NOOP\r\n{line}NOOP\r\n").into_bytes()),
                (Side::Server, b"+OK\r\n".to_vec()),
            ];
            for step in [1, 100, usize::MAX] {
                let outcome = session(Rules::default(), &said, step);
                assert_eq!(text(&outcome.to_server), "NOOP\r\nNOOP\r\n");
                assert_eq!(text(&outcome.replies).matches("-ERR").count(), 1);
                assert!(outcome.settled.is_empty() && outcome.kept.concat().is_empty());
            }
        }
    }

    #[test]
    fn nobody_names_itself_though_track_is_lost() {
        let script = "S: * what
             C: NOOP
             C: XCLIENT ADDR=192.0.2.1
             C: \rXOIP 192.0.2.1
             C: USER anna";
        let outcome = talk_by(Rules::default(), script);
        assert_eq!(text(&outcome.to_server), "NOOP\r\nUSER anna\r\n");
        assert!(outcome.replies.is_empty());
        // behind the login it may be a message
        let outcome = talk_by(
            Rules::default(),
            "S: +OK
             C: APOP anna c4c9334bac560ecc979e58001b3e22fb
             S: +OK
             C: XTND XMIT
             S: +OK
             C: XOIP: a field
             C: .",
        );
        assert!(text(&outcome.to_server).ends_with("XOIP: a field\r\n.\r\n"));
    }

    /// Its head is gone, so that its tail would be a command.
    #[test]
    fn the_tail_of_a_long_line_of_ours_goes_nowhere_though_track_is_lost() {
        let long = |rest: &str| format!("XCLIENT {}{rest}", "x".repeat(20_000)).into_bytes();
        let lost = (Side::Server, b"* what\r\n".to_vec());
        for said in [
            [
                (Side::Client, long("")),
                lost.clone(),
                (Side::Client, b"QUIT\r\nNOOP\r\n".to_vec()),
            ],
            [
                (Side::Client, long("\r\nNOOP\r\n")),
                lost.clone(),
                (Side::Client, b"".to_vec()),
            ],
        ] {
            let before = [
                (Side::Server, b"+OK\r\n".to_vec()),
                (Side::Client, b"STAT\r\n".to_vec()),
            ];
            let said = [&before[..], &said].concat();
            for step in [1, 100, usize::MAX] {
                let outcome = session(Rules::default(), &said, step);
                assert_eq!(text(&outcome.to_server), "STAT\r\nNOOP\r\n", "{step}");
                assert!(outcome.kept.concat().is_empty());
            }
        }
    }
}
