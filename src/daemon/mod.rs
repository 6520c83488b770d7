//! The whole: builds every stage from a configuration, runs them, reloads them, and drains them in the data's order.
//!
//! Start: journal, dedup map, vault, forwarding, admin page, and last the front ends, so that nothing is accepted before
//! everything behind it stands; one whose server is still to be identified opens when it is (`auto`). Drain: front ends stop
//! accepting and let transactions end, forwarding stops leasing and ends what is in flight, the journal syncs and closes,
//! then vault and admin page go. What a drain does not finish within its limit is not lost: it is in the journal.

mod auto;
mod embedded;
mod entrance;
mod forwarding;
mod logging;
mod notify;
mod reload;
mod resources;
mod signals;
mod stores;
mod vault_alone;

use std::{
    io,
    os::unix::fs::DirBuilderExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin,
    channel::ChannelError,
    config::{Config, ConfigError, Frontend},
    dedup::{Dedup, DedupError},
    frontends::{self, Mismatch},
    journal::{Journal, JournalError},
    message::UnixMillis,
    metrics::Metrics,
    net,
    vault::VaultError,
};
pub use auto::check as check_auto;
use embedded::Embedded;
pub use embedded::configured_targets;
use entrance::{Doors, Identities};
use forwarding::Forwarding;
pub use logging::LogLevel;
pub use resources::runtimes;
pub use stores::open_store;
pub use vault_alone::run_vault;

/// Why the daemon does not start, or does not take a new configuration.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("daemon: {step}: {source}")]
    Io {
        step: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Dedup(#[from] DedupError),
    #[error(transparent)]
    Frontend(#[from] frontends::StartError),
    #[error(transparent)]
    Users(#[from] frontends::UsersError),
    #[error(transparent)]
    Tls(#[from] net::TlsError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("target {name}: {source}")]
    Target {
        name: String,
        #[source]
        source: ChannelError,
    },
    #[error("front end {name}: its server is not identified")]
    NotIdentified { name: String },
    #[error("daemon: stopped while it started")]
    Stopped,
}

impl DaemonError {
    fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Io { step, source }
    }
}

/// Runs until SIGTERM or SIGINT, and drains.
pub fn run(config: Config) -> Result<(), DaemonError> {
    let level = logging::start(&config.log);
    let files = resources::raise_file_limit();
    let (capture, background) = resources::runtimes().map_err(DaemonError::io("runtime"))?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %config.file.display(),
        open_files_max = files,
        "starting"
    );
    let result = capture.block_on(async {
        let daemon = Daemon::start(config, level, background.handle().clone()).await?;
        signals::serve(daemon).await
    });
    // A blocking call that hangs (a dead network file system) must not keep the process.
    capture.shutdown_background();
    background.shutdown_background();
    result
}

/// A running daemon.
pub struct Daemon {
    config: Config,
    level: LogLevel,
    watched: Arc<admin::Watched>,
    journal: Journal,
    /// Front ends and their sessions.
    accepting: Part,
    identities: Identities,
    forwarding: Forwarding,
    embedded: Option<Embedded>,
    /// The vault and the admin page.
    serving: Part,
}

/// Tasks that are stopped together.
#[derive(Default)]
struct Part {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Part {
    async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A start that fails half-way leaves nothing running.
impl Drop for Part {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Daemon {
    /// Starts every stage; the front ends last. Front ends run on the caller's runtime, the rest on `background`.
    pub async fn start(
        config: Config,
        level: LogLevel,
        background: Handle,
    ) -> Result<Daemon, DaemonError> {
        net::install_provider();
        let metrics = Arc::new(Metrics::new());
        let started = SystemTime::now();
        metrics
            .start_time_seconds
            .set(UnixMillis::from_system(started).0 as f64 / 1000.0);
        for frontend in &config.frontends {
            metrics.touch_frontend(frontend.name());
            if let Frontend::Auto(auto) = frontend {
                frontends::touch_mailbox(&metrics, &auto.name);
            }
        }
        let (journal, dedup) = open_stores(&config, metrics.clone()).await?;
        let mut forwarding =
            Forwarding::new(journal.clone(), dedup, metrics.clone(), background.clone());
        let serving = Part::default();
        let identities = Identities::default();

        let embedded = match &config.vault {
            None => None,
            Some(options) => {
                let metrics = metrics.clone();
                let opened = Embedded::open(options, metrics, &serving, &identities, &background);
                Some(opened.await?)
            }
        };
        let targets = forwarding.open(&embedded::targets(&config, embedded.as_ref()))?;
        forwarding.replace(targets, &[]).await?;
        let watched = Arc::new(admin::Watched {
            metrics: metrics.clone(),
            journal: Some(journal.clone()),
            frontends: config.frontends.iter().map(entrance::named).collect(),
            targets: ArcSwap::from_pointee(forwarding.named()),
            accepting: AtomicBool::new(false),
            started,
            vault_page: embedded.as_ref().map(|vault| vault.url().to_owned()),
        });
        if let Some(options) = &config.admin {
            let token =
                admin::Token::open(&config.data_dir).map_err(DaemonError::io("admin: token"))?;
            serve_admin(options, token, watched.clone(), &serving, &background).await?;
        }
        let accepting = Part::default();
        let doors = Doors {
            journal: journal.clone(),
            metrics,
            stop: accepting.stop.clone(),
            tasks: accepting.tasks.clone(),
            identities: identities.clone(),
        };
        auto::start(&config, &watched.frontends, &doors).await?;
        for frontend in &config.frontends {
            if !matches!(frontend, Frontend::Auto(_)) {
                let stop = accepting.stop.clone();
                doors.open(frontend, Mismatch::default(), stop).await?;
            }
        }
        watched.accepting.store(true, Ordering::Relaxed);
        Ok(Daemon {
            config,
            level,
            watched,
            journal,
            accepting,
            identities,
            forwarding,
            embedded,
            serving,
        })
    }

    /// What the admin page looks at.
    pub fn watched(&self) -> &Arc<admin::Watched> {
        &self.watched
    }

    /// One line for the service manager.
    fn summary(&self) -> String {
        let frontends = self.watched.frontends.len();
        let targets = self.watched.targets.load().len();
        format!("{frontends} front ends, {targets} targets")
    }

    /// Stops in the data's order, within `shutdown_timeout`.
    pub async fn drain(&mut self) {
        let limit = self.config.shutdown_timeout;
        let deadline = Instant::now() + limit;
        tracing::info!(limit_secs = limit.as_secs(), "draining");
        self.watched.accepting.store(false, Ordering::Relaxed);
        // Forwarding is left a third of the time, however long sessions take: what it ends now is not sent twice.
        let sessions = timeout_at(deadline - limit / 3, self.accepting.stop()).await;
        if sessions.is_err() {
            let open = self.accepting.tasks.len();
            tracing::warn!(open, "sessions are cut off");
        }
        if timeout_at(deadline, self.forwarding.part.stop())
            .await
            .is_err()
        {
            tracing::warn!(
                "forwarding is cut off: what was in flight is sent again after the start"
            );
        }
        if let Err(error) = self.journal.close().await {
            tracing::error!(%error, "the journal did not close cleanly");
        }
        let _ = timeout(Duration::from_secs(2), self.serving.stop()).await;
        tracing::info!("ended");
    }
}

/// Journal and dedup map; both read the disk before they are open.
async fn open_stores(
    config: &Config,
    metrics: Arc<Metrics>,
) -> Result<(Journal, Dedup), DaemonError> {
    make_data_dir(config)?;
    let (journal, dedup) = (config.journal.clone(), config.dedup.clone());
    let names = config.target_names();
    let opened = tokio::task::spawn_blocking(move || {
        // A journal from an earlier run has a map beside it, or had one.
        if journal.data_dir.join("journal").exists() {
            Dedup::expect(&dedup.dir)?;
        }
        let journal = Journal::open(journal, &names, metrics.clone())?;
        let dedup = Dedup::open(dedup, &metrics)?;
        Ok((journal, dedup))
    });
    opened.await.map_err(|_| DaemonError::Stopped)?
}

/// Mail is for its owner's eyes.
fn make_data_dir(config: &Config) -> Result<(), DaemonError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data_dir)
        .map_err(DaemonError::io(config.data_dir.display().to_string()))
}

async fn serve_admin(
    options: &admin::Options,
    token: admin::Token,
    watched: Arc<admin::Watched>,
    serving: &Part,
    background: &Handle,
) -> Result<(), DaemonError> {
    let step = format!("admin: listen on {}", options.listen);
    let address = options.listen;
    let listener = background.spawn(async move { net::Listener::bind_tcp(address) });
    let listener = listener.await;
    let listener = listener
        .map_err(|_| DaemonError::Stopped)?
        .map_err(DaemonError::io(step))?;
    let (options, stop) = (options.clone(), serving.stop.clone());
    serving.tasks.spawn_on(
        async move { admin::serve(listener, &options, token, watched, stop).await },
        background,
    );
    Ok(())
}
