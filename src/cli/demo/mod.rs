//! `mailtee demo`: vault, daemon and a small next hop on this machine; varied mail goes through, and what the vault then
//! holds is compared with what was sent. `--exit` is a test of the whole that anybody can run.

mod client;
mod proof;
mod samples;

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Verdict, output};
use crate::{
    admin::Watched,
    config::Config,
    daemon::{self, Daemon, LogLevel},
    frontends::sink,
    net::Address,
    wire::smtp::Dialect,
};
use client::Client;
use samples::{Sample, samples};

/// How long the vault may take to confirm everything.
const PATIENCE: Duration = Duration::from_secs(120);
const TARGET: &str = Config::EMBEDDED_TARGET;

#[derive(Debug, Args)]
#[command(
    about = "Try all of it on this machine, with sample mail",
    after_help = "Examples:\n  mailtee demo\n  mailtee demo --dir ./demo\n  mailtee demo --exit && echo all well\n\n\
                  With --exit the exit code is 0 only where the vault holds, byte for byte, what was sent."
)]
pub(in crate::cli) struct Demo {
    /// Keep everything here; a temporary directory that goes with the demo, where absent.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// End when the mail is through and has been compared.
    #[arg(long)]
    exit: bool,
}

impl Demo {
    pub(in crate::cli) fn run(self) -> anyhow::Result<Verdict> {
        let temporary = match &self.dir {
            Some(dir) => {
                fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
                None
            }
            None => Some(tempfile::Builder::new().prefix("mailtee-demo-").tempdir()?),
        };
        let dir = match (&self.dir, &temporary) {
            (Some(dir), _) => fs::canonicalize(dir)?,
            (None, Some(temporary)) => temporary.path().to_owned(),
            (None, None) => unreachable!("one of the two was made above"),
        };
        let (capture, background) = daemon::runtimes()?;
        let result = capture.block_on(demonstrate(&dir, self.exit, background.handle().clone()));
        capture.shutdown_background();
        background.shutdown_background();
        result
    }
}

async fn demonstrate(
    dir: &Path,
    exit: bool,
    background: tokio::runtime::Handle,
) -> anyhow::Result<Verdict> {
    let next_hop = NextHop::start().await?;
    let file = dir.join("mailtee.toml");
    let vault_dir = dir.join("data").join("vault");
    output::line(&format!("mailtee demo in {}", dir.display()))?;
    let (mut daemon, addresses) = start(&file, next_hop.address, background).await?;

    let sent = samples(&run_name());
    send(addresses.frontend, &sent).await?;
    let watched = daemon.watched().clone();
    confirmed(&watched, sent.len() as u64).await?;
    let token = fs::read_to_string(vault_dir.join("tokens/operator.token"))?;
    let proof = proof::compare(&sent, addresses.vault, &vault_dir).await?;
    output::line(&table(&watched, &sent, &proof))?;

    if !exit {
        output::line(&addresses.invitation(&file, token.trim()))?;
        tokio::signal::ctrl_c().await?;
    }
    daemon.drain().await;
    next_hop.stop().await;
    for difference in &proof.differences {
        eprintln!("mailtee: {difference}");
    }
    Ok(if proof.differences.is_empty() {
        Verdict::Well
    } else {
        Verdict::Amiss
    })
}

/// Starts the daemon on the usual ports, or on others where somebody else takes one of them meanwhile.
async fn start(
    file: &Path,
    next_hop: SocketAddr,
    background: tokio::runtime::Handle,
) -> anyhow::Result<(Daemon, Addresses)> {
    let mut attempts_left = 5;
    loop {
        let usual = attempts_left == 5;
        let addresses = Addresses {
            admin: address(9725, usual)?,
            vault: address(8443, usual)?,
            frontend: address(10025, usual)?,
            next_hop,
        };
        fs::write(file, addresses.configuration())?;
        let config = Config::load(file)?;
        let started = Daemon::start(config, LogLevel::fixed(), background.clone()).await;
        match started.map_err(anyhow::Error::from) {
            Ok(daemon) => return Ok((daemon, addresses)),
            Err(error) if attempts_left == 0 || !is_taken(&error) => return Err(error),
            Err(_) => attempts_left -= 1,
        }
        // What had started ends behind our back, and gives the data directory free.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn is_taken(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    })
}

/// Where everything listens.
struct Addresses {
    admin: SocketAddr,
    vault: SocketAddr,
    frontend: SocketAddr,
    next_hop: SocketAddr,
}

impl Addresses {
    fn configuration(&self) -> String {
        format!(
            "# Written by `mailtee demo`.\ndata_dir = \"data\"\n\n[log]\nlevel = \"warn\"\n\n\
             [admin]\nlisten = \"{}\"\n\n[vault]\nlisten = \"{}\"\n\n[journal]\nfree_bytes_min = \"64 MiB\"\n\n\
             [[frontend]]\nname = \"demo\"\nprotocol = \"smtp\"\nrole = \"filter\"\nlisten = \"{}\"\nupstream = \"{}\"\n",
            self.admin, self.vault, self.frontend, self.next_hop
        )
    }

    fn invitation(&self, file: &Path, token: &str) -> String {
        format!(
            "Look at it:\n  status page    http://{admin}/\n  metrics        http://{admin}/metrics\n  \
             the vault      https://{vault}/   (its certificate is its own)\n  its token      {token}\n\n\
             Send more, and ask:\n  \
             swaks --server {frontend} --from you@example.org --to friend@example.net --header 'Subject: by hand'\n  \
             mailtee queue list --config {file}\n  mailtee vault list --config {file}\n\n\
             Ctrl-C ends it.",
            admin = self.admin,
            vault = self.vault,
            frontend = self.frontend,
            file = file.display(),
        )
    }
}

/// The usual port where it is wanted and free, else any.
fn address(port: u16, usual: bool) -> io::Result<SocketAddr> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = match usual {
        true => bind(port).or_else(|_| bind(0))?,
        false => bind(0)?,
    };
    listener.local_addr()
}

/// Tells this run's messages from those of an earlier one in the same directory.
fn run_name() -> String {
    let random: [u8; 6] = rand::random();
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The small next hop: it takes every message and keeps none.
struct NextHop {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl NextHop {
    async fn start() -> anyhow::Result<Self> {
        let any = Address::Tcp {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: 0,
        };
        let listener = any.listen(None).await?;
        let address = listener.local().context("a TCP listener has an address")?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let taken = Arc::new(AtomicU64::new(0));
        let serving = sink(listener, Dialect::Smtp, taken, stop.clone(), tasks.clone());
        tasks.spawn(serving);
        Ok(Self {
            address,
            stop,
            tasks,
        })
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn send(frontend: SocketAddr, samples: &[Sample]) -> anyhow::Result<()> {
    let progress = bar("sending", samples.len() as u64);
    let mut client = Client::connect(frontend).await?;
    for sample in samples {
        progress.set_message(sample.title);
        let sent = client.send(sample).await;
        sent.with_context(|| format!("sending {}", sample.title))?;
        progress.inc(1);
    }
    client.quit().await?;
    progress.finish_and_clear();
    Ok(())
}

/// Waits until the vault has confirmed every capture.
async fn confirmed(watched: &Watched, count: u64) -> anyhow::Result<()> {
    let progress = bar("confirming", count);
    let target = watched
        .targets
        .load()
        .iter()
        .find(|t| t.name == TARGET)
        .cloned();
    let queue = target.context("the vault is the target")?.queue;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while queue.waiting() > 0 {
        progress.set_position(count.saturating_sub(queue.waiting()));
        if queue.parked() > 0 {
            bail!("the vault refused a message: mailtee queue list --state parked");
        }
        if tokio::time::Instant::now() > deadline {
            bail!("{} captures still wait for the vault", queue.waiting());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    progress.finish_and_clear();
    Ok(())
}

/// Hidden where there is no terminal.
fn bar(what: &'static str, length: u64) -> ProgressBar {
    let style = "{prefix:>12} {bar:40.cyan/blue} {pos}/{len} {msg}";
    let style = ProgressStyle::with_template(style).expect("a constant template is valid");
    ProgressBar::new(length).with_style(style).with_prefix(what)
}

fn table(watched: &Watched, sent: &[Sample], proof: &proof::Proof) -> String {
    let m = &watched.metrics;
    let captured = &m.captured_messages_total;
    let captured = captured.with_label_values(&["demo", "captured"]).get();
    let forwarded = |outcome| {
        let total = &m.forwarded_messages_total;
        total.with_label_values(&[TARGET, outcome]).get()
    };
    let now = crate::message::UnixMillis::from_system(std::time::SystemTime::now());
    watched.refresh(now);
    let lag = m.sync_lag_seconds.with_label_values(&[TARGET]).get();
    let bytes: usize = sent.iter().map(|sample| sample.content.len()).sum();
    let checked = if proof.differences.is_empty() {
        format!(
            "{} copies and {} sightings, byte for byte",
            proof.copies, proof.sightings
        )
    } else {
        format!("{} DIFFERENCES", proof.differences.len())
    };
    format!(
        "\n  sent                  {:>4}   {:.1} MB\n  captured              {captured:>4}\n  \
         stored                {:>4}\n  duplicates recorded   {:>4}\n  sync lag              {lag:>4} s\n  \
         compared                     {checked}\n",
        sent.len(),
        bytes as f64 / 1e6,
        forwarded("stored"),
        forwarded("duplicate"),
    )
}
