//! `mailtee vault fsck` on a vault that was filled by its clients, clean and damaged.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    kit::TestDir,
    vault_kit::{Running, sighting_of},
};

fn content(n: u32) -> Vec<u8> {
    format!("Subject: {n}\r\n\r\nThe body of message {n}\r\n").into_bytes()
}

fn name(n: u32) -> String {
    sighting_of(&content(n)).fingerprint.k1.to_string()
}

fn file(dir: &Path, n: u32) -> PathBuf {
    dir.join("blobs").join(&name(n)[..2]).join(name(n))
}

async fn filled(count: u32) -> TestDir {
    let dir = TestDir::new();
    let vault = Running::start(dir.path()).await;
    for n in 0..count {
        vault.put(&content(n), &sighting_of(&content(n))).await;
    }
    vault.stop().await;
    dir
}

/// The exit code, and what it found.
fn fsck(dir: &Path) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_mailtee"))
        .args(["vault", "fsck", "--format", "json", "--data-dir"])
        .arg(dir)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let found = serde_json::from_slice(&output.stdout);
    (output.status.code().unwrap(), found.expect(&stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_vault_is_clean_beside_its_server_and_after_it() {
    let dir = TestDir::new();
    let vault = Running::start(dir.path()).await;
    for n in 0..3 {
        vault.put(&content(n), &sighting_of(&content(n))).await;
    }
    let bytes: usize = (0..3).map(|n| content(n).len()).sum();
    let clean = serde_json::json!(
        {"blobs": 3, "bytes": bytes, "damages": 0, "leftovers": 0, "named": []}
    );
    assert_eq!(fsck(dir.path()), (0, clean.clone()));
    vault.stop().await;
    assert_eq!(fsck(dir.path()), (0, clean));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_and_a_missing_file_are_named_with_exit_code_1() {
    let dir = filled(4).await;
    let mut bytes = content(1);
    bytes[20] ^= 1;
    fs::write(file(dir.path(), 1), &bytes).unwrap();
    fs::remove_file(file(dir.path(), 2)).unwrap();
    let (code, found) = fsck(dir.path());
    assert_eq!((code, &found["damages"]), (1, &2.into()), "{found}");
    let named: Vec<_> = found["named"].as_array().unwrap().iter().collect();
    assert_eq!(named[0]["finding"], "damaged");
    assert_eq!(named[0]["k1"], name(1));
    assert_eq!(
        named[0]["found"],
        sighting_of(&bytes).fingerprint.k1.to_string()
    );
    assert_eq!(named[1]["finding"], "missing");
    assert_eq!(named[1]["k1"], name(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_row_is_named_and_is_no_damage() {
    let dir = filled(2).await;
    let leftover = file(dir.path(), 7);
    fs::write(&leftover, b"half").unwrap();
    let (code, found) = fsck(dir.path());
    assert_eq!((code, &found["leftovers"]), (0, &1.into()), "{found}");
    let within = format!("{}/{}", &name(7)[..2], name(7));
    assert_eq!(found["named"][0]["finding"], "leftover");
    assert_eq!(found["named"][0]["file"], within);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_email_whose_blob_lost_its_row_is_damage() {
    let dir = filled(2).await;
    let index = rusqlite::Connection::open(dir.join("index.db")).unwrap();
    let gone = index.execute(
        "DELETE FROM blobs WHERE row = (SELECT max(row) FROM blobs)",
        [],
    );
    assert_eq!(gone.unwrap(), 1);
    drop(index);
    let (code, found) = fsck(dir.path());
    assert_eq!((code, &found["damages"]), (1, &1.into()), "{found}");
    assert_eq!(found["named"][0]["finding"], "dangling");
    assert_eq!(
        (&found["blobs"], &found["leftovers"]),
        (&1.into(), &1.into())
    );
}
