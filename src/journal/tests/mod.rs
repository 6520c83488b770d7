//! The journal through its public face: on a real disk here, on a simulated one in `crash`.

mod crash;
mod damage;
mod operator;
mod queue;
mod sim_disk;

use std::{io::Read, sync::atomic::Ordering::Relaxed, time::Duration};

use super::*;
use crate::message::{
    Acceptance, CaptureId, Client, Envelope, Fingerprint, Origin, Protocol, Recipient, Sighting,
    UnixMillis,
};

pub(super) fn options(data_dir: &std::path::Path) -> Options {
    Options {
        data_dir: data_dir.to_owned(),
        segment_bytes: 256 << 10,
        capacity_bytes: 64 << 20,
        free_bytes_min: 0,
        large_bytes_min: 16 << 10,
        draft_memory_bytes: 1 << 20,
        abandon_targets: Vec::new(),
    }
}

const OUTSIZE: u64 = 17;

pub(super) fn sighting(serial: u64, bytes: u64) -> Sighting {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&serial.to_be_bytes());
    let captured_at = UnixMillis(1_700_000_000_000 + serial);
    // Now and then one that alone is more than the smallest segment.
    let session = match serial % 1_000 {
        OUTSIZE => "s1".repeat(40_000),
        _ => "s1".into(),
    };
    Sighting {
        id: CaptureId::from_parts(captured_at, random),
        captured_at,
        frontend: "postfix".into(),
        protocol: Protocol::Smtp,
        session,
        origin: Origin::Transaction {
            envelope: Envelope {
                sender: "a@example.org".into(),
                ..Envelope::default()
            },
            client: Client::default(),
        },
        fidelity: Vec::new(),
        bytes,
        fingerprint: Fingerprint::default(),
    }
}

/// Content that names its message, of any length.
pub(super) fn content(serial: u64, bytes: usize) -> Vec<u8> {
    let line = format!("message {serial}\r\n");
    line.bytes().cycle().take(bytes).collect()
}

pub(super) async fn capture(
    journal: &Journal,
    serial: u64,
    bytes: usize,
) -> Result<Captured, JournalError> {
    let mut draft = journal.draft()?;
    for piece in content(serial, bytes).chunks(7_000) {
        draft.write(piece).await?;
    }
    draft.commit(&sighting(serial, bytes as u64)).await
}

pub(super) fn accepted() -> Acceptance {
    Acceptance::Accepted {
        reply: "250 2.0.0 Ok: queued as 4X".into(),
    }
}

pub(super) fn stored() -> Outcome {
    Outcome::Stored {
        remote_id: "M1".into(),
    }
}

fn read_body(lease: &Lease) -> Vec<u8> {
    let mut out = Vec::new();
    lease
        .body()
        .expect("its content")
        .open()
        .unwrap()
        .read_to_end(&mut out)
        .unwrap();
    out
}

fn open(options: &Options, targets: &[&str]) -> Journal {
    let targets: Vec<String> = targets.iter().map(|t| t.to_string()).collect();
    Journal::open(options.clone(), &targets, Arc::new(Metrics::new())).unwrap()
}

/// Waits until the queue shows what is expected, which it does once the writer has got to it.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let ends = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(tokio::time::Instant::now() < ends, "never: {what}");
        tokio::task::yield_now().await;
    }
}

/// Waits until the fate of every capture is known to the index.
async fn released(journal: &Journal) {
    until("released", || {
        let index = journal.shared.log.index.lock();
        index.without_fate().is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_second_process_is_refused_while_the_first_has_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(&options(dir.path()), &["vault"]);
    let second = Journal::open(options(dir.path()), &[], Arc::new(Metrics::new()));
    assert!(matches!(second, Err(JournalError::Locked(_))));
    drop(journal);
    open(&options(dir.path()), &["vault"]);
}

#[tokio::test]
async fn a_journal_at_its_capacity_says_full_and_takes_mail_again_once_some_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(
        &Options {
            capacity_bytes: 50_000,
            ..options(dir.path())
        },
        &["vault"],
    );
    let queue = journal.queue("vault");
    let mut serial = 0;
    let full = loop {
        match capture(&journal, serial, 10_000).await {
            Ok(captured) => captured.release(accepted()),
            Err(error) => break error,
        }
        serial += 1;
    };
    assert!(matches!(full, JournalError::Full(_)), "{full}");
    assert_eq!(serial, 4);
    released(&journal).await;
    assert_eq!(queue.waiting(), 4);
    for lease in queue.lease(10, 1 << 30).await {
        lease.settle(stored());
    }
    until("settled", || queue.waiting() == 0).await;
    capture(&journal, 9, 10_000)
        .await
        .unwrap()
        .release(accepted());
}

#[tokio::test]
async fn drafts_that_write_at_once_do_not_pass_the_capacity_together() {
    let dir = tempfile::tempdir().unwrap();
    let capacity_bytes = 500_000;
    let journal = open(
        &Options {
            capacity_bytes,
            ..options(dir.path())
        },
        &["vault"],
    );
    for serial in 20..40 {
        capture(&journal, serial, 15_000)
            .await
            .unwrap()
            .release(accepted());
    }
    released(&journal).await;
    let held = || {
        let live = journal.shared.log.index.lock().live_bytes;
        live + journal
            .shared
            .draft_bytes
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    assert!(held() > 300_000);
    let mut drafts: Vec<Draft> = (0..20).map(|_| journal.draft().unwrap()).collect();
    let mut taken = Vec::new();
    for mut draft in drafts.drain(..) {
        match draft.write(&content(1, 15_000)).await {
            Ok(()) => taken.push(draft),
            Err(error) => {
                assert!(matches!(error, JournalError::Full(_)), "{error}");
                drop(draft);
            }
        }
        assert!(held() <= capacity_bytes, "{}", held());
    }
    assert!(taken.len() > 10, "{}", taken.len());
    // The capacity counts each once, committed or not.
    for (serial, draft) in (100..).zip(taken) {
        let captured = draft.commit(&sighting(serial, 15_000)).await;
        captured.unwrap().release(accepted());
    }
    assert!(held() <= capacity_bytes, "{}", held());
    let drafts = journal.shared.draft_bytes.load(Relaxed);
    assert_eq!(drafts, 0, "no draft is counted any more");
}

#[tokio::test]
async fn an_envelope_larger_than_a_segment_is_captured_and_moved_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 64 << 10,
        ..options(dir.path())
    };
    let mut told = sighting(0, 100);
    let Origin::Transaction { envelope, .. } = &mut told.origin else {
        unreachable!("it came in a transaction");
    };
    envelope.recipients = (0..50_000)
        .map(|serial| Recipient {
            address: format!("{serial:0>242}@example.org").into(),
            ..Recipient::default()
        })
        .collect();
    let journal = open(&options, &["vault"]);
    for (serial, bytes) in [(1, 100), (2, 30_000)] {
        let captured = capture(&journal, serial, bytes).await.unwrap();
        captured.release(accepted());
    }
    let mut draft = journal.draft().unwrap();
    draft.write(&content(0, 100)).await.unwrap();
    draft.commit(&told).await.unwrap().release(accepted());
    capture(&journal, 3, 30_000)
        .await
        .unwrap()
        .release(accepted());
    let check = async |journal: &Journal| {
        released(journal).await;
        let leases = journal.queue("vault").lease(10, 1 << 30).await;
        let found = leases.iter().find(|lease| lease.sighting().id == told.id);
        let found = found.expect("it waits");
        assert!(**found.sighting() == told, "the envelope is another");
        assert_eq!(read_body(found), content(0, 100));
        leases.len()
    };
    assert_eq!(check(&journal).await, 4);
    let of = journal.view().find(told.id).unwrap().unwrap();
    keeper::relocate(&journal.shared, &[of]);
    until("moved", || {
        let index = journal.shared.log.index.lock();
        index.entry(of).is_none_or(|entry| entry.is_finished())
    })
    .await;
    assert_eq!(check(&journal).await, 4);
    journal.close().await.unwrap();
    drop(journal);
    let journal = open(&options, &["vault"]);
    assert_eq!(check(&journal).await, 4);
    for lease in journal.queue("vault").lease(10, 1 << 30).await {
        lease.settle(stored());
    }
    // Its segment is no spare for others.
    let segments = || {
        let names = std::fs::read_dir(dir.path().join("journal/segments")).unwrap();
        let bytes = names.map(|name| name.unwrap().metadata().map_or(0, |facts| facts.len()));
        bytes.max().unwrap()
    };
    for serial in 10..40 {
        let captured = capture(&journal, serial, 10_000).await.unwrap();
        captured.discard("550 no".into());
    }
    until("cleared away", || segments() == 64 << 10).await;
}

#[tokio::test]
async fn drafts_that_find_no_memory_go_to_a_file_and_leave_none_behind() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        draft_memory_bytes: 3_000,
        ..options(dir.path())
    };
    let journal = open(&options, &["vault"]);
    let large = dir.path().join("journal/large");
    let files = || std::fs::read_dir(&large).unwrap().count();
    let mut first = journal.draft().unwrap();
    first.write(&content(1, 2_500)).await.unwrap();
    let mut second = journal.draft().unwrap();
    second.write(&content(2, 2_500)).await.unwrap();
    assert_eq!(files(), 1, "the second has no room in memory");
    let captured = second.commit(&sighting(2, 2_500)).await.unwrap();
    captured.release(accepted());
    drop(first);
    let mut abandoned = journal.draft().unwrap();
    abandoned.write(&content(3, 9_000)).await.unwrap();
    assert_eq!(files(), 2);
    drop(abandoned);
    let queue = journal.queue("vault");
    let lease = queue.lease(1, 1).await.remove(0);
    assert_eq!(read_body(&lease), content(2, 2_500));
    lease.settle(stored());
    until("no large file is left", || files() == 0).await;
}

#[tokio::test]
async fn memory_that_a_draft_took_beforehand_is_its_own_till_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        draft_memory_bytes: 3_000,
        ..options(dir.path())
    };
    let journal = open(&options, &["vault"]);
    let mut first = journal.draft().unwrap();
    assert!(!first.hold(17 << 10), "it is a large one");
    assert!(!first.hold(3_001), "there is not so much");
    assert!(first.hold(2_500));
    let mut second = journal.draft().unwrap();
    assert!(!second.hold(501));
    assert!(!second.write_held(&content(2, 501)).unwrap());
    for piece in content(1, 2_500).chunks(700) {
        assert!(first.write_held(piece).unwrap());
    }
    assert_eq!(first.held(), Some(&content(1, 2_500)[..]));
    first.write(&content(3, 501)).await.unwrap();
    assert_eq!(first.held(), None, "more than it took goes to a file");
    assert!(second.hold(3_000), "and what it took is given back");
    drop(second);
    assert!(journal.draft().unwrap().hold(3_000));
}
