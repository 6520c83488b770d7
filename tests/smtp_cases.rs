//! Runs the transcripts of `tests/cases/smtp/`, each at chunk sizes 1, 7 and all.
//!
//! The relay without sockets: what a side says is fed to it, what it says is compared, and the journal answers as the
//! transcript says. `tests/cases/smtp/README` tells how to read and write one.

use std::{collections::VecDeque, fmt::Write as _, path::Path, sync::Arc};

use mailtee::{
    message::{Client, TlsFacts, WireText},
    wire::smtp::{
        Dialect, Relay, Role, Rules, Step, TellClient,
        relay::{Copied, Ended, Fate},
    },
};

struct Stage {
    relay: Relay,
    /// A session of this front end, from its beginning.
    anew: Box<dyn Fn() -> Relay>,
    chunk: usize,
    /// Said and not yet taken.
    from_client: Vec<u8>,
    from_next_hop: Vec<u8>,
    /// Heard and not yet compared.
    to_client: Vec<u8>,
    to_next_hop: Vec<u8>,
    copy: Vec<u8>,
    ended: Ended,
    events: VecDeque<String>,
    next_hop_dropped: bool,
}

fn rules(role: Role) -> Rules {
    Rules {
        dialect: Dialect::Smtp,
        role,
        hostname: "tee.example".into(),
        hold_end: true,
        starttls: false,
        upstream_starttls: false,
        keep_upstream: false,
        tell_client: TellClient::No,
        line_bytes_max: 4096,
        recipients_max: 100,
        message_bytes_max: 0,
    }
}

impl Stage {
    /// `setup` holds the words of the transcript's `rules:` line.
    fn new(setup: &str, chunk: usize) -> Self {
        let mut rules = rules(Role::Filter);
        let (mut trusted, mut upstream_tls) = (false, false);
        let mut client = Client {
            address: Some("192.0.2.7".into()),
            port: Some(40_000),
            ..Client::default()
        };
        for word in setup.split_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "filter" => rules.role = Role::Filter,
                "proxy" => rules.role = Role::Proxy,
                "journal" => rules.role = Role::Journal,
                "lmtp" => rules.dialect = Dialect::Lmtp,
                "pass" => rules.hold_end = false,
                "keep" => rules.keep_upstream = true,
                "starttls" => rules.starttls = true,
                "upstream-starttls" => rules.upstream_starttls = true,
                "upstream-tls" => upstream_tls = true,
                "send-xforward" => rules.tell_client = TellClient::Xforward,
                "send-xclient" => rules.tell_client = TellClient::Xclient,
                "trusted" => trusted = true,
                "tls" => client.tls = Some(facts()),
                "line" => rules.line_bytes_max = value.parse().unwrap(),
                "recipients" => rules.recipients_max = value.parse().unwrap(),
                "size" => rules.message_bytes_max = value.parse().unwrap(),
                "chunks" => {}
                other => panic!("unknown rule {other}"),
            }
        }
        let rules = Arc::new(rules);
        let anew = move || Relay::new(rules.clone(), client.clone(), trusted, upstream_tls);
        Self {
            relay: anew(),
            anew: Box::new(anew),
            chunk,
            from_client: Vec::new(),
            from_next_hop: Vec::new(),
            to_client: Vec::new(),
            to_next_hop: Vec::new(),
            copy: Vec::new(),
            ended: Ended::default(),
            events: VecDeque::new(),
            next_hop_dropped: false,
        }
    }

    /// The session is over; does it leave its connection to the next hop to another? Then that one begins.
    fn over(&mut self, kept: bool) {
        assert!(self.relay.is_closing(), "the session is not closing");
        let left = self.relay.leave();
        assert_eq!(left.is_some(), kept, "is the connection kept?");
        if let Some(left) = left {
            assert_eq!(visible(&self.to_client), "", "more was said to the client");
            self.relay = (self.anew)();
            self.relay.resume(left);
            self.settle();
        }
    }

    /// One side says this, a chunk at a time.
    fn say(&mut self, bytes: &[u8], client: bool) {
        for piece in bytes.chunks(self.chunk) {
            let side = if client {
                &mut self.from_client
            } else {
                &mut self.from_next_hop
            };
            side.extend_from_slice(piece);
            self.settle();
        }
    }

    /// What the shell does between two waits.
    fn settle(&mut self) {
        loop {
            let relay = &mut self.relay;
            if relay.takes_upstream() {
                let taken = relay.receive_upstream(&self.from_next_hop);
                self.from_next_hop.drain(..taken);
            }
            if relay.takes_client() {
                let taken = relay.receive_client(&self.from_client);
                self.from_client.drain(..taken);
            }
            self.copy.append(&mut relay.copy);
            self.to_client.append(&mut relay.to_client);
            self.to_next_hop.append(&mut relay.to_upstream);
            let Some(step) = relay.poll() else { return };
            let event = match step {
                Step::BeginCopy => "begin".to_owned(),
                Step::EndCopy => {
                    self.ended = relay.take_ended();
                    "end".to_owned()
                }
                Step::DropCopy(outcome) => {
                    self.copy.clear();
                    format!("drop {outcome}")
                }
                Step::Fate(Fate::Accepted(reply)) => format!("accepted {}", visible(&reply)),
                Step::Fate(Fate::Rejected(reply)) => format!("rejected {}", visible(&reply)),
                Step::Fate(Fate::Unknown) => "unknown".to_owned(),
                Step::DropUpstream => {
                    self.next_hop_dropped = true;
                    "leave the next hop".to_owned()
                }
                Step::SecureClient => "secure client".to_owned(),
                Step::SecureUpstream => "secure next hop".to_owned(),
                Step::Failed(failure) => format!("failed {failure:?}"),
            };
            self.events.push_back(event);
        }
    }

    /// One `J:` line: what the relay asked for, or a fact of the message whose content just ended.
    fn journal(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let facts = &self.ended;
        match word {
            "begin" | "end" => {
                assert_eq!(self.events.pop_front().as_deref(), Some(word));
                let copied = match rest {
                    "safe" => Copied::Safe { reply: None },
                    "gap" => Copied::Gap,
                    "failed" => Copied::Failed { id: "ID".into() },
                    reply => Copied::Safe {
                        reply: Some(format!("{reply}\r\n").into_bytes()),
                    },
                };
                if word == "begin" {
                    self.relay.copy_begun(copied);
                } else {
                    self.relay.copy_ended(copied);
                }
            }
            "write" => self.relay.copy_failed(Copied::Failed { id: "ID".into() }),
            "secure" => {
                assert_eq!(self.events.pop_front().as_deref(), Some(line));
                if rest == "client" {
                    self.relay.client_secured(Some(self::facts()));
                } else {
                    self.relay.upstream_secured();
                }
            }
            "sender" => {
                let envelope = &facts.envelope;
                assert_eq!(pair(&envelope.sender, &envelope.sender_parameters), rest);
            }
            "recipients" => {
                let mut list = String::new();
                for r in &facts.envelope.recipients {
                    let refused = r
                        .refused
                        .as_ref()
                        .map_or(String::new(), |r| format!(" ({r})"));
                    write!(list, "{}{refused}, ", pair(&r.address, &r.parameters)).unwrap();
                }
                assert_eq!(list.trim_end_matches(", "), rest);
            }
            "client" => assert_eq!(describe(&facts.client), rest),
            "replaced" => assert!(facts.replaced, "nothing was replaced"),
            "copy" => {
                let copy = std::mem::take(&mut self.copy);
                assert_eq!(visible(&copy), rest);
                assert!(!self.ended.replaced || copy.len() as u64 == self.ended.bytes);
            }
            _ => assert_eq!(self.events.pop_front().as_deref(), Some(line)),
        }
        self.settle();
    }

    /// One side hears this and, up to here, nothing before it.
    fn hears(&mut self, expected: &[u8], client: bool) {
        let heard = if client {
            &mut self.to_client
        } else {
            &mut self.to_next_hop
        };
        let length = expected.len().min(heard.len());
        let got: Vec<u8> = heard.drain(..length).collect();
        assert_eq!(visible(&got), visible(expected));
    }
}

fn facts() -> TlsFacts {
    TlsFacts {
        version: "TLSv1.3".into(),
        cipher: "TLS13_AES_256_GCM_SHA384".into(),
    }
}

fn pair(a: &WireText, b: &WireText) -> String {
    if b.is_empty() {
        format!("<{a}>")
    } else {
        format!("<{a}> {b}")
    }
}

fn describe(client: &Client) -> String {
    let mut out = String::new();
    let port = client.port.map(|p| WireText::from(p.to_string()));
    for (name, value) in [
        ("address", &client.address),
        ("port", &port),
        ("name", &client.name),
        ("helo", &client.helo),
        ("protocol", &client.protocol),
        ("source", &client.source),
        ("queue-id", &client.queue_id),
        ("login", &client.login),
    ] {
        if let Some(value) = value {
            write!(out, "{name}={value} ").unwrap();
        }
    }
    if client.tls.is_some() {
        out.push_str("tls");
    }
    out.trim_end().to_owned()
}

/// Bytes as a transcript writes them.
fn visible(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes {
        match byte {
            b'\r' => out.push_str("\\r"),
            b'\n' => out.push_str("\\n"),
            b'\\' => out.push_str("\\\\"),
            0x20..=0x7e => out.push(char::from(*byte)),
            _ => write!(out, "\\x{byte:02x}").unwrap(),
        }
    }
    out
}

/// The bytes that a transcript's line stands for: with CRLF, unless it ends in a single `\`.
pub(crate) fn bytes(line: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = line.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        match tail.first() {
            None => return out,
            Some(b'r') => out.push(b'\r'),
            Some(b'n') => out.push(b'\n'),
            Some(b't') => out.push(b'\t'),
            Some(b'x') => {
                let digits = std::str::from_utf8(&tail[1..3]).unwrap();
                out.push(u8::from_str_radix(digits, 16).unwrap());
                rest = &tail[2..];
            }
            Some(other) => out.push(*other),
        }
        rest = &rest[1..];
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn run(transcript: &str, chunk: usize) {
    let lines: Vec<&str> = transcript
        .lines()
        .filter(|l| !l.trim().is_empty() && !l.starts_with('#'))
        .collect();
    let setup = lines
        .iter()
        .filter_map(|l| l.strip_prefix("rules: "))
        .collect::<Vec<_>>()
        .join(" ");
    if setup.contains("chunks=all") && chunk < 1000 {
        return;
    }
    let mut stage = Stage::new(&setup, chunk);
    let mut at = 0;
    while at < lines.len() {
        let (who, what) = lines[at].split_at(3);
        // Lines that one side says in a row are sent in one write, as a pipelining peer does.
        let mut group = bytes(what);
        while matches!(who, "C: " | "N: ") && lines.get(at + 1).is_some_and(|l| l.starts_with(who))
        {
            at += 1;
            group.extend(bytes(&lines[at][3..]));
        }
        match who {
            "C: " => stage.say(&group, true),
            "N: " => stage.say(&group, false),
            "S: " => stage.hears(&group, true),
            "U: " if what == "(nothing)" => assert_eq!(visible(&stage.to_next_hop), ""),
            "S! " if what == "(nothing)" => assert_eq!(visible(&stage.to_client), ""),
            "U: " => stage.hears(&group, false),
            "J: " => stage.journal(what),
            "rul" => {}
            "end" => match what.trim() {
                "client ends" => stage.relay.client_ended(),
                other => panic!("unknown end {other}"),
            },
            "C! " => {
                stage.relay.client_ended();
                stage.settle();
            }
            "N! " => {
                stage
                    .relay
                    .upstream_failed(mailtee::wire::smtp::answer::Failure::UpstreamLost);
                stage.settle();
            }
            "X! " if what == "kept" => stage.over(true),
            "X! " if what == "not kept" => stage.over(false),
            "X! " => assert!(stage.relay.is_closing(), "the session is not closing"),
            _ => panic!("unknown line {:?}", lines[at]),
        }
        at += 1;
    }
    stage.settle();
    assert_eq!(visible(&stage.to_client), "", "more was said to the client");
    if !stage.next_hop_dropped {
        assert_eq!(
            visible(&stage.to_next_hop),
            "",
            "more was said to the next hop"
        );
    }
    assert_eq!(stage.events, VecDeque::<String>::new(), "more happened");
}

#[test]
fn transcripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/smtp");
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    names.sort();
    assert!(names.len() > 20, "the transcripts are gone");
    let mut failed = Vec::new();
    for path in names {
        let transcript = std::fs::read_to_string(&path).unwrap();
        for chunk in [1, 7, usize::MAX] {
            if std::panic::catch_unwind(|| run(&transcript, chunk)).is_err() {
                failed.push(format!("{} at chunk size {chunk}", path.display()));
            }
        }
    }
    assert!(failed.is_empty(), "failed: {failed:#?}");
}
