//! The vocabulary of the product: what a message is, who sent it to whom, where and when we saw it.
//!
//! Pure: no clock, no randomness, no files, no sockets. Every stage speaks in these types, so a word here means the same
//! in the journal, at a target, in a metric label and in the README.

mod body;
mod canonical;
pub mod difference;
mod envelope;
pub mod fingerprint;
pub mod header;
pub mod journal_report;
pub mod network;
#[cfg(test)]
mod samples;
mod sighting;
mod text;
pub mod trace;

pub use body::{Body, LargeBody};
pub use difference::Difference;
pub use envelope::{Client, Envelope, Recipient, RecipientRole, TlsFacts};
pub use fingerprint::{Fingerprint, Fingerprinter, K1, K2};
pub use sighting::{
    Acceptance, CaptureId, Fidelity, Origin, Placement, Protocol, Sighting, UnixMillis,
};
pub use text::WireText;
