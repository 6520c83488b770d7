//! A small SMTP client for the demo: one connection, one message after the other, as a mail server sends them.

use std::io;

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::samples::Sample;

pub(super) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects and greets.
    pub(super) async fn connect(address: std::net::SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let mut client = Self {
            stream: BufReader::new(stream),
        };
        client.expect(220).await?;
        client.command("EHLO demo.example.org", 250).await?;
        Ok(client)
    }

    /// Sends one message; gives the reply to its end.
    pub(super) async fn send(&mut self, sample: &Sample) -> io::Result<String> {
        let mut mail = format!("MAIL FROM:<{}>", sample.sender);
        if !sample.content.is_ascii() {
            mail.push_str(" BODY=8BITMIME");
        }
        let addresses = std::iter::once(&sample.sender).chain(&sample.recipients);
        if addresses.into_iter().any(|address| !address.is_ascii()) {
            mail.push_str(" SMTPUTF8");
        }
        self.command(&mail, 250).await?;
        for recipient in &sample.recipients {
            self.command(&format!("RCPT TO:<{recipient}>"), 250).await?;
        }
        self.command("DATA", 354).await?;
        self.stream.write_all(&stuffed(&sample.content)).await?;
        self.stream.write_all(b".\r\n").await?;
        self.expect(250).await
    }

    pub(super) async fn quit(mut self) -> io::Result<()> {
        self.command("QUIT", 221).await.map(drop)
    }

    async fn command(&mut self, line: &str, code: u16) -> io::Result<String> {
        self.stream
            .write_all(format!("{line}\r\n").as_bytes())
            .await?;
        self.expect(code).await
    }

    /// Reads a whole reply, which must have this code.
    async fn expect(&mut self, code: u16) -> io::Result<String> {
        let mut reply = String::new();
        loop {
            let start = reply.len();
            self.stream.read_line(&mut reply).await?;
            let line = &reply[start..];
            if line.as_bytes().get(3) == Some(&b'-') {
                continue;
            }
            return if line.starts_with(&code.to_string()) {
                Ok(reply.trim_end().to_owned())
            } else {
                Err(io::Error::other(format!(
                    "expected {code}, heard: {}",
                    reply.trim_end()
                )))
            };
        }
    }
}

/// Dot-stuffed (RFC 5321 section 4.5.2); the content ends with a line end.
fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 16);
    let mut from = 0;
    for at in memchr::memchr_iter(b'\n', content) {
        if content[from] == b'.' {
            out.push(b'.');
        }
        out.extend_from_slice(&content[from..=at]);
        from = at + 1;
    }
    out.extend_from_slice(&content[from..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_begin_with_a_dot_get_another() {
        assert_eq!(stuffed(b".\r\na.\r\n..b\r\n"), b"..\r\na.\r\n...b\r\n");
        assert_eq!(stuffed(b""), b"");
    }
}
