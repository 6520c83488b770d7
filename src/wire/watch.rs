//! A watcher stands beside a talk between a mailbox client and its server (IMAP, POP3). It is shown what each side says and
//! answers with steps; whoever carries the bytes takes the steps in their order.
//!
//! Everything said is handed on as it came, but for the few lines that a proxy must change ([`Step::Say`]). A watcher never
//! fails: where it no longer knows what it sees, it says so once ([`Step::Lost`]) and hands on the rest of the session
//! blindly. It holds a bounded number of bytes, whatever comes.

use std::borrow::Cow;

use crate::message::{UnixMillis, WireText};

/// The watcher of one session, of one protocol.
pub trait Watch {
    /// What the client said. Takes bytes off the front of `input`; none: the next bytes are awaited. What is then left
    /// in `input` means this or that by what the server answers first (a literal, or the next command?): it waits, is
    /// neither handed on nor dropped, and this is asked again once the server's bytes have been shown.
    fn client<'a>(&mut self, input: &mut &'a [u8]) -> Option<Step<'a>>;

    /// What the server said, the greeting too.
    fn server<'a>(&mut self, input: &mut &'a [u8]) -> Option<Step<'a>>;

    /// The client's leg has TLS from here on: STARTTLS is no longer offered.
    fn secured(&mut self);

    /// Where the client is.
    fn place(&self) -> &Place;

    /// What may be said to the client now, in the server's name, before the connection is closed under it; nothing but the
    /// end of the connection where it is empty. None: something is under way, in either direction.
    fn farewell(&self) -> Option<&'static [u8]>;

    /// Has the client asked for something to its end, and the server still to answer it?
    fn owes_answer(&self) -> bool;
}

/// The proxy's own talk with the server, before there is a session: the greeting, TLS, who the client is.
pub trait Opening {
    /// What the server said.
    fn receive(&mut self, bytes: &[u8]);

    /// TLS stands; asked for by [`OpeningStep::StartTls`].
    fn secured(&mut self);

    fn poll(&mut self) -> OpeningStep;
}

/// What is to be done for an opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpeningStep {
    /// The server's next bytes are awaited.
    Wait,
    Send(Vec<u8>),
    /// Shake hands as a client; whatever came before that is forgotten.
    StartTls,
    /// The session begins, with this line as the server's greeting.
    Done {
        greeting: Vec<u8>,
    },
    Failed(OpeningError),
}

/// Why there is no session with this server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    #[error("no greeting of this protocol: {0}")]
    Greeting(String),
    #[error("the server offers no STARTTLS")]
    NoTls,
    #[error("the server refused STARTTLS: {0}")]
    TlsRefused(String),
    /// Somebody between us and the server may have put them there.
    #[error("bytes came between the server's answer to STARTTLS and TLS")]
    Injected,
    #[error("more than {0} bytes before a session")]
    TooLong(usize),
}

/// One message among those that a session copies at the same time. Used again only after it was committed or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CopyId(pub u32);

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// To the other side, as it came.
    Pass(&'a [u8]),
    /// To the other side, in place of what came: a line that was held back until it was whole, edited or not.
    Say(Vec<u8>),
    /// Back to the side that spoke, which the other side hears nothing of.
    Reply(Vec<u8>),
    /// Back to the client: a login that would have shown its secret. The server hears nothing of it.
    Withhold { reply: Vec<u8> },
    /// The client's next command can take messages out of the mailbox: none of it is handed on before every whole message
    /// that passed up to now is durable, or is a gap. All that the server was asked for before it has come.
    Settle,
    /// The client wants TLS now. Hand the reply over, forget whatever it sent behind the command, and shake hands.
    StartTls { reply: Vec<u8> },
    /// The client names itself. Comes before the bytes that do so are handed on: another server may be the right one, and
    /// that one must have heard `before` first (and have answered it with one line, where it is not empty).
    Login { user: WireText, before: Vec<u8> },
    /// The server has let this user in.
    Authenticated { user: Option<WireText> },
    /// A whole message begins.
    Begin { copy: CopyId, message: Message },
    /// Its next bytes, not to be handed on: those that were on the wire come, or came, as [`Step::Pass`].
    Content { copy: CopyId, bytes: Cow<'a, [u8]> },
    /// It is in the mailbox, and here it lies. A message that the client saves must be durable before anything that comes
    /// after this is handed on: the client is about to hear that it is safe.
    Commit { copy: CopyId, found: Found },
    /// There is no such message: the server refused it, or the client gave it up.
    Drop { copy: CopyId },
    /// A message that the client saved is in the mailbox, and passed without a copy.
    Uncopied,
    /// For the e-mail engine: this user's mailbox wants a look.
    Hint(Hint),
    /// The watcher is blind from here on, and why (a value of the label `reason`). Open copies are dropped.
    Lost { reason: &'static str },
}

/// Where a session is: which user, and which folder is selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// As the client named it; none while nobody is let in, or where the mechanism does not show it.
    pub user: Option<WireText>,
    /// As it stands in the protocol (modified UTF-7, or UTF-8 after ENABLE); `INBOX` in POP3. None: nothing is selected.
    pub folder: Option<WireText>,
    /// RFC 9051 section 2.3.1.1.
    pub uid_validity: Option<u32>,
}

/// How a server shows a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    #[default]
    AsItLies,
    /// Transfer encodings are undone (`BINARY[]`, RFC 3516): other bytes than those that lie in the mailbox.
    Decoded,
    /// Header and text by themselves. A server may end the one or the other with a line end of its own.
    Joined,
}

/// A whole message on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The client saves it (APPEND, REPLACE): the copy is kept if the server takes it.
    Saved { folder: WireText },
    /// The server shows it (FETCH, RETR): the copy is kept if it is new.
    Read {
        /// None: not said, or not yet.
        uid: Option<u32>,
        /// POP3's unique id (RFC 1939, UIDL), where the session has asked for it.
        uidl: Option<WireText>,
        /// As announced.
        bytes: Option<u64>,
        form: Form,
    },
}

/// What is known of a message at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub folder: WireText,
    pub uid: Option<u32>,
    pub uid_validity: Option<u32>,
    pub flags: Vec<WireText>,
    pub internal_date: Option<UnixMillis>,
}

/// What a session shows of a mailbox without showing the message itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hint {
    /// The selected folder has grown, or the server said RECENT.
    Arrival,
    /// A message was named, or shown in part: it exists, and no whole copy passed here.
    Seen,
    /// A message was saved, and its content did not pass here whole (CATENATE with a URL, COPY, MOVE).
    Unseen,
}

impl Hint {
    /// The value of the label `kind`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arrival => "arrival",
            Self::Seen => "seen",
            Self::Unseen => "unseen",
        }
    }
}

/// The beginning of what was said, to be read.
pub(super) fn shown(line: &[u8]) -> String {
    let line = line.trim_ascii();
    let line = &line[..line.len().min(200)];
    String::from_utf8_lossy(line).escape_debug().to_string()
}

/// What a client is told whose login is withheld; `command` begins TLS, where we have a certificate.
pub(super) fn why_withheld(command: Option<&str>) -> String {
    let what = match command {
        Some(command) => format!(": say {command} first"),
        None => ", and there is none here: the operator must set certificate".to_owned(),
    };
    format!("Passwords are not taken without TLS{what}")
}
