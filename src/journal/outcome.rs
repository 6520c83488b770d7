//! What a target made of a capture: part of the record format, and of nothing that does I/O.

use serde::{Deserialize, Serialize};

use crate::message::CaptureId;

/// What became of a capture for one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The target confirmed it; the target's own id for the copy.
    Stored { remote_id: String },
    /// The same message is already there; this sighting was recorded beside it.
    Duplicate { of: CaptureId, remote_id: String },
    /// A criterion said no; the rule's name.
    Excluded { rule: String },
    /// The target refused it for good; kept until an operator retries or exports it.
    Parked { why: String },
    /// An operator gave it up: this target never gets it.
    Dropped,
}
