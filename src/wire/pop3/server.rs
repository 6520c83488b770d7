//! What the server says: the greeting, replies, lists and messages.

use std::mem;

use super::{
    content::Unstuffer,
    uidl::{Lines, number},
    *,
};

/// So much of a reply is read; RFC 2449 section 4 allows 512.
const REPLY_BYTES_MAX: usize = 512;
/// A line longer than this is not edited.
const EDITED_BYTES_MAX: usize = 1024;

/// Dovecot says so to those whom it lets name their client.
const XCLIENT_OFFER: &[u8] = b"[XCLIENT] ";

/// TOP with fewer lines is for looking. (fetchmail takes messages by `TOP 1 99999999` and then deletes them.)
const TOP_LINES_MIN: u64 = 100_000;

/// A message at a time is read.
const COPY: CopyId = CopyId(0);

/// What the server's next bytes are.
#[derive(Debug)]
pub(super) enum Reading {
    /// A reply, of which so much has come.
    Reply(Vec<u8>),
    /// A reply, or the list of a command that we do not know.
    Unsure,
    Message(Unstuffer, Whole),
    List(Unstuffer, List),
    /// CAPA's answer, line by line; true: the last one ended as it should.
    Capabilities(bool),
    /// In a line of it that is too long to be edited.
    LongCapability,
}

/// Is it all of the message?
#[derive(Clone, Copy, Debug)]
pub(super) enum Whole {
    Yes,
    /// So many lines were asked for that it is, if it has fewer.
    Below(u64),
}

/// What is learnt of a list.
#[derive(Debug)]
pub(super) enum List {
    Nothing,
    Uidls(Lines),
    /// LIST: one line is enough.
    Scan,
}

impl Default for Reading {
    fn default() -> Self {
        Self::Reply(Vec::new())
    }
}

impl Reading {
    /// Not in the middle of anything.
    pub(super) fn is_between(&self) -> bool {
        match self {
            Self::Reply(begun) => begun.is_empty(),
            Self::Unsure => true,
            Self::Message(..) | Self::List(..) | Self::Capabilities(_) | Self::LongCapability => {
                false
            }
        }
    }
}

/// How a reply begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    Err,
    /// An AUTH dialogue goes on (RFC 5034 section 4).
    Prompt,
}

impl Status {
    pub(super) fn of(line: &[u8]) -> Option<Self> {
        let begins = |with: &[u8]| {
            let word = line.get(..with.len());
            word.is_some_and(|word| word.eq_ignore_ascii_case(with))
        };
        match line {
            _ if begins(b"+OK") => Some(Self::Ok),
            _ if begins(b"-ERR") => Some(Self::Err),
            [b'+', b' ' | b'\r', ..] => Some(Self::Prompt),
            _ => None,
        }
    }
}

impl Watcher {
    pub(super) fn hear_server<'a>(&mut self, input: &mut &'a [u8]) -> Heard<'a> {
        let unseen = &input[self.server.seen..];
        let Some(&first) = unseen.first() else {
            return self.server.pass(input).into();
        };
        let is_reply_due = self.server.held.is_empty();
        let is_greeting_due = matches!(self.awaited.front(), Some(Awaited::Greeting));
        match &mut self.reading {
            Reading::Message(unstuffer, whole) => {
                let run = unstuffer.run(unseen);
                self.server.seen += run.taken;
                if run.ended {
                    let whole = *whole;
                    self.reading = Reading::default();
                    self.message_ended(whole);
                } else if !run.content.is_empty() {
                    if let Whole::Below(lines) = whole {
                        let more = memchr::memchr_iter(b'\n', run.content).count();
                        *lines = lines.saturating_sub(more as u64);
                    }
                    return Heard::Step(Step::Content {
                        copy: COPY,
                        bytes: run.content.into(),
                    });
                }
            }
            Reading::List(unstuffer, list) => {
                let run = unstuffer.run(unseen);
                self.server.seen += run.taken;
                match list {
                    List::Uidls(lines) => lines.each(run.content, |line| self.uidls.learn(line)),
                    List::Scan if !run.content.is_empty() => {
                        *list = List::Nothing;
                        self.arrival();
                    }
                    List::Scan | List::Nothing => {}
                }
                if run.ended {
                    self.reading = Reading::default();
                }
            }
            Reading::Capabilities(after_crlf) => {
                let after_crlf = *after_crlf;
                return self.capabilities(input, after_crlf);
            }
            Reading::LongCapability => match memchr::memchr(b'\n', unseen) {
                Some(lf) => {
                    self.server.seen += lf + 1;
                    self.reading = Reading::Capabilities(true);
                }
                None => self.server.seen = input.len(),
            },
            Reading::Unsure => {
                let is_list = self.awaited.is_empty() || !is_reply(first);
                self.reading = match is_list {
                    true => Reading::List(Unstuffer::default(), List::Nothing),
                    false => Reading::default(),
                };
            }
            Reading::Reply(begun) if begun.is_empty() && is_reply_due && !is_reply(first) => {
                self.lose("reply");
            }
            Reading::Reply(begun) if begun.is_empty() && is_greeting_due => {
                return self.greeting(input);
            }
            Reading::Reply(begun) => {
                let end = memchr::memchr(b'\n', unseen).map(|lf| lf + 1);
                let piece = &unseen[..end.unwrap_or(unseen.len())];
                self.server.seen += piece.len();
                if end.is_none() || !begun.is_empty() {
                    keep(begun, piece);
                }
                if end.is_some() {
                    let line = mem::take(begun);
                    self.reply(if line.is_empty() { piece } else { &line });
                }
            }
        }
        Heard::More
    }

    /// The greeting is known whole, so that what Dovecot offers to us in it is not offered to the client.
    fn greeting<'a>(&mut self, input: &mut &'a [u8]) -> Heard<'a> {
        let end = match self.server.line_end(input, EDITED_BYTES_MAX) {
            LineEnd::At(end) => end,
            LineEnd::Awaited => return self.server.hold(input).into(),
            // As any reply, now that it has begun.
            LineEnd::TooLong => {
                let mut begun = Vec::new();
                keep(&mut begun, &self.server.held);
                if begun.is_empty() {
                    begun.push(input[0]);
                    self.server.seen = 1;
                }
                self.reading = Reading::Reply(begun);
                return self.server.release().map_or(Heard::More, Heard::Step);
            }
        };
        let line = self.server.line(input, end);
        let offer = memchr::memmem::find(&line, XCLIENT_OFFER);
        let edited = offer.map(|at| [&line[..at], &line[at + XCLIENT_OFFER.len()..]].concat());
        self.reply(&line);
        self.server.say(input, end, line, edited)
    }

    fn capabilities<'a>(&mut self, input: &mut &'a [u8], after_crlf: bool) -> Heard<'a> {
        let end = match self.server.line_end(input, EDITED_BYTES_MAX) {
            LineEnd::At(end) => end,
            LineEnd::Awaited => return self.server.hold(input).into(),
            LineEnd::TooLong => {
                self.reading = Reading::LongCapability;
                return self.server.release().map_or(Heard::More, Heard::Step);
            }
        };
        let line = self.server.line(input, end);
        let is_end = after_crlf && *line == *b".\r\n";
        let edited = match is_end {
            true => self.offers_stls().then(|| b"STLS\r\n.\r\n".to_vec()),
            false => capability::edit(&line, !self.withholds_logins()),
        };
        if edited.is_some()
            && let Some(passed) = self.server.pass(input)
        {
            return Heard::Step(passed);
        }
        self.reading = match is_end {
            true => Reading::default(),
            false => Reading::Capabilities(line.ends_with(b"\r\n")),
        };
        self.server.say(input, end, line, edited)
    }

    fn reply(&mut self, line: &[u8]) {
        let line = &line[..line.len().min(REPLY_BYTES_MAX)];
        let status = Status::of(line);
        if !line.ends_with(b"\r\n") && line.len() < REPLY_BYTES_MAX {
            return self.lose("line_end");
        }
        match (status, self.awaited.pop_front()) {
            (Some(Status::Ok), Some(awaited)) => self.succeeded(awaited, line),
            (Some(Status::Prompt), Some(Awaited::Auth(mut auth))) => {
                auth.is_prompted = true;
                self.awaited.push_front(Awaited::Auth(auth));
            }
            // Unasked, it is a server's farewell.
            (Some(Status::Err), _) => {}
            (None | Some(Status::Prompt), _) | (Some(Status::Ok), None) => self.lose("reply"),
        }
    }

    fn succeeded(&mut self, awaited: Awaited, line: &[u8]) {
        let told = line[3..].trim_ascii();
        let mut words = told.split(u8::is_ascii_whitespace);
        let list = |list| Reading::List(Unstuffer::default(), list);
        match awaited {
            Awaited::Greeting | Awaited::Line => {}
            Awaited::User(user) => self.named = user,
            Awaited::Pass => {
                let user = self.named.take();
                self.let_in(user);
            }
            Awaited::Enter(user) => self.let_in(user),
            Awaited::Auth(auth) => self.let_in(auth.into_user()),
            Awaited::List => self.reading = list(List::Nothing),
            Awaited::Scan => self.reading = list(List::Scan),
            Awaited::Uidls => {
                self.uidls.clear();
                self.reading = list(List::Uidls(Lines::default()));
            }
            Awaited::Capabilities => self.reading = Reading::Capabilities(true),
            Awaited::Uidl => self.uidls.learn(told),
            Awaited::Stat => {
                if words
                    .next()
                    .and_then(number::<u64>)
                    .is_some_and(|count| count > 0)
                {
                    self.arrival();
                }
            }
            Awaited::Top(Top {
                number,
                lines: Some(lines @ TOP_LINES_MIN..),
            }) => self.message_begins(number, Whole::Below(lines), None),
            Awaited::Top(_) => {
                self.server.steps.push_back(Step::Hint(Hint::Seen));
                self.reading = list(List::Nothing);
            }
            Awaited::Message(message) => {
                let bytes = words.next().and_then(number);
                let is_octets = words.next().is_some_and(|word| word.starts_with(b"octets"));
                self.message_begins(message, Whole::Yes, bytes.filter(|_| is_octets));
            }
            Awaited::Unknown => self.reading = Reading::Unsure,
            Awaited::Xtnd => self.lose("xtnd"),
        }
    }

    fn message_begins(&mut self, number: Option<u32>, whole: Whole, bytes: Option<u64>) {
        let message = Message::Read {
            uid: None,
            uidl: number.and_then(|number| self.uidls.of(number)),
            bytes,
            form: Form::AsItLies,
        };
        let begin = Step::Begin {
            copy: COPY,
            message,
        };
        self.server.steps.push_back(begin);
        self.reading = Reading::Message(Unstuffer::default(), whole);
    }

    fn message_ended(&mut self, whole: Whole) {
        let steps = &mut self.server.steps;
        if matches!(whole, Whole::Below(0)) {
            steps.extend([Step::Drop { copy: COPY }, Step::Hint(Hint::Seen)]);
        } else {
            let found = Found {
                folder: "INBOX".into(),
                ..Found::default()
            };
            steps.push_back(Step::Commit { copy: COPY, found });
        }
    }

    fn let_in(&mut self, user: Option<WireText>) {
        self.place.user.clone_from(&user);
        self.place.folder = Some("INBOX".into());
        self.server.steps.push_back(Step::Authenticated { user });
    }

    fn arrival(&mut self) {
        if !mem::replace(&mut self.arrival_told, true) {
            self.server.steps.push_back(Step::Hint(Hint::Arrival));
        }
    }

    fn lose(&mut self, reason: &'static str) {
        self.lost = true;
        // What comes now may remove what was copied up to here.
        self.client.steps.push_back(Step::Settle);
        self.server.steps.push_back(Step::Lost { reason });
    }
}

fn is_reply(first: u8) -> bool {
    matches!(first, b'+' | b'-')
}

fn keep(begun: &mut Vec<u8>, piece: &[u8]) {
    let room = REPLY_BYTES_MAX.saturating_sub(begun.len());
    begun.extend_from_slice(&piece[..piece.len().min(room)]);
}
