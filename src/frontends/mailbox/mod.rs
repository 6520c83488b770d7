//! Before a mailbox server: IMAP and POP3. The session goes through in fixed memory while a watcher looks on
//! ([`crate::wire::watch`]), and what the watcher finds is copied.
//!
//! What is said passes as it is, but for what would blind us: see the watchers. A front end sends nothing of its own into
//! a session; it speaks before there is one (`upstream`: TLS, who the client is), and at its end where it must (`dialect`).
//! Nothing that goes wrong with a copy goes wrong with the session.

mod copies;
mod dialect;
mod known;
mod leg;
mod onward;
mod options;
mod pending;
mod session;
mod splice;
mod upstream;
mod users;

pub use options::{MailboxLimits, MailboxOptions, TellMailbox};
pub use users::{Users, UsersError};

use std::{fmt, sync::Arc, time::SystemTime};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use self::{dialect::Dialect, known::Known, pending::UnderWay};
use super::{Entrance, StartError, Tls};
use crate::{
    journal::Journal,
    message::UnixMillis,
    metrics::{IntGauge, Metrics},
    net::{self, Connection, Peer, ServeOptions, Service},
    wire::watch::Hint,
};

/// Copies of messages that were read, between the session and the journal.
const COMMITS_MAX: usize = 256;

/// What the sessions of one front end share.
struct Mailbox {
    options: MailboxOptions,
    dialect: Dialect,
    journal: Journal,
    metrics: Arc<Metrics>,
    known: Known,
    under_way: UnderWay,
    commits: Arc<Semaphore>,
    /// Whole messages that are not yet in the journal.
    pending: IntGauge,
    stop: CancellationToken,
    tasks: TaskTracker,
    started: UnixMillis,
}

/// Makes every series exist of a front end that may become one of these.
pub fn touch_mailbox(metrics: &Metrics, name: &str) {
    for dialect in [Dialect::Imap, Dialect::Pop3] {
        touch(metrics, name, dialect);
    }
}

fn touch(metrics: &Metrics, name: &str, dialect: Dialect) {
    let hints = [Hint::Arrival, Hint::Seen, Hint::Unseen].map(Hint::name);
    metrics.touch_mailbox(name, &hints, dialect.lost_reasons());
}

/// Listens, and serves until `stop`: then sessions end as soon as nothing is under way in them. They run in `tasks`.
pub async fn start(
    options: MailboxOptions,
    journal: Journal,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    tasks: TaskTracker,
) -> Result<Entrance, StartError> {
    let dialect = Dialect::of(options.protocol).ok_or_else(|| StartError::Options {
        name: options.name.clone(),
        why: "a mailbox front end speaks IMAP or POP3",
    })?;
    let listened = options.listen.listen(Some(&options.socket_file)).await;
    let listener = listened.map_err(|source| StartError::Listen {
        name: options.name.clone(),
        address: options.listen.clone(),
        source,
    })?;
    let local = listener.local();
    metrics.touch_frontend(&options.name);
    touch(&metrics, &options.name, dialect);
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
    let pending = metrics.pending_copies.with_label_values(&[&options.name]);
    let mailbox = Arc::new(Mailbox {
        known: Known::new(options.limits.known_messages),
        under_way: UnderWay::default(),
        commits: Arc::new(Semaphore::new(COMMITS_MAX)),
        pending,
        options,
        dialect,
        journal,
        metrics,
        stop: stop.clone(),
        tasks: tasks.clone(),
        started: UnixMillis::from_system(SystemTime::now()),
    });
    let sessions = tasks.clone();
    let serving = net::serve(listener, serve, implicit, mailbox, stop, sessions);
    Ok(Entrance {
        local,
        listening: tasks.spawn(serving),
    })
}

impl Service for Mailbox {
    async fn serve(self: Arc<Self>, connection: Connection) {
        session::run(self, connection).await;
    }

    fn failed(&self, peer: &Peer, reason: &'static str, cause: &dyn fmt::Display) {
        let name = &self.options.name;
        self.metrics.session_error(name, reason);
        warn!(frontend = %name, %peer, reason, %cause, "session failed");
    }
}
