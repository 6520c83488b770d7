//! The server's leg has TLS, the client's has none: a real Dovecot would take passwords, and mailtee does not hand them on.
//! Clients of the same host are exempt, as with Dovecot, and so are all where the operator says so.

use std::{net::SocketAddr, time::Duration};

use crate::{
    auto_frontend::wait_for_greeting,
    kit::{ImapClient, MailServer, Mailtee, daemon::Setting, mailbox::Kind, wait_until},
    mailbox_imap::before,
    mailbox_secure::{Certificate, for_clients, to_server},
};

const SOON: Duration = Duration::from_secs(30);

/// Another host, as Dovecot sees it too.
const ELSEWHERE: [u8; 4] = [127, 0, 0, 2];

/// Before Dovecot, with this kind of TLS to it.
fn secured(protocol: &str, server: &MailServer, tls: &str) -> Setting {
    let address = match (protocol, tls) {
        ("pop3", "implicit") => server.peer.address("POP3S"),
        ("pop3", _) => server.pop3(),
        (_, "implicit") => server.imaps(),
        _ => server.imap(),
    };
    to_server(before(protocol, address), tls, "localhost", &server.ca())
}

/// What a client of another host is greeted with.
fn elsewhere(address: SocketAddr) -> (ImapClient, String) {
    ImapClient::connect_from(ELSEWHERE, address).expect("it greets")
}

fn offers(list: &str, word: &str) -> bool {
    list.split(|c: char| c.is_whitespace() || "[]".contains(c))
        .any(|offered| offered == word)
}

/// Counted, once each, and told once a session.
fn withheld(mailtee: &Mailtee) -> f64 {
    let told = mailtee.log().matches("login refused").count();
    assert_eq!(told, 1, "{}", mailtee.log());
    let labels = [("frontend", "front"), ("reason", "cleartext_login")];
    mailtee.metrics().value("session_errors_total", &labels)
}

/// Dovecot's lines of this kind.
fn logged(server: &MailServer, what: &str) -> Vec<String> {
    let log = server.peer.file("log/dovecot-info.log");
    let lines = log.lines().filter(|line| line.contains(what));
    lines.map(str::to_owned).collect()
}

#[track_caller]
fn say(client: &mut ImapClient, line: &str) -> String {
    client
        .send(format!("{line}\r\n").as_bytes())
        .expect("it listens");
    let heard = client.line().expect("an answer");
    String::from_utf8_lossy(&heard).into_owned()
}

#[track_caller]
fn pop3_list(client: &mut ImapClient) -> Vec<String> {
    assert!(say(client, "CAPA").starts_with("+OK"));
    let mut list = Vec::new();
    loop {
        match String::from_utf8_lossy(&client.line().expect("a line")).into_owned() {
            end if end == "." => return list,
            line => list.push(line),
        }
    }
}

#[test]
fn no_password_crosses_a_clear_leg_in_imap() {
    let own = Certificate::of("localhost");
    for upstream in ["starttls", "implicit"] {
        let server = MailServer::start(Kind::Dovecot, 1);
        let (name, password) = server.user(1);
        let mailtee = for_clients(secured("imap", &server, upstream), "starttls", &own).start();
        let (mut client, greeting) = elsewhere(mailtee.frontend);
        let listed = client.ok("CAPABILITY").text();
        for list in [&greeting, &listed] {
            for word in ["LOGINDISABLED", "STARTTLS", "AUTH=CRAM-MD5"] {
                assert!(offers(list, word), "{word}: {list}");
            }
            for word in ["AUTH=PLAIN", "AUTH=LOGIN"] {
                assert!(!offers(list, word), "{word}: {list}");
            }
        }
        let login = format!("LOGIN {name} {password}");
        let plain = "AUTHENTICATE PLAIN";
        for command in [login.as_str(), plain, "AUTHENTICATE PLAIN AGEAYg=="] {
            let answer = client.command(command).expect("an answer");
            assert!(answer.untagged.is_empty(), "{}", answer.text());
            let refused = answer.tagged.starts_with("NO [PRIVACYREQUIRED]");
            assert!(refused && answer.tagged.contains("STARTTLS"), "{answer:?}");
        }
        let pieces = [
            format!("LOGIN {{{}}}\r\n", name.len()),
            "never said".to_owned(),
        ];
        let pieces = pieces.each_ref().map(|piece| piece.as_bytes());
        let answer = client.in_pieces(&pieces).expect("an answer");
        assert!(answer.tagged.starts_with("NO [PRIVACYREQUIRED]"));
        // in one packet with what comes before and behind it
        let said = format!(
            "x NOOP\r\ny LOGIN {{{}+}}\r\n{name} {{{}+}}\r\n{password}\r\nz NOOP\r\n",
            name.len(),
            password.len()
        );
        client.send(said.as_bytes()).expect("it listens");
        for tag in ["x OK", "y NO [PRIVACYREQUIRED]", "z OK"] {
            let line = client.line().expect("an answer");
            assert!(line.starts_with(tag.as_bytes()), "{}", line.escape_ascii());
        }
        assert_eq!(withheld(&mailtee), 5.0);
        client.ok("LOGOUT");
        wait_until(SOON, "Dovecot logs that nobody tried", || {
            let none = logged(&server, "no auth attempts");
            (!none.is_empty()).then_some(())
        });
        assert_eq!(logged(&server, "Login: "), Vec::<String>::new());

        let (client, _) = elsewhere(mailtee.frontend);
        let (mut client, answer) = client.start_tls(&own.certificate).expect("a handshake");
        assert!(answer.is_ok(), "{}", answer.tagged);
        let list = client.ok("CAPABILITY").text();
        assert!(
            offers(&list, "AUTH=PLAIN") && !offers(&list, "LOGINDISABLED"),
            "{list}"
        );
        client.login(&(name, password));
        client.ok("SELECT INBOX");
        wait_until(SOON, "Dovecot logs the login", || {
            (logged(&server, "Login: ").len() == 1).then_some(())
        });
    }
}

#[test]
fn no_password_crosses_a_clear_leg_in_pop3() {
    let own = Certificate::of("localhost");
    for upstream in ["starttls", "implicit"] {
        let server = MailServer::start(Kind::Dovecot, 1);
        let (name, password) = server.user(1);
        let mailtee = for_clients(secured("pop3", &server, upstream), "starttls", &own).start();
        let (mut client, _) = elsewhere(mailtee.frontend);
        let list = pop3_list(&mut client);
        assert!(list.contains(&"STLS".to_owned()), "{list:?}");
        assert!(!list.contains(&"USER".to_owned()), "{list:?}");
        let sasl = list.iter().find(|line| line.starts_with("SASL "));
        let sasl = sasl.expect("those that show no secret");
        assert!(offers(sasl, "CRAM-MD5"), "{sasl}");
        assert!(!offers(sasl, "PLAIN") && !offers(sasl, "LOGIN"), "{sasl}");
        for command in [
            format!("USER {name}"),
            format!("PASS {password}"),
            "AUTH PLAIN AGEAYg==".to_owned(),
            "AUTH LOGIN".to_owned(),
        ] {
            let answer = say(&mut client, &command);
            assert!(answer.starts_with("-ERR [AUTH]"), "{command}: {answer}");
            assert!(answer.contains("STLS"), "{answer}");
        }
        assert_eq!(withheld(&mailtee), 4.0);
        let said = format!("CAPA\r\nUSER {name}\r\nPASS {password}\r\nQUIT\r\n");
        client.send(said.as_bytes()).expect("it listens");
        let rest = client.rest().expect("the end");
        let rest = String::from_utf8_lossy(&rest).into_owned();
        let (_, behind) = rest.split_once("\r\n.\r\n").expect("the list");
        let begins: Vec<_> = behind.lines().map(|line| &line[..4]).collect();
        assert_eq!(begins, ["-ERR", "-ERR", "+OK "], "{rest}");
        wait_until(SOON, "Dovecot logs that nobody tried", || {
            let none = logged(&server, "no auth attempts");
            (!none.is_empty()).then_some(())
        });
        assert_eq!(logged(&server, "Login: "), Vec::<String>::new());

        let (mut client, _) = elsewhere(mailtee.frontend);
        assert!(say(&mut client, "STLS").starts_with("+OK"));
        let mut client = client.into_tls(&own.certificate).expect("a handshake");
        assert!(pop3_list(&mut client).contains(&"USER".to_owned()));
        for command in [
            format!("USER {name}"),
            format!("PASS {password}"),
            "STAT".to_owned(),
        ] {
            let answer = say(&mut client, &command);
            assert!(answer.starts_with("+OK"), "{command}: {answer}");
        }
    }
}

/// Nothing is withheld where it is allowed, where the server's leg is as clear, or where nobody is in between.
#[test]
fn passwords_cross_where_they_may() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let user = server.user(1);
    let allowed = secured("imap", &server, "starttls").option("auth_allow_cleartext", "true");
    let clear = before("imap", server.imap());
    for setting in [allowed, clear] {
        let mailtee = setting.start();
        let (mut client, greeting) = elsewhere(mailtee.frontend);
        assert!(offers(&greeting, "AUTH=PLAIN"), "{greeting}");
        assert!(!offers(&greeting, "LOGINDISABLED"), "{greeting}");
        client.login(&user);
    }
    let mailtee = secured("imap", &server, "starttls").start();
    let (mut client, greeting) = ImapClient::connect(mailtee.frontend).expect("it greets");
    assert!(offers(&greeting, "AUTH=PLAIN"), "{greeting}");
    client.login(&user);
    let (mut client, _) = elsewhere(mailtee.frontend);
    let login = format!("LOGIN {} {}", user.0, user.1);
    let answer = client.command(&login).expect("an answer");
    let told = answer.tagged.contains("the operator must set certificate");
    assert!(told, "{}", answer.tagged);
}

/// Which host a client is of, and to which it came, a PROXY header tells.
#[test]
fn a_proxy_header_tells_the_host() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let user = server.user(1);
    let mailtee = secured("imap", &server, "starttls")
        .option("proxy_protocol_from", "[\"127.0.0.0/8\"]")
        .start();
    let login = format!("LOGIN {} {}", user.0, user.1);
    for (source, header, may) in [
        ([127, 0, 0, 1], "192.0.2.1 192.0.2.9", false),
        ([127, 0, 0, 2], "192.0.2.9 192.0.2.9", true),
    ] {
        let header = format!("PROXY TCP4 {header} 4711 143\r\n");
        let connected = ImapClient::connect_saying(source, mailtee.frontend, header.as_bytes());
        let (mut client, greeting) = connected.expect("it greets");
        assert_eq!(offers(&greeting, "LOGINDISABLED"), !may, "{greeting}");
        let answer = client.command(&login).expect("an answer");
        assert_eq!(answer.is_ok(), may, "{}", answer.tagged);
    }
}

#[test]
fn a_front_end_that_finds_out_withholds_them_too() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let mailtee = secured("auto", &server, "starttls").start();
    wait_for_greeting(&mailtee, "* OK");
    let (mut client, greeting) = elsewhere(mailtee.frontend);
    assert!(offers(&greeting, "LOGINDISABLED"), "{greeting}");
    let (name, password) = server.user(1);
    let answer = client.command(&format!("LOGIN {name} {password}"));
    let answer = answer.expect("an answer");
    assert!(answer.tagged.starts_with("NO [PRIVACYREQUIRED]"));
}
