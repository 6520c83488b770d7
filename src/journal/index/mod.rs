//! What waits, for whom: rebuilt from the log at start, then changed by the same function that rebuilt it.
//!
//! About 40 bytes a capture and no more, whether one waits or a million: no sighting, no body. A capture is named by the
//! location of its record. Each target walks the log with a cursor; only what is out of turn (leased, postponed,
//! parked, come back) is listed by name. Times are arguments; nothing here reads a file, a clock or a lock.

mod moves;
mod turns;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    JournalError, Outcome,
    disk::DiskFile,
    format::{CaptureHead, Location, Opening, Record, SegmentId, Slots},
    target::Target,
};

/// Targets at once: one bit each in a capture's entry.
pub const TARGETS_MAX: usize = 32;

/// Before every record.
pub(super) const START: Location = Location {
    segment: SegmentId(0),
    offset: 0,
};

const FATED: u8 = 1;
const HELD: u8 = 2;
const MOVED: u8 = 4;
const MOVING: u8 = 8;
const FINISHED: u8 = 16;

/// One capture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) captured_at: u64,
    pub(super) offset: u32,
    /// Of the whole record.
    pub(super) record_bytes: u32,
    /// Of the message; saturates, being for budgets only.
    pub(super) content_bytes: u32,
    /// A bit for each slot that needs nothing more (or never wanted it).
    pub(super) done: u32,
    /// A bit for each slot that has it on one of its lists: the cursor passes over it.
    pub(super) aside: u32,
    /// Where the fate is recorded.
    fate_segment: u32,
    fate_offset: u32,
    flags: u8,
}

/// A million waiting captures are 40 MB.
const _: () = assert!(size_of::<Entry>() <= 40);

impl Entry {
    pub(super) fn is_available(&self) -> bool {
        self.flags & (FATED | HELD | MOVING | FINISHED) == FATED
    }

    pub(super) fn is_held(&self) -> bool {
        self.flags & HELD != 0
    }

    pub(super) fn is_finished(&self) -> bool {
        self.flags & FINISHED != 0
    }

    pub(super) fn has_fate(&self) -> bool {
        self.flags & FATED != 0
    }

    pub(super) fn is_done_for(&self, slot: u8) -> bool {
        self.done & 1 << slot != 0
    }
}

pub(super) struct Segment {
    pub(super) id: SegmentId,
    pub(super) file: Arc<dyn DiskFile>,
    /// By offset.
    pub(super) entries: Vec<Entry>,
    /// Entries not finished.
    pub(super) live: u32,
    pub(super) live_bytes: u64,
    /// No record follows.
    pub(super) sealed: bool,
    /// Captures here whose content has a file of its own: (name, bytes).
    pub(super) large: HashMap<u32, (u64, u64)>,
}

impl Segment {
    /// Live bytes in the segment itself, large files left out.
    fn live_record_bytes(&self) -> u64 {
        let large: u64 = self.large.values().map(|(_, bytes)| bytes).sum();
        self.live_bytes.saturating_sub(large)
    }
}

#[derive(Default)]
pub(super) struct Index {
    /// By ordinal.
    pub(super) segments: BTreeMap<u32, Segment>,
    pub(super) targets: Vec<Option<Target>>,
    /// Live captures whose age is not told by their place in the log.
    moved: BTreeSet<Location>,
    /// Captures moved so far: tells a search that what it looks for may have passed it by.
    pub(super) moves: u64,
    /// Large files whose captures are finished, to be removed once that is synced.
    pub(super) large_done: Vec<u64>,
    /// Bytes of records and large files of captures not finished.
    pub(super) live_bytes: u64,
    /// Counts the targets ever named, so that a lease of a removed one does not settle for its slot's next owner.
    generation: u64,
}

impl Index {
    pub(super) fn add_segment(&mut self, id: SegmentId, file: Arc<dyn DiskFile>) {
        let segment = Segment {
            id,
            file,
            entries: Vec::new(),
            live: 0,
            live_bytes: 0,
            sealed: false,
            large: HashMap::new(),
        };
        self.segments.insert(id.ordinal(), segment);
    }

    pub(super) fn segment(&self, at: Location) -> Option<&Segment> {
        let segment = self.segments.get(&at.segment.ordinal())?;
        (segment.id == at.segment).then_some(segment)
    }

    pub(super) fn entry(&self, at: Location) -> Option<&Entry> {
        let segment = self.segment(at)?;
        let index = position(&segment.entries, at.offset)?;
        Some(&segment.entries[index])
    }

    pub(super) fn entry_mut(&mut self, at: Location) -> Option<&mut Entry> {
        let segment = self.segments.get_mut(&at.segment.ordinal())?;
        if segment.id != at.segment {
            return None;
        }
        let index = position(&segment.entries, at.offset)?;
        Some(&mut segment.entries[index])
    }

    /// Where the capture's fate is recorded; a moved capture carries its own.
    pub(super) fn fate_of(&self, at: Location) -> Option<Location> {
        let entry = self.entry(at)?;
        let segment = self.segments.get(&entry.fate_segment)?;
        Some(Location {
            segment: segment.id,
            offset: entry.fate_offset,
        })
    }

    /// Every capture from a location on, in the order of the log.
    pub(super) fn entries_from(&self, from: Location) -> impl Iterator<Item = (Location, &Entry)> {
        let segments = self.segments.range(from.segment.ordinal()..);
        segments.flat_map(move |(_, segment)| {
            let here = |entry: &Entry| Location {
                segment: segment.id,
                offset: entry.offset,
            };
            let skip = segment.entries.partition_point(|entry| here(entry) < from);
            segment.entries[skip..]
                .iter()
                .map(move |entry| (here(entry), entry))
        })
    }

    /// The file and length of a capture's record.
    pub(super) fn record_of(&self, at: Location) -> Option<(Arc<dyn DiskFile>, usize)> {
        let bytes = self.entry(at)?.record_bytes as usize;
        Some((self.segment(at)?.file.clone(), bytes))
    }

    /// No record follows in this segment.
    pub(super) fn seal(&mut self, id: SegmentId) {
        if let Some(segment) = self.segments.get_mut(&id.ordinal()) {
            segment.sealed = true;
            segment.entries.shrink_to_fit();
        }
    }

    pub(super) fn slots(&self) -> Slots {
        let named = self.targets.iter().enumerate();
        named
            .filter_map(|(slot, target)| Some((slot as u8, target.as_ref()?.name.clone())))
            .collect()
    }

    pub(super) fn slot_of(&self, name: &str) -> Option<u8> {
        let is_it = |t: &Option<Target>| t.as_ref().is_some_and(|t| t.name == name);
        self.targets.iter().position(is_it).map(|slot| slot as u8)
    }

    pub(super) fn target_mut(&mut self, slot: u8) -> Option<&mut Target> {
        self.targets.get_mut(usize::from(slot))?.as_mut()
    }

    pub(super) fn target(&self, slot: u8) -> Option<&Target> {
        self.targets.get(usize::from(slot))?.as_ref()
    }

    /// Parked at the target, or held by an operator, and on its way to nobody.
    pub(super) fn is_at_rest(&self, of: Location, slot: u8) -> bool {
        let (Some(entry), Some(target)) = (self.entry(of), self.target(slot)) else {
            return false;
        };
        let is_open = entry.has_fate() && !entry.is_finished() && !entry.is_done_for(slot);
        let rests = entry.is_held() || target.parked.contains_key(&of);
        is_open && rests && !target.leased.contains(&of)
    }

    /// Live captures that were moved.
    pub(super) fn moved(&self) -> Vec<Location> {
        self.moved.iter().copied().collect()
    }

    /// Behind the last capture.
    fn end(&self) -> Location {
        let last = self.segments.values().next_back();
        last.map_or(START, |segment| Location {
            segment: segment.id,
            offset: segment.entries.last().map_or(0, |entry| entry.offset + 1),
        })
    }

    fn active_bits(&self) -> u32 {
        self.slots().keys().fold(0, |bits, slot| bits | 1 << slot)
    }

    /// Captures that this target still is to get, parked and held ones too.
    pub(super) fn unsettled(&self, slot: u8) -> u64 {
        let open = |entry: &Entry| !entry.is_finished() && !entry.is_done_for(slot);
        let entries = self.entries_from(START);
        entries.filter(|(_, entry)| open(entry)).count() as u64
    }

    /// The slots for these targets: a known one keeps its slot, a new one takes a free slot. One with a backlog may only
    /// go where it is among those that may be abandoned.
    pub(super) fn plan_targets(
        &self,
        names: &[String],
        abandon: &[String],
    ) -> Result<Slots, JournalError> {
        let mut slots = self.slots();
        for (slot, target) in slots.extract_if(.., |_, name| !names.contains(name)) {
            let captures = self.unsettled(slot);
            if captures > 0 && !abandon.contains(&target) {
                return Err(JournalError::Backlog { target, captures });
            }
            if captures > 0 {
                tracing::warn!(target_name = %target, captures, "abandoned: they are copied nowhere");
            }
        }
        for name in names {
            if slots.values().any(|known| known == name) {
                continue;
            }
            let free = (0..TARGETS_MAX as u8).find(|slot| !slots.contains_key(slot));
            let free = free.ok_or_else(|| JournalError::Corrupt("more than 32 targets".into()))?;
            slots.insert(free, name.clone());
        }
        Ok(slots)
    }

    /// Applies a record that stands at `at`. The only way in which the index changes for good; twice is as once.
    pub(super) fn apply(&mut self, at: Location, record_bytes: u32, record: &Record) {
        match record {
            Record::Opening(Opening { targets, .. }) | Record::Targets(targets) => {
                self.become_targets(targets);
            }
            Record::Capture(head) => {
                let done = !self.active_bits();
                if self.add(at, record_bytes, head, done, 0)
                    && let Some((segment, index)) = find(&mut self.segments, at)
                {
                    count(&segment.entries[index], at, &mut self.targets, true);
                }
            }
            Record::Moved(state, head, _) => self.arrive(at, record_bytes, state, head),
            Record::Fate { of, discard, .. } => self.change(*of, |entry, _| {
                entry.fate_segment = at.segment.ordinal();
                entry.fate_offset = at.offset;
                entry.flags |= FATED;
                if *discard {
                    entry.done = u32::MAX;
                }
            }),
            Record::Settle { of, slot, outcome } => self.change(*of, |entry, targets| {
                let Some(target) = target_in(targets, *slot) else {
                    return;
                };
                target.forget(*of);
                match outcome {
                    Outcome::Parked { why } if !entry.is_done_for(*slot) => {
                        target.parked.insert(*of, why.as_str().into());
                        entry.aside |= 1 << slot;
                    }
                    _ => {
                        entry.done |= 1 << slot;
                        entry.aside &= !(1 << slot);
                    }
                }
            }),
            Record::Hold { of, held } => self.change(*of, |entry, _| match held {
                true => entry.flags |= HELD,
                false => entry.flags &= !HELD,
            }),
            Record::Retry { of, slot } => self.change(*of, |entry, targets| {
                let parked = target_in(targets, *slot).and_then(|t| t.parked.remove(of));
                if parked.is_some() {
                    entry.aside &= !(1 << slot);
                }
            }),
            Record::Quarantined { of } => self.change(*of, |entry, targets| {
                for target in targets.iter_mut().flatten() {
                    target.forget(*of);
                }
                entry.flags |= FATED;
                entry.done = u32::MAX;
            }),
            Record::Closed => {}
        }
    }

    /// Changes an entry and keeps everything that is counted of it right.
    fn change(&mut self, of: Location, f: impl FnOnce(&mut Entry, &mut [Option<Target>])) {
        let Some((segment, index)) = find(&mut self.segments, of) else {
            return;
        };
        let entry = &mut segment.entries[index];
        if entry.is_finished() {
            return;
        }
        count(entry, of, &mut self.targets, false);
        f(entry, &mut self.targets);
        if entry.has_fate() && entry.done == u32::MAX {
            entry.flags |= FINISHED;
            entry.aside = 0;
            let large = segment.large.remove(&of.offset);
            let bytes = u64::from(entry.record_bytes) + large.map_or(0, |(_, bytes)| bytes);
            self.large_done.extend(large.map(|(name, _)| name));
            segment.live -= 1;
            segment.live_bytes -= bytes;
            self.live_bytes -= bytes;
            self.moved.remove(&of);
            return;
        }
        count(entry, of, &mut self.targets, true);
        offer(entry, of, &mut self.targets);
    }

    /// False where it is there already; the caller counts what is new.
    fn add(
        &mut self,
        at: Location,
        record_bytes: u32,
        head: &CaptureHead,
        done: u32,
        flags: u8,
    ) -> bool {
        let Some(segment) = self.segments.get_mut(&at.segment.ordinal()) else {
            return false;
        };
        if segment
            .entries
            .last()
            .is_some_and(|e| e.offset >= at.offset)
        {
            return false;
        }
        let mut bytes = u64::from(record_bytes);
        if let Some(large) = head.large {
            segment
                .large
                .insert(at.offset, (large.name, head.content_bytes));
            bytes += head.content_bytes;
        }
        segment.entries.push(Entry {
            captured_at: head.captured_at,
            offset: at.offset,
            record_bytes,
            content_bytes: u32::try_from(head.content_bytes).unwrap_or(u32::MAX),
            done,
            aside: 0,
            fate_segment: at.segment.ordinal(),
            fate_offset: at.offset,
            flags,
        });
        segment.live += 1;
        segment.live_bytes += bytes;
        self.live_bytes += bytes;
        true
    }

    fn become_targets(&mut self, slots: &Slots) {
        for slot in 0..self.targets.len() as u8 {
            let stays = self.target(slot).map(|t| &t.name) == slots.get(&slot);
            if !stays && self.target(slot).is_some() {
                self.drop_target(slot);
            }
        }
        for (slot, name) in slots {
            let slot = usize::from(*slot);
            if slot >= TARGETS_MAX {
                continue;
            }
            if self.targets.len() <= slot {
                self.targets.resize_with(slot + 1, || None);
            }
            if self.targets[slot].is_none() {
                self.generation += 1;
                let mut target = Target::new(name.clone(), self.generation);
                target.cursor = self.end();
                self.targets[slot] = Some(target);
            }
        }
    }

    /// Nothing waits for this target any more; whoever still waits on its queue is told.
    fn drop_target(&mut self, slot: u8) {
        let all: Vec<Location> = self.entries_from(START).map(|(of, _)| of).collect();
        for of in all {
            self.change(of, |entry, targets| {
                if let Some(target) = target_in(targets, slot) {
                    target.forget(of);
                }
                entry.done |= 1 << slot;
                entry.aside &= !(1 << slot);
            });
        }
        if let Some(target) = self.targets[usize::from(slot)].take() {
            target.notify.notify_waiters();
        }
    }

    /// After a recovery: whoever wrote these captures is gone, and what the next hop said was never recorded.
    pub(super) fn without_fate(&self) -> Vec<Location> {
        let open = self
            .entries_from(START)
            .filter(|(_, entry)| !entry.has_fate());
        open.map(|(of, _)| of).collect()
    }
}

fn position(entries: &[Entry], offset: u32) -> Option<usize> {
    entries
        .binary_search_by_key(&offset, |entry| entry.offset)
        .ok()
}

fn find(segments: &mut BTreeMap<u32, Segment>, of: Location) -> Option<(&mut Segment, usize)> {
    let segment = segments.get_mut(&of.segment.ordinal())?;
    if segment.id != of.segment {
        return None;
    }
    let index = position(&segment.entries, of.offset)?;
    Some((segment, index))
}

fn target_in(targets: &mut [Option<Target>], slot: u8) -> Option<&mut Target> {
    targets.get_mut(usize::from(slot))?.as_mut()
}

/// Adds the capture to, or takes it out of, what its targets count. It counts from its sync on, before the next hop has
/// answered: a client that has its 250 never finds its message missing from what waits.
fn count(entry: &Entry, of: Location, targets: &mut [Option<Target>], add: bool) {
    if entry.is_finished() {
        return;
    }
    for (slot, target) in targets.iter_mut().enumerate() {
        let Some(target) = target else { continue };
        if entry.done & 1 << slot != 0 || target.parked.contains_key(&of) {
            continue;
        }
        let counter = match entry.is_held() {
            true => &mut target.held,
            false => {
                target.oldest_from = target.oldest_from.min(of.segment.ordinal());
                &mut target.waiting
            }
        };
        match add {
            true => *counter += 1,
            false => *counter -= 1,
        }
    }
}

/// Makes sure that each target that wants an available capture will come upon it.
fn offer(entry: &mut Entry, of: Location, targets: &mut [Option<Target>]) {
    if !entry.is_available() {
        return;
    }
    for (slot, target) in targets.iter_mut().enumerate() {
        let Some(target) = target else { continue };
        if (entry.done | entry.aside) & 1 << slot != 0 {
            continue;
        }
        if of < target.cursor {
            target.ready.insert(of);
            entry.aside |= 1 << slot;
        }
        target.notify.notify_one();
    }
}
