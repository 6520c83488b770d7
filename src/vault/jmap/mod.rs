//! JMAP Core (RFC 8620), a subset of Mail (RFC 8621), Blob (RFC 9404) and sightings (`targets::jmap::shapes`), honest
//! about themselves: what is not here answers `unknownMethod`, what is not understood the RFC's error.
//!
//! A request is handled in two steps. Off the async threads its inline blobs are decoded, fingerprinted and written
//! ([`plan`]); then its calls run in order: in a round of the store where one of them writes, on a reader where none does.
//! So a batch of a hundred messages is one hop, one transaction and a share of one sync.
//!
//! The same message (K2) in other bytes is never a second e-mail: importing it answers `alreadyExists` with the copy's id,
//! as RFC 8621 section 4.8 provides; a sighting brings what it alone has.
//!
//! There is one account. Ids are made of the content: `G` + K1 is a blob, `M` + K1 the e-mail of these bytes, `T` + K1
//! its thread, which is the e-mail alone.

mod blob;
mod call;
mod email;
mod email_body;
mod email_import;
mod http;
mod mailbox;
mod plan;
mod references;
mod session;
mod sighting;

pub(super) use http::{attachment, routes};

use super::email_id;
use crate::message::K1;

/// The one account.
const ACCOUNT: &str = "vault";

fn thread_id(k1: &K1) -> String {
    format!("T{k1}")
}

/// The K1 in an id of the given kind.
fn k1_in(id: &str, kind: char) -> Option<K1> {
    id.strip_prefix(kind)?.parse().ok()
}
