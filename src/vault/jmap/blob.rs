//! `Blob/upload`, `Blob/get`, `Blob/lookup` (RFC 9404).

use std::{collections::BTreeMap, ops::Range};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{
    call::{Answer, Context, Fault, answer, check_account, once},
    email_id, k1_in, mailbox,
    plan::Upload,
    thread_id,
};
use crate::{
    targets::jmap::shapes::{BlobUploaded, CreatedBlob, SetError, blob_id},
    vault::storage::{StoreError, rows},
};

/// Names the blobs that the plan has written.
pub(super) fn upload(
    context: &mut Context<'_, '_>,
    uploads: Vec<(String, Result<Upload, SetError>)>,
) -> Answer {
    let (mut created, mut not_created) = (BTreeMap::new(), BTreeMap::new());
    for (creation_id, upload) in uploads {
        match upload {
            Ok(upload) => {
                let k1 = upload.fingerprint.k1;
                let row = context
                    .writer()?
                    .put_blob(&upload.fingerprint, upload.bytes)?;
                context.uploaded.insert(k1, row);
                let id = blob_id(&k1);
                context.created.insert(creation_id.clone(), id.clone());
                let blob = CreatedBlob {
                    id,
                    media_type: upload.media_type,
                    size: upload.bytes,
                };
                created.insert(creation_id, blob);
            }
            Err(error) => {
                not_created.insert(creation_id, error);
            }
        }
    }
    answer(&BlobUploaded {
        account_id: super::ACCOUNT.into(),
        old_state: None,
        new_state: None,
        created: Some(created),
        not_created: Some(not_created),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Get {
    account_id: String,
    ids: Vec<String>,
    properties: Option<Vec<String>>,
    offset: Option<u64>,
    length: Option<u64>,
}

/// Content or digests of a range of each blob. A range is read into memory, so one answer holds no more than a request.
pub(super) fn get(context: &mut Context<'_, '_>, get: Get) -> Answer {
    check_account(&get.account_id)?;
    context.check_objects(get.ids.len())?;
    let default = || vec!["data".to_owned(), "size".to_owned()];
    let properties = get.properties.unwrap_or_else(default);
    let (mut list, mut not_found) = (Vec::new(), Vec::new());
    let mut left = context.limits.request_bytes_max;
    for id in once(get.ids) {
        let Some(row) = context.blob(&id)? else {
            not_found.push(id);
            continue;
        };
        let mut shown = Map::new();
        shown.insert("id".into(), blob_id(&row.k1).into());
        let start = get.offset.unwrap_or(0);
        let wants_bytes = properties.iter().any(|p| p != "size" && p != "id");
        let mut bytes = Vec::new();
        if wants_bytes {
            let end = get
                .length
                .map_or(row.bytes, |length| start.saturating_add(length));
            let count = end.min(row.bytes).saturating_sub(start);
            left = left
                .checked_sub(count)
                .ok_or_else(|| Fault::Method("requestTooLarge", "ask for ranges".into()))?;
            let content = context.blobs.read(&row.k1, end.min(row.bytes));
            bytes = content.map_err(|e| StoreError::io("blob", e))?;
            bytes.drain(..(start as usize).min(bytes.len()));
            if start > row.bytes || end > row.bytes {
                shown.insert("isTruncated".into(), true.into());
            }
        }
        for property in &properties {
            show(&mut shown, property, &bytes, row.bytes)?;
        }
        list.push(Value::Object(shown));
    }
    answer(&json!({"accountId": get.account_id, "list": list, "notFound": not_found}))
}

fn show(
    shown: &mut Map<String, Value>,
    property: &str,
    bytes: &[u8],
    size: u64,
) -> Result<(), Fault> {
    let text = std::str::from_utf8(bytes);
    match property {
        "id" => {}
        "size" => drop(shown.insert("size".into(), size.into())),
        "data:asBase64" => drop(shown.insert(property.into(), STANDARD.encode(bytes).into())),
        "digest:sha-256" => {
            let digest = STANDARD.encode(Sha256::digest(bytes));
            shown.insert(property.into(), digest.into());
        }
        "data:asText" | "data" => match text {
            Ok(text) => drop(shown.insert("data:asText".into(), text.into())),
            Err(_) if property == "data" => {
                shown.insert("data:asBase64".into(), STANDARD.encode(bytes).into());
            }
            Err(_) => {
                shown.insert("data:asText".into(), Value::Null);
                shown.insert("isEncodingProblem".into(), true.into());
            }
        },
        other => return Err(Fault::arguments(format!("property {other}"))),
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Lookup {
    account_id: String,
    type_names: Vec<String>,
    ids: Vec<String>,
}

/// Which objects refer to a blob: here the e-mail of the same bytes, its thread and its mailboxes.
pub(super) fn lookup(context: &mut Context<'_, '_>, lookup: Lookup) -> Answer {
    check_account(&lookup.account_id)?;
    context.check_objects(lookup.ids.len())?;
    let (mut list, mut not_found) = (Vec::new(), Vec::new());
    for id in &lookup.ids {
        let Some(k1) = k1_in(id, 'G') else {
            not_found.push(id);
            continue;
        };
        if rows::blob(context.connection(), &k1)?.is_none() {
            not_found.push(id);
            continue;
        }
        let email = rows::email(context.connection(), &k1)?;
        let mut matched = Map::new();
        for name in &lookup.type_names {
            let ids: Vec<String> = match (&**name, &email) {
                ("Email", Some(email)) => vec![email_id(&email.k1)],
                ("Thread", Some(email)) => vec![thread_id(&email.k1)],
                ("Mailbox", Some(email)) => email
                    .mailboxes
                    .iter()
                    .map(|row| mailbox::id_of(*row))
                    .collect(),
                ("Email" | "Thread" | "Mailbox", None) => Vec::new(),
                _ => return Err(Fault::Method("unknownDataType", name.clone())),
            };
            matched.insert(name.clone(), ids.into());
        }
        list.push(json!({"id": id, "matchedIds": matched}));
    }
    answer(&json!({"accountId": lookup.account_id, "list": list, "notFound": not_found}))
}

/// The range of a source of `size` bytes, where it lies inside.
pub(super) fn range(size: usize, offset: Option<u64>, length: Option<u64>) -> Option<Range<usize>> {
    let start = usize::try_from(offset.unwrap_or(0)).ok()?;
    let end = match length {
        Some(length) => start.checked_add(usize::try_from(length).ok()?)?,
        None => size,
    };
    (start <= end && end <= size).then_some(start..end)
}
