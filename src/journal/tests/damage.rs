//! Bytes that change on the disk: named, set aside, in nobody's way.

use super::*;

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
    let read = std::io::copy(
        &mut lease.body().expect("its content").open().unwrap(),
        &mut std::io::sink(),
    );
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
async fn a_capture_that_goes_bad_while_it_waits_is_set_aside_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(&options(dir.path()), &["vault"]);
    let queue = journal.queue("vault");
    for serial in 1..=3 {
        let captured = capture(&journal, serial, 5_000).await.unwrap();
        captured.release(accepted());
    }
    released(&journal).await;
    assert_eq!(queue.waiting(), 3);
    for file in std::fs::read_dir(dir.path().join("journal/segments")).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        if let Some(at) = memchr::memmem::find(&bytes, b"message 2\r\n") {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, b"M", at as u64).unwrap();
        }
    }
    let leases = queue.lease(10, 1 << 30).await;
    let ids: Vec<CaptureId> = leases.iter().map(|l| l.sighting().id).collect();
    assert_eq!(ids, [sighting(1, 0).id, sighting(3, 0).id]);
    until("set aside", || queue.waiting() == 2).await;
    assert_eq!(journal.shared.metrics.quarantined_records.get(), 1);
    let kept = std::fs::read_dir(dir.path().join("journal/quarantine")).unwrap();
    assert_eq!(kept.count(), 1);
}

#[tokio::test]
async fn a_sighting_is_believed_without_its_content_and_neither_once_it_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        large_bytes_min: 64 << 10,
        ..options(dir.path())
    };
    let journal = open(&options, &["vault"]);
    let queue = journal.queue("vault");
    for serial in 1..=3 {
        let captured = capture(&journal, serial, 40_000).await.unwrap();
        captured.release(accepted());
    }
    released(&journal).await;
    // The end of one's content; what stands before another's.
    for file in std::fs::read_dir(dir.path().join("journal/segments")).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        let change = |at: usize| {
            std::os::unix::fs::FileExt::write_all_at(&file, b"#", at as u64).unwrap();
        };
        if let Some(at) = memchr::memmem::rfind(&bytes, b"message 2\r\n") {
            change(at);
        }
        if let Some(at) = memchr::memmem::find(&bytes, b"message 3\r\n") {
            change(memchr::memmem::rfind(&bytes[..at], b"a@example.org").unwrap());
        }
    }
    let nobody_wants = Arc::new(|_: &Sighting| false);
    let mut leases = queue.lease_batch(10, 1 << 30, nobody_wants).await.leases;
    let ids: Vec<CaptureId> = leases.iter().map(|l| l.sighting().id).collect();
    assert_eq!(ids, [sighting(1, 0).id, sighting(2, 0).id]);
    assert!(leases.iter().all(|lease| lease.body().is_none()));
    let quarantined = || journal.shared.metrics.quarantined_records.get();
    until("set aside", || quarantined() == 1).await;
    assert!(
        leases.pop().unwrap().read().await.is_none(),
        "its end is damaged"
    );
    until("set aside", || quarantined() == 2).await;
    let whole = leases.pop().unwrap().read().await.unwrap();
    assert_eq!(read_body(&whole), content(1, 40_000));
}
