//! What can be chosen for a front end before a mailbox server.

use std::time::Duration;

use super::Users;
use crate::{
    frontends::{Mismatch, Tls, Upstream},
    message::Protocol,
    net::{Address, Networks, SocketFile, proxy_protocol},
};

/// One front end, as the daemon opens it.
#[derive(Clone, Debug)]
pub struct MailboxOptions {
    /// In logs, metrics and sightings.
    pub name: String,
    /// `Imap` or `Pop3`.
    pub protocol: Protocol,
    pub listen: Address,
    /// Who may connect to a unix socket.
    pub socket_file: SocketFile,
    /// Of everybody who is not in `users`.
    pub upstream: Upstream,
    pub users: Option<Users>,
    /// Who may connect at all; everybody where it is none.
    pub allowed: Option<Networks>,
    pub proxy_protocol: Option<proxy_protocol::Incoming>,
    pub tell_client: TellMailbox,
    pub tls: Option<Tls>,
    /// Passwords may cross the client's leg in clear where the server's has TLS.
    pub auth_allow_cleartext: bool,
    pub limits: MailboxLimits,
    /// Told where a session finds no server of this protocol, or not with this TLS.
    pub mismatch: Mismatch,
}

/// How the server learns of the client, which it cannot see. It must trust us to say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TellMailbox {
    No,
    /// IMAP: `ID` with `x-originating-ip` and its kin, as Dovecot reads them.
    Id,
    /// POP3: `XCLIENT`, as Dovecot reads it.
    Xclient,
    Proxy(proxy_protocol::Version),
}

/// What one front end, one client and one session may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxLimits {
    pub sessions: usize,
    pub sessions_per_address: usize,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// Without a byte in either direction. A server says something more often than this, or ends the session itself.
    pub idle: Duration,
    /// For a session with the server: connection, TLS and greeting.
    pub upstream_connect: Duration,
    /// For the journal's sync.
    pub capture: Duration,
    /// Messages in mailboxes that are remembered to have a copy.
    pub known_messages: usize,
}

impl Default for MailboxLimits {
    fn default() -> Self {
        Self {
            sessions: 8000,
            sessions_per_address: 8000,
            handshake: Duration::from_secs(30),
            // RFC 9051 section 5.4: a server waits 30 minutes at least before it logs a client out.
            idle: Duration::from_secs(35 * 60),
            upstream_connect: Duration::from_secs(30),
            capture: Duration::from_secs(60),
            known_messages: 1_000_000,
        }
    }
}
