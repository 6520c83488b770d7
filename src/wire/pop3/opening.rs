//! Our own talk with the server before there is a session: the greeting, STLS, and XCLIENT, where they are asked for.
//!
//! TLS is wanted or it is not: a server that does not offer it is refused, and so is one that had more to say behind its
//! `+OK`. XCLIENT is Dovecot's (pop3-login): whoever is not trusted there is told so, and the session goes on without.

use std::{collections::VecDeque, mem, net::SocketAddr};

use super::server::Status;
use crate::wire::watch::{self, OpeningError, OpeningStep, shown};

/// What a server may say before a session begins.
const BYTES_MAX: usize = 16 * 1024;

/// How many more proxies there may be: Dovecot's own number, against loops.
const TTL: u32 = 7;

/// What is to be talked about.
#[derive(Clone, Copy, Debug)]
pub struct OpeningRules {
    pub stls: bool,
    /// The client to be named by XCLIENT.
    pub xclient: Option<SocketAddr>,
}

/// See [`watch::Opening`].
#[derive(Debug)]
pub struct Opening {
    rules: OpeningRules,
    awaited: Awaited,
    /// Said and not yet read.
    said: Vec<u8>,
    bytes: usize,
    greeting: Vec<u8>,
    steps: VecDeque<OpeningStep>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Greeting,
    /// CAPA's reply, then each line of its list.
    Capa,
    Capability {
        offers_stls: bool,
    },
    Stls,
    /// The handshake.
    Tls,
    Xclient,
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
            greeting: Vec::new(),
            steps: VecDeque::new(),
        }
    }

    fn line(&mut self, line: Vec<u8>) {
        let status = Status::of(&line);
        match self.awaited {
            Awaited::Greeting => match status {
                Some(Status::Ok) if self.rules.stls => {
                    self.greeting = line;
                    self.send(b"CAPA\r\n".to_vec(), Awaited::Capa);
                }
                Some(Status::Ok) => {
                    self.greeting = line;
                    self.introduce();
                }
                // It may say why; the client is to read that.
                Some(Status::Err) => {
                    self.greeting = line;
                    self.begin();
                }
                Some(Status::Prompt) | None => self.fail(OpeningError::Greeting(shown(&line))),
            },
            Awaited::Capa if status == Some(Status::Ok) => {
                self.awaited = Awaited::Capability { offers_stls: false };
            }
            Awaited::Capability { offers_stls } if line.trim_ascii() == b"." => match offers_stls {
                true => self.send(b"STLS\r\n".to_vec(), Awaited::Stls),
                false => self.fail(OpeningError::NoTls),
            },
            Awaited::Capability { offers_stls } => {
                let offers_stls = offers_stls || line.trim_ascii().eq_ignore_ascii_case(b"STLS");
                self.awaited = Awaited::Capability { offers_stls };
            }
            Awaited::Capa => self.fail(OpeningError::NoTls),
            Awaited::Stls if status == Some(Status::Ok) => match self.said.is_empty() {
                true => {
                    self.awaited = Awaited::Tls;
                    self.steps.push_back(OpeningStep::StartTls);
                }
                false => self.fail(OpeningError::Injected),
            },
            Awaited::Stls => self.fail(OpeningError::TlsRefused(shown(&line))),
            Awaited::Tls => self.fail(OpeningError::Injected),
            Awaited::Xclient => self.begin(),
            Awaited::Nothing => {}
        }
    }

    fn introduce(&mut self) {
        let Some(client) = self.rules.xclient else {
            return self.begin();
        };
        let (address, port) = (client.ip().to_canonical(), client.port());
        let line = format!("XCLIENT ADDR={address} PORT={port} TTL={TTL}\r\n");
        self.send(line.into_bytes(), Awaited::Xclient);
    }

    fn begin(&mut self) {
        self.awaited = Awaited::Nothing;
        let mut greeting = mem::take(&mut self.greeting);
        // What has come behind the last reply is the session's.
        greeting.append(&mut self.said);
        self.steps.push_back(OpeningStep::Done { greeting });
    }

    fn send(&mut self, line: Vec<u8>, awaited: Awaited) {
        self.awaited = awaited;
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
        while self.awaited != Awaited::Nothing
            && let Some(lf) = memchr::memchr(b'\n', &self.said)
        {
            let rest = self.said.split_off(lf + 1);
            let line = mem::replace(&mut self.said, rest);
            self.line(line);
        }
        let is_no_greeting = self.awaited == Awaited::Greeting
            && !matches!(self.said.first(), None | Some(b'+' | b'-'));
        if is_no_greeting {
            self.fail(OpeningError::Greeting(shown(&self.said)));
        } else if self.awaited != Awaited::Nothing && self.bytes > BYTES_MAX {
            self.fail(OpeningError::TooLong(BYTES_MAX));
        }
    }

    fn secured(&mut self) {
        self.introduce();
    }

    fn poll(&mut self) -> OpeningStep {
        self.steps.pop_front().unwrap_or(OpeningStep::Wait)
    }
}

#[cfg(test)]
mod tests {
    use super::{watch::Opening as _, *};

    /// What comes of it, step by step; the server's lines come as they are asked for.
    fn talk(stls: bool, xclient: bool, said: &[&str]) -> Vec<OpeningStep> {
        let client = ([192, 0, 2, 1], 4711).into();
        let mut opening = Opening::new(OpeningRules {
            stls,
            xclient: xclient.then_some(client),
        });
        let (mut said, mut steps) = (said.iter(), Vec::new());
        loop {
            match opening.poll() {
                OpeningStep::Wait => match said.next() {
                    Some(bytes) => opening.receive(bytes.as_bytes()),
                    None => return steps,
                },
                OpeningStep::StartTls => {
                    steps.push(OpeningStep::StartTls);
                    opening.secured();
                }
                step => steps.push(step),
            }
        }
    }

    fn send(line: &str) -> OpeningStep {
        OpeningStep::Send(format!("{line}\r\n").into_bytes())
    }

    fn done(greeting: &str) -> OpeningStep {
        OpeningStep::Done {
            greeting: greeting.into(),
        }
    }

    #[test]
    fn a_greeting_is_all_that_is_awaited_where_nothing_is_asked() {
        assert_eq!(
            talk(false, false, &["+OK re", "ady\r\n"]),
            [done("+OK ready\r\n")]
        );
        assert_eq!(
            talk(true, true, &["-ERR busy\r\n"]),
            [done("-ERR busy\r\n")]
        );
        let no = talk(false, false, &["* OK IMAP"]);
        assert_eq!(
            no,
            [OpeningStep::Failed(OpeningError::Greeting(
                "* OK IMAP".into()
            ))]
        );
        let long = talk(false, false, &["+".repeat(20_000).as_str()]);
        assert_eq!(
            long,
            [OpeningStep::Failed(OpeningError::TooLong(BYTES_MAX))]
        );
    }

    #[test]
    fn tls_comes_first_then_the_client() {
        let said = [
            "+OK <1@a>\r\n",
            "+OK\r\nUSER\r\nST",
            "LS\r\n.\r\n",
            "+OK\r\n",
            "-ERR who?\r\n",
        ];
        let xclient = "XCLIENT ADDR=192.0.2.1 PORT=4711 TTL=7";
        let steps = [
            send("CAPA"),
            send("STLS"),
            OpeningStep::StartTls,
            send(xclient),
            done("+OK <1@a>\r\n"),
        ];
        assert_eq!(talk(true, true, &said), steps);
        let steps = [send(xclient), done("+OK\r\n")];
        assert_eq!(talk(false, true, &["+OK\r\n", "+OK Updated\r\n"]), steps);
    }

    #[test]
    fn no_session_without_the_tls_that_was_asked_for() {
        let last = |said: &[&str]| talk(true, false, said).pop();
        let failed = |error| Some(OpeningStep::Failed(error));
        let list = "+OK\r\nSTLS\r\n.\r\n";
        assert_eq!(
            last(&["+OK\r\n", "+OK\r\nUSER\r\n.\r\n"]),
            failed(OpeningError::NoTls)
        );
        assert_eq!(last(&["+OK\r\n", "-ERR\r\n"]), failed(OpeningError::NoTls));
        let refused = last(&["+OK\r\n", list, "-ERR no\r\n"]);
        assert_eq!(refused, failed(OpeningError::TlsRefused("-ERR no".into())));
        let injected = last(&["+OK\r\n", list, "+OK\r\n+OK injected\r\n"]);
        assert_eq!(injected, failed(OpeningError::Injected));
    }
}
