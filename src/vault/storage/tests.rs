//! The store without a server: what a power cut takes, what a day takes, one writer a directory.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use super::*;
use crate::message::{CaptureId, Fingerprinter, K1};

fn open(dir: &Path) -> Arc<Store> {
    Store::open(dir, None, Arc::new(Metrics::new())).unwrap()
}

fn content(n: u32) -> Vec<u8> {
    format!("Subject: {n}\r\n\r\nbody of {n}\r\n").into_bytes()
}

fn k1(n: u32) -> K1 {
    Fingerprinter::of(&content(n)).k1
}

/// Stores messages in one round, each with a sighting.
async fn put(store: &Store, messages: std::ops::Range<u32>) {
    for n in messages.clone() {
        store.blobs.write(&k1(n), &content(n)).unwrap();
    }
    let round = store.write(move |writer| {
        for n in messages {
            let fingerprint = Fingerprinter::of(&content(n));
            let blob = writer.put_blob(&fingerprint, content(n).len() as u64)?;
            writer.import(&blob, &[2], "", UnixMillis(n.into()))?;
            writer.record(&NewSighting {
                id: CaptureId::from_bytes([n as u8 + 1; 16]),
                email: blob.row,
                blob: None,
                captured_at: UnixMillis(n.into()),
                sighting: "{}",
                acceptance: "{}",
                difference: None,
            })?;
        }
        Ok(())
    });
    round.await.unwrap();
}

fn blob_path(dir: &Path, n: u32) -> PathBuf {
    let name = k1(n).to_string();
    dir.join("blobs").join(&name[..2]).join(name)
}

#[test]
fn nobody_but_its_owner_looks_into_a_vault() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("deep").join("vault");
    let store = open(&data_dir);
    let mode = fs::metadata(&data_dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    store.close();
}

/// The directory as it is on disk at this moment, elsewhere: what a restart after a stop in mid-round finds.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn emails(store: &Store) -> Vec<K1> {
    let all = query::EmailFilter::And(Vec::new());
    let oldest_first = [(query::SortBy::ReceivedAt, true)];
    let page = query::Page {
        position: 0,
        limit: 1000,
    };
    let found = store.read_blocking(|index| {
        Ok::<_, StoreError>(query::emails(index, &all, &oldest_first, page)?)
    });
    found.unwrap().into_iter().map(|(_, k1)| k1).collect()
}

#[tokio::test]
async fn a_power_cut_in_mid_round_takes_only_what_was_never_confirmed() {
    let (dir, later) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(dir.path());
    put(&store, 0..10).await;
    put(&store, 10..20).await;
    put(&store, 20..30).await;
    copy(dir.path(), later.path());
    // Behind the mark, so as if the sync of their round had not come: lost, cut short, empty, other bytes.
    fs::remove_file(blob_path(later.path(), 20)).unwrap();
    fs::write(blob_path(later.path(), 21), &content(21)[..5]).unwrap();
    fs::write(blob_path(later.path(), 22), b"").unwrap();
    let mut other = content(23);
    other[0] ^= 1;
    fs::write(blob_path(later.path(), 23), other).unwrap();

    let again = open(later.path());
    let whole: Vec<K1> = (0..20).chain(24..30).map(k1).collect();
    assert_eq!(emails(&again), whole);
    let (archive, orphaned) = again
        .read_blocking(|index| {
            let orphaned: i64 = index.query_row(
                "SELECT count(*) FROM sightings WHERE email NOT IN (SELECT row FROM emails)",
                [],
                |row| row.get(0),
            )?;
            Ok::<_, StoreError>((rows::mailbox(index, 2)?.unwrap(), orphaned))
        })
        .unwrap();
    assert_eq!((archive.emails, archive.unread, orphaned), (26, 26, 0));
    // The sender was not told, so it sends them again.
    put(&again, 20..24).await;
    assert_eq!(emails(&again).len(), 30);
    for n in 0..30 {
        assert_eq!(again.blobs.read(&k1(n), 1000).unwrap(), content(n));
    }
    again.close();
    store.close();
}

#[tokio::test]
async fn a_clean_stop_leaves_nothing_to_verify() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, 0..3).await;
    store.close();
    let refused = store.write(|_| Ok(())).await;
    assert!(matches!(refused, Err(StoreError::Closed)));
    drop(store);
    // Were it read, it would be dropped.
    fs::write(blob_path(dir.path(), 1), b"").unwrap();
    let again = open(dir.path());
    assert_eq!(emails(&again).len(), 3);
    again.close();
}

#[tokio::test]
async fn a_directory_has_one_writer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let second = Store::open(dir.path(), None, Arc::new(Metrics::new()));
    assert!(matches!(second, Err(StoreError::InUse { .. })));
    store.close();
}

#[tokio::test]
async fn an_upload_that_nothing_names_goes_after_a_day_and_no_sooner() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, 0..1).await;
    for n in [5, 6] {
        store.blobs.write(&k1(n), &content(n)).unwrap();
        let upload = move |writer: &mut Writer<'_>| {
            let blob = writer.put_blob(&Fingerprinter::of(&content(n)), 10)?;
            if n == 6 {
                // A variant's bytes: a sighting names them, no e-mail does.
                writer.record(&NewSighting {
                    id: CaptureId::from_bytes([99; 16]),
                    email: 3,
                    blob: Some(blob.row),
                    captured_at: UnixMillis(0),
                    sighting: "{}",
                    acceptance: "{}",
                    difference: None,
                })?;
            }
            Ok(())
        };
        store.write(upload).await.unwrap();
    }
    let hours = |hours: u64| UnixMillis(now().0 + hours * 3_600_000);
    assert_eq!(store.remove_orphans(hours(23)).await.unwrap(), 0);
    assert_eq!(store.remove_orphans(hours(25)).await.unwrap(), 1);
    assert!(!blob_path(dir.path(), 5).exists());
    for n in [0, 6] {
        assert!(blob_path(dir.path(), n).exists(), "{n}");
    }
    store.close();
}

#[tokio::test]
async fn a_job_that_fails_undoes_its_own_steps_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let failed = store.write(|writer| -> Result<(), StoreError> {
        writer.put_blob(&Fingerprinter::of(b"x"), 1)?;
        panic!("a fault of one request");
    });
    assert!(matches!(failed.await, Err(StoreError::Unavailable { .. })));
    put(&store, 0..1).await;
    let lost = store.read_blocking(|index| {
        Ok::<_, StoreError>(rows::blob(index, &Fingerprinter::of(b"x").k1)?)
    });
    assert!(lost.unwrap().is_none());
    assert_eq!(emails(&store), [k1(0)]);
    store.close();
}
