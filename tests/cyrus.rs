//! Real Cyrus as the second mail store: every message read back byte for byte, a second run adds nothing, what it will not
//! take is parked with the reason.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mailtee::{
    channel::{self, Credentials, SecretSource},
    forward::{Difference, reconcile},
    journal::View,
    message::CaptureId,
    targets::{
        RemoteStore,
        jmap::{Jmap, Options},
    },
};
use serde_json::{Value, json};

use crate::{
    forward_rig::{Rig, TARGET},
    kit::{Mail, Peer},
};

/// Cyrus takes about a hundred messages a second, on a busy machine ten.
const DEADLINE: Duration = Duration::from_secs(400);

struct Cyrus {
    peer: Peer,
    client: reqwest::Client,
    session: Value,
}

impl Cyrus {
    async fn start() -> Self {
        let peer = Peer::set("cyrus").start();
        std::fs::write(peer.dir().join("password"), "alice\n").expect("a password file");
        let client = reqwest::Client::new();
        let session = client
            .get(peer.var("JMAP"))
            .basic_auth("alice", Some("alice"))
            .send()
            .await
            .expect("Cyrus answers")
            .text()
            .await
            .expect("a session");
        let session = serde_json::from_str(&session).expect("JSON");
        Self {
            peer,
            client,
            session,
        }
    }

    fn options(&self, secured: bool) -> Options {
        Options {
            url: self.peer.var(if secured { "JMAPS" } else { "JMAP" }).into(),
            channel: channel::Options {
                ca_file: secured.then(|| self.peer.var("CA").into()),
                credentials: Credentials::Basic {
                    user: "alice".into(),
                    password: SecretSource::File(self.peer.dir().join("password")),
                },
                ..channel::Options::default()
            },
            ..Options::default()
        }
    }

    fn url(&self, path: &str) -> String {
        let base = self.peer.var("JMAP").trim_end_matches("/.well-known/jmap");
        format!("{base}{path}")
    }

    async fn call(&self, method: &str, mut arguments: Value) -> Value {
        arguments["accountId"] = json!("alice");
        let request = json!({
            "using": ["urn:ietf:params:jmap:core", "urn:ietf:params:jmap:mail"],
            "methodCalls": [[method, arguments, "0"]],
        });
        let url = self.url(self.session["apiUrl"].as_str().expect("an apiUrl"));
        let answer = self
            .client
            .post(url)
            .basic_auth("alice", Some("alice"))
            .json(&request)
            .send()
            .await
            .expect("Cyrus answers");
        let mut answer: Value = answer.json().await.expect("JSON");
        assert_eq!(answer["methodResponses"][0][0], method, "{answer}");
        answer["methodResponses"][0][1].take()
    }

    /// The id of a mailbox by its name.
    async fn mailbox(&self, name: &str) -> Option<String> {
        let answer = self.call("Mailbox/get", json!({"ids": null})).await;
        let list = answer["list"].as_array().expect("a list").clone();
        let found = list.into_iter().find(|m| m["name"] == name)?;
        Some(found["id"].as_str().expect("an id").into())
    }

    /// Every message of a mailbox, with how often it is there.
    async fn contents(&self, mailbox: &str) -> BTreeMap<Vec<u8>, usize> {
        let filter = json!({"filter": {"inMailbox": mailbox}});
        let ids = self.call("Email/query", filter).await["ids"].take();
        let mut contents = BTreeMap::new();
        let ids = ids.as_array().expect("ids").clone();
        for some in ids.chunks(500) {
            let wanted = json!({"ids": some, "properties": ["blobId"]});
            let emails = self.call("Email/get", wanted).await["list"].take();
            for email in emails.as_array().expect("a list") {
                let template = self.session["downloadUrl"].as_str().expect("a template");
                let path = template
                    .replace("{accountId}", "alice")
                    .replace("{blobId}", email["blobId"].as_str().expect("a blobId"))
                    .replace("{name}", "m")
                    .replace("{type}", "message/rfc822");
                let request = self.client.get(self.url(&path));
                let answer = request.basic_auth("alice", Some("alice")).send().await;
                let bytes = answer.expect("Cyrus answers").bytes().await.expect("bytes");
                *contents.entry(bytes.to_vec()).or_default() += 1;
            }
        }
        contents
    }
}

fn jmap(rig: &Rig, options: Options) -> Arc<Jmap> {
    Arc::new(Jmap::open(TARGET, options, rig.metrics.clone()).expect("a target"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_lie_in_cyrus_byte_for_byte_and_a_second_run_adds_nothing() {
    let cyrus = Cyrus::start().await;
    let sent: Vec<_> = (0..1000).map(|n| Mail::varied(1, n).bytes).collect();
    let expected: BTreeMap<_, _> = sent.iter().map(|bytes| (bytes.clone(), 1)).collect();
    let mut rig = Rig::new();
    for bytes in &sent {
        rig.capture(bytes, "user@example.org").await;
    }
    rig.start(jmap(&rig, cyrus.options(true)));
    rig.forwarded(DEADLINE).await;
    rig.stop().await;
    assert_eq!((rig.count("stored"), rig.count("parked")), (1000, 0));

    let inbox = cyrus.mailbox("Inbox").await.expect("an inbox");
    assert!(cyrus.contents(&inbox).await == expected);
    let sightings = cyrus.mailbox("sightings").await.expect("made by mailtee");
    let sidecars = cyrus.contents(&sightings).await;
    assert_eq!(sidecars.len(), 1000);
    assert!(sidecars.values().all(|copies| *copies == 1));

    // The same mail again, after everything that was known of the first run is lost.
    let mut again = rig.without_dedup_map("dedup-2").await;
    for bytes in &sent {
        again.capture(bytes, "user@example.org").await;
    }
    let options = Options {
        sightings_mailbox: None,
        ..cyrus.options(true)
    };
    again.start(jmap(&again, options));
    again.forwarded(DEADLINE).await;
    again.stop().await;
    assert!(cyrus.contents(&inbox).await == expected);
    assert_eq!(cyrus.contents(&sightings).await.len(), 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_put_beside_the_copies_is_named_by_verify() {
    let cyrus = Cyrus::start().await;
    let mut rig = Rig::new();
    rig.start(jmap(&rig, cyrus.options(false)));
    let sent: Vec<_> = (0..3).map(|n| Mail::plain(n).bytes).collect();
    for bytes in &sent {
        rig.capture(bytes, "u@example.org").await;
    }
    rig.forwarded(DEADLINE).await;
    let store = jmap(&rig, cyrus.options(false));
    let found = async || {
        let found = reconcile(rig.journal.view(), &rig.dedup, TARGET, &*store).await;
        found.expect("compared")
    };
    let clean = found().await;
    assert_eq!((clean.checked, clean.differences), (3, 0), "{clean:?}");
    assert!(clean.listed);

    // Another client's: the same mailbox, a message that mailtee never saw.
    let inbox = cyrus.mailbox("Inbox").await.expect("an inbox");
    let template = cyrus.session["uploadUrl"].as_str().expect("a template");
    let url = cyrus.url(&template.replace("{accountId}", "alice"));
    let upload = cyrus.client.post(url).basic_auth("alice", Some("alice"));
    let upload = upload.header("Content-Type", "message/rfc822");
    let uploaded = upload.body(Mail::plain(9).bytes).send().await;
    let blob: Value = uploaded.expect("Cyrus answers").json().await.expect("JSON");
    let email = json!({"blobId": blob["blobId"], "mailboxIds": {inbox: true}});
    let imported = cyrus
        .call("Email/import", json!({"emails": {"m": email}}))
        .await;
    let id = imported["created"]["m"]["id"].as_str().expect("an id");
    let unknown = Difference::Unknown {
        remote_id: id.into(),
    };
    assert_eq!(found().await.named, [unknown]);
    rig.stop().await;

    // What is asked where one message fails alone: Cyrus takes it, and nothing of it is in any mailbox.
    let inbox = cyrus.mailbox("Inbox").await.expect("an inbox");
    let before = cyrus.contents(&inbox).await;
    store.vouch().await.expect("Cyrus is well");
    assert_eq!(cyrus.contents(&inbox).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cyrus_will_not_take_is_parked_with_the_reason_and_blocks_nobody() {
    let cyrus = Cyrus::start().await;
    let mut rig = Rig::new();
    let head = "From: a@mailtee.test\r\nSubject: odd\r\nMessage-ID: <odd@mailtee.test>\r\n\r\n";
    let nul = rig
        .capture(format!("{head}a\0b\r\n").as_bytes(), "u@example.org")
        .await;
    let bare = rig
        .capture(format!("{head}a\nb\r\n").as_bytes(), "u@example.org")
        .await;
    let good: Vec<_> = (0..50).map(|n| Mail::plain(n).bytes).collect();
    for bytes in &good {
        rig.capture(bytes, "u@example.org").await;
    }
    rig.start(jmap(&rig, cyrus.options(false)));
    rig.forwarded(DEADLINE).await;
    rig.stop().await;
    assert_eq!((rig.count("stored"), rig.count("parked")), (50, 2));
    assert!(why(&rig, nul).contains("NUL"), "{}", why(&rig, nul));
    assert!(why(&rig, bare).contains("newlines"), "{}", why(&rig, bare));
}

/// Why a capture is parked, as `mailtee queue show` says it.
fn why(rig: &Rig, id: CaptureId) -> String {
    let view: View = rig.journal.view();
    let shown = view.show(id).expect("readable").expect("there");
    format!("{:?}", shown.targets)
}
