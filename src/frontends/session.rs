//! One session: carry bytes, carry the relay's steps out, end.
//!
//! What a step needs is awaited here, so a session is one task and at most one thing happens in it at a time. The order
//! that keeps the promise is in `end_copy`: the journal has synced before the relay lets the end of data go.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::{
    FrontEnd, Limits, OnCaptureFailure, UpstreamTls,
    arrival::count,
    copy::{self, Copy},
    pump::{Event, NextHop, Pump},
    upstream::Upstream,
};
use crate::{
    journal::{Captured, JournalError},
    message::{Acceptance, CaptureId, Client, WireText},
    net::{Peer, Stream, TlsError},
    wire::smtp::{
        Relay, Role, Step,
        answer::Failure,
        relay::{Copied, Fate},
    },
};

/// Time for a client to read our last words.
pub(super) const FAREWELL: Duration = Duration::from_secs(10);
/// What the next hop has not read of the message yet, it reads while the journal syncs; so little goes out in one write
/// with the end.
const ONE_WRITE_MAX: usize = 16 << 10;

/// How long to wait, and whose silence it is that ends the wait.
fn patience(relay: &Relay, limits: &Limits) -> (Duration, Failure) {
    if relay.is_closing() {
        (FAREWELL, Failure::IdleTimeout)
    } else if relay.awaits_fate() {
        (limits.upstream_fate, Failure::UpstreamTimeout)
    } else if relay.awaits_upstream() || !relay.to_upstream.is_empty() {
        (limits.upstream_reply, Failure::UpstreamTimeout)
    } else {
        (limits.idle, Failure::IdleTimeout)
    }
}

pub(super) struct Session {
    front: Arc<FrontEnd>,
    relay: Relay,
    pump: Pump,
    upstream_since: Instant,
    id: String,
    peer: Peer,
    /// The message that is arriving.
    copy: Option<Copy>,
    /// The message whose fate is awaited.
    captured: Option<Captured>,
    /// The message that passes uncopied, and why.
    gap: Option<(CaptureId, JournalError)>,
    message_bytes: u64,
    ended_at: Option<Instant>,
    stopping: bool,
    /// The client's going is counted.
    client_lost: bool,
    end: Instant,
}

/// The session is over, without another word.
struct Over;

impl Session {
    pub(super) fn new(
        front: Arc<FrontEnd>,
        id: String,
        peer: Peer,
        stream: Stream,
        upstream: Upstream,
    ) -> Self {
        let client = Client {
            address: peer.ip().map(|ip| WireText::from(ip.to_string())),
            port: peer.port(),
            tls: stream.tls(),
            ..Client::default()
        };
        let trusted = front.options.trusted.contains(&peer);
        let upstream_tls = matches!(&upstream.next_hop, NextHop::Socket(Stream::Client(_)));
        let mut relay = Relay::new(front.rules.clone(), client, trusted, upstream_tls);
        if let Some(kept) = upstream.kept {
            relay.resume(kept);
        }
        Self {
            relay,
            pump: Pump::new(stream, upstream.next_hop, &front.stop),
            upstream_since: upstream.since,
            id,
            peer,
            copy: None,
            captured: None,
            gap: None,
            message_bytes: 0,
            ended_at: None,
            stopping: false,
            client_lost: false,
            end: Instant::now() + front.options.limits.total,
            front,
        }
    }

    pub(super) async fn talk(&mut self) {
        loop {
            self.pump.offer(&mut self.relay);
            if self.carry_out().await.is_err() {
                break;
            }
            if self.stopping && self.relay.is_idle() && !self.relay.is_closing() {
                self.relay.stop(Failure::ShuttingDown);
                continue;
            }
            if self.relay.is_closing() && self.relay.to_client.is_empty() {
                break;
            }
            let limits = &self.front.options.limits;
            let limit = |relay: &Relay| patience(relay, limits).0;
            match self.pump.turn(&mut self.relay, limit, self.end).await {
                Event::Moved => {}
                Event::ClientEnded => {
                    if !self.relay.is_idle() {
                        self.report_client_lost();
                    }
                    self.relay.client_ended();
                }
                Event::ClientLost => {
                    self.report_client_lost();
                    self.relay.client_lost();
                }
                Event::UpstreamLost => self.relay.upstream_failed(Failure::UpstreamLost),
                Event::Stopping => self.stopping = true,
                Event::Overdue if self.relay.is_closing() => break,
                Event::Overdue if Instant::now() >= self.end => {
                    self.relay.stop(Failure::TotalTimeout);
                    self.end = Instant::now() + FAREWELL;
                }
                Event::Overdue => match patience(&self.relay, limits).1 {
                    Failure::UpstreamTimeout => {
                        self.relay.upstream_failed(Failure::UpstreamTimeout);
                    }
                    silent => self.relay.stop(silent),
                },
            }
        }
        if !self.relay.is_understood() {
            self.front.options.mismatch.suspect();
        }
        if let Some(kept) = self.relay.leave()
            && let Some(stream) = self.pump.take_next_hop()
        {
            let waiting = &self.front.waiting;
            waiting.leave(&self.front, stream, kept, self.upstream_since);
        }
        let farewell = timeout(FAREWELL, self.pump.close_client()).await;
        debug!(session = %self.id, ok = farewell.is_ok(), "session closed");
    }

    /// Moves content into the copy and carries out what the relay asks for.
    async fn carry_out(&mut self) -> Result<(), Over> {
        loop {
            if !self.relay.copy.is_empty() {
                self.write_copy().await;
            }
            let Some(step) = self.relay.poll() else {
                return Ok(());
            };
            match step {
                Step::BeginCopy => self.begin_copy(),
                Step::EndCopy => self.end_copy().await,
                Step::DropCopy(outcome) => self.drop_copy(outcome),
                Step::Fate(fate) => self.fate(fate),
                Step::DropUpstream => self.pump.drop_next_hop(),
                Step::Failed(failure) => self.report(failure),
                Step::SecureClient => Box::pin(self.secure_client()).await?,
                Step::SecureUpstream => Box::pin(self.secure_upstream()).await,
            }
            // An answered step may let bytes go on that waited for it.
            self.pump.offer(&mut self.relay);
        }
    }

    fn begin_copy(&mut self) {
        let (id, now) = copy::next_id();
        // One of chunks that were voided is not this message's.
        self.gap = None;
        match Copy::begin(&self.front, id, now) {
            Ok(copy) => {
                self.copy = Some(copy);
                self.relay.copy_begun(Copied::Safe { reply: None });
            }
            Err(error) => {
                let copied = self.capture_failed(id, error);
                self.relay.copy_begun(copied);
            }
        }
    }

    async fn write_copy(&mut self) {
        let Some(copy) = &mut self.copy else {
            self.relay.copy.clear();
            return;
        };
        let id = copy.id;
        let written = copy.write(&self.relay.copy).await;
        self.relay.copy.clear();
        if let Err(error) = written {
            self.copy = None;
            let copied = self.capture_failed(id, error);
            self.relay.copy_failed(copied);
        }
    }

    async fn end_copy(&mut self) {
        let ended = self.relay.take_ended();
        self.message_bytes = ended.bytes;
        let began = Instant::now();
        self.ended_at = Some(began);
        let Some(copy) = self.copy.take() else {
            // Only a gap that is known, and so counted, may pass.
            let copied = match &self.gap {
                Some(_) => Copied::Gap,
                None => Copied::Failed {
                    id: copy::next_id().0.to_string(),
                },
            };
            self.relay.copy_ended(copied);
            return;
        };
        let id = copy.id;
        let limits = &self.front.options.limits;
        let holds = self.front.rules.hold_end;
        let flush = async {
            if holds && self.relay.to_upstream.len() <= ONE_WRITE_MAX {
                return true;
            }
            let flush = self.pump.flush_upstream(&mut self.relay);
            matches!(timeout(limits.upstream_reply, flush).await, Ok(Ok(())))
        };
        let (reached, committed) = tokio::join!(
            flush,
            timeout(limits.capture, copy.commit(&self.front, &self.id, ended)),
        );
        let reached = reached && self.pump.next_hop_is_there();
        let committed = committed.unwrap_or_else(|_| Err(copy::late("sync in time")));
        match committed {
            Ok(captured) if holds && !reached => {
                // It has not heard the end, so it cannot have taken the message.
                captured.discard("the next hop was lost before the end of data".into());
                self.relay.copy_ended(Copied::Unwanted);
            }
            Ok(captured) => {
                self.captured = Some(captured);
                let reply = (self.front.options.role == Role::Journal)
                    .then(|| format!("250 2.0.0 Captured as {id}\r\n").into_bytes());
                self.relay.copy_ended(Copied::Safe { reply });
            }
            Err(error) => {
                let copied = self.capture_failed(id, error);
                self.relay.copy_ended(copied);
            }
        }
        if !reached {
            self.relay.upstream_failed(Failure::UpstreamLost);
        }
    }

    /// Our own failure, and what the operator wants done about it.
    fn capture_failed(&mut self, id: CaptureId, error: JournalError) -> Copied {
        let frontend = &self.front.options.name;
        warn!(%frontend, session = %self.id, capture = %id, %error, "capture failed");
        match self.front.options.on_capture_failure {
            OnCaptureFailure::Tempfail => Copied::Failed { id: id.to_string() },
            OnCaptureFailure::Pass => {
                self.gap = Some((id, error));
                Copied::Gap
            }
        }
    }

    fn drop_copy(&mut self, outcome: &'static str) {
        self.copy = None;
        self.gap = None;
        self.front
            .metrics
            .captured(&self.front.options.name, outcome);
    }

    fn fate(&mut self, fate: Fate) {
        let metrics = &self.front.metrics;
        let name = self.front.options.name.as_str();
        let session = self.id.as_str();
        if let Some(began) = self.ended_at.take() {
            let seconds = began.elapsed().as_secs_f64();
            metrics
                .capture_seconds
                .with_label_values(&[name])
                .observe(seconds);
        }
        if let Some((id, cause)) = self.gap.take() {
            self.captured = None;
            if let Fate::Accepted(reply) = &fate {
                metrics.captured(name, "gap");
                let reply = WireText::from(reply.as_slice());
                warn!(frontend = name, session, capture = %id, %reply, %cause, "passed uncopied");
                return;
            }
        }
        let Some(captured) = self.captured.take() else {
            return;
        };
        let id = captured.id();
        let outcome = match fate {
            Fate::Accepted(reply) => {
                let reply = WireText::from(reply);
                let bytes = self.message_bytes;
                info!(frontend = name, session, capture = %id, bytes, %reply, "captured");
                let acceptance = match self.front.options.role {
                    Role::Journal => Acceptance::NotAsked,
                    Role::Filter | Role::Proxy => Acceptance::Accepted { reply },
                };
                captured.release(acceptance);
                metrics
                    .captured_bytes_total
                    .with_label_values(&[name])
                    .inc_by(bytes);
                "captured"
            }
            Fate::Rejected(reply) => {
                let reply = WireText::from(reply);
                info!(frontend = name, session, capture = %id, %reply, "rejected by the next hop");
                if self.front.options.capture_rejected {
                    captured.release(Acceptance::Rejected { reply });
                } else {
                    captured.discard(reply);
                }
                "rejected"
            }
            Fate::Unknown => {
                warn!(frontend = name, session, capture = %id, "the next hop's answer never came");
                captured.release(Acceptance::Unknown);
                "unknown"
            }
        };
        metrics.captured(name, outcome);
    }

    fn report(&self, failure: Failure) {
        count(&self.front, &self.id, &self.peer, failure, &failure.reply());
    }

    /// Once a session: each write to a client that is gone fails anew. Whoever does not stay for our last words missed
    /// nothing, and why they are the last is counted already.
    fn report_client_lost(&mut self) {
        if !self.relay.is_closing() && !std::mem::replace(&mut self.client_lost, true) {
            self.report(Failure::ClientLost);
        }
    }

    /// STARTTLS: our answer goes out in clear, and everything after it is TLS.
    async fn secure_client(&mut self) -> Result<(), Over> {
        let Some(tls) = &self.front.options.tls else {
            return Err(Over);
        };
        let identity = tls.identity.clone();
        let handshake = async {
            let flushed = self.pump.flush_client(&mut self.relay).await;
            flushed.map_err(TlsError::Handshake)?;
            self.pump.secure_client(&identity).await
        };
        let secured = timeout(self.front.options.limits.handshake, handshake).await;
        match secured {
            Ok(Ok(facts)) => {
                self.relay.client_secured(facts);
                Ok(())
            }
            failed => {
                let cause = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => "timed out".to_owned(),
                };
                count(
                    &self.front,
                    &self.id,
                    &self.peer,
                    Failure::TlsHandshake,
                    &cause,
                );
                Err(Over)
            }
        }
    }

    async fn secure_upstream(&mut self) {
        let Some(UpstreamTls::StartTls(tls, name)) =
            self.front.options.upstream.as_ref().map(|u| &u.tls)
        else {
            return;
        };
        let (tls, name) = (tls.clone(), name.clone());
        let limit = self.front.options.limits.upstream_connect;
        let handshake = async {
            let flushed = self.pump.flush_upstream(&mut self.relay).await;
            flushed.map_err(TlsError::Handshake)?;
            self.pump.secure_next_hop(&tls, &name).await
        };
        match timeout(limit, handshake).await {
            Ok(Ok(())) => self.relay.upstream_secured(),
            failed => {
                let cause = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => "timed out".to_owned(),
                };
                warn!(session = %self.id, %cause, "next hop: no TLS");
                self.relay.stop(Failure::UpstreamRefused);
            }
        }
    }
}
