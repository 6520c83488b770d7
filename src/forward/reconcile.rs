//! Journal, dedup map and target, compared for `mailtee verify`: what waits, what is parked, what the map believes to be
//! there and is not, and what is there that it does not know. It reads; it changes nothing.

use serde::{Deserialize, Serialize};

use super::{
    beyond::beyond,
    verify::{self, Finding},
};
use crate::{
    dedup::Dedup,
    journal::{Filter, JournalError, TargetState, View},
    message::CaptureId,
    targets::{PutError, RemoteStore},
};

/// Differences named; more are only counted.
pub(super) const NAMED_MAX: usize = 10_000;
const PAGE: usize = 500;

/// Why the comparison did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Target(#[from] PutError),
}

/// What the comparison of one target found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    pub target: String,
    /// Copies that the map knows and the target was asked for.
    pub checked: u64,
    pub differences: u64,
    /// Whether the target could be listed, to find what the map does not know.
    #[serde(default)]
    pub listed: bool,
    /// The first [`NAMED_MAX`] of them.
    pub named: Vec<Difference>,
}

/// One thing that is not at the target, or not known to be, or there and not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "difference", rename_all = "lowercase")]
pub enum Difference {
    /// Captured, and not yet confirmed by the target.
    Waiting { capture: CaptureId, state: String },
    /// The target refused it.
    Parked { capture: CaptureId, why: String },
    /// The map knows a copy that the target has not, or has in other bytes.
    Missing {
        first: CaptureId,
        k1: String,
        remote_id: String,
    },
    /// An entry of the map that cannot be read.
    Unreadable { why: String },
    /// The target has it where our copies go, and the map knows no such copy.
    Unknown { remote_id: String },
}

impl Reconciled {
    fn add(&mut self, difference: Difference) {
        self.differences += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(difference);
        }
    }
}

/// Compares the three for one target.
pub async fn reconcile(
    view: View,
    dedup: &Dedup,
    target: &str,
    store: &dyn RemoteStore,
) -> Result<Reconciled, ReconcileError> {
    let name = target.to_owned();
    let looking = tokio::task::spawn_blocking(move || in_journal(&view, name));
    let mut found = looking.await.map_err(|_| JournalError::Closed)??;
    let summary = verify::verify(dedup, target, store, |finding| {
        found.add(match finding {
            Finding::Missing(copy) => Difference::Missing {
                first: copy.first,
                k1: copy.k1.to_string(),
                remote_id: copy.remote_id,
            },
            Finding::Unreadable(why) => Difference::Unreadable { why },
        });
    });
    found.checked = summary.await?.checked;
    match beyond(dedup, target, store).await {
        Ok(Some(strangers)) => {
            found.listed = true;
            let (named, more) = strangers.into_parts();
            for remote_id in named {
                found.add(Difference::Unknown { remote_id });
            }
            found.differences += more;
        }
        Ok(None) => {}
        // What was found so far is told all the same; "no difference" would be more than we know.
        Err(error) if found.differences > 0 => {
            tracing::warn!(target_name = target, %error, "verify: the target cannot be listed");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(found)
}

/// What the journal still holds for the target.
fn in_journal(view: &View, target: String) -> Result<Reconciled, JournalError> {
    let filter = Filter {
        target: Some(target.clone()),
        state: None,
    };
    let mut found = Reconciled {
        target: target.clone(),
        ..Reconciled::default()
    };
    let mut after = None;
    loop {
        let page = view.list(&filter, after, PAGE)?;
        for capture in page.captures {
            let states = capture.targets.into_iter();
            for (_, state) in states.filter(|(name, _)| *name == target) {
                found.add(match state {
                    TargetState::Parked { why } => Difference::Parked {
                        capture: capture.id,
                        why,
                    },
                    other => Difference::Waiting {
                        capture: capture.id,
                        state: other.name().to_owned(),
                    },
                });
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(found);
        }
    }
}
