//! What does the target hold that nothing here knows? Copies of an earlier installation, of a lost dedup map, or mail
//! that others put where ours goes.
//!
//! The map is read before and, where something is found, after the target: a copy that came meanwhile is known. One that
//! is sent and not yet confirmed may be named; it is known the next time. Memory: sixteen bytes a copy that the map knows.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
};

use super::reconcile::NAMED_MAX;
use crate::{
    dedup::Dedup,
    targets::{PutError, RemoteStore},
};

/// What was found; `None` where the target does not let itself be listed.
pub(super) async fn beyond(
    dedup: &Dedup,
    target: &str,
    store: &dyn RemoteStore,
) -> Result<Option<Strangers>, PutError> {
    let keys = RandomState::new();
    let mut known = None;
    let mut found = Strangers::default();
    let mut position = 0;
    loop {
        let Some(page) = store.list(position).await? else {
            return Ok(None);
        };
        if page.is_empty() {
            break;
        }
        position += page.len() as u64;
        let known = match &known {
            Some(known) => known,
            None => known.insert(ids(dedup, target, &keys).await),
        };
        for id in page {
            if known.contains(&keys.hash_one(&id)) {
                continue;
            }
            match found.named.len() < NAMED_MAX {
                true => found.named.push(id),
                false => found.more += 1,
            }
        }
    }
    if !found.named.is_empty() {
        dedup.flush().await;
        let known = ids(dedup, target, &keys).await;
        found.named.retain(|id| !known.contains(&keys.hash_one(id)));
    }
    Ok(Some(found))
}

/// E-mails at the target that nobody here knows.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// Their ids, as far as they are named.
    pub named: Vec<String>,
    pub more: u64,
}

/// The target's ids in the map, as hashes.
async fn ids(dedup: &Dedup, target: &str, keys: &RandomState) -> HashSet<u64> {
    let (copies, keys) = (dedup.copies(target), keys.clone());
    let read = tokio::task::spawn_blocking(move || {
        let readable = copies.filter_map(Result::ok);
        readable
            .map(|copy| keys.hash_one(&copy.remote_id))
            .collect()
    });
    read.await.unwrap_or_default()
}
