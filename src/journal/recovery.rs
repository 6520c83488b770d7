//! From the files to the index, at start; twice gives the same as once. What each file is (for gaps inside a segment see
//! the table in `scan.rs`; no segment is written into again after a stop):
//!
//! | case | what is found | what it is | what is done |
//! |---|---|---|---|
//! | unfinished | `*.new` | a segment being made when we stopped | removed |
//! | spare | `*.spare` | a cleared segment | kept for the next one |
//! | empty | a segment without any record of its own | prepared, never used (or cleared, its name not yet changed) | made a spare |
//! | told | a segment whose successor's opening tells its end | full, abandoned or left behind by an earlier stop | records up to that end |
//! | last | a segment that no opening follows | where we stopped | every whole record in it |
//! | orphan | a large file that no live capture names | its draft was never committed, or its capture is done | removed |
//! | bereft | a live capture whose large file is missing or short | the file was damaged after it was synced | quarantined |
//! | fateless | a live capture without a fate | we stopped before the next hop's answer was recorded | released as unknown |

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    sync::Arc,
};

use super::{
    disk::{Area, Disk, DiskFile},
    format::{HEADER_BYTES, Location, Record, SegmentId},
    index::Index,
    large, quarantine, reader,
    scan::{self, Gap, GapCase},
};
use crate::message::Acceptance;

pub(super) struct Recovered {
    pub(super) index: Index,
    /// Where segments end of which no opening tells it: the last one, as a rule.
    pub(super) previous: Vec<Location>,
    pub(super) spares: Vec<String>,
    pub(super) next_ordinal: u32,
    /// Facts found out here, to be written into the next segment.
    pub(super) backlog: Vec<Record>,
    pub(super) bad: Vec<BadRecord>,
}

/// A record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BadRecord {
    /// The segment's file name.
    pub segment: String,
    pub offset: u32,
    pub bytes: u64,
    pub cause: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Sets bad records aside and clears up.
    Repair,
    /// Changes nothing: for looking on beside a running daemon.
    Look,
}

pub(super) fn recover(disk: &dyn Disk, mode: Mode) -> io::Result<Recovered> {
    let mut recovered = Recovered {
        index: Index::default(),
        previous: Vec::new(),
        spares: Vec::new(),
        next_ordinal: 0,
        backlog: Vec::new(),
        bad: Vec::new(),
    };
    let segments = find_segments(disk, mode, &mut recovered)?;
    let told_ends = read_openings(&segments);
    let mut bytes = Vec::new();
    for (id, file) in segments {
        read_segment(
            disk,
            mode,
            id,
            &*file,
            told_ends.get(&id).copied(),
            &mut bytes,
        )?;
        let told_end = told_ends.get(&id).copied();
        if mode == Mode::Repair && told_end.is_none() {
            // What a killed process wrote and did not sync is read here as if it were durable: what is cleared away on
            // its word must not come to miss it after a power cut.
            file.sync()?;
        }
        replay(disk, mode, id, &file, &bytes, told_end, &mut recovered)?;
    }
    check_large_files(disk, mode, &mut recovered)?;
    if mode == Mode::Look {
        // Whoever captured them may well be alive.
        return Ok(recovered);
    }
    for of in recovered.index.without_fate() {
        let record = Record::Fate {
            of,
            discard: false,
            acceptance: Acceptance::Unknown,
        };
        recovered.index.apply(of, 0, &record);
        recovered.backlog.push(record);
    }
    Ok(recovered)
}

type Segments = BTreeMap<SegmentId, Arc<dyn DiskFile>>;

fn find_segments(disk: &dyn Disk, mode: Mode, recovered: &mut Recovered) -> io::Result<Segments> {
    let mut segments = Segments::new();
    for name in disk.list(Area::Segments)? {
        if let Some(id) = SegmentId::from_file_name(&name) {
            recovered.next_ordinal = recovered.next_ordinal.max(id.ordinal() + 1);
            match disk.open(Area::Segments, &name) {
                Ok(file) => segments.insert(id, file),
                // Freed since it was listed, by the daemon beside us.
                Err(error) if mode == Mode::Look && error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        } else if name.ends_with(".spare") {
            recovered.spares.push(name);
        } else if name.ends_with(".new") && mode == Mode::Repair {
            disk.remove(Area::Segments, &name)?;
        }
    }
    Ok(segments)
}

/// An opening with 32 long names fits well.
const OPENING_BYTES: usize = 16 << 10;

/// What each segment's opening says of the end of the one before it.
fn read_openings(segments: &Segments) -> HashMap<SegmentId, u32> {
    let mut ends = HashMap::new();
    for (id, file) in segments {
        let start = Location {
            segment: *id,
            offset: 0,
        };
        // One that cannot be read is judged with the rest of its segment.
        if let Ok((Record::Opening(opening), _)) =
            reader::read_record(&**file, start, OPENING_BYTES)
        {
            let told = opening.previous.iter();
            ends.extend(told.map(|end| (end.segment, end.offset)));
        }
    }
    ends
}

/// Reads a segment's bytes. A daemon may be writing beside us: what looks like damage is read again, since it may only be
/// newer than what stands behind it.
fn read_segment(
    disk: &dyn Disk,
    mode: Mode,
    id: SegmentId,
    file: &dyn DiskFile,
    told_end: Option<u32>,
    bytes: &mut Vec<u8>,
) -> io::Result<()> {
    for attempt in 0..READS_MAX {
        bytes.resize(file.bytes()?.min(u64::from(u32::MAX)) as usize, 0);
        let count = file.read_at(bytes, 0)?;
        bytes.truncate(count);
        if mode == Mode::Repair || attempt == READS_MAX - 1 {
            break;
        }
        let gaps = scan::walk(bytes, id, told_end).gaps;
        if gaps.iter().all(|gap| gap.case != GapCase::Damaged) {
            break;
        }
    }
    if mode == Mode::Look && disk.open(Area::Segments, &id.file_name()).is_err() {
        // Cleared away while it was read.
        bytes.clear();
    }
    Ok(())
}

const READS_MAX: usize = 3;

fn replay(
    disk: &dyn Disk,
    mode: Mode,
    id: SegmentId,
    file: &Arc<dyn DiskFile>,
    bytes: &[u8],
    told_end: Option<u32>,
    recovered: &mut Recovered,
) -> io::Result<()> {
    let mut walk = scan::walk(bytes, id, told_end);
    if walk.records.is_empty() && walk.gaps.iter().all(|gap| gap.case != GapCase::Damaged) {
        if mode == Mode::Repair {
            let spare = format!("{:016x}.spare", id.0);
            disk.rename(Area::Segments, &id.file_name(), &spare)?;
            disk.sync_directory(Area::Segments)?;
            recovered.spares.push(spare);
        }
        return Ok(());
    }
    recovered.index.add_segment(id, file.clone());
    for header in &walk.records {
        match Record::decode(header.kind, scan::payload(bytes, header)) {
            Some(record) => {
                let size = header.record_bytes() as u32;
                recovered.index.apply(header.at, size, &record);
            }
            None => {
                let start = header.at.offset as usize;
                walk.gaps.push(Gap {
                    range: start..start + header.record_bytes() as usize,
                    case: GapCase::Damaged,
                    cause: "payload is not what its kind demands",
                });
            }
        }
    }
    recovered.index.seal(id);
    if told_end.is_none() {
        recovered.previous.push(Location {
            segment: id,
            offset: walk.end,
        });
    }
    for gap in &walk.gaps {
        if gap.case == GapCase::Damaged {
            recovered.bad.push(BadRecord {
                segment: id.file_name(),
                offset: gap.range.start as u32,
                bytes: gap.range.len() as u64,
                cause: gap.cause,
            });
        }
        if mode == Mode::Repair {
            set_gap_aside(disk, id, &**file, gap)?;
        }
    }
    Ok(())
}

/// Keeps a copy of what a gap holds and blanks it, so that the next start does not find it again.
fn set_gap_aside(
    disk: &dyn Disk,
    segment: SegmentId,
    file: &dyn DiskFile,
    gap: &Gap,
) -> io::Result<()> {
    let suffix = match gap.case {
        GapCase::Blank => return Ok(()),
        GapCase::Damaged => quarantine::DAMAGED,
        GapCase::Torn | GapCase::Tail => quarantine::TORN,
    };
    let at = Location {
        segment,
        offset: gap.range.start as u32,
    };
    let name = segment.file_name();
    let (offset, cause) = (at.offset, gap.cause);
    match gap.case {
        GapCase::Damaged => {
            tracing::error!(segment = name, offset, cause, "journal: record quarantined")
        }
        _ => tracing::info!(
            segment = name,
            offset,
            cause,
            "journal: unfinished write set aside"
        ),
    }
    let kept = match gap.range.len() > HEADER_BYTES {
        true => quarantine::keep(disk, file, at, gap.range.len(), suffix),
        false => Ok(()),
    };
    if let Err(error) = kept {
        tracing::warn!(%error, "journal: no copy in the quarantine");
        if gap.case == GapCase::Damaged {
            // It stays where it is, for the next start to find again.
            return Ok(());
        }
    }
    if gap.case != GapCase::Tail {
        file.write_at(&vec![0; gap.range.len()], u64::from(at.offset))?;
        file.sync()?;
    }
    Ok(())
}

/// Cases "orphan" and "bereft".
fn check_large_files(disk: &dyn Disk, mode: Mode, recovered: &mut Recovered) -> io::Result<()> {
    let mut named = HashSet::new();
    let mut bereft = Vec::new();
    for segment in recovered.index.segments.values() {
        for (offset, (name, bytes)) in &segment.large {
            named.insert(*name);
            let length = match disk.open(Area::Large, &large::file_name(*name)) {
                Ok(file) => file.bytes()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                Err(error) => return Err(error),
            };
            if length < *bytes {
                bereft.push(Location {
                    segment: segment.id,
                    offset: *offset,
                });
            }
        }
    }
    for of in bereft {
        let Some((file, bytes)) = recovered.index.record_of(of) else {
            continue;
        };
        recovered.bad.push(BadRecord {
            segment: of.segment.file_name(),
            offset: of.offset,
            bytes: bytes as u64,
            cause: "its large file is missing or short",
        });
        if mode == Mode::Repair {
            if let Err(error) = quarantine::keep(disk, &*file, of, bytes, quarantine::DAMAGED) {
                tracing::warn!(%error, "journal: no copy in the quarantine");
            }
            let record = Record::Quarantined { of };
            recovered.index.apply(of, 0, &record);
            recovered.backlog.push(record);
        }
    }
    // What is left of a quarantined one stays beside its record.
    recovered.index.large_done.clear();
    if mode == Mode::Repair {
        for file in disk.list(Area::Large)? {
            if large::from_file_name(&file).is_some_and(|name| !named.contains(&name)) {
                disk.remove(Area::Large, &file)?;
            }
        }
    }
    Ok(())
}
