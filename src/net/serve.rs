//! The accept loop. It accepts, and does nothing else: PROXY header, limits, TLS handshake and the session run in a task
//! of their own, so that no peer delays another, and a panic ends one session only.
//!
//! A connection too many still becomes a short session, with its [`Refusal`], so that the protocol can say its own
//! "421"; beyond a number of those at once, connections are closed without a word. When descriptors run out, accepting
//! rests a moment and tries again: the kernel's queue holds the callers meanwhile.

use std::{
    any::Any, fmt, future::Future, io, net::SocketAddr, panic::AssertUnwindSafe, sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::time::{sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    Listener, Peer, Refusal, ServerTls, Socket, Stream,
    limits::{Admission, Limits},
    proxy_protocol,
};

/// Time to tell a connection that it is one too many.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Rest after "too many open files".
const EXHAUSTED_REST: Duration = Duration::from_millis(100);

/// What an accept loop allows.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    pub sessions_max: usize,
    /// Sessions of one IP address (the client's own, where a PROXY header names it). Unix sockets have none.
    pub sessions_per_address_max: usize,
    pub proxy_protocol: Option<proxy_protocol::Incoming>,
    /// Time for the TLS handshake of a listener that starts with one.
    pub handshake_timeout: Duration,
}

/// What a listener is for.
pub trait Service: Send + Sync + 'static {
    /// One session, from the first byte to the last.
    fn serve(self: Arc<Self>, connection: Connection) -> impl Future<Output = ()> + Send;

    /// A connection that did not get as far as `serve`, or whose `serve` panicked (`reason` "internal"). `reason` is
    /// one of [`crate::metrics::SESSION_ERRORS`].
    fn failed(&self, peer: &Peer, reason: &'static str, cause: &dyn fmt::Display);
}

/// A peer, connected.
pub struct Connection {
    pub stream: Stream,
    /// The client: our peer, or whom a trusted PROXY header names.
    pub peer: Peer,
    /// Where the client came to; none on a unix socket.
    pub local: Option<SocketAddr>,
    /// Set: say so and leave. It does not count against the limits, and is cut off after a few seconds.
    pub refused: Option<Refusal>,
    /// Our peer is not the client but stands before it: it sent a PROXY header.
    pub proxied: bool,
}

/// Serves until `stop`. Sessions go into `tasks` and are not interrupted: they watch the token themselves.
pub async fn serve<S: Service>(
    listener: Listener,
    options: ServeOptions,
    tls: Option<ServerTls>,
    service: Arc<S>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let door = Arc::new(Door {
        limits: Limits::new(options.sessions_max, options.sessions_per_address_max),
        options,
        tls,
    });
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if is_exhausted(&error) {
                    warn!(%error, "accept: out of descriptors or memory, resting");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = sleep(EXHAUSTED_REST) => {}
                    }
                }
                // Anything else is the trouble of one caller who left while it waited.
                continue;
            }
        };
        let Some(admission) = door.limits.admit() else {
            service.failed(
                &peer,
                Refusal::TooManySessions.reason(),
                &"closed without a reply",
            );
            continue;
        };
        let (door, service) = (door.clone(), service.clone());
        tasks.spawn(async move {
            let session = session(door, admission, socket, peer, service.clone());
            if let Err(panic) = AssertUnwindSafe(session).catch_unwind().await {
                service.failed(&peer, "internal", &panic_text(&*panic));
            }
        });
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panic: {}", text.as_deref().unwrap_or("without a message"))
}

struct Door {
    options: ServeOptions,
    tls: Option<ServerTls>,
    limits: Arc<Limits>,
}

/// From the first byte: PROXY header, limit per address, TLS, then the protocol.
async fn session<S: Service>(
    door: Arc<Door>,
    admission: Admission,
    mut socket: Socket,
    peer: Peer,
    service: Arc<S>,
) {
    let mut client = peer;
    let mut local = socket.local();
    let mut proxied = false;
    if let Some(incoming) = &door.options.proxy_protocol
        && incoming.from.contains(&peer)
    {
        match proxy_protocol::read(&mut socket, incoming.timeout).await {
            Ok(header) => {
                client = header.source.map_or(peer, Peer::Tcp);
                local = header.destination.or(local);
                proxied = true;
            }
            Err(error) => return service.failed(&peer, "proxy_protocol", &error),
        }
    }
    let Some(admission) = door.limits.admit_from(admission, &client) else {
        return service.failed(
            &client,
            Refusal::TooManyFromAddress.reason(),
            &"closed without a reply",
        );
    };
    let refused = admission.refused;
    let stream = match &door.tls {
        None => Stream::Plain(socket),
        Some(tls) => match timeout(door.options.handshake_timeout, tls.accept(socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return service.failed(&client, "tls_handshake", &error),
            Err(_) => return service.failed(&client, "tls_handshake", &"timed out"),
        },
    };
    let connection = Connection {
        stream,
        peer: client,
        local,
        refused,
        proxied,
    };
    if refused.is_some() {
        // Whoever does not even read its refusal is dropped. Boxed: the others are small without it.
        let _ = timeout(REFUSAL_TIMEOUT, Box::pin(service.serve(connection))).await;
    } else {
        service.serve(connection).await;
    }
}
