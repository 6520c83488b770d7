//! One exchange with the server: an API request and its parsed answers, an upload, a download.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    Jmap,
    session::Server,
    shapes::{Invocation, MethodError, Response, Uploaded},
    verdict::{Refusal, Verdict},
};
use crate::{
    channel::Upload,
    message::{Body, K1},
};

const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
const UPLOADED_BYTES_MAX: usize = 64 * 1024;
pub(super) const JSON: &str = "application/json";
pub(super) const MESSAGE: &str = "message/rfc822";

impl Jmap {
    /// Sends an API request that is JSON already.
    pub(super) async fn send(&self, server: &Server, request: Bytes) -> Result<Bytes, Refusal> {
        let permit = server.requests.acquire().await;
        let sent = self
            .channel
            .post(
                server.api.clone(),
                JSON,
                Upload::Bytes(request),
                ANSWER_BYTES_MAX,
            )
            .await;
        drop(permit);
        self.counted(match sent {
            Ok(answer) if answer.status == 200 => Ok(answer.body),
            Ok(answer) => Err(Refusal::http(
                answer.status,
                answer.retry_after,
                &answer.body,
            )),
            Err(error) => Err(error.into()),
        })
    }

    /// Sends calls as `(method, arguments without accountId, call id)`.
    pub(super) async fn call(
        &self,
        server: &Server,
        calls: Vec<(&str, Value, &str)>,
    ) -> Result<Bytes, Refusal> {
        let calls: Vec<_> = calls
            .into_iter()
            .map(|(method, mut arguments, id)| {
                arguments["accountId"] = json!(server.account);
                json!([method, arguments, id])
            })
            .collect();
        let request = json!({"using": server.using(), "methodCalls": calls});
        self.send(server, request.to_string().into()).await
    }

    /// Uploads content of any size; answers its blob id (RFC 8620 section 6.1).
    pub(super) async fn upload(
        &self,
        server: &Server,
        media_type: &'static str,
        body: &Body,
    ) -> Result<String, Refusal> {
        let limit = server.limits.max_size_upload;
        if body.bytes() > limit {
            let why = format!(
                "{} bytes are beyond the server's maxSizeUpload of {limit}",
                body.bytes()
            );
            return Err(Refusal::new(Verdict::Refused, why));
        }
        let permit = server.uploads.acquire().await;
        let sent = self
            .channel
            .post(
                server.upload.clone(),
                media_type,
                body.into(),
                UPLOADED_BYTES_MAX,
            )
            .await;
        drop(permit);
        let body = self.counted(match sent {
            Ok(answer) if matches!(answer.status, 200 | 201) => Ok(answer.body),
            Ok(answer) => Err(Refusal::http(
                answer.status,
                answer.retry_after,
                &answer.body,
            )),
            Err(error) => Err(error.into()),
        })?;
        let uploaded: Uploaded = serde_json::from_slice(&body)
            .map_err(|e| Refusal::new(Verdict::Failed, format!("upload: {e}")))?;
        Ok(uploaded.blob_id)
    }

    /// The K1 of what the server would hand out for a blob.
    pub(super) async fn k1_of_blob(
        &self,
        server: &Server,
        blob_id: &str,
        bytes: u64,
    ) -> Result<K1, Refusal> {
        let url = server.download(blob_id)?;
        let answer = self.counted(
            self.channel
                .get(url, bytes as usize)
                .await
                .map_err(Refusal::from),
        )?;
        match answer.status {
            200 => Ok(k1_of(&answer.body)),
            status => Err(Refusal::http(status, answer.retry_after, &answer.body)),
        }
    }
}

/// The K1 of our own content.
pub(super) fn k1_of(bytes: &[u8]) -> K1 {
    K1(Sha256::digest(bytes).into())
}

/// The method responses of one request, still raw.
pub(super) struct Answers<'a>(Response<'a>);

impl<'a> Answers<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(body)
            .map(Self)
            .map_err(|e| Refusal::new(Verdict::Failed, format!("the answer is no JMAP: {e}")))
    }

    pub(super) fn session_state(&self) -> &str {
        &self.0.session_state
    }

    /// The answer to one call, or the error that stands in its place.
    pub(super) fn take<T: Deserialize<'a>>(&self, call: &str) -> Result<T, Refusal> {
        let mut of_call = self.0.method_responses.iter().filter(|r| r.2 == call);
        let Some(Invocation(name, arguments, _)) = of_call.next() else {
            let why = format!("no answer to call {call}");
            return Err(Refusal::new(Verdict::Failed, why));
        };
        if name == "error" {
            let error: MethodError = serde_json::from_str(arguments.get()).unwrap_or_default();
            return Err(Refusal::method(&error.kind, error.description.as_deref()));
        }
        serde_json::from_str(arguments.get())
            .map_err(|e| Refusal::new(Verdict::Failed, format!("answer to call {call}: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::jmap::shapes::EmailImported;

    #[test]
    fn a_method_error_stands_in_the_place_of_its_call_alone() {
        let body = br#"{"sessionState":"s","methodResponses":[
            ["error",{"type":"serverFail","description":"disk"},"b"],
            ["Email/import",{"created":{"m0":{"id":"M"}},"notCreated":null},"m"]]}"#;
        let answers = Answers::parse(body).ok().unwrap();
        let refusal = answers.take::<EmailImported>("b").unwrap_err();
        assert_eq!(
            (refusal.verdict, refusal.why.as_str()),
            (Verdict::Failed, "serverFail disk")
        );
        assert!(answers.take::<EmailImported>("m").is_ok());
        assert!(answers.take::<EmailImported>("absent").is_err());
    }
}
