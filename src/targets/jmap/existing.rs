//! What is there already: the e-mail behind `alreadyExists`, the copy of an attempt whose answer was lost, the copies
//! that the dedup map believes in.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};

use super::{
    Jmap, Known,
    api::Answers,
    session::Server,
    shapes::{SetError, blob_id},
    verdict::{Refusal, Verdict},
};
use crate::{
    dedup::StoredCopy,
    message::{K1, UnixMillis},
};

/// Larger candidates are told apart by size and time of receipt alone.
const COMPARE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Messages of the same size received in the same second, or with the same Message-ID, asked for at a time …
const PAGE: usize = 100;
/// … and pages at most: a server may answer to every position with the same.
const PAGES_MAX: usize = 100;

const LISTED_AT_ONCE: u32 = 500;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Email {
    pub id: String,
    #[serde(default)]
    pub blob_id: String,
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub mailbox_ids: BTreeMap<String, bool>,
    #[serde(default)]
    pub received_at: String,
}

#[derive(Deserialize)]
struct EmailList {
    list: Vec<Email>,
}

#[derive(Deserialize)]
struct Queried {
    ids: Vec<IgnoredAny>,
    /// The server's own, where it is below ours.
    limit: Option<usize>,
}

/// Some of the e-mails that may be the one sought.
struct Candidates {
    emails: Vec<Email>,
    count: usize,
    /// There may be others behind these.
    more: bool,
}

impl Candidates {
    fn read(answers: &Answers, query: &str, fetch: &str) -> Result<Self, Refusal> {
        let queried = answers.take::<Queried>(query)?;
        let count = queried.ids.len();
        Ok(Self {
            emails: answers.take::<EmailList>(fetch)?.list,
            more: count >= queried.limit.unwrap_or(PAGE).clamp(1, PAGE),
            count,
        })
    }
}

#[derive(Deserialize)]
struct Listed {
    ids: Vec<String>,
}

#[derive(Deserialize)]
struct Updated {
    #[serde(default, rename = "notUpdated")]
    not_updated: Option<BTreeMap<String, SetError>>,
}

/// A message of ours, as a server would know it.
pub(super) struct Sought<'a> {
    pub blob_id: &'a str,
    pub bytes: u64,
    pub k1: K1,
    /// UTCDate, as we would import it.
    pub received_at: &'a str,
    /// A Message-ID that no other message has.
    pub message_id: Option<&'a str>,
    /// It may have been received at any time; with its own Message-ID, where it has one, which others may have too.
    pub any_time: Option<Option<String>>,
}

impl Sought<'_> {
    fn filter(&self) -> Value {
        let (at_least, below) = (self.bytes, self.bytes + 1);
        match (self.message_id, &self.any_time) {
            (Some(id), _) => json!({"header": ["Message-ID", id]}),
            (None, Some(Some(id))) => {
                json!({"header": ["Message-ID", id], "minSize": at_least, "maxSize": below})
            }
            (None, Some(None)) => json!({"minSize": at_least, "maxSize": below}),
            (None, None) => json!({
                "after": self.received_at,
                "before": a_second_later(self.received_at),
                "minSize": at_least,
                "maxSize": below,
            }),
        }
    }
}

impl Sought<'_> {
    /// Asks for the candidates from a position on.
    fn calls<'a>(
        &self,
        position: usize,
        query: &'a str,
        fetch: &'a str,
    ) -> [(&'static str, Value, &'a str); 2] {
        let asked = json!({"filter": self.filter(), "position": position, "limit": PAGE});
        let mut of_query = properties(Value::Null);
        if let Some(arguments) = of_query.as_object_mut() {
            arguments.remove("ids");
        }
        of_query["#ids"] = json!({"resultOf": query, "name": "Email/query", "path": "/ids"});
        [
            ("Email/query", asked, query),
            ("Email/get", of_query, fetch),
        ]
    }
}

impl Jmap {
    pub(super) async fn emails(
        &self,
        server: &Server,
        ids: &[&str],
    ) -> Result<Vec<Email>, Refusal> {
        let ids: BTreeSet<_> = ids.iter().copied().collect();
        let ids: Vec<_> = ids.into_iter().collect();
        let mut found = Vec::with_capacity(ids.len());
        for some in ids.chunks(server.limits.max_objects_in_get.max(1) as usize) {
            let body = self
                .call(server, vec![("Email/get", properties(json!(some)), "g")])
                .await?;
            found.extend(Answers::parse(&body)?.take::<EmailList>("g")?.list);
        }
        Ok(found)
    }

    pub(super) async fn held(&self, copies: &[StoredCopy]) -> Result<Vec<bool>, Refusal> {
        let known = self.known().await?;
        let server = &known.server;
        let ids: Vec<_> = copies.iter().map(|copy| copy.remote_id.as_str()).collect();
        let found = self.emails(server, &ids).await?;
        let found: BTreeMap<_, _> = found.iter().map(|email| (&*email.id, email)).collect();
        let holds = |copy: &StoredCopy| {
            let email = found.get(&*copy.remote_id);
            email.is_some_and(|e| !server.sightings || e.blob_id == blob_id(&copy.k1))
        };
        Ok(copies.iter().map(holds).collect())
    }

    /// The e-mails in the mailbox of the copies. A vault lets who writes into it read no list.
    pub(super) async fn listed(&self, position: u64) -> Result<Option<Vec<String>>, Refusal> {
        let known = self.known().await?;
        if known.server.sightings {
            return Ok(None);
        }
        let arguments = json!({
            "filter": {"inMailbox": known.mailboxes.copies},
            "sort": [{"property": "receivedAt", "isAscending": true}],
            "position": position,
            "limit": LISTED_AT_ONCE,
        });
        let calls = vec![("Email/query", arguments, "q")];
        let body = self.call(&known.server, calls).await?;
        Ok(Some(Answers::parse(&body)?.take::<Listed>("q")?.ids))
    }

    /// Is this e-mail that message, byte for byte? Equal blob ids say so at no cost, otherwise its bytes are read.
    async fn is_same(
        &self,
        server: &Server,
        email: &Email,
        sought: &Sought<'_>,
    ) -> Result<bool, Refusal> {
        if email.blob_id == sought.blob_id {
            return Ok(true);
        }
        if email.size != sought.bytes {
            return Ok(false);
        }
        if sought.bytes > COMPARE_BYTES_MAX {
            return Ok(email.received_at == sought.received_at);
        }
        let k1 = self
            .k1_of_blob(server, &email.blob_id, sought.bytes)
            .await?;
        Ok(k1 == sought.k1)
    }

    /// The e-mail that the server named instead of taking ours. A server may take a message for known by its Message-ID
    /// alone (RFC 8621 section 4.8): other bytes under that id are not our copy.
    pub(super) async fn confirm_existing(
        &self,
        known: &Known,
        emails: &[Email],
        id: &str,
        sought: &Sought<'_>,
    ) -> Result<(), Refusal> {
        let Some(email) = emails.iter().find(|email| email.id == id) else {
            let why = format!("alreadyExists as {id}, which is not there");
            return Err(Refusal::new(Verdict::Failed, why));
        };
        match self.is_same(&known.server, email, sought).await? {
            true => Ok(()),
            false => Err(Refusal::new(
                Verdict::Refused,
                format!("the server takes the message for its {id}, which has other bytes"),
            )),
        }
    }

    /// Puts e-mails that are elsewhere into a mailbox too; answers what could not be.
    pub(super) async fn place(
        &self,
        server: &Server,
        emails: &[Email],
        mailbox: &str,
    ) -> Result<BTreeMap<String, SetError>, Refusal> {
        let elsewhere = emails
            .iter()
            .filter(|email| !email.mailbox_ids.contains_key(mailbox));
        let update: BTreeMap<_, _> = elsewhere
            .map(|email| (&email.id, json!({format!("mailboxIds/{mailbox}"): true})))
            .collect();
        if update.is_empty() {
            return Ok(BTreeMap::new());
        }
        let body = self
            .call(server, vec![("Email/set", json!({"update": update}), "u")])
            .await?;
        let updated: Updated = Answers::parse(&body)?.take("u")?;
        Ok(updated.not_updated.unwrap_or_default())
    }

    /// Finds messages that are there already, by their size and either the time of receipt that an earlier attempt gave them
    /// or their Message-ID; answers the e-mail id for each that is there.
    pub(super) async fn look_up(
        &self,
        server: &Server,
        sought: &[Sought<'_>],
    ) -> Result<Vec<Option<String>>, Refusal> {
        let mut found = Vec::with_capacity(sought.len());
        let pair = 2;
        let a_request = (server.limits.max_calls_in_request as usize / pair).max(1);
        for some in sought.chunks(a_request) {
            let mut calls = Vec::new();
            let ids: Vec<_> = (0..some.len())
                .map(|i| (format!("q{i}"), format!("g{i}")))
                .collect();
            for (message, (query, fetch)) in some.iter().zip(&ids) {
                calls.extend(message.calls(0, query, fetch));
            }
            let body = self.call(server, calls).await?;
            let answers = Answers::parse(&body)?;
            for (message, (query, fetch)) in some.iter().zip(&ids) {
                let first = Candidates::read(&answers, query, fetch)?;
                found.push(self.same_among(server, message, first).await?);
            }
        }
        Ok(found)
    }

    /// The e-mail that is the message, among the first candidates or those behind them.
    async fn same_among(
        &self,
        server: &Server,
        message: &Sought<'_>,
        mut some: Candidates,
    ) -> Result<Option<String>, Refusal> {
        let mut position = 0;
        for _ in 0..PAGES_MAX {
            // Those that cost nothing to compare come first.
            let same_blob = |email: &&Email| email.blob_id == message.blob_id;
            if let Some(email) = some.emails.iter().find(same_blob) {
                return Ok(Some(email.id.clone()));
            }
            for email in &some.emails {
                if self.is_same(server, email, message).await? {
                    return Ok(Some(email.id.clone()));
                }
            }
            if !some.more {
                break;
            }
            position += some.count;
            let calls = message.calls(position, "q", "g");
            let body = self.call(server, calls.into()).await?;
            some = Candidates::read(&Answers::parse(&body)?, "q", "g")?;
        }
        Ok(None)
    }
}

fn properties(ids: Value) -> Value {
    json!({"ids": ids, "properties": ["id", "blobId", "size", "mailboxIds", "receivedAt"]})
}

/// The end of the window in which a server that keeps whole seconds finds its e-mail.
fn a_second_later(utc_date: &str) -> String {
    let at: jiff::Timestamp = utc_date.parse().unwrap_or_default();
    UnixMillis(at.as_millisecond() as u64 + 1000)
        .to_rfc3339()
        .replace(".000Z", "Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_of_a_look_up_is_one_second() {
        assert_eq!(
            a_second_later("2015-12-31T23:59:59Z"),
            "2016-01-01T00:00:00Z"
        );
    }
}
