//! One stream type for a session: plain, or TLS with us as server or as client.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{client, server};

use super::{ClientTls, Peek, Peer, ServerTls, Socket, TlsError};
use crate::message::TlsFacts;

/// TLS is boxed: most sessions have none, and an idle session should be small.
#[derive(Debug)]
pub enum Stream {
    Plain(Socket),
    Server(Box<server::TlsStream<Socket>>),
    Client(Box<client::TlsStream<Socket>>),
}

impl Stream {
    /// STARTTLS on our side as server. The caller has made sure that nothing was buffered behind the command.
    pub async fn accept_tls(self, tls: &ServerTls) -> Result<Self, TlsError> {
        tls.accept(self.into_plain()?).await
    }

    /// STARTTLS on our side as client; `name` is what the certificate must be for.
    pub async fn connect_tls(self, tls: &ClientTls, name: &str) -> Result<Self, TlsError> {
        tls.connect(self.into_plain()?, name).await
    }

    fn into_plain(self) -> Result<Socket, TlsError> {
        match self {
            Self::Plain(socket) => Ok(socket),
            _ => Err(TlsError::Twice),
        }
    }

    /// What TLS agreed on; none when the stream is plain.
    pub fn tls(&self) -> Option<TlsFacts> {
        let (version, cipher) = match self {
            Self::Plain(_) => return None,
            Self::Server(tls) => (
                tls.get_ref().1.protocol_version(),
                tls.get_ref().1.negotiated_cipher_suite(),
            ),
            Self::Client(tls) => (
                tls.get_ref().1.protocol_version(),
                tls.get_ref().1.negotiated_cipher_suite(),
            ),
        };
        Some(super::tls::facts(version?, cipher?))
    }

    /// The protocol that ALPN chose.
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Server(tls) => tls.get_ref().1.alpn_protocol(),
            Self::Client(tls) => tls.get_ref().1.alpn_protocol(),
        }
    }

    /// Did the client show a certificate (and so pass its verification)?
    pub fn client_is_verified(&self) -> bool {
        match self {
            Self::Server(tls) => tls.get_ref().1.peer_certificates().is_some(),
            _ => false,
        }
    }

    pub fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Server(tls) => tls.get_ref().0,
            Self::Client(tls) => tls.get_ref().0,
        }
    }

    /// As the kernel says; a PROXY header is not asked.
    pub fn peer(&self) -> io::Result<Peer> {
        self.socket().peer()
    }

    /// Our own end; none on a unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        self.socket().local()
    }

    /// What the socket holds, unread; below TLS, where there is TLS.
    pub fn peek(&self) -> Peek {
        self.socket().peek()
    }

    /// Waits until a read would not wait (or wrongly believes so). Costs no buffer, so an idle session holds none.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// [`readable`](Self::readable), for who polls.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let decrypted_waits = match self {
            Self::Plain(_) => false,
            Self::Server(tls) => !tls.get_ref().1.wants_read(),
            Self::Client(tls) => !tls.get_ref().1.wants_read(),
        };
        if decrypted_waits {
            return Poll::Ready(Ok(()));
        }
        self.socket().poll_readable(cx)
    }
}

impl From<Socket> for Stream {
    fn from(socket: Socket) -> Self {
        Self::Plain(socket)
    }
}

/// Calls one method of whichever stream this is.
macro_rules! each {
    ($this:expr, $stream:ident => $call:expr) => {
        match $this.get_mut() {
            Stream::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Stream::Server(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
            Stream::Client(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read(cx, buf))
    }
}

/// With TLS, written bytes leave at `flush` at the latest: flush before waiting for an answer.
impl AsyncWrite for Stream {
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
