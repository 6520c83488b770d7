//! What the vault holds, read as any JMAP client would: session, queries, download, over verified HTTPS with a read token.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::block_on;

const USING: [&str; 4] = [
    "urn:ietf:params:jmap:core",
    "urn:ietf:params:jmap:mail",
    "urn:ietf:params:jmap:blob",
    "https://mailtee.dev/jmap/sightings",
];

/// One e-mail of the vault.
#[derive(Clone, Debug)]
pub struct Stored {
    pub id: String,
    pub blob: String,
    pub bytes: Vec<u8>,
}

/// A reader.
pub struct Vault {
    client: reqwest::Client,
    base: String,
    token: String,
    data_dir: PathBuf,
}

impl Vault {
    /// The vault at `address` that keeps its data in `data_dir`: its certificate and its read token are found there.
    pub fn new(address: SocketAddr, data_dir: &Path) -> Self {
        let read = |name: &str| {
            let path = data_dir.join(name);
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let ca = reqwest::Certificate::from_pem(&read("tls/certificate.pem"));
        // the product's own provider: there is one TLS stack, and it has to be chosen before the first use
        mailtee::net::install_provider();
        let client = reqwest::Client::builder()
            .tls_certs_only([ca.expect("a certificate")])
            .pool_max_idle_per_host(0) // each call has a runtime of its own, which takes its connections along
            .build()
            .expect("an HTTPS client");
        let token = String::from_utf8(read("tokens/operator.token")).expect("a token is text");
        Self {
            client,
            base: format!("https://{address}"),
            token: token.trim().to_owned(),
            data_dir: data_dir.to_owned(),
        }
    }

    /// Calls one method of one account; gives its arguments, or panics with the error that came instead.
    #[track_caller]
    pub fn call(&self, method: &str, mut arguments: Value) -> Value {
        let session = self.session();
        arguments["accountId"] = session["primaryAccounts"][USING[1]].clone();
        let url = self.url(session["apiUrl"].as_str().expect("an apiUrl"));
        let body = json!({"using": USING, "methodCalls": [[method, arguments, "0"]]});
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

    /// Every e-mail's id and blob id, oldest first.
    pub fn emails(&self) -> Vec<(String, String)> {
        let ids = self.ids(
            "Email/query",
            json!({"sort": [{"property": "receivedAt", "isAscending": true}]}),
        );
        let mut emails = Vec::with_capacity(ids.len());
        for page in ids.chunks(400) {
            let answer = self.call(
                "Email/get",
                json!({"ids": page, "properties": ["id", "blobId"]}),
            );
            for email in answer["list"].as_array().expect("a list") {
                emails.push((text(&email["id"]), text(&email["blobId"])));
            }
        }
        emails
    }

    /// The id of the e-mail of each blob id; two of one content are a failure.
    #[track_caller]
    pub fn each_once(&self) -> BTreeMap<String, String> {
        let mut of_blob = BTreeMap::new();
        for (id, blob) in self.emails() {
            if let Some(other) = of_blob.insert(blob, id.clone()) {
                panic!("{id} is there twice, as {other} too");
            }
        }
        of_blob
    }

    /// Every sighting, as the vault gives it: `sighting`, `acceptance`, `emailId`, `difference`.
    pub fn sightings(&self) -> Vec<Value> {
        let ids = self.ids("Sighting/query", json!({}));
        let mut sightings = Vec::with_capacity(ids.len());
        for page in ids.chunks(400) {
            let answer = self.call("Sighting/get", json!({"ids": page}));
            sightings.extend(answer["list"].as_array().expect("a list").iter().cloned());
        }
        sightings
    }

    /// Every e-mail with its bytes, downloaded; a name that its bytes do not have is a failure.
    pub fn all(&self) -> Vec<Stored> {
        let session = self.session();
        let account = text(&session["primaryAccounts"][USING[1]]);
        let template = session["downloadUrl"].as_str().expect("a downloadUrl");
        let emails = self.emails();
        let stored: Vec<_> = emails
            .into_iter()
            .map(|(id, blob)| {
                let url = template
                    .replace("{accountId}", &account)
                    .replace("{blobId}", &blob)
                    .replace("{type}", "message%2Frfc822")
                    .replace("{name}", "message.eml");
                let bytes = self.fetch(&self.url(&url));
                assert_eq!(blob, blob_id(&bytes), "the name of {id}");
                Stored { id, blob, bytes }
            })
            .collect();
        stored
    }

    /// How many e-mails there are of each content.
    pub fn copies(&self) -> BTreeMap<Vec<u8>, usize> {
        let mut copies = BTreeMap::new();
        for stored in self.all() {
            *copies.entry(stored.bytes).or_default() += 1;
        }
        copies
    }

    /// Reads every blob file on disk and checks that its name is its digest; gives the names.
    pub fn check_blob_files(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut dirs = vec![self.data_dir.join("blobs")];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(&dir).expect("the vault's blobs") {
                let path = entry.expect("an entry").path();
                let name = path
                    .file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned();
                if path.is_dir() {
                    dirs.push(path);
                } else if name.len() == 64 {
                    let bytes = std::fs::read(&path).expect("a blob");
                    assert_eq!(
                        format!("G{name}"),
                        blob_id(&bytes),
                        "{} is torn",
                        path.display()
                    );
                    names.push(name);
                }
            }
        }
        names
    }

    /// All ids that a query gives, page by page.
    fn ids(&self, method: &str, arguments: Value) -> Vec<String> {
        let mut ids: Vec<String> = Vec::new();
        loop {
            let mut arguments = arguments.clone();
            arguments["position"] = ids.len().into();
            arguments["limit"] = 500.into();
            let answer = self.call(method, arguments);
            let page = answer["ids"].as_array().expect("a list of ids");
            if page.is_empty() {
                return ids;
            }
            ids.extend(page.iter().map(text));
        }
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
            let said = String::from_utf8_lossy(&body[..body.len().min(500)]);
            assert!(status.is_success(), "{url}: {status}: {said}");
            body.to_vec()
        })
    }
}

/// The vault's name for content: `G` and what `sha256sum` prints.
pub fn blob_id(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("G{hex}")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
