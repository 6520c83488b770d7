//! Mail that opendkim has signed before mailtee sees it, as milters of one Postfix: the signature verifies on the copy that
//! comes out of the vault. dkimpy verifies, with the signer's key and no DNS.

use std::{collections::BTreeSet, fs, process::Command, time::Duration};

use crate::{
    interop_smtp::python,
    kit::{Archive, Mail, Peer, Sink, SmtpClient, TestDir},
    postfix_deploy_milter::{assert_signed, milter},
    postfix_filter::CLIENT,
};

/// Each kind twice.
const VARIED: u64 = 32;

/// Kinds without an author in From: nothing is there that could be signed for.
const UNSIGNED: [&str; 2] = ["no header", "null sender"];

/// `KEYS DIR`: writes a line `NAME true|false` for each file of the directory.
const DKIMPY: &str = r"
import os, sys, dkim
name, key = open(sys.argv[1]).read().strip().split(' ', 1)
def txt(asked, timeout=5):
    asked = asked if isinstance(asked, str) else asked.decode()
    assert asked.rstrip('.') == name, asked
    return key.encode()
for file in sorted(os.listdir(sys.argv[2])):
    message = open(os.path.join(sys.argv[2], file), 'rb').read()
    print(file, str(dkim.verify(message, dnsfunc=txt)).lower())
";

/// Headers whose spacing and folding is what `simple` signs (RFC 6376 section 3.4.1).
fn odd_headers() -> Vec<Mail> {
    let heads = [
        (
            "tight",
            "Subject:tight\r\nTo:<to@example.org>\r\nReferences:<a@x>\r\n",
        ),
        (
            "spaces",
            "Subject:   three before, two behind  \r\nTo: <to@example.org> \r\n",
        ),
        (
            "tabs",
            "Subject:\ttab\tand\ttab\t\r\nTo:\t<to@example.org>\r\n",
        ),
        (
            "folded",
            "Subject: folded\r\n once\r\n\tand by a tab\r\n   and by three spaces\r\n\
             To: <to@example.org>,\r\n\t<other@example.org>\r\nReferences: <a@x>\r\n <b@x>\r\n",
        ),
        (
            "folded at once",
            "Subject:\r\n folded before its first word\r\nTo:\r\n\t<to@example.org>\r\nReferences:\r\n <a@x>\r\n <b@x>\r\n",
        ),
        (
            "case",
            "SUBJECT: loud\r\nto: <to@example.org>\r\nmime-VERSION: 1.0\r\nContent-type: Text/Plain\r\n",
        ),
        (
            "twice and empty",
            "Subject: first\r\nTo: <to@example.org>\r\nCc:\r\nComments: one\r\nComments:  two\r\n",
        ),
    ];
    let mail = |(serial, (kind, head)): (usize, (&'static str, &str))| Mail {
        sender: "sender@mailtee.test".to_owned(),
        recipients: vec!["to@example.org".to_owned()],
        bytes: format!(
            "From: <sender@mailtee.test>\r\n{head}Message-ID: <odd{serial}@kit.mailtee.test>\r\n\
             Date: Mon, 01 Jun 2026 10:00:00 +0000\r\n\r\n \tbody  {serial} \t\r\n\r\n\r\n"
        )
        .into_bytes(),
        kind,
    };
    heads.into_iter().enumerate().map(mail).collect()
}

fn signatures_verify_on_the_copies(canonicalization: &str) {
    let sink = Sink::start();
    let signer = Peer::set("opendkim")
        .env("CANONICALIZATION", canonicalization)
        .start();
    let mailtee = milter().start();
    let postfix = Peer::set("postfix")
        .env("NEXT_HOP", sink.address())
        .env(
            "EXTRA_MAIN",
            format!(
                "smtpd_milters = inet:{}, {{ inet:{}, default_action=tempfail }}",
                signer.var("MILTER"),
                mailtee.frontend
            ),
        )
        .start();
    let mut mails: Vec<_> = (0..VARIED).map(|n| Mail::varied(6_376, n)).collect();
    mails.extend(odd_headers());
    // From elsewhere: a local client's header would be completed.
    let (mut client, _) =
        SmtpClient::connect_from(CLIENT, postfix.address("SMTP")).expect("Postfix listens");
    let greeted = client.command("EHLO outside.example.org").expect("a reply");
    assert!(greeted.is_success());
    for mail in &mails {
        let reply = client.mail(mail).expect("a reply");
        assert!(reply.is_success(), "{}: {}", mail.kind, reply.text());
    }
    mailtee.wait_until_forwarded(Duration::from_secs(60));

    let archive = Archive::read(&mailtee);
    assert_eq!(archive.copies.len(), mails.len());
    let dir = TestDir::new();
    let mut expected = BTreeSet::new();
    for (serial, mail) in mails.iter().enumerate() {
        let copy = archive.one_with(&mail.bytes, mail.kind);
        if UNSIGNED.contains(&mail.kind) {
            continue;
        }
        assert_signed(copy, mail);
        let c = format!("c={canonicalization};");
        assert!(contains(&copy.bytes, c.as_bytes()), "{}", mail.kind);
        let name = format!("{serial}-{}", mail.kind.replace(' ', "-"));
        fs::write(dir.join(&name), &copy.bytes).unwrap();
        expected.insert(format!("{name} true"));
        // And the verifier does look: it does not take another message under the same signature.
        let altered = [&copy.bytes[..], b"one line more\r\n"].concat();
        fs::write(dir.join(format!("{name}-altered")), altered).unwrap();
        expected.insert(format!("{name}-altered false"));
    }
    let output = Command::new(python())
        .args(["-c", DKIMPY, signer.var("PUBLIC_KEYS")])
        .arg(dir.path())
        .output()
        .expect("Python is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{why}");
    let verified: BTreeSet<String> = said.lines().map(str::to_owned).collect();
    let wrong: Vec<_> = verified.symmetric_difference(&expected).collect();
    assert!(wrong.is_empty(), "{wrong:?}\n{why}");
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}

#[test]
fn simple_signatures_verify_on_the_copies() {
    signatures_verify_on_the_copies("simple/simple");
}

#[test]
fn relaxed_signatures_verify_on_the_copies() {
    signatures_verify_on_the_copies("relaxed/relaxed");
}
