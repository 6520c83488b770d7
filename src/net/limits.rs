//! How many sessions a listener takes, in all and from one address, as permits: whatever way a session ends, its place
//! comes back.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Peer;

/// Refused connections that are being told so. They hold no session's place, or refusing would use up what it protects.
const REFUSALS_AT_ONCE: usize = 64;

/// Why a connection is told to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    TooManySessions,
    TooManyFromAddress,
}

impl Refusal {
    /// As in [`crate::metrics::SESSION_ERRORS`].
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooManySessions => "too_many_sessions",
            Self::TooManyFromAddress => "too_many_from_address",
        }
    }
}

pub(super) struct Limits {
    sessions: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    per_address_max: usize,
    per_address: Mutex<HashMap<IpAddr, usize>>,
}

/// A place, held until it is dropped.
pub(super) struct Admission {
    pub(super) refused: Option<Refusal>,
    _permit: OwnedSemaphorePermit,
    _from_address: Option<FromAddress>,
}

impl Limits {
    pub(super) fn new(sessions_max: usize, per_address_max: usize) -> Arc<Self> {
        Arc::new(Self {
            sessions: Arc::new(Semaphore::new(sessions_max.min(Semaphore::MAX_PERMITS))),
            refusals: Arc::new(Semaphore::new(REFUSALS_AT_ONCE)),
            per_address_max,
            per_address: Mutex::default(),
        })
    }

    /// A session's place, or a refusal's; none where not even a refusal can be afforded.
    pub(super) fn admit(&self) -> Option<Admission> {
        match self.sessions.clone().try_acquire_owned() {
            Ok(permit) => Some(Admission {
                refused: None,
                _permit: permit,
                _from_address: None,
            }),
            Err(_) => self.refuse(Refusal::TooManySessions),
        }
    }

    /// The same, now that the client's address is known.
    pub(super) fn admit_from(
        self: &Arc<Self>,
        admission: Admission,
        peer: &Peer,
    ) -> Option<Admission> {
        let Some(address) = peer.ip().filter(|_| admission.refused.is_none()) else {
            return Some(admission);
        };
        let mut counts = self.per_address.lock();
        let count = counts.get(&address).copied().unwrap_or(0);
        if count >= self.per_address_max {
            return self.refuse(Refusal::TooManyFromAddress);
        }
        counts.insert(address, count + 1);
        Some(Admission {
            _from_address: Some(FromAddress {
                limits: self.clone(),
                address,
            }),
            ..admission
        })
    }

    fn refuse(&self, why: Refusal) -> Option<Admission> {
        let permit = self.refusals.clone().try_acquire_owned().ok()?;
        Some(Admission {
            refused: Some(why),
            _permit: permit,
            _from_address: None,
        })
    }
}

/// One of an address's sessions.
struct FromAddress {
    limits: Arc<Limits>,
    address: IpAddr,
}

impl Drop for FromAddress {
    fn drop(&mut self) {
        let mut counts = self.limits.per_address.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                // An address that left must not stay in memory: there are 2^128 of them.
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::Tcp(text.parse().unwrap())
    }

    fn admit(limits: &Arc<Limits>, from: &str) -> Admission {
        limits
            .admit_from(limits.admit().unwrap(), &peer(from))
            .unwrap()
    }

    #[test]
    fn the_one_too_many_is_told_why_and_places_come_back() {
        let limits = Limits::new(3, 2);
        let first = admit(&limits, "192.0.2.1:1");
        let second = admit(&limits, "192.0.2.1:2");
        let third = admit(&limits, "192.0.2.1:3");
        assert_eq!((first.refused, second.refused), (None, None));
        assert_eq!(third.refused, Some(Refusal::TooManyFromAddress));

        let other = admit(&limits, "192.0.2.2:1");
        assert_eq!(other.refused, None, "a refusal holds no session's place");
        let fourth = admit(&limits, "192.0.2.3:1");
        assert_eq!(fourth.refused, Some(Refusal::TooManySessions));

        drop(first);
        assert_eq!(admit(&limits, "192.0.2.1:4").refused, None);
        drop((second, other));
        assert!(
            limits.per_address.lock().is_empty(),
            "addresses that left are forgotten"
        );
    }

    #[test]
    fn refusing_is_bounded_too() {
        let limits = Limits::new(0, 1);
        let refusals: Vec<_> = (0..REFUSALS_AT_ONCE)
            .map(|_| limits.admit().unwrap())
            .collect();
        assert!(limits.admit().is_none());
        drop(refusals);
        assert!(limits.admit().is_some());
    }
}
