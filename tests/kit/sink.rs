//! A scripted next hop: an SMTP or LMTP server that records what it is told and answers as the test says. What it answers
//! by default is what a willing server would.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::wait_until;

/// Where in a session the script is asked.
#[derive(Debug)]
pub enum Moment<'a> {
    Connected,
    Command(&'a str),
    /// After the end of DATA, or of the last BDAT chunk.
    EndOfData(&'a Received),
}

/// What the script wants said.
pub enum Answer {
    /// What a willing server says.
    Default,
    /// These bytes, as they are.
    Say(String),
    /// These bytes, then the connection is closed.
    SayAndClose(String),
    /// Nothing until the sink ends.
    Stall,
}

type Script = dyn Fn(&Moment<'_>) -> Answer + Send + Sync;

/// One transaction as the sink saw it.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Every command of the session so far, as it came, without line ends.
    pub session: Vec<String>,
    /// `MAIL FROM:…` as it came.
    pub mail: String,
    /// Each `RCPT TO:…` that was accepted, as it came.
    pub recipients: Vec<String>,
    /// Content, dot-stuffing undone.
    pub bytes: Vec<u8>,
}

pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    script: Box<Script>,
    lmtp: bool,
    /// Keeps nothing: the script sees what it wants to know.
    forgetful: bool,
    received: Mutex<Vec<Received>>,
    /// Open sessions, so that the sink's end ends them.
    streams: Mutex<BTreeMap<u64, TcpStream>>,
    ended: AtomicBool,
}

impl Sink {
    /// A willing SMTP server.
    pub fn start() -> Self {
        Self::scripted(|_| Answer::Default)
    }

    pub fn scripted(script: impl Fn(&Moment<'_>) -> Answer + Send + Sync + 'static) -> Self {
        Self::listen("127.0.0.1:0", false, false, Box::new(script))
    }

    /// For long runs: what it records would fill the memory, the commands of a long session with each of its messages.
    pub fn forgetful(script: impl Fn(&Moment<'_>) -> Answer + Send + Sync + 'static) -> Self {
        Self::listen("127.0.0.1:0", false, true, Box::new(script))
    }

    /// The same, speaking LMTP: a reply for each recipient after the data.
    pub fn lmtp(script: impl Fn(&Moment<'_>) -> Answer + Send + Sync + 'static) -> Self {
        Self::listen("127.0.0.1:0", true, false, Box::new(script))
    }

    /// A willing server on a given address: the same next hop, back again.
    pub fn start_at(address: SocketAddr) -> Self {
        Self::listen(address, false, false, Box::new(|_| Answer::Default))
    }

    fn listen(
        address: impl std::net::ToSocketAddrs,
        lmtp: bool,
        forgetful: bool,
        script: Box<Script>,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("a loopback listener");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            script,
            lmtp,
            forgetful,
            received: Mutex::default(),
            streams: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for (id, stream) in (0..).zip(listener.incoming().flatten()) {
                if serving.ended.load(Ordering::Acquire) {
                    return;
                }
                let Ok(kept) = stream.try_clone() else {
                    continue;
                };
                serving.streams().insert(id, kept);
                let serving = serving.clone();
                std::thread::spawn(move || {
                    // a lost peer ends its own session only
                    let _ = serving.session(stream);
                    serving.streams().remove(&id);
                });
            }
        });
        Self { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Transactions that were answered with success, so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().expect("never poisoned").clone()
    }

    pub fn count(&self) -> usize {
        self.shared.received.lock().expect("never poisoned").len()
    }

    /// Waits for this many transactions and gives them all.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Received> {
        wait_until(
            Duration::from_secs(60),
            &format!("the sink has {count} messages"),
            || (self.count() >= count).then_some(()),
        );
        self.received()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        for stream in self.shared.streams().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // wakes the accept loop, which then sees the end
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn streams(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, TcpStream>> {
        self.streams.lock().expect("never poisoned")
    }

    fn session(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut writer = stream.try_clone()?;
        let mut reader = BufReader::new(stream);
        let service = if self.lmtp { "LMTP" } else { "ESMTP" };
        self.say(
            &mut writer,
            &Moment::Connected,
            format!("220 sink.mailtee.test {service}\r\n"),
        )?;
        let mut now = Received::default();
        loop {
            let mut raw = Vec::new();
            if reader.read_until(b'\n', &mut raw)? == 0 {
                return Ok(());
            }
            let line = String::from_utf8_lossy(&raw)
                .trim_end_matches(['\r', '\n'])
                .to_owned();
            if !self.forgetful {
                now.session.push(line.clone());
            }
            let verb = line
                .split([' ', ':'])
                .next()
                .unwrap_or_default()
                .to_ascii_uppercase();
            if verb == "BDAT" {
                self.chunk(&mut reader, &mut writer, &line, &mut now)?;
                continue;
            }
            let willing = match verb.as_str() {
                "EHLO" | "LHLO" => {
                    "250-sink.mailtee.test\r\n250-PIPELINING\r\n250-SIZE 1073741824\r\n250-8BITMIME\r\n\
                                    250-SMTPUTF8\r\n250-DSN\r\n250-CHUNKING\r\n250-XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE\r\n\
                                    250 ENHANCEDSTATUSCODES\r\n"
                }
                "MAIL" => "250 2.1.0 sender ok\r\n",
                "RCPT" => "250 2.1.5 recipient ok\r\n",
                "DATA" if now.recipients.is_empty() => "554 5.5.1 no valid recipients\r\n",
                "DATA" => "354 go on\r\n",
                "QUIT" => "221 2.0.0 bye\r\n",
                "STARTTLS" | "AUTH" => "502 5.5.1 not here\r\n",
                _ => "250 2.0.0 ok\r\n",
            };
            let said = self.say(&mut writer, &Moment::Command(&line), willing.to_owned())?;
            match (verb.as_str(), said.as_bytes().first()) {
                ("MAIL", Some(b'2')) => now.mail = line,
                ("RCPT", Some(b'2')) => now.recipients.push(line),
                ("RSET", Some(b'2')) => now = fresh(&now),
                ("DATA", Some(b'3')) => {
                    now.bytes = content(&mut reader)?;
                    self.end_of_data(&mut writer, &mut now)?;
                }
                ("QUIT", _) => return Ok(()),
                _ => {}
            }
        }
    }

    /// `BDAT size [LAST]` (RFC 3030).
    fn chunk(
        &self,
        reader: &mut impl Read,
        writer: &mut TcpStream,
        line: &str,
        now: &mut Received,
    ) -> io::Result<()> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let size: u64 = words
            .next()
            .and_then(|size| size.parse().ok())
            .ok_or(io::ErrorKind::InvalidData)?;
        reader.take(size).read_to_end(&mut now.bytes)?;
        if words.next().is_some_and(|w| w.eq_ignore_ascii_case("LAST")) {
            self.end_of_data(writer, now)
        } else {
            self.say(
                writer,
                &Moment::Command(line),
                "250 2.0.0 chunk ok\r\n".to_owned(),
            )
            .map(drop)
        }
    }

    fn end_of_data(&self, writer: &mut TcpStream, now: &mut Received) -> io::Result<()> {
        let serial = self.received.lock().expect("never poisoned").len();
        let replies = if self.lmtp { now.recipients.len() } else { 1 };
        let willing = format!("250 2.0.0 ok: queued as SINK{serial}\r\n").repeat(replies);
        let answer = (self.script)(&Moment::EndOfData(now));
        let taken = match &answer {
            Answer::Default => true,
            Answer::Say(text) | Answer::SayAndClose(text) => text.starts_with('2'),
            Answer::Stall => false,
        };
        if taken && !self.forgetful {
            // before the reply: whoever heard the reply may look for the message
            self.received
                .lock()
                .expect("never poisoned")
                .push(now.clone());
        }
        self.answer(writer, answer, willing)?;
        *now = fresh(now);
        Ok(())
    }

    /// Asks the script, says what it wants; gives what was said.
    fn say(
        &self,
        writer: &mut TcpStream,
        moment: &Moment<'_>,
        willing: String,
    ) -> io::Result<String> {
        let answer = (self.script)(moment);
        self.answer(writer, answer, willing)
    }

    fn answer(
        &self,
        writer: &mut TcpStream,
        answer: Answer,
        willing: String,
    ) -> io::Result<String> {
        match answer {
            Answer::Default => {
                writer.write_all(willing.as_bytes())?;
                Ok(willing)
            }
            Answer::Say(text) => {
                writer.write_all(text.as_bytes())?;
                Ok(text)
            }
            Answer::SayAndClose(text) => {
                writer.write_all(text.as_bytes())?;
                writer.shutdown(Shutdown::Both)?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Answer::Stall => {
                // ends when the sink, or the peer, closes the connection
                let _ = writer.read(&mut [0]);
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        }
    }
}

/// The next transaction of the same session.
fn fresh(now: &Received) -> Received {
    Received {
        session: now.session.clone(),
        ..Received::default()
    }
}

/// Content after DATA: only CRLF.CRLF ends it (RFC 5321 section 4.1.1.4), leading dots are undone.
fn content(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut line_begins = true;
    loop {
        let start = out.len();
        if reader.read_until(b'\n', &mut out)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line_begins && out[start] == b'.' {
            if &out[start..] == b".\r\n" {
                out.truncate(start);
                return Ok(out);
            }
            out.remove(start);
        }
        line_begins = out.ends_with(b"\r\n");
    }
}
