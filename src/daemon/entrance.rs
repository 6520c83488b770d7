//! The front ends: opened from their configuration, with the certificates that a reload reads again.

use std::{sync::Arc, time::Duration};

use super::{DaemonError, Part};
use crate::{
    admin,
    config::{Frontend, MailboxFrontend, SmtpFrontend, Upstream, UpstreamTls},
    frontends::{self, Users},
    journal::Journal,
    metrics::Metrics,
    net::{ClientTls, IdentityFiles, Networks, ServerTls, TlsError, proxy_protocol},
    wire::smtp::Role,
};

/// Time for a trusted peer's PROXY header.
const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that front ends read from files.
#[derive(Default)]
pub(super) struct Identities {
    servers: Vec<(String, ServerTls)>,
    clients: Vec<(String, ClientTls)>,
    users: Vec<(String, Users)>,
}

impl Identities {
    /// Reads all files again; what does not read keeps what it has, and is named.
    pub(super) fn reload(&self) -> Vec<String> {
        let servers = self.servers.iter().map(|(name, tls)| (name, tls.reload()));
        let clients = self.clients.iter().map(|(name, tls)| (name, tls.reload()));
        let mut failed = Vec::new();
        for (name, users) in &self.users {
            if let Err(error) = users.reload() {
                tracing::error!(name, %error, "reload: the old map stays in force");
                failed.push(name.clone());
            }
        }
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
        Frontend::Mailbox(mailbox) => {
            let options = mailbox_options(mailbox, identities)?;
            frontends::start_mailbox(options, journal, metrics, stop, tasks).await?
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
    let implicit = frontend.tls_implicit;
    let tls = our_tls(
        &frontend.name,
        frontend.identity.as_ref(),
        implicit,
        identities,
    )?;
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
        proxy_protocol: incoming(frontend.proxy_protocol_from.as_ref()),
        tell_client: frontend.tell_client,
        tls,
        limits: frontend.limits.clone(),
    })
}

fn mailbox_options(
    frontend: &MailboxFrontend,
    identities: &mut Identities,
) -> Result<frontends::MailboxOptions, DaemonError> {
    let name = &frontend.name;
    let implicit = frontend.tls_implicit;
    let users = match &frontend.upstream_map {
        None => None,
        Some(path) => {
            let users = Users::load(path)?;
            identities.users.push((name.clone(), users.clone()));
            Some(users)
        }
    };
    Ok(frontends::MailboxOptions {
        name: name.clone(),
        protocol: frontend.protocol,
        listen: frontend.listen.clone(),
        socket_file: frontend.socket_file.clone(),
        upstream: frontends::Upstream {
            address: frontend.upstream.address.clone(),
            tls: upstream_tls(name, &frontend.upstream, identities)?,
        },
        users,
        allowed: frontend.allowed.clone(),
        proxy_protocol: incoming(frontend.proxy_protocol_from.as_ref()),
        tell_client: frontend.tell_client,
        tls: our_tls(name, frontend.identity.as_ref(), implicit, identities)?,
        limits: frontend.limits.clone(),
    })
}

fn incoming(from: Option<&Networks>) -> Option<proxy_protocol::Incoming> {
    from.cloned().map(|from| proxy_protocol::Incoming {
        from,
        timeout: PROXY_HEADER_TIMEOUT,
    })
}

fn our_tls(
    name: &str,
    files: Option<&IdentityFiles>,
    implicit: bool,
    identities: &mut Identities,
) -> Result<Option<frontends::Tls>, TlsError> {
    let Some(files) = files else {
        return Ok(None);
    };
    let identity = ServerTls::load(files.clone(), None, &[])?;
    identities.add_server(name, identity.clone());
    Ok(Some(frontends::Tls { identity, implicit }))
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
        Frontend::Mailbox(mailbox) => format!("{}, proxy", mailbox.protocol.name()),
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
