//! The JMAP objects that cross the wire between this target and a server, once: the vault reads and writes the same
//! types. RFC 8620 (core), RFC 8621 (mail), RFC 9404 (blobs) and the vendor extension [`SIGHTINGS`].
//!
//! **Sightings.** A server that announces [`SIGHTINGS`] keeps every sighting beside the copy. `Sighting/import` takes
//! [`SightingImport`] and answers [`SightingImported`]. It is idempotent by the sighting's id. One that brings a `blobId`
//! and no `emailId` names a new copy (imported by `Email/import` earlier in the same request); where the server holds
//! the same message (K2) in other bytes, neither call makes a second copy and both answer `alreadyExists`, this one with
//! the [`Existing`] copy, so that the caller sends the difference. With `emailId` it is a further sighting of that copy,
//! told apart by `difference` (Core equal) or by its own bytes as `blobId` (a variant). An unknown `emailId`: `notFound`.
//! A sighting that has no room in a request comes as an upload, named in `uploaded`.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    dedup::StoredCopy,
    message::{Acceptance, CaptureId, Difference, K1, Sighting, fingerprint::Core},
};

/// RFC 8620.
pub const CORE: &str = "urn:ietf:params:jmap:core";
/// RFC 8621.
pub const MAIL: &str = "urn:ietf:params:jmap:mail";
/// RFC 9404.
pub const BLOB: &str = "urn:ietf:params:jmap:blob";
/// The vendor extension that keeps sightings; in `capabilities` and in each account's `accountCapabilities`.
pub const SIGHTINGS: &str = "https://mailtee.dev/jmap/sightings";

/// The blob id of content in the vault: any client can check it with `sha256sum`.
pub fn blob_id(k1: &K1) -> String {
    format!("G{k1}")
}

/// Text borrowed from the request where it holds no escapes: base64 of a whole batch is never copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// The session object (RFC 8620 section 2).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    #[serde(default)]
    pub capabilities: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    pub accounts: BTreeMap<String, Account>,
    #[serde(default)]
    pub primary_accounts: BTreeMap<String, String>,
    #[serde(default)]
    pub username: String,
    pub api_url: String,
    #[serde(default)]
    pub download_url: String,
    pub upload_url: String,
    #[serde(default)]
    pub event_source_url: String,
    #[serde(default)]
    pub state: String,
}

/// One account of the session (RFC 8620 section 2).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Account {
    pub name: String,
    pub is_personal: bool,
    pub is_read_only: bool,
    pub account_capabilities: BTreeMap<String, serde_json::Value>,
}

/// The limits of [`CORE`]; what a server leaves out is taken as the least that RFC 8620 section 2 suggests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CoreLimits {
    /// Bytes of one upload.
    pub max_size_upload: u64,
    pub max_concurrent_upload: u64,
    /// Bytes of one API request.
    pub max_size_request: u64,
    pub max_concurrent_requests: u64,
    pub max_calls_in_request: u64,
    pub max_objects_in_get: u64,
    pub max_objects_in_set: u64,
}

impl Default for CoreLimits {
    fn default() -> Self {
        Self {
            max_size_upload: 50_000_000,
            max_concurrent_upload: 4,
            max_size_request: 10_000_000,
            max_concurrent_requests: 4,
            max_calls_in_request: 16,
            max_objects_in_get: 500,
            max_objects_in_set: 500,
        }
    }
}

/// The account's limits of [`BLOB`] (RFC 9404 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlobLimits {
    /// Bytes of one blob made by `Blob/upload`; null in JSON means no limit of its own.
    pub max_size_blob_set: Option<u64>,
    pub max_data_sources: u64,
}

impl Default for BlobLimits {
    fn default() -> Self {
        Self {
            max_size_blob_set: None,
            max_data_sources: 64,
        }
    }
}

/// An API request (RFC 8620 section 3.3).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request<'a> {
    #[serde(borrow)]
    pub using: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    pub method_calls: Vec<Invocation<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_ids: Option<BTreeMap<String, String>>,
}

/// One call or one response: name, arguments, call id (RFC 8620 section 3.2).
#[derive(Debug, Serialize, Deserialize)]
pub struct Invocation<'a>(
    #[serde(borrow)] pub Cow<'a, str>,
    #[serde(borrow)] pub &'a RawValue,
    #[serde(borrow)] pub Cow<'a, str>,
);

/// An API response (RFC 8620 section 3.4).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Response<'a> {
    #[serde(borrow)]
    pub method_responses: Vec<Invocation<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_ids: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub session_state: String,
}

/// The answer to an upload (RFC 8620 section 6.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Uploaded {
    #[serde(default)]
    pub account_id: String,
    pub blob_id: String,
    #[serde(default, rename = "type")]
    pub media_type: Option<String>,
    #[serde(default)]
    pub size: u64,
}

/// A request-level error: a problem document (RFC 8620 section 3.6.1, RFC 7807).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// `urn:ietf:params:jmap:error:` + `limit`, `notRequest`, `notJSON`, `unknownCapability` …
    #[serde(rename = "type")]
    pub kind: String,
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Which limit, for `limit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
}

/// A method-level error: the arguments of an `error` response (RFC 8620 section 3.6.2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MethodError {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Why one object was not made (RFC 8620 section 5.3, RFC 8621 section 4.8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetError {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The e-mail that is there, for `alreadyExists`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing_id: Option<String>,
    /// The copy that is there, for `alreadyExists` of `Sighting/import`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<Existing>,
}

/// `Blob/upload` (RFC 9404 section 4.1).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobUpload<'a> {
    #[serde(borrow)]
    pub account_id: Cow<'a, str>,
    #[serde(borrow)]
    pub create: BTreeMap<Cow<'a, str>, NewBlob<'a>>,
}

/// One creation of `Blob/upload` (RFC 9404 section 4.1).
#[derive(Debug, Serialize, Deserialize)]
pub struct NewBlob<'a> {
    #[serde(borrow)]
    pub data: Vec<DataSource<'a>>,
    #[serde(
        default,
        borrow,
        rename = "type",
        skip_serializing_if = "Option::is_none"
    )]
    pub media_type: Option<Text<'a>>,
}

/// One piece of a blob: exactly one of text, base64, or (a range of) another blob.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct DataSource<'a> {
    #[serde(
        default,
        borrow,
        rename = "data:asBase64",
        skip_serializing_if = "Option::is_none"
    )]
    pub as_base64: Option<Text<'a>>,
    #[serde(
        default,
        borrow,
        rename = "data:asText",
        skip_serializing_if = "Option::is_none"
    )]
    pub as_text: Option<Text<'a>>,
    #[serde(
        default,
        borrow,
        rename = "blobId",
        skip_serializing_if = "Option::is_none"
    )]
    pub blob_id: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
}

/// What was made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedBlob {
    pub id: String,
    #[serde(default, rename = "type")]
    pub media_type: Option<String>,
    #[serde(default)]
    pub size: u64,
}

/// The common shape of a create's answer: `created` and `notCreated`, either may be null or absent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "T: Deserialize<'de>"))]
pub struct Created<T> {
    #[serde(default)]
    pub account_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_state: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_state: Option<String>,
    #[serde(default = "none")]
    pub created: Option<BTreeMap<String, T>>,
    #[serde(default)]
    pub not_created: Option<BTreeMap<String, SetError>>,
}

fn none<T>() -> Option<T> {
    None
}

/// The answer to `Blob/upload`.
pub type BlobUploaded = Created<CreatedBlob>;
/// The answer to `Email/import`.
pub type EmailImported = Created<CreatedEmail>;
/// The answer to `Sighting/import`.
pub type SightingImported = Created<CreatedSighting>;

/// `Email/import` (RFC 8621 section 4.8).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EmailImport<'a> {
    #[serde(borrow)]
    pub account_id: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_in_state: Option<String>,
    #[serde(borrow)]
    pub emails: BTreeMap<Cow<'a, str>, NewEmail<'a>>,
}

/// One creation of `Email/import` (RFC 8621 section 4.8).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewEmail<'a> {
    /// An id, or `#` + the creation id of a `Blob/upload` in the same request.
    #[serde(borrow)]
    pub blob_id: Cow<'a, str>,
    pub mailbox_ids: BTreeMap<String, bool>,
    #[serde(default)]
    pub keywords: BTreeMap<String, bool>,
    /// UTCDate; the time of import where absent.
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub received_at: Option<Text<'a>>,
}

/// What was made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatedEmail {
    pub id: String,
    #[serde(default)]
    pub blob_id: String,
    #[serde(default)]
    pub thread_id: String,
    #[serde(default)]
    pub size: u64,
}

/// `Sighting/import`; see the head of this module.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SightingImport<'a> {
    #[serde(borrow)]
    pub account_id: Cow<'a, str>,
    #[serde(borrow)]
    pub sightings: BTreeMap<Cow<'a, str>, NewSighting<'a>>,
    /// By creation id, the id of an upload that is a [`NewSighting`] as JSON: one that is too large for a request.
    #[serde(default, borrow, skip_serializing_if = "BTreeMap::is_empty")]
    pub uploaded: BTreeMap<Cow<'a, str>, Text<'a>>,
}

/// One sighting; its id and fingerprint are inside `sighting`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewSighting<'a> {
    /// The bytes of a new copy or of a variant: an id, or `#` + the creation id of a `Blob/upload`.
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub blob_id: Option<Text<'a>>,
    /// The copy that this is a further sighting of; absent for a new copy.
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub email_id: Option<Text<'a>>,
    pub sighting: Cow<'a, Sighting>,
    pub acceptance: Cow<'a, Acceptance>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<Cow<'a, Difference>>,
}

/// What was made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatedSighting {
    /// The copy it belongs to.
    pub email_id: String,
    /// Present where that copy was there before, brought by another sighting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<Existing>,
}

/// A copy on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Existing {
    pub email_id: String,
    /// The copy's first sighting.
    pub first: CaptureId,
    pub k1: K1,
    pub core: Core,
}

impl From<Existing> for StoredCopy {
    fn from(there: Existing) -> Self {
        Self {
            first: there.first,
            k1: there.k1,
            core: there.core,
            remote_id: there.email_id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_without_escapes_is_borrowed_and_with_escapes_is_still_read() {
        let json = r#"{"accountId":"a","create":{"b0":{"data":[{"data:asBase64":"AA/A"}]},
            "b1":{"data":[{"data:asBase64":"AA\/A"}],"type":null}}}"#;
        let upload: BlobUpload = serde_json::from_str(json).unwrap();
        let piece = |cid: &str| upload.create[cid].data[0].as_base64.as_ref().unwrap();
        assert!(matches!(piece("b0").0, Cow::Borrowed("AA/A")));
        assert_eq!(piece("b1").0, "AA/A");
    }

    #[test]
    fn a_create_answer_may_leave_out_or_null_either_half() {
        for json in [
            r#"{"created":{"m0":{"id":"M1"}},"notCreated":null}"#,
            r#"{"accountId":"a","created":{"m0":{"id":"M1","blobId":"G","threadId":"T","size":1}}}"#,
        ] {
            let answer: EmailImported = serde_json::from_str(json).unwrap();
            assert_eq!(answer.created.unwrap()["m0"].id, "M1");
            assert!(answer.not_created.is_none());
        }
    }

    #[test]
    fn arguments_stay_raw_until_their_method_is_known() {
        let json = r#"{"using":["urn:ietf:params:jmap:core"],"methodCalls":[["Core/echo",{"x":[1, 2]},"c0"]]}"#;
        let request: Request = serde_json::from_str(json).unwrap();
        let Invocation(name, arguments, call) = &request.method_calls[0];
        assert_eq!(
            (&**name, arguments.get(), &**call),
            ("Core/echo", r#"{"x":[1, 2]}"#, "c0")
        );
        assert_eq!(request.using, [CORE]);
    }
}
