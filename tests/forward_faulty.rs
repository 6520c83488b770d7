//! An HTTP server before the vault that does what networks and servers do, by script: every request passes to the real
//! vault, or meets the next fault.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{Method, Request, Response, header},
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::vault_kit::Running;

/// What an API request or an upload meets.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection breaks while the request is sent.
    ResetMidBody,
    /// No answer ever comes.
    Stall,
    /// An answer of the server's, and `Retry-After` in seconds.
    Status(u16, Option<u64>),
    /// The vault does it, and the answer is lost.
    ReplyLost,
    /// The answer comes in its own time, piece by piece.
    Slow,
}

type Poison = Arc<dyn Fn(&[u8]) -> Option<Fault> + Send + Sync>;

struct Script {
    next: Mutex<VecDeque<Fault>>,
    poison: Mutex<Option<Poison>>,
    hidden: Mutex<Vec<&'static str>>,
    posts: AtomicU64,
    client: reqwest::Client,
    vault: String,
}

pub(crate) struct Faulty {
    script: Arc<Script>,
    address: SocketAddr,
    open: Option<CancellationToken>,
}

impl Faulty {
    pub(crate) async fn before(vault: &Running) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut faulty = Self {
            script: Arc::new(Script {
                next: Mutex::default(),
                poison: Mutex::default(),
                hidden: Mutex::default(),
                posts: AtomicU64::new(0),
                client: vault.client.clone(),
                vault: vault.base.clone(),
            }),
            address: listener.local_addr().expect("bound"),
            open: None,
        };
        faulty.serve(listener);
        faulty
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/.well-known/jmap", self.address)
    }

    /// The next requests meet these, one each.
    pub(crate) fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.script.next.lock().extend(faults);
    }

    /// Whether all faults have been met.
    pub(crate) fn is_done(&self) -> bool {
        self.script.next.lock().is_empty()
    }

    /// Requests whose body this function picks meet what it says, always.
    pub(crate) fn poison(&self, picks: impl Fn(&[u8]) -> Option<Fault> + Send + Sync + 'static) {
        *self.script.poison.lock() = Some(Arc::new(picks));
    }

    /// The session announces these capabilities no more: what is left is a JMAP server like others.
    pub(crate) fn hide(&self, capabilities: &[&'static str]) {
        *self.script.hidden.lock() = capabilities.to_vec();
    }

    /// API requests and uploads so far.
    pub(crate) fn posts(&self) -> u64 {
        self.script.posts.load(Ordering::Relaxed)
    }

    /// Breaks every connection; new ones are refused.
    pub(crate) fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.cancel();
        }
    }

    pub(crate) async fn reopen(&mut self) {
        let listener = loop {
            // Until the closed listener is gone.
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let open = CancellationToken::new();
        let script = self.script.clone();
        let closed = open.clone();
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Some(Ok((stream, _))) = closed.run_until_cancelled(listener.accept()).await {
                let script = script.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(script.clone(), request));
                    // A broken connection is what this server is for.
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        self.open = Some(open);
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.close();
    }
}

/// An error breaks the connection without an answer.
async fn answer(script: Arc<Script>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    if request.method() != Method::POST {
        return script.pass(request.map(Body::new)).await;
    }
    script.posts.fetch_add(1, Ordering::Relaxed);
    let fault = script.next.lock().pop_front();
    if let Some(Fault::ResetMidBody) = fault {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let (head, body) = request.into_parts();
    let body = to_bytes(Body::new(body), usize::MAX)
        .await
        .map_err(io::Error::other)?;
    let poison = script.poison.lock().clone();
    let fault = fault.or_else(|| poison.and_then(|picks| picks(&body)));
    let request = Request::from_parts(head, Body::from(body));
    match fault {
        None => script.pass(request).await,
        Some(Fault::Status(status, retry_after)) => {
            let mut answer = Response::builder().status(status);
            if let Some(seconds) = retry_after {
                answer = answer.header(header::RETRY_AFTER, seconds);
            }
            answer
                .body(Body::from("<html>sorry</html>"))
                .map_err(io::Error::other)
        }
        Some(Fault::Stall) => std::future::pending().await,
        Some(Fault::ReplyLost) => {
            script.pass(request).await?;
            Err(io::ErrorKind::ConnectionReset.into())
        }
        Some(Fault::Slow) => {
            let (head, body) = script.pass(request).await?.into_parts();
            let body = to_bytes(body, usize::MAX).await.map_err(io::Error::other)?;
            let pieces: Vec<_> = body
                .chunks(body.len() / 5 + 1)
                .map(Bytes::copy_from_slice)
                .collect();
            let slowly = futures_util::stream::unfold(pieces.into_iter(), async |mut rest| {
                tokio::time::sleep(Duration::from_millis(60)).await;
                let piece = rest.next()?;
                Some((Ok::<_, Infallible>(piece), rest))
            });
            Ok(Response::from_parts(head, Body::from_stream(slowly)))
        }
        Some(Fault::ResetMidBody) => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

impl Script {
    /// To the vault and back; in the session every URL leads here again.
    async fn pass(&self, request: Request<Body>) -> io::Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let body = to_bytes(body, usize::MAX).await.map_err(io::Error::other)?;
        let mut passed = self
            .client
            .request(head.method, format!("{}{path}", self.vault))
            .body(body);
        for name in [header::AUTHORIZATION, header::CONTENT_TYPE] {
            if let Some(value) = head.headers.get(&name) {
                passed = passed.header(name, value);
            }
        }
        let answer = passed.send().await.map_err(io::Error::other)?;
        let status = answer.status();
        let mut body = answer.bytes().await.map_err(io::Error::other)?;
        if path == "/.well-known/jmap" {
            let mut session = String::from_utf8_lossy(&body).replace(&self.vault, "");
            for capability in self.hidden.lock().iter() {
                session = session.replace(capability, "urn:hidden");
            }
            body = session.into_bytes().into();
        }
        Response::builder()
            .status(status)
            .body(Body::from(body))
            .map_err(io::Error::other)
    }
}
