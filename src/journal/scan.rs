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
