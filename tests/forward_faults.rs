//! Forwarding into a real vault through everything that can go wrong on the way: nothing is lost, nothing is doubled.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use mailtee::{
    channel::{self, Credentials, SecretSource},
    dedup::{Claim, StoredCopy},
    forward::verify::{Finding, verify},
    message::{Acceptance, Body, CaptureId, Fingerprinter, UnixMillis},
    targets::{
        Content, Outgoing, PutError, RemoteStore,
        jmap::{Jmap, Options, shapes},
    },
};
use serde_json::{Value, json};
use sha2::Digest;

use crate::{
    forward_faulty::{Fault, Faulty},
    forward_rig::{Rig, TARGET, sighting, until},
    kit::{Mail, TestDir},
    vault_kit::Running,
};

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A vault, what stands before it, and the forwarding into it.
pub(crate) struct Scene {
    pub(crate) rig: Rig,
    pub(crate) faulty: Faulty,
    pub(crate) vault: Running,
    pub(crate) store: Arc<Jmap>,
    pub(crate) dir: TestDir,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let dir = TestDir::new();
        let vault = Running::start(&dir.join("vault")).await;
        let faulty = Faulty::before(&vault).await;
        let rig = Rig::new();
        std::fs::write(dir.join("token"), &vault.write).expect("a token file");
        let store = open(&rig, &faulty, &dir);
        Self {
            rig,
            faulty,
            vault,
            store,
            dir,
        }
    }

    /// A vault whose token may read as well, as the credentials for other servers may.
    pub(crate) async fn with_readable_account() -> Self {
        let scene = Self::new().await;
        let Self {
            rig, vault, dir, ..
        } = scene;
        vault.stop().await;
        let tokens = dir.join("vault/tokens/tokens");
        let mut lines = std::fs::read_to_string(&tokens).expect("a token file");
        let hash = mailtee::message::K1(sha2::Sha256::digest("both").into());
        lines += &format!("both read,write {hash}\n");
        std::fs::write(&tokens, lines).expect("written");
        std::fs::write(dir.join("token"), "both").expect("written");
        let vault = Running::start(&dir.join("vault")).await;
        let faulty = Faulty::before(&vault).await;
        let store = open(&rig, &faulty, &dir);
        Self {
            rig,
            faulty,
            vault,
            store,
            dir,
        }
    }

    pub(crate) fn start(&mut self) {
        self.rig.start(self.store.clone());
    }

    /// How often each content is in the vault.
    pub(crate) async fn copies(&self) -> BTreeMap<Vec<u8>, usize> {
        self.copies_of(json!({"limit": 1000})).await
    }

    async fn copies_of(&self, query: Value) -> BTreeMap<Vec<u8>, usize> {
        let reader = &self.vault.read;
        let ids = self.vault.call(reader, "Email/query", query).await["ids"].take();
        let wanted = json!({"ids": ids, "properties": ["blobId"]});
        let emails = self.vault.call(reader, "Email/get", wanted).await["list"].take();
        let mut copies = BTreeMap::new();
        for email in emails.as_array().expect("a list") {
            let blob = email["blobId"].as_str().expect("a blobId");
            let url = format!("{}/jmap/download/vault/{blob}/m.eml", self.vault.base);
            let answer = self.vault.client.get(url).bearer_auth(reader).send().await;
            let answer = answer.expect("the vault answers");
            assert_eq!(answer.status(), 200);
            let bytes = answer.bytes().await.expect("bytes");
            *copies.entry(bytes.to_vec()).or_default() += 1;
        }
        copies
    }

    /// How often each content is in a mailbox.
    pub(crate) async fn copies_in(&self, name: &str) -> BTreeMap<Vec<u8>, usize> {
        let reader = &self.vault.read;
        let all = self
            .vault
            .call(reader, "Mailbox/get", json!({"ids": null}))
            .await;
        let mailboxes = all["list"].as_array().expect("a list");
        let found = mailboxes.iter().find(|m| m["name"] == name);
        let id = &found.unwrap_or_else(|| panic!("no mailbox {name}: {all}"))["id"];
        self.copies_of(json!({"filter": {"inMailbox": id}, "limit": 1000}))
            .await
    }

    pub(crate) async fn sightings(&self) -> u64 {
        let count = json!({"calculateTotal": true, "limit": 1});
        let answer = self
            .vault
            .call(&self.vault.read, "Sighting/query", count)
            .await;
        answer["total"].as_u64().expect("a total")
    }

    async fn sighting(&self, id: CaptureId) -> Value {
        let wanted = json!({"ids": [id]});
        let mut answer = self
            .vault
            .call(&self.vault.read, "Sighting/get", wanted)
            .await;
        answer["list"][0].take()
    }
}

pub(crate) fn open(rig: &Rig, faulty: &Faulty, dir: &TestDir) -> Arc<Jmap> {
    let options = Options {
        url: faulty.url(),
        channel: channel::Options {
            credentials: Credentials::Bearer(SecretSource::File(dir.join("token"))),
            silence_timeout: Duration::from_millis(1500),
            ..channel::Options::default()
        },
        ..Options::default()
    };
    Arc::new(Jmap::open(TARGET, options, rig.metrics.clone()).expect("a target"))
}

pub(crate) fn once(sent: &[Vec<u8>]) -> BTreeMap<Vec<u8>, usize> {
    sent.iter().map(|bytes| (bytes.clone(), 1)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_go_in_few_requests_and_lie_in_the_vault_byte_for_byte() {
    let mut scene = Scene::new().await;
    let sent: Vec<_> = (0..1000).map(|n| Mail::varied(7, n).bytes).collect();
    for bytes in &sent {
        scene.rig.capture(bytes, "user@example.org").await;
    }
    scene.start();
    scene.rig.forwarded(DEADLINE).await;
    scene.rig.stop().await;
    assert!(scene.copies().await == once(&sent));
    assert_eq!(scene.sightings().await, 1000);
    let posts = scene.faulty.posts();
    assert!(posts < 100, "{posts} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sighting_is_kept_and_every_message_once() {
    let mut scene = Scene::new().await;
    let plain = Mail::plain(1).bytes;
    let traced = [
        &b"Received: from a by b; Mon, 1 Jun 2026 10:00:00 +0000\r\n"[..],
        &plain,
    ]
    .concat();
    let bare = String::from_utf8(plain.clone())
        .expect("ASCII")
        .replace("\r\n", "\n");
    let large = Mail::sized(2, 3 << 20).bytes;
    let mut ids = Vec::new();
    for bytes in [
        &plain,
        &plain,
        &traced,
        &bare.clone().into_bytes(),
        &large,
        &large,
    ] {
        ids.push(scene.rig.capture(bytes, "user@example.org").await);
    }
    scene.start();
    scene.rig.forwarded(DEADLINE).await;
    scene.rig.stop().await;
    assert_eq!(scene.copies().await, once(&[plain, large]));
    assert_eq!(
        (scene.rig.count("stored"), scene.rig.count("duplicate")),
        (2, 4)
    );
    let of: Vec<_> = {
        let mut of = Vec::new();
        for id in &ids {
            of.push(scene.sighting(*id).await);
        }
        of
    };
    assert_eq!(of[0]["emailId"], of[3]["emailId"]);
    assert!(
        of[1]["difference"].is_null() && of[1]["blobId"].is_null(),
        "same bytes"
    );
    assert!(
        of[2]["difference"].is_object(),
        "trace headers alone: {}",
        of[2]
    );
    assert!(of[3]["blobId"].is_string(), "other line ends: {}", of[3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_dedup_map_makes_no_second_copy() {
    let mut scene = Scene::new().await;
    let sent: Vec<_> = (0..50).map(|n| Mail::varied(3, n).bytes).collect();
    for bytes in &sent {
        scene.rig.capture(bytes, "user@example.org").await;
    }
    scene.start();
    scene.rig.forwarded(DEADLINE).await;
    let trace = b"Received: from elsewhere; Mon, 1 Jun 2026 10:00:00 +0000\r\n";
    let mut rig = scene.rig.without_dedup_map("another").await;
    for bytes in &sent {
        rig.capture(bytes, "another@example.org").await;
        rig.capture(&[&trace[..], bytes].concat(), "third@example.org")
            .await;
    }
    rig.start(open(&rig, &scene.faulty, &scene.dir));
    rig.forwarded(DEADLINE).await;
    rig.stop().await;
    scene.rig = rig;
    assert_eq!(scene.rig.count("duplicate"), 100);
    assert!(scene.copies().await == once(&sent));
    assert_eq!(scene.sightings().await, 150);
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_on_the_way_lose_nothing_and_double_nothing() {
    let faults = [
        Fault::ResetMidBody,
        Fault::Stall,
        Fault::Status(500, None),
        Fault::Status(429, Some(1)),
        Fault::Status(503, None),
        Fault::Status(302, None),
        Fault::ReplyLost,
        Fault::Slow,
    ];
    let mut scene = Scene::new().await;
    scene.start();
    let mut sent = Vec::new();
    for (round, fault) in faults.into_iter().enumerate() {
        scene.faulty.script([fault.clone(), fault]);
        for n in 0..20 {
            let mail = Mail::varied(round as u64 + 100, n);
            scene.rig.capture(&mail.bytes, "user@example.org").await;
            sent.push(mail.bytes);
        }
        scene.rig.caught_up().await;
        let faulty = &scene.faulty;
        let queue = scene.rig.queue();
        let through = || faulty.is_done() && queue.waiting() == 0;
        until(DEADLINE, &format!("round {round} is through"), through).await;
    }
    let large = Mail::sized(9, 2 << 20).bytes;
    scene
        .faulty
        .script([Fault::ResetMidBody, Fault::ReplyLost, Fault::Stall]);
    scene.rig.capture(&large, "user@example.org").await;
    sent.push(large);
    scene.rig.forwarded(DEADLINE).await;
    scene.rig.stop().await;
    assert!(scene.copies().await == once(&sent));
    assert_eq!(scene.sightings().await, sent.len() as u64);
    assert_eq!(scene.rig.count("stored"), sent.len() as u64);
    assert_eq!(scene.rig.count("parked"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_rises_while_the_target_is_down_and_falls_when_it_is_back() {
    let mut scene = Scene::new().await;
    scene.start();
    scene
        .rig
        .capture(&Mail::plain(0).bytes, "u@example.org")
        .await;
    scene.rig.forwarded(DEADLINE).await;
    assert!(scene.rig.is_up() && scene.rig.lag() == 0.0);

    scene.faulty.close();
    let sent: Vec<_> = (0..100).map(|n| Mail::plain(n).bytes).collect();
    for bytes in &sent {
        scene.rig.capture(bytes, "u@example.org").await;
    }
    let rig = &scene.rig;
    rig.caught_up().await;
    until(DEADLINE, "the target is known to be down", || !rig.is_up()).await;
    let before = rig.lag();
    until(DEADLINE, "lag rises", || rig.lag() > before + 0.05).await;
    assert_eq!(rig.queue().waiting(), 100);

    scene.faulty.reopen().await;
    scene.rig.forwarded(DEADLINE).await;
    assert!(scene.rig.is_up() && scene.rig.lag() == 0.0);
    scene.rig.stop().await;
    assert!(scene.copies().await == once(&sent));
    // Message 0 was seen twice.
    assert_eq!(scene.sightings().await, 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_park_nothing_and_a_renewed_token_is_taken_up() {
    let mut scene = Scene::new().await;
    std::fs::write(scene.dir.join("token"), "expired").expect("written");
    scene.store = open(&scene.rig, &scene.faulty, &scene.dir);
    scene.start();
    let sent: Vec<_> = (0..10).map(|n| Mail::plain(n).bytes).collect();
    for bytes in &sent {
        scene.rig.capture(bytes, "u@example.org").await;
    }
    let rig = &scene.rig;
    rig.caught_up().await;
    until(DEADLINE, "the target refuses us", || !rig.is_up()).await;
    assert_eq!((rig.queue().waiting(), rig.queue().parked()), (10, 0));
    std::fs::write(scene.dir.join("token"), &scene.vault.write).expect("written");
    scene.rig.forwarded(DEADLINE).await;
    scene.rig.stop().await;
    assert!(scene.copies().await == once(&sent));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_poison_message_among_a_thousand_is_parked_and_the_others_pass() {
    let mut scene = Scene::new().await;
    let mut sent: Vec<_> = (0..1000).map(|n| Mail::plain(n).bytes).collect();
    let mut poison = None;
    for (n, bytes) in sent.iter().enumerate() {
        let id = scene.rig.capture(bytes, "u@example.org").await;
        if n == 400 {
            poison = Some(id.to_string().into_bytes());
        }
    }
    let poison = poison.expect("captured");
    scene.faulty.poison(move |body| {
        let finder = memchr::memmem::Finder::new(&poison);
        finder.find(body).map(|_| Fault::Status(500, None))
    });
    scene.start();
    let rig = &scene.rig;
    until(DEADLINE, "the others pass", || rig.count("stored") == 999).await;
    // What fails alone is parked only where others pass meanwhile.
    let mut serial = 1000;
    while rig.count("parked") == 0 {
        let bytes = Mail::plain(serial).bytes;
        rig.capture(&bytes, "u@example.org").await;
        sent.push(bytes);
        let passed = serial;
        until(DEADLINE, "others pass", || rig.count("stored") == passed).await;
        serial += 1;
        assert!(serial < 2000, "the poison message is never parked");
    }
    scene.rig.stop().await;
    sent.remove(400);
    assert_eq!(scene.rig.count("parked"), 1);
    assert_eq!(scene.sightings().await, sent.len() as u64);
    assert!(scene.rig.is_up());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_nobody_told_halves_batches_and_parks_what_is_alone_beyond_it() {
    let mut scene = Scene::new().await;
    let mut sent: Vec<_> = (0..200).map(|n| Mail::plain(n).bytes).collect();
    sent.push(Mail::sized(200, 60_000).bytes);
    for bytes in &sent {
        scene.rig.capture(bytes, "u@example.org").await;
    }
    let beyond = |body: &[u8]| (body.len() > 60_000).then_some(Fault::Status(413, None));
    scene.faulty.poison(beyond);
    scene.start();
    scene.rig.forwarded(DEADLINE).await;
    scene.rig.stop().await;
    sent.pop();
    assert!(scene.copies().await == once(&sent));
    assert_eq!(scene.rig.count("parked"), 1);
}

async fn is_gone_found_and_sent_again(bytes: Vec<u8>) {
    let mut scene = Scene::new().await;
    let print = Fingerprinter::of(&bytes);
    let first = CaptureId::from_parts(UnixMillis::from_system(SystemTime::now()), rand::random());
    let Claim::New(claim) = scene.rig.dedup.claim(TARGET, &print.k2, first) else {
        panic!("an empty map claims nothing");
    };
    let gone = StoredCopy {
        first,
        k1: print.k1,
        core: print.core,
        remote_id: "Mgone".into(),
    };
    assert!(claim.confirm(gone.clone()).wait().await);

    let store: Arc<dyn RemoteStore> = scene.store.clone();
    let mut found = Vec::new();
    let summary = verify(&scene.rig.dedup, TARGET, &*store, |f| found.push(f)).await;
    let summary = summary.expect("the target answers");
    assert_eq!((summary.checked, summary.missing), (1, 1));
    assert_eq!(found, [Finding::Missing(gone)]);

    for recipient in ["u@example.org", "v@example.org", "w@example.org"] {
        scene.rig.capture(&bytes, recipient).await;
    }
    scene.start();
    scene.rig.forwarded(DEADLINE).await;
    scene.rig.stop().await;
    assert!(scene.copies().await == once(&[bytes]));
    assert_eq!(scene.sightings().await, 3);
    scene.rig.dedup.flush().await;
    let summary = verify(&scene.rig.dedup, TARGET, &*store, |f| panic!("{f:?}")).await;
    assert_eq!(summary.expect("the target answers").checked, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_gone_is_found_by_verify_and_sent_again() {
    is_gone_found_and_sent_again(Mail::plain(5).bytes).await;
}

/// Its captures were leased without their content.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_copy_that_is_gone_is_found_by_verify_and_sent_again() {
    is_gone_found_and_sent_again(Mail::sized(5, 100_000).bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_keeps_no_sightings_gets_each_as_one_mail() {
    let trace = b"Received: from elsewhere; Mon, 1 Jun 2026 10:00:00 +0000\r\n";
    for hidden in [&[shapes::SIGHTINGS][..], &[shapes::SIGHTINGS, shapes::BLOB]] {
        let mut scene = Scene::with_readable_account().await;
        scene.faulty.hide(hidden);
        // At the upload, the import, the upload of the sightings, their import.
        for _ in 0..4 {
            scene
                .faulty
                .script([Fault::ReplyLost, Fault::Status(503, None)]);
        }
        let mut sent: Vec<_> = (0..60).map(|n| Mail::varied(11, n).bytes).collect();
        sent.push(Mail::sized(60, 1 << 20).bytes);
        let mut ids = Vec::new();
        for bytes in &sent {
            ids.push(scene.rig.capture(bytes, "u@example.org").await);
        }
        for bytes in &sent[..5] {
            ids.push(scene.rig.capture(bytes, "again@example.org").await);
            let traced = [&trace[..], bytes].concat();
            ids.push(scene.rig.capture(&traced, "traced@example.org").await);
        }
        scene.start();
        scene.rig.forwarded(DEADLINE).await;
        scene.rig.stop().await;
        assert!(scene.copies_in("Inbox").await == once(&sent));
        assert_eq!(
            (scene.rig.count("stored"), scene.rig.count("duplicate")),
            (61, 10)
        );
        let mails = scene.copies_in("sightings").await;
        assert_eq!(mails.len(), ids.len());
        for id in ids {
            let subject = format!("Subject: Sighting {id}\r\n");
            let finder = memchr::memmem::Finder::new(&subject);
            let of_id = mails.keys().filter(|mail| finder.find(mail).is_some());
            assert_eq!(of_id.count(), 1, "{id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_found_among_many_of_its_size_and_second() {
    let scene = Scene::with_readable_account().await;
    scene.faulty.hide(&[shapes::SIGHTINGS]);
    let now = UnixMillis::from_system(SystemTime::now());
    let outgoing = |n: u32| {
        let bytes = format!("Subject: {n:04}\r\n\r\n{n:04}\r\n").into_bytes();
        let mut sighting = sighting(&bytes, "u@example.org");
        sighting.captured_at = now;
        Outgoing {
            sighting: Arc::new(sighting),
            acceptance: Acceptance::Unknown,
            content: Content::Copy(Body::Small(bytes.into())),
            attempted: false,
            map_has_lost: false,
        }
    };
    let mut batch: Vec<_> = (0..130).map(outgoing).collect();
    for result in scene.store.put(&batch).await {
        result.expect("taken");
    }
    // The first and the last, in whatever order the server lists them: they are not to be brought again.
    batch.drain(3..127);
    for outgoing in &mut batch {
        outgoing.attempted = true;
    }
    scene.faulty.poison(|body| {
        let import = memchr::memmem::find(body, b"Email/import");
        import.map(|_| Fault::Status(500, None))
    });
    for result in scene.store.put(&batch).await {
        result.expect("found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_says_of_one_message_is_what_forwarding_hears() {
    let scene = Scene::new().await;
    let bytes = Mail::plain(1).bytes;
    let batch = [Outgoing {
        sighting: Arc::new(sighting(&bytes, "u@example.org")),
        acceptance: Acceptance::Unknown,
        content: Content::Copy(Body::Small(bytes.into())),
        attempted: false,
        map_has_lost: false,
    }];
    let seconds = |n| Some(Duration::from_secs(n));
    for (fault, heard) in [
        (Fault::Status(429, Some(7)), Some(seconds(7))),
        (Fault::Status(503, Some(30)), Some(seconds(30))),
        (Fault::Status(507, None), Some(None)),
        (Fault::Stall, Some(None)),
        (Fault::ReplyLost, Some(None)),
        (Fault::Status(500, None), None),
        (Fault::Status(401, None), None),
        (Fault::Status(413, None), None),
    ] {
        scene.store.probe().await.expect("the target is there");
        scene.faulty.script([fault.clone()]);
        let error = scene.store.put(&batch).await.remove(0).unwrap_err();
        match (&fault, error) {
            (_, PutError::Unavailable { retry_after, .. }) => {
                assert_eq!(Some(retry_after), heard, "{fault:?}")
            }
            (Fault::Status(500, _), PutError::Failed { .. })
            | (Fault::Status(401, _), PutError::Unauthorized { .. })
            | (Fault::Status(413, _), PutError::Refused { .. }) => assert_eq!(heard, None),
            (_, error) => panic!("{fault:?}: {error:?}"),
        }
    }
    // Stored when the reply was lost: the same again is one copy and one sighting.
    let receipt = scene.store.put(&batch).await.remove(0).expect("taken");
    assert!(receipt.already.is_none());
    assert_eq!(
        (scene.copies().await.len(), scene.sightings().await),
        (1, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_where_it_stopped() {
    let mut scene = Scene::new().await;
    let sent: Vec<_> = (0..300).map(|n| Mail::plain(n).bytes).collect();
    for bytes in &sent {
        scene.rig.capture(bytes, "u@example.org").await;
    }
    scene.start();
    let rig = &scene.rig;
    until(DEADLINE, "some have passed", || rig.count("stored") > 0).await;
    let mut rig = scene.rig.restarted().await;
    rig.start(open(&rig, &scene.faulty, &scene.dir));
    rig.forwarded(DEADLINE).await;
    rig.stop().await;
    scene.rig = rig;
    assert!(scene.copies().await == once(&sent));
    assert_eq!(scene.sightings().await, 300);
}
