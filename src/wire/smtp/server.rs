//! A next hop of our own: it takes every message and keeps none.
//!
//! Behind protocol `journal` it answers for the next hop that is not there; as the demo's next hop and in tests it is
//! one. Content passes through in bounded memory. It judges syntax only as far as it must to stay in step with its client.

use super::{
    Dialect,
    command::{Command, Verb},
    content::DataDecoder,
    reply::Multiline,
};

/// A command line longer than this ends the session: nothing that speaks to us needs one.
const LINE_BYTES_MAX: usize = 128 * 1024;

/// One session.
#[derive(Clone, Debug)]
pub struct Server {
    dialect: Dialect,
    hostname: String,
    /// To be written to the client; the shell empties it.
    pub to_client: Vec<u8>,
    /// The messages taken, for a caller that wants to look at them.
    pub kept: Vec<Vec<u8>>,
    keep: bool,
    /// Of the message that is arriving; empty where nothing is kept.
    content: Vec<u8>,
    line: Vec<u8>,
    input: Input,
    in_mail: bool,
    recipients: usize,
    messages: u64,
    closing: bool,
}

#[derive(Clone, Debug)]
enum Input {
    Commands,
    Data(DataDecoder),
    /// Without a transaction it is read to its end all the same, and refused then.
    Chunk {
        remaining: u64,
        last: bool,
        refused: bool,
    },
}

impl Server {
    /// Its greeting is the first thing in `to_client`.
    pub fn new(dialect: Dialect, hostname: &str) -> Self {
        Self {
            dialect,
            hostname: hostname.to_owned(),
            to_client: format!("220 {hostname} ESMTP\r\n").into_bytes(),
            kept: Vec::new(),
            keep: false,
            content: Vec::new(),
            line: Vec::new(),
            input: Input::Commands,
            in_mail: false,
            recipients: 0,
            messages: 0,
            closing: false,
        }
    }

    /// Messages are put into `kept`.
    pub fn keeping_content(mut self) -> Self {
        self.keep = true;
        self
    }

    /// Messages taken so far.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Nothing more is read once `to_client` is written.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Takes the next bytes of the client.
    pub fn receive(&mut self, mut bytes: &[u8]) {
        while !self.closing && (!bytes.is_empty() || self.chunk_is_due()) {
            let taken = match &mut self.input {
                Input::Data(decoder) => {
                    let decoded = decoder.decode(bytes, &mut self.content);
                    if decoded.ended {
                        self.input = Input::Commands;
                        self.taken();
                    }
                    decoded.consumed
                }
                Input::Chunk {
                    remaining,
                    last,
                    refused,
                } => {
                    let n = usize::try_from(*remaining).map_or(bytes.len(), |r| r.min(bytes.len()));
                    *remaining -= n as u64;
                    let (ends, last, refused) = (*remaining == 0, *last, *refused);
                    if self.keep && !refused {
                        self.content.extend_from_slice(&bytes[..n]);
                    }
                    if ends {
                        self.input = Input::Commands;
                        if refused {
                            self.say("503 5.5.1 No transaction takes this chunk");
                        } else if last {
                            self.taken();
                        } else {
                            self.say("250 2.0.0 Ok");
                        }
                    }
                    n
                }
                Input::Commands => self.line(bytes),
            };
            if !self.keep {
                self.content.clear();
            }
            bytes = &bytes[taken..];
        }
    }

    fn chunk_is_due(&self) -> bool {
        matches!(self.input, Input::Chunk { remaining: 0, .. })
    }

    fn line(&mut self, bytes: &[u8]) -> usize {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.line.extend_from_slice(bytes);
            if self.line.len() > LINE_BYTES_MAX {
                self.say("500 5.5.2 Line too long");
                self.closing = true;
            }
            return bytes.len();
        };
        if self.line.is_empty() {
            self.command(&bytes[..end]);
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(&bytes[..end]);
            self.command(&line);
        }
        end + 1
    }

    fn command(&mut self, line: &[u8]) {
        let command = Command::parse(line);
        match command.verb {
            Verb::Ehlo if self.dialect == Dialect::Smtp => self.hello(),
            Verb::Lhlo if self.dialect == Dialect::Lmtp => self.hello(),
            Verb::Helo if self.dialect == Dialect::Smtp => {
                self.reset();
                self.say(&format!("250 {}", self.hostname));
            }
            Verb::Mail if self.in_mail => self.say("503 5.5.1 Sender already given"),
            Verb::Mail => {
                self.reset();
                self.in_mail = true;
                self.say("250 2.1.0 Ok");
            }
            Verb::Rcpt if self.in_mail => {
                self.recipients += 1;
                self.say("250 2.1.5 Ok");
            }
            Verb::Data if self.recipients > 0 => {
                self.input = Input::Data(DataDecoder::default());
                self.say("354 End with CRLF . CRLF");
            }
            Verb::Bdat => match command.chunk() {
                Some((remaining, last)) => {
                    self.input = Input::Chunk {
                        remaining,
                        last,
                        refused: self.recipients == 0,
                    };
                }
                // How many bytes follow is not known, so there is no going on.
                None => {
                    self.say("501 5.5.4 Syntax: BDAT size [LAST]");
                    self.closing = true;
                }
            },
            Verb::Rcpt | Verb::Data => self.say("503 5.5.1 Out of order"),
            Verb::Rset => {
                self.reset();
                self.say("250 2.0.0 Ok");
            }
            Verb::Noop => self.say("250 2.0.0 Ok"),
            Verb::Quit => {
                self.say("221 2.0.0 Bye");
                self.closing = true;
            }
            _ => self.say("502 5.5.1 Not known here"),
        }
    }

    fn hello(&mut self) {
        self.reset();
        let mut list = Multiline::new(&mut self.to_client, b"250");
        list.line(self.hostname.as_bytes());
        for keyword in [
            "PIPELINING",
            "SIZE",
            "8BITMIME",
            "SMTPUTF8",
            "DSN",
            "ENHANCEDSTATUSCODES",
            "CHUNKING",
            "BINARYMIME",
        ] {
            list.line(keyword.as_bytes());
        }
        list.end();
    }

    /// A message is complete: one reply, or for LMTP one a recipient.
    fn taken(&mut self) {
        self.messages += 1;
        if self.keep {
            self.kept.push(std::mem::take(&mut self.content));
        }
        let replies = match self.dialect {
            Dialect::Smtp => 1,
            Dialect::Lmtp => self.recipients,
        };
        for _ in 0..replies {
            let reply = format!("250 2.0.0 Ok: taken as {}", self.messages);
            self.say(&reply);
        }
        self.reset();
    }

    fn reset(&mut self) {
        self.in_mail = false;
        self.recipients = 0;
        self.content.clear();
    }

    fn say(&mut self, reply: &str) {
        self.to_client.extend_from_slice(reply.as_bytes());
        self.to_client.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(input: &[u8], step: usize) -> (String, Vec<Vec<u8>>) {
        let mut server = Server::new(Dialect::Smtp, "sink").keeping_content();
        for piece in input.chunks(step) {
            server.receive(piece);
        }
        (String::from_utf8(server.to_client).unwrap(), server.kept)
    }

    #[test]
    fn it_takes_messages_by_data_and_by_chunks() {
        let input = b"EHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n..x\r\n.\r\n\
            MAIL FROM:<a@b> BODY=BINARYMIME\r\nRCPT TO:<a@b>\r\nBDAT 2\r\ny\nBDAT 0 LAST\r\nDATA\r\nQUIT\r\n";
        let whole = talk(input, 1000);
        assert_eq!(whole.1, [&b".x\r\n"[..], b"y\n"]);
        assert!(
            whole
                .0
                .ends_with("503 5.5.1 Out of order\r\n221 2.0.0 Bye\r\n")
        );
        for step in [1, 7] {
            assert_eq!(talk(input, step), whole);
        }
    }
}
