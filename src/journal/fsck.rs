//! Checks the journal of a data directory without the daemon, or beside it.

use std::path::Path;

use super::{
    BadRecord, JournalError,
    disk::RealDisk,
    recovery::{self, Mode},
    shared::failed,
};

/// Reads every record and names each one that is bad. Changes nothing, so it may run beside the daemon.
pub fn fsck(data_dir: &Path) -> Result<Vec<BadRecord>, JournalError> {
    let disk = RealDisk::open_read_only(&data_dir.join("journal")).map_err(failed("open"))?;
    let recovered = recovery::recover(&disk, Mode::Look).map_err(failed("read"))?;
    Ok(recovered.bad)
}
