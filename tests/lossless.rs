//! Dedup is lossless over what real servers do to real messages.
//!
//! ```text
//! client ─→ Postfix ─→ sink            as sent, then as relayed: Received, DKIM-Signature (opendkim signs)
//! client ─→ Postfix ─→ Dovecot LMTP    relayed again: Authentication-Results (opendkim verifies), Return-Path, …
//!                      └→ IMAP, maildir            as a mailbox shows it, as it lies on disk
//! ```

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use mailtee::message::{Difference, Fingerprinter, difference::rebuild};

use crate::kit::{Mail, Peer, Sink, SmtpClient, client::stuffed, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
const VARIED: u64 = 32;

/// What MTAs change beyond traces is not what is looked at here: no field is completed for a local client.
const NO_REWRITING: &str = "local_header_rewrite_clients =";

#[test]
fn each_version_of_a_message_is_made_from_each_others_copy() {
    let sink = Sink::start();
    let signer = Peer::set("opendkim").start();
    let outgoing = Peer::set("postfix")
        .argument("milter")
        .env("FILTER", signer.var("MILTER"))
        .env("NEXT_HOP", sink.address())
        .env("EXTRA_MAIN", NO_REWRITING)
        .start();
    let dovecot = Peer::set("dovecot").start();
    let verifier = Peer::set("opendkim")
        .env("MODE", "verify")
        .env("KEYS", signer.var("PUBLIC_KEYS"))
        .start();
    let incoming = Peer::set("postfix")
        .argument("milter")
        .env("FILTER", verifier.var("MILTER"))
        .env("LMTP", dovecot.var("LMTP"))
        .env("EXTRA_MAIN", NO_REWRITING)
        .start();

    let (mut all, mut signed) = (0, 0);
    for (kind, sent) in messages() {
        let before = sink.count();
        send(smtp(&outgoing), &sent);
        let relayed = wait_until(PATIENCE, "the first relay", || {
            sink.received().into_iter().nth(before)
        });
        let delivered = maildir(&dovecot).len();
        send(smtp(&incoming), &relayed.bytes);
        let on_disk = wait_until(PATIENCE, "delivery", || {
            let files = maildir(&dovecot);
            (files.len() > delivered).then(|| fs::read(newest(&files)).unwrap())
        });
        let in_mailbox = fetch_last(dovecot.address("IMAP"));

        let versions = [
            ("sent", sent),
            ("relayed", relayed.bytes),
            ("in the mailbox", in_mailbox),
        ];
        assert_traces(kind, &versions);
        all += 1;
        signed += usize::from(text(&versions[1].1).contains("DKIM-Signature: "));
        for (stored, copy) in &versions {
            for (seen, sighting) in &versions {
                assert_made_from(copy, sighting, &format!("{kind}: {seen} from {stored}"));
            }
        }
        // On disk every line ends with LF alone: the same message, and bytes that no difference can express.
        let (on_disk, in_mailbox) = (
            Fingerprinter::of(&on_disk),
            Fingerprinter::of(&versions[2].1),
        );
        assert_eq!(on_disk.k2, in_mailbox.k2, "{kind}");
        assert_ne!(on_disk.core, in_mailbox.core, "{kind}");
    }
    // opendkim signs nothing without an author in From.
    assert!(signed > all / 2, "{signed} of {all} were signed");
}

/// The sighting's exact bytes come out of the stored copy, and what is kept for that is small.
fn assert_made_from(stored: &[u8], sighting: &[u8], what: &str) {
    let (kept, seen) = (Fingerprinter::of(stored), Fingerprinter::of(sighting));
    assert_eq!(
        kept.k2,
        seen.k2,
        "{what}: not the same message:\n{}\n{}",
        text(stored),
        text(sighting)
    );
    assert_eq!(kept.core, seen.core, "{what}");
    let difference = Difference::extract(sighting)
        .unwrap()
        .expect("traces within the limit");
    let mut made = Vec::new();
    let k1 = rebuild(stored, &difference, &mut made).unwrap();
    assert_eq!(k1, seen.k1, "{what}");
    assert_eq!(made, sighting, "{what}");
    assert!(difference.bytes() < 8 * 1024, "{what}");
}

/// The servers did add what this test is about.
fn assert_traces(kind: &str, versions: &[(&str, Vec<u8>); 3]) {
    let [_, (_, relayed), (_, in_mailbox)] = versions;
    let has = |message: &[u8], name: &str| text(message).contains(&format!("\n{name}:"));
    assert!(
        has(relayed, "Received") || text(relayed).starts_with("Received: "),
        "{kind}:\n{}",
        text(relayed)
    );
    for name in ["Delivered-To", "Received", "Authentication-Results"] {
        assert!(
            has(in_mailbox, name),
            "{kind}: no {name}:\n{}",
            text(in_mailbox)
        );
    }
    assert!(
        text(in_mailbox).starts_with("Return-Path: "),
        "{kind}:\n{}",
        text(in_mailbox)
    );
}

/// The kit's varied set, and messages that come with traces of an earlier way.
fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let mut messages: Vec<_> = (0..VARIED)
        .map(|serial| {
            let mail = Mail::varied(7, serial);
            (mail.kind, mail.bytes)
        })
        .collect();
    let with_head = |head: &str| [head.as_bytes(), &Mail::plain(VARIED).bytes].concat();
    messages.extend([
        (
            "a message that has been on its way before",
            with_head(
                "Received: from a (b [192.0.2.1])\r\n\tby c; Mon, 1 Jun 2026 10:00:00 +0000\r\nX-Spam-Status: No, score=-1\r\n\
                 Authentication-Results: elsewhere; dkim=none\r\nReceived-SPF: pass\r\nX-Sieve: CMU Sieve 3.0\r\n",
            ),
        ),
        (
            "a message out of an mbox",
            with_head("From someone@example.org Mon Jun  1 10:00:00 2026\r\nStatus: RO\r\nX-Status: A\r\nX-UID: 77\r\nX-Keywords: $Forwarded\r\n"),
        ),
        (
            "traces between and behind the author's fields",
            b"From: <a@mailtee.test>\r\nX-Spam-Flag: NO\r\nSubject: between\r\nReceived: late\r\n\tand folded\r\n\r\nbody\r\n".to_vec(),
        ),
    ]);
    messages
}

fn smtp(postfix: &Peer) -> SocketAddr {
    let port = postfix.env("SMTP_PORT");
    format!("127.0.0.1:{port}").parse().unwrap()
}

/// One envelope for all: what is compared is content. Dovecot's LMTP knows no SMTPUTF8.
fn send(address: SocketAddr, content: &[u8]) {
    let mut client = SmtpClient::greeted(address).unwrap();
    for command in [
        "MAIL FROM:<sender@mailtee.test> BODY=8BITMIME",
        "RCPT TO:<user0001@mailtee.test>",
    ] {
        let reply = client.command(command).unwrap();
        assert!(reply.is_success(), "{command}: {}", reply.text());
    }
    assert_eq!(client.command("DATA").unwrap().code, 354);
    client.send(&stuffed(content)).unwrap();
    let reply = client.reply().unwrap();
    assert!(reply.is_success(), "{}", reply.text());
    client.quit().unwrap();
}

fn maildir(dovecot: &Peer) -> Vec<PathBuf> {
    let maildir = Path::new(dovecot.var("MAIL")).join("user0001@mailtee.test/maildir");
    ["new", "cur"]
        .iter()
        .filter_map(|folder| fs::read_dir(maildir.join(folder)).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// Maildir names begin with the time of delivery, in seconds and microseconds.
fn newest(files: &[PathBuf]) -> PathBuf {
    let time = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let (seconds, rest) = name.split_once(".M").expect("a maildir name");
        let micros: String = rest.chars().take_while(char::is_ascii_digit).collect();
        (
            seconds.parse::<u64>().unwrap(),
            micros.parse::<u64>().unwrap(),
        )
    };
    files
        .iter()
        .max_by_key(|path| time(path))
        .expect("a message")
        .clone()
}

/// The mailbox's last message, as IMAP gives it.
fn fetch_last(address: SocketAddr) -> Vec<u8> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut commands = stream.try_clone().unwrap();
    let mut replies = BufReader::new(stream);
    commands
        .write_all(b"a LOGIN user0001@mailtee.test pass0001\r\nb SELECT INBOX\r\nc FETCH * BODY.PEEK[]\r\nd LOGOUT\r\n")
        .unwrap();
    let mut message = None;
    loop {
        let mut line = Vec::new();
        assert_ne!(
            replies.read_until(b'\n', &mut line).unwrap(),
            0,
            "IMAP ended early"
        );
        let line = text(&line);
        assert!(
            !line.starts_with("c NO") && !line.starts_with("c BAD"),
            "{line}"
        );
        if let Some(size) = line
            .trim_end()
            .strip_suffix('}')
            .and_then(|l| l.rsplit_once('{'))
        {
            let mut literal = vec![0; size.1.parse().unwrap()];
            replies.read_exact(&mut literal).unwrap();
            message = Some(literal);
        }
        if line.starts_with("d OK") {
            return message.expect("a message in the mailbox");
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
