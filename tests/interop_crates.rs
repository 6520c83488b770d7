//! The crates mailin-embedded, samotop and jmap-client as peers: SMTP servers and a client, and a JMAP client, that nobody
//! here wrote. Their own shortcomings (no null sender, no ESMTP parameters) set what can be sent through them.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use crate::kit::{
    Mail, Mailtee, Sink, SmtpClient, TestDir,
    program::{self, Hop},
    wait_until,
};

/// What both servers take: ASCII addresses, a sender, no parameters.
fn plain_set() -> Vec<Mail> {
    (0..48)
        .map(|serial| Mail::varied(11, serial))
        .filter(|mail| mail.parameters().is_empty() && !mail.sender.is_empty())
        .filter(|mail| mail.kind != "quoted local part" && mail.kind != "empty body")
        .collect()
}

fn send_all(address: std::net::SocketAddr, mails: &[Mail]) {
    for mail in mails {
        let mut client = SmtpClient::greeted(address).unwrap();
        let reply = client.mail(mail).unwrap();
        assert!(reply.is_success(), "{}: {}", mail.kind, reply.text());
        client.quit().unwrap();
    }
}

#[test]
fn the_hops_take_mail_without_us() {
    for (name, wanted) in [
        ("mailin-hop", program::is_eml as fn(&_) -> bool),
        ("samotop-hop", program::is_delivered),
    ] {
        let hop = Hop::start(name);
        let mails = plain_set();
        send_all(hop.address, &mails);
        let files = wait_until(Duration::from_secs(20), name, || {
            let files = hop.files(wanted);
            (files.len() == mails.len()).then_some(files)
        });
        let mut got: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        for mail in &mails {
            let at = got
                .iter()
                .position(|bytes| bytes.ends_with(&mail.bytes))
                .unwrap_or_else(|| panic!("{name} changed a message: {}", mail.kind));
            got.remove(at);
        }
    }
}

/// Through mailtee into each hop: the hop and the vault have the same, which is what was sent.
#[test]
fn the_hops_take_mail_through_the_filter() {
    for (name, wanted) in [
        ("mailin-hop", program::is_eml as fn(&_) -> bool),
        ("samotop-hop", program::is_delivered),
    ] {
        let hop = Hop::start(name);
        let mailtee = Mailtee::filter(hop.address).start();
        let mails = plain_set();
        send_all(mailtee.frontend, &mails);
        let files = wait_until(Duration::from_secs(20), name, || {
            let files = hop.files(wanted);
            (files.len() == mails.len()).then_some(files)
        });
        let passed: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        mailtee.wait_until_forwarded(Duration::from_secs(30));
        let copies = mailtee.vault().copies();
        assert_eq!(copies.len(), mails.len(), "{name}");
        for mail in &mails {
            assert_eq!(copies.get(&mail.bytes), Some(&1), "{name}: {}", mail.kind);
            assert!(
                passed.iter().any(|bytes| bytes.ends_with(&mail.bytes)),
                "{name}: {} was changed on its way",
                mail.kind
            );
        }
    }
}

#[test]
fn a_samotop_client_sends_through_the_filter() {
    let sink = Sink::start();
    let mailtee = Mailtee::filter(sink.address()).start();
    let mails: Vec<_> = (0..8).map(|serial| Mail::sized(serial, 3_000)).collect();
    for mail in &mails {
        let mut client = Command::new(program::interop("samotop-client"))
            .arg(mailtee.frontend.to_string())
            .args([&mail.sender, &mail.recipients[0]])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = client.stdin.take().unwrap();
        input.write_all(&mail.bytes).unwrap();
        drop(input);
        assert!(client.wait_with_output().unwrap().status.success());
    }
    let passed: BTreeSet<_> = sink.received().into_iter().map(|r| r.bytes).collect();
    assert_eq!(passed.len(), mails.len());
    mailtee.wait_until_forwarded(Duration::from_secs(30));
    let stored: BTreeSet<_> = mailtee.vault().copies().into_keys().collect();
    assert_eq!(stored, passed, "the copy is what was passed on");
    for mail in &mails {
        assert!(passed.contains(&mail.bytes), "and that is what was sent");
    }
}

/// The vault filled and read by a JMAP client that nobody here wrote.
#[test]
fn jmap_client_fills_and_reads_the_vault() {
    let mut alone = Mailtee::vault_alone();
    let token = alone.allow_reading_and_writing();
    let url = format!("https://{}", alone.vault_address);
    let (give, take) = (TestDir::new(), TestDir::new());
    let mails: BTreeSet<Vec<u8>> = (0..64)
        .map(|serial| Mail::varied(3, serial).bytes)
        .collect();
    for (at, bytes) in mails.iter().enumerate() {
        fs::write(give.join(format!("{at:03}.eml")), bytes).unwrap();
    }
    let oracle = |verb: &str, dir: &TestDir| {
        let output = Command::new(program::interop("jmap-oracle"))
            .args([verb, &url, &token])
            .arg(dir.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{verb}: {said}{complained}");
        said
    };
    assert_eq!(oracle("fill", &give).lines().count(), mails.len());
    let subjects = oracle("read", &take);
    assert_eq!(subjects.lines().count(), mails.len());
    assert!(subjects.contains("attachment 3.5"), "{subjects}");
    let read: BTreeSet<Vec<u8>> = fs::read_dir(take.path())
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert_eq!(read, mails, "byte for byte");
    let kept: BTreeSet<_> = alone.vault().copies().into_keys().collect();
    assert_eq!(kept, mails);
}
