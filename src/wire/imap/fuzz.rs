//! Entries for the fuzz target in `tests/fuzz/`, for the property tests and for the cases: a session carried as whoever
//! carries the bytes must do it.

use std::collections::BTreeMap;

use super::{Rules, Watcher};
use crate::wire::watch::{CopyId, Found, Hint, Message, Step, Watch};

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
    Begun(Message),
    Committed {
        message: Message,
        content: Vec<u8>,
        found: Found,
        /// So many bytes the client had heard by then.
        heard: usize,
    },
    Dropped,
    Hint(Hint),
    Lost(&'static str),
}

impl Session {
    pub fn new(rules: Rules, size: usize) -> Self {
        Self {
            watcher: Watcher::new(rules),
            size: size.max(1),
            put_off: Vec::new(),
            to_server: Vec::new(),
            to_client: Vec::new(),
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
        let (ahead, back) = match from_client {
            true => (&mut self.to_server, &mut self.to_client),
            false => (&mut self.to_client, &mut self.to_server),
        };
        let seen = match step {
            Step::Pass(bytes) => return ahead.extend_from_slice(bytes),
            Step::Say(bytes) => return ahead.extend(bytes),
            Step::Reply(bytes) => return back.extend(bytes),
            Step::StartTls { reply } => {
                back.extend(reply);
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
                return content.extend_from_slice(bytes);
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
            Step::Hint(hint) => Seen::Hint(hint),
            Step::Lost { reason } => {
                self.copies.clear();
                Seen::Lost(reason)
            }
        };
        self.seen.push(seen);
    }

    fn ended(&mut self, copy: CopyId) -> (Message, Vec<u8>) {
        let copy = self.copies.remove(&copy.0);
        copy.expect("the end of a copy that has begun")
    }
}

/// Two lines of 8 KiB in buffers that grow by doubling, and a name.
const HELD_BYTES_MAX: usize = 40 << 10;

/// Bytes of either side, as they come: 0xfe and 0xff say that what follows is the client's or the server's. Whatever they
/// are, little is held; and what is said is heard, in its order, unless it has a word that is edited.
pub fn scramble(input: &[u8], size: usize) {
    for starttls in [false, true] {
        let mut session = Session::new(Rules { starttls }, size);
        let (mut by_client, mut by_server) = (Vec::new(), Vec::new());
        let mut from_client = false;
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
            let watcher = &session.watcher;
            let held = watcher.client.held() + watcher.server.held();
            assert!(held <= HELD_BYTES_MAX, "{held} bytes are held");
        }
        let edited = [&b"CAPABILITY"[..], b"STARTTLS", b"X-MULTIPLEX"];
        let is_edited = edited.iter().any(|word| {
            let mut places = input.windows(word.len());
            places.any(|place| place.eq_ignore_ascii_case(word))
        });
        if !is_edited {
            let watcher = &mut session.watcher;
            session.to_server.extend(watcher.client.give_up());
            session.to_server.append(&mut session.put_off);
            session.to_client.extend(watcher.server.give_up());
            assert!(
                session.to_server == by_client,
                "the server hears something else"
            );
            assert!(
                session.to_client == by_server,
                "the client hears something else"
            );
        }
    }
}
