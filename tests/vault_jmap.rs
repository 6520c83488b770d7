//! The vault as a JMAP server, over TLS: what it takes it gives back byte for byte, once; what it does not know it says.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    kit::TestDir,
    vault_kit::{Running, USING, read_json, sighting_of},
};
use mailtee::{
    message::Difference,
    net::{Address, ClientTls, ClientTlsFiles},
    vault::{Limits, Options},
};

fn plain(n: u32) -> Vec<u8> {
    format!("Message-ID: <{n}@example.org>\r\nSubject: number {n}\r\n\r\nbody\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_is_verified_by_its_listen_address_whatever_names_it_was_given() {
    let dir = TestDir::new();
    let listen = "127.0.0.7:0".parse().expect("an address");
    let options = Options {
        names: vec!["vault.example.org".into()],
        ..Options::new(listen, dir.join("vault"))
    };
    // Its client trusts this certificate alone, and asks for the address.
    let vault = Running::start_as(options).await;
    assert!(vault.base.contains("//127.0.0.7:"), "{}", vault.base);
    let session = vault.client.get(format!("{}/.well-known/jmap", vault.base));
    let answer = session.bearer_auth(&vault.read).send().await;
    assert_eq!(answer.expect("a verified connection").status(), 200);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_one_request_is_stored_once_with_its_sighting() {
    let dir = TestDir::new();
    let vault = Running::start(dir.path()).await;
    let content = plain(1);
    let first = sighting_of(&content);
    let [uploaded, imported, sighted] = vault.put(&content, &first).await;
    let k1 = first.fingerprint.k1;
    assert_eq!(uploaded["created"]["b"]["id"], format!("G{k1}"));
    assert_eq!(imported["created"]["m"]["id"], format!("M{k1}"));
    assert_eq!(sighted["created"]["s"]["emailId"], format!("M{k1}"));
    assert_eq!(sighted["created"]["s"]["existing"], Value::Null);
    assert_eq!(vault.download(&format!("G{k1}")).await, content);

    // The reply was lost: all of it again changes nothing.
    let [_, imported, sighted] = vault.put(&content, &first).await;
    assert_eq!(imported["notCreated"]["m"]["type"], "alreadyExists");
    assert_eq!(imported["notCreated"]["m"]["existingId"], format!("M{k1}"));
    assert_eq!(sighted["created"]["s"]["existing"], Value::Null);

    // Another sighting of the same bytes.
    let second = sighting_of(&content);
    let [_, _, sighted] = vault.put(&content, &second).await;
    let existing = &sighted["created"]["s"]["existing"];
    assert_eq!(existing["first"], first.id.to_string());
    let found = vault
        .call(
            &vault.read,
            "Sighting/query",
            json!({"filter": {"emailId": format!("M{k1}")}}),
        )
        .await;
    assert_eq!(
        found["ids"],
        json!([first.id.to_string(), second.id.to_string()])
    );
    let all = vault
        .call(&vault.read, "Email/query", json!({"calculateTotal": true}))
        .await;
    assert_eq!(all["total"], 1);
    assert_eq!(vault.metrics.vault_messages.get(), 1);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_message_in_other_bytes_is_never_a_second_copy() {
    let dir = TestDir::new();
    let vault = Running::start(dir.path()).await;
    let content = plain(2);
    let mut relayed = b"Received: from a by b; today\r\n".to_vec();
    relayed.extend_from_slice(&content);
    let (first, second) = (sighting_of(&content), sighting_of(&relayed));
    vault.put(&content, &first).await;
    let [_, imported, sighted] = vault.put(&relayed, &second).await;
    assert_eq!(imported["notCreated"]["m"]["type"], "alreadyExists");
    let refused = &sighted["notCreated"]["s"];
    assert_eq!(refused["type"], "alreadyExists");
    assert_eq!(refused["existing"]["k1"], first.fingerprint.k1.to_string());

    let email = refused["existing"]["emailId"].as_str().unwrap();
    let without = vault.record(email, &second, None, None).await;
    assert_eq!(without["notCreated"]["s"]["type"], "invalidProperties");
    let difference = Difference::extract(&relayed[..]).unwrap().unwrap();
    let recorded = vault.record(email, &second, Some(&difference), None).await;
    assert_eq!(recorded["created"]["s"]["emailId"], email, "{recorded}");
    let shown = vault
        .call(
            &vault.read,
            "Sighting/get",
            json!({"ids": [second.id.to_string()]}),
        )
        .await;
    assert_eq!(shown["list"][0]["difference"], json!(difference));
    let other = sighting_of(b"Subject: other\r\n\r\n");
    let wrong = vault.record(email, &other, Some(&difference), None).await;
    assert_eq!(wrong["notCreated"]["s"]["type"], "invalidProperties");
    let nowhere = vault
        .record(&format!("M{}", other.fingerprint.k1), &other, None, None)
        .await;
    assert_eq!(nowhere["notCreated"]["s"]["type"], "notFound");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_and_asks_for_nothing_is_left() {
    let dir = TestDir::new();
    let limits = Limits {
        idle: Duration::from_millis(300),
        ..Limits::default()
    };
    let vault = Running::start_with(dir.path(), limits).await;
    let files = ClientTlsFiles {
        ca_file: Some(dir.join("tls/certificate.pem")),
        identity: None,
    };
    let tls = ClientTls::load(files, &["h2", "http/1.1"]).unwrap();
    let begun: [&[u8]; 4] = [
        b"",
        b"PRI * HTTP/2.0\r\n",
        b"POST /login HTTP/1.1\r\nHost: x\r\n",
        b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
          Content-Length: 1000\r\n\r\ntoken=",
    ];
    for bytes in begun {
        let address: Address = vault.base["https://".len()..].parse().unwrap();
        let socket = address.connect(Duration::from_secs(10)).await.unwrap();
        let mut stream = tls.connect(socket, "127.0.0.1").await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let ended = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(ended.is_ok(), "kept after {bytes:?}: {answer}");
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_bytes_come_back_as_they_were() {
    let dir = TestDir::new();
    let vault = Running::start(dir.path()).await;
    let mut large = plain(3);
    large.extend(std::iter::repeat_n(&b"0123456789abcdef\r\n"[..], 30 << 20 >> 4).flatten());
    let messages: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"\0".to_vec(),
        b"no header at all".to_vec(),
        b"Subject: bare\nline\nends\n\nbody\n".to_vec(),
        b"Subject: \xe9\xff 8-bit\r\nFrom: \xfe\r\n\r\n\x80".to_vec(),
        b"\r\n\r\nonly a body".to_vec(),
        (0..=255).collect(),
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n--x\r\n".to_vec(),
        large,
    ];
    for content in messages {
        let uploaded = vault.upload(content.clone()).await;
        assert_eq!(uploaded.status(), 201);
        let uploaded = read_json(uploaded).await;
        let blob = uploaded["blobId"].as_str().unwrap();
        let imported = vault
            .call(
                &vault.write,
                "Email/import",
                json!({"emails": {"m": {"blobId": blob, "mailboxIds": {"B2": true}}}}),
            )
            .await;
        let email = &imported["created"]["m"];
        assert_eq!(email["size"], content.len(), "{imported}");
        assert!(
            vault.download(blob).await == content,
            "{} bytes",
            content.len()
        );
        let shown = vault
            .call(&vault.read, "Email/get", json!({"ids": [email["id"]]}))
            .await;
        assert_eq!(shown["list"][0]["size"], content.len(), "{shown}");
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_wrong_hears_what_is_wrong() {
    let dir = TestDir::new();
    let vault = Running::start(dir.path()).await;
    for (body, kind, status) in [
        ("{", "notJSON", 400),
        ("\u{0}", "notJSON", 400),
        ("{\"using\": 1}", "notRequest", 400),
        (
            r#"{"using":["urn:x"],"methodCalls":[]}"#,
            "unknownCapability",
            400,
        ),
    ] {
        let answer = vault.post(&vault.write, body).await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem = read_json(answer).await;
        assert_eq!(
            problem["type"],
            format!("urn:ietf:params:jmap:error:{kind}"),
            "{body}"
        );
    }
    let many: Vec<Value> = (0..100)
        .map(|n| json!(["Core/echo", {}, n.to_string()]))
        .collect();
    let body = json!({"using": USING, "methodCalls": many}).to_string();
    let problem = read_json(vault.post(&vault.write, body).await).await;
    assert_eq!(problem["limit"], "maxCallsInRequest");
    let answer = vault.post(&vault.write, vec![b' '; 9 << 20]).await;
    assert_eq!(answer.status(), 413);
    assert_eq!(read_json(answer).await["limit"], "maxSizeRequest");

    let responses = vault.calls(&vault.read, json!([
        ["Core/echo", {"hello": true}, "a"],
        ["Email/parse", {}, "b"],
        ["Email/get", {"accountId": "other", "ids": []}, "c"],
        ["Email/query", {"accountId": "vault", "filter": {"fancy": 1}}, "d"],
        ["Email/import", {"accountId": "vault", "emails": {}}, "e"],
        ["Email/get", {"accountId": "vault", "#ids": {"resultOf": "z", "name": "Email/query", "path": "/ids"}}, "f"],
    ])).await;
    let kinds: Vec<&str> = responses
        .iter()
        .map(|r| r[1]["type"].as_str().unwrap_or(""))
        .collect();
    assert_eq!(
        kinds,
        [
            "",
            "unknownMethod",
            "accountNotFound",
            "unsupportedFilter",
            "forbidden",
            "invalidResultReference"
        ]
    );
    assert_eq!(responses[0][1], json!({"hello": true}));
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_without_a_token_gets_in_and_a_writer_reads_nothing() {
    let dir = TestDir::new();
    let vault = Running::start(dir.path()).await;
    for path in [
        "/jmap/session",
        "/.well-known/jmap",
        "/jmap/download/vault/G/x",
    ] {
        let answer = vault
            .client
            .get(format!("{}{path}", vault.base))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 401, "{path}");
        assert!(answer.headers().contains_key("www-authenticate"));
    }
    assert_eq!(vault.post("wrong", "{}").await.status(), 401);
    let basic = vault.client.get(format!("{}/jmap/session", vault.base));
    let session = read_json(
        basic
            .basic_auth("any", Some(&vault.read))
            .send()
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(session["apiUrl"], format!("{}/jmap/api", vault.base));

    let content = plain(4);
    let sighting = sighting_of(&content);
    vault.put(&content, &sighting).await;
    let id = format!("M{}", sighting.fingerprint.k1);
    let is_there = vault
        .call(
            &vault.write,
            "Email/get",
            json!({"ids": [id], "properties": ["mailboxIds"]}),
        )
        .await;
    assert_eq!(is_there["list"][0]["mailboxIds"], json!({"B2": true}));
    let content = vault
        .call(
            &vault.write,
            "Email/get",
            json!({"ids": [id], "properties": ["subject"]}),
        )
        .await;
    assert_eq!(content["type"], "forbidden");
    let blob = vault
        .call(
            &vault.write,
            "Blob/get",
            json!({"ids": [id.replace('M', "G")]}),
        )
        .await;
    assert_eq!(blob["type"], "forbidden");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mailboxes_are_made_and_changes_are_told() {
    let dir = TestDir::new();
    let vault = Running::start(dir.path()).await;
    let both = mailtee_both(dir.path());
    vault.stop().await;
    let vault = Running::start(dir.path()).await;
    let responses = vault.calls(&both, json!([
        ["Mailbox/set", {"accountId": "vault", "create": {
            "child": {"name": "2026", "parentId": "#top"}, "top": {"name": "Journal"},
            "twice": {"name": "Inbox"}, "lost": {"name": "x", "parentId": "#nobody"}}}, "a"],
        ["Mailbox/query", {"accountId": "vault", "filter": {"name": "2026"}}, "b"],
        ["Mailbox/get", {"accountId": "vault", "properties": ["name", "parentId"],
            "#ids": {"resultOf": "b", "name": "Mailbox/query", "path": "/ids"}}, "c"],
        ["Blob/upload", {"accountId": "vault", "create": {
            "x": {"data": [{"data:asText": "Subject: a"}]},
            "y": {"data": [{"blobId": "#x"}, {"data:asText": "bcd\r\n\r\n"}, {"blobId": "#x", "offset": 0, "length": 7}]},
            "z": {"data": [{"data:asBase64": "!"}]}}}, "d"],
        ["Email/import", {"accountId": "vault", "emails": {
            "m": {"blobId": "#y", "mailboxIds": {"#child": true}, "keywords": {"$Seen": true}},
            "n": {"blobId": "#z", "mailboxIds": {"#child": true}},
            "o": {"blobId": "#y", "mailboxIds": {"B99": true}}}}, "e"],
        ["Mailbox/get", {"accountId": "vault", "ids": ["#child"], "properties": ["totalEmails", "unreadEmails"]}, "f"],
        ["Blob/get", {"accountId": "vault", "ids": ["#y"], "properties": ["data:asText", "digest:sha-256", "size"]}, "g"],
        ["Email/changes", {"accountId": "vault", "sinceState": "1"}, "h"],
    ])).await;
    let of = |at: usize| &responses[at][1];
    let child = of(0)["created"]["child"]["id"].as_str().unwrap();
    assert_eq!(of(0)["notCreated"]["twice"]["type"], "alreadyExists");
    assert_eq!(of(0)["notCreated"]["lost"]["type"], "invalidProperties");
    assert_eq!(
        of(2)["list"][0],
        json!({"id": child, "name": "2026", "parentId": of(0)["created"]["top"]["id"]})
    );
    assert_eq!(of(3)["notCreated"]["z"]["type"], "invalidProperties");
    let email = of(4)["created"]["m"]["id"].as_str().unwrap();
    assert_eq!(of(4)["notCreated"]["n"]["type"], "blobNotFound");
    assert_eq!(of(4)["notCreated"]["o"]["type"], "invalidProperties");
    assert_eq!(
        of(5)["list"][0],
        json!({"id": child, "totalEmails": 1, "unreadEmails": 0})
    );
    assert_eq!(
        of(6)["list"][0]["data:asText"],
        "Subject: abcd\r\n\r\nSubject"
    );
    assert_eq!(of(7)["created"], json!([email]));

    let state = of(7)["newState"].clone();
    let moved = vault.call(&both, "Email/set", json!({"ifInState": state, "destroy": [email], "update": {email: {
        "mailboxIds/B1": true, format!("mailboxIds/{child}"): null, "keywords": {"$flagged": true}}}})).await;
    assert_eq!(moved["updated"], json!({email: null}), "{moved}");
    assert_eq!(moved["notDestroyed"][email]["type"], "forbidden");
    let changes = vault
        .call(&both, "Email/changes", json!({"sinceState": state}))
        .await;
    assert_eq!(changes["updated"], json!([email]));
    let boxes = vault
        .call(
            &both,
            "Mailbox/get",
            json!({"ids": ["B1", child], "properties": ["totalEmails", "unreadEmails"]}),
        )
        .await;
    assert_eq!(
        boxes["list"][0],
        json!({"id": "B1", "totalEmails": 1, "unreadEmails": 1})
    );
    assert_eq!(
        boxes["list"][1],
        json!({"id": child, "totalEmails": 0, "unreadEmails": 0})
    );
    let stale = vault
        .call(&both, "Email/set", json!({"ifInState": state}))
        .await;
    assert_eq!(stale["type"], "stateMismatch");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_bounded_however_many_bodies_are_asked_for() {
    let dir = TestDir::new();
    let vault = Running::start(dir.path()).await;
    let mut ids = Vec::new();
    for n in 0..9 {
        let mut content = plain(n);
        content.resize(9 << 20, b'x');
        let uploaded = read_json(vault.upload(content).await).await;
        let blob = uploaded["blobId"].as_str().unwrap().to_owned();
        vault
            .call(
                &vault.write,
                "Email/import",
                json!({"emails": {"m": {"blobId": blob, "mailboxIds": {"B2": true}}}}),
            )
            .await;
        ids.push(blob.replacen('G', "M", 1));
    }
    let ask = |values: bool| {
        json!({"ids": ids, "properties": ["subject", "bodyValues"], "fetchAllBodyValues": values,
        "maxBodyValueBytes": 10})
    };
    let all = vault.call(&vault.read, "Email/get", ask(true)).await;
    assert_eq!(all["type"], "requestTooLarge");
    let headers = vault.call(&vault.read, "Email/get", ask(false)).await;
    assert_eq!(headers["list"].as_array().unwrap().len(), 9);
    vault.stop().await;
}

/// Adds a token that may both read and write; for the next start.
fn mailtee_both(dir: &std::path::Path) -> String {
    use sha2::Digest;
    let path = dir.join("tokens/tokens");
    let mut lines = std::fs::read_to_string(&path).unwrap();
    let hash: String = sha2::Sha256::digest(b"both")
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    lines.push_str(&format!("both read,write {hash}\n"));
    std::fs::write(path, lines).unwrap();
    "both".into()
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_read_as_mail_with_its_parts_and_headers() {
    let dir = TestDir::new();
    let vault = Running::start(dir.path()).await;
    let content = b"From: =?utf-8?q?J=C3=B6rg?= <j@example.org>\r\nTo: a@example.net, \"B\" <b@example.net>\r\n\
        Message-ID: <1@example.org>\r\nReferences: <0@example.org> <x@example.org>\r\nDate: Tue, 3 Mar 2026 10:00:00 +0100\r\n\
        Subject: parts\r\nX-Twice: one\r\nX-Twice: two\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
        --b\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\ngr\xfc\xdfe\r\n\
        --b\r\nContent-Type: image/png; name=x.png\r\nContent-Transfer-Encoding: base64\r\n\r\nAAEC\r\n--b--\r\n";
    let sighting = sighting_of(content);
    vault.put(content, &sighting).await;
    let id = format!("M{}", sighting.fingerprint.k1);
    let got = vault.call(&vault.read, "Email/get", json!({"ids": [id, "Mnone", id], "fetchAllBodyValues": true, "properties": [
        "from", "to", "messageId", "references", "sentAt", "subject", "hasAttachment", "preview", "bodyValues", "textBody",
        "attachments", "bodyStructure", "header:X-Twice:asText:all", "header:X-Twice:asText", "header:None"]})).await;
    assert_eq!(got["notFound"], json!(["Mnone"]));
    assert_eq!(
        got["list"].as_array().unwrap().len(),
        1,
        "asked for twice, shown once"
    );
    let email = &got["list"][0];
    assert_eq!(
        email["from"],
        json!([{"name": "J\u{f6}rg", "email": "j@example.org"}])
    );
    assert_eq!(
        email["to"][1],
        json!({"name": "B", "email": "b@example.net"})
    );
    assert_eq!(email["messageId"], json!(["1@example.org"]));
    assert_eq!(
        email["references"],
        json!(["0@example.org", "x@example.org"])
    );
    assert_eq!(email["hasAttachment"], true);
    let text = email["textBody"][0]["partId"].as_str().unwrap();
    assert_eq!(
        email["bodyValues"][text]["value"].as_str().unwrap().trim(),
        "gr\u{fc}\u{df}e"
    );
    assert_eq!(email["attachments"][0]["name"], "x.png");
    assert_eq!(email["bodyStructure"]["subParts"][1]["type"], "image/png");
    assert_eq!(email["header:X-Twice:asText:all"], json!(["one", "two"]));
    assert_eq!(email["header:X-Twice:asText"], "two");
    assert_eq!(email["header:None"], Value::Null);
    let part = email["attachments"][0]["blobId"].as_str().unwrap();
    assert_eq!(vault.download(part).await, [0, 1, 2]);
    let unknown = vault
        .call(
            &vault.read,
            "Email/get",
            json!({"ids": [id], "properties": ["colour"]}),
        )
        .await;
    assert_eq!(unknown["type"], "invalidArguments");
    vault.stop().await;
}
