//! The command line: one file a verb. It parses, loads the configuration, runs the verb and turns what came of it into an
//! exit code (see `EXIT_CODES`). A reader that goes away (`mailtee queue list | head`) ends it quietly.

mod check;
mod completions;
mod demo;
mod explain;
mod identify;
mod output;
mod postfix;
mod queue;
mod run;
mod source;
mod vault;
mod verify;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::LazyLock,
};

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
    Identify(identify::Identify),
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
        Verb::Identify(verb) => verb.run(),
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
            // Not `eprintln!`: where nobody reads it, the exit code still has to say what happened.
            let _ = writeln!(io::stderr(), "mailtee: {}", told(&error));
            let wrong_configuration = error.downcast_ref::<ConfigError>().is_some();
            ExitCode::from(if wrong_configuration { 2 } else { 3 })
        }
    }
}

/// The error and its causes, each once: most of ours name their cause themselves.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
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

    /// The words of one example, as a shell hands them over: quotes taken off, up to where another command begins.
    fn words(example: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (index, piece) in example.split('\'').enumerate() {
            match index % 2 {
                0 => words.extend(piece.split_whitespace().map(str::to_owned)),
                _ => words.push(piece.to_owned()),
            }
        }
        let other =
            |word: &String| ["|", "&&", ">"].contains(&word.as_str()) || word.starts_with('(');
        let end = words.iter().position(other).unwrap_or(words.len());
        words.truncate(end);
        words
    }

    #[test]
    fn every_example_of_the_help_is_a_command_line_that_is_taken() {
        fn examples(command: &clap::Command, out: &mut Vec<String>) {
            let help = command.get_after_help().map(ToString::to_string);
            let lines = help.iter().flat_map(|help| help.lines());
            out.extend(lines.filter_map(|line| Some(line[line.find("  mailtee ")?..].to_owned())));
            for verb in command.get_subcommands() {
                examples(verb, out);
            }
        }
        let mut all = Vec::new();
        examples(&Cli::command(), &mut all);
        assert!(all.len() > 20, "{all:?}");
        for example in all {
            if let Err(error) = Cli::try_parse_from(words(&example)) {
                panic!("{example}: {error}");
            }
        }
    }

    #[test]
    fn a_cause_that_the_error_names_itself_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("journal: /x: {source}")]
        struct Step {
            source: io::Error,
        }
        let step = || Step {
            source: io::Error::other("no space left"),
        };
        let own = anyhow::Error::new(step());
        assert_eq!(told(&own), "journal: /x: no space left");
        let more = own.context("fsck");
        assert_eq!(told(&more), "fsck: journal: /x: no space left");
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
