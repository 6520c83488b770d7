//! What became of captures and is applied, but not known to be on disk for good. Bounded: what does not fit is done again
//! after a crash, which targets and operators survive.

use super::format::Record;

/// Records kept.
const RECORDS_MAX: usize = 1 << 16;

#[derive(Default)]
pub(super) struct Backlog {
    /// Written into the current segment, not yet synced.
    written: Vec<Record>,
    /// In no segment that counts.
    unwritten: Vec<Record>,
}

impl Backlog {
    pub(super) fn of_unwritten(unwritten: Vec<Record>) -> Self {
        Self {
            written: Vec::new(),
            unwritten,
        }
    }

    pub(super) fn was_written(&mut self, record: Record) {
        push(&mut self.written, record);
    }

    pub(super) fn is_unwritten(&mut self, record: Record) {
        push(&mut self.unwritten, record);
    }

    /// The current segment is synced.
    pub(super) fn synced(&mut self) {
        self.written.clear();
    }

    /// The current segment does not count behind its last sync.
    pub(super) fn lost(&mut self) {
        self.written.append(&mut self.unwritten);
        self.unwritten = std::mem::take(&mut self.written);
    }

    pub(super) fn all_written(&self) -> bool {
        self.unwritten.is_empty()
    }

    /// To be written into a new segment.
    pub(super) fn take_unwritten(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.unwritten)
    }
}

fn push(records: &mut Vec<Record>, record: Record) {
    if records.len() < RECORDS_MAX {
        records.push(record);
    }
}
