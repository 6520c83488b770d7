//! The front ends: opened from their configuration, with the certificates that a reload reads again.

use std::{sync::Arc, time::Duration};

use super::{DaemonError, Part};
use crate::{
    admin,
    config::{Frontend, SmtpFrontend, Upstream, UpstreamTls},
    frontends,
    journal::Journal,
    metrics::Metrics,
    net::{ClientTls, ServerTls, TlsError, proxy_protocol},
    wire::smtp::Role,
};

/// Time for a trusted peer's PROXY header.
const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that front ends read from files.
#[derive(Default)]
pub(super) struct Identities {
    servers: Vec<(String, ServerTls)>,
    clients: Vec<(String, ClientTls)>,
}

impl Identities {
    /// Reads all files again; what does not read keeps what it has, and is named.
    pub(super) fn reload(&self) -> Vec<String> {
        let servers = self.servers.iter().map(|(name, tls)| (name, tls.reload()));
        let clients = self.clients.iter().map(|(name, tls)| (name, tls.reload()));
        let mut failed = Vec::new();
        for (name, result) in servers.chain(clients) {
            if let Err(error) = result {
                tracing::error!(name, %error, "reload: the old certificate stays in force");
                failed.push(name.clone());
            }
        }
        failed
    }

    pub(super) fn add_server(&mut self, name: &str, tls: ServerTls) {
        self.servers.push((name.to_owned(), tls));
    }
}

/// Opens one front end; it accepts mail when this returns.
pub(super) async fn open(
    frontend: &Frontend,
    journal: Journal,
    metrics: Arc<Metrics>,
    accepting: &Part,
    identities: &mut Identities,
) -> Result<(), DaemonError> {
    let (stop, tasks) = (accepting.stop.clone(), accepting.tasks.clone());
    let address = match frontend {
        Frontend::Smtp(smtp) => {
            let options = options(smtp, identities)?;
            frontends::start(options, journal, metrics, stop, tasks).await?
        }
        Frontend::Milter(milter) => {
            frontends::start_milter(milter.clone(), journal, metrics, stop, tasks).await?
        }
    };
    let listen = match address {
        Some(address) => address.to_string(),
        None => frontend.listen().to_string(),
    };
    tracing::info!(frontend = %frontend.name(), %listen, "accepting mail");
    Ok(())
}

fn options(
    frontend: &SmtpFrontend,
    identities: &mut Identities,
) -> Result<frontends::Options, TlsError> {
    let tls = match &frontend.identity {
        None => None,
        Some(files) => {
            let identity = ServerTls::load(files.clone(), None, &[])?;
            identities.add_server(&frontend.name, identity.clone());
            Some(frontends::Tls {
                identity,
                implicit: frontend.tls_implicit,
            })
        }
    };
    let upstream = match &frontend.upstream {
        None => None,
        Some(upstream) => Some(frontends::Upstream {
            address: upstream.address.clone(),
            tls: upstream_tls(&frontend.name, upstream, identities)?,
        }),
    };
    Ok(frontends::Options {
        name: frontend.name.clone(),
        protocol: frontend.protocol,
        role: frontend.role,
        listen: frontend.listen.clone(),
        socket_file: frontend.socket_file.clone(),
        upstream,
        hostname: frontend.hostname.clone(),
        on_capture_failure: frontend.on_capture_failure,
        capture_rejected: frontend.capture_rejected,
        trusted: frontend.trusted.clone(),
        allowed: frontend.allowed.clone(),
        proxy_protocol: frontend
            .proxy_protocol_from
            .clone()
            .map(|from| proxy_protocol::Incoming {
                from,
                timeout: PROXY_HEADER_TIMEOUT,
            }),
        tell_client: frontend.tell_client,
        tls,
        limits: frontend.limits.clone(),
    })
}

fn upstream_tls(
    name: &str,
    upstream: &Upstream,
    identities: &mut Identities,
) -> Result<frontends::UpstreamTls, TlsError> {
    if upstream.tls == UpstreamTls::None {
        return Ok(frontends::UpstreamTls::None);
    }
    let tls = ClientTls::load(upstream.files.clone(), &[])?;
    identities.clients.push((name.to_owned(), tls.clone()));
    let server = upstream.tls_name.clone();
    Ok(match upstream.tls {
        UpstreamTls::Implicit => frontends::UpstreamTls::Implicit(tls, server),
        _ => frontends::UpstreamTls::StartTls(tls, server),
    })
}

/// How the status page names it.
pub(super) fn named(frontend: &Frontend) -> admin::Frontend {
    let kind = match frontend {
        Frontend::Milter(_) => "milter".to_owned(),
        Frontend::Smtp(smtp) => match smtp.role {
            Role::Filter => format!("{}, filter", smtp.protocol.name()),
            Role::Proxy => format!("{}, proxy", smtp.protocol.name()),
            Role::Journal => "journal".to_owned(),
        },
    };
    admin::Frontend {
        name: frontend.name().to_owned(),
        kind,
        listen: frontend.listen().to_string(),
        upstream: match frontend.upstream() {
            Some(upstream) => upstream.address.to_string(),
            None => String::new(),
        },
    }
}
