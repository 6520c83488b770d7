//! Entries for the fuzz targets in `tests/fuzz/`, for the property tests and for the cases: a session carried as whoever
//! carries the bytes must do it.

use std::collections::BTreeMap;

mod lexis;

pub use lexis::lexis;

use super::{
    COMMANDS_MAX, COPIES_MAX, Rules, Watcher,
    command::{Command, Kind},
    line::LINE_BYTES_MAX,
};
use crate::wire::watch::{CopyId, Form, Found, Hint, Message, Step, Watch};

/// A session between a client and a server that are not there.
#[derive(Debug)]
pub struct Session {
    pub watcher: Watcher,
    /// Bytes at once, at most.
    size: usize,
    /// What the client has said and the watcher has put off.
    put_off: Vec<u8>,
    pub to_server: Vec<u8>,
    pub to_client: Vec<u8>,
    /// What the client heard from us.
    pub replies: Vec<u8>,
    copies: BTreeMap<u32, (Message, Vec<u8>)>,
    pub seen: Vec<Seen>,
}

/// What came of it but bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Login {
        user: Vec<u8>,
        before: Vec<u8>,
        /// So many bytes the server had heard by then.
        heard: usize,
    },
    Authenticated(Option<Vec<u8>>),
    StartTls,
    Settle {
        /// So many bytes the server had heard by then.
        heard: usize,
    },
    Begun(Message),
    Committed {
        message: Message,
        content: Vec<u8>,
        found: Found,
        /// So many bytes the client had heard by then.
        heard: usize,
    },
    Dropped,
    Uncopied,
    Hint(Hint),
    Lost(&'static str),
}

impl Seen {
    /// Whoever is let in may say anything.
    fn ends_withholding(&self) -> bool {
        matches!(
            self,
            Self::Authenticated(_) | Self::StartTls | Self::Lost(_)
        )
    }

    /// Without what has been heard by then: of a line that is not whole it is less or more.
    fn timeless(&self) -> Self {
        let mut seen = self.clone();
        if let Self::Login { heard, .. } | Self::Settle { heard } | Self::Committed { heard, .. } =
            &mut seen
        {
            *heard = 0;
        }
        seen
    }
}

impl Session {
    pub fn new(rules: Rules, size: usize) -> Self {
        Self {
            watcher: Watcher::new(rules),
            size: size.max(1),
            put_off: Vec::new(),
            to_server: Vec::new(),
            to_client: Vec::new(),
            replies: Vec::new(),
            copies: BTreeMap::new(),
            seen: Vec::new(),
        }
    }

    /// Whether the client has said what the watcher does not take before the server has spoken.
    pub fn is_put_off(&self) -> bool {
        !self.put_off.is_empty()
    }

    pub fn client(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(self.size) {
            self.put_off.extend_from_slice(piece);
            if !self.client_again() {
                return;
            }
        }
    }

    /// False: TLS begins, and what else was said before it is nobody's.
    fn client_again(&mut self) -> bool {
        let bytes = std::mem::take(&mut self.put_off);
        let mut input = &bytes[..];
        while let Some(step) = self.watcher.client(&mut input) {
            let is_last = matches!(step, Step::StartTls { .. });
            self.step(step, true);
            if is_last {
                return false;
            }
        }
        self.put_off = input.to_vec();
        true
    }

    pub fn server(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(self.size) {
            let mut input = piece;
            while let Some(step) = self.watcher.server(&mut input) {
                self.step(step, false);
            }
            assert!(input.is_empty(), "the server is never put off");
            self.client_again();
        }
    }

    fn step(&mut self, step: Step<'_>, from_client: bool) {
        let ahead = match from_client {
            true => &mut self.to_server,
            false => &mut self.to_client,
        };
        let seen = match step {
            Step::Pass(bytes) => return ahead.extend_from_slice(bytes),
            Step::Say(bytes) => return ahead.extend(bytes),
            Step::Reply(bytes) | Step::Withhold { reply: bytes } => return self.reply(bytes),
            Step::Settle => {
                assert!(from_client, "nothing that a server says removes anything");
                let is_all_said = self.watcher.server.is_between_lines() || self.watcher.blind;
                assert!(is_all_said, "a message may be on its way");
                Seen::Settle {
                    heard: self.to_server.len(),
                }
            }
            Step::StartTls { reply } => {
                self.reply(reply);
                self.watcher.secured();
                Seen::StartTls
            }
            Step::Login { user, before } => Seen::Login {
                user: user.as_bytes().to_vec(),
                before,
                heard: self.to_server.len(),
            },
            Step::Authenticated { user } => {
                Seen::Authenticated(user.map(|user| user.as_bytes().to_vec()))
            }
            Step::Begin { copy, message } => {
                let begun = Seen::Begun(message.clone());
                let before = self.copies.insert(copy.0, (message, Vec::new()));
                assert!(before.is_none(), "a copy begins twice");
                begun
            }
            Step::Content { copy, bytes } => {
                let copy = self.copies.get_mut(&copy.0);
                let (_, content) = copy.expect("content of a copy that has begun");
                assert!(!bytes.is_empty(), "no content");
                return content.extend_from_slice(&bytes);
            }
            Step::Commit { copy, found } => {
                let (message, content) = self.ended(copy);
                Seen::Committed {
                    message,
                    content,
                    found,
                    heard: self.to_client.len(),
                }
            }
            Step::Drop { copy } => {
                self.ended(copy);
                Seen::Dropped
            }
            Step::Uncopied => Seen::Uncopied,
            Step::Hint(hint) => Seen::Hint(hint),
            Step::Lost { reason } => {
                self.copies.clear();
                Seen::Lost(reason)
            }
        };
        self.seen.push(seen);
    }

    fn reply(&mut self, bytes: Vec<u8>) {
        let server = &self.watcher.server;
        assert!(
            server.is_between_lines(),
            "the client hears it within something else"
        );
        self.replies.extend(bytes);
    }

    fn ended(&mut self, copy: CopyId) -> (Message, Vec<u8>) {
        let copy = self.copies.remove(&copy.0);
        copy.expect("the end of a copy that has begun")
    }
}

/// Two lines of 8 KiB in buffers that grow by doubling, a name, and a message's header.
const HELD_BYTES_MAX: usize = 72 << 10;

/// All that was said by either side, and what came of it.
struct Talk {
    by_client: Vec<u8>,
    by_server: Vec<u8>,
    session: Session,
    /// So many bytes the server had heard in the turns before anybody was let in, TLS began or track was lost.
    heard: usize,
    /// The client spoke before it was its turn: what it said is read as soon as the server has said enough.
    was_put_off: bool,
}

/// Bytes of either side, as they come: 0xfe and 0xff say that what follows is the client's or the server's. Whatever they
/// are, little is held; chunking changes nothing; what is said is heard, in its order, but for lines that are edited; and
/// what is copied was said. Where logins are withheld, the server hears nothing that may be one. Gives the copies.
pub fn scramble(input: &[u8], size: usize) -> Vec<Vec<u8>> {
    let withholding = Rules {
        withholds_logins: true,
        ..Rules::default()
    };
    let both = Rules {
        starttls: true,
        ..withholding
    };
    Talk::hold(input, size, both);
    let talk = Talk::hold(input, size, withholding);
    talk.check_withheld();
    talk.is_the_same_whole(input, withholding);
    let talk = Talk::hold(input, size, Rules::default());
    talk.check();
    talk.is_the_same_whole(input, Rules::default());
    let copies = talk.session.seen.into_iter().filter_map(|seen| match seen {
        Seen::Committed { content, .. } => Some(content),
        _ => None,
    });
    copies.collect()
}

impl Talk {
    fn is_the_same_whole(&self, input: &[u8], rules: Rules) {
        if self.was_put_off {
            return;
        }
        let whole = Self::hold(input, usize::MAX, rules).session;
        let session = &self.session;
        // A withheld login that is too long for a line is settled in one piece, needlessly, and not in several.
        let mut lines = input.split(|byte| *byte == b'\n');
        let is_long = lines.any(|line| line.len() >= LINE_BYTES_MAX);
        // A name that the server had to ask for is told when the client is next attended to.
        let parted = |session: &Session| -> (Vec<Seen>, Vec<Seen>) {
            let seen = session.seen.iter().map(Seen::timeless);
            let (mut asked, told): (Vec<_>, Vec<_>) =
                seen.partition(|seen| matches!(seen, Seen::Login { .. } | Seen::Settle { .. }));
            // A line too long to be held is settled before its beginning goes on, and track may be lost with its end.
            let is_lost = matches!(told.last(), Some(Seen::Lost(_)));
            let settled = Seen::Settle { heard: 0 };
            while is_lost && asked.ends_with(&[settled.clone(), settled.clone()]) {
                asked.pop();
            }
            asked.retain(|seen| !(is_long && matches!(seen, Seen::Settle { .. })));
            (asked, told)
        };
        assert_eq!(parted(&whole), parted(session));
        assert_eq!(whole.replies, session.replies);
        assert!(
            whole.to_server == session.to_server,
            "the server hears something else in pieces"
        );
        assert!(
            whole.to_client == session.to_client,
            "the client hears something else in pieces"
        );
        assert_eq!(whole.watcher.place(), session.watcher.place());
    }

    fn hold(input: &[u8], size: usize, rules: Rules) -> Self {
        let mut session = Session::new(rules, size);
        let (mut by_client, mut by_server) = (Vec::new(), Vec::new());
        let (mut from_client, mut was_put_off) = (false, false);
        let mut heard = 0;
        for said in input.split_inclusive(|byte| *byte >= 0xfe) {
            let (said, next) = match said.split_last() {
                Some((side @ 0xfe.., said)) => (said, *side == 0xfe),
                _ => (said, from_client),
            };
            if from_client {
                by_client.extend_from_slice(said);
                session.client(said);
            } else {
                by_server.extend_from_slice(said);
                session.server(said);
            }
            from_client = next;
            was_put_off |= session.is_put_off();
            if !session.seen.iter().any(Seen::ends_withholding) {
                heard = session.to_server.len();
            }
            let watcher = &session.watcher;
            let held = watcher.client.held() + watcher.server.held();
            assert!(held <= HELD_BYTES_MAX, "{held} bytes are held");
            assert!(
                watcher.commands.len() <= COMMANDS_MAX,
                "too many are remembered"
            );
            assert!(session.copies.len() <= COPIES_MAX as usize);
            let is_login = |command: &Command| matches!(command.kind, Kind::Login(_));
            assert!(
                !watcher.withholds_logins()
                    || watcher.blind
                    || find(input, b"UNAUTHENTICATE").is_some()
                    || !watcher.commands.iter().any(is_login),
                "a login is with the server"
            );
        }
        // What is held at the end is as good as heard.
        let watcher = &mut session.watcher;
        session.to_server.extend(watcher.client.give_up());
        session.to_server.append(&mut session.put_off);
        session.to_client.extend(watcher.server.give_up());
        Self {
            by_client,
            by_server,
            session,
            heard,
            was_put_off,
        }
    }

    fn check_withheld(&self) {
        let to_server = &self.session.to_server;
        assert!(
            is_within(to_server, &self.by_client),
            "the server hears what was not said"
        );
        // An answer to a challenge has no verb, and TLS may begin without us.
        let words = [&b"AUTHENTICATE"[..], b"STARTTLS"];
        if words.iter().any(|it| find(&self.by_client, it).is_some()) {
            return;
        }
        let heard = &to_server[..self.heard];
        for line in heard.split_inclusive(|byte| *byte == b'\n') {
            assert!(
                !line.ends_with(b"\n") || is_no_login(line),
                "it may be a login: {}",
                line.escape_ascii()
            );
        }
    }

    fn check(&self) {
        let session = &self.session;
        let to_server = &session.to_server;
        heard(
            &self.by_client,
            to_server,
            b"X-MULTIPLEX",
            Some(b"STARTTLS"),
        );
        heard(&self.by_server, &session.to_client, b"CAPABILITY", None);
        if find(&self.by_client, b"STARTTLS").is_none() {
            assert_eq!(
                session.replies.escape_ascii().to_string(),
                "",
                "nobody asked us"
            );
        }
        for seen in &session.seen {
            let Seen::Committed {
                message, content, ..
            } = seen
            else {
                continue;
            };
            let (said, is_joined) = match message {
                Message::Saved { .. } => {
                    assert!(find(&self.by_server, b" OK").is_some(), "saved by whom?");
                    (
                        &self.by_client,
                        find(&self.by_client, b"CATENATE").is_some(),
                    )
                }
                Message::Read { form, .. } => {
                    let is_escaped = self.by_server.contains(&b'\\');
                    (&self.by_server, *form == Form::Joined || is_escaped)
                }
            };
            let did_pass = match is_joined {
                true => is_within(content, said),
                false => memchr::memmem::find(said, content).is_some(),
            };
            assert!(
                did_pass,
                "copied and never said: {}",
                content.escape_ascii()
            );
        }
    }
}

/// A tag, one of the few commands that are said before a login, and no byte that a server might read as another.
fn is_no_login(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let (tag, verb) = (words.next().unwrap_or_default(), words.next());
    let said = [&b"CAPABILITY"[..], b"ID", b"LOGOUT", b"NOOP"];
    let is_said = verb.is_some_and(|verb| said.iter().any(|it| verb.eq_ignore_ascii_case(it)));
    let is_plain = tag
        .iter()
        .all(|byte| byte.is_ascii_graphic() && *byte != b'"');
    line.is_empty()
        || (is_said && is_plain && !tag.is_empty() && !line.iter().any(u8::is_ascii_control))
}

/// Line by line: as it was said, or less of it where it has the word by which it is edited, or nothing where we answer it.
fn heard(said: &[u8], heard: &[u8], edited: &[u8], answered: Option<&[u8]>) {
    let mut heard = heard.split_inclusive(|byte| *byte == b'\n').peekable();
    for line in said.split_inclusive(|byte| *byte == b'\n') {
        let has = |word| find(line, word).is_some();
        match heard.peek() {
            Some(same) if *same == line => {}
            Some(other) if has(edited) && other.len() > 5 && is_within(other, line) => {}
            _ if answered.is_some_and(has) => continue,
            other => panic!(
                "{:?} is heard for {:?}",
                other.map(|other| other.escape_ascii().to_string()),
                line.escape_ascii().to_string()
            ),
        }
        heard.next();
    }
    assert!(heard.next().is_none(), "more is heard than was said");
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    let mut places = text.windows(word.len());
    places.position(|place| place.eq_ignore_ascii_case(word))
}

/// Is `part` what remains of `whole` when some bytes are left out?
fn is_within(part: &[u8], whole: &[u8]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|byte| whole.any(|other| other == byte))
}
