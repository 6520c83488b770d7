//! The dedup map: has this message a copy at that target already?
//!
//! `claim` answers New, Busy or Stored. New is a lease: its holder sends the message and confirms, or drops the lease,
//! which gives the claim up; whoever found the claim Busy wakes at either end and claims again. A confirmed copy is seen
//! by every later claim at once and is on disk with the next batch ([`Durable`] tells when).
//!
//! The map is never the only guard against a second copy, and never a reason to lose one: targets are idempotent, so a
//! map that is lost, corrupt or unreadable costs messages sent again, not copies: [`Dedup::has_lost`] says that the target
//! is to be asked first. It keys on 16 bytes of K2, which is enough because a hit is never trusted alone: K1 equal means
//! the same bytes; else Core equal means that a difference makes the bytes, checked against K1; else the bytes go too.
//! `local.rs` says how it is kept.

mod claim;
mod filter;
mod local;
#[cfg(test)]
mod samples;
mod shared;
mod store;
mod writer;

pub use claim::{ClaimLease, Durable, Released};
pub use local::{Copies, Dedup, Options};

use crate::message::{CaptureId, K1, fingerprint::Core};

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

#[derive(Debug)]
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

#[derive(Debug, thiserror::Error)]
pub enum DedupError {
    /// Another process has it open.
    #[error("dedup map: {0}: in use by another process")]
    InUse(std::path::PathBuf),
    /// The disk or the file system, not the map, is what fails.
    #[error("dedup map: {step}: {source}")]
    Io {
        step: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("dedup map: {step}: {cause}")]
    Unreadable { step: &'static str, cause: String },
}
