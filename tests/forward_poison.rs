//! A message at which the target fails alone, whatever way it fails: it is parked, and the others pass.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use mailtee::forward::Decided;
use memchr::memmem::Finder;

use crate::{
    forward_faults::{DEADLINE, Scene},
    forward_faulty::Fault,
    forward_rig::{TARGET, hasty, until},
    kit::Mail,
};

/// Requests with this capture in them meet the fault.
fn poison(scene: &Scene, id: impl ToString, fault: Fault) {
    let id = id.to_string().into_bytes();
    scene
        .faulty
        .poison(move |body| Finder::new(&id).find(body).map(|_| fault.clone()));
}

async fn is_parked_while_others_pass(fault: Fault) {
    let mut scene = Scene::new().await;
    let id = scene
        .rig
        .capture(&Mail::plain(0).bytes, "u@example.org")
        .await;
    poison(&scene, id, fault);
    scene.start();
    let rig = &scene.rig;
    // Alone it may be an outage, and is tried again for as long as that lasts.
    until(DEADLINE, "it is tried often", || rig.count("failed") > 12).await;
    assert_eq!(rig.count("parked"), 0);
    let mut passed = 0;
    while rig.count("parked") == 0 {
        passed += 1;
        assert!(passed < 500, "the poison message is never parked");
        rig.capture(&Mail::plain(passed).bytes, "u@example.org")
            .await;
        until(DEADLINE, "others pass", || rig.count("stored") == passed).await;
    }
    assert!(passed >= 7, "parked after {passed} others");
    rig.forwarded(DEADLINE).await;
    until(DEADLINE, "the target is up", || rig.is_up()).await;
    scene.rig.stop().await;
    assert_eq!(scene.sightings().await, passed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_alone_on_a_quiet_target_is_parked_at_last() {
    let mut scene = Scene::new().await;
    let mail = Mail::plain(0).bytes;
    let id = scene.rig.capture(&mail, "u@example.org").await;
    poison(&scene, id, Fault::Status(500, None));
    scene.start();
    let rig = &scene.rig;
    until(DEADLINE, "it is parked", || rig.count("parked") == 1).await;
    let failed = rig.count("failed");
    assert!(failed >= 32, "parked after {failed} attempts");
    assert!(rig.is_up(), "the target is well");
    rig.capture(&Mail::plain(1).bytes, "u@example.org").await;
    rig.forwarded(DEADLINE).await;
    scene.rig.stop().await;
    assert_eq!(scene.sightings().await, 1);
}

/// While this lasts nothing is parked; then all of it passes.
async fn outage(messages: u64, fails: impl Fn(&[u8]) -> bool + Send + Sync + 'static) {
    let mut scene = Scene::new().await;
    scene
        .faulty
        .poison(move |body| fails(body).then_some(Fault::Status(500, None)));
    for serial in 0..messages {
        let mail = Mail::plain(serial).bytes;
        scene.rig.capture(&mail, "u@example.org").await;
    }
    scene.start();
    let rig = &scene.rig;
    until(DEADLINE, "it is tried often", || rig.count("failed") > 80).await;
    assert_eq!(rig.count("parked"), 0);
    scene.faulty.poison(|_| None);
    rig.forwarded(DEADLINE).await;
    assert_eq!((rig.count("stored"), rig.count("parked")), (messages, 0));
    until(DEADLINE, "the target is up", || rig.is_up()).await;
    scene.rig.stop().await;
    assert_eq!(scene.sightings().await, messages);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_parks_no_message_that_is_alone_in_it() {
    outage(1, |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_api_alone_parks_no_message() {
    outage(1, |body| Finder::new("methodCalls").find(body).is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_uploads_alone_parks_no_message() {
    let api = Finder::new("methodCalls").into_owned();
    let asks = Finder::new("#b0").into_owned();
    // The message itself goes inside an API request.
    outage(1, move |body| {
        api.find(body).is_none() || asks.find(body).is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_for_two_messages_is_taken_for_the_target() {
    outage(2, |body| Finder::new("#b0").find(body).is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_before_the_target_forbids_is_parked_while_others_pass() {
    is_parked_while_others_pass(Fault::Status(403, None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_chokes_on_is_parked_while_others_pass() {
    is_parked_while_others_pass(Fault::Status(502, None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_connection_is_parked_while_others_pass() {
    is_parked_while_others_pass(Fault::ResetMidBody).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_spoils_the_first_batches_of_a_backlog_lets_most_of_the_others_pass_in_a_few_requests()
{
    let mut scene = Scene::new().await;
    for serial in 0..300 {
        let mail = Mail::plain(serial).bytes;
        let id = scene.rig.capture(&mail, "u@example.org").await;
        if serial == 250 {
            poison(&scene, id, Fault::Status(502, None));
        }
    }
    scene.rig.caught_up().await;
    scene.start();
    let rig = &scene.rig;
    until(DEADLINE, "the others pass", || rig.count("stored") == 299).await;
    assert_eq!(rig.count("parked"), 0, "it may still be an outage");
    let posts = scene.faulty.posts();
    assert!(posts < 70, "{posts} requests");
    scene.rig.stop().await;
    assert_eq!(scene.sightings().await, 299);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_message_that_failed_does_not_keep_its_double_waiting() {
    let mut scene = Scene::new().await;
    let mail = Mail::plain(1).bytes;
    let first = scene.rig.capture(&mail, "one@example.org").await;
    poison(&scene, first, Fault::Status(500, None));
    scene.start();
    let rig = &scene.rig;
    until(DEADLINE, "it fails", || rig.count("failed") > 1).await;
    assert!(rig.journal.hold(first).await.expect("an open journal"));
    rig.capture(&mail, "two@example.org").await;
    until(DEADLINE, "the other passes", || rig.count("stored") == 1).await;
    assert_eq!(rig.queue().held(), 1);
    scene.rig.stop().await;
}

async fn panics_and_begins_again(mail: fn(u64) -> Mail) {
    let mut scene = Scene::new().await;
    for serial in 0..3 {
        scene
            .rig
            .capture(&mail(serial).bytes, "u@example.org")
            .await;
    }
    let first = AtomicBool::new(true);
    let panics_once = move |_: &_, _: Option<&_>| {
        assert!(
            !first.swap(false, Ordering::Relaxed),
            "the first one panics"
        );
        Decided::Goes
    };
    let store = scene.store.clone();
    scene.rig.start_with(store, hasty(), Arc::new(panics_once));
    scene.rig.forwarded(DEADLINE).await;
    scene.rig.stop().await;
    assert_eq!(scene.sightings().await, 3);
    let restarts = &scene.rig.metrics.forward_restarts_total;
    assert_eq!(restarts.with_label_values(&[TARGET]).get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_that_panics_begins_again_with_what_it_had() {
    panics_and_begins_again(Mail::plain).await;
}

/// Of long ones it is asked first whether they are to be read.
#[tokio::test(flavor = "multi_thread")]
async fn forwarding_that_panics_before_it_reads_begins_again_with_what_it_had() {
    panics_and_begins_again(|serial| Mail::sized(serial, 100_000)).await;
}
