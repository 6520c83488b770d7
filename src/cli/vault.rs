//! `mailtee vault`: the built-in second mail store, served alone or looked into.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use anyhow::bail;
use clap::{Args, Subcommand};

use super::{
    ConfigFile, Format, Verdict,
    output::{self, Row},
};
use crate::{
    daemon,
    message::CaptureId,
    vault::{
        export::Archive,
        view::{Row as Message, Search},
    },
};

/// Messages read at a time.
const PAGE: u64 = 500;

#[derive(Debug, Args)]
#[command(
    about = "Serve the built-in second mail store, or give out what it holds",
    after_help = "Examples:\n  mailtee vault serve\n  mailtee vault list --search invoice\n  \
                  mailtee vault export --to-maildir ./restored"
)]
pub(super) struct Vault {
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
    /// List messages, newest first
    #[command(
        after_help = "Examples:\n  mailtee vault list --limit 20\n  mailtee vault list --search 'invoice 117' --format json"
    )]
    List {
        /// Words anywhere in the message or its envelopes.
        #[arg(long, value_name = "WORDS")]
        search: Option<String>,
        #[arg(long, value_name = "COUNT", default_value = "100")]
        limit: u64,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Show one message with its sightings
    #[command(after_help = "Example:\n  mailtee vault show G3f2a")]
    Show {
        /// An e-mail's id, its blob's or its K1, or the beginning of one.
        id: String,
    },
    /// Give messages out: one, one sighting's exact bytes, or all as mbox or Maildir
    #[command(
        after_help = "Examples:\n  mailtee vault export G3f2a --output message.eml\n  \
                      mailtee vault export --sighting 019a3c5e7b2f7d418c9e0f1a2b3c4d5e | sha256sum\n  \
                      mailtee vault export --to-mbox all.mbox\n  mailtee vault export --to-maildir ./restored"
    )]
    Export(Export),
}

#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = false, args = ["id", "sighting", "to_mbox", "to_maildir"])]
struct Export {
    /// One message, as `show` names it.
    id: Option<String>,
    /// One sighting's exact bytes, made from the copy and what the sighting alone had.
    #[arg(long, value_name = "CAPTURE")]
    sighting: Option<CaptureId>,
    /// All messages into one file.
    #[arg(long, value_name = "FILE")]
    to_mbox: Option<PathBuf>,
    /// All messages into a Maildir; what it has is not written again.
    #[arg(long, value_name = "DIR")]
    to_maildir: Option<PathBuf>,
    /// For one message; standard output where it is absent.
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["to_mbox", "to_maildir"])]
    output: Option<PathBuf>,
}

impl Vault {
    pub(super) fn run(self) -> anyhow::Result<Verdict> {
        let config = self.config.load()?;
        let Some(options) = config.vault.clone() else {
            bail!("{}: there is no [vault]", config.file.display());
        };
        match self.verb {
            Verb::Serve => daemon::run_vault(&config, &options)?,
            Verb::List {
                search,
                limit,
                format,
            } => list(&Archive::open(&options.data_dir)?, search, limit, format)?,
            Verb::Show { id } => {
                let shown = Archive::open(&options.data_dir)?.show(&id)?;
                output::line(&serde_json::to_string_pretty(&shown)?)?;
            }
            Verb::Export(export) => export.run(&Archive::open(&options.data_dir)?)?,
        }
        Ok(Verdict::Well)
    }
}

impl Row for Message {
    const HEADINGS: &'static [&'static str] =
        &["ID", "RECEIVED", "BYTES", "SEEN", "FROM", "SUBJECT"];

    fn cells(&self) -> Vec<String> {
        // The beginning of an id is an id, as far as it fits no other.
        let id: String = self.id.chars().take(13).collect();
        vec![
            id,
            self.received_at.clone(),
            self.bytes.to_string(),
            self.sightings.to_string(),
            printable(&self.sender),
            printable(&self.subject),
        ]
    }
}

/// No message writes control characters to a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn list(
    archive: &Archive,
    search: Option<String>,
    limit: u64,
    format: Format,
) -> anyhow::Result<()> {
    let search = Search {
        words: search,
        ..Search::default()
    };
    let mut position = 0;
    while position < limit {
        let page = archive.list(&search, position, PAGE.min(limit - position))?;
        if page.is_empty() && position > 0 {
            break;
        }
        output::rows(format, &page)?;
        position += PAGE;
        if (page.len() as u64) < PAGE {
            break;
        }
    }
    Ok(())
}

impl Export {
    fn run(self, archive: &Archive) -> anyhow::Result<()> {
        if let Some(file) = &self.to_mbox {
            let count = archive.mbox(fs::File::create(file)?)?;
            eprintln!("{count} messages in {}", file.display());
            return Ok(());
        }
        if let Some(dir) = &self.to_maildir {
            let count = archive.maildir(dir)?;
            eprintln!("{count} new messages in {}", dir.display());
            return Ok(());
        }
        let mut out: Box<dyn Write> = match &self.output {
            Some(file) => Box::new(io::BufWriter::new(fs::File::create(file)?)),
            None => Box::new(io::stdout().lock()),
        };
        match (&self.id, self.sighting) {
            (Some(id), _) => archive.eml(id, &mut out)?,
            (None, Some(capture)) => archive.sighting(capture, &mut out)?,
            (None, None) => unreachable!("clap requires one of them"),
        };
        Ok(out.flush()?)
    }
}
