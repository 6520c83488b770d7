//! A connection whose peer must begin to speak, and must take what is sent to it: a first word or a write that waits for
//! longer than it may ends the connection, so that who keeps silent or stops reading holds nothing for ever. Once
//! spoken to, waiting to read is the protocol's own affair.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// HTTP/2 begins with so many bytes that never change (RFC 9113 section 3.4); until they are there, or an HTTP/1.1
/// request is begun, hyper has no time limit of its own.
const FIRST_WORD_BYTES: usize = 24;

pub(super) struct Patient<S> {
    stream: S,
    write_limit: Duration,
    /// What is left of the first word, and when it has to be there.
    first_word: Option<(usize, Pin<Box<Sleep>>)>,
    /// Runs while a write waits.
    ends: Pin<Box<Sleep>>,
    waits: bool,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, first_word_limit: Duration, write_limit: Duration) -> Self {
        Self {
            stream,
            write_limit,
            first_word: Some((FIRST_WORD_BYTES, Box::pin(sleep(first_word_limit)))),
            ends: Box::pin(sleep(write_limit)),
            waits: false,
        }
    }

    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        done: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.waits = false;
            return done;
        }
        if !self.waits {
            self.waits = true;
            self.ends.as_mut().reset(Instant::now() + self.write_limit);
        }
        match self.ends.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some((missing, deadline)) = &mut self.first_word else {
            return done;
        };
        *missing = missing.saturating_sub(buffer.filled().len() - before);
        if *missing == 0 {
            self.first_word = None;
        } else if done.is_pending() && deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        done
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.judge(context, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(context, done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const SOON: Duration = Duration::from_millis(20);
    const LATE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_left() {
        let (ours, theirs) = duplex(8);
        let mut patient = Patient::new(ours, SOON, SOON);
        let stuck = patient.write_all(b"more than fits in between").await;
        assert_eq!(stuck.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(theirs);
    }

    #[tokio::test]
    async fn a_peer_that_begins_and_stays_is_left() {
        let (ours, mut theirs) = duplex(64);
        let mut patient = Patient::new(ours, SOON, SOON);
        theirs.write_all(b"PRI * HTTP/2.0").await.unwrap();
        let mut word = [0; FIRST_WORD_BYTES];
        let read = patient.read_exact(&mut word).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_takes_slowly_gets_all() {
        let (ours, mut theirs) = duplex(1);
        let mut patient = Patient::new(ours, LATE, LATE);
        let sent = tokio::spawn(async move { patient.write_all(b"byte by byte").await });
        let mut got = Vec::new();
        while got.len() < 12 {
            got.push(theirs.read_u8().await.unwrap());
        }
        assert_eq!(got, b"byte by byte");
        sent.await.unwrap().unwrap();
    }
}
