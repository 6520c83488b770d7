//! `mailtee.toml`: the file's shape, turned into each stage's checked options.
//!
//! Every fault is found in one reading, each with file, line, key, what was found and what is expected; unknown keys are
//! faults. Secrets come from files or the environment and stand in the file itself only where `allow_inline_secrets`
//! says so. Relative paths start at the file's own folder. Nothing here opens a socket or starts anything.

#[cfg(test)]
mod at_once;
mod auto;
mod channel;
mod criterion;
mod fault;
mod frontend;
mod mailbox;
#[cfg(test)]
mod sample;
mod section;
mod setting;
mod target;
mod vault;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::de::DeTable;

use crate::{admin, criteria::DomainPattern, dedup, journal};
pub use auto::AutoFrontend;
pub use fault::{ConfigError, Fault};
pub use frontend::{Frontend, SmtpFrontend, Upstream, UpstreamTls};
pub use mailbox::MailboxFrontend;
use section::{Document, Section};
use setting::Bytes;
pub use target::{Store, Target};

/// A whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it was read from.
    pub file: PathBuf,
    pub data_dir: PathBuf,
    pub log: Log,
    /// How long a drain may take before the process ends anyway.
    pub shutdown_timeout: Duration,
    pub admin: Option<admin::Options>,
    pub journal: journal::Options,
    pub dedup: dedup::Options,
    pub vault: Option<crate::vault::Options>,
    pub frontends: Vec<Frontend>,
    pub targets: Vec<Target>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level, or `tracing`'s filter syntax: `info,mailtee::wire=debug`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl Config {
    /// The embedded vault's name as a target.
    pub const EMBEDDED_TARGET: &str = "vault";

    /// As the journal and the dedup map know them.
    pub fn target_names(&self) -> Vec<String> {
        if self.targets.is_empty() {
            return vec![Self::EMBEDDED_TARGET.to_owned()];
        }
        self.targets
            .iter()
            .map(|target| target.name.clone())
            .collect()
    }

    /// Reads and checks a file.
    pub fn load(file: &Path) -> Result<Config, ConfigError> {
        let source = fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
            file: file.to_owned(),
            source,
        })?;
        Self::parse(file, &source, &|name| std::env::var(name).ok())
    }

    /// Checks a file's text; `environment` looks a variable up.
    pub fn parse(
        file: &Path,
        source: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Config, ConfigError> {
        let (config, faults, _) = read(file, source, environment);
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            _ => Err(ConfigError::Faulty {
                file: file.to_owned(),
                faults,
            }),
        }
    }
}

/// The configuration as far as it can be told, its faults, and every key that exists.
fn read(
    file: &Path,
    source: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> (Option<Config>, Vec<Fault>, BTreeSet<String>) {
    let folder = file.parent().unwrap_or(Path::new(""));
    let document = Document::new(source, folder, environment);
    let (table, errors) = DeTable::parse_recoverable(source);
    let broken = !errors.is_empty();
    for error in errors {
        document.note(
            error.span().unwrap_or(0..0),
            String::new(),
            "no TOML".to_owned(),
            format!("a file that parses ({})", error.message()),
        );
    }
    // What a broken document still holds would only be reported as missing keys.
    let config = if broken {
        None
    } else {
        read_top(Section::top(&document, &table), file)
    };
    let (faults, asked) = document.into_faults();
    (config, faults, asked)
}

fn read_top(mut top: Section<'_>, file: &Path) -> Option<Config> {
    let data_dir = top
        .path("data_dir")
        .unwrap_or_else(|| PathBuf::from("/var/lib/mailtee"));
    let shutdown_timeout = top.or("shutdown_timeout", Duration::from_secs(30));
    let log = read_log(top.section("log"));
    let admin = read_admin(top.section("admin"));
    let journal = read_journal(top.section("journal"), &data_dir);
    let dedup = read_dedup(top.section("dedup"), &data_dir);
    let vault = top.section("vault");
    let has_certificate = vault.has("certificate");
    let vault = vault::read_vault(vault, &data_dir);
    let frontends = read_frontends(&mut top);
    let allow_inline = top.or("allow_inline_secrets", false);
    let own_domains: Vec<DomainPattern> = top.or("own_domains", Vec::new());
    let targets = read_targets(&mut top, allow_inline, &own_domains);
    if vault.is_none() && !top.has("target") {
        top.complain("target", "a [[target]], or the embedded [vault]");
    }
    if has_certificate && !top.has("target") {
        // Its name is the certificate's, which only the operator knows.
        top.complain(
            "target",
            "the vault as a [[target]], by the name in its certificate",
        );
    }
    top.finish();
    Some(Config {
        file: file.to_owned(),
        data_dir,
        log,
        shutdown_timeout,
        admin,
        journal,
        dedup,
        vault,
        frontends,
        targets,
    })
}

fn read_frontends(top: &mut Section<'_>) -> Vec<Frontend> {
    let sections = top.sections("frontend");
    unique_names(&sections);
    sections
        .into_iter()
        .filter_map(frontend::read_frontend)
        .collect()
}

fn read_targets(
    top: &mut Section<'_>,
    allow_inline: bool,
    own_domains: &[DomainPattern],
) -> Vec<Target> {
    let sections = top.sections("target");
    unique_names(&sections);
    if sections.len() > journal::TARGETS_MAX {
        top.complain(
            "target",
            &format!("at most {} targets", journal::TARGETS_MAX),
        );
    }
    let read = |section| target::read_target(section, allow_inline, own_domains);
    sections.into_iter().filter_map(read).collect()
}

/// A name labels metrics and log lines, and names files.
fn read_name(section: &mut Section<'_>) -> Option<String> {
    let name: Option<String> = section.required("name");
    if let Some(name) = &name
        && (name.len() > 64
            || !name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)))
    {
        section.complain("name", "at most 64 letters, digits, `-`, `_` and `.`");
    }
    name
}

fn unique_names(sections: &[Section<'_>]) {
    let mut seen = BTreeSet::new();
    for section in sections {
        if let Some(name) = section.text("name")
            && !seen.insert(name)
        {
            section.complain("name", "a name that no other has");
        }
    }
}

fn read_log(mut section: Section<'_>) -> Log {
    let level: String = section.or("level", "info".to_owned());
    if tracing_subscriber::EnvFilter::try_new(&level).is_err() {
        section.complain(
            "level",
            "error | warn | info | debug | trace, or a filter such as \"info,mailtee::wire=debug\"",
        );
    }
    let words = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = section.choice("format", &words).unwrap_or(LogFormat::Text);
    section.finish();
    Log { level, format }
}

fn read_admin(mut section: Section<'_>) -> Option<admin::Options> {
    let present = section.is_present();
    let listen = section.or("listen", admin::DEFAULT_LISTEN);
    let allowed_hosts = section.or("allowed_hosts", Vec::new());
    section.finish();
    present.then_some(admin::Options {
        listen,
        allowed_hosts,
    })
}

fn read_journal(mut section: Section<'_>, data_dir: &Path) -> journal::Options {
    let options = journal::Options {
        data_dir: data_dir.to_owned(),
        segment_bytes: section.or("segment_bytes", Bytes::mib(32)).0,
        capacity_bytes: section.or("capacity_bytes", Bytes::gib(20)).0,
        free_bytes_min: section.or("free_bytes_min", Bytes::gib(1)).0,
        large_bytes_min: section.or("large_bytes_min", Bytes::kib(256)).0,
        draft_memory_bytes: section.or("draft_memory_bytes", Bytes::mib(64)).0,
        abandon_targets: section.or("abandon_targets", Vec::new()),
    };
    if options.segment_bytes < Bytes::kib(64).0 || options.segment_bytes > Bytes::gib(1).0 {
        section.complain("segment_bytes", "a size from 64 KiB to 1 GiB");
    }
    if options.capacity_bytes < options.segment_bytes.saturating_mul(2) {
        section.complain("capacity_bytes", "at least twice `segment_bytes`");
    }
    if options.large_bytes_min > options.segment_bytes / 4 {
        section.complain("large_bytes_min", "at most a quarter of `segment_bytes`");
    }
    section.finish();
    options
}

fn read_dedup(mut section: Section<'_>, data_dir: &Path) -> dedup::Options {
    let dir = section.path("data_dir");
    let default = dedup::Options::new(dir.unwrap_or_else(|| data_dir.join("dedup")));
    let options = dedup::Options {
        cached_entries_max: section.or("cached_entries_max", default.cached_entries_max),
        cache_bytes: section.or("cache_bytes", Bytes(default.cache_bytes)).0,
        dir: default.dir,
    };
    section.finish();
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(source: &str) -> Vec<(usize, String, String)> {
        let file = Path::new("/etc/mailtee.toml");
        match Config::parse(file, source, &|_| None) {
            Ok(_) => Vec::new(),
            Err(error) => error
                .faults()
                .iter()
                .map(|fault| (fault.line, fault.key.clone(), fault.found.clone()))
                .collect(),
        }
    }

    #[test]
    fn all_faults_are_found_at_once_each_with_its_line() {
        let source = "\
shutdown_timeout = 30
[log]
level = \"info,,=\"
fromat = \"json\"
[journal]
segment_bytes = \"64 MB\"
capacity_bytes = \"1 MiB\"
[vault]
";
        let expected = [
            (1, "shutdown_timeout", "30"),
            (3, "log.level", "\"info,,=\""),
            (4, "log.fromat", "a key that does not exist"),
            (7, "journal.capacity_bytes", "\"1 MiB\""),
        ];
        let expected = expected.map(|(line, key, found)| (line, key.to_owned(), found.to_owned()));
        assert_eq!(faults(source), expected);
    }

    #[test]
    fn a_password_in_a_url_is_a_fault_that_does_not_print_it() {
        let secrets = [
            "url = 'https://archive:s3cret@archive.example.org/jmap'",
            "url = 'ftp://archive:s3cret@archive.example.org/jmap'",
            "url = 'https://archive.example.org/'\nproxy = 'socks5h://u:s3cret@proxy.example.org:1080'",
        ];
        for keys in secrets {
            let source = format!("[[target]]\nname = 'archive'\ntype = 'jmap'\n{keys}\n");
            let error = Config::parse(Path::new("m.toml"), &source, &|_| None).unwrap_err();
            assert_eq!(error.faults().len(), 1, "{error}");
            assert!(error.to_string().contains("password_file"), "{error}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
        let plain = "[[target]]\nname = 'a'\ntype = 'jmap'\nurl = 'https://h.example/a@b?c@d'\n";
        assert_eq!(faults(plain), []);
    }

    #[test]
    fn a_target_of_an_unknown_type_has_one_fault_and_not_one_a_key() {
        let keys = "url = 'https://archive.example.org/'\ntoken_file = '/t'\nmailbox = 'a/b'\n";
        for (kind, key) in [("type = 's3'\n", "target.type"), ("", "target.type")] {
            let source = format!("[[target]]\nname = 'archive'\n{kind}{keys}");
            let found: Vec<String> = faults(&source).into_iter().map(|fault| fault.1).collect();
            assert_eq!(found, [key], "{source}");
        }
    }

    #[test]
    fn a_front_end_that_is_its_own_next_hop_is_a_fault() {
        let front = |listen: &str, upstream: &str| {
            let keys = "name = 'f'\nprotocol = 'smtp'\nrole = 'filter'";
            format!("[vault]\n[[frontend]]\n{keys}\nlisten = '{listen}'\nupstream = '{upstream}'\n")
        };
        for (listen, upstream) in [
            ("127.0.0.1:10025", "127.0.0.1:10025"),
            ("127.0.0.1:10025", "localhost:10025"),
            ("0.0.0.0:10025", "127.0.0.1:10025"),
            ("[::]:10025", "[::1]:10025"),
            ("mx.example.org:25", "mx.example.org:25"),
            ("unix:/run/mailtee/s", "unix:/run/mailtee/s"),
        ] {
            let found = faults(&front(listen, upstream));
            assert_eq!(found.len(), 1, "{listen} {upstream}");
            assert_eq!((found[0].0, found[0].1.as_str()), (7, "frontend.upstream"));
        }
        for (listen, upstream) in [
            ("127.0.0.1:10025", "127.0.0.1:10026"),
            ("127.0.0.1:25", "127.0.0.2:25"),
            ("0.0.0.0:25", "192.0.2.1:25"),
            ("unix:/run/mailtee/s", "unix:/run/postfix/s"),
        ] {
            assert_eq!(faults(&front(listen, upstream)), [], "{listen} {upstream}");
        }
    }

    #[test]
    fn broken_toml_is_reported_by_line() {
        let found = faults("data_dir = \"/x\"\n[admin\nlisten = 1\n");
        assert_eq!(found.first().map(|fault| fault.0), Some(2), "{found:?}");
    }

    #[test]
    fn an_unknown_key_names_its_neighbour() {
        let file = Path::new("mailtee.toml");
        let error = Config::parse(file, "shutdown_time = '1s'\n[vault]", &|_| None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "mailtee.toml:1: shutdown_time: found a key that does not exist, expected `shutdown_timeout`?"
        );
    }
}
