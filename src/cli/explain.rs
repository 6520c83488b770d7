//! `mailtee check --explain FILE.eml`: which criterion decides, for each target.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{Format, Verdict, output};
use crate::{
    config::Config,
    criteria::{Action, Explanation, LazyHeaders},
    message::{
        CaptureId, Client, Envelope, Fingerprint, Origin, Protocol, Recipient, Sighting, UnixMillis,
    },
};

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Show which criterion decides about this message, for each target, and do nothing else.
    #[arg(long, value_name = "FILE.eml")]
    pub(super) explain: Option<PathBuf>,
    /// Its envelope's sender.
    #[arg(long, requires = "explain", default_value = "", value_name = "ADDRESS")]
    sender: String,
    /// Its envelope's recipients.
    #[arg(long, requires = "explain", value_name = "ADDRESS")]
    recipient: Vec<String>,
    /// The front end that it came through; the first one of the file where absent.
    #[arg(long, requires = "explain", value_name = "NAME")]
    frontend: Option<String>,
    /// The client that sent it.
    #[arg(long, requires = "explain", value_name = "ADDRESS")]
    client: Option<String>,
}

/// What one target's criteria say.
#[derive(Debug, Serialize)]
struct Told {
    target: String,
    #[serde(flatten)]
    explanation: Explanation,
}

impl Explain {
    pub(super) fn run(
        &self,
        config: &Config,
        file: &Path,
        format: Format,
    ) -> anyhow::Result<Verdict> {
        let bytes = fs::metadata(file)
            .with_context(|| file.display().to_string())?
            .len();
        let sighting = self.sighting(config, bytes);
        let targets = crate::daemon::configured_targets(config);
        for target in &targets {
            let mut headers = LazyHeaders::new(|| fs::File::open(file));
            let told = Told {
                target: target.name.clone(),
                explanation: target.criteria.explain(&sighting, &mut headers)?,
            };
            match format {
                Format::Json => output::line(&serde_json::to_string(&told)?)?,
                Format::Text => output::raw(told.text().as_bytes())?,
            }
        }
        Ok(Verdict::Well)
    }

    /// The message as if it came in now.
    fn sighting(&self, config: &Config, bytes: u64) -> Sighting {
        let first = config.frontends.first();
        let frontend = self
            .frontend
            .clone()
            .or_else(|| Some(first?.name().to_owned()));
        let recipients = self.recipient.iter().map(|address| Recipient {
            address: address.as_str().into(),
            ..Recipient::default()
        });
        let now = UnixMillis::from_system(SystemTime::now());
        Sighting {
            id: CaptureId::from_parts(now, [0; 10]),
            captured_at: now,
            frontend: frontend.unwrap_or_default(),
            protocol: Protocol::Smtp,
            session: String::new(),
            origin: Origin::Transaction {
                envelope: Envelope {
                    sender: self.sender.as_str().into(),
                    recipients: recipients.collect(),
                    ..Envelope::default()
                },
                client: Client {
                    address: self.client.as_deref().map(Into::into),
                    ..Client::default()
                },
            },
            fidelity: Vec::new(),
            bytes,
            fingerprint: Fingerprint::default(),
        }
    }
}

impl Told {
    fn text(&self) -> String {
        let action = match self.explanation.action {
            Action::Send => "goes",
            Action::Skip => "does not go",
        };
        let because = match &self.explanation.rule {
            Some(rule) => format!("criterion \"{rule}\" decides"),
            None => "no criterion matches".to_owned(),
        };
        let mut text = format!("{}: {action}: {because}\n", self.target);
        for passed in &self.explanation.passed_over {
            text += &format!("  \"{}\" does not match: {}\n", passed.rule, passed.because);
        }
        text
    }
}
