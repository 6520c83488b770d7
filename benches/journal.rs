//! How fast the journal takes messages, against plain files on the same disk in the same run.
//!
//! `cargo bench --bench journal [-- --seconds 7]` prints a line of JSON for each measurement, then a table. The peers are
//! what a careful program without a journal would do: append and `fdatasync` each message, or append 64 and sync once.
//! Rounds alternate between journal and peer, so that a busy machine hits both.

use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use mailtee::{
    journal::{Journal, Options, Outcome},
    message::{
        Acceptance, CaptureId, Client, Envelope, Fingerprint, Origin, Protocol, Sighting,
        UnixMillis,
    },
    metrics::Metrics,
};

const MESSAGE_BYTES: usize = 10_000;
const ROUNDS: u32 = 7;

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--seconds");
    let seconds = arguments.nth(1).and_then(|text| text.parse().ok());
    let round = Duration::from_secs_f64(seconds.unwrap_or(7.0)) / ROUNDS;
    // The target directory, not /tmp, which may be memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let bench = Bench::new(dir.path());

    let mut one = [Vec::new(), Vec::new(), Vec::new()];
    let mut many = [Vec::new(), Vec::new()];
    // The first round makes the segments that later ones use again; it is not counted.
    runtime.block_on(bench.captures(64, round));
    for _ in 0..ROUNDS {
        one[0].push(appends(dir.path(), 1, round)?);
        one[1].push(overwrites(dir.path(), round)?);
        one[2].push(runtime.block_on(bench.captures(1, round)));
        many[0].push(appends(dir.path(), 64, round)?);
        many[1].push(runtime.block_on(bench.captures(64, round)));
    }
    let [append, overwrite, journal] = one.map(median);
    let [batch, shared] = many.map(median);
    let leases = runtime.block_on(bench.leases());
    runtime
        .block_on(bench.journal.close())
        .map_err(io::Error::other)?;

    let rows = [
        ("1 writer, plain append + fdatasync", append, None),
        ("1 writer, plain overwrite + fdatasync", overwrite, None),
        ("1 writer, journal", journal, Some((journal / append, 1.5))),
        ("64 a sync, plain append", batch, None),
        ("64 writers, journal", shared, Some((shared / batch, 0.7))),
        ("leased, read and settled, 1 KB", leases, None),
    ];
    for (what, rate, ratio) in &rows {
        let ratio = ratio.map(|(ratio, _)| ratio);
        let line = serde_json::json!({
            "bench": "journal", "what": what, "messages_per_second": rate.round(), "ratio": ratio,
        });
        println!("{line}");
    }
    for (figure, value, against, base, aim) in [
        (
            "journal, 64 writers",
            shared,
            "plain append, one fdatasync for 64",
            batch,
            0.7,
        ),
        (
            "journal, one writer",
            journal,
            "plain append + fdatasync",
            append,
            1.5,
        ),
    ] {
        let ratio = value / base;
        let line = serde_json::json!({
            "table": "journal", "figure": figure, "value": value.round(), "unit": "/s", "against": against,
            "base": base.round(), "ratio": ratio, "aim": format!("at least {aim} x"), "met": ratio >= aim,
        });
        println!("{line}");
    }
    println!(
        "\n{:40} {:>12} {:>8} {:>8}",
        "10 KB messages", "a second", "ratio", "target"
    );
    for (what, rate, ratio) in &rows {
        match ratio {
            Some((ratio, target)) => println!("{what:40} {rate:>12.0} {ratio:>8.2} {target:>8.1}"),
            None => println!("{what:40} {rate:>12.0}"),
        }
    }
    Ok(())
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Appends messages to a growing file, `batch` of them a sync.
fn appends(dir: &Path, batch: usize, round: Duration) -> io::Result<f64> {
    let path = dir.join("plain");
    let file = fs::File::create(&path)?;
    let bytes = vec![b'x'; MESSAGE_BYTES * batch];
    let started = Instant::now();
    let mut syncs = 0;
    while started.elapsed() < round {
        file.write_all_at(&bytes, syncs * bytes.len() as u64)?;
        file.sync_data()?;
        syncs += 1;
    }
    let rate = (syncs as usize * batch) as f64 / started.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(rate)
}

/// Writes messages over space that was written before: the best that one writer can do.
fn overwrites(dir: &Path, round: Duration) -> io::Result<f64> {
    let path = dir.join("written");
    let file = fs::File::create(&path)?;
    let length = 64 << 20;
    file.write_all_at(&vec![0; length], 0)?;
    file.sync_data()?;
    let bytes = vec![b'x'; MESSAGE_BYTES];
    let room = (length / MESSAGE_BYTES) as u64;
    let started = Instant::now();
    let mut syncs = 0;
    while started.elapsed() < round {
        file.write_all_at(&bytes, (syncs % room) * MESSAGE_BYTES as u64)?;
        file.sync_data()?;
        syncs += 1;
    }
    let rate = syncs as f64 / started.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(rate)
}

struct Bench {
    journal: Journal,
    serial: AtomicU64,
}

impl Bench {
    fn new(dir: &Path) -> Arc<Self> {
        let options = Options {
            data_dir: dir.to_owned(),
            segment_bytes: 64 << 20,
            capacity_bytes: 1 << 40,
            free_bytes_min: 0,
            large_bytes_min: 256 << 10,
            draft_memory_bytes: 64 << 20,
            abandon_targets: Vec::new(),
        };
        let journal = Journal::open(options, &["vault".into()], Arc::new(Metrics::new()));
        Arc::new(Self {
            journal: journal.expect("a new directory opens"),
            serial: AtomicU64::new(0),
        })
    }

    /// Each writer drafts, commits and lets go of one message after the other.
    async fn captures(self: &Arc<Self>, writers: usize, round: Duration) -> f64 {
        let content = Arc::new(vec![b'x'; MESSAGE_BYTES]);
        let started = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..writers {
            let (bench, content) = (self.clone(), content.clone());
            tasks.spawn(async move {
                let mut count = 0u64;
                while started.elapsed() < round {
                    // Refused by the next hop: its space is free again, as that of a settled one is.
                    bench.capture(&content).await.discard("550 no".into());
                    count += 1;
                }
                count
            });
        }
        let count: u64 = tasks.join_all().await.iter().sum();
        count as f64 / started.elapsed().as_secs_f64()
    }

    async fn capture(&self, content: &[u8]) -> mailtee::journal::Captured {
        let serial = self.serial.fetch_add(1, Relaxed);
        let mut draft = self.journal.draft().expect("there is room");
        draft.write(content).await.expect("there is memory");
        let sighting = sighting(serial, content.len());
        draft.commit(&sighting).await.expect("the disk works")
    }

    /// How many captures a second a forwarder can take, read and settle.
    async fn leases(self: &Arc<Self>) -> f64 {
        const COUNT: u64 = 50_000;
        let content = vec![b'x'; 1_000];
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (bench, content) = (self.clone(), content.clone());
            tasks.spawn(async move {
                for _ in 0..COUNT / 50 {
                    let reply = "250 2.0.0 Ok: queued as 4Xk1QZ".into();
                    let captured = bench.capture(&content).await;
                    captured.release(Acceptance::Accepted { reply });
                }
            });
        }
        tasks.join_all().await;
        let queue = self.journal.queue("vault");
        let started = Instant::now();
        let mut settled = 0;
        while settled < COUNT {
            for lease in queue.lease(64, 8 << 20).await {
                lease.settle(Outcome::Stored {
                    remote_id: "Mf00dfeed".into(),
                });
                settled += 1;
            }
        }
        settled as f64 / started.elapsed().as_secs_f64()
    }
}

fn sighting(serial: u64, bytes: usize) -> Sighting {
    let captured_at = UnixMillis(1_700_000_000_000 + serial);
    Sighting {
        id: CaptureId::from_parts(captured_at, [7; 10]),
        captured_at,
        frontend: "postfix".into(),
        protocol: Protocol::Smtp,
        session: "s1".into(),
        origin: Origin::Transaction {
            envelope: Envelope {
                sender: "sender@example.org".into(),
                ..Envelope::default()
            },
            client: Client::default(),
        },
        fidelity: Vec::new(),
        bytes: bytes as u64,
        fingerprint: Fingerprint::default(),
    }
}
