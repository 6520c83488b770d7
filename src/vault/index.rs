//! Fills the full-text search behind the store: one thread of low priority, off the way to any confirmation.
//!
//! While mail comes in it stands back: priority alone would leave it a tenth of each message's processor time, on the
//! machine that takes the mail in. A message that comes alone is found at once; of a stream most is indexed once it ebbs, or
//! once somebody searches: a search waits for what came before it.
//!
//! It follows the store's changes in their order and keeps its place in `search.db`, in the same transaction as the words,
//! so a stop at any instant costs at most a batch again. It reads only what is synced: a row that a power cut takes back
//! was never seen here. A message that cannot be read or parsed gets an empty entry and a warning, and holds up no other.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use mail_parser::Message;
use rusqlite::{Connection, params};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    mime,
    storage::{Blobs, Progress, Store, StoreError, rows::HeaderRow, schema},
};
use crate::{
    message::{K1, Origin, Sighting},
    metrics::Metrics,
};

/// Messages in one transaction of the search.
const BATCH_MESSAGES: usize = 100;
const BATCH_SIGHTINGS: usize = 1000;
/// Text of one message that is searched.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// A header field in the index: no hostile one makes the index its victim.
const FIELD_BYTES_MAX: usize = 4096;
const PREVIEW_BYTES: usize = 200;
/// The lowest priority there is.
const NICE: i32 = 19;
/// While the store moves, for each moment of work so many of rest: a fiftieth of one processor is indexing's.
const REST_FACTOR: u32 = 49;
/// The store has come to rest where it has not moved for so long.
const QUIET: Duration = Duration::from_millis(500);
/// With more messages unindexed than this it rests no more: the search is late by so much and not by any amount.
const PENDING_MAX: i64 = 100_000;
const RETRY_AFTER: Duration = Duration::from_secs(10);

pub(crate) struct Indexer {
    store: Arc<Store>,
    reader: Connection,
    search: Connection,
    progress: watch::Receiver<Progress>,
    /// When the store last moved, as far as was seen.
    moved_at: Instant,
    /// The store's state up to which all is indexed.
    reached: i64,
    metrics: Arc<Metrics>,
}

/// How far the search has come.
struct Place {
    state: i64,
    sighting: i64,
}

impl Indexer {
    pub(crate) fn new(store: Arc<Store>, metrics: Arc<Metrics>) -> Result<Self, StoreError> {
        Ok(Self {
            reader: schema::open_reader(&store.data_dir)?,
            search: schema::open_search(&store.data_dir)?,
            progress: store.progress(),
            moved_at: Instant::now(),
            reached: 0,
            store,
            metrics,
        })
    }

    /// Runs on a thread of its own until `stop`.
    pub(crate) fn start(mut self, stop: CancellationToken) -> std::io::Result<JoinHandle<()>> {
        // Its own: the thread may outlive the process's by a moment.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let run = move || {
            // On Linux the priority is the thread's. Without it, indexing competes: no reason not to run.
            let _ = rustix::process::setpriority_process(None, NICE);
            while !stop.is_cancelled() {
                let begun = Instant::now();
                let stepped = self.step();
                let took = begun.elapsed();
                runtime.block_on(stop.run_until_cancelled(async {
                    match stepped {
                        Ok(more) => {
                            self.rest(took).await;
                            if !more {
                                self.news().await;
                            }
                        }
                        Err(error) => {
                            tracing::warn!(%error, "vault: full-text index");
                            sleep(RETRY_AFTER).await;
                        }
                    }
                }));
            }
        };
        std::thread::Builder::new()
            .name("vault-index".into())
            .spawn(run)
    }

    /// Waits until the store moves.
    async fn news(&mut self) {
        if self.progress.changed().await.is_err() {
            // The store has closed: nothing more will come.
            std::future::pending::<()>().await;
        }
        self.moved_at = Instant::now();
    }

    /// Stands back behind work that took `took`, until the store has not moved for [`QUIET`] or somebody searches.
    async fn rest(&mut self, took: Duration) {
        // A receiver of its own: what moves now is still news to whoever waits for the next step.
        let mut moves = self.progress.clone();
        let ebb = async {
            while let Ok(Ok(())) = timeout_at(self.moved_at + QUIET, moves.changed()).await {
                self.moved_at = Instant::now();
                let pending = moves.borrow().state - self.reached;
                self.metrics.vault_index_pending_messages.set(pending);
                if pending > PENDING_MAX {
                    break;
                }
            }
        };
        let store = self.store.clone();
        tokio::select! {
            _ = timeout(took * REST_FACTOR, ebb) => {}
            () = store.indexing.is_wanted() => {}
        }
    }

    /// Indexes one batch; false where there was nothing left to do.
    pub(crate) fn step(&mut self) -> Result<bool, StoreError> {
        let synced = *self.progress.borrow_and_update();
        let place = self.place()?;
        let messages = self.messages(&place, &synced)?;
        let sightings = self.sightings(&place, &synced)?;
        self.search.execute_batch("BEGIN IMMEDIATE")?;
        let done = self.write(&messages, &sightings, &place, &synced);
        match &done {
            Ok(_) => self.search.execute_batch("COMMIT")?,
            Err(_) => self.search.execute_batch("ROLLBACK")?,
        }
        if let Ok(false) = done {
            self.store.indexing.reach(synced.row_end);
        }
        done
    }

    fn place(&self) -> Result<Place, StoreError> {
        let place = self
            .search
            .prepare_cached("SELECT state, sighting FROM progress")?
            .query_row([], |row| {
                Ok(Place {
                    state: row.get(0)?,
                    sighting: row.get(1)?,
                })
            })?;
        Ok(place)
    }

    /// Synced e-mails that changed after the place: row, K1, state.
    fn messages(
        &self,
        place: &Place,
        synced: &Progress,
    ) -> Result<Vec<(i64, K1, i64)>, StoreError> {
        let rows = self
            .reader
            .prepare_cached(
                "SELECT e.row, b.k1, e.changed_state FROM emails e JOIN blobs b ON b.row = e.row
                 WHERE e.changed_state > ?1 AND e.changed_state <= ?2 ORDER BY e.changed_state LIMIT ?3",
            )?
            .query_map(params![place.state, synced.state, BATCH_MESSAGES as i64], |row| {
                Ok((row.get(0)?, K1(row.get(1)?), row.get(2)?))
            })?
            .collect::<Result<_, _>>()?;
        Ok(rows)
    }

    /// Synced sightings after the place: row, e-mail, JSON.
    fn sightings(
        &self,
        place: &Place,
        synced: &Progress,
    ) -> Result<Vec<(i64, i64, String)>, StoreError> {
        let rows = self
            .reader
            .prepare_cached(
                "SELECT row, email, sighting FROM sightings WHERE row > ?1 AND row < ?2 ORDER BY row LIMIT ?3",
            )?
            .query_map(params![place.sighting, synced.row_end, BATCH_SIGHTINGS as i64], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect::<Result<_, _>>()?;
        Ok(rows)
    }

    fn write(
        &mut self,
        messages: &[(i64, K1, i64)],
        sightings: &[(i64, i64, String)],
        place: &Place,
        synced: &Progress,
    ) -> Result<bool, StoreError> {
        for (row, k1, _) in messages {
            let known = self
                .search
                .prepare_cached("SELECT 1 FROM headers WHERE email = ?1")?
                .exists([row])?;
            // One that was only filed elsewhere has its words already.
            if !known {
                self.message(*row, k1)?;
            }
        }
        for (_, email, json) in sightings {
            let words = envelope_words(json);
            self.search
                .prepare_cached("INSERT INTO envelope_words (addresses, email) VALUES (?1, ?2)")?
                .execute(params![words, email])?;
        }
        let more_messages = messages.len() == BATCH_MESSAGES;
        let more_sightings = sightings.len() == BATCH_SIGHTINGS;
        let state = match (more_messages, messages.last()) {
            (true, Some((_, _, state))) => *state,
            _ => synced.state.max(place.state),
        };
        let sighting = sightings.last().map_or(place.sighting, |(row, _, _)| *row);
        self.search
            .prepare_cached("UPDATE progress SET state = ?1, sighting = ?2")?
            .execute([state, sighting])?;
        self.reached = state;
        let pending = synced.state.saturating_sub(state).max(0);
        self.metrics.vault_index_pending_messages.set(pending);
        Ok(more_messages || more_sightings)
    }

    fn message(&self, row: i64, k1: &K1) -> Result<(), StoreError> {
        let entry = Entry::of_blob(&self.store.blobs, k1, mime::PARSED_BYTES_MAX);
        let field = |text| mime::beginning(text, FIELD_BYTES_MAX);
        let [subject, sender] = [&entry.subject, &entry.sender].map(|text| field(text));
        let [recipients, message_id] =
            [&entry.recipients, &entry.message_id].map(|text| field(text));
        let attachments: Vec<_> = entry.attachments.iter().map(|name| field(name)).collect();
        self.search
            .prepare_cached(
                "INSERT INTO headers (email, sent_at, subject, sender, recipients, message_id, preview, attachments)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                row,
                entry.sent_at,
                subject,
                sender,
                recipients,
                message_id,
                entry.preview,
                attachments.len() as i64
            ])?;
        self.search
            .prepare_cached(
                "INSERT INTO words (rowid, subject, sender, recipients, body, attachments) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                row,
                subject,
                sender,
                recipients,
                entry.body,
                attachments.join(" ")
            ])?;
        Ok(())
    }
}

/// What is searched and listed of one message.
#[derive(Debug, Default)]
pub(super) struct Entry {
    sent_at: Option<i64>,
    subject: String,
    sender: String,
    recipients: String,
    message_id: String,
    preview: String,
    body: String,
    attachments: Vec<String>,
}

impl Entry {
    /// From the blob's first `bytes_max` bytes; an empty one, and a warning, where it cannot be read or parsed.
    pub(super) fn of_blob(blobs: &Blobs, k1: &K1, bytes_max: u64) -> Self {
        let content = blobs.read(k1, bytes_max).unwrap_or_else(|error| {
            tracing::warn!(blob = %k1, %error, "vault: not read");
            Vec::new()
        });
        let entry = catch_unwind(AssertUnwindSafe(|| Self::of(&mime::parse(&content))));
        entry.unwrap_or_else(|_| {
            tracing::warn!(blob = %k1, "vault: the parser panicked");
            Self::default()
        })
    }

    pub(super) fn of(message: &Message<'_>) -> Self {
        let recipients = [message.to(), message.cc(), message.bcc()].map(mime::show_addresses);
        let recipients: Vec<String> = recipients.into_iter().filter(|r| !r.is_empty()).collect();
        let mut body = String::new();
        for at in 0..message.text_body_count() {
            let Some(text) = message.body_text(at) else {
                continue;
            };
            let left = BODY_BYTES_MAX - body.len();
            body.push_str(mime::beginning(&text, left));
            if body.len() + 1 >= BODY_BYTES_MAX {
                break;
            }
            body.push(' ');
        }
        let preview = message.body_preview(PREVIEW_BYTES);
        let names = mime::attachment_names(message);
        Self {
            sent_at: mime::sent_at(message),
            subject: message.subject().unwrap_or_default().to_owned(),
            sender: mime::show_addresses(message.from()),
            recipients: recipients.join(", "),
            message_id: message.message_id().unwrap_or_default().to_owned(),
            preview: preview.map(String::from).unwrap_or_default(),
            body,
            attachments: names,
        }
    }
}

impl From<&Entry> for HeaderRow {
    fn from(entry: &Entry) -> Self {
        Self {
            sent_at: entry.sent_at,
            subject: entry.subject.clone(),
            sender: entry.sender.clone(),
            recipients: entry.recipients.clone(),
            preview: entry.preview.clone(),
            attachments: entry.attachments.len() as u32,
        }
    }
}

/// The words by which a sighting is found: its envelope's addresses, who sent it, its queue id, where it lay.
fn envelope_words(json: &str) -> String {
    let Ok(sighting) = serde_json::from_str::<Sighting>(json) else {
        return String::new();
    };
    let mut words = vec![sighting.id.to_string()];
    match &sighting.origin {
        Origin::Transaction { envelope, client } => {
            words.push(envelope.sender.to_string());
            for recipient in &envelope.recipients {
                words.push(recipient.address.to_string());
                words.extend(recipient.expanded_from.as_ref().map(ToString::to_string));
                words.extend(recipient.forwarded_from.as_ref().map(ToString::to_string));
            }
            let facts = [
                &client.address,
                &client.name,
                &client.helo,
                &client.queue_id,
                &client.login,
            ];
            words.extend(facts.into_iter().flatten().map(ToString::to_string));
        }
        Origin::Placement(placement) => {
            words.push(placement.account.to_string());
            words.push(placement.folder.to_string());
        }
    }
    mime::beginning(&words.join(" "), BODY_BYTES_MAX).to_owned()
}
