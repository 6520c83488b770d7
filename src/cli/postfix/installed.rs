//! The Postfix of this machine, as `postconf` tells it: main.cf with `$name` expanded, the services of master.cf and what
//! each sets for itself. It changes nothing, and talks to no running Postfix.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

/// What is asked of main.cf, and of what services set for themselves.
const SETTINGS: &[&str] = &[
    "cleanup_service_name",
    "compatibility_level",
    "content_filter",
    "mail_owner",
    "milter_content_timeout",
    "milter_default_action",
    "milter_protocol",
    "non_smtpd_milters",
    "queue_directory",
    "receive_override_options",
    "smtpd_milter_maps",
    "smtpd_milters",
    "smtpd_proxy_filter",
];

/// How postconf is asked.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) postconf: Option<&'a Path>,
    pub(super) config_dir: Option<&'a Path>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum PostconfError {
    #[error("{program}: {source}: name it with --postconf")]
    Start {
        program: String,
        source: std::io::Error,
    },
    #[error("{program} failed: {said}")]
    Failed { program: String, said: String },
}

/// Settings of main.cf and services of master.cf.
#[derive(Debug, Default)]
pub(super) struct Postfix {
    main: BTreeMap<String, String>,
    pub(super) services: Vec<Service>,
}

/// A line of master.cf.
#[derive(Debug, Default)]
pub(super) struct Service {
    /// `smtp/inet`, as `postconf -M` names it.
    pub(super) name: String,
    /// The daemon, without its arguments.
    pub(super) command: String,
    /// As it is written: `y`, `n` or `-`.
    chroot: String,
    own: BTreeMap<String, String>,
}

impl Asked<'_> {
    pub(super) fn read(&self) -> Result<Postfix, PostconfError> {
        let main = self.run(&[&["-x"], SETTINGS].concat())?;
        let fields = self.run(&["-x", "-F", "*/*/chroot", "*/*/command"])?;
        let own = self.run(&["-x", "-P"])?;
        Ok(Postfix::parse(&main, &fields, &own))
    }

    fn run(&self, arguments: &[&str]) -> Result<String, PostconfError> {
        let program = self.program();
        let mut command = Command::new(&program);
        if let Some(dir) = self.config_dir {
            command.arg("-c").arg(dir);
        }
        let program = program.display().to_string();
        let output = match command.args(arguments).env("LC_ALL", "C").output() {
            Ok(output) => output,
            Err(source) => return Err(PostconfError::Start { program, source }),
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(PostconfError::Failed { program, said });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Not every user's PATH has the folder where it mostly is.
    fn program(&self) -> PathBuf {
        let usual = Path::new("/usr/sbin/postconf");
        match self.postconf {
            Some(path) => path.to_owned(),
            None if usual.exists() => usual.to_owned(),
            None => "postconf".into(),
        }
    }
}

impl Postfix {
    /// From the output of `postconf -x NAME…`, `postconf -x -F */*/chroot */*/command` and `postconf -x -P`.
    fn parse(main: &str, fields: &str, own: &str) -> Self {
        let mut postfix = Self {
            main: pairs(main)
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            services: Vec::new(),
        };
        for (path, value) in pairs(fields) {
            let Some((name, field)) = path.rsplit_once('/') else {
                continue;
            };
            let service = postfix.service_or_new(name);
            match field {
                "chroot" => value.clone_into(&mut service.chroot),
                "command" => {
                    let daemon = value.split_whitespace().next().unwrap_or_default();
                    daemon.clone_into(&mut service.command);
                }
                _ => {}
            }
        }
        for (path, value) in pairs(own) {
            if let Some((name, setting)) = path.rsplit_once('/') {
                let service = postfix.service_or_new(name);
                service.own.insert(setting.to_owned(), value.to_owned());
            }
        }
        postfix
    }

    fn service_or_new(&mut self, name: &str) -> &mut Service {
        let at = self
            .services
            .iter()
            .position(|service| service.name == name);
        let at = at.unwrap_or_else(|| {
            self.services.push(Service {
                name: name.to_owned(),
                ..Service::default()
            });
            self.services.len() - 1
        });
        &mut self.services[at]
    }

    pub(super) fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }

    /// A setting of main.cf, or its default.
    pub(super) fn main(&self, name: &str) -> &str {
        self.main.get(name).map_or("", String::as_str)
    }

    /// A setting as this service has it.
    pub(super) fn setting<'a>(&'a self, service: &'a Service, name: &str) -> &'a str {
        let own = service.own.get(name).map(String::as_str);
        own.unwrap_or_else(|| self.main(name))
    }

    /// The default of master.cf's fifth column was `y` before compatibility_level 1.
    pub(super) fn in_chroot(&self, service: &Service) -> bool {
        match service.chroot.as_str() {
            "y" => true,
            "n" => false,
            _ => self.main("compatibility_level") == "0",
        }
    }
}

impl Service {
    /// `smtp` of `smtp/inet`: for an inet service its port, perhaps with a host.
    pub(super) fn listen(&self) -> &str {
        self.name.rsplit_once('/').map_or("", |(listen, _)| listen)
    }
}

/// Lines `name = value`; a value may be empty.
fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines()
        .filter_map(|line| line.split_once(" ="))
        .map(|(name, value)| (name.trim(), value.trim()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn postfix(main: &str, fields: &str, own: &str) -> Postfix {
        Postfix::parse(main, fields, own)
    }

    #[test]
    fn a_service_has_its_own_settings_before_those_of_main_cf() {
        let postfix = postfix(
            "smtpd_milters = inet:a:1, { inet:b:2, default_action=accept }\ncontent_filter = \ncompatibility_level = 0\n",
            "smtp/inet/chroot = y\nsmtp/inet/command = smtpd\n[::1]:587/inet/chroot = -\n\
             [::1]:587/inet/command = smtpd -o smtpd_milters=\n",
            "[::1]:587/inet/smtpd_milters = \n[::1]:587/inet/smtpd_sender_login_maps = inline:{ a = b }\n",
        );
        let [smtp, submission] = &postfix.services[..] else {
            panic!("{postfix:?}");
        };
        assert_eq!(submission.command, "smtpd");
        assert_eq!(submission.listen(), "[::1]:587");
        let list = "inet:a:1, { inet:b:2, default_action=accept }";
        assert_eq!(postfix.setting(smtp, "smtpd_milters"), list);
        assert_eq!(postfix.setting(submission, "smtpd_milters"), "");
        assert_eq!(postfix.setting(submission, "content_filter"), "");
        assert_eq!(postfix.setting(smtp, "unknown"), "");
        assert!(postfix.in_chroot(smtp) && postfix.in_chroot(submission));
    }

    #[test]
    fn a_postconf_that_is_not_there_is_named() {
        let asked = Asked {
            postconf: Some(Path::new("/nonexistent/postconf")),
            config_dir: None,
        };
        let error = asked.read().unwrap_err().to_string();
        assert!(error.contains("/nonexistent/postconf: "), "{error}");
    }
}
