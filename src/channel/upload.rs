//! The body of a request, in pieces: the connection takes the next one when it has sent the last, so that what has moved
//! is known, and large content is read from its file as it goes.

use std::{
    convert::Infallible,
    io::{self, Read},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::message::{Body, LargeBody};

/// One piece; also the granularity at which a stalled connection is told from a slow one.
const PIECE_BYTES: usize = 64 * 1024;

pub enum Upload {
    Empty,
    Bytes(Bytes),
    Large(Arc<dyn LargeBody>),
}

impl From<&Body> for Upload {
    fn from(body: &Body) -> Self {
        match body {
            Body::Small(bytes) => Self::Bytes(bytes.clone()),
            Body::Large(large) => Self::Large(large.clone()),
        }
    }
}

/// Our own content could not be read to its end.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct ContentError(io::Error);

impl Upload {
    /// `moved` counts the bytes that the connection has taken.
    pub(super) fn into_body(self, moved: Arc<AtomicU64>) -> Option<reqwest::Body> {
        match self {
            Self::Empty => None,
            Self::Bytes(rest) => Some(reqwest::Body::wrap(InMemory { rest, moved })),
            Self::Large(large) => Some(reqwest::Body::wrap(FromFile {
                rest: large.bytes(),
                pieces: read_ahead(large),
                moved,
            })),
        }
    }
}

struct InMemory {
    rest: Bytes,
    moved: Arc<AtomicU64>,
}

impl HttpBody for InMemory {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(length);
        self.moved.fetch_add(length as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

struct FromFile {
    rest: u64,
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    moved: Arc<AtomicU64>,
}

impl HttpBody for FromFile {
    type Data = Bytes;
    type Error = ContentError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ContentError>>> {
        let piece = std::task::ready!(self.pieces.poll_recv(context));
        Poll::Ready(match piece {
            None if self.rest == 0 => None,
            None => Some(Err(ContentError(io::ErrorKind::UnexpectedEof.into()))),
            Some(Err(error)) => Some(Err(ContentError(error))),
            Some(Ok(piece)) => {
                let length = piece.len() as u64;
                self.rest = self.rest.saturating_sub(length);
                self.moved.fetch_add(length, Ordering::Relaxed);
                Some(Ok(Frame::data(piece)))
            }
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest)
    }
}

/// Reads on a thread of its own, at most two pieces ahead; it ends when the request is dropped.
fn read_ahead(large: Arc<dyn LargeBody>) -> mpsc::Receiver<io::Result<Bytes>> {
    let (pieces, receiver) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let read_all = || -> io::Result<()> {
            let mut reader = large.open()?.take(large.bytes());
            loop {
                let mut piece = Vec::with_capacity(PIECE_BYTES);
                reader
                    .by_ref()
                    .take(PIECE_BYTES as u64)
                    .read_to_end(&mut piece)?;
                if piece.is_empty() || pieces.blocking_send(Ok(piece.into())).is_err() {
                    return Ok(());
                }
            }
        };
        if let Err(error) = read_all() {
            // Nobody listens any more where the request is gone: then the error has no reader.
            let _ = pieces.blocking_send(Err(error));
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[derive(Debug)]
    struct Shorter;

    impl LargeBody for Shorter {
        fn bytes(&self) -> u64 {
            200_000
        }
        fn open(&self) -> io::Result<Box<dyn Read + Send>> {
            Ok(Box::new(io::repeat(7).take(150_000)))
        }
    }

    #[tokio::test]
    async fn content_that_ends_early_is_an_error_and_never_a_shorter_message() {
        let mut body = FromFile {
            rest: 200_000,
            pieces: read_ahead(Arc::new(Shorter)),
            moved: Arc::default(),
        };
        let mut read = 0;
        loop {
            match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                Some(Ok(frame)) => read += frame.into_data().unwrap().len(),
                Some(Err(ContentError(error))) => {
                    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
                    break;
                }
                None => panic!("ended after {read} bytes as if it were whole"),
            }
        }
        assert_eq!(read, 150_000);
        assert_eq!(body.moved.load(Ordering::Relaxed), 150_000);
    }
}
