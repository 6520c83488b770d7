//! mbsync and offlineimap: an account and a tree of Maildirs become the same, stay so, and are made so again after both have
//! changed; directly and through the proxy.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    kit::{ImapClient, Mail, imap::quoted, mailbox::Kind},
    mailbox_rig::{Rig, Tls, Way, maildirs, save},
};

type Maildirs = BTreeMap<String, Vec<(String, Vec<u8>)>>;

/// One way to synchronize.
struct Sync<'a> {
    rig: &'a Rig,
    way: &'a Way,
    /// The Maildirs.
    near: PathBuf,
    /// INBOX among them, and a folder that begins on this side, here and there.
    inbox: PathBuf,
    fresh: PathBuf,
    run: Box<dyn Fn() + 'a>,
}

impl Sync<'_> {
    /// Runs it; gives what is here then.
    fn once(&self) -> Maildirs {
        (self.run)();
        self.rig.all_passes(self.way);
        maildirs(&self.near)
    }

    /// Runs it where nothing is to be done, and nothing is done.
    fn again(&self) {
        let all = || (names(&self.near), self.rig.server.account(&self.way.user));
        let before = all();
        (self.run)();
        let after = all();
        assert_eq!(before.0, after.0, "{}", self.way.name);
        assert!(before.1 == after.1, "{}: the account", self.way.name);
    }

    fn work(&self) -> Vec<Maildirs> {
        for serial in 0..4 {
            put(&self.fresh, serial, &Mail::varied(71, 2 + serial).bytes);
        }
        let first = self.once();
        self.again();

        // here: one more, one flagged, one deleted
        put(&self.inbox, 10, &Mail::varied(71, 10).bytes);
        let held = held(&self.inbox);
        change(&held[0], "FS");
        change(&held[1], "ST");
        // there: one more, one flagged, one gone, a folder more
        let (work, later) = (self.rig.folder(&["Work"]), self.rig.folder(&["Later"]));
        let mut client: ImapClient = self.rig.client(self.way);
        client.ok(&format!("CREATE {}", quoted(&later)));
        let date = Some("03-Mar-2013 03:03:03 +0000");
        save(&mut client, &later, "\\Seen", date, &Mail::plain(720).bytes);
        save(&mut client, &work, "", date, &Mail::plain(721).bytes);
        client.ok(&format!("SELECT {}", quoted(&work)));
        client.ok("STORE 1 +FLAGS (\\Flagged \\Answered)");
        client.ok("STORE 2 +FLAGS (\\Deleted)");
        client.ok("EXPUNGE");
        drop(client);
        let second = self.once();
        self.again();
        vec![first, second]
    }
}

/// A message into a Maildir of ours, with the line ends of files.
fn put(maildir: &Path, serial: u64, message: &[u8]) {
    for part in ["cur", "new", "tmp"] {
        fs::create_dir_all(maildir.join(part)).expect("a Maildir");
    }
    let text = String::from_utf8_lossy(message).replace("\r\n", "\n");
    let file = maildir.join(format!("new/14000000{serial:02}.{serial}.here"));
    fs::write(file, text).expect("a message");
}

/// The files in it, by what they hold.
fn held(maildir: &Path) -> Vec<PathBuf> {
    let files = ["cur", "new"].into_iter().flat_map(|part| {
        let folder = fs::read_dir(maildir.join(part)).expect("a Maildir");
        folder.map(|entry| entry.expect("an entry").path())
    });
    // one that is here alone yet has no UID in its name
    let mut files: Vec<_> = files
        .filter(|path| !path.to_string_lossy().ends_with(".here"))
        .collect();
    files.sort_by_key(|path| fs::read(path).expect("a message"));
    files
}

/// Gives a message these flags.
fn change(file: &Path, flags: &str) {
    let name = file.file_name().expect("a name").to_string_lossy();
    let name = name.split(":2,").next().expect("a part").to_owned();
    let cur = file.parent().expect("a part of it").with_file_name("cur");
    fs::rename(file, cur.join(format!("{name}:2,{flags}"))).expect("it is there");
}

fn names(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let is_message = path
                .parent()
                .is_some_and(|p| p.ends_with("cur") || p.ends_with("new"));
            if path.is_dir() {
                left.push(path);
            } else if is_message {
                found.push(path.display().to_string());
            }
        }
    }
    found.sort();
    found
}

fn mbsync(rig: &Rig, way: &Way) -> Vec<Maildirs> {
    let near = way.dir.join("mail");
    fs::create_dir(&near).expect("a directory");
    let ca = format!(
        "SystemCertificates no\nCertificateFile {}\n",
        way.ca.display()
    );
    let (tls, ca) = match way.tls {
        Tls::None => ("None", String::new()),
        Tls::Start => ("STARTTLS", ca),
        Tls::Implicit => ("IMAPS", ca),
    };
    let text = format!(
        "IMAPAccount a\nHost localhost\nPort {}\nUser {}\nPass {}\nSSLType {tls}\n{ca}\
         AuthMechs LOGIN\nTimeout 60\n\n\
         IMAPStore far\nAccount a\n\n\
         MaildirStore near\nPath {near}/\nInbox {near}/INBOX\nSubFolders Verbatim\n\n\
         Channel c\nFar :far:\nNear :near:\nPatterns *\nCreate Both\nExpunge Both\nRemove Both\nSyncState *\n\
         CopyArrivalDate yes\n",
        way.port(),
        way.user.0,
        way.user.1,
        near = near.display(),
    );
    let rc = way.write("mbsyncrc", &text).display().to_string();
    let sync = Sync {
        rig,
        way,
        inbox: near.join("INBOX"),
        fresh: near.join("Fresh"),
        near,
        run: Box::new(move || drop(way.run("mbsync", &["-q", "-c", &rc, "-a"]))),
    };
    sync.work()
}

#[test]
fn mbsync_before_dovecot() {
    Rig::before(Kind::Dovecot, Tls::Start, Tls::Implicit).same(mbsync);
}

#[test]
fn mbsync_before_cyrus() {
    Rig::before(Kind::Cyrus, Tls::Implicit, Tls::None).same(mbsync);
}

#[test]
fn mbsync_before_courier() {
    Rig::before(Kind::Courier, Tls::None, Tls::None).same(mbsync);
}

fn offlineimap(rig: &Rig, way: &Way) -> Vec<Maildirs> {
    let near = way.dir.join("mail");
    let on = |is_on: bool| if is_on { "yes" } else { "no" };
    let ca = match way.tls {
        Tls::None => String::new(),
        Tls::Start | Tls::Implicit => format!("sslcacertfile = {}\n", way.ca.display()),
    };
    let text = format!(
        "[general]\nmetadata = {dir}/state\naccounts = a\nmaxsyncaccounts = 1\n\n\
         [Account a]\nlocalrepository = near\nremoterepository = far\n\n\
         [Repository near]\ntype = Maildir\nlocalfolders = {near}\nsep = .\n\n\
         [Repository far]\ntype = IMAP\nremotehost = localhost\nremoteport = {port}\nremoteuser = {user}\n\
         remotepass = {password}\nssl = {ssl}\nstarttls = {starttls}\n{ca}maxconnections = 1\n",
        dir = way.dir.path().display(),
        near = near.display(),
        port = way.port(),
        user = way.user.0,
        password = way.user.1,
        ssl = on(way.tls == Tls::Implicit),
        starttls = on(way.tls == Tls::Start),
    );
    let rc = way.write("offlineimaprc", &text).display().to_string();
    let sync = Sync {
        rig,
        way,
        inbox: near.join("INBOX"),
        // at Courier it would make INBOX too, which is there
        fresh: near.join(match rig.kind {
            Kind::Courier => rig.folder(&["Work"]),
            Kind::Dovecot | Kind::Cyrus => rig.folder(&["Fresh"]),
        }),
        near,
        run: Box::new(move || drop(way.run("offlineimap", &["-o", "-u", "quiet", "-c", &rc]))),
    };
    sync.work()
}

#[test]
fn offlineimap_before_dovecot() {
    Rig::before(Kind::Dovecot, Tls::Implicit, Tls::Start).same(offlineimap);
}

#[test]
fn offlineimap_before_cyrus() {
    Rig::before(Kind::Cyrus, Tls::None, Tls::Implicit).same(offlineimap);
}

#[test]
fn offlineimap_before_courier() {
    Rig::before(Kind::Courier, Tls::None, Tls::None).same(offlineimap);
}
