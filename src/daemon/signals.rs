//! What the world says to a running daemon: SIGHUP, SIGTERM, SIGINT, and the service manager's watchdog.

use std::time::Duration;

use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Interval, interval},
};

use super::{Daemon, DaemonError, notify};

/// Serves signals until one says to end, then drains. A second one ends the drain at once.
pub(super) async fn serve(mut daemon: Daemon) -> Result<(), DaemonError> {
    let listen = |kind, name| signal(kind).map_err(DaemonError::io(name));
    let mut hangup = listen(SignalKind::hangup(), "SIGHUP")?;
    let mut terminate = listen(SignalKind::terminate(), "SIGTERM")?;
    let mut interrupt = listen(SignalKind::interrupt(), "SIGINT")?;
    let notifier = notify::Notifier::from_environment();
    let mut watchdog = notify::watchdog_interval().map(interval);
    notifier.ready(&daemon.summary());
    loop {
        tokio::select! {
            _ = hangup.recv() => {
                notifier.reloading();
                daemon.reload_file().await;
                notifier.ready(&daemon.summary());
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = tick(&mut watchdog) => notifier.alive(),
        }
    }
    notifier.stopping();
    tokio::select! {
        () = daemon.drain() => {}
        _ = terminate.recv() => tracing::warn!("asked twice: ending without draining"),
        _ = interrupt.recv() => tracing::warn!("asked twice: ending without draining"),
    }
    Ok(())
}

/// Waits for SIGTERM or SIGINT.
pub(super) async fn told_to_end() -> Result<(), DaemonError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::io("SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::io("SIGINT"))?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => tokio::time::sleep(Duration::MAX).await,
    }
}
