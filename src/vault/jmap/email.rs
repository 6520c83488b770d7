//! `Email/get`, `Email/query`, `Email/changes` (RFC 8621 section 4).

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    call::{Answer, Context, Fault, answer, check_account, once},
    email_body::{self, BodyOptions},
    email_id, k1_in, mailbox, thread_id,
};
use crate::{
    targets::jmap::shapes::blob_id,
    vault::{
        mime,
        storage::{
            StoreError,
            query::{self, EmailFilter, Page, Part, SortBy},
            rows::{self, EmailRow},
        },
    },
};

pub(super) const SORTS: [&str; 3] = ["receivedAt", "sentAt", "size"];

/// What a filter may hold, so that none is a burden.
const FILTER_DEPTH_MAX: usize = 8;
const FILTER_CONDITIONS_MAX: usize = 64;

/// Content that one answer may be made of, so that its size does not depend on how many e-mails it shows.
const CONTENT_BYTES_MAX: usize = 64 << 20;
/// What an e-mail counts against that where no body is asked for.
const HEADER_BYTES: usize = 64 << 10;

/// Properties that the index knows: no content is read for them, and a writer may see them.
const INDEXED: [&str; 7] = [
    "id",
    "blobId",
    "threadId",
    "mailboxIds",
    "keywords",
    "size",
    "receivedAt",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Get {
    account_id: String,
    ids: Option<Vec<String>>,
    properties: Option<Vec<String>>,
    body_properties: Option<Vec<String>>,
    #[serde(default)]
    fetch_text_body_values: bool,
    #[serde(default, rename = "fetchHTMLBodyValues")]
    fetch_html_body_values: bool,
    #[serde(default)]
    fetch_all_body_values: bool,
    #[serde(default)]
    max_body_value_bytes: usize,
}

pub(super) fn get(context: &mut Context<'_, '_>, get: Get) -> Answer {
    check_account(&get.account_id)?;
    let ids = get.ids.ok_or_else(|| {
        Fault::Method("requestTooLarge", "ids: null asks for every e-mail".into())
    })?;
    context.check_objects(ids.len())?;
    let ids = once(ids);
    let properties = get.properties.unwrap_or_else(|| {
        let all = INDEXED.iter().chain(email_body::DEFAULT_PROPERTIES);
        all.map(|name| (*name).to_owned()).collect()
    });
    let reads_content = properties.iter().any(|name| !INDEXED.contains(&&**name));
    if reads_content && !context.scope.read {
        return Err(Fault::Method(
            "forbidden",
            "this token may not read content".into(),
        ));
    }
    let options = BodyOptions {
        part_properties: get.body_properties,
        text_values: get.fetch_text_body_values || get.fetch_all_body_values,
        html_values: get.fetch_html_body_values || get.fetch_all_body_values,
        all_values: get.fetch_all_body_values,
        value_bytes_max: match get.max_body_value_bytes {
            0 => usize::MAX,
            bytes => bytes,
        },
    };
    let shows_bodies = options.text_values || options.html_values;
    let mut left = CONTENT_BYTES_MAX;
    let (mut list, mut not_found) = (Vec::new(), Vec::new());
    for id in &ids {
        let k1 = context.resolve(id).and_then(|id| k1_in(id, 'M'));
        let email = match k1 {
            Some(k1) => rows::email(context.connection(), &k1)?,
            None => None,
        };
        let Some(email) = email else {
            not_found.push(id);
            continue;
        };
        let mut shown = Map::new();
        shown.insert("id".into(), email_id(&email.k1).into());
        let content = match reads_content {
            true => context
                .blobs
                .read(&email.k1, mime::PARSED_BYTES_MAX)
                .map_err(|error| StoreError::io("blob", error))?,
            false => Vec::new(),
        };
        let counted = match shows_bodies {
            true => content.len(),
            false => content.len().min(HEADER_BYTES),
        };
        left = left
            .checked_sub(counted)
            .ok_or_else(|| Fault::Method("requestTooLarge", "ask for fewer e-mails".into()))?;
        let message = mime::parse(&content);
        for name in &properties {
            let value = match indexed(&email, name) {
                Some(value) => value,
                None => email_body::property(&email.k1, &message, name, &options)?,
            };
            shown.insert(name.clone(), value);
        }
        list.push(Value::Object(shown));
    }
    answer(&json!({
        "accountId": super::ACCOUNT,
        "state": context.state()?,
        "list": list,
        "notFound": not_found,
    }))
}

fn indexed(email: &EmailRow, name: &str) -> Option<Value> {
    Some(match name {
        "id" => email_id(&email.k1).into(),
        "blobId" => blob_id(&email.k1).into(),
        "threadId" => thread_id(&email.k1).into(),
        "size" => email.bytes.into(),
        "receivedAt" => email.received_at.to_rfc3339().into(),
        "mailboxIds" => {
            let filed = email
                .mailboxes
                .iter()
                .map(|row| (mailbox::id_of(*row), true.into()));
            Value::Object(filed.collect())
        }
        "keywords" => {
            let marks = email.keywords.split(' ').filter(|mark| !mark.is_empty());
            Value::Object(marks.map(|mark| (mark.to_owned(), true.into())).collect())
        }
        _ => return None,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Query {
    account_id: String,
    #[serde(default)]
    filter: Option<Value>,
    #[serde(default)]
    sort: Option<Vec<Comparator>>,
    #[serde(default)]
    position: i64,
    limit: Option<u64>,
    #[serde(default)]
    calculate_total: bool,
    /// Each e-mail is a thread of its own: there is nothing to collapse.
    #[serde(default)]
    #[expect(dead_code, reason = "either value asks for the same")]
    collapse_threads: bool,
    #[serde(default)]
    anchor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Comparator {
    property: String,
    #[serde(default = "yes")]
    is_ascending: bool,
}

fn yes() -> bool {
    true
}

/// Whether these arguments of a query ask for what only the indexer knows.
pub(super) fn is_searched(arguments: &str) -> bool {
    let Ok(asked) = serde_json::from_str::<Query>(arguments) else {
        return false;
    };
    let by_search = |filter| {
        read_filter(filter, 0, &mut FILTER_CONDITIONS_MAX.clone()).is_ok_and(|f| f.is_searched())
    };
    let mut sort = asked.sort.iter().flatten();
    asked.filter.as_ref().is_some_and(by_search) || sort.any(|by| by.property == "sentAt")
}

pub(super) fn query(context: &mut Context<'_, '_>, asked: Query) -> Answer {
    check_account(&asked.account_id)?;
    if asked.anchor.is_some() {
        return Err(Fault::arguments("anchor is not supported: use position"));
    }
    let filter = match &asked.filter {
        None => EmailFilter::And(Vec::new()),
        Some(filter) => read_filter(filter, 0, &mut FILTER_CONDITIONS_MAX.clone())?,
    };
    let mut sort = Vec::new();
    for comparator in asked.sort.unwrap_or_default().iter().take(SORTS.len()) {
        let by = match &*comparator.property {
            "receivedAt" => SortBy::ReceivedAt,
            "sentAt" => SortBy::SentAt,
            "size" => SortBy::Size,
            other => return Err(Fault::Method("unsupportedSort", other.into())),
        };
        sort.push((by, comparator.is_ascending));
    }
    if sort.is_empty() {
        sort.push((SortBy::ReceivedAt, false));
    }
    let index = context.connection();
    let total = match asked.calculate_total || asked.position < 0 {
        true => Some(query::count_emails(index, &filter)?),
        false => None,
    };
    let position = match asked.position {
        at if at < 0 => total.unwrap_or(0).saturating_sub(at.unsigned_abs()),
        at => at as u64,
    };
    let limit = asked
        .limit
        .unwrap_or(u64::MAX)
        .min(context.limits.objects_max);
    let found = query::emails(index, &filter, &sort, Page { position, limit })?;
    let ids: Vec<String> = found.iter().map(|(_, k1)| email_id(k1)).collect();
    let mut answered = json!({
        "accountId": super::ACCOUNT,
        "queryState": context.state()?,
        "canCalculateChanges": false,
        "position": position,
        "ids": ids,
    });
    if asked.calculate_total {
        answered["total"] = total.into();
    }
    if asked.limit.is_none_or(|wanted| wanted > limit) {
        answered["limit"] = limit.into();
    }
    answer(&answered)
}

/// Reads a filter (RFC 8620 section 5.5, RFC 8621 section 4.4.1). `left` counts the conditions that it may still hold.
fn read_filter(filter: &Value, depth: usize, left: &mut usize) -> Result<EmailFilter, Fault> {
    let unsupported = |what: &str| Fault::Method("unsupportedFilter", what.into());
    let members = filter
        .as_object()
        .ok_or_else(|| Fault::arguments("filter"))?;
    if depth > FILTER_DEPTH_MAX {
        return Err(unsupported("nested too deep"));
    }
    if let Some(operator) = members.get("operator") {
        let conditions = members.get("conditions").and_then(Value::as_array);
        let conditions = conditions.ok_or_else(|| Fault::arguments("filter: conditions"))?;
        let inner: Result<Vec<_>, _> = conditions
            .iter()
            .map(|condition| read_filter(condition, depth + 1, left))
            .collect();
        return match operator.as_str() {
            Some("AND") => Ok(EmailFilter::And(inner?)),
            Some("OR") => Ok(EmailFilter::Or(inner?)),
            Some("NOT") => Ok(EmailFilter::Not(inner?)),
            _ => Err(Fault::arguments("filter: operator")),
        };
    }
    let mut all = Vec::with_capacity(members.len());
    for (name, value) in members {
        *left = left
            .checked_sub(1)
            .ok_or_else(|| unsupported("too many conditions"))?;
        let wrong = || Fault::arguments(format!("filter: {name}"));
        let text = || value.as_str().map(str::to_owned).ok_or_else(wrong);
        let number = || value.as_u64().ok_or_else(wrong);
        let date = || {
            let at = value.as_str().and_then(super::email_import::date);
            at.ok_or_else(wrong)
        };
        all.push(match &**name {
            // An unknown mailbox holds nothing: no row has number 0.
            "inMailbox" => EmailFilter::InMailbox(mailbox::row_in(&text()?).unwrap_or(0)),
            "before" => EmailFilter::Before(date()?),
            "after" => EmailFilter::After(date()?),
            "minSize" => EmailFilter::MinSize(number()?),
            "maxSize" => EmailFilter::MaxSize(number()?),
            "hasKeyword" => EmailFilter::HasKeyword(text()?.to_ascii_lowercase()),
            "notKeyword" => EmailFilter::NotKeyword(text()?.to_ascii_lowercase()),
            "hasAttachment" => EmailFilter::HasAttachment(value.as_bool().ok_or_else(wrong)?),
            "text" => EmailFilter::Words(Part::Anywhere, text()?),
            "from" => EmailFilter::Words(Part::Sender, text()?),
            "to" | "cc" | "bcc" => EmailFilter::Words(Part::Recipients, text()?),
            "subject" => EmailFilter::Words(Part::Subject, text()?),
            "body" => EmailFilter::Words(Part::Body, text()?),
            "header" => {
                header_filter(value).ok_or_else(|| unsupported("header: only Message-ID"))?
            }
            other => return Err(unsupported(other)),
        });
    }
    Ok(EmailFilter::And(all))
}

/// `["Message-ID", "<id>"]`, with or without the angle brackets.
fn header_filter(value: &Value) -> Option<EmailFilter> {
    let [name, id] = value.as_array()?.as_slice() else {
        return None;
    };
    if !name.as_str()?.eq_ignore_ascii_case("message-id") {
        return None;
    }
    Some(EmailFilter::MessageId(
        mime::bare_message_id(id.as_str()?).into(),
    ))
}

pub(super) fn changes(context: &mut Context<'_, '_>, changes: mailbox::Changes) -> Answer {
    check_account(&changes.account_id)?;
    let now = context.state()?;
    let since = changes.since(&now)?;
    let most = changes
        .max_changes
        .unwrap_or(u64::MAX)
        .min(context.limits.objects_max);
    if most == 0 {
        return Err(Fault::arguments("maxChanges"));
    }
    let mut found = query::changed(context.connection(), since, most + 1)?;
    let has_more = found.len() as u64 > most;
    found.truncate(most as usize);
    let new_state = match (has_more, found.last()) {
        (true, Some(last)) => last.changed.to_string(),
        _ => now,
    };
    let (created, updated): (Vec<_>, Vec<_>) = found.iter().partition(|c| c.created > since);
    let ids = |changed: Vec<&query::Changed>| -> Vec<String> {
        changed.into_iter().map(|c| email_id(&c.k1)).collect()
    };
    answer(&json!({
        "accountId": super::ACCOUNT,
        "oldState": changes.since_state,
        "newState": new_state,
        "hasMoreChanges": has_more,
        "created": ids(created),
        "updated": ids(updated),
        "destroyed": [],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(filter: Value) -> Result<EmailFilter, Fault> {
        read_filter(&filter, 0, &mut FILTER_CONDITIONS_MAX.clone())
    }

    #[test]
    fn an_unknown_condition_is_refused_not_ignored() {
        let error = read(json!({"subject": "x", "allInThreadHaveKeyword": "y"}));
        assert!(matches!(error, Err(Fault::Method("unsupportedFilter", _))));
        let error = read(json!({"operator": "XOR", "conditions": []}));
        assert!(matches!(error, Err(Fault::Method("invalidArguments", _))));
    }

    #[test]
    fn a_filter_that_is_too_deep_or_too_wide_is_refused() {
        let mut deep = json!({"subject": "x"});
        for _ in 0..20 {
            deep = json!({"operator": "AND", "conditions": [deep]});
        }
        let wide = vec![json!({"subject": "x"}); 100];
        for filter in [deep, json!({"operator": "OR", "conditions": wide})] {
            assert!(matches!(
                read(filter),
                Err(Fault::Method("unsupportedFilter", _))
            ));
        }
    }

    #[test]
    fn a_message_id_is_found_with_and_without_its_brackets() {
        for id in ["<a@b>", "a@b", " <a@b> "] {
            let found = read(json!({"header": ["message-id", id]})).ok();
            let wanted = EmailFilter::And(vec![EmailFilter::MessageId("a@b".into())]);
            assert_eq!(found, Some(wanted), "{id}");
        }
    }
}
