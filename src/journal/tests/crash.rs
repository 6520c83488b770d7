//! The power is cut at every sync of a busy run, and again while recovery is at work: whatever a session was told
//! stays true.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::{
    sim_disk::{Fault, SimDisk},
    *,
};

const WRITERS: u64 = 4;
const MESSAGES: u64 = 24;

/// What the outside world was told, and what it asked for.
#[derive(Default)]
struct Told {
    attempted: BTreeMap<u64, usize>,
    /// Commit returned.
    captured: BTreeSet<u64>,
    /// Discard or settle was called: it may come back, until a later commit returned.
    finished: BTreeSet<u64>,
    /// … which makes that durable too.
    gone: BTreeSet<u64>,
}

fn serial_of(lease: &Lease) -> u64 {
    lease.sighting().captured_at.0 - 1_700_000_000_000
}

fn small_options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        large_bytes_min: 8 << 10,
        abandon_targets: vec!["archive".into()],
        ..options(std::path::Path::new("/nowhere"))
    }
}

fn open(disk: &SimDisk) -> Result<Journal, JournalError> {
    let disk = Arc::new(disk.clone());
    let metrics = Arc::new(Metrics::new());
    Journal::open_on(disk, small_options(), &["vault".into()], metrics)
}

/// Several sessions capture, their captures meet different fates, a forwarder settles some: until the script or the
/// disk ends.
async fn busy_run(disk: &SimDisk) -> Told {
    let told = Arc::new(Mutex::new(Told::default()));
    let Ok(journal) = open(disk) else {
        return Told::default();
    };
    let forwarder = tokio::spawn(forward(journal.queue("vault"), told.clone()));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(journal.clone(), writer, told.clone()));
    }
    writers.join_all().await;
    journal.refuse();
    forwarder.await.unwrap();
    let _ = journal.close().await;
    drop(journal);
    std::mem::take(&mut *told.lock())
}

async fn write(journal: Journal, writer: u64, told: Arc<Mutex<Told>>) {
    for nth in 0..MESSAGES {
        let serial = writer * 1_000 + nth;
        // From empty over several to a segment, to large ones.
        let bytes = [0, 200, 3_000, 7_900, 30_000][(serial % 5) as usize] + (serial as usize % 97);
        let finished = {
            let mut told = told.lock();
            told.attempted.insert(serial, bytes);
            told.finished.clone()
        };
        if nth % 8 == 5 {
            // A reload, while the others capture.
            let targets = [vec!["vault".into()], vec!["vault".into(), "archive".into()]];
            let targets = &targets[(writer % 2) as usize];
            if tokio::task::block_in_place(|| journal.set_targets(targets, &["archive".into()]))
                .is_err()
            {
                return;
            }
        }
        let Ok(captured) = capture(&journal, serial, bytes).await else {
            return;
        };
        let mut told = told.lock();
        told.captured.insert(serial);
        told.gone.extend(finished);
        match serial % 7 {
            3 => {
                told.finished.insert(serial);
                captured.discard("550 no".into());
            }
            4 => drop(captured),
            _ => captured.release(accepted()),
        }
    }
}

async fn forward(queue: Queue, told: Arc<Mutex<Told>>) {
    loop {
        let leases = queue.lease(3, 1 << 30).await;
        if leases.is_empty() {
            return;
        }
        for lease in leases {
            let serial = serial_of(&lease);
            match serial % 3 {
                0 => {
                    let mut told = told.lock();
                    told.finished.insert(serial);
                    lease.settle(stored());
                }
                1 => lease.settle(Outcome::Parked {
                    why: "invalidEmail".into(),
                }),
                _ => lease.postpone(std::time::Duration::from_secs(3_600), "451"),
            }
        }
    }
}

/// Opens the disk after the cut and holds what is found against what was told.
async fn check(disk: &SimDisk, told: &Told, what: &str) {
    let seen = recovery::recover(disk, recovery::Mode::Look).unwrap();
    assert_eq!(seen.bad, [], "{what}: nothing is damaged");
    let journal = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let queue = journal.queue("vault");
    journal.retry_all("vault").await.unwrap();
    let mut found = BTreeSet::new();
    let mut leases = Vec::new();
    while queue.waiting() > leases.len() as u64 {
        leases.extend(queue.lease(1_000, 1 << 40).await);
    }
    for lease in &leases {
        let serial = serial_of(lease);
        assert!(found.insert(serial), "{what}: {serial} is there twice");
        let bytes = told.attempted.get(&serial);
        let bytes = *bytes.unwrap_or_else(|| panic!("{what}: {serial} was never sent"));
        assert_eq!(**lease.sighting(), sighting(serial, bytes as u64), "{what}");
        let mut body = Vec::new();
        lease
            .body()
            .expect("its content")
            .open()
            .unwrap()
            .read_to_end(&mut body)
            .unwrap();
        assert!(
            body == content(serial, bytes),
            "{what}: {serial} is not what was sent"
        );
        assert!(
            !told.gone.contains(&serial),
            "{what}: {serial} was durably finished"
        );
    }
    let lost: Vec<&u64> = told
        .captured
        .iter()
        .filter(|serial| !found.contains(serial) && !told.finished.contains(serial))
        .collect();
    assert!(lost.is_empty(), "{what}: lost {lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_told_is_lost_when_the_power_goes_at_any_sync() {
    let whole = SimDisk::new(0);
    let told = busy_run(&whole).await;
    assert_eq!(told.captured.len() as u64, WRITERS * MESSAGES);
    let syncs = whole.syncs();
    check(&whole.after_power_cut(), &told, "after an orderly end").await;
    for sync in 1..=syncs {
        let disk = SimDisk::new(sync);
        disk.arm(sync, Fault::Stop);
        let told = busy_run(&disk).await;
        let found = disk.after_power_cut();
        // Recovery is cut short as well, at each of its own first syncs in turn, before it may finish.
        found.arm(1 + sync % 5, Fault::Stop);
        drop(open(&found));
        let found = found.after_power_cut();
        check(&found, &told, &format!("power cut at sync {sync}")).await;
        check(
            &found.after_power_cut(),
            &told,
            &format!("again after sync {sync}"),
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_is_not_believed_and_the_journal_goes_on() {
    let whole = SimDisk::new(0);
    busy_run(&whole).await;
    for sync in 1..=whole.syncs() {
        let disk = SimDisk::new(1_000 + sync);
        disk.arm(sync, Fault::SyncError);
        let told = busy_run(&disk).await;
        check(
            &disk.after_power_cut(),
            &told,
            &format!("failed sync {sync}"),
        )
        .await;
    }
}

/// A process is killed between write and sync, the next one believes what it reads, and then the power goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_recovery_believed_survives_a_power_cut() {
    for seed in 0..16 {
        let disk = SimDisk::new(seed);
        let journal = open(&disk).unwrap();
        capture(&journal, 1, 3_000)
            .await
            .unwrap()
            .release(accepted());
        let queue = journal.queue("vault");
        released(&journal).await;
        assert_eq!(queue.waiting(), 1);
        disk.arm(1, Fault::Stop);
        while capture(&journal, 2, 3_000).await.is_ok() {}
        drop((queue, journal));
        let killed = disk.after_kill();
        let journal = open(&killed).unwrap();
        let believed = journal.queue("vault").waiting();
        let found = killed.after_power_cut();
        drop(journal);
        let journal = open(&found).unwrap();
        assert_eq!(journal.queue("vault").waiting(), believed, "seed {seed}");
    }
}
