//! What the tests of this stage open and put into the map.

use tempfile::TempDir;

use super::{Claim, Dedup, DedupError, Options, StoredCopy};
use crate::{
    message::{CaptureId, K1, K2, UnixMillis, fingerprint::Core},
    metrics::Metrics,
};

pub(super) fn open() -> (TempDir, Dedup) {
    let dir = TempDir::new().unwrap();
    let dedup = open_at(&dir).unwrap();
    (dir, dedup)
}

pub(super) fn open_at(dir: &TempDir) -> Result<Dedup, DedupError> {
    Dedup::open(Options::new(dir.path().join("map")), &Metrics::new())
}

pub(super) fn k2(n: u64) -> K2 {
    K2(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

pub(super) fn id(n: u64) -> CaptureId {
    CaptureId::from_parts(UnixMillis(n), [7; 10])
}

pub(super) fn copy(n: u64) -> StoredCopy {
    StoredCopy {
        first: id(n),
        k1: K1([n as u8; 32]),
        core: Core([!n as u8; 32]),
        remote_id: format!("G{n}"),
    }
}

/// Sends and confirms these messages.
pub(super) fn fill(dedup: &Dedup, target: &str, messages: std::ops::Range<u64>) {
    for n in messages {
        match dedup.claim(target, &k2(n), id(n)) {
            Claim::New(lease) => drop(lease.confirm(copy(n))),
            other => panic!("message {n} is not new: {other:?}"),
        }
    }
}

/// How many of these messages the map knows at the target, each as it was confirmed.
pub(super) fn known(dedup: &Dedup, target: &str, messages: std::ops::Range<u64>) -> usize {
    messages
        .filter(|n| {
            dedup
                .stored(target, &k2(*n))
                .is_some_and(|known| known == copy(*n))
        })
        .count()
}
