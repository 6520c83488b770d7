//! A front end over a real journal in this process, with whatever next hop a test gives it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mailtee::{
    frontends::{
        self, Entrance, MilterLimits, MilterOptions, OnCaptureFailure, Options, StartError,
        Upstream, UpstreamTls,
    },
    journal::{self, Journal, Lease},
    message::Protocol,
    metrics::Metrics,
    net::{Address, Networks, SocketFile},
    wire::smtp::{Dialect, Role},
};
use tokio::runtime::Runtime;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::kit::{TestDir, wait_until};

const TARGET: &str = "second";

pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    pub(crate) journal: Journal,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Messages that the next hop of `over_sink` took.
    pub(crate) sunk: Arc<AtomicU64>,
    pub(crate) runtime: Runtime,
    _dir: TestDir,
}

pub(crate) fn journal_options(dir: &TestDir) -> journal::Options {
    journal::Options {
        data_dir: dir.path().into(),
        segment_bytes: 4 << 20,
        capacity_bytes: 1 << 30,
        free_bytes_min: 1 << 20,
        large_bytes_min: 256 << 10,
        draft_memory_bytes: 64 << 20,
        abandon_targets: Vec::new(),
    }
}

pub(crate) fn loopback() -> Address {
    "127.0.0.1:0".parse().expect("an address")
}

/// Options of a filter in front of this next hop.
pub(crate) fn filter(next_hop: SocketAddr) -> Options {
    let mut options = Options::new("front", Protocol::Smtp, Role::Filter, loopback());
    options.upstream = Some(upstream(next_hop));
    options
}

pub(crate) fn upstream(next_hop: SocketAddr) -> Upstream {
    Upstream {
        address: next_hop.to_string().parse().expect("an address"),
        tls: UpstreamTls::None,
    }
}

/// Options of a milter.
pub(crate) fn milter() -> MilterOptions {
    MilterOptions {
        name: "front".to_owned(),
        listen: loopback(),
        socket_file: SocketFile::default(),
        on_capture_failure: OnCaptureFailure::Tempfail,
        allowed: Networks::loopback(),
        limits: MilterLimits::default(),
    }
}

impl Front {
    pub(crate) fn start(options: Options) -> Self {
        Self::with_journal(options, |_| {})
    }

    pub(crate) fn with_journal(
        options: Options,
        change: impl FnOnce(&mut journal::Options),
    ) -> Self {
        Self::open(change, async |journal, metrics, stop, tasks| {
            frontends::start(options, journal, metrics, stop, tasks).await
        })
    }

    pub(crate) fn milter(
        options: MilterOptions,
        change: impl FnOnce(&mut journal::Options),
    ) -> Self {
        Self::open(change, async |journal, metrics, stop, tasks| {
            frontends::start_milter(options, journal, metrics, stop, tasks).await
        })
    }

    fn open(
        change: impl FnOnce(&mut journal::Options),
        start: impl AsyncFnOnce(
            Journal,
            Arc<Metrics>,
            CancellationToken,
            TaskTracker,
        ) -> Result<Entrance, StartError>,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let dir = TestDir::new();
        let mut journal = journal_options(&dir);
        change(&mut journal);
        let metrics = Arc::new(Metrics::new());
        let journal =
            Journal::open(journal, &[TARGET.to_owned()], metrics.clone()).expect("a journal");
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let started = start(
            journal.clone(),
            metrics.clone(),
            stop.clone(),
            tasks.clone(),
        );
        let entrance = runtime.block_on(started).expect("it starts");
        Self {
            address: entrance.local.unwrap_or_else(|| ([127, 0, 0, 1], 0).into()),
            journal,
            metrics,
            stop,
            tasks,
            sunk: Arc::default(),
            runtime,
            _dir: dir,
        }
    }

    /// In front of a next hop that takes everything.
    pub(crate) fn over_sink(dialect: Dialect, options: impl FnOnce(SocketAddr) -> Options) -> Self {
        let (address, sunk) = sink(dialect);
        let mut front = Self::start(options(address));
        front.sunk = sunk;
        front
    }

    pub(crate) fn sunk(&self) -> u64 {
        self.sunk.load(Ordering::Relaxed)
    }

    /// Waits for this many captures and gives them.
    pub(crate) fn captures(&self, count: usize) -> Vec<Lease> {
        let queue = self.journal.queue(TARGET);
        self.runtime.block_on(async {
            let mut leases = Vec::new();
            let all = async {
                while leases.len() < count {
                    leases.extend(queue.lease(count - leases.len(), u64::MAX).await);
                }
            };
            tokio::time::timeout(Duration::from_secs(60), all)
                .await
                .expect("captures");
            leases
        })
    }

    /// Waits until the journal has done what it was asked for, and what came of that.
    pub(crate) fn caught_up(&self) {
        for _ in 0..2 {
            let targets = [TARGET.to_owned()];
            self.journal.set_targets(&targets, &[]).expect("it is open");
        }
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.journal.queue(TARGET).waiting()
    }

    pub(crate) fn errors(&self, reason: &str) -> u64 {
        self.metrics
            .session_errors_total
            .with_label_values(&["front", reason])
            .get()
    }

    pub(crate) fn outcomes(&self, outcome: &str) -> u64 {
        self.metrics
            .captured_messages_total
            .with_label_values(&["front", outcome])
            .get()
    }

    pub(crate) fn sessions(&self) -> i64 {
        self.metrics.sessions.with_label_values(&["front"]).get()
    }

    #[track_caller]
    pub(crate) fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        wait_until(Duration::from_secs(60), what, || {
            condition(self).then_some(())
        });
    }
}

/// A next hop that takes everything, with one descriptor a session: its address and the count of what it took.
pub(crate) fn sink(dialect: Dialect) -> (SocketAddr, Arc<AtomicU64>) {
    let sunk = Arc::new(AtomicU64::new(0));
    let apart = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let listener = apart.block_on(loopback().listen(None)).expect("a listener");
    let address = listener.local().expect("bound");
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    apart.spawn(frontends::sink(
        listener,
        dialect,
        sunk.clone(),
        stop,
        tasks,
    ));
    // It ends with the test process; a session in it may outlive the front end.
    std::mem::forget(apart);
    (address, sunk)
}

/// The bytes of a capture.
pub(crate) fn content(lease: &Lease) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(
        &mut lease.body().expect("its content").open().expect("a body"),
        &mut bytes,
    )
    .expect("it reads");
    bytes
}
