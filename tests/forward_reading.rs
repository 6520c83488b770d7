//! A long message is read where somebody asks for its bytes, and otherwise not.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use mailtee::{forward::Decided, message::Body};

use crate::{
    forward_faults::{DEADLINE, Scene, once},
    forward_rig::hasty,
    kit::Mail,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_long_message_is_read_only_where_its_bytes_are_asked_for() {
    let mut scene = Scene::new().await;
    // By recipient: whether there were bytes whenever the criteria were asked.
    let asked: Arc<Mutex<BTreeMap<String, Vec<bool>>>> = Arc::default();
    let keeper = asked.clone();
    let decide = move |sighting: &mailtee::message::Sighting, body: Option<&Body>| {
        let envelope = sighting.envelope().expect("an envelope");
        let recipient = envelope.recipients[0].address.to_text().into_owned();
        let mut asked = keeper.lock().expect("no panic");
        asked
            .entry(recipient.clone())
            .or_default()
            .push(body.is_some());
        match (recipient.as_str(), body) {
            ("excluded@a.test", _) => Decided::Excluded { rule: "1".into() },
            ("header@a.test" | "same-bytes-header@a.test", None) => Decided::NeedsHeader,
            ("header@a.test", Some(body)) => {
                let mut bytes = Vec::new();
                let read = io::copy(&mut body.open().expect("it opens"), &mut bytes);
                assert_eq!(read.expect("it is read"), sighting.bytes);
                Decided::Excluded { rule: "2".into() }
            }
            _ => Decided::Goes,
        }
    };
    let store = scene.store.clone();
    scene.rig.start_with(store, hasty(), Arc::new(decide));
    let message = Mail::sized(1, 100_000).bytes;
    let hop = b"Received: from a.test by b.test; Mon, 1 Jan 2024 10:00:00 +0000\r\n";
    let elsewhere = [&hop[..], &message].concat();
    // Each is stored before the next comes.
    for (bytes, recipient) in [
        (&message, "first@a.test"),
        (&message, "same-bytes@a.test"),
        (&message, "same-bytes-header@a.test"),
        (&elsewhere, "other-trace@a.test"),
        (&Mail::sized(2, 100_000).bytes, "excluded@a.test"),
        (&Mail::sized(3, 100_000).bytes, "header@a.test"),
        (&Mail::plain(4).bytes, "short@a.test"),
    ] {
        scene.rig.capture(bytes, recipient).await;
        scene.rig.forwarded(DEADLINE).await;
    }
    scene.rig.stop().await;
    let asked = asked.lock().expect("no panic").clone();
    let expected = [
        // First what is wanted, then what is there.
        ("excluded@a.test", vec![false, false]),
        ("first@a.test", vec![false, true]),
        ("header@a.test", vec![false, true]),
        ("other-trace@a.test", vec![false, true]),
        ("same-bytes@a.test", vec![false, false]),
        ("same-bytes-header@a.test", vec![false, true]),
        ("short@a.test", vec![true]),
    ];
    let expected = expected.map(|(recipient, had)| (recipient.to_owned(), had));
    assert_eq!(asked, BTreeMap::from(expected));
    assert!(scene.copies().await == once(&[message, Mail::plain(4).bytes]));
    assert_eq!(scene.sightings().await, 5);
    let count = |outcome| scene.rig.count(outcome);
    assert_eq!(
        (count("stored"), count("duplicate"), count("excluded")),
        (2, 3, 2)
    );
}
