//! The way into a server that keeps sightings: bytes, copies and sightings of a whole batch in one request, tied together
//! by creation ids (RFC 8620 section 3.3, RFC 9404 section 4.1). Large content is uploaded before, and named by its id.
//!
//! A message that the server knows in other bytes comes back with the copy that is there, and goes again as a further
//! sighting of it.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    Jmap, Known,
    api::{Answers, JSON},
    halving::Halving,
    json::{Json, blob_bytes},
    keywords, received_at,
    session::Server,
    shapes::{
        BlobUploaded, CreatedSighting, EmailImported, NewSighting, SetError, SightingImported, Text,
    },
    verdict::{Refusal, Verdict},
};
use crate::{
    dedup::StoredCopy,
    message::{Body, CaptureId, Difference},
    targets::{Content, Outgoing, Receipt},
};

/// Room for an item's envelope and sighting beside its content; only splits requests, never cuts them.
const ITEM_BYTES: u64 = 4 * 1024;
/// A sighting of more recipients is measured.
const RECIPIENTS_UNMEASURED: usize = 16;
/// First, again beside a copy that turned out to be there, again with bytes that turned out to be gone.
const ROUNDS: usize = 3;

/// One sighting and the bytes that go with it.
struct Item<'a> {
    index: usize,
    outgoing: &'a Outgoing,
    /// The copy that it is a further sighting of.
    of: Option<StoredCopy>,
    /// `of` is what the server said, not what the dedup map did.
    of_by_server: bool,
    difference: Option<Cow<'a, Difference>>,
    body: Option<Body>,
    /// The blob id of a body that was uploaded.
    blob: Option<String>,
    /// Of the sighting as JSON.
    sighting_bytes: u64,
    /// The blob id of a sighting that was uploaded.
    sighting_blob: Option<String>,
}

enum Answered<'a> {
    Done(usize, Result<Receipt, Refusal>),
    Again(Item<'a>),
}

impl<'a> Item<'a> {
    fn new(index: usize, outgoing: &'a Outgoing) -> Self {
        let (of, difference, body) = match &outgoing.content {
            Content::Copy(body) => (None, None, Some(body)),
            Content::Duplicate { of, difference } => (Some(of), difference.as_ref(), None),
            Content::Variant { of, body } => (Some(of), None, Some(body)),
        };
        Self {
            index,
            outgoing,
            of: of.cloned(),
            of_by_server: false,
            difference: difference.map(Cow::Borrowed),
            body: body.cloned(),
            blob: None,
            sighting_bytes: sighting_bytes(outgoing),
            sighting_blob: None,
        }
    }

    /// What was uploaded goes again; false where nothing was.
    fn forgets_uploads(&mut self) -> bool {
        let (blob, sighting) = (self.blob.take(), self.sighting_blob.take());
        blob.is_some() || sighting.is_some()
    }

    /// The server has the message in other bytes.
    fn beside(self, copy: StoredCopy) -> Answered<'a> {
        let Some(body) = &self.body else {
            let why = "the server answers alreadyExists to a sighting without bytes";
            return Answered::Done(self.index, Err(Refusal::new(Verdict::Failed, why)));
        };
        let (difference, body) = match Content::beside(copy.clone(), &self.outgoing.sighting, body)
        {
            Ok(Content::Duplicate { difference, .. }) => (difference, None),
            Ok(_) => (None, Some(body.clone())),
            Err(error) => {
                let refusal = Refusal::new(Verdict::Failed, format!("content: {error}"));
                return Answered::Done(self.index, Err(refusal));
            }
        };
        Answered::Again(Self {
            of: Some(copy),
            of_by_server: true,
            difference: difference.map(Cow::Owned),
            body,
            // It names another copy.
            sighting_blob: None,
            ..self
        })
    }

    /// Content that goes inside the request.
    fn inline(&self) -> Option<&[u8]> {
        match (&self.body, &self.blob) {
            (Some(Body::Small(bytes)), None) => Some(bytes),
            _ => None,
        }
    }

    fn request_bytes(&self) -> u64 {
        let content = self.inline().map_or(0, blob_bytes) as u64;
        match self.sighting_blob {
            Some(_) => ITEM_BYTES + content,
            None => content + self.own_bytes(),
        }
    }

    /// Of everything but content.
    fn own_bytes(&self) -> u64 {
        let difference = self.difference.as_ref().map_or(0, |d| d.bytes() * 2);
        self.sighting_bytes + difference as u64
    }

    /// An envelope of very many recipients has no room in a request: its sighting is uploaded, and so is its content.
    fn is_oversize(&self, server: &Server) -> bool {
        self.own_bytes() > server.limits.max_size_request / 4
    }

    fn sighting(&self, place: usize) -> NewSighting<'_> {
        NewSighting {
            blob_id: blob_ref(place, self),
            email_id: self.of.as_ref().map(|of| Text((&*of.remote_id).into())),
            sighting: Cow::Borrowed(&self.outgoing.sighting),
            acceptance: Cow::Borrowed(&self.outgoing.acceptance),
            difference: self.difference.as_deref().map(Cow::Borrowed),
        }
    }
}

fn sighting_bytes(outgoing: &Outgoing) -> u64 {
    let sighting = &outgoing.sighting;
    let recipients = sighting.envelope().map_or(0, |e| e.recipients.len());
    if recipients <= RECIPIENTS_UNMEASURED {
        return ITEM_BYTES;
    }
    let mut length = Length(0);
    serde_json::to_writer(&mut length, &(&**sighting, &outgoing.acceptance))
        .expect("our own types have string keys and counting does not fail");
    ITEM_BYTES + length.0
}

/// Counts what is written.
struct Length(u64);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Jmap {
    pub(super) async fn put_in_one_request(
        &self,
        known: &Known,
        batch: &[Outgoing],
    ) -> Vec<Result<Receipt, Refusal>> {
        let mut results: Vec<Option<_>> = batch.iter().map(|_| None).collect();
        let items = batch.iter().enumerate();
        let mut waiting: Vec<_> = items.map(|(index, out)| Item::new(index, out)).collect();
        for _ in 0..ROUNDS {
            let mut again = Vec::new();
            let ready = self.upload_large(known, waiting, &mut results).await;
            let mut halving = Halving::new(chunks(ready, &known.server));
            while let Some(chunk) = halving.next() {
                match self.exchange(known, chunk).await {
                    Ok(answered) => {
                        for answer in answered {
                            match answer {
                                Answered::Done(index, result) => results[index] = Some(result),
                                Answered::Again(item) => again.push(item),
                            }
                        }
                    }
                    Err((chunk, refusal)) => {
                        for (item, refusal) in halving.failed(chunk, refusal) {
                            results[item.index] = Some(Err(refusal));
                        }
                    }
                }
            }
            waiting = again;
        }
        let endless = || {
            Err(Refusal::new(
                Verdict::Failed,
                "the server answers in circles",
            ))
        };
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(endless))
            .collect()
    }

    /// Uploads what is too large to go inside a request; what cannot be uploaded is answered at once.
    async fn upload_large<'a>(
        &self,
        known: &Known,
        items: Vec<Item<'a>>,
        results: &mut [Option<Result<Receipt, Refusal>>],
    ) -> Vec<Item<'a>> {
        let server = &known.server;
        let inline_max = server.inline_bytes_max().unwrap_or(0);
        let goes_apart = |item: &Item<'_>| match (&item.body, &item.blob) {
            (Some(Body::Small(bytes)), None) => {
                bytes.len() as u64 > inline_max || item.is_oversize(server)
            }
            (Some(Body::Large(_)), None) => true,
            _ => false,
        };
        let (large, mut ready): (Vec<_>, Vec<_>) = items.into_iter().partition(goes_apart);
        let bodies = large
            .iter()
            .filter_map(|item| Some((item.index, item.body.clone()?)))
            .collect();
        let uploaded = self.upload_apart(server, bodies).await;
        let mut uploaded: BTreeMap<_, _> = uploaded.into_iter().collect();
        for mut item in large {
            match uploaded.remove(&item.index) {
                Some(Err(refusal)) => results[item.index] = Some(Err(refusal)),
                blob => {
                    item.blob = blob.and_then(Result::ok);
                    ready.push(item);
                }
            }
        }
        self.upload_sightings(server, ready, results).await
    }

    async fn upload_sightings<'a>(
        &self,
        server: &Server,
        items: Vec<Item<'a>>,
        results: &mut [Option<Result<Receipt, Refusal>>],
    ) -> Vec<Item<'a>> {
        let mut ready = Vec::with_capacity(items.len());
        for mut item in items {
            if item.is_oversize(server) {
                let json = serde_json::to_vec(&item.sighting(item.index))
                    .expect("our own types have string keys");
                match self.upload(server, JSON, &Body::Small(json.into())).await {
                    Ok(id) => item.sighting_blob = Some(id),
                    Err(refusal) => {
                        results[item.index] = Some(Err(refusal));
                        continue;
                    }
                }
            }
            ready.push(item);
        }
        ready
    }

    async fn exchange<'a>(
        &self,
        known: &Known,
        chunk: Vec<Item<'a>>,
    ) -> Result<Vec<Answered<'a>>, (Vec<Item<'a>>, Refusal)> {
        let request = request(known, &self.options, &chunk);
        let judged = async {
            let body = self.send(&known.server, request).await?;
            let answers = Answers::parse(&body)?;
            self.heed_state(&known.server, &answers);
            Said::read(&answers, &chunk)
        };
        match judged.await {
            Ok(mut said) => Ok(chunk
                .into_iter()
                .enumerate()
                .map(|(place, item)| said.of(place, item))
                .collect()),
            Err(refusal) => Err((chunk, refusal)),
        }
    }
}

/// Splits by the session's limits on objects and bytes.
fn chunks<'a>(items: Vec<Item<'a>>, server: &Server) -> Vec<Vec<Item<'a>>> {
    let count_max = server.limits.max_objects_in_set.max(1) as usize;
    let mut chunks: Vec<Vec<Item<'a>>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        let more = item.request_bytes();
        match chunks.last_mut() {
            Some(chunk)
                if chunk.len() < count_max && bytes + more <= server.limits.max_size_request =>
            {
                bytes += more;
                chunk.push(item);
            }
            _ => {
                bytes = more;
                chunks.push(vec![item]);
            }
        }
    }
    chunks
}

fn request(known: &Known, options: &super::Options, chunk: &[Item<'_>]) -> bytes::Bytes {
    let server = &known.server;
    let room: u64 = chunk.iter().map(Item::request_bytes).sum();
    let mut json = Json::with_capacity(room as usize);
    json.raw(r#"{"using":"#).value(&server.using());
    json.raw(r#","methodCalls":["#);

    if chunk.iter().any(|item| item.inline().is_some()) {
        json.raw(r#"["Blob/upload",{"accountId":"#)
            .value(&server.account);
        json.raw(r#","create":{"#);
        let mut first = true;
        for (place, item) in chunk.iter().enumerate() {
            if let Some(bytes) = item.inline() {
                json.comma_unless(std::mem::take(&mut first));
                json.raw(r#""b"#).number(place);
                json.raw(r#"":"#).blob(bytes);
            }
        }
        json.raw(r#"}},"b"],"#);
    }

    if chunk.iter().any(|item| item.of.is_none()) {
        let mailboxes = BTreeMap::from([(&known.mailboxes.copies, true)]);
        json.raw(r#"["Email/import",{"accountId":"#)
            .value(&server.account);
        json.raw(r#","emails":{"#);
        let mut first = true;
        for (place, item) in chunk.iter().enumerate() {
            if item.of.is_none() {
                let sighting = &item.outgoing.sighting;
                json.comma_unless(std::mem::take(&mut first));
                json.raw(r#""m"#).number(place).raw(r#"":{"blobId":"#);
                json.value(&blob_ref(place, item));
                json.raw(r#","mailboxIds":"#).value(&mailboxes);
                json.raw(r#","keywords":"#)
                    .value(&keywords(options, sighting));
                json.raw(r#","receivedAt":"#).value(&received_at(sighting));
                json.raw("}");
            }
        }
        json.raw(r#"}},"m"],"#);
    }

    json.raw(r#"["Sighting/import",{"accountId":"#)
        .value(&server.account);
    json.raw(r#","sightings":{"#);
    let (uploaded, whole): (Vec<_>, Vec<_>) = chunk
        .iter()
        .enumerate()
        .partition(|(_, item)| item.sighting_blob.is_some());
    let mut first = true;
    for (place, item) in whole {
        json.comma_unless(std::mem::take(&mut first));
        json.raw(r#""s"#).number(place).raw(r#"":"#);
        json.value(&item.sighting(place));
    }
    json.raw("}");
    if !uploaded.is_empty() {
        json.raw(r#","uploaded":{"#);
        let mut first = true;
        for (place, item) in uploaded {
            json.comma_unless(std::mem::take(&mut first));
            json.raw(r#""s"#).number(place).raw(r#"":"#);
            json.value(&item.sighting_blob);
        }
        json.raw("}");
    }
    json.raw(r#"},"s"]]}"#);
    json.into_bytes()
}

fn blob_ref<'a>(place: usize, item: &'a Item<'_>) -> Option<Text<'a>> {
    match &item.blob {
        Some(id) => Some(Text(id.into())),
        None => item
            .body
            .as_ref()
            .map(|_| Text(format!("#b{place}").into())),
    }
}

impl StoredCopy {
    /// A copy that no sighting brought has the nil id for its first: then the first is this one.
    fn first_or(mut self, own: CaptureId) -> Self {
        if self.first == CaptureId::from_bytes([0; 16]) {
            self.first = own;
        }
        self
    }
}

/// What the server said of each item of a chunk.
struct Said {
    blobs_refused: BTreeMap<String, SetError>,
    emails_refused: BTreeMap<String, SetError>,
    sightings: BTreeMap<String, CreatedSighting>,
    sightings_refused: BTreeMap<String, SetError>,
}

impl Said {
    fn read(answers: &Answers<'_>, chunk: &[Item<'_>]) -> Result<Self, Refusal> {
        let mut blobs_refused = BTreeMap::new();
        if chunk.iter().any(|item| item.inline().is_some()) {
            let uploaded: BlobUploaded = answers.take("b")?;
            blobs_refused = uploaded.not_created.unwrap_or_default();
        }
        let mut emails_refused = BTreeMap::new();
        if chunk.iter().any(|item| item.of.is_none()) {
            let imported: EmailImported = answers.take("m")?;
            emails_refused = imported.not_created.unwrap_or_default();
        }
        let imported: SightingImported = answers.take("s")?;
        Ok(Self {
            blobs_refused,
            emails_refused,
            sightings: imported.created.unwrap_or_default(),
            sightings_refused: imported.not_created.unwrap_or_default(),
        })
    }

    /// A sighting that was taken proves its copy; where it was not, the first thing that failed is the cause.
    fn of<'a>(&mut self, place: usize, mut item: Item<'a>) -> Answered<'a> {
        if let Some(created) = self.sightings.remove(&format!("s{place}")) {
            let already = match item.of_by_server {
                true => item.of,
                false => created.existing.map(StoredCopy::from),
            };
            let receipt = Receipt {
                remote_id: created.email_id,
                already: already.map(|copy| copy.first_or(item.outgoing.sighting.id)),
            };
            return Answered::Done(item.index, Ok(receipt));
        }
        let email_refused = self.emails_refused.remove(&format!("m{place}"));
        let error = self
            .blobs_refused
            .remove(&format!("b{place}"))
            .or(email_refused.filter(|e| e.kind != "alreadyExists"))
            .or_else(|| self.sightings_refused.remove(&format!("s{place}")));
        let Some(error) = error else {
            let refusal = Refusal::new(Verdict::Failed, "the server says nothing of this message");
            return Answered::Done(item.index, Err(refusal));
        };
        if let Some(existing) = error.existing {
            return item.beside(existing.into());
        }
        let refusal = error.refusal();
        match refusal.verdict {
            Verdict::BlobGone if item.forgets_uploads() => Answered::Again(item),
            _ => Answered::Done(item.index, Err(refusal)),
        }
    }
}
