//! Every capability that a mailbox server announces, used: each dialogue in `tests/cases/imap_extensions/` is held with one
//! account directly and with another through mailtee. The same is heard, the same lies in both accounts afterwards, and
//! what passed whole is in the vault, once.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    interop_smtp::python,
    kit::{
        ImapClient, MailServer, Mailtee,
        mailbox::{Kind, comparable},
        wait_until,
    },
    mailbox_dialogue::{Dialogue, REMOVED, Way, settled},
    mailbox_imap::before,
};

/// Used by a test of their own: there it is the end of the watch.
const ELSEWHERE: [&str; 1] = ["X-REPLICATION"];

/// What Dovecot can do if it is told to.
const DOVECOT: &str = "\
mail_attribute_dict = file:%h/attributes
mail_plugins = quota acl
protocol imap {
  mail_plugins = quota acl imap_quota imap_acl imap_zlib
  imap_metadata = yes
  imap_urlauth_host = mail.mailtee.test
}
plugin {
  quota = count:User quota
  quota_vsizes = yes
  quota_rule = *:storage=1G
  acl = vfile
}
service imap-urlauth-login {
}
";

fn server(kind: Kind) -> MailServer {
    let setting = kind.with_users(2);
    let setting = match kind {
        Kind::Dovecot => setting.env("EXTRA_CONF", DOVECOT),
        Kind::Cyrus => setting,
        Kind::Courier => setting.env(
            "EXTRA_ENV",
            // It adds what it can do with UTF-8 and ACLs.
            "IMAP_CAPABILITY=\"IMAP4rev1 UIDPLUS NAMESPACE\"",
        ),
    };
    MailServer::over(kind, setting)
}

/// What is announced after the login.
fn announced(way: &Way) -> BTreeSet<String> {
    let mut client = ImapClient::logged_in(way.address, &way.user);
    let answer = client.ok("CAPABILITY").text();
    let list = answer.strip_prefix("* CAPABILITY ").expect("a list");
    list.split(' ').map(str::to_owned).collect()
}

fn without_removed(text: &str) -> String {
    let removed = |word: &&str| !REMOVED.contains(word);
    let words: Vec<_> = text.split(' ').filter(removed).collect();
    words.join(" ")
}

fn uses(dialogue: &Dialogue, announced: &BTreeSet<String>) -> bool {
    dialogue.uses.iter().all(|used| announced.contains(used))
}

#[track_caller]
fn every_capability(kind: Kind) {
    let server = server(kind);
    let mailtee = before("imap", server.imap()).start();
    let (prefix, separator) = match kind {
        Kind::Dovecot | Kind::Cyrus => ("", "/"),
        Kind::Courier => ("INBOX.", "."),
    };
    let way = |number, address| Way {
        address,
        user: server.user(number),
        prefix,
        separator,
    };
    let direct = way(1, server.imap());
    let through = way(2, mailtee.frontend);

    let greeted = [&direct, &through].map(|way| {
        let (_, greeting) = ImapClient::connect(way.address).expect("it greets");
        without_removed(&greeting)
    });
    assert_eq!(greeted[0], greeted[1], "before the login");
    let offered = announced(&direct);
    let removed = REMOVED.map(str::to_owned).into();
    let expected: BTreeSet<_> = offered.difference(&removed).cloned().collect();
    assert_eq!(announced(&through), expected, "of {offered:?}");

    let mut dialogues = Dialogue::all();
    dialogues.retain(|dialogue| uses(dialogue, &offered));
    let mut used: BTreeSet<_> = dialogues.iter().flat_map(|d| d.uses.clone()).collect();
    used.extend(ELSEWHERE.map(str::to_owned));
    let unused: Vec<_> = expected.difference(&used).collect();
    assert!(unused.is_empty(), "no dialogue is written for {unused:?}");

    if kind == Kind::Courier {
        // A login takes it a second: the others have done the rest.
        let its_own =
            |used: &String| ["IMAP4rev1", "UTF8=ACCEPT", "ACL2=UNION"].contains(&used.as_str());
        dialogues.retain(|dialogue| dialogue.uses.iter().any(its_own));
    }
    for way in [&direct, &through] {
        Dialogue::prepare(&dialogues, way);
    }
    let mut failed = Vec::new();
    for dialogue in &dialogues {
        let held = catch_unwind(AssertUnwindSafe(|| {
            let heard = dialogue.hold(&direct);
            let heard_through = dialogue.hold(&through);
            for (direct, through) in heard.iter().zip(&heard_through) {
                assert_eq!(direct, through);
            }
            assert_eq!(heard.len(), heard_through.len());
        }));
        if held.is_err() {
            eprintln!("--- that was {}\n", dialogue.name);
            failed.push(&dialogue.name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
    let (one, other) = (server.account(&direct.user), server.account(&through.user));
    assert!(
        comparable(&one) == comparable(&other),
        "the accounts differ"
    );
    assert_copied(&mailtee, &dialogues);
}

/// The vault has what the dialogues showed, each once, and nothing else. What was read has its copy a moment later.
#[track_caller]
fn assert_copied(mailtee: &Mailtee, dialogues: &[Dialogue]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let wrong = wait_until(Duration::from_secs(90), "the copies are looked at", || {
        mailtee.wait_until_forwarded(Duration::from_secs(60));
        let wrong = not_as_shown(mailtee, dialogues);
        (wrong.is_empty() || Instant::now() > deadline).then_some(wrong)
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(lost(mailtee), Vec::<String>::new());
}

fn not_as_shown(mailtee: &Mailtee, dialogues: &[Dialogue]) -> Vec<String> {
    let mut copies = BTreeMap::<Vec<u8>, usize>::new();
    for stored in mailtee.vault().all() {
        *copies.entry(stored.bytes).or_default() += 1;
    }
    let text = |bytes: &[u8]| bytes[..bytes.len().min(600)].escape_ascii().to_string();
    let mut wrong = Vec::new();
    for dialogue in dialogues {
        for message in &dialogue.copied {
            match copies.remove(message) {
                Some(1) => {}
                times => wrong.push(format!("{}: {times:?} of {}", dialogue.name, text(message))),
            }
        }
    }
    let strange = copies.keys().map(|copy| format!("strange: {}", text(copy)));
    wrong.extend(strange);
    wrong
}

/// Series of watchers that lost track.
fn lost(mailtee: &Mailtee) -> Vec<String> {
    let metrics = mailtee.metrics().0;
    let lost = metrics
        .lines()
        .filter(|line| line.starts_with("mailtee_watcher_lost_total{") && !line.ends_with(" 0"));
    lost.map(str::to_owned).collect()
}

#[test]
fn every_capability_of_dovecot() {
    every_capability(Kind::Dovecot);
}

#[test]
fn every_capability_of_cyrus() {
    every_capability(Kind::Cyrus);
}

#[test]
fn every_capability_of_courier() {
    every_capability(Kind::Courier);
}

/// It is not announced through us. Whoever asks for it all the same has it, and is not watched from there on.
#[track_caller]
fn compress(kind: Kind) {
    let server = server(kind);
    let mailtee = before("imap", server.imap()).start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mailbox/imap_compress.py");
    let work = |number, address: SocketAddr| {
        let (user, password) = server.user(number);
        let said = Command::new(python())
            .arg(&script)
            .args([address.ip().to_string(), address.port().to_string()])
            .args([user, password])
            .output()
            .expect("python");
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(
            said.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&said.stderr)
        );
        without_removed(&text)
    };
    assert_eq!(work(1, server.imap()), work(2, mailtee.frontend));
    let lost = lost(&mailtee);
    assert!(
        lost.len() == 1 && lost[0].contains("reason=\"compress\"}"),
        "{lost:?}"
    );
    mailtee.wait_until_forwarded(Duration::from_secs(60));
    assert!(
        mailtee.vault().all().is_empty(),
        "what is it that was copied?"
    );
}

#[test]
fn a_compressed_session_with_dovecot_goes_on_unwatched() {
    compress(Kind::Dovecot);
}

#[test]
fn a_compressed_session_with_cyrus_goes_on_unwatched() {
    compress(Kind::Cyrus);
}

/// What was heard of one raw session, up to the end of the connection.
fn raw(address: SocketAddr, said: &[u8]) -> String {
    let (mut client, _) = ImapClient::connect(address).expect("it greets");
    client.send(said).expect("it listens");
    let heard = client.rest().expect("it ends");
    without_removed(&settled(&String::from_utf8_lossy(&heard)))
}

/// Dovecot knows no literals in a command that it does not know: what the client means as content is commands to it.
#[test]
fn content_that_the_server_takes_for_commands_ends_the_watch_and_makes_no_copy() {
    let server = server(Kind::Dovecot);
    let mailtee = before("imap", server.imap()).start();
    let session = |number, address| {
        let (user, password) = server.user(number);
        let content = "x APPEND INBOX {5+}\r\nhello\r\ny SELECT INBOX\r\n";
        let said = format!(
            "a LOGIN {user} {password}\r\nb NO-SUCH-COMMAND {{{}+}}\r\n{content}\r\nc APPEND INBOX {{4+}}\r\nmail\r\n\
             d FETCH 1:2 BODY.PEEK[]\r\ne LOGOUT\r\n",
            content.len()
        );
        raw(address, said.as_bytes())
    };
    let heard = session(2, mailtee.frontend);
    assert_eq!(session(1, server.imap()), heard);
    assert!(heard.contains("\r\nx OK [APPENDUID"), "{heard}");
    let lost = lost(&mailtee);
    assert!(
        lost.len() == 1 && lost[0].contains("reason=\"reply\"}"),
        "{lost:?}"
    );
    mailtee.wait_until_forwarded(Duration::from_secs(60));
    assert!(mailtee.vault().all().is_empty());
}

/// Cyrus's replicas are fed over IMAP, with literals of another form: `%{default GUID 123}`, sent at once.
#[test]
fn a_replication_is_not_watched() {
    let server = server(Kind::Cyrus);
    let mailtee = before("imap", server.imap()).start();
    let content =
        "Subject: x\r\n\r\nb OK\r\nc STARTTLS\r\nd LOGIN a b\r\ne APPEND INBOX {4+}\r\nmail\r\n";
    let said = format!(
        "a LOGIN cyrus cyrus\r\nb SYNCAPPLY MESSAGE (%{{default {} {}}}\r\n{content})\r\ne NOOP\r\nf SYNCGET USER user0001\r\n\
         g SYNCRESTART\r\nh LOGOUT\r\n",
        sha1(content),
        content.len()
    );
    let heard = raw(server.imap(), said.as_bytes());
    assert!(
        heard.contains("\r\nb OK") && heard.contains("* MAILBOX %("),
        "{heard}"
    );
    assert_eq!(raw(mailtee.frontend, said.as_bytes()), heard);
    let lost = lost(&mailtee);
    assert!(
        lost.len() == 1 && lost[0].contains("reason=\"replication\"}"),
        "{lost:?}"
    );
    mailtee.wait_until_forwarded(Duration::from_secs(60));
    assert!(mailtee.vault().all().is_empty());
}

/// SHA-1 in hexadecimal, by the tool that every system has.
fn sha1(text: &str) -> String {
    let mut child = Command::new("sha1sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha1sum");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    let said = child.wait_with_output().expect("it ends").stdout;
    String::from_utf8_lossy(&said[..40]).into_owned()
}
