//! What the vault holds, read as any JMAP client would: session, `Email/query`, `Email/get`, download, over verified HTTPS.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use serde_json::{Value, json};

use super::block_on;

/// One e-mail of the vault.
#[derive(Clone, Debug)]
pub struct Stored {
    pub id: String,
    pub blob: String,
    pub bytes: Vec<u8>,
}

/// A reader with a token that may read.
pub struct Vault {
    client: reqwest::Client,
    base: String,
    token: String,
}

impl Vault {
    /// The vault at `address`; `ca` is the certificate that must have signed its own, `token` may read.
    pub fn new(address: SocketAddr, ca: &Path, token: &str) -> Self {
        let pem = std::fs::read(ca).unwrap_or_else(|error| panic!("{}: {error}", ca.display()));
        let ca = reqwest::Certificate::from_pem(&pem).expect("a certificate");
        let client = reqwest::Client::builder()
            .tls_certs_only([ca])
            .build()
            .expect("an HTTPS client");
        Self {
            client,
            base: format!("https://{address}"),
            token: token.to_owned(),
        }
    }

    /// Calls one method; gives its arguments, or panics with the error that came instead.
    #[track_caller]
    pub fn call(&self, method: &str, mut arguments: Value, using: &[&str]) -> Value {
        let session = self.session();
        let account = session["primaryAccounts"]["urn:ietf:params:jmap:mail"].clone();
        arguments["accountId"] = account;
        let url = self.url(session["apiUrl"].as_str().expect("an apiUrl"));
        let mut capabilities = vec!["urn:ietf:params:jmap:core", "urn:ietf:params:jmap:mail"];
        capabilities.extend(using);
        let body = json!({"using": capabilities, "methodCalls": [[method, arguments, "0"]]});
        let text = block_on(async {
            let request = self.client.post(url).bearer_auth(&self.token);
            let answer = request.json(&body).send().await.expect("the vault answers");
            answer.text().await.expect("a body")
        });
        let answer: Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"));
        let response = &answer["methodResponses"][0];
        assert_eq!(response[0], method, "{answer}");
        response[1].clone()
    }

    pub fn session(&self) -> Value {
        let text = self.fetch(&format!("{}/.well-known/jmap", self.base));
        serde_json::from_slice(&text).expect("a JMAP session")
    }

    /// Every e-mail, oldest first, with its bytes.
    pub fn all(&self) -> Vec<Stored> {
        let session = self.session();
        let account = session["primaryAccounts"]["urn:ietf:params:jmap:mail"]
            .as_str()
            .expect("an account")
            .to_owned();
        let template = session["downloadUrl"].as_str().expect("a downloadUrl");
        let mut stored = Vec::new();
        for id in self.ids() {
            let answer = self.call(
                "Email/get",
                json!({"ids": [id], "properties": ["id", "blobId", "size"]}),
                &[],
            );
            let email = &answer["list"][0];
            let blob = email["blobId"].as_str().expect("a blobId").to_owned();
            let url = template
                .replace("{accountId}", &account)
                .replace("{blobId}", &blob)
                .replace("{type}", "message%2Frfc822")
                .replace("{name}", "message.eml");
            let bytes = self.fetch(&self.url(&url));
            assert_eq!(email["size"], bytes.len(), "size of {id}");
            stored.push(Stored { id, blob, bytes });
        }
        stored
    }

    /// Every e-mail's id, oldest first.
    pub fn ids(&self) -> Vec<String> {
        let mut ids = Vec::new();
        loop {
            let answer = self.call(
                "Email/query",
                json!({
                    "sort": [{"property": "receivedAt", "isAscending": true}],
                    "position": ids.len(), "limit": 500,
                }),
                &[],
            );
            let page = answer["ids"].as_array().expect("a list of ids").clone();
            if page.is_empty() {
                return ids;
            }
            ids.extend(page.iter().filter_map(Value::as_str).map(str::to_owned));
        }
    }

    /// How many copies there are of each content.
    pub fn copies(&self) -> BTreeMap<Vec<u8>, usize> {
        let mut copies = BTreeMap::new();
        for stored in self.all() {
            *copies.entry(stored.bytes).or_default() += 1;
        }
        copies
    }

    fn url(&self, path: &str) -> String {
        if path.starts_with("https://") {
            path.to_owned()
        } else {
            format!("{}{path}", self.base)
        }
    }

    #[track_caller]
    fn fetch(&self, url: &str) -> Vec<u8> {
        block_on(async {
            let request = self.client.get(url).bearer_auth(&self.token);
            let answer = request.send().await.expect("the vault answers");
            let status = answer.status();
            let body = answer.bytes().await.expect("a body");
            assert!(
                status.is_success(),
                "{url}: {status}: {}",
                String::from_utf8_lossy(&body)
            );
            body.to_vec()
        })
    }
}
