//! A raw IMAP client: says exactly what it is told and reads whole responses, literals and all. It hides nothing, so that a
//! test can misbehave. In plain text or over TLS.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types};

/// No response of a test is larger: a length beyond it is a lost track, not mail.
const LITERAL_BYTES_MAX: usize = 1 << 30;

pub struct ImapClient {
    leg: Leg,
    /// Read and not yet asked for; what lies before `at` was.
    buffer: Vec<u8>,
    at: usize,
    serial: u32,
}

enum Leg {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// What came to one command.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Each untagged response as it came, with its literals, without the last line end.
    pub untagged: Vec<Vec<u8>>,
    /// The tagged one without its tag: `OK …`.
    pub tagged: String,
}

/// One message as FETCH shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown {
    pub uid: u32,
    pub flags: Vec<String>,
    pub internal_date: String,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn is_ok(&self) -> bool {
        self.tagged.starts_with("OK")
    }

    /// The untagged responses as text, a line each.
    pub fn text(&self) -> String {
        let lines = self.untagged.iter().map(|u| String::from_utf8_lossy(u));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// What follows this code in the tagged response: `code("APPENDUID")` is `1600000000 7`.
    pub fn code(&self, name: &str) -> Option<&str> {
        let inside = self.tagged.split_once('[')?.1.split_once(']')?.0;
        inside.strip_prefix(name).map(str::trim)
    }
}

impl ImapClient {
    /// Connects and reads the greeting.
    pub fn connect(address: SocketAddr) -> io::Result<(Self, String)> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
        Self::over(Leg::Plain(stream))
    }

    /// The same from another loopback address, so that a server can tell clients apart.
    pub fn connect_from(source: [u8; 4], address: SocketAddr) -> io::Result<(Self, String)> {
        Self::over(Leg::Plain(connected_from(source, address)?))
    }

    /// The same, with something to be said before the greeting.
    pub fn connect_saying(
        source: [u8; 4],
        address: SocketAddr,
        first: &[u8],
    ) -> io::Result<(Self, String)> {
        let mut stream = connected_from(source, address)?;
        stream.write_all(first)?;
        Self::over(Leg::Plain(stream))
    }

    /// The same with TLS from the first byte, the server being `localhost`.
    pub fn connect_tls(address: SocketAddr, ca: &Path) -> io::Result<(Self, String)> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
        Self::over(secured(stream, ca)?)
    }

    /// Connects, is greeted, logs in.
    #[track_caller]
    pub fn logged_in(address: SocketAddr, user: &(String, String)) -> Self {
        let (mut client, _) = Self::connect(address).expect("it greets");
        client.login(user);
        client
    }

    fn over(leg: Leg) -> io::Result<(Self, String)> {
        let tcp = leg.tcp();
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(Duration::from_secs(60)))?;
        tcp.set_write_timeout(Some(Duration::from_secs(60)))?;
        let mut client = Self {
            leg,
            buffer: Vec::new(),
            at: 0,
            serial: 0,
        };
        let greeting = client.line()?;
        Ok((client, text(&greeting)))
    }

    /// STARTTLS; gives what the server said to it, and is secured if that was OK.
    pub fn start_tls(self, ca: &Path) -> io::Result<(Self, Answer)> {
        let mut client = self;
        let answer = client.command("STARTTLS")?;
        if !answer.is_ok() {
            return Ok((client, answer));
        }
        Ok((client.into_tls(ca)?, answer))
    }

    /// Shakes hands: the server has agreed.
    pub fn into_tls(mut self, ca: &Path) -> io::Result<Self> {
        let Leg::Plain(stream) = self.leg else {
            return Err(io::Error::other("it has TLS already"));
        };
        self.leg = secured(stream, ca)?;
        Ok(self)
    }

    #[track_caller]
    pub fn login(&mut self, (name, password): &(String, String)) {
        self.ok(&format!("LOGIN {} {}", quoted(name), quoted(password)));
    }

    /// How long a response may take before the wait for it is an error.
    pub fn set_patience(&mut self, limit: Duration) {
        let set = self.leg.tcp().set_read_timeout(Some(limit));
        set.expect("a limit above zero");
    }

    /// Gone, without a word.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(self.leg.tcp());
        let set = socket.set_linger(Some(Duration::ZERO));
        set.expect("it is open");
    }

    /// No more is said; what is still to come can be read.
    pub fn half_close(&mut self) -> io::Result<()> {
        self.leg.tcp().shutdown(Shutdown::Write)
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.leg.write_all(bytes)?;
        self.leg.flush()
    }

    /// Sends a command under a tag of its own, and does not wait: for pipelines. Gives the tag.
    pub fn begin(&mut self, command: &[u8]) -> io::Result<String> {
        self.serial += 1;
        let tag = format!("k{}", self.serial);
        self.send(&[tag.as_bytes(), b" ", command].concat())?;
        Ok(tag)
    }

    /// Reads up to the tagged response of `tag`.
    pub fn finish(&mut self, tag: &str) -> io::Result<Answer> {
        let mut untagged = Vec::new();
        loop {
            let response = self.response()?;
            match response.strip_prefix(format!("{tag} ").as_bytes()) {
                Some(tagged) => {
                    return Ok(Answer {
                        untagged,
                        tagged: text(tagged),
                    });
                }
                None => untagged.push(response),
            }
        }
    }

    /// A command on one line, and all that came to it.
    pub fn command(&mut self, line: &str) -> io::Result<Answer> {
        let tag = self.begin(format!("{line}\r\n").as_bytes())?;
        self.finish(&tag)
    }

    /// The same, where anything but OK is a failure.
    #[track_caller]
    pub fn ok(&mut self, line: &str) -> Answer {
        let answer = self.command(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert!(answer.is_ok(), "{line}: {}", answer.tagged);
        answer
    }

    /// A command in pieces: each but the last ends in a literal's marker, and waits for the server's `+`. Where the server
    /// refuses instead, the rest stays unsaid.
    pub fn in_pieces(&mut self, pieces: &[&[u8]]) -> io::Result<Answer> {
        let (first, rest) = pieces.split_first().expect("a command has a piece");
        let tag = self.begin(first)?;
        let mut early = Vec::new();
        for piece in rest {
            loop {
                let response = self.response()?;
                if response.starts_with(b"+") {
                    break;
                }
                match response.strip_prefix(format!("{tag} ").as_bytes()) {
                    Some(tagged) => {
                        return Ok(Answer {
                            untagged: early,
                            tagged: text(tagged),
                        });
                    }
                    None => early.push(response),
                }
            }
            self.send(piece)?;
        }
        let mut answer = self.finish(&tag)?;
        answer.untagged.splice(0..0, early);
        Ok(answer)
    }

    /// APPEND with a synchronizing literal.
    pub fn append(&mut self, folder: &str, flags: &str, message: &[u8]) -> io::Result<Answer> {
        let head = format!(
            "APPEND {} ({flags}) {{{}}}\r\n",
            quoted(folder),
            message.len()
        );
        self.in_pieces(&[head.as_bytes(), &[message, b"\r\n"].concat()])
    }

    /// Every message of the selected folder, whole, without a trace.
    pub fn all(&mut self) -> io::Result<Vec<Shown>> {
        self.these("1:*")
    }

    /// The same of these UIDs: a large folder goes piece by piece.
    pub fn these(&mut self, uids: &str) -> io::Result<Vec<Shown>> {
        let fetch = format!("UID FETCH {uids} (UID FLAGS INTERNALDATE BODY.PEEK[])");
        let answer = self.command(&fetch)?;
        let fetched = answer.untagged.iter().filter_map(|r| shown(r));
        Ok(fetched.collect())
    }

    /// One response, whole: a line, and where it ends in a literal's marker the literal and the next line.
    pub fn response(&mut self) -> io::Result<Vec<u8>> {
        let mut response = self.line()?;
        if is_free_text(&response) {
            return Ok(response);
        }
        while let Some(length) = marker(&response) {
            response.extend_from_slice(b"\r\n");
            let literal = self.exactly(length)?;
            response.extend_from_slice(&literal);
            let rest = self.line()?;
            response.extend_from_slice(&rest);
        }
        Ok(response)
    }

    /// One line without its end.
    pub fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut searched = self.at;
        loop {
            if let Some(end) = self.buffer[searched..]
                .windows(2)
                .position(|w| w == b"\r\n")
            {
                let line = self.buffer[self.at..searched + end].to_vec();
                self.at = searched + end + 2;
                return Ok(line);
            }
            searched = self.buffer.len().saturating_sub(1).max(self.at);
            let before = self.at;
            self.read_more()?;
            searched -= before - self.at;
        }
    }

    /// So many bytes.
    pub fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() - self.at < length {
            self.read_more()?;
        }
        let bytes = self.buffer[self.at..self.at + length].to_vec();
        self.at += length;
        Ok(bytes)
    }

    /// All up to the end of the connection.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.read_more() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(self.buffer.split_off(self.at));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let mut chunk = [0; 16 * 1024];
        match self.leg.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.buffer.extend_from_slice(&chunk[..read]);
                Ok(())
            }
        }
    }
}

impl Leg {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Leg {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into),
            Self::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Leg {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

fn connected_from(source: [u8; 4], address: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&address.into(), Duration::from_secs(10))?;
    Ok(socket.into())
}

fn secured(stream: TcpStream, ca: &Path) -> io::Result<Leg> {
    use pki_types::pem::PemObject as _;
    mailtee::net::install_provider();
    let mut roots = RootCertStore::empty();
    for certificate in pki_types::CertificateDer::pem_slice_iter(&fs::read(ca)?) {
        let certificate = certificate.map_err(io::Error::other)?;
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = pki_types::ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    Ok(Leg::Tls(Box::new(StreamOwned::new(connection, stream))))
}

/// A quoted string (RFC 9051 section 4.3).
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Text after a status is for people: what looks like a literal there is none.
fn is_free_text(response: &[u8]) -> bool {
    let mut words = response.split(|&b| b == b' ');
    let tag = words.next().unwrap_or_default();
    let status: &[&[u8]] = &[b"OK", b"NO", b"BAD", b"BYE", b"PREAUTH"];
    tag == b"+" || words.next().is_some_and(|word| status.contains(&word))
}

/// The length of the literal that this line announces, `~{n}` too.
fn marker(line: &[u8]) -> Option<usize> {
    let digits = line.strip_suffix(b"}")?;
    let begin = digits.iter().rposition(|&b| b == b'{')? + 1;
    let number = std::str::from_utf8(&digits[begin..]).ok()?;
    number.parse().ok().filter(|&n| n <= LITERAL_BYTES_MAX)
}

/// `* n FETCH (UID … FLAGS (…) INTERNALDATE "…" BODY[] {…}…)`, items in any order; none where it is something else.
fn shown(response: &[u8]) -> Option<Shown> {
    let begin = response.windows(7).position(|w| w == b"FETCH (")?;
    let body = response.windows(6).position(|w| w == b"BODY[]")?;
    let (bytes, behind) = match response.get(body + 7)? {
        b'{' => {
            let line = response[body..].windows(2).position(|w| w == b"\r\n")? + body;
            let length = marker(&response[..line])?;
            (
                response.get(line + 2..line + 2 + length)?.to_vec(),
                line + 2 + length,
            )
        }
        b'"' => {
            let end = response[body + 8..].iter().position(|&b| b == b'"')? + body + 8;
            (response[body + 8..end].to_vec(), end + 1)
        }
        _ => return None,
    };
    let items = text(&[&response[begin..body], &response[behind..]].concat());
    let after = |name: &str| items.split_once(name).map(|(_, rest)| rest);
    let mut flags: Vec<String> = after("FLAGS (")?
        .split_once(')')?
        .0
        .split_whitespace()
        // the first session to look at a message has it, and no other
        .filter(|flag| *flag != "\\Recent")
        .map(str::to_owned)
        .collect();
    flags.sort();
    Some(Shown {
        uid: after("UID ")?
            .split([' ', ')'])
            .next()
            .and_then(|uid| uid.parse().ok())?,
        flags,
        internal_date: after("INTERNALDATE \"")?.split_once('"')?.0.to_owned(),
        bytes,
    })
}
