//! `mailtee completions SHELL`: a completion script on standard output.

use clap::{Args, CommandFactory};

use super::{Cli, Verdict, output};

#[derive(Debug, Args)]
#[command(
    about = "Print a completion script for a shell",
    after_help = "Example:\n  mailtee completions bash > /usr/share/bash-completion/completions/mailtee"
)]
pub(super) struct Completions {
    shell: clap_complete::Shell,
}

impl Completions {
    pub(super) fn run(self) -> anyhow::Result<Verdict> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "mailtee", &mut script);
        output::raw(&script)?;
        Ok(Verdict::Well)
    }
}
