//! A journal, a dedup map and a forwarding worker in this process: what forwarding is tested with, against real servers.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use mailtee::{
    dedup::{self, Dedup},
    forward::{Decide, Decided, Options, Policy, Worker, keep_running},
    journal::{self, Filter, Journal, Listed, Queue},
    message::{
        Acceptance, CaptureId, Client, Envelope, Fingerprinter, Origin, Protocol, Recipient,
        Sighting, UnixMillis,
    },
    metrics::Metrics,
    targets::RemoteStore,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::kit::TestDir;

pub(crate) const TARGET: &str = "second";

pub(crate) struct Rig {
    pub(crate) journal: Journal,
    pub(crate) dedup: Dedup,
    pub(crate) metrics: Arc<Metrics>,
    running: Option<(CancellationToken, JoinHandle<()>)>,
    dir: Arc<TestDir>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::open(Arc::new(TestDir::new()), None)
    }

    /// The journal of an earlier rig with an empty dedup map: the map was lost.
    pub(crate) async fn without_dedup_map(self, name: &str) -> Self {
        let dir = self.end().await;
        Self::open(dir, Some(name))
    }

    /// As after a restart that found the dedup map corrupt and set it aside.
    pub(crate) async fn with_map_aside(self) -> Self {
        let dir = self.end().await;
        std::fs::rename(dir.join("dedup"), dir.join("dedup.corrupt-1")).expect("renamed");
        Self::open(dir, None)
    }

    /// Everything as after a restart.
    pub(crate) async fn restarted(self) -> Self {
        let dir = self.end().await;
        Self::open(dir, None)
    }

    async fn end(mut self) -> Arc<TestDir> {
        self.stop().await;
        self.journal.close().await.expect("the journal closes");
        self.dir.clone()
    }

    fn open(dir: Arc<TestDir>, map: Option<&str>) -> Self {
        let metrics = Arc::new(Metrics::new());
        let options = journal::Options {
            data_dir: dir.path().into(),
            segment_bytes: 8 << 20,
            capacity_bytes: 4 << 30,
            free_bytes_min: 1 << 20,
            large_bytes_min: 256 << 10,
            draft_memory_bytes: 64 << 20,
            abandon_targets: Vec::new(),
        };
        let journal = Journal::open(options, &[TARGET.into()], metrics.clone()).expect("a journal");
        let map = dedup::Options::new(dir.join(map.unwrap_or("dedup")));
        Self {
            journal,
            dedup: Dedup::open(map, &metrics).expect("a dedup map"),
            metrics,
            running: None,
            dir,
        }
    }

    pub(crate) fn queue(&self) -> Queue {
        self.journal.queue(TARGET)
    }

    /// Captures a message that the next hop took.
    pub(crate) async fn capture(&self, bytes: &[u8], recipient: &str) -> CaptureId {
        let sighting = sighting(bytes, recipient);
        let id = sighting.id;
        let mut draft = self.journal.draft().expect("room");
        for piece in bytes.chunks(64 << 10) {
            draft.write(piece).await.expect("written");
        }
        let captured = draft.commit(&sighting).await.expect("committed");
        captured.release(Acceptance::Accepted {
            reply: "250 2.0.0 Ok: queued as 4ABC".into(),
        });
        id
    }

    /// Starts forwarding to `store`, with delays in milliseconds instead of seconds.
    pub(crate) fn start(&mut self, store: Arc<dyn RemoteStore>) {
        self.start_with(store, hasty(), Arc::new(|_, _| Decided::Goes));
    }

    pub(crate) fn start_with(
        &mut self,
        store: Arc<dyn RemoteStore>,
        options: Options,
        decide: Decide,
    ) {
        let (queue, dedup) = (self.queue(), self.dedup.clone());
        let metrics = self.metrics.clone();
        let make = move || {
            Worker::new(
                TARGET,
                options.clone(),
                queue.clone(),
                dedup.clone(),
                decide.clone(),
                store.clone(),
                metrics.clone(),
            )
        };
        let stop = CancellationToken::new();
        let metrics = self.metrics.clone();
        let task = tokio::spawn(keep_running(TARGET.into(), metrics, stop.clone(), make));
        self.running = Some((stop, task));
    }

    /// Stops leasing and finishes what is in flight.
    pub(crate) async fn stop(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            stop.cancel();
            task.await.expect("the worker ends well");
        }
    }

    /// Waits until the journal has done all that it was told: a released capture is in the queue.
    pub(crate) async fn caught_up(&self) {
        let journal = self.journal.clone();
        let told = tokio::task::spawn_blocking(move || journal.set_targets(&[TARGET.into()], &[]));
        told.await.expect("no panic").expect("an open journal");
    }

    /// Waits until nothing waits any more.
    pub(crate) async fn forwarded(&self, deadline: Duration) {
        self.caught_up().await;
        let queue = self.queue();
        let end = Instant::now() + deadline;
        while queue.waiting() > 0 {
            assert!(Instant::now() < end, "not forwarded: {:#?}", self.waiting());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Some of those that wait, and why.
    fn waiting(&self) -> Vec<Listed> {
        let filter = Filter {
            target: Some(TARGET.into()),
            state: None,
        };
        let page = self.journal.view().list(&filter, None, 3);
        page.expect("a readable journal").captures
    }

    /// A counter of `forwarded_messages_total`.
    pub(crate) fn count(&self, outcome: &str) -> u64 {
        self.metrics
            .forwarded_messages_total
            .with_label_values(&[TARGET, outcome])
            .get()
    }

    pub(crate) fn is_up(&self) -> bool {
        let up = &self.metrics.target_up;
        up.with_label_values(&[TARGET]).get() == 1
    }

    pub(crate) fn lag(&self) -> f64 {
        let now = UnixMillis::from_system(SystemTime::now());
        self.queue().lag_seconds(now)
    }
}

/// A sighting of content in an SMTP transaction, now.
pub(crate) fn sighting(bytes: &[u8], recipient: &str) -> Sighting {
    let now = UnixMillis::from_system(SystemTime::now());
    let id = CaptureId::from_parts(now, rand::random());
    Sighting {
        id,
        captured_at: now,
        frontend: "test".into(),
        protocol: Protocol::Smtp,
        session: "s1".into(),
        origin: Origin::Transaction {
            envelope: Envelope {
                sender: "sender@mailtee.test".into(),
                recipients: vec![Recipient {
                    address: recipient.into(),
                    ..Recipient::default()
                }],
                ..Envelope::default()
            },
            client: Client::default(),
        },
        fidelity: Vec::new(),
        bytes: bytes.len() as u64,
        fingerprint: Fingerprinter::of(bytes),
    }
}

/// Short delays; otherwise as in the product.
pub(crate) fn hasty() -> Options {
    let policy = |base, cap| Policy {
        base: Duration::from_millis(base),
        cap: Duration::from_millis(cap),
    };
    Options {
        message: policy(20, 100),
        target: policy(20, 100),
        ..Options::default()
    }
}

/// Asks until `condition` holds; past the deadline it panics, naming `what`.
pub(crate) async fn until(deadline: Duration, what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(
            Instant::now() < end,
            "waited {deadline:?} in vain until {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
