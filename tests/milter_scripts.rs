//! Debian's miltertest drives the milter by the scripts in `tests/cases/milter/lua/`; what it told is in the vault.

use std::{path::Path, process::Command, time::Duration};

use serde_json::json;

use crate::{kit::Mailtee, postfix_deploy_milter::milter};

fn play(script: &str) -> Mailtee {
    let mailtee = milter().start();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/milter/lua");
    let output = Command::new("miltertest")
        .arg("-D")
        .arg(format!("PORT={}", mailtee.frontend.port()))
        .arg("-s")
        .arg(path.join(script))
        .output()
        .expect("miltertest, of the package of that name");
    assert!(
        output.status.success(),
        "{script}: {}{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        mailtee.log()
    );
    mailtee.wait_until_forwarded(Duration::from_secs(30));
    mailtee
}

fn copies(mailtee: &Mailtee) -> Vec<String> {
    let copies = mailtee.vault().copies();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    copies.keys().map(|bytes| text(bytes)).collect()
}

#[test]
fn a_message_is_captured_as_it_was_told() {
    let mailtee = play("message.lua");
    let expected = "Subject: folded\r\n\tonce\r\nX-TIGHT: yes\r\n\r\none\r\ntwo\r\n";
    assert_eq!(copies(&mailtee), [expected]);
    let sightings = mailtee.vault().sightings();
    let transaction = &sightings[0]["sighting"]["origin"]["transaction"];
    let expected = json!({
        "envelope": {
            "sender": "a@example.org",
            "sender_parameters": "SIZE=100 BODY=8BITMIME",
            "recipients": [
                {"address": "b@example.org", "parameters": "NOTIFY=NEVER"},
                {"address": "c@example.org"},
            ],
        },
        "client": {
            "address": "192.0.2.1",
            "port": transaction["client"]["port"],
            "name": "client.example",
            "helo": "client.example",
            "queue_id": "QUEUEID1",
            "login": "jo",
        },
    });
    assert_eq!(*transaction, expected);
}

#[test]
fn an_mta_gets_what_it_can_do_and_no_more() {
    let mailtee = play("negotiation.lua");
    let expected = [
        "Subject: version 2\r\n\r\nbody\r\n",
        "X-Tight: yes\r\n\r\nall of it\r\n",
    ];
    assert_eq!(copies(&mailtee), expected);
}

#[test]
fn a_message_given_up_leaves_nothing() {
    let mailtee = play("given_up.lua");
    assert_eq!(copies(&mailtee), ["Subject: the next\r\n\r\nwhole\r\n"]);
    let metrics = mailtee.metrics();
    let of = |outcome| {
        let labels = [("frontend", "front"), ("outcome", outcome)];
        metrics.value("captured_messages_total", &labels)
    };
    assert_eq!((of("aborted"), of("captured")), (1.0, 1.0));
}
