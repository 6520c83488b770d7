//! Everything that went in comes out as files, beside the running server.

use std::{fs, process::Command};

use crate::{
    kit::TestDir,
    vault_kit::{Running, indexed, sighting_of},
};
use mailtee::{
    message::Difference,
    vault::{
        export::{Archive, ExportError},
        view::{KeptAs, Search},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn messages_and_sightings_come_out_as_they_went_in() {
    let dir = TestDir::new();
    let vault = Running::start(dir.path()).await;
    let plain = b"Subject: one\r\n\r\nFrom the start\r\nend without line end".to_vec();
    let mut relayed = b"Received: by b\r\n".to_vec();
    relayed.extend_from_slice(&plain);
    // The same message (K2) in other line ends: no difference makes it from the copy.
    let variant: Vec<u8> = plain
        .iter()
        .copied()
        .filter(|byte| *byte != b'\r')
        .collect();
    let (first, second, third) = (
        sighting_of(&plain),
        sighting_of(&relayed),
        sighting_of(&variant),
    );
    assert_eq!(first.fingerprint.k2, third.fingerprint.k2);
    vault.put(&plain, &first).await;
    let email = format!("M{}", first.fingerprint.k1);
    let difference = Difference::extract(&relayed[..]).unwrap();
    vault
        .record(&email, &second, difference.as_ref(), None)
        .await;
    vault.upload(variant.clone()).await;
    let blob = format!("G{}", third.fingerprint.k1);
    let recorded = vault.record(&email, &third, None, Some(&blob)).await;
    assert_eq!(recorded["created"]["s"]["emailId"], email, "{recorded}");
    let nul = b"Subject: two\0\r\n\r\n".to_vec();
    vault.put(&nul, &sighting_of(&nul)).await;
    indexed(&vault).await;

    let archive = Archive::open(dir.path()).unwrap();
    for (sighting, bytes) in [(&first, &plain), (&second, &relayed), (&third, &variant)] {
        let mut out = Vec::new();
        let k1 = archive.sighting(sighting.id, &mut out).unwrap();
        assert_eq!(k1, sighting.fingerprint.k1);
        assert_eq!(out, *bytes);
    }
    let rows = archive.list(&Search::default(), 0, 10).unwrap();
    assert_eq!(rows.len(), 2);
    let one = Search {
        words: Some("one".into()),
        ..Search::default()
    };
    assert_eq!(archive.count(&one).unwrap(), 1);
    let shown = archive.show(&email).unwrap();
    let kept: Vec<KeptAs> = shown.sightings.iter().map(|seen| seen.kept_as).collect();
    assert_eq!(kept, [KeptAs::Copy, KeptAs::Difference, KeptAs::Variant]);
    // A key that stands twice in JSON is read as the one, the other, or not at all.
    #[derive(serde::Deserialize)]
    struct Keys {
        seen: u64,
        sightings: Vec<serde_json::Value>,
    }
    let text = serde_json::to_string(&shown).unwrap();
    let keys: Keys = serde_json::from_str(&text).unwrap();
    assert_eq!((keys.seen, keys.sightings.len()), (3, 3));
    let mut out = Vec::new();
    let beginning = &first.fingerprint.k1.to_string()[..12];
    archive.eml(beginning, &mut out).unwrap();
    assert_eq!(out, plain);
    assert!(matches!(
        archive.eml("Mffff", Vec::new()),
        Err(ExportError::NotFound(_))
    ));

    let maildir = dir.join("maildir");
    assert_eq!(archive.maildir(&maildir).unwrap(), 2);
    assert_eq!(
        archive.maildir(&maildir).unwrap(),
        0,
        "a second run adds nothing"
    );
    let mut found: Vec<Vec<u8>> = fs::read_dir(maildir.join("cur"))
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect();
    found.sort();
    let mut wanted = vec![plain.clone(), nul];
    wanted.sort();
    assert_eq!(found, wanted);
    let mbox = dir.join("all.mbox");
    assert_eq!(archive.mbox(fs::File::create(&mbox).unwrap()).unwrap(), 2);
    let script = "import mailbox,sys; print([m['subject'][:3] for m in mailbox.mbox(sys.argv[1])])";
    let read = Command::new("python3")
        .args(["-c", script])
        .arg(&mbox)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&read.stdout).trim(),
        "['one', 'two']"
    );

    // A blob that is not what it was is not handed out as if it were.
    let name = first.fingerprint.k1.to_string();
    let file = dir.path().join("blobs").join(&name[..2]).join(&name);
    fs::write(&file, b"Subject: forged\r\n\r\n").unwrap();
    assert!(matches!(
        archive.eml(&email, Vec::new()),
        Err(ExportError::Damaged { .. })
    ));
    vault.stop().await;
}
