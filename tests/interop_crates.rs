//! The crates mailin-embedded, samotop and jmap-client as peers: SMTP servers and a client, and a JMAP client, that nobody
//! here wrote. Their own shortcomings (no null sender, no ESMTP parameters) set what can be sent through them.

use std::{fs, time::Duration};

use crate::kit::{
    Mail, SmtpClient,
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
