//! A worker that panics is a fault of ours, and would leave its target without copies until somebody looks: it is begun
//! again, after a pause, with what it had leased back in the queue.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::metrics::Metrics;

/// So that a worker that panics at once does not keep a processor busy.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs the workers that `make` makes, one after the other, until one ends by itself.
pub async fn keep_running(
    target: String,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    make: impl Fn() -> Worker,
) {
    loop {
        // Nothing of a worker outlives its panic but leases and claims, which are given back.
        let run = AssertUnwindSafe(make().run(stop.clone())).catch_unwind();
        if run.await.is_ok() {
            return;
        }
        tracing::error!(
            target_name = target,
            "forwarding panicked, and begins again"
        );
        metrics
            .forward_restarts_total
            .with_label_values(&[&target])
            .inc();
        if stop
            .run_until_cancelled(tokio::time::sleep(PAUSE))
            .await
            .is_none()
        {
            return;
        }
    }
}
