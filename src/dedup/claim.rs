//! Claims as leases: one holder sends a message to a target, everybody else waits or learns of the copy.
//!
//! ```text
//! (absent) ─claim→ Claimed ─confirm→ Stored ─written, and old→ (on disk only)
//!     ↑               │ drop             │ remove: the target has it not
//!     └───────────────┘                  └─→ Removing ─claim→ Claimed ─drop→ Removing, until the writer has removed it
//! ```

use std::{fmt, sync::Arc};

use dashmap::Entry as Slot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    StoredCopy,
    shared::Shared,
    store::{Key, encode},
    writer::Progress,
};
use crate::message::CaptureId;

pub(super) enum Entry {
    Claimed {
        holder: CaptureId,
        /// Made for the first who waits; most claims have none.
        released: Option<CancellationToken>,
        /// What lies on disk is known to be wrong, and the writer has not removed it yet.
        removing: bool,
    },
    Stored {
        copy: Box<StoredCopy>,
        /// On disk, or never to be: may leave memory.
        written: bool,
    },
    /// Known to be wrong; still on disk until the writer has removed it.
    Removing,
}

/// The right to send a message to a target, alone. Dropped, it is given up and the next claim gets it.
#[must_use]
pub struct ClaimLease {
    shared: Arc<Shared>,
    key: Key,
    holder: CaptureId,
}

/// The end of somebody else's claim.
#[derive(Debug)]
pub struct Released(CancellationToken);

/// Tells when a confirmed copy is on disk.
#[derive(Debug)]
pub struct Durable {
    progress: watch::Receiver<Progress>,
    /// The job to wait for; `None` where the writer took none.
    serial: Option<u64>,
}

impl ClaimLease {
    pub(super) fn new(shared: Arc<Shared>, key: Key, holder: CaptureId) -> Self {
        Self {
            shared,
            key,
            holder,
        }
    }

    /// Seen by every later claim at once; durable with the next batch. Who awaits that before settling the capture
    /// cannot lose the entry to a crash: the capture is still unsettled and confirms it again.
    pub fn confirm(self, copy: StoredCopy) -> Durable {
        let value = encode(&copy);
        let shared = &*self.shared;
        shared.filter.insert(self.key.digest());
        let stored = Entry::Stored {
            copy: Box::new(copy),
            written: false,
        };
        // The entry before the job: the writer marks the entry when it has written it.
        let before = shared.entries.insert(self.key, stored);
        let serial = shared.queue.push_put(self.key, value);
        match serial {
            Some(_) => shared.count_entries(1),
            None => {
                shared.entries.remove(&self.key);
            }
        }
        if let Some(Entry::Claimed {
            released: Some(released),
            ..
        }) = before
        {
            released.cancel();
        }
        Durable::new(shared, serial)
    }
}

impl Drop for ClaimLease {
    fn drop(&mut self) {
        let Slot::Occupied(mut occupied) = self.shared.entries.entry(self.key) else {
            return;
        };
        let Entry::Claimed {
            holder,
            released,
            removing,
        } = occupied.get_mut()
        else {
            return;
        };
        if *holder != self.holder {
            return;
        }
        let released = released.take();
        if *removing {
            occupied.insert(Entry::Removing);
        } else {
            occupied.remove();
        }
        if let Some(released) = released {
            released.cancel();
        }
    }
}

impl fmt::Debug for ClaimLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimLease")
            .field("holder", &self.holder)
            .finish_non_exhaustive()
    }
}

impl Released {
    pub(super) fn of(token: &mut Option<CancellationToken>) -> Self {
        Self(token.get_or_insert_default().clone())
    }

    /// Returns when the claim was confirmed or given up. One of many who wait gets the next claim.
    pub async fn wait(self) {
        self.0.cancelled().await;
    }
}

impl Durable {
    pub(super) fn new(shared: &Shared, serial: Option<u64>) -> Self {
        Self {
            progress: shared.progress.subscribe(),
            serial,
        }
    }

    /// True once it is on disk; false where it will not be: the disk failed, or too much waited for it.
    pub async fn wait(mut self) -> bool {
        let Some(serial) = self.serial else {
            return false;
        };
        match self
            .progress
            .wait_for(|progress| progress.done >= serial)
            .await
        {
            Ok(progress) => progress.sound >= serial,
            Err(_closed) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::{Claim, samples::*};

    #[tokio::test]
    async fn a_second_arrival_waits_and_takes_over_when_the_first_gives_up() {
        let (_dir, dedup) = open();
        let Claim::New(lease) = dedup.claim("vault", &k2(1), id(1)) else {
            panic!("a new message is New");
        };
        let Claim::Busy { holder, released } = dedup.claim("vault", &k2(1), id(2)) else {
            panic!("a claimed message is Busy");
        };
        assert_eq!(holder, id(1));
        drop(lease);
        released.wait().await;
        assert!(matches!(dedup.claim("vault", &k2(1), id(2)), Claim::New(_)));
    }

    #[tokio::test]
    async fn a_second_arrival_waits_and_learns_of_the_copy() {
        let (_dir, dedup) = open();
        let Claim::New(lease) = dedup.claim("vault", &k2(1), id(1)) else {
            panic!("a new message is New");
        };
        let Claim::Busy { released, .. } = dedup.claim("vault", &k2(1), id(2)) else {
            panic!("a claimed message is Busy");
        };
        let durable = lease.confirm(copy(1));
        released.wait().await;
        assert!(
            matches!(dedup.claim("vault", &k2(1), id(2)), Claim::Stored(known) if known == copy(1))
        );
        assert!(durable.wait().await);
    }

    #[test]
    fn targets_are_claimed_apart() {
        let (_dir, dedup) = open();
        let _vault = dedup.claim("vault", &k2(1), id(1));
        assert!(matches!(
            dedup.claim("archive", &k2(1), id(1)),
            Claim::New(_)
        ));
        assert!(matches!(dedup.claim("vault", &k2(2), id(1)), Claim::New(_)));
    }

    /// Every message is claimed by many tasks at once, of which some fail the first time.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_all_who_send_the_same_message_exactly_one_confirms() {
        const MESSAGES: u64 = 50;
        let (_dir, dedup) = open();
        let confirmed: std::sync::Arc<Vec<AtomicUsize>> =
            std::sync::Arc::new((0..MESSAGES).map(|_| AtomicUsize::new(0)).collect());
        let tasks: Vec<_> = (0..MESSAGES * 8)
            .map(|n| {
                let (dedup, confirmed) = (dedup.clone(), confirmed.clone());
                tokio::spawn(async move {
                    let message = n % MESSAGES;
                    let mut fails = n % 3 == 0;
                    loop {
                        match dedup.claim("vault", &k2(message), id(n)) {
                            Claim::Stored(_) => return,
                            Claim::Busy { released, .. } => released.wait().await,
                            Claim::New(lease) => {
                                tokio::task::yield_now().await;
                                if std::mem::take(&mut fails) {
                                    continue;
                                }
                                confirmed[message as usize].fetch_add(1, Ordering::Relaxed);
                                lease.confirm(copy(message));
                            }
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(
            confirmed
                .iter()
                .all(|count| count.load(Ordering::Relaxed) == 1)
        );
        assert_eq!(dedup.entries(), MESSAGES);
    }
}
