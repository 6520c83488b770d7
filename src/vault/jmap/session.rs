//! The session object (RFC 8620 section 2): what this server can do, and where.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::ACCOUNT;
use crate::{
    targets::jmap::shapes::{Account, BLOB, CORE, CoreLimits, MAIL, SIGHTINGS, Session},
    vault::{Limits, auth::Scope},
};

pub(super) const CAPABILITIES: [&str; 4] = [CORE, MAIL, BLOB, SIGHTINGS];

/// It changes when the session object would: with the version alone.
pub(super) const SESSION_STATE: &str = env!("CARGO_PKG_VERSION");

/// `base` is `https://host:port`, as the client sees us.
pub(super) fn session(base: &str, limits: &Limits, scope: Scope) -> Session {
    let account_capabilities = BTreeMap::from([
        (CORE.to_owned(), json!({})),
        (
            MAIL.to_owned(),
            json!({
                "maxMailboxesPerEmail": null,
                "maxMailboxDepth": null,
                "maxSizeMailboxName": super::mailbox::NAME_BYTES_MAX,
                "maxSizeAttachmentsPerEmail": limits.message_bytes_max,
                "emailQuerySortOptions": super::email::SORTS,
                "mayCreateTopLevelMailbox": scope.write,
            }),
        ),
        (
            BLOB.to_owned(),
            json!({
                "maxSizeBlobSet": limits.request_bytes_max,
                "maxDataSources": 64,
                "supportedTypeNames": ["Email", "Mailbox", "Thread"],
                "supportedDigestAlgorithms": ["sha-256"],
            }),
        ),
        (SIGHTINGS.to_owned(), json!({})),
    ]);
    let account = Account {
        name: "mailtee vault".into(),
        is_personal: true,
        is_read_only: !scope.write,
        account_capabilities,
    };
    Session {
        capabilities: capabilities(limits),
        accounts: BTreeMap::from([(ACCOUNT.to_owned(), account)]),
        primary_accounts: CAPABILITIES
            .iter()
            .map(|capability| (capability.to_string(), ACCOUNT.to_owned()))
            .collect(),
        username: match (scope.read, scope.write) {
            (true, true) => "read, write",
            (_, true) => "write",
            _ => "read",
        }
        .into(),
        api_url: format!("{base}/jmap/api"),
        download_url: format!(
            "{base}/jmap/download/{{accountId}}/{{blobId}}/{{name}}?type={{type}}"
        ),
        upload_url: format!("{base}/jmap/upload/{{accountId}}"),
        event_source_url: format!(
            "{base}/jmap/events?types={{types}}&closeafter={{closeafter}}&ping={{ping}}"
        ),
        state: SESSION_STATE.into(),
    }
}

fn capabilities(limits: &Limits) -> BTreeMap<String, Value> {
    let core = CoreLimits {
        max_size_upload: limits.message_bytes_max,
        max_concurrent_upload: limits.uploads_max as u64,
        max_size_request: limits.request_bytes_max,
        max_concurrent_requests: limits.requests_max as u64,
        max_calls_in_request: limits.calls_max,
        max_objects_in_get: limits.objects_max,
        max_objects_in_set: limits.objects_max,
    };
    let mut core = serde_json::to_value(core).unwrap_or_default();
    core["collationAlgorithms"] = json!(["i;unicode-casemap"]);
    BTreeMap::from([
        (CORE.to_owned(), core),
        (MAIL.to_owned(), json!({})),
        (BLOB.to_owned(), json!({})),
        (SIGHTINGS.to_owned(), json!({})),
    ])
}
