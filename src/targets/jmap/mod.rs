//! JMAP (RFC 8620, 8621) as a target: any server that takes uploads and `Email/import`.
//!
//! Two ways in. A server that keeps [sightings](shapes) (the vault) gets bytes, copy and sighting of many messages in one
//! request, see `one_request`. Any other gets uploads, then one import of many, then each sighting as a small e-mail in a
//! mailbox of its own, see `steps`. Either way a message that is there is success, and what an answer means is read from
//! one table, [`verdict`]. Limits are the session's; the session is read again when its state changes.
//!
//! It never decides when to try again, and keeps nothing about messages.

mod api;
mod blobs;
mod existing;
mod halving;
mod import;
mod json;
mod mailboxes;
mod one_request;
mod session;
pub mod shapes;
mod sidecar;
mod steps;
pub mod verdict;
mod vouch;

use std::{collections::BTreeMap, str::FromStr, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use self::{
    api::Answers,
    mailboxes::Mailboxes,
    session::Server,
    verdict::{Refusal, Verdict},
};
use super::{BatchLimits, Outgoing, PutError, Receipt, RemoteStore};
use crate::{
    channel::{self, Channel, ChannelError},
    dedup::StoredCopy,
    message::{Origin, Sighting, UnixMillis},
    metrics::Metrics,
};

/// A session whose state keeps changing is still not read more often than this.
const SESSION_READ_INTERVAL: Duration = Duration::from_secs(30);

/// One `[[target]]` of type `jmap`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The session resource, or a bare origin, whose `/.well-known/jmap` it then is.
    pub url: String,
    /// Account id or name; the session's primary mail account where absent.
    pub account: Option<String>,
    /// Where copies are placed; made when missing.
    pub mailbox: Place,
    /// Where a server that keeps no sightings itself gets them as e-mails; none: they are not kept.
    pub sightings_mailbox: Option<Place>,
    /// Keywords that every copy gets, `$seen` for example.
    pub keywords: Vec<String>,
    pub batch: BatchLimits,
    pub channel: channel::Options,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            url: String::new(),
            account: None,
            mailbox: Place::Role("inbox".into()),
            sightings_mailbox: Some(Place::Path("mailtee/sightings".into())),
            keywords: Vec::new(),
            batch: BatchLimits {
                count: 200,
                bytes: 2 * 1024 * 1024,
                in_flight: 4,
            },
            channel: channel::Options::default(),
        }
    }
}

/// A mailbox: `role:archive`, or a path of names from the root, `mailtee/sightings`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Role(String),
    Path(String),
}

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        match text.strip_prefix("role:") {
            Some("") => Err(NoPlace),
            Some(role) => Ok(Self::Role(role.to_lowercase())),
            None if text.split('/').any(str::is_empty) => Err(NoPlace),
            None => Ok(Self::Path(text.to_string())),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a path such as `archive/2026`, or a role such as `role:archive`")]
pub struct NoPlace;

/// The target. It finds the server when it is first used.
pub struct Jmap {
    name: String,
    options: Options,
    channel: Channel,
    metrics: Arc<Metrics>,
    server: ArcSwapOption<Known>,
    /// One task discovers, the others wait for what it finds.
    discovering: Mutex<()>,
}

/// The server, and where messages go there.
struct Known {
    server: Server,
    mailboxes: Mailboxes,
}

impl Jmap {
    /// Reads the files that the options name; connects to nobody yet. `name` labels the metrics.
    pub fn open(
        name: impl Into<String>,
        options: Options,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ChannelError> {
        Ok(Self {
            name: name.into(),
            channel: Channel::open(&options.channel)?,
            options,
            metrics,
            server: ArcSwapOption::empty(),
            discovering: Mutex::new(()),
        })
    }

    async fn known(&self) -> Result<Arc<Known>, Refusal> {
        if let Some(known) = self.server.load_full() {
            return Ok(known);
        }
        let _one = self.discovering.lock().await;
        if let Some(known) = self.server.load_full() {
            return Ok(known);
        }
        let known = Arc::new(self.discover().await?);
        self.server.store(Some(known.clone()));
        Ok(known)
    }

    async fn discover(&self) -> Result<Known, Refusal> {
        let server = self.counted(Server::discover(&self.channel, &self.options).await)?;
        let mailboxes = self.find_mailboxes(&server).await?;
        Ok(Known { server, mailboxes })
    }

    fn counted<T>(&self, result: Result<T, Refusal>) -> Result<T, Refusal> {
        let class = match &result {
            Ok(_) => "ok",
            Err(refusal) => match refusal.verdict {
                Verdict::Unauthorized => "unauthorized",
                Verdict::Unavailable | Verdict::Rediscover => "transient",
                _ => "refused",
            },
        };
        self.metrics
            .target_requests_total
            .with_label_values(&[&self.name, class])
            .inc();
        result
    }

    /// What is known may be out of date: the next batch reads it again.
    fn forget_server(&self) {
        self.server.store(None);
    }

    /// Forgets the session when the server says that it changed (RFC 8620 section 3.4).
    fn heed_state(&self, server: &Server, answers: &Answers<'_>) {
        let state = answers.session_state();
        if !state.is_empty()
            && state != server.state
            && server.read_at.elapsed() > SESSION_READ_INTERVAL
        {
            self.forget_server();
        }
    }

    async fn put_batch(&self, batch: &[Outgoing]) -> Vec<Result<Receipt, PutError>> {
        let results = match self.known().await {
            Err(refusal) => batch.iter().map(|_| Err(refusal.clone())).collect(),
            Ok(known) if known.server.sightings => self.put_in_one_request(&known, batch).await,
            Ok(known) => self.put_in_steps(&known, batch).await,
        };
        if results.iter().any(|r| {
            r.as_ref()
                .is_err_and(|e| matches!(e.verdict, Verdict::Rediscover | Verdict::Failed))
        }) {
            self.forget_server();
        }
        // Where nothing of a batch passes, the fault is hardly each message's own.
        let all_failed = batch.len() > 1
            && results
                .iter()
                .all(|r| r.as_ref().is_err_and(|e| e.verdict == Verdict::Failed));
        let judged = results.into_iter().zip(batch).map(|(result, outgoing)| {
            result.map_err(|mut refusal| {
                if all_failed {
                    refusal.verdict = Verdict::Unavailable;
                }
                refusal.for_message(outgoing.remote_id())
            })
        });
        judged.collect()
    }
}

impl Outgoing {
    /// The id of the copy that this is a further sighting of.
    fn remote_id(&self) -> Option<&str> {
        match &self.content {
            super::Content::Copy(_) => None,
            super::Content::Duplicate { of, .. } | super::Content::Variant { of, .. } => {
                Some(&of.remote_id)
            }
        }
    }
}

impl RemoteStore for Jmap {
    fn put<'a>(&'a self, batch: &'a [Outgoing]) -> BoxFuture<'a, Vec<Result<Receipt, PutError>>> {
        Box::pin(self.put_batch(batch))
    }

    /// Reads credentials and session afresh: both may have been mended.
    fn probe(&self) -> BoxFuture<'_, Result<(), PutError>> {
        Box::pin(async {
            self.forget_server();
            let probed = async {
                self.channel.reload_credentials()?;
                self.known().await
            };
            probed
                .await
                .map(drop)
                .map_err(|refusal: Refusal| refusal.for_message(None))
        })
    }

    fn vouch(&self) -> BoxFuture<'_, Result<(), PutError>> {
        Box::pin(async {
            self.vouched()
                .await
                .map_err(|refusal| refusal.for_message(None))
        })
    }

    fn holds<'a>(&'a self, copies: &'a [StoredCopy]) -> BoxFuture<'a, Result<Vec<bool>, PutError>> {
        Box::pin(async {
            self.held(copies)
                .await
                .map_err(|refusal| refusal.for_message(None))
        })
    }

    fn list(&self, position: u64) -> BoxFuture<'_, Result<Option<Vec<String>>, PutError>> {
        Box::pin(async move {
            self.listed(position)
                .await
                .map_err(|refusal| refusal.for_message(None))
        })
    }

    fn batch_limits(&self) -> BatchLimits {
        let limits = self.options.batch;
        let objects = match self.server.load().as_ref() {
            Some(known) => known.server.limits.max_objects_in_set.max(1) as usize,
            None => limits.count,
        };
        BatchLimits {
            count: limits.count.min(objects),
            ..limits
        }
    }
}

/// UTCDate in whole seconds: servers that keep INTERNALDATE keep no more.
fn received_at(sighting: &Sighting) -> String {
    let at = received_millis(sighting).0 / 1000 * 1000;
    let text = UnixMillis(at).to_rfc3339();
    text.replace(".000Z", "Z")
}

fn received_millis(sighting: &Sighting) -> UnixMillis {
    match &sighting.origin {
        Origin::Placement(placement) => placement.internal_date.unwrap_or(sighting.captured_at),
        Origin::Transaction { .. } => sighting.captured_at,
    }
}

/// The copy's keywords: the configured ones, and those that a placement's flags map to (RFC 8621 section 4.1.1).
fn keywords(options: &Options, sighting: &Sighting) -> BTreeMap<String, bool> {
    let mut keywords: BTreeMap<_, _> = options.keywords.iter().map(|k| (k.clone(), true)).collect();
    if let Origin::Placement(placement) = &sighting.origin {
        for flag in &placement.flags {
            let flag = flag.to_text().to_lowercase();
            let keyword = match flag.strip_prefix('\\') {
                None => flag,
                Some(system @ ("seen" | "flagged" | "answered" | "draft")) => format!("${system}"),
                Some(_) => continue,
            };
            let allowed = |b: u8| b.is_ascii_graphic() && !b"(){]%*\"\\".contains(&b);
            if !keyword.is_empty() && keyword.len() <= 255 && keyword.bytes().all(allowed) {
                keywords.insert(keyword, true);
            }
        }
    }
    keywords
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{CaptureId, Fingerprint, Placement, Protocol};

    #[test]
    fn a_mailbox_is_named_by_role_or_path() {
        assert_eq!("role:Archive".parse(), Ok(Place::Role("archive".into())));
        assert_eq!("a/b c".parse(), Ok(Place::Path("a/b c".into())));
        for wrong in ["", "role:", "/a", "a//b", "a/"] {
            assert_eq!(wrong.parse::<Place>(), Err(NoPlace), "{wrong:?}");
        }
    }

    #[test]
    fn a_placement_gives_the_copy_its_time_and_its_flags() {
        let flags = [
            "\\Seen",
            "\\Recent",
            "$Forwarded",
            "NonJunk",
            "two words",
            "",
        ];
        let sighting = Sighting {
            id: CaptureId::from_bytes([1; 16]),
            captured_at: UnixMillis(1_700_000_000_999),
            frontend: "imap".into(),
            protocol: Protocol::Imap,
            session: "s".into(),
            origin: Origin::Placement(Placement {
                account: "alice".into(),
                folder: "INBOX".into(),
                uid: Some(1),
                uid_validity: Some(1),
                flags: flags.map(Into::into).to_vec(),
                internal_date: Some(UnixMillis(1_433_160_000_500)),
            }),
            fidelity: Vec::new(),
            bytes: 0,
            fingerprint: Fingerprint::default(),
        };
        assert_eq!(received_at(&sighting), "2015-06-01T12:00:00Z");
        let options = Options {
            keywords: vec!["$copied".into()],
            ..Options::default()
        };
        let keywords: Vec<_> = keywords(&options, &sighting).into_keys().collect();
        assert_eq!(keywords, ["$copied", "$forwarded", "$seen", "nonjunk"]);
    }
}
