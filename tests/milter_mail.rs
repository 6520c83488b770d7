//! Postfix with the milter: a thousand messages, each copy against what Postfix then delivered. What the two differ in is
//! the `Received:` that Postfix puts first, and nothing else: what it adds or cuts lies in both.

use std::{collections::BTreeSet, process::Command, time::Duration};

use crate::{
    kit::{Archive, Mail, Mailtee, Peer, Sink, SmtpClient, peer},
    postfix_deploy_milter::milter,
    postfix_filter::{CLIENT, MESSAGES, before_last_hop, message, say_all, wait_until_delivered},
};

/// Client → Postfix → sink, mailtee beside it.
struct Beside {
    postfix: Peer,
    mailtee: Mailtee,
    sink: Sink,
}

impl Beside {
    fn start() -> Self {
        Self::start_with(|postfix| postfix)
    }

    fn start_with(more: impl FnOnce(peer::Setting) -> peer::Setting) -> Self {
        let sink = Sink::start();
        let mailtee = milter().start();
        let postfix = Peer::set("postfix")
            .argument("milter")
            .env("NEXT_HOP", sink.address())
            .env("FILTER", mailtee.frontend);
        let postfix = more(postfix).start();
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
fn a_field_that_postfix_cuts_is_cut_in_copy_and_delivery() {
    let mut mail = Mail::plain(1);
    let field = format!(
        "X-Long: begins{}\r\n",
        "\r\n\tabcdefghijklmnop".repeat(5_000)
    );
    mail.bytes = [field.as_bytes(), &mail.bytes].concat();
    let (copy, delivered) = Beside::start().copy_and_delivered(CLIENT, &mail);
    assert!(copy == delivered, "{} of {}", copy.len(), delivered.len());
    assert!(copy.len() < mail.bytes.len(), "{}", copy.len());
}

/// One message over STARTTLS after AUTH, one without either.
const SUBMIT: &str = r"
import smtplib, ssl, sys
submission, plain, trusted = sys.argv[1:]
host, port = submission.rsplit(':', 1)
with smtplib.SMTP(host, int(port)) as smtp:
    context = ssl.create_default_context(cafile=trusted)
    context.check_hostname = False
    smtp.starttls(context=context)
    smtp.login('user0001@mailtee.test', 'pass0001')
    smtp.sendmail('user0001@mailtee.test', ['b@example.org'], 'Subject: secured\r\n\r\nBody.\r\n')
host, port = plain.rsplit(':', 1)
with smtplib.SMTP(host, int(port)) as smtp:
    smtp.sendmail('a@example.com', ['b@example.org'], 'Subject: open\r\n\r\nBody.\r\n')
";

#[test]
fn who_logged_in_and_by_which_tls_is_in_the_sighting() {
    let dovecot = Peer::set("dovecot").start();
    let auth = dovecot.var("AUTH");
    let beside = Beside::start_with(|it| it.env("SASL_DOVECOT", auth).env("TLS", "1"));
    let postfix = &beside.postfix;
    let output = Command::new("python3")
        .args(["-c", SUBMIT, postfix.var("SUBMISSION")])
        .args([postfix.var("SMTP"), postfix.var("CA")])
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let archive = beside.archive();
    let of = |subject: &str| {
        let mut copies = archive.copies.iter();
        let copy = copies.find(|it| String::from_utf8_lossy(&it.bytes).contains(subject));
        copy.expect("a copy").sightings[0].client().clone()
    };
    let (secured, open) = (of("Subject: secured"), of("Subject: open"));
    assert_eq!(secured.login, Some("user0001@mailtee.test".into()));
    let tls = secured.tls.expect("TLS facts");
    assert!(tls.version.starts_with("TLSv1."), "{tls:?}");
    assert!(!tls.cipher.is_empty(), "{tls:?}");
    assert_eq!((open.login, open.tls), (None, None));
}
