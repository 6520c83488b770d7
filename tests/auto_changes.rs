//! Front ends with protocol "auto" whose server goes away, becomes another, or loses what it had.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{
    auto_frontend::{
        SOON, accepting, auto, ca, dovecot, greeting, readiness, remembered, save_one, spawn,
        wait_for, wait_for_greeting,
    },
    kit::{
        ImapClient, Mail, MailServer, Mailtee, Peer, Sink, SmtpClient,
        mailbox::Kind,
        sink::{Answer, Moment},
        wait_until,
    },
    mailbox_imap::before,
};

#[test]
fn a_restart_needs_no_server() {
    let mut server = dovecot("");
    let mut mailtee = auto(server.imap(), ca(&server.peer)).start();
    wait_for(&mailtee, true, "auto: imap, proxy, STARTTLS", "");
    mailtee.terminate();
    server.peer.stop();
    mailtee.start();
    wait_for(
        &mailtee,
        true,
        "auto: imap, proxy, STARTTLS",
        "Connection refused",
    );
    let heard = greeting(mailtee.frontend).expect("it listens");
    assert!(heard.starts_with("* BYE"), "{heard}");
    server.peer.start_again();
    // It is looked at again by itself.
    wait_for(&mailtee, true, "auto: imap, proxy, STARTTLS", "");
    let mut client = ImapClient::logged_in(mailtee.frontend, &server.user(1));
    save_one(&mailtee, &mut client, 1);

    // What cannot be read is found out again.
    mailtee.terminate();
    fs::write(mailtee.data_dir().join("identities.json"), "{").expect("written");
    mailtee.start();
    wait_for(&mailtee, true, "auto: imap, proxy, STARTTLS", "");
    assert!(mailtee.log().contains("they are identified again"));
    assert_eq!(remembered(&mailtee)["front"]["protocol"], "imap");
}

#[test]
fn a_server_that_becomes_another_is_noticed_by_a_session() {
    let first = dovecot("");
    let upstream = first.imap();
    let ca = first.peer.dir().join("trusted.pem");
    fs::copy(first.ca(), &ca).expect("a file");
    let mailtee = auto(upstream, &ca).start();
    wait_for(&mailtee, true, "auto: imap, proxy, STARTTLS", "");
    let mut old = ImapClient::logged_in(mailtee.frontend, &first.user(1));
    save_one(&mailtee, &mut old, 1);

    first.peer.stop();
    let setting = Kind::Dovecot
        .with_users(1)
        .env("POP3_PORT", upstream.port());
    let second = MailServer::over(Kind::Dovecot, setting);
    fs::copy(second.ca(), &ca).expect("a file");
    wait_for_greeting(&mailtee, "+OK");
    wait_for(&mailtee, true, "auto: pop3, proxy, STARTTLS", "");
    assert_eq!(remembered(&mailtee)["front"]["protocol"], "pop3");

    // From a mailbox server to SMTP, and from there to LMTP, which greets alike.
    drop(second);
    let sink = Sink::start();
    let postfix = Peer::set("postfix")
        .env("NEXT_HOP", sink.address())
        .env("SMTP_PORT", upstream.port())
        .start();
    fs::copy(postfix.var("CA"), &ca).expect("a file");
    wait_for_greeting(&mailtee, "220");
    wait_for(&mailtee, true, "auto: smtp, proxy, STARTTLS", "");
    let mut client = SmtpClient::greeted(mailtee.frontend).expect("it greets");
    assert_eq!(client.mail(&Mail::plain(2)).expect("it answers").code, 250);
    client.quit().expect("it answers");
    drop(postfix);
    let setting = Kind::Dovecot
        .with_users(1)
        .env("LMTP_PORT", upstream.port());
    let third = MailServer::over(Kind::Dovecot, setting);
    fs::copy(third.ca(), &ca).expect("a file");
    wait_until(SOON, "it takes LHLO", || {
        let (mut client, _) = SmtpClient::connect(mailtee.frontend).ok()?;
        client.command("EHLO client.mailtee.test").ok()?;
        let reply = client.command("LHLO client.mailtee.test").ok()?;
        reply.is_success().then_some(())
    });
    wait_for(&mailtee, true, "auto: lmtp, proxy, STARTTLS", "");
}

#[test]
fn tls_that_vanishes_is_missed_until_the_file_says_that_it_may() {
    let server = dovecot("");
    let upstream = server.imap();
    let ca_file = server.peer.dir().join("tls/ca.pem");
    let mut mailtee = auto(upstream, &ca_file).start();
    wait_for(&mailtee, true, "auto: imap, proxy, STARTTLS", "");
    server.peer.stop();
    let setting = Kind::Dovecot
        .with_users(2)
        .env("IMAP_PORT", upstream.port())
        .env("EXTRA_CONF", "ssl = no");
    let plain = MailServer::over(Kind::Dovecot, setting);
    let refused = |mailtee: &Mailtee| {
        let heard = greeting(mailtee.frontend).unwrap_or_default();
        assert!(heard.starts_with("* BYE [UNAVAILABLE]"), "{heard:?}");
        wait_for(
            mailtee,
            false,
            "auto: imap, proxy, STARTTLS",
            "no going back",
        );
        let (status, why) = readiness(mailtee);
        assert_eq!(status, 503, "{why}");
        assert!(
            why.contains("it speaks imap with no TLS: it had STARTTLS"),
            "{why}"
        );
        assert_eq!(accepting(mailtee), 0.0);
    };
    refused(&mailtee);
    // Not after a restart either.
    mailtee.terminate();
    spawn(&mut mailtee);
    wait_for(
        &mailtee,
        false,
        "auto: imap, proxy, STARTTLS",
        "no going back",
    );
    refused(&mailtee);
    let check = mailtee.command(&["check"]);
    let told = String::from_utf8_lossy(&check.stdout);
    assert!(told.contains("no going back to plain text"), "{told}");

    mailtee.terminate();
    let text = fs::read_to_string(mailtee.config()).expect("the file");
    let text = text.replace(
        "protocol = \"auto\"",
        "protocol = \"auto\"\nupstream_tls = \"none\"",
    );
    fs::write(mailtee.config(), text).expect("written");
    mailtee.start();
    wait_for(&mailtee, true, "auto: imap, proxy, no TLS", "");
    let mut client = ImapClient::logged_in(mailtee.frontend, &plain.user(1));
    save_one(&mailtee, &mut client, 1);
}

#[test]
fn certificates_are_read_again_by_whatever_it_has_become() {
    let server = dovecot("");
    let file = |name: &str| format!("{:?}", server.peer.dir().join("tls").join(name));
    let mailtee = auto(server.imap(), ca(&server.peer))
        .option("certificate", file("fullchain.pem"))
        .option("key", file("key.pem"))
        .start();
    wait_for(&mailtee, true, "auto: imap, proxy, STARTTLS", "");
    let (client, _) = ImapClient::connect(mailtee.frontend).expect("it greets");
    let (mut client, answer) = client.start_tls(ca(&server.peer)).expect("a handshake");
    assert!(answer.is_ok(), "{}", answer.tagged);
    client.login(&server.user(1));
    fs::write(server.peer.dir().join("tls/key.pem"), "no key").expect("written");
    mailtee.signal(rustix::process::Signal::HUP);
    wait_until(SOON, "the reload names it", || {
        mailtee
            .log()
            .contains("reload: the old certificate stays in force")
            .then_some(())
    });
    let mut bad = auto(server.imap(), ca(&server.peer))
        .option("certificate", file("fullchain.pem"))
        .option("key", file("key.pem"))
        .prepare();
    bad.spawn();
    wait_until(SOON, "a start with a broken key fails", || {
        bad.log().contains("private key").then_some(())
    });
}

#[test]
fn sessions_that_find_fault_again_and_again_have_the_server_looked_at_now_and_then() {
    const SESSIONS: usize = 200;
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = looks.clone();
    // It knows our own hello, and nobody else's.
    let sink = Sink::scripted(move |moment| match moment {
        Moment::Command(line) if line.starts_with("EHLO [") => {
            counted.fetch_add(1, Relaxed);
            Answer::Default
        }
        Moment::Command(line) if line.starts_with("EHLO") => {
            Answer::Say("502 5.5.1 What?\r\n".into())
        }
        _ => Answer::Default,
    });
    let mailtee = before("auto", sink.address()).start();
    wait_for(&mailtee, true, "auto: smtp, proxy, no TLS", "");
    for _ in 0..SESSIONS {
        let (mut client, _) = SmtpClient::connect(mailtee.frontend).expect("it greets");
        let reply = client
            .command("EHLO client.mailtee.test")
            .expect("it answers");
        assert_eq!(reply.code, 502);
    }
    wait_until(SOON, "it is looked at again", || {
        (looks.load(Relaxed) > 1).then_some(())
    });
    let looks = looks.load(Relaxed);
    assert!(looks <= SESSIONS / 10, "{looks} looks");
    wait_for(&mailtee, true, "auto: smtp, proxy, no TLS", "");
}
