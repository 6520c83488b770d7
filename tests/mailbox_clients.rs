//! IMAP clients that nobody here wrote, each doing its whole work directly and through the proxy: what they hear, what they
//! hold and what is left in the account is the same both ways, message by message, and all that passed is in the vault.
//!
//! Each leg is plain, by STARTTLS and under TLS from the first byte, and every two of these are used by somebody, here or in
//! `mailbox_sync` and `mailbox_mutt`. Servers say other things to a client that has come to them by STARTTLS: where each
//! line is compared, ours has not.

use std::{collections::BTreeSet, fs};

use crate::{
    kit::{ImapClient, Mail, imap::quoted, mailbox::Kind},
    mailbox_rig::{Rig, Tls, Way, maildirs},
};

/// A script of `tests/mailbox`; what it saved and read whole it has put aside.
fn script(way: &Way, name: &str) -> Vec<String> {
    let aside = way.dir.join("passed");
    fs::create_dir(&aside).expect("a directory");
    let (ca, dir) = (way.ca.display().to_string(), aside.display().to_string());
    let said = way.script(name, &[&way.user.0, &way.user.1, way.tls.name(), &ca, &dir]);
    for entry in fs::read_dir(aside).expect("a directory") {
        let message = fs::read(entry.expect("an entry").path());
        way.passes(&message.expect("a message"));
    }
    said.lines().map(str::to_owned).collect()
}

fn imaplib(_: &Rig, way: &Way) -> Vec<String> {
    script(way, "imap_imaplib.py")
}

#[test]
fn imaplib_before_dovecot() {
    Rig::before(Kind::Dovecot, Tls::Start, Tls::None).same_from_nothing(imaplib);
}

#[test]
fn imaplib_before_cyrus() {
    Rig::before(Kind::Cyrus, Tls::Implicit, Tls::Implicit).same_from_nothing(imaplib);
}

#[test]
fn imaplib_before_courier() {
    Rig::before(Kind::Courier, Tls::None, Tls::None).same_from_nothing(imaplib);
}

fn imapclient(_: &Rig, way: &Way) -> Vec<String> {
    script(way, "imap_imapclient.py")
}

#[test]
fn imapclient_before_dovecot() {
    Rig::before(Kind::Dovecot, Tls::Implicit, Tls::Implicit).same_from_nothing(imapclient);
}

#[test]
fn imapclient_before_cyrus() {
    Rig::before(Kind::Cyrus, Tls::Implicit, Tls::Implicit).same_from_nothing(imapclient);
}

#[test]
fn imapclient_before_courier() {
    Rig::before(Kind::Courier, Tls::None, Tls::None).same_from_nothing(imapclient);
}

/// curl says one command for each URL, many of them in one session: it lists, searches, reads whole and in parts, uploads,
/// and changes.
fn curl(rig: &Rig, way: &Way) -> Vec<String> {
    let login = format!("{}:{}", way.user.0, way.user.1);
    let ca = way.ca.display().to_string();
    let scheme = match way.tls {
        Tls::Implicit => "imaps",
        Tls::None | Tls::Start => "imap",
    };
    let mut options = vec!["-sS", "-m", "60", "-u", &login, "--cacert", &ca];
    if way.tls == Tls::Start {
        options.push("--ssl-reqd");
    }
    let all = |requests: &[(String, Vec<&str>)]| {
        let mut arguments = Vec::new();
        let urls: Vec<_> = requests
            .iter()
            .map(|(path, _)| format!("{scheme}://{}/{}", way.address, path.replace('&', "%26")))
            .collect();
        for (url, (_, more)) in urls.iter().zip(requests) {
            if !arguments.is_empty() {
                arguments.push("--next");
            }
            arguments.extend(&options);
            arguments.extend(more);
            arguments.push(url);
        }
        let said = way.run("curl", &arguments);
        said.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let ask = |path: &str| (path.to_owned(), Vec::new());
    let work = rig.folder(&["Work"]);
    let year = rig.folder(&["Work", "2015"]).replace('/', "%2F");
    let accented = rig.folder(&["Entw&APw-rfe"]);
    rig.all_passes(way);
    let mut said = all(&[
        ask(""),
        (String::new(), vec!["-X", "LSUB \"\" \"*\""]),
        ask("INBOX?ALL"),
        ask("INBOX?SUBJECT%20plain"),
        ask(&format!("{work}?UNSEEN")),
        ask("INBOX/;UID=[1-16]"),
        ask("INBOX/;MAILINDEX=[17-18]"),
        ask(&format!("{work}/;MAILINDEX=[1-2]")),
        ask(&format!("{year}/;MAILINDEX=[1-2]")),
        ask(&format!("{accented}/;MAILINDEX=[1-2]")),
        ask("INBOX/;UID=6/;SECTION=HEADER"),
        ask("INBOX/;UID=6/;SECTION=TEXT"),
        ask("INBOX/;UID=6/;SECTION=1.MIME"),
        ask("INBOX/;UID=8/;SECTION=HEADER.FIELDS%20(Subject)"),
    ]);
    if rig.kind != Kind::Courier {
        let mechanism = vec!["--login-options", "AUTH=PLAIN"];
        said.extend(all(&[("INBOX/;UID=1".to_owned(), mechanism)]));
    }

    let mails = [
        Mail::plain(500),
        Mail::sized(501, 3_000_000),
        Mail::varied(62, 3),
    ];
    let files = mails.iter().zip(0..).map(|(mail, serial)| {
        way.passes(&mail.bytes);
        let file = way.dir.join(format!("{serial}.eml"));
        fs::write(&file, &mail.bytes).expect("a file");
        file.display().to_string()
    });
    let files: Vec<_> = files.collect();
    let (more, renamed) = (rig.folder(&["More"]), rig.folder(&["Renamed"]));
    let commands = [
        ("INBOX", "FETCH 1:* (UID FLAGS RFC822.SIZE)".to_owned()),
        ("INBOX", "STORE 2 +FLAGS (\\Deleted)".to_owned()),
        ("INBOX", "EXPUNGE".to_owned()),
        ("INBOX", format!("UID COPY 4:5 \"{work}\"")),
        ("", format!("CREATE \"{more}\"")),
        ("", format!("RENAME \"{more}\" \"{renamed}\"")),
        ("", format!("STATUS \"{renamed}\" (MESSAGES)")),
        ("", format!("DELETE \"{renamed}\"")),
        ("", "NOOP".to_owned()),
    ];
    let uploads = files
        .iter()
        .map(|file| (work.clone(), vec!["-T", file.as_str()]));
    let changes = commands
        .iter()
        .map(|(path, command)| ((*path).to_owned(), vec!["-X", command.as_str()]));
    said.extend(all(&uploads.chain(changes).collect::<Vec<_>>()));
    said
}

#[test]
fn curl_before_dovecot() {
    Rig::before(Kind::Dovecot, Tls::Implicit, Tls::None).same(curl);
}

#[test]
fn curl_before_cyrus() {
    Rig::before(Kind::Cyrus, Tls::Start, Tls::Start).same(curl);
}

#[test]
fn curl_before_courier() {
    Rig::before(Kind::Courier, Tls::None, Tls::None).same(curl);
}

/// All that is in INBOX and Work is going to be read.
fn two_folders_pass(rig: &Rig, way: &Way) {
    let account = rig.server.account(&way.user);
    let folders = ["INBOX".to_owned(), rig.folder(&["Work"])];
    for message in folders.iter().flat_map(|folder| &account[folder]) {
        way.passes(&message.bytes);
    }
}

/// It takes all of two folders and leaves it there; finds nothing new; then takes all again and deletes it.
fn getmail(rig: &Rig, way: &Way) -> Vec<BTreeSet<String>> {
    let dir = way.dir.path().display().to_string();
    let store = way.dir.join("mail");
    for part in ["cur", "new", "tmp"] {
        fs::create_dir_all(store.join(part)).expect("a Maildir");
    }
    let retriever = match way.tls {
        Tls::Implicit => "SimpleIMAPSSLRetriever",
        Tls::None | Tls::Start => "SimpleIMAPRetriever",
    };
    let work = rig.folder(&["Work"]);
    let rc = |name: &str, delete: bool| {
        let text = format!(
            "[retriever]\ntype = {retriever}\nserver = {}\nport = {}\nusername = {}\npassword = {}\ntimeout = 5\n\
             mailboxes = (\"INBOX\", \"{work}\")\n\n\
             [destination]\ntype = Maildir\npath = {dir}/mail/\n\n[options]\nread_all = {delete}\ndelete = {delete}\n\
             delivered_to = false\nreceived = false\nverbose = 0\n",
            way.host(),
            way.port(),
            way.user.0,
            way.user.1
        );
        way.write(name, &text).display().to_string()
    };
    let (keep, take) = (rc("keep", false), rc("take", true));
    // it refuses to deliver as root
    way.run("chown", &["-R", "65534:65534", &dir]);
    two_folders_pass(rig, way);
    let run = |rc: &str| {
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        // it may wait in vain for a delivery that was done too soon
        let getmail = format!("getmail -q --getmaildir {dir} --rcfile {rc}");
        let again = format!("{getmail} || {getmail} || {getmail}");
        way.run("setpriv", &[&nobody[..], &["sh", "-c", &again]].concat());
        let held = maildirs(&store).into_values().flatten();
        // then there are two of it
        let messages = held.map(|(_, bytes)| bytes.escape_ascii().to_string());
        messages.collect::<BTreeSet<_>>()
    };
    vec![run(&keep), run(&keep), run(&take)]
}

#[test]
fn getmail_before_dovecot() {
    Rig::before(Kind::Dovecot, Tls::Implicit, Tls::None).same(getmail);
}

#[test]
fn getmail_before_cyrus() {
    Rig::before(Kind::Cyrus, Tls::None, Tls::Start).same(getmail);
}

#[test]
fn getmail_before_courier() {
    Rig::before(Kind::Courier, Tls::None, Tls::None).same(getmail);
}

/// What is in INBOX and Work, as the server shows header and text by themselves: Courier ends some with a line end of its own.
fn in_parts(rig: &Rig, way: &Way) -> Vec<Vec<u8>> {
    let mut client = ImapClient::logged_in(rig.server.imap(), &way.user);
    let mut messages = Vec::new();
    for folder in ["INBOX".to_owned(), rig.folder(&["Work"])] {
        let count = rig.server.account(&way.user)[&folder].len();
        client.ok(&format!("EXAMINE {}", quoted(&folder)));
        let mut part = |number: usize, name: &str| {
            let shown = client
                .ok(&format!("FETCH {number} ({name})"))
                .untagged
                .concat();
            // a literal, or a string of nothing
            let Some(at) = memchr::memmem::find(&shown, b"}\r\n") else {
                return Vec::new();
            };
            shown[at + 3..]
                .strip_suffix(b")")
                .expect("its end")
                .to_vec()
        };
        for number in 1..=count {
            let (header, text) = (part(number, "RFC822.HEADER"), part(number, "RFC822.TEXT"));
            messages.push([header, text].concat());
        }
    }
    messages
}

/// It takes all of two folders, header and text by themselves, and deletes it.
fn fetchmail(rig: &Rig, way: &Way) -> Vec<String> {
    for message in in_parts(rig, way) {
        way.passes(&message);
    }
    let mbox = way.dir.join("mbox");
    let secured = match way.tls {
        Tls::None => "sslproto \"\"".to_owned(),
        Tls::Start => format!("sslproto TLS1.2+ sslcertck sslcertfile {:?}", way.ca),
        Tls::Implicit => format!("ssl sslcertck sslcertfile {:?}", way.ca),
    };
    // the name in the certificate
    let text = format!(
        "set no bouncemail\npoll localhost protocol IMAP port {}:\n user \"{}\" password \"{}\" is root here\n \
         folder INBOX, {:?} fetchall nokeep norewrite {secured} mda \"cat >> {}\"\n",
        way.port(),
        way.user.0,
        way.user.1,
        rig.folder(&["Work"]),
        mbox.display()
    );
    let rc = way.write("fetchmailrc", &text).display().to_string();
    let pid = way.dir.join("pid").display().to_string();
    let options = ["--invisible", "--nosyslog", "--pidfile", &pid, "-f", &rc];
    way.run("fetchmail", &options);
    let delivered = fs::read(mbox).expect("it delivered");
    // to mail without a header it writes one, which names the account
    let delivered = String::from_utf8_lossy(&delivered).replace(&way.user.0, "USER");
    delivered.lines().map(str::to_owned).collect()
}

#[test]
fn fetchmail_before_dovecot() {
    Rig::before(Kind::Dovecot, Tls::Start, Tls::None).same(fetchmail);
}

#[test]
fn fetchmail_before_cyrus() {
    Rig::before(Kind::Cyrus, Tls::Implicit, Tls::Start).same(fetchmail);
}

#[test]
fn fetchmail_before_courier() {
    Rig::before(Kind::Courier, Tls::None, Tls::None).same(fetchmail);
}
