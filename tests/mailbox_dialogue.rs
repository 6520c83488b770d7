//! A dialogue with an IMAP server, written down: `tests/cases/imap_extensions/*.case`. The README there has the format.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::{
    kit::{ImapClient, imap::Answer},
    smtp_cases::bytes,
};

/// What the server says unasked comes within this time.
const UNASKED: Duration = Duration::from_secs(20);

pub(crate) struct Dialogue {
    pub name: String,
    /// The capabilities that it uses.
    pub uses: Vec<String>,
    lines: Vec<Line>,
    /// The messages that must be in the vault afterwards.
    pub copied: Vec<Vec<u8>>,
}

enum Line {
    /// A command: up to its reply, or up to the server's `+`.
    Say {
        session: char,
        text: String,
        whole: bool,
    },
    /// The end of such a command.
    End {
        session: char,
        text: String,
    },
    Hear {
        session: char,
        text: String,
    },
    Reply(String),
    Contains(String),
    Keep {
        name: String,
        behind: String,
    },
}

/// One of the two ways to an account.
pub(crate) struct Way {
    pub address: SocketAddr,
    pub user: (String, String),
    /// Before the name of a folder, and between the levels of one.
    pub prefix: &'static str,
    pub separator: &'static str,
}

impl Dialogue {
    pub(crate) fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/imap_extensions");
        let paths = std::fs::read_dir(folder).expect("the dialogues");
        let mut paths: Vec<_> = paths.map(|entry| entry.expect("an entry").path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "case"));
        paths.sort();
        let read = |path: &std::path::PathBuf| {
            let text = std::fs::read_to_string(path).expect("a dialogue");
            let name = path.file_stem().expect("a name").to_string_lossy();
            Self::parse(&name, &text)
        };
        paths.iter().map(read).collect()
    }

    fn parse(name: &str, text: &str) -> Self {
        let mut dialogue = Self {
            name: name.to_owned(),
            uses: Vec::new(),
            lines: Vec::new(),
            copied: Vec::new(),
        };
        for line in text
            .lines()
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
        {
            let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
            let text = rest.to_owned();
            let mut marks = mark.chars();
            let line = match (marks.next(), marks.next()) {
                (Some('U'), _) => {
                    dialogue.uses = rest.split(' ').map(str::to_owned).collect();
                    continue;
                }
                (Some('!'), _) => {
                    let copied = match rest.split_once(' ') {
                        Some(("once", names)) => {
                            names.split(' ').map(|of| mail(name, of)).collect()
                        }
                        Some(("joined", parts)) => vec![joined(name, parts)],
                        _ => panic!("{name}: what is {line:?}?"),
                    };
                    dialogue.copied.extend(copied);
                    continue;
                }
                (Some('='), _) => Line::Reply(text),
                (Some('~'), _) => Line::Contains(text),
                (Some('&'), _) => {
                    let (name, behind) = rest.split_once(' ').expect("a name and a text");
                    Line::Keep {
                        name: name.to_owned(),
                        behind: behind.to_owned(),
                    }
                }
                (Some(session), Some(sign)) if session.is_ascii_digit() => match sign {
                    ':' | '+' => Line::Say {
                        session,
                        text,
                        whole: sign == ':',
                    },
                    '-' => Line::End { session, text },
                    '<' => Line::Hear { session, text },
                    _ => panic!("{name}: what is {line:?}?"),
                },
                _ => panic!("{name}: what is {line:?}?"),
            };
            dialogue.lines.push(line);
        }
        assert!(!dialogue.uses.is_empty(), "{name} uses nothing");
        dialogue
    }

    /// Makes the folder of each.
    pub(crate) fn prepare(dialogues: &[Self], way: &Way) {
        let mut client = ImapClient::logged_in(way.address, &way.user);
        for dialogue in dialogues {
            client.ok(&format!("CREATE {}{}", way.prefix, dialogue.name));
        }
    }

    /// Holds it; gives what was heard, without what differs from one account to the next.
    pub(crate) fn hold(&self, way: &Way) -> Vec<String> {
        let folder = format!("{}{}", way.prefix, self.name);
        let (user, password) = &way.user;
        let plain = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
        let kept = [
            ("folder", folder.as_str()),
            ("/", way.separator),
            ("user", user),
            ("imap-user", &user.replace('@', "%40")),
            ("password", password),
            ("plain", &plain),
        ];
        let kept = kept.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut talk = Talk {
            name: &self.name,
            way,
            sessions: BTreeMap::new(),
            kept: kept.into(),
            heard: Vec::new(),
            last: String::new(),
            expects_ok: None,
        };
        for line in &self.lines {
            talk.line(line);
        }
        talk.settle_reply();
        talk.heard
    }
}

/// What `{mail NAME}` stands for: no other dialogue has the same message.
fn mail(dialogue: &str, name: &str) -> Vec<u8> {
    let (more, body) = match name {
        "reply" => (
            format!("In-Reply-To: <one@{dialogue}.mailtee.test>\r\n"),
            b"I agree.\r\n".to_vec(),
        ),
        "eight-bit" => (
            "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n".to_owned(),
            "Grüße, 日本\r\n".as_bytes().to_vec(),
        ),
        "utf8" => ("X-Name: Jürgen Größe\r\n".to_owned(), b"Hello.\r\n".to_vec()),
        "nul" => (
            "Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n".to_owned(),
            b"a\0b\xff\r\n".to_vec(),
        ),
        "encoded" => (
            "MIME-Version: 1.0\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n".to_owned(),
            b"aGVsbG8gew==\r\n".to_vec(),
        ),
        "parts" => (
            "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n".to_owned(),
            b"--b\r\nContent-Type: text/plain\r\n\r\nfirst {5}\r\n--b\r\nContent-Type: application/pdf\r\n\
              Content-Disposition: attachment; filename=\"a.pdf\"\r\nContent-Transfer-Encoding: base64\r\n\r\n\
              JVBERi0=\r\n--b--\r\n"
                .to_vec(),
        ),
        "odd" => (
            "Comments: \"quoted\\ {5}\r\nIn-Reply-To: {5}\r\nSubject: an \\\"odd\\\" one {5}\r\n".to_owned(),
            b"{5}\r\n".to_vec(),
        ),
        "empty" => (String::new(), Vec::new()),
        "large" => (
            String::new(),
            b"* 1 FETCH (BODY[] {5}\r\n) {3}\r\nt OK done\r\n".repeat(8000),
        ),
        _ => (String::new(), b"Text of it {7}\r\n".to_vec()),
    };
    let subject = match name {
        "odd" => String::new(),
        _ => format!("Subject: {dialogue} {name}\r\n"),
    };
    let head = format!(
        "From: <{name}@mailtee.test>\r\nTo: <to@mailtee.test>\r\n{subject}Message-ID: <{name}@{dialogue}.mailtee.test>\r\nDate: Mon, 01 Jun 2026 10:00:00 +0000\r\n{more}\r\n"
    );
    [head.into_bytes(), body].concat()
}

/// Messages and texts, one behind the other.
fn joined(dialogue: &str, parts: &str) -> Vec<u8> {
    let part = |part: &str| match part.strip_prefix('"') {
        Some(text) => escaped(text.strip_suffix('"').expect("a closing quote")),
        None => mail(dialogue, part),
    };
    parts.split(' ').flat_map(part).collect()
}

struct Talk<'a> {
    name: &'a str,
    way: &'a Way,
    sessions: BTreeMap<char, (ImapClient, String)>,
    kept: Vec<(String, String)>,
    heard: Vec<String>,
    /// All that came to the last command, and the reply.
    last: String,
    expects_ok: Option<(String, String)>,
}

impl Talk<'_> {
    fn line(&mut self, line: &Line) {
        match line {
            Line::Say {
                session,
                text,
                whole,
            } => {
                let pieces = self.pieces(text);
                let (client, begun) = self.session(*session);
                if *whole {
                    let pieces: Vec<_> = pieces.iter().map(Vec::as_slice).collect();
                    let answer = client.in_pieces(&pieces);
                    self.answered(text, answer.unwrap_or_else(|e| panic!("{text}: {e}")));
                    return;
                }
                *begun = client.begin(&pieces.concat()).expect("it listens");
                self.await_start(*session, "+");
            }
            Line::End { session, text } => {
                let line = self.pieces(text).concat();
                let (client, begun) = self.session(*session);
                client.send(&line).expect("it listens");
                let answer = client.finish(&begun.clone());
                self.answered(text, answer.unwrap_or_else(|e| panic!("{text}: {e}")));
            }
            Line::Hear { session, text } => {
                let text = self.filled(text);
                self.await_start(*session, &text);
            }
            Line::Reply(text) => {
                let (command, reply) = self.expects_ok.take().expect("below a command");
                let fits = match text.as_str() {
                    "not OK" => !reply.starts_with("OK"),
                    text => reply.starts_with(text),
                };
                assert!(fits, "{command}: {reply}");
            }
            Line::Contains(text) => {
                let text = self.filled(text);
                assert!(self.last.contains(&text), "no {text} in {}", self.last);
            }
            Line::Keep { name, behind } => {
                let behind = self.filled(behind);
                let (_, rest) = self.last.split_once(&behind).unwrap_or_else(|| {
                    panic!("no {behind} in {}", self.last);
                });
                let end = rest.find([' ', '"', ')', ']', '\r', '\n']);
                let value = rest[..end.unwrap_or(rest.len())].to_owned();
                self.kept.push((name.clone(), value));
            }
        }
    }

    fn session(&mut self, session: char) -> &mut (ImapClient, String) {
        self.settle_reply();
        let way = self.way;
        self.sessions.entry(session).or_insert_with(|| {
            let client = match session {
                '0' => ImapClient::connect(way.address).expect("it greets").0,
                _ => ImapClient::logged_in(way.address, &way.user),
            };
            (client, String::new())
        })
    }

    /// A reply of which nothing else was said is OK.
    fn settle_reply(&mut self) {
        if let Some((command, reply)) = self.expects_ok.take() {
            assert!(reply.starts_with("OK"), "{command}: {reply}");
        }
    }

    fn answered(&mut self, command: &str, answer: Answer) {
        self.last = format!("{}\n{}", answer.text(), answer.tagged);
        let mut heard = format!("{command}\n{}", self.last);
        // A short one may stand anywhere.
        for (name, value) in self.kept.iter().rev().filter(|(_, value)| value.len() > 4) {
            heard = heard.replace(value, &format!("{{{name}}}"));
        }
        self.heard.push(settled(&heard));
        self.expects_ok = Some((command.to_owned(), answer.tagged));
    }

    /// Responses up to one that begins so; the others may come sooner or later.
    fn await_start(&mut self, session: char, start: &str) {
        let deadline = Instant::now() + UNASKED;
        let (client, _) = self.session(session);
        client.set_patience(UNASKED);
        loop {
            let response = client.response();
            let response = response.unwrap_or_else(|e| panic!("no {start}: {e}"));
            if response.starts_with(start.as_bytes()) {
                self.last = String::from_utf8_lossy(&response).into_owned();
                break;
            }
            assert!(Instant::now() < deadline, "no {start}");
        }
        let (client, _) = self.session(session);
        client.set_patience(Duration::from_secs(60));
    }

    /// What stands in braces, but for messages.
    fn filled(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.kept {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        text
    }

    /// A line in the pieces between which the server's leave is awaited.
    fn pieces(&self, line: &str) -> Vec<Vec<u8>> {
        let mut line = self.filled(line);
        line.push_str("\r\n");
        let mut pieces = vec![Vec::new()];
        let mut rest = line.as_str();
        while let Some((before, kind, literal, behind)) = literal(rest) {
            let content = match kind {
                "mail" | "mail+" => mail(self.name, literal),
                _ => escaped(literal),
            };
            let last = pieces.last_mut().expect("one at least");
            last.extend_from_slice(before.as_bytes());
            let plus = if kind.ends_with('+') { "+" } else { "" };
            last.extend_from_slice(format!("{{{}{plus}}}\r\n", content.len()).as_bytes());
            match plus {
                "+" => last.extend(content),
                _ => pieces.push(content),
            }
            rest = behind;
        }
        let last = pieces.last_mut().expect("one at least");
        last.extend_from_slice(rest.as_bytes());
        pieces
    }
}

/// The first `{mail NAME}`, `{mail+ NAME}`, `{text …}` or `{text+ …}`.
fn literal(line: &str) -> Option<(&str, &str, &str, &str)> {
    let kinds = ["mail", "mail+", "text", "text+"].iter();
    let found = kinds.filter_map(|kind| Some((line.find(&format!("{{{kind} "))?, *kind)));
    let (at, kind) = found.min()?;
    let inside = &line[at + kind.len() + 2..];
    let closed = |(at, _): &(usize, &str)| !inside[..*at].ends_with('\\');
    let (end, _) = inside.match_indices('}').find(closed)?;
    Some((&line[..at], kind, &inside[..end], &inside[end + 1..]))
}

fn escaped(text: &str) -> Vec<u8> {
    bytes(&format!("{text}\\"))
}

/// Announced by servers, and not through us.
pub(crate) const REMOVED: [&str; 4] = [
    "COMPRESS=DEFLATE",
    "LOGIN-REFERRALS",
    "MAILBOX-REFERRALS",
    "STARTTLS",
];

/// Without what is not announced through us, and the numbers and dates that are another account's or another second's.
pub(crate) fn settled(heard: &str) -> String {
    const BEHIND: [(&str, &[char]); 14] = [
        ("UIDVALIDITY ", &[' ', ')', ']']),
        ("APPENDUID ", &[' ']),
        ("COPYUID ", &[' ']),
        ("MODSEQ ", &[' ', ']', ')', '\n']),
        ("MODSEQ (", &[')']),
        ("modseq ", &[')', '\n']),
        ("MAILBOXID (", &[')']),
        ("EMAILID (", &[')']),
        ("THREADID (", &[')']),
        ("INTERNALDATE \"", &['"']),
        ("SAVEDATE \"", &['"']),
        ("SESSIONID=<", &['>']),
        (" msgs in ", &[')']),
        (":internal:", &['"', '\n']),
    ];
    let mut text = heard.to_owned();
    for word in REMOVED {
        text = text.replace(&format!(" {word}"), "");
    }
    for (behind, ends) in BEHIND {
        text = blanked(&text, behind, ends, |_| true);
    }
    // How long it took.
    blanked(&text, "(", &[')'], |inside| {
        let mut inside = inside.split('.');
        let is_number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty();
        inside.next().is_some_and(is_number) && inside.next().is_some()
    })
}

/// Puts a sign for what stands between `behind` and the next of `ends`.
fn blanked(text: &str, behind: &str, ends: &[char], which: impl Fn(&str) -> bool) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(behind) {
        let (inside, after) = after.split_at(after.find(ends).unwrap_or(after.len()));
        let inside = if which(inside) { "#" } else { inside };
        out.extend([before, behind, inside]);
        rest = after;
    }
    out + rest
}
