//! What an operator does to captures: hold, release, retry, drop. Each is a record in the log, synced when it is answered.

use tokio::sync::oneshot;

use super::{
    Journal, JournalError, Outcome, View,
    format::{Location, Record},
    index::Entry,
    shared::{Change, Op},
};
use crate::message::CaptureId;

/// Captures looked up at a time.
const PAGE: usize = 500;

impl Journal {
    /// The queue as it is now.
    pub fn view(&self) -> View {
        View::new(self.shared.log.clone())
    }

    /// Holds a capture back from every target; what is under way already is not called back. Whether there is such one.
    pub async fn hold(&self, id: CaptureId) -> Result<bool, JournalError> {
        self.hold_or_release(id, true).await
    }

    /// Lets a held capture go. Whether there is such one.
    pub async fn release(&self, id: CaptureId) -> Result<bool, JournalError> {
        self.hold_or_release(id, false).await
    }

    async fn hold_or_release(&self, id: CaptureId, held: bool) -> Result<bool, JournalError> {
        // Where it was not there any more it was moved, or is finished: the next look tells.
        while let Some(of) = self.look_up(id).await? {
            if self.change(Record::Hold { of, held }).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sends a parked capture again to this target, or to each that parked it. Whether there is such a capture.
    pub async fn retry(&self, id: CaptureId, target: Option<&str>) -> Result<bool, JournalError> {
        let mut found = false;
        'moved: while let Some(of) = self.look_up(id).await? {
            let slots = {
                let index = self.shared.log.index.lock();
                if index.entry(of).is_none_or(Entry::is_finished) {
                    continue;
                }
                let wanted = |slot: &u8, name: &String| {
                    target.is_none_or(|target| target == name)
                        && index
                            .target(*slot)
                            .is_some_and(|t| t.parked.contains_key(&of))
                };
                let mut slots = index.slots();
                slots.retain(|slot, name| wanted(slot, name));
                slots
            };
            for slot in slots.into_keys() {
                if !self.change(Record::Retry { of, slot }).await? {
                    continue 'moved;
                }
                found = true;
            }
            break;
        }
        Ok(found)
    }

    /// Sends all that is parked at a target again; how many there were.
    pub async fn retry_all(&self, target: &str) -> Result<u64, JournalError> {
        let mut retried = 0;
        loop {
            let (slot, parked) = {
                let index = self.shared.log.index.lock();
                let Some(slot) = index.slot_of(target) else {
                    return Ok(retried);
                };
                let parked = index.target(slot).map(|t| t.parked.keys().take(PAGE));
                (
                    slot,
                    parked.into_iter().flatten().copied().collect::<Vec<_>>(),
                )
            };
            // One sync for the page: all are queued before the first is awaited.
            let mut answers = Vec::new();
            for of in parked {
                answers.push(self.queue_change(Record::Retry { of, slot }));
            }
            if answers.is_empty() {
                return Ok(retried);
            }
            for answer in answers {
                retried += u64::from(answer.await.map_err(|_| JournalError::Closed)??);
            }
        }
    }

    /// Gives a capture up for one target, which never gets it; the others are not touched. Only what is parked there or
    /// held may go: whether it was.
    pub async fn give_up(&self, id: CaptureId, target: &str) -> Result<bool, JournalError> {
        while let Some(of) = self.look_up(id).await? {
            let slot = {
                let index = self.shared.log.index.lock();
                if index.entry(of).is_none_or(Entry::is_finished) {
                    continue;
                }
                let slot = index.slot_of(target);
                slot.filter(|slot| index.is_at_rest(of, *slot))
            };
            let Some(slot) = slot else { break };
            let outcome = Outcome::Dropped;
            if self.change(Record::Settle { of, slot, outcome }).await? {
                tracing::warn!(capture = %id, target_name = target, "an operator dropped it: this target never gets it");
                let counter = &self.shared.metrics.forwarded_messages_total;
                counter.with_label_values(&[target, "dropped"]).inc();
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn look_up(&self, id: CaptureId) -> Result<Option<Location>, JournalError> {
        let view = self.view();
        let found = tokio::task::spawn_blocking(move || view.find(id)).await;
        found.map_err(|_| JournalError::Closed)?
    }

    async fn change(&self, record: Record) -> Result<bool, JournalError> {
        let answer = self.queue_change(record);
        answer.await.map_err(|_| JournalError::Closed)?
    }

    fn queue_change(&self, record: Record) -> oneshot::Receiver<Result<bool, JournalError>> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox.push(Op::Change(Change {
            record,
            generation: None,
            reply: Some(reply),
        }));
        answer
    }
}
