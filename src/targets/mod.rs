//! Where copies go. A target is idempotent: the same batch twice is one copy, so a lost reply costs a repeat, never a
//! double. Targets know no journal and no dedup map.

use std::{io, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use crate::{
    dedup::StoredCopy,
    message::{Acceptance, Body, Difference, Sighting},
};

pub mod jmap;

/// One sighting on its way to a target.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub sighting: Arc<Sighting>,
    pub acceptance: Acceptance,
    pub content: Content,
    /// An earlier attempt may have reached the target: where the target cannot tell by itself, it looks before it adds.
    pub attempted: bool,
    /// The dedup map has lost what it knew: so it does for a copy that another sighting, of any time, has brought.
    pub map_has_lost: bool,
}

/// What of a message goes to a target.
#[derive(Clone, Debug)]
pub enum Content {
    /// The target has no copy yet, as far as the dedup map knows.
    Copy(Body),
    /// The target has a copy: only the sighting goes, with what it alone has where its bytes differ.
    Duplicate {
        of: StoredCopy,
        difference: Option<Difference>,
    },
    /// The same message (K2) in bytes that no difference can express: its blob goes too, beside the copy.
    Variant { of: StoredCopy, body: Body },
}

impl Content {
    /// How a further sighting in the very bytes of the copy goes.
    pub fn same_bytes(of: StoredCopy) -> Self {
        Self::Duplicate {
            of,
            difference: None,
        }
    }

    /// How a further sighting of the message in `of` goes: with no bytes where they are the same, with its trace headers
    /// where those make its bytes from the copy's, with its bytes otherwise.
    pub fn beside(of: StoredCopy, sighting: &Sighting, body: &Body) -> io::Result<Self> {
        if of.k1 == sighting.fingerprint.k1 {
            return Ok(Self::same_bytes(of));
        }
        let difference = match of.core == sighting.fingerprint.core {
            true => Difference::extract(body.open()?)?,
            false => None,
        };
        Ok(match difference {
            Some(difference) => Self::Duplicate {
                of,
                difference: Some(difference),
            },
            None => Self::Variant {
                of,
                body: body.clone(),
            },
        })
    }
}

/// The target's confirmation of one sighting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The target's own id for the copy.
    pub remote_id: String,
    /// The target had these bytes, or this message, before: what it said of the copy it has.
    pub already: Option<StoredCopy>,
}

/// Why an item was not confirmed; the variants differ in what is done next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// The target takes nothing now: try again, not before `retry_after` where it named a time.
    #[error("{why}")]
    Unavailable {
        why: String,
        retry_after: Option<Duration>,
    },
    /// The target failed on this message alone, without saying that it never will take it: try again, and park it where
    /// it keeps failing while others pass.
    #[error("{why}")]
    Failed { why: String },
    /// This message will never be taken: park it.
    #[error("{why}")]
    Refused { why: String },
    /// The target does not know us: nothing goes until the credentials change.
    #[error("{why}")]
    Unauthorized { why: String },
    /// The dedup map was wrong: the target has no such copy. Send the bytes.
    #[error("the target has no copy {remote_id}")]
    CopyMissing { remote_id: String },
}

/// The contract of a target.
pub trait RemoteStore: Send + Sync {
    /// Puts each item, in any order; answers in the order of the batch, one answer an item.
    fn put<'a>(&'a self, batch: &'a [Outgoing]) -> BoxFuture<'a, Vec<Result<Receipt, PutError>>>;
    /// Can it be reached, does it take our credentials? For `mailtee check` and the breaker's probe.
    fn probe(&self) -> BoxFuture<'_, Result<(), PutError>>;
    /// Does it take what is no message of ours: an upload, and an import that it answers? Nothing of it stays. Asked right
    /// after a message failed alone on a target that gets no other.
    fn vouch(&self) -> BoxFuture<'_, Result<(), PutError>>;
    /// Which of these messages does it hold? For `mailtee verify`: answers in the order asked.
    fn holds<'a>(&'a self, copies: &'a [StoredCopy]) -> BoxFuture<'a, Result<Vec<bool>, PutError>>;
    /// The ids of what lies where it puts copies, oldest first, from this position on; empty at the end, `None` where it
    /// cannot be listed. For `mailtee verify`.
    fn list(&self, position: u64) -> BoxFuture<'_, Result<Option<Vec<String>>, PutError>>;
    /// What one batch may hold.
    fn batch_limits(&self) -> BatchLimits;
}

/// Items and content bytes of one batch, and batches at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    pub count: usize,
    pub bytes: u64,
    pub in_flight: usize,
}
