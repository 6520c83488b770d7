//! The vault on a disk that is too small for it. Root is needed to mount one.

use std::{fs, process::Command};

use serde_json::Value;

use crate::{
    kit::TestDir,
    vault_kit::{Running, read_json, sighting_of},
};

/// A tmpfs of a few megabytes, unmounted on drop.
struct SmallDisk(TestDir);

impl SmallDisk {
    fn new(bytes: u64) -> Self {
        let dir = TestDir::new();
        let size = format!("size={bytes}");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .status();
        assert!(mount.unwrap().success(), "mount needs root");
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_a_transient_answer_and_leaves_nothing_half_stored() {
    let disk = SmallDisk::new(12 << 20);
    let vault = Running::start(disk.0.path()).await;
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let content = |n: u32| {
        let mut content = format!("Subject: {n}\r\n\r\n").into_bytes();
        content.resize(300_000, b'x');
        content
    };
    let mut stored = 0;
    let refused = loop {
        let sighting = sighting_of(&content(stored));
        let answer = vault
            .post(&vault.write, vault.request(&content(stored), &sighting))
            .await;
        if answer.status() != 200 {
            break answer;
        }
        stored += 1;
        assert!(stored < 100, "the disk never got full");
    };
    assert_eq!(refused.status(), 507);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(vault.upload(vec![b'x'; 20 << 20]).await.status(), 507);

    fs::remove_file(&ballast).unwrap();
    let sighting = sighting_of(&content(stored));
    let request = vault.request(&content(stored), &sighting);
    let answer: Value = read_json(vault.post(&vault.write, request).await).await;
    assert!(
        answer["methodResponses"][1][1]["created"]["m"].is_object(),
        "{answer}"
    );
    for n in 0..=stored {
        let k1 = sighting_of(&content(n)).fingerprint.k1;
        assert!(vault.download(&format!("G{k1}")).await == content(n), "{n}");
    }
    let files: usize = fs::read_dir(disk.0.join("blobs"))
        .unwrap()
        .map(|shard| fs::read_dir(shard.unwrap().path()).unwrap().count())
        .sum();
    assert_eq!(files, stored as usize + 1, "what was refused left no file");
    assert_eq!(fs::read_dir(disk.0.join("incoming")).unwrap().count(), 0);
    vault.stop().await;
}
