//! Free space of the file system, and what of it is promised: the journal's own writes never take it below the floor.
//!
//! Asking the kernel for each piece would cost more than writing some, so an answer is believed for a second; what was
//! written since is taken off it, and what is being written counts in full. Others may write to the same file system:
//! what they take within that second is not seen.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{
    JournalError,
    disk::Disk,
    shared::{Log, failed},
};

/// For how long an answer of statvfs is believed.
const STALE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Space(Mutex<State>);

#[derive(Default)]
struct State {
    /// When it was asked, and what is left of the answer.
    free: Option<(Instant, u64)>,
    /// Bytes of writes under way.
    promised: u64,
}

/// Space for one write; dropped when the write is over.
pub(super) struct Promise<'a> {
    space: &'a Space,
    bytes: u64,
}

impl Space {
    /// Whether `more` bytes could be promised now.
    pub(super) fn check(&self, log: &Log, floor: u64, more: u64) -> Result<(), JournalError> {
        self.0.lock().check(&*log.disk, floor, more)
    }

    pub(super) fn promise(
        &self,
        log: &Log,
        floor: u64,
        bytes: u64,
    ) -> Result<Promise<'_>, JournalError> {
        let mut state = self.0.lock();
        state.check(&*log.disk, floor, bytes)?;
        state.promised += bytes;
        Ok(Promise { space: self, bytes })
    }

    /// The next question goes to the kernel: something was cleared away, or might have been.
    pub(super) fn ask_again(&self) {
        self.0.lock().free = None;
    }
}

impl State {
    fn check(&mut self, disk: &dyn Disk, floor: u64, more: u64) -> Result<(), JournalError> {
        let free = match self.free {
            Some((asked, free)) if asked.elapsed() < STALE => free,
            _ => {
                let free = disk.free_bytes().map_err(failed("read free space"))?;
                self.free = Some((Instant::now(), free));
                free
            }
        };
        let free = free.saturating_sub(self.promised);
        if free < floor.saturating_add(more) {
            return Err(JournalError::Full(format!(
                "{free} bytes free on the file system, {floor} are to stay so"
            )));
        }
        Ok(())
    }
}

impl Drop for Promise<'_> {
    /// Taken off also where the kernel was asked meanwhile and knew of it already: then too little counts as free, until
    /// it is asked again.
    fn drop(&mut self) {
        let mut state = self.space.0.lock();
        state.promised -= self.bytes;
        if let Some((_, free)) = &mut state.free {
            *free = free.saturating_sub(self.bytes);
        }
    }
}
