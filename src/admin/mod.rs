//! What an operator sees over plain HTTP: `/metrics`, `/healthz`, `/readyz`, a status page, and the API of the command
//! line.
//!
//! Contract: it reads, and moves captures between waiting, held and parked on an operator's word; it never changes a
//! message. Pages answer only to a known `Host`, the API only with the token that lies in the data directory for its
//! owner (`guard.rs`). No page shows a sender, a recipient or a subject. Connections are bounded, and a scrape passes by
//! idle ones. A request that fails is that request's loss.

mod api;
mod guard;
mod status;

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    middleware,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    dedup::Dedup,
    journal::{Journal, Queue},
    message::UnixMillis,
    metrics::Metrics,
    net::{self, Http, Listener, ServeOptions},
    targets::RemoteStore,
};
pub use guard::Token;

/// A connection that asks for nothing ends after this.
const IDLE: Duration = Duration::from_secs(25);
/// An operator who pages through an exported message may stop reading for a while.
const STALLED: Duration = Duration::from_secs(600);
const CONNECTIONS_MAX: usize = 256;
/// One address cannot lock the others out.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 128;

/// Loopback alone.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9725));

/// Where the admin page listens, and to which names it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub listen: SocketAddr,
    /// Names besides `localhost` and addresses that a request's `Host` may carry.
    pub allowed_hosts: Vec<String>,
}

/// A front end, as the status page names it.
#[derive(Clone, Debug)]
pub struct Frontend {
    pub name: String,
    pub listen: String,
    /// Empty where there is no next hop.
    pub upstream: String,
    /// Changes where its server is identified while we run.
    pub standing: Arc<ArcSwap<Standing>>,
}

/// What a front end is just now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// `smtp, filter`
    pub kind: String,
    pub accepting: bool,
    /// What an operator should know of its server.
    pub note: Option<String>,
}

/// A target and its queue.
#[derive(Clone)]
pub struct Target {
    pub name: String,
    pub kind: String,
    pub url: String,
    pub queue: Queue,
    pub store: Arc<dyn RemoteStore>,
    pub dedup: Dedup,
}

/// What the pages look at.
pub struct Watched {
    pub metrics: Arc<Metrics>,
    /// None beside a vault that runs alone.
    pub journal: Option<Journal>,
    pub frontends: Vec<Frontend>,
    pub targets: ArcSwap<Vec<Target>>,
    /// Set from the end of the start to the beginning of the drain.
    pub accepting: AtomicBool,
    pub started: SystemTime,
    pub vault_page: Option<String>,
}

impl Watched {
    /// Would mail that comes now be taken and copied? If not, why.
    fn check_ready(&self) -> Result<(), String> {
        if !self.accepting.load(Ordering::Relaxed) {
            return Err("no front end accepts mail".to_owned());
        }
        let standings = self.frontends.iter().map(|it| (it, it.standing.load()));
        let standings: Vec<_> = standings.collect();
        if !standings.is_empty() && standings.iter().all(|(_, it)| !it.accepting) {
            let why = standings.iter().map(|(frontend, standing)| {
                let note = standing.note.as_deref().unwrap_or("not identified yet");
                format!("{}: {note}", frontend.name)
            });
            let why: Vec<_> = why.collect();
            return Err(format!("no front end accepts mail: {}", why.join("; ")));
        }
        let journal = self.journal.as_ref();
        let open = journal.map_or(Ok(()), Journal::check_open);
        open.map_err(|error| error.to_string())
    }

    /// Brings the gauges that are ages or counts up to now, before a scrape or a page.
    pub fn refresh(&self, now: UnixMillis) {
        let accepting = self.accepting.load(Ordering::Relaxed);
        for frontend in &self.frontends {
            self.metrics
                .frontend_accepting
                .with_label_values(&[&frontend.name])
                .set((accepting && frontend.standing.load().accepting).into());
        }
        for target in self.targets.load().iter() {
            let name = [target.name.as_str()];
            let m = &self.metrics;
            m.sync_lag_seconds
                .with_label_values(&name)
                .set(target.queue.lag_seconds(now));
            m.waiting_messages
                .with_label_values(&name)
                .set(target.queue.waiting() as i64);
            m.parked_messages
                .with_label_values(&name)
                .set(target.queue.parked() as i64);
            m.held_messages
                .with_label_values(&name)
                .set(target.queue.held() as i64);
        }
    }
}

struct Shared {
    watched: Arc<Watched>,
    token: Token,
    allowed_hosts: Vec<String>,
}

/// Serves until cancelled; requests under way end first.
pub async fn serve(
    listener: Listener,
    options: &Options,
    token: Token,
    watched: Arc<Watched>,
    cancel: CancellationToken,
) {
    let shared = Arc::new(Shared {
        watched,
        token,
        allowed_hosts: options.allowed_hosts.clone(),
    });
    let http = Http {
        name: "admin",
        router: router(shared),
        idle: IDLE,
        stalled: STALLED,
        answers_refused: true,
        stop: cancel.clone(),
    };
    let doors = ServeOptions {
        sessions_max: CONNECTIONS_MAX,
        sessions_per_address_max: CONNECTIONS_PER_ADDRESS_MAX,
        proxy_protocol: None,
        handshake_timeout: IDLE,
    };
    let tasks = TaskTracker::new();
    net::serve(listener, doors, None, Arc::new(http), cancel, tasks.clone()).await;
    tasks.close();
    tasks.wait().await;
}

fn router(shared: Arc<Shared>) -> Router {
    let api = api::router().route_layer(middleware::from_fn_with_state(
        shared.clone(),
        guard::require_token,
    ));
    let guarded = Router::new()
        .route("/", get(page))
        .nest("/api", api)
        .route_layer(middleware::from_fn_with_state(
            shared.clone(),
            guard::require_known_host,
        ));
    // Probes and scrapers come by any name, and find nothing here that a page of another site could use.
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .merge(guarded)
        .with_state(shared)
}

fn now() -> UnixMillis {
    UnixMillis::from_system(SystemTime::now())
}

async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    shared.watched.refresh(now());
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        shared.watched.metrics.render(),
    )
}

async fn ready(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    match shared.watched.check_ready() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn page(State(shared): State<Arc<Shared>>) -> Response {
    let now = now();
    shared.watched.refresh(now);
    match status::render(&shared.watched, now) {
        Ok(html) => (guard::PAGE_HEADERS, Html(html)).into_response(),
        Err(error) => {
            tracing::warn!(%error, "the status page could not be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
