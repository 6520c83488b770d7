//! `Sighting/import`, `Sighting/get`, `Sighting/query`: the vendor extension whose contract is at the head of
//! `targets::jmap::shapes`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    call::{Answer, Context, Fault, answer, check_account, once, set_error},
    email_id, k1_in,
    mailbox::pick,
};
use crate::{
    message::CaptureId,
    targets::jmap::shapes::{
        CreatedSighting, Existing, NewSighting as Given, SetError, SightingImport,
        SightingImported, Text, blob_id,
    },
    vault::storage::{
        NewSighting, Recorded, StoreError,
        query::{self, SightingFilter},
        rows::{self, EmailRow, SightingRow},
    },
};

/// A sighting as an upload, whole in memory while it is read: fifty thousand recipients of the longest lines fit.
const UPLOADED_BYTES_MAX: u64 = 256 << 20;

pub(super) fn import(context: &mut Context<'_, '_>, import: SightingImport<'_>) -> Answer {
    check_account(&import.account_id)?;
    context.check_objects(import.sightings.len() + import.uploaded.len())?;
    let mut told = Told::default();
    for (creation_id, given) in &import.sightings {
        let made = import_one(context, given)?;
        told.tell(
            context,
            creation_id,
            made.map(|made| (given.sighting.id, made)),
        );
    }
    for (creation_id, Text(id)) in &import.uploaded {
        let made = import_uploaded(context, id)?;
        told.tell(context, creation_id, made);
    }
    answer(&SightingImported {
        account_id: super::ACCOUNT.into(),
        old_state: None,
        new_state: None,
        created: Some(told.created),
        not_created: Some(told.not_created),
    })
}

/// What became of each creation.
#[derive(Default)]
struct Told {
    created: BTreeMap<String, CreatedSighting>,
    not_created: BTreeMap<String, SetError>,
}

impl Told {
    fn tell(
        &mut self,
        context: &mut Context<'_, '_>,
        creation_id: &str,
        made: Result<(CaptureId, CreatedSighting), SetError>,
    ) {
        match made {
            Ok((id, made)) => {
                let id = id.to_string();
                context.created.insert(creation_id.to_owned(), id);
                self.created.insert(creation_id.to_owned(), made);
            }
            Err(error) => drop(self.not_created.insert(creation_id.to_owned(), error)),
        }
    }
}

/// One that came as an upload. Nothing of what else the upload may be is told: a token that only writes may name any.
fn import_uploaded(
    context: &mut Context<'_, '_>,
    id: &str,
) -> Result<Result<(CaptureId, CreatedSighting), SetError>, Fault> {
    let Some(blob) = context.blob(id)? else {
        return Ok(Err(set_error("blobNotFound", id)));
    };
    if blob.bytes > UPLOADED_BYTES_MAX {
        return Ok(Err(set_error("tooLarge", "sighting")));
    }
    let json = context.blobs.read(&blob.k1, blob.bytes);
    let json = json.map_err(|e| StoreError::io("blob", e))?;
    let Ok(given) = serde_json::from_slice::<Given<'_>>(&json) else {
        return Ok(Err(set_error("invalidProperties", "no sighting")));
    };
    let made = import_one(context, &given)?;
    Ok(made.map(|made| (given.sighting.id, made)))
}

fn import_one(
    context: &mut Context<'_, '_>,
    given: &Given<'_>,
) -> Result<Result<CreatedSighting, SetError>, Fault> {
    let found = match place(context, given)? {
        Ok(found) => found,
        Err(error) => return Ok(Err(error)),
    };
    let json = |error: serde_json::Error| Fault::arguments(error);
    let sighting = serde_json::to_string(&given.sighting).map_err(json)?;
    let acceptance = serde_json::to_string(&given.acceptance).map_err(json)?;
    let difference = given.difference.as_ref().map(serde_json::to_string);
    let difference = difference.transpose().map_err(json)?;
    let new = NewSighting {
        id: given.sighting.id,
        email: found.email.row,
        blob: found.variant,
        captured_at: given.sighting.captured_at,
        sighting: &sighting,
        acceptance: &acceptance,
        difference: difference.as_deref(),
    };
    let email = match context.writer()?.record(&new)? {
        Recorded::New => found.email,
        // Where it was put before counts: a repeat changes nothing.
        Recorded::Same { email } => match rows::email_by_row(context.connection(), email)? {
            Some(email) => email,
            None => found.email,
        },
    };
    let existing = existing(context, &email)?;
    Ok(Ok(CreatedSighting {
        email_id: email_id(&email.k1),
        existing: Some(existing).filter(|copy| copy.first != given.sighting.id),
    }))
}

/// Where a sighting belongs.
struct Place {
    email: EmailRow,
    /// Its own bytes, where no difference makes them from the copy.
    variant: Option<i64>,
}

fn place(context: &Context<'_, '_>, given: &Given<'_>) -> Result<Result<Place, SetError>, Fault> {
    let index = context.connection();
    let print = &given.sighting.fingerprint;
    let blob = match &given.blob_id {
        None => None,
        Some(Text(id)) => match context.blob(id)? {
            Some(blob) if blob.k1 == print.k1 => Some(blob),
            Some(_) => return Ok(Err(set_error("invalidProperties", "blobId: not its K1"))),
            None => return Ok(Err(set_error("blobNotFound", id))),
        },
    };
    let Some(Text(id)) = &given.email_id else {
        let Some(blob) = blob else {
            return Ok(Err(set_error(
                "invalidProperties",
                "neither emailId nor blobId",
            )));
        };
        let Some(email) = rows::email_by_k2(index, &blob.k2)? else {
            return Ok(Err(set_error("notFound", "no e-mail of this blob")));
        };
        if email.k1 != blob.k1 {
            let existing = existing(context, &email)?;
            return Ok(Err(SetError {
                existing_id: Some(existing.email_id.clone()),
                existing: Some(existing),
                ..set_error("alreadyExists", "the same message in other bytes")
            }));
        }
        return Ok(Ok(Place {
            email,
            variant: None,
        }));
    };
    let k1 = context.resolve(id).and_then(|id| k1_in(id, 'M'));
    let email = match k1 {
        Some(k1) => rows::email(index, &k1)?,
        None => None,
    };
    let Some(email) = email else {
        return Ok(Err(set_error("notFound", id)));
    };
    // Its exact bytes must come out of what is here, by one of three ways.
    let is_same = email.k1 == print.k1;
    let is_rebuilt = given.difference.is_some() && email.core == print.core;
    match blob {
        _ if is_same => Ok(Ok(Place {
            email,
            variant: None,
        })),
        _ if email.k2 != print.k2 => Ok(Err(set_error("invalidProperties", "another message"))),
        Some(blob) => Ok(Ok(Place {
            email,
            variant: Some(blob.row),
        })),
        None if is_rebuilt => Ok(Ok(Place {
            email,
            variant: None,
        })),
        None => Ok(Err(set_error("invalidProperties", "difference"))),
    }
}

/// The copy as a sender's dedup map wants to know it. One that no sighting brought has the nil id for its first.
fn existing(context: &Context<'_, '_>, email: &EmailRow) -> Result<Existing, Fault> {
    let first = rows::first_sighting(context.connection(), email.row)?;
    Ok(Existing {
        email_id: email_id(&email.k1),
        first: first.unwrap_or(CaptureId::from_bytes([0; 16])),
        k1: email.k1,
        core: email.core,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Get {
    account_id: String,
    ids: Vec<String>,
    properties: Option<Vec<String>>,
}

pub(super) fn get(context: &mut Context<'_, '_>, get: Get) -> Answer {
    check_account(&get.account_id)?;
    context.check_objects(get.ids.len())?;
    let (mut list, mut not_found) = (Vec::new(), Vec::new());
    for id in &once(get.ids) {
        let asked = context.resolve(id).and_then(|id| id.parse().ok());
        let row = match asked {
            Some(id) => rows::sighting(context.connection(), id)?,
            None => None,
        };
        match row {
            Some(row) => list.push(show(context, &row, get.properties.as_deref())?),
            None => not_found.push(id.clone()),
        }
    }
    answer(&json!({
        "accountId": super::ACCOUNT,
        "state": context.state()?,
        "list": list,
        "notFound": not_found,
    }))
}

fn show(
    context: &Context<'_, '_>,
    row: &SightingRow,
    properties: Option<&[String]>,
) -> Result<Value, Fault> {
    let email = rows::email_by_row(context.connection(), row.email)?;
    let variant = match row.blob {
        Some(blob) => rows::blob_by_row(context.connection(), blob)?,
        None => None,
    };
    let part = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let shown = json!({
        "id": row.id,
        "emailId": email.map(|email| email_id(&email.k1)),
        "blobId": variant.map(|blob| blob_id(&blob.k1)),
        "sighting": part(&row.sighting),
        "acceptance": part(&row.acceptance),
        "difference": row.difference.as_deref().map(part),
    });
    match shown {
        Value::Object(shown) => pick(shown, properties),
        other => Ok(other),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Query {
    account_id: String,
    #[serde(default)]
    filter: Option<Filter>,
    #[serde(default)]
    position: u64,
    limit: Option<u64>,
    #[serde(default)]
    calculate_total: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Filter {
    email_id: Option<String>,
    /// Captured at this time or later.
    after: Option<String>,
    before: Option<String>,
}

/// Sightings in the order in which they came.
pub(super) fn query(context: &mut Context<'_, '_>, asked: Query) -> Answer {
    check_account(&asked.account_id)?;
    let given = asked.filter.unwrap_or_default();
    let date = |text: Option<String>, name: &str| match text {
        None => Ok(None),
        Some(text) => super::email_import::date(&text)
            .map(Some)
            .ok_or_else(|| Fault::arguments(name)),
    };
    let mut filter = SightingFilter {
        email: None,
        after: date(given.after, "after")?,
        before: date(given.before, "before")?,
    };
    if let Some(id) = &given.email_id {
        let k1 = k1_in(id, 'M');
        let email = match k1 {
            Some(k1) => rows::email(context.connection(), &k1)?,
            None => None,
        };
        // No row has number 0: an unknown e-mail has no sightings.
        filter.email = Some(email.map_or(0, |email| email.row));
    }
    let limit = asked
        .limit
        .unwrap_or(u64::MAX)
        .min(context.limits.objects_max);
    let ids = query::sightings(context.connection(), &filter, asked.position, limit)?;
    let ids: Vec<String> = ids.iter().map(CaptureId::to_string).collect();
    let mut answered = json!({
        "accountId": super::ACCOUNT,
        "queryState": context.state()?,
        "canCalculateChanges": false,
        "position": asked.position,
        "ids": ids,
        "limit": limit,
    });
    if asked.calculate_total {
        answered["total"] = query::count_sightings(context.connection(), &filter)?.into();
    }
    answer(&answered)
}
