//! One dialogue with a server that may be hostile: lines in, commands out, all within one deadline and one budget of bytes.
//!
//! It keeps what has come so far, so that a greeting that is never finished is still evidence. It holds at most
//! [`BYTES_MAX`]: a server that says more has said enough.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use super::{
    identity::Certificate,
    tls::{self, Trust},
};
use crate::net::Stream;

/// The most that is read in one connection.
pub(super) const BYTES_MAX: usize = 64 << 10;

/// Lines of one answer; more is no answer of a mail server.
pub(super) const LINES_MAX: usize = 256;

/// Why a dialogue goes no further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    #[error("the server closed the connection")]
    Closed,
    #[error("no answer in time")]
    Late,
    #[error("more than {} KiB or {LINES_MAX} lines, and no end", BYTES_MAX >> 10)]
    TooMuch,
    #[error("{0}")]
    Broken(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Broken(error.to_string()),
        }
    }
}

pub(super) struct Talk {
    stream: Stream,
    unread: Vec<u8>,
    read: usize,
    deadline: Instant,
}

impl Talk {
    pub(super) fn new(stream: Stream, deadline: Instant) -> Self {
        Self {
            stream,
            unread: Vec::new(),
            read: 0,
            deadline,
        }
    }

    pub(super) fn until(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Bytes that came and that no line has taken yet.
    pub(super) fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// Our own end, as an SMTP client without a name of its own says it (RFC 5321 section 4.1.3).
    pub(super) fn own_literal(&self) -> String {
        match self.stream.local().map(|local| local.ip().to_canonical()) {
            Some(std::net::IpAddr::V4(ip)) => format!("[{ip}]"),
            Some(std::net::IpAddr::V6(ip)) => format!("[IPv6:{ip}]"),
            None => "localhost".to_owned(),
        }
    }

    /// Waits for some bytes more. Nothing is lost where the wait is given up.
    pub(super) async fn more(&mut self) -> Result<(), Trouble> {
        if self.read >= BYTES_MAX {
            return Err(Trouble::TooMuch);
        }
        self.unread.reserve(4096);
        match timeout_at(self.deadline, self.stream.read_buf(&mut self.unread)).await {
            Err(_) => Err(Trouble::Late),
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(0)) => Err(Trouble::Closed),
            Ok(Ok(count)) => {
                self.read += count;
                Ok(())
            }
        }
    }

    /// The next line, without its end; CRLF and a bare LF both end one.
    pub(super) async fn line(&mut self) -> Result<String, Trouble> {
        let mut searched = 0;
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.unread[searched..]) {
                let line: Vec<u8> = self.unread.drain(..=searched + end).collect();
                let text = String::from_utf8_lossy(&line);
                return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
            }
            searched = self.unread.len();
            self.more().await?;
        }
    }

    /// So many bytes: a literal.
    pub(super) async fn exactly(&mut self, count: usize) -> Result<Vec<u8>, Trouble> {
        if count > BYTES_MAX {
            return Err(Trouble::TooMuch);
        }
        while self.unread.len() < count {
            self.more().await?;
        }
        Ok(self.unread.drain(..count).collect())
    }

    /// All that comes until the server closes.
    pub(super) async fn rest(&mut self) -> Result<Vec<u8>, Trouble> {
        loop {
            match self.more().await {
                Ok(()) => {}
                Err(Trouble::Closed) => return Ok(std::mem::take(&mut self.unread)),
                Err(trouble) => return Err(trouble),
            }
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let work = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match timeout_at(self.deadline, work).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(Trouble::Late),
        }
    }

    pub(super) async fn command(&mut self, line: &str) -> Result<(), Trouble> {
        self.send(format!("{line}\r\n").as_bytes()).await
    }

    /// TLS on this connection, once the server has agreed. What it said behind its agreement, before the handshake, could
    /// be anybody's and is thrown away.
    pub(super) async fn begin_tls(self, trust: &Trust) -> Result<(Self, Certificate), Trouble> {
        let Stream::Plain(socket) = self.stream else {
            return Err(Trouble::Broken("TLS is in force already".to_owned()));
        };
        let shaking = tls::handshake(socket, trust);
        match timeout_at(self.deadline, shaking).await {
            Err(_) => Err(Trouble::Late),
            Ok(Err(error)) => Err(Trouble::Broken(error.to_string())),
            Ok(Ok((stream, certificate))) => Ok((
                Self {
                    stream,
                    unread: Vec::new(),
                    read: self.read,
                    deadline: self.deadline,
                },
                certificate,
            )),
        }
    }

    /// Says goodbye and does not wait long for the answer: a probe leaves no session behind.
    pub(super) async fn leave(mut self, goodbye: &str) {
        let soon = Instant::now() + Duration::from_millis(200);
        self.until(soon.min(self.deadline));
        if self.command(goodbye).await.is_ok() {
            while self.more().await.is_ok() {}
        }
        // A server that is gone already is left as well as one that answers.
        let _ = timeout_at(soon, self.stream.shutdown()).await;
    }
}
