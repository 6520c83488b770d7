//! Is it the message, or the server? Where no other message passes, something harmless is sent the same ways: the session
//! is read again, bytes are uploaded, an import is asked for.
//!
//! Nothing stays. An upload that no e-mail names expires (RFC 8620 section 6), and the import names a blob that is not
//! there. It never proves that a whole message would be stored; it proves that neither the way there, nor the credentials,
//! nor the server's storage, nor its import as such has broken down.

use serde_json::json;

use super::{
    Jmap,
    api::Answers,
    shapes::{EmailImported, blob_id},
    verdict::Refusal,
};
use crate::message::{Body, K1};

impl Jmap {
    pub(super) async fn vouched(&self) -> Result<(), Refusal> {
        self.forget_server();
        let known = self.known().await?;
        let server = &known.server;
        // Never the same bytes: a server that knows them would have nothing to write.
        let bytes = format!(
            "mailtee asks for an upload: {:032x}\r\n",
            rand::random::<u128>()
        );
        self.upload(server, "text/plain", &Body::Small(bytes.into()))
            .await?;
        let email = json!({
            "blobId": blob_id(&K1([0; 32])),
            "mailboxIds": {&known.mailboxes.copies: true},
        });
        let calls = vec![("Email/import", json!({"emails": {"m0": email}}), "m")];
        let body = self.call(server, calls).await?;
        // That it says no to this one is as good as a yes.
        Answers::parse(&body)?.take::<EmailImported>("m").map(drop)
    }
}
