//! SMTP and LMTP sessions over real sockets and a real journal: what is captured, what is answered, what is counted.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use mailtee::{
    frontends::{OnCaptureFailure, Options},
    message::{Acceptance, Fidelity, Fingerprinter, Protocol},
    net::Networks,
    wire::smtp::{Dialect, Role},
};

use crate::{
    kit::{
        Mail, Mailtee, Sink, SmtpClient,
        client::stuffed,
        sink::{Answer, Moment},
        wait_until,
    },
    smtp_rig::{Front, content, filter, loopback, sink, upstream},
};

/// Greeted, with a transaction open up to the 354.
fn in_data(address: SocketAddr) -> SmtpClient {
    let mut client = SmtpClient::greeted(address).unwrap();
    for (line, code) in [
        ("MAIL FROM:<a@example.org>", 250),
        ("RCPT TO:<b@example.net>", 250),
        ("DATA", 354),
    ] {
        assert_eq!(client.command(line).unwrap().code, code, "{line}");
    }
    client
}

#[test]
fn each_message_is_relayed_and_captured_byte_for_byte() {
    let sink = Sink::start();
    let front = Front::start(filter(sink.address()));
    let mut client = SmtpClient::greeted(front.address).unwrap();
    let mails: Vec<_> = (0..40).map(|serial| Mail::varied(7, serial)).collect();
    for mail in &mails {
        let reply = client.mail(mail).unwrap();
        assert!(reply.is_success(), "{}", reply.text());
    }
    client.quit().unwrap();
    let received = sink.wait_for(mails.len());
    let captures = front.captures(mails.len());
    for ((mail, received), capture) in mails.iter().zip(&received).zip(&captures) {
        assert!(received.bytes == mail.bytes, "relayed is not sent");
        assert!(content(capture) == mail.bytes, "captured is not sent");
        let sighting = capture.sighting();
        assert_eq!(sighting.fingerprint, Fingerprinter::of(&mail.bytes));
        let envelope = sighting.envelope().unwrap();
        assert_eq!(envelope.recipients.len(), received.recipients.len());
        assert!(matches!(capture.acceptance(), Acceptance::Accepted { .. }));
    }
    assert_eq!(front.outcomes("captured"), mails.len() as u64);
}

#[test]
fn thirty_megabytes_pass() {
    let front = Front::over_sink(Dialect::Smtp, filter);
    let mut client = in_data(front.address);
    let line = [&[b'x'; 998][..], b"\r\n"].concat();
    let body = line.repeat(30_000);
    client.send(&stuffed(&body)).unwrap();
    assert!(client.reply().unwrap().is_success());
    let captures = front.captures(1);
    assert_eq!(
        captures[0].body().expect("its content").bytes(),
        body.len() as u64
    );
    assert!(content(&captures[0]) == body);
    assert_eq!(captures[0].sighting().fingerprint, Fingerprinter::of(&body));
}

/// As many as the descriptors of one process carry: the daemon has two a session, its client's and the next hop's, and
/// so has this process, which is both. Raw sockets: the kit's client takes two by itself.
#[test]
fn as_many_sessions_as_descriptors_carry_and_the_one_too_many() {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let descriptors = descriptors.current.unwrap_or(20_000).min(20_000);
    let sessions = (usize::try_from(descriptors).unwrap() - 200) / 2;
    let next_hop = sink(Dialect::Smtp).0;
    let mailtee = Mailtee::filter(next_hop)
        .option("sessions_max", sessions)
        .option("sessions_per_address_max", sessions)
        .start();
    let talk = |stream: &mut TcpStream, said: &str, heard: &str| {
        stream.write_all(said.as_bytes()).unwrap();
        read_until(stream, heard)
    };
    let mut clients = Vec::with_capacity(sessions);
    while clients.len() < sessions {
        let mut client = TcpStream::connect(mailtee.frontend).unwrap();
        talk(&mut client, "", "220 ");
        clients.push(client);
    }
    let front = [("frontend", "front")];
    let open = mailtee.metrics().value("sessions", &front);
    assert_eq!(open, sessions as f64);
    let mut refused = TcpStream::connect(mailtee.frontend).unwrap();
    let reply = talk(&mut refused, "", "\r\n");
    assert_eq!(reply, "421 4.3.2 Too many sessions, try again later\r\n");
    for client in clients.iter_mut().step_by(100) {
        let transaction = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n";
        talk(client, transaction, "\r\n354");
        talk(client, "Subject: x\r\n\r\ntext\r\n.\r\n", "taken as 1");
    }
    drop(clients);
    let gone = || mailtee.metrics().value("sessions", &front) == 0.0;
    wait_until(Duration::from_secs(60), "all have ended", || {
        gone().then_some(())
    });
    assert!(SmtpClient::greeted(mailtee.frontend).is_ok());
}

#[test]
fn too_many_from_one_address() {
    let front = Front::over_sink(Dialect::Smtp, |next_hop| {
        let mut options = filter(next_hop);
        options.limits.sessions_per_address = 1;
        options
    });
    let _first = SmtpClient::greeted(front.address).unwrap();
    let (_, reply) = SmtpClient::connect(front.address).unwrap();
    assert!(reply.text().starts_with("421 4.7.0"), "{}", reply.text());
    assert_eq!(front.errors("too_many_from_address"), 1);
}

#[test]
fn an_idle_client_is_told_so() {
    let front = Front::over_sink(Dialect::Smtp, |next_hop| {
        let mut options = filter(next_hop);
        options.limits.idle = Duration::from_millis(50);
        options
    });
    let mut client = SmtpClient::greeted(front.address).unwrap();
    assert!(client.reply().unwrap().text().starts_with("421 4.4.2 Idle"));
    let mut client = in_data(front.address);
    client.send(b"half a message").unwrap();
    assert!(client.reply().unwrap().text().starts_with("421 4.4.2 Idle"));
    front.wait("both are counted", |f| f.errors("idle_timeout") == 2);
    front.wait("the half message is none", |f| f.outcomes("aborted") == 1);
    assert_eq!((front.sunk(), front.waiting()), (0, 0));
}

#[test]
fn a_session_has_an_end() {
    let front = Front::over_sink(Dialect::Smtp, |next_hop| {
        let mut options = filter(next_hop);
        options.limits.total = Duration::from_millis(100);
        options
    });
    let mut client = SmtpClient::greeted(front.address).unwrap();
    while let Ok(reply) = client.command("NOOP") {
        if reply.code == 421 {
            assert_eq!(reply.text(), "421 4.4.2 Session took too long, closing");
            break;
        }
    }
    front.wait("it is counted", |f| f.errors("total_timeout") == 1);
}

#[test]
fn no_next_hop_is_try_again_later() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let front = Front::start(filter(address));
    let (_, reply) = SmtpClient::connect(front.address).unwrap();
    assert!(reply.text().starts_with("421 4.3.2"), "{}", reply.text());
    assert_eq!(front.errors("upstream_refused"), 1);
}

#[test]
fn a_silent_next_hop_is_given_up() {
    let sink = Sink::scripted(|moment| match moment {
        Moment::Command(line) if line.starts_with("NOOP") => Answer::Stall,
        _ => Answer::Default,
    });
    let mut options = filter(sink.address());
    options.limits.upstream_reply = Duration::from_millis(100);
    let front = Front::start(options);
    let mut client = SmtpClient::greeted(front.address).unwrap();
    assert!(
        client
            .command("NOOP")
            .unwrap()
            .text()
            .starts_with("421 4.4.2")
    );
    assert_eq!(front.errors("upstream_timeout"), 1);
}

#[test]
fn the_copy_of_an_unanswered_message_stays() {
    let sink = Sink::scripted(|moment| match moment {
        Moment::EndOfData(_) => Answer::SayAndClose(String::new()),
        _ => Answer::Default,
    });
    let front = Front::start(filter(sink.address()));
    let mut client = in_data(front.address);
    client.send(&stuffed(b"text\r\n")).unwrap();
    assert!(client.reply().unwrap().text().starts_with("451 4.4.2"));
    let captures = front.captures(1);
    assert_eq!(captures[0].acceptance(), &Acceptance::Unknown);
    assert_eq!(front.outcomes("unknown"), 1);
}

/// A next hop that dies after this many bytes of a session.
fn dying_next_hop(after: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 next ESMTP\r\n").unwrap();
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        while seen.len() < after {
            let n = stream.read(&mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..n]);
            for line in buffer[..n].split_inclusive(|b| *b == b'\n') {
                let reply: &[u8] = match line.get(..4) {
                    Some(b"DATA") => b"354 go\r\n",
                    Some(b"EHLO" | b"MAIL" | b"RCPT") => b"250 ok\r\n",
                    _ => continue,
                };
                stream.write_all(reply).unwrap();
            }
        }
    });
    address
}

#[test]
fn a_next_hop_killed_in_the_data_leaves_no_copy() {
    let front = Front::start(filter(dying_next_hop(20_000)));
    let mut client = in_data(front.address);
    client
        .send(&stuffed(&b"0123456789abcdef\r\n".repeat(200_000)))
        .unwrap();
    assert!(client.reply().unwrap().text().starts_with("451 4.4.2"));
    assert_eq!(front.outcomes("aborted"), 1);
    assert_eq!(front.waiting(), 0);
    assert_eq!(client.quit().unwrap().code, 221);
}

#[test]
fn a_client_that_leaves_in_the_data_leaves_no_copy() {
    let front = Front::over_sink(Dialect::Smtp, filter);
    let mut client = in_data(front.address);
    client.send(b"Subject: x\r\n\r\nhalf\r\n").unwrap();
    drop(client);
    front.wait("it is counted", |f| f.outcomes("aborted") == 1);
    assert_eq!((front.sunk(), front.waiting()), (0, 0));
}

/// It resets the connection while the next hop thinks about its message: the reply that nobody reads is no second loss.
#[test]
fn a_client_that_is_lost_is_counted_once() {
    let (asked, is_asked) = mpsc::channel();
    let (answer, may_answer) = mpsc::channel::<()>();
    let (asked, may_answer) = (Mutex::new(asked), Mutex::new(may_answer));
    let next_hop = Sink::scripted(move |moment| {
        if let Moment::EndOfData(_) = moment {
            asked.lock().unwrap().send(()).unwrap();
            may_answer.lock().unwrap().recv().unwrap();
        }
        Answer::Default
    });
    let front = Front::start(filter(next_hop.address()));
    let mut client = TcpStream::connect(front.address).unwrap();
    client
        .write_all(b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n")
        .unwrap();
    read_until(&mut client, "\r\n354");
    client.write_all(b"x\r\n.\r\n").unwrap();
    is_asked.recv_timeout(Duration::from_secs(60)).unwrap();
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    front.wait("it is counted", |f| f.errors("client_lost") == 1);
    answer.send(()).unwrap();
    front.wait("the session has ended", |f| f.sessions() == 0);
    assert_eq!(front.errors("client_lost"), 1);
    assert_eq!(content(&front.captures(1)[0]), b"x\r\n");
}

#[test]
fn a_full_journal_is_try_again_later() {
    let next_hop = Sink::start();
    let front = Front::with_journal(filter(next_hop.address()), |journal| {
        journal.free_bytes_min = u64::MAX;
    });
    let mut client = SmtpClient::greeted(front.address).unwrap();
    let reply = client.mail(&Mail::plain(1)).unwrap();
    assert!(reply.text().starts_with("451 4.3.0"), "{}", reply.text());
    assert_eq!(front.outcomes("failed"), 1);
    assert_eq!(next_hop.count(), 0);
}

#[test]
fn a_copy_that_fails_with_the_end_in_hand_is_try_again_later_at_once() {
    let next_hop = Sink::start();
    let mut large = std::path::PathBuf::new();
    let front = Front::with_journal(filter(next_hop.address()), |journal| {
        journal.large_bytes_min = 1;
        large = journal.data_dir.join("journal/large");
    });
    std::fs::remove_dir(large).unwrap();
    let mut client = SmtpClient::greeted(front.address).unwrap();
    let reply = client.mail(&Mail::plain(1)).unwrap();
    assert!(reply.text().starts_with("451 4.3.0"), "{}", reply.text());
    assert_eq!(front.outcomes("failed"), 1);
    assert_eq!(next_hop.count(), 0);
}

#[test]
fn a_full_journal_lets_mail_flow_where_that_was_chosen() {
    let next_hop = Sink::start();
    let mut options = filter(next_hop.address());
    options.on_capture_failure = OnCaptureFailure::Pass;
    let front = Front::with_journal(options, |journal| journal.free_bytes_min = u64::MAX);
    let mut client = SmtpClient::greeted(front.address).unwrap();
    let mail = Mail::plain(1);
    assert!(client.mail(&mail).unwrap().is_success());
    assert_eq!(front.outcomes("gap"), 1);
    assert!(next_hop.wait_for(1)[0].bytes == mail.bytes);
}

#[test]
fn a_copy_that_is_synced_too_late_is_discarded_unless_the_message_went_on() {
    for (policy, kept) in [(OnCaptureFailure::Tempfail, 0), (OnCaptureFailure::Pass, 1)] {
        let next_hop = Sink::start();
        let mut options = filter(next_hop.address());
        options.on_capture_failure = policy;
        options.limits.capture = Duration::ZERO;
        let front = Front::start(options);
        let mut client = SmtpClient::greeted(front.address).unwrap();
        let reply = client.mail(&Mail::plain(1)).unwrap();
        assert_eq!(reply.is_success(), kept == 1, "{}", reply.text());
        front.caught_up();
        assert_eq!(front.waiting(), kept);
        assert_eq!(next_hop.count() as u64, kept);
    }
}

#[test]
fn mail_flows_and_is_copied_with_pass_as_well() {
    let next_hop = Sink::start();
    let mut options = filter(next_hop.address());
    options.on_capture_failure = OnCaptureFailure::Pass;
    let front = Front::start(options);
    let mut client = SmtpClient::greeted(front.address).unwrap();
    let mail = Mail::plain(1);
    assert!(client.mail(&mail).unwrap().is_success());
    assert!(content(&front.captures(1)[0]) == mail.bytes);
    assert_eq!(front.outcomes("captured"), 1);
}

#[test]
fn what_the_next_hop_refused_is_kept_only_on_request() {
    for keep in [false, true] {
        let next_hop = Sink::scripted(|moment| match moment {
            Moment::EndOfData(_) => Answer::Say("550 5.7.1 no\r\n".into()),
            _ => Answer::Default,
        });
        let mut options = filter(next_hop.address());
        options.capture_rejected = keep;
        let front = Front::start(options);
        let mut client = SmtpClient::greeted(front.address).unwrap();
        assert_eq!(client.mail(&Mail::plain(1)).unwrap().text(), "550 5.7.1 no");
        assert_eq!(front.outcomes("rejected"), 1);
        if keep {
            let reply = "550 5.7.1 no".into();
            let captures = front.captures(1);
            assert_eq!(captures[0].acceptance(), &Acceptance::Rejected { reply });
        } else {
            front.wait("it is discarded", |f| f.waiting() == 0);
        }
    }
}

#[test]
fn bare_line_ends_at_a_filter_are_marked() {
    let next_hop = Sink::start();
    let front = Front::start(filter(next_hop.address()));
    let mut client = in_data(front.address);
    client.send(b"a\n.\nb\r\n.\r\n").unwrap();
    assert!(client.reply().unwrap().is_success());
    assert_eq!(next_hop.wait_for(1)[0].bytes, b"a . b\r\n");
    let captures = front.captures(1);
    assert_eq!(content(&captures[0]), b"a . b\r\n");
    assert_eq!(captures[0].sighting().fidelity, [Fidelity::CrLfReplaced]);
}

#[test]
fn lmtp_over_a_unix_socket() {
    let dir = crate::kit::TestDir::new();
    let path = dir.join("lmtp");
    let next_hop = Sink::lmtp(|_| Answer::Default);
    let mut options = Options::new(
        "front",
        Protocol::Lmtp,
        Role::Filter,
        format!("unix:{}", path.display()).parse().unwrap(),
    );
    options.upstream = Some(upstream(next_hop.address()));
    let front = Front::start(options);
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream
        .write_all(b"LHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<1@d>\r\nRCPT TO:<2@d>\r\nDATA\r\n")
        .unwrap();
    read_until(&mut stream, "\r\n354");
    stream.write_all(b"x\r\n.\r\nQUIT\r\n").unwrap();
    let end = read_until(&mut stream, "\r\n221");
    assert_eq!(end.matches("250 ").count(), 2, "{end}");
    let captures = front.captures(1);
    assert_eq!(content(&captures[0]), b"x\r\n");
    assert_eq!(captures[0].sighting().protocol, Protocol::Lmtp);
}

fn read_until(stream: &mut impl Read, what: &str) -> String {
    let (mut seen, mut buffer) = (String::new(), [0; 4096]);
    while !seen.contains(what) {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "ended after {seen:?}");
        seen.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    seen
}

#[test]
fn the_journal_endpoint_names_the_capture_and_takes_reports_apart() {
    let options = Options::new("front", Protocol::Journal, Role::Journal, loopback());
    let front = Front::start(options);
    let mut client = SmtpClient::greeted(front.address).unwrap();
    let report = b"From: x@y\r\nX-MS-Journal-Report:\r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/mixed; boundary=\"b\"\r\n\r\n\
        --b\r\nContent-Type: text/plain\r\n\r\nSender: anna@example.org\r\nSubject: s\r\n\
        Message-ID: <1@x>\r\nTo: bert@example.net\r\nBcc: carl@example.net\r\n\r\n\
        --b\r\nContent-Type: message/rfc822\r\n\r\nSubject: s\r\n\r\ninner\r\n--b--\r\n";
    let broken = b"X-MS-Journal-Report:\r\nContent-Type: text/plain\r\n\r\nno parts\r\n";
    let plain = b"Subject: plain\r\n\r\nno report\r\n";
    for message in [&report[..], broken, plain] {
        for line in ["MAIL FROM:<>", "RCPT TO:<journal@example.org>"] {
            assert_eq!(client.command(line).unwrap().code, 250);
        }
        assert_eq!(client.command("DATA").unwrap().code, 354);
        client.send(&stuffed(message)).unwrap();
        let reply = client.reply().unwrap().text();
        assert!(reply.starts_with("250 2.0.0 Captured as "), "{reply}");
    }
    let captures = front.captures(3);
    assert_eq!(content(&captures[0]), b"Subject: s\r\n\r\ninner\r\n");
    let envelope = captures[0].sighting().envelope().unwrap();
    assert_eq!(envelope.sender.to_string(), "anna@example.org");
    assert_eq!(envelope.recipients.len(), 2);
    assert_eq!(captures[0].acceptance(), &Acceptance::NotAsked);
    assert_eq!(content(&captures[1]), broken);
    assert_eq!(captures[1].sighting().fidelity, [Fidelity::ReportUnparsed]);
    assert_eq!(content(&captures[2]), plain);
    assert_eq!(captures[2].sighting().fidelity, []);
}

/// Whoever does not wait for the reply to EHLO is heard all the same.
#[test]
fn the_journal_endpoint_takes_what_came_behind_a_barrier() {
    let options = Options::new("front", Protocol::Journal, Role::Journal, loopback());
    let front = Front::start(options);
    let mut stream = std::net::TcpStream::connect(front.address).unwrap();
    read_until(&mut stream, "220 ");
    let commands = b"EHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n";
    std::io::Write::write_all(&mut stream, commands).unwrap();
    stream
        .set_read_timeout(Some(std::time::Duration::from_secs(20)))
        .unwrap();
    read_until(&mut stream, "221 ");
    assert_eq!(content(&front.captures(1)[0]), b"x\r\n");
}

#[test]
fn strangers_may_not_send_to_the_journal_endpoint() {
    let mut options = Options::new("front", Protocol::Journal, Role::Journal, loopback());
    options.allowed = Some(Networks::default());
    let front = Front::start(options);
    let (_, reply) = SmtpClient::connect(front.address).unwrap();
    assert!(reply.text().starts_with("554 5.7.1"), "{}", reply.text());
}

#[test]
fn a_stop_lets_messages_end() {
    let next_hop = Sink::start();
    let front = Front::start(filter(next_hop.address()));
    let mut idle = SmtpClient::greeted(front.address).unwrap();
    let mut busy = in_data(front.address);
    busy.send(b"begun\r\n").unwrap();
    front.stop.cancel();
    front.tasks.close();
    assert!(
        idle.reply()
            .unwrap()
            .text()
            .starts_with("421 4.3.2 Shutting down")
    );
    busy.send(b"ended\r\n.\r\n").unwrap();
    assert!(busy.reply().unwrap().is_success());
    assert_eq!(content(&front.captures(1)[0]), b"begun\r\nended\r\n");
    front.runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(30), front.tasks.wait())
            .await
            .expect("sessions end");
    });
}

/// Both sides write before either reads: a relay that waits for one of them to drain would never end.
#[test]
fn two_peers_that_write_at_once_do_not_block_each_other() {
    const COMMANDS: usize = 50_000;
    let next_hop = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = next_hop.local_addr().unwrap();
    let heard = Arc::new(AtomicUsize::new(0));
    let counted = heard.clone();
    std::thread::spawn(move || {
        let (mut stream, _) = next_hop.accept().unwrap();
        stream.write_all(b"220 next\r\n").unwrap();
        let reply = [b"250 ".as_slice(), &[b'x'; 200], b"\r\n"].concat();
        let mut buffer = [0; 4096];
        loop {
            let n = stream.read(&mut buffer).unwrap_or(0);
            if n == 0 {
                return;
            }
            let commands = buffer[..n].iter().filter(|b| **b == b'\n').count();
            counted.fetch_add(commands, Ordering::Relaxed);
            stream.write_all(&reply.repeat(commands)).unwrap();
        }
    });
    let front = Front::start(filter(address));
    let mut stream = TcpStream::connect(front.address).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let (sent, all_sent) = mpsc::channel();
    std::thread::spawn(move || {
        writer.write_all(&b"NOOP\r\n".repeat(COMMANDS)).unwrap();
        sent.send(()).unwrap();
    });
    let (mut replies, mut buffer) = (0, [0; 65536]);
    while replies < COMMANDS + 1 {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "ended after {replies} replies");
        replies += buffer[..n].iter().filter(|b| **b == b'\n').count();
    }
    all_sent.recv().unwrap();
    assert_eq!(heard.load(Ordering::Relaxed), COMMANDS);
}
