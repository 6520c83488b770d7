//! One byte stream to one peer, over TCP or a unix socket, before any TLS.

use std::{
    fmt, io,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// Who is at the other end: as the kernel says, or as a trusted PROXY header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    Tcp(SocketAddr),
    /// A local process; unix sockets carry no address.
    Unix,
}

impl Peer {
    /// IPv4-mapped addresses come out as IPv4.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }

    /// None for a local process.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) => Some(address.port()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => {
                SocketAddr::new(address.ip().to_canonical(), address.port()).fmt(f)
            }
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// What a connection has for us at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek {
    /// Nothing, and it is open.
    Silent,
    Bytes,
    /// The peer has closed its side, or the connection is broken.
    Ended,
}

/// A connected socket, TCP or unix.
#[derive(Debug)]
pub struct Socket {
    io: Io,
    /// Read beyond a PROXY header: the next reader's first bytes.
    unread: Bytes,
}

#[derive(Debug)]
enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// As the kernel says; a PROXY header is not asked.
    pub fn peer(&self) -> io::Result<Peer> {
        match &self.io {
            Io::Tcp(stream) => stream.peer_addr().map(Peer::Tcp),
            Io::Unix(_) => Ok(Peer::Unix),
        }
    }

    /// Our own end; none on a unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        match &self.io {
            Io::Tcp(stream) => stream.local_addr().ok(),
            Io::Unix(_) => None,
        }
    }

    /// Looks without taking, and without waiting for the runtime to hear of it.
    pub fn peek(&self) -> Peek {
        if !self.unread.is_empty() {
            return Peek::Bytes;
        }
        let mut byte = [MaybeUninit::uninit()];
        let peeked = match &self.io {
            Io::Tcp(stream) => SockRef::from(stream).peek(&mut byte),
            Io::Unix(stream) => SockRef::from(stream).peek(&mut byte),
        };
        match peeked {
            Ok(0) => Peek::Ended,
            Ok(_) => Peek::Bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Peek::Silent,
            Err(_) => Peek::Ended,
        }
    }

    /// Gives bytes back: they are read again before anything from the peer.
    pub(super) fn give_back(&mut self, bytes: Bytes) {
        debug_assert!(self.unread.is_empty(), "only a PROXY header is read ahead");
        self.unread = bytes;
    }

    /// Ready when a read would not wait (or wrongly believes so). Costs no buffer, so an idle session holds none.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match &self.io {
            Io::Tcp(stream) => stream.poll_read_ready(cx),
            Io::Unix(stream) => stream.poll_read_ready(cx),
        }
    }
}

/// No Nagle (a session is a dialogue of small writes) and keepalive after 60 s, every 20 s, three times: a peer that
/// vanished without a word is noticed after two minutes. Where something was on its way to it, the kernel sends that
/// again first, for a quarter of an hour (`tcp_retries2`); a shorter limit would cut off peers that only read slowly.
pub(super) fn tune(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(20))
            .with_retries(3),
    )
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self {
            io: Io::Tcp(stream),
            unread: Bytes::new(),
        }
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self {
            io: Io::Unix(stream),
            unread: Bytes::new(),
        }
    }
}

/// Calls one method of whichever stream this is.
macro_rules! each {
    ($this:expr, $stream:ident => $call:expr) => {
        match &mut $this.get_mut().io {
            Io::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Io::Unix(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let length = self.unread.len().min(buf.remaining());
            buf.put_slice(&self.unread.split_to(length));
            return Poll::Ready(Ok(()));
        }
        each!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(cx))
    }
}
