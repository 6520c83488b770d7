//! The built-in second mail store: a JMAP server, its storage and its page, over HTTPS.
//!
//! [`Vault::open`] opens the store, makes what a first start needs (certificate, tokens) and binds; [`Vault::serve`]
//! serves until it is told to stop. A message is confirmed when it is synced, never before (`storage`). Requests come in
//! through `jmap` (programs) and `page` (people); `index` fills the full-text search behind them. [`export`] gives
//! everything back as files, [`fsck`] reads whether all of it is what it was.
//!
//! It never changes or deletes a message. Its own failure is a transient answer (503, 507), and nothing half stored.

mod auth;
mod error;
pub mod export;
pub mod fsck;
mod index;
mod jmap;
mod mbox;
mod mime;
mod page;
mod storage;
pub mod view;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    message::K1,
    metrics::Metrics,
    net::{self, Http, IdentityFiles, Listener, ServeOptions, ServerTls},
};

pub use auth::{Scope, TokenError};
pub use error::VaultError;
pub use storage::StoreError;

use auth::Tokens;
use index::Indexer;
use storage::Store;

/// How often uploads that nothing names are looked for.
const ORPHANS_EVERY: Duration = Duration::from_secs(3600);

/// `[vault]`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub listen: net::Address,
    pub data_dir: PathBuf,
    /// Certificate and key; made on first start where absent.
    pub identity: Option<IdentityFiles>,
    /// Host names and addresses in a certificate of our own making.
    pub names: Vec<String>,
    /// Which tokens may do what; `tokens/tokens` in `data_dir` where absent.
    pub tokens_file: Option<PathBuf>,
    pub limits: Limits,
}

impl Options {
    /// The host at which this machine reaches the vault: the listen address, or loopback where it is a wildcard.
    pub fn host(&self) -> Option<&str> {
        match &self.listen {
            net::Address::Tcp { host, .. } => Some(match host.as_str() {
                "0.0.0.0" => "127.0.0.1",
                "::" => "::1",
                host => host,
            }),
            net::Address::Unix(_) => None,
        }
    }
}

impl Options {
    /// Defaults for a vault in `data_dir`.
    pub fn new(listen: net::Address, data_dir: PathBuf) -> Self {
        Self {
            listen,
            data_dir,
            identity: None,
            names: ["localhost", "127.0.0.1", "::1"].map(String::from).to_vec(),
            tokens_file: None,
            limits: Limits::default(),
        }
    }
}

/// What one client, and all together, may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// One upload.
    pub message_bytes_max: u64,
    /// One API request, and one blob inside it.
    pub request_bytes_max: u64,
    /// API requests at a time; each may hold `request_bytes_max` in memory.
    pub requests_max: usize,
    pub uploads_max: usize,
    pub calls_max: u64,
    pub objects_max: u64,
    pub connections_max: usize,
    pub connections_per_address_max: usize,
    /// A client that sends or takes nothing for so long is cut off.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 2 << 30,
            request_bytes_max: 8 << 20,
            requests_max: 8,
            uploads_max: 8,
            calls_max: 64,
            objects_max: 1000,
            connections_max: 512,
            connections_per_address_max: 128,
            idle: Duration::from_secs(60),
        }
    }
}

/// The vault, open and listening.
pub struct Vault {
    listener: Listener,
    tls: ServerTls,
    shared: Arc<Shared>,
    indexer: Indexer,
    fingerprint: Option<String>,
    certificate: PathBuf,
    fresh_tokens: Vec<PathBuf>,
}

/// What every request needs.
pub(crate) struct Shared {
    pub(crate) store: Arc<Store>,
    pub(crate) tokens: Tokens,
    pub(crate) limits: Limits,
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) logins: page::Logins,
    pub(crate) metrics: Arc<Metrics>,
}

impl Vault {
    /// Opens the store (mending what an unclean stop left), makes certificate and tokens where there are none, and binds.
    pub async fn open(options: Options, metrics: Arc<Metrics>) -> Result<Self, VaultError> {
        let listen = options.listen.clone();
        let opened = tokio::task::spawn_blocking(move || Opened::open(options, metrics));
        let opened = opened.await.map_err(|_| StoreError::Closed)??;
        let listener = listen
            .listen(None)
            .await
            .map_err(|cause| VaultError::Listen {
                address: listen.to_string(),
                cause,
            })?;
        Ok(Self {
            listener,
            tls: opened.tls,
            fingerprint: opened.fingerprint,
            certificate: opened.certificate,
            fresh_tokens: opened.fresh_tokens,
            shared: Arc::new(opened.shared),
            indexer: opened.indexer,
        })
    }

    /// The bound address; none for a unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        self.listener.local()
    }

    /// SHA-256 of the certificate, where it is one of our own making.
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    /// The certificate that clients may take as their authority.
    pub fn certificate(&self) -> &std::path::Path {
        &self.certificate
    }

    /// Files of tokens that this start has made.
    pub fn fresh_tokens(&self) -> &[PathBuf] {
        &self.fresh_tokens
    }

    /// To read the certificate again.
    pub fn tls(&self) -> ServerTls {
        self.tls.clone()
    }

    /// Serves until `stop`; then requests in flight end, and the store is synced and closed.
    pub async fn serve(self, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let store = self.shared.store.clone();
        tasks.spawn(remove_orphans(store.clone(), stop.clone()));
        let indexing = self.indexer.start(stop.clone());
        if let Err(error) = &indexing {
            tracing::error!(%error, "vault: full-text index: no thread");
        }
        let limits = self.shared.limits;
        let options = ServeOptions {
            sessions_max: limits.connections_max,
            sessions_per_address_max: limits.connections_per_address_max,
            proxy_protocol: None,
            handshake_timeout: Duration::from_secs(10),
        };
        let service = Arc::new(Http {
            name: "vault",
            router: router(self.shared),
            idle: limits.idle,
            stalled: limits.idle,
            answers_refused: false,
            stop: stop.clone(),
        });
        net::serve(
            self.listener,
            options,
            Some(self.tls),
            service,
            stop,
            tasks.clone(),
        )
        .await;
        tasks.close();
        tasks.wait().await;
        let ended = tokio::task::spawn_blocking(move || {
            if let Ok(thread) = indexing {
                let _ = thread.join();
            }
            store.close();
        });
        let _ = ended.await;
    }
}

/// What opening gives, before there is a listener.
struct Opened {
    tls: ServerTls,
    shared: Shared,
    indexer: Indexer,
    fingerprint: Option<String>,
    certificate: PathBuf,
    fresh_tokens: Vec<PathBuf>,
}

impl Opened {
    fn open(options: Options, metrics: Arc<Metrics>) -> Result<Self, VaultError> {
        let store = Store::open(&options.data_dir, None, metrics.clone())?;
        let indexer = Indexer::new(store.clone(), metrics.clone())?;
        let (identity, fingerprint) = match options.identity {
            Some(identity) => (identity, None),
            None => {
                let mut names: Vec<&str> = options.names.iter().map(String::as_str).collect();
                // Whoever is told the listen address alone must be able to verify it.
                if let Some(host) = options.host()
                    && !names.contains(&host)
                {
                    names.push(host);
                }
                let made = net::self_signed(&names, &options.data_dir.join("tls"))?;
                (made.files, Some(made.fingerprint))
            }
        };
        let certificate = identity.certificate.clone();
        let tls = ServerTls::load(identity, None, &["h2", "http/1.1"])?;
        let (tokens, fresh_tokens) =
            Tokens::open(&options.data_dir.join("tokens"), options.tokens_file)?;
        let limits = options.limits;
        Ok(Self {
            tls,
            fingerprint,
            certificate,
            fresh_tokens,
            indexer,
            shared: Shared {
                store,
                tokens,
                limits,
                requests: Arc::new(Semaphore::new(limits.requests_max)),
                uploads: Arc::new(Semaphore::new(limits.uploads_max)),
                logins: page::Logins::default(),
                metrics,
            },
        })
    }
}

fn router(shared: Arc<Shared>) -> axum::Router {
    jmap::routes(shared.clone()).merge(page::routes(shared))
}

/// The e-mail id of a message: made of its bytes, so that every client can name it.
fn email_id(k1: &K1) -> String {
    format!("M{k1}")
}

async fn remove_orphans(store: Arc<Store>, stop: CancellationToken) {
    loop {
        match store.remove_orphans(storage::now()).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "vault: removed uploads that nothing named"),
            Err(error) => tracing::warn!(%error, "vault: orphans stay"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ORPHANS_EVERY) => {}
        }
    }
}
