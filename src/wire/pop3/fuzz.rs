//! Entries for the fuzz target in `tests/fuzz/` and for the property tests: whatever either side says, nothing panics, all
//! of it is handed on or answered by us, and chunking changes nothing.

use super::{words::line_of, *};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// What came of a session.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What each side heard.
    pub to_server: Vec<u8>,
    pub to_client: Vec<u8>,
    /// What the client heard from us.
    pub replies: Vec<u8>,
    /// The copies that were committed, with the ids of their messages.
    pub copies: Vec<(Option<String>, Vec<u8>)>,
    /// For each settling how many bytes the server had heard, and how many copies were committed.
    pub settled: Vec<(usize, usize)>,
    /// All other steps, in their order, as text.
    pub told: Vec<String>,
    /// Neither handed on nor answered: each side's last line, if it is not whole, and what waits for the server.
    pub kept: [Vec<u8>; 2],
    pub place: Place,
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "to server {}", self.to_server.escape_ascii())?;
        writeln!(f, "to client {}", self.to_client.escape_ascii())?;
        writeln!(f, "replies   {}", self.replies.escape_ascii())?;
        for (uidl, copy) in &self.copies {
            writeln!(f, "copy      {uidl:?} {}", copy.escape_ascii())?;
        }
        writeln!(f, "settled   {:?}", self.settled)?;
        for told in &self.told {
            writeln!(f, "told      {told}")?;
        }
        for kept in &self.kept {
            writeln!(f, "kept      {}", kept.escape_ascii())?;
        }
        writeln!(f, "place     {:?}", self.place)
    }
}

/// One who carries the bytes.
struct Carrier {
    watcher: Watcher,
    outcome: Outcome,
    /// Of the client's bytes, what has to wait.
    waiting: Vec<u8>,
    open: Option<(Option<String>, Vec<u8>)>,
}

/// Lets both sides speak in turn, in pieces of `step` bytes.
pub fn session(rules: Rules, said: &[(Side, Vec<u8>)], step: usize) -> Outcome {
    let mut carrier = Carrier {
        watcher: Watcher::new(rules),
        outcome: Outcome::default(),
        waiting: Vec::new(),
        open: None,
    };
    for (side, bytes) in said {
        for piece in bytes.chunks(step.max(1)) {
            carrier.say(*side, piece);
        }
        carrier.say(Side::Client, b"");
    }
    let Carrier {
        mut watcher,
        mut outcome,
        waiting,
        ..
    } = carrier;
    assert!(watcher.awaited.len() <= AWAITED_MAX + 1);
    assert!(watcher.client.held.len() <= 8_191 && watcher.server.held.len() <= 1024);
    outcome.place = watcher.place;
    let held = mem::take(&mut watcher.client.held);
    outcome.kept = [
        [held, waiting].concat(),
        mem::take(&mut watcher.server.held),
    ];
    outcome
}

/// The law where logins are withheld: none is with the server, what it hears was said, and chunking changes nothing.
fn check_withheld(said: &[(Side, Vec<u8>)], step: usize) {
    let rules = Rules {
        withholds_logins: true,
        ..Rules::default()
    };
    let outcome = session(rules, said, usize::MAX);
    assert_eq!(
        session(rules, said, step),
        outcome,
        "chunking changed something"
    );
    let client = said_by(Side::Client, said);
    let handed = handed_on(&outcome);
    assert!(
        is_within(&handed, &client),
        "what the server hears was not said"
    );
    // Behind AUTH a line may be an answer; behind a login they are for the server.
    let ends = ["Lost", "Authenticated"];
    let is_followed = |told: &String| ends.iter().any(|end| told.starts_with(end));
    if outcome.told.iter().any(is_followed)
        || memchr::memmem::find(&upper(&client), b"AUTH").is_some()
    {
        return;
    }
    let mut lines = outcome.to_server.split(|byte| *byte == b'\n');
    let is_login = |line: &[u8]| {
        let verb = line.split(u8::is_ascii_whitespace).next();
        verb.is_some_and(|verb| matches!(&*upper(verb), b"USER" | b"PASS"))
    };
    assert!(!lines.any(is_login), "a login is with the server");
}

/// The law for what the server hears: every line of it begins with a verb that all servers read alike, and none that is
/// ours to answer; behind a loss it may be anything, but before the login none that names the client. Behind AUTH a line
/// may be an answer.
fn check_verbs(outcome: &Outcome, client: &[u8]) {
    let is_told = |what| outcome.told.iter().any(|told| told.starts_with(what));
    if memchr::memmem::find(&upper(client), b"AUTH").is_some() {
        return;
    }
    for line in outcome.to_server.split_inclusive(|byte| *byte == b'\n') {
        let is_blank = |byte: &&u8| matches!(byte, b' ' | b'\t');
        let word = line.iter().skip_while(is_blank);
        let word = word.take_while(|byte| !is_blank(byte)).copied();
        let word: Vec<_> = word.filter(u8::is_ascii_graphic).collect();
        let names_client = matches!(&*upper(&word), b"XCLIENT" | b"XOIP");
        assert!(
            is_told("Authenticated") || !names_client,
            "the server is told who the client is"
        );
        if is_told("Lost") {
            continue;
        }
        assert!(line.len() <= 8_191, "a line for two is with the server");
        let line = line_of(line);
        let verb = upper(line.split(|byte| *byte == b' ').next().unwrap_or_default());
        assert!(!line.contains(&0), "a NUL is with the server");
        let is_clear = (1..8).contains(&verb.len()) && verb.iter().all(u8::is_ascii_graphic);
        let is_ours = matches!(&*verb, b"XCLIENT" | b"XOIP" | b"STLS");
        assert!(
            is_clear && !is_ours,
            "{} is with the server",
            line.escape_ascii()
        );
    }
}

/// What the server hears of the client, or is to hear: not that a dialogue is over, in place of an answer.
fn handed_on(outcome: &Outcome) -> Vec<u8> {
    let lines = outcome.to_server.split_inclusive(|byte| *byte == b'\n');
    let lines = lines.filter(|line| *line != b"*\r\n");
    lines
        .chain([&*outcome.kept[0]])
        .collect::<Vec<_>>()
        .concat()
}

fn upper(bytes: &[u8]) -> Vec<u8> {
    bytes.to_ascii_uppercase()
}

fn said_by(side: Side, said: &[(Side, Vec<u8>)]) -> Vec<u8> {
    let bytes = said.iter().filter(|(by, _)| *by == side);
    bytes.flat_map(|(_, bytes)| bytes.clone()).collect()
}

/// The law for any session without TLS of ours: what is handed on is what was said, but for the lines that are edited or
/// answered by us; and chunking changes nothing.
pub fn check(said: &[(Side, Vec<u8>)], step: usize) -> Outcome {
    let rules = Rules::default();
    let outcome = session(rules, said, usize::MAX);
    assert_eq!(
        session(rules, said, step),
        outcome,
        "chunking changed something"
    );
    check_withheld(said, step);
    let [client, server] = [Side::Client, Side::Server].map(|side| said_by(side, said));
    let handed = handed_on(&outcome);
    assert!(
        is_within(&handed, &client),
        "what the server hears was not said"
    );
    // A line of ours that is longer than what is held is gone before it is answered, and where track is lost without an answer.
    let is_lost = outcome.told.iter().any(|told| told.starts_with("Lost"));
    let has_dialogue = memchr::memmem::find(&upper(&client), b"AUTH").is_some();
    if outcome.replies.is_empty() && client.len() <= 8_191 && !is_lost && !has_dialogue {
        assert_eq!(
            outcome.to_server.len() + outcome.kept[0].len(),
            client.len(),
            "bytes of the client are gone"
        );
    }
    check_verbs(&outcome, &client);
    let handed = [&outcome.to_client[..], &outcome.kept[1]].concat();
    assert!(
        is_within(&handed, &server),
        "what the client hears was not said"
    );
    let upper = upper(&server);
    let edits = [&b"STLS"[..], b"XCLIENT", b"SASL"];
    if !edits
        .iter()
        .any(|word| memchr::memmem::find(&upper, word).is_some())
    {
        assert_eq!(handed.len(), server.len(), "bytes of the server are gone");
    }
    outcome
}

/// Is `part` what remains of `whole` when some bytes are left out?
fn is_within(part: &[u8], whole: &[u8]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|byte| whole.any(|other| other == byte))
}

impl Carrier {
    fn say(&mut self, side: Side, piece: &[u8]) {
        let mut unread = mem::take(&mut self.waiting);
        let mut input = piece;
        if side == Side::Client {
            unread.extend_from_slice(piece);
            input = &unread;
        }
        loop {
            let step = match side {
                Side::Client => self.watcher.client(&mut input),
                Side::Server => self.watcher.server(&mut input),
            };
            let Some(step) = step else { break };
            if step
                == (Step::StartTls {
                    reply: BEGIN_TLS.to_vec(),
                })
            {
                input = b"";
                self.watcher.secured();
            }
            self.take(side, step);
        }
        if side == Side::Client {
            self.waiting = input.to_vec();
        } else {
            assert!(input.is_empty(), "the server need not wait");
            self.waiting = unread;
        }
    }

    fn take(&mut self, side: Side, step: Step<'_>) {
        let outcome = &mut self.outcome;
        let heard = match side {
            Side::Client => &mut outcome.to_server,
            Side::Server => &mut outcome.to_client,
        };
        match step {
            Step::Pass(bytes) => {
                assert!(!bytes.is_empty());
                heard.extend_from_slice(bytes);
            }
            Step::Say(bytes) => heard.extend_from_slice(&bytes),
            Step::Reply(bytes) | Step::Withhold { reply: bytes } => {
                outcome.replies.extend_from_slice(&bytes);
            }
            Step::Settle => {
                assert_eq!(side, Side::Client);
                assert_eq!(self.open, None, "a message is on its way");
                let heard = outcome.to_server.len();
                outcome.settled.push((heard, outcome.copies.len()));
            }
            Step::Uncopied => unreachable!("nothing is saved by POP3"),
            Step::Begin { copy, message } => {
                assert_eq!(copy, CopyId(0));
                let Message::Read { uidl, .. } = &message else {
                    panic!("nothing is saved by POP3");
                };
                let uidl = uidl.as_ref().map(ToString::to_string);
                let other = self.open.replace((uidl, Vec::new()));
                assert_eq!(other, None, "two at a time");
                outcome.told.push(format!("{message:?}"));
            }
            Step::Content { bytes, .. } => {
                let open = self.open.as_mut().expect("content of a copy that is open");
                open.1.extend_from_slice(&bytes);
            }
            Step::Commit { .. } => outcome.copies.extend(self.open.take()),
            Step::Lost { .. } => {
                self.open = None;
                outcome.told.push(format!("{step:?}"));
            }
            Step::Drop { .. } => {
                let dropped = self.open.take();
                assert!(dropped.is_some(), "nothing to drop");
            }
            Step::StartTls { .. }
            | Step::Login { .. }
            | Step::Authenticated { .. }
            | Step::Hint(_) => outcome.told.push(format!("{step:?}")),
        }
    }
}
