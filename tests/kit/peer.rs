//! A real server, started by its script in `tests/peers/` in a private directory on free ports, stopped on drop.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use super::{TestDir, free_port};

/// The environment variables by which each script takes its ports.
const PORTS: &[(&str, &[&str])] = &[
    (
        "postfix",
        &["SMTP_PORT", "REINJECT_PORT", "SUBMISSION_PORT"],
    ),
    ("sink", &["PORT"]),
    (
        "dovecot",
        &[
            "IMAP_PORT",
            "IMAPS_PORT",
            "POP3_PORT",
            "POP3S_PORT",
            "LMTP_PORT",
            "LMTPS_PORT",
            "SIEVE_PORT",
            "SIEVES_PORT",
            "IMAP_HAPROXY_PORT",
            "AUTH_PORT",
        ],
    ),
    (
        "cyrus",
        &[
            "IMAP_PORT",
            "IMAPS_PORT",
            "POP3_PORT",
            "POP3S_PORT",
            "LMTP_PORT",
            "SIEVE_PORT",
            "HTTP_PORT",
            "HTTPS_PORT",
        ],
    ),
    (
        "courier",
        &["IMAP_PORT", "IMAPS_PORT", "POP3_PORT", "POP3S_PORT"],
    ),
    (
        "nginx-mail",
        &[
            "IMAP_PORT",
            "IMAPS_PORT",
            "POP3_PORT",
            "SMTP_PORT",
            "AUTH_PORT",
            "HTTPS_PORT",
        ],
    ),
    ("perdition", &["IMAP_PORT", "POP3_PORT"]),
    ("opendkim", &["PORT"]),
    ("exim", &["SMTP_PORT", "SMTPS_PORT", "REINJECT_PORT"]),
    ("opensmtpd", &["SMTP_PORT"]),
    ("sendmail", &["SMTP_PORT", "SMTPS_PORT"]),
    ("haproxy", &[]),
    ("prometheus", &["PORT", "AM_PORT"]),
    ("netem", &[]),
];

pub struct Peer {
    script: PathBuf,
    environment: BTreeMap<String, String>,
    arguments: Vec<String>,
    told: BTreeMap<String, String>,
    dir: TestDir,
}

/// What a peer is started with.
pub struct Setting {
    name: &'static str,
    environment: BTreeMap<String, String>,
    arguments: Vec<String>,
}

impl Peer {
    /// A peer by its script's name: `Peer::set("postfix").argument("content_filter").env("NEXT_HOP", hop).start()`.
    pub fn set(name: &'static str) -> Setting {
        let (_, ports) = PORTS
            .iter()
            .find(|(script, _)| *script == name)
            .unwrap_or_else(|| panic!("no peer {name}"));
        Setting {
            name,
            environment: ports
                .iter()
                .map(|port| ((*port).to_owned(), free_port().to_string()))
                .collect(),
            arguments: Vec::new(),
        }
    }

    /// What the script wrote into `connect.env`: addresses, files, credentials.
    pub fn var(&self, name: &str) -> &str {
        self.told(name)
            .unwrap_or_else(|| panic!("{} told no {name}", self.script.display()))
    }

    /// The same, where it may have written none.
    pub fn told(&self, name: &str) -> Option<&str> {
        self.told.get(name).map(String::as_str)
    }

    /// A variable of `connect.env` that is an address.
    pub fn address(&self, name: &str) -> SocketAddr {
        let text = self.var(name);
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no address: {text}"))
    }

    /// The value that the script was given for `name`, ports among them.
    pub fn env(&self, name: &str) -> &str {
        &self.environment[name]
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file that the peer keeps, as text; empty where it does not exist yet.
    pub fn file(&self, name: &str) -> String {
        let bytes = fs::read(self.dir.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Ends the peer; its files and ports stay its own, so that `start_again` brings the same one back.
    pub fn stop(&self) {
        self.run("stop");
    }

    pub fn start_again(&mut self) {
        self.run("start");
        self.told = told(self.dir.path());
    }

    fn run(&self, action: &str) {
        let output = Command::new(&self.script)
            .arg(action)
            .arg(self.dir.path())
            .args(&self.arguments)
            .envs(&self.environment)
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", self.script.display()));
        assert!(
            output.status.success(),
            "{} {action}: {}\n{}{}",
            self.script.display(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
    }
}

impl Setting {
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.insert(name.to_owned(), value.to_string());
        self
    }

    /// Something after `start DIR`: Postfix's mode.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub fn start(self) -> Peer {
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/peers")
            .join(format!("{}.sh", self.name));
        let mut peer = Peer {
            script,
            environment: self.environment,
            arguments: self.arguments,
            told: BTreeMap::new(),
            dir: TestDir::new(),
        };
        peer.start_again();
        peer
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // a second panic would abort and hide the first; the script's own words are enough here
            let _ = Command::new(&self.script)
                .arg("stop")
                .arg(self.dir.path())
                .output();
        } else {
            self.stop();
        }
    }
}

/// Reads `connect.env`, whose values are quoted for a shell.
fn told(dir: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(dir.join("connect.env")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), unquoted(value)))
        .collect()
}

/// Undoes bash's `%q` as far as addresses, paths and patterns need it.
fn unquoted(value: &str) -> String {
    let value = value.trim_matches('\'');
    let mut out = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(c) = characters.next() {
        out.push(if c == '\\' {
            characters.next().unwrap_or('\\')
        } else {
            c
        });
    }
    out
}
