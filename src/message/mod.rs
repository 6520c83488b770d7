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
