//! Our own talk with the server before there is a session: the greeting, STARTTLS and ID, where they are asked for.
//!
//! TLS is wanted or it is not: a server that does not offer it is refused, and so is one that lets us in without it
//! (PREAUTH, which leaves no room for STARTTLS), or had more to say behind its OK. What it can do is asked again under TLS,
//! and the client is told that. ID (RFC 2971) tells a server that trusts us who the client is; others may say no.

use std::{collections::VecDeque, fmt::Write as _, mem};

use super::lexis::{Framing, code, is, split_word};
use crate::wire::watch::{self, OpeningError, OpeningStep, shown};

/// What a server may say before a session begins.
const BYTES_MAX: usize = 16 << 10;

// What Dovecot takes of an ID.
const NAME_BYTES_MAX: usize = 30;
const VALUE_BYTES_MAX: usize = 1024;
const PAIRS_MAX: usize = 30;

/// Ours stand out from any client's.
const TAG: &str = "mailtee";

/// What is to be talked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpeningRules {
    pub starttls: bool,
    /// The client, as name and value: what does not fit the protocol's limits is left out.
    pub id: Option<Vec<(String, String)>>,
}

/// See [`watch::Opening`].
#[derive(Debug)]
pub struct Opening {
    rules: OpeningRules,
    awaited: Awaited,
    /// Said and not yet read.
    said: Vec<u8>,
    bytes: usize,
    /// Of a literal, to be left out.
    skip: u64,
    greeting: Vec<u8>,
    offers_tls: bool,
    steps: VecDeque<OpeningStep>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Greeting,
    /// What the server can do, before TLS.
    Offer,
    StartTls,
    /// The handshake.
    Tls,
    /// What it can do under TLS.
    Capability,
    Id,
    /// Nothing more: the session has begun, or cannot.
    Nothing,
}

impl Opening {
    pub fn new(rules: OpeningRules) -> Self {
        Self {
            rules,
            awaited: Awaited::Greeting,
            said: Vec::new(),
            bytes: 0,
            skip: 0,
            greeting: Vec::new(),
            offers_tls: false,
            steps: VecDeque::new(),
        }
    }

    fn line(&mut self, line: Vec<u8>) {
        let (first, rest) = split_word(line.trim_ascii_end());
        let (second, text) = split_word(rest);
        if self.awaited == Awaited::Greeting {
            let status = |name| first == b"*" && is(second, name);
            return match () {
                () if status("OK") => {
                    let offered = code(text).filter(|(name, _)| is(name, "CAPABILITY"));
                    let offered = offered.map(|(_, list)| offers_tls(list));
                    self.greeting = line;
                    self.greeted(offered);
                }
                () if status("BYE") || (status("PREAUTH") && !self.rules.starttls) => {
                    self.greeting = line;
                    self.begin();
                }
                () if status("PREAUTH") => self.fail(OpeningError::NoTls),
                () => self.fail(OpeningError::Greeting(shown(&line))),
            };
        }
        if first == b"*" {
            match self.awaited {
                _ if is(second, "BYE") => {
                    self.greeting = line;
                    self.begin();
                }
                Awaited::Offer if is(second, "CAPABILITY") => self.offers_tls |= offers_tls(text),
                Awaited::Capability if is(second, "CAPABILITY") => {
                    self.greeting = greeting(&self.greeting, Some(text));
                }
                _ => {
                    if let Ok(Some(literal)) = Framing::of(&line) {
                        self.skip = literal.bytes;
                    }
                }
            }
            return;
        }
        if first != TAG.as_bytes() {
            return;
        }
        let ok = is(second, "OK");
        match self.awaited {
            Awaited::Offer if self.offers_tls => self.starttls(),
            Awaited::Offer => self.fail(OpeningError::NoTls),
            Awaited::StartTls if ok && self.said.is_empty() => {
                self.awaited = Awaited::Tls;
                self.steps.push_back(OpeningStep::StartTls);
            }
            Awaited::StartTls if ok => self.fail(OpeningError::Injected),
            Awaited::StartTls => self.fail(OpeningError::TlsRefused(shown(&line))),
            Awaited::Capability => self.introduce(),
            Awaited::Id => self.begin(),
            Awaited::Greeting | Awaited::Tls | Awaited::Nothing => {}
        }
    }

    /// `offered`: whether STARTTLS is among what the greeting says, if it says so much.
    fn greeted(&mut self, offered: Option<bool>) {
        match offered {
            _ if !self.rules.starttls => self.introduce(),
            Some(true) => self.starttls(),
            // Not all that a server can do need stand in its greeting.
            Some(false) | None => self.send("CAPABILITY", Awaited::Offer),
        }
    }

    fn starttls(&mut self) {
        self.send("STARTTLS", Awaited::StartTls);
    }

    fn introduce(&mut self) {
        let pairs = self.rules.id.take().unwrap_or_default();
        let mut list = String::new();
        let fits = |(name, value): &&(String, String)| {
            let plain = |text: &str| text.bytes().all(|b| matches!(b, b' '..=b'~'));
            name.len() <= NAME_BYTES_MAX
                && value.len() <= VALUE_BYTES_MAX
                && plain(name)
                && plain(value)
        };
        for (name, value) in pairs.iter().filter(fits).take(PAIRS_MAX) {
            let separator = if list.is_empty() { "" } else { " " };
            let (name, value) = (quoted(name), quoted(value));
            // Into a String nothing fails.
            let _ = write!(list, "{separator}{name} {value}");
        }
        match list.is_empty() {
            true => self.begin(),
            false => self.send(&format!("ID ({list})"), Awaited::Id),
        }
    }

    fn begin(&mut self) {
        self.awaited = Awaited::Nothing;
        let mut greeting = mem::take(&mut self.greeting);
        // What has come behind the last reply is the session's.
        greeting.append(&mut self.said);
        self.steps.push_back(OpeningStep::Done { greeting });
    }

    fn send(&mut self, command: &str, awaited: Awaited) {
        self.awaited = awaited;
        let line = format!("{TAG} {command}\r\n").into_bytes();
        self.steps.push_back(OpeningStep::Send(line));
    }

    fn fail(&mut self, error: OpeningError) {
        self.awaited = Awaited::Nothing;
        self.said = Vec::new();
        self.steps.push_back(OpeningStep::Failed(error));
    }
}

impl watch::Opening for Opening {
    fn receive(&mut self, bytes: &[u8]) {
        if self.awaited == Awaited::Tls {
            return self.fail(OpeningError::Injected);
        }
        self.bytes += bytes.len();
        self.said.extend_from_slice(bytes);
        while self.awaited != Awaited::Nothing {
            let skipped = self
                .said
                .len()
                .min(self.skip.try_into().unwrap_or(usize::MAX));
            self.said.drain(..skipped);
            self.skip -= skipped as u64;
            let Some(lf) = memchr::memchr(b'\n', &self.said) else {
                break;
            };
            let rest = self.said.split_off(lf + 1);
            let line = mem::replace(&mut self.said, rest);
            self.line(line);
        }
        let is_no_greeting =
            self.awaited == Awaited::Greeting && !matches!(self.said.first(), None | Some(b'*'));
        if is_no_greeting {
            self.fail(OpeningError::Greeting(shown(&self.said)));
        } else if self.awaited != Awaited::Nothing && self.bytes > BYTES_MAX {
            self.fail(OpeningError::TooLong(BYTES_MAX));
        }
    }

    fn secured(&mut self) {
        // What it could before is not what it can now.
        self.greeting = greeting(&self.greeting, None);
        self.send("CAPABILITY", Awaited::Capability);
    }

    fn poll(&mut self) -> OpeningStep {
        self.steps.pop_front().unwrap_or(OpeningStep::Wait)
    }
}

fn offers_tls(list: &[u8]) -> bool {
    list.split(|b| *b == b' ').any(|word| is(word, "STARTTLS"))
}

/// The server's greeting, with what it can do now in place of what it could before.
fn greeting(greeting: &[u8], list: Option<&[u8]>) -> Vec<u8> {
    let text = greeting.trim_ascii_end();
    let text = text.get(b"* OK ".len()..).unwrap_or_default();
    let text = match code(text) {
        Some((name, _)) if is(name, "CAPABILITY") => {
            let end = memchr::memchr(b']', text).map_or(text.len(), |end| end + 1);
            text[end..].trim_ascii_start()
        }
        _ => text,
    };
    match list {
        Some(list) => [b"* OK [CAPABILITY ", list, b"] ", text, b"\r\n"].concat(),
        None => [b"* OK ", text, b"\r\n"].concat(),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::{watch::Opening as _, *};

    /// What comes of it, as text; the server's lines come as they are asked for.
    fn talk(rules: OpeningRules, said: &[&str]) -> Vec<String> {
        let mut opening = Opening::new(rules);
        let (mut said, mut steps) = (said.iter(), Vec::new());
        loop {
            match opening.poll() {
                OpeningStep::Wait => match said.next() {
                    Some(bytes) => opening.receive(bytes.as_bytes()),
                    None => return steps,
                },
                OpeningStep::StartTls => {
                    steps.push("TLS".to_owned());
                    opening.secured();
                }
                OpeningStep::Send(line) => steps.push(String::from_utf8(line).unwrap()),
                OpeningStep::Done { greeting } => steps.push(String::from_utf8(greeting).unwrap()),
                OpeningStep::Failed(error) => steps.push(format!("{error:?}")),
            }
        }
    }

    fn tls(said: &[&str]) -> Vec<String> {
        let rules = OpeningRules {
            starttls: true,
            id: None,
        };
        talk(rules, said)
    }

    #[test]
    fn a_greeting_is_all_that_is_awaited_where_nothing_is_asked() {
        for greeting in [
            "* OK hi\r\n",
            "* PREAUTH hi\r\n",
            "* BYE no\r\n",
            "* ok\r\n* 1 EXISTS\r\n",
        ] {
            let pieces = greeting.split_at(3);
            assert_eq!(
                talk(OpeningRules::default(), &[pieces.0, pieces.1]),
                [greeting]
            );
        }
        for other in ["+OK POP3", "220 smtp\r\n", "* WHAT\r\n"] {
            let steps = talk(OpeningRules::default(), &[other]);
            assert!(steps[0].starts_with("Greeting("), "{steps:?}");
        }
        let flood = "* OK ".to_owned() + &"x".repeat(BYTES_MAX);
        let steps = talk(OpeningRules::default(), &[&flood]);
        assert_eq!(steps, ["TooLong(16384)"]);
    }

    #[test]
    fn under_tls_the_server_is_asked_anew() {
        let steps = tls(&[
            "* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] dovecot\r\n",
            "mailtee OK go\r\n",
            "* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\nmailtee OK done\r\n",
        ]);
        assert_eq!(
            steps,
            [
                "mailtee STARTTLS\r\n",
                "TLS",
                "mailtee CAPABILITY\r\n",
                "* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] dovecot\r\n"
            ]
        );
    }

    #[test]
    fn tls_is_had_or_the_server_is_refused() {
        let asked = "mailtee CAPABILITY\r\n";
        let starttls = "mailtee STARTTLS\r\n";
        let listed = "* CAPABILITY IMAP4rev1 STARTTLS\r\nmailtee OK done\r\n";
        assert_eq!(tls(&["* OK hi\r\n", listed]), [asked, starttls]);
        let unlisted = "* CAPABILITY IMAP4rev1\r\nmailtee OK done\r\n";
        assert_eq!(tls(&["* OK hi\r\n", unlisted]), [asked, "NoTls"]);
        assert_eq!(tls(&["* PREAUTH hi\r\n"]), ["NoTls"]);
        assert_eq!(tls(&["* BYE full\r\n"]), ["* BYE full\r\n"]);
        let refused = tls(&[
            "* OK [CAPABILITY STARTTLS] hi\r\n",
            "mailtee NO not now\r\n",
        ]);
        assert_eq!(refused, [starttls, "TlsRefused(\"mailtee NO not now\")"]);
    }

    #[test]
    fn what_came_before_tls_is_not_taken_for_what_comes_under_it() {
        let greeting = "* OK [CAPABILITY STARTTLS] hi\r\n";
        let injected = tls(&[greeting, "mailtee OK go\r\nmailtee OK done\r\n"]);
        assert_eq!(injected, ["mailtee STARTTLS\r\n", "Injected"]);
    }

    #[test]
    fn a_client_is_introduced_within_limits() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let rules = OpeningRules {
            starttls: false,
            id: Some(vec![
                pair("x-originating-ip", "192.0.2.1"),
                pair("line", "a\r\nb"),
                pair(&"n".repeat(31), "x"),
                pair("q", "\"\\"),
            ]),
        };
        let said = [
            "* OK hi\r\n",
            "* ID (\"name\" {12}\r\nmailtee OK \r\n)\r\n",
            "mailtee NO what\r\n",
        ];
        assert_eq!(
            talk(rules, &said),
            [
                "mailtee ID (\"x-originating-ip\" \"192.0.2.1\" \"q\" \"\\\"\\\\\")\r\n",
                "* OK hi\r\n"
            ]
        );
    }
}
