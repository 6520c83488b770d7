//! Whose turn it is: handing captures out in the order of the log, and taking them back.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{Entry, Index, Segment, find, offer, position, target_in};
use crate::{journal::format::Location, message::UnixMillis};

impl Index {
    /// The oldest captures available to the target, at most `count` and about `bytes`, now leased; true where the limits
    /// ended it, and not the queue.
    pub(in crate::journal) fn lease(
        &mut self,
        slot: u8,
        count: usize,
        bytes: u64,
    ) -> (Vec<Location>, bool) {
        let mut out = Vec::new();
        let mut budget = bytes;
        let end = self.end();
        let Some(target) = target_in(&mut self.targets, slot) else {
            return (out, false);
        };
        while out.len() < count {
            // What it passes over is offered again when it becomes available.
            let in_order = next_in_order(&self.segments, target.cursor, slot);
            target.cursor = in_order.unwrap_or(end);
            let of = match (target.ready.first().copied(), in_order) {
                (Some(ready), Some(next)) => ready.min(next),
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => return (out, false),
            };
            let Some((segment, index)) = find(&mut self.segments, of) else {
                target.forget(of);
                continue;
            };
            let entry = &mut segment.entries[index];
            if !entry.is_available() {
                // Held meanwhile: it is offered again when it is let go.
                target.ready.remove(&of);
                entry.aside &= !(1 << slot);
                continue;
            }
            let content = u64::from(entry.content_bytes);
            if content > budget && !out.is_empty() {
                break;
            }
            budget = budget.saturating_sub(content);
            if !target.ready.remove(&of) {
                target.cursor = behind(of);
            }
            entry.aside |= 1 << slot;
            target.leased.insert(of);
            out.push(of);
        }
        (out, true)
    }

    /// A lease comes back, to wait at once or when it is due.
    pub(in crate::journal) fn give_back(
        &mut self,
        of: Location,
        slot: u8,
        later: Option<(Instant, &str)>,
    ) {
        let Some((segment, index)) = find(&mut self.segments, of) else {
            return;
        };
        let entry = &mut segment.entries[index];
        let Some(target) = target_in(&mut self.targets, slot) else {
            return;
        };
        if !target.leased.remove(&of) {
            return;
        }
        match later {
            Some((due, why)) => {
                target.postpone(of, due, why);
                // A waiter may sleep until a later one is due.
                target.notify.notify_one();
            }
            None => {
                entry.aside &= !(1 << slot);
                offer(entry, of, &mut self.targets);
            }
        }
    }

    /// When the oldest capture that waits for the target was captured.
    pub(in crate::journal) fn oldest_waiting(&mut self, slot: u8) -> Option<UnixMillis> {
        let target = target_in(&mut self.targets, slot)?;
        if target.waiting == 0 {
            return None;
        }
        let waits = |of: Location, entry: &Entry| {
            !entry.is_finished()
                && !entry.is_held()
                && !entry.is_done_for(slot)
                && !target.parked.contains_key(&of)
        };
        let mut oldest = None;
        for (ordinal, segment) in self.segments.range(target.oldest_from..) {
            let here = segment.entries.iter().filter(|entry| {
                let of = Location {
                    segment: segment.id,
                    offset: entry.offset,
                };
                waits(of, entry)
            });
            oldest = here.map(|entry| entry.captured_at).min();
            if oldest.is_some() {
                target.oldest_from = *ordinal;
                break;
            }
        }
        for of in &self.moved {
            let Some(segment) = self.segments.get(&of.segment.ordinal()) else {
                continue;
            };
            if let Some(index) = position(&segment.entries, of.offset) {
                let entry = &segment.entries[index];
                if waits(*of, entry) {
                    oldest = Some(oldest.map_or(entry.captured_at, |o| o.min(entry.captured_at)));
                }
            }
        }
        oldest.map(UnixMillis)
    }
}

/// The first location behind `of`.
fn behind(of: Location) -> Location {
    Location {
        offset: of.offset + 1,
        ..of
    }
}

/// The first available capture at or behind the cursor that is not on one of the target's lists.
fn next_in_order(
    segments: &BTreeMap<u32, Segment>,
    cursor: Location,
    slot: u8,
) -> Option<Location> {
    for (ordinal, segment) in segments.range(cursor.segment.ordinal()..) {
        let skip = match *ordinal == cursor.segment.ordinal() {
            true => segment
                .entries
                .partition_point(|e| e.offset < cursor.offset),
            false => 0,
        };
        let wanted = |e: &&Entry| e.is_available() && (e.done | e.aside) & 1 << slot == 0;
        if let Some(entry) = segment.entries[skip..].iter().find(wanted) {
            return Some(Location {
                segment: segment.id,
                offset: entry.offset,
            });
        }
    }
    None
}
