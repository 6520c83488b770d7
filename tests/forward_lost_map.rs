//! A dedup map that is lost while a server of no sightings holds its copies: it costs look-ups, not copies.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use mailtee::targets::jmap::shapes;

use crate::{
    forward_faults::{DEADLINE, Scene, once, open},
    kit::Mail,
    vault_kit::indexed,
};

#[tokio::test(flavor = "multi_thread")]
async fn after_a_corrupt_dedup_map_the_target_is_asked_before_anything_is_added() {
    let mut scene = Scene::with_readable_account().await;
    scene.faulty.hide(&[shapes::SIGHTINGS, shapes::BLOB]);
    scene.start();
    // What was captured before forwarding ran may have been sent by an earlier process, and is looked for: this one.
    let first = Mail::plain(0).bytes;
    scene.rig.capture(&first, "user@example.org").await;
    scene.rig.forwarded(DEADLINE).await;

    let [asked, added] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
    let heard = [
        ("Email/query", asked.clone()),
        ("Email/import", added.clone()),
    ];
    scene.faulty.poison(move |body| {
        for (method, count) in &heard {
            let calls = memchr::memmem::find_iter(body, method).count();
            count.fetch_add(calls, Ordering::Relaxed);
        }
        None
    });
    let counts = || (asked.load(Ordering::Relaxed), added.load(Ordering::Relaxed));
    let mut mails = vec![
        Mail::plain(1).bytes,
        b"Subject: no id\r\n\r\nbody\r\n".to_vec(),
    ];
    for mail in &mails {
        scene.rig.capture(mail, "user@example.org").await;
        scene.rig.forwarded(DEADLINE).await;
    }
    let of_copies_and_sightings = 4;
    assert_eq!(
        counts(),
        (0, of_copies_and_sightings),
        "a map that has lost nothing is trusted"
    );

    indexed(&scene.vault).await;
    let mut rig = scene.rig.with_map_aside().await;
    rig.start(open(&rig, &scene.faulty, &scene.dir));
    for mail in &mails {
        rig.capture(mail, "another@example.org").await;
        rig.forwarded(DEADLINE).await;
    }
    rig.stop().await;
    scene.rig = rig;
    let of_sightings = 2;
    assert_eq!(counts().1, of_copies_and_sightings + of_sightings);
    assert!(counts().0 > 0);
    mails.push(first);
    assert!(scene.copies_in("Inbox").await == once(&mails));
}
