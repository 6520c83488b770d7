//! A connection to the mailbox server, as far as its greeting: PROXY header, TLS, and who the client is.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Mailbox, TellMailbox, dialect::Talk};
use crate::{
    frontends::UpstreamTls,
    net::{Address, Peer, Stream, TlsError, proxy_protocol},
    wire::watch::{OpeningError, OpeningStep},
};

/// Proxies that may stand one behind the other before a server takes it for a loop.
const PROXY_TTL: u8 = 7;

/// Why there is no session with the server.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("{0}: {1}")]
    Connect(Address, #[source] io::Error),
    #[error("{0}: no greeting in time")]
    Late(Address),
    #[error("the server closed the connection before it greeted")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Opening(#[from] OpeningError),
}

/// A server that has greeted.
pub(super) struct Greeted {
    pub(super) stream: Stream,
    pub(super) greeting: Vec<u8>,
}

/// Who the session is with, for the server to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) peer: Peer,
    /// Where it came to.
    pub(super) local: Option<SocketAddr>,
}

impl Caller {
    /// It comes from the address that it came to, or by a unix socket.
    pub(super) fn is_on_this_host(&self) -> bool {
        let Some(client) = self.peer.ip() else {
            return true;
        };
        let local = self.local.map(|local| local.ip().to_canonical());
        local == Some(client)
    }

    /// As Dovecot reads them from a proxy that it trusts (`login_trusted_networks`). None of it where there is no address.
    pub(super) fn id_fields(&self) -> Vec<(String, String)> {
        let Peer::Tcp(client) = self.peer else {
            return Vec::new();
        };
        let mut fields = vec![
            ("x-originating-ip", client.ip().to_canonical().to_string()),
            ("x-originating-port", client.port().to_string()),
        ];
        if let Some(local) = self.local {
            fields.push(("x-connected-ip", local.ip().to_canonical().to_string()));
            fields.push(("x-connected-port", local.port().to_string()));
        }
        fields.push(("x-proxy-ttl", PROXY_TTL.to_string()));
        let owned = fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        owned.collect()
    }
}

/// Connects to `address` with the front end's TLS, and waits for the greeting.
pub(super) async fn connect(
    mailbox: &Mailbox,
    address: &Address,
    caller: Caller,
) -> Result<Greeted, Refused> {
    let limit = mailbox.options.limits.upstream_connect;
    let greeted = timeout(limit, greet(mailbox, address, caller)).await;
    let kind = &mailbox.metrics.upstream_connections_total;
    kind.with_label_values(&[mailbox.options.name.as_str(), "new"])
        .inc();
    greeted.unwrap_or_else(|_| Err(Refused::Late(address.clone())))
}

async fn greet(mailbox: &Mailbox, address: &Address, caller: Caller) -> Result<Greeted, Refused> {
    let options = &mailbox.options;
    let limit = options.limits.upstream_connect;
    let connected = address.connect(limit).await;
    let mut socket = connected.map_err(|error| Refused::Connect(address.clone(), error))?;
    if let TellMailbox::Proxy(version) = options.tell_client {
        let header = proxy_protocol::header(version, &caller.peer, caller.local);
        socket.write_all(&header).await?;
    }
    // A user's own server shows a certificate for its own name.
    let name = |default: &str| match address == &options.upstream.address {
        true => default.to_owned(),
        false => address.host().unwrap_or(default).to_owned(),
    };
    let mut stream = match &options.upstream.tls {
        UpstreamTls::Implicit(tls, default) => tls.connect(socket, &name(default)).await?,
        UpstreamTls::StartTls(..) | UpstreamTls::None => Stream::from(socket),
    };
    let starttls = matches!(options.upstream.tls, UpstreamTls::StartTls(..));
    let mut opening = mailbox.dialect.opening(&Talk {
        starttls,
        tell: options.tell_client,
        caller,
    });
    loop {
        match opening.poll() {
            OpeningStep::Wait => {
                let mut buffer = Vec::with_capacity(4096);
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Err(Refused::Closed);
                }
                opening.receive(&buffer);
            }
            OpeningStep::Send(bytes) => {
                stream.write_all(&bytes).await?;
                stream.flush().await?;
            }
            OpeningStep::StartTls => {
                if let UpstreamTls::StartTls(tls, default) = &options.upstream.tls {
                    stream = stream.connect_tls(tls, &name(default)).await?;
                }
                opening.secured();
            }
            OpeningStep::Done { greeting } => return Ok(Greeted { stream, greeting }),
            OpeningStep::Failed(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_address_and_a_unix_socket_are_this_host() {
        let is_here = |peer: Option<&str>, local: Option<&str>| {
            let address = |text: &str| -> SocketAddr { text.parse().expect("an address") };
            let peer = peer.map_or(Peer::Unix, |peer| Peer::Tcp(address(peer)));
            let local = local.map(address);
            Caller { peer, local }.is_on_this_host()
        };
        assert!(is_here(None, None));
        assert!(is_here(Some("192.0.2.1:4711"), Some("192.0.2.1:143")));
        assert!(is_here(Some("[::ffff:192.0.2.1]:1"), Some("192.0.2.1:143")));
        assert!(!is_here(Some("127.0.0.2:4711"), Some("127.0.0.1:143")));
        assert!(!is_here(Some("192.0.2.1:143"), Some("192.0.2.2:143")));
        assert!(!is_here(Some("192.0.2.1:4711"), None));
    }
}
