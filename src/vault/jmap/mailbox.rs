//! `Mailbox/get`, `Mailbox/query`, `Mailbox/changes`, `Mailbox/set` (RFC 8621 section 2). Mailboxes are made and
//! renamed; none is destroyed.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::call::{Answer, Context, Fault, answer, check_account, once, set_error};
use crate::{
    targets::jmap::shapes::SetError,
    vault::storage::rows::{self, MailboxRow},
};

pub(super) const NAME_BYTES_MAX: usize = 255;

/// Roles of RFC 8621 section 2 that a client may give.
const ROLES: [&str; 9] = [
    "all",
    "archive",
    "drafts",
    "flagged",
    "important",
    "inbox",
    "junk",
    "sent",
    "trash",
];

pub(super) fn id_of(row: i64) -> String {
    format!("B{row}")
}

pub(super) fn row_in(id: &str) -> Option<i64> {
    id.strip_prefix('B')?.parse().ok()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Get {
    account_id: String,
    ids: Option<Vec<String>>,
    properties: Option<Vec<String>>,
}

pub(super) fn get(context: &mut Context<'_, '_>, get: Get) -> Answer {
    check_account(&get.account_id)?;
    context.settle_counts()?;
    let all = rows::mailboxes(context.connection())?;
    let (mut list, mut not_found) = (Vec::new(), Vec::new());
    match get.ids.map(once) {
        None => list.extend(&all),
        Some(ids) => {
            context.check_objects(ids.len())?;
            for id in ids {
                let row = context.resolve(&id).and_then(row_in);
                match all.iter().find(|mailbox| Some(mailbox.row) == row) {
                    Some(mailbox) => list.push(mailbox),
                    None => not_found.push(id),
                }
            }
        }
    }
    let shown: Result<Vec<Value>, Fault> = list
        .into_iter()
        .map(|mailbox| pick(show(mailbox), get.properties.as_deref()))
        .collect();
    answer(&json!({
        "accountId": super::ACCOUNT,
        "state": context.state()?,
        "list": shown?,
        "notFound": not_found,
    }))
}

fn show(mailbox: &MailboxRow) -> Map<String, Value> {
    let parent = (mailbox.parent != 0).then(|| id_of(mailbox.parent));
    let shown = json!({
        "id": id_of(mailbox.row),
        "name": mailbox.name,
        "parentId": parent,
        "role": mailbox.role,
        "sortOrder": mailbox.sort_order,
        "totalEmails": mailbox.emails,
        "unreadEmails": mailbox.unread,
        "totalThreads": mailbox.emails,
        "unreadThreads": mailbox.unread,
        "myRights": {
            "mayReadItems": true, "mayAddItems": true, "mayRemoveItems": true, "maySetSeen": true,
            "maySetKeywords": true, "mayCreateChild": true, "mayRename": true, "mayDelete": false,
            "maySubmit": false,
        },
        "isSubscribed": true,
    });
    match shown {
        Value::Object(shown) => shown,
        _ => Map::new(),
    }
}

/// The properties asked for, and always the id (RFC 8620 section 5.1).
pub(super) fn pick(
    mut whole: Map<String, Value>,
    properties: Option<&[String]>,
) -> Result<Value, Fault> {
    let Some(properties) = properties else {
        return Ok(Value::Object(whole));
    };
    let mut picked = Map::new();
    for name in ["id"]
        .into_iter()
        .chain(properties.iter().map(|name| &**name))
    {
        match whole.remove(name) {
            Some(value) => drop(picked.insert(name.to_owned(), value)),
            None if picked.contains_key(name) => {}
            None => return Err(Fault::arguments(format!("property {name}"))),
        }
    }
    Ok(Value::Object(picked))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Query {
    account_id: String,
    filter: Option<Filter>,
    #[serde(default)]
    sort: Option<Vec<Value>>,
    #[serde(default)]
    position: i64,
    limit: Option<u64>,
    #[serde(default)]
    calculate_total: bool,
    /// RFC 8621 section 2.3; clients send the default, false.
    #[serde(default)]
    sort_as_tree: bool,
    #[serde(default)]
    filter_as_tree: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Filter {
    /// Absent: any; null: the top level.
    #[serde(default, deserialize_with = "present")]
    parent_id: Option<Option<String>>,
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    role: Option<Option<String>>,
    has_any_role: Option<bool>,
    is_subscribed: Option<bool>,
}

/// Tells null from absent.
fn present<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl Filter {
    fn takes(&self, mailbox: &MailboxRow) -> bool {
        let parent = (mailbox.parent != 0).then(|| id_of(mailbox.parent));
        let named = |wanted: &String| {
            let name = mailbox.name.to_lowercase();
            name.contains(&wanted.to_lowercase())
        };
        self.parent_id
            .as_ref()
            .is_none_or(|wanted| *wanted == parent)
            && self.name.as_ref().is_none_or(named)
            && self
                .role
                .as_ref()
                .is_none_or(|wanted| *wanted == mailbox.role)
            && self
                .has_any_role
                .is_none_or(|wanted| wanted == mailbox.role.is_some())
            && self.is_subscribed.unwrap_or(true)
    }
}

pub(super) fn query(context: &mut Context<'_, '_>, query: Query) -> Answer {
    check_account(&query.account_id)?;
    if query.sort.is_some_and(|sort| !sort.is_empty()) {
        return Err(Fault::Method(
            "unsupportedSort",
            "by sortOrder and name, as they come".into(),
        ));
    }
    if query.sort_as_tree || query.filter_as_tree {
        return Err(Fault::arguments("trees are not supported"));
    }
    let filter = query.filter.unwrap_or_default();
    let all = rows::mailboxes(context.connection())?;
    let ids: Vec<String> = all
        .iter()
        .filter(|mailbox| filter.takes(mailbox))
        .map(|mailbox| id_of(mailbox.row))
        .collect();
    let total = ids.len();
    let position = match query.position {
        at if at < 0 => total.saturating_sub(at.unsigned_abs() as usize),
        at => at as usize,
    };
    let limit = query.limit.unwrap_or(u64::MAX) as usize;
    let page: Vec<&String> = ids.iter().skip(position).take(limit).collect();
    let mut answered = json!({
        "accountId": super::ACCOUNT,
        "queryState": context.state()?,
        "canCalculateChanges": false,
        "position": position,
        "ids": page,
    });
    if query.calculate_total {
        answered["total"] = total.into();
    }
    answer(&answered)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Changes {
    pub account_id: String,
    pub since_state: String,
    pub max_changes: Option<u64>,
}

impl Changes {
    pub(super) fn since(&self, now: &str) -> Result<i64, Fault> {
        let cannot = || Fault::Method("cannotCalculateChanges", String::new());
        let since: i64 = self.since_state.parse().map_err(|_| cannot())?;
        let now: i64 = now.parse().map_err(|_| cannot())?;
        match (1..=now).contains(&since) {
            true => Ok(since),
            false => Err(cannot()),
        }
    }
}

pub(super) fn changes(context: &mut Context<'_, '_>, changes: Changes) -> Answer {
    check_account(&changes.account_id)?;
    context.settle_counts()?;
    let now = context.state()?;
    let since = changes.since(&now)?;
    let (mut created, mut updated) = (Vec::new(), Vec::new());
    {
        let mut statement = context.connection().prepare_cached(
            "SELECT row, created_state FROM mailboxes WHERE changed_state > ?1 ORDER BY row",
        )?;
        let mut found = statement.query([since])?;
        while let Some(row) = found.next()? {
            let id = id_of(row.get(0)?);
            match row.get::<_, i64>(1)? > since {
                true => created.push(id),
                false => updated.push(id),
            }
        }
    }
    // Mailboxes are few and share their states: all of the changes, or none.
    let most = changes.max_changes.unwrap_or(u64::MAX);
    if (created.len() + updated.len()) as u64 > most {
        return Err(Fault::Method(
            "cannotCalculateChanges",
            "more than maxChanges".into(),
        ));
    }
    answer(&json!({
        "accountId": super::ACCOUNT,
        "oldState": changes.since_state,
        "newState": now,
        "hasMoreChanges": false,
        "created": created,
        "updated": updated,
        "destroyed": [],
        "updatedProperties": null,
    }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Set {
    account_id: String,
    if_in_state: Option<String>,
    #[serde(default)]
    create: Option<BTreeMap<String, Properties>>,
    #[serde(default)]
    update: Option<BTreeMap<String, Properties>>,
    #[serde(default)]
    destroy: Option<Vec<String>>,
    #[serde(default)]
    #[expect(dead_code, reason = "of no consequence where nothing is destroyed")]
    on_destroy_remove_emails: Option<bool>,
}

type Properties = Map<String, Value>;

pub(super) fn set(context: &mut Context<'_, '_>, set: Set) -> Answer {
    check_account(&set.account_id)?;
    context.settle_counts()?;
    context.mailboxes = None;
    context.check_state(set.if_in_state.as_deref())?;
    let (create, update) = (
        set.create.unwrap_or_default(),
        set.update.unwrap_or_default(),
    );
    let destroy = set.destroy.unwrap_or_default();
    context.check_objects(create.len() + update.len() + destroy.len())?;
    let old_state = context.state()?;
    let (mut created, mut not_created) = (Map::new(), BTreeMap::new());
    let mut waiting: Vec<(String, Properties)> = create.into_iter().collect();
    // A child may stand before its parent in the same call: whoever names a creation that is still to come waits.
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut later = Vec::new();
        for (creation_id, properties) in std::mem::take(&mut waiting) {
            let names_later = |value: &Value| {
                let id = value.as_str().and_then(|id| id.strip_prefix('#'));
                id.is_some_and(|id| !context.created.contains_key(id))
            };
            if properties.get("parentId").is_some_and(names_later) {
                later.push((creation_id, properties));
                continue;
            }
            match create_one(context, &properties)? {
                Ok(row) => {
                    context.created.insert(creation_id.clone(), id_of(row));
                    created.insert(
                        creation_id,
                        json!({"id": id_of(row), "totalEmails": 0, "unreadEmails": 0,
                        "totalThreads": 0, "unreadThreads": 0}),
                    );
                }
                Err(error) => drop(not_created.insert(creation_id, error)),
            }
        }
        if later.len() == before {
            let lost = |(id, _)| (id, set_error("invalidProperties", "parentId"));
            not_created.extend(later.into_iter().map(lost));
            break;
        }
        waiting = later;
    }
    let (mut updated, mut not_updated) = (Map::new(), BTreeMap::new());
    for (id, patch) in update {
        match update_one(context, &id, &patch)? {
            Ok(()) => drop(updated.insert(id, Value::Null)),
            Err(error) => drop(not_updated.insert(id, error)),
        }
    }
    let stays = |id| (id, set_error("forbidden", "mailboxes stay"));
    let not_destroyed: BTreeMap<String, SetError> = destroy.into_iter().map(stays).collect();
    answer(&json!({
        "accountId": super::ACCOUNT,
        "oldState": old_state,
        "newState": context.state()?,
        "created": created,
        "updated": updated,
        "destroyed": null,
        "notCreated": not_created,
        "notUpdated": not_updated,
        "notDestroyed": not_destroyed,
    }))
}

fn create_one(
    context: &mut Context<'_, '_>,
    properties: &Properties,
) -> Result<Result<i64, SetError>, Fault> {
    let mut new = MailboxRow {
        row: 0,
        name: String::new(),
        parent: 0,
        role: None,
        sort_order: 10,
        emails: 0,
        unread: 0,
    };
    if let Err(error) = apply(context, &mut new, properties)? {
        return Ok(Err(error));
    }
    let writer = context.writer()?;
    let row = writer.create_mailbox(&new.name, new.parent, new.role.as_deref(), new.sort_order)?;
    Ok(Ok(row))
}

fn update_one(
    context: &mut Context<'_, '_>,
    id: &str,
    patch: &Properties,
) -> Result<Result<(), SetError>, Fault> {
    let row = context.resolve(id).and_then(row_in);
    let mailbox = match row {
        Some(row) => rows::mailbox(context.connection(), row)?,
        None => None,
    };
    let Some(mut mailbox) = mailbox else {
        return Ok(Err(set_error("notFound", id)));
    };
    if let Err(error) = apply(context, &mut mailbox, patch)? {
        return Ok(Err(error));
    }
    context.writer()?.update_mailbox(&mailbox)?;
    Ok(Ok(()))
}

/// Puts properties into a row, and checks it against the others: a name, no sibling of that name, one of each role, and a
/// parent that is no child of it.
fn apply(
    context: &Context<'_, '_>,
    mailbox: &mut MailboxRow,
    properties: &Properties,
) -> Result<Result<(), SetError>, Fault> {
    let invalid = |what: &str| Ok(Err(set_error("invalidProperties", what)));
    for (property, value) in properties {
        match (&**property, value) {
            ("name", Value::String(name)) => mailbox.name.clone_from(name),
            ("parentId", Value::Null) => mailbox.parent = 0,
            ("parentId", Value::String(id)) => match context.resolve(id).and_then(row_in) {
                Some(parent) => mailbox.parent = parent,
                None => return invalid("parentId"),
            },
            ("role", Value::Null) => mailbox.role = None,
            ("role", Value::String(role)) if ROLES.contains(&&**role) => {
                mailbox.role = Some(role.clone());
            }
            ("sortOrder", value) => match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
                Some(order) => mailbox.sort_order = order.into(),
                None => return invalid("sortOrder"),
            },
            ("isSubscribed", Value::Bool(true)) => {}
            (other, _) => return invalid(other),
        }
    }
    let length = mailbox.name.len();
    if !(1..=NAME_BYTES_MAX).contains(&length) || mailbox.name.chars().any(char::is_control) {
        return invalid("name");
    }
    let all = rows::mailboxes(context.connection())?;
    let others = || all.iter().filter(|other| other.row != mailbox.row);
    if others().any(|o| o.parent == mailbox.parent && o.name == mailbox.name) {
        return Ok(Err(set_error("alreadyExists", "a mailbox of this name")));
    }
    if mailbox.role.is_some() && others().any(|other| other.role == mailbox.role) {
        return invalid("role: another mailbox has it");
    }
    let (mut ancestor, mut steps) = (mailbox.parent, 0);
    while ancestor != 0 {
        let Some(parent) = others().find(|other| other.row == ancestor) else {
            return invalid("parentId");
        };
        ancestor = parent.parent;
        steps += 1;
        if steps > all.len() {
            return invalid("parentId");
        }
    }
    Ok(Ok(()))
}
