//! The dedup map when its disk is full: nobody waits, nothing is claimed to be durable that is not, and what was durable
//! before is there after a restart.

use std::fs;

use mailtee::{
    dedup::{Claim, Dedup, Options, StoredCopy},
    message::{CaptureId, K1, K2, UnixMillis, fingerprint::Core},
    metrics::Metrics,
};

use crate::kit::SmallDisk;

fn open(disk: &SmallDisk) -> Dedup {
    Dedup::open(Options::new(disk.path().join("map")), &Metrics::new()).unwrap()
}

fn k2(n: u64) -> K2 {
    K2(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn copy(n: u64) -> StoredCopy {
    StoredCopy {
        first: CaptureId::from_parts(UnixMillis(n), [0; 10]),
        k1: K1([1; 32]),
        core: Core([2; 32]),
        remote_id: format!("{n:0>1000}"),
    }
}

/// Claims, confirms, and tells whether it is on disk.
async fn durable(dedup: &Dedup, n: u64) -> bool {
    match dedup.claim("vault", &k2(n), copy(n).first) {
        Claim::New(lease) => lease.confirm(copy(n)).wait().await,
        other => panic!("message {n} is not new: {other:?}"),
    }
}

fn known(dedup: &Dedup, n: u64) -> bool {
    match dedup.claim("vault", &k2(n), copy(n).first) {
        Claim::Stored(stored) => stored == copy(n),
        _ => false,
    }
}

#[tokio::test]
async fn a_full_disk_costs_entries_and_holds_nobody_up() {
    let disk = SmallDisk::new(8 << 20);
    let dedup = open(&disk);
    for n in 0..100 {
        assert!(durable(&dedup, n).await);
    }
    let neighbour = disk.fill();
    // The file system may still have a few blocks that belong to files already there.
    let mut first_lost = 100;
    while durable(&dedup, first_lost).await {
        first_lost += 1;
        assert!(first_lost < 10_000, "a full disk takes everything");
    }
    assert!(!durable(&dedup, first_lost + 1).await);
    assert!(!dedup.flush().await);
    assert!(
        (0..=first_lost + 1).all(|n| known(&dedup, n)),
        "memory goes on"
    );
    drop(dedup);

    fs::remove_file(neighbour).unwrap();
    let dedup = open(&disk);
    assert!(
        (0..100).all(|n| known(&dedup, n)),
        "what was durable is lost"
    );
    assert!(durable(&dedup, 20_000).await);
}
