//! Milter sessions over real sockets and a real journal: what is captured, what is answered, what is counted.

use std::{
    fs,
    io::Write,
    net::TcpStream,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    time::Duration,
};

use mailtee::{
    frontends::OnCaptureFailure,
    message::{Acceptance, Fidelity, Protocol},
    net::Networks,
    wire::milter::{FRAME_BYTES_MAX, Mta, Offer, Reply, command},
};

use crate::{
    kit::{MilterClient, TestDir, milter::copy_of},
    smtp_rig::{Front, content, milter},
};

/// Every event is told and answered.
const OLDEST: Offer = Offer {
    version: 2,
    actions: 0,
    protocol: 0,
};

#[test]
fn each_message_is_captured_with_its_envelope_and_client() {
    let front = Front::milter(milter(), |_| {});
    let mut client = MilterClient::connect(front.address).unwrap();
    for subject in ["one", "two"] {
        assert_eq!(client.message(subject).unwrap(), Reply::Continue);
    }
    client.quit().unwrap();
    let captures = front.captures(2);
    for (capture, subject) in captures.iter().zip(["one", "two"]) {
        let copy = String::from_utf8(content(capture)).unwrap();
        assert_eq!(copy, copy_of(subject));
        assert_eq!(capture.acceptance(), &Acceptance::NotAsked);
        let sighting = capture.sighting();
        assert_eq!(sighting.protocol, Protocol::Milter);
        assert_eq!(sighting.fidelity, [Fidelity::Milter]);
        let envelope = sighting.envelope().unwrap();
        assert_eq!(envelope.sender, "a@example.org".into());
        assert_eq!(envelope.sender_parameters, "SIZE=1000".into());
        assert_eq!(envelope.recipients[0].address, "b@example.net".into());
        let told = sighting.client().unwrap();
        assert_eq!(told.address, Some("192.0.2.1".into()));
        assert_eq!(told.queue_id, Some("4Fqueue".into()));
    }
    assert_eq!(front.outcomes("captured"), 2);
    front.wait("the session ends", |f| f.sessions() == 0);
    assert_eq!(front.errors("client_lost"), 0);
}

/// By ABORT, by a new connection on the same socket, by a peer that is gone.
#[test]
fn a_message_given_up_leaves_nothing() {
    let front = Front::milter(milter(), |_| {});
    let mut client = MilterClient::connect(front.address).unwrap();
    let enders: [fn(&mut Mta); 2] = [Mta::abort, Mta::quit_for_new_connection];
    for end in enders {
        client.begin(&[("Subject", " none")]).unwrap();
        client.tell(|mta| mta.body(b"half")).unwrap();
        client
            .send(|mta| {
                end(mta);
                false
            })
            .unwrap();
    }
    assert_eq!(client.message("kept").unwrap(), Reply::Continue);
    assert_eq!(front.outcomes("aborted"), 2);
    client.begin(&[("Subject", " none")]).unwrap();
    drop(client);
    front.wait("it is gone", |f| f.errors("client_lost") == 1);
    assert_eq!(front.outcomes("aborted"), 3);
    assert_eq!(front.waiting(), 1);
}

#[test]
fn a_full_journal_is_try_again_later_or_lets_mail_flow() {
    for (policy, answer, outcome) in [
        (OnCaptureFailure::Tempfail, Reply::TempFail, "failed"),
        (OnCaptureFailure::Pass, Reply::Continue, "gap"),
    ] {
        let mut options = milter();
        options.on_capture_failure = policy;
        let front = Front::milter(options, |journal| journal.free_bytes_min = u64::MAX);
        let mut client = MilterClient::connect(front.address).unwrap();
        assert_eq!(client.message("one").unwrap(), answer);
        // It is the message that failed, not the connection.
        assert_eq!(client.message("two").unwrap(), answer);
        front.wait("both are counted", |f| f.outcomes(outcome) == 2);
        assert_eq!(front.waiting(), 0);
    }
}

#[test]
fn two_hundred_sessions_at_once() {
    const SESSIONS: usize = 200;
    let front = Front::milter(milter(), |_| {});
    let mut clients: Vec<_> = (0..SESSIONS)
        .map(|_| MilterClient::connect(front.address).unwrap())
        .collect();
    for client in &mut clients {
        client.begin(&[("Subject", " many")]).unwrap();
    }
    assert_eq!(front.sessions(), SESSIONS as i64);
    for client in &mut clients {
        client.send(|mta| mta.end_of_body(b"text\r\n")).unwrap();
    }
    for mut client in clients {
        assert_eq!(client.reply().unwrap(), Reply::Continue);
        client.quit().unwrap();
    }
    let captures = front.captures(SESSIONS);
    let whole = b"Subject: many\r\n\r\ntext\r\n";
    assert!(captures.iter().all(|capture| content(capture) == whole));
    front.wait("all have ended", |f| f.sessions() == 0);
}

#[test]
fn a_session_too_many_and_a_stranger_are_closed() {
    let mut options = milter();
    options.limits.sessions = 1;
    let front = Front::milter(options, |_| {});
    let mut first = MilterClient::connect(front.address).unwrap();
    assert!(MilterClient::connect(front.address).is_err());
    front.wait("it is counted", |f| f.errors("too_many_sessions") == 1);
    assert_eq!(first.message("one").unwrap(), Reply::Continue);

    let mut options = milter();
    options.allowed = Networks::default();
    let front = Front::milter(options, |_| {});
    assert!(MilterClient::connect(front.address).is_err());
    front.wait("it is counted", |f| f.errors("protocol") == 1);
}

#[test]
fn who_is_silent_for_too_long_is_closed() {
    let mut options = milter();
    options.limits.idle = Duration::from_millis(200);
    let front = Front::milter(options, |_| {});
    MilterClient::connect(front.address)
        .unwrap()
        .assert_closed();
    let mut client = MilterClient::connect(front.address).unwrap();
    client.begin(&[("Subject", " half")]).unwrap();
    client.assert_closed();
    front.wait("both are counted", |f| f.errors("idle_timeout") == 2);
    assert_eq!((front.outcomes("aborted"), front.waiting()), (1, 0));
}

/// Each event has its answer where the mail server does not go on without, and one that never takes them is left.
#[test]
fn a_peer_that_never_reads_is_left() {
    let mut options = milter();
    options.limits.answer = Duration::from_millis(200);
    let front = Front::milter(options, |_| {});
    let stream = TcpStream::connect(front.address).unwrap();
    let mut client = MilterClient::over(stream, OLDEST).unwrap();
    let helo = |mta: &mut Mta| (0..10_000).all(|_| mta.helo(b""));
    while client.send(helo).is_ok() {}
    front.wait("it is counted", |f| f.errors("idle_timeout") == 1);
}

#[test]
fn a_stop_lets_a_message_end_and_closes_who_is_idle() {
    let front = Front::milter(milter(), |_| {});
    let mut idle = MilterClient::connect(front.address).unwrap();
    assert_eq!(idle.message("before").unwrap(), Reply::Continue);
    // Its events are answered, so that they have been heard before the stop.
    let mut busy = MilterClient::over(TcpStream::connect(front.address).unwrap(), OLDEST).unwrap();
    busy.begin(&[("Subject", " busy")]).unwrap();
    front.stop.cancel();
    front.tasks.close();
    idle.assert_closed();
    assert_eq!(busy.end(b"ended\r\n").unwrap(), Reply::Continue);
    busy.assert_closed();
    let captures = front.captures(2);
    assert_eq!(content(&captures[1]), b"Subject: busy\r\n\r\nended\r\n");
    front.runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(30), front.tasks.wait())
            .await
            .expect("sessions end");
    });
}

#[test]
fn too_many_recipients_are_a_failed_capture() {
    let mut options = milter();
    options.limits.recipients = 2;
    let front = Front::milter(options, |_| {});
    let mut client = MilterClient::connect(front.address).unwrap();
    client.begin(&[("Subject", " few")]).unwrap();
    client.tell(|mta| mta.rcpt(&[b"<c@example.net>"])).unwrap();
    assert_eq!(client.end(b"").unwrap(), Reply::Continue);
    client.begin(&[("Subject", " many")]).unwrap();
    for _ in 0..2 {
        client.tell(|mta| mta.rcpt(&[b"<c@example.net>"])).unwrap();
    }
    assert_eq!(client.end(b"").unwrap(), Reply::TempFail);
    front.wait("it is counted", |f| f.outcomes("failed") == 1);
    assert_eq!(front.errors("too_many_recipients"), 1);
    front.caught_up();
    assert_eq!(front.waiting(), 1);
}

/// As Sendmail and Postfix of all ages offer, and with each bit of the newest alone left out.
#[test]
fn whatever_is_offered_the_copy_is_the_same() {
    let newest = Offer::default();
    let without = (0..21).map(|bit| Offer {
        protocol: newest.protocol & !(1 << bit),
        ..newest
    });
    let old = [(2, 0x1f, 0x7f), (3, 0x1f, 0x1ff), (4, 0x3f, 0x3ff)];
    let old = old.map(|(version, actions, protocol)| Offer {
        version,
        actions,
        protocol,
    });
    let front = Front::milter(milter(), |_| {});
    let offers: Vec<_> = without.chain(old).collect();
    for offer in &offers {
        let stream = TcpStream::connect(front.address).unwrap();
        let mut client = MilterClient::over(stream, *offer).unwrap();
        client.begin(&[("Subject", " one\n\ttwo")]).unwrap();
        assert_eq!(client.end(b"text\r\n").unwrap(), Reply::Continue);
        client.quit().unwrap();
    }
    let whole = b"Subject: one\r\n\ttwo\r\n\r\ntext\r\n";
    for (capture, offer) in front.captures(offers.len()).iter().zip(&offers) {
        assert_eq!(
            content(capture).escape_ascii().to_string(),
            whole.escape_ascii().to_string(),
            "{offer:?}"
        );
    }
}

#[test]
fn a_unix_socket_has_its_mode_and_group() {
    let dir = TestDir::new();
    let path = dir.join("milter");
    let mut options = milter();
    options.listen = format!("unix:{}", path.display()).parse().unwrap();
    options.socket_file.mode = Some(0o660);
    options.socket_file.group = Some("mail".to_owned());
    // Whoever may open the file may connect, whatever the networks are.
    options.allowed = Networks::default();
    let front = Front::milter(options, |_| {});
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    let group = nix::unistd::Group::from_name("mail").unwrap().unwrap();
    let gid = std::os::unix::fs::MetadataExt::gid(&metadata);
    assert_eq!(gid, group.gid.as_raw());
    let stream = UnixStream::connect(&path).unwrap();
    let mut client = MilterClient::over(stream, Offer::default()).unwrap();
    assert_eq!(client.message("one").unwrap(), Reply::Continue);
    assert_eq!(content(&front.captures(1)[0]), copy_of("one").into_bytes());
}

#[test]
fn a_frame_may_be_as_long_as_any_mail_server_makes_it_and_no_longer() {
    let front = Front::milter(milter(), |_| {});
    let mut client = MilterClient::connect(front.address).unwrap();
    client.begin(&[]).unwrap();
    // The letter of the command, and a NUL behind name and value.
    let value = "x".repeat(FRAME_BYTES_MAX - 1 - "Long".len() - 2);
    client
        .tell(|mta| mta.header(b"Long", value.as_bytes()))
        .unwrap();
    let body = vec![b'y'; FRAME_BYTES_MAX - 1];
    client.tell(|mta| mta.body(&body)).unwrap();
    assert_eq!(client.end(b"").unwrap(), Reply::Continue);
    let whole = [b"Long:", value.as_bytes(), b"\r\n\r\n", &body].concat();
    assert!(content(&front.captures(1)[0]) == whole);

    client.begin(&[]).unwrap();
    let length = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_be_bytes();
    client.stream.write_all(&length).unwrap();
    client.stream.write_all(&[command::BODY]).unwrap();
    client.assert_closed();
    front.wait("it is counted", |f| f.errors("protocol") == 1);
    assert_eq!(front.outcomes("captured"), 1);
}
