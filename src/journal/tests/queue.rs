//! Leases: whose turn it is, what comes back, what a restart and a reload leave.

use super::*;

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
    released(&journal).await;
    assert_eq!(queue.waiting(), 30);
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
    released(&journal).await;
    assert_eq!(queue.waiting(), 3);
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
async fn a_capture_waits_and_has_lag_from_its_sync_on_though_nobody_is_leased_it_before_its_fate() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(&options(dir.path()), &["vault"]);
    let queue = journal.queue("vault");
    let now = UnixMillis(1_700_000_000_001 + 5_000);
    let captured = capture(&journal, 1, 100).await.unwrap();
    assert_eq!((queue.waiting(), queue.lag_seconds(now)), (1, 5.0));
    let early = tokio::time::timeout(Duration::from_millis(20), queue.lease(1, 1)).await;
    assert!(early.is_err(), "its fate is not known");
    captured.discard("550 no".into());
    until("discarded", || queue.waiting() == 0).await;
    assert_eq!(queue.lag_seconds(now), 0.0);
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
async fn a_new_target_sees_captures_from_then_on_and_a_removed_one_waits_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let journal = open(&options, &["old"]);
    capture(&journal, 1, 100).await.unwrap().release(accepted());
    let old = journal.queue("old");
    released(&journal).await;
    assert_eq!(old.waiting(), 1);
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
