//! `mailtee verify`: journal, dedup map and target, compared; each difference is printed.

use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;

use super::{
    ConfigFile, Format, Verdict,
    output::{self, Row, printable},
    source::Source,
};
use crate::{
    config::Config,
    daemon,
    dedup::Dedup,
    forward::{Difference, Reconciled, reconcile},
    journal::View,
    metrics::Metrics,
};

#[derive(Debug, Args)]
#[command(
    about = "Compare journal and dedup map with a target, print each difference",
    after_help = "What still waits for the target is a difference too: it is not there yet. So is an e-mail in the \
                  target's mailbox that the dedup map does not know; a vault cannot be listed for it.\n\n\
                  Examples:\n  mailtee verify\n  mailtee verify --target archive --format json"
)]
pub(super) struct Verify {
    #[command(flatten)]
    config: ConfigFile,
    /// Only this target.
    #[arg(long)]
    target: Option<String>,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

impl Row for Difference {
    const HEADINGS: &'static [&'static str] = &["DIFFERENCE", "CAPTURE", "DETAIL"];

    fn cells(&self) -> Vec<String> {
        let (what, capture, detail) = match self {
            Self::Waiting { capture, state } => ("waiting", Some(capture), state.clone()),
            Self::Parked { capture, why } => ("parked", Some(capture), why.clone()),
            Self::Missing {
                first,
                k1,
                remote_id,
            } => ("missing", Some(first), format!("{remote_id}, K1 {k1}")),
            Self::Unreadable { why } => ("unreadable", None, why.clone()),
            Self::Unknown { remote_id } => ("unknown", None, remote_id.clone()),
        };
        let capture = capture.map(ToString::to_string).unwrap_or_default();
        vec![what.to_owned(), capture, printable(&detail)]
    }
}

impl Verify {
    pub(super) fn run(self) -> anyhow::Result<Verdict> {
        let config = self.config.load()?;
        let mut names = config.target_names();
        if let Some(wanted) = &self.target {
            names.retain(|name| name == wanted);
            if names.is_empty() {
                bail!("there is no target {wanted:?} in {}", config.file.display());
            }
        }
        super::small_runtime()?.block_on(async {
            let mut verdict = Verdict::Well;
            let mut failures = Vec::new();
            for name in names {
                let found = match Source::find(config.clone()).await? {
                    Source::Daemon(api) => api.reconcile(&name).await,
                    Source::Disk(config) => on_disk(&config, &name).await,
                };
                // A target that does not answer keeps nobody from hearing of the others.
                let found = match found {
                    Ok(found) => found,
                    Err(error) => {
                        failures.push(format!("{name}: not compared: {error:#}"));
                        continue;
                    }
                };
                if found.differences > 0 {
                    verdict = Verdict::Amiss;
                }
                show(&found, self.format)?;
            }
            match failures.is_empty() {
                true => Ok(verdict),
                false => bail!(failures.join("\n")),
            }
        })
    }
}

/// Without a daemon, the map can be opened here.
async fn on_disk(config: &Config, name: &str) -> anyhow::Result<Reconciled> {
    let metrics = Arc::new(Metrics::new());
    let targets = daemon::configured_targets(config);
    let target = targets.iter().find(|target| target.name == name);
    let store = daemon::open_store(target.context("a configured target")?, metrics.clone())?;
    let view = View::open(&config.journal.data_dir)?;
    let dedup = Dedup::open(config.dedup.clone(), &metrics)?;
    Ok(reconcile(view, &dedup, name, &*store).await?)
}

fn show(found: &Reconciled, format: Format) -> anyhow::Result<()> {
    if format == Format::Json {
        return Ok(output::line(&serde_json::to_string(found)?)?);
    }
    output::line(&format!(
        "{}: {} copies checked, {} differences{}",
        found.target,
        found.checked,
        found.differences,
        match found.listed {
            true => "",
            false => "; the target was not listed for what the map does not know",
        }
    ))?;
    if !found.named.is_empty() {
        output::rows(format, &found.named)?;
    }
    Ok(())
}
