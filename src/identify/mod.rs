//! Which protocol does a server speak, how is it secured, and what does it say of itself?
//!
//! [`identify`] probes one address: it listens first, then asks ([`probe`]), and holds the dialogue that the greeting
//! invites to ([`dialogue`]). Whatever a server does is a finding, never an error; memory and time are bounded. The port is a
//! hint for the order of the questions, never a proof. [`Finder`] asks a domain which servers it has ([`domain`]).
//!
//! It never logs in and sends no secret: certificates are looked at here, and told, not trusted.

mod certificate;
mod dial;
mod dialogue;
mod domain;
mod greeting;
mod http;
mod identity;
mod jmap;
mod milter;
mod probe;
mod talk;
mod tls;

use std::path::PathBuf;

pub use domain::{Asked, Candidate, Domain, DomainError, Finder, Source};
pub use identity::{Capabilities, Certificate, Identity, JmapSession, Kind, TlsMode};

use crate::net::{Address, ClientTlsFiles, IdentityFiles, TlsError, proxy_protocol};

/// The name that the certificate must be for at a unix socket, where no other is given.
pub const NAMELESS: &str = "localhost";

/// How a server is looked at.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Hold certificates against these authorities alone; without it, against the platform's.
    pub ca_file: Option<PathBuf>,
    /// The name that the certificate must be for; without it, the address's own.
    pub tls_name: Option<String>,
    /// Our certificate, for a server that asks for one.
    pub identity: Option<IdentityFiles>,
    /// The server waits for a PROXY header on each connection; ours speaks for nobody.
    pub proxy_header: Option<proxy_protocol::Version>,
}

/// Looks at one server; takes twelve seconds at most. An error means that the options do not stand.
pub async fn identify(address: &Address, options: &Options) -> Result<Identity, TlsError> {
    let name = options.tls_name.as_deref();
    let name = name.or(address.host()).unwrap_or(NAMELESS);
    let files = ClientTlsFiles {
        ca_file: options.ca_file.clone(),
        identity: options.identity.clone(),
    };
    let dial = dial::Dial {
        trust: tls::Trust::load(files, name.to_owned())?,
        address: address.clone(),
        proxy_header: options.proxy_header,
    };
    let mut found = Identity::new(address.to_string());
    probe::probe(&dial, &mut found).await;
    Ok(found)
}
