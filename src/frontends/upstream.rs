//! Connections to the next hop: made for a session, or taken over from one that is over.
//!
//! In role `filter` every client is our own mail server, which mostly opens a connection a message. The next hop need not
//! do the same: what [`Relay::leave`](crate::wire::smtp::Relay::leave) allows waits here a moment for the next session.
//! The latest comes first, so that after a crowd the others grow old; those get a QUIT.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use super::{FrontEnd, TellClient, UpstreamTls, pump::NextHop};
use crate::{
    net::{Peek, Peer, Stream, proxy_protocol},
    wire::smtp::{Server, relay::Kept},
};

/// A connection serves no new session after this: what the next hop announces may have changed.
const REUSE_MAX: Duration = Duration::from_secs(300);
/// For the next hop's answer to QUIT.
const GOODBYE: Duration = Duration::from_secs(2);

/// The next hop of one session.
pub(super) struct Upstream {
    pub(super) next_hop: NextHop,
    pub(super) since: Instant,
    /// From the session that had it before.
    pub(super) kept: Option<Box<Kept>>,
}

/// The connections that wait for a session.
#[derive(Default)]
pub(super) struct Waiting {
    /// In the order in which they came.
    idle: Mutex<VecDeque<Idle>>,
    came: Notify,
}

struct Idle {
    stream: Stream,
    kept: Box<Kept>,
    since: Instant,
    expires: Instant,
}

/// One that waits, or a new one, with PROXY header and TLS where they come first.
pub(super) async fn connect(
    front: &FrontEnd,
    peer: &Peer,
    client: &Stream,
) -> Result<Upstream, String> {
    if let Some(idle) = front.waiting.take(front) {
        count(front, "reused");
        return Ok(Upstream {
            next_hop: NextHop::Socket(idle.stream),
            since: idle.since,
            kept: Some(idle.kept),
        });
    }
    Ok(Upstream {
        next_hop: new_next_hop(front, peer, client).await?,
        since: Instant::now(),
        kept: None,
    })
}

async fn new_next_hop(front: &FrontEnd, peer: &Peer, client: &Stream) -> Result<NextHop, String> {
    let Some(upstream) = &front.options.upstream else {
        let server = Server::new(front.options.dialect(), &front.options.hostname);
        return Ok(NextHop::Inner(Box::new(server)));
    };
    let limit = front.options.limits.upstream_connect;
    let mut socket = upstream
        .address
        .connect(limit)
        .await
        .map_err(|error| format!("{}: {error}", upstream.address))?;
    let secured = async {
        if let TellClient::Proxy(version) = front.options.tell_client {
            let header = proxy_protocol::header(version, peer, client.local());
            let sent = socket.write_all(&header).await;
            sent.map_err(|error| error.to_string())?;
        }
        match &upstream.tls {
            UpstreamTls::Implicit(tls, name) => tls
                .connect(socket, name)
                .await
                .map_err(|error| error.to_string()),
            _ => Ok(Stream::from(socket)),
        }
    };
    let stream = match timeout(limit, secured).await {
        Ok(stream) => stream?,
        Err(_) => return Err(format!("{}: timed out", upstream.address)),
    };
    count(front, "new");
    Ok(NextHop::Socket(stream))
}

fn count(front: &FrontEnd, kind: &'static str) {
    let connections = &front.metrics.upstream_connections_total;
    let labels = [front.options.name.as_str(), kind];
    connections.with_label_values(&labels).inc();
}

impl Waiting {
    /// The session is over, and its connection may serve another.
    pub(super) fn leave(&self, front: &FrontEnd, stream: Stream, kept: Box<Kept>, since: Instant) {
        if since.elapsed() >= REUSE_MAX || front.stop.is_cancelled() {
            front.tasks.spawn(goodbye(stream));
            return;
        }
        let idle = Idle {
            stream,
            kept,
            since,
            expires: Instant::now() + front.options.limits.upstream_idle.min(REUSE_MAX),
        };
        self.idle.lock().push_back(idle);
        self.came.notify_one();
        if front.stop.is_cancelled() {
            // It may have come after the last look at who waits.
            self.dismiss_all(front);
        }
    }

    fn dismiss_all(&self, front: &FrontEnd) {
        for idle in std::mem::take(&mut *self.idle.lock()) {
            front.tasks.spawn(goodbye(idle.stream));
        }
    }

    fn take(&self, front: &FrontEnd) -> Option<Idle> {
        let now = Instant::now();
        loop {
            let idle = self.idle.lock().pop_back()?;
            if idle.stream.peek() != Peek::Silent {
                // It ended, or says why it is about to.
                count(front, "stale");
            } else if idle.expires <= now || now.duration_since(idle.since) >= REUSE_MAX {
                front.tasks.spawn(goodbye(idle.stream));
            } else {
                return Some(idle);
            }
        }
    }

    fn expired(&self, now: Instant) -> Vec<Idle> {
        let mut idle = self.idle.lock();
        let fresh = idle.partition_point(|idle| idle.expires <= now);
        idle.drain(..fresh).collect()
    }

    fn next_expiry(&self) -> Option<Instant> {
        self.idle.lock().front().map(|idle| idle.expires)
    }
}

/// Says goodbye to those that nobody came for, until the front end stops, and then to all.
pub(super) async fn dismiss_idle(front: Arc<FrontEnd>) {
    loop {
        let next = front.waiting.next_expiry();
        let due = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => front.waiting.came.notified().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = front.stop.cancelled() => break,
        }
        for old in front.waiting.expired(Instant::now()) {
            front.tasks.spawn(goodbye(old.stream));
        }
    }
    front.waiting.dismiss_all(&front);
}

/// A next hop that hears no QUIT logs a lost connection.
async fn goodbye(mut stream: Stream) {
    let said = async {
        stream.write_all(b"QUIT\r\n").await?;
        stream.flush().await?;
        let mut answer = [0; 512];
        while stream.read(&mut answer).await? > 0 {}
        std::io::Result::Ok(())
    };
    // Whoever does not answer is left without.
    let _ = timeout(GOODBYE, said).await;
}
