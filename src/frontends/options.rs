//! What can be chosen for a front end.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::Notify;

use crate::{
    message::Protocol,
    net::{Address, ClientTls, Networks, ServerTls, SocketFile, proxy_protocol},
    wire::smtp::{self, Dialect, Role, Rules},
};

/// One front end, as the daemon opens it.
#[derive(Clone, Debug)]
pub struct Options {
    /// In logs, metrics and sightings.
    pub name: String,
    /// `Smtp`, `Lmtp`, or `Journal` for the endpoint without a next hop, which speaks SMTP.
    pub protocol: Protocol,
    pub role: Role,
    pub listen: Address,
    /// Who may connect to a unix socket.
    pub socket_file: SocketFile,
    pub upstream: Option<Upstream>,
    /// Our name in greetings of our own.
    pub hostname: String,
    pub on_capture_failure: OnCaptureFailure,
    /// Keep what the next hop refused, marked so.
    pub capture_rejected: bool,
    /// Peers that may say with XFORWARD and XCLIENT who their client is.
    pub trusted: Networks,
    /// Who may connect at all; everybody where it is none.
    pub allowed: Option<Networks>,
    pub proxy_protocol: Option<proxy_protocol::Incoming>,
    pub tell_client: TellClient,
    pub tls: Option<Tls>,
    pub limits: Limits,
    /// Told where a session finds no next hop of this protocol, or not with this TLS.
    pub mismatch: Mismatch,
}

/// How sessions say that the server may not be what their front end was opened for. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Mismatch(Arc<Notify>);

impl Mismatch {
    /// Says so; once is as good as often, and nobody need listen.
    pub(super) fn suspect(&self) {
        self.0.notify_one();
    }

    /// Waits until a session has said so, since this last returned.
    pub async fn suspected(&self) {
        self.0.notified().await;
    }
}

/// The next hop.
#[derive(Clone, Debug)]
pub struct Upstream {
    pub address: Address,
    pub tls: UpstreamTls,
}

/// TLS to the next hop is required and verified, or it is not spoken: "if it is offered" protects from nobody.
#[derive(Clone)]
pub enum UpstreamTls {
    None,
    /// The name is what the certificate must be for.
    StartTls(ClientTls, String),
    Implicit(ClientTls, String),
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::StartTls(_, name) => write!(f, "StartTls({name})"),
            Self::Implicit(_, name) => write!(f, "Implicit({name})"),
        }
    }
}

/// Our certificate for clients.
#[derive(Clone)]
pub struct Tls {
    pub identity: ServerTls,
    /// The handshake comes first (port 465); otherwise STARTTLS is announced.
    pub implicit: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("implicit", &self.implicit)
            .finish_non_exhaustive()
    }
}

/// What becomes of a message that cannot be captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnCaptureFailure {
    /// Nothing passes uncopied: the client hears 451 and comes again.
    Tempfail,
    /// Mail flows; the gap is counted and logged with the next hop's queue id.
    Pass,
}

/// How the next hop learns of the client, which it cannot see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TellClient {
    /// Not by us: what a trusted peer sends passes.
    No,
    Xforward,
    Xclient,
    Proxy(proxy_protocol::Version),
}

/// What one front end, one client and one session may take. Each has its own reply and its own reason in the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub sessions: usize,
    pub sessions_per_address: usize,
    pub line_bytes: usize,
    pub recipients: usize,
    /// 0: none of ours; the next hop's is announced.
    pub message_bytes: u64,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// Without a byte from the client.
    pub idle: Duration,
    /// For a session.
    pub total: Duration,
    pub upstream_connect: Duration,
    /// How long an idle connection to the next hop waits for another session, in role `filter`. 0: it waits for none.
    pub upstream_idle: Duration,
    /// For a reply of the next hop, and for its taking what we write.
    pub upstream_reply: Duration,
    /// For its reply to a whole message (RFC 5321 section 4.5.3.2.6).
    pub upstream_fate: Duration,
    /// For the journal's sync.
    pub capture: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 4000,
            sessions_per_address: 4000,
            line_bytes: 64 << 10,
            recipients: 50_000,
            message_bytes: 0,
            handshake: Duration::from_secs(30),
            idle: Duration::from_secs(300),
            total: Duration::from_secs(6 * 3600),
            upstream_connect: Duration::from_secs(30),
            upstream_idle: Duration::from_secs(2),
            upstream_reply: Duration::from_secs(300),
            upstream_fate: Duration::from_secs(600),
            capture: Duration::from_secs(60),
        }
    }
}

impl Options {
    /// A front end with everything at its default.
    pub fn new(name: &str, protocol: Protocol, role: Role, listen: Address) -> Self {
        Self {
            name: name.to_owned(),
            protocol,
            role,
            listen,
            socket_file: SocketFile::default(),
            upstream: None,
            hostname: "mailtee".to_owned(),
            on_capture_failure: OnCaptureFailure::Tempfail,
            capture_rejected: false,
            trusted: if role == Role::Proxy {
                Networks::default()
            } else {
                Networks::loopback()
            },
            allowed: (role == Role::Journal).then(Networks::loopback),
            proxy_protocol: None,
            tell_client: TellClient::No,
            tls: None,
            limits: Limits::default(),
            mismatch: Mismatch::default(),
        }
    }

    /// What contradicts itself.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let journal = self.protocol == Protocol::Journal;
        if !matches!(
            self.protocol,
            Protocol::Smtp | Protocol::Lmtp | Protocol::Journal
        ) {
            return Err("this protocol has no front end here");
        }
        if journal != (self.role == Role::Journal) {
            return Err("protocol \"journal\" and role \"journal\" belong together");
        }
        match (journal, &self.upstream) {
            (true, Some(_)) => Err("a journal endpoint has no upstream"),
            (false, None) => Err("an upstream is missing"),
            (true, None) if self.on_capture_failure == OnCaptureFailure::Pass => {
                Err("a journal endpoint cannot pass what it did not capture")
            }
            _ => Ok(()),
        }
    }

    pub(super) fn dialect(&self) -> Dialect {
        match self.protocol {
            Protocol::Lmtp => Dialect::Lmtp,
            _ => Dialect::Smtp,
        }
    }

    /// A connection that the next hop takes for one client's own serves nobody else.
    pub(super) fn keeps_upstream(&self) -> bool {
        let anonymous = matches!(self.tell_client, TellClient::No | TellClient::Xforward);
        self.role == Role::Filter && anonymous && !self.limits.upstream_idle.is_zero()
    }

    pub(super) fn rules(&self) -> Rules {
        let upstream_starttls = matches!(
            &self.upstream,
            Some(Upstream {
                tls: UpstreamTls::StartTls(..),
                ..
            })
        );
        Rules {
            dialect: self.dialect(),
            role: self.role,
            hostname: self.hostname.clone(),
            hold_end: self.on_capture_failure == OnCaptureFailure::Tempfail,
            starttls: self.tls.as_ref().is_some_and(|tls| !tls.implicit),
            upstream_starttls,
            keep_upstream: self.keeps_upstream(),
            tell_client: match self.tell_client {
                TellClient::Xforward => smtp::TellClient::Xforward,
                TellClient::Xclient => smtp::TellClient::Xclient,
                TellClient::No | TellClient::Proxy(_) => smtp::TellClient::No,
            },
            line_bytes_max: self.limits.line_bytes,
            recipients_max: self.limits.recipients,
            message_bytes_max: self.limits.message_bytes,
        }
    }
}
