//! `mailtee vault`: the built-in second mail store, served alone or looked into.

use anyhow::bail;
use clap::{Args, Subcommand};

use super::{ConfigFile, Verdict};
use crate::daemon;

#[derive(Debug, Args)]
#[command(
    about = "Serve the built-in second mail store, or give out what it holds",
    after_help = "Examples:\n  mailtee vault serve\n  mailtee vault list --search invoice\n  \
                  mailtee vault export --to-maildir ./restored"
)]
pub(in crate::cli) struct Vault {
    #[command(flatten)]
    config: ConfigFile,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve it without front ends and forwarding, for other machines' targets
    #[command(after_help = "Example:\n  mailtee vault serve --config mailtee.toml")]
    Serve,
}

impl Vault {
    pub(in crate::cli) fn run(self) -> anyhow::Result<Verdict> {
        let config = self.config.load()?;
        let Some(options) = config.vault.clone() else {
            bail!("{}: there is no [vault]", config.file.display());
        };
        match self.verb {
            Verb::Serve => daemon::run_vault(&config, &options)?,
        }
        Ok(Verdict::Well)
    }
}
