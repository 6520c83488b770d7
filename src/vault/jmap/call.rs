//! One method call: where it runs, what it may do, how it fails.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    ACCOUNT, blob, email, email_import, k1_in, mailbox, plan::Upload, references, sighting,
};
use crate::{
    message::K1,
    targets::jmap::shapes::{MethodError, SetError},
    vault::{
        Limits,
        auth::Scope,
        storage::{
            Blobs, StoreError, Writer,
            rows::{self, BlobRow},
        },
    },
};

/// Why a call did not do what it was asked.
#[derive(Debug)]
pub(super) enum Fault {
    /// Answered as an `error` response (RFC 8620 section 3.6.2); the calls after it still run.
    Method(&'static str, String),
    /// Nothing of the request holds: the client hears a transient error and sends all of it again.
    Store(StoreError),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Fault {
    pub(super) fn arguments(description: impl ToString) -> Self {
        Self::Method("invalidArguments", description.to_string())
    }
}

pub(super) type Answer = Result<Box<RawValue>, Fault>;

pub(super) fn answer(shape: &impl Serialize) -> Answer {
    serde_json::value::to_raw_value(shape).map_err(|e| Fault::Method("serverFail", e.to_string()))
}

pub(super) fn set_error(kind: &str, description: impl ToString) -> SetError {
    SetError {
        kind: kind.into(),
        description: Some(description.to_string()),
        ..SetError::default()
    }
}

/// A call as it waits to run: its arguments are owned, since it runs on another thread.
pub(super) enum Call {
    /// `Blob/upload`: its bytes are written, its rows are not.
    Upload(Vec<(String, Result<Upload, SetError>)>),
    Other {
        name: String,
        arguments: Box<RawValue>,
    },
    /// Found wrong before it ran.
    Failed(Fault),
}

pub(super) struct Planned {
    pub call: Call,
    pub id: String,
}

/// The connection of a request: inside a round, or a reader's.
pub(super) enum Access<'a, 'w> {
    Read(&'a Connection),
    Write(&'a mut Writer<'w>),
}

/// What the calls of one request share.
pub(super) struct Context<'a, 'w> {
    pub access: Access<'a, 'w>,
    pub blobs: &'a Blobs,
    pub limits: &'a Limits,
    pub scope: Scope,
    /// Creation id → id, over the calls of the request (RFC 8620 section 3.3).
    pub created: BTreeMap<String, String>,
    /// What this request has uploaded: what it names next, most likely.
    pub uploaded: HashMap<K1, BlobRow>,
    /// Rows of the mailboxes, once asked for.
    pub mailboxes: Option<BTreeSet<i64>>,
    pub done: Vec<Done>,
}

/// A response, in the order of the calls.
pub(super) struct Done {
    pub name: Cow<'static, str>,
    pub arguments: Box<RawValue>,
    pub id: String,
}

impl<'w> Context<'_, 'w> {
    pub(super) fn connection(&self) -> &Connection {
        match &self.access {
            Access::Read(connection) => connection,
            Access::Write(writer) => writer.connection(),
        }
    }

    pub(super) fn writer(&mut self) -> Result<&mut Writer<'w>, Fault> {
        match &mut self.access {
            Access::Write(writer) => Ok(writer),
            Access::Read(_) => Err(Fault::Method("serverFail", "planned as a reader".into())),
        }
    }

    pub(super) fn state(&self) -> Result<String, Fault> {
        Ok(match &self.access {
            Access::Read(connection) => rows::state(connection)?,
            Access::Write(writer) => writer.state(),
        }
        .to_string())
    }

    /// An id, or the id that `#` + creation id stands for.
    pub(super) fn resolve<'i>(&'i self, id: &'i str) -> Option<&'i str> {
        match id.strip_prefix('#') {
            Some(creation_id) => self.created.get(creation_id).map(String::as_str),
            None => Some(id),
        }
    }

    pub(super) fn blob(&self, id: &str) -> Result<Option<BlobRow>, Fault> {
        let Some(k1) = self.resolve(id).and_then(|id| k1_in(id, 'G')) else {
            return Ok(None);
        };
        match self.uploaded.get(&k1) {
            Some(blob) => Ok(Some(blob.clone())),
            None => Ok(rows::blob(self.connection(), &k1)?),
        }
    }

    pub(super) fn has_mailbox(&mut self, row: i64) -> Result<bool, Fault> {
        if self.mailboxes.is_none() {
            let all = rows::mailboxes(self.connection())?;
            self.mailboxes = Some(all.into_iter().map(|mailbox| mailbox.row).collect());
        }
        Ok(self
            .mailboxes
            .as_ref()
            .is_some_and(|all| all.contains(&row)))
    }

    /// The mailboxes with what this request has filed so far.
    pub(super) fn settle_counts(&mut self) -> Result<(), Fault> {
        match &mut self.access {
            Access::Write(writer) => Ok(writer.settle_counts()?),
            Access::Read(_) => Ok(()),
        }
    }

    pub(super) fn check_state(&self, if_in_state: Option<&str>) -> Result<(), Fault> {
        match if_in_state {
            Some(state) if *state != self.state()? => {
                Err(Fault::Method("stateMismatch", String::new()))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_objects(&self, count: usize) -> Result<(), Fault> {
        if count as u64 > self.limits.objects_max {
            let limit = self.limits.objects_max;
            return Err(Fault::Method(
                "requestTooLarge",
                format!("{count} objects, at most {limit}"),
            ));
        }
        Ok(())
    }

    /// Runs one call and keeps its response. Only a store's fault ends the request.
    pub(super) fn run(&mut self, planned: Planned) -> Result<(), StoreError> {
        let (name, answered) = match planned.call {
            Call::Upload(uploads) => (Cow::Borrowed("Blob/upload"), blob::upload(self, uploads)),
            Call::Failed(fault) => (Cow::Borrowed("error"), Err(fault)),
            Call::Other { name, arguments } => {
                let answered = self.dispatch(&name, &arguments);
                (Cow::Owned(name), answered)
            }
        };
        let (name, arguments) = match answered {
            Ok(arguments) => (name, arguments),
            Err(Fault::Store(error)) => return Err(error),
            Err(Fault::Method(kind, description)) => {
                let error = MethodError {
                    kind: kind.into(),
                    description: Some(description).filter(|text| !text.is_empty()),
                };
                let shown = serde_json::value::to_raw_value(&error);
                (Cow::Borrowed("error"), shown.expect("two strings are JSON"))
            }
        };
        self.done.push(Done {
            name,
            arguments,
            id: planned.id,
        });
        Ok(())
    }

    fn dispatch(&mut self, name: &str, arguments: &RawValue) -> Answer {
        if !self.scope.may(name) {
            return Err(Fault::Method(
                "forbidden",
                format!("this token may not call {name}"),
            ));
        }
        // References are looked for only where there may be any: the bytes of a batch are walked once.
        let resolved;
        let arguments = match references::are_in(arguments) {
            false => arguments.get(),
            true => {
                resolved = references::resolve(arguments, &self.done)?.to_string();
                &resolved
            }
        };
        match name {
            "Core/echo" => RawValue::from_string(arguments.to_owned()).map_err(Fault::arguments),
            "Blob/get" => blob::get(self, read(arguments)?),
            "Blob/lookup" => blob::lookup(self, read(arguments)?),
            "Email/import" => email_import::import(self, read(arguments)?),
            "Email/get" => email::get(self, read(arguments)?),
            "Email/query" => email::query(self, read(arguments)?),
            "Email/changes" => email::changes(self, read(arguments)?),
            "Email/set" => email_import::set(self, read(arguments)?),
            "Mailbox/get" => mailbox::get(self, read(arguments)?),
            "Mailbox/query" => mailbox::query(self, read(arguments)?),
            "Mailbox/changes" => mailbox::changes(self, read(arguments)?),
            "Mailbox/set" => mailbox::set(self, read(arguments)?),
            "Sighting/import" => sighting::import(self, read(arguments)?),
            "Sighting/get" => sighting::get(self, read(arguments)?),
            "Sighting/query" => sighting::query(self, read(arguments)?),
            _ => Err(Fault::Method("unknownMethod", String::new())),
        }
    }
}

fn read<'a, A: Deserialize<'a>>(arguments: &'a str) -> Result<A, Fault> {
    serde_json::from_str(arguments).map_err(Fault::arguments)
}

/// True where the call changes the index: its request runs in a round.
pub(super) fn writes(name: &str) -> bool {
    matches!(
        name,
        "Blob/upload" | "Email/import" | "Email/set" | "Mailbox/set" | "Sighting/import"
    )
}

/// Each id once, where it came first (RFC 8620 section 5.1).
pub(super) fn once(mut ids: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    ids.retain(|id| seen.insert(id.clone()));
    ids
}

/// Every method knows one account.
pub(super) fn check_account(account_id: &str) -> Result<(), Fault> {
    match account_id == ACCOUNT {
        true => Ok(()),
        false => Err(Fault::Method("accountNotFound", String::new())),
    }
}
