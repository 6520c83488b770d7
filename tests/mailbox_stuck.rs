//! IMAP sessions that do not go as they should: who reads nothing, says nothing more, or says it a byte at a time; a server
//! that is stuck; one side closed, a peer gone; and a daemon that stops under all of them.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    kit::{ImapClient, Mail, MailServer, Mailtee, mailbox::Kind, wait_until},
    mailbox_imap::{archive, before},
};

const SOON: Duration = Duration::from_secs(60);
/// A message of the large mailbox, and how many of them are in it: 200 MB.
const LARGE: usize = 10 << 20;
const MANY: u64 = 20;
/// What a session that is stuck may hold beside its sockets: far less than what waits for it.
const BOUND_KIB: u64 = 32 << 10;
/// What the daemon may hold while it copies and forwards such messages: a few of them, but not the mailbox.
const AT_WORK_KIB: u64 = 160 << 10;

fn large(serial: u64) -> Vec<u8> {
    let head =
        format!("Subject: large {serial}\r\nMessage-ID: <{serial}@large.mailtee.test>\r\n\r\n");
    let line = b"seventy-eight characters of text that say nothing to anybody, over and over.\r\n";
    [head.as_bytes(), &line.repeat(LARGE / line.len())].concat()
}

/// A server of one message a session, so large that no buffers between us and a client hold it.
fn with_mail(count: u64) -> MailServer {
    let server = MailServer::start(Kind::Dovecot, 2);
    let mut direct = ImapClient::logged_in(server.imap(), &server.user(1));
    for serial in 0..count {
        let answer = direct
            .append("INBOX", "", &large(serial))
            .expect("an answer");
        assert!(answer.is_ok(), "{}", answer.tagged);
    }
    server
}

/// A server that nobody here wrote would not do this: each connection goes to `script`.
pub(crate) fn scripted(script: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let script = std::sync::Arc::new(script);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let script = script.clone();
            thread::spawn(move || script(stream));
        }
    });
    address
}

pub(crate) fn errors(mailtee: &Mailtee, reason: &str) -> f64 {
    let labels = [("frontend", "front"), ("reason", reason)];
    mailtee.metrics().value("session_errors_total", &labels)
}

fn outcomes(mailtee: &Mailtee, outcome: &str) -> f64 {
    let labels = [("frontend", "front"), ("outcome", outcome)];
    mailtee.metrics().value("captured_messages_total", &labels)
}

/// What is read is copied behind the reader's back.
#[track_caller]
fn copied(mailtee: &Mailtee, count: u64) {
    wait_until(SOON, "the copies are made", || {
        (outcomes(mailtee, "captured") == count as f64).then_some(())
    });
}

#[track_caller]
pub(crate) fn wait_until_all_ended(mailtee: &Mailtee) {
    wait_until(SOON, "every session has ended", || {
        let open = mailtee
            .metrics()
            .value("sessions", &[("frontend", "front")]);
        (open == 0.0).then_some(())
    });
}

#[test]
fn who_reads_nothing_costs_no_memory_and_slows_nobody() {
    let server = with_mail(MANY);
    let mailtee = before("imap", server.imap()).start();
    let mut other = ImapClient::logged_in(mailtee.frontend, &server.user(2));
    other.ok("SELECT INBOX");
    let mut works = |serials: std::ops::Range<u64>| {
        for serial in serials {
            let answer = other.append("INBOX", "", &Mail::plain(serial).bytes);
            assert!(answer.expect("an answer").is_ok());
            other.ok("NOOP");
        }
        mailtee.wait_until_forwarded(SOON);
        mailtee.memory("VmRSS")
    };
    // with the memory that journal and vault take for work of this kind
    let before = works(0..100);

    let mut stuck = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    stuck.ok("SELECT INBOX");
    let fetch = stuck
        .begin(b"FETCH 1:* BODY.PEEK[]\r\n")
        .expect("it listens");
    let begins = stuck.line().expect("the first line");
    assert!(
        begins.starts_with(b"* 1 FETCH"),
        "{}",
        begins.escape_ascii()
    );
    let stalled = works(100..200).saturating_sub(before);
    assert!(stalled < BOUND_KIB, "{stalled} KiB");

    // and then it reads on
    for serial in 0..MANY {
        let message = large(serial);
        assert!(stuck.exactly(message.len()).expect("all of it") == message);
        stuck.line().expect("the end of a message");
        if serial + 1 < MANY {
            stuck.line().expect("the next one");
        }
    }
    assert!(stuck.finish(&fetch).expect("an answer").is_ok());
    copied(&mailtee, 200 + MANY);
    mailtee.wait_until_forwarded(Duration::from_secs(180));
    let peak = mailtee.memory("VmHWM").saturating_sub(before);
    assert!(peak < AT_WORK_KIB, "{peak} KiB");
    assert_eq!(mailtee.vault().emails().len() as u64, 200 + MANY);
}

#[test]
fn who_says_one_byte_at_a_time_is_heard() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let mailtee = before("imap", server.imap()).start();
    let (mut client, _) = ImapClient::connect(mailtee.frontend).expect("it greets");
    let user = server.user(1);
    let message = Mail::varied(5, 1).bytes;
    let said = [
        format!(
            "a LOGIN \"{}\" {{{}+}}\r\n{}\r\n",
            user.0,
            user.1.len(),
            user.1
        )
        .as_bytes(),
        b"b SELECT INBOX\r\nc IDLE\r\nDONE\r\n",
        format!("d APPEND INBOX (\\Flagged) {{{}+}}\r\n", message.len()).as_bytes(),
        &message,
        b"\r\ne SELECT INBOX\r\nf UID FETCH 1:* (FLAGS BODY.PEEK[])\r\ng LOGOUT\r\n",
    ]
    .concat();
    for byte in said {
        client.send(&[byte]).expect("it listens");
    }
    for tag in ["a", "b", "c", "d", "e", "f", "g"] {
        let answer = client.finish(tag).expect("an answer");
        assert!(answer.is_ok(), "{tag}: {}", answer.tagged);
        let shown = memchr::memmem::find(&answer.untagged.concat(), &message);
        assert_eq!(shown.is_some(), tag == "f", "{tag}");
    }
    assert!(client.rest().expect("the end").is_empty());
    let archive = archive(&mailtee);
    let copy = archive.one_with(&message, "the message");
    assert!(copy.bytes == message);
    // what it saved it reads as something known
    assert_eq!(copy.sightings.len(), 1);
    assert_eq!(outcomes(&mailtee, "known"), 1.0);
}

#[test]
fn the_idle_limit_ends_who_is_stuck() {
    let server = with_mail(3);
    let mailtee = before("imap", server.imap())
        .option("idle_timeout", "\"3s\"")
        .start();

    let mut in_a_literal = ImapClient::logged_in(mailtee.frontend, &server.user(2));
    in_a_literal
        .begin(b"APPEND INBOX {1000}\r\n")
        .expect("it listens");
    assert!(in_a_literal.line().expect("leave").starts_with(b"+"));
    in_a_literal.send(b"Subject: ").expect("it listens");
    assert!(in_a_literal.rest().expect("the end").is_empty());
    wait_until(SOON, "it is counted", || {
        (errors(&mailtee, "idle_timeout") == 1.0).then_some(())
    });
    assert_eq!(outcomes(&mailtee, "aborted"), 1.0);
    assert!(server.account(&server.user(2))["INBOX"].is_empty());

    let mut reads_nothing = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    reads_nothing.ok("SELECT INBOX");
    let fetch = b"FETCH 1:* BODY.PEEK[]\r\n";
    reads_nothing.begin(fetch).expect("it listens");
    wait_until(SOON, "it is counted", || {
        (errors(&mailtee, "idle_timeout") == 2.0).then_some(())
    });
    wait_until_all_ended(&mailtee);
    let (session, _) = ImapClient::connect(mailtee.frontend).expect("it greets");
    drop(session);
}

#[test]
fn a_server_that_is_stuck_holds_nobody_for_ever() {
    let silent = scripted(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let mailtee = before("imap", silent)
        .option("upstream_connect_timeout", "\"1s\"")
        .start();
    let (mut client, bye) = ImapClient::connect(mailtee.frontend).expect("a last word");
    assert!(bye.starts_with("* BYE [UNAVAILABLE] mailtee: "), "{bye}");
    assert!(client.rest().expect("the end").is_empty());
    assert_eq!(errors(&mailtee, "upstream_refused"), 1.0);

    // it greets, gives leave, and reads no more of it
    let full = scripted(|mut stream| {
        let mut line = [0; 256];
        let _ = stream.write_all(b"* PREAUTH ready\r\n");
        let _ = stream.read(&mut line);
        let _ = stream.write_all(b"+ go on\r\n");
        thread::park();
    });
    let mailtee = before("imap", full)
        .option("idle_timeout", "\"3s\"")
        .start();
    let before = mailtee.memory("VmRSS");
    let (mut client, _) = ImapClient::connect(mailtee.frontend).expect("it greets");
    client
        .begin(b"APPEND INBOX {200000000}\r\n")
        .expect("it listens");
    assert_eq!(client.line().expect("leave"), b"+ go on");
    let piece = vec![b'x'; 1 << 20];
    let cut_off = (0..200).find(|_| client.send(&piece).is_err());
    assert!(cut_off.is_some(), "all of it went nowhere");
    wait_until_all_ended(&mailtee);
    assert_eq!(errors(&mailtee, "idle_timeout"), 1.0);
    let grown = mailtee.memory("VmHWM").saturating_sub(before);
    assert!(grown < BOUND_KIB, "{grown} KiB");
}

#[test]
fn who_has_said_all_still_hears_all() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let mailtee = before("imap", server.imap()).start();
    let user = server.user(1);
    let message = Mail::sized(1, 300_000).bytes;
    let mut direct = ImapClient::logged_in(server.imap(), &user);
    assert!(direct.append("INBOX", "", &message).unwrap().is_ok());

    let (mut client, _) = ImapClient::connect(mailtee.frontend).expect("it greets");
    let said = format!(
        "a LOGIN {} {}\r\nb SELECT INBOX\r\nc FETCH 1 BODY.PEEK[]\r\nd LOGOUT\r\n",
        user.0, user.1
    );
    client.send(said.as_bytes()).expect("it listens");
    client.half_close().expect("it is open");
    for tag in ["a", "b", "c", "d"] {
        let answer = client.finish(tag).expect("an answer");
        assert!(answer.is_ok(), "{tag}: {}", answer.tagged);
        let shown = memchr::memmem::find(&answer.untagged.concat(), &message);
        assert_eq!(shown.is_some(), tag == "c");
    }
    assert!(client.rest().expect("the end").is_empty());
    copied(&mailtee, 1);
    archive(&mailtee).one_with(&message, "what was read");

    // the end of TLS would be the end of all: the server hears it when it has answered
    let mailtee = before("imap", server.imap())
        .option("upstream_tls", "\"starttls\"")
        .option("upstream_tls_name", "\"localhost\"")
        .option("upstream_ca_file", format!("{:?}", server.ca()))
        .start();
    for round in 0..5 {
        let mut client = ImapClient::logged_in(mailtee.frontend, &user);
        let saved = Mail::plain(10 + round).bytes;
        let head = format!("APPEND INBOX {{{}+}}\r\n", saved.len());
        let command = [head.as_bytes(), &saved, b"\r\n"].concat();
        let tag = client.begin(&command).expect("it listens");
        client.half_close().expect("it is open");
        let answer = client.finish(&tag).expect("an answer");
        assert!(answer.is_ok(), "{}", answer.tagged);
        client.rest().expect("the end");
        archive(&mailtee).one_with(&saved, "saved");
    }

    // in the middle of a command, of a server that answers only then
    let late = scripted(|mut stream| {
        let mut heard = Vec::new();
        let _ = stream.write_all(b"* OK ready\r\n");
        let _ = stream.read_to_end(&mut heard);
        let _ = stream.write_all(&[b"* BAD heard ", heard.as_slice(), b"\r\n* BYE\r\n"].concat());
    });
    let mailtee = before("imap", late).start();
    let (mut client, _) = ImapClient::connect(mailtee.frontend).expect("it greets");
    client.send(b"a LIST \"\"").expect("it listens");
    client.half_close().expect("it is open");
    let heard = client.rest().expect("all to the end");
    assert_eq!(
        heard.escape_ascii().to_string(),
        "* BAD heard a LIST \\\"\\\"\\r\\n* BYE\\r\\n"
    );
    wait_until_all_ended(&mailtee);
}

/// Whoever speaks into a connection that the server has closed hears first why.
#[test]
fn a_last_word_is_heard_however_much_is_said_into_it() {
    let curt = scripted(|mut stream| {
        let mut line = [0; 64];
        let _ = stream.write_all(b"* OK ready\r\n");
        let _ = stream.read(&mut line);
        let _ = stream.write_all(b"* BYE enough\r\n");
        // what has come meanwhile makes this a reset
        drop(stream);
    });
    let mailtee = before("imap", curt).start();
    for _ in 0..200 {
        let mut client = TcpStream::connect(mailtee.frontend).expect("it listens");
        client.set_read_timeout(Some(SOON)).expect("a limit");
        let mut talker = client.try_clone().expect("a second handle");
        let talks = thread::spawn(move || {
            for _ in 0..200 {
                if talker.write_all(b"a NOOP\r\n").is_err() {
                    break;
                }
            }
            let _ = talker.shutdown(Shutdown::Write);
        });
        let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(count) = client.read(&mut buffer) {
            if count == 0 {
                break;
            }
            heard.extend_from_slice(&buffer[..count]);
        }
        talks.join().expect("the talker");
        assert_eq!(
            heard.escape_ascii().to_string(),
            "* OK ready\\r\\n* BYE enough\\r\\n"
        );
    }
    wait_until_all_ended(&mailtee);
}

#[test]
fn both_legs_are_kept_alive() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let mailtee = before("imap", server.imap()).start();
    let mut client = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    client.ok("NOOP");
    let legs = [
        format!("sport = :{}", mailtee.frontend.port()),
        format!("dport = :{}", server.imap().port()),
    ];
    for leg in legs {
        let timers = wait_until(SOON, "nothing is in flight", || {
            let output = Command::new("ss")
                .args(["-tnoH", "state", "established", &leg])
                .output()
                .expect("ss, of the package iproute2");
            let timers = String::from_utf8_lossy(&output.stdout).into_owned();
            timers.contains("timer:(keepalive,").then_some(timers)
        });
        assert_eq!(timers.lines().count(), 1, "{timers}");
    }
}

#[test]
fn a_daemon_that_stops_lets_end_what_is_under_way() {
    let server = with_mail(3);
    let mut mailtee = before("imap", server.imap()).start();
    let mut idle = ImapClient::logged_in(mailtee.frontend, &server.user(2));
    idle.ok("SELECT INBOX");
    idle.begin(b"IDLE\r\n").expect("it listens");
    assert!(idle.line().expect("leave").starts_with(b"+"));
    let message = Mail::sized(1, 100_000).bytes;
    let (half, rest) = message.split_at(50_000);
    let mut saves = ImapClient::logged_in(mailtee.frontend, &server.user(2));
    let append = format!("APPEND INBOX {{{}}}\r\n", message.len());
    let append = saves.begin(append.as_bytes()).expect("it listens");
    assert!(saves.line().expect("leave").starts_with(b"+"));
    saves.send(half).expect("it listens");
    let mut reads = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    reads.ok("SELECT INBOX");
    let fetch = b"FETCH 1:* BODY.PEEK[]\r\n";
    let fetch = reads.begin(fetch).expect("it listens");
    let mut heard = reads.response().expect("the first message");

    mailtee.signal(Signal::TERM);
    let bye = idle.line().expect("a last word");
    assert!(bye.starts_with(b"* BYE"), "{}", bye.escape_ascii());
    assert!(idle.rest().expect("the end").is_empty());
    wait_until(SOON, "nobody else is let in", || {
        TcpStream::connect(mailtee.frontend).err()
    });

    saves.send(&[rest, b"\r\n"].concat()).expect("it listens");
    let answer = saves.finish(&append).expect("an answer");
    assert!(answer.is_ok(), "{}", answer.tagged);
    for serial in 0..3 {
        assert!(memchr::memmem::find(&heard, &large(serial)).is_some());
        if serial < 2 {
            heard = reads.response().expect("the next one");
        }
    }
    assert!(reads.finish(&fetch).expect("an answer").is_ok());
    for client in [&mut saves, &mut reads] {
        let bye = client.line().expect("a last word");
        assert!(bye.starts_with(b"* BYE"), "{}", bye.escape_ascii());
        assert!(client.rest().expect("the end").is_empty());
    }
    assert!(mailtee.ended().success());
    mailtee.start();
    let archive = archive(&mailtee);
    assert_eq!(archive.copies.len(), 4);
    archive.one_with(&message, "what was saved");
}

#[test]
fn a_daemon_that_stops_lets_end_what_is_under_way_in_pop3() {
    let server = with_mail(1);
    let mut mailtee = before("pop3", server.pop3()).start();
    let log_in = |number: u32| {
        let (mut client, _) = ImapClient::connect(mailtee.frontend).expect("it greets");
        let (user, password) = server.user(number);
        for line in [format!("USER {user}\r\n"), format!("PASS {password}\r\n")] {
            client.send(line.as_bytes()).expect("it listens");
            assert!(client.line().expect("a reply").starts_with(b"+OK"));
        }
        client
    };
    let (mut reads, mut quiet) = (log_in(1), log_in(2));
    reads.send(b"RETR 1\r\n").expect("it listens");
    assert!(reads.line().expect("a reply").starts_with(b"+OK"));
    mailtee.signal(Signal::TERM);
    let bye = quiet.line().expect("a last word");
    assert!(
        bye.starts_with(b"-ERR [SYS/TEMP]"),
        "{}",
        bye.escape_ascii()
    );
    assert!(quiet.rest().expect("the end").is_empty());
    let message = large(0);
    assert!(reads.exactly(message.len()).expect("all of it") == message);
    assert_eq!(reads.line().expect("its end"), b".");
    let bye = reads.line().expect("a last word");
    assert!(
        bye.starts_with(b"-ERR [SYS/TEMP]"),
        "{}",
        bye.escape_ascii()
    );
    assert!(mailtee.ended().success());
    mailtee.start();
    archive(&mailtee).one_with(&message, "what was read");
}

/// A server that is heard from keeps its clients for longer than the idle limit, though they say nothing.
#[test]
fn a_server_that_still_is_there_keeps_who_idles() {
    let setting = Kind::Dovecot.with_users(1);
    let setting = setting.env("EXTRA_CONF", "imap_idle_notify_interval = 1s");
    let server = MailServer::over(Kind::Dovecot, setting);
    let mailtee = before("imap", server.imap())
        .option("idle_timeout", "\"4s\"")
        .start();
    let mut client = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    client.ok("SELECT INBOX");
    let idle = client.begin(b"IDLE\r\n").expect("it listens");
    assert!(client.line().expect("leave").starts_with(b"+"));
    for _ in 0..8 {
        assert_eq!(client.line().expect("a sign of life"), b"* OK Still here");
    }
    client.send(b"DONE\r\n").expect("it listens");
    assert!(client.finish(&idle).expect("an answer").is_ok());
    assert_eq!(errors(&mailtee, "idle_timeout"), 0.0);
}

#[test]
fn who_may_not_come_in_hears_why() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let mailtee = before("imap", server.imap())
        .option("sessions_per_address_max", 1)
        .option("allowed_networks", "[\"127.0.0.1\", \"127.0.0.3\"]")
        .start();
    let mut first = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    for (from, why, reason) in [
        (
            [127, 0, 0, 1],
            "too many connections, try again later",
            "too_many_from_address",
        ),
        ([127, 0, 0, 2], "you may not connect here", "protocol"),
    ] {
        let refused = ImapClient::connect_from(from, mailtee.frontend);
        let (mut refused, bye) = refused.expect("a last word");
        assert_eq!(bye, format!("* BYE [UNAVAILABLE] mailtee: {why}"));
        assert!(refused.rest().expect("the end").is_empty());
        assert_eq!(errors(&mailtee, reason), 1.0);
    }
    let elsewhere = ImapClient::connect_from([127, 0, 0, 3], mailtee.frontend);
    assert!(elsewhere.expect("it greets").1.starts_with("* OK"));
    first.ok("NOOP");
}
