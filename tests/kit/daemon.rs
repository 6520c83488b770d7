//! The built `mailtee`, run as an operator runs it: a configuration file in a private directory, signals, `/metrics`.

use std::{
    fs::{self, File},
    io::Write,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use super::{Metrics, TestDir, Vault, free_port, http, vault::blob_id, wait_until};

const READY: Duration = Duration::from_secs(30);

/// A running daemon (or one that was killed and waits to be started again).
pub struct Mailtee {
    child: Option<Child>,
    /// `run`, or `vault serve`.
    verb: &'static [&'static str],
    /// Where readiness is asked, and metrics are read.
    pub admin: SocketAddr,
    /// The first front end.
    pub frontend: SocketAddr,
    /// The built-in vault, where the configuration has one.
    pub vault_address: SocketAddr,
    dir: TestDir,
}

/// A configuration in the making: one front end named `front`, the embedded vault as the only target unless told otherwise.
pub struct Setting {
    frontend: Vec<(String, String)>,
    top: String,
    rest: String,
    vault: bool,
}

impl Mailtee {
    /// The SMTP filter in front of `upstream`, with the embedded vault.
    pub fn filter(upstream: impl ToString) -> Setting {
        Setting {
            frontend: vec![
                ("protocol".to_owned(), quoted("smtp")),
                ("role".to_owned(), quoted("filter")),
                ("upstream".to_owned(), quoted(&upstream.to_string())),
            ],
            top: String::new(),
            rest: String::new(),
            vault: true,
        }
    }

    /// The vault alone, as its own process: `mailtee vault serve`. It has no front end and no admin page.
    pub fn vault_alone() -> Self {
        let mut mailtee = Setting {
            frontend: Vec::new(),
            top: String::new(),
            rest: String::new(),
            vault: true,
        }
        .prepare();
        mailtee.verb = &["vault", "serve"];
        mailtee.start();
        mailtee
    }

    fn is_vault_alone(&self) -> bool {
        self.verb != ["run"]
    }

    /// A `[[target]]` for another daemon: the vault of this one.
    pub fn as_target(&self, name: &str) -> String {
        let file = |path: &str| quoted(&self.data_dir().join(path).to_string_lossy());
        format!(
            "[[target]]\nname = {}\ntype = \"jmap\"\nurl = \"https://{}/.well-known/jmap\"\ntoken_file = {}\nca_file = {}\n",
            quoted(name),
            self.vault_address,
            file("vault/tokens/target.token"),
            file("vault/tls/certificate.pem"),
        )
    }

    /// Adds a token to the vault that may both read and write, as a mail program needs; starts the vault again.
    pub fn allow_reading_and_writing(&mut self) -> String {
        let token = "a-token-of-the-tests";
        let line = format!("tests read,write {}\n", &blob_id(token.as_bytes())[1..]);
        let tokens = self.data_dir().join("vault/tokens/tokens");
        let mut file = File::options()
            .append(true)
            .open(tokens)
            .expect("the vault's tokens");
        file.write_all(line.as_bytes()).expect("a token");
        self.terminate();
        self.start();
        token.to_owned()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn config(&self) -> PathBuf {
        self.dir.join("mailtee.toml")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A reader of the built-in vault.
    pub fn vault(&self) -> Vault {
        Vault::new(self.vault_address, &self.data_dir().join("vault"))
    }

    /// What it wrote to its standard output and error, over all its lives.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.dir.join("mailtee.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Starts it, and waits until it says that it is ready (the vault alone: until it takes connections).
    pub fn start(&mut self) {
        self.spawn();
        let alone = self.is_vault_alone();
        let (admin, vault) = (self.admin, self.vault_address);
        let child = &mut self.child;
        let mut ended = None;
        let ready = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(READY, "mailtee is ready", || {
                ended = child.as_mut().and_then(|c| c.try_wait().ok()).flatten();
                let ready = if alone {
                    TcpStream::connect(vault).is_ok()
                } else {
                    matches!(http::get(admin, "/readyz"), Some((200, _)))
                };
                (ready || ended.is_some()).then_some(())
            });
        }));
        if ready.is_err() || ended.is_some() {
            panic!("mailtee did not get ready ({ended:?}):\n{}", self.log());
        }
    }

    /// Starts it and does not wait.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("mailtee.log"))
            .expect("a log file");
        let child = Command::new(env!("CARGO_BIN_EXE_mailtee"))
            .args(self.verb)
            .arg("--config")
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the built mailtee");
        self.child = Some(child);
    }

    /// Power goes off, as far as a process can be told: SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }

    /// SIGTERM, and waits for its end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.ended()
    }

    /// Waits for its end after a SIGTERM: a second one would cut the drain off.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        wait_until(
            Duration::from_secs(30),
            "mailtee ends after SIGTERM",
            || child.try_wait().expect("our own child"),
        )
    }

    /// What the kernel counts of its memory, in KiB: `VmRSS` now, `VmHWM` at its peak.
    pub fn memory(&self, which: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        let line = lines.find(|(name, _)| *name == which);
        let number = line.and_then(|(_, value)| value.trim().strip_suffix(" kB"));
        number.and_then(|n| n.parse().ok()).expect("a size in kB")
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid()).ok();
        let pid = pid.and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a process id"), signal).expect("our own child");
    }

    /// One scrape.
    pub fn metrics(&self) -> Metrics {
        let answer = http::get(self.admin, "/metrics");
        match answer {
            Some((200, text)) => Metrics(text),
            other => panic!("/metrics answered {other:?}\n{}", self.log()),
        }
    }

    /// Waits until every target has confirmed all that waits, what was read from a mailbox included.
    #[track_caller]
    pub fn wait_until_forwarded(&self, deadline: Duration) {
        // One after the other: what is pending is not waiting yet.
        for series in ["mailtee_pending_copies{", "mailtee_waiting_messages{"] {
            wait_until(deadline, "nothing waits for a target", || {
                let Some((200, text)) = http::get(self.admin, "/metrics") else {
                    return None;
                };
                let count: f64 = text
                    .lines()
                    .filter(|line| line.starts_with(series))
                    .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
                    .sum();
                (count == 0.0).then_some(())
            });
        }
    }

    /// Runs another verb on the same configuration: `daemon.command(&["check"])`.
    pub fn command(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_mailtee"))
            .args(arguments)
            .arg("--config")
            .arg(self.config())
            .stdin(Stdio::null())
            .output()
            .expect("the built mailtee")
    }
}

impl Drop for Mailtee {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.len().saturating_sub(6_000);
            let tail = log.ceil_char_boundary(tail);
            eprintln!("--- mailtee's last words\n{}", &log[tail..]);
        }
    }
}

impl Setting {
    /// A key of the front end, its value as TOML: `option("on_capture_failure", "\"pass\"")`.
    pub fn option(mut self, key: &str, value: impl ToString) -> Self {
        self.frontend.retain(|(name, _)| name != key);
        self.frontend.push((key.to_owned(), value.to_string()));
        self
    }

    /// Removes a key of the front end.
    pub fn without(mut self, key: &str) -> Self {
        self.frontend.retain(|(name, _)| name != key);
        self
    }

    /// Lines before the first table.
    pub fn top(mut self, lines: &str) -> Self {
        self.top.push_str(lines);
        self.top.push('\n');
        self
    }

    /// Tables after the first front end: targets, more front ends, limits.
    pub fn append(mut self, tables: &str) -> Self {
        self.rest.push_str(tables);
        self.rest.push('\n');
        self
    }

    pub fn without_vault(mut self) -> Self {
        self.vault = false;
        self
    }

    /// Writes the configuration; nothing runs yet.
    pub fn prepare(self) -> Mailtee {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mailtee = Mailtee {
            child: None,
            verb: &["run"],
            admin: loopback(free_port()),
            frontend: loopback(free_port()),
            vault_address: loopback(free_port()),
            dir: TestDir::new(),
        };
        let data = mailtee.data_dir();
        let mut text = format!(
            "data_dir = {}\n{}\n[admin]\nlisten = \"{}\"\n",
            quoted(&data.to_string_lossy()),
            self.top,
            mailtee.admin
        );
        if self.vault {
            text += &format!(
                "[vault]\nlisten = \"{}\"\ndata_dir = {}\n",
                mailtee.vault_address,
                quoted(&data.join("vault").to_string_lossy())
            );
        }
        if !self.frontend.is_empty() {
            text += &format!(
                "[[frontend]]\nname = \"front\"\nlisten = \"{}\"\n",
                mailtee.frontend
            );
        }
        for (key, value) in &self.frontend {
            text += &format!("{key} = {value}\n");
        }
        text += &self.rest;
        fs::write(mailtee.config(), text).expect("a configuration file");
        mailtee
    }

    /// Writes the configuration, starts it, waits until it is ready.
    pub fn start(self) -> Mailtee {
        let mut mailtee = self.prepare();
        mailtee.start();
        mailtee
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    format!("{:?}", text)
}
