//! What the client says: commands, and answers in an AUTH dialogue.

use std::mem;

use super::{
    ours::{passes_in_clear, refusal},
    uidl::number,
    words::{Verb, command},
    *,
};
use crate::wire::sasl::{extend, wipe};

/// A line that must be whole before it is handed on may be so long (RFC 4954 section 4 asks for no more); a longer one is
/// handed on as it comes.
const LINE_BYTES_MAX: usize = 12_288;
/// So much of a line that is handed on in pieces is kept: the command and its first arguments.
const COMMAND_BYTES_MAX: usize = 64;

/// Commands that are handed on whole, if at all.
const WHOLE: [&[u8]; 6] = [b"USER", b"APOP", b"AUTH", b"STLS", b"XCLIENT", b"QUIT"];

/// Where in a line the client is.
#[derive(Debug, Default)]
pub(super) enum Saying {
    #[default]
    Begin,
    /// In a line whose beginning was handed on: what is kept of it, never an argument of PASS.
    Rest(Vec<u8>),
    /// In a login that is withheld, and too long to be held.
    Withheld,
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
    Refuse(&'static str),
    /// It is a login that shows its secret, or half of one.
    Withhold,
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
        if let Saying::Withheld = self.saying {
            return self.withheld(input);
        }
        match self.client.line_end(input, LINE_BYTES_MAX) {
            LineEnd::At(end) => self.whole_line(input, end),
            LineEnd::Awaited if self.must_be_whole(unseen) => self.client.hold(input).into(),
            LineEnd::TooLong if self.withholds_logins() && !self.is_answer() => {
                self.saying = Saying::Withheld;
                Heard::More
            }
            LineEnd::TooLong if self.may_remove(unseen) && !self.is_alone() => {
                self.client.pass(input).into()
            }
            LineEnd::TooLong if self.may_remove(unseen) && !self.is_settled => {
                self.is_settled = true;
                Heard::Step(Step::Settle)
            }
            LineEnd::Awaited | LineEnd::TooLong => {
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

    /// The verb of what is held, and this behind it.
    fn verb(&self, unseen: &[u8]) -> Verb {
        let begun = self.client.held.iter().chain(unseen);
        Verb::of(begun.take(LINE_BYTES_MAX))
    }

    /// May this, behind what is held, be the beginning of a line that is handed on whole?
    fn must_be_whole(&self, unseen: &[u8]) -> bool {
        let verb = self.verb(unseen);
        let first = self.client.held.first().or(unseen.first());
        self.is_answer()
            || self.withholds_logins()
            || !verb.is_whole()
            || verb.may_remove()
            || WHOLE.contains(&verb.letters())
            || first.is_some_and(|byte| !byte.is_ascii_graphic())
    }

    /// May this, behind what is held, be the beginning of a command that removes messages?
    fn may_remove(&self, unseen: &[u8]) -> bool {
        !self.is_answer() && self.verb(unseen).may_remove()
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
            Verdict::Refuse(_) | Verdict::Withhold | Verdict::StartTls => {}
        }
        // All before it was handed on, and answered.
        *input = &input[seen + end..];
        wipe(&mut self.client.held);
        self.client.held = Vec::new();
        Heard::Step(match verdict {
            Verdict::Refuse(why) => refusal(why),
            Verdict::Withhold => self.withhold(),
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
        let is_alone = is_withheld
            || verb.may_remove()
            || matches!(
                verb.letters(),
                b"USER" | b"APOP" | b"AUTH" | b"STLS" | b"XCLIENT" | b""
            );
        if is_alone && !self.is_alone() {
            return Verdict::Later;
        }
        match () {
            () if is_withheld => return Verdict::Withhold,
            () if verb.letters().is_empty() && argument.is_empty() => {
                return Verdict::Refuse("No command");
            }
            () if verb.may_be(b"XCLIENT") => return Verdict::Refuse("XCLIENT is not for clients"),
            () if verb.is(b"STLS") && self.offers_stls() => return Verdict::StartTls,
            () if verb.may_be(b"STLS") => return Verdict::Refuse("STLS is not available now"),
            () if verb.may_remove() && !self.is_settled => {
                self.is_settled = true;
                return Verdict::Settle;
            }
            () => self.is_settled = false,
        }
        match verb.letters() {
            _ if verb.is_unclear() => self.awaited.push_back(Awaited::Unknown),
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

    /// A line of which this is known: it is too long, or it need not be whole.
    fn line_begun(&mut self, kept: &[u8]) {
        if let Some(Awaited::Auth(auth)) = self.awaited.back_mut()
            && auth.is_prompted
        {
            return auth.answer(b"");
        }
        let (verb, argument) = command(kept);
        let awaited = match verb.letters() {
            _ if verb.is_unclear() => Awaited::Unknown,
            b"APOP" => Awaited::Enter(None),
            b"AUTH" if !argument.is_empty() => {
                // Its mechanism is of no use without the answer.
                Awaited::Auth(Box::new(Auth::begin(b"", b"")))
            }
            // None is so long; a server that thinks otherwise begins TLS.
            b"STLS" => Awaited::Xtnd,
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

    /// Dovecot passes over a CR before the login, and takes a NUL for the verb's end: it would believe both.
    #[test]
    fn what_is_ours_is_so_with_a_stray_character_in_it() {
        let outcome = talk_by(
            Rules {
                stls: true,
                ..Rules::default()
            },
            "S: +OK
             C: XCL\rIENT ADDR=192.0.2.1
             C: XCLIENT\0 ADDR=192.0.2.1
             C: ST\rLS
             C: STLS\0
             C: \x01
             C: NOOP
             S: +OK",
        );
        assert_eq!(text(&outcome.to_server), "NOOP\r\n");
        assert_eq!(text(&outcome.replies).matches("-ERR").count(), 5);
        assert!(outcome.settled.is_empty());
    }

    /// What one server takes for nothing may be QUIT to another, or a command with a list.
    #[test]
    fn what_has_a_stray_character_in_its_verb_is_held_like_quit() {
        let outcome = talk_by(
            Rules::default(),
            "S: +OK
             C: RETR 1
             C: \r QUIT
             S: +OK
             S: mail
             S: .
             C: LIST\0
             S: -ERR what?
             C: NOOP
             S: +OK
             S: 1 5
             S: .
             C: NOOP
             S: +OK
             S: +OK",
        );
        assert_eq!(outcome.settled, [(8, 1), (16, 1)]);
        let all = "RETR 1\r\n\r QUIT\r\nLIST\0\r\nNOOP\r\nNOOP\r\n";
        assert_eq!(text(&outcome.to_server), all);
        assert!(outcome.told.iter().all(|told| !told.starts_with("Lost")));
        let stray = format!("{}QUIT\r\n", " ".repeat(20_000)).into_bytes();
        let long = format!("Q\rUIT {}\r\n", "x".repeat(20_000)).into_bytes();
        for line in [stray, long] {
            let said = [(Side::Server, b"+OK\r\n".to_vec()), (Side::Client, line)];
            for step in [1, 100, usize::MAX] {
                let outcome = session(Rules::default(), &said, step);
                assert_eq!(outcome.settled, [(0, 0)], "{step}");
            }
        }
    }
}
