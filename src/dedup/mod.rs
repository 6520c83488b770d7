//! The shared map: has this message a copy at that target already? See `local.rs`.

use crate::message::{CaptureId, K1, K2, fingerprint::Core};

/// A copy that a target has confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCopy {
    /// The first sighting of the message.
    pub first: CaptureId,
    pub k1: K1,
    pub core: Core,
    /// The target's own id for the copy.
    pub remote_id: String,
}

pub enum Claim {
    /// Nobody has it: the caller sends it, then confirms. Dropping the lease gives the claim up.
    New(ClaimLease),
    /// Another capture of the same message is on its way; await `released`, then claim again.
    Busy {
        holder: CaptureId,
        released: Released,
    },
    Stored(StoredCopy),
}

pub struct ClaimLease {}
pub struct Released {}

#[derive(Debug, thiserror::Error)]
#[error("dedup map: {step}: {cause}")]
pub struct DedupError {
    pub step: &'static str,
    pub cause: String,
}

#[derive(Clone)]
pub struct Dedup {}

impl Dedup {
    pub fn claim(&self, _target: &str, _k2: &K2, _who: CaptureId) -> Result<Claim, DedupError> {
        unimplemented!()
    }
}
impl ClaimLease {
    /// Seen by every later claim at once; durable with the next batch.
    pub fn confirm(self, _copy: StoredCopy) {
        unimplemented!()
    }
}
impl Released {
    pub async fn wait(self) {
        unimplemented!()
    }
}
