//! HTTP on accepted connections: HTTP/1.1, and HTTP/2 for clients that begin with it.
//!
//! Contract: a connection on which no request begins, or only half of one, ends after `idle`, and one whose client stops
//! taking its answer after `stalled`; a request's head is bounded in size. What a request's body may take in time and
//! memory is the router's affair. Requests under way when `stop` comes end first; half of one's head is none.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Request, Response},
};
use futures_util::future::BoxFuture;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Connection, Peer, Service, patience::Patient};

/// The head of one HTTP/1.1 request; HTTP/2 has hyper's 16 KiB.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// At the end, for the last bytes of an answer that is made already.
const FLUSH: Duration = Duration::from_millis(250);

/// A router, served.
pub struct Http {
    /// As logs name it.
    pub name: &'static str,
    pub router: Router,
    pub idle: Duration,
    pub stalled: Duration,
    /// A connection too many still gets one request answered, if it asks at once: a probe passes by those who hold
    /// connections open. Otherwise it is closed.
    pub answers_refused: bool,
    pub stop: CancellationToken,
}

impl Service for Http {
    async fn serve(self: Arc<Self>, connection: Connection) {
        let refused = connection.refused.is_some();
        if refused && !self.answers_refused {
            return;
        }
        let mut server = auto::Builder::new(TokioExecutor::new());
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.idle)
            .max_buf_size(HEAD_BYTES_MAX)
            .keep_alive(!refused);
        // A batch fills one window, so that a sender far away does not wait for updates.
        server
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(self.idle)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .max_concurrent_streams(64);
        let busy = Arc::new(());
        let service = TowerToHyperService::new(Tracked {
            router: self.router.clone(),
            busy: busy.clone(),
        });
        let stream = TokioIo::new(Patient::new(connection.stream, self.idle, self.stalled));
        let serving = server.serve_connection(stream, service);
        tokio::pin!(serving);
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = self.stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                // One is held here, one by the service; every request under way has its own, to the end of its answer.
                if Arc::strong_count(&busy) > 2 {
                    serving.await
                } else {
                    timeout(FLUSH, serving).await.unwrap_or(Ok(()))
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer = ?connection.peer, %error, "{}: connection ended", self.name);
        }
    }

    fn failed(&self, peer: &Peer, reason: &'static str, cause: &dyn fmt::Display) {
        tracing::info!(?peer, reason, %cause, "{}: no session", self.name);
    }
}

/// The router, which holds a mark for each request from its head to the last byte of its answer.
#[derive(Clone)]
struct Tracked {
    router: Router,
    busy: Arc<()>,
}

impl tower_service::Service<Request<Incoming>> for Tracked {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        tower_service::Service::<Request<Incoming>>::poll_ready(&mut self.router, context)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let busy = self.busy.clone();
        let answering = tower_service::Service::call(&mut self.router, request);
        Box::pin(async move {
            let answer = answering.await?;
            Ok(answer.map(|body| Body::new(Marked { body, busy })))
        })
    }
}

/// A body that holds its request's mark.
struct Marked {
    body: Body,
    #[expect(dead_code, reason = "dropped with the body, which is what it is for")]
    busy: Arc<()>,
}

impl hyper::body::Body for Marked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::net::{ServeOptions, serve};

    /// A server of one page, its address, and what ends it.
    async fn serving(idle: Duration) -> (std::net::SocketAddr, tokio_util::sync::DropGuard) {
        serving_at_once(idle, 1).await
    }

    async fn serving_at_once(
        idle: Duration,
        sessions_max: usize,
    ) -> (std::net::SocketAddr, tokio_util::sync::DropGuard) {
        let address: crate::net::Address = "127.0.0.1:0".parse().unwrap();
        let listener = address.listen(None).await.unwrap();
        let local = listener.local().unwrap();
        let stop = CancellationToken::new();
        let http = Http {
            name: "test",
            router: Router::new()
                .route("/", get(|| async { "here" }))
                .route("/slow", get(slow)),
            idle,
            stalled: idle,
            answers_refused: true,
            stop: stop.clone(),
        };
        let options = ServeOptions {
            sessions_max,
            sessions_per_address_max: sessions_max,
            proxy_protocol: None,
            handshake_timeout: idle,
        };
        let tasks = TaskTracker::new();
        tokio::spawn(serve(
            listener,
            options,
            None,
            Arc::new(http),
            stop.clone(),
            tasks,
        ));
        (local, stop.drop_guard())
    }

    /// Takes longer than what is left for flushing.
    async fn slow() -> Body {
        let pieces = futures_util::stream::unfold(0, async |piece| {
            match piece {
                0 => return Some((Ok::<_, Infallible>("begun"), 1)),
                1 => tokio::time::sleep(2 * FLUSH).await,
                _ => return None,
            }
            Some((Ok("ended"), 2))
        });
        Body::from_stream(pieces)
    }

    async fn until_closed(mut stream: TcpStream) -> String {
        let mut answer = Vec::new();
        let read = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer));
        // A reset is an end as well.
        let _ = read.await.expect("it is closed");
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn who_asks_for_nothing_is_left() {
        let begun: [&[u8]; 5] = [
            b"",
            b"GET / HT",
            b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ",
            b"PRI * HTT",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        ];
        let (address, _stop) = serving(Duration::from_millis(200)).await;
        for bytes in begun {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let answer = until_closed(stream).await;
            let whole = bytes.ends_with(b"\r\n\r\n");
            assert_eq!(answer.ends_with("here"), whole, "{bytes:?}: {answer}");
        }
    }

    #[tokio::test]
    async fn half_a_request_delays_no_end_and_a_whole_one_is_answered() {
        let (address, stop) = serving_at_once(Duration::from_secs(600), 9).await;
        let begun: [&[u8]; 3] = [b"", b"GET / HT", b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"];
        let mut streams = Vec::new();
        for bytes in begun {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap();
            let mut answer = [0; 1024];
            assert!(stream.read(&mut answer).await.unwrap() > 0, "it is served");
            stream.write_all(bytes).await.unwrap();
            streams.push(stream);
        }
        let slow = &mut streams[2];
        let mut first = [0; 1024];
        let length = slow.read(&mut first).await.unwrap();
        assert!(
            first[..length].ends_with(b"begun\r\n"),
            "the answer has begun"
        );
        drop(stop);
        // Far below the time that a head may take.
        let mut answers = Vec::new();
        for stream in streams {
            answers.push(until_closed(stream).await);
        }
        assert_eq!(&answers[..2], ["", ""]);
        assert!(answers[2].contains("ended"), "{answers:?}");
    }

    #[tokio::test]
    async fn a_head_without_end_is_refused() {
        let (address, _stop) = serving(Duration::from_secs(60)).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET / HTTP/1.1\r\nX-Long: {}", "x".repeat(HEAD_BYTES_MAX));
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = until_closed(stream).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[tokio::test]
    async fn one_too_many_gets_one_answer() {
        let (address, _stop) = serving(Duration::from_secs(60)).await;
        let mut holds = TcpStream::connect(address).await.unwrap();
        holds.write_all(b"GET / HT").await.unwrap();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let answer = until_closed(stream).await;
            assert!(answer.ends_with("here"), "{answer}");
        }
    }
}
