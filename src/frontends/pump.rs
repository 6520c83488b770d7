//! Carries bytes between the sockets and the relay, both ways at once, so that two peers that both write cannot block
//! each other.
//!
//! Reads go into one buffer a thread, and what the relay takes from it is gone before the next await: an idle session
//! holds no read buffer. A side is not read while what it fills has not drained. There is one timer a session; it is set
//! again only when it fires before the deadline of that moment, not at each wait.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{
    message::TlsFacts,
    net::{ClientTls, Peek, ServerTls, Stream, TlsError},
    wire::smtp::{Relay, Server},
};

/// One read takes at most this much.
const READ_BYTES: usize = 64 << 10;
/// What waits to be written on one side before the other is no longer read.
const WAITING_BYTES_MAX: usize = 64 << 10;
/// An output buffer that grew beyond this is given back once it is empty and the session waits.
const KEPT_BYTES_MAX: usize = 1 << 10;

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// The next hop's side.
pub(super) enum NextHop {
    None,
    Socket(Stream),
    /// In this process: protocol `journal`.
    Inner(Box<Server>),
}

pub(super) struct Pump {
    /// None once it is of no more use.
    client: Option<Stream>,
    pub(super) next_hop: NextHop,
    /// Read from the client and not yet taken.
    unread: Vec<u8>,
    /// The same from the next hop.
    unread_replies: Vec<u8>,
    to_client: Progress,
    to_upstream: Progress,
    timer: Pin<Box<Sleep>>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    stopping: bool,
}

/// How far an output buffer has been written.
#[derive(Default)]
struct Progress {
    written: usize,
    /// Written, but perhaps still inside TLS.
    unflushed: bool,
}

#[derive(Debug)]
pub(super) enum Event {
    /// Bytes moved.
    Moved,
    ClientEnded,
    ClientLost,
    UpstreamLost,
    /// The deadline passed.
    Overdue,
    /// The daemon shuts down; said once.
    Stopping,
}

impl Pump {
    pub(super) fn new(client: Stream, next_hop: NextHop, stop: &CancellationToken) -> Self {
        Self {
            client: Some(client),
            next_hop,
            unread: Vec::new(),
            unread_replies: Vec::new(),
            to_client: Progress::default(),
            to_upstream: Progress::default(),
            timer: Box::pin(sleep_until(Instant::now() + Duration::from_secs(60))),
            stopped: Box::pin(stop.clone().cancelled_owned()),
            stopping: false,
        }
    }

    /// Offers the relay what was left over, and lets the next hop in this process speak.
    pub(super) fn offer(&mut self, relay: &mut Relay) {
        if relay.takes_upstream() && !self.unread_replies.is_empty() {
            let taken = relay.receive_upstream(&self.unread_replies);
            self.unread_replies.drain(..taken);
        }
        loop {
            if relay.takes_client() {
                let taken = relay.receive_client(&self.unread);
                self.unread.drain(..taken);
            }
            let NextHop::Inner(server) = &mut self.next_hop else {
                return;
            };
            server.receive(&relay.to_upstream);
            relay.to_upstream.clear();
            if relay.takes_upstream() {
                let taken = relay.receive_upstream(&server.to_client);
                server.to_client.drain(..taken);
            }
            // Its replies may have let go on what waited for them, and no socket will say so.
            let waits = relay.has_waiting_line() || !self.unread.is_empty();
            if !(waits && relay.takes_client()) {
                return;
            }
        }
    }

    pub(super) fn drop_next_hop(&mut self) {
        self.next_hop = NextHop::None;
        self.unread_replies = Vec::new();
        self.to_upstream = Progress::default();
    }

    /// Waits until something happens, as long as `patience` says of the relay as it then is; after `end`, nothing is
    /// waited for.
    pub(super) async fn turn(
        &mut self,
        relay: &mut Relay,
        patience: impl Fn(&Relay) -> Duration,
        end: Instant,
    ) -> Event {
        let mut deadline = None;
        poll_fn(|cx| self.poll_turn(relay, cx, &mut deadline, &patience, end)).await
    }

    fn poll_turn(
        &mut self,
        relay: &mut Relay,
        cx: &mut Context<'_>,
        deadline: &mut Option<Instant>,
        patience: &impl Fn(&Relay) -> Duration,
        end: Instant,
    ) -> Poll<Event> {
        let mut moved = false;
        if let NextHop::Socket(stream) = &mut self.next_hop {
            match self.to_upstream.poll(stream, &mut relay.to_upstream, cx) {
                Poll::Ready(Ok(true)) => *deadline = None,
                Poll::Ready(Err(_)) => return Poll::Ready(Event::UpstreamLost),
                _ => {}
            }
        }
        let Some(client) = &mut self.client else {
            return Poll::Ready(Event::ClientLost);
        };
        match self.to_client.poll(client, &mut relay.to_client, cx) {
            // A session that is closing is over once all is said.
            Poll::Ready(Ok(_)) => moved |= relay.is_closing(),
            Poll::Ready(Err(_)) => return Poll::Ready(Event::ClientLost),
            Poll::Pending => {}
        }
        let room = relay.to_client.len() < WAITING_BYTES_MAX;
        if room
            && relay.takes_upstream()
            && self.unread_replies.is_empty()
            && let NextHop::Socket(stream) = &mut self.next_hop
        {
            let take = |bytes: &[u8]| relay.receive_upstream(bytes);
            match poll_read(stream, cx, &mut self.unread_replies, take) {
                Poll::Ready(Ok(true)) => moved = true,
                Poll::Ready(_) => return Poll::Ready(Event::UpstreamLost),
                Poll::Pending => {}
            }
        }
        let room = room && relay.to_upstream.len() < WAITING_BYTES_MAX;
        if room && relay.takes_client() && self.unread.is_empty() {
            let take = |bytes: &[u8]| relay.receive_client(bytes);
            match poll_read(client, cx, &mut self.unread, take) {
                Poll::Ready(Ok(true)) => moved = true,
                Poll::Ready(Ok(false)) => return Poll::Ready(Event::ClientEnded),
                Poll::Ready(Err(_)) => return Poll::Ready(Event::ClientLost),
                Poll::Pending => {}
            }
        }
        if moved {
            return Poll::Ready(Event::Moved);
        }
        if !self.stopping && self.stopped.as_mut().poll(cx).is_ready() {
            self.stopping = true;
            return Poll::Ready(Event::Stopping);
        }
        release(&mut relay.to_client);
        release(&mut relay.to_upstream);
        release(&mut relay.copy);
        let deadline = *deadline.get_or_insert_with(|| end.min(Instant::now() + patience(relay)));
        ready!(self.poll_timer(cx, deadline));
        Poll::Ready(Event::Overdue)
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if self.timer.deadline() > deadline {
            self.timer.as_mut().reset(deadline);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    /// The handshake as server. On a failure the connection is of no more use.
    pub(super) async fn secure_client(
        &mut self,
        identity: &ServerTls,
    ) -> Result<Option<TlsFacts>, TlsError> {
        let Some(plain) = self.client.take() else {
            return Ok(None);
        };
        let secured = plain.accept_tls(identity).await?;
        let facts = secured.tls();
        self.client = Some(secured);
        Ok(facts)
    }

    /// The handshake as client.
    pub(super) async fn secure_next_hop(
        &mut self,
        tls: &ClientTls,
        name: &str,
    ) -> Result<(), TlsError> {
        if let NextHop::Socket(plain) = std::mem::replace(&mut self.next_hop, NextHop::None) {
            self.next_hop = NextHop::Socket(plain.connect_tls(tls, name).await?);
        }
        Ok(())
    }

    /// Writes out all that waits for the client, as before a handshake.
    pub(super) async fn flush_client(&mut self, relay: &mut Relay) -> io::Result<()> {
        let Some(stream) = &mut self.client else {
            return Ok(());
        };
        let progress = &mut self.to_client;
        poll_fn(|cx| {
            while ready!(progress.poll(stream, &mut relay.to_client, cx))? {}
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Says to the client that nothing more comes. Without TLS, closing the socket says that by itself.
    pub(super) async fn close_client(&mut self) -> io::Result<()> {
        match &mut self.client {
            None | Some(Stream::Plain(_)) => Ok(()),
            Some(stream) => stream.shutdown().await,
        }
    }

    /// The connection to the next hop, where nothing is under way on it.
    pub(super) fn take_next_hop(&mut self) -> Option<Stream> {
        let quiet = self.unread_replies.is_empty()
            && self.to_upstream.written == 0
            && !self.to_upstream.unflushed;
        match std::mem::replace(&mut self.next_hop, NextHop::None) {
            NextHop::Socket(stream) if quiet => Some(stream),
            _ => None,
        }
    }

    /// False: it has closed its side, as far as the kernel knows.
    pub(super) fn next_hop_is_there(&self) -> bool {
        match &self.next_hop {
            NextHop::Socket(stream) => stream.peek() != Peek::Ended,
            NextHop::Inner(_) => true,
            NextHop::None => false,
        }
    }

    /// Writes out all that waits for the next hop.
    pub(super) async fn flush_upstream(&mut self, relay: &mut Relay) -> io::Result<()> {
        let NextHop::Socket(stream) = &mut self.next_hop else {
            return Ok(());
        };
        let progress = &mut self.to_upstream;
        poll_fn(|cx| {
            while ready!(progress.poll(stream, &mut relay.to_upstream, cx))? {}
            Poll::Ready(Ok(()))
        })
        .await
    }
}

/// An empty buffer of a waiting session is memory for nothing.
fn release(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > KEPT_BYTES_MAX {
        *buffer = Vec::new();
    }
}

impl Progress {
    /// Writes on. True: something was written or flushed. False: there was nothing to write.
    fn poll(
        &mut self,
        stream: &mut Stream,
        out: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        let mut some = false;
        while self.written < out.len() {
            match Pin::new(&mut *stream).poll_write(cx, &out[self.written..])? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(n) => {
                    self.written += n;
                    self.unflushed = true;
                    some = true;
                }
                Poll::Pending if some => return Poll::Ready(Ok(true)),
                Poll::Pending => return Poll::Pending,
            }
        }
        out.clear();
        self.written = 0;
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
            return Poll::Ready(Ok(true));
        }
        Poll::Ready(Ok(false))
    }
}

/// Reads once and hands it on; what is not taken goes to `unread`. False: the peer has closed its side.
fn poll_read(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    unread: &mut Vec<u8>,
    take: impl FnOnce(&[u8]) -> usize,
) -> Poll<io::Result<bool>> {
    READ.with_borrow_mut(|buffer| {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        let bytes = buffer.filled();
        if bytes.is_empty() {
            return Poll::Ready(Ok(false));
        }
        let taken = take(bytes);
        unread.extend_from_slice(&bytes[taken..]);
        Poll::Ready(Ok(true))
    })
}
