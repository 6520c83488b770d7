//! A sighting as an e-mail, for servers that cannot keep one otherwise: a few words for people, the whole of it as a JSON
//! attachment. The same sighting makes the same bytes each time, so that a second attempt is found to be there.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

use crate::{
    message::{Acceptance, CaptureId, Difference, K1, Sighting, UnixMillis},
    targets::{Content, Outgoing},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Attachment<'a> {
    sighting: &'a Sighting,
    acceptance: &'a Acceptance,
    /// The copy that it is a sighting of: its first sighting's K1 …
    copy_k1: K1,
    /// … and the server's own id for it.
    email_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<&'a Difference>,
}

/// The e-mail; `email_id` is the server's id for the copy.
pub(super) fn render(outgoing: &Outgoing, email_id: &str) -> Vec<u8> {
    let sighting = &*outgoing.sighting;
    let (copy_k1, difference) = match &outgoing.content {
        Content::Copy(_) => (sighting.fingerprint.k1, None),
        Content::Duplicate { of, difference } => (of.k1, difference.as_ref()),
        Content::Variant { of, .. } => (of.k1, None),
    };
    let attachment = Attachment {
        sighting,
        acceptance: &outgoing.acceptance,
        copy_k1,
        email_id,
        difference,
    };
    let json = serde_json::to_vec_pretty(&attachment).expect("our own types have string keys");
    let id = sighting.id;
    let k1 = sighting.fingerprint.k1;
    let message_id = message_id(id);
    let date = date(sighting.captured_at);
    let mut mail = format!(
        "From: mailtee <sightings@mailtee.invalid>\r\n\
         Date: {date}\r\n\
         Subject: Sighting {id}\r\n\
         Message-ID: {message_id}\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=\"{id}\"\r\n\
         \r\n\
         --{id}\r\n\
         Content-Type: text/plain; charset=us-ascii\r\n\
         \r\n\
         A message of {bytes} bytes, seen {seen} by the {protocol} front end.\r\n\
         SHA-256 {k1}\r\n\
         Its envelope is in the attachment.\r\n\
         \r\n\
         --{id}\r\n\
         Content-Type: application/json\r\n\
         Content-Disposition: attachment; filename=\"{id}.json\"\r\n\
         Content-Transfer-Encoding: base64\r\n\
         \r\n",
        bytes = sighting.bytes,
        seen = sighting.captured_at.to_rfc3339(),
        protocol = sighting.protocol.name(),
    )
    .into_bytes();
    for line in STANDARD.encode(json).as_bytes().chunks(76) {
        mail.extend_from_slice(line);
        mail.extend_from_slice(b"\r\n");
    }
    mail.extend_from_slice(format!("--{id}--\r\n").as_bytes());
    mail
}

/// Ours alone: a sidecar is found by it.
pub(super) fn message_id(sighting: CaptureId) -> String {
    format!("<{sighting}@sighting.mailtee.invalid>")
}

/// RFC 5322 section 3.3, in UTC.
fn date(at: UnixMillis) -> String {
    let at = jiff::Timestamp::from_millisecond(at.0 as i64).unwrap_or_default();
    at.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}
