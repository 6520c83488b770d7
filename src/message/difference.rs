//! What one sighting of a message has that the stored copy has not: its delivery-trace headers and where they stand.

use serde::{Deserialize, Serialize};

/// The trace headers of one sighting. Put into the stored copy, after that copy's own trace headers are taken out, they
/// make the sighting's exact bytes again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// In order of position.
    pub traces: Vec<Trace>,
}

/// A run of trace headers, raw, and its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Offset in bytes into the header block without any trace header, before which the run stands.
    pub at: u64,
    /// The headers as they came, line ends included.
    #[serde(with = "super::text::bytes_as_wire_text")]
    pub bytes: Vec<u8>,
}
