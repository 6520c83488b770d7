//! TLS on both legs of an IMAP session: each combination, certificates that do not verify, commands and answers that
//! somebody put before TLS, certificates that a reload brings. POP3's are in `mailbox_pop3`.

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    kit::{
        ImapClient, Mail, MailServer, Mailtee, TestDir, daemon::Setting, mailbox::Kind, wait_until,
    },
    mailbox_imap::{archive, before},
    mailbox_stuck::{errors, scripted},
};

const SOON: Duration = Duration::from_secs(30);

/// A certificate for `localhost`, signed by itself, and its key.
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    key: PathBuf,
    _dir: TestDir,
}

impl Certificate {
    pub(crate) fn of(name: &str) -> Self {
        let dir = TestDir::new();
        let this = Self {
            certificate: dir.join("certificate.pem"),
            key: dir.join("key.pem"),
            _dir: dir,
        };
        this.renew(name);
        this
    }

    /// Another one in its place.
    fn renew(&self, name: &str) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        fs::write(&self.certificate, made.cert.pem()).expect("a file");
        fs::write(&self.key, made.signing_key.serialize_pem()).expect("a file");
    }
}

fn quoted(path: &Path) -> String {
    format!("{path:?}")
}

/// With this kind of TLS for clients; none where it is empty.
pub(crate) fn for_clients(setting: Setting, tls: &str, own: &Certificate) -> Setting {
    match tls {
        "" => setting,
        _ => setting
            .option("tls", format!("{tls:?}"))
            .option("certificate", quoted(&own.certificate))
            .option("key", quoted(&own.key)),
    }
}

/// With this kind of TLS to a server whose certificate is for this name, by that authority.
pub(crate) fn to_server(setting: Setting, tls: &str, name: &str, ca: &Path) -> Setting {
    match tls {
        "" => setting,
        _ => setting
            .option("upstream_tls", format!("{tls:?}"))
            .option("upstream_tls_name", format!("{name:?}"))
            .option("upstream_ca_file", quoted(ca)),
    }
}

/// A session with this kind of TLS, up to where a client may log in.
fn secured(front: SocketAddr, tls: &str, ca: &Path) -> ImapClient {
    match tls {
        "" => ImapClient::connect(front).expect("it greets").0,
        "implicit" => ImapClient::connect_tls(front, ca).expect("it greets").0,
        _ => {
            let (client, greeting) = ImapClient::connect(front).expect("it greets");
            assert!(greeting.contains("STARTTLS"), "{greeting}");
            let (mut client, answer) = client.start_tls(ca).expect("a handshake");
            assert!(answer.is_ok(), "{}", answer.tagged);
            let offered = client.ok("CAPABILITY").text();
            assert!(!offered.contains("STARTTLS"), "{offered}");
            client
        }
    }
}

#[test]
fn each_kind_of_tls_on_either_leg() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let own = Certificate::of("localhost");
    let (user, mut serial) = (server.user(1), 0);
    for upstream in ["", "starttls", "implicit"] {
        let address = match upstream {
            "implicit" => server.imaps(),
            _ => server.imap(),
        };
        for front in ["", "starttls", "implicit"] {
            let setting = for_clients(before("imap", address), front, &own);
            let mailtee = to_server(setting, upstream, "localhost", &server.ca()).start();
            let mut client = secured(mailtee.frontend, front, &own.certificate);
            client.login(&user);
            serial += 1;
            let message = Mail::sized(serial, 100_000).bytes;
            let answer = client.append("INBOX", "", &message).expect("an answer");
            assert!(answer.is_ok(), "{}", answer.tagged);
            client.ok("SELECT INBOX");
            let shown = client.these(&serial.to_string()).expect("it shows it");
            assert!(shown.len() == 1 && shown[0].bytes == message);
            archive(&mailtee).one_with(&message, "what was saved");

            let log = wait_until(SOON, "Dovecot logs the login", || {
                let log = server.peer.file("log/dovecot-info.log");
                let logins: Vec<_> = log
                    .lines()
                    .filter(|line| line.contains("Login: "))
                    .collect();
                (logins.len() as u64 == serial).then(|| logins.last().map(|l| l.to_string()))
            });
            let has_tls = log.as_ref().is_some_and(|log| log.contains(", TLS,"));
            assert_eq!(
                has_tls,
                !upstream.is_empty(),
                "{front:?}, {upstream:?}: {log:?}"
            );
        }
    }
}

#[test]
fn a_server_whose_certificate_does_not_verify_is_refused() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let stranger = Certificate::of("localhost");
    for (tls, address) in [("starttls", server.imap()), ("implicit", server.imaps())] {
        for (name, ca, is_good) in [
            ("localhost", server.ca(), true),
            ("localhost", stranger.certificate.clone(), false),
            ("another.example", server.ca(), false),
        ] {
            let mailtee = to_server(before("imap", address), tls, name, &ca).start();
            let (mut client, greeting) = ImapClient::connect(mailtee.frontend).expect("it speaks");
            if is_good {
                client.login(&server.user(1));
                continue;
            }
            assert!(greeting.starts_with("* BYE [UNAVAILABLE]"), "{greeting}");
            assert!(client.rest().expect("the end").is_empty());
            assert_eq!(errors(&mailtee, "upstream_refused"), 1.0);
        }
    }
}

/// A server that offers no TLS where it is wanted, or is done with logins before it could, gets no session.
#[test]
fn no_session_without_the_tls_that_is_wanted() {
    let own = Certificate::of("localhost");
    for said in [
        "* OK [CAPABILITY IMAP4rev1] ready\r\n",
        "* PREAUTH ready\r\n",
        "* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\nmailtee NO not now\r\n",
    ] {
        let server = scripted(move |mut stream| {
            let _ = stream.write_all(said.as_bytes());
            let _ = stream.write_all(b"mailtee OK done\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let setting = before("imap", server);
        let mailtee = to_server(setting, "starttls", "localhost", &own.certificate).start();
        let (mut client, bye) = ImapClient::connect(mailtee.frontend).expect("a last word");
        assert!(bye.starts_with("* BYE [UNAVAILABLE]"), "{said:?}: {bye}");
        assert!(client.rest().expect("the end").is_empty());
    }
}

/// What a client says in clear behind STARTTLS somebody else may have said: it is heard neither by the server nor within TLS.
#[test]
fn nothing_said_in_clear_is_heard_within_tls() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let own = Certificate::of("localhost");
    let mailtee = for_clients(before("imap", server.imap()), "starttls", &own).start();
    for injected in [
        "b LOGIN evil evil\r\n",
        "b NOOP\r\nc CAPABILITY\r\n",
        "b LIST \"\" {5}\r\n",
    ] {
        let (mut client, _) = ImapClient::connect(mailtee.frontend).expect("it greets");
        let said = format!("a STARTTLS\r\n{injected}");
        client.send(said.as_bytes()).expect("it listens");
        let answer = client.finish("a").expect("an answer");
        assert!(answer.is_ok() && answer.untagged.is_empty(), "{answer:?}");
        let mut client = client.into_tls(&own.certificate).expect("a handshake");
        let answer = client.ok("CAPABILITY");
        assert_eq!(answer.untagged.len(), 1, "{injected}: {answer:?}");
        client.login(&server.user(1));
        let answer = client.ok("LOGOUT");
        assert_eq!(answer.untagged.len(), 1, "{injected}: {answer:?}");
        assert!(client.rest().expect("the end").is_empty());
    }
    let log = server.peer.file("log/dovecot-info.log");
    assert!(!log.contains("evil"), "{log}");
}

/// A server whose answer to STARTTLS somebody has added to: there is no session with it, and it hears no more of us.
#[test]
fn nothing_that_a_server_says_in_clear_is_taken_as_secured() {
    for answer in [
        "mailtee OK go on\r\n* PREAUTH injected\r\n",
        "mailtee OK go on\r\nm",
        "mailtee OK go on\r\nmailtee OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] injected\r\n",
    ] {
        let heard = Arc::new(Mutex::new(None));
        let keeps = heard.clone();
        let server = scripted(move |mut stream| {
            let mut line = [0; 256];
            let _ = stream.write_all(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n");
            let count = stream.read(&mut line).unwrap_or_default();
            assert_eq!(&line[..count], b"mailtee STARTTLS\r\n");
            let _ = stream.write_all(answer.as_bytes());
            let mut rest = Vec::new();
            // a reset is an end too
            let _ = stream.read_to_end(&mut rest);
            *keeps.lock().expect("never poisoned") = Some(rest);
        });
        let own = Certificate::of("localhost");
        let setting = before("imap", server);
        let mailtee = to_server(setting, "starttls", "localhost", &own.certificate).start();
        let (mut client, bye) = ImapClient::connect(mailtee.frontend).expect("a last word");
        assert!(bye.starts_with("* BYE [UNAVAILABLE]"), "{bye}");
        assert!(client.rest().expect("the end").is_empty());
        let rest = wait_until(SOON, "the server has heard all", || {
            heard.lock().expect("never poisoned").take()
        });
        assert!(rest.is_empty(), "{}", rest.escape_ascii());
        assert_eq!(errors(&mailtee, "upstream_refused"), 1.0);
    }
}

#[test]
fn a_reload_brings_the_new_certificate_and_ends_no_session() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let (own, trusted) = (Certificate::of("localhost"), Certificate::of("other"));
    fs::copy(server.ca(), &trusted.certificate).expect("an authority");
    let setting = for_clients(before("imap", server.imap()), "starttls", &own);
    let mailtee = to_server(setting, "starttls", "localhost", &trusted.certificate).start();
    let user = server.user(1);
    let mut session = secured(mailtee.frontend, "starttls", &own.certificate);
    session.login(&user);

    let old = TestDir::new();
    let old = old.join("old.pem");
    fs::copy(&own.certificate, &old).expect("a file");
    own.renew("localhost");
    reload(&mailtee);
    secured(mailtee.frontend, "starttls", &own.certificate).login(&user);
    let (client, _) = ImapClient::connect(mailtee.frontend).expect("it greets");
    let refused = client
        .start_tls(&old)
        .and_then(|(mut client, _)| client.command("NOOP"));
    assert!(refused.is_err(), "the old certificate is shown no more");
    session.ok("SELECT INBOX");

    // and whom we trust behind us
    trusted.renew("localhost");
    reload(&mailtee);
    let (_, bye) = ImapClient::connect(mailtee.frontend).expect("a last word");
    assert!(bye.starts_with("* BYE [UNAVAILABLE]"), "{bye}");
    session.ok("NOOP");
}

fn reload(mailtee: &Mailtee) {
    let applied = || {
        let metrics = mailtee.metrics();
        let applied = metrics.find("config_reloads_total", &[("result", "applied")]);
        applied.unwrap_or_default()
    };
    let before = applied();
    mailtee.signal(Signal::HUP);
    wait_until(SOON, "it is applied", || (applied() > before).then_some(()));
}
