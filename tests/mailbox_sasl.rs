//! Every SASL mechanism that Dovecot has, through the proxy in IMAP and POP3: it passes, with an initial response and
//! without; whose mailbox it is stands beside each copy, and the secret nowhere.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use memchr::memmem;

use crate::{
    interop_auth::hold_none_of,
    kit::{ImapClient, Mail, MailServer, Mailtee, TestDir, mailbox::Kind, wait_until},
    mailbox_imap::{archive, before},
    mailbox_secure::to_server,
    mailbox_stuck::scripted,
};

const TOKEN: &str = "a2token7of8the9tests";

/// As `sasl.py` has them.
const WAYS: [&str; 12] = [
    "PLAIN False",
    "PLAIN True",
    "LOGIN False",
    "CRAM-MD5 False",
    "SCRAM-SHA-1 False",
    "SCRAM-SHA-1 True",
    "SCRAM-SHA-256 False",
    "SCRAM-SHA-256 True",
    "XOAUTH2 False",
    "XOAUTH2 True",
    "OAUTHBEARER False",
    "OAUTHBEARER True",
];

/// Who asks whose token this is: one HTTP request a connection.
fn token_info(mut stream: TcpStream, user: &str) {
    let mut request = String::new();
    let mut lines = BufReader::new(&stream);
    let _ = lines.read_line(&mut request);
    let mut line = String::new();
    while lines.read_line(&mut line).is_ok_and(|count| count > 2) {
        line.clear();
    }
    let known = request.contains(&format!("={TOKEN} "));
    let (status, body) = match known {
        true => ("200 OK", format!("{{\"username\": \"{user}\"}}")),
        false => ("401 Unauthorized", "{}".to_owned()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close");
    let _ = write!(
        stream,
        "{head}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
}

/// Dovecot with all its mechanisms, which does not slow down those who fail.
fn dovecot() -> (MailServer, TestDir) {
    let name = "user0001@mailtee.test";
    let introspection = scripted(move |stream| token_info(stream, name));
    let dir = TestDir::new();
    let oauth2 = dir.join("oauth2");
    let text = format!(
        "tokeninfo_url = http://{introspection}/?access_token=\nusername_attribute = username\n"
    );
    std::fs::write(&oauth2, text).expect("a file for Dovecot");
    let extra = format!(
        "auth_mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256 xoauth2 oauthbearer\n\
         auth_failure_delay = 0\npassdb {{\n  driver = oauth2\n  mechanisms = xoauth2 oauthbearer\n  args = {}\n}}\n\
         service anvil {{\n  unix_listener anvil-auth-penalty {{\n    mode = 0\n  }}\n}}\n",
        oauth2.display()
    );
    let setting = Kind::Dovecot.with_users(1).env("EXTRA_CONF", extra);
    (MailServer::over(Kind::Dovecot, setting), dir)
}

/// Logs in in all ways, and does what `sasl.py` does with each.
#[track_caller]
fn log_in(protocol: &str, mailtee: &Mailtee, user: &(String, String)) {
    assert_eq!(let_in(protocol, mailtee, user, None), WAYS);
}

/// The ways by which a client at this address is let in.
#[track_caller]
fn let_in(
    protocol: &str,
    mailtee: &Mailtee,
    (user, password): &(String, String),
    source: Option<&str>,
) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mailbox/sasl.py");
    let front = mailtee.frontend;
    let output = Command::new("timeout")
        .args(["120", "python3"])
        .arg(script)
        .args([protocol, &front.ip().to_string(), &front.port().to_string()])
        .args([user, password, TOKEN])
        .args(source)
        .output()
        .expect("Python is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    said.lines().map(str::to_owned).collect()
}

/// Neither what it wrote nor what it shows has the secret in it, in a form that crossed the wire.
#[track_caller]
fn forgot(mailtee: &Mailtee, (user, password): &(String, String)) {
    let mut secrets = Vec::new();
    for secret in [password.clone(), TOKEN.to_owned()] {
        for secret in [format!("wrong-{secret}"), secret] {
            let shapes = [
                secret.clone(),
                format!("\0{user}\0{secret}"),
                format!("user={user}\x01auth=Bearer {secret}\x01\x01"),
            ];
            secrets.extend(shapes.iter().map(|shape| STANDARD.encode(shape)));
            secrets.push(secret);
        }
    }
    let metrics = mailtee.metrics().0;
    for secret in &secrets {
        assert!(
            !metrics.contains(secret.as_str()),
            "{secret} in the metrics"
        );
    }
    hold_none_of(mailtee.dir(), &secrets, user);
    let log = mailtee.log();
    assert!(log.contains("let in"), "the log says all there is to say");
}

const LOG: &str = "[log]\nlevel = \"info,mailtee=trace\"";

#[test]
fn every_mechanism_passes_in_imap() {
    let (server, _dir) = dovecot();
    let user = server.user(1);
    let mailtee = before("imap", server.imap()).append(LOG).start();
    log_in("imap", &mailtee, &user);
    let archive = archive(&mailtee);
    assert_eq!(archive.copies.len(), WAYS.len());
    for way in WAYS {
        let message = format!("Subject: {way}\r\n\r\nbody\r\n");
        let copy = archive.one_with(message.as_bytes(), way);
        assert_eq!(copy.sightings.len(), 1, "{way}");
        let placement = copy.sightings[0].placement();
        assert_eq!(placement.account.to_text(), user.0, "{way}");
    }
    forgot(&mailtee, &user);
}

#[test]
fn every_mechanism_passes_in_pop3() {
    let (server, _dir) = dovecot();
    let user = server.user(1);
    let mut direct = ImapClient::logged_in(server.imap(), &user);
    let messages: Vec<_> = (0..WAYS.len() as u64)
        .map(|n| Mail::plain(n).bytes)
        .collect();
    for message in &messages {
        assert!(
            direct
                .append("INBOX", "", message)
                .expect("an answer")
                .is_ok()
        );
    }
    drop(direct);
    let mailtee = before("pop3", server.pop3()).append(LOG).start();
    log_in("pop3", &mailtee, &user);
    let archive = archive(&mailtee);
    for (message, way) in messages.iter().zip(WAYS) {
        let copy = archive.one_with(message, way);
        let placement = copy.sightings[0].placement();
        assert_eq!(placement.account.to_text(), user.0, "{way}");
    }
    forgot(&mailtee, &user);
}

/// Before a server whose leg has TLS, by a leg that has none.
#[test]
fn in_clear_only_what_shows_no_secret_passes() {
    let (server, _dir) = dovecot();
    let user = server.user(1);
    let mut direct = ImapClient::logged_in(server.imap(), &user);
    for number in 0..5 {
        let message = Mail::plain(number).bytes;
        let answer = direct.append("INBOX", "", &message).expect("an answer");
        assert!(answer.is_ok(), "{}", answer.tagged);
    }
    drop(direct);
    for (protocol, address) in [("imap", server.imap()), ("pop3", server.pop3())] {
        let setting = to_server(
            before(protocol, address),
            "starttls",
            "localhost",
            &server.ca(),
        );
        let mailtee = setting.append(LOG).start();
        let let_in = let_in(protocol, &mailtee, &user, Some("127.0.0.2"));
        assert_eq!(let_in, WAYS[3..8], "{protocol}");
        forgot(&mailtee, &user);
    }
}

/// One that nobody knows passes as it is, however long its lines; nobody knows then whose mailbox it is.
#[test]
fn a_mechanism_that_nobody_knows_passes_as_it_is() {
    let long = "A".repeat(40_000);
    let said = format!("a AUTHENTICATE X-OURS aW5pdGlhbA==\r\n{long}\r\n*a\r\n=\r\n");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (expected, keeps) = (said.len(), heard.clone());
    let server = scripted(move |mut stream| {
        let _ = stream.write_all(b"* OK [CAPABILITY IMAP4rev1 AUTH=X-OURS SASL-IR] ready\r\n");
        let mut heard = vec![0; expected];
        let mut at = 0;
        // a challenge for each line, the last of which is let in
        for (line, answer) in [
            (1, "+ bW9yZQ==\r\n"),
            (2, "+ \r\n"),
            (3, "+\r\n"),
            (4, "a OK in\r\n"),
        ] {
            while memchr::memchr_iter(b'\n', &heard[..at]).count() < line {
                match stream.read(&mut heard[at..]) {
                    Ok(count) if count > 0 => at += count,
                    _ => return,
                }
            }
            let _ = stream.write_all(answer.as_bytes());
        }
        *keeps.lock().expect("never poisoned") = heard;
        let mut append = [0; 4096];
        let _ = stream.read(&mut append);
        let _ = stream.write_all(b"b OK [APPENDUID 1 1] saved\r\n");
    });
    let mailtee = before("imap", server).start();
    let (mut client, greeting) = ImapClient::connect(mailtee.frontend).expect("it greets");
    assert!(greeting.contains("AUTH=X-OURS"), "{greeting}");
    for (line, answer) in said
        .split_inclusive("\r\n")
        .zip(["+ bW9yZQ==", "+ ", "+", "a OK in"])
    {
        client.send(line.as_bytes()).expect("it listens");
        let heard = client.line().expect("an answer");
        assert_eq!(String::from_utf8_lossy(&heard), answer);
    }
    wait_until(
        Duration::from_secs(20),
        "the server has heard it all",
        || {
            let heard = heard.lock().expect("never poisoned");
            (*heard == said.as_bytes()).then_some(())
        },
    );
    let message = b"Subject: x\r\n\r\n";
    let append = [b"b APPEND INBOX {14+}\r\n".as_slice(), message, b"\r\n"].concat();
    client.send(&append).expect("it listens");
    assert!(client.line().expect("an answer").starts_with(b"b OK"));
    let archive = archive(&mailtee);
    let copy = archive.one_with(message, "what was saved");
    assert_eq!(copy.sightings[0].placement().account.to_text(), "");
}

/// While the session goes on, the daemon's memory has its secret no more; also where the map had it say it again elsewhere.
#[test]
fn the_secret_is_forgotten_at_once() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let (user, password) = server.user(1);
    let plain = STANDARD.encode(format!("\0{user}\0{password}"));
    let ways = [
        format!("a LOGIN {user} {password}\r\n"),
        format!("a LOGIN {user} {{{}+}}\r\n{password}\r\n", password.len()),
        format!("a AUTHENTICATE PLAIN {plain}\r\n"),
    ];
    let dir = TestDir::new();
    let map = dir.join("users");
    // the same server by another name
    let entry = format!("{user} localhost:{}\n", server.imap().port());
    std::fs::write(&map, entry).expect("a map");
    let plainly = before("imap", server.imap());
    let mapped = before("imap", server.imap()).option("upstream_map", format!("{map:?}"));
    for mailtee in [plainly.start(), mapped.start()] {
        let sessions = ways.each_ref().map(|way| {
            let (mut client, _) = ImapClient::connect(mailtee.frontend).expect("it greets");
            let (first, rest) = way.split_at(way.len() - 12);
            client.send(first.as_bytes()).expect("it listens");
            // once as it comes, once in as many pieces as it is read in
            let step = if way.contains('{') { usize::MAX } else { 1 };
            for piece in rest.as_bytes().chunks(step) {
                client.send(piece).expect("it listens");
            }
            assert!(client.finish("a").expect("an answer").is_ok());
            client
        });
        remembers_none(&mailtee, &user, &[&password, &plain]);
        drop(sessions);
    }
}

#[test]
fn the_secret_is_forgotten_at_once_in_pop3() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let (user, password) = server.user(1);
    let plain = STANDARD.encode(format!("\0{user}\0{password}"));
    let mailtee = before("pop3", server.pop3()).start();
    let ways = [
        vec![format!("USER {user}\r\n"), format!("PASS {password}\r\n")],
        vec![format!("AUTH PLAIN {plain}\r\n")],
        vec!["AUTH PLAIN\r\n".to_owned(), format!("{plain}\r\n")],
    ];
    for step in [usize::MAX, 1] {
        let sessions = ways.each_ref().map(|lines| {
            let (mut client, _) = ImapClient::connect(mailtee.frontend).expect("it greets");
            for line in lines {
                for piece in line.as_bytes().chunks(step) {
                    client.send(piece).expect("it listens");
                }
                assert!(client.line().expect("a reply").starts_with(b"+"));
            }
            client
        });
        remembers_none(&mailtee, &user, &[&password, &plain]);
        drop(sessions);
    }
}

/// What is withheld from the server is forgotten too, with its line and with what of it came before.
#[test]
fn a_secret_that_is_withheld_is_forgotten_at_once() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let (user, password) = server.user(1);
    let plain = STANDARD.encode(format!("\0{user}\0{password}"));
    let imap = [
        format!("a LOGIN {user} {password}\r\n"),
        format!("a LOGIN {user} {{{}+}}\r\n{password}\r\n", password.len()),
        format!("a AUTHENTICATE PLAIN {plain}\r\n"),
        format!("b NOOP\r\na AUTHENTICATE PLAIN {plain}\r\n"),
        format!("a LOGIN {user} {}{password}\r\n", "x".repeat(20_000)),
        format!("a LOGIN {user} {password}{}\r\n", "x".repeat(3000)),
    ];
    let pop3 = [
        format!("PASS {password} and more of it\r\n"),
        format!("AUTH PLAIN {plain}\r\n"),
        format!("NOOP\r\nPASS {password}\r\n"),
        format!("PASS {}{password}\r\n", "x".repeat(20_000)),
        format!("AUTH PLAIN    {plain}{}\r\n", "x".repeat(3000)),
    ];
    for (protocol, address, ways) in [
        ("imap", server.imap(), &imap[..]),
        ("pop3", server.pop3(), &pop3[..]),
    ] {
        let setting = to_server(
            before(protocol, address),
            "starttls",
            "localhost",
            &server.ca(),
        );
        let mailtee = setting.start();
        let mut sessions = Vec::new();
        for way in ways {
            for pieces in [1, 20] {
                let connected = ImapClient::connect_from([127, 0, 0, 2], mailtee.frontend);
                let (mut client, _) = connected.expect("it greets");
                let (first, rest) = way.split_at(way.len() - 20);
                client.send(first.as_bytes()).expect("it listens");
                for piece in rest.as_bytes().chunks(pieces) {
                    client.send(piece).expect("it listens");
                }
                let refusal = |line: &[u8]| {
                    line.starts_with(b"a NO [PRIVACYREQUIRED]") || line.starts_with(b"-ERR [AUTH]")
                };
                while !refusal(&client.line().expect("an answer")) {}
                sessions.push(client);
            }
        }
        // what is searched has the name of one who is let in
        let (mut client, _) = ImapClient::connect(mailtee.frontend).expect("it greets");
        match protocol {
            "imap" => client.login(&(user.clone(), password.clone())),
            _ => {
                client
                    .send(format!("AUTH PLAIN {plain}\r\n").as_bytes())
                    .expect("it listens");
                assert!(client.line().expect("a reply").starts_with(b"+OK"));
            }
        }
        remembers_none(&mailtee, &user, &[&password, &plain]);
    }
}

#[track_caller]
fn remembers_none(mailtee: &Mailtee, user: &str, secrets: &[&str]) {
    let memory = memory(mailtee.pid());
    let name = memmem::find(&memory, user.as_bytes());
    assert!(name.is_some(), "what is searched is what it knows");
    for secret in secrets {
        let found = memmem::find_iter(&memory, secret.as_bytes());
        let shown = found.map(|at| {
            memory[at.saturating_sub(40)..at + 40]
                .escape_ascii()
                .to_string()
        });
        assert_eq!(shown.collect::<Vec<_>>(), Vec::<String>::new());
    }
}

/// All that a process has written into its memory.
fn memory(pid: u32) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
    let file = std::fs::File::open(format!("/proc/{pid}/mem")).expect("it is ours");
    let mut memory = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let range = line
            .split(' ')
            .next()
            .and_then(|range| range.split_once('-'));
        let (from, to) = range.expect("a range");
        let [from, to] = [from, to].map(|at| u64::from_str_radix(at, 16).expect("an address"));
        let mut piece = vec![0; (to - from) as usize];
        if file.read_exact_at(&mut piece, from).is_ok() {
            memory.extend(piece);
        }
    }
    memory
}
