//! The watcher of an IMAP session (RFC 9051, RFC 3501 and extensions), beside whoever carries the bytes.
//!
//! Each side has a machine of its own: lines, of which the first 8 KiB are read, and literals, which pass as they are and
//! are content if they are a message. What a line means is decided by who says it and by its first words, never by its
//! end alone: free text may look like a literal. Commands are remembered by their tags until they are answered.
//!
//! A command that removes messages waits for the answers of those before it that show them: see `removing`.
//!
//! Changed are capabilities, STARTTLS and one wish of Dovecot's proxies; all else is handed on byte for byte. It never
//! asks the server anything. Where both peers may read a line differently from us, it is [`Step::Lost`].
//!
//! A login that shows its secret on a leg without TLS is answered by us where [`Rules`] say so, and the server hears none
//! of it.

mod capability;
mod client;
mod command;
mod date;
mod fetch;
pub mod fuzz;
mod lexis;
mod line;
mod login;
mod opening;
mod ours;
mod reading;
mod removing;
mod saving;
mod server;
mod words;

use std::collections::VecDeque;

use super::{
    sasl::{extend, wipe},
    watch::{CopyId, Place, Step, Watch},
};
use command::Command;

pub use opening::{Opening, OpeningRules};

/// Why a watcher is blind; values of the label `reason`.
pub const LOST_REASONS: &[&str] = &[
    COMPRESS,
    MULTIPLEX,
    LAYER,
    REPLICATION,
    LITERAL,
    REPLY,
    COMMANDS,
];

/// The server took up COMPRESS (RFC 4978).
const COMPRESS: &str = "compress";
/// Dovecot's framing between a proxy and its backend.
const MULTIPLEX: &str = "multiplex";
/// A SASL mechanism that may encrypt what follows.
const LAYER: &str = "security-layer";
/// Cyrus feeds a replica, with literals of a form of its own.
const REPLICATION: &str = "replication";
/// What may be a literal and may be none.
const LITERAL: &str = "literal";
/// The server answered what nobody asked.
const REPLY: &str = "reply";
/// More commands await their replies than are remembered, or one of too long a tag.
const COMMANDS: &str = "commands";

/// Commands that await their replies at once, at most.
const COMMANDS_MAX: usize = 1000;
/// A tag, at most: longer ones are waited for by nobody.
const TAG_BYTES_MAX: usize = 256;
/// Messages that are copied at once, at most: those of one command, which has one answer.
const COPIES_MAX: u32 = 1000;
/// With so many open, the next command that saves one is put off until the server has answered.
const COPIES_AT_ONCE: u32 = 64;

/// What the operator chose for a front end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// TLS can be ended for the client: STARTTLS is offered until [`Watch::secured`].
    pub starttls: bool,
    /// Logins that show their secret are refused until [`Watch::secured`]: the server offers them because its own leg has
    /// TLS.
    pub withholds_logins: bool,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Watcher {
    rules: Rules,
    secured: bool,
    /// The server has said a line.
    greeted: bool,
    /// Lost: everything is passed on unread.
    blind: bool,
    client: client::Client,
    server: server::Server,
    to_client: Out,
    to_server: Out,

    commands: VecDeque<Command>,
    /// How many copies are open.
    copies: u32,
    /// The next one's number. None is used again, so that nothing that comes late is taken for another's.
    next_copy: u32,
    place: Place,
    authenticated: bool,
    /// Messages in the selected folder, where that is known.
    exists: Option<u64>,
    /// The growth was told already: RECENT says it once more.
    grown: bool,
}

/// What is to be done before more of one side's bytes are read.
#[derive(Debug, Default)]
struct Out {
    steps: VecDeque<Step<'static>>,
    /// [`Step::Settle`], before them: it is told without a queue.
    settle: bool,
    /// So many of the next bytes were read already and are to be passed on.
    due: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// What becomes of bytes at the front.
enum Move {
    Pass(usize),
    /// Taken, not passed on: steps say what becomes of them.
    Take(usize),
    /// Content of a copy, to be passed on after it was shown.
    Content(CopyId, usize),
    /// Nothing, until the server has spoken.
    Wait,
}

/// What becomes of a line.
enum Verdict {
    Forward,
    Replace(Vec<u8>),
    Swallow,
    Wait,
}

impl Watcher {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// RFC 9051 section 6.2.3: until TLS, or until another way in.
    fn withholds_logins(&self) -> bool {
        let is_out = |command: &Command| matches!(command.kind, command::Kind::Unauthenticate);
        self.rules.withholds_logins
            && !self.secured
            && (!self.authenticated || self.commands.iter().any(is_out))
    }

    /// Is nothing of the server's to come before an answer of ours, and would it not fall into what the server is saying?
    fn may_answer(&self) -> bool {
        let server_is_quiet = self.server.is_between_lines() && self.to_client.is_empty();
        let is_answered = self.commands.iter().all(|command| command.doubted);
        self.blind || (self.greeted && is_answered && server_is_quiet)
    }

    fn out(&mut self, from: Side) -> &mut Out {
        match from {
            Side::Client => &mut self.to_server,
            Side::Server => &mut self.to_client,
        }
    }

    /// Bytes that pass in a row are one step.
    fn drive<'a>(&mut self, from: Side, input: &mut &'a [u8]) -> Option<Step<'a>> {
        let start = *input;
        let mut passed = 0;
        loop {
            let out = self.out(from);
            if passed > 0 && (input.is_empty() || out.settle || !out.steps.is_empty()) {
                return Some(Step::Pass(&start[..passed]));
            }
            if std::mem::take(&mut out.settle) {
                return Some(Step::Settle);
            }
            if let Some(step) = out.steps.pop_front() {
                if out.steps.is_empty() {
                    out.steps = VecDeque::new();
                }
                return Some(step);
            }
            if input.is_empty() {
                return None;
            }
            let due = out.due.min(input.len());
            out.due -= due;
            let next = match from {
                _ if due > 0 => Move::Pass(due),
                Side::Client => self.client_bytes(input),
                Side::Server => self.server_bytes(input),
            };
            match next {
                Move::Pass(bytes) => {
                    passed += bytes;
                    *input = &input[bytes..];
                }
                Move::Take(bytes) => {
                    *input = &input[bytes..];
                    if passed > 0 && bytes > 0 {
                        return Some(Step::Pass(&start[..passed]));
                    }
                }
                Move::Content(..) | Move::Wait if passed > 0 => {
                    return Some(Step::Pass(&start[..passed]));
                }
                Move::Content(copy, bytes) => {
                    match from {
                        Side::Client => self.client_content(bytes),
                        Side::Server => self.server_content(bytes),
                    }
                    self.out(from).due = bytes;
                    return Some(Step::Content {
                        copy,
                        bytes: input[..bytes].into(),
                    });
                }
                Move::Wait => return None,
            }
        }
    }

    /// A line is read: `unsaid` is what was held back of it, `piece` its last bytes.
    fn carry_out(
        &mut self,
        verdict: Verdict,
        from: Side,
        mut unsaid: Vec<u8>,
        piece: &[u8],
    ) -> Move {
        let out = self.out(from);
        match verdict {
            Verdict::Forward if unsaid.is_empty() && out.steps.is_empty() => {
                return Move::Pass(piece.len());
            }
            Verdict::Forward if unsaid.is_empty() => {
                out.due = piece.len();
                return Move::Take(0);
            }
            Verdict::Forward => {
                let mut line = unsaid;
                extend(&mut line, piece);
                out.steps.push_back(Step::Say(line));
            }
            Verdict::Replace(line) => out.steps.push_back(Step::Say(line)),
            Verdict::Swallow => wipe(&mut unsaid),
            Verdict::Wait => {
                wipe(&mut unsaid);
                return Move::Wait;
            }
        }
        Move::Take(piece.len())
    }

    fn open_copy(&mut self) -> Option<CopyId> {
        if self.copies == COPIES_MAX {
            return None;
        }
        self.copies += 1;
        let id = self.next_copy;
        self.next_copy = id.wrapping_add(1);
        Some(CopyId(id))
    }

    fn close_copy(&mut self) {
        self.copies = self.copies.saturating_sub(1);
    }

    fn drop_copy(&mut self, from: Side, copy: CopyId) {
        self.close_copy();
        self.out(from).steps.push_back(Step::Drop { copy });
    }

    /// From here on everything is passed on.
    fn lost(&mut self, from: Side, reason: &'static str) {
        if !self.blind {
            self.blind = true;
            // What comes now may remove what was copied up to here.
            self.to_server.steps.push_back(Step::Settle);
            self.copies = 0;
            self.commands = VecDeque::new();
            self.place.folder = None;
            self.place.uid_validity = None;
            self.out(from).steps.push_back(Step::Lost { reason });
        }
    }

    /// What was held back when the watcher became blind, then the bytes at hand.
    fn pass_blindly(&mut self, from: Side, bytes: &[u8]) -> Move {
        let unsaid = match from {
            Side::Client => self.client.give_up(),
            Side::Server => self.server.give_up(),
        };
        if unsaid.is_empty() {
            return Move::Pass(bytes.len());
        }
        self.out(from).steps.push_back(Step::Say(unsaid));
        Move::Take(0)
    }
}

impl Watch for Watcher {
    fn client<'a>(&mut self, input: &mut &'a [u8]) -> Option<Step<'a>> {
        self.drive(Side::Client, input)
    }

    fn server<'a>(&mut self, input: &mut &'a [u8]) -> Option<Step<'a>> {
        self.drive(Side::Server, input)
    }

    fn secured(&mut self) {
        self.secured = true;
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn owes_answer(&self) -> bool {
        let mut commands = self.commands.iter();
        let is_owed = commands.any(|command| !matches!(command.kind, command::Kind::Idle));
        !self.blind && self.client.has_said_all() && is_owed
    }

    fn farewell(&self) -> Option<&'static [u8]> {
        if self.blind {
            return Some(b"");
        }
        let is_quiet = self.client.is_between_lines()
            && self.server.is_between_lines()
            && self.to_client.is_empty()
            && self.to_server.is_empty()
            && self
                .commands
                .iter()
                .all(|c| matches!(c.kind, command::Kind::Idle));
        is_quiet.then_some(b"* BYE Going down, come back in a moment\r\n")
    }
}

impl Out {
    fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.due == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::watch::{Form, Found, Hint, Message};

    /// What comes of a session said in pieces of this size: to the server, to the client, and the other steps, contents
    /// joined.
    fn session(said: &[(char, &str)], size: usize) -> (String, String, Vec<String>) {
        let mut watcher = Watcher::new(Rules {
            starttls: true,
            ..Rules::default()
        });
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let mut seen: Vec<String> = Vec::new();
        let mut content: Vec<u8> = Vec::new();
        for (who, text) in said {
            for mut piece in text.as_bytes().chunks(size) {
                loop {
                    let step = match who {
                        'C' => watcher.client(&mut piece),
                        _ => watcher.server(&mut piece),
                    };
                    let Some(step) = step else { break };
                    let (ahead, back) = match who {
                        'C' => (&mut to_server, &mut to_client),
                        _ => (&mut to_client, &mut to_server),
                    };
                    match step {
                        Step::Pass(bytes) => ahead.extend_from_slice(bytes),
                        Step::Say(bytes) => ahead.extend(bytes),
                        Step::Reply(bytes) => back.extend(bytes),
                        Step::Content { bytes, .. } => content.extend_from_slice(&bytes),
                        Step::Commit { found, .. } => {
                            let text = String::from_utf8(std::mem::take(&mut content)).unwrap();
                            seen.push(format!("{text:?} {found:?}"));
                        }
                        step => seen.push(format!("{step:?}")),
                    }
                }
                assert!(piece.is_empty(), "put off");
            }
        }
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(to_server), text(to_client), seen)
    }

    #[test]
    fn a_session_is_followed() {
        let said = [
            (
                'S',
                "* OK [CAPABILITY IMAP4rev1 COMPRESS=DEFLATE] hi {5}\r\n",
            ),
            ('C', "a LOGIN \"an\\\"na\" secret\r\n"),
            ('S', "a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n"),
            ('C', "b SELECT INBOX\r\n"),
            ('S', "* 2 EXISTS\r\n* OK [UIDVALIDITY 9] x\r\nb OK done\r\n"),
            ('C', "c APPEND INBOX (\\Seen) {4}\r\n"),
            ('S', "+ go {7}\r\n"),
            ('C', "mail\r\n"),
            ('S', "* 3 EXISTS\r\nc OK [APPENDUID 9 7] done\r\n"),
            ('C', "d UID FETCH 7 BODY.PEEK[]\r\n"),
            (
                'S',
                "* 3 FETCH (BODY[] {4}\r\nmail UID 7 FLAGS (\\Seen))\r\nd OK done\r\n",
            ),
        ];
        let found = Found {
            folder: "INBOX".into(),
            uid: Some(7),
            uid_validity: Some(9),
            flags: vec!["\\Seen".into()],
            internal_date: None,
        };
        let begin = |copy, message| Step::Begin {
            copy: CopyId(copy),
            message,
        };
        let saved = Message::Saved {
            folder: "INBOX".into(),
        };
        let read = Message::Read {
            uid: None,
            uidl: None,
            bytes: Some(4),
            form: Form::AsItLies,
        };
        let login = Step::Login {
            user: "an\"na".into(),
            before: Vec::new(),
        };
        let let_in = Step::Authenticated {
            user: Some("an\"na".into()),
        };
        let arrival = Step::Hint(Hint::Arrival);
        let steps = [login, let_in, begin(0, saved), arrival, begin(1, read)];
        let mut expected: Vec<_> = steps.iter().map(|step| format!("{step:?}")).collect();
        let commit = format!("\"mail\" {found:?}");
        expected.insert(4, commit.clone());
        expected.push(commit);
        for size in [1, 7, 1000] {
            let (to_server, to_client, seen) = session(&said, size);
            let all = |side| -> String {
                let lines = said.iter().filter(|(who, _)| *who == side);
                lines.map(|(_, text)| *text).collect()
            };
            assert_eq!(to_server, all('C'));
            let edited = all('S').replace(" COMPRESS=DEFLATE", " STARTTLS");
            assert_eq!(to_client, edited, "{size}");
            assert_eq!(seen, expected, "{size}");
        }
    }
}
