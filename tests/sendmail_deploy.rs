//! `deploy/sendmail`: the fragment as m4 makes a sendmail.cf of it, and a real Sendmail that runs with it.

use std::{
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    kit::{Archive, Mail, Mailtee, Peer, Sink, SmtpClient, wait_until},
    postfix_deploy_milter::{assert_signed, milter},
};

/// `mailtee.mc` with another port; with `pass`, the line for that policy in place of the other.
fn fragment(mailtee: SocketAddr, pass: bool) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/sendmail/mailtee.mc");
    let text = std::fs::read_to_string(path).unwrap();
    let text = match pass {
        false => text,
        true => text
            .replace("\nINPUT_MAIL_FILTER", "\ndnl INPUT_MAIL_FILTER(old)")
            .replace("\ndnl INPUT_MAIL_FILTER(`", "\nINPUT_MAIL_FILTER(`"),
    };
    text.replace("8892", &mailtee.port().to_string())
}

/// A Sendmail whose sendmail.mc has the signer first, then the fragment.
fn sendmail(next_hop: SocketAddr, signer: &Peer, fragment: &str) -> Peer {
    let signer = signer.address("MILTER");
    Peer::set("sendmail")
        .env("NEXT_HOP", next_hop)
        .env(
            "EXTRA_MC",
            format!(
                "INPUT_MAIL_FILTER(`opendkim', `S=inet:{}@127.0.0.1')dnl\n{fragment}",
                signer.port()
            ),
        )
        .start()
}

/// The lines of sendmail.cf that are about filters.
fn filters(sendmail: &Peer) -> Vec<String> {
    let text = sendmail.file("sendmail.cf");
    text.lines()
        .filter(|line| line.starts_with("Xmailtee") || line.starts_with("O InputMailFilters"))
        .map(str::to_owned)
        .collect()
}

/// By the `sendmail` command, which gives it to the daemon by SMTP.
fn submit(to: &Peer, mail: &Mail) {
    // With a host name without a dot it would sleep a minute.
    let run = "hostname sendmail.mailtee.test; exec \"$@\"";
    let mut child = Command::new("unshare")
        .args(["--uts", "sh", "-c", run, "sh", to.var("SENDMAIL")])
        .args(["-Ac", "-C", to.var("SUBMIT_CF"), "-i", "-f", &mail.sender])
        .args(&mail.recipients)
        .stdin(Stdio::piped())
        .spawn()
        .expect("Sendmail is installed");
    let text = String::from_utf8(mail.bytes.clone())
        .unwrap()
        .replace("\r\n", "\n");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

fn try_mail(to: &Peer, mail: &Mail) -> String {
    let mut client = SmtpClient::greeted(to.address("SMTP")).unwrap();
    client.mail(mail).unwrap().text()
}

fn wait_until_delivered(next_hop: &Sink, mail: &Mail) {
    wait_until(Duration::from_secs(30), "Sendmail delivers", || {
        let received = next_hop.received();
        received
            .iter()
            .any(|got| got.bytes.ends_with(&mail.bytes))
            .then_some(())
    });
}

#[test]
fn sendmail_shows_mailtee_what_was_signed_and_waits_for_it() {
    let next_hop = Sink::start();
    let signer = Peer::set("opendkim").start();
    let mut mailtee: Mailtee = milter().start();
    let sendmail = sendmail(
        next_hop.address(),
        &signer,
        &fragment(mailtee.frontend, false),
    );
    let port = mailtee.frontend.port();
    let expected = [
        "O InputMailFilters=opendkim, mailtee".to_owned(),
        format!("Xmailtee, S=inet:{port}@127.0.0.1, F=T, T=C:10s;S:30s;R:30s;E:5m"),
    ];
    assert_eq!(filters(&sendmail), expected);

    let mail = Mail::plain(1);
    let reply = try_mail(&sendmail, &mail);
    assert!(reply.starts_with("250"), "{reply}");
    let submitted = Mail::plain(4);
    submit(&sendmail, &submitted);
    for mail in [&mail, &submitted] {
        wait_until_delivered(&next_hop, mail);
    }
    mailtee.wait_until_forwarded(Duration::from_secs(30));
    Archive::read(&mailtee).one_with(&submitted.bytes, "what sendmail(1) submitted");
    assert_signed(
        Archive::read(&mailtee).one_with(&mail.bytes, mail.kind),
        &mail,
    );

    mailtee.terminate();
    let reply = try_mail(&sendmail, &Mail::plain(2));
    assert!(reply.starts_with("451"), "{reply}");
    mailtee.start();
    let mail = Mail::plain(3);
    let reply = try_mail(&sendmail, &mail);
    assert!(reply.starts_with("250"), "{reply}");
    mailtee.wait_until_forwarded(Duration::from_secs(30));
    Archive::read(&mailtee).one_with(&mail.bytes, mail.kind);
}

#[test]
fn with_pass_sendmail_does_not_wait_for_mailtee() {
    let next_hop = Sink::start();
    let signer = Peer::set("opendkim").start();
    let mailtee = milter().option("on_capture_failure", "\"pass\"").prepare();
    let sendmail = sendmail(
        next_hop.address(),
        &signer,
        &fragment(mailtee.frontend, true),
    );
    let port = mailtee.frontend.port();
    let expected = [
        "O InputMailFilters=opendkim, mailtee".to_owned(),
        format!("Xmailtee, S=inet:{port}@127.0.0.1, T=C:10s;S:30s;R:30s;E:5m"),
    ];
    assert_eq!(filters(&sendmail), expected);
    let mail = Mail::plain(1);
    let reply = try_mail(&sendmail, &mail);
    assert!(reply.starts_with("250"), "{reply}");
    wait_until_delivered(&next_hop, &mail);
}
