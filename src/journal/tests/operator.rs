//! What an operator sees and does.

use super::*;

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
    released(&journal).await;
    assert_eq!(vault.waiting(), 5);
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

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_finds_a_capture_that_is_being_moved() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let journal = open(&options, &["vault", "archive"]);
    capture(&journal, 1, 50_000)
        .await
        .unwrap()
        .release(accepted());
    let id = sighting(1, 0).id;
    for target in ["vault", "archive"] {
        let lease = journal.queue(target).lease(1, 1).await.remove(0);
        lease.settle(Outcome::Parked { why: "no".into() });
    }
    let both = || journal.queue("vault").parked() + journal.queue("archive").parked() == 2;
    until("parked", both).await;
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let keeper = std::thread::spawn({
        let (shared, done) = (journal.shared.clone(), done.clone());
        move || {
            while !done.load(Relaxed) {
                let of = shared
                    .log
                    .index
                    .lock()
                    .entries_from(index::START)
                    .find_map(|(of, entry)| (!entry.is_finished()).then_some(of));
                keeper::relocate(&shared, &[of.expect("it is never finished")]);
            }
        }
    });
    for round in 0..100 {
        assert!(journal.hold(id).await.unwrap(), "hold {round}");
        assert!(journal.release(id).await.unwrap(), "release {round}");
        let shown = view_of(journal.view(), move |view| view.show(id).unwrap()).await;
        assert!(shown.is_some(), "show {round}");
    }
    assert!(journal.retry(id, None).await.unwrap());
    done.store(true, Relaxed);
    keeper.join().unwrap();
    assert_eq!(journal.queue("vault").waiting(), 1);
    assert_eq!(journal.queue("archive").waiting(), 1);
}

#[tokio::test]
async fn only_what_rests_can_be_dropped_and_it_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let journal = open(&options, &["vault", "archive"]);
    let vault = journal.queue("vault");
    let id = sighting(1, 0).id;
    let captured = capture(&journal, 1, 1_000).await.unwrap();
    assert!(journal.hold(id).await.unwrap());
    assert!(
        !journal.give_up(id, "vault").await.unwrap(),
        "the next hop has not answered"
    );
    assert!(journal.release(id).await.unwrap());
    captured.release(accepted());
    released(&journal).await;
    assert!(!journal.give_up(id, "vault").await.unwrap(), "it waits");
    let lease = vault.lease(1, 1 << 20).await.pop().unwrap();
    assert!(journal.hold(id).await.unwrap());
    assert!(
        !journal.give_up(id, "vault").await.unwrap(),
        "held, and on its way"
    );
    let why = "tooLarge".into();
    lease.settle(Outcome::Parked { why });
    assert!(journal.release(id).await.unwrap());
    assert_eq!(vault.parked(), 1);
    assert!(journal.retry(id, Some("vault")).await.unwrap());
    assert!(
        !journal.give_up(id, "vault").await.unwrap(),
        "it waits again"
    );
    let lease = vault.lease(1, 1 << 20).await.pop().unwrap();
    let why = "tooLarge".into();
    lease.settle(Outcome::Parked { why });
    until("parked", || vault.parked() == 1).await;
    assert!(journal.give_up(id, "vault").await.unwrap());
    assert_eq!((vault.parked(), vault.waiting()), (0, 0));
    assert!(!journal.retry(id, Some("vault")).await.unwrap());
    assert_eq!(journal.queue("archive").waiting(), 1);
    journal.close().await.unwrap();
    drop((journal, vault));

    let journal = open(&options, &["vault", "archive"]);
    let vault = journal.queue("vault");
    assert_eq!((vault.parked(), vault.waiting(), vault.held()), (0, 0, 0));
    assert_eq!(journal.queue("archive").waiting(), 1);
    journal.close().await.unwrap();
}
