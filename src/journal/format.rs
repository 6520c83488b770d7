//! The bytes on disk, explained before the code that makes them. Pure: bytes in, values out.
//!
//! A segment is a file of fixed size, filled from its start with records; each stands at a multiple of 8:
//!
//! ```text
//!  0        4     5       8            16       20       24       28          32         36      40
//!  | "mtJ1" | kind| zeros | segment id | offset | synced | length | payload   | header   | zeros | payload … | zeros to 8
//!  |        |     |       |            |        |        |        | crc       | crc      |       |
//! ```
//!
//! A record names the segment and the offset where it belongs, so neither the stale records of a recycled file nor a
//! journal that somebody mailed can pass for it. Everything before `synced` in the segment had been synced when the
//! record was made: a gap before it is damage, one behind it is merely a write that a crash cut short.

use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::message::{Acceptance, CaptureId};

pub(super) const HEADER_BYTES: usize = 40;
const ALIGN: usize = 8;
const MAGIC: [u8; 4] = *b"mtJ1";

/// Creation order in the upper half, random in the lower half, so that message bytes cannot foresee it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct SegmentId(pub(super) u64);

impl SegmentId {
    pub(super) fn new(ordinal: u32, random: u32) -> Self {
        Self(u64::from(ordinal) << 32 | u64::from(random))
    }

    pub(super) fn ordinal(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(super) fn file_name(self) -> String {
        format!("{:016x}.seg", self.0)
    }

    pub(super) fn from_file_name(name: &str) -> Option<Self> {
        let hex = name.strip_suffix(".seg").filter(|hex| hex.len() == 16)?;
        u64::from_str_radix(hex, 16).ok().map(Self)
    }
}

/// Where a record stands; the order of locations is the order of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Location {
    pub(super) segment: SegmentId,
    pub(super) offset: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// First in a segment: which segment came before, where that one ends, who the targets are.
    Opening = 1,
    /// A message with its sighting.
    Capture = 2,
    /// A capture written again, with all that became of it, so that its old segment can go.
    Moved = 3,
    /// What the next hop made of a capture.
    Fate = 4,
    /// What became of a capture for one target.
    Settle = 5,
    /// The targets from here on.
    Targets = 6,
    /// An operator holds a capture back, or lets it go.
    Hold = 7,
    /// An operator sends a parked capture again.
    Retry = 8,
    /// A capture could not be read and was copied to the quarantine.
    Quarantined = 9,
    /// The journal was closed in order.
    Closed = 10,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Opening,
            2 => Self::Capture,
            3 => Self::Moved,
            4 => Self::Fate,
            5 => Self::Settle,
            6 => Self::Targets,
            7 => Self::Hold,
            8 => Self::Retry,
            9 => Self::Quarantined,
            10 => Self::Closed,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) at: Location,
    pub(super) synced: u32,
    /// Payload length in bytes, without padding.
    pub(super) length: u32,
    pub(super) payload_crc: u32,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = self.kind as u8;
        out[8..16].copy_from_slice(&self.at.segment.0.to_le_bytes());
        out[16..20].copy_from_slice(&self.at.offset.to_le_bytes());
        out[20..24].copy_from_slice(&self.synced.to_le_bytes());
        out[24..28].copy_from_slice(&self.length.to_le_bytes());
        out[28..32].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32fast::hash(&out[..32]);
        out[32..36].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header at the start of `bytes`, if its magic, kind and checksum are right.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        if bytes[..4] != MAGIC || bytes[5..8] != [0; 3] || bytes[36..] != [0; 4] {
            return None;
        }
        if crc32fast::hash(&bytes[..32]) != u32_at(bytes, 32)? {
            return None;
        }
        Some(Self {
            kind: Kind::from_byte(bytes[4])?,
            at: Location {
                segment: SegmentId(u64_at(bytes, 8)?),
                offset: u32_at(bytes, 16)?,
            },
            synced: u32_at(bytes, 20)?,
            length: u32_at(bytes, 24)?,
            payload_crc: u32_at(bytes, 28)?,
        })
    }

    /// Bytes of the whole record, padding included.
    pub(super) fn record_bytes(&self) -> u64 {
        record_bytes(self.length as usize) as u64
    }
}

/// Bytes that a record with such a payload takes.
pub(super) fn record_bytes(payload: usize) -> usize {
    (HEADER_BYTES + payload).next_multiple_of(ALIGN)
}

/// Offsets in `bytes` from `from` on at which a record may start: aligned, with the magic.
pub(super) fn candidates(bytes: &[u8], from: usize) -> impl Iterator<Item = usize> {
    memchr::memmem::find_iter(bytes.get(from..).unwrap_or_default(), &MAGIC)
        .map(move |at| from + at)
        .filter(|at| at % ALIGN == 0)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(four.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let eight = bytes.get(at..at + 8)?;
    Some(u64::from_le_bytes(eight.try_into().ok()?))
}

/// Where a capture's content lies when it has a file of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LargeRef {
    /// Names the file; never 0.
    pub(super) name: u64,
    pub(super) crc: u32,
}

/// The fixed head of a capture's payload; sighting (JSON) and body follow.
///
/// ```text
///  0    16            24         32                36    40            48
///  | id | captured_at | content  | sighting length | crc | large name  | sighting … | body …
///  |    |             | bytes    |                 |     | or 0        |
/// ```
///
/// `crc` is that of the large file's content; where the body stands here, it is that of what is before it and of the
/// sighting, so that a capture is known without its body, and 0 in older journals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CaptureHead {
    pub(super) id: CaptureId,
    pub(super) captured_at: u64,
    pub(super) content_bytes: u64,
    pub(super) sighting_bytes: u32,
    pub(super) large: Option<LargeRef>,
}

pub(super) const CAPTURE_HEAD_BYTES: usize = 48;
const CRC_AT: usize = 36;

fn front_crc(before: &[u8], sighting: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(before);
    crc.update(sighting);
    crc.finalize()
}

impl CaptureHead {
    /// The head and the sighting behind it.
    pub(super) fn encode(&self, sighting: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(CAPTURE_HEAD_BYTES + sighting.len());
        out.extend_from_slice(&self.id.to_bytes());
        out.extend_from_slice(&self.captured_at.to_le_bytes());
        out.extend_from_slice(&self.content_bytes.to_le_bytes());
        out.extend_from_slice(&self.sighting_bytes.to_le_bytes());
        let crc = match self.large {
            Some(large) => large.crc,
            None => front_crc(&out, sighting),
        };
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&self.large.map_or(0, |large| large.name).to_le_bytes());
        out.extend_from_slice(sighting);
        out
    }

    /// `None` when the parts do not fill the payload exactly.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        Self::parse_start(payload, payload.len() as u64)
    }

    /// The head of a payload of so many bytes, from a start that holds head and sighting as they were written. `None` in
    /// doubt: the whole has a checksum of its own.
    pub(super) fn parse_front(start: &[u8], payload_bytes: u64) -> Option<Self> {
        let head = Self::parse_start(start, payload_bytes)?;
        let sighting = start.get(CAPTURE_HEAD_BYTES..head.body_at())?;
        let crc = u32_at(start, CRC_AT)?;
        let is_sound =
            head.large.is_none() && crc != 0 && crc == front_crc(&start[..CRC_AT], sighting);
        is_sound.then_some(head)
    }

    fn parse_start(payload: &[u8], payload_bytes: u64) -> Option<Self> {
        let name = u64_at(payload, 40)?;
        let head = Self {
            id: CaptureId::from_bytes(payload.get(..16)?.try_into().ok()?),
            captured_at: u64_at(payload, 16)?,
            content_bytes: u64_at(payload, 24)?,
            sighting_bytes: u32_at(payload, 32)?,
            large: (name != 0).then_some(LargeRef {
                name,
                crc: u32_at(payload, CRC_AT)?,
            }),
        };
        let inline = match head.large {
            Some(_) => 0,
            None => head.content_bytes,
        };
        let expected = (CAPTURE_HEAD_BYTES as u64 + u64::from(head.sighting_bytes))
            .checked_add(inline)
            .filter(|expected| *expected == payload_bytes);
        expected.map(|_| head)
    }

    /// Where the sighting ends and the body begins.
    pub(super) fn body_at(&self) -> usize {
        CAPTURE_HEAD_BYTES + self.sighting_bytes as usize
    }
}

/// Targets by slot: the bit that stands for each in a capture's state.
pub(super) type Slots = std::collections::BTreeMap<u8, String>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Opening {
    /// The segment before this one and the end of its last record; what lies behind that end is not part of the log.
    /// More than one where segments had to be abandoned before their own openings were synced.
    pub(super) previous: Vec<Location>,
    pub(super) targets: Slots,
}

/// What a moved capture takes along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MovedState {
    pub(super) from: Location,
    /// A bit for each slot that needs nothing more.
    pub(super) done: u32,
    pub(super) held: bool,
    pub(super) parked: std::collections::BTreeMap<u8, String>,
    pub(super) acceptance: Acceptance,
}

/// A record's meaning. `of` is always the location of a capture (or of its moved successor).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Opening(Opening),
    Capture(CaptureHead),
    /// The capture's head, and where in the payload it begins.
    Moved(MovedState, CaptureHead, usize),
    Fate {
        of: Location,
        discard: bool,
        acceptance: Acceptance,
    },
    Settle {
        of: Location,
        slot: u8,
        outcome: Outcome,
    },
    Targets(Slots),
    Hold {
        of: Location,
        held: bool,
    },
    Retry {
        of: Location,
        slot: u8,
    },
    Quarantined {
        of: Location,
    },
    Closed,
}

impl Record {
    /// The payload of any record but a capture, whose parts the draft makes.
    pub(super) fn encode(&self) -> (Kind, Vec<u8>) {
        let mut out = Vec::with_capacity(96);
        let kind = match self {
            Self::Opening(opening) => {
                json(&mut out, opening);
                Kind::Opening
            }
            Self::Capture(_) => unreachable!("a draft makes its record"),
            Self::Moved(state, ..) => {
                out.extend_from_slice(&[0; 4]);
                json(&mut out, state);
                let length = (out.len() - 4) as u32;
                out[..4].copy_from_slice(&length.to_le_bytes());
                Kind::Moved
            }
            Self::Fate {
                of,
                discard,
                acceptance,
            } => {
                reference(&mut out, *of, u8::from(*discard));
                json(&mut out, acceptance);
                Kind::Fate
            }
            Self::Settle { of, slot, outcome } => {
                reference(&mut out, *of, *slot);
                json(&mut out, outcome);
                Kind::Settle
            }
            Self::Targets(slots) => {
                json(&mut out, slots);
                Kind::Targets
            }
            Self::Hold { of, held } => {
                reference(&mut out, *of, u8::from(*held));
                Kind::Hold
            }
            Self::Retry { of, slot } => {
                reference(&mut out, *of, *slot);
                Kind::Retry
            }
            Self::Quarantined { of } => {
                reference(&mut out, *of, 0);
                Kind::Quarantined
            }
            Self::Closed => Kind::Closed,
        };
        (kind, out)
    }

    /// `None` when the payload is not what its kind demands, although its checksum is right.
    pub(super) fn decode(kind: Kind, payload: &[u8]) -> Option<Self> {
        Some(match kind {
            Kind::Opening => Self::Opening(serde_json::from_slice(payload).ok()?),
            Kind::Capture => Self::Capture(CaptureHead::parse(payload)?),
            Kind::Moved => {
                let at = (u32_at(payload, 0)? as usize).checked_add(4)?;
                let state = serde_json::from_slice(payload.get(4..at)?).ok()?;
                Self::Moved(state, CaptureHead::parse(payload.get(at..)?)?, at)
            }
            Kind::Targets => Self::Targets(serde_json::from_slice(payload).ok()?),
            Kind::Closed => Self::Closed,
            Kind::Fate | Kind::Settle | Kind::Hold | Kind::Retry | Kind::Quarantined => {
                let of = Location {
                    segment: SegmentId(u64_at(payload, 0)?),
                    offset: u32_at(payload, 8)?,
                };
                let byte = *payload.get(12)?;
                let rest = &payload[13..];
                match kind {
                    Kind::Fate => Self::Fate {
                        of,
                        discard: byte != 0,
                        acceptance: serde_json::from_slice(rest).ok()?,
                    },
                    Kind::Settle => Self::Settle {
                        of,
                        slot: byte,
                        outcome: serde_json::from_slice(rest).ok()?,
                    },
                    Kind::Hold => Self::Hold {
                        of,
                        held: byte != 0,
                    },
                    Kind::Retry => Self::Retry { of, slot: byte },
                    _ => Self::Quarantined { of },
                }
            }
        })
    }
}

/// `segment id, offset, one byte`, before whatever else a record says of a capture.
fn reference(out: &mut Vec<u8>, of: Location, byte: u8) {
    out.extend_from_slice(&of.segment.0.to_le_bytes());
    out.extend_from_slice(&of.offset.to_le_bytes());
    out.push(byte);
}

fn json(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(out, value)
        .expect("these types have string keys and memory takes any write");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn locations() -> impl Strategy<Value = Location> {
        (any::<u64>(), any::<u32>()).prop_map(|(segment, offset)| Location {
            segment: SegmentId(segment),
            offset,
        })
    }

    fn outcomes() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            ".*".prop_map(|remote_id| Outcome::Stored { remote_id }),
            (any::<[u8; 16]>(), ".*").prop_map(|(of, remote_id)| Outcome::Duplicate {
                of: CaptureId::from_bytes(of),
                remote_id,
            }),
            ".*".prop_map(|rule| Outcome::Excluded { rule }),
            ".*".prop_map(|why| Outcome::Parked { why }),
        ]
    }

    fn records() -> impl Strategy<Value = Record> {
        let slots = || prop::collection::btree_map(0..32u8, ".{0,9}", 0..4);
        prop_oneof![
            (prop::collection::vec(locations(), 0..3), slots())
                .prop_map(|(previous, targets)| { Record::Opening(Opening { previous, targets }) }),
            slots().prop_map(Record::Targets),
            (locations(), any::<bool>(), ".*").prop_map(|(of, discard, reply)| Record::Fate {
                of,
                discard,
                acceptance: Acceptance::Accepted {
                    reply: reply.into()
                },
            }),
            (locations(), 0..32u8, outcomes()).prop_map(|(of, slot, outcome)| Record::Settle {
                of,
                slot,
                outcome
            }),
            (locations(), any::<bool>()).prop_map(|(of, held)| Record::Hold { of, held }),
            (locations(), 0..32u8).prop_map(|(of, slot)| Record::Retry { of, slot }),
            locations().prop_map(|of| Record::Quarantined { of }),
            Just(Record::Closed),
        ]
    }

    proptest! {
        #[test]
        fn records_survive_their_bytes(record in records()) {
            let (kind, payload) = record.encode();
            prop_assert_eq!(Record::decode(kind, &payload), Some(record));
        }

        #[test]
        fn decoding_any_payload_has_an_answer(kind in 1..=10u8, payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let kind = Kind::from_byte(kind).unwrap();
            Record::decode(kind, &payload);
        }

        #[test]
        fn heads_and_headers_survive_their_bytes(
            at in locations(),
            synced in any::<u32>(),
            id in any::<[u8; 16]>(),
            sighting in prop::collection::vec(any::<u8>(), 0..50),
            body in prop::collection::vec(any::<u8>(), 0..50),
            large in any::<Option<(u64, u32)>>(),
            damage in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let large = large.map(|(name, crc)| LargeRef { name: name.max(1), crc });
            let head = CaptureHead {
                id: CaptureId::from_bytes(id),
                captured_at: 17,
                content_bytes: body.len() as u64,
                sighting_bytes: sighting.len() as u32,
                large,
            };
            let mut payload = head.encode(&sighting);
            let front = payload.len();
            if large.is_none() {
                payload.extend_from_slice(&body);
            }
            prop_assert_eq!(CaptureHead::parse(&payload), Some(head));
            let parse_front = |start: &[u8]| CaptureHead::parse_front(start, payload.len() as u64);
            prop_assert_eq!(parse_front(&payload[..front]), large.is_none().then_some(head));
            let mut older = payload[..front].to_vec();
            older[CRC_AT..CRC_AT + 4].fill(0);
            prop_assert_eq!(parse_front(&older), None);
            let mut damaged = payload[..front].to_vec();
            damaged[damage.index(front)] ^= 1 << bit;
            prop_assert_eq!(parse_front(&damaged), None);
            prop_assert_eq!(parse_front(&payload[..damage.index(front)]), None);
            let header = Header {
                kind: Kind::Capture,
                at,
                synced,
                length: payload.len() as u32,
                payload_crc: crc32fast::hash(&payload),
            };
            prop_assert_eq!(Header::parse(&header.encode()), Some(header));
        }
    }

    #[test]
    fn segments_are_named_by_their_id_and_nothing_else_is_a_segment() {
        let id = SegmentId::new(9, 0xabcdef01);
        assert_eq!(SegmentId::from_file_name(&id.file_name()), Some(id));
        for name in [
            "0.seg",
            "00000009abcdef01.spare",
            "zzzzzzzzzzzzzzzz.seg",
            ".seg",
        ] {
            assert_eq!(SegmentId::from_file_name(name), None);
        }
    }
}
