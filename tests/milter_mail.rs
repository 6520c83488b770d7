//! Postfix with the milter: a thousand messages, each copy against what Postfix then delivered. All that the two may
//! differ in is in here, by name.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    kit::{Archive, Mail, Mailtee, Peer, Sink, SmtpClient},
    postfix_deploy_milter::milter,
    postfix_filter::{CLIENT, MESSAGES, before_last_hop, message, say_all, wait_until_delivered},
};

/// As much of one field as Postfix shows to a milter.
const FIELD_BYTES_MAX: usize = 60_000;

/// Client → Postfix → sink, mailtee beside it.
struct Beside {
    postfix: Peer,
    mailtee: Mailtee,
    sink: Sink,
}

impl Beside {
    fn start() -> Self {
        let sink = Sink::start();
        let mailtee = milter().start();
        let postfix = Peer::set("postfix")
            .argument("milter")
            .env("NEXT_HOP", sink.address())
            .env("FILTER", mailtee.frontend)
            .start();
        Self {
            postfix,
            mailtee,
            sink,
        }
    }

    fn archive(&self) -> Archive {
        wait_until_delivered(&self.postfix);
        self.mailtee.wait_until_forwarded(Duration::from_secs(60));
        Archive::read(&self.mailtee)
    }

    /// One message from this address: its copy, and what was delivered without the `Received:` that Postfix puts first.
    fn copy_and_delivered(&self, client: [u8; 4], mail: &Mail) -> (Vec<u8>, Vec<u8>) {
        let front = self.postfix.address("SMTP");
        let (mut client, _) = SmtpClient::connect_from(client, front).unwrap();
        client.command("EHLO client.mailtee.test").unwrap();
        assert!(client.mail(mail).unwrap().is_success());
        let archive = self.archive();
        let delivered = self.sink.wait_for(1);
        assert_eq!((archive.copies.len(), delivered.len()), (1, 1));
        let copy = archive.copies[0].bytes.clone();
        (copy, before_last_hop(&delivered[0].bytes).to_vec())
    }
}

#[test]
fn each_of_a_thousand_copies_is_what_was_delivered_but_for_its_own_received() {
    let beside = Beside::start();
    say_all(beside.postfix.address("SMTP"));
    let archive = beside.archive();
    assert_eq!(archive.copies.len() as u64, MESSAGES, "one copy of each");
    let arrived = beside.sink.received();
    let delivered: BTreeSet<&[u8]> = arrived
        .iter()
        .map(|got| before_last_hop(&got.bytes))
        .collect();
    let copies = archive.copies.iter().map(|copy| copy.bytes.as_slice());
    assert!(
        copies.collect::<BTreeSet<_>>() == delivered,
        "the vault holds, byte for byte, what was delivered"
    );
    for serial in 0..MESSAGES {
        let mail = message(serial);
        let kind = format!("{} {serial}", mail.kind);
        let copy = archive.one_with(&mail.bytes, &kind);
        assert_eq!(copy.bytes, mail.bytes, "{kind}");
        assert_eq!(copy.sightings.len(), 1, "{kind}");
        let sent_to: BTreeSet<String> = mail.recipients.iter().cloned().collect();
        assert_eq!(copy.recipients(), sent_to, "{kind}");
        let envelope = copy.envelopes().next().expect("a sighting");
        assert_eq!(envelope.sender.to_string(), mail.sender, "{kind}");
        let parameters = envelope.sender_parameters.to_string();
        let envid = format!("ENVID=envelope{serial}");
        assert_eq!(
            parameters.contains(&envid),
            serial.is_multiple_of(5),
            "{kind}: {parameters}"
        );
    }
}

#[test]
fn what_postfix_adds_for_its_own_clients_is_in_the_copy() {
    let mut mail = Mail::plain(1);
    mail.bytes = b"To: <recipient@mailtee.test>\r\nSubject: bare\r\n\r\nBody.\r\n".to_vec();
    let (copy, delivered) = Beside::start().copy_and_delivered([127, 0, 0, 1], &mail);
    assert_eq!(
        String::from_utf8_lossy(&copy),
        String::from_utf8_lossy(&delivered)
    );
    for added in ["Message-Id: ", "Date: ", "From: "] {
        assert!(String::from_utf8_lossy(&copy).contains(added), "{added}");
    }
}

#[test]
fn a_field_longer_than_postfix_shows_is_cut_in_the_copy_alone() {
    let mut mail = Mail::plain(1);
    let folded = "\r\n\tabcdefghijklmnop";
    let field = |lines| format!("X-Long: begins{}\r\n", folded.repeat(lines));
    let rest = std::mem::take(&mut mail.bytes);
    let with = |lines| [field(lines).as_bytes(), &rest].concat();
    mail.bytes = with(5_000);
    let (copy, delivered) = Beside::start().copy_and_delivered(CLIENT, &mail);
    assert_eq!(delivered, mail.bytes);
    // Whole lines, the end of each counted as one byte.
    let lines = (FIELD_BYTES_MAX - "X-Long: begins".len()) / (folded.len() - 1);
    assert_eq!(copy.len(), with(lines).len());
    assert_eq!(copy, with(lines));
}
