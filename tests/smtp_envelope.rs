//! An envelope as large as a session takes: through SMTP into the vault, whole.

use std::time::Duration;

use crate::kit::{Mail, Mailtee, Sink, SmtpClient};

/// The default of `recipients_max`.
const RECIPIENTS: usize = 50_000;
/// Commands sent before their replies are read.
const PIPELINED: usize = 500;

/// 200 bytes, and only here.
fn address(serial: usize) -> String {
    format!(
        "r{serial:06}.{}@{}.example",
        "x".repeat(49),
        "long-domain".repeat(12) + ".a"
    )
}

#[test]
fn fifty_thousand_recipients_are_in_the_sighting_all_of_them() {
    let sink = Sink::start();
    let mailtee = Mailtee::filter(sink.address()).start();
    let mail = Mail::plain(1);
    let mut client = SmtpClient::greeted(mailtee.frontend).expect("a greeting");
    client.set_patience(Duration::from_secs(60));
    let reply = client.command(&format!("MAIL FROM:<{}>", mail.sender));
    assert!(reply.expect("a reply").is_success());
    let recipients: Vec<String> = (0..RECIPIENTS).map(address).collect();
    assert!(recipients.iter().all(|recipient| recipient.len() == 200));
    for some in recipients.chunks(PIPELINED) {
        let lines: String = some.iter().map(|r| format!("RCPT TO:<{r}>\r\n")).collect();
        client.send(lines.as_bytes()).expect("sent");
        for recipient in some {
            let reply = client.reply().expect("a reply");
            assert!(reply.is_success(), "{recipient}: {}", reply.text());
        }
    }
    assert_eq!(client.command("DATA").expect("a reply").code, 354);
    client.send(&mail.bytes).expect("sent");
    client.send(b".\r\n").expect("sent");
    let reply = client.reply().expect("a reply");
    assert!(reply.is_success(), "{}", reply.text());
    mailtee.wait_until_forwarded(Duration::from_secs(60));

    let parked = [("target", "vault")];
    assert_eq!(mailtee.metrics().value("parked_messages", &parked), 0.0);
    assert_eq!(mailtee.vault().copies().get(&mail.bytes), Some(&1));
    let sightings = mailtee.vault().sightings();
    assert_eq!(sightings.len(), 1);
    let sighting = &sightings[0]["sighting"];
    let seen = sighting["origin"]["transaction"]["envelope"]["recipients"].as_array();
    let seen = seen
        .expect("recipients")
        .iter()
        .map(|r| r["address"].as_str());
    assert!(seen.eq(recipients.iter().map(|r| Some(&**r))));
    let id = sighting["id"].as_str().expect("an id");
    let exported = mailtee.command(&["vault", "export", "--sighting", id]);
    assert_eq!(exported.stdout, mail.bytes);
}
