//! What can remove a message is held while the copies of what was read before it are on their way to a disk that stalls; it
//! goes on when they are safe, or a gap. Nobody is stuck by it: neither the other direction nor who ends the session.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    kit::{ImapClient, Mail, MailServer, Mailtee, SlowSyncs, mailbox::Kind, wait_until},
    mailbox_imap::{archive, before},
    mailbox_stuck::{scripted, wait_until_all_ended},
};

const SOON: Duration = Duration::from_secs(60);
/// A sync takes so long: what is not held is answered in far less.
const SECONDS: u32 = 4;
/// … or for ever: the test lets go of the disk.
const FOR_EVER: u32 = 600;

fn message(number: u32) -> Vec<u8> {
    Mail::sized(number.into(), 5_000).bytes
}

/// A server of one message a user.
fn with_mail(users: u32) -> MailServer {
    with_mail_at(Kind::Dovecot, users)
}

fn with_mail_at(kind: Kind, users: u32) -> MailServer {
    let server = MailServer::start(kind, users);
    for number in 1..=users {
        let mut direct = ImapClient::logged_in(server.imap(), &server.user(number));
        let answer = direct.append("INBOX", "", &message(number));
        assert!(answer.expect("an answer").is_ok());
    }
    server
}

fn left(server: &MailServer) -> usize {
    server.account(&server.user(1))["INBOX"].len()
}

fn outcomes(mailtee: &Mailtee, outcome: &str) -> f64 {
    let labels = [("frontend", "front"), ("outcome", outcome)];
    mailtee.metrics().value("captured_messages_total", &labels)
}

fn pending(mailtee: &Mailtee) -> f64 {
    let labels = [("frontend", "front")];
    mailtee.metrics().value("pending_copies", &labels)
}

fn pop3(front: SocketAddr, (user, password): &(String, String)) -> ImapClient {
    let (mut client, _) = ImapClient::connect(front).expect("it greets");
    for line in [format!("USER {user}\r\n"), format!("PASS {password}\r\n")] {
        client.send(line.as_bytes()).expect("it listens");
        ok(&mut client);
    }
    client
}

#[track_caller]
fn ok(client: &mut ImapClient) {
    let reply = client.line().expect("a reply");
    assert!(reply.starts_with(b"+OK"), "{}", reply.escape_ascii());
}

/// Asks for all at once, and hears all but the answer to QUIT.
fn reads_and_quits(client: &mut ImapClient) {
    client
        .send(b"RETR 1\r\nDELE 1\r\nQUIT\r\n")
        .expect("it listens");
    ok(client);
    while client.line().expect("the message") != b"." {}
    ok(client);
}

#[test]
fn quit_goes_on_when_the_copy_is_durable() {
    let server = with_mail(1);
    let mailtee = before("pop3", server.pop3()).start();
    let mut client = pop3(mailtee.frontend, &server.user(1));
    let slow = SlowSyncs::of(&mailtee, FOR_EVER);
    reads_and_quits(&mut client);
    assert_eq!(
        (pending(&mailtee), outcomes(&mailtee, "captured")),
        (1.0, 0.0)
    );
    assert_eq!(left(&server), 1, "QUIT is held");
    let released = Instant::now();
    drop(slow);
    ok(&mut client);
    assert_eq!(outcomes(&mailtee, "captured"), 1.0);
    eprintln!("QUIT went on {:?} after the disk did", released.elapsed());
    assert!(client.rest().expect("the end").is_empty());
    assert_eq!(left(&server), 0);
    archive(&mailtee).one_with(&message(1), "what was read");
}

#[test]
fn quit_goes_on_when_the_journal_is_too_late() {
    let server = with_mail(1);
    let mailtee = before("pop3", server.pop3())
        .option("capture_timeout", "\"2s\"")
        .start();
    let mut client = pop3(mailtee.frontend, &server.user(1));
    let slow = SlowSyncs::of(&mailtee, FOR_EVER);
    let since = Instant::now();
    reads_and_quits(&mut client);
    ok(&mut client);
    let took = since.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(outcomes(&mailtee, "gap"), 1.0, "it is known by then");
    assert_eq!(left(&server), 0);
    drop(slow);
}

/// What is answered before a sync can be over was not held.
#[test]
fn whatever_removes_is_held_until_the_copy_is_durable() {
    let commands = [
        "STORE 1 +FLAGS (\\Deleted)\r\n",
        "UID STORE 1 +FLAGS (\\Deleted)\r\n",
        "EXPUNGE\r\n",
        "UID EXPUNGE 1\r\n",
        "CLOSE\r\n",
        "MOVE 1 Trash\r\n",
        "UID MOVE 1 {5+}\r\nTrash\r\n",
        "DELETE {4+}\r\nJunk\r\n",
    ];
    let server = with_mail(commands.len() as u32);
    let mailtee = before("imap", server.imap()).start();
    let mut clients: Vec<_> = (1..=commands.len() as u32)
        .map(|number| ImapClient::logged_in(mailtee.frontend, &server.user(number)))
        .collect();
    clients.iter_mut().for_each(|client| {
        client.ok("SELECT INBOX");
    });
    let slow = SlowSyncs::of(&mailtee, SECONDS);
    thread::scope(|scope| {
        for (client, command) in clients.iter_mut().zip(commands) {
            let mailtee = &mailtee;
            scope.spawn(move || {
                client
                    .send(format!("a FETCH 1 BODY.PEEK[]\r\nb {command}").as_bytes())
                    .expect("it listens");
                for tag in ["a", "b"] {
                    let answer = client.finish(tag).expect("an answer");
                    assert!(answer.is_ok(), "{command}: {}", answer.tagged);
                    let captured = outcomes(mailtee, "captured");
                    assert_eq!(captured > 0.0, tag == "b", "{command}: {tag}");
                }
            });
        }
    });
    drop(slow);
    let archive = archive(&mailtee);
    for number in 1..=commands.len() as u32 {
        archive.one_with(&message(number), "what was read");
    }
}

/// Servers take more than `QUIT` for it, each something else: that is answered by us, and never reaches a server. Nor does a
/// line in whose tail Cyrus would read it.
#[test]
fn what_only_some_server_takes_for_quit_reaches_none() {
    let lines = [
        "QUIT\0x", "QUIT\0", "QU\rIT", "\rQUIT", "QUIT\r", "QUIT\rx", "\r QUIT", "NOOP\0",
        "NOOP \0", "QUITQUIT", " \tQUIT",
    ];
    for kind in [Kind::Dovecot, Kind::Cyrus, Kind::Courier] {
        let server = with_mail_at(kind, 1);
        let mailtee = before("pop3", server.pop3()).start();
        let mut client = pop3(mailtee.frontend, &server.user(1));
        client.send(b"RETR 1\r\nDELE 1\r\n").expect("it listens");
        ok(&mut client);
        while client.line().expect("the message") != b"." {}
        ok(&mut client);
        let long = format!("NOOP {}QUIT", "x".repeat(8_186));
        for line in lines.into_iter().chain([&*long]) {
            // NOOP has its answer though nothing follows it.
            client
                .send(format!("{line}\r\nNOOP\r\n").as_bytes())
                .expect("it listens");
            let answer = client.line().expect("an answer");
            let why: &[u8] = match line.len() {
                ..1024 => b"-ERR No such command",
                _ => b"-ERR That line is too long",
            };
            assert_eq!(answer, why, "{kind:?} {line:?}");
            ok(&mut client);
        }
        // A reset session removes nothing.
        client.send(b"RSET\r\nQUIT\r\n").expect("it listens");
        ok(&mut client);
        ok(&mut client);
        assert!(client.rest().expect("the end").is_empty());
        assert_eq!(left(&server), 1, "{kind:?}");
    }
}

/// There is one copy, and it is the other session's.
#[test]
fn what_another_session_copies_is_waited_for_as_well() {
    let server = with_mail(2);
    let mailtee = before("imap", server.imap()).start();
    for (number, fetch) in [(1, "UID FETCH 1 BODY.PEEK[]"), (2, "FETCH 1 BODY.PEEK[]")] {
        let user = server.user(number);
        let log_in = || {
            let mut client = ImapClient::logged_in(mailtee.frontend, &user);
            client.ok("SELECT INBOX");
            client
        };
        let (mut copies, mut removes) = (log_in(), log_in());
        let slow = SlowSyncs::of(&mailtee, SECONDS);
        copies.ok(fetch);
        removes.ok(fetch);
        wait_until(SOON, "it is found to be known", || {
            (outcomes(&mailtee, "known") == f64::from(number)).then_some(())
        });
        removes.ok("STORE 1 +FLAGS (\\Deleted)");
        assert_eq!(outcomes(&mailtee, "captured"), f64::from(number), "{fetch}");
        drop(slow);
    }
}

/// The server is heard while a command is held, and its end is the session's end.
#[test]
fn a_server_is_heard_while_a_command_is_held() {
    let (tell, told) = mpsc::channel::<&'static [u8]>();
    let told = Mutex::new(told);
    let server = scripted(move |mut stream| {
        let _ = stream.write_all(b"* PREAUTH ready\r\n");
        let _ = stream.read(&mut [0; 256]);
        let _ = stream.write_all(b"* 1 FETCH (BODY[] {4}\r\nmail)\r\nk1 OK done\r\n");
        for text in told.lock().expect("one session").iter() {
            let _ = stream.write_all(text);
        }
    });
    let mailtee = before("imap", server).start();
    let (mut client, _) = ImapClient::connect(mailtee.frontend).expect("it greets");
    let slow = SlowSyncs::of(&mailtee, FOR_EVER);
    client.ok("FETCH 1 BODY[]");
    client.begin(b"EXPUNGE\r\n").expect("it listens");
    for text in ["* 2 EXISTS", "* 3 EXISTS"] {
        let line = [text.as_bytes(), b"\r\n"].concat().leak();
        tell.send(line).expect("it is there");
        assert_eq!(client.line().expect("news"), text.as_bytes());
    }
    drop(tell);
    assert!(client.rest().expect("the end").is_empty());
    wait_until_all_ended(&mailtee);
    assert_eq!(pending(&mailtee), 1.0, "all the while");
    drop(slow);
}

/// It has said all; it is gone; the daemon stops: what is held goes on all the same.
#[test]
fn who_ends_the_session_while_a_command_is_held_has_it_carried_out() {
    for end in ["half-closed", "gone", "stopped"] {
        let server = with_mail(1);
        let mut mailtee = before("pop3", server.pop3()).start();
        let mut client = pop3(mailtee.frontend, &server.user(1));
        let slow = SlowSyncs::of(&mailtee, FOR_EVER);
        reads_and_quits(&mut client);
        assert_eq!(pending(&mailtee), 1.0, "{end}");
        let mut client = Some(client);
        match end {
            "half-closed" => client
                .as_mut()
                .expect("it is there")
                .half_close()
                .expect("open"),
            "gone" => client = None,
            _ => {
                mailtee.signal(Signal::TERM);
                wait_until(SOON, "nobody else is let in", || {
                    TcpStream::connect(mailtee.frontend).err()
                });
            }
        }
        drop(slow);
        if let Some(client) = &mut client {
            ok(client);
            assert!(client.rest().expect("the end").is_empty(), "{end}");
        }
        wait_until(SOON, "it is carried out", || {
            (left(&server) == 0).then_some(())
        });
        if end == "stopped" {
            assert!(mailtee.ended().success());
            mailtee.start();
        }
        wait_until_all_ended(&mailtee);
        archive(&mailtee).one_with(&message(1), end);
    }
}

/// More messages in one answer than copies may be on their way.
#[test]
fn what_a_client_has_read_is_copied_though_it_leaves_while_the_disk_stalls() {
    const MESSAGES: u32 = 800;
    let server = MailServer::start(Kind::Dovecot, 1);
    let mut direct = ImapClient::logged_in(server.imap(), &server.user(1));
    let small = |number: u32| format!("Subject: {number}\r\n\r\nsmall\r\n").into_bytes();
    for number in 0..MESSAGES {
        let answer = direct.append("INBOX", "", &small(number));
        assert!(answer.expect("an answer").is_ok());
    }
    let mailtee = before("imap", server.imap()).start();
    let mut client = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    client.ok("SELECT INBOX");
    let slow = SlowSyncs::of(&mailtee, FOR_EVER);
    client
        .send(b"a FETCH 1:* BODY.PEEK[]\r\n")
        .expect("it listens");
    client.set_patience(Duration::from_secs(3));
    let mut read = Vec::new();
    while let Ok(response) = client.response() {
        read.push(response);
    }
    assert!(
        read.len() > 256 && read.len() < MESSAGES as usize,
        "reading waits for the disk: {} were shown",
        read.len()
    );
    client.reset();
    wait_until_all_ended(&mailtee);
    drop(slow);
    let archive = archive(&mailtee);
    for number in 0..MESSAGES {
        let message = small(number);
        let is_read = read
            .iter()
            .any(|response| memchr::memmem::find(response, &message).is_some());
        let is_copied = archive.copies.iter().any(|copy| copy.bytes == message);
        assert!(is_copied || !is_read, "{number} was read");
    }
}

/// More commands at once than are followed at once: they wait their turn, and what removes waits for all of them.
#[test]
fn however_much_is_asked_for_at_once_all_is_copied_before_it_is_removed() {
    const MESSAGES: u32 = 100;
    let server = MailServer::start(Kind::Dovecot, 1);
    let mut direct = ImapClient::logged_in(server.imap(), &server.user(1));
    for number in 0..MESSAGES {
        let answer = direct.append("INBOX", "", &message(number));
        assert!(answer.expect("an answer").is_ok());
    }
    let mailtee = before("imap", server.imap()).start();
    let mut client = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    client.ok("SELECT INBOX");
    let mut said: String = (0..1_500)
        .map(|serial| format!("f{serial} FETCH {} BODY.PEEK[]\r\n", 1 + serial % MESSAGES))
        .collect();
    said += "s STORE 1:* +FLAGS.SILENT (\\Deleted)\r\ne EXPUNGE\r\n";
    client.send(said.as_bytes()).expect("it listens");
    for serial in 0..1_500 {
        let answer = client.finish(&format!("f{serial}")).expect("an answer");
        assert!(answer.is_ok(), "{}", answer.tagged);
    }
    for tag in ["s", "e"] {
        assert!(client.finish(tag).expect("an answer").is_ok());
    }
    assert_eq!(outcomes(&mailtee, "captured"), f64::from(MESSAGES));
    assert_eq!(left(&server), 0);
    let archive = archive(&mailtee);
    for number in 0..MESSAGES {
        archive.one_with(&message(number), "what was read");
    }
}
