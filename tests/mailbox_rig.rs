//! mailtee before a mailbox server, two accounts that begin alike, and the two ways to them: what a client does is done
//! directly with the first and through the proxy with the second.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    interop_smtp::python,
    kit::{
        ImapClient, Mail, MailServer, Mailtee, TestDir,
        imap::{Shown, quoted},
        mailbox::{Account, Kind},
    },
    mailbox_imap::before,
};

/// How a leg is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    None,
    /// STARTTLS, STLS.
    Start,
    Implicit,
}

impl Tls {
    /// As mailtee's configuration has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Start => "starttls",
            Self::Implicit => "implicit",
        }
    }
}

/// Of Dovecot, all that has a say in what a client does; COMPRESS among it, which is there directly and not through us.
const DOVECOT: &str = "mail_plugins = quota acl
protocol imap {
  mail_plugins = $mail_plugins imap_quota imap_acl imap_zlib
}
plugin {
  quota = maildir:User quota
  quota_rule = *:storage=1G
  acl = vfile
}
imap_metadata = yes
mail_attribute_dict = file:%h/dovecot-attributes
imap_urlauth_host = localhost
auth_failure_delay = 0
";

pub(crate) struct Rig {
    pub(crate) server: MailServer,
    pub(crate) mailtee: Mailtee,
    pub(crate) kind: Kind,
    tls: Tls,
}

/// One of the two ways to an account.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) user: (String, String),
    pub(crate) dir: TestDir,
    pub(crate) tls: Tls,
    pub(crate) ca: PathBuf,
    /// What was saved or read whole by this way.
    passed: RefCell<BTreeSet<Vec<u8>>>,
}

impl Rig {
    /// IMAP: `tls` from client to mailtee and, by the direct way, to the server; `upstream` from mailtee to the server.
    pub(crate) fn before(kind: Kind, tls: Tls, upstream: Tls) -> Self {
        let setting = match kind {
            Kind::Dovecot => kind.with_users(2).env("EXTRA_CONF", DOVECOT),
            Kind::Cyrus | Kind::Courier => kind.with_users(2),
        };
        let server = MailServer::over(kind, setting);
        let file = |name: &str| format!("{:?}", server.peer.dir().join("tls").join(name));
        let mut setting = match upstream {
            Tls::Implicit => before("imap", server.imaps()),
            Tls::None | Tls::Start => before("imap", server.imap()),
        };
        if tls != Tls::None {
            setting = setting
                .option("tls", format!("{:?}", tls.name()))
                .option("certificate", file("fullchain.pem"))
                .option("key", file("key.pem"));
        }
        if upstream != Tls::None {
            setting = setting
                .option("upstream_tls", format!("{:?}", upstream.name()))
                .option("upstream_tls_name", "\"localhost\"")
                .option("upstream_ca_file", file("ca.pem"));
        }
        Self {
            kind,
            mailtee: setting.start(),
            server,
            tls,
        }
    }

    fn ways(&self) -> [Way; 2] {
        let direct = match self.tls {
            Tls::None | Tls::Start => self.server.imap(),
            Tls::Implicit => self.server.imaps(),
        };
        let way = |name, number, address| {
            let ca = self.server.peer.dir().join("tls/ca.pem");
            Way::new(name, address, self.server.user(number), self.tls, ca)
        };
        [
            way("directly", 1, direct),
            way("through", 2, self.mailtee.frontend),
        ]
    }

    pub(crate) fn folder(&self, levels: &[&str]) -> String {
        self.server.folder(levels)
    }

    /// A session with the server itself.
    pub(crate) fn client(&self, way: &Way) -> ImapClient {
        ImapClient::logged_in(self.server.imap(), &way.user)
    }

    /// The same mail in the same folders, of the same dates.
    pub(crate) fn seed(&self, way: &Way) {
        let mut client = self.client(way);
        let folders = [
            "INBOX".to_owned(),
            self.folder(&["Work"]),
            self.folder(&["Work", "2015"]),
            self.folder(&["Entw&APw-rfe"]),
        ];
        for folder in &folders[1..] {
            client.ok(&format!("CREATE {}", quoted(folder)));
            client.ok(&format!("SUBSCRIBE {}", quoted(folder)));
        }
        for serial in 0..24 {
            let mail = match serial {
                7 => Mail::sized(serial, 600_000),
                _ => Mail::varied(61, serial),
            };
            let mail = match self.kind {
                Kind::Courier if !has_plain_header(&mail.bytes) => Mail::plain(serial),
                _ => mail,
            };
            let folder = if serial < 16 {
                &folders[0]
            } else {
                &folders[serial as usize % 4]
            };
            let flags = ["", "\\Seen", "\\Flagged \\Seen", "\\Answered"][serial as usize % 4];
            let date = format!("{:02}-May-2014 10:{serial:02}:00 +0000", 1 + serial);
            save(&mut client, folder, flags, Some(&date), &mail.bytes);
        }
    }

    /// Does the work by both ways with accounts that begin alike, and holds what came of it against each other and, after
    /// it, against the vault.
    #[track_caller]
    pub(crate) fn same<T: PartialEq + Debug>(&self, work: impl Fn(&Self, &Way) -> T) {
        let ways = self.ways();
        ways.iter().for_each(|way| self.seed(way));
        self.same_as_it_is(&ways, work);
    }

    /// The same with accounts in which nothing is.
    #[track_caller]
    pub(crate) fn same_from_nothing<T: PartialEq + Debug>(&self, work: impl Fn(&Self, &Way) -> T) {
        self.same_as_it_is(&self.ways(), work);
    }

    #[track_caller]
    fn same_as_it_is<T: PartialEq + Debug>(
        &self,
        ways: &[Way; 2],
        work: impl Fn(&Self, &Way) -> T,
    ) {
        let [direct, through] = ways;
        let (one, other) = (work(self, direct), work(self, through));
        assert_same(&format!("{one:#?}"), &format!("{other:#?}"));
        assert!(one == other, "what the client did");
        let account = self.server.account(&through.user);
        assert_accounts(&self.server.account(&direct.user), &account);
        self.assert_copied(&through.passed.borrow(), &through.user.0);
        self.assert_shown(through, &account);
    }

    /// All that is in the account has passed, or will have been read.
    pub(crate) fn all_passes(&self, way: &Way) {
        let account = self.server.account(&way.user);
        for message in account.into_values().flatten() {
            way.passes(&message.bytes);
        }
    }

    /// Through the proxy the account is what it is.
    fn assert_shown(&self, way: &Way, account: &Account) {
        let address = self.mailtee.frontend;
        let connected = match way.tls {
            Tls::Implicit => ImapClient::connect_tls(address, &way.ca),
            Tls::None | Tls::Start => ImapClient::connect(address),
        };
        let (mut client, _) = connected.expect("it greets");
        client.login(&way.user);
        for (folder, messages) in account {
            client.ok(&format!("EXAMINE {}", quoted(folder)));
            let shown = client.all().expect("it shows its messages");
            assert!(shown == *messages, "{folder} through the proxy");
        }
    }

    /// Each of these is in the vault once, seen with this user, and nothing else is; the watcher has not lost track, nothing
    /// was missed.
    #[track_caller]
    fn assert_copied(&self, passed: &BTreeSet<Vec<u8>>, user: &str) {
        self.mailtee.wait_until_forwarded(Duration::from_secs(60));
        let stored = self.mailtee.vault().all();
        let copies: BTreeSet<_> = stored.into_iter().map(|stored| stored.bytes).collect();
        let text = |bytes: &Vec<u8>| bytes[..bytes.len().min(300)].escape_ascii().to_string();
        let missing: Vec<_> = passed.difference(&copies).map(text).collect();
        let strange: Vec<_> = copies.difference(passed).map(text).collect();
        assert!(
            missing.is_empty() && strange.is_empty(),
            "missing: {missing:#?}\nstrange: {strange:#?}"
        );
        let emails = self.mailtee.vault().emails();
        assert_eq!(emails.len(), copies.len(), "something is there twice");
        for sighting in self.mailtee.vault().sightings() {
            let placement = &sighting["sighting"]["origin"]["placement"];
            assert_eq!(placement["account"], user, "{sighting}");
        }
        let metrics = self.mailtee.metrics();
        let troubles = metrics.0.lines().filter(|line| {
            let is_trouble = line.starts_with("mailtee_watcher_lost_total{")
                || line.starts_with("mailtee_session_errors_total{")
                || line.contains("outcome=\"gap\"")
                || line.contains("outcome=\"aborted\"");
            is_trouble && !line.ends_with(" 0")
        });
        assert_eq!(troubles.collect::<Vec<_>>(), Vec::<&str>::new());
    }
}

/// Saves a message by a session with the server itself.
#[track_caller]
pub(crate) fn save(
    client: &mut ImapClient,
    folder: &str,
    flags: &str,
    date: Option<&str>,
    message: &[u8],
) {
    let date = date.map_or(String::new(), |date| format!(" \"{date}\""));
    let folder = quoted(folder);
    let head = format!("APPEND {folder} ({flags}){date} {{{}}}\r\n", message.len());
    let answer = client.in_pieces(&[head.as_bytes(), &[message, b"\r\n"].concat()]);
    let answer = answer.expect("it answers");
    assert!(answer.is_ok(), "{folder}: {}", answer.tagged);
}

/// Is there no byte in it that is not ASCII? Courier shows such a one to a client without UTF8 wrapped, each time in other
/// words.
pub(crate) fn has_plain_header(message: &[u8]) -> bool {
    let end = message.windows(4).position(|w| w == b"\r\n\r\n");
    message[..end.unwrap_or(message.len())].is_ascii()
}

/// A message without what its client wrote into it for this run alone.
pub(crate) fn common(message: &[u8]) -> Vec<u8> {
    let is_mutts = memchr::memmem::find(message, b"User-Agent: Mutt").is_some();
    let lines = message.split_inclusive(|byte| *byte == b'\n');
    let kept = lines.filter(|line| {
        let starts = |name: &[u8]| line.starts_with(name);
        let is_own = starts(b"X-TUID: ") || starts(b"X-OfflineIMAP: ");
        !(is_own || is_mutts && (starts(b"Date: ") || starts(b"Message-ID: ")))
    });
    kept.collect::<Vec<_>>().concat()
}

fn assert_accounts(one: &Account, other: &Account) {
    let comparable = |account: &Account| -> BTreeMap<String, Vec<Shown>> {
        let folders = account.iter().map(|(folder, messages)| {
            let messages = messages.iter().map(|message| {
                let date = &message.internal_date;
                let is_set = ["-200", "-201"].iter().any(|decade| date.contains(decade));
                Shown {
                    internal_date: if is_set { date.clone() } else { String::new() },
                    bytes: common(&message.bytes),
                    ..message.clone()
                }
            });
            (folder.clone(), messages.collect())
        });
        folders.collect()
    };
    let (one, other) = (comparable(one), comparable(other));
    let names = |account: &BTreeMap<String, _>| account.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other), "the folders");
    for ((folder, one), (_, other)) in one.iter().zip(&other) {
        let short = |shown: &[Shown]| -> Vec<String> {
            let lines = shown.iter().map(|message| {
                let bytes = &message.bytes[..message.bytes.len().min(150)];
                let Shown {
                    uid,
                    flags,
                    internal_date,
                    ..
                } = message;
                format!("{uid} {flags:?} {internal_date} {}", bytes.escape_ascii())
            });
            lines.collect()
        };
        assert!(
            one == other,
            "{folder}: {:#?}\n{:#?}",
            short(one),
            short(other)
        );
    }
}

/// Two transcripts: where they differ is shown, for they are long.
#[track_caller]
fn assert_same(one: &str, other: &str) {
    let pairs = one.lines().zip(other.lines()).enumerate();
    let mut different = pairs.filter(|(_, (one, other))| one != other);
    if let Some((at, _)) = different.next() {
        let around = |text: &str| {
            let lines = text.lines().skip(at.saturating_sub(6)).take(12);
            lines.collect::<Vec<_>>().join("\n")
        };
        panic!("directly:\n{}\n\nthrough:\n{}", around(one), around(other));
    }
}

impl Way {
    pub(crate) fn new(
        name: &'static str,
        address: SocketAddr,
        user: (String, String),
        tls: Tls,
        ca: PathBuf,
    ) -> Self {
        Self {
            name,
            address,
            user,
            dir: TestDir::new(),
            tls,
            ca,
            passed: RefCell::default(),
        }
    }

    /// This message was saved or read whole.
    pub(crate) fn passes(&self, message: &[u8]) {
        if !message.is_empty() {
            self.passed.borrow_mut().insert(message.to_vec());
        }
    }

    pub(crate) fn host(&self) -> String {
        self.address.ip().to_string()
    }

    pub(crate) fn port(&self) -> String {
        self.address.port().to_string()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.dir.join(name);
        fs::write(&path, text).expect("a file of the client's");
        // fetchmail reads no configuration that others may read
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        path
    }

    /// Runs a client to its end, within two minutes; gives what it printed.
    #[track_caller]
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new("timeout")
            .args(["120", program])
            .args(arguments)
            .env("HOME", self.dir.path())
            .env("LC_ALL", "C.UTF-8")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .expect("timeout");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{program} ({}): {}\n{said}\n{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }

    /// A script of `tests/mailbox`: it is told the address, and then this.
    pub(crate) fn script(&self, name: &str, more: &[&str]) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mailbox");
        let script = folder.join(name).display().to_string();
        let (host, port) = (self.host(), self.port());
        let mut arguments = vec![script.as_str(), &host, &port];
        arguments.extend(more);
        self.run(&python().display().to_string(), &arguments)
    }
}

/// The folders below a directory that are Maildirs, by their path in it; of each message its flags and bytes.
pub(crate) fn maildirs(root: &Path) -> BTreeMap<String, Vec<(String, Vec<u8>)>> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let is_part = ["cur", "new", "tmp"]
                .iter()
                .any(|part| path.ends_with(part));
            if path.is_dir() && !is_part {
                left.push(path);
            }
        }
        if dir.join("cur").is_dir() {
            let name = dir.strip_prefix(root).expect("below it");
            found.insert(name.display().to_string(), maildir(&dir));
        }
    }
    found
}

fn maildir(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let files = ["cur", "new"].into_iter().flat_map(|part| {
        let folder = fs::read_dir(dir.join(part)).expect("a Maildir");
        folder.map(|entry| entry.expect("an entry").path())
    });
    let mut messages: Vec<_> = files
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy();
            let flags = name.rsplit_once(",").map_or("", |(_, flags)| flags);
            let flags = if name.contains(":2,") { flags } else { "" };
            (
                flags.to_owned(),
                common(&fs::read(&path).expect("a message")),
            )
        })
        .collect();
    messages.sort();
    messages
}
