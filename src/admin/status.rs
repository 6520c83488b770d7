//! The status page: how far each target is behind, what comes in, what waits. Numbers and names of ours alone.

use std::sync::atomic::Ordering;

use askama::Template;

use super::Watched;
use crate::message::UnixMillis;

#[derive(Template)]
#[template(path = "status.html", config = "src/admin/askama.toml")]
struct Page {
    version: &'static str,
    state: State,
    uptime: String,
    worst_lag: String,
    waiting: u64,
    parked: u64,
    captured: u64,
    gaps: u64,
    frontends: Vec<FrontendRow>,
    targets: Vec<TargetRow>,
    journal: JournalRow,
    vault_page: Option<String>,
}

/// The one word at the top, and the colour that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    word: &'static str,
    class: &'static str,
}

struct FrontendRow {
    name: String,
    kind: String,
    accepting: bool,
    note: Option<String>,
    listen: String,
    upstream: String,
    sessions: i64,
    captured: u64,
    rejected: u64,
    failed: u64,
    gaps: u64,
}

struct TargetRow {
    name: String,
    kind: String,
    url: String,
    up: bool,
    lag: String,
    waiting: u64,
    parked: u64,
    stored: u64,
    duplicates: u64,
    last_success: String,
}

struct JournalRow {
    used: String,
    capacity: String,
    percent: u64,
    quarantined: i64,
}

pub(super) fn render(watched: &Watched, now: UnixMillis) -> Result<String, askama::Error> {
    let m = &watched.metrics;
    let targets: Vec<TargetRow> = watched
        .targets
        .load()
        .iter()
        .map(|target| {
            let name = target.name.as_str();
            let forwarded = |outcome| {
                m.forwarded_messages_total
                    .with_label_values(&[name, outcome])
                    .get()
            };
            let last = m
                .target_last_success_timestamp_seconds
                .with_label_values(&[name])
                .get();
            TargetRow {
                name: target.name.clone(),
                kind: target.kind.clone(),
                url: target.url.clone(),
                up: m.target_up.with_label_values(&[name]).get() == 1,
                lag: seconds(m.sync_lag_seconds.with_label_values(&[name]).get()),
                waiting: target.queue.waiting(),
                parked: target.queue.parked(),
                stored: forwarded("stored"),
                duplicates: forwarded("duplicate"),
                last_success: if last == 0.0 {
                    "not yet".to_owned()
                } else {
                    let at = UnixMillis((last * 1000.0) as u64);
                    format!("{} ago", seconds(at.age_seconds(now)))
                },
            }
        })
        .collect();
    let frontends: Vec<FrontendRow> = watched
        .frontends
        .iter()
        .map(|frontend| {
            let name = frontend.name.as_str();
            let captured = |outcome| {
                m.captured_messages_total
                    .with_label_values(&[name, outcome])
                    .get()
            };
            let standing = frontend.standing.load();
            FrontendRow {
                name: frontend.name.clone(),
                kind: standing.kind.clone(),
                accepting: standing.accepting,
                note: standing.note.clone(),
                listen: frontend.listen.clone(),
                upstream: frontend.upstream.clone(),
                sessions: m.sessions.with_label_values(&[name]).get(),
                captured: captured("captured") + captured("unknown"),
                rejected: captured("rejected"),
                failed: captured("failed"),
                gaps: captured("gap"),
            }
        })
        .collect();
    let worst_lag = watched
        .targets
        .load()
        .iter()
        .map(|target| target.queue.lag_seconds(now))
        .fold(0.0, f64::max);
    let used = m.journal_bytes.get().max(0) as u64;
    let capacity = m.journal_capacity_bytes.get().max(0) as u64;
    let page = Page {
        version: env!("CARGO_PKG_VERSION"),
        state: state(
            watched.accepting.load(Ordering::Relaxed),
            watched.check_ready().is_ok(),
            worst_lag,
            &targets,
            &frontends,
        ),
        uptime: seconds(UnixMillis::from_system(watched.started).age_seconds(now)),
        worst_lag: seconds(worst_lag),
        waiting: targets.iter().map(|row| row.waiting).sum(),
        parked: targets.iter().map(|row| row.parked).sum(),
        captured: frontends.iter().map(|row| row.captured).sum(),
        gaps: frontends.iter().map(|row| row.gaps).sum(),
        frontends,
        targets,
        journal: JournalRow {
            used: bytes(used),
            capacity: bytes(capacity),
            percent: (used * 100).checked_div(capacity).unwrap_or(0).min(100),
            quarantined: m.quarantined_records.get(),
        },
        vault_page: watched.vault_page.clone(),
    };
    page.render()
}

/// What an operator should know first: the worst of all that is true.
fn state(
    accepting: bool,
    ready: bool,
    lag: f64,
    targets: &[TargetRow],
    frontends: &[FrontendRow],
) -> State {
    let down = frontends.iter().filter(|row| !row.accepting).count();
    let (word, class) = if !accepting || (down > 0 && down == frontends.len()) {
        ("not accepting mail", "bad")
    } else if !ready {
        ("the journal is full", "bad")
    } else if down > 0 {
        ("a front end does not accept mail", "bad")
    } else if targets.iter().any(|target| !target.up) {
        ("a target is down", "bad")
    } else if frontends.iter().any(|row| row.gaps > 0) {
        ("mail passed uncopied", "bad")
    } else if targets.iter().any(|target| target.parked > 0) {
        ("messages are parked", "warn")
    } else if lag > 60.0 {
        ("behind", "warn")
    } else {
        ("in sync", "good")
    };
    State { word, class }
}

/// A time as people say it: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`.
fn seconds(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0 if seconds == 0.0 => "0 s".to_owned(),
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" || value >= 100.0 {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_read_as_people_say_them() {
        assert_eq!(seconds(0.0), "0 s");
        assert_eq!(seconds(0.25), "0.2 s");
        assert_eq!(seconds(200.0), "3 min 20 s");
        assert_eq!(seconds(100_000.0), "1 d 3 h");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(20 << 30), "20.0 GiB");
    }

    #[test]
    fn the_worst_is_said_first() {
        assert_eq!(
            state(false, false, 0.0, &[], &[]).word,
            "not accepting mail"
        );
        assert_eq!(
            state(true, false, 61.0, &[], &[]).word,
            "the journal is full"
        );
        assert_eq!(state(true, true, 61.0, &[], &[]).word, "behind");
        assert_eq!(state(true, true, 0.0, &[], &[]).class, "good");
    }
}
