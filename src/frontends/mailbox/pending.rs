//! Whole messages that have passed and are not in the journal yet: a session waits for its own before it may remove one.
//!
//! A message that two sessions read at the same time has one copy: the session that makes none waits for that one as well.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use super::known::Key;
use crate::metrics::IntGauge;

/// The messages of one session.
pub(super) struct Unsettled(TaskTracker);

/// One of them, for as long as this lives.
pub(super) struct Pending {
    count: IntGauge,
    _unsettled: TaskTrackerToken,
}

/// Copies on their way, by the names by which their messages are known already.
#[derive(Default)]
pub(super) struct UnderWay(Mutex<HashMap<Key, Way>>);

#[derive(Default)]
struct Way {
    copies: usize,
    /// Those of other sessions that wait for it.
    others: Vec<TaskTrackerToken>,
}

impl Unsettled {
    pub(super) fn new() -> Self {
        let messages = TaskTracker::new();
        // It is waited for again and again, not for its end.
        messages.close();
        Self(messages)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) async fn none(&self) {
        self.0.wait().await;
    }

    /// One more, which `count` counts.
    pub(super) fn pending(&self, count: &IntGauge) -> Pending {
        count.inc();
        Pending {
            count: count.clone(),
            _unsettled: self.0.token(),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.count.dec();
    }
}

impl UnderWay {
    /// The copy by this name is not durable before it [has ended](Self::ended).
    pub(super) fn begins(&self, key: Key) {
        self.0.lock().entry(key).or_default().copies += 1;
    }

    pub(super) fn ended(&self, key: Key) {
        let mut all = self.0.lock();
        let Some(way) = all.get_mut(&key) else {
            return;
        };
        way.copies -= 1;
        if way.copies == 0 {
            all.remove(&key);
        }
    }

    /// A message that is known by this name is unsettled as long as that copy is on its way.
    pub(super) fn join(&self, key: Key, unsettled: &Unsettled) {
        if let Some(way) = self.0.lock().get_mut(&key) {
            way.others.push(unsettled.0.token());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_reads_what_another_copies_waits_for_that_copy() {
        let (under_way, own) = (UnderWay::default(), Unsettled::new());
        let key = |uid| Key::of_uid(b"user", b"INBOX", 1, uid);
        own.none().await;
        under_way.begins(key(1));
        under_way.begins(key(1));
        under_way.join(key(2), &own);
        assert!(own.is_empty(), "nobody copies that one");
        under_way.join(key(1), &own);
        under_way.ended(key(1));
        assert!(!own.is_empty(), "one of two copies");
        under_way.ended(key(1));
        own.none().await;
        assert!(under_way.0.lock().is_empty());
    }
}
