//! The relay: server to the client, client to the next hop, one machine.
//!
//! Every command goes on as it came, several in one read go out in one write, and a queue of awaited replies says what
//! each reply is about. What a reply changes is changed when it arrives, in its order, so the envelope is the next
//! hop's truth and not the client's hope. At the end of data the relay stops (`hold_end`) until the shell has said that
//! the copy is safe; only then does the next hop hear the end.
//!
//! The shell calls `receive_*`, carries out each [`Step`], writes `to_client` and `to_upstream` and takes `copy` away.
//! While a step waits for its answer, and at each `barrier`, bytes stay unread and the peer waits: no buffer grows.

mod chunks;
mod commands;
mod content;
mod ehlo;
mod kept;
mod opening;
mod replies;
mod transaction;

pub use content::Copied;
pub use kept::Kept;

use std::{collections::VecDeque, sync::Arc};

use super::{
    Dialect, Role,
    answer::Failure,
    content::{ChunkDecoder, DataDecoder, Stuffer},
    reply,
};
use crate::{
    message::{Client, Envelope, TlsFacts, WireText},
    wire::sasl::AuthWatch,
};
use transaction::{Content, Transaction};

/// Commands that await their replies at once, at most: a client may not fill the queue of them.
const AWAITED_MAX: usize = 1000;
/// What the recipients of one transaction may take together, their refusals included: many times 50,000 usual ones.
const RECIPIENT_BYTES_MAX: usize = 16 << 20;
/// What is kept of the reply that refused a recipient.
const REFUSAL_BYTES_MAX: usize = 512;

/// What the operator chose for a front end.
#[derive(Clone, Debug)]
pub struct Rules {
    pub dialect: Dialect,
    pub role: Role,
    /// Our name, where we greet for ourselves.
    pub hostname: String,
    /// The next hop hears the end of data only after the copy is safe (`on_capture_failure = "tempfail"`).
    pub hold_end: bool,
    /// We have a certificate: STARTTLS is announced to clients.
    pub starttls: bool,
    /// The next hop must speak STARTTLS before anything else.
    pub upstream_starttls: bool,
    /// A connection to the next hop may serve one session after another ([`Relay::leave`]).
    pub keep_upstream: bool,
    pub tell_client: TellClient,
    pub line_bytes_max: usize,
    pub recipients_max: usize,
    /// 0: no limit of ours.
    pub message_bytes_max: u64,
}

/// How the next hop learns who the client is, where it cannot see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TellClient {
    No,
    /// With XFORWARD before each message: for the log and the copy.
    Xforward,
    /// With XCLIENT before the greeting: for the next hop's access rules too.
    Xclient,
}

/// What the shell has to do. Steps marked * are answered before the relay reads on.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// * Content follows in `copy`: [`Relay::copy_begun`].
    BeginCopy,
    /// * The content was whole. Sync it, then [`Relay::copy_ended`]; the sighting's facts are in [`Relay::take_ended`].
    EndCopy,
    /// No copy is wanted; the outcome, as in [`crate::metrics::CAPTURE_OUTCOMES`].
    DropCopy(&'static str),
    /// What the next hop said to the message whose copy ended.
    Fate(Fate),
    /// Close the connection to the next hop now, without a word.
    DropUpstream,
    /// * Write `to_client` out, then the TLS handshake as server: [`Relay::client_secured`].
    SecureClient,
    /// * The TLS handshake as client: [`Relay::upstream_secured`].
    SecureUpstream,
    /// To be counted and logged.
    Failed(Failure),
}

/// The next hop's verdict on a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// At least one recipient has it. The reply, for LMTP one line a recipient.
    Accepted(Vec<u8>),
    Rejected(Vec<u8>),
    /// It never came.
    Unknown,
}

/// The facts of a message whose content is complete.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ended {
    pub envelope: Envelope,
    pub client: Client,
    /// Bare CR or LF were replaced.
    pub replaced: bool,
    pub bytes: u64,
}

/// What the client's next bytes are.
#[derive(Debug)]
enum Input {
    Commands,
    /// A line in answer to a 334.
    Dialogue,
    /// The rest of a line that was too long.
    Overlong,
    Data(Box<(DataDecoder, Stuffer)>),
    Chunk(chunks::Chunk),
}

/// Why the client's bytes are not looked at just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Barrier {
    None,
    /// Until the greeting has been said.
    Greeting,
    /// Until no reply is awaited.
    Replies,
    /// Until only the reply to the last chunk is awaited: then the envelope is complete.
    LastChunk,
}

/// Whose reply comes next, and what it is about.
#[derive(Debug)]
enum Awaited {
    Opening(opening::Opening),
    Hello {
        name: WireText,
        verb: &'static str,
        line: Vec<u8>,
    },
    Mail(Box<transaction::Sender>),
    Rcpt(crate::message::Recipient),
    Data,
    /// So many replies to the end of data.
    Content(usize),
    Chunk,
    LastChunk(usize),
    Rset,
    Auth,
    Xforward(Vec<u8>),
    Xclient(Vec<u8>),
    Quit,
    Noop,
    Other,
    /// To a command of ours; the client does not hear it.
    Ours,
    /// Our own reply, in its place.
    Local(Vec<u8>),
    /// XFORWARD, taken by us alone.
    LocalXforward(Vec<u8>),
}

/// What the next hop can do, as its latest EHLO reply said.
#[derive(Clone, Debug, Default)]
struct NextHop {
    chunking: bool,
    starttls: bool,
    /// The attributes that it takes.
    xforward: Option<Vec<u8>>,
    xclient: Option<Vec<u8>>,
}

/// See the module's head.
#[derive(Debug)]
pub struct Relay {
    rules: Arc<Rules>,
    /// To be written to the client; the shell empties it.
    pub to_client: Vec<u8>,
    /// To be written to the next hop; the shell empties it.
    pub to_upstream: Vec<u8>,
    /// Content for the copy, as decoded; the shell empties it.
    pub copy: Vec<u8>,
    steps: VecDeque<Step>,
    awaited: VecDeque<Awaited>,

    // connection
    client: Client,
    trusted: bool,
    upstream_tls: bool,
    upstream_gone: bool,
    client_gone: bool,
    closing: bool,
    next_hop: NextHop,
    /// Where the connection to the next hop may outlive the session.
    kept: Option<Box<Kept>>,
    /// On a connection that an earlier session left, and nothing said on it yet.
    resumed: bool,

    // reading
    input: Input,
    barrier: Barrier,
    /// A step waits for its answer.
    suspended: bool,
    line: Vec<u8>,
    /// `line` is whole and waits for a barrier.
    line_waits: bool,
    partial_reply: Vec<u8>,
    /// The 354 while the copy is begun, then nothing.
    held_reply: Vec<u8>,
    /// The end of the last chunk, while the copy is synced.
    held_end: Vec<u8>,

    // authenticated
    auth: Option<AuthWatch>,

    // transaction
    transaction: Transaction,
    content: Content,
    /// A command that ends the transaction came in the middle of its chunks: if it is done, they are void.
    chunks_void_if_done: bool,
    /// What XFORWARD said for this transaction, in the client's place.
    forwarded: Option<Box<Client>>,
    told_client: bool,
    /// RCPT commands passed on in this transaction, answered or not, and what is kept of them.
    named: usize,
    named_bytes: usize,
    /// The code of the next hop's latest reply.
    last_code: u16,
    /// The next hop knows no hello of this dialect.
    hello_unknown: bool,
    /// Ours, in the place of an accepting next hop's (protocol `journal`).
    own_reply: Option<Vec<u8>>,
    fate_replies: Vec<u8>,
    fate_accepted: bool,
}

impl Relay {
    /// `client` is the peer as the connection shows it; `trusted`: it may use XFORWARD and XCLIENT.
    pub fn new(rules: Arc<Rules>, client: Client, trusted: bool, upstream_tls: bool) -> Self {
        Self {
            rules,
            to_client: Vec::new(),
            to_upstream: Vec::new(),
            copy: Vec::new(),
            steps: VecDeque::new(),
            awaited: VecDeque::from([Awaited::Opening(opening::Opening::Greeting)]),
            client,
            trusted,
            upstream_tls,
            upstream_gone: false,
            client_gone: false,
            closing: false,
            next_hop: NextHop::default(),
            kept: None,
            resumed: false,
            input: Input::Commands,
            barrier: Barrier::Greeting,
            suspended: false,
            line: Vec::new(),
            line_waits: false,
            partial_reply: Vec::new(),
            held_reply: Vec::new(),
            held_end: Vec::new(),
            auth: None,
            transaction: Transaction::default(),
            content: Content::default(),
            chunks_void_if_done: false,
            forwarded: None,
            told_client: false,
            named: 0,
            named_bytes: 0,
            last_code: 0,
            hello_unknown: false,
            own_reply: None,
            fate_replies: Vec::new(),
            fate_accepted: false,
        }
    }

    /// The next thing for the shell to do; `None`: it wants more bytes.
    pub fn poll(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// May client bytes be read now?
    pub fn takes_client(&self) -> bool {
        !self.suspended
            && !self.closing
            && !self.client_gone
            && self.barrier == Barrier::None
            && self.awaited.len() < AWAITED_MAX
    }

    /// May bytes of the next hop be read now?
    pub fn takes_upstream(&self) -> bool {
        !self.suspended && !self.closing && !self.upstream_gone
    }

    /// Write out `to_client`, then close both connections.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Has the next hop greeted, and known each hello that the client said? If not, it may speak another protocol, or lack
    /// the TLS that is asked of it.
    pub fn is_understood(&self) -> bool {
        self.barrier != Barrier::Greeting && !self.hello_unknown
    }

    /// Is the next hop to say something?
    pub fn awaits_upstream(&self) -> bool {
        !self.upstream_gone && !self.awaited.is_empty()
    }

    /// Is what it is to say the answer to a whole message? That one may take long.
    pub fn awaits_fate(&self) -> bool {
        matches!(
            self.awaited.front(),
            Some(Awaited::Content(_) | Awaited::LastChunk(1..))
        )
    }

    /// Between messages: nothing is lost by ending the session here.
    pub fn is_idle(&self) -> bool {
        self.awaited.is_empty()
            && !self.suspended
            && !self.transaction.open
            && self.content.chunks.is_none()
            && matches!(self.input, Input::Commands)
    }

    /// The client's words up to now, as the copy's client.
    pub fn client(&self) -> &Client {
        self.forwarded.as_deref().unwrap_or(&self.client)
    }

    /// The client has closed its side. What it asked for is still carried out; content without its end is not.
    pub fn client_ended(&mut self) {
        self.client_gone = true;
        match self.input {
            Input::Data(_) | Input::Chunk(_) => self.abandon(),
            _ if self.awaited.is_empty() && !self.suspended => self.close(),
            _ => {}
        }
    }

    /// The session ends; chunks without a last one are no message.
    fn close(&mut self) {
        self.drop_content();
        self.closing = true;
    }

    fn drop_content(&mut self) {
        if self.content.copying {
            self.copy.clear();
            self.steps.push_back(Step::DropCopy("aborted"));
        }
        self.content = Content::default();
    }

    /// The client can no longer be written to. A message whose end the next hop has heard still gets its fate.
    pub fn client_lost(&mut self) {
        self.to_client.clear();
        self.client_ended();
        if !self.awaits_fate() && !self.suspended && !self.closing {
            self.close();
        }
    }

    fn abandon(&mut self) {
        self.close();
        self.drop_upstream();
    }

    /// The connection to the next hop failed, ended or fell silent.
    pub fn upstream_failed(&mut self, failure: Failure) {
        if self.upstream_gone {
            return;
        }
        self.drop_upstream();
        let said_goodbye = self.last_code == 421 || self.last_code == 221;
        if said_goodbye && self.awaited.is_empty() {
            return self.close();
        }
        if let Input::Data(_) | Input::Chunk(_) = self.input {
            if self.content.spoiled.is_none() {
                self.spoil(Failure::UpstreamLostInMessage, None);
            }
            return;
        }
        self.steps.push_back(Step::Failed(failure));
        if let Some(Awaited::Content(replies) | Awaited::LastChunk(replies @ 1..)) =
            self.awaited.front()
        {
            for _ in 0..*replies {
                let reply = Failure::UpstreamLostInMessage.with_id(None);
                self.to_client.extend_from_slice(reply.as_bytes());
            }
            self.steps.push_back(Step::Fate(Fate::Unknown));
        } else {
            self.to_client
                .extend_from_slice(failure.with_id(None).as_bytes());
        }
        self.awaited.clear();
        self.close();
    }

    /// Ends the session from our side: a limit was reached, or we shut down.
    pub fn stop(&mut self, failure: Failure) {
        if self.closing {
            return;
        }
        self.steps.push_back(Step::Failed(failure));
        if self.awaits_fate() {
            self.steps.push_back(Step::Fate(Fate::Unknown));
        }
        self.drop_upstream();
        self.to_client
            .extend_from_slice(failure.with_id(None).as_bytes());
        self.close();
    }

    /// After STARTTLS: the session begins anew (RFC 3207 section 4.2), on the next hop's side as well.
    pub fn client_secured(&mut self, facts: Option<TlsFacts>) {
        self.suspended = false;
        self.client.tls = facts;
        self.client.helo = None;
        self.client.protocol = None;
        self.client.login = None;
        self.forwarded = None;
        self.to_upstream.extend_from_slice(b"RSET\r\n");
        self.awaited.push_back(Awaited::Ours);
        self.transaction = Transaction::default();
    }

    fn drop_upstream(&mut self) {
        if !self.upstream_gone {
            self.upstream_gone = true;
            self.to_upstream.clear();
            self.partial_reply.clear();
            self.steps.push_back(Step::DropUpstream);
        }
    }

    /// Our own reply, behind those of the next hop that are due before it.
    fn answer(&mut self, reply: Vec<u8>) {
        if self.awaited.is_empty() {
            self.to_client.extend_from_slice(&reply);
        } else {
            self.awaited.push_back(Awaited::Local(reply));
        }
    }

    fn refuse(&mut self, failure: Failure) {
        if failure.reason().is_some() {
            self.steps.push_back(Step::Failed(failure));
        }
        self.answer(failure.with_id(None).into_bytes());
    }

    fn refuse_and_close(&mut self, failure: Failure) {
        self.steps.push_back(Step::Failed(failure));
        self.drop_upstream();
        self.awaited.clear();
        self.to_client
            .extend_from_slice(failure.with_id(None).as_bytes());
        self.close();
    }
}
