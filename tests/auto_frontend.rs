//! Front ends with protocol "auto" before real servers: what they open as, what they do while a server is not there, and
//! what an operator is shown of it.

use std::{
    fs,
    io::{BufRead, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::Duration,
};

use mailtee::net::{ClientAuthority, IdentityFiles, ServerTls, install_provider};
use serde_json::{Value, json};

use crate::{
    kit::{
        ImapClient, Mail, MailServer, Mailtee, Peer, Sink, SmtpClient, TestDir, daemon::Setting,
        free_port, http, mailbox::Kind, wait_until,
    },
    mailbox_imap::{archive, before},
};

pub(crate) const SOON: Duration = Duration::from_secs(60);

/// mailtee before a server that is to be identified; whom it trusts.
pub(crate) fn auto(upstream: impl ToString, ca: &Path) -> Setting {
    before("auto", upstream).option("upstream_ca_file", format!("{ca:?}"))
}

pub(crate) fn dovecot(extra: &str) -> MailServer {
    let setting = Kind::Dovecot.with_users(2).env("EXTRA_CONF", extra);
    MailServer::over(Kind::Dovecot, setting)
}

pub(crate) fn ca(peer: &Peer) -> &Path {
    Path::new(peer.var("CA"))
}

/// The first front end, as the API shows it.
fn standing(mailtee: &Mailtee) -> Value {
    let token = fs::read_to_string(mailtee.data_dir().join("admin.token")).expect("a token");
    let mut stream = TcpStream::connect(mailtee.admin).expect("the admin page");
    let request = format!(
        "GET /api/frontends HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n",
        mailtee.admin,
        token.trim()
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
    body["frontends"][0].clone()
}

/// Waits until the front end stands so, and gives what is noted.
#[track_caller]
pub(crate) fn wait_for(mailtee: &Mailtee, accepting: bool, kind: &str, note: &str) -> String {
    let mut last = Value::Null;
    let what = format!("accepting: {accepting}, {kind}, {note}");
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_until(SOON, &what, || {
            last = standing(mailtee);
            let shown = last["note"].as_str().unwrap_or_default();
            let fits = last["accepting"] == json!(accepting)
                && last["kind"] == json!(kind)
                && shown.contains(note)
                && note.is_empty() == shown.is_empty();
            fits.then(|| shown.to_owned())
        })
    }));
    found.unwrap_or_else(|_| panic!("{what}: {last}\n{}", mailtee.log()))
}

/// What a client hears first, however it is said.
pub(crate) fn greeting(address: SocketAddr) -> Option<String> {
    let stream = TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    Some(line)
}

#[track_caller]
pub(crate) fn wait_for_greeting(mailtee: &Mailtee, start: &str) {
    wait_until(SOON, start, || {
        let heard = greeting(mailtee.frontend)?;
        heard.starts_with(start).then_some(())
    });
}

/// It answers the admin page, ready or not.
fn spawned(setting: Setting) -> Mailtee {
    let mut mailtee = setting.prepare();
    spawn(&mut mailtee);
    mailtee
}

pub(crate) fn spawn(mailtee: &mut Mailtee) {
    mailtee.spawn();
    wait_until(SOON, "the admin page answers", || {
        http::get(mailtee.admin, "/healthz")
    });
}

pub(crate) fn readiness(mailtee: &Mailtee) -> (u16, String) {
    http::get(mailtee.admin, "/readyz").expect("an answer")
}

pub(crate) fn accepting(mailtee: &Mailtee) -> f64 {
    let labels = [("frontend", "front")];
    mailtee.metrics().value("frontend_accepting", &labels)
}

/// One message saved, and its copy.
pub(crate) fn save_one(mailtee: &Mailtee, client: &mut ImapClient, serial: u64) {
    let message = Mail::varied(5, serial).bytes;
    let answer = client.append("INBOX", "", &message).expect("it answers");
    assert!(answer.is_ok(), "{}", answer.tagged);
    assert!(archive(mailtee).one_with(&message, "saved").bytes == message);
}

pub(crate) fn remembered(mailtee: &Mailtee) -> Value {
    let text = fs::read_to_string(mailtee.data_dir().join("identities.json")).expect("a file");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn before_imap_with_starttls_the_servers_leg_is_secured() {
    let server = dovecot("");
    let mailtee = auto(server.imap(), ca(&server.peer)).start();
    wait_for(&mailtee, true, "auto: imap, proxy, STARTTLS", "");
    let mut client = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    save_one(&mailtee, &mut client, 1);
    let log = server.peer.file("log/dovecot-info.log");
    let login = log
        .lines()
        .find(|line| line.contains("Login: user=<user0001"));
    assert!(login.is_some_and(|line| line.contains("TLS")), "{log}");
    assert_eq!(accepting(&mailtee), 1.0);
    let expected = json!({"front": {"upstream": server.imap().to_string(), "protocol": "imap", "tls": "starttls"}});
    assert_eq!(remembered(&mailtee), expected);
    let (_, page) = http::get(mailtee.admin, "/").expect("the status page");
    assert!(page.contains("auto: imap, proxy, STARTTLS"), "{page}");
}

#[test]
fn before_imap_with_implicit_tls() {
    let server = dovecot("");
    let mailtee = auto(server.imaps(), ca(&server.peer)).start();
    wait_for(&mailtee, true, "auto: imap, proxy, implicit TLS", "");
    let mut client = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    save_one(&mailtee, &mut client, 1);
}

#[test]
fn before_pop3() {
    let server = dovecot("");
    let user = server.user(1);
    let message = Mail::plain(1).bytes;
    let mut direct = ImapClient::logged_in(server.imap(), &user);
    assert!(direct.append("INBOX", "", &message).unwrap().is_ok());
    let mailtee = auto(server.pop3(), ca(&server.peer)).start();
    wait_for(&mailtee, true, "auto: pop3, proxy, STARTTLS", "");
    let mut stream = TcpStream::connect(mailtee.frontend).expect("connected");
    let commands = format!("USER {}\r\nPASS {}\r\nRETR 1\r\nQUIT\r\n", user.0, user.1);
    stream.write_all(commands.as_bytes()).expect("sent");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("all of it");
    let text = String::from_utf8_lossy(&said);
    assert!(memchr::memmem::find(&said, &message).is_some(), "{text}");
    archive(&mailtee).one_with(&message, "read");
}

#[test]
fn before_lmtp() {
    let server = dovecot("");
    let lmtp = server.peer.address("LMTP");
    let mailtee = auto(lmtp, ca(&server.peer)).start();
    wait_for(&mailtee, true, "auto: lmtp, proxy, STARTTLS", "");
    let (mut client, _) = SmtpClient::connect(mailtee.frontend).expect("it greets");
    assert_eq!(
        client.command("LHLO client.mailtee.test").unwrap().code,
        250
    );
    let mut mail = Mail::plain(1);
    mail.recipients = vec![server.user(1).0];
    assert_eq!(client.mail(&mail).expect("it answers").code, 250);
    let archive = archive(&mailtee);
    assert!(archive.one_with(&mail.bytes, "mail").bytes == mail.bytes);
    assert_eq!(server.account(&server.user(1))["INBOX"].len(), 1);
}

#[test]
fn before_smtp() {
    let sink = Sink::start();
    let postfix = Peer::set("postfix").env("NEXT_HOP", sink.address()).start();
    let mailtee = auto(postfix.var("SMTP"), ca(&postfix)).start();
    wait_for(&mailtee, true, "auto: smtp, proxy, STARTTLS", "");
    let mut client = SmtpClient::greeted(mailtee.frontend).expect("it greets");
    let mail = Mail::plain(1);
    assert_eq!(client.mail(&mail).expect("it answers").code, 250);
    let archive = archive(&mailtee);
    assert!(archive.one_with(&mail.bytes, "mail").bytes == mail.bytes);
    sink.wait_for(1);
}

#[test]
fn a_server_that_waits_for_a_proxy_header_is_sent_one() {
    let server = dovecot("");
    let upstream = server.peer.address("IMAP_HAPROXY");
    for version in ["\"proxy-v1\"", "\"proxy-v2\""] {
        let mailtee = auto(upstream, ca(&server.peer))
            .option("tell_upstream_client", version)
            .start();
        wait_for(&mailtee, true, "auto: imap, proxy, STARTTLS", "");
        let mut client = ImapClient::logged_in(mailtee.frontend, &server.user(1));
        save_one(&mailtee, &mut client, 1);
    }
}

#[test]
fn while_the_server_is_not_there_only_this_front_end_waits() {
    let mut server = dovecot("");
    let upstream = server.imap();
    let ca = ca(&server.peer).to_owned();
    server.peer.stop();
    let sink = Sink::start();
    let (other, silent_front) = (free_port(), free_port());
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = silent.local_addr().expect("its address");
    let more = |name: &str, keys: &str, port: u16, upstream: SocketAddr| {
        format!(
            "[[frontend]]\nname = {name:?}\n{keys}\nlisten = \"127.0.0.1:{port}\"\nupstream = \"{upstream}\"\n"
        )
    };
    let plain = more(
        "plain",
        "protocol = \"smtp\"\nrole = \"filter\"",
        other,
        sink.address(),
    );
    let silent = more("silent", "protocol = \"auto\"", silent_front, silent);
    let mailtee = auto(upstream, &ca).append(&plain).append(&silent).start();

    // The rest works, and says what does not.
    assert_eq!(readiness(&mailtee).0, 200);
    let mut client = SmtpClient::greeted(([127, 0, 0, 1], other).into()).expect("it greets");
    assert_eq!(client.mail(&Mail::plain(1)).expect("it answers").code, 250);
    let note = wait_for(&mailtee, false, "auto", "refused");
    assert!(note.contains("Connection refused"), "{note}");
    assert!(
        TcpStream::connect(mailtee.frontend).is_err(),
        "it does not listen"
    );
    let (_, page) = http::get(mailtee.admin, "/").expect("the status page");
    assert!(page.contains("a front end does not accept mail"), "{page}");
    assert!(page.contains("Connection refused"), "{page}");
    let metrics = mailtee.metrics();
    for (name, value) in [("front", 0.0), ("silent", 0.0), ("plain", 1.0)] {
        let labels = [("frontend", name)];
        assert_eq!(
            metrics.value("frontend_accepting", &labels),
            value,
            "{name}"
        );
        assert_eq!(
            metrics.value("sessions_total", &labels),
            if name == "plain" { 1.0 } else { 0.0 }
        );
    }
    assert!(
        metrics
            .find("watcher_lost_total", &[("frontend", "front")])
            .is_some()
    );
    let check = mailtee.command(&["check"]);
    let told = String::from_utf8_lossy(&check.stdout);
    assert_eq!(check.status.code(), Some(1), "{told}");
    assert!(told.contains("refused: Connection refused"), "{told}");

    server.peer.start_again();
    wait_for(&mailtee, true, "auto: imap, proxy, STARTTLS", "");
    let mut client = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    let message = Mail::plain(7).bytes;
    assert!(client.append("INBOX", "", &message).unwrap().is_ok());
    archive(&mailtee).one_with(&message, "saved");
    let check = mailtee.command(&["check"]);
    let told = String::from_utf8_lossy(&check.stdout);
    assert!(told.contains("finds imap with STARTTLS"), "{told}");
    let note = "passwords are refused to other hosts";
    assert!(told.contains(note), "as for any other: {told}");
    let log = mailtee.log();
    assert!(log.contains("identified"), "{log}");
}

#[test]
fn nothing_is_ready_while_no_front_end_accepts() {
    let mailtee = spawned(before("auto", format!("127.0.0.1:{}", free_port())));
    wait_for(&mailtee, false, "auto", "Connection refused");
    let (status, why) = readiness(&mailtee);
    assert_eq!(status, 503);
    assert!(
        why.starts_with("no front end accepts mail: front: refused: "),
        "{why}"
    );
    let (_, page) = http::get(mailtee.admin, "/").expect("the status page");
    assert!(page.contains("not accepting mail"), "{page}");
    let mut mailtee = mailtee;
    assert!(mailtee.terminate().success(), "it ends while it waits");
}

#[test]
fn a_certificate_that_does_not_verify_keeps_it_closed() {
    let server = dovecot("");
    let other = dovecot("");
    let mailtee = spawned(auto(server.imap(), ca(&other.peer)));
    let note = wait_for(&mailtee, false, "auto", "certificate does not verify");
    assert!(note.contains("upstream_ca_file"), "{note}");
    assert!(
        TcpStream::connect(mailtee.frontend).is_err(),
        "it does not listen"
    );
    drop(mailtee);
    let mailtee = auto(server.imap(), ca(&other.peer))
        .option("upstream_tls", "\"none\"")
        .start();
    let mut client = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    save_one(&mailtee, &mut client, 1);
}

#[test]
fn what_does_not_fit_the_protocol_found_is_told_when_it_is_found() {
    let server = dovecot("");
    let setting = || auto(server.pop3(), ca(&server.peer)).option("tell_upstream_client", "\"id\"");
    let mailtee = spawned(setting());
    let note = wait_for(&mailtee, false, "auto", "frontend.tell_upstream_client");
    assert!(
        note.contains("it speaks pop3 with STARTTLS: line "),
        "{note}"
    );
    let offline = mailtee.command(&["check", "--offline"]);
    assert!(
        offline.status.success(),
        "the server alone tells: {offline:?}"
    );
    let check = mailtee.command(&["check"]);
    let told = String::from_utf8_lossy(&check.stdout);
    assert!(told.contains("frontend.tell_upstream_client"), "{told}");

    let faulty = setting()
        .option("shoe_size", 47)
        .option("sessions_max", 0)
        .prepare();
    let check = faulty.command(&["check"]);
    assert_eq!(check.status.code(), Some(2));
    let told = String::from_utf8_lossy(&check.stderr);
    for fault in [
        "frontend.shoe_size: found a key that does not exist",
        "frontend.sessions_max: found 0, expected at least 1",
    ] {
        assert_eq!(told.matches(fault).count(), 1, "{told}");
    }
    assert!(!told.contains("frontend.tell_upstream_client"), "{told}");
}

/// POP3 with TLS from the start, for those alone who show a certificate.
fn pop3_for_known_clients(dir: &TestDir) -> SocketAddr {
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        fs::write(&path, text).expect("written");
        path
    };
    let make = |name: &str, usage| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters =
            rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
        parameters.extended_key_usages.push(usage);
        let certificate = parameters.self_signed(&key).expect("a certificate").pem();
        IdentityFiles {
            certificate: write(&format!("{name}.pem"), certificate),
            key: write(&format!("{name}.key"), key.serialize_pem()),
        }
    };
    let server = make("server", rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    let client = make("client", rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    let authority = ClientAuthority {
        ca_file: client.certificate,
        required: true,
    };
    install_provider();
    let tls = ServerTls::load(server, Some(authority), &[]).expect("an identity");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let config = tls.config();
            thread::spawn(move || {
                let connection = rustls::ServerConnection::new(config).expect("a session");
                let mut reader = BufReader::new(rustls::StreamOwned::new(connection, tcp));
                let mut line = String::from("greet me");
                while !line.is_empty() {
                    let answer = match line.trim_end() {
                        "greet me" | "QUIT" => "+OK\r\n",
                        "CAPA" => "+OK\r\nUSER\r\n.\r\n",
                        _ => "-ERR\r\n",
                    };
                    let sent = reader.get_mut().write_all(answer.as_bytes());
                    line.clear();
                    if sent.is_err() || reader.read_line(&mut line).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn a_server_that_wants_our_certificate_is_shown_it() {
    let dir = TestDir::new();
    let address = pop3_for_known_clients(&dir);
    let file = |name: &str| format!("{:?}", dir.join(name));
    let stranger = spawned(auto(address, &dir.join("server.pem")));
    wait_for(&stranger, false, "auto", "ertificate");
    let mailtee = auto(address, &dir.join("server.pem"))
        .option("upstream_certificate", file("client.pem"))
        .option("upstream_key", file("client.key"))
        .start();
    wait_for(&mailtee, true, "auto: pop3, proxy, implicit TLS", "");
    wait_for_greeting(&mailtee, "+OK");
}

#[test]
fn a_server_that_no_front_end_is_for_is_named() {
    let http = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = http.local_addr().expect("its address");
    thread::spawn(move || {
        for stream in http.incoming().flatten() {
            thread::spawn(move || {
                let mut request = String::new();
                let mut reader = BufReader::new(&stream);
                while reader.read_line(&mut request).is_ok_and(|count| count > 2) {}
                let _ = (&stream).write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
            });
        }
    });
    let mailtee = spawned(before("auto", address));
    wait_for(
        &mailtee,
        false,
        "auto",
        "it speaks http, and there is no front end for that",
    );
}
