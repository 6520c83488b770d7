//! Checks the journal of a data directory: every record, every large file.
//!
//! Looking changes nothing and may run beside the daemon. Repairing takes the lock, so it needs the daemon stopped; it
//! does what a start would do: bad records go to the quarantine, unfinished files are cleared up.

use std::{io, path::Path, sync::Arc};

use parking_lot::Mutex;
use serde::Serialize;

use super::{
    BadRecord, JournalError,
    disk::{Disk, RealDisk},
    format::Location,
    index::START,
    quarantine, reader,
    recovery::{self, Mode},
    shared::{Log, failed},
};

/// What the journal on disk holds, and what of it is bad.
#[derive(Clone, Debug, Serialize)]
pub struct FsckReport {
    pub segments: u64,
    /// Captures not finished.
    pub captures: u64,
    /// Bytes that they take, large files included.
    pub bytes: u64,
    /// Bad records that lie in the quarantine already, or were moved there now.
    pub quarantined: u64,
    /// Bad records found in the log.
    pub bad: Vec<BadRecord>,
}

/// Reads every record below `data_dir`; with `repair` does what a start would do, for which the daemon must not run.
///
/// A daemon that finishes a capture between the look at its record and the look at its large file makes both seem at
/// odds. A second look finds that finished: what only one of them saw was never bad.
pub fn fsck(data_dir: &Path, repair: bool) -> Result<FsckReport, JournalError> {
    let first = look(data_dir, repair)?;
    if repair || first.bad.is_empty() {
        return Ok(first);
    }
    Ok(seen_twice(&first, look(data_dir, repair)?))
}

fn seen_twice(first: &FsckReport, mut second: FsckReport) -> FsckReport {
    second.bad.retain(|record| first.bad.contains(record));
    second
}

fn look(data_dir: &Path, repair: bool) -> Result<FsckReport, JournalError> {
    let root = data_dir.join("journal");
    let (disk, mode) = match repair {
        true => (super::open_disk(&root)?, Mode::Repair),
        false => {
            let disk = RealDisk::open_read_only(&root).map_err(failed("open"))?;
            (disk, Mode::Look)
        }
    };
    let recovered = recovery::recover(&disk, mode).map_err(failed("read"))?;
    let quarantined = quarantine::count(&disk).map_err(failed("read the quarantine"))?;
    let mut bad = recovered.bad;
    let log = Log {
        disk: Arc::new(disk) as Arc<dyn Disk>,
        index: Mutex::new(recovered.index),
    };
    let (segments, bytes, live) = {
        let index = log.index.lock();
        let live: Vec<Location> = index
            .entries_from(START)
            .filter(|(_, entry)| !entry.is_finished())
            .map(|(of, _)| of)
            .collect();
        (index.segments.len() as u64, index.live_bytes, live)
    };
    for of in &live {
        if let Some(cause) = content_fault(&log, *of) {
            bad.push(BadRecord {
                segment: of.segment.file_name(),
                offset: of.offset,
                bytes: 0,
                cause,
            });
        }
    }
    Ok(FsckReport {
        segments,
        captures: live.len() as u64,
        bytes,
        quarantined,
        bad,
    })
}

/// What is wrong with a capture whose record was found sound: its sighting, or its large file.
fn content_fault(log: &Log, of: Location) -> Option<&'static str> {
    let whole = match reader::whole(log, of) {
        Ok(whole) => whole,
        Err(reader::ReadError::Damaged(cause)) => return Some(cause),
        Err(_) => return Some("cannot be read"),
    };
    let read = whole
        .body
        .open()
        .and_then(|mut body| io::copy(&mut body, &mut io::sink()));
    match read {
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Some("large file's checksum does not match")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Recovery names it already.
            None
        }
        Err(_) => Some("large file cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_running_daemon_clears_away_between_two_looks_is_not_bad() {
        let bad = |offset| BadRecord {
            segment: "0000000000000001.seg".to_owned(),
            offset,
            bytes: 648,
            cause: "its large file is missing or short",
        };
        let report = |captures, bad| FsckReport {
            segments: 1,
            captures,
            bytes: 0,
            quarantined: 0,
            bad,
        };
        let first = report(3, vec![bad(64), bad(4096)]);
        let second = report(1, vec![bad(4096), bad(8192)]);
        let told = seen_twice(&first, second);
        assert_eq!((told.captures, told.bad), (1, vec![bad(4096)]));
    }
}
