//! From a lease to something that goes: the criteria and the dedup map decide what, or that nothing does.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::worker::{Decide, Decided, Troubles};
use crate::{
    dedup::{Claim, ClaimLease, Dedup, Released},
    journal::{Lease, Outcome, Wants},
    message::{CaptureId, UnixMillis},
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
    /// Its content is wanted after all.
    Unread(Lease),
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
        let sighting = lease.sighting();
        let id = sighting.id;
        match (self.decide)(sighting, lease.body()) {
            Decided::Goes => {}
            Decided::Excluded { rule } => {
                return Admitted::Settled(lease, Outcome::Excluded { rule });
            }
            Decided::NeedsHeader => return Admitted::Unread(lease),
            // It keeps nothing back: a copy too many is better than none.
            Decided::NoHeader(error) => {
                let target_name = &self.target;
                tracing::warn!(target_name, capture = %id, %error, "criteria: the header cannot be read, it goes");
            }
        }
        let claim = match troubles.claim_of(id) {
            Some(claim) => Claim::New(claim),
            None => self.dedup.claim(&self.target, &sighting.fingerprint.k2, id),
        };
        let (content, claim) = match (claim, lease.body()) {
            (Claim::Busy { released, .. }, _) => return Admitted::Waits(lease, released),
            // Our own, confirmed; only the settling was lost.
            (Claim::Stored(copy), _) if copy.first == id => {
                let remote_id = copy.remote_id;
                return Admitted::Settled(lease, Outcome::Stored { remote_id });
            }
            (Claim::Stored(copy), _) if copy.k1 == sighting.fingerprint.k1 => {
                (Content::same_bytes(copy), None)
            }
            (Claim::Stored(copy), Some(body)) => match Content::beside(copy, sighting, body) {
                Ok(content) => (content, None),
                Err(error) => return Admitted::Unreadable(lease, error.to_string()),
            },
            (Claim::New(claim), Some(body)) => (Content::Copy(body.clone()), Some(claim)),
            // When it was leased the target still had its bytes. A claim that was taken is let go.
            (_, None) => return Admitted::Unread(lease),
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

    /// Whether the content of a capture that waits will be asked for, as far as is known before anything of it is.
    pub(super) fn wants(&self) -> Wants {
        let (target, dedup, decide) =
            (self.target.clone(), self.dedup.clone(), self.decide.clone());
        Arc::new(move |sighting| {
            let fingerprint = &sighting.fingerprint;
            match decide(sighting, None) {
                Decided::Excluded { .. } => false,
                Decided::NeedsHeader | Decided::NoHeader(_) => true,
                Decided::Goes => {
                    let stored = dedup.stored(&target, &fingerprint.k2);
                    stored.is_none_or(|copy| copy.k1 != fingerprint.k1)
                }
            }
        })
    }
}

/// A lease that comes back when the claim it waits for has ended.
pub(super) fn wait(lease: Lease, released: Released) -> BoxFuture<'static, Lease> {
    Box::pin(async move {
        released.wait().await;
        lease
    })
}

/// A lease that comes back with its content, or its id where that cannot be read.
pub(super) fn read(lease: Lease) -> BoxFuture<'static, Result<Lease, CaptureId>> {
    Box::pin(async move {
        let id = lease.sighting().id;
        lease.read().await.ok_or(id)
    })
}
