//! What the client says: commands, and answers in an AUTH dialogue.

use std::mem;

use super::{ours::refusal, uidl::number, *};
use crate::wire::sasl::{self, extend, wipe};

/// A line that must be whole before it is handed on may be so long (RFC 4954 section 4 asks for no more); a longer one is
/// handed on as it comes.
const LINE_BYTES_MAX: usize = 12_288;
/// So much of a line that is handed on in pieces is kept: the command and its first arguments.
const COMMAND_BYTES_MAX: usize = 64;

/// One more than the longest command that we know: what is longer may be a secret that went astray.
const VERB_BYTES_MAX: usize = 8;

/// Commands that are handed on whole, if at all.
const WHOLE: [&[u8]; 6] = [b"USER", b"APOP", b"AUTH", b"STLS", b"XCLIENT", b"QUIT"];

/// While logins are withheld, these pass, and AUTH of a mechanism that shows no secret.
const IN_CLEAR: [&[u8]; 8] = [
    b"", b"CAPA", b"APOP", b"STLS", b"QUIT", b"NOOP", b"LANG", b"UTF8",
];

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
            LineEnd::TooLong if self.is_quit(unseen) && !self.is_alone() => {
                self.client.pass(input).into()
            }
            LineEnd::TooLong if self.is_quit(unseen) && !mem::take(&mut self.is_settled) => {
                self.is_settled = true;
                Heard::Step(Step::Settle)
            }
            LineEnd::Awaited | LineEnd::TooLong => {
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

    /// Does what is held, and this behind it, begin with QUIT (RFC 1939 section 6: that removes what was marked)?
    fn is_quit(&self, unseen: &[u8]) -> bool {
        quits(self.client.held.iter().chain(unseen)) && !self.is_answer()
    }

    /// Is it the server that asked, in a dialogue?
    fn is_answer(&self) -> bool {
        matches!(self.awaited.back(), Some(Awaited::Auth(auth)) if auth.is_prompted)
    }

    /// May this, behind what is held, be the beginning of a line that is handed on whole?
    fn must_be_whole(&self, unseen: &[u8]) -> bool {
        let begun = self.client.held.iter().chain(unseen);
        let verb = begun.take_while(|byte| !byte.is_ascii_whitespace());
        let verb: Vec<u8> = verb
            .take(VERB_BYTES_MAX)
            .map(u8::to_ascii_uppercase)
            .collect();
        let is_begun = self.client.held.len() + unseen.len() > verb.len();
        self.is_answer()
            || self.withholds_logins()
            || self.is_quit(unseen)
            || WHOLE.iter().any(|whole| match is_begun {
                true => *whole == verb,
                false => whole.starts_with(&verb),
            })
            || (verb.is_empty() && is_begun)
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
            Verdict::Refuse(_) | Verdict::StartTls => {}
        }
        // All before it was handed on, and answered.
        *input = &input[seen + end..];
        wipe(&mut self.client.held);
        self.client.held = Vec::new();
        Heard::Step(match verdict {
            Verdict::Refuse(reply) => refusal(reply),
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
        let (mut verb, argument) = words(line);
        if quits(line) {
            verb = b"QUIT".to_vec();
        }
        // These are not asked for beside others: another server, TLS or we are to answer them; and QUIT, which removes.
        let is_withheld = self.withholds_logins() && !passes_in_clear(line);
        let is_alone = is_withheld
            || matches!(
                verb.as_slice(),
                b"USER" | b"APOP" | b"AUTH" | b"STLS" | b"XCLIENT" | b"QUIT" | b""
            );
        if is_alone && !self.is_alone() {
            return Verdict::Later;
        }
        match verb.as_slice() {
            _ if is_withheld => return Verdict::Refuse(self.why_withheld()),
            b"" => return Verdict::Refuse("No command"),
            b"XCLIENT" => return Verdict::Refuse("XCLIENT is not for clients"),
            b"STLS" if self.offers_stls() => return Verdict::StartTls,
            b"STLS" => return Verdict::Refuse("STLS is not available now"),
            b"QUIT" if !mem::take(&mut self.is_settled) => {
                self.is_settled = true;
                return Verdict::Settle;
            }
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
        let (verb, argument) = words(kept);
        let awaited = match verb.as_slice() {
            b"APOP" => Awaited::Enter(None),
            b"AUTH" if !argument.is_empty() => {
                // Its mechanism is of no use without the answer.
                Awaited::Auth(Box::new(Auth::begin(b"", b"")))
            }
            // None is so long; a server that thinks otherwise begins TLS.
            b"STLS" => Awaited::Xtnd,
            _ => self.awaited(&verb, argument),
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

/// While logins are withheld: is this surely none that hands over its secret, or half of it? Servers pass over control
/// characters, each over others, so that a line with one may be any command.
fn passes_in_clear(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (verb, argument) = words(line);
    let mut mechanism = argument.split(|byte| *byte == b' ');
    let is_known = match verb.as_slice() {
        b"AUTH" => mechanism
            .next()
            .is_none_or(|name| name.is_empty() || !sasl::shows_secret(name)),
        verb => IN_CLEAR.contains(&verb),
    };
    is_known && !line.iter().any(u8::is_ascii_control)
}

/// Does it begin with QUIT (RFC 1939 section 6: that removes what was marked)? To some servers a NUL ends a line.
fn quits<'b>(line: impl IntoIterator<Item = &'b u8>) -> bool {
    let told = line.into_iter();
    let mut told = told.skip_while(|byte| byte.is_ascii_whitespace());
    let is_it = b"QUIT".iter().all(|letter| {
        let next = told.next();
        next.is_some_and(|byte| byte.eq_ignore_ascii_case(letter))
    });
    is_it
        && told
            .next()
            .is_some_and(|byte| !byte.is_ascii_alphanumeric())
}

/// The command in capitals, and what is behind it.
fn words(line: &[u8]) -> (Vec<u8>, &[u8]) {
    let line = line.trim_ascii();
    let end = line.iter().position(u8::is_ascii_whitespace);
    let (verb, argument) = line.split_at(end.unwrap_or(line.len()));
    let verb = &verb[..verb.len().min(VERB_BYTES_MAX)];
    (verb.to_ascii_uppercase(), argument.trim_ascii())
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
