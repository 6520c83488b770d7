//! `mailtee check`: everything that would go wrong at the start, before it does.

use std::{io, sync::Arc, time::Duration};

use clap::Args;
use serde::Serialize;
use tokio::{net::TcpListener, time::timeout};

use super::{
    ConfigFile, Format, Verdict,
    output::{self, Row},
};
use crate::{
    config::{Config, ConfigError},
    daemon,
    metrics::Metrics,
};

/// How long a next hop or a target may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
#[command(
    about = "Check the configuration, and what it names: addresses, next hops, targets",
    after_help = "Examples:\n  mailtee check --config mailtee.toml\n  mailtee check --offline --format json"
)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigFile,
    /// Read the file and nothing more.
    #[arg(long)]
    offline: bool,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl Finding {
    fn new(what: String, result: Result<(), String>) -> Self {
        let why = result.err();
        Self {
            what,
            ok: why.is_none(),
            why,
        }
    }
}

impl Row for Finding {
    const HEADINGS: &'static [&'static str] = &["CHECK", "RESULT"];
    fn cells(&self) -> Vec<String> {
        let result = self.why.clone().unwrap_or_else(|| "ok".to_owned());
        vec![self.what.clone(), result]
    }
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<Verdict> {
        let config = match self.config.load() {
            Ok(config) => config,
            Err(error @ ConfigError::Faulty { .. }) if self.format == Format::Json => {
                for fault in error.faults() {
                    output::line(&serde_json::to_string(fault)?)?;
                }
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        };
        let mut findings = vec![Finding::new(
            format!("configuration {}", config.file.display()),
            Ok(()),
        )];
        if !self.offline {
            super::small_runtime()?.block_on(look(&config, &mut findings));
        }
        output::rows(self.format, &findings)?;
        Ok(if findings.iter().all(|finding| finding.ok) {
            Verdict::Well
        } else {
            Verdict::Amiss
        })
    }
}

/// Tries what the configuration names.
async fn look(config: &Config, findings: &mut Vec<Finding>) {
    if let Some(admin) = &config.admin {
        let bound = TcpListener::bind(admin.listen).await;
        findings.push(Finding::new(
            format!("admin: listen on {}", admin.listen),
            bound.map(drop).map_err(listen_trouble),
        ));
    }
    let metrics = Arc::new(Metrics::new());
    for target in &config.targets {
        let what = format!("target {}: {}", target.name, target.store.url());
        let result = match daemon::open_store(target, metrics.clone()) {
            Err(error) => Err(error.to_string()),
            Ok(store) => match timeout(PATIENCE, store.probe()).await {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
            },
        };
        findings.push(Finding::new(what, result));
    }
}

fn listen_trouble(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "in use (by a running mailtee?)".to_owned(),
        _ => error.to_string(),
    }
}
