//! `Email/import` (RFC 8621 section 4.8) and the part of `Email/set` that an archive takes: where an e-mail is filed and
//! how it is marked. E-mails are neither made nor destroyed by `Email/set`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    call::{Answer, Context, Fault, answer, check_account, set_error},
    email_id, k1_in, mailbox, thread_id,
};
use crate::{
    message::UnixMillis,
    targets::jmap::shapes::{
        CreatedEmail, EmailImport, EmailImported, NewEmail, SetError, blob_id,
    },
    vault::storage::{Imported, rows},
};

/// One object that was not made or changed by its own fault, or the whole call.
enum Failed {
    Item(Box<SetError>),
    Call(Fault),
}

impl<E: Into<Fault>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Call(error.into())
    }
}

fn item(kind: &str, description: impl ToString) -> Failed {
    Failed::Item(Box::new(set_error(kind, description)))
}

pub(super) fn import(context: &mut Context<'_, '_>, import: EmailImport<'_>) -> Answer {
    check_account(&import.account_id)?;
    context.check_objects(import.emails.len())?;
    context.check_state(import.if_in_state.as_deref())?;
    let old_state = context.state()?;
    let (mut created, mut not_created) = (BTreeMap::new(), BTreeMap::new());
    for (creation_id, new) in &import.emails {
        match import_one(context, new) {
            Ok(email) => {
                let id = email.id.clone();
                context.created.insert(creation_id.to_string(), id);
                created.insert(creation_id.to_string(), email);
            }
            Err(Failed::Item(error)) => {
                not_created.insert(creation_id.to_string(), *error);
            }
            Err(Failed::Call(fault)) => return Err(fault),
        }
    }
    answer(&EmailImported {
        account_id: super::ACCOUNT.into(),
        old_state: Some(old_state),
        new_state: Some(context.state()?),
        created: Some(created),
        not_created: Some(not_created),
    })
}

fn import_one(context: &mut Context<'_, '_>, new: &NewEmail<'_>) -> Result<CreatedEmail, Failed> {
    let Some(blob) = context.blob(&new.blob_id)? else {
        return Err(item("blobNotFound", &new.blob_id));
    };
    let mailboxes = mailboxes(context, &new.mailbox_ids)?;
    let keywords = keywords(&new.keywords)?;
    let writer = context.writer()?;
    let received_at = match &new.received_at {
        None => writer.now(),
        Some(text) => date(&text.0).ok_or_else(|| item("invalidProperties", "receivedAt"))?,
    };
    match writer.import(&blob, &mailboxes, &keywords, received_at)? {
        Imported::New => Ok(CreatedEmail {
            id: email_id(&blob.k1),
            blob_id: blob_id(&blob.k1),
            thread_id: thread_id(&blob.k1),
            size: blob.bytes,
        }),
        Imported::Exists(k1) => Err(Failed::Item(Box::new(SetError {
            existing_id: Some(email_id(&k1)),
            ..set_error("alreadyExists", "the same message is here")
        }))),
    }
}

/// The mailboxes of an e-mail: at least one, all known.
fn mailboxes(
    context: &mut Context<'_, '_>,
    ids: &BTreeMap<String, bool>,
) -> Result<Vec<i64>, Failed> {
    let mut found = Vec::with_capacity(ids.len());
    for (id, is_in) in ids {
        match context.resolve(id).and_then(mailbox::row_in) {
            Some(row) if *is_in && context.has_mailbox(row)? => found.push(row),
            _ => return Err(item("invalidProperties", format!("mailboxIds: {id}"))),
        }
    }
    if found.is_empty() {
        return Err(item("invalidProperties", "mailboxIds: none"));
    }
    Ok(found)
}

/// Keywords as the index keeps them: lower case, blank between (RFC 8621 section 4.1.1).
fn keywords(given: &BTreeMap<String, bool>) -> Result<String, Failed> {
    for (keyword, is_set) in given {
        let is_allowed = |b: u8| (0x21..=0x7e).contains(&b) && !b"(){]%*\"\\".contains(&b);
        let length = keyword.len();
        if !is_set || !(1..=255).contains(&length) || !keyword.bytes().all(is_allowed) {
            return Err(item("invalidProperties", format!("keywords: {keyword}")));
        }
    }
    let lower: Vec<String> = given.keys().map(|k| k.to_ascii_lowercase()).collect();
    Ok(lower.join(" "))
}

/// An RFC 3339 date in any zone.
pub(super) fn date(text: &str) -> Option<UnixMillis> {
    let at: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok().map(UnixMillis)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Set {
    account_id: String,
    if_in_state: Option<String>,
    #[serde(default)]
    create: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    update: Option<BTreeMap<String, Map<String, Value>>>,
    #[serde(default)]
    destroy: Option<Vec<String>>,
}

pub(super) fn set(context: &mut Context<'_, '_>, set: Set) -> Answer {
    check_account(&set.account_id)?;
    context.check_state(set.if_in_state.as_deref())?;
    let (create, update) = (
        set.create.unwrap_or_default(),
        set.update.unwrap_or_default(),
    );
    let destroy = set.destroy.unwrap_or_default();
    context.check_objects(create.len() + update.len() + destroy.len())?;
    let old_state = context.state()?;
    let (mut updated, mut not_updated) = (Map::new(), BTreeMap::new());
    for (id, patch) in &update {
        match refile(context, id, patch) {
            Ok(()) => drop(updated.insert(id.clone(), Value::Null)),
            Err(Failed::Item(error)) => drop(not_updated.insert(id.clone(), *error)),
            Err(Failed::Call(fault)) => return Err(fault),
        }
    }
    let forbidden = || set_error("forbidden", "messages come by Email/import and stay");
    let not_created: BTreeMap<String, SetError> =
        create.into_keys().map(|id| (id, forbidden())).collect();
    let not_destroyed: BTreeMap<String, SetError> =
        destroy.into_iter().map(|id| (id, forbidden())).collect();
    answer(&json!({
        "accountId": super::ACCOUNT,
        "oldState": old_state,
        "newState": context.state()?,
        "created": null,
        "updated": updated,
        "destroyed": null,
        "notCreated": not_created,
        "notUpdated": not_updated,
        "notDestroyed": not_destroyed,
    }))
}

/// Applies a patch (RFC 8620 section 5.3) to `mailboxIds` and `keywords`.
fn refile(
    context: &mut Context<'_, '_>,
    id: &str,
    patch: &Map<String, Value>,
) -> Result<(), Failed> {
    let k1 = context.resolve(id).and_then(|id| k1_in(id, 'M'));
    let email = match k1 {
        Some(k1) => rows::email(context.connection(), &k1)?,
        None => None,
    };
    let email = email.ok_or_else(|| item("notFound", id))?;
    let mailbox_ids = email.mailboxes.iter().map(|row| mailbox::id_of(*row));
    let mut filed: BTreeMap<String, bool> = mailbox_ids.map(|id| (id, true)).collect();
    let marks = email
        .keywords
        .split(' ')
        .filter(|keyword| !keyword.is_empty());
    let mut marked: BTreeMap<String, bool> = marks.map(|mark| (mark.to_owned(), true)).collect();
    for (path, value) in patch {
        let (property, member) = match path.split_once('/') {
            Some((property, member)) => (property, Some(member)),
            None => (&**path, None),
        };
        let set = match property {
            "mailboxIds" => &mut filed,
            "keywords" => &mut marked,
            _ => {
                return Err(item(
                    "invalidProperties",
                    format!("{property} cannot be changed"),
                ));
            }
        };
        match (member, value) {
            (None, value) => {
                *set = serde_json::from_value(value.clone())
                    .map_err(|error| item("invalidProperties", format!("{property}: {error}")))?;
            }
            (Some(member), Value::Bool(true)) => {
                set.insert(member.replace("~1", "/").replace("~0", "~"), true);
            }
            (Some(member), Value::Null) => {
                set.remove(&member.replace("~1", "/").replace("~0", "~"));
            }
            _ => return Err(item("invalidPatch", path)),
        }
    }
    let mailboxes = mailboxes(context, &filed)?;
    let keywords = keywords(&marked)?;
    if mailboxes != email.mailboxes || keywords != email.keywords {
        context.writer()?.refile(&email, &mailboxes, &keywords)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_lower_case_and_of_the_allowed_characters() {
        let given = |names: &[&str]| names.iter().map(|n| (n.to_string(), true)).collect();
        let kept = keywords(&given(&["$Seen", "Work"]));
        assert_eq!(kept.ok().as_deref(), Some("$seen work"));
        for bad in ["", "two words", "a(b", "\u{e9}", "a*"] {
            assert!(keywords(&given(&[bad])).is_err(), "{bad:?}");
        }
    }
}
