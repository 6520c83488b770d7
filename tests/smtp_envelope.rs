//! An envelope as large as a session takes: through SMTP into the vault, whole.

use std::time::Duration;

use mailtee::message::{Acceptance, Origin, Recipient};

use crate::{
    forward_faults::{DEADLINE, Scene},
    forward_rig::sighting,
    kit::{Mail, Mailtee, Sink, SmtpClient},
};

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

/// Captures a message for many recipients, beside the front ends.
async fn capture(scene: &Scene, bytes: &[u8], recipients: usize) {
    let mut sighting = sighting(bytes, "u@example.org");
    if let Origin::Transaction { envelope, .. } = &mut sighting.origin {
        envelope.recipients = (0..recipients)
            .map(|serial| Recipient {
                address: address(serial).as_str().into(),
                ..Recipient::default()
            })
            .collect();
    }
    let mut draft = scene.rig.journal.draft().expect("room");
    draft.write(bytes).await.expect("written");
    let captured = draft.commit(&sighting).await.expect("committed");
    let reply = "250 ok".into();
    captured.release(Acceptance::Accepted { reply });
}

#[tokio::test(flavor = "multi_thread")]
async fn further_sightings_of_very_many_recipients_are_kept_beside_the_copy() {
    let mut scene = Scene::new().await;
    scene.start();
    let mail = Mail::plain(1).bytes;
    let traced = [b"Received: by another way\r\n", &mail[..]].concat();
    let other = Mail::plain(2).bytes;
    for (bytes, recipients) in [
        (&mail, 15_000),
        (&mail, 15_001),
        (&traced, 15_002),
        (&other, 1),
    ] {
        capture(&scene, bytes, recipients).await;
        scene.rig.forwarded(DEADLINE).await;
    }
    let count = |outcome| scene.rig.count(outcome);
    assert_eq!((count("stored"), count("duplicate")), (2, 2));
    assert_eq!((count("failed"), count("parked")), (0, 0));
    scene.rig.stop().await;
    assert_eq!(scene.sightings().await, 4);
    assert_eq!(scene.copies().await.into_values().sum::<usize>(), 2);
}
