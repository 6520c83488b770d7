//! SIGHUP: what can change while running does, what cannot is named, and a bad file changes nothing.

use std::sync::Arc;

use super::{Daemon, DaemonError, embedded};
use crate::config::Config;

impl Daemon {
    /// Reads the configuration file again and puts it in force.
    pub(super) async fn reload_file(&mut self) {
        let result = match Config::load(&self.config.file) {
            Ok(config) => self.reload(config).await,
            Err(error) => Err(error.into()),
        };
        let result = match result {
            Ok(()) => "applied",
            Err(error) => {
                tracing::error!(%error, "reload: refused, the old configuration stays in force");
                "refused"
            }
        };
        let reloads = &self.watched.metrics.config_reloads_total;
        reloads.with_label_values(&[result]).inc();
    }

    /// Puts a checked configuration in force; an error changes nothing.
    pub async fn reload(&mut self, new: Config) -> Result<(), DaemonError> {
        let targets = embedded::targets(&new, self.embedded.as_ref());
        let targets = self.forwarding.open(&targets)?;
        let abandoned = &new.journal.abandon_targets;
        let mut changed = self.forwarding.replace(targets, abandoned).await?;
        let targets = Arc::new(self.forwarding.named());
        // First out of the scrape's sight, which would make the series anew.
        for old in self.watched.targets.swap(targets.clone()).iter() {
            if targets.iter().all(|target| target.name != old.name) {
                self.watched.metrics.forget_target(&old.name);
            }
        }
        let failed = self.identities.reload();
        if new.log.level != self.config.log.level {
            self.level.set(&new.log.level);
            changed.push("log.level".to_owned());
        }
        if new.shutdown_timeout != self.config.shutdown_timeout {
            changed.push("shutdown_timeout".to_owned());
        }
        let waits = needs_restart(&self.config, &new);
        self.config.log.level = new.log.level;
        self.config.shutdown_timeout = new.shutdown_timeout;
        self.config.targets = new.targets;
        tracing::info!(?changed, certificates_failed = ?failed, "reload: applied");
        if !waits.is_empty() {
            tracing::warn!(
                ?waits,
                "reload: changed in the file, in force after a restart"
            );
        }
        Ok(())
    }
}

/// The parts of the file that differ and are only read at the start.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let parts = [
        ("data_dir", old.data_dir != new.data_dir),
        ("log.format", old.log.format != new.log.format),
        ("admin", old.admin != new.admin),
        ("journal", !same_journal(old, new)),
        ("dedup", old.dedup != new.dedup),
        ("vault", old.vault != new.vault),
        ("frontend", old.frontends != new.frontends),
    ];
    let differ = parts.into_iter().filter(|(_, differs)| *differs);
    differ.map(|(name, _)| name).collect()
}

/// Which targets may be abandoned is asked at each reload.
fn same_journal(old: &Config, new: &Config) -> bool {
    let mut journal = new.journal.clone();
    journal.abandon_targets = old.journal.abandon_targets.clone();
    journal == old.journal
}
