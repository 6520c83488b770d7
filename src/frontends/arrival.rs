//! From an accepted connection to a session: who may come in, and with which next hop.

use std::{
    fmt::Display,
    sync::{Arc, atomic::Ordering},
};

use tokio::{io::AsyncWriteExt, time::timeout};
use tracing::{info, warn};

use super::{
    FrontEnd,
    session::{FAREWELL, Session},
    upstream,
};
use crate::{
    metrics::{IntGauge, Metrics},
    net::{Connection, Peer, Refusal, Stream},
    wire::smtp::answer::Failure,
};

/// A session from its first byte to its last.
pub(super) async fn run(front: Arc<FrontEnd>, connection: Connection) {
    let serial = front.metrics.session_serial.fetch_add(1, Ordering::Relaxed);
    let id = format!("{:x}.{serial:x}", front.started.0 / 1000);
    let mut stream = connection.stream;
    let peer = connection.peer;

    let refused = match connection.refused {
        Some(Refusal::TooManySessions) => Some(Failure::TooManySessions),
        Some(Refusal::TooManyFromAddress) => Some(Failure::TooManyFromAddress),
        None if !is_allowed(&front, &peer) => Some(Failure::NotAllowed),
        None => None,
    };
    if let Some(failure) = refused {
        return turn_away(&front, &id, &mut stream, &peer, failure, &"refused").await;
    }

    let _open = Open::new(&front.metrics, &front.options.name);

    let upstream = match upstream::connect(&front, &peer, &stream).await {
        Ok(upstream) => upstream,
        Err(cause) => {
            front.options.mismatch.suspect();
            let failure = Failure::UpstreamRefused;
            return turn_away(&front, &id, &mut stream, &peer, failure, &cause).await;
        }
    };
    Session::new(front, id, peer, stream, upstream).talk().await;
}

fn is_allowed(front: &FrontEnd, peer: &Peer) -> bool {
    let allowed = front.options.allowed.as_ref();
    allowed.is_none_or(|networks| networks.contains(peer))
}

/// The session in the gauge of open ones, however it ends.
pub(super) struct Open(IntGauge);

impl Open {
    pub(super) fn new(metrics: &Metrics, name: &str) -> Self {
        metrics.sessions_total.with_label_values(&[name]).inc();
        let open = metrics.sessions.with_label_values(&[name]);
        open.inc();
        Self(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Says why, and leaves.
async fn turn_away(
    front: &FrontEnd,
    session: &str,
    stream: &mut Stream,
    peer: &Peer,
    failure: Failure,
    cause: &(dyn Display + Sync),
) {
    count(front, session, peer, failure, cause);
    let reply = failure.with_id(None);
    let farewell = async {
        stream.write_all(reply.as_bytes()).await?;
        stream.shutdown().await
    };
    // Whoever does not read it is not told.
    let _ = timeout(FAREWELL, farewell).await;
}

/// Counts and logs what was cut short.
pub(super) fn count(
    front: &FrontEnd,
    session: &str,
    peer: &Peer,
    failure: Failure,
    cause: &(dyn Display + Sync),
) {
    let name = &front.options.name;
    if let Some(reason) = failure.reason() {
        front.metrics.session_error(name, reason);
    }
    match failure {
        Failure::UpstreamRefused | Failure::UpstreamLost | Failure::UpstreamTimeout => {
            warn!(frontend = %name, session, %peer, ?failure, %cause, "next hop failed");
        }
        _ => info!(frontend = %name, session, %peer, ?failure, %cause, "session cut short"),
    }
}
