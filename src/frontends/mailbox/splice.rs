//! The session going through: both directions at once, each at its own pace, each shown to the watcher before it is
//! handed on.
//!
//! What the watcher wants done is done in the order in which it says so, and bytes that pass are written from the buffer
//! that they were read into. Only what interests both directions ends this: TLS for the client, another server, the end.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use super::{
    Mailbox,
    copies::{Copies, Ended},
    leg::Leg,
    onward::Onward,
};
use crate::{
    message::WireText,
    net::{Address, Peer},
    wire::{
        sasl::overwrite,
        watch::{Hint, Step, Watch},
    },
};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// What both directions must stop for.
pub(super) enum Turn {
    /// Hand the reply over, and shake hands.
    StartTls {
        reply: Vec<u8>,
    },
    /// Connect there, say `before` and hear the answer, then say `then`; what the client has said behind it waits.
    Switch {
        address: Address,
        before: Vec<u8>,
        then: Vec<u8>,
        waiting: Vec<u8>,
    },
    End(End),
}

/// How a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The server closed the connection: it has said all.
    Server,
    /// The daemon shuts down, and nothing is under way; what may be said last.
    Stopped(&'static [u8]),
    Idle,
    Lost(Side, io::Error),
    /// TLS and another server are wanted at once.
    Confused,
}

/// What one session holds, besides its connections.
pub(super) struct Splice {
    mailbox: Arc<Mailbox>,
    session: String,
    peer: Peer,
    watcher: Mutex<Box<dyn Watch + Send>>,
    copies: Copies,
    began: Instant,
    /// When a byte last came, in milliseconds after `began`.
    moved: AtomicU64,
    /// A direction is between a read and the end of the write that belongs to it.
    client_busy: AtomicBool,
    server_busy: AtomicBool,
    /// The server has said something.
    answered: Notify,
    /// The client has said its secret: what it says before that is overwritten as soon as it is handed on.
    is_let_in: AtomicBool,
    /// A login was refused for want of TLS.
    has_withheld: AtomicBool,
    /// Where the session's server is, if it is not the front end's own.
    server: Mutex<Option<Address>>,
}

/// What one direction came to.
enum Came {
    Turn(Turn),
    /// The one that spoke has closed its side.
    Ended,
}

impl Splice {
    pub(super) fn new(
        mailbox: Arc<Mailbox>,
        session: String,
        peer: Peer,
        watcher: Box<dyn Watch + Send>,
    ) -> Self {
        Self {
            copies: Copies::new(mailbox.clone(), session.clone()),
            mailbox,
            session,
            peer,
            watcher: Mutex::new(watcher),
            began: Instant::now(),
            moved: AtomicU64::new(0),
            client_busy: AtomicBool::new(false),
            server_busy: AtomicBool::new(false),
            answered: Notify::new(),
            is_let_in: AtomicBool::new(false),
            has_withheld: AtomicBool::new(false),
            server: Mutex::default(),
        }
    }

    /// The client's leg has TLS now.
    pub(super) fn secured(&self) {
        self.watcher.lock().secured();
    }

    /// What was under way comes to nothing.
    pub(super) fn finish(&self) {
        self.copies.drop_all();
    }

    /// Until something comes that concerns both directions. `said` is what the client and the server have said already.
    pub(super) async fn carry(&self, client: &Leg, server: &Leg, said: [Vec<u8>; 2]) -> Turn {
        let [waiting, greeting] = said;
        let mut up = pin!(self.direction(Side::Client, client, server, waiting));
        let mut down = pin!(self.direction(Side::Server, server, client, greeting));
        let mut idle = pin!(self.idle());
        let mut stopped = pin!(self.mailbox.stop.cancelled());
        let (mut client_ended, mut is_stopping) = (false, false);
        let (mut turn, mut lost) = (None, None);
        poll_fn(|cx| {
            if !client_ended
                && turn.is_none()
                && let Poll::Ready(came) = up.as_mut().poll(cx)
            {
                match came {
                    // What it asked for may still come.
                    Ok(Came::Ended) => client_ended = true,
                    Ok(Came::Turn(wanted)) => turn = Some(wanted),
                    // It takes no more of it, and may have said why.
                    Err(End::Lost(Side::Server, cause)) => {
                        (client_ended, lost) = (true, Some(cause));
                    }
                    Err(end) => return Poll::Ready(Turn::End(end)),
                }
            }
            if let Poll::Ready(came) = down.as_mut().poll(cx) {
                return Poll::Ready(match came {
                    Ok(Came::Ended) => Turn::End(match lost.take() {
                        Some(cause) => End::Lost(Side::Server, cause),
                        None => End::Server,
                    }),
                    Ok(Came::Turn(turn)) => turn,
                    // It has closed without reading that we would, as it may when the client has taken its leave.
                    Err(End::Lost(Side::Server, cause))
                        if client_ended && !self.copies.has_saved() =>
                    {
                        debug!(session = %self.session, %cause, "closed behind the client");
                        Turn::End(End::Server)
                    }
                    Err(end) => Turn::End(end),
                });
            }
            // Nothing of what the server says is lost: its direction only waits.
            if turn.is_some() && !self.server_busy.load(Relaxed) {
                return Poll::Ready(turn.take().expect("asked just above"));
            }
            is_stopping = is_stopping || stopped.as_mut().poll(cx).is_ready();
            if is_stopping && let Some(last) = self.farewell() {
                return Poll::Ready(Turn::End(End::Stopped(last)));
            }
            if idle.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Turn::End(End::Idle));
            }
            Poll::Pending
        })
        .await
    }

    fn farewell(&self) -> Option<&'static [u8]> {
        let busy = self.client_busy.load(Relaxed) || self.server_busy.load(Relaxed);
        match busy || self.copies.has_saved() {
            true => None,
            false => self.watcher.lock().farewell(),
        }
    }

    /// Returns when nothing has come from either side for too long.
    async fn idle(&self) {
        let limit = self.mailbox.options.limits.idle;
        loop {
            let end = self.began + Duration::from_millis(self.moved.load(Relaxed)) + limit;
            if Instant::now() >= end {
                return;
            }
            sleep_until(end).await;
        }
    }

    /// Waits until the server owes no answer. Unlike TCP, the end of TLS is for many servers the end of all: what was asked
    /// would be answered to nobody.
    async fn all_answered(&self) {
        self.client_busy.store(false, Relaxed);
        while self.watcher.lock().owes_answer() {
            self.answered.notified().await;
        }
    }

    fn busy(&self, side: Side) -> &AtomicBool {
        match side {
            Side::Client => &self.client_busy,
            Side::Server => &self.server_busy,
        }
    }

    /// One direction: what `from` says goes to `to`.
    async fn direction(
        &self,
        side: Side,
        from: &Leg,
        to: &Leg,
        mut buffer: Vec<u8>,
    ) -> Result<Came, End> {
        let busy = self.busy(side);
        loop {
            if buffer.is_empty() {
                busy.store(false, Relaxed);
                let read = from.read(&mut buffer).await;
                busy.store(true, Relaxed);
                let count = match read {
                    // TLS that ends without a word, as many end it: both protocols say by themselves when all is said.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
                    read => read.map_err(|error| End::Lost(side, error))?,
                };
                if count == 0 {
                    if side == Side::Client && to.has_tls() {
                        self.all_answered().await;
                    }
                    // To one that is gone already there is nothing to say.
                    let _ = to.shutdown().await;
                    busy.store(false, Relaxed);
                    return Ok(Came::Ended);
                }
                let since = self.began.elapsed().as_millis();
                self.moved.store(since as u64, Relaxed);
            }
            let shown = self.show(side, &buffer, from, to).await;
            let left = shown.as_ref().map_or(0, |(_, left)| *left);
            let said = buffer.len() - left;
            match self.is_secret(side) {
                true => forget(&mut buffer, said),
                false => drop(buffer.drain(..said)),
            }
            if let (Some(mut turn), _) = shown? {
                if let Turn::Switch { waiting, .. } = &mut turn {
                    *waiting = buffer;
                }
                busy.store(false, Relaxed);
                return Ok(Came::Turn(turn));
            }
            match side {
                // What is left means one thing or another by what the server says next.
                Side::Client if left > 0 => self.answered.notified().await,
                Side::Client => {}
                Side::Server => self.answered.notify_one(),
            }
        }
    }

    /// May there be a secret in what this side says?
    fn is_secret(&self, side: Side) -> bool {
        side == Side::Client && !self.is_let_in.load(Relaxed)
    }

    /// Shows the watcher what came, and does what it wants. Also how many bytes at the end it wants to see again.
    async fn show(
        &self,
        side: Side,
        buffer: &[u8],
        from: &Leg,
        to: &Leg,
    ) -> Result<(Option<Turn>, usize), End> {
        let mut read = Vec::new();
        let shown = self.hand_on(side, buffer, from, to, &mut read).await;
        // Nobody waits for those: the other side hears all of it first.
        if !read.is_empty() {
            let too_late = self.copies.too_late();
            // All of them, before anything is waited for: what passed has its copy though the session may end meanwhile.
            let begin = |ended| self.copies.commit_read(ended, too_late);
            let waits: Vec<_> = read.into_iter().filter_map(begin).collect();
            for begun in waits {
                let _ = begun.await;
            }
        }
        shown
    }

    /// All of [`show`](Self::show) but for the copies of messages that were `read`.
    async fn hand_on(
        &self,
        side: Side,
        buffer: &[u8],
        from: &Leg,
        to: &Leg,
        read: &mut Vec<Ended>,
    ) -> Result<(Option<Turn>, usize), End> {
        let mut on = Onward::new(side, buffer, to);
        let mut input = buffer;
        loop {
            let step = {
                let mut watcher = self.watcher.lock();
                match side {
                    Side::Client => watcher.client(&mut input),
                    Side::Server => watcher.server(&mut input),
                }
            };
            match step {
                None => return Ok((on.finish().await?, input.len())),
                Some(Step::Pass(bytes)) => on.pass(bytes).await?,
                Some(Step::Say(mut line)) => {
                    on.say(&line).await?;
                    if self.is_secret(side) {
                        overwrite(&mut line);
                    }
                }
                Some(Step::Reply(line)) => self.reply(side, from, &line).await?,
                Some(Step::Withhold { reply }) => {
                    self.withheld();
                    self.reply(side, from, &reply).await?;
                }
                Some(Step::StartTls { reply }) => {
                    on.turn(Turn::StartTls { reply });
                    // What follows in the same packet is from nobody knows whom.
                    return Ok((on.finish().await?, 0));
                }
                Some(Step::Login { user, before }) => {
                    if let Some(address) = self.other_server(&user) {
                        debug!(session = %self.session, user = %user.to_text(), %address, "another server");
                        on.flush().await?;
                        on.turn(Turn::Switch {
                            address,
                            before,
                            then: Vec::new(),
                            waiting: Vec::new(),
                        });
                    }
                }
                Some(Step::Settle) if self.copies.are_settled() => {}
                Some(Step::Settle) => {
                    on.flush().await?;
                    Box::pin(self.copies.settled()).await;
                }
                // Boxed, where something is waited for: an idle session should be small.
                Some(Step::Content { copy, bytes }) => {
                    if !self.copies.write_held(copy, &bytes) {
                        Box::pin(self.copies.write(copy, &bytes)).await;
                    }
                }
                Some(Step::Commit { copy, found }) => {
                    let ended = self.copies.end(copy, found, self.watcher.lock().place());
                    match ended {
                        Some(ended) if ended.is_saved() => {
                            Box::pin(self.copies.commit_saved(ended)).await;
                        }
                        ended => read.extend(ended),
                    }
                }
                Some(step) => self.note(step),
            }
        }
    }

    /// Back to the side that spoke.
    async fn reply(&self, side: Side, from: &Leg, line: &[u8]) -> Result<(), End> {
        // What the server has said before it may still be on its way.
        while side == Side::Client && self.server_busy.load(Relaxed) {
            self.answered.notified().await;
        }
        let written = from.write(line).await;
        written.map_err(|error| End::Lost(side, error))
    }

    /// The server of this user, where it is not the one that the session has.
    fn other_server(&self, user: &WireText) -> Option<Address> {
        let options = &self.mailbox.options;
        let users = options.users.as_ref()?;
        let wanted = users.find(user).unwrap_or(options.upstream.address.clone());
        let mut server = self.server.lock();
        let current = server.as_ref().unwrap_or(&options.upstream.address);
        if *current == wanted {
            return None;
        }
        *server = Some(wanted.clone());
        Some(wanted)
    }

    /// What begins or ends copies, and what is to be counted.
    fn note(&self, step: Step<'_>) {
        match step {
            Step::Begin { copy, message } => {
                let watcher = self.watcher.lock();
                self.copies.begin(copy, &message, watcher.place());
            }
            Step::Drop { copy } => self.copies.drop_one(copy),
            Step::Uncopied => self.copies.passed_uncopied(),
            Step::Hint(hint) => self.hint(hint),
            Step::Lost { reason } => {
                warn!(frontend = %self.mailbox.options.name, session = %self.session, reason, "lost track: the session goes on, nothing more of it is copied");
                let labels = [self.mailbox.options.name.as_str(), reason];
                let lost = &self.mailbox.metrics.watcher_lost_total;
                lost.with_label_values(&labels).inc();
                self.copies.lose_all();
            }
            Step::Authenticated { user } => {
                self.is_let_in.store(true, Relaxed);
                let user = user.unwrap_or_default();
                debug!(session = %self.session, user = %user.to_text(), "let in");
            }
            // Those are for who carries the bytes, or waits.
            Step::Pass(_)
            | Step::Say(_)
            | Step::Reply(_)
            | Step::Withhold { .. }
            | Step::Settle
            | Step::StartTls { .. }
            | Step::Login { .. }
            | Step::Content { .. }
            | Step::Commit { .. } => {}
        }
    }

    /// A login was refused. Clients try again and again: the log has it once a session.
    fn withheld(&self) {
        const REASON: &str = "cleartext_login";
        let frontend = &self.mailbox.options.name;
        self.mailbox.metrics.session_error(frontend, REASON);
        if !self.has_withheld.swap(true, Relaxed) {
            warn!(%frontend, session = %self.session, peer = %self.peer, reason = REASON, "login refused: it would have shown its secret on a connection without TLS");
        }
    }

    fn hint(&self, hint: Hint) {
        let kind = hint.name();
        let labels = [self.mailbox.options.name.as_str(), kind];
        let signals = &self.mailbox.metrics.mailbox_signals_total;
        signals.with_label_values(&labels).inc();
        let watcher = self.watcher.lock();
        let text = |text: &Option<WireText>| {
            text.as_ref()
                .map_or(String::new(), |text| text.to_text().into_owned())
        };
        let (user, folder) = (text(&watcher.place().user), text(&watcher.place().folder));
        debug!(session = %self.session, kind, user, folder, "signal");
    }
}

/// Takes off the front what was said, and leaves no trace of it.
fn forget(buffer: &mut Vec<u8>, said: usize) {
    let left = buffer.len() - said;
    buffer.copy_within(said.., 0);
    overwrite(&mut buffer[left..]);
    buffer.truncate(left);
}
