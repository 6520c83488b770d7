//! Uploads and `Email/import` of many messages (RFC 8621 section 4.8), for servers that take each for itself.

use std::{collections::BTreeMap, io::Read};

use mail_parser::MessageParser;
use serde_json::json;

use super::{
    Jmap, Known,
    api::Answers,
    existing::Sought,
    halving::Halving,
    session::Server,
    shapes::{EmailImported, SetError},
    verdict::{Refusal, Verdict},
};
use crate::message::{Body, K1};

/// A server that takes ten messages a second still answers before its silence is taken for a fault.
const IMPORTED_AT_ONCE: usize = 50;

/// A Message-ID beyond it is not looked for.
const HEADER_BYTES_MAX: u64 = 64 * 1024;

/// A message to be imported.
pub(super) struct Wanted {
    pub body: Body,
    pub k1: K1,
    pub received_at: String,
    pub keywords: BTreeMap<String, bool>,
    /// A Message-ID that is ours alone, by which it is surely found.
    pub message_id: Option<String>,
    /// An earlier attempt may have brought it.
    pub attempted: bool,
    /// Another sighting may have brought it, received at another time.
    pub map_has_lost: bool,
}

type Imported = Vec<Option<Result<String, Refusal>>>;

impl Jmap {
    /// Imports each into a mailbox; answers the e-mail's id where it is there in the end, whoever brought it.
    pub(super) async fn import(
        &self,
        known: &Known,
        mailbox: &str,
        wanted: &[Wanted],
    ) -> Vec<Result<String, Refusal>> {
        let mut results: Imported = wanted.iter().map(|_| None).collect();
        let mut pending: Vec<usize> = (0..wanted.len()).collect();
        // The second round is for uploads that expired before their import.
        for round in 0..2 {
            let mut blobs = BTreeMap::new();
            let bodies = pending
                .iter()
                .map(|&i| (i, wanted[i].body.clone()))
                .collect();
            for (index, uploaded) in self.upload_bodies(&known.server, bodies).await {
                match uploaded {
                    Ok(blob) => drop(blobs.insert(index, blob)),
                    Err(refusal) => results[index] = Some(Err(refusal)),
                }
            }
            if round == 0 {
                self.skip_those_there(known, mailbox, wanted, &mut blobs, &mut results)
                    .await;
            }
            pending = self
                .import_uploaded(known, mailbox, wanted, &blobs, &mut results)
                .await;
        }
        for index in pending {
            let why = "the server loses what was uploaded";
            results[index] = Some(Err(Refusal::new(Verdict::Failed, why)));
        }
        let silent = || {
            Err(Refusal::new(
                Verdict::Failed,
                "the server says nothing of it",
            ))
        };
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(silent))
            .collect()
    }

    /// Looks before it adds: an attempt whose answer was lost, or a sighting that the map has lost, may have brought it,
    /// and not every server knows bytes again.
    async fn skip_those_there(
        &self,
        known: &Known,
        mailbox: &str,
        wanted: &[Wanted],
        blobs: &mut BTreeMap<usize, String>,
        results: &mut Imported,
    ) {
        let attempted: Vec<usize> = blobs
            .keys()
            .copied()
            .filter(|&index| wanted[index].attempted || wanted[index].map_has_lost)
            .collect();
        if attempted.is_empty() {
            return;
        }
        let sought: Vec<_> = attempted
            .iter()
            .map(|index| wanted[*index].sought(&blobs[index]))
            .collect();
        match self.look_up(&known.server, &sought).await {
            Ok(found) => {
                let there: Vec<_> = attempted
                    .into_iter()
                    .zip(found)
                    .filter_map(|(index, email)| Some((index, email?)))
                    .collect();
                self.settle_existing(known, mailbox, wanted, blobs, there, results)
                    .await;
            }
            Err(refusal) => {
                for index in attempted {
                    results[index] = Some(Err(refusal.clone()));
                }
            }
        }
        blobs.retain(|index, _| results[*index].is_none());
    }

    /// Answers those whose upload was gone.
    async fn import_uploaded(
        &self,
        known: &Known,
        mailbox: &str,
        wanted: &[Wanted],
        blobs: &BTreeMap<usize, String>,
        results: &mut Imported,
    ) -> Vec<usize> {
        let objects_max = known.server.limits.max_objects_in_set.max(1) as usize;
        let count_max = objects_max.min(IMPORTED_AT_ONCE);
        let all: Vec<_> = blobs.keys().copied().collect();
        let mut halving = Halving::new(all.chunks(count_max).map(<[_]>::to_vec).collect());
        let (mut there, mut gone) = (Vec::new(), Vec::new());
        while let Some(chunk) = halving.next() {
            let imported = self
                .import_chunk(&known.server, mailbox, wanted, blobs, &chunk)
                .await;
            let mut answers = match imported {
                Ok(answers) => answers,
                Err(refusal) => {
                    for (index, refusal) in halving.failed(chunk, refusal) {
                        results[index] = Some(Err(refusal));
                    }
                    continue;
                }
            };
            for index in chunk {
                let cid = format!("m{index}");
                if let Some(email) = answers.created.as_mut().and_then(|c| c.remove(&cid)) {
                    results[index] = Some(Ok(email.id));
                    continue;
                }
                let error = answers.not_created.as_mut().and_then(|n| n.remove(&cid));
                match judge(error) {
                    Said::There(email) => there.push((index, email)),
                    Said::BlobGone => gone.push(index),
                    Said::Not(refusal) => results[index] = Some(Err(refusal)),
                }
            }
        }
        self.settle_existing(known, mailbox, wanted, blobs, there, results)
            .await;
        gone
    }

    async fn import_chunk(
        &self,
        server: &Server,
        mailbox: &str,
        wanted: &[Wanted],
        blobs: &BTreeMap<usize, String>,
        chunk: &[usize],
    ) -> Result<EmailImported, Refusal> {
        let emails: BTreeMap<_, _> = chunk
            .iter()
            .map(|&index| {
                let message = &wanted[index];
                let email = json!({
                    "blobId": blobs[&index],
                    "mailboxIds": {mailbox: true},
                    "keywords": message.keywords,
                    "receivedAt": message.received_at,
                });
                (format!("m{index}"), email)
            })
            .collect();
        let calls = vec![("Email/import", json!({"emails": emails}), "m")];
        let body = self.call(server, calls).await?;
        let answers = Answers::parse(&body)?;
        self.heed_state(server, &answers);
        answers.take("m")
    }

    /// Those that are there already are ours if their bytes are, and belong into the mailbox too.
    async fn settle_existing(
        &self,
        known: &Known,
        mailbox: &str,
        wanted: &[Wanted],
        blobs: &BTreeMap<usize, String>,
        there: Vec<(usize, String)>,
        results: &mut Imported,
    ) {
        if there.is_empty() {
            return;
        }
        let ids: Vec<_> = there.iter().map(|(_, id)| id.as_str()).collect();
        let placed = async {
            let emails = self.emails(&known.server, &ids).await?;
            let mut ours = Vec::new();
            for (index, id) in &there {
                let sought = wanted[*index].sought(&blobs[index]);
                let confirmed = self.confirm_existing(known, &emails, id, &sought).await;
                if confirmed.is_ok() {
                    ours.extend(emails.iter().filter(|email| email.id == *id).cloned());
                }
                results[*index] = Some(confirmed.map(|()| id.clone()));
            }
            self.place(&known.server, &ours, mailbox).await
        };
        let refused = placed.await;
        for (index, id) in &there {
            let refusal = match &refused {
                Err(refusal) => Some(refusal.clone()),
                Ok(refused) => refused.get(id).map(SetError::refusal),
            };
            if let (Some(refusal), None | Some(Ok(_))) = (refusal, &results[*index]) {
                results[*index] = Some(Err(refusal));
            }
        }
    }
}

impl Wanted {
    fn sought<'a>(&'a self, blob_id: &'a str) -> Sought<'a> {
        Sought {
            blob_id,
            bytes: self.body.bytes(),
            k1: self.k1,
            received_at: &self.received_at,
            message_id: self.message_id.as_deref(),
            any_time: self.map_has_lost.then(|| own_message_id(&self.body)),
        }
    }
}

/// The Message-ID in a message's header, as a server would find it.
fn own_message_id(body: &Body) -> Option<String> {
    let mut head = Vec::new();
    let read = body
        .open()
        .and_then(|from| from.take(HEADER_BYTES_MAX).read_to_end(&mut head));
    read.ok()?;
    let parsed = MessageParser::new()
        .with_message_ids()
        .parse_headers(&head)?;
    parsed.message_id().map(String::from)
}

enum Said {
    There(String),
    BlobGone,
    Not(Refusal),
}

fn judge(error: Option<SetError>) -> Said {
    let Some(error) = error else {
        return Said::Not(Refusal::new(
            Verdict::Failed,
            "the server says nothing of it",
        ));
    };
    let refusal = error.refusal();
    match (refusal.verdict, error.existing_id) {
        (Verdict::Stored, Some(id)) => Said::There(id),
        (Verdict::BlobGone, _) => Said::BlobGone,
        _ => Said::Not(refusal),
    }
}
