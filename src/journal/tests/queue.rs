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
    journal
        .set_targets(&["new".into()], &["old".into()])
        .unwrap();
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

/// Asks for a commit and goes away, before the writer has got to it or after it has answered. The message's number.
async fn commit_unheard(journal: &Journal, mut serial: u64, discard: bool, late: bool) -> u64 {
    while !goes_away(journal, serial, discard, late).await {
        serial += 1000;
    }
    serial
}

/// False: the writer was so quick that the answer was heard, and the message is none.
async fn goes_away(journal: &Journal, serial: u64, discard: bool, late: bool) -> bool {
    let mut draft = journal.draft().unwrap();
    draft.write(&content(serial, 100)).await.unwrap();
    if discard {
        draft.discard_unheard();
    }
    let told = sighting(serial, 100);
    let commit = draft.commit(&told);
    tokio::pin!(commit);
    let waker = futures_util::task::noop_waker();
    let mut context = std::task::Context::from_waker(&waker);
    let polled = std::future::Future::poll(commit.as_mut(), &mut context);
    if let std::task::Poll::Ready(captured) = polled {
        captured.unwrap().discard("heard".into());
        return false;
    }
    if late {
        let id = told.id;
        until("synced", || journal.view().find(id).unwrap().is_some()).await;
    }
    true
}

#[tokio::test]
async fn a_session_that_ends_while_its_capture_is_synced_leaves_it_to_be_forwarded() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(&options(dir.path()), &["vault"]);
    for (serial, late) in [(1, false), (2, true)] {
        let serial = commit_unheard(&journal, serial, false, late).await;
        let lease = journal.queue("vault").lease(1, 1).await.remove(0);
        assert_eq!(lease.sighting().id, sighting(serial, 0).id);
        assert_eq!(lease.acceptance(), &Acceptance::Unknown);
        lease.settle(stored());
    }
}

#[tokio::test]
async fn a_capture_that_nobody_can_have_passed_on_is_discarded_when_its_session_ends() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let journal = open(&options, &["vault"]);
    let queue = journal.queue("vault");
    for (serial, late) in [(1, false), (2, true)] {
        commit_unheard(&journal, serial, true, late).await;
        capture(&journal, 10 + serial, 100)
            .await
            .unwrap()
            .release(accepted());
        let lease = queue.lease(10, 1 << 30).await;
        assert_eq!(lease.len(), 1);
        assert_eq!(lease[0].sighting().id, sighting(10 + serial, 0).id);
        for lease in lease {
            lease.settle(stored());
        }
        until("nothing waits", || queue.waiting() == 0).await;
    }
    assert_eq!(journal.shared.draft_bytes.load(Relaxed), 0);
    journal.close().await.unwrap();
    drop((journal, queue));
    assert_eq!(open(&options, &["vault"]).queue("vault").waiting(), 0);
}

#[tokio::test]
async fn a_postponed_capture_that_was_held_and_let_go_has_its_lag_again_and_comes_at_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(&options(dir.path()), &["vault"]);
    let queue = journal.queue("vault");
    let now = UnixMillis(1_700_000_000_001 + 5_000);
    let says = || (queue.waiting(), queue.held(), queue.lag_seconds(now));
    let id = sighting(1, 0).id;
    capture(&journal, 1, 100).await.unwrap().release(accepted());
    // Due before it is let go, and after; moved by the keeper meanwhile, and not.
    for (delay_ms, moved) in [(0, false), (0, true), (40, false), (40, true)] {
        let lease = queue.lease(1, 1).await.remove(0);
        lease.postpone(Duration::from_millis(delay_ms), "451 later");
        assert_eq!(says(), (1, 0, 5.0));
        assert!(journal.hold(id).await.unwrap());
        assert_eq!(says(), (0, 1, 0.0));
        // Others come and go meanwhile, and the look for the oldest goes on behind it.
        for serial in 2..=60 {
            let captured = capture(&journal, serial, 10_000).await.unwrap();
            captured.release(accepted());
            let lease = queue.lease(1, 1).await.remove(0);
            assert_eq!(lease.sighting().id, sighting(serial, 0).id);
            assert_eq!(queue.lag_seconds(now), 5.0 - 0.001 * (serial - 1) as f64);
            lease.settle(stored());
            until("settled", || queue.waiting() == 0).await;
        }
        if moved {
            let of = journal.view().find(id).unwrap().unwrap();
            keeper::relocate(&journal.shared, &[of]);
            until("moved", || journal.view().find(id).unwrap() != Some(of)).await;
        }
        assert!(journal.release(id).await.unwrap());
        assert_eq!(says(), (1, 0, 5.0));
    }
    let lease = queue.lease(1, 1).await.remove(0);
    assert_eq!(lease.attempts(), 4);
    lease.settle(stored());
    until("settled", || says() == (0, 0, 0.0)).await;
}

#[tokio::test]
async fn a_reload_may_not_drop_a_target_with_a_backlog_unless_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(&options(dir.path()), &["old"]);
    let old = journal.queue("old");
    // Its fate is still to come: it counts already.
    let captured = capture(&journal, 1, 100).await.unwrap();
    let refused = journal.set_targets(&["new".into()], &["other".into()]);
    let Err(JournalError::Backlog { target, captures }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((target.as_str(), captures), ("old", 1));
    captured.release(accepted());
    let lease = old.lease(1, 1).await.remove(0);
    lease.settle(stored());
    // What is settled before it is asked is settled when it is decided.
    journal.set_targets(&["new".into()], &[]).unwrap();
    assert!(old.lease(1, 1).await.is_empty());
}
