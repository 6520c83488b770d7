//! From a checked target to the store that forwarding puts copies into.

use std::sync::Arc;

use crate::{
    channel::ChannelError,
    config::{Store, Target},
    metrics::Metrics,
    targets::{RemoteStore, jmap::Jmap},
};

/// Reads the files that the target names; connects to nobody yet.
pub fn open_store(
    target: &Target,
    metrics: Arc<Metrics>,
) -> Result<Arc<dyn RemoteStore>, ChannelError> {
    match &target.store {
        Store::Jmap(options) => {
            let store = Jmap::open(&*target.name, options.clone(), metrics)?;
            Ok(Arc::new(store))
        }
    }
}
