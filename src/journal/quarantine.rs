//! Bad records are copied out of the log, named, counted, and never block what stands behind them.
//!
//! `quarantine/<segment>-<offset>.damaged` holds the bytes of what was synced once and cannot be read now: each is counted
//! and alerts until an operator has looked at it and moved it away. A `.torn` one holds a write that a crash cut short;
//! nobody was told that it was done, so it is kept for the curious and not counted.

use std::io;

use super::{
    disk::{Area, Disk, DiskFile},
    format::{Location, Record},
    shared::{Change, Shared},
};

pub(super) const DAMAGED: &str = "damaged";
pub(super) const TORN: &str = "torn";

/// Copies bytes of a segment into the quarantine; durable when it returns.
pub(super) fn keep(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    at: Location,
    bytes: usize,
    suffix: &str,
) -> io::Result<()> {
    let mut copy = vec![0; bytes];
    let count = file.read_at(&mut copy, u64::from(at.offset))?;
    let name = format!("{:016x}-{:010}.{suffix}", at.segment.0, at.offset);
    let kept = disk.create(Area::Quarantine, &name)?;
    kept.write_at(&copy[..count], 0)?;
    kept.sync()?;
    disk.sync_directory(Area::Quarantine)
}

/// How many damaged records lie in the quarantine.
pub(super) fn count(disk: &dyn Disk) -> io::Result<u64> {
    let names = disk.list(Area::Quarantine)?;
    let damaged = |name: &&String| name.ends_with(".damaged");
    Ok(names.iter().filter(damaged).count() as u64)
}

/// A capture turned out to be unreadable when it was to be forwarded: it is finished for every target.
pub(super) fn set_aside(shared: &Shared, of: Location, cause: &str) {
    let found = {
        let index = shared.log.index.lock();
        let file = index.segment(of).map(|segment| segment.file.clone());
        file.zip(index.entry(of).map(|entry| entry.record_bytes as usize))
    };
    let Some((file, bytes)) = found else { return };
    let name = of.segment.file_name();
    tracing::error!(
        segment = name,
        offset = of.offset,
        cause,
        "journal: record quarantined"
    );
    if let Err(error) = keep(&*shared.log.disk, &*file, of, bytes, DAMAGED) {
        tracing::error!(%error, "journal: cannot copy a bad record to the quarantine");
    }
    shared.count_quarantined();
    shared.inbox.push(Change::of(Record::Quarantined { of }));
}
