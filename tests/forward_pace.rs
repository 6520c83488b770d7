//! When a batch waits to fill, and when not.

use std::sync::Arc;

use mailtee::forward::{Decided, Options};

use crate::{
    forward_faults::{DEADLINE, Scene, once},
    forward_rig::hasty,
    kit::Mail,
};

/// Batches end at their bytes, mostly a little before them, and at a message that lies in a file of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_long_messages_waits_for_no_batch_to_fill() {
    let mut scene = Scene::new().await;
    let sent: Vec<_> = (0..25)
        .map(|serial| match serial % 4 {
            0 => Mail::sized(serial, 1_500_000).bytes,
            _ => Mail::sized(serial, 150_000).bytes,
        })
        .collect();
    for bytes in &sent {
        scene.rig.capture(bytes, "user@example.org").await;
    }
    scene.rig.caught_up().await;
    let options = Options {
        linger: 10 * DEADLINE,
        ..hasty()
    };
    let store = scene.store.clone();
    scene
        .rig
        .start_with(store, options, Arc::new(|_, _| Decided::Goes));
    scene.rig.forwarded(DEADLINE).await;
    scene.rig.stop().await;
    assert!(scene.copies().await == once(&sent));
}
