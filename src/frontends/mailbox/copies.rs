//! The copies that one session makes of what passes.
//!
//! A message that the client saves is durable before the client hears that it is safe; a message that the client reads is
//! copied behind its back, where it is not known already, and durable before the client can remove it. A copy that comes
//! to nothing is a gap, counted and logged, and never the session's trouble.

use std::sync::{Arc, atomic::Ordering};

use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};
use tracing::{info, warn};

use super::{
    Mailbox,
    known::Key,
    pending::{Pending, Unsettled},
};
use crate::{
    frontends::copy::{self, Part, Seen},
    journal::{Captured, JournalError},
    message::{Acceptance, CaptureId, Fidelity, Origin, Placement, UnixMillis, WireText},
    wire::watch::{CopyId, Form, Found, Message, Place},
};

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
enum Uncopied {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the journal did not sync in time")]
    Late,
    #[error("the watcher lost track")]
    Lost,
    #[error("more messages in one command, or more words before one, than are followed")]
    Beyond,
}

/// The open copies of one session.
pub(super) struct Copies {
    mailbox: Arc<Mailbox>,
    session: String,
    /// One or two, mostly none at all.
    open: Mutex<Vec<(CopyId, Open)>>,
    unsettled: Unsettled,
}

enum Open {
    Copying(Box<Copying>),
    /// On its way to the disk: who waits for that has it. Taken out of here meanwhile, it comes to nothing.
    Writing {
        name: Name,
        is_saved: bool,
    },
    /// There will be none, and why.
    Failed {
        name: Name,
        is_saved: bool,
        cause: Uncopied,
    },
    /// There is one already, or it is on its way.
    Known(Key),
}

struct Copying {
    name: Name,
    is_saved: bool,
    form: Form,
    part: Part,
}

/// A whole message that is in the mailbox.
pub(super) struct Ended {
    copying: Box<Copying>,
    pending: Pending,
    /// By its number in the mailbox, where that is known.
    key: Option<Key>,
    placement: Placement,
}

/// The capture that a copy becomes.
#[derive(Clone, Copy)]
struct Name {
    id: CaptureId,
    began: UnixMillis,
}

impl Copying {
    fn failed(&self, error: JournalError) -> Open {
        Open::Failed {
            name: self.name,
            is_saved: self.is_saved,
            cause: error.into(),
        }
    }
}

impl Ended {
    /// A client waits to hear that it is safe.
    pub(super) fn is_saved(&self) -> bool {
        self.copying.is_saved
    }
}

impl Open {
    fn is_saved(&self) -> bool {
        match self {
            Self::Copying(copying) => copying.is_saved,
            Self::Writing { is_saved, .. } | Self::Failed { is_saved, .. } => *is_saved,
            Self::Known(_) => false,
        }
    }
}

impl Copies {
    pub(super) fn new(mailbox: Arc<Mailbox>, session: String) -> Self {
        Self {
            mailbox,
            session,
            open: Mutex::default(),
            unsettled: Unsettled::new(),
        }
    }

    /// Whether every whole message that has passed is durable, known to be so, or a gap.
    pub(super) fn are_settled(&self) -> bool {
        self.unsettled.is_empty()
    }

    /// Until they are: `capture_timeout` at most, once the messages were handed on.
    pub(super) async fn settled(&self) {
        self.unsettled.none().await;
    }

    /// Whether a client waits to hear that its message is safe.
    pub(super) fn has_saved(&self) -> bool {
        self.open.lock().iter().any(|(_, open)| open.is_saved())
    }

    fn take(&self, copy: CopyId) -> Option<Open> {
        let mut all = self.open.lock();
        let at = all.iter().position(|(id, _)| *id == copy)?;
        let (_, open) = all.swap_remove(at);
        if all.is_empty() {
            *all = Vec::new();
        }
        Some(open)
    }

    fn put(&self, copy: CopyId, open: Open) {
        self.open.lock().push((copy, open));
    }

    pub(super) fn begin(&self, copy: CopyId, message: &Message, place: &Place) {
        let is_saved = matches!(message, Message::Saved { .. });
        let form = match message {
            Message::Read { form, .. } => *form,
            Message::Saved { .. } => Form::AsItLies,
        };
        let open = if let Some(key) = self.known(message, place) {
            Open::Known(key)
        } else {
            let (id, began) = copy::next_id();
            let name = Name { id, began };
            match self.part(message) {
                Ok(part) => Open::Copying(Box::new(Copying {
                    name,
                    is_saved,
                    form,
                    part,
                })),
                Err(error) => Open::Failed {
                    name,
                    is_saved,
                    cause: error.into(),
                },
            }
        };
        self.put(copy, open);
    }

    fn part(&self, message: &Message) -> Result<Part, JournalError> {
        let (journal, patience) = (&self.mailbox.journal, self.mailbox.options.limits.capture);
        match message {
            // It may turn out to be known.
            Message::Read {
                bytes: Some(bytes), ..
            } => Part::begin_late(journal, patience, *bytes),
            _ => Part::begin(journal, patience),
        }
    }

    /// The name by which it is known.
    fn known(&self, message: &Message, place: &Place) -> Option<Key> {
        let Message::Read { uid: Some(uid), .. } = message else {
            return None;
        };
        let key = key_of(place, place.folder.as_ref(), place.uid_validity, Some(*uid));
        key.filter(|&key| self.mailbox.known.has(key))
    }

    /// The next bytes of a message, where nothing has to be waited for; false: they must be [written](Self::write).
    pub(super) fn write_held(&self, copy: CopyId, bytes: &[u8]) -> bool {
        let mut all = self.open.lock();
        let open = all.iter_mut().find(|(id, _)| *id == copy);
        let Some((_, open)) = open else {
            return true;
        };
        let Open::Copying(copying) = open else {
            return true;
        };
        match copying.part.write_held(bytes) {
            Ok(is_held) => is_held,
            Err(error) => {
                *open = copying.failed(error);
                true
            }
        }
    }

    /// The next bytes of a message.
    pub(super) async fn write(&self, copy: CopyId, bytes: &[u8]) {
        let mut copying = {
            let mut all = self.open.lock();
            let Some((_, open)) = all.iter_mut().find(|(id, _)| *id == copy) else {
                return;
            };
            let Open::Copying(copying) = open else {
                return;
            };
            let (name, is_saved) = (copying.name, copying.is_saved);
            match std::mem::replace(open, Open::Writing { name, is_saved }) {
                Open::Copying(copying) => copying,
                _ => return,
            }
        };
        let written = match copying.part.write(bytes).await {
            Ok(()) => Open::Copying(copying),
            Err(error) => copying.failed(error),
        };
        // The other direction may have given it up.
        let mut all = self.open.lock();
        if let Some((_, open)) = all.iter_mut().find(|(id, _)| *id == copy) {
            *open = written;
        }
    }

    /// A message was saved that there never was a copy of.
    pub(super) fn passed_uncopied(&self) {
        let (id, began) = copy::next_id();
        self.gap(Name { id, began }, &Uncopied::Beyond);
    }

    /// The server, or the client, gave it up.
    pub(super) fn drop_one(&self, copy: CopyId) {
        let open = self.take(copy);
        if open.is_some_and(|open| open.is_saved()) {
            self.count("rejected");
        }
    }

    /// The session is over.
    pub(super) fn drop_all(&self) {
        for (_, open) in std::mem::take(&mut *self.open.lock()) {
            if open.is_saved() {
                self.count("aborted");
            }
        }
    }

    /// Nobody knows any more which message is which.
    pub(super) fn lose_all(&self) {
        for (_, open) in std::mem::take(&mut *self.open.lock()) {
            let name = match &open {
                Open::Copying(copying) => copying.name,
                Open::Writing { name, .. } | Open::Failed { name, .. } => *name,
                Open::Known(_) => continue,
            };
            if open.is_saved() {
                self.gap(name, &Uncopied::Lost);
            }
        }
    }

    /// The message is in the mailbox. None: nothing is left to do; else it must be [committed](Self::commit_saved).
    pub(super) fn end(&self, copy: CopyId, found: Found, place: &Place) -> Option<Ended> {
        match self.take(copy)? {
            Open::Copying(copying) => Some(Ended {
                copying,
                pending: self.unsettled.pending(&self.mailbox.pending),
                key: key_of(place, Some(&found.folder), found.uid_validity, found.uid),
                placement: Placement {
                    account: place.user.clone().unwrap_or_default(),
                    folder: found.folder,
                    uid: found.uid,
                    uid_validity: found.uid_validity,
                    flags: found.flags,
                    internal_date: found.internal_date,
                },
            }),
            // A server that answers before it has heard all of it.
            Open::Writing { name, .. } => {
                self.gap(name, &Uncopied::Lost);
                None
            }
            Open::Failed { name, cause, .. } => {
                self.gap(name, &cause);
                None
            }
            Open::Known(key) => {
                self.knows(key);
                None
            }
        }
    }

    /// Somebody has copied it, or is about to.
    fn knows(&self, key: Key) {
        self.mailbox.under_way.join(key, &self.unsettled);
        self.count("known");
    }

    /// When a message that is committed now is a gap.
    pub(super) fn too_late(&self) -> Instant {
        Instant::now() + self.mailbox.options.limits.capture
    }

    /// Of a message that was saved the copy is durable when this returns, or there is a gap.
    pub(super) async fn commit_saved(&self, ended: Ended) {
        let too_late = self.too_late();
        if let Some((made, part, placement)) = self.make(ended) {
            made.commit(part, placement, too_late).await;
        }
    }

    /// One that was read is copied by a task of its own, which outlives the session, and is a gap if that has not come to
    /// its end at `too_late`. Where too many are on their way, what is returned waits until this one begins.
    pub(super) fn commit_read(
        &self,
        ended: Ended,
        too_late: Instant,
    ) -> Option<oneshot::Receiver<()>> {
        let (made, part, placement) = self.make(ended)?;
        let tasks = &self.mailbox.tasks;
        let commits = self.mailbox.commits.clone();
        if let Ok(room) = commits.clone().try_acquire_owned() {
            tasks.spawn(async move {
                made.commit(part, placement, too_late).await;
                drop(room);
            });
            return None;
        }
        let (begins, begun) = oneshot::channel();
        tasks.spawn(async move {
            match timeout_at(too_late, commits.acquire_owned()).await {
                Ok(room) => {
                    drop(begins);
                    made.commit(part, placement, too_late).await;
                    drop(room);
                }
                Err(_) => made.fail(&Uncopied::Late),
            }
        });
        Some(begun)
    }

    /// None: it is known.
    fn make(&self, ended: Ended) -> Option<(Made, Part, Placement)> {
        let Copying {
            name,
            is_saved,
            form,
            part,
        } = *ended.copying;
        let (number, placement, pending) = (ended.key, ended.placement, ended.pending);
        let key = match number {
            Some(key) if form == Form::AsItLies => Some(key),
            // The message itself is not known by it: another client may yet show it as it lies there.
            _ if !is_saved => Some(Key::of_content(
                placement.account.as_bytes(),
                placement.folder.as_bytes(),
                &part.digest(),
            )),
            _ => None,
        };
        let known = &self.mailbox.known;
        let mut names = [number, key].into_iter().flatten();
        if !is_saved && let Some(key) = names.find(|&key| known.has(key)) {
            self.knows(key);
            return None;
        }
        // Before there is one: two sessions that read it at the same time make one copy.
        if let Some(key) = key {
            self.mailbox.under_way.begins(key);
            known.insert(key);
        }
        let made = Made {
            mailbox: self.mailbox.clone(),
            session: self.session.clone(),
            name,
            key,
            is_saved,
            form,
            _pending: pending,
        };
        Some((made, part, placement))
    }

    fn count(&self, outcome: &'static str) {
        let mailbox = &self.mailbox;
        mailbox.metrics.captured(&mailbox.options.name, outcome);
    }

    fn gap(&self, name: Name, cause: &Uncopied) {
        gap(&self.mailbox, &self.session, name, cause);
    }
}

fn key_of(
    place: &Place,
    folder: Option<&WireText>,
    uid_validity: Option<u32>,
    uid: Option<u32>,
) -> Option<Key> {
    let user = place.user.as_ref()?.as_bytes();
    Some(Key::of_uid(user, folder?.as_bytes(), uid_validity?, uid?))
}

fn gap(mailbox: &Mailbox, session: &str, name: Name, cause: &Uncopied) {
    let (frontend, id) = (&mailbox.options.name, name.id);
    warn!(%frontend, session, capture = %id, %cause, "passed uncopied");
    mailbox.metrics.captured(frontend, "gap");
}

/// A whole message on its way into the journal.
struct Made {
    mailbox: Arc<Mailbox>,
    session: String,
    name: Name,
    /// Known from now on, if it comes to a copy.
    key: Option<Key>,
    is_saved: bool,
    form: Form,
    _pending: Pending,
}

impl Made {
    async fn commit(self, part: Part, placement: Placement, too_late: Instant) {
        let whole = part.finish();
        let began = Instant::now();
        let options = &self.mailbox.options;
        let bytes = whole.bytes();
        let shown = match self.form {
            Form::AsItLies => None,
            Form::Decoded => Some(Fidelity::Decoded),
            Form::Joined => Some(Fidelity::Joined),
        };
        let read = (!self.is_saved).then_some(Fidelity::AfterDelivery);
        let fidelity = read.into_iter().chain(shown).collect();
        let seen = Seen {
            id: self.name.id,
            captured_at: self.name.began,
            frontend: options.name.clone(),
            protocol: options.protocol,
            session: self.session.clone(),
            origin: Origin::Placement(placement),
            fidelity,
            discard_unheard: false,
        };
        let captured = match timeout_at(too_late, whole.commit(seen)).await {
            Ok(Ok(captured)) => captured,
            Ok(Err(error)) => return self.fail(&error.into()),
            Err(_) => return self.fail(&Uncopied::Late),
        };
        self.succeed(captured, bytes, began);
    }

    fn succeed(self, captured: Captured, bytes: u64, began: Instant) {
        let (metrics, name) = (&self.mailbox.metrics, &self.mailbox.options.name);
        captured.release(Acceptance::NotAsked);
        info!(frontend = %name, session = %self.session, capture = %self.name.id, bytes, saved = self.is_saved, "captured");
        let seconds = began.elapsed().as_secs_f64();
        metrics
            .capture_seconds
            .with_label_values(&[name])
            .observe(seconds);
        metrics
            .captured_bytes_total
            .with_label_values(&[name])
            .inc_by(bytes);
        metrics.captured(name, "captured");
    }

    fn fail(self, cause: &Uncopied) {
        self.key.inspect(|&key| self.mailbox.known.remove(key));
        gap(&self.mailbox, &self.session, self.name, cause);
    }
}

impl Drop for Made {
    /// Durable or a gap: whoever else has read it need not wait any more.
    fn drop(&mut self) {
        self.key.inspect(|&key| self.mailbox.under_way.ended(key));
    }
}

/// The next session's name in logs and sightings.
pub(super) fn session_id(mailbox: &Mailbox) -> String {
    let serial = &mailbox.metrics.session_serial;
    let serial = serial.fetch_add(1, Ordering::Relaxed);
    format!("{:x}.{serial:x}", mailbox.started.0 / 1000)
}
