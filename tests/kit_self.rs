//! The kit itself: what the other topics rest on must not be wrong.

use std::time::Duration;

use crate::kit::{
    ImapClient, Ledger, Mail, MailServer, Mailtee, Passed, Peer, Sink, SmtpClient, ledger,
    mailbox::{Kind, comparable, distinct},
    sink::{Answer, Moment},
};

#[test]
fn the_sink_records_what_the_client_sent() {
    let sink = Sink::start();
    let mut client = SmtpClient::greeted(sink.address()).unwrap();
    let sent: Vec<_> = (0..32).map(|serial| Mail::varied(1, serial)).collect();
    for mail in &sent {
        assert!(client.mail(mail).unwrap().is_success(), "{}", mail.kind);
    }
    assert_eq!(client.quit().unwrap().code, 221);
    let received = sink.wait_for(sent.len());
    for (mail, got) in sent.iter().zip(&received) {
        assert_eq!(got.bytes, mail.bytes, "{}", mail.kind);
        assert_eq!(got.recipients.len(), mail.recipients.len());
    }
}

#[test]
fn varied_mail_is_the_same_each_time_and_no_two_alike() {
    let mails: Vec<_> = (0..200).map(|serial| Mail::varied(7, serial)).collect();
    let again = Mail::varied(7, 123);
    assert_eq!(mails[123].bytes, again.bytes);
    let different: std::collections::BTreeSet<_> = mails.iter().map(|mail| &mail.bytes).collect();
    assert_eq!(different.len(), mails.len());
    assert!(mails.iter().all(|mail| mail.bytes.ends_with(b"\r\n")));
}

#[test]
fn the_sink_answers_as_its_script_says() {
    let sink = Sink::scripted(|moment| match moment {
        Moment::Command(line) if line.starts_with("RCPT") => {
            Answer::Say("550 5.1.1 no such user\r\n".to_owned())
        }
        _ => Answer::Default,
    });
    let mut client = SmtpClient::greeted(sink.address()).unwrap();
    assert_eq!(client.mail(&Mail::plain(1)).unwrap().code, 550);
    assert_eq!(sink.count(), 0);
}

#[test]
fn lmtp_answers_for_each_recipient() {
    let sink = Sink::lmtp(|_| Answer::Default);
    let (mut client, _) = SmtpClient::connect(sink.address()).unwrap();
    assert!(client.command("LHLO x").unwrap().offers("PIPELINING"));
    let mut mail = Mail::plain(2);
    mail.recipients.push("second@mailtee.test".to_owned());
    assert!(client.mail(&mail).unwrap().is_success());
    assert!(client.reply().unwrap().is_success());
}

/// What a reckoning says that does not come out.
fn complaint(reckon: impl FnOnce()) -> String {
    let reckoned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(reckon));
    let said = reckoned.expect_err("it does not come out");
    *said.downcast::<String>().expect("a formatted text")
}

#[test]
fn the_ledger_misses_what_is_lost_and_finds_what_is_doubled_or_strange() {
    let (sink, passed) = Passed::next_hop(|whole| whole);
    let mailtee = Mailtee::filter(sink.address()).start();
    let mut client = SmtpClient::greeted(mailtee.frontend).unwrap();
    let mut send = |serial| {
        assert!(client.mail(&ledger::mail(serial)).unwrap().is_success());
        mailtee.wait_until_forwarded(Duration::from_secs(60));
    };
    let sent = Ledger::default();
    let (first, lost) = (sent.next(), sent.next());
    send(first);
    sent.acknowledge(first);
    sent.check(&mailtee.vault());
    sent.check_passed(&passed);
    sent.acknowledge(lost);
    let said = complaint(|| sent.check(&mailtee.vault()));
    assert!(said.contains("is not there: 1 of 2: [1]"), "{said}");
    let said = complaint(|| sent.check_passed(&passed));
    assert!(said.contains("message 1 got 250 and never"), "{said}");
    let said = complaint(|| Ledger::default().check(&mailtee.vault()));
    assert!(said.contains("was never sent"), "{said}");
    send(lost);
    sent.check(&mailtee.vault());
    send(first);
    let said = complaint(|| sent.check(&mailtee.vault()));
    assert!(said.contains("sighted twice"), "{said}");
}

/// Mail through a real relay to a real sink, by ports that the kit chose.
fn relays(mta: &'static str) {
    let sink = Sink::start();
    let peer = Peer::set(mta).env("NEXT_HOP", sink.address()).start();
    let address = match mta {
        "postfix" => format!("127.0.0.1:{}", peer.env("SMTP_PORT")),
        _ => peer.var("SMTP").to_owned(),
    };
    let mut client = SmtpClient::greeted(address.parse().unwrap()).unwrap();
    assert!(client.mail(&Mail::plain(3)).unwrap().is_success());
    let received = sink.wait_for(1);
    assert!(received[0].bytes.ends_with(b"This is message 3.\r\n"));
}

#[test]
fn postfix_relays() {
    relays("postfix");
}

#[test]
fn exim_relays() {
    relays("exim");
}

#[test]
fn opensmtpd_relays() {
    relays("opensmtpd");
}

#[test]
fn sendmail_relays() {
    relays("sendmail");
}

#[test]
fn cyrus_and_dovecot_start_and_end() {
    let cyrus = Peer::set("cyrus").start();
    assert!(cyrus.var("JMAP").starts_with("http://127.0.0.1:"));
    let dovecot = Peer::set("dovecot").env("USERS", 1).start();
    let lmtp = dovecot.address("LMTP");
    drop(dovecot);
    assert!(SmtpClient::connect(lmtp).is_err());
}

/// A folder is made, mail is saved into it, and the account shows it, byte for byte.
fn keeps_mail(kind: Kind) {
    let server = MailServer::start(kind, 2);
    let mails: Vec<_> = (0..32).map(|serial| Mail::varied(9, serial)).collect();
    for number in [1, 2] {
        let mut client = ImapClient::logged_in(server.imap(), &server.user(number));
        let folder = server.folder(&["Work"]);
        client.ok(&format!("CREATE \"{folder}\""));
        for mail in &mails {
            let answer = client.append(&folder, "\\Seen", &mail.bytes).unwrap();
            assert!(answer.is_ok(), "{}: {}", mail.kind, answer.tagged);
            assert!(answer.code("APPENDUID").is_some(), "{}", answer.tagged);
        }
    }
    let [first, second] = [1, 2].map(|number| server.account(&server.user(number)));
    assert_eq!(comparable(&first), comparable(&second));
    let sent: std::collections::BTreeSet<_> = mails.iter().map(|m| m.bytes.as_slice()).collect();
    assert_eq!(distinct(&first), sent);
}

#[test]
fn dovecot_keeps_mail() {
    keeps_mail(Kind::Dovecot);
}

#[test]
fn cyrus_keeps_mail() {
    keeps_mail(Kind::Cyrus);
}

#[test]
fn courier_keeps_mail() {
    keeps_mail(Kind::Courier);
}

#[test]
fn the_imap_client_secures_its_session() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let (mut client, greeting) = ImapClient::connect_tls(server.imaps(), &server.ca()).unwrap();
    assert!(greeting.starts_with("* OK"), "{greeting}");
    client.login(&server.user(1));
    let (client, _) = ImapClient::connect(server.imap()).unwrap();
    let (mut client, answer) = client.start_tls(&server.ca()).unwrap();
    assert!(answer.is_ok(), "{}", answer.tagged);
    client.login(&server.user(1));
}
