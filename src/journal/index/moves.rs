//! Freeing the front of the log, and moving the few captures that stand in the way of it.
//!
//! Only from the front: a later segment holds what became of the captures of earlier ones. A parked or long postponed
//! capture would keep everything behind it on disk; it is written again at the end, with all that became of it.

use super::{Entry, FATED, FINISHED, HELD, Index, MOVED, MOVING, count, find, offer, target_in};
use crate::{
    journal::format::{CaptureHead, Location, MovedState, SegmentId},
    message::Acceptance,
};

/// Fewer sealed segments than this are never worth moving captures for.
const STRAGGLE_SEGMENTS_MIN: u64 = 4;
/// Captures, and about bytes, moved at a time, so that no session waits for long behind them.
const MOVES_MAX: usize = 64;
const MOVE_BYTES_MAX: u64 = 1 << 20;

impl Index {
    /// A moved capture takes the place of the one it was made from, unless that one is finished.
    pub(super) fn arrive(
        &mut self,
        at: Location,
        record_bytes: u32,
        state: &MovedState,
        head: &CaptureHead,
    ) {
        let from = state.from;
        let mut done = state.done | !self.active_bits();
        let mut postponed = 0;
        if let Some((segment, index)) = find(&mut self.segments, from) {
            let entry = &mut segment.entries[index];
            if entry.is_finished() {
                return;
            }
            count(entry, from, &mut self.targets, false);
            done |= entry.done;
            // The large file goes over to the new record.
            let large = segment.large.remove(&from.offset);
            let bytes = u64::from(entry.record_bytes) + large.map_or(0, |(_, bytes)| bytes);
            entry.flags |= FINISHED;
            segment.live -= 1;
            segment.live_bytes -= bytes;
            self.live_bytes -= bytes;
            self.moved.remove(&from);
            for (slot, target) in self.targets.iter_mut().enumerate() {
                let Some(target) = target else { continue };
                if target.follow(from, at) {
                    postponed |= 1 << slot;
                }
            }
        }
        let held = if state.held { HELD } else { 0 };
        self.add(at, record_bytes, head, done, FATED | MOVED | held);
        let Some((segment, index)) = find(&mut self.segments, at) else {
            return;
        };
        let entry = &mut segment.entries[index];
        for (slot, why) in &state.parked {
            if let Some(target) = target_in(&mut self.targets, *slot) {
                target.parked.insert(at, why.as_str().into());
                entry.aside |= 1 << slot;
            }
        }
        entry.aside |= postponed;
        self.moved.insert(at);
        self.moves += 1;
        count(entry, at, &mut self.targets, true);
        // A target that is done with everything may have come while this was on its way.
        self.change(at, |_, _| ());
    }

    /// Captures to be written again because they keep a segment of mostly finished ones from being freed: a few of the
    /// front segment's, once less than half of all sealed bytes is live. Each segment so freed costs less than it gives.
    pub(in crate::journal) fn stragglers(&self, segment_bytes: u64) -> Vec<Location> {
        let sealed = self.segments.values().filter(|s| s.sealed);
        let (count, live) = sealed.fold((0u64, 0), |(n, b), s| (n + 1, b + s.live_record_bytes()));
        if count < STRAGGLE_SEGMENTS_MIN || live * 2 > count * segment_bytes {
            return Vec::new();
        }
        let Some(front) = self.segments.values().next() else {
            return Vec::new();
        };
        let mut bytes = 0;
        let movable = front.entries.iter().filter_map(|entry| {
            let of = Location {
                segment: front.id,
                offset: entry.offset,
            };
            self.is_movable(of, entry)
                .then_some((of, entry.record_bytes))
        });
        movable
            .take(MOVES_MAX)
            .take_while(|(_, record_bytes)| {
                bytes += u64::from(*record_bytes);
                bytes <= MOVE_BYTES_MAX.max(u64::from(*record_bytes))
            })
            .map(|(of, _)| of)
            .collect()
    }

    fn is_movable(&self, of: Location, entry: &Entry) -> bool {
        let mut targets = self.targets.iter().flatten();
        let rests = entry.flags & (FATED | FINISHED | MOVING) == FATED;
        rests && !targets.any(|t| t.leased.contains(&of))
    }

    /// The state that a capture takes along; until [`Index::end_move`] it is leased to nobody.
    pub(in crate::journal) fn begin_move(
        &mut self,
        from: Location,
        acceptance: Acceptance,
    ) -> Option<MovedState> {
        let entry = *self.entry(from)?;
        if !self.is_movable(from, &entry) {
            return None;
        }
        self.entry_mut(from)?.flags |= MOVING;
        let targets = self.targets.iter().enumerate();
        let parked = targets.filter_map(|(slot, target)| {
            let why = target.as_ref()?.parked.get(&from)?;
            Some((slot as u8, why.to_string()))
        });
        Some(MovedState {
            from,
            done: entry.done,
            held: entry.is_held(),
            parked: parked.collect(),
            acceptance,
        })
    }

    /// Where the capture still stands in its old place, it is available again.
    pub(in crate::journal) fn end_move(&mut self, from: Location) {
        if let Some((segment, index)) = find(&mut self.segments, from) {
            let entry = &mut segment.entries[index];
            entry.flags &= !MOVING;
            offer(entry, from, &mut self.targets);
        }
    }

    /// Takes the segments in which nothing is live off the front of the log.
    pub(in crate::journal) fn free_front(&mut self) -> Vec<SegmentId> {
        let mut freed = Vec::new();
        while let Some(first) = self.segments.first_entry() {
            if !first.get().sealed || first.get().live > 0 {
                break;
            }
            freed.push(first.remove().id);
        }
        freed
    }
}
