//! A raw SMTP or LMTP client: says exactly what it is told and reads whole replies. It hides nothing, so that a test can
//! misbehave.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use super::Mail;

pub struct SmtpClient {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

/// One reply, its lines without line ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub lines: Vec<String>,
}

impl Reply {
    pub fn is_success(&self) -> bool {
        self.code / 100 == 2
    }

    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// Has an EHLO reply this keyword?
    pub fn offers(&self, keyword: &str) -> bool {
        self.lines.iter().skip(1).any(|line| {
            let said = line.get(4..).unwrap_or_default();
            said.split(' ')
                .next()
                .unwrap_or_default()
                .eq_ignore_ascii_case(keyword)
        })
    }
}

impl SmtpClient {
    /// Connects and reads the greeting.
    pub fn connect(address: SocketAddr) -> io::Result<(Self, Reply)> {
        Self::over(TcpStream::connect_timeout(
            &address,
            Duration::from_secs(5),
        )?)
    }

    /// The same from another loopback address, so that a server can tell clients apart.
    pub fn connect_from(source: [u8; 4], address: SocketAddr) -> io::Result<(Self, Reply)> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect_timeout(&address.into(), Duration::from_secs(5))?;
        Self::over(socket.into())
    }

    fn over(stream: TcpStream) -> io::Result<(Self, Reply)> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        let reader = BufReader::new(stream.try_clone()?);
        let mut client = Self { stream, reader };
        let greeting = client.reply()?;
        Ok((client, greeting))
    }

    /// Connects, is greeted with 220, says EHLO.
    pub fn greeted(address: SocketAddr) -> io::Result<Self> {
        let (mut client, greeting) = Self::connect(address)?;
        expect(&greeting, 220)?;
        expect(&client.command("EHLO client.mailtee.test")?, 250)?;
        Ok(client)
    }

    /// How long a reply may take before the wait for it is an error.
    pub fn set_patience(&mut self, limit: Duration) {
        let set = self.stream.set_read_timeout(Some(limit));
        set.expect("a limit above zero");
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one reply, however many lines it has.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let mut raw = Vec::new();
            if self.reader.read_until(b'\n', &mut raw)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = String::from_utf8_lossy(&raw)
                .trim_end_matches(['\r', '\n'])
                .to_owned();
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line);
            match (code, last) {
                (Some(code), true) => return Ok(Reply { code, lines }),
                (Some(_), false) => {}
                (None, _) => return Err(io::Error::other(format!("no reply: {lines:?}"))),
            }
        }
    }

    /// A command line and its reply.
    pub fn command(&mut self, line: &str) -> io::Result<Reply> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.reply()
    }

    /// A whole transaction with DATA; gives the reply to the end of data, or the first refusal.
    pub fn mail(&mut self, mail: &Mail) -> io::Result<Reply> {
        let parameters = mail.parameters();
        let reply = self.command(&format!("MAIL FROM:<{}>{parameters}", mail.sender))?;
        if !reply.is_success() {
            return Ok(reply);
        }
        for recipient in &mail.recipients {
            let reply = self.command(&format!("RCPT TO:<{recipient}>"))?;
            if !reply.is_success() {
                return Ok(reply);
            }
        }
        let reply = self.command("DATA")?;
        if reply.code != 354 {
            return Ok(reply);
        }
        self.send(&stuffed(&mail.bytes))?;
        self.reply()
    }

    pub fn quit(mut self) -> io::Result<Reply> {
        self.command("QUIT")
    }
}

fn expect(reply: &Reply, code: u16) -> io::Result<()> {
    if reply.code == code {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "expected {code}, heard {}",
            reply.text()
        )))
    }
}

/// Content as it crosses the wire after DATA: dots doubled, the end of data put behind it (RFC 5321 section 4.5.2).
pub fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + content.len() / 64 + 5);
    let mut line_begins = true;
    let mut last = 0;
    for &byte in content {
        if line_begins && byte == b'.' {
            out.push(b'.');
        }
        out.push(byte);
        line_begins = byte == b'\n' && last == b'\r';
        last = byte;
    }
    if !line_begins {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}
