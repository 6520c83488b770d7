//! The vault's page: who gets in, what is found, and that a message can do nothing to whoever looks at it.

use futures_util::StreamExt;
use reqwest::header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, COOKIE, LOCATION, SET_COOKIE};
use serde_json::json;

use crate::{
    kit::TestDir,
    vault_kit::{Running, indexed, sighting_of},
};
use mailtee::message::Difference;

const HOSTILE: &[u8] = b"From: \"<script>alert(1)</script>\" <a@example.org>\r\n\
Subject: <img src=x onerror=alert(2)> \"quoted' & so on\r\n\
X-Hostile: </dd><script>alert(3)</script>\r\n\
Content-Type: multipart/mixed; boundary=b\r\n\r\n\
--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n\
<script>alert(4)</script><img src=http://192.0.2.1/pixel onerror=alert(5)><meta http-equiv=refresh content=\"0;url=http://192.0.2.1/\">\
<form action=http://192.0.2.1/><input name=token></form><style>body{background:url(http://192.0.2.1/css)}</style><p>hello</p>\r\n\
--b\r\nContent-Type: text/html; name=\"\\\"><script>.html\"\r\nContent-Disposition: attachment\r\n\r\n<script>alert(6)</script>\r\n--b--\r\n";

/// Logs in with the reader's token; the cookie.
async fn log_in(vault: &Running) -> String {
    let form = format!("token={}", vault.read);
    let sent = vault
        .client
        .post(format!("{}/login", vault.base))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form)
        .send()
        .await
        .unwrap();
    assert_eq!(sent.status(), 303);
    let set = sent.headers()[SET_COOKIE].to_str().unwrap().to_owned();
    for flag in ["HttpOnly", "Secure", "SameSite=Strict", "Path=/"] {
        assert!(set.contains(flag), "{set}");
    }
    set.split(';').next().unwrap().to_owned()
}

async fn look(vault: &Running, cookie: &str, path: &str) -> reqwest::Response {
    let request = vault.client.get(format!("{}{path}", vault.base));
    request.header(COOKIE, cookie).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_a_page_without_a_readers_login() {
    let dir = TestDir::new();
    let vault = Running::start(dir.path()).await;
    for path in [
        "/",
        "/message/M1",
        "/message/M1/html",
        "/message/M1/eml",
        "/sighting/1/eml",
    ] {
        let answer = look(&vault, "__Host-mailtee-vault=0", path).await;
        assert_eq!(answer.status(), 303, "{path}");
        assert_eq!(answer.headers()[LOCATION], "/login");
    }
    let form = format!("token={}", vault.write);
    let refused = vault
        .client
        .post(format!("{}/login", vault.base))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form)
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), 403);
    assert!(!refused.headers().contains_key(SET_COOKIE));

    let cookie = log_in(&vault).await;
    assert_eq!(look(&vault, &cookie, "/").await.status(), 200);
    let out = vault
        .client
        .post(format!("{}/logout", vault.base))
        .header(COOKIE, &cookie)
        .send()
        .await
        .unwrap();
    assert_eq!(out.status(), 303);
    assert_eq!(look(&vault, &cookie, "/").await.status(), 303);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_message_is_shown_and_can_do_nothing() {
    let dir = TestDir::new();
    let vault = Running::start(dir.path()).await;
    let sighting = sighting_of(HOSTILE);
    vault.put(HOSTILE, &sighting).await;
    indexed(&vault).await;
    let cookie = log_in(&vault).await;
    let id = format!("M{}", sighting.fingerprint.k1);
    for path in ["/".to_owned(), format!("/message/{id}")] {
        let answer = look(&vault, &cookie, &path).await;
        let policy = answer.headers()[CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(
            policy.starts_with("default-src 'none'") && !policy.contains("script"),
            "{policy}"
        );
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers()["referrer-policy"], "no-referrer");
        let page = answer.text().await.unwrap();
        assert!(
            page.contains("&#60;img src=x onerror=alert(2)&#62;"),
            "{path}: {page}"
        );
        for raw in ["<script", "<img", "</dd><script", "onerror=alert(5)"] {
            assert!(!page.contains(raw), "{path}: {raw}");
        }
    }
    let page = look(&vault, &cookie, &format!("/message/{id}"))
        .await
        .text()
        .await
        .unwrap();
    assert!(page.contains("sandbox src=\"/message/"), "{page}");

    let frame = look(&vault, &cookie, &format!("/message/{id}/html")).await;
    let policy = frame.headers()[CONTENT_SECURITY_POLICY]
        .to_str()
        .unwrap()
        .to_owned();
    for part in [
        "sandbox;",
        "default-src 'none'",
        "img-src data:",
        "form-action 'none'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(
        !policy.contains("allow-") && !policy.contains("script-src"),
        "{policy}"
    );
    assert!(frame.text().await.unwrap().contains("<p>hello</p>"));

    for path in [
        format!("/message/{id}/eml"),
        format!("/message/{id}/part/2"),
    ] {
        let file = look(&vault, &cookie, &path).await;
        assert_eq!(file.status(), 200, "{path}");
        let how = file.headers()[CONTENT_DISPOSITION]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(
            how.starts_with("attachment;") && !how.contains('<'),
            "{how}"
        );
        assert!(
            file.headers()[CONTENT_SECURITY_POLICY]
                .to_str()
                .unwrap()
                .contains("sandbox")
        );
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_addresses_and_envelopes_are_found() {
    let dir = TestDir::new();
    let vault = Running::start(dir.path()).await;
    let invoice = b"From: Ann <ann@example.org>\r\nTo: bob@example.net\r\nMessage-ID: <inv-1@example.org>\r\n\
        Date: Mon, 2 Mar 2026 10:00:00 +0100\r\nSubject: =?utf-8?q?Rechnung_M=C3=A4rz?=\r\n\r\nThe total is overdue.\r\n";
    let other = b"From: Carl <carl@example.org>\r\nSubject: lunch\r\n\r\nNoodles?\r\n";
    let sighting = sighting_of(invoice);
    vault.put(invoice, &sighting).await;
    vault.put(other, &sighting_of(other)).await;
    indexed(&vault).await;
    let id = format!("M{}", sighting.fingerprint.k1);
    for filter in [
        json!({"text": "overdue"}),
        json!({"text": "\"total is overdue\" Rechn*"}),
        json!({"text": "marz"}),
        json!({"from": "ann@example.org"}),
        json!({"to": "bob"}),
        json!({"subject": "Rechnung"}),
        json!({"body": "total", "minSize": 10, "maxSize": 10000, "inMailbox": "B2"}),
        json!({"header": ["Message-ID", "<inv-1@example.org>"]}),
        json!({"operator": "NOT", "conditions": [{"text": "noodles"}]}),
        json!({"operator": "AND", "conditions": [{"after": "2020-01-01T00:00:00Z"}, {"notKeyword": "$seen"}, {"text": "overdue"}]}),
    ] {
        let found = vault
            .call(&vault.read, "Email/query", json!({"filter": filter}))
            .await;
        assert_eq!(found["ids"], json!([id]), "{filter}");
    }
    // Bcc and queue id are only in the envelope; both messages went to the hidden one.
    let hidden = vault
        .call(
            &vault.read,
            "Email/query",
            json!({"filter": {"text": "hidden@example.net"}}),
        )
        .await;
    assert_eq!(hidden["ids"].as_array().unwrap().len(), 2);
    let none = vault
        .call(
            &vault.read,
            "Email/query",
            json!({"filter": {"text": "* ---"}}),
        )
        .await;
    assert_eq!(none["ids"], json!([]));
    let sorted = vault
        .call(
            &vault.read,
            "Email/query",
            json!({"sort": [{"property": "sentAt", "isAscending": false}, {"property": "size"}]}),
        )
        .await;
    assert_eq!(sorted["ids"][0], id);

    let cookie = log_in(&vault).await;
    let page = look(&vault, &cookie, "/?q=4XyZ12")
        .await
        .text()
        .await
        .unwrap();
    assert!(
        page.contains("Rechnung März") && page.contains("lunch"),
        "{page}"
    );
    let page = look(&vault, &cookie, "/?q=noodles")
        .await
        .text()
        .await
        .unwrap();
    assert!(
        page.contains("lunch") && !page.contains("Rechnung"),
        "{page}"
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sighting_can_be_downloaded_in_its_exact_bytes() {
    let dir = TestDir::new();
    let vault = Running::start(dir.path()).await;
    let content = b"Subject: twice\r\n\r\nbody\r\n".to_vec();
    let mut relayed = b"Received: by b\r\n\tfor c\r\n".to_vec();
    relayed.extend_from_slice(&content);
    let (first, second) = (sighting_of(&content), sighting_of(&relayed));
    vault.put(&content, &first).await;
    let difference = Difference::extract(&relayed[..]).unwrap();
    let email = format!("M{}", first.fingerprint.k1);
    vault
        .record(&email, &second, difference.as_ref(), None)
        .await;
    let cookie = log_in(&vault).await;
    for (sighting, bytes) in [(&first, &content), (&second, &relayed)] {
        let file = look(&vault, &cookie, &format!("/sighting/{}/eml", sighting.id)).await;
        assert_eq!(file.bytes().await.unwrap(), *bytes);
    }
    vault.stop().await;
}

/// Indexing stands back from a stream: who looks sees the newest all the same, and who searches finds it.
#[tokio::test(flavor = "multi_thread")]
async fn the_newest_of_a_stream_is_listed_and_found() {
    let dir = TestDir::new();
    let vault = Running::start(dir.path()).await;
    let cookie = log_in(&vault).await;
    let number = 400;
    let puts = (1..=number).map(|number| {
        let content =
            format!("From: ann@example.org\r\nSubject: stream {number}.\r\n\r\nword{number}\r\n");
        let vault = &vault;
        async move {
            vault
                .put(content.as_bytes(), &sighting_of(content.as_bytes()))
                .await
        }
    });
    futures_util::stream::iter(puts)
        .buffered(4)
        .collect::<Vec<_>>()
        .await;
    let page = look(&vault, &cookie, "/").await.text().await.unwrap();
    assert!(page.contains(&format!("stream {number}.")), "{page}");
    // Who searches finds all that came before.
    for number in [number, 1] {
        let words = json!({"filter": {"text": format!("word{number}")}});
        let found = vault.call(&vault.read, "Email/query", words).await;
        assert_eq!(found["ids"].as_array().unwrap().len(), 1, "word{number}");
    }
}
