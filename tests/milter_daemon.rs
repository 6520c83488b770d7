//! The milter of the built daemon: a disk that stalls, strangers at the port, a large message, a reload.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use mailtee::wire::milter::Reply;
use rustix::process::Signal;

use crate::kit::{Mailtee, MilterClient, SlowSyncs, daemon::Setting, wait_until};

const DEADLINE: Duration = Duration::from_secs(60);

fn milter() -> Setting {
    Mailtee::filter("127.0.0.1:25")
        .option("protocol", "\"milter\"")
        .without("role")
        .without("upstream")
}

#[test]
fn a_disk_that_stalls_is_waited_for_with_progress_and_not_for_ever() {
    let mailtee = milter().option("capture_timeout", "\"5s\"").start();
    let mut client = MilterClient::connect(mailtee.frontend).unwrap();
    let slow = SlowSyncs::of(&mailtee, 4);
    assert_eq!(client.message("waited for").unwrap(), Reply::Progress);
    assert_eq!(client.verdict().unwrap(), Reply::Continue);
    drop(slow);
    let slow = SlowSyncs::of(&mailtee, 8);
    assert_eq!(client.message("too late").unwrap(), Reply::Progress);
    assert_eq!(client.verdict().unwrap(), Reply::TempFail);
    drop(slow);
    assert_eq!(client.message("later").unwrap(), Reply::Continue);
    mailtee.wait_until_forwarded(DEADLINE);
    let front = |outcome| [("frontend", "front"), ("outcome", outcome)];
    let metrics = mailtee.metrics();
    for (outcome, count) in [("captured", 2.0), ("failed", 1.0)] {
        assert_eq!(
            metrics.value("captured_messages_total", &front(outcome)),
            count
        );
    }
    assert_eq!(
        mailtee.vault().emails().len(),
        2,
        "nothing is left of the one too late"
    );
}

/// A large message goes to the disk as it comes.
#[test]
fn a_disk_that_stalls_in_mid_message_is_not_waited_for_for_ever() {
    for (policy, verdict, outcome) in [
        ("tempfail", Reply::TempFail, "failed"),
        ("pass", Reply::Continue, "gap"),
    ] {
        let mailtee = milter()
            .option("capture_timeout", "\"1s\"")
            .option("on_capture_failure", format!("{policy:?}"))
            .start();
        let mut client = MilterClient::connect(mailtee.frontend).unwrap();
        client.begin(&[("Subject", "large")]).unwrap();
        let slow = SlowSyncs::calls(&mailtee, "pwrite64", 20);
        let begin = Instant::now();
        for _ in 0..60 {
            client.send(|mta| mta.body(&[b'x'; 50_000])).unwrap();
        }
        client.send(|mta| mta.end_of_body(b"")).unwrap();
        assert_eq!(client.verdict().unwrap(), verdict, "{policy}");
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(15), "{policy}: {took:?}");
        drop(slow);
        let labels = [("frontend", "front"), ("outcome", outcome)];
        wait_until(Duration::from_secs(20), "it is counted", || {
            let counted = mailtee.metrics().value("captured_messages_total", &labels);
            (counted == 1.0).then_some(())
        });
    }
}

/// Its connection is reset, or closed in good order.
#[test]
fn the_copies_of_messages_whose_answer_nobody_heard_stay() {
    let mailtee = milter().start();
    let mut clients = Vec::new();
    for subject in ["reset", "closed"] {
        let mut client = MilterClient::connect(mailtee.frontend).unwrap();
        client.begin(&[("Subject", subject)]).unwrap();
        clients.push(client);
    }
    let slow = SlowSyncs::of(&mailtee, 4);
    for client in &mut clients {
        client.send(|mta| mta.end_of_body(b"text\r\n")).unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.reply().unwrap(), Reply::Progress);
    }
    let socket = socket2::SockRef::from(&clients[0].stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(clients);
    let unknown = [("frontend", "front"), ("outcome", "unknown")];
    wait_until(DEADLINE, "both are counted", || {
        let metrics = mailtee.metrics();
        (metrics.value("captured_messages_total", &unknown) == 2.0).then_some(())
    });
    drop(slow);
    mailtee.wait_until_forwarded(DEADLINE);
    assert_eq!(mailtee.vault().emails().len(), 2);
}

#[test]
fn strangers_are_closed_without_a_word_and_with_a_line_each() {
    let mailtee = milter().start();
    let strangers: [(&[u8], &str); 5] = [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "looks like HTTP"),
        (b"EHLO scanner\r\n", "looks like SMTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "looks like TLS"),
        (&[0; 64], "garbage"),
        (b"\xff\xff\xff\xffO", "garbage"),
    ];
    for (said, _) in strangers {
        let mut stream = TcpStream::connect(mailtee.frontend).unwrap();
        stream.write_all(said).unwrap();
        let mut heard = Vec::new();
        // A reset, where more was said than was read.
        let _ = stream.read_to_end(&mut heard);
        assert_eq!(heard, b"");
    }
    // A probe of the port says nothing, and nothing is said of it.
    for _ in 0..3 {
        drop(TcpStream::connect(mailtee.frontend).unwrap());
    }
    let front = [("frontend", "front")];
    wait_until(DEADLINE, "all are gone", || {
        let metrics = mailtee.metrics();
        let gone = metrics.value("sessions_total", &front) == 8.0
            && metrics.value("sessions", &front) == 0.0;
        gone.then_some(())
    });
    let log = mailtee.log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("session"))
        .collect();
    assert_eq!(lines.len(), strangers.len(), "{lines:#?}");
    for (line, (_, what)) in lines.iter().zip(strangers) {
        assert!(line.contains(what), "{line}");
    }
    let protocol = [("frontend", "front"), ("reason", "protocol")];
    let errors = mailtee.metrics().value("session_errors_total", &protocol);
    assert_eq!(errors, strangers.len() as f64);
}

#[test]
fn a_hundred_megabytes_are_not_held_in_memory() {
    const PIECES: usize = 1600;
    let mailtee = milter().start();
    let peak = || {
        let status = fs::read_to_string(format!("/proc/{}/status", mailtee.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kilobytes.unwrap().parse::<usize>().unwrap()
    };
    let mut client = MilterClient::connect(mailtee.frontend).unwrap();
    assert_eq!(client.message("small").unwrap(), Reply::Continue);
    mailtee.wait_until_forwarded(DEADLINE);
    let before = peak();
    client.begin(&[("Subject", " large")]).unwrap();
    let piece = [b'x'; 65_535];
    for _ in 0..PIECES {
        client.tell(|mta| mta.body(&piece)).unwrap();
    }
    assert_eq!(client.end(b"\r\n").unwrap(), Reply::Continue);
    let grown = peak() - before;
    assert!(grown < 48 << 10, "{grown} kB more for 100 MB");
}

#[test]
fn a_reload_leaves_sessions_alone() {
    let mailtee = milter().start();
    let mut client = MilterClient::connect(mailtee.frontend).unwrap();
    client.begin(&[("Subject", " one")]).unwrap();
    mailtee.signal(Signal::HUP);
    wait_until(DEADLINE, "it has read its file again", || {
        let applied = [("result", "applied")];
        let metrics = mailtee.metrics();
        (metrics.value("config_reloads_total", &applied) == 1.0).then_some(())
    });
    assert_eq!(client.end(b"text\r\n").unwrap(), Reply::Continue);
    assert_eq!(client.message("two").unwrap(), Reply::Continue);
    mailtee.wait_until_forwarded(DEADLINE);
    assert_eq!(mailtee.vault().emails().len(), 2);
}
