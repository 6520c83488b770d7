//! `mailtee queue`: the captures that are not finished, seen and moved by an operator.

mod drop;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::bail;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use super::{
    ConfigFile, Format, Verdict,
    output::{self, LateFile, Row, printable},
    source::{Change, Source},
};
use crate::{
    journal::{BadRecord, Filter, FsckReport, fsck},
    message::{CaptureId, UnixMillis},
};

/// Captures asked for at a time.
const PAGE: usize = 500;

#[derive(Debug, Args)]
#[command(
    about = "Look at what waits, and move it",
    after_help = "Examples:\n  mailtee queue list\n  mailtee queue list --state parked --format json\n  \
                  mailtee queue retry --parked --target archive\n  \
                  mailtee queue drop 019a3c5e7b2f7d418c9e0f1a2b3c4d5e --target archive --yes"
)]
pub(super) struct Queue {
    #[command(flatten)]
    config: ConfigFile,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the captures that a target has not confirmed, oldest first
    #[command(
        after_help = "States: unanswered, waiting, leased, postponed, parked, held, done\n\nExamples:\n  \
                      mailtee queue list --limit 20\n  mailtee queue list --target archive --state parked"
    )]
    List {
        /// Only what this target has not confirmed.
        #[arg(long)]
        target: Option<String>,
        /// Only what is in this state.
        #[arg(long)]
        state: Option<String>,
        /// At most so many.
        #[arg(long, value_name = "COUNT")]
        limit: Option<usize>,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Show one capture: envelope, client, fingerprints, state for each target
    #[command(after_help = "Example:\n  mailtee queue show 019a3c5e7b2f7d418c9e0f1a2b3c4d5e")]
    Show { id: CaptureId },
    /// Write one capture's message, byte for byte
    #[command(
        after_help = "Example:\n  mailtee queue export 019a3c5e7b2f7d418c9e0f1a2b3c4d5e --output message.eml"
    )]
    Export {
        id: CaptureId,
        /// Standard output where it is absent.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Let captures that a target refused be tried again
    #[command(
        after_help = "Examples:\n  mailtee queue retry 019a3c5e7b2f7d418c9e0f1a2b3c4d5e\n  \
                      mailtee queue retry --parked --target archive"
    )]
    Retry {
        #[arg(required_unless_present = "parked")]
        ids: Vec<CaptureId>,
        /// All that are parked, for --target or for every target.
        #[arg(long, conflicts_with = "ids")]
        parked: bool,
        #[arg(long)]
        target: Option<String>,
    },
    /// Keep captures back from every target
    #[command(after_help = "Example:\n  mailtee queue hold 019a3c5e7b2f7d418c9e0f1a2b3c4d5e")]
    Hold {
        #[arg(required = true)]
        ids: Vec<CaptureId>,
    },
    /// Let held captures go
    #[command(after_help = "Example:\n  mailtee queue release 019a3c5e7b2f7d418c9e0f1a2b3c4d5e")]
    Release {
        #[arg(required = true)]
        ids: Vec<CaptureId>,
    },
    /// Give one capture up for a target that parked it, or while it is held: that target never gets it
    #[command(
        after_help = "Without --yes it says what would be dropped and changes nothing. Other targets keep their copy or wait \
                      for it; `mailtee queue export` saves the message first.\n\nExample:\n  \
                      mailtee queue drop 019a3c5e7b2f7d418c9e0f1a2b3c4d5e --target archive --yes"
    )]
    Drop {
        id: CaptureId,
        #[arg(long)]
        target: String,
        /// Do it.
        #[arg(long)]
        yes: bool,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Check every record of the journal
    #[command(
        after_help = "Examples:\n  mailtee queue fsck\n  mailtee queue fsck --repair    (the daemon stopped)"
    )]
    Fsck {
        /// Set bad records aside; the daemon must not run.
        #[arg(long)]
        repair: bool,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
}

impl Queue {
    pub(super) fn run(self) -> anyhow::Result<Verdict> {
        let config = self.config.load()?;
        if let Verb::Fsck { repair, format } = self.verb {
            return check(&fsck(&config.journal.data_dir, repair)?, format);
        }
        super::small_runtime()?.block_on(async {
            let targets = config.target_names();
            let source = Source::find(config).await?;
            match self.verb {
                Verb::List {
                    target,
                    state,
                    limit,
                    format,
                } => list(&source, Filter { target, state }, limit, format).await,
                Verb::Show { id } => match source.show(id).await? {
                    Some(shown) => {
                        output::line(&serde_json::to_string_pretty(&shown)?)?;
                        Ok(Verdict::Well)
                    }
                    None => absent(id),
                },
                Verb::Export { id, output } => export(&source, id, output).await,
                Verb::Retry {
                    ids,
                    parked: false,
                    target,
                } => change(&source, Change::Retry, &ids, target.as_deref()).await,
                Verb::Retry { target, .. } => {
                    for name in target.map_or(targets, |name| vec![name]) {
                        let retried = source.retry_all(&name).await?;
                        output::line(&format!("{name}: {retried} to be tried again"))?;
                    }
                    Ok(Verdict::Well)
                }
                Verb::Hold { ids } => change(&source, Change::Hold, &ids, None).await,
                Verb::Release { ids } => change(&source, Change::Release, &ids, None).await,
                Verb::Drop {
                    id,
                    target,
                    yes,
                    format,
                } => match targets.contains(&target) {
                    true => drop::run(&source, id, &target, yes, format).await,
                    false => bail!("there is no target {target:?}"),
                },
                Verb::Fsck { .. } => unreachable!("answered above, without a daemon"),
            }
        })
    }
}

/// A capture, as the journal lists it.
#[derive(Serialize)]
#[serde(transparent)]
struct Capture(Value);

impl Row for Capture {
    const HEADINGS: &'static [&'static str] =
        &["ID", "CAPTURED", "BYTES", "SENDER", "RECIPIENTS", "STATE"];

    fn cells(&self) -> Vec<String> {
        let text = |key: &str| shown(&self.0[key]);
        let captured = UnixMillis(self.0["captured_at"].as_u64().unwrap_or(0));
        let recipients = match self.0["recipients"].as_array().map(Vec::as_slice) {
            None | Some([]) => String::new(),
            Some([one]) => shown(one),
            Some([first, rest @ ..]) => format!("{} and {} more", shown(first), rest.len()),
        };
        let states = self.0["targets"].as_array().into_iter().flatten();
        let states: Vec<String> = states
            .map(|pair| {
                let why = pair[1]["why"].as_str();
                let why = why.map(|why| format!(" ({})", printable(why)));
                let state = pair[1]["state"].as_str().unwrap_or_default();
                format!("{}: {state}{}", shown(&pair[0]), why.unwrap_or_default())
            })
            .collect();
        vec![
            text("id"),
            captured.to_rfc3339(),
            self.0["bytes"].to_string(),
            format!("<{}>", text("sender")),
            recipients,
            states.join(", "),
        ]
    }
}

/// Text from the wire, safe for a terminal.
fn shown(value: &Value) -> String {
    let text: crate::message::WireText = serde_json::from_value(value.clone()).unwrap_or_default();
    text.to_string()
}

async fn list(
    source: &Source,
    filter: Filter,
    limit: Option<usize>,
    format: Format,
) -> anyhow::Result<Verdict> {
    let mut left = limit.unwrap_or(usize::MAX);
    let mut after: Option<String> = None;
    let mut first = true;
    while left > 0 {
        let count = PAGE.min(left);
        let (captures, next) = source.list(&filter, after.as_deref(), count).await?;
        left -= captures.len().min(left);
        let rows: Vec<Capture> = captures.into_iter().map(Capture).collect();
        if first || !rows.is_empty() {
            output::rows(format, &rows)?;
        }
        first = false;
        after = next;
        if after.is_none() {
            break;
        }
    }
    Ok(Verdict::Well)
}

async fn export(
    source: &Source,
    id: CaptureId,
    output: Option<PathBuf>,
) -> anyhow::Result<Verdict> {
    let found = match &output {
        Some(file) => {
            let mut out = LateFile::new(file);
            let found = source.export(id, &mut out).await?;
            if found {
                out.flush()?;
            }
            found
        }
        None => source.export(id, &mut io::stdout()).await?,
    };
    if found { Ok(Verdict::Well) } else { absent(id) }
}

async fn change(
    source: &Source,
    change: Change,
    ids: &[CaptureId],
    target: Option<&str>,
) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict::Well;
    for id in ids {
        if !source.change(change, *id, target).await? {
            eprintln!("mailtee: {id}: not there, or nothing to change");
            verdict = Verdict::Amiss;
        }
    }
    Ok(verdict)
}

fn absent(id: CaptureId) -> anyhow::Result<Verdict> {
    bail!("{id}: no such capture is waiting (finished ones leave the journal)")
}

impl Row for BadRecord {
    const HEADINGS: &'static [&'static str] = &["SEGMENT", "OFFSET", "BYTES", "CAUSE"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.segment.clone(),
            self.offset.to_string(),
            self.bytes.to_string(),
            self.cause.to_owned(),
        ]
    }
}

fn check(report: &FsckReport, format: Format) -> anyhow::Result<Verdict> {
    match format {
        Format::Json => output::line(&serde_json::to_string(report)?)?,
        Format::Text => {
            output::line(&format!(
                "{} segments, {} captures not finished ({} bytes), {} records in quarantine, {} bad",
                report.segments,
                report.captures,
                report.bytes,
                report.quarantined,
                report.bad.len()
            ))?;
            if !report.bad.is_empty() {
                output::rows(format, &report.bad)?;
            }
        }
    }
    Ok(if report.bad.is_empty() {
        Verdict::Well
    } else {
        Verdict::Amiss
    })
}
