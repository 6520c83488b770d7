//! One connection of a session, which both directions use at once: one reads it, the other writes to it.
//!
//! Whoever waits for bytes holds no buffer meanwhile; [`READ_BYTES`] is what one direction holds at most.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Poll, ready},
};

use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use crate::net::Stream;

/// One read takes at most this much.
pub(super) const READ_BYTES: usize = 16 << 10;

/// Both directions run in one task: the lock is never waited for.
pub(super) struct Leg(Mutex<Stream>);

impl Leg {
    pub(super) fn new(stream: Stream) -> Self {
        Self(Mutex::new(stream))
    }

    pub(super) fn into_stream(self) -> Stream {
        self.0.into_inner()
    }

    pub(super) fn has_tls(&self) -> bool {
        self.0.lock().tls().is_some()
    }

    /// Reads once, into `buffer`, which it empties first and frees while it waits. 0: the peer has closed its side.
    pub(super) async fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        buffer.clear();
        poll_fn(|cx| {
            let mut stream = self.0.lock();
            if stream.poll_readable(cx)?.is_pending() {
                *buffer = Vec::new();
                return Poll::Pending;
            }
            buffer.reserve_exact(READ_BYTES);
            let polled = poll_read_buf(Pin::new(&mut *stream), cx, buffer);
            if polled.is_pending() {
                *buffer = Vec::new();
            }
            polled
        })
        .await
    }

    /// Writes all of it and sees it off.
    pub(super) async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        poll_fn(|cx| {
            let mut stream = self.0.lock();
            while !bytes.is_empty() {
                match ready!(Pin::new(&mut *stream).poll_write(cx, bytes))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    count => bytes = &bytes[count..],
                }
            }
            Pin::new(&mut *stream).poll_flush(cx)
        })
        .await
    }

    /// Says that nothing more comes; the other way stays open.
    pub(super) async fn shutdown(&self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut *self.0.lock()).poll_shutdown(cx)).await
    }
}
