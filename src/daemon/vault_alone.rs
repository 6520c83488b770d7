//! `mailtee vault serve`: the vault without front ends, journal and forwarding, for other machines' targets.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use tokio::{runtime::Handle, time::timeout};

use super::{
    DaemonError, Embedded, Identities, Part, logging, notify, resources, serve_admin, signals,
};
use crate::{admin, config::Config, metrics::Metrics, net, vault};

/// Serves the vault of this configuration, and the admin page where it has one, until SIGTERM or SIGINT.
pub fn run_vault(config: &Config, options: &vault::Options) -> Result<(), DaemonError> {
    let _level = logging::start(&config.log);
    resources::raise_file_limit();
    let runtime = resources::capture_runtime().map_err(DaemonError::io("runtime"))?;
    let result = runtime.block_on(serve(config, options));
    runtime.shutdown_background();
    result
}

async fn serve(config: &Config, options: &vault::Options) -> Result<(), DaemonError> {
    net::install_provider();
    let metrics = Arc::new(Metrics::new());
    let serving = Part::default();
    let identities = Identities::default();
    let here = Handle::current();
    let embedded = Embedded::open(options, metrics.clone(), &serving, &identities, &here).await?;
    if let Some(admin) = &config.admin {
        let watched = Arc::new(admin::Watched {
            metrics,
            journal: None,
            frontends: Vec::new(),
            targets: ArcSwap::default(),
            accepting: AtomicBool::new(true),
            started: SystemTime::now(),
            vault_page: Some(embedded.url().to_owned()),
        });
        super::make_data_dir(config)?;
        let token =
            admin::Token::open(&config.data_dir).map_err(DaemonError::io("admin: token"))?;
        serve_admin(admin, token, watched, &serving, &here).await?;
    }
    let notifier = notify::Notifier::from_environment();
    notifier.ready("the vault alone");
    signals::told_to_end().await?;
    notifier.stopping();
    if timeout(config.shutdown_timeout, serving.stop())
        .await
        .is_err()
    {
        tracing::warn!("requests are cut off: their senders come again");
    }
    Ok(())
}
