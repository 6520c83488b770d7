//! Every metric: name, kind, labels and help, once. Nothing else in the product touches the `prometheus` crate.
//!
//! Names are `mailtee_` + area + unit. Every series exists from the first scrape: the labels of each front end and
//! target are touched when it is configured. `tests/readme.rs` holds the table in the README
//! against a scrape.

use std::sync::atomic::AtomicU64;

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec,
    Opts, Registry, TextEncoder,
};
/// For those who count too often to look a series up by its labels each time.
pub use prometheus::{IntCounter, IntGauge};

/// Buckets from 0.1 ms to about 13 s, in seconds.
fn fast_seconds() -> Vec<f64> {
    prometheus::exponential_buckets(0.0001, 2.0, 18).expect("constant arguments are valid")
}

/// Buckets from 10 ms to about 16 h, in seconds: a target may be down for a night.
fn slow_seconds() -> Vec<f64> {
    prometheus::exponential_buckets(0.01, 2.5, 18).expect("constant arguments are valid")
}

/// The registry and every series in it; one for a process, shared by all stages.
pub struct Metrics {
    registry: Registry,
    /// Refreshed before each scrape by the admin server.
    pub sync_lag_seconds: GaugeVec,
    pub captured_messages_total: IntCounterVec,
    pub captured_bytes_total: IntCounterVec,
    pub capture_seconds: HistogramVec,
    pub forwarded_messages_total: IntCounterVec,
    pub forwarded_bytes_total: IntCounterVec,
    pub forward_seconds: HistogramVec,
    pub journal_sync_seconds: Histogram,
    pub journal_bytes: IntGauge,
    pub journal_capacity_bytes: IntGauge,
    pub waiting_messages: IntGaugeVec,
    pub parked_messages: IntGaugeVec,
    pub held_messages: IntGaugeVec,
    pub quarantined_records: IntGauge,
    pub dedup_lookups_total: IntCounterVec,
    pub dedup_entries: IntGauge,
    /// Refreshed before each scrape by the admin server.
    pub frontend_accepting: IntGaugeVec,
    pub sessions: IntGaugeVec,
    pub sessions_total: IntCounterVec,
    pub session_errors_total: IntCounterVec,
    pub upstream_connections_total: IntCounterVec,
    pub mailbox_signals_total: IntCounterVec,
    pub watcher_lost_total: IntCounterVec,
    pub pending_copies: IntGaugeVec,
    pub target_up: IntGaugeVec,
    pub target_last_success_timestamp_seconds: GaugeVec,
    pub target_requests_total: IntCounterVec,
    pub criteria_excluded_total: IntCounterVec,
    pub forward_restarts_total: IntCounterVec,
    pub config_reloads_total: IntCounterVec,
    pub vault_messages: IntGauge,
    pub vault_index_pending_messages: IntGauge,
    pub start_time_seconds: Gauge,
    /// Sessions ever started; gives each its id.
    pub session_serial: AtomicU64,
}

/// The values of `kind` in `upstream_connections_total`.
pub const UPSTREAM_CONNECTIONS: [&str; 3] = ["new", "reused", "stale"];

/// What became of a message at a front end; the values of `outcome` in `captured_messages_total`.
pub const CAPTURE_OUTCOMES: [&str; 7] = [
    "captured", // synced, and the next hop took it
    "unknown",  // synced, the next hop's answer never came
    "rejected", // the next hop refused it
    "aborted",  // the client went away before the end of data
    "failed",   // our own failure, answered with a tempfail: nothing passed
    "gap", // our own failure, and the message passed uncopied (on_capture_failure = "pass", IMAP, POP3)
    "known", // read from a mailbox again: there is a copy
];

/// The values of `outcome` in `forwarded_messages_total`.
pub const FORWARD_OUTCOMES: [&str; 6] = [
    "stored",    // the target confirmed it
    "duplicate", // the target has the message: this sighting was recorded beside it
    "excluded",  // a criterion said no
    "parked",    // the target refused it for good
    "dropped",   // an operator gave it up
    "failed",    // an attempt failed, and it comes again
];

/// The values of `result` in `target_requests_total`.
const REQUEST_RESULTS: [&str; 4] = ["ok", "transient", "refused", "unauthorized"];

/// The values of `reason` in `session_errors_total`.
pub const SESSION_ERRORS: [&str; 18] = [
    "too_many_sessions",
    "too_many_from_address",
    "line_too_long",
    "too_many_recipients",
    "message_too_large",
    "idle_timeout",
    "total_timeout",
    "upstream_refused",
    "upstream_lost",
    "upstream_timeout",
    "client_lost",
    "tls_handshake",
    "starttls_injection",
    // A command of a mailbox client that would have shown a secret on a connection without TLS; the session goes on.
    "cleartext_login",
    "proxy_protocol",
    "bare_line_end",
    "protocol",
    "internal",
];

impl Metrics {
    /// Registers everything. Labelled series exist once they are touched.
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        let this = Self {
            sync_lag_seconds: gauge_vec(
                r,
                "sync_lag_seconds",
                "Age of the oldest capture that the target has not confirmed; 0 when nothing waits.",
                &["target"],
            ),
            captured_messages_total: counter_vec(
                r,
                "captured_messages_total",
                "Messages that reached a front end, by what became of them.",
                &["frontend", "outcome"],
            ),
            captured_bytes_total: counter_vec(
                r,
                "captured_bytes_total",
                "Content bytes synced in the journal.",
                &["frontend"],
            ),
            capture_seconds: histogram_vec(
                r,
                "capture_seconds",
                "From the end of data to the reply: the time that capturing and the next hop took.",
                &["frontend"],
                fast_seconds(),
            ),
            forwarded_messages_total: counter_vec(
                r,
                "forwarded_messages_total",
                "Captures settled for a target, and failed attempts.",
                &["target", "outcome"],
            ),
            forwarded_bytes_total: counter_vec(
                r,
                "forwarded_bytes_total",
                "Content bytes that the target confirmed.",
                &["target"],
            ),
            forward_seconds: histogram_vec(
                r,
                "forward_seconds",
                "From capture to the target's receipt.",
                &["target"],
                slow_seconds(),
            ),
            journal_sync_seconds: register(
                r,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "mailtee_journal_sync_seconds",
                        "Duration of one journal write with its fdatasync.",
                    )
                    .buckets(fast_seconds()),
                ),
            ),
            journal_bytes: gauge(
                r,
                "journal_bytes",
                "Bytes that the journal holds for captures not yet settled everywhere.",
            ),
            journal_capacity_bytes: gauge(
                r,
                "journal_capacity_bytes",
                "Bytes that the journal may hold before it answers full.",
            ),
            waiting_messages: int_gauge_vec(
                r,
                "waiting_messages",
                "Captures that the target has not confirmed.",
                &["target"],
            ),
            parked_messages: int_gauge_vec(
                r,
                "parked_messages",
                "Captures that the target refused for good; they wait for an operator.",
                &["target"],
            ),
            held_messages: int_gauge_vec(
                r,
                "held_messages",
                "Captures that an operator holds back.",
                &["target"],
            ),
            quarantined_records: gauge(
                r,
                "quarantined_records",
                "Journal records set aside because they could not be read.",
            ),
            dedup_lookups_total: counter_vec(
                r,
                "dedup_lookups_total",
                "Look-ups in the dedup map, by answer.",
                &["result"],
            ),
            dedup_entries: gauge(r, "dedup_entries", "Messages that the dedup map knows."),
            frontend_accepting: int_gauge_vec(
                r,
                "frontend_accepting",
                "1 while the front end accepts mail; 0 where protocol \"auto\" finds no server that it can stand before.",
                &["frontend"],
            ),
            sessions: int_gauge_vec(r, "sessions", "Sessions open now.", &["frontend"]),
            sessions_total: counter_vec(r, "sessions_total", "Sessions begun.", &["frontend"]),
            session_errors_total: counter_vec(
                r,
                "session_errors_total",
                "Sessions, transactions or logins cut short, by reason.",
                &["frontend", "reason"],
            ),
            upstream_connections_total: counter_vec(
                r,
                "upstream_connections_total",
                "Connections to the next hop: new, reused from an earlier session, or found stale.",
                &["frontend", "kind"],
            ),
            mailbox_signals_total: counter_vec(
                r,
                "mailbox_signals_total",
                "What IMAP and POP3 sessions showed of mail without showing a whole message: arrival, seen, unseen.",
                &["frontend", "kind"],
            ),
            watcher_lost_total: counter_vec(
                r,
                "watcher_lost_total",
                "IMAP and POP3 sessions that went on without being watched, by reason.",
                &["frontend", "reason"],
            ),
            pending_copies: int_gauge_vec(
                r,
                "pending_copies",
                "Whole messages of IMAP and POP3 sessions on their way into the journal; where 256 that were read wait, reading waits.",
                &["frontend"],
            ),
            target_up: int_gauge_vec(
                r,
                "target_up",
                "1 while the target answers, 0 while its breaker is open.",
                &["target"],
            ),
            target_last_success_timestamp_seconds: gauge_vec(
                r,
                "target_last_success_timestamp_seconds",
                "When the target last confirmed a capture, Unix time; 0 before the first.",
                &["target"],
            ),
            target_requests_total: counter_vec(
                r,
                "target_requests_total",
                "HTTP requests to the target, by class of answer.",
                &["target", "result"],
            ),
            criteria_excluded_total: counter_vec(
                r,
                "criteria_excluded_total",
                "Captures that a criterion kept from a target.",
                &["target"],
            ),
            forward_restarts_total: counter_vec(
                r,
                "forward_restarts_total",
                "Times that forwarding to the target broke off by a fault of its own and began again.",
                &["target"],
            ),
            config_reloads_total: counter_vec(
                r,
                "config_reloads_total",
                "Reloads of the configuration, by result.",
                &["result"],
            ),
            vault_messages: gauge(r, "vault_messages", "Messages in the built-in vault."),
            vault_index_pending_messages: gauge(
                r,
                "vault_index_pending_messages",
                "Messages in the vault that full-text search does not know yet.",
            ),
            start_time_seconds: register(
                r,
                Gauge::new(
                    "mailtee_start_time_seconds",
                    "When the process started, Unix time.",
                ),
            ),
            session_serial: AtomicU64::new(0),
            registry,
        };
        let build = int_gauge_vec(
            &this.registry,
            "build_info",
            "Always 1; the version is a label.",
            &["version"],
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        for result in ["new", "busy", "stored", "unreadable"] {
            this.dedup_lookups_total.with_label_values(&[result]);
        }
        for result in ["applied", "refused"] {
            this.config_reloads_total.with_label_values(&[result]);
        }
        let process = prometheus::process_collector::ProcessCollector::for_self();
        this.registry
            .register(Box::new(process))
            .expect("registered once");
        this
    }

    /// Makes every series of a front end exist.
    pub fn touch_frontend(&self, frontend: &str) {
        for outcome in CAPTURE_OUTCOMES {
            self.captured_messages_total
                .with_label_values(&[frontend, outcome]);
        }
        for reason in SESSION_ERRORS {
            self.session_errors_total
                .with_label_values(&[frontend, reason]);
        }
        for kind in UPSTREAM_CONNECTIONS {
            self.upstream_connections_total
                .with_label_values(&[frontend, kind]);
        }
        self.captured_bytes_total.with_label_values(&[frontend]);
        self.capture_seconds.with_label_values(&[frontend]);
        self.frontend_accepting.with_label_values(&[frontend]);
        self.sessions.with_label_values(&[frontend]);
        self.sessions_total.with_label_values(&[frontend]);
    }

    /// Makes every series exist that a front end before a mailbox server has besides.
    pub fn touch_mailbox(&self, frontend: &str, kinds: &[&str], reasons: &[&str]) {
        for kind in kinds {
            self.mailbox_signals_total
                .with_label_values(&[frontend, kind]);
        }
        for reason in reasons {
            self.watcher_lost_total
                .with_label_values(&[frontend, reason]);
        }
        self.pending_copies.with_label_values(&[frontend]);
    }

    /// Makes every series of a target exist.
    pub fn touch_target(&self, target: &str) {
        for outcome in FORWARD_OUTCOMES {
            self.forwarded_messages_total
                .with_label_values(&[target, outcome]);
        }
        for result in REQUEST_RESULTS {
            self.target_requests_total
                .with_label_values(&[target, result]);
        }
        self.sync_lag_seconds.with_label_values(&[target]);
        self.forwarded_bytes_total.with_label_values(&[target]);
        self.forward_seconds.with_label_values(&[target]);
        self.waiting_messages.with_label_values(&[target]);
        self.parked_messages.with_label_values(&[target]);
        self.held_messages.with_label_values(&[target]);
        self.target_up.with_label_values(&[target]).set(1);
        self.target_last_success_timestamp_seconds
            .with_label_values(&[target]);
        self.criteria_excluded_total.with_label_values(&[target]);
        self.forward_restarts_total.with_label_values(&[target]);
    }

    /// Removes every series of a target that is no more: a last value that stays would look like a target that stands.
    pub fn forget_target(&self, target: &str) {
        // An error says that there was no such series.
        for outcome in FORWARD_OUTCOMES {
            let series = &[target, outcome];
            let _ = self.forwarded_messages_total.remove_label_values(series);
        }
        for result in REQUEST_RESULTS {
            let series = &[target, result];
            let _ = self.target_requests_total.remove_label_values(series);
        }
        let series = &[target];
        let _ = self.sync_lag_seconds.remove_label_values(series);
        let _ = self.forwarded_bytes_total.remove_label_values(series);
        let _ = self.forward_seconds.remove_label_values(series);
        let _ = self.waiting_messages.remove_label_values(series);
        let _ = self.parked_messages.remove_label_values(series);
        let _ = self.held_messages.remove_label_values(series);
        let _ = self.target_up.remove_label_values(series);
        let last_success = &self.target_last_success_timestamp_seconds;
        let _ = last_success.remove_label_values(series);
        let _ = self.criteria_excluded_total.remove_label_values(series);
        let _ = self.forward_restarts_total.remove_label_values(series);
    }

    /// Counts a session, transaction or login cut short; `reason` is one of [`SESSION_ERRORS`].
    pub fn session_error(&self, frontend: &str, reason: &'static str) {
        debug_assert!(SESSION_ERRORS.contains(&reason), "unknown reason {reason}");
        self.session_errors_total
            .with_label_values(&[frontend, reason])
            .inc();
    }

    /// Counts what became of a message; `outcome` is one of [`CAPTURE_OUTCOMES`].
    pub fn captured(&self, frontend: &str, outcome: &'static str) {
        debug_assert!(
            CAPTURE_OUTCOMES.contains(&outcome),
            "unknown outcome {outcome}"
        );
        self.captured_messages_total
            .with_label_values(&[frontend, outcome])
            .inc();
    }

    /// The text exposition format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut out = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut out)
            .expect("writing to memory succeeds");
        String::from_utf8(out).expect("the text format is UTF-8")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn register<M: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<M>,
) -> M {
    let metric = made.expect("metric names and labels are constants");
    registry
        .register(Box::new(metric.clone()))
        .expect("each metric is registered once");
    metric
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("mailtee_{name}"), help)
}

fn counter_vec(r: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(r, IntCounterVec::new(opts(name, help), labels))
}

fn gauge_vec(r: &Registry, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    register(r, GaugeVec::new(opts(name, help), labels))
}

fn int_gauge_vec(r: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(r, IntGaugeVec::new(opts(name, help), labels))
}

fn gauge(r: &Registry, name: &str, help: &str) -> IntGauge {
    register(r, IntGauge::new(format!("mailtee_{name}"), help))
}

fn histogram_vec(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: Vec<f64>,
) -> HistogramVec {
    register(
        r,
        HistogramVec::new(
            HistogramOpts::new(format!("mailtee_{name}"), help).buckets(buckets),
            labels,
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_is_forgotten_has_no_series_left() {
        let metrics = Metrics::new();
        metrics.touch_target("stays");
        let before = metrics.render();
        metrics.touch_target("goes");
        assert!(metrics.render().contains("\"goes\""));
        metrics.forget_target("goes");
        let values = |text: &str| text.matches("target=").count();
        assert!(!metrics.render().contains("\"goes\""));
        assert_eq!(values(&metrics.render()), values(&before));
    }
}
