//! The journal on a real file system that is too small for it. Root is needed to mount one.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use mailtee::{
    journal::{Captured, Journal, JournalError, Options, Outcome},
    message::{
        Acceptance, CaptureId, Client, Envelope, Fingerprint, Origin, Protocol, Sighting,
        UnixMillis,
    },
    metrics::Metrics,
};

use crate::kit::{SmallDisk, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

fn open(data_dir: &Path) -> Journal {
    open_with_floor(data_dir, 0)
}

fn open_with_floor(data_dir: &Path, free_bytes_min: u64) -> Journal {
    let options = Options {
        data_dir: data_dir.to_owned(),
        segment_bytes: 256 << 10,
        capacity_bytes: 1 << 30,
        free_bytes_min,
        large_bytes_min: 32 << 10,
        draft_memory_bytes: 1 << 20,
        abandon_targets: Vec::new(),
    };
    Journal::open(options, &["vault".into()], Arc::new(Metrics::new())).unwrap()
}

fn sighting(serial: u64, bytes: usize) -> Sighting {
    let captured_at = UnixMillis(1_700_000_000_000 + serial);
    let mut random = [0; 10];
    random[2..].copy_from_slice(&serial.to_be_bytes());
    Sighting {
        id: CaptureId::from_parts(captured_at, random),
        captured_at,
        frontend: "postfix".into(),
        protocol: Protocol::Smtp,
        session: "s1".into(),
        origin: Origin::Transaction {
            envelope: Envelope::default(),
            client: Client::default(),
        },
        fidelity: Vec::new(),
        bytes: bytes as u64,
        fingerprint: Fingerprint::default(),
    }
}

fn content(serial: u64, bytes: usize) -> Vec<u8> {
    let line = format!("message {serial}\r\n");
    line.bytes().cycle().take(bytes).collect()
}

async fn capture(journal: &Journal, serial: u64, bytes: usize) -> Result<Captured, JournalError> {
    let mut draft = journal.draft()?;
    draft.write(&content(serial, bytes)).await?;
    draft.commit(&sighting(serial, bytes)).await
}

fn accepted() -> Acceptance {
    Acceptance::Accepted {
        reply: "250 ok".into(),
    }
}

/// Captures messages until the journal says that it is full; how many it took.
async fn capture_until_full(journal: &Journal, from: u64) -> u64 {
    let mut serial = from;
    loop {
        // Small ones and such with a file of their own.
        let bytes = if serial % 4 == 3 { 60_000 } else { 10_000 };
        match capture(journal, serial, bytes).await {
            Ok(captured) => captured.release(accepted()),
            Err(JournalError::Full(_)) => return serial - from,
            Err(error) => panic!("a full disk is not a fault: {error}"),
        }
        serial += 1;
    }
}

fn capture_when_there_is_room(journal: &Journal, serial: u64) -> Captured {
    wait_until(PATIENCE, "the journal takes mail again", || {
        tokio::task::block_in_place(|| {
            let taken = capture(journal, serial, 60_000);
            tokio::runtime::Handle::current().block_on(taken).ok()
        })
    })
}

/// Leases everything, holds it against what was sent, and settles it.
async fn drain(journal: &Journal, expected: u64) {
    let queue = journal.queue("vault");
    wait_until(PATIENCE, "all are released", || {
        (queue.waiting() == expected).then_some(())
    });
    let mut seen = 0;
    while seen < expected {
        for lease in queue.lease(16, 1 << 20).await {
            let sighting = lease.sighting();
            let serial = sighting.captured_at.0 - 1_700_000_000_000;
            let mut body = Vec::new();
            io::copy(
                &mut lease.body().expect("its content").open().unwrap(),
                &mut body,
            )
            .unwrap();
            assert!(body == content(serial, sighting.bytes as usize));
            lease.settle(Outcome::Stored {
                remote_id: "M1".into(),
            });
            seen += 1;
        }
    }
    wait_until(PATIENCE, "all are settled", || {
        (queue.waiting() == 0).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_an_answer_and_forwarding_makes_room_again() {
    let disk = SmallDisk::new(3 << 20);
    let journal = open(disk.path());
    let mut serial = 0;
    for round in 0..4 {
        let taken = capture_until_full(&journal, serial).await;
        assert!(taken > 20, "round {round}: only {taken} before it was full");
        serial += taken;
        drain(&journal, taken).await;
        // Clearing away happens behind the settles.
        capture_when_there_is_room(&journal, serial).release(accepted());
        drain(&journal, 1).await;
        serial += 1;
    }
    journal.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_messages_at_once_leave_the_free_space_that_is_to_stay() {
    const FLOOR: u64 = 8 << 20;
    let disk = SmallDisk::new(24 << 20);
    let journal = open_with_floor(disk.path(), FLOOR);
    let drafts: Vec<_> = (0..10)
        .map(|serial| {
            let journal = journal.clone();
            tokio::spawn(async move {
                let captured = capture(&journal, serial, 4 << 20).await;
                captured.map(|captured| captured.release(accepted()))
            })
        })
        .collect();
    let mut full = 0;
    for draft in drafts {
        match draft.await.unwrap() {
            Ok(()) => {}
            Err(JournalError::Full(_)) => full += 1,
            Err(error) => panic!("a full disk is not a fault: {error}"),
        }
        let stat = rustix::fs::statvfs(disk.path()).unwrap();
        let free = stat.f_bavail * stat.f_frsize;
        assert!(free >= FLOOR, "{free} bytes are free");
    }
    assert!(full > 0, "not all of them fit");
    journal.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_before_the_disk_was_full_survives_a_restart_on_the_full_disk() {
    let disk = SmallDisk::new(3 << 20);
    let journal = open(disk.path());
    let taken = capture_until_full(&journal, 0).await;
    disk.fill();
    journal.close().await.unwrap();
    drop(journal);
    let journal = open(disk.path());
    drain(&journal, taken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_neighbour_that_takes_all_space_and_gives_it_back_costs_no_restart() {
    let disk = SmallDisk::new(4 << 20);
    let journal = open(disk.path());
    capture(&journal, 0, 10_000)
        .await
        .unwrap()
        .release(accepted());
    let neighbour = disk.fill();
    let taken = 1 + capture_until_full(&journal, 1).await;
    fs::remove_file(neighbour).unwrap();
    capture_when_there_is_room(&journal, taken).release(accepted());
    drain(&journal, taken + 1).await;
}
