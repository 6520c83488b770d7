//! Finds the records of one segment, and says what each gap between them is. Pure: raw bytes in, a [`Walk`] out; any
//! bytes whatever give an answer.
//!
//! A gap is a stretch where no record of this segment starts. Exactly one of these is true of it:
//!
//! | case | what is seen | what happened | what is done |
//! |---|---|---|---|
//! | blank | only zeros, a record behind it | damage set aside by an earlier recovery, or pages never written | nothing |
//! | damaged | begins before the synced horizon | bytes changed after they were synced | kept in the quarantine, counted, zeroed |
//! | torn | begins at or behind the horizon, a record behind it | the crash cut a write; nobody was told it was done | kept, not counted, zeroed |
//! | tail | no record behind it, its first header is sound | as torn | kept, not counted |
//! | end | no record behind it | never written, or stale from the file's earlier use | nothing |
//!
//! The horizon is the furthest `synced` of any record in the segment, or, where the next segment tells where this one
//! ended, that end; whatever lies behind a told end is not part of the log.

use std::ops::Range;

use super::format::{HEADER_BYTES, Header, Location, Record, SegmentId, candidates};

pub(super) struct Walk {
    pub(super) records: Vec<Header>,
    pub(super) gaps: Vec<Gap>,
    /// Behind the last record.
    pub(super) end: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) range: Range<usize>,
    pub(super) case: GapCase,
    /// What is wrong, in words for the operator.
    pub(super) cause: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GapCase {
    Blank,
    Damaged,
    Torn,
    Tail,
}

/// Walks the bytes of `segment`; `told_end` is what the next segment's opening says of this one.
pub(super) fn walk(bytes: &[u8], segment: SegmentId, told_end: Option<u32>) -> Walk {
    let bytes = match told_end {
        Some(end) => &bytes[..bytes.len().min(end as usize)],
        None => bytes,
    };
    let mut records: Vec<Header> = Vec::new();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if let Some(header) = record_at(bytes, segment, at) {
            at += header.record_bytes() as usize;
            records.push(header);
            continue;
        }
        // A sound header tells where its bad record ends; without one, the next record must be looked for.
        let next = match header_at(bytes, segment, at) {
            Some(header) if header.record_bytes() <= (bytes.len() - at) as u64 => {
                at + header.record_bytes() as usize
            }
            _ => candidates(bytes, at + 1)
                .find(|candidate| header_at(bytes, segment, *candidate).is_some())
                .unwrap_or(bytes.len()),
        };
        found.push(at..next);
        at = next;
    }
    let end = records
        .last()
        .map_or(0, |last| u64::from(last.at.offset) + last.record_bytes()) as u32;
    let horizon = match told_end {
        Some(end) => end,
        None => records.iter().map(|r| r.synced).max().unwrap_or(0),
    };
    let gaps = found
        .into_iter()
        .filter_map(|range| judge(bytes, segment, range, horizon, end))
        .collect();
    Walk { records, gaps, end }
}

/// The table in the module's head.
fn judge(
    bytes: &[u8],
    segment: SegmentId,
    range: Range<usize>,
    horizon: u32,
    end: u32,
) -> Option<Gap> {
    let gap = &bytes[range.clone()];
    let is_last = range.start >= end as usize;
    let header = header_at(bytes, segment, range.start);
    let (case, cause) = if gap.iter().all(|byte| *byte == 0) {
        if is_last {
            return None;
        }
        (GapCase::Blank, "blank")
    } else if range.start < horizon as usize {
        let cause = match header {
            Some(header) if header.record_bytes() > (bytes.len() - range.start) as u64 => {
                "impossible length"
            }
            Some(_) => "payload checksum does not match",
            None => "header checksum does not match",
        };
        (GapCase::Damaged, cause)
    } else if !is_last {
        (GapCase::Torn, "unfinished write")
    } else if header.is_some() {
        (GapCase::Tail, "unfinished last write")
    } else {
        return None;
    };
    // Behind the horizon the last gap is stale but for the record that its header announces.
    let range = match header {
        None if is_last => range.start..range.end.min(horizon as usize),
        _ => range,
    };
    Some(Gap { range, case, cause })
}

/// The sound header at `at`, of a record that belongs there.
fn header_at(bytes: &[u8], segment: SegmentId, at: usize) -> Option<Header> {
    let here = Location {
        segment,
        offset: at as u32,
    };
    Header::parse(bytes.get(at..)?).filter(|header| header.at == here)
}

/// The record at `at`, whole and in its own place.
fn record_at(bytes: &[u8], segment: SegmentId, at: usize) -> Option<Header> {
    let header = header_at(bytes, segment, at)?;
    if header.record_bytes() > (bytes.len() - at) as u64 {
        return None;
    }
    (crc32fast::hash(payload(bytes, &header)) == header.payload_crc).then_some(header)
}

/// The payload of a record that [`walk`] found in these bytes.
pub(super) fn payload<'a>(bytes: &'a [u8], header: &Header) -> &'a [u8] {
    let start = header.at.offset as usize + HEADER_BYTES;
    &bytes[start..start + header.length as usize]
}

/// What recovery makes of raw segment bytes: how many records it takes and how many gaps it finds. For fuzzing and for
/// looking at a file of unknown origin; never panics, whatever the bytes.
pub fn recover_bytes(bytes: &[u8]) -> (usize, usize) {
    let Some(segment) = candidates(bytes, 0)
        .filter_map(|at| Header::parse(&bytes[at..]))
        .map(|header| header.at.segment)
        .next()
    else {
        return (0, 0);
    };
    let walk = walk(bytes, segment, None);
    let records = walk
        .records
        .iter()
        .filter(|header| Record::decode(header.kind, payload(bytes, header)).is_some())
        .count();
    (records, walk.gaps.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::format::Kind, *};

    const SEGMENT: SegmentId = SegmentId(7 << 32 | 0x5eed);

    /// Appends a record as the writer does.
    fn append(out: &mut Vec<u8>, synced: usize, payload: &[u8]) {
        let header = Header {
            kind: Kind::Closed,
            at: Location {
                segment: SEGMENT,
                offset: out.len() as u32,
            },
            synced: synced as u32,
            length: payload.len() as u32,
            payload_crc: crc32fast::hash(payload),
        };
        let end = out.len() + header.record_bytes() as usize;
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(payload);
        out.resize(end, 0);
    }

    /// Three records, each synced before the next, in a segment that held something else before.
    fn three() -> (Vec<u8>, [usize; 4]) {
        let mut bytes = Vec::new();
        let mut ends = [0; 4];
        for (nth, length) in [100, 300, 50].into_iter().enumerate() {
            append(&mut bytes, ends[nth], &vec![b'a' + nth as u8; length]);
            ends[nth + 1] = bytes.len();
        }
        bytes.resize(1_024, 0xee);
        (bytes, ends)
    }

    fn payloads(bytes: &[u8], walk: &Walk) -> Vec<Vec<u8>> {
        let records = walk.records.iter();
        records
            .map(|header| payload(bytes, header).to_vec())
            .collect()
    }

    proptest! {
        #[test]
        fn what_is_written_is_found(
            sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..12),
            stale in any::<u8>(),
        ) {
            let mut bytes = Vec::new();
            for payload in &sent {
                let synced = bytes.len();
                append(&mut bytes, synced, payload);
            }
            let end = bytes.len();
            bytes.resize(end + 777, stale);
            let walk = walk(&bytes, SEGMENT, None);
            prop_assert_eq!(payloads(&bytes, &walk), sent);
            prop_assert_eq!(walk.gaps, vec![]);
            prop_assert_eq!(walk.end as usize, end);
        }

        #[test]
        fn any_bytes_have_an_answer(mut bytes in prop::collection::vec(any::<u8>(), 0..2_000), at in any::<usize>()) {
            recover_bytes(&bytes);
            let (whole, _) = three();
            let at = at % (bytes.len() + 1);
            bytes.splice(at..at, whole);
            recover_bytes(&bytes);
        }
    }

    #[test]
    fn a_write_cut_short_at_any_byte_leaves_the_records_before_it() {
        let (whole, ends) = three();
        for cut in ends[1]..ends[3] {
            for rest in [0, 0xee] {
                let mut bytes = whole.clone();
                bytes[cut..].fill(rest);
                let found = walk(&bytes, SEGMENT, None);
                let kept = ends[1..].iter().filter(|end| **end <= cut).count();
                // Padding is not part of what is checked.
                assert!(
                    found.records.len() == kept || found.records.len() == kept + 1,
                    "{cut}"
                );
                let damaged = found.gaps.iter().any(|gap| gap.case == GapCase::Damaged);
                assert!(!damaged, "cut at {cut}: nobody was told that it was done");
            }
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_found_and_costs_one_record() {
        let (whole, ends) = three();
        for at in 0..ends[2] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            let found = walk(&bytes, SEGMENT, None);
            let hit = usize::from(at >= ends[1]);
            if found.records.len() == 3 {
                let header = found.records[hit];
                let checked = HEADER_BYTES as u64 + u64::from(header.length);
                let padding = u64::from(header.at.offset) + checked <= at as u64;
                assert!(padding, "bit at {at} went unnoticed");
                continue;
            }
            assert_eq!(found.records.len(), 2, "bit at {at}");
            assert_eq!(found.gaps.len(), 1, "bit at {at}");
            assert_eq!(found.gaps[0].case, GapCase::Damaged);
            assert_eq!(found.gaps[0].range, ends[hit]..ends[hit + 1]);
        }
    }

    #[test]
    fn what_a_message_brings_along_cannot_pass_for_a_record() {
        let mut inner = Vec::new();
        append(&mut inner, 0, b"planted");
        // At the right offset even, but of a segment whose random half it cannot know.
        let mut foreign = inner.clone();
        foreign[8..16].copy_from_slice(&(7u64 << 32).to_le_bytes());
        let mut bytes = Vec::new();
        append(&mut bytes, 0, &[&inner[..], &foreign].concat());
        let end = bytes.len();
        append(&mut bytes, end, b"next");
        bytes[HEADER_BYTES + 60] ^= 1;
        let found = walk(&bytes, SEGMENT, None);
        assert_eq!(payloads(&bytes, &found), [b"next"]);
        assert_eq!(found.gaps.len(), 1);
    }

    #[test]
    fn behind_a_told_end_nothing_counts() {
        let (bytes, ends) = three();
        let found = walk(&bytes, SEGMENT, Some(ends[2] as u32));
        assert_eq!(found.records.len(), 2);
        assert_eq!(found.gaps, []);
        // … and before it everything does, the last record too.
        let mut bytes = bytes;
        bytes[ends[2] + 60] ^= 1;
        let found = walk(&bytes, SEGMENT, Some(ends[3] as u32));
        assert_eq!(found.gaps[0].case, GapCase::Damaged);
        assert_eq!(found.gaps[0].range, ends[2]..ends[3]);
    }
}
