//! One Postfix that shows each message to mailtee three times: to the milter when it comes in, to the content filter when
//! it goes on, and in a journal report later. There is one copy of it, and a sighting for each.

use std::{collections::BTreeSet, time::Duration};

use mailtee::message::{Acceptance, Fidelity, Protocol};

use crate::{
    kit::{
        Archive, Mail, Mailtee, Peer, Sink, SmtpClient,
        archive::{Copy, Sighted},
        free_port,
    },
    postfix_deploy_milter::milter,
    postfix_filter::{CLIENT, before_last_hop, wait_until_delivered},
};

/// Each kind four times.
const MESSAGES: u64 = 64;
/// Postfix gives a message for more recipients to the filter in several transactions.
const RECIPIENTS_OF_A_TRANSACTION: usize = 50;

/// As Exchange 2007 reports a message to a journal mailbox.
fn report(mail: &Mail, inner: &[u8], serial: u64) -> Mail {
    let mut fields = format!(
        "Sender: {}\r\nSubject: {serial}\r\nMessage-ID: <{serial}@report.mailtee.test>\r\n",
        mail.sender
    );
    for recipient in &mail.recipients {
        fields += &format!("To: {recipient}\r\n");
    }
    let head = format!(
        "From: <exchange@mailtee.test>\r\nTo: <journal@mailtee.test>\r\nSubject: report {serial}\r\n\
         X-MS-Journal-Report:\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"_report_{serial}\"\r\n\r\n\
         --_report_{serial}\r\nContent-Type: text/plain; charset=\"us-ascii\"\r\nContent-Transfer-Encoding: 7bit\r\n\r\n\
         {fields}\r\n--_report_{serial}\r\nContent-Type: message/rfc822\r\n\r\n"
    );
    let end = format!("\r\n--_report_{serial}--\r\n");
    Mail {
        sender: "exchange@mailtee.test".to_owned(),
        recipients: vec!["journal@mailtee.test".to_owned()],
        bytes: [head.as_bytes(), inner, end.as_bytes()].concat(),
        kind: "journal report",
    }
}

/// A report writes addresses as text of one line each.
fn is_reported(mail: &Mail) -> bool {
    let plain = |address: &String| address.is_ascii() && !address.contains('"');
    !mail.sender.is_empty() && plain(&mail.sender) && mail.recipients.iter().all(plain)
}

fn seen_by(copy: &Copy, protocol: Protocol) -> Vec<&Sighted> {
    let of_protocol = |sighted: &&Sighted| sighted.sighting.protocol == protocol;
    copy.sightings.iter().filter(of_protocol).collect()
}

#[test]
fn what_milter_filter_and_journal_reports_show_is_one_copy() {
    let sink = Sink::start();
    let (filter, reports, reinject) = (free_port(), free_port(), free_port());
    let mailtee: Mailtee = milter()
        .append(&format!(
            "[[frontend]]\nname = \"filter\"\nprotocol = \"smtp\"\nrole = \"filter\"\n\
             listen = \"127.0.0.1:{filter}\"\nupstream = \"127.0.0.1:{reinject}\"\n\
             [[frontend]]\nname = \"reports\"\nprotocol = \"journal\"\nlisten = \"127.0.0.1:{reports}\"\n"
        ))
        .start();
    let postfix = Peer::set("postfix")
        .argument("content_filter")
        .env("NEXT_HOP", sink.address())
        .env("FILTER", format!("127.0.0.1:{filter}"))
        .env("REINJECT_PORT", reinject)
        .env(
            "EXTRA_MAIN",
            format!(
                "smtpd_milters = {{ inet:{}, default_action=tempfail }}",
                mailtee.frontend
            ),
        )
        .start();

    let mails: Vec<_> = (0..MESSAGES).map(|n| Mail::varied(3_003, n)).collect();
    let (mut client, _) =
        SmtpClient::connect_from(CLIENT, postfix.address("SMTP")).expect("Postfix listens");
    let greeted = client.command("EHLO outside.example.org").expect("a reply");
    assert!(greeted.is_success());
    for mail in &mails {
        let reply = client.mail(mail).expect("a reply");
        assert!(reply.is_success(), "{}: {}", mail.kind, reply.text());
    }
    wait_until_delivered(&postfix);
    let arrived = sink.received();

    let mut reporter =
        SmtpClient::greeted(([127, 0, 0, 1], reports).into()).expect("reports are taken");
    for (serial, mail) in (0..).zip(&mails).filter(|(_, mail)| is_reported(mail)) {
        let mut delivered = arrived.iter().map(|got| before_last_hop(&got.bytes));
        let inner = delivered.find(|bytes| bytes.ends_with(&mail.bytes));
        let inner = inner.unwrap_or_else(|| panic!("{} did not arrive", mail.kind));
        let reply = reporter.mail(&report(mail, inner, serial));
        let reply = reply.expect("a reply");
        assert!(reply.is_success(), "{}: {}", mail.kind, reply.text());
    }
    mailtee.wait_until_forwarded(Duration::from_secs(60));

    let archive = Archive::read(&mailtee);
    assert_eq!(archive.copies.len(), mails.len(), "one copy of each");
    for mail in &mails {
        let copy = archive.one_with(&mail.bytes, mail.kind);
        let by_milter = seen_by(copy, Protocol::Milter);
        let by_filter = seen_by(copy, Protocol::Smtp);
        let by_report = seen_by(copy, Protocol::Journal);
        let transactions = mail.recipients.len().div_ceil(RECIPIENTS_OF_A_TRANSACTION);
        assert_eq!(
            (by_milter.len(), by_filter.len(), by_report.len()),
            (1, transactions, usize::from(is_reported(mail))),
            "{}",
            mail.kind
        );
        let seen = &by_milter[0].sighting;
        assert_eq!(seen.fidelity, [Fidelity::Milter], "{}", mail.kind);
        assert_eq!(by_milter[0].acceptance, Acceptance::NotAsked);
        let envelope = seen.envelope().expect("seen in a transaction");
        assert_eq!(envelope.sender.to_string(), mail.sender, "{}", mail.kind);
        let to = envelope.accepted().map(|r| r.address.to_string());
        let sent_to: BTreeSet<String> = mail.recipients.iter().cloned().collect();
        assert_eq!(to.collect::<BTreeSet<_>>(), sent_to, "{}", mail.kind);
        // Both name the queue file and the client that Postfix has for it.
        let queue_id = &by_milter[0].client().queue_id;
        assert!(queue_id.is_some(), "{}", mail.kind);
        for sighted in by_filter {
            assert_eq!(&sighted.client().queue_id, queue_id, "{}", mail.kind);
            let address = &by_milter[0].client().address;
            assert_eq!(&sighted.client().address, address, "{}", mail.kind);
        }
    }
}
