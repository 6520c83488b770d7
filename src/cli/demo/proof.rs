//! Does the vault hold what was sent? Copies are read back over HTTPS, as any JMAP client would; sightings are made again
//! from copy and difference. Every byte is compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
};

use anyhow::{Context, bail};
use reqwest::{Certificate, Client};
use serde_json::{Value, json};

use super::samples::Sample;
use crate::{
    message::{CaptureId, Fingerprinter, K1, K2, Sighting},
    targets::jmap::shapes::{CORE, MAIL, SIGHTINGS, Session},
    vault::export::Archive,
};

/// Objects asked for at a time.
const PAGE: usize = 100;

/// What was compared, and what did not agree.
#[derive(Debug, Default)]
pub(super) struct Proof {
    pub(super) copies: usize,
    pub(super) sightings: usize,
    pub(super) differences: Vec<String>,
}

/// An envelope and the bytes that it came with.
type Seen = (K1, Vec<u8>, Vec<Vec<u8>>);

pub(super) async fn compare(
    sent: &[Sample],
    vault: SocketAddr,
    vault_dir: &Path,
) -> anyhow::Result<Proof> {
    let reader = Reader::connect(vault, vault_dir).await?;
    let mut proof = Proof::default();
    // By K2: which bytes the one copy of a message may have.
    let mut expected: BTreeMap<K2, Vec<&Sample>> = BTreeMap::new();
    let mut by_k1: BTreeMap<K1, &Sample> = BTreeMap::new();
    let mut envelopes: Vec<Seen> = Vec::new();
    for sample in sent {
        let mut fingerprinter = Fingerprinter::new();
        fingerprinter.update(&sample.content);
        let fingerprint = fingerprinter.finish();
        expected.entry(fingerprint.k2).or_default().push(sample);
        by_k1.insert(fingerprint.k1, sample);
        let recipients = sample.recipients.iter();
        envelopes.push((
            fingerprint.k1,
            sample.sender.as_bytes().to_vec(),
            recipients.map(|r| r.as_bytes().to_vec()).collect(),
        ));
    }

    let mut copies = BTreeMap::new();
    for id in reader.ids("Email/query").await? {
        let content = reader.email(&id).await?;
        let mut fingerprinter = Fingerprinter::new();
        fingerprinter.update(&content);
        let k2 = fingerprinter.finish().k2;
        let earlier = copies.insert(k2, id.clone());
        let Some(samples) = expected.get(&k2) else {
            continue; // of an earlier demo in the same directory
        };
        proof.copies += 1;
        if earlier.is_some() {
            let title = samples[0].title;
            proof.differences.push(format!("{title}: two copies"));
        }
        if !samples.iter().any(|sample| sample.content == content) {
            let title = samples[0].title;
            proof
                .differences
                .push(format!("{title}: other bytes in {id}"));
        }
    }
    for (_, samples) in expected.iter().filter(|(k2, _)| !copies.contains_key(k2)) {
        let title = samples[0].title;
        proof.differences.push(format!("{title}: not in the vault"));
    }

    let archive = Archive::open(vault_dir)?;
    for sighting in reader.sightings().await? {
        let Some(sample) = by_k1.get(&sighting.fingerprint.k1) else {
            continue;
        };
        let envelope = sighting.envelope().context("SMTP has an envelope")?;
        let recipients = envelope.recipients.iter();
        let seen: Seen = (
            sighting.fingerprint.k1,
            envelope.sender.as_bytes().to_vec(),
            recipients.map(|r| r.address.as_bytes().to_vec()).collect(),
        );
        let title = sample.title;
        match envelopes.iter().position(|expected| *expected == seen) {
            Some(index) => {
                envelopes.swap_remove(index);
                proof.sightings += 1;
            }
            None => proof
                .differences
                .push(format!("{title}: a sighting that was not sent")),
        }
        let mut rebuilt = Vec::new();
        archive.sighting(sighting.id, &mut rebuilt)?;
        if rebuilt != sample.content {
            let id = sighting.id;
            proof.differences.push(format!(
                "{title}: sighting {id} is made again in other bytes"
            ));
        }
    }
    for (k1, ..) in envelopes {
        let title = by_k1.get(&k1).map_or("", |sample| sample.title);
        proof
            .differences
            .push(format!("{title}: a sighting is missing"));
    }
    Ok(proof)
}

/// A JMAP client with the operator's token.
struct Reader {
    client: Client,
    token: String,
    session: Session,
    account: String,
}

impl Reader {
    async fn connect(vault: SocketAddr, vault_dir: &Path) -> anyhow::Result<Self> {
        let pem = std::fs::read(vault_dir.join("tls/certificate.pem"))?;
        let client = Client::builder()
            .no_proxy()
            .tls_certs_only([Certificate::from_pem(&pem)?])
            .build()?;
        let token = std::fs::read_to_string(vault_dir.join("tokens/operator.token"))?;
        let token = token.trim().to_owned();
        let url = format!("https://{vault}/.well-known/jmap");
        let answer = client.get(url).bearer_auth(&token).send().await?;
        let session: Session = answer.error_for_status()?.json().await?;
        let account = session.primary_accounts.get(MAIL);
        let account = account.context("the vault has an account")?.clone();
        Ok(Self {
            client,
            token,
            session,
            account,
        })
    }

    async fn call(&self, method: &str, mut arguments: Value) -> anyhow::Result<Value> {
        arguments["accountId"] = json!(self.account);
        let body = json!({
            "using": [CORE, MAIL, SIGHTINGS],
            "methodCalls": [[method, arguments, "0"]],
        });
        let request = self.client.post(&self.session.api_url);
        let answer = request.bearer_auth(&self.token).json(&body).send().await?;
        let mut answer: Value = answer.error_for_status()?.json().await?;
        let mut response = answer["methodResponses"][0].take();
        if response[0] != method {
            bail!("{method}: {response}");
        }
        Ok(response[1].take())
    }

    /// Every id that a query gives.
    async fn ids(&self, method: &str) -> anyhow::Result<Vec<String>> {
        let mut ids: Vec<String> = Vec::new();
        loop {
            let arguments = json!({"position": ids.len(), "limit": PAGE});
            let answer = self.call(method, arguments).await?;
            let page: Vec<String> = serde_json::from_value(answer["ids"].clone())?;
            if page.is_empty() {
                break;
            }
            ids.extend(page);
        }
        let distinct: BTreeSet<&String> = ids.iter().collect();
        if distinct.len() != ids.len() {
            bail!("{method} gives an id twice");
        }
        Ok(ids)
    }

    /// One e-mail's bytes.
    async fn email(&self, id: &str) -> anyhow::Result<Vec<u8>> {
        let arguments = json!({"ids": [id], "properties": ["blobId"]});
        let answer = self.call("Email/get", arguments).await?;
        let blob = answer["list"][0]["blobId"].as_str();
        let blob = blob.with_context(|| format!("{id} has a blob"))?;
        let url = self
            .session
            .download_url
            .replace("{accountId}", &self.account)
            .replace("{blobId}", blob)
            .replace("{type}", "message%2Frfc822")
            .replace("{name}", "message.eml");
        let answer = self.client.get(url).bearer_auth(&self.token).send().await?;
        Ok(answer.error_for_status()?.bytes().await?.to_vec())
    }

    async fn sightings(&self) -> anyhow::Result<Vec<Sighting>> {
        let mut sightings = Vec::new();
        for ids in self.ids("Sighting/query").await?.chunks(PAGE) {
            let answer = self.call("Sighting/get", json!({ "ids": ids })).await?;
            let list = answer["list"].as_array().context("a list of sightings")?;
            for entry in list {
                let sighting: Sighting = serde_json::from_value(entry["sighting"].clone())?;
                let named: CaptureId = serde_json::from_value(entry["id"].clone())?;
                if named != sighting.id {
                    bail!("{named}: a sighting under another's id");
                }
                sightings.push(sighting);
            }
        }
        Ok(sightings)
    }
}
