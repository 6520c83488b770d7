//! The mail server behind a mailbox front end: it stops and comes back, it is not there, it is another one for this user;
//! and it learns who the client is.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    kit::{
        ImapClient, Mail, MailServer, Mailtee, Peer, TestDir, free_port, mailbox::Kind, wait_until,
    },
    mailbox_imap::{archive, before},
    mailbox_stuck::{errors, wait_until_all_ended},
};

const SOON: Duration = Duration::from_secs(30);
/// An address that is neither mailtee's nor the server's.
const CLIENT: [u8; 4] = [127, 0, 0, 3];

/// A second front end, for POP3.
fn pop3_beside(port: u16, upstream: SocketAddr) -> String {
    format!(
        "[[frontend]]\nname = \"pop3\"\nprotocol = \"pop3\"\nlisten = \"127.0.0.1:{port}\"\nupstream = \"{upstream}\"\n"
    )
}

fn pop3_login(address: SocketAddr, user: &(String, String)) -> ImapClient {
    let (mut client, greeting) = ImapClient::connect(address).expect("it greets");
    assert!(greeting.starts_with("+OK"), "{greeting}");
    for line in [format!("USER {}", user.0), format!("PASS {}", user.1)] {
        client
            .send(format!("{line}\r\n").as_bytes())
            .expect("it listens");
        let reply = client.line().expect("a reply");
        assert!(reply.starts_with(b"+OK"), "{}", reply.escape_ascii());
    }
    client
}

#[test]
fn a_server_that_stops_and_comes_back() {
    let mut server = MailServer::start(Kind::Dovecot, 1);
    let user = server.user(1);
    let pop3: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let mailtee = before("imap", server.imap())
        .append(&pop3_beside(pop3.port(), server.pop3()))
        .start();
    let (first, second) = (Mail::plain(1).bytes, Mail::plain(2).bytes);

    let idle = |address| {
        let mut client = ImapClient::logged_in(address, &user);
        client.ok("SELECT INBOX");
        client.begin(b"IDLE\r\n").expect("it listens");
        assert!(client.line().expect("leave").starts_with(b"+"));
        client
    };
    let mut sessions = [idle(server.imap()), idle(mailtee.frontend)];
    let mut selected = ImapClient::logged_in(mailtee.frontend, &user);
    assert!(
        selected
            .append("INBOX", "", &first)
            .expect("an answer")
            .is_ok()
    );
    selected.ok("SELECT INBOX");
    let mut saving = ImapClient::logged_in(mailtee.frontend, &user);
    saving
        .begin(b"APPEND INBOX {1000}\r\n")
        .expect("it listens");
    assert!(saving.line().expect("leave").starts_with(b"+"));
    saving.send(b"Subject: half").expect("it listens");
    let mut pop3_session = pop3_login(pop3, &user);

    server.peer.stop();
    // what had come in the meantime is news of the first message
    let last_words = sessions.each_mut().map(|client| {
        let rest = client.rest().expect("a clean end");
        let rest = String::from_utf8_lossy(&rest).into_owned();
        let lines = rest
            .lines()
            .filter(|line| !line.ends_with("EXISTS") && !line.ends_with("RECENT"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    });
    assert_eq!(last_words[0], last_words[1], "as without us");
    for client in [&mut selected, &mut saving, &mut pop3_session] {
        client.rest().expect("a clean end");
    }
    wait_until_all_ended(&mailtee);
    let aborted = [("frontend", "front"), ("outcome", "aborted")];
    let aborted = mailtee.metrics().value("captured_messages_total", &aborted);
    assert_eq!(aborted, 1.0);

    let (mut turned_away, bye) = ImapClient::connect(mailtee.frontend).expect("a last word");
    assert_eq!(
        bye,
        "* BYE [UNAVAILABLE] mailtee: the mail server is not there, try again later"
    );
    assert!(turned_away.rest().expect("the end").is_empty());
    let (mut turned_away, err) = ImapClient::connect(pop3).expect("a last word");
    assert_eq!(
        err,
        "-ERR [SYS/TEMP] mailtee: the mail server is not there, try again later"
    );
    assert!(turned_away.rest().expect("the end").is_empty());
    assert_eq!(errors(&mailtee, "upstream_refused"), 1.0);
    let pop3_errors = [("frontend", "pop3"), ("reason", "upstream_refused")];
    let pop3_errors = mailtee
        .metrics()
        .value("session_errors_total", &pop3_errors);
    assert_eq!(pop3_errors, 1.0);

    server.peer.start_again();
    let mut client = ImapClient::logged_in(mailtee.frontend, &user);
    assert!(
        client
            .append("INBOX", "", &second)
            .expect("an answer")
            .is_ok()
    );
    client.ok("SELECT INBOX");
    let shown = client.all().expect("it shows them");
    let shown = shown.into_iter().map(|message| message.bytes);
    assert!(shown.eq([first.clone(), second.clone()]));
    pop3_login(pop3, &user);
    let archive = archive(&mailtee);
    assert_eq!(archive.copies.len(), 2);
    for message in [first, second] {
        archive.one_with(&message, "what got OK");
    }
}

/// Two servers, whose users have the same passwords: a session is where its message turns up.
struct Two {
    servers: [MailServer; 2],
    mailtee: Mailtee,
    map: std::path::PathBuf,
    _dir: TestDir,
}

impl Two {
    fn start() -> Self {
        let servers = [(); 2].map(|()| MailServer::start(Kind::Dovecot, 3));
        let dir = TestDir::new();
        let map = dir.join("users");
        fs::write(&map, "").expect("a map");
        let mailtee = before("imap", servers[0].imap())
            .option("upstream_map", format!("{map:?}"))
            .option("tell_upstream_client", "\"id\"")
            .start();
        Self {
            servers,
            mailtee,
            map,
            _dir: dir,
        }
    }

    fn reload(&self, map: &str) {
        let applied = || {
            let metrics = self.mailtee.metrics();
            metrics
                .find("config_reloads_total", &[("result", "applied")])
                .unwrap_or_default()
        };
        let before = applied();
        fs::write(&self.map, map).expect("a map");
        self.mailtee.signal(Signal::HUP);
        wait_until(SOON, "it is read", || (applied() > before).then_some(()));
    }

    /// Which of the two holds this message of this user.
    fn holds(&self, user: &(String, String), message: &[u8]) -> Vec<usize> {
        let holds = |server: &MailServer| {
            server.account(user)["INBOX"]
                .iter()
                .any(|shown| shown.bytes == message)
        };
        (0..2)
            .filter(|&number| holds(&self.servers[number]))
            .collect()
    }
}

/// All in one packet, as a client may where the server announces PIPELINING.
#[test]
fn what_is_said_behind_a_name_is_for_the_server_of_the_map() {
    let servers = [(); 2].map(|()| MailServer::start(Kind::Dovecot, 1));
    let (user, dir) = (servers[1].user(1), TestDir::new());
    let map = dir.join("users");
    fs::write(&map, format!("{} {}\n", user.0, servers[1].pop3())).expect("a map");
    let mailtee = before("pop3", servers[0].pop3())
        .option("upstream_map", format!("{map:?}"))
        .start();
    let mut client = TcpStream::connect(mailtee.frontend).expect("it listens");
    client.set_read_timeout(Some(SOON)).expect("a timeout");
    let said = format!("USER {}\r\nPASS {}\r\nSTAT\r\nQUIT\r\n", user.0, user.1);
    client.write_all(said.as_bytes()).expect("it listens");
    let mut heard = String::new();
    client.read_to_string(&mut heard).expect("all to the end");
    assert_eq!(heard.matches("+OK").count(), 5, "{heard}");
}

/// Logs in this way, saves the message.
fn save_as(address: SocketAddr, way: &str, user: &(String, String), message: &[u8]) -> ImapClient {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let (mut client, _) = ImapClient::connect_from(CLIENT, address).expect("it greets");
    let plain = STANDARD.encode(format!("\0{}\0{}", user.0, user.1));
    match way {
        "LOGIN" => client.login(user),
        "PLAIN with a first answer" => {
            client.ok(&format!("AUTHENTICATE PLAIN {plain}"));
        }
        _ => {
            let lines = [
                &b"AUTHENTICATE PLAIN\r\n"[..],
                &[plain.as_bytes(), b"\r\n"].concat(),
            ];
            let answer = client.in_pieces(&lines).expect("an answer");
            assert!(answer.is_ok(), "{}", answer.tagged);
        }
    }
    let answer = client.append("INBOX", "", message).expect("an answer");
    assert!(answer.is_ok(), "{}", answer.tagged);
    client
}

#[test]
fn each_user_has_the_server_of_the_map_as_it_stands_now() {
    let two = Two::start();
    let users = [1, 2, 3].map(|number| two.servers[0].user(number));
    let [first, second] = [0, 1].map(|number| two.servers[number].imap());
    let ways = ["LOGIN", "PLAIN with a first answer", "PLAIN"];
    let mut serial = 0;
    let mut goes = |user: &(String, String), way: &str, to: usize| {
        serial += 1;
        let message = Mail::plain(serial).bytes;
        let client = save_as(two.mailtee.frontend, way, user, &message);
        assert_eq!(two.holds(user, &message), [to], "{way} of {}", user.0);
        client
    };
    for way in ways {
        goes(&users[0], way, 0);
    }
    two.reload(&format!("{} {second}\n@mailtee.test {first}\n", users[0].0));
    for way in ways {
        goes(&users[0], way, 1);
        goes(&users[1], way, 0);
    }
    let mut stays = goes(&users[0], "LOGIN", 1);

    two.reload(&format!("@mailtee.test {second}\n{} {first}\n", users[0].0));
    for way in ways {
        goes(&users[0], way, 0);
        goes(&users[2], way, 1);
    }
    stays.ok("NOOP");
    let message = Mail::plain(1000).bytes;
    assert!(
        stays
            .append("INBOX", "", &message)
            .expect("an answer")
            .is_ok()
    );
    assert_eq!(
        two.holds(&users[0], &message),
        [1],
        "the session is where it was"
    );

    // one whose server is not there learns it when it names itself, and nobody else is the worse for it
    let gone = free_port();
    two.reload(&format!("{} 127.0.0.1:{gone}\n", users[1].0));
    let (mut client, _) = ImapClient::connect(two.mailtee.frontend).expect("it greets");
    client
        .send(format!("a LOGIN {} {}\r\n", users[1].0, users[1].1).as_bytes())
        .expect("it listens");
    let bye = client.rest().expect("a clean end");
    assert!(
        bye.starts_with(b"* BYE [UNAVAILABLE]"),
        "{}",
        bye.escape_ascii()
    );
    assert_eq!(errors(&two.mailtee, "upstream_refused"), 1.0);
    goes(&users[2], "LOGIN", 0);

    // both were told who the client is
    for server in &two.servers {
        wait_until(SOON, "Dovecot logs the login", || {
            let log = server.peer.file("log/dovecot-info.log");
            log.contains("rip=127.0.0.3,").then_some(())
        });
    }
    let archive = archive(&two.mailtee);
    assert_eq!(archive.copies.len() as u64, serial + 1);
}

/// What Dovecot logs of a login by this way.
fn logged_of(server: &MailServer, through: SocketAddr, first: &str) -> String {
    let (mut client, _) = ImapClient::connect_from(CLIENT, through).expect("it greets");
    if !first.is_empty() {
        client.command(first).expect("an answer");
    }
    client.login(&server.user(1));
    wait_until(SOON, "Dovecot logs the login", || {
        let log = server.peer.file("log/dovecot-info.log");
        let mut lines = log.lines().filter(|line| line.contains("Login: "));
        lines.next_back().map(str::to_owned)
    })
}

#[test]
fn dovecot_learns_the_client_from_its_id_and_believes_no_other() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let mailtee = before("imap", server.imap())
        .option("tell_upstream_client", "\"id\"")
        .start();
    let log = logged_of(&server, mailtee.frontend, "");
    assert!(log.contains("rip=127.0.0.3,"), "{log}");

    // the server trusts us, and hears the client's own words behind ours
    let server = MailServer::start(Kind::Dovecot, 1);
    let mailtee = before("imap", server.imap())
        .option("tell_upstream_client", "\"id\"")
        .start();
    let lie = "ID (\"x-originating-ip\" \"127.0.0.8\" \"x-originating-port\" \"1\")";
    let log = logged_of(&server, mailtee.frontend, lie);
    assert!(log.contains("rip=127.0.0.3,"), "{log}");
}

#[test]
fn dovecot_learns_the_client_from_a_proxy_header() {
    for version in ["proxy-v1", "proxy-v2"] {
        let server = MailServer::start(Kind::Dovecot, 1);
        let mailtee = before("imap", server.peer.address("IMAP_HAPROXY"))
            .option("tell_upstream_client", format!("{version:?}"))
            .start();
        let log = logged_of(&server, mailtee.frontend, "");
        assert!(log.contains("rip=127.0.0.3,"), "{version}: {log}");
    }
}

/// Client → HAProxy → mailtee → Dovecot: whoever comes by HAProxy is the client, to the last of them.
#[test]
fn the_client_of_a_haproxy_in_front_is_told_on() {
    for (version, told, listener) in [
        ("v1", "id", "IMAP"),
        ("v2", "id", "IMAP"),
        ("v2", "proxy-v2", "IMAP_HAPROXY"),
    ] {
        let server = MailServer::start(Kind::Dovecot, 1);
        let mailtee = before("imap", server.peer.address(listener))
            .option("proxy_protocol_from", "[\"127.0.0.1\"]")
            .option("tell_upstream_client", format!("{told:?}"))
            .start();
        let port = free_port();
        let _haproxy = Peer::set("haproxy")
            .env("FORWARD", format!("{port}={}", mailtee.frontend))
            .env("PROXY", version)
            .start();
        let log = logged_of(&server, ([127, 0, 0, 1], port).into(), "");
        assert!(log.contains("rip=127.0.0.3,"), "{version}, {told}: {log}");
    }
}

/// A header from one who may not send it is no greeting of a client's; one that is no header ends the session.
#[test]
fn a_header_is_taken_from_those_alone_who_may_send_it() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let mailtee = before("imap", server.imap())
        .option("proxy_protocol_from", "[\"127.0.0.2\"]")
        .option("tell_upstream_client", "\"id\"")
        .start();
    let (mut client, _) = ImapClient::connect_from(CLIENT, mailtee.frontend).expect("it greets");
    client
        .send(b"PROXY TCP4 127.0.0.8 127.0.0.1 1 2\r\n")
        .expect("it listens");
    let refused = client.line().expect("an answer");
    assert!(
        refused.starts_with(b"PROXY BAD"),
        "{}",
        refused.escape_ascii()
    );
    client.login(&server.user(1));
    let log = wait_until(SOON, "Dovecot logs the login", || {
        let log = server.peer.file("log/dovecot-info.log");
        log.contains("Login: ").then_some(log)
    });
    assert!(log.contains("rip=127.0.0.3,"), "{log}");
    assert_eq!(errors(&mailtee, "proxy_protocol"), 0.0);
}
