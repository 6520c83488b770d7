//! Where mail comes in: SMTP and LMTP in front of a next hop, the journal endpoint that has none, the milter that stands
//! beside a mail server (`milter`), IMAP and POP3 in front of a mailbox server (`mailbox`).
//!
//! The talk itself is [`crate::wire::smtp::Relay`]; here bytes are carried between it and the sockets (`pump`), its steps
//! are carried out (`session`), and the copy goes into the journal (`copy`). Connections to the next hop may outlive their
//! session (`upstream`). A front end never names a target, and parses no MIME but journal reports (`reports`). One
//! session's fault, a panic included, ends that session alone.

mod arrival;
mod copy;
mod mailbox;
mod milter;
mod options;
mod pump;
mod reports;
mod session;
mod sink;
mod upstream;

pub use mailbox::{
    MailboxLimits, MailboxOptions, TellMailbox, Users, UsersError, start as start_mailbox,
    touch_mailbox,
};
pub use milter::{MilterLimits, MilterOptions, start as start_milter};
pub use options::{
    Limits, Mismatch, OnCaptureFailure, Options, TellClient, Tls, Upstream, UpstreamTls,
};
pub use sink::sink;

use std::{fmt, future::Future, io, net::SocketAddr, sync::Arc, time::SystemTime};

use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    journal::Journal,
    message::UnixMillis,
    metrics::Metrics,
    net::{self, Address, Connection, Peer, ServeOptions, Service},
    wire::smtp::Rules,
};

/// Why a front end does not accept mail.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("front end {name}: cannot listen on {address}: {source}")]
    Listen {
        name: String,
        address: Address,
        #[source]
        source: io::Error,
    },
    #[error("front end {name}: {why}")]
    Options { name: String, why: &'static str },
}

/// What the sessions of one front end share.
struct FrontEnd {
    options: Options,
    rules: Arc<Rules>,
    journal: Journal,
    metrics: Arc<Metrics>,
    /// What the reports at a journal endpoint hold in memory.
    reports: reports::Budget,
    /// Connections to the next hop, between two sessions.
    waiting: upstream::Waiting,
    stop: CancellationToken,
    /// Sessions, and what they leave to be done behind them: the process ends after both.
    tasks: TaskTracker,
    started: UnixMillis,
}

/// A front end that accepts mail.
pub struct Entrance {
    /// The bound address, none for a unix socket.
    pub local: Option<SocketAddr>,
    listening: JoinHandle<()>,
}

impl Entrance {
    /// Waits until it listens no more, and its address is free; sessions may go on.
    pub async fn closed(self) {
        // An error is a panic of the accept loop, which has dropped the socket too.
        let _ = self.listening.await;
    }
}

/// Listens, and serves until `stop`: then sessions end as soon as their message is through. They run in `tasks`.
pub async fn start(
    options: Options,
    journal: Journal,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    tasks: TaskTracker,
) -> Result<Entrance, StartError> {
    options.check().map_err(|why| StartError::Options {
        name: options.name.clone(),
        why,
    })?;
    let listener = options
        .listen
        .listen(Some(&options.socket_file))
        .await
        .map_err(|source| StartError::Listen {
            name: options.name.clone(),
            address: options.listen.clone(),
            source,
        })?;
    let local = listener.local();
    metrics.touch_frontend(&options.name);
    let serve = ServeOptions {
        sessions_max: options.limits.sessions,
        sessions_per_address_max: options.limits.sessions_per_address,
        proxy_protocol: options.proxy_protocol.clone(),
        handshake_timeout: options.limits.handshake,
    };
    let implicit = match &options.tls {
        Some(Tls {
            identity,
            implicit: true,
        }) => Some(identity.clone()),
        _ => None,
    };
    let front = Arc::new(FrontEnd {
        rules: Arc::new(options.rules()),
        options,
        journal,
        metrics,
        reports: reports::Budget::default(),
        waiting: upstream::Waiting::default(),
        stop: stop.clone(),
        tasks: tasks.clone(),
        started: UnixMillis::from_system(SystemTime::now()),
    });
    if front.rules.keep_upstream {
        tasks.spawn(upstream::dismiss_idle(front.clone()));
    }
    let sessions = tasks.clone();
    let serving = net::serve(listener, serve, implicit, front, stop, sessions);
    Ok(Entrance {
        local,
        listening: tasks.spawn(serving),
    })
}

impl Service for FrontEnd {
    fn serve(self: Arc<Self>, connection: Connection) -> impl Future<Output = ()> + Send {
        arrival::run(self, connection)
    }

    fn failed(&self, peer: &Peer, reason: &'static str, cause: &dyn fmt::Display) {
        let name = &self.options.name;
        self.metrics.session_error(name, reason);
        tracing::warn!(frontend = %name, %peer, reason, %cause, "session failed");
    }
}
