//! The milter: beside a mail server instead of in its way. It looks on, and its one answer to a message is CONTINUE, once
//! the journal has synced.
//!
//! What the mail server makes of the message after that, a milter is not told. A message given up before its end leaves
//! nothing. A connection that speaks something else is closed with one line in the log.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, interval_at, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    Entrance, OnCaptureFailure, StartError,
    arrival::Open,
    copy::{self, Part, Seen},
};
use crate::{
    journal::{Captured, Journal, JournalError},
    message::{Acceptance, CaptureId, Fidelity, Origin, Protocol, UnixMillis},
    metrics::Metrics,
    net::{
        self, Address, Connection, Networks, Peek, Peer, ServeOptions, Service, SocketFile, Stream,
    },
    wire::milter::{Ended, Filter, Garbage, Rules, Step, Verdict},
};

/// A mail server offers at once; whoever does not is something else.
const OFFER_PATIENCE: Duration = Duration::from_secs(30);
/// Sendmail's clock for one answer runs 10 s where nothing else is set.
const PROGRESS_EVERY: Duration = Duration::from_secs(3);
/// A read at a time. An idle session has no buffer.
const READ_BYTES: usize = 64 << 10;

/// One milter, as the daemon opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MilterOptions {
    /// In logs, metrics and sightings.
    pub name: String,
    pub listen: Address,
    pub socket_file: SocketFile,
    pub on_capture_failure: OnCaptureFailure,
    /// Who may connect: whoever may can have anything captured.
    pub allowed: Networks,
    pub limits: MilterLimits,
}

/// What a milter and one session may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MilterLimits {
    pub sessions: usize,
    pub recipients: usize,
    /// Without a byte from the mail server, whose own client may be slow.
    pub idle: Duration,
    /// For the journal's sync.
    pub capture: Duration,
    /// For our answer to be taken.
    pub answer: Duration,
}

impl Default for MilterLimits {
    fn default() -> Self {
        Self {
            sessions: 4000,
            recipients: 50_000,
            idle: Duration::from_secs(2 * 3600),
            capture: Duration::from_secs(60),
            answer: Duration::from_secs(30),
        }
    }
}

/// What the sessions of one milter share.
struct Milter {
    options: MilterOptions,
    journal: Journal,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    started: UnixMillis,
}

/// Listens, and serves until `stop`: then sessions end as soon as their message is through. They run in `tasks`.
pub async fn start(
    options: MilterOptions,
    journal: Journal,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    tasks: TaskTracker,
) -> Result<Entrance, StartError> {
    let listened = options.listen.listen(Some(&options.socket_file)).await;
    let listener = listened.map_err(|source| StartError::Listen {
        name: options.name.clone(),
        address: options.listen.clone(),
        source,
    })?;
    let local = listener.local();
    metrics.touch_frontend(&options.name);
    let serve = ServeOptions {
        sessions_max: options.limits.sessions,
        sessions_per_address_max: options.limits.sessions,
        proxy_protocol: None,
        handshake_timeout: OFFER_PATIENCE,
    };
    let milter = Arc::new(Milter {
        options,
        journal,
        metrics,
        stop: stop.clone(),
        started: UnixMillis::from_system(SystemTime::now()),
    });
    let sessions = tasks.clone();
    let serving = net::serve(listener, serve, None, milter, stop, sessions);
    Ok(Entrance {
        local,
        listening: tasks.spawn(serving),
    })
}

impl Service for Milter {
    async fn serve(self: Arc<Self>, connection: Connection) {
        let peer = connection.peer;
        if let Some(refusal) = connection.refused {
            // The protocol has no word for it: the mail server does what its default action says.
            return self.failed(&peer, refusal.reason(), &"closed");
        }
        if !self.options.allowed.contains(&peer) {
            return self.failed(&peer, "protocol", &"not among the allowed networks");
        }
        let name = self.options.name.as_str();
        let serial = self.metrics.session_serial.fetch_add(1, Ordering::Relaxed);
        let _open = Open::new(&self.metrics, name);
        let rules = Rules {
            recipients_max: self.options.limits.recipients,
        };
        let session = Session {
            id: format!("{:x}.{serial:x}", self.started.0 / 1000),
            filter: Filter::new(rules),
            stream: connection.stream,
            copy: Copy::None,
            peer,
            milter: self.clone(),
        };
        session.talk().await;
    }

    fn failed(&self, peer: &Peer, reason: &'static str, cause: &dyn fmt::Display) {
        let name = &self.options.name;
        self.metrics.session_error(name, reason);
        warn!(frontend = %name, %peer, reason, %cause, "session failed");
    }
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
enum Uncaptured {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the journal did not sync in time")]
    Late,
    #[error("too many recipients")]
    TooManyRecipients,
}

/// The copy in the making.
enum Copy {
    None,
    Open {
        id: CaptureId,
        began: UnixMillis,
        part: Part,
    },
    /// There will be none, and why.
    Failed {
        id: CaptureId,
        cause: Uncaptured,
    },
}

struct Session {
    milter: Arc<Milter>,
    id: String,
    peer: Peer,
    stream: Stream,
    filter: Filter,
    copy: Copy,
}

/// Why a session ends before its peer has taken its leave.
enum Broken {
    Lost(std::io::Error),
    Garbage(Garbage),
    Silent,
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Self::Lost(error)
    }
}

impl Session {
    async fn talk(mut self) {
        let ended = self.carry().await;
        if !matches!(self.copy, Copy::None) {
            self.drop_copy();
        }
        let (frontend, session, peer) = (&self.milter.options.name, &self.id, &self.peer);
        let reason = match &ended {
            Ok(()) => return debug!(%frontend, session, "session closed"),
            Err(Broken::Lost(cause)) => {
                // Probes of the port come and go; a mail server says QUIT, or breaks off when its own client does.
                if self.filter.is_idle() {
                    return debug!(%frontend, session, %peer, %cause, "session lost");
                }
                info!(%frontend, session, %peer, %cause, "session lost in a message");
                "client_lost"
            }
            Err(Broken::Garbage(cause)) => {
                warn!(%frontend, session, %peer, %cause, "session closed");
                "protocol"
            }
            Err(Broken::Silent) => {
                info!(%frontend, session, %peer, "session closed: idle for too long");
                "idle_timeout"
            }
        };
        self.milter.metrics.session_error(frontend, reason);
    }

    /// Until the mail server leaves, or we do between two messages.
    async fn carry(&mut self) -> Result<(), Broken> {
        let mut buffer = Vec::new();
        let stop = self.milter.stop.clone();
        loop {
            let patience = match self.filter.is_negotiated() {
                true => self.milter.options.limits.idle,
                false => OFFER_PATIENCE,
            };
            tokio::select! {
                biased;
                readable = timeout(patience, self.stream.readable()) => {
                    readable.map_err(|_| Broken::Silent)??;
                }
                () = stop.cancelled(), if self.filter.is_idle() => return Ok(()),
            }
            buffer.clear();
            buffer.reserve(READ_BYTES);
            let read = timeout(patience, self.stream.read_buf(&mut buffer)).await;
            if read.map_err(|_| Broken::Silent)?? == 0 {
                let gone = std::io::ErrorKind::UnexpectedEof;
                return Err(Broken::Lost(gone.into()));
            }
            if self.take(&buffer).await? {
                return Ok(());
            }
            if self.filter.is_idle() {
                buffer = Vec::new();
            }
        }
    }

    /// True: the mail server has taken its leave.
    async fn take(&mut self, mut input: &[u8]) -> Result<bool, Broken> {
        loop {
            match self.filter.next(&mut input).map_err(Broken::Garbage)? {
                None => {
                    self.write_out().await?;
                    return Ok(false);
                }
                Some(Step::Negotiated(chosen)) => {
                    let (version, protocol) = (chosen.version, chosen.protocol);
                    debug!(session = %self.id, peer = %self.peer, version, protocol, "milter peer");
                }
                Some(Step::Content(bytes)) => self.copy.write(&self.milter, bytes).await,
                Some(Step::Dropped) => self.drop_copy(),
                Some(Step::End) => {
                    let ended = self.filter.take_ended();
                    self.end_copy(ended).await?;
                }
                Some(Step::Quit) => return Ok(true),
            }
        }
    }

    async fn write_out(&mut self) -> Result<(), Broken> {
        let out = self.filter.out();
        if out.is_empty() {
            return Ok(());
        }
        let patience = self.milter.options.limits.answer;
        let written = timeout(patience, self.stream.write_all(out)).await;
        out.clear();
        written.map_err(|_| Broken::Silent)?.map_err(Broken::Lost)
    }

    fn drop_copy(&mut self) {
        self.copy = Copy::None;
        self.count("aborted");
    }

    fn count(&self, outcome: &'static str) {
        let milter = &self.milter;
        milter.metrics.captured(&milter.options.name, outcome);
    }

    /// The end of a message: the journal, then the answer.
    async fn end_copy(&mut self, ended: Ended) -> Result<(), Broken> {
        let began = Instant::now();
        let name = self.milter.options.name.clone();
        // A message of no header and no body has not begun.
        self.copy.write(&self.milter, b"").await;
        let (id, committed, bytes) = match std::mem::replace(&mut self.copy, Copy::None) {
            Copy::Open { id, began, part } => {
                let bytes = part.bytes();
                let committed = match ended.too_many_recipients {
                    true => Err(Uncaptured::TooManyRecipients),
                    false => self.commit(id, began, part, ended).await,
                };
                (id, committed, bytes)
            }
            Copy::Failed { id, cause } => (id, Err(cause), 0),
            Copy::None => unreachable!("a write, even of nothing, begins it"),
        };
        let policy = self.milter.options.on_capture_failure;
        let verdict = match (&committed, policy) {
            (Err(_), OnCaptureFailure::Tempfail) => Verdict::TempFail,
            _ => Verdict::Continue,
        };
        self.filter.answer(verdict);
        // To a peer that has closed its end, a write goes well all the same.
        let is_gone = self.stream.peek() == Peek::Ended;
        let answered = self.write_out().await;
        let seconds = began.elapsed().as_secs_f64();
        let metrics = &self.milter.metrics;
        metrics
            .capture_seconds
            .with_label_values(&[&name])
            .observe(seconds);
        match committed {
            Ok(captured) => {
                let heard = answered.is_ok() && !is_gone;
                info!(frontend = %name, session = %self.id, capture = %id, bytes, heard, "captured");
                captured.release(match heard {
                    true => Acceptance::NotAsked,
                    false => Acceptance::Unknown,
                });
                metrics
                    .captured_bytes_total
                    .with_label_values(&[&name])
                    .inc_by(bytes);
                self.count(if heard { "captured" } else { "unknown" });
            }
            Err(cause) => {
                if let Uncaptured::TooManyRecipients = cause {
                    metrics.session_error(&name, "too_many_recipients");
                }
                let (outcome, what) = match policy {
                    OnCaptureFailure::Tempfail => ("failed", "capture failed"),
                    OnCaptureFailure::Pass => ("gap", "passed uncopied"),
                };
                warn!(frontend = %name, session = %self.id, capture = %id, %cause, "{what}");
                self.count(outcome);
            }
        }
        answered
    }

    /// Syncs, and lets the mail server know meanwhile that it is not forgotten.
    async fn commit(
        &mut self,
        id: CaptureId,
        captured_at: UnixMillis,
        part: Part,
        ended: Ended,
    ) -> Result<Captured, Uncaptured> {
        let options = &self.milter.options;
        let seen = Seen {
            id,
            captured_at,
            frontend: options.name.clone(),
            protocol: Protocol::Milter,
            session: self.id.clone(),
            origin: Origin::Transaction {
                envelope: ended.envelope,
                client: ended.client,
            },
            fidelity: vec![Fidelity::Milter],
            discard_unheard: options.on_capture_failure == OnCaptureFailure::Tempfail,
        };
        let commit = timeout(options.limits.capture, part.finish().commit(seen));
        tokio::pin!(commit);
        let mut ticks = interval_at(Instant::now() + PROGRESS_EVERY, PROGRESS_EVERY);
        let committed = loop {
            tokio::select! {
                biased;
                committed = &mut commit => break committed,
                _ = ticks.tick() => {
                    self.filter.progress();
                    // Whoever is gone does not hear the answer either; the capture goes on.
                    let _ = self.write_out().await;
                }
            }
        };
        Ok(committed.map_err(|_| Uncaptured::Late)??)
    }
}

impl Copy {
    async fn write(&mut self, milter: &Milter, bytes: &[u8]) {
        if let Self::None = self {
            let (id, began) = copy::next_id();
            *self = match Part::begin(&milter.journal, milter.options.limits.capture) {
                Ok(part) => Self::Open { id, began, part },
                Err(cause) => Self::Failed {
                    id,
                    cause: cause.into(),
                },
            };
        }
        if let Self::Open { id, part, .. } = self
            && let Err(cause) = part.write(bytes).await
        {
            *self = Self::Failed {
                id: *id,
                cause: cause.into(),
            };
        }
    }
}
