//! The journal's codec and scan, without its disk; and segments whose checksums are right, whatever their records say.

#[path = "../../../src/journal/format.rs"]
mod format;
#[path = "../../../src/journal/outcome.rs"]
mod outcome;
#[path = "../../../src/journal/scan.rs"]
mod scan;

use format::{Header, Kind, Location, SegmentId, record_bytes};

pub use self::{outcome::Outcome, scan::recover_bytes};

/// The segment that a script stands for, because no fuzzer guesses a checksum: for each record, its kind, flags, length
/// (two bytes, little-endian) and payload. Flags: 1 payload checksum wrong, 2 header checksum wrong, 4 zeros behind it,
/// 8 made when everything before it was synced.
pub fn segment(mut script: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let [kind, flags, low, high, rest @ ..] = script {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (payload, behind) = rest.split_at(length);
        script = behind;
        let at = out.len();
        let header = Header {
            kind: Kind::Closed,
            at: Location {
                segment: SegmentId::new(1, 7),
                offset: at as u32,
            },
            synced: if flags & 8 != 0 { at as u32 } else { 0 },
            length: length as u32,
            payload_crc: crc32fast::hash(payload) ^ u32::from(flags & 1),
        };
        let mut head = header.encode();
        head[4] = *kind;
        let crc = crc32fast::hash(&head[..32]) ^ u32::from(flags & 2);
        head[32..36].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&head);
        out.extend_from_slice(payload);
        let gap = if flags & 4 != 0 { 64 } else { 0 };
        out.resize(at + record_bytes(length) + gap, 0);
    }
    out
}
