//! `mailtee vault`: the built-in second mail store, served alone or looked into.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use anyhow::{Context, bail};
use clap::{ArgGroup, Args, Subcommand};

use super::{
    ConfigFile, Format, Verdict,
    output::{self, LateFile, Row, printable},
};
use crate::{
    daemon,
    message::CaptureId,
    vault::{
        export::Archive,
        fsck::{self, Checked, Finding},
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
    /// Read every blob and compare it with its name, name files without a row
    #[command(
        after_help = "Leftover files are named, and are no damage. After a power cut, let the vault start once before.\n\n\
                      Examples:\n  mailtee vault fsck\n  mailtee vault fsck --data-dir /var/lib/mailtee/vault --format json"
    )]
    Fsck {
        /// The vault's own directory, instead of the one that the configuration names.
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
}

// The group that clap derives of a struct would hold `output` too, and refuse it beside what it is for.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("what").required(true).args(["id", "sighting", "to_mbox", "to_maildir"])))]
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
        // A vault of which only the directory is there has no configuration.
        if let Verb::Fsck {
            data_dir: Some(data_dir),
            format,
        } = &self.verb
        {
            return show(&fsck::fsck(data_dir)?, *format);
        }
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
            Verb::Fsck { format, .. } => return show(&fsck::fsck(&options.data_dir)?, format),
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

impl Row for Finding {
    const HEADINGS: &'static [&'static str] = &["FINDING", "WHAT", "DETAIL"];

    fn cells(&self) -> Vec<String> {
        let (finding, what, detail) = match self {
            Self::Index { why } => ("index", "index.db".to_owned(), printable(why)),
            Self::Missing { k1, bytes } => ("missing", k1.to_string(), format!("{bytes} bytes")),
            Self::Damaged { k1, found, bytes } => (
                "damaged",
                k1.to_string(),
                format!("{bytes} bytes of K1 {found}"),
            ),
            Self::Unreadable { k1, why } => ("unreadable", k1.to_string(), printable(why)),
            Self::Dangling { row } => ("dangling", row.clone(), String::new()),
            Self::Leftover { file, bytes } => {
                ("leftover", printable(file), format!("{bytes} bytes"))
            }
        };
        vec![finding.to_owned(), what, detail]
    }
}

fn show(checked: &Checked, format: Format) -> anyhow::Result<Verdict> {
    match format {
        Format::Json => output::line(&serde_json::to_string(checked)?)?,
        Format::Text => {
            output::line(&format!(
                "{} blobs read ({} bytes), {} damages, {} leftovers",
                checked.blobs, checked.bytes, checked.damages, checked.leftovers
            ))?;
            if !checked.named.is_empty() {
                output::rows(format, &checked.named)?;
            }
        }
    }
    Ok(match checked.damages {
        0 => Verdict::Well,
        _ => Verdict::Amiss,
    })
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
            let made = fs::File::create(file).with_context(|| file.display().to_string())?;
            let count = archive.mbox(made)?;
            eprintln!("{count} messages in {}", file.display());
            return Ok(());
        }
        if let Some(dir) = &self.to_maildir {
            let count = archive.maildir(dir)?;
            eprintln!("{count} new messages in {}", dir.display());
            return Ok(());
        }
        let mut out: Box<dyn Write> = match &self.output {
            Some(file) => Box::new(LateFile::new(file)),
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
