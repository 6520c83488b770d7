//! POP3 (RFC 1939) without I/O: the [`Watcher`] of a session between a client and its server, and its [`Opening`].
//!
//! A POP3 answer does not say what it answers, so all hangs on a queue of what is awaited. It is never guessed at: where
//! a client's bytes could mean two things until the server has answered (behind AUTH, behind a command that we do not
//! know), they wait for that; a thousand commands may be under way, and the next waits. An answer of a command that we do
//! not know has a list where bytes follow it and nothing else is awaited, or where they begin no reply.
//!
//! QUIT waits until all else is answered, and then until the copies are settled: it removes what DELE has marked.
//!
//! What is changed: CAPA, the greeting's `[XCLIENT]`, and what the server never sees, since it is ours to answer: STLS;
//! XCLIENT and XOIP, for the server would believe them; a line without a command, which some servers answer and some do
//! not; and one that servers read each in a way of its own, or whose rest some take for another (see the head of `words`), so
//! that it may be any command. So are logins that show their secret on a leg without TLS, where [`Rules`] say so. An answer
//! of that kind in an AUTH dialogue cancels it: the server hears `*` in its place.

mod auth;
mod capability;
mod client;
mod content;
pub mod fuzz;
mod lane;
mod opening;
mod ours;
mod server;
mod uidl;
mod words;

use std::{collections::VecDeque, mem};

pub use opening::{Opening, OpeningRules};

use super::watch::{CopyId, Form, Found, Hint, Message, Place, Step, Watch};
use crate::message::WireText;
use auth::Auth;
use lane::{Heard, Lane, LineEnd};
use ours::Ours;
use server::Reading;
use uidl::Uidls;

/// Why a watcher went blind: values of the label `reason`.
pub const LOST_REASONS: [&str; 3] = [
    // What came where a reply was due is none, or a reply came where none was.
    "reply",
    // A reply ended in LF alone: where such a server ends a list cannot be told from its content.
    "line_end",
    // XTND (RFC 1082) was taken up: the client may now send a message without a command.
    "xtnd",
];

/// Commands that await their replies at once; more of them wait at the client.
const AWAITED_MAX: usize = 1000;

/// What may be said in the server's name at the end (RFC 3206 section 3.1).
const FAREWELL: &[u8] = b"-ERR [SYS/TEMP] Closing down, please try again\r\n";

/// To the client's STLS (RFC 2595 section 4).
const BEGIN_TLS: &[u8] = b"+OK Begin TLS now\r\n";

/// What the operator chose for a front end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// We have a certificate: STLS is offered to the client.
    pub stls: bool,
    /// Logins that show their secret are refused until [`Watch::secured`]: the server offers them because its own leg has
    /// TLS.
    pub withholds_logins: bool,
}

/// See [`Watch`].
#[derive(Debug)]
pub struct Watcher {
    rules: Rules,
    secured: bool,
    lost: bool,
    place: Place,

    // what is said just now
    client: Lane,
    server: Lane,
    /// The client is in a line that is ours to answer, and too long to be held.
    long: Option<Ours>,
    reading: Reading,
    /// What may remove may go on: [`Step::Settle`] was told before it.
    is_settled: bool,
    /// Commands whose replies are to come, and the greeting.
    awaited: VecDeque<Awaited>,

    // what was learnt
    /// By the last USER that the server took, for PASS.
    named: Option<WireText>,
    uidls: Uidls,
    arrival_told: bool,
}

/// What a reply is about.
#[derive(Debug)]
enum Awaited {
    Greeting,
    /// One line that teaches nothing.
    Line,
    /// A list that teaches nothing.
    List,
    User(Option<WireText>),
    Pass,
    /// To APOP.
    Enter(Option<WireText>),
    Auth(Box<Auth>),
    Capabilities,
    Stat,
    Scan,
    Uidl,
    Uidls,
    Message(Option<u32>),
    Top(Top),
    Xtnd,
    Unknown,
}

/// TOP's arguments, where they are numbers.
#[derive(Clone, Copy, Debug)]
struct Top {
    number: Option<u32>,
    lines: Option<u64>,
}

impl Watcher {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            secured: false,
            lost: false,
            place: Place::default(),
            client: Lane::default(),
            server: Lane::default(),
            long: None,
            reading: Reading::default(),
            is_settled: false,
            awaited: VecDeque::from([Awaited::Greeting]),
            named: None,
            uidls: Uidls::default(),
            arrival_told: false,
        }
    }

    /// Has the server nothing to say, and was all done that it has said?
    fn is_quiet(&self) -> bool {
        self.awaited.is_empty() && self.reading.is_between() && self.server.steps.is_empty()
    }

    /// STLS belongs before the login (RFC 2595 section 4).
    fn offers_stls(&self) -> bool {
        self.rules.stls && !self.secured && self.place.folder.is_none()
    }

    /// RFC 2595 section 2.3: until TLS, or until another way in.
    fn withholds_logins(&self) -> bool {
        self.rules.withholds_logins && !self.secured && self.place.folder.is_none()
    }
}

impl Watch for Watcher {
    fn client<'a>(&mut self, input: &mut &'a [u8]) -> Option<Step<'a>> {
        loop {
            if let Some(step) = self.client.steps.pop_front() {
                return Some(step);
            }
            if self.lost {
                return self.hear_lost_client(input);
            }
            match self.hear_client(input) {
                Heard::More => {}
                Heard::Step(step) => return Some(step),
                Heard::Wait => return None,
            }
        }
    }

    fn server<'a>(&mut self, input: &mut &'a [u8]) -> Option<Step<'a>> {
        loop {
            if let Some(step) = self.server.steps.pop_front() {
                return Some(step);
            }
            if self.lost {
                return self.server.blindly(input);
            }
            match self.hear_server(input) {
                Heard::More => {}
                Heard::Step(step) => return Some(step),
                Heard::Wait => return None,
            }
        }
    }

    fn secured(&mut self) {
        self.secured = true;
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn owes_answer(&self) -> bool {
        !self.lost && !self.is_quiet() && self.client.held.is_empty()
    }

    fn farewell(&self) -> Option<&'static [u8]> {
        let between = self.is_quiet() && self.client.held.is_empty() && self.long.is_none();
        (between && !self.lost).then_some(FAREWELL)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        fuzz::{Outcome, Side, session},
        *,
    };

    const OFFERS_TLS: Rules = Rules {
        stls: true,
        withholds_logins: false,
    };

    fn talk(stls: bool, script: &str) -> Outcome {
        let rules = Rules {
            stls,
            withholds_logins: false,
        };
        talk_by(rules, script)
    }

    /// A session as a transcript: `C: ` and `S: ` before each line, whose end is CRLF.
    pub(super) fn talk_by(rules: Rules, script: &str) -> Outcome {
        let mut said: Vec<(Side, Vec<u8>)> = Vec::new();
        for line in script.lines().map(str::trim_start) {
            let (side, line) = match line.split_at_checked(3) {
                Some(("C: ", line)) => (Side::Client, line),
                Some(("S: ", line)) => (Side::Server, line),
                _ if line == "C:" => (Side::Client, ""),
                _ if line == "S:" => (Side::Server, ""),
                _ => panic!("whose line is {line}?"),
            };
            let line = format!("{line}\r\n").into_bytes();
            match said.last_mut() {
                Some((last, bytes)) if *last == side => bytes.extend(line),
                _ => said.push((side, line)),
            }
        }
        let outcome = session(rules, &said, usize::MAX);
        for step in [1, 7] {
            assert_eq!(session(rules, &said, step), outcome, "at {step}");
        }
        outcome
    }

    pub(super) fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn messages_are_copied_under_their_ids() {
        let outcome = talk(
            false,
            "S: +OK POP3 server ready <1896.697170952@dbc.mtview.ca.us>
             C: USER anna
             S: +OK
             C: PASS secret
             S: +OK
             C: STAT
             C: UIDL
             C: LIST
             S: +OK 2 320
             S: +OK
             S: 1 first
             S: 2 second
             S: .
             S: +OK 2 messages
             S: 1 120
             S: 2 200
             S: .
             C: RETR 2
             C: RETR 3
             C: RETR 1
             C: TOP 1 0
             C: DELE 1
             S: +OK 200 octets
             S: Subject: dots
             S:
             S: ..
             S: ...two
             S: +OK no reply
             S: .
             S: -ERR no such message
             S: +OK message follows
             S: Subject: one
             S: .
             S: +OK
             S: Subject: one
             S: .
             S: +OK
             C: QUIT
             S: +OK",
        );
        let second = b"Subject: dots\r\n\r\n.\r\n..two\r\n+OK no reply\r\n".to_vec();
        let copies = [
            (Some("second".to_owned()), second),
            (Some("first".to_owned()), b"Subject: one\r\n".to_vec()),
        ];
        assert_eq!(outcome.copies, copies);
        assert_eq!(outcome.place.user, Some("anna".into()));
        assert_eq!(outcome.place.folder, Some("INBOX".into()));
        let told = [
            r#"Login { user: "anna", before: [] }"#,
            r#"Authenticated { user: Some("anna") }"#,
            "Hint(Arrival)",
            r#"Read { uid: None, uidl: Some("second"), bytes: Some(200), form: AsItLies }"#,
            "Read { uid: None, uidl: Some(\"first\"), bytes: None, form: AsItLies }",
            "Hint(Seen)",
        ];
        assert_eq!(outcome.told, told);
        assert!(outcome.replies.is_empty());
    }

    #[test]
    fn top_of_all_lines_is_the_message() {
        let outcome = talk(
            false,
            "S: +OK
             C: TOP 1 99999999
             C: TOP 1 99999
             S: +OK
             S: ..a
             S: .
             S: +OK
             S: ..a
             S: .",
        );
        assert_eq!(outcome.copies, [(None, b".a\r\n".to_vec())]);
        assert_eq!(outcome.told.last().map(String::as_str), Some("Hint(Seen)"));
        let many = [&b"+OK\r\n"[..], &b"a\r\n".repeat(100_000), b".\r\n"].concat();
        let said = [
            (Side::Server, b"+OK\r\n".to_vec()),
            (Side::Client, b"TOP 1 100000\r\n".to_vec()),
            (Side::Server, many),
        ];
        let outcome = session(Rules::default(), &said, 4096);
        assert!(outcome.copies.is_empty(), "there may be more lines");
        assert_eq!(outcome.told.last().map(String::as_str), Some("Hint(Seen)"));
    }

    #[test]
    fn a_dialogue_names_its_user_and_what_is_behind_it_waits() {
        let entered = r#"Authenticated { user: Some("anna") }"#;
        // NUL anna NUL secret
        let outcome = talk(
            false,
            "S: +OK
             C: AUTH PLAIN
             S: +
             C: AGFubmEAc2VjcmV0
             C: STAT
             S: +OK
             C: NOOP
             S: +OK 0 0
             S: +OK",
        );
        let before = b"AUTH PLAIN\r\n";
        let login = format!("Login {{ user: \"anna\", before: {before:?} }}");
        assert_eq!(outcome.told, [login.as_str(), entered]);
        let outcome = talk(
            false,
            "S: +OK
             C: AUTH PLAIN
             C: AGFubmEAc2VjcmV0
             S: -ERR not here
             C: AUTH LOGIN
             C: *
             S: + VXNlcm5hbWU6
             C: AUTH plain AGFubmEAc2VjcmV0
             S: -ERR given up
             C: NOOP
             S: +OK",
        );
        let login = r#"Login { user: "anna", before: [] }"#;
        assert_eq!(outcome.told, [login, entered]);
        assert_eq!(text(&outcome.replies), "-ERR No such command\r\n");
        assert!(outcome.kept.concat().is_empty());
    }

    #[test]
    fn apop_is_named_and_a_refused_login_is_not_let_in() {
        let outcome = talk(
            false,
            "S: +OK ready <1@a>
             C: APOP anna c4c9334bac560ecc979e58001b3e22fb
             S: -ERR
             C: APOP berta c4c9334bac560ecc979e58001b3e22fb
             S: +OK",
        );
        assert_eq!(outcome.place.user, Some("berta".into()));
        assert_eq!(outcome.told.len(), 3);
    }

    #[test]
    fn stls_is_ours_and_alone() {
        let outcome = talk(
            true,
            "S: +OK [XCLIENT] Dovecot ready.
             C: CAPA
             C: STLS
             C: USER injected
             S: +OK
             S: STLS
             S: SASL PLAIN SCRAM-SHA-1-PLUS
             S: USER
             S: .
             C: CAPA
             S: +OK
             S: USER
             S: .
             C: STLS
             C: XCLIENT ADDR=192.0.2.1
             C:
             C: NOOP
             S: +OK",
        );
        let heard = "+OK Dovecot ready.\r\n+OK\r\nSASL PLAIN\r\nUSER\r\nSTLS\r\n.\r\n\
                     +OK\r\nUSER\r\n.\r\n+OK\r\n";
        assert_eq!(text(&outcome.to_client), heard);
        assert_eq!(text(&outcome.to_server), "CAPA\r\nCAPA\r\nNOOP\r\n");
        assert_eq!(text(&outcome.replies).matches("-ERR").count(), 3);
        assert_eq!(outcome.told.len(), 1, "{outcome:?}");
    }

    #[test]
    fn commands_that_nobody_knows_may_have_a_list_or_none() {
        let outcome = talk(
            false,
            "S: +OK
             C: XONE
             C: RETR 1
             S: +OK one line
             C: NOOP
             S: +OK
             S: first
             S: .
             S: +OK
             C: XLIST
             S: +OK
             S: +OK this is no reply
             S: ..
             S: .
             C: RETR 1
             S: +OK
             S: second
             S: .",
        );
        let copies = outcome.copies.into_iter().map(|(_, copy)| text(&copy));
        assert_eq!(copies.collect::<Vec<_>>(), ["first\r\n", "second\r\n"]);
    }

    #[test]
    fn what_is_no_reply_is_said_once_and_handed_on() {
        let lost = |script: &str, reason: &str| {
            let outcome = talk(false, script);
            let told = outcome.told.iter().filter(|told| told.starts_with("Lost"));
            let told: Vec<_> = told.cloned().collect();
            assert_eq!(told, [format!("Lost {{ reason: \"{reason}\" }}")]);
            let said = script
                .lines()
                .filter(|line| line.trim_start().starts_with("S: "));
            assert_eq!(text(&outcome.to_client).lines().count(), said.count());
            assert!(LOST_REASONS.contains(&reason));
        };
        lost("S: * OK IMAP4rev1", "reply");
        lost("S: +OK\nS: +OK twice\nC: STLS\nS: anything", "reply");
        lost(
            "S: +OK\nC: NOOP\nS: OK\nC: RETR 1\nS: +OK\nS: one\nS: .",
            "reply",
        );
        lost(
            "S: +OK\nC: XTND XMIT\nS: +OK go on\nC: STLS\nC: .\nS: +OK",
            "xtnd",
        );
        let greeting = (Side::Server, b"+OK ready\n+OK".to_vec());
        let outcome = session(OFFERS_TLS, &[greeting], 1);
        assert_eq!(outcome.told, ["Lost { reason: \"line_end\" }"]);
        assert_eq!(outcome.to_client, b"+OK ready\n+OK");
    }

    #[test]
    fn no_line_is_too_long_and_no_queue_too_full() {
        let long = |verb: &str| format!("{verb} {}\r\n", "a".repeat(50_000)).into_bytes();
        let said = [
            (Side::Server, long("+OK")),
            (Side::Client, long("USER")),
            (Side::Server, long("-ERR")),
            (Side::Client, b"CAPA\r\n".to_vec()),
            (
                Side::Server,
                [&b"+OK\r\n"[..], &long("SASL"), b".\r\n"].concat(),
            ),
            (Side::Client, b"NOOP\r\n".repeat(1500)),
        ];
        for step in [100, usize::MAX] {
            let outcome = session(OFFERS_TLS, &said, step);
            assert_eq!(outcome.to_client.len(), 150_034, "all, and STLS");
            assert_eq!(outcome.kept[0].len(), 3000, "500 commands wait");
            assert!(outcome.told.is_empty());
        }
    }
}
