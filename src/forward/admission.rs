//! From a lease to something that goes: the criteria and the dedup map decide what, or that nothing does.

use futures_util::future::BoxFuture;

use super::worker::{Decide, Troubles};
use crate::{
    dedup::{Claim, ClaimLease, Dedup, Released},
    journal::{Lease, Outcome},
    message::UnixMillis,
    targets::{Content, Outgoing},
};

/// A lease on its way to the target, and the claim on its message where the copy goes.
pub(super) struct Entry {
    pub lease: Lease,
    pub claim: Option<ClaimLease>,
}

#[allow(clippy::large_enum_variant, reason = "it lives for one match")]
pub(super) enum Admitted {
    Goes(Entry, Outgoing),
    /// Nothing goes: what became of it.
    Settled(Lease, Outcome),
    /// Another capture of the same message is on its way.
    Waits(Lease, Released),
    /// Our own disk failed.
    Unreadable(Lease, String),
}

pub(super) struct Admission {
    pub target: String,
    pub dedup: Dedup,
    pub decide: Decide,
    /// What was captured before may have been sent by the process before us.
    pub started: UnixMillis,
}

impl Admission {
    pub(super) fn admit(&self, lease: Lease, troubles: &mut Troubles) -> Admitted {
        if let Some(rule) = (self.decide)(&lease) {
            return Admitted::Settled(lease, Outcome::Excluded { rule });
        }
        let sighting = lease.sighting();
        let id = sighting.id;
        let (content, claim) = match troubles.claim_of(id) {
            Some(claim) => (Content::Copy(lease.body().clone()), Some(claim)),
            None => match self.dedup.claim(&self.target, &sighting.fingerprint.k2, id) {
                Claim::New(claim) => (Content::Copy(lease.body().clone()), Some(claim)),
                Claim::Busy { released, .. } => return Admitted::Waits(lease, released),
                // Our own, confirmed; only the settling was lost.
                Claim::Stored(copy) if copy.first == id => {
                    let remote_id = copy.remote_id;
                    return Admitted::Settled(lease, Outcome::Stored { remote_id });
                }
                Claim::Stored(copy) => match Content::beside(copy, sighting, lease.body()) {
                    Ok(content) => (content, None),
                    Err(error) => return Admitted::Unreadable(lease, error.to_string()),
                },
            },
        };
        let outgoing = Outgoing {
            sighting: sighting.clone(),
            acceptance: lease.acceptance().clone(),
            content,
            attempted: lease.attempts() > 0 || sighting.captured_at < self.started,
            map_has_lost: self.dedup.has_lost(),
        };
        Admitted::Goes(Entry { lease, claim }, outgoing)
    }
}

/// A lease that comes back when the claim it waits for has ended.
pub(super) fn wait(lease: Lease, released: Released) -> BoxFuture<'static, Lease> {
    Box::pin(async move {
        released.wait().await;
        lease
    })
}
