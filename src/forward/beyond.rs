//! What does the target hold that nothing here knows? Copies of an earlier installation, of a lost dedup map, or mail
//! that others put where ours goes.
//!
//! The map is read before and, where something is found, after the target: a copy that came meanwhile is known. One that
//! is sent and not yet confirmed may be named; it is known the next time. Memory: sixteen bytes a copy that the map knows,
//! eight a stranger that is only counted.

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
            let hash = keys.hash_one(&id);
            if !known.contains(&hash) {
                found.add(id, hash);
            }
        }
    }
    if !found.named.is_empty() {
        dedup.flush().await;
        found.retain(&ids(dedup, target, &keys).await);
    }
    Ok(Some(found))
}

/// E-mails at the target that nobody here knows.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// Their ids, as far as they are named, and their hashes.
    named: Vec<(String, u64)>,
    /// The hashes of the rest.
    more: Vec<u64>,
}

impl Strangers {
    fn add(&mut self, id: String, hash: u64) {
        match self.named.len() < NAMED_MAX {
            true => self.named.push((id, hash)),
            false => self.more.push(hash),
        }
    }

    /// Leaves out what is known by now.
    fn retain(&mut self, known: &HashSet<u64>) {
        self.named.retain(|(_, hash)| !known.contains(hash));
        self.more.retain(|hash| !known.contains(hash));
    }

    /// The named ones, and how many there are beside them.
    pub(super) fn into_parts(self) -> (impl Iterator<Item = String>, u64) {
        let more = self.more.len() as u64;
        (self.named.into_iter().map(|(id, _)| id), more)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_by_the_second_look_is_neither_named_nor_counted() {
        let total = NAMED_MAX as u64 + 100;
        let mut found = Strangers::default();
        for hash in 0..total {
            found.add(hash.to_string(), hash);
        }
        // Copies that were on their way when the target was listed.
        found.retain(&[3, total - 2, total - 1].into());
        let (named, more) = found.into_parts();
        let named: Vec<String> = named.collect();
        assert_eq!((named.len(), more), (NAMED_MAX - 1, 98));
        assert!(!named.contains(&"3".to_owned()));
    }
}
