//! How a server is reached again and again: each question of a probe goes over a connection of its own.

use std::{io, net::IpAddr};

use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout_at},
};

use super::{
    identity::Certificate,
    talk::{Talk, Trouble},
    tls::{self, Trust},
};
use crate::net::{
    Address, Socket, Stream,
    proxy_protocol::{self, Version},
};

#[derive(Clone)]
pub(super) struct Dial {
    pub(super) address: Address,
    /// Whom the certificate is held against, and the name that goes out as SNI and in `Host`.
    pub(super) trust: Trust,
    pub(super) proxy_header: Option<Version>,
}

impl Dial {
    pub(super) fn port(&self) -> Option<u16> {
        match &self.address {
            Address::Tcp { port, .. } => Some(*port),
            Address::Unix(_) => None,
        }
    }

    pub(super) async fn connect(&self, deadline: Instant) -> io::Result<Socket> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut socket = self.address.connect(left).await?;
        if let Some(version) = self.proxy_header {
            let header = proxy_protocol::own_header(version);
            // A new socket has room for it: this waits for nobody.
            socket.write_all(&header).await?;
        }
        Ok(socket)
    }

    /// Connects, with TLS before the first word if wanted.
    pub(super) async fn open(
        &self,
        secured: bool,
        deadline: Instant,
    ) -> Result<(Talk, Option<Certificate>), Trouble> {
        let socket = self.connect(deadline).await?;
        if !secured {
            return Ok((Talk::new(Stream::from(socket), deadline), None));
        }
        let shaking = tls::handshake(socket, &self.trust);
        match timeout_at(deadline, shaking).await {
            Err(_) => Err(Trouble::Late),
            Ok(shaken) => {
                let (stream, certificate) = shaken?;
                Ok((Talk::new(stream, deadline), Some(certificate)))
            }
        }
    }

    /// `https://name:port`, the port where it is not the scheme's own.
    pub(super) fn origin(&self, secured: bool) -> String {
        let (scheme, usual) = if secured {
            ("https", 443)
        } else {
            ("http", 80)
        };
        let name = bracketed(&self.trust.name);
        match self.port() {
            Some(port) if port != usual => format!("{scheme}://{name}:{port}"),
            _ => format!("{scheme}://{name}"),
        }
    }

    pub(super) fn host_header(&self) -> String {
        let name = bracketed(&self.trust.name);
        match self.port() {
            Some(port) if port != 80 && port != 443 => format!("{name}:{port}"),
            _ => name,
        }
    }
}

fn bracketed(name: &str) -> String {
    match name.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        _ => name.to_owned(),
    }
}
