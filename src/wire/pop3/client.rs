//! What the client says: commands, and answers in an AUTH dialogue.

use std::mem;

use super::{
    ours::{Ours, passes_in_clear},
    uidl::number,
    words::{Verb, command},
    *,
};
use crate::wire::sasl::{extend, wipe};

/// A line is handed on whole if it is no longer than this (RFC 4954 section 4 asks for no more); a longer one goes on as it
/// comes.
const LINE_BYTES_MAX: usize = 12_288;
/// So much of a line that is handed on in pieces is kept: the command and its first arguments.
const COMMAND_BYTES_MAX: usize = 64;

/// Where in a line the client is.
#[derive(Debug, Default)]
pub(super) enum Saying {
    #[default]
    Begin,
    /// In a line whose beginning was handed on: what is kept of it, never an argument of PASS.
    Rest(Vec<u8>),
    /// In a line that is ours to answer, and too long to be held.
    Ours(Ours),
}

impl Saying {
    pub(super) fn is_between(&self) -> bool {
        matches!(self, Self::Begin)
    }
}

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
        let unseen = &input[self.client.seen..];
        if unseen.is_empty() || (self.saying.is_between() && self.must_wait()) {
            return self.client.pass(input).into();
        }
        if let Saying::Rest(kept) = &mut self.saying {
            let end = memchr::memchr(b'\n', unseen).map(|lf| lf + 1);
            let piece = &unseen[..end.unwrap_or(unseen.len())];
            self.client.seen += piece.len();
            keep(kept, piece);
            if end.is_some() {
                let mut line = mem::take(kept);
                self.saying = Saying::Begin;
                self.line_begun(&line);
                wipe(&mut line);
            }
            return Heard::More;
        }
        if let Saying::Ours(ours) = self.saying {
            return self.long_line_of_ours(input, ours);
        }
        match self.client.line_end(input, LINE_BYTES_MAX) {
            LineEnd::At(end) => self.whole_line(input, end),
            LineEnd::Awaited => self.client.hold(input).into(),
            LineEnd::TooLong if let Some(ours) = self.is_ours(unseen) => {
                self.saying = Saying::Ours(ours);
                Heard::More
            }
            LineEnd::TooLong if self.may_remove(unseen) && !self.is_alone() => {
                self.client.pass(input).into()
            }
            LineEnd::TooLong if self.may_remove(unseen) && !self.is_settled => {
                self.is_settled = true;
                Heard::Step(Step::Settle)
            }
            LineEnd::TooLong => {
                self.is_settled = false;
                let mut kept = Vec::new();
                keep(&mut kept, &self.client.held);
                self.saying = Saying::Rest(kept);
                self.client.release().map_or(Heard::More, Heard::Step)
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
    fn is_answer(&self) -> bool {
        matches!(self.awaited.back(), Some(Awaited::Auth(auth)) if auth.is_prompted)
    }

    /// What is held, and this behind it, as far as a line is known.
    fn begun<'b>(&'b self, unseen: &'b [u8]) -> impl Iterator<Item = &'b u8> + Clone {
        self.client.held.iter().chain(unseen).take(LINE_BYTES_MAX)
    }

    /// Is this, behind what is held, a line that the server is not to hear, though it is too long to be known whole?
    fn is_ours(&self, unseen: &[u8]) -> Option<Ours> {
        match () {
            () if self.is_answer() => None,
            () if self.withholds_logins() => Some(Ours::Login),
            () => Ours::of(self.begun(unseen)),
        }
    }

    /// May this, behind what is held, be the beginning of a command that removes messages?
    fn may_remove(&self, unseen: &[u8]) -> bool {
        !self.is_answer() && Verb::of(self.begun(unseen)).may_remove()
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
        match verdict {
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
                self.client.held.truncate(held);
                return self.client.pass(input).into();
            }
            Verdict::Settle => {
                self.client.held.truncate(held);
                return Heard::Step(Step::Settle);
            }
            Verdict::Ours(_) | Verdict::StartTls => {}
        }
        // All before it was handed on, and answered.
        *input = &input[seen + end..];
        wipe(&mut self.client.held);
        self.client.held = Vec::new();
        Heard::Step(match verdict {
            Verdict::Ours(ours) => self.answer(ours),
            _ => Step::StartTls {
                reply: BEGIN_TLS.to_vec(),
            },
        })
    }

    fn line(&mut self, line: &[u8]) -> Verdict {
        if let Some(Awaited::Auth(auth)) = self.awaited.back_mut()
            && auth.is_prompted
        {
            auth.answer(line);
            if let Some((user, before)) = auth.newly_named() {
                self.client.steps.push_back(Step::Login { user, before });
            }
            return Verdict::Pass;
        }
        let (verb, argument) = command(line);
        // These are not asked for beside others: another server, TLS or we are to answer them; and what may remove.
        let is_withheld = self.withholds_logins() && !passes_in_clear(line);
        let ours = match is_withheld {
            true => Some(Ours::Login),
            false => Ours::of(line.iter()),
        };
        let is_alone = ours.is_some()
            || verb.may_remove()
            || matches!(verb.letters(), b"USER" | b"APOP" | b"AUTH");
        if is_alone && !self.is_alone() {
            return Verdict::Later;
        }
        match ours {
            Some(Ours::Stls) if self.offers_stls() => return Verdict::StartTls,
            Some(ours) => return Verdict::Ours(ours),
            None if verb.may_remove() && !self.is_settled => {
                self.is_settled = true;
                return Verdict::Settle;
            }
            None => self.is_settled = false,
        }
        match verb.letters() {
            b"USER" => {
                self.named = name(argument);
                self.login(self.named.clone());
                self.awaited.push_back(Awaited::Line);
            }
            b"APOP" => {
                let user = argument
                    .split(u8::is_ascii_whitespace)
                    .next()
                    .and_then(name);
                self.login(user.clone());
                self.awaited.push_back(Awaited::Enter(user));
            }
            b"AUTH" if !argument.is_empty() => {
                let mut auth = Auth::begin(argument, line);
                if let Some((user, before)) = auth.newly_named() {
                    self.client.steps.push_back(Step::Login { user, before });
                }
                self.awaited.push_back(Awaited::Auth(Box::new(auth)));
            }
            _ => self.line_begun(&line[..line.len().min(COMMAND_BYTES_MAX)]),
        }
        Verdict::Pass
    }

    /// A line of which this is known, if not all.
    fn line_begun(&mut self, kept: &[u8]) {
        if let Some(Awaited::Auth(auth)) = self.awaited.back_mut()
            && auth.is_prompted
        {
            return auth.answer(b"");
        }
        let (verb, argument) = command(kept);
        let awaited = match verb.letters() {
            b"APOP" => Awaited::Enter(None),
            b"AUTH" if !argument.is_empty() => {
                // Its mechanism is of no use without the answer.
                Awaited::Auth(Box::new(Auth::begin(b"", b"")))
            }
            verb => self.awaited(verb, argument),
        };
        self.awaited.push_back(awaited);
    }

    fn login(&mut self, user: Option<WireText>) {
        self.client.steps.extend(user.map(|user| Step::Login {
            user,
            before: Vec::new(),
        }));
    }

    /// What comes in answer to a command.
    fn awaited(&mut self, verb: &[u8], argument: &[u8]) -> Awaited {
        let mut arguments = argument
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        match verb {
            b"PASS" => Awaited::Enter(self.named.take()),
            b"RETR" => Awaited::Message(arguments.next().and_then(number)),
            b"TOP" => Awaited::Top(Top {
                number: arguments.next().and_then(number),
                lines: arguments.next().and_then(number),
            }),
            b"CAPA" => Awaited::Capabilities,
            b"STAT" => Awaited::Stat,
            b"UIDL" if argument.is_empty() => Awaited::Uidls,
            b"UIDL" => Awaited::Uidl,
            b"LIST" if argument.is_empty() => Awaited::Scan,
            // LANG lists the languages (RFC 6856 section 3.2), AUTH the mechanisms (an old habit).
            b"LANG" | b"AUTH" if argument.is_empty() => Awaited::List,
            b"LIST" | b"LANG" | b"USER" | b"DELE" | b"NOOP" | b"RSET" | b"QUIT" | b"LAST"
            | b"UTF8" => Awaited::Line,
            b"XTND" => Awaited::Xtnd,
            _ => Awaited::Unknown,
        }
    }
}

fn name(argument: &[u8]) -> Option<WireText> {
    (!argument.is_empty()).then(|| argument.into())
}

/// Keeps what a command is known by, and no secret.
fn keep(kept: &mut Vec<u8>, piece: &[u8]) {
    let room = COMMAND_BYTES_MAX.saturating_sub(kept.len());
    kept.extend_from_slice(&piece[..piece.len().min(room)]);
    if let Some((verb, [b' ' | b'\t', secret @ ..])) = kept.split_at_mut_checked(4)
        && verb.eq_ignore_ascii_case(b"PASS")
    {
        secret.fill(b' ');
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
