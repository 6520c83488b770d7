//! From the journal to a target: one worker a target, one owner of all its state.
//!
//! A worker leases what waits, oldest first, asks the criteria, claims in the dedup map, puts batches, confirms and
//! settles, in this order, so that a crash at any point costs a repeat, never a message: the confirmed copy is on disk
//! before its capture is settled. A message alone goes at once; while batches are in flight the next one fills.
//!
//! A target that takes nothing pauses everything (`breaker`); a message that fails alone comes back later by itself
//! (`policy`) and is parked where it keeps failing while others pass. Nothing here names a front end or a protocol.

mod admission;
mod beyond;
mod breaker;
mod outcome;
mod policy;
mod reconcile;
mod restart;
pub mod verify;
mod worker;

use std::time::Duration;

pub use policy::Policy;
pub use reconcile::{Difference, ReconcileError, Reconciled, reconcile};
pub use restart::keep_running;
pub use worker::{Decide, Decided, Worker};

/// Patience with one target and with single messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Delays for one message that fails alone.
    pub message: Policy,
    /// Delays for a target that takes nothing.
    pub target: Policy,
    /// A target is down after this many failures in a row: probed, and `target_up` is 0.
    pub failures_to_open: u32,
    /// A message that fails alone is parked after this many attempts, if others passed since its last one. The same
    /// holds, after four times as many, for one at which the target takes nothing, of which an attempt counts only when
    /// others passed in between; and for one that fails alone when no other comes, of which an attempt counts only while
    /// it is the one message in trouble and the target takes something else right after.
    pub attempts_to_park: u32,
    /// From the start of a batch that was not full to the next: a stream goes out in batches, a message alone at once.
    pub linger: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            message: Policy {
                base: Duration::from_secs(5),
                cap: Duration::from_secs(15 * 60),
            },
            target: Policy {
                base: Duration::from_secs(1),
                cap: Duration::from_secs(60),
            },
            failures_to_open: 3,
            attempts_to_park: 8,
            linger: Duration::from_millis(200),
        }
    }
}
