//! A vault in this process, on a port of its own, spoken to over verified HTTPS.

use std::{path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use mailtee::{
    message::{
        Acceptance, CaptureId, Client, Difference, Envelope, Fingerprinter, Origin, Protocol,
        Recipient, Sighting, UnixMillis,
    },
    metrics::Metrics,
    net::install_provider,
    vault::{Limits, Options, Vault},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub struct Running {
    pub client: reqwest::Client,
    pub base: String,
    pub write: String,
    pub read: String,
    pub metrics: Arc<Metrics>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

pub const USING: [&str; 4] = [
    "urn:ietf:params:jmap:core",
    "urn:ietf:params:jmap:mail",
    "urn:ietf:params:jmap:blob",
    "https://mailtee.dev/jmap/sightings",
];

impl Running {
    pub async fn start(dir: &Path) -> Self {
        Self::start_with(dir, Limits::default()).await
    }

    pub async fn start_with(dir: &Path, limits: Limits) -> Self {
        let listen = "127.0.0.1:0".parse().expect("an address");
        let mut options = Options::new(listen, dir.to_owned());
        options.limits = limits;
        Self::start_as(options).await
    }

    pub async fn start_as(options: Options) -> Self {
        install_provider();
        let metrics = Arc::new(Metrics::new());
        let dir = options.data_dir.clone();
        let vault = Vault::open(options, metrics.clone()).await.expect("opens");
        let pem = std::fs::read(vault.certificate()).expect("a certificate");
        let ca = reqwest::Certificate::from_pem(&pem).expect("PEM");
        let client = reqwest::Client::builder()
            .tls_certs_only([ca])
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client");
        let base = format!("https://{}", vault.local().expect("a TCP listener"));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(vault.serve(stop.clone()));
        let token = |name: &str| {
            let path = dir.join("tokens").join(format!("{name}.token"));
            std::fs::read_to_string(path)
                .expect("a token")
                .trim()
                .to_owned()
        };
        Self {
            client,
            base,
            write: token("target"),
            read: token("operator"),
            metrics,
            stop,
            serving,
        }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.serving.await.expect("ends without a panic");
    }

    pub async fn post(&self, token: &str, body: impl Into<reqwest::Body>) -> reqwest::Response {
        let request = self.client.post(format!("{}/jmap/api", self.base));
        let sent = request.bearer_auth(token).body(body).send().await;
        sent.expect("the vault answers")
    }

    /// Calls methods in one request; the responses.
    pub async fn calls(&self, token: &str, calls: Value) -> Vec<Value> {
        let body = json!({"using": USING, "methodCalls": calls});
        let answer = self.post(token, body.to_string()).await;
        assert_eq!(answer.status(), 200);
        let mut answer: Value = read_json(answer).await;
        serde_json::from_value(answer["methodResponses"].take()).expect("a list")
    }

    /// Calls one method; its arguments, whatever its name (`error` too).
    pub async fn call(&self, token: &str, name: &str, mut arguments: Value) -> Value {
        arguments["accountId"] = "vault".into();
        let mut responses = self.calls(token, json!([[name, arguments, "c"]])).await;
        responses[0][1].take()
    }

    /// The request that puts a message in.
    pub fn request(&self, content: &[u8], sighting: &Sighting) -> String {
        let calls = json!([
            ["Blob/upload", {"accountId": "vault", "create": {
                "b": {"data": [{"data:asBase64": STANDARD.encode(content)}]}}}, "0"],
            ["Email/import", {"accountId": "vault", "emails": {
                "m": {"blobId": "#b", "mailboxIds": {"B2": true}}}}, "1"],
            ["Sighting/import", {"accountId": "vault", "sightings": {
                "s": {"blobId": "#b", "sighting": sighting, "acceptance": {"state": "unknown"}}}}, "2"],
        ]);
        json!({"using": USING, "methodCalls": calls}).to_string()
    }

    /// Puts a message in, in one request; the three answers.
    pub async fn put(&self, content: &[u8], sighting: &Sighting) -> [Value; 3] {
        let answer = self
            .post(&self.write, self.request(content, sighting))
            .await;
        assert_eq!(answer.status(), 200);
        let mut answer = read_json(answer).await;
        [0, 1, 2].map(|at| answer["methodResponses"][at][1].take())
    }

    /// Records a further sighting of an e-mail.
    pub async fn record(
        &self,
        email: &str,
        sighting: &Sighting,
        difference: Option<&Difference>,
        blob: Option<&str>,
    ) -> Value {
        let acceptance = Acceptance::NotAsked;
        self.call(
            &self.write,
            "Sighting/import",
            json!({"sightings": {"s": {"emailId": email, "blobId": blob, "sighting": sighting,
                "acceptance": acceptance, "difference": difference}}}),
        )
        .await
    }

    pub async fn upload(&self, content: Vec<u8>) -> reqwest::Response {
        let request = self.client.post(format!("{}/jmap/upload/vault", self.base));
        let sent = request.bearer_auth(&self.write).body(content).send().await;
        sent.expect("the vault answers")
    }

    pub async fn download(&self, blob: &str) -> Vec<u8> {
        let url = format!("{}/jmap/download/vault/{blob}/message.eml", self.base);
        let sent = self.client.get(url).bearer_auth(&self.read).send().await;
        let answer = sent.expect("the vault answers");
        assert_eq!(answer.status(), 200, "{blob}");
        answer.bytes().await.expect("a body").to_vec()
    }
}

pub async fn read_json(answer: reqwest::Response) -> Value {
    let body = answer.bytes().await.expect("a body");
    serde_json::from_slice(&body).expect("JSON")
}

/// A sighting of these bytes by a filter.
pub fn sighting_of(content: &[u8]) -> Sighting {
    let now = UnixMillis::from_system(std::time::SystemTime::now());
    Sighting {
        id: CaptureId::from_parts(now, rand::random()),
        captured_at: now,
        frontend: "postfix".into(),
        protocol: Protocol::Smtp,
        session: "1".into(),
        origin: Origin::Transaction {
            envelope: Envelope {
                sender: "ann@example.org".into(),
                recipients: vec![Recipient {
                    address: "hidden@example.net".into(),
                    ..Recipient::default()
                }],
                ..Envelope::default()
            },
            client: Client {
                queue_id: Some("4XyZ12".into()),
                ..Client::default()
            },
        },
        fidelity: Vec::new(),
        bytes: content.len() as u64,
        fingerprint: Fingerprinter::of(content),
    }
}

/// Waits until the full-text search knows every message.
pub async fn indexed(vault: &Running) {
    let count = vault.metrics.vault_messages.get();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let all = serde_json::json!({"filter": {"hasAttachment": true}, "calculateTotal": true});
        let with = vault.call(&vault.read, "Email/query", all).await["total"].as_i64();
        let none = serde_json::json!({"filter": {"hasAttachment": false}, "calculateTotal": true});
        let without = vault.call(&vault.read, "Email/query", none).await["total"].as_i64();
        let pending = vault.metrics.vault_index_pending_messages.get();
        if with.zip(without).map(|(a, b)| a + b) == Some(count) && pending == 0 {
            return;
        }
        assert!(std::time::Instant::now() < end, "the index stays behind");
        tokio::task::yield_now().await;
    }
}
