//! The journal through its public face, on a real disk.

use std::{io::Read, time::Duration};

use super::*;
use crate::message::{
    Acceptance, CaptureId, Client, Envelope, Fingerprint, Origin, Protocol, Sighting, UnixMillis,
};

pub(super) fn options(data_dir: &std::path::Path) -> Options {
    Options {
        data_dir: data_dir.to_owned(),
        segment_bytes: 256 << 10,
        capacity_bytes: 64 << 20,
        free_bytes_min: 0,
        large_bytes_min: 16 << 10,
        draft_memory_bytes: 1 << 20,
    }
}

pub(super) fn sighting(serial: u64, bytes: u64) -> Sighting {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&serial.to_be_bytes());
    let captured_at = UnixMillis(1_700_000_000_000 + serial);
    Sighting {
        id: CaptureId::from_parts(captured_at, random),
        captured_at,
        frontend: "postfix".into(),
        protocol: Protocol::Smtp,
        session: "s1".into(),
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
    lease.body().open().unwrap().read_to_end(&mut out).unwrap();
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

#[tokio::test]
async fn a_capture_is_leased_with_its_bytes_and_its_fate() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(&options(dir.path()), &["vault"]);
    let queue = journal.queue("vault");
    for (serial, bytes) in [(1, 0), (2, 5_000), (3, 100_000)] {
        let captured = capture(&journal, serial, bytes).await.unwrap();
        assert_eq!(captured.id(), sighting(serial, 0).id);
        captured.release(accepted());
        let leases = queue.lease(10, 1 << 30).await;
        assert_eq!(leases.len(), 1);
        let lease = leases.into_iter().next().unwrap();
        assert_eq!(**lease.sighting(), sighting(serial, bytes as u64));
        assert_eq!(lease.acceptance(), &accepted());
        assert_eq!(read_body(&lease), content(serial, bytes));
        lease.settle(stored());
        until("settled", || queue.waiting() == 0).await;
    }
    journal.close().await.unwrap();
    assert!(matches!(journal.draft(), Err(JournalError::Closed)));
}

#[tokio::test]
async fn what_waits_survives_and_what_is_settled_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let journal = open(&options, &["vault", "archive"]);
    for serial in 0..40 {
        let captured = capture(&journal, serial, 9_000).await.unwrap();
        match serial % 4 {
            0 => captured.release(accepted()),
            1 => captured.discard("550 no".into()),
            2 => drop(captured),
            _ => captured.release(Acceptance::NotAsked),
        }
    }
    let queue = journal.queue("vault");
    until("released", || queue.waiting() == 30).await;
    for lease in queue.lease(10, 1 << 30).await {
        lease.settle(stored());
    }
    until("settled", || queue.waiting() == 20).await;
    journal.close().await.unwrap();
    drop((journal, queue));

    let journal = open(&options, &["vault", "archive"]);
    let (vault, archive) = (journal.queue("vault"), journal.queue("archive"));
    assert_eq!((vault.waiting(), archive.waiting()), (20, 30));
    let leases = archive.lease(100, 1 << 30).await;
    let serials: Vec<u64> = leases
        .iter()
        .map(|l| l.sighting().captured_at.0 - 1_700_000_000_000)
        .collect();
    let expected: Vec<u64> = (0..40).filter(|serial| serial % 4 != 1).collect();
    assert_eq!(serials, expected, "oldest first");
    for (serial, lease) in serials.iter().zip(&leases) {
        assert_eq!(read_body(lease), content(*serial, 9_000));
        let fate = match serial % 4 {
            0 => accepted(),
            2 => Acceptance::Unknown,
            _ => Acceptance::NotAsked,
        };
        assert_eq!(lease.acceptance(), &fate);
    }
}

#[tokio::test]
async fn a_capture_without_its_fate_is_not_leased_and_does_not_hold_up_those_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(&options(dir.path()), &["vault"]);
    let queue = journal.queue("vault");
    let first = capture(&journal, 1, 100).await.unwrap();
    capture(&journal, 2, 100).await.unwrap().release(accepted());
    let second = queue.lease(10, 1 << 30).await;
    assert_eq!(second.len(), 1);
    assert_eq!(second[0].sighting().id, sighting(2, 0).id);
    first.release(accepted());
    let first = queue.lease(10, 1 << 30).await;
    assert_eq!(first[0].sighting().id, sighting(1, 0).id);
}

#[tokio::test]
async fn dropped_leases_go_back_and_postponed_ones_come_at_their_time() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(&options(dir.path()), &["vault"]);
    let queue = journal.queue("vault");
    for serial in 1..=3 {
        capture(&journal, serial, 100)
            .await
            .unwrap()
            .release(accepted());
    }
    until("released", || queue.waiting() == 3).await;
    let mut leases = queue.lease(2, 1 << 30).await;
    assert_eq!(leases.len(), 2);
    leases
        .remove(0)
        .postpone(Duration::from_millis(30), "451 later");
    drop(leases);
    let leases = queue.lease(10, 1 << 30).await;
    let ids: Vec<CaptureId> = leases.iter().map(|l| l.sighting().id).collect();
    assert_eq!(ids, [sighting(2, 0).id, sighting(3, 0).id]);
    let late = queue.lease(10, 1 << 30).await;
    assert_eq!(late[0].sighting().id, sighting(1, 0).id);
    assert_eq!(late[0].attempts(), 1);
    assert_eq!(queue.waiting(), 3, "all three are still on their way");
}

#[tokio::test]
async fn a_parked_capture_is_counted_apart_and_has_no_lag() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let journal = open(&options, &["vault"]);
    let queue = journal.queue("vault");
    capture(&journal, 1, 100).await.unwrap().release(accepted());
    let lease = queue.lease(1, 1).await.remove(0);
    let now = UnixMillis(1_700_000_000_001 + 5_000);
    assert_eq!(queue.lag_seconds(now), 5.0);
    lease.settle(Outcome::Parked {
        why: "invalidEmail".into(),
    });
    until("parked", || queue.parked() == 1).await;
    assert_eq!((queue.waiting(), queue.lag_seconds(now)), (0, 0.0));
    journal.close().await.unwrap();
    drop((journal, queue));
    let journal = open(&options, &["vault"]);
    assert_eq!(journal.queue("vault").parked(), 1);
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
async fn a_new_target_sees_captures_from_then_on_and_a_removed_one_waits_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let journal = open(&options, &["old"]);
    capture(&journal, 1, 100).await.unwrap().release(accepted());
    let old = journal.queue("old");
    until("released", || old.waiting() == 1).await;
    journal.set_targets(&["new".into()]).unwrap();
    assert!(old.lease(1, 1).await.is_empty(), "its wait is over");
    capture(&journal, 2, 100).await.unwrap().release(accepted());
    let new = journal.queue("new");
    let leases = new.lease(10, 1 << 30).await;
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].sighting().id, sighting(2, 0).id);
    drop(leases);
    journal.close().await.unwrap();
    drop((journal, new, old));
    let journal = open(&options, &["new"]);
    assert_eq!(journal.queue("new").waiting(), 1);
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
    assert_eq!(serial, 5);
    until("released", || queue.waiting() == 5).await;
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
async fn settled_segments_are_used_again_and_a_parked_capture_pins_none() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let journal = open(&options, &["vault"]);
    let queue = journal.queue("vault");
    capture(&journal, 0, 2_000)
        .await
        .unwrap()
        .release(accepted());
    let lease = queue.lease(1, 1).await.remove(0);
    lease.settle(Outcome::Parked { why: "no".into() });
    let segments = || {
        std::fs::read_dir(dir.path().join("journal/segments"))
            .unwrap()
            .count()
    };
    for serial in 1..=400 {
        capture(&journal, serial, 10_000)
            .await
            .unwrap()
            .release(accepted());
        for lease in queue.lease(10, 1 << 30).await {
            lease.settle(stored());
        }
    }
    until("cleared away", || segments() <= 8).await;
    assert_eq!(queue.parked(), 1);
    journal.close().await.unwrap();
    drop((journal, queue));
    let journal = open(&options, &["vault"]);
    assert_eq!(journal.queue("vault").parked(), 1);
    assert_eq!(journal.queue("vault").waiting(), 0);
}

async fn view_of<T: Send + 'static>(view: View, f: impl FnOnce(&View) -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(move || f(&view)).await.unwrap()
}

#[tokio::test]
async fn an_operator_lists_holds_releases_retries_and_exports() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let journal = open(&options, &["vault", "archive"]);
    let vault = journal.queue("vault");
    for serial in 1..=5 {
        let captured = capture(&journal, serial, 30_000).await.unwrap();
        captured.release(accepted());
    }
    until("released", || vault.waiting() == 5).await;
    let held = sighting(1, 0).id;
    assert!(journal.hold(held).await.unwrap());
    assert_eq!((vault.waiting(), vault.held()), (4, 1));
    for lease in vault.lease(10, 1 << 30).await {
        assert_ne!(lease.sighting().id, held);
        lease.settle(Outcome::Parked {
            why: "tooLarge".into(),
        });
    }
    until("parked", || vault.parked() == 4).await;

    let parked = Filter {
        target: Some("vault".into()),
        state: Some("parked".into()),
    };
    let page = view_of(journal.view(), move |v| v.list(&parked, None, 3).unwrap()).await;
    assert_eq!(page.captures.len(), 3);
    let next = page.next.unwrap().to_string().parse().unwrap();
    let rest = view_of(journal.view(), move |v| {
        v.list(&Filter::default(), Some(next), 9).unwrap()
    })
    .await;
    assert_eq!(rest.captures.len(), 1);
    assert_eq!(rest.captures[0].id, sighting(5, 0).id);
    assert_eq!(rest.captures[0].sender, "a@example.org".into());
    let states = &rest.captures[0].targets;
    let why = "tooLarge".into();
    assert_eq!(states[0], ("vault".into(), TargetState::Parked { why }));
    assert_eq!(states[1], ("archive".into(), TargetState::Waiting));

    assert!(journal.retry(sighting(2, 0).id, None).await.unwrap());
    assert_eq!((vault.parked(), vault.waiting()), (3, 1));
    assert_eq!(journal.retry_all("vault").await.unwrap(), 3);
    assert_eq!((vault.parked(), vault.waiting()), (0, 4));
    assert_eq!(vault.lease(10, 1 << 30).await.len(), 4);
    assert!(
        !journal.hold(sighting(77, 0).id).await.unwrap(),
        "no such capture"
    );

    // Beside the open journal, from the disk alone.
    let root = dir.path().to_owned();
    let beside = View::open(&root).unwrap();
    let shown = beside.show(held).unwrap().unwrap();
    assert_eq!(shown.sighting, sighting(1, 30_000));
    assert_eq!(shown.acceptance, accepted());
    assert!(
        shown
            .targets
            .iter()
            .all(|(_, state)| *state == TargetState::Held)
    );
    let mut exported = Vec::new();
    assert_eq!(beside.export(held, &mut exported).unwrap(), Some(30_000));
    assert_eq!(exported, content(1, 30_000));
    let report = fsck(dir.path(), false).unwrap();
    assert_eq!((report.captures, report.bad.len()), (5, 0));

    assert!(journal.release(held).await.unwrap());
    assert_eq!((vault.waiting(), vault.held()), (5, 0));
}

#[tokio::test]
async fn a_flipped_byte_costs_its_own_message_alone_and_lands_in_the_quarantine() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let journal = open(&options, &["vault"]);
    for serial in 1..=20 {
        let captured = capture(&journal, serial, 9_000).await.unwrap();
        captured.release(accepted());
    }
    journal.close().await.unwrap();
    drop(journal);
    let segments = dir.path().join("journal/segments");
    let mut damaged = 0;
    for file in std::fs::read_dir(segments).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        // In the middle of a body, and in a header's magic.
        for (needle, shift) in [(&b"message 5\r\n"[..], 400), (b"message 11\r\n", 0)] {
            if let Some(at) = memchr::memmem::find(&bytes, needle) {
                let header = memchr::memmem::rfind(&bytes[..at], b"mtJ1").unwrap();
                let at = if shift == 0 { header } else { at + shift };
                bytes[at] ^= 0x10;
                damaged += 1;
            }
        }
        std::fs::write(&path, &bytes).unwrap();
    }
    assert_eq!(damaged, 2);
    let report = fsck(dir.path(), false).unwrap();
    let causes: Vec<&str> = report.bad.iter().map(|bad| bad.cause).collect();
    assert_eq!(
        causes,
        [
            "payload checksum does not match",
            "header checksum does not match"
        ]
    );
    assert_eq!(report.quarantined, 0, "looking changes nothing");

    for _ in 0..2 {
        let metrics = Arc::new(Metrics::new());
        let journal = Journal::open(options.clone(), &["vault".into()], metrics.clone()).unwrap();
        assert_eq!(
            metrics.quarantined_records.get(),
            2,
            "and not again at the next start"
        );
        let leases = journal.queue("vault").lease(100, 1 << 30).await;
        let ids: Vec<CaptureId> = leases.iter().map(|l| l.sighting().id).collect();
        let whole = (1..=20).filter(|serial| ![5, 11].contains(serial));
        let expected: Vec<CaptureId> = whole.map(|serial| sighting(serial, 0).id).collect();
        assert_eq!(ids, expected);
    }
    assert_eq!(fsck(dir.path(), true).unwrap().bad, []);
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
async fn a_session_that_ends_while_its_capture_is_synced_leaves_it_to_be_forwarded() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(&options(dir.path()), &["vault"]);
    let mut draft = journal.draft().unwrap();
    draft.write(&content(1, 100)).await.unwrap();
    let told = sighting(1, 100);
    {
        let commit = draft.commit(&told);
        tokio::pin!(commit);
        // Asked for, then dropped before the answer is looked at.
        let waker = futures_util::task::noop_waker();
        let mut context = std::task::Context::from_waker(&waker);
        let _ = std::future::Future::poll(commit.as_mut(), &mut context);
    }
    let lease = journal.queue("vault").lease(1, 1).await.remove(0);
    assert_eq!(lease.sighting().id, told.id);
    assert_eq!(lease.acceptance(), &Acceptance::Unknown);
}

#[tokio::test]
async fn a_damaged_large_file_is_named_by_fsck_and_never_read_as_if_it_were_whole() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let journal = open(&options, &["vault"]);
    capture(&journal, 1, 50_000)
        .await
        .unwrap()
        .release(accepted());
    let lease = journal.queue("vault").lease(1, 1).await.remove(0);
    let large = std::fs::read_dir(dir.path().join("journal/large")).unwrap();
    let path = large.into_iter().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[40_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let read = std::io::copy(&mut lease.body().open().unwrap(), &mut std::io::sink());
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    drop(lease);
    journal.close().await.unwrap();
    drop(journal);
    let report = fsck(dir.path(), false).unwrap();
    assert_eq!(report.bad[0].cause, "large file's checksum does not match");

    // Gone altogether: the record is kept in the quarantine, and blocks nobody.
    std::fs::remove_file(path).unwrap();
    let report = fsck(dir.path(), false).unwrap();
    assert_eq!(report.bad[0].cause, "its large file is missing or short");
    assert_eq!(report.bad.len(), 1);
    let journal = open(&options, &["vault"]);
    assert_eq!(journal.queue("vault").waiting(), 0);
    assert_eq!(journal.shared.metrics.quarantined_records.get(), 1);
}

#[tokio::test]
async fn a_hold_survives_a_restart_and_a_held_capture_does_not_pin_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let journal = open(&options, &["vault"]);
    capture(&journal, 0, 2_000)
        .await
        .unwrap()
        .release(accepted());
    let held = sighting(0, 0).id;
    assert!(journal.hold(held).await.unwrap());
    let queue = journal.queue("vault");
    let segments = || {
        std::fs::read_dir(dir.path().join("journal/segments"))
            .unwrap()
            .count()
    };
    for serial in 1..=200 {
        capture(&journal, serial, 10_000)
            .await
            .unwrap()
            .discard("550 no".into());
    }
    until("cleared away", || segments() <= 8).await;
    journal.close().await.unwrap();
    drop((journal, queue));
    let journal = open(&options, &["vault"]);
    let queue = journal.queue("vault");
    assert_eq!((queue.waiting(), queue.held()), (0, 1));
    assert!(journal.release(held).await.unwrap());
    let lease = queue.lease(1, 1).await.remove(0);
    assert_eq!(read_body(&lease), content(0, 2_000));
    assert_eq!(lease.acceptance(), &accepted(), "it took its fate along");
}
