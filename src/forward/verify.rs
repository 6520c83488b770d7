//! Does the target hold what we believe it holds? Reads the dedup map, asks the target, names each difference. Changes
//! nothing but, where asked to, the map: a copy that is gone is forgotten, so that the next sighting sends its bytes.

use crate::{
    dedup::{Dedup, DedupError, StoredCopy},
    targets::{PutError, RemoteStore},
};

/// Copies asked for at once.
const BATCH: usize = 500;

/// One entry of the map that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The map knows a copy that the target has not, or has in other bytes.
    Missing(StoredCopy),
    /// An entry of the map that cannot be read.
    Unreadable(String),
}

/// How many entries were looked at, and how many do not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub checked: u64,
    pub missing: u64,
    pub unreadable: u64,
}

impl Summary {
    /// Every entry holds.
    pub fn is_clean(&self) -> bool {
        self.missing == 0 && self.unreadable == 0
    }
}

/// Checks every copy that the map knows at `target`; `found` hears of each difference as it is found.
pub async fn verify(
    dedup: &Dedup,
    target: &str,
    store: &dyn RemoteStore,
    mut found: impl FnMut(Finding),
) -> Result<Summary, PutError> {
    let mut summary = Summary::default();
    let mut copies = dedup.copies(target);
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let some: Vec<_> = copies.by_ref().take(BATCH).collect();
            (copies, some)
        });
        let Ok((rest, some)) = read.await else {
            return Ok(summary);
        };
        copies = rest;
        if some.is_empty() {
            return Ok(summary);
        }
        let (known, unreadable): (Vec<_>, Vec<_>) = some.into_iter().partition(Result::is_ok);
        for error in unreadable.into_iter().filter_map(Result::err) {
            summary.unreadable += 1;
            found(unreadable_entry(&error));
        }
        let known: Vec<StoredCopy> = known.into_iter().filter_map(Result::ok).collect();
        let held = store.holds(&known).await?;
        summary.checked += known.len() as u64;
        for (copy, _) in known.into_iter().zip(held).filter(|(_, held)| !held) {
            summary.missing += 1;
            found(Finding::Missing(copy));
        }
    }
}

fn unreadable_entry(error: &DedupError) -> Finding {
    Finding::Unreadable(error.to_string())
}
