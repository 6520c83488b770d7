//! What fingerprints and the dedup map cost: `cargo bench --bench dedup [-- --entries N]`, 10 million entries by default.
//!
//! Look-ups are one thread's, by the processor time that it took: a core's rate, whatever else the machine does. The peers
//! of the fingerprint (SHA-256 and BLAKE3 alone) are measured in the same run. Prints a table, and a line of JSON for each
//! of its numbers.

use std::{
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

use mailtee::{
    dedup::{Claim, Dedup, Options, StoredCopy},
    message::{CaptureId, Fingerprinter, K1, K2, UnixMillis, fingerprint::Core},
    metrics::Metrics,
};
use sha2::{Digest, Sha256};

const TARGET: &str = "vault";
/// As long as an id that the vault gives.
const REMOTE_ID: &str = "G0123456789abcdef0123456789abcdef";
/// Copies confirmed before the map is asked whether they are on disk; a forwarder has fewer in flight.
const IN_FLIGHT: u64 = 8192;
const LOOKUPS: u64 = 2_000_000;
const DISK_LOOKUPS: u64 = 200_000;

fn main() {
    let entries = argument("--entries").unwrap_or(10_000_000);
    fingerprints();
    // The target directory, not /tmp, which may be memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(map(dir.path(), entries));
}

fn fingerprints() {
    println!(
        "fingerprint (K1, K2, Core)            µs a message      MB/s   SHA-256 alone   BLAKE3 alone"
    );
    for (name, message, chunk) in [
        ("10 KB, in one piece", message(10_000), 10_000),
        ("10 KB, in pieces of 1,400 bytes", message(10_000), 1_400),
        ("10 KB, lines end with LF", bare(message(10_000)), 10_000),
        ("1 MB, in pieces of 64 KiB", message(1_000_000), 65_536),
    ] {
        let whole = each(|| {
            let mut fingerprinter = Fingerprinter::new();
            for bytes in message.chunks(chunk) {
                fingerprinter.update(bytes);
            }
            black_box(fingerprinter.finish());
        });
        let sha = each(|| {
            black_box(Sha256::digest(&message));
        });
        let blake = each(|| {
            black_box(blake3::hash(&message));
        });
        let rate = |time: Duration| message.len() as f64 / time.as_secs_f64() / 1e6;
        println!(
            "  {name:<34}{:>14.1}{:>10.0}{:>16.0}{:>15.0}",
            whole.as_secs_f64() * 1e6,
            rate(whole),
            rate(sha),
            rate(blake)
        );
        number(name, "microseconds", whole.as_secs_f64() * 1e6);
    }
}

/// A message of about this size, with the header that a message of today has after two hops.
fn message(bytes: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(bytes);
    for field in [
        "Return-Path: <sender@example.org>",
        "Received: from mx.example.org (mx.example.org [192.0.2.1])\r\n\tby mail.example.net (Postfix) with ESMTPS id 4ABCDEF\r\n\tfor <recipient@example.net>; Mon,  1 Jun 2026 10:00:00 +0000 (UTC)",
        "Authentication-Results: mail.example.net; dkim=pass header.d=example.org; spf=pass",
        "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/simple; d=example.org; s=mail; t=1780000000;\r\n\tbh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; h=From:To:Subject:Date:Message-ID;\r\n\tb=dGhpcyBpcyBub3QgYSByZWFsIHNpZ25hdHVyZSBidXQgYXMgbG9uZyBhcyBvbmUgdGhhdCBpcw==",
        "From: A Sender <sender@example.org>",
        "To: A Recipient <recipient@example.net>",
        "Subject: what is hashed here",
        "Date: Mon, 1 Jun 2026 10:00:00 +0000",
        "Message-ID: <0123456789@example.org>",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "",
    ] {
        message.extend_from_slice(field.as_bytes());
        message.extend_from_slice(b"\r\n");
    }
    while message.len() < bytes {
        let line = b"Seventy-four bytes of text that stand for a line as people write them, .\r\n";
        message.extend_from_slice(&line[..line.len().min(2 + bytes - message.len())]);
    }
    message.truncate(bytes - 2);
    message.extend_from_slice(b"\r\n");
    message
}

fn bare(mut message: Vec<u8>) -> Vec<u8> {
    message.retain(|byte| *byte != b'\r');
    message
}

async fn map(dir: &Path, entries: u64) {
    println!("dedup map, {entries} entries");
    let before = resident_bytes();
    let dedup = open(dir);
    let begin = Instant::now();
    let mut worst = Duration::ZERO;
    let mut next = 0;
    while next < entries {
        let until = (next + IN_FLIGHT).min(entries);
        let batch = Instant::now();
        let mut last = None;
        for n in next..until {
            match dedup.claim(TARGET, &k2(n), id(n)) {
                Claim::New(lease) => last = Some(lease.confirm(copy(n))),
                other => panic!("entry {n} is not new: {other:?}"),
            }
        }
        if let Some(durable) = last {
            assert!(durable.wait().await, "the disk failed");
        }
        worst = worst.max(batch.elapsed());
        next = until;
    }
    let filled = begin.elapsed();
    row("claimed, confirmed and on disk", entries, filled);
    println!(
        "  slowest {IN_FLIGHT} of them: {:.0} ms",
        worst.as_secs_f64() * 1e3
    );

    let [new, any] = lookups(&dedup, entries, "");
    let aim = ("at least 1,000,000 /s a core", new >= 1e6);
    figure(
        "dedup, look-up of a new message",
        "/s a core",
        new,
        Some(aim),
    );
    figure(
        "dedup, look-up of any copy, on disk",
        "/s a core",
        any,
        None,
    );
    let young = time("look-up of a young copy, in memory", LOOKUPS, |n| {
        black_box(dedup.stored(TARGET, &k2(entries - 1 - n % 1000)));
    });
    figure("dedup, look-up of a young copy", "/s a core", young, None);
    for (what, each) in sizes(&dedup, entries) {
        figure(&format!("dedup, {what}"), "bytes an entry", each, None);
    }
    println!(
        "  resident in all {:.0} MiB more than at the start",
        (resident_bytes().saturating_sub(before)) as f64 / f64::from(1 << 20)
    );
    drop(dedup);

    let begin = Instant::now();
    let dedup = open(dir);
    let opened = begin.elapsed();
    let mut during = 0;
    while !dedup.scanned() {
        black_box(dedup.stored(TARGET, &k2(entries + during)));
        during += 1;
    }
    println!(
        "  opened again in {:.2} s, filter filled after {:.1} s ({during} look-ups answered meanwhile)",
        opened.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    );
    assert_eq!(dedup.entries(), entries);
    lookups(&dedup, entries, ", reopened");
    sizes(&dedup, entries);
}

fn sizes(dedup: &Dedup, entries: u64) -> [(&'static str, f64); 2] {
    let (filter, disk) = dedup.size_bytes();
    [("filter in memory", filter), ("map on disk", disk)].map(|(what, bytes)| {
        let each = bytes as f64 / entries as f64;
        println!("  {what:<40}{each:>12.1} bytes an entry");
        number(what, "bytes_per_entry", each);
        (what, each)
    })
}

/// `when` tells the two rounds apart. How many a second, of new messages and of any that is there.
fn lookups(dedup: &Dedup, entries: u64, when: &str) -> [f64; 2] {
    let new = time(&format!("look-up of a new message{when}"), LOOKUPS, |n| {
        black_box(dedup.stored(TARGET, &k2(entries + n)));
    });
    time(&format!("claim of a new message{when}"), LOOKUPS, |n| {
        black_box(dedup.claim(TARGET, &k2(entries + LOOKUPS + n), id(n)));
    });
    let mut random = 1;
    let any = time(
        &format!("look-up of any copy, disk{when}"),
        DISK_LOOKUPS,
        |_| {
            random = mix(random);
            let known = dedup.stored(TARGET, &k2(random % entries));
            assert!(known.is_some());
        },
    );
    [new, any]
}

fn open(dir: &Path) -> Dedup {
    Dedup::open(Options::new(dir.join("map")), &Metrics::new()).expect("a map")
}

fn k2(n: u64) -> K2 {
    let mut bytes = [0; 32];
    let mut word = n;
    for part in bytes.chunks_exact_mut(8) {
        word = mix(word.wrapping_add(0x9e37_79b9_7f4a_7c15));
        part.copy_from_slice(&word.to_le_bytes());
    }
    K2(bytes)
}

/// SplitMix64's last step.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn id(n: u64) -> CaptureId {
    CaptureId::from_parts(UnixMillis(n), [1; 10])
}

fn copy(n: u64) -> StoredCopy {
    StoredCopy {
        first: id(n),
        k1: K1(k2(!n).0),
        core: Core(k2(n ^ 0x5555).0),
        remote_id: REMOTE_ID.to_owned(),
    }
}

/// How many a second.
fn time(what: &str, times: u64, mut run: impl FnMut(u64)) -> f64 {
    let begin = processor_time();
    (0..times).for_each(&mut run);
    let took = processor_time() - begin;
    row(what, times, took);
    times as f64 / took.as_secs_f64()
}

fn row(what: &str, times: u64, took: Duration) {
    let each = took.as_secs_f64() / times as f64;
    println!(
        "  {what:<40}{:>12.0} a second{:>10.2} µs",
        1.0 / each,
        each * 1e6
    );
    number(what, "per_second", (1.0 / each).round());
}

fn number(what: &str, unit: &str, value: f64) {
    println!(
        "{}",
        serde_json::json!({"bench": "dedup", "what": what, unit: value})
    );
}

/// A line of the README's table; `aim`: what it is to be, and whether it is.
fn figure(name: &str, unit: &str, value: f64, aim: Option<(&str, bool)>) {
    let (aim, met) = aim.unzip();
    let line = serde_json::json!({
        "table": "journal", "figure": name, "value": value, "unit": unit, "aim": aim, "met": met,
    });
    println!("{line}");
}

/// What this thread has had of a processor; the kernel keeps it in nanoseconds.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux keeps it");
    let nanoseconds = text.split(' ').next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanoseconds.expect("its first number"))
}

/// The shortest of many runs: the machine has other things to do, but not always.
fn each(mut run: impl FnMut()) -> Duration {
    let begin = Instant::now();
    let mut shortest = Duration::MAX;
    while begin.elapsed() < Duration::from_secs(1) {
        let one = Instant::now();
        run();
        shortest = shortest.min(one.elapsed());
    }
    shortest
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    pages * 4096
}

fn argument(name: &str) -> Option<u64> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1)?.parse().ok()
}
