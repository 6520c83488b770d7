//! Which messages in which mailboxes have a copy already: so that a message that is read again is not copied again.
//!
//! It is a memory of this process, of bounded size. What it has forgotten, or never knew, is copied once more, which costs
//! a sighting: the dedup map sees that it is the same message.

use std::collections::HashSet;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// The name of a message in a mailbox: half a SHA-256, which no two share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 16]);

impl Key {
    /// A message by its number: it never changes as long as UIDVALIDITY does not (RFC 9051 section 2.3.1.1).
    pub(super) fn of_uid(user: &[u8], folder: &[u8], uid_validity: u32, uid: u32) -> Self {
        let number = [uid_validity.to_be_bytes(), uid.to_be_bytes()].concat();
        Self::of(b"uid", user, folder, &number)
    }

    /// A message without a number, by a digest of its bytes.
    pub(super) fn of_content(user: &[u8], folder: &[u8], digest: &[u8; 32]) -> Self {
        Self::of(b"content", user, folder, digest)
    }

    fn of(kind: &[u8], user: &[u8], folder: &[u8], name: &[u8]) -> Self {
        let mut digest = Sha256::new();
        for part in [kind, user, folder, name] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let mut key = [0; 16];
        key.copy_from_slice(&digest.finalize()[..16]);
        Self(key)
    }
}

/// Two generations: when the young one is full it becomes the old one, whose entries are forgotten.
pub(super) struct Known {
    max: usize,
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashSet<Key>,
    old: HashSet<Key>,
}

impl Known {
    /// Remembers at least `max / 2` messages, and at most `max`.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            generations: Mutex::default(),
        }
    }

    pub(super) fn has(&self, key: Key) -> bool {
        let mut known = self.generations.lock();
        if known.young.contains(&key) {
            return true;
        }
        let is_old = known.old.contains(&key);
        if is_old {
            known.insert(key, self.max);
        }
        is_old
    }

    pub(super) fn insert(&self, key: Key) {
        self.generations.lock().insert(key, self.max);
    }

    /// There is no copy after all.
    pub(super) fn remove(&self, key: Key) {
        let mut known = self.generations.lock();
        known.young.remove(&key);
        known.old.remove(&key);
    }
}

impl Generations {
    fn insert(&mut self, key: Key, max: usize) {
        if self.young.len() >= max / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(uid: u32) -> Key {
        Key::of_uid(b"user", b"INBOX", 1, uid)
    }

    #[test]
    fn the_latest_are_remembered_and_no_more_than_was_said() {
        let known = Known::new(100);
        (0..1000).for_each(|uid| known.insert(key(uid)));
        assert!((950..1000).all(|uid| known.has(key(uid))));
        let count = (0..1000).filter(|&uid| known.has(key(uid))).count();
        assert!(count <= 100, "{count}");
    }

    #[test]
    fn what_is_asked_for_stays() {
        let known = Known::new(100);
        known.insert(key(0));
        for uid in 1..1000 {
            known.insert(key(uid));
            assert!(known.has(key(0)));
        }
        known.remove(key(0));
        assert!(!known.has(key(0)));
    }

    #[test]
    fn every_part_of_the_name_counts() {
        let keys = [
            key(1),
            Key::of_uid(b"user", b"INBOX", 2, 1),
            Key::of_uid(b"use", b"rINBOX", 1, 1),
            Key::of_uid(b"user", b"Sent", 1, 1),
            key(2),
        ];
        assert_eq!(HashSet::from(keys).len(), keys.len());
    }
}
