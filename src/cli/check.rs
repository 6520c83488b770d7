//! `mailtee check`: everything that would go wrong at the start, before it does.

mod next_hop;

use std::{io, path::Path, sync::Arc, time::Duration};

use clap::Args;
use serde::Serialize;
use tokio::{net::TcpStream, time::timeout};

use super::{
    ConfigFile, Format, Verdict,
    explain::Explain,
    output::{self, Row},
    postfix::PostfixCheck,
};
use crate::{
    config::{AutoFrontend, Config, ConfigError, Frontend, UpstreamTls},
    daemon,
    metrics::Metrics,
    net::{self, Address, SocketFile},
};

/// How long a next hop or a target may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
#[command(
    about = "Check the configuration, and what it names: addresses, next hops, targets",
    after_help = "Examples:\n  mailtee check --config mailtee.toml\n  mailtee check --offline --format json\n  \
                  mailtee check --postfix\n  \
                  mailtee check --explain message.eml --sender ada@example.org --recipient grace@example.net"
)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigFile,
    /// Read the file, and with --postfix what postconf tells, and try no address.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    postfix: PostfixCheck,
    #[command(flatten)]
    explain: Explain,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    what: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Worth knowing, and no fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl Finding {
    pub(super) fn new(what: String, result: Result<(), String>) -> Self {
        let why = result.err();
        Self {
            what,
            ok: why.is_none(),
            why,
            note: None,
        }
    }

    pub(super) fn noted(what: String, note: String) -> Self {
        Self {
            what,
            ok: true,
            why: None,
            note: Some(note),
        }
    }
}

impl Row for Finding {
    const HEADINGS: &'static [&'static str] = &["CHECK", "RESULT"];
    fn cells(&self) -> Vec<String> {
        let result = match (&self.why, &self.note) {
            (Some(why), _) => why.clone(),
            (None, Some(note)) => format!("note: {note}"),
            (None, None) => "ok".to_owned(),
        };
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
        if let Some(file) = &self.explain.explain {
            return self.explain.run(&config, file, self.format);
        }
        let mut findings = vec![Finding::new(
            format!("configuration {}", config.file.display()),
            Ok(()),
        )];
        if !self.offline {
            let runtime = super::small_runtime()?;
            runtime.block_on(look(&config, &mut findings));
            // The system may still be looking for a name whose time is over.
            runtime.shutdown_background();
        }
        findings.extend(config.frontends.iter().filter_map(clear_leg));
        self.postfix.look(&config, &mut findings);
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
    net::install_provider();
    let running = match &config.admin {
        Some(admin) => TcpStream::connect(admin.listen).await.is_ok(),
        None => false,
    };
    if running {
        findings.push(Finding::new(
            "a daemon runs: listen addresses are its own".to_owned(),
            Ok(()),
        ));
    } else {
        listen(config, findings).await;
    }
    for frontend in &config.frontends {
        if let Frontend::Auto(auto) = frontend {
            findings.extend(identified(auto, &config.data_dir).await);
            continue;
        }
        let Some(upstream) = frontend.upstream() else {
            continue;
        };
        let what = format!(
            "front end {}: next hop {}",
            frontend.name(),
            upstream.address
        );
        if let Some(result) = next_hop::look(frontend, PATIENCE).await {
            findings.push(Finding::new(what, result));
        }
    }
    let metrics = Arc::new(Metrics::new());
    for target in daemon::configured_targets(config) {
        if target.name == Config::EMBEDDED_TARGET && config.targets.is_empty() && !running {
            continue; // it comes with the daemon
        }
        let what = format!("target {}: {}", target.name, target.store.url());
        let result = match daemon::open_store(&target, metrics.clone()) {
            Err(error) => Err(error.to_string()),
            Ok(store) => patiently(store.probe()).await,
        };
        findings.push(Finding::new(what, result));
    }
}

/// Before a server with TLS, passwords are not taken from a client without it: it should be able to have it.
fn clear_leg(frontend: &Frontend) -> Option<Finding> {
    let Frontend::Mailbox(mailbox) = frontend else {
        return None;
    };
    let is_clear = mailbox.upstream.tls != UpstreamTls::None
        && mailbox.identity.is_none()
        && !mailbox.auth_allow_cleartext
        && !matches!(mailbox.listen, Address::Unix(_));
    let what = format!("front end {}: its clients", mailbox.name);
    let note = "passwords are refused to other hosts, for their leg has no TLS: set `certificate`, or `auth_allow_cleartext`";
    is_clear.then(|| Finding::noted(what, note.to_owned()))
}

async fn listen(config: &Config, findings: &mut Vec<Finding>) {
    let mut addresses: Vec<(String, Address, Option<&SocketFile>)> = Vec::new();
    if let Some(admin) = &config.admin {
        let address = Address::Tcp {
            host: admin.listen.ip().to_string(),
            port: admin.listen.port(),
        };
        addresses.push(("admin".to_owned(), address, None));
    }
    if let Some(vault) = &config.vault {
        addresses.push(("vault".to_owned(), vault.listen.clone(), None));
    }
    for frontend in &config.frontends {
        addresses.push((
            format!("front end {}", frontend.name()),
            frontend.listen().clone(),
            Some(frontend.socket_file()),
        ));
    }
    // Held until all have been tried: two of ours on one address are a fault too.
    let mut held = Vec::new();
    for (who, address, file) in addresses {
        let bound = address.listen(file).await;
        let what = format!("{who}: listen on {address}");
        match bound {
            Ok(listener) => {
                held.push(listener);
                findings.push(Finding::new(what, Ok(())));
            }
            Err(error) => findings.push(Finding::new(what, Err(listen_trouble(error)))),
        }
    }
}

/// What the server of a front end with protocol "auto" is now, and whether the front end can stand before that.
async fn identified(auto: &AutoFrontend, data_dir: &Path) -> Vec<Finding> {
    let (name, address) = (&auto.name, &auto.upstream.address);
    let what = format!("front end {name}: next hop {address}");
    match daemon::check_auto(auto, data_dir).await {
        Ok((found, frontend)) => {
            let found = Finding::noted(what, format!("protocol \"auto\" finds {found}"));
            [found].into_iter().chain(clear_leg(&frontend)).collect()
        }
        Err(why) => vec![Finding::new(what, Err(why))],
    }
}

async fn patiently<T, E: std::fmt::Display>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match timeout(PATIENCE, work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

fn listen_trouble(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "in use".to_owned(),
        _ => error.to_string(),
    }
}
