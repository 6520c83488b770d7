//! Logs go to standard error: text for people and journald, or JSON lines. The filter can be changed while running.

use std::io::IsTerminal;

use tracing_subscriber::{
    EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};

/// Changes the filter of a running process.
#[derive(Clone)]
pub struct LogLevel {
    handle: Option<reload::Handle<EnvFilter, Registry>>,
}

impl LogLevel {
    /// Nothing to change: another owner set the logs up.
    pub fn fixed() -> Self {
        Self { handle: None }
    }

    /// `level` has been checked with the configuration.
    pub fn set(&self, level: &str) {
        if let Some(handle) = &self.handle {
            let _ = handle.reload(filter(level));
        }
    }
}

/// Sets the process's logs up; once.
pub(super) fn start(log: &Log) -> LogLevel {
    let (filter, handle) = reload::Layer::new(filter(&log.level));
    let registry = tracing_subscriber::registry().with(filter);
    let started = match log.format {
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(std::io::stderr),
            )
            .try_init(),
        // journald stamps each line itself.
        LogFormat::Text if std::env::var_os("JOURNAL_STREAM").is_some() => registry
            .with(
                fmt::layer()
                    .without_time()
                    .with_ansi(false)
                    .with_writer(std::io::stderr),
            )
            .try_init(),
        LogFormat::Text => registry
            .with(
                fmt::layer()
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
    LogLevel {
        handle: started.is_ok().then_some(handle),
    }
}

/// Libraries that tell at "info" what only their own authors want to know.
const QUIETER: &str = "fjall=warn,lsm_tree=warn";

fn filter(level: &str) -> EnvFilter {
    // A plain level is meant for mailtee; whoever writes a filter means what it says.
    let plain = level.bytes().all(|b| b.is_ascii_alphabetic());
    let level = match plain {
        true => format!("{level},{QUIETER}"),
        false => level.to_owned(),
    };
    EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"))
}
