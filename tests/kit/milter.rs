//! A mail server's side of the milter protocol over any socket. It says what it is told to, and can say it by halves.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use mailtee::wire::milter::{Mta, Offer, Reply, command};

/// Longer than any wait that is meant.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct MilterClient<S = TcpStream> {
    pub stream: S,
    mta: Mta,
    /// Read, and no whole reply yet.
    heard: Vec<u8>,
}

impl MilterClient {
    /// Connects, and negotiates all that there is.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Self::over(stream, Offer::default())
    }
}

impl<S: Read + Write> MilterClient<S> {
    pub fn over(stream: S, offer: Offer) -> io::Result<Self> {
        let mut client = Self {
            stream,
            mta: Mta::new(offer),
            heard: Vec::new(),
        };
        client.send(|_| false)?;
        match client.reply()? {
            Reply::Negotiated { .. } => Ok(client),
            other => Err(io::Error::other(format!("no negotiation: {other:?}"))),
        }
    }

    /// Says it, and waits for no answer.
    pub fn send(&mut self, say: impl FnOnce(&mut Mta) -> bool) -> io::Result<bool> {
        let is_due = say(&mut self.mta);
        let out = std::mem::take(&mut self.mta.out);
        self.stream.write_all(&out)?;
        Ok(is_due)
    }

    /// Says one event, and takes the CONTINUE where one is due.
    pub fn tell(&mut self, say: impl FnOnce(&mut Mta) -> bool) -> io::Result<()> {
        if self.send(say)? {
            match self.reply()? {
                Reply::Continue => {}
                other => return Err(io::Error::other(format!("{other:?}"))),
            }
        }
        Ok(())
    }

    /// The next one, PROGRESS among them.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let mut buffer = [0; 4096];
        loop {
            let mut heard = self.heard.as_slice();
            let reply = self.mta.next(&mut heard).map_err(io::Error::other)?;
            self.heard = heard.to_vec();
            if let Some(reply) = reply {
                return Ok(reply);
            }
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.heard.extend_from_slice(&buffer[..n]),
            }
        }
    }

    /// The next one that is an answer.
    pub fn verdict(&mut self) -> io::Result<Reply> {
        loop {
            match self.reply()? {
                Reply::Progress => {}
                reply => return Ok(reply),
            }
        }
    }

    /// The connection closes, and nothing is said before it does.
    #[track_caller]
    pub fn assert_closed(&mut self) {
        match self.reply() {
            Err(error) => assert!(
                matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                ),
                "{error}"
            ),
            Ok(reply) => panic!("said {reply:?}"),
        }
    }

    /// One message up to its last header, between `a@example.org` and `b@example.net`.
    pub fn begin(&mut self, headers: &[(&str, &str)]) -> io::Result<()> {
        self.tell(|mta| mta.connect("mx.example.org", ([192, 0, 2, 1], 2525).into()))?;
        self.tell(|mta| mta.helo(b"mx.example.org"))?;
        self.tell(|mta| mta.mail(&[b"<a@example.org>", b"SIZE=1000"]))?;
        self.tell(|mta| mta.rcpt(&[b"<b@example.net>"]))?;
        self.tell(Mta::data)?;
        for (name, value) in headers {
            self.tell(|mta| mta.header(name.as_bytes(), value.as_bytes()))?;
        }
        self.tell(Mta::end_of_headers)
    }

    /// The rest of it, and the answer.
    pub fn end(&mut self, body: &[u8]) -> io::Result<Reply> {
        for piece in body.chunks(65_535) {
            self.tell(|mta| mta.body(piece))?;
        }
        self.send(|mta| {
            mta.macros(command::END_OF_BODY, &[("i", "4Fqueue")]);
            mta.end_of_body(b"")
        })?;
        self.reply()
    }

    /// A whole message of this subject; its copy is [`copy_of`] it.
    pub fn message(&mut self, subject: &str) -> io::Result<Reply> {
        self.begin(&[("Subject", &format!(" {subject}")), ("X-Tight", "yes")])?;
        self.end(b"first\r\nsecond\r\n")
    }

    /// Leaves as a mail server does.
    pub fn quit(mut self) -> io::Result<()> {
        self.send(|mta| {
            mta.quit();
            false
        })?;
        Ok(())
    }
}

/// What is to be captured of [`MilterClient::message`].
pub fn copy_of(subject: &str) -> String {
    format!("Subject: {subject}\r\nX-Tight:yes\r\n\r\nfirst\r\nsecond\r\n")
}
