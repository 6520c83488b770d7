//! Where to listen and where to connect: `host:port` or `unix:/path`; also as Postfix and Sendmail write a milter's
//! (`inet:host:port`, `inet:port@host`, `local:/path`).
//!
//! A host name is resolved at each connect, so a next hop may move. Every address it has is tried, in the resolver's order,
//! and one that does not answer holds the next up for a moment only.

use std::{fmt, io, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tokio::{
    net::{TcpStream, UnixStream, lookup_host},
    time::{sleep, timeout},
};

use super::{Listener, Socket, SocketFile, socket::tune};

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A name or an IP address (IPv6 without its brackets), and a port.
    Tcp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not an address: expected \"host:port\", \"[ipv6]:port\" or \"unix:/path\"")]
pub struct BadAddress {
    found: String,
}

/// The longest path that fits `sockaddr_un` on Linux, with its NUL.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// How long an address may take before the next one is tried beside it.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

impl Address {
    /// Connects within `limit`, which covers the resolver and every address of the host.
    pub async fn connect(&self, limit: Duration) -> io::Result<Socket> {
        match timeout(limit, self.connect_any()).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no connection within {limit:?}"),
            )),
        }
    }

    async fn connect_any(&self) -> io::Result<Socket> {
        let (host, port) = match self {
            Self::Unix(path) => return UnixStream::connect(path).await.map(Socket::from),
            Self::Tcp { host, port } => (host.as_str(), *port),
        };
        let stream = first_of(lookup_host((host, port)).await?).await?;
        tune(socket2::SockRef::from(&stream))?;
        Ok(Socket::from(stream))
    }

    /// Listens here. A unix socket gets the permissions of `file`.
    pub async fn listen(&self, file: Option<&SocketFile>) -> io::Result<Listener> {
        match self {
            Self::Unix(path) => match file {
                Some(file) => Listener::bind_unix(path, file),
                None => Listener::bind_unix(path, &SocketFile::default()),
            },
            Self::Tcp { host, port } => {
                let mut last = None;
                for address in lookup_host((host.as_str(), *port)).await? {
                    match Listener::bind_tcp(address) {
                        Ok(listener) => return Ok(listener),
                        Err(error) => last = Some(error),
                    }
                }
                Err(last.unwrap_or_else(|| {
                    io::Error::new(io::ErrorKind::NotFound, "the host name has no address")
                }))
            }
        }
    }

    /// The host, as a certificate would name it; none for a unix socket.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp { host, .. } => Some(host),
            Self::Unix(_) => None,
        }
    }
}

/// The first connection that stands. Each attempt goes on beside those begun after it; the next begins once one has
/// failed, or after a moment (RFC 8305 section 5).
async fn first_of(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut addresses = addresses.fuse().peekable();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    let mut attempts = FuturesUnordered::new();
    loop {
        attempts.extend(addresses.next().map(TcpStream::connect));
        let more = addresses.peek().is_some();
        tokio::select! {
            ended = attempts.next() => match ended {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => last = error,
                None => return Err(last),
            },
            () = sleep(ATTEMPT_DELAY), if more => {}
        }
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress {
            found: text.to_owned(),
        };
        let unix = text.strip_prefix("unix:");
        if let Some(path) = unix.or_else(|| text.strip_prefix("local:")) {
            let fits = path.starts_with('/') && path.len() <= UNIX_PATH_BYTES_MAX;
            return fits.then(|| Self::Unix(path.into())).ok_or_else(bad);
        }
        let inet = text.strip_prefix("inet:");
        let inet = inet.or_else(|| text.strip_prefix("inet6:"));
        let turned = inet.and_then(|it| it.split_once('@'));
        let turned = turned.map(|(port, host)| match host.contains(':') {
            true => format!("[{}]:{port}", host.trim_matches(['[', ']'])),
            false => format!("{host}:{port}"),
        });
        let text = turned.as_deref().or(inet).unwrap_or(text);
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let host = match host.strip_prefix('[') {
            Some(inside) => {
                let inside = inside.strip_suffix(']').ok_or_else(bad)?;
                let _: std::net::Ipv6Addr = inside.parse().map_err(|_| bad())?;
                inside
            }
            // An IPv6 address without brackets leaves its last group in doubt.
            None if host.contains(':') => return Err(bad()),
            None => host,
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
            return Err(bad());
        }
        Ok(Self::Tcp {
            host: host.to_owned(),
            port: port.parse().map_err(|_| bad())?,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use socket2::{Domain, Type};

    use super::*;

    fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// An address that answers no connection: what waits to be accepted there fills its queue. It ends with the guards.
    async fn black_hole() -> (socket2::Socket, Vec<TcpStream>, SocketAddr) {
        let hole = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        hole.bind(&any.into()).unwrap();
        hole.listen(0).unwrap();
        let address = hole.local_addr().unwrap().as_socket().unwrap();
        let mut waiting = Vec::new();
        let soon = Duration::from_millis(200);
        while let Ok(connected) = timeout(soon, TcpStream::connect(address)).await {
            waiting.push(connected.unwrap());
            assert!(waiting.len() < 100, "the queue never filled");
        }
        (hole, waiting, address)
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_holds_nothing_up() {
        let (_hole, _waiting, silent) = black_hole().await;
        let (_listener, live) = listening();
        let refusing = listening().1;
        let long = Duration::from_secs(60);
        let addresses = [refusing, silent, silent, refusing, live];
        let connected = timeout(long, first_of(addresses.into_iter())).await;
        let connected = connected.expect("not held up").expect("connected");
        assert_eq!(connected.peer_addr().unwrap(), live);
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_may_still_do_so() {
        let (hole, waiting, silent) = black_hole().await;
        let refusing = listening().1;
        let connecting = tokio::spawn(first_of([silent, refusing].into_iter()));
        tokio::task::yield_now().await;
        drop(waiting);
        hole.set_nonblocking(true).unwrap();
        while hole.accept().is_ok() {}
        let connected = connecting.await.unwrap().expect("connected");
        assert_eq!(connected.peer_addr().unwrap(), silent);
    }

    #[tokio::test]
    async fn where_nobody_listens_the_last_error_is_told() {
        let refusing = listening().1;
        let error = first_of([refusing, refusing].into_iter())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = first_of([].into_iter()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_address_is_written_as_it_is_read() {
        for text in [
            "127.0.0.1:10025",
            "[::1]:25",
            "mx.example.org:587",
            "unix:/run/mailtee/in",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_milter_s_address_is_read_as_postfix_and_sendmail_write_it() {
        for (text, means) in [
            ("inet:127.0.0.1:8892", "127.0.0.1:8892"),
            ("inet:8892@127.0.0.1", "127.0.0.1:8892"),
            ("inet6:8892@::1", "[::1]:8892"),
            ("inet:8892@localhost", "localhost:8892"),
            ("local:/run/mailtee/milter", "unix:/run/mailtee/milter"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), means);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("unix:/{}", "x".repeat(UNIX_PATH_BYTES_MAX));
        for text in [
            "",
            "host",
            "host:",
            ":25",
            "host:70000",
            "::1:25",
            "[::1]",
            "[host]:25",
            "a b:25",
            "unix:relative",
            "local:relative",
            "inet:8892",
            "inet:8892@",
            "inet:@host",
            &long,
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
