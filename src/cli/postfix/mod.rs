//! `mailtee check --postfix`: what does not fit between the Postfix of this machine and this configuration's front ends.
//!
//! `installed` reads `postconf`, `entrance` finds where mail comes in and whom Postfix asks there, `advice` and `milter`
//! compare, `reach` looks at unix sockets. It changes nothing and asks no running Postfix: what it was not told to reload
//! counts as done.

mod advice;
mod entrance;
mod installed;
mod milter;
mod reach;
mod value;

use std::path::PathBuf;

use clap::Args;

use super::check::Finding;
use crate::config::Config;
use advice::Level;
use entrance::FrontEnds;
use installed::Asked;
use reach::User;

#[derive(Debug, Args)]
pub(super) struct PostfixCheck {
    /// Compare with the Postfix of this machine as well, as `postconf` tells it.
    #[arg(long)]
    postfix: bool,
    /// The postconf to ask.
    #[arg(long, requires = "postfix", value_name = "PATH")]
    postconf: Option<PathBuf>,
    /// Postfix's configuration directory, where it is not the usual one.
    #[arg(long, requires = "postfix", value_name = "DIR")]
    config_dir: Option<PathBuf>,
}

impl PostfixCheck {
    /// Adds a finding for each thing that fits, is worth knowing, or does not fit.
    pub(super) fn look(&self, config: &Config, findings: &mut Vec<Finding>) {
        if !self.postfix {
            return;
        }
        let asked = Asked {
            postconf: self.postconf.as_deref(),
            config_dir: self.config_dir.as_deref(),
        };
        let postfix = match asked.read() {
            Ok(postfix) => postfix,
            Err(error) => {
                findings.push(Finding::new("postfix".to_owned(), Err(error.to_string())));
                return;
            }
        };
        let owner = postfix.main("mail_owner");
        let user = User::named(owner);
        let advices = advice::advise(&postfix, &FrontEnds::of(config), &|socket| match &user {
            Some(user) => user.trouble(socket),
            None => Some((
                Level::Note,
                format!("there is no user {owner} to look with"),
            )),
        });
        for advice in advices {
            let what = format!("postfix {}", advice.about.join(", "));
            let what = what.trim_end();
            findings.push(match advice.level {
                Level::Well => Finding::new(format!("{what}: {}", advice.text), Ok(())),
                Level::Note => Finding::noted(what.to_owned(), advice.text),
                Level::Warning => Finding::new(what.to_owned(), Err(advice.text)),
            });
        }
    }
}
