//! Bytes up: small ones many in a request where the server takes blobs there (RFC 9404 section 4.1), large ones each as an
//! upload that streams (RFC 8620 section 6.1).

use std::collections::BTreeSet;

use futures_util::{StreamExt, stream};

use super::{
    Jmap,
    api::{Answers, MESSAGE},
    halving::Halving,
    json::{Json, base64_bytes},
    session::Server,
    shapes::BlobUploaded,
    verdict::{Refusal, Verdict},
};
use crate::message::Body;

/// Larger content is uploaded on its own: base64 costs a third more and is held in memory.
const INLINE_BYTES_MAX: u64 = 256 * 1024;
/// A blob's share of a request beside its content.
const FRAME_BYTES: u64 = 256;

/// What to upload, by its place in the batch, and what came of it.
pub(super) type Bodies = Vec<(usize, Body)>;
pub(super) type Uploads = Vec<(usize, Result<String, Refusal>)>;

impl Server {
    /// The largest content that may go inside a request; none where the server takes no blobs there.
    pub(super) fn inline_bytes_max(&self) -> Option<u64> {
        let blob = self.blob?;
        let own = blob.max_size_blob_set.unwrap_or(u64::MAX);
        Some(
            INLINE_BYTES_MAX
                .min(own)
                .min(self.limits.max_size_request / 2),
        )
    }
}

impl Jmap {
    pub(super) async fn upload_bodies(&self, server: &Server, bodies: Bodies) -> Uploads {
        let goes_inline = |body: &Body| match body {
            Body::Small(bytes) => Some(bytes.len() as u64) <= server.inline_bytes_max(),
            Body::Large(_) => false,
        };
        let (small, large): (Vec<_>, Vec<_>) =
            bodies.into_iter().partition(|(_, body)| goes_inline(body));
        let mut uploads = self.upload_together(server, small).await;
        uploads.extend(self.upload_apart(server, large).await);
        uploads
    }

    /// One upload each, as many at once as the server allows. When the server stops taking anything, so does this: those
    /// not yet tried share the answer.
    pub(super) async fn upload_apart(&self, server: &Server, bodies: Bodies) -> Uploads {
        let at_once = server.uploads.available_permits().max(1);
        let mut not_tried: BTreeSet<usize> = bodies.iter().map(|(index, _)| *index).collect();
        let mut uploading = stream::iter(bodies)
            .map(|(index, body)| async move { (index, self.upload(server, MESSAGE, &body).await) })
            .buffer_unordered(at_once);
        let mut uploads = Vec::new();
        while let Some((index, result)) = uploading.next().await {
            let stopped = result.as_ref().err().filter(|e| e.is_of_target()).cloned();
            uploads.push((index, result));
            not_tried.remove(&index);
            if let Some(refusal) = stopped {
                let shared = not_tried.iter().map(|&i| (i, Err(refusal.clone())));
                uploads.extend(shared);
                break;
            }
        }
        uploads
    }

    async fn upload_together(&self, server: &Server, bodies: Bodies) -> Uploads {
        let mut uploads = Vec::with_capacity(bodies.len());
        let mut halving = Halving::new(chunks(server, bodies));
        while let Some(chunk) = halving.next() {
            match self.upload_chunk(server, &chunk).await {
                Ok(mut uploaded) => {
                    for (index, _) in chunk {
                        let id = format!("b{index}");
                        let created = uploaded.created.as_mut().and_then(|c| c.remove(&id));
                        let refused = uploaded.not_created.as_mut().and_then(|n| n.remove(&id));
                        let result = match (created, refused) {
                            (Some(blob), _) => Ok(blob.id),
                            (None, Some(error)) => Err(error.refusal()),
                            (None, None) => {
                                let why = "the server says nothing of this blob";
                                Err(Refusal::new(Verdict::Failed, why))
                            }
                        };
                        uploads.push((index, result));
                    }
                }
                Err(refusal) => {
                    let given_up = halving.failed(chunk, refusal).into_iter();
                    uploads.extend(given_up.map(|((index, _), refusal)| (index, Err(refusal))));
                }
            }
        }
        uploads
    }

    async fn upload_chunk(
        &self,
        server: &Server,
        chunk: &[(usize, Body)],
    ) -> Result<BlobUploaded, Refusal> {
        let room: u64 = chunk.iter().map(|(_, body)| request_bytes(body)).sum();
        let mut json = Json::with_capacity(room as usize);
        json.raw(r#"{"using":"#).value(&server.using());
        json.raw(r#","methodCalls":[["Blob/upload",{"accountId":"#)
            .value(&server.account)
            .raw(r#","create":{"#);
        for (place, (index, body)) in chunk.iter().enumerate() {
            if let Body::Small(bytes) = body {
                json.comma_unless(place == 0).raw(r#""b"#).number(*index);
                json.raw(r#"":"#).base64_blob(bytes);
            }
        }
        json.raw(r#"}},"b"]]}"#);
        let answer = self.send(server, json.into_bytes()).await?;
        Answers::parse(&answer)?.take("b")
    }
}

fn request_bytes(body: &Body) -> u64 {
    FRAME_BYTES + base64_bytes(body.bytes() as usize) as u64
}

/// Splits by the session's limits on objects and bytes.
fn chunks(server: &Server, bodies: Bodies) -> Vec<Bodies> {
    let count_max = server.limits.max_objects_in_set.max(1) as usize;
    let mut chunks: Vec<Bodies> = Vec::new();
    let mut bytes = 0;
    for (index, body) in bodies {
        let more = request_bytes(&body);
        match chunks.last_mut() {
            Some(chunk)
                if chunk.len() < count_max && bytes + more <= server.limits.max_size_request =>
            {
                bytes += more;
                chunk.push((index, body));
            }
            _ => {
                bytes = more;
                chunks.push(vec![(index, body)]);
            }
        }
    }
    chunks
}
