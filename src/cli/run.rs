//! `mailtee run`: the daemon, in the foreground, until SIGTERM or SIGINT.

use clap::Args;

use super::{ConfigFile, Verdict};
use crate::daemon;

#[derive(Debug, Args)]
#[command(
    about = "Run the daemon in the foreground",
    after_help = "Examples:\n  mailtee run --config mailtee.toml\n  systemctl start mailtee\n\n\
                  Signals:\n  SIGHUP            read the configuration again\n  SIGTERM, SIGINT   drain, then end"
)]
pub(super) struct Run {
    #[command(flatten)]
    config: ConfigFile,
}

impl Run {
    pub(super) fn run(self) -> anyhow::Result<Verdict> {
        daemon::run(self.config.load()?)?;
        Ok(Verdict::Well)
    }
}
