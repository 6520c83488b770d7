//! The command line: one file a verb. It parses, loads the configuration, runs the verb and turns what came of it into an
//! exit code (see `EXIT_CODES`). A reader that goes away (`mailtee queue list | head`) ends it quietly.

mod check;
mod completions;
mod demo;
mod explain;
mod output;
mod queue;
mod run;
mod source;
mod vault;
mod verify;

use std::{io, path::PathBuf, process::ExitCode, sync::LazyLock};

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigError};
use output::Format;

const EXIT_CODES: &str = "\
Exit codes:
  0  done, and all is well
  1  done, and something is not as it should be (a check failed, a difference was found)
  2  the command line or the configuration is wrong
  3  it could not be done";

/// What a verb found, where it could be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Well,
    Amiss,
}

/// A tee for mail: exactly one copy of every message in a second mail store, over HTTPS.
#[derive(Debug, Parser)]
#[command(name = "mailtee", version, long_version = BUILD_FACTS.as_str(), after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::Run),
    Check(check::Check),
    Queue(queue::Queue),
    Vault(vault::Vault),
    Verify(verify::Verify),
    Demo(demo::Demo),
    Completions(completions::Completions),
}

/// Where the configuration is; shared by the verbs that need one.
#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// The configuration file.
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        env = "MAILTEE_CONFIG",
        default_value = "/etc/mailtee/mailtee.toml"
    )]
    config: PathBuf,
}

impl ConfigFile {
    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.config)
    }
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.verb {
        Verb::Run(verb) => verb.run(),
        Verb::Check(verb) => verb.run(),
        Verb::Queue(verb) => verb.run(),
        Verb::Vault(verb) => verb.run(),
        Verb::Verify(verb) => verb.run(),
        Verb::Demo(verb) => verb.run(),
        Verb::Completions(verb) => verb.run(),
    };
    match result {
        Ok(Verdict::Well) => ExitCode::SUCCESS,
        Ok(Verdict::Amiss) => ExitCode::from(1),
        Err(error) if reader_went_away(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mailtee: {error:#}");
            let wrong_configuration = error.downcast_ref::<ConfigError>().is_some();
            ExitCode::from(if wrong_configuration { 2 } else { 3 })
        }
    }
}

fn reader_went_away(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// What was built, with what.
static BUILD_FACTS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{version}\ncommit:  {commit}\ntarget:  {arch}-{os}\nprofile: {profile}\nTLS:     rustls with aws-lc-rs\nSQLite:  {sqlite}",
        version = env!("CARGO_PKG_VERSION"),
        commit = option_env!("MAILTEE_COMMIT").unwrap_or("not recorded"),
        arch = std::env::consts::ARCH,
        os = std::env::consts::OS,
        profile = if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        },
        sqlite = rusqlite::version(),
    )
});

/// A runtime for a verb that only waits for a few things.
fn small_runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_an_example() {
        fn verbs<'a>(command: &'a clap::Command, out: &mut Vec<&'a clap::Command>) {
            for verb in command.get_subcommands() {
                out.push(verb);
                verbs(verb, out);
            }
        }
        let command = Cli::command();
        let mut all = Vec::new();
        verbs(&command, &mut all);
        for verb in all {
            let help = verb.get_after_help().map(ToString::to_string);
            assert!(
                help.is_some_and(|help| help.contains("mailtee ")),
                "`{}` has no example",
                verb.get_name()
            );
        }
    }

    #[test]
    fn a_closed_pipe_is_not_a_failure() {
        let broken = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(reader_went_away(
            &anyhow::Error::new(broken).context("list")
        ));
        assert!(!reader_went_away(&anyhow::anyhow!("broken pipe")));
    }
}
