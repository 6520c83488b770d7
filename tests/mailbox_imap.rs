//! An IMAP session through mailtee before a real Dovecot: what is saved has its copy before the client hears so, what is
//! read has one if it is new, and the session is none the worse for it.

use std::time::Duration;

use mailtee::message::{Acceptance, Fidelity, Origin, Placement, Protocol};

use crate::kit::{
    Archive, ImapClient, Mail, MailServer, Mailtee, daemon::Setting, mailbox::Kind, wait_until,
};

const FORWARDED: Duration = Duration::from_secs(60);

/// mailtee before a mailbox server.
pub(crate) fn before(protocol: &str, upstream: impl ToString) -> Setting {
    Mailtee::filter(upstream)
        .option("protocol", format!("{protocol:?}"))
        .without("role")
}

/// The copies so far.
pub(crate) fn archive(mailtee: &Mailtee) -> Archive {
    mailtee.wait_until_forwarded(FORWARDED);
    Archive::read(mailtee)
}

fn placement(archive: &Archive, message: &[u8]) -> Placement {
    let copy = archive.one_with(message, "the message");
    match &copy.sightings[0].sighting.origin {
        Origin::Placement(placement) => placement.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_client_saves_has_its_copy_before_the_client_hears_so() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let mailtee = before("imap", server.imap()).start();
    let user = server.user(1);
    let mut client = ImapClient::logged_in(mailtee.frontend, &user);
    let messages: Vec<Vec<u8>> = (0..20).map(|n| Mail::varied(3, n).bytes).collect();
    for message in &messages {
        let answer = client.append("INBOX", "\\Seen", message).unwrap();
        assert!(answer.is_ok(), "{}", answer.tagged);
    }
    let captured = mailtee
        .metrics()
        .value("captured_messages_total", &[("outcome", "captured")]);
    assert_eq!(captured, 20.0, "each is durable when its OK is heard");
    let archive = archive(&mailtee);
    for (uid, message) in (1..).zip(&messages) {
        let copy = archive.one_with(message, "the message");
        assert!(
            copy.bytes == *message,
            "what crossed the wire, and nothing else"
        );
        let sighted = &copy.sightings[0];
        assert_eq!(sighted.sighting.protocol, Protocol::Imap);
        assert_eq!(sighted.sighting.fidelity, []);
        assert_eq!(sighted.acceptance, Acceptance::NotAsked);
        let placement = placement(&archive, message);
        assert_eq!(placement.account.to_text(), user.0);
        assert_eq!(placement.folder.to_text(), "INBOX");
        assert_eq!(placement.uid, Some(uid));
        assert!(placement.uid_validity.is_some());
        assert_eq!(placement.flags, [b"\\Seen".as_slice().into()]);
    }
    assert!(server.account(&user)["INBOX"].len() == 20);
}

#[test]
fn what_a_client_reads_has_one_copy_however_often_it_is_read() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let user = server.user(1);
    let message = Mail::plain(1).bytes;
    let mut direct = ImapClient::logged_in(server.imap(), &user);
    assert!(direct.append("INBOX", "", &message).unwrap().is_ok());
    let mailtee = before("imap", server.imap()).start();
    for fetch in [
        "UID FETCH 1 BODY.PEEK[]",
        "UID FETCH 1 (FLAGS RFC822)",
        "FETCH 1 (UID BODY.PEEK[])",
        "UID FETCH 1 (BODY.PEEK[] FLAGS UID)",
    ] {
        for _ in 0..3 {
            let mut client = ImapClient::logged_in(mailtee.frontend, &user);
            client.ok("SELECT INBOX");
            let answer = client.ok(fetch);
            assert!(
                memchr::memmem::find(&answer.untagged[0], &message).is_some(),
                "{fetch}"
            );
        }
    }
    let archive = archive(&mailtee);
    let copy = archive.one_with(&message, "the message");
    assert_eq!(copy.sightings.len(), 1);
    assert_eq!(
        copy.sightings[0].sighting.fidelity,
        [Fidelity::AfterDelivery]
    );
    assert_eq!(placement(&archive, &message).uid, Some(1));
    let known = mailtee
        .metrics()
        .value("captured_messages_total", &[("outcome", "known")]);
    assert_eq!(known, 11.0);
}

#[test]
fn a_message_without_a_number_is_known_by_its_bytes() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let user = server.user(1);
    let mailtee = before("imap", server.imap()).start();
    let mut direct = ImapClient::logged_in(server.imap(), &user);
    let message = Mail::plain(1).bytes;
    assert!(direct.append("INBOX", "", &message).unwrap().is_ok());
    let mut client = ImapClient::logged_in(mailtee.frontend, &user);
    client.ok("SELECT INBOX");
    client.ok("FETCH 1 BODY.PEEK[]");
    client.ok("FETCH 1 RFC822");
    wait_until(FORWARDED, "what was read has its copy", || {
        let captured = [("outcome", "captured")];
        let captured = mailtee.metrics().find("captured_messages_total", &captured);
        (captured == Some(1.0)).then_some(())
    });
    let archive = archive(&mailtee);
    assert_eq!(archive.one_with(&message, "the message").sightings.len(), 1);
}

/// RFC 3516: other bytes than those that lie there, so they are not taken for the message.
#[test]
fn a_message_without_its_transfer_encoding_does_not_stand_for_the_message() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let user = server.user(1);
    let message =
        b"Subject: encoded\r\nMIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n\
        Content-Transfer-Encoding: base64\r\n\r\nAAECAwQFBgcICQ==\r\n";
    let mut direct = ImapClient::logged_in(server.imap(), &user);
    assert!(direct.append("INBOX", "", message).unwrap().is_ok());
    let mailtee = before("imap", server.imap()).start();
    let mut client = ImapClient::logged_in(mailtee.frontend, &user);
    client.ok("SELECT INBOX");
    let copied = |count: f64| {
        wait_until(FORWARDED, "what was read has its copy", || {
            let captured = [("outcome", "captured")];
            let captured = mailtee.metrics().find("captured_messages_total", &captured);
            (captured == Some(count)).then_some(())
        });
    };
    client.ok("UID FETCH 1 BINARY.PEEK[]");
    copied(1.0);
    client.ok("UID FETCH 1 BINARY.PEEK[]");
    client.ok("UID FETCH 1 BODY.PEEK[]");
    copied(2.0);
    client.ok("UID FETCH 1 BINARY.PEEK[]");
    let archive = archive(&mailtee);
    assert_eq!(archive.copies.len(), 2);
    let fidelity = |is_message: bool| {
        let mut copies = archive.copies.iter();
        let copy = copies.find(|copy| (copy.bytes == message) == is_message);
        copy.expect("one of each").sightings[0]
            .sighting
            .fidelity
            .clone()
    };
    assert_eq!(fidelity(true), [Fidelity::AfterDelivery]);
    assert_eq!(
        fidelity(false),
        [Fidelity::AfterDelivery, Fidelity::Decoded]
    );
}

/// As mbsync sends them: none of the answers is waited for, or there is only one.
#[test]
fn however_many_messages_are_saved_at_once_each_has_its_copy() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let mailtee = before("imap", server.imap()).start();
    let mut client = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    let messages: Vec<Vec<u8>> = (0..500).map(|n| Mail::varied(5, n).bytes).collect();
    let (in_a_row, in_one) = messages.split_at(300);
    let mut tags = Vec::new();
    for message in in_a_row {
        let head = format!("APPEND INBOX {{{}+}}\r\n", message.len());
        let command = [head.as_bytes(), message, b"\r\n"].concat();
        tags.push(client.begin(&command).expect("it takes all"));
    }
    for tag in tags {
        assert!(client.finish(&tag).expect("an answer").is_ok());
    }
    let mut command = b"APPEND INBOX".to_vec();
    for message in in_one {
        command.extend(format!(" {{{}+}}\r\n", message.len()).bytes());
        command.extend(message);
    }
    command.extend(b"\r\n");
    let tag = client.begin(&command).expect("it takes all");
    assert!(client.finish(&tag).expect("an answer").is_ok());
    let archive = archive(&mailtee);
    for message in &messages {
        assert!(archive.one_with(message, "saved").bytes == *message);
    }
    let gaps = mailtee
        .metrics()
        .value("captured_messages_total", &[("outcome", "gap")]);
    assert_eq!(gaps, 0.0);
}

#[test]
fn a_line_that_is_too_long_to_follow_is_a_gap() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let mailtee = before("imap", server.imap()).start();
    let mut client = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    let flags: Vec<String> = (0..1500).map(|n| format!("keyword{}", n % 20)).collect();
    let answer = client.append("INBOX", &flags.join(" "), &Mail::plain(1).bytes);
    assert!(answer.unwrap().is_ok());
    let gaps = mailtee
        .metrics()
        .value("captured_messages_total", &[("outcome", "gap")]);
    assert_eq!(gaps, 1.0);
}

/// The server says NO while the literal is on its way to it and to the disk.
#[test]
fn what_is_saved_after_a_refusal_is_what_is_copied() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let mailtee = before("imap", server.imap()).start();
    let mut client = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    let mut saved = Vec::new();
    for round in 0..30 {
        let head = format!("Subject: round {round}\r\n\r\n");
        let message = [head.as_bytes(), &b"0123456789abcd\r\n".repeat(60_000)].concat();
        let folder = format!("folder{round}");
        let head = format!("APPEND {folder} {{{}+}}\r\n", message.len());
        let command = [head.as_bytes(), &message, b"\r\n"].concat();
        let tag = client.begin(&command).expect("it takes all");
        let refused = client.finish(&tag).expect("an answer");
        assert!(refused.tagged.starts_with("NO"), "{}", refused.tagged);
        client.ok(&format!("CREATE {folder}"));
        let tag = client.begin(&command).expect("it takes all");
        assert!(client.finish(&tag).expect("an answer").is_ok());
        saved.push(message);
    }
    let archive = archive(&mailtee);
    assert_eq!(archive.copies.len(), saved.len());
    for message in &saved {
        assert!(archive.one_with(message, "saved").bytes == *message);
    }
}

#[test]
fn what_the_server_refuses_is_not_copied() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let mailtee = before("imap", server.imap()).start();
    let mut client = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    let message = Mail::plain(1).bytes;
    let answer = client.append("No such folder", "", &message).unwrap();
    assert!(answer.tagged.starts_with("NO"), "{}", answer.tagged);
    client.ok("NOOP");
    assert_eq!(archive(&mailtee).copies.len(), 0);
}

#[test]
fn a_full_journal_is_a_gap_and_not_the_sessions_trouble() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let mailtee = before("imap", server.imap())
        .append("[journal]\nsegment_bytes = \"1 MiB\"\ncapacity_bytes = \"2 MiB\"\n")
        .start();
    let mut client = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    let message = [
        b"Subject: large\r\n\r\n".as_slice(),
        &b"0123456789abcd\r\n".repeat(200_000),
    ]
    .concat();
    let answer = client.append("INBOX", "", &message).unwrap();
    assert!(answer.is_ok(), "{}", answer.tagged);
    let answer = client
        .append("INBOX", "", b"Subject: small\r\n\r\n")
        .unwrap();
    assert!(answer.is_ok(), "{}", answer.tagged);
    assert_eq!(archive(&mailtee).copies.len(), 1);
    let gaps = mailtee
        .metrics()
        .value("captured_messages_total", &[("outcome", "gap")]);
    assert_eq!(gaps, 1.0);
}

#[test]
fn a_daemon_that_stops_says_bye_between_two_commands() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let mut mailtee = before("imap", server.imap()).start();
    let mut client = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    client.ok("SELECT INBOX");
    assert!(mailtee.terminate().success());
    let farewell = client.line().expect("a last word");
    assert!(
        farewell.starts_with(b"* BYE"),
        "{}",
        String::from_utf8_lossy(&farewell)
    );
    assert!(client.line().is_err(), "nothing follows");
}
