//! The front ends: opened from their configuration, with the certificates that a reload reads again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::DaemonError;
use crate::{
    admin,
    config::{AutoFrontend, Frontend, MailboxFrontend, SmtpFrontend, Upstream, UpstreamTls},
    frontends::{self, Entrance, Mismatch, Users},
    journal::Journal,
    metrics::Metrics,
    net::{ClientTls, IdentityFiles, Networks, ServerTls, TlsError, proxy_protocol},
    wire::smtp::Role,
};

/// Time for a trusted peer's PROXY header.
const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that is read from files at the start, and again at a reload. Clones are one.
#[derive(Clone, Default)]
pub(super) struct Identities(Arc<Mutex<BTreeMap<Whose, Vec<Read>>>>);

/// Who reads a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    Vault,
    Frontend(String),
}

/// What a file became.
pub(super) enum Read {
    Server(ServerTls),
    Client(ClientTls),
    Users(Users),
}

impl Identities {
    /// Reads all files again; what does not read keeps what it has, and is named.
    pub(super) fn reload(&self) -> Vec<String> {
        let mut failed = Vec::new();
        for (whose, files) in self.0.lock().iter() {
            let name = match whose {
                Whose::Vault => "vault",
                Whose::Frontend(name) => name,
            };
            for file in files {
                let (what, result) = match file {
                    Read::Server(tls) => ("certificate", tls.reload().map_err(DaemonError::from)),
                    Read::Client(tls) => ("certificate", tls.reload().map_err(DaemonError::from)),
                    Read::Users(users) => ("map", users.reload().map_err(DaemonError::from)),
                };
                if let Err(error) = result {
                    tracing::error!(name, %error, "reload: the old {what} stays in force");
                    failed.push(name.to_owned());
                }
            }
        }
        failed
    }

    /// What this one reads from now on.
    pub(super) fn replace(&self, whose: Whose, files: Vec<Read>) {
        self.0.lock().insert(whose, files);
    }
}

/// What every front end is opened with.
#[derive(Clone)]
pub(super) struct Doors {
    pub(super) journal: Journal,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) identities: Identities,
}

impl Doors {
    /// Opens one front end, until `stop`; it accepts mail when this returns.
    pub(super) async fn open(
        &self,
        frontend: &Frontend,
        mismatch: Mismatch,
        stop: CancellationToken,
    ) -> Result<Entrance, DaemonError> {
        let (journal, metrics, tasks) = (
            self.journal.clone(),
            self.metrics.clone(),
            self.tasks.clone(),
        );
        let opening = Opening::of(frontend, mismatch)?;
        let entrance = match opening.options {
            Options::Smtp(options) => {
                frontends::start(*options, journal, metrics, stop, tasks).await?
            }
            Options::Milter(options) => {
                frontends::start_milter(options, journal, metrics, stop, tasks).await?
            }
            Options::Mailbox(options) => {
                frontends::start_mailbox(*options, journal, metrics, stop, tasks).await?
            }
        };
        let whose = Whose::Frontend(frontend.name().to_owned());
        self.identities.replace(whose, opening.files);
        let listen = match entrance.local {
            Some(address) => address.to_string(),
            None => frontend.listen().to_string(),
        };
        tracing::info!(frontend = %frontend.name(), %listen, "accepting mail");
        Ok(entrance)
    }
}

/// A front end whose files have been read.
struct Opening {
    options: Options,
    files: Vec<Read>,
}

enum Options {
    Smtp(Box<frontends::Options>),
    Milter(frontends::MilterOptions),
    Mailbox(Box<frontends::MailboxOptions>),
}

impl Opening {
    fn of(frontend: &Frontend, mismatch: Mismatch) -> Result<Self, DaemonError> {
        let mut files = Vec::new();
        let options = match frontend {
            Frontend::Smtp(smtp) => Options::Smtp(Box::new(options(smtp, mismatch, &mut files)?)),
            Frontend::Milter(milter) => Options::Milter(milter.clone()),
            Frontend::Mailbox(mailbox) => {
                let options = mailbox_options(mailbox, mismatch, &mut files)?;
                Options::Mailbox(Box::new(options))
            }
            Frontend::Auto(auto) => {
                return Err(DaemonError::NotIdentified {
                    name: auto.name.clone(),
                });
            }
        };
        Ok(Self { options, files })
    }
}

/// Whether all files read that a front end may need.
pub(super) fn check_files(auto: &AutoFrontend) -> Result<(), DaemonError> {
    for frontend in auto.readings() {
        Opening::of(frontend, Mismatch::default())?;
    }
    // Named with a protocol or not, they are needed once the server has TLS.
    ClientTls::load(auto.upstream.files.clone(), &[])?;
    Ok(())
}

fn options(
    frontend: &SmtpFrontend,
    mismatch: Mismatch,
    files: &mut Vec<Read>,
) -> Result<frontends::Options, TlsError> {
    let implicit = frontend.tls_implicit;
    let tls = our_tls(frontend.identity.as_ref(), implicit, files)?;
    let upstream = match &frontend.upstream {
        None => None,
        Some(upstream) => Some(frontends::Upstream {
            address: upstream.address.clone(),
            tls: upstream_tls(upstream, files)?,
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
        mismatch,
    })
}

fn mailbox_options(
    frontend: &MailboxFrontend,
    mismatch: Mismatch,
    files: &mut Vec<Read>,
) -> Result<frontends::MailboxOptions, DaemonError> {
    let implicit = frontend.tls_implicit;
    let users = match &frontend.upstream_map {
        None => None,
        Some(path) => {
            let users = Users::load(path)?;
            files.push(Read::Users(users.clone()));
            Some(users)
        }
    };
    Ok(frontends::MailboxOptions {
        name: frontend.name.clone(),
        protocol: frontend.protocol,
        listen: frontend.listen.clone(),
        socket_file: frontend.socket_file.clone(),
        upstream: frontends::Upstream {
            address: frontend.upstream.address.clone(),
            tls: upstream_tls(&frontend.upstream, files)?,
        },
        users,
        allowed: frontend.allowed.clone(),
        proxy_protocol: incoming(frontend.proxy_protocol_from.as_ref()),
        tell_client: frontend.tell_client,
        tls: our_tls(frontend.identity.as_ref(), implicit, files)?,
        auth_allow_cleartext: frontend.auth_allow_cleartext,
        limits: frontend.limits.clone(),
        mismatch,
    })
}

fn incoming(from: Option<&Networks>) -> Option<proxy_protocol::Incoming> {
    from.cloned().map(|from| proxy_protocol::Incoming {
        from,
        timeout: PROXY_HEADER_TIMEOUT,
    })
}

fn our_tls(
    identity: Option<&IdentityFiles>,
    implicit: bool,
    files: &mut Vec<Read>,
) -> Result<Option<frontends::Tls>, TlsError> {
    let Some(identity) = identity else {
        return Ok(None);
    };
    let identity = ServerTls::load(identity.clone(), None, &[])?;
    files.push(Read::Server(identity.clone()));
    Ok(Some(frontends::Tls { identity, implicit }))
}

fn upstream_tls(
    upstream: &Upstream,
    files: &mut Vec<Read>,
) -> Result<frontends::UpstreamTls, TlsError> {
    if upstream.tls == UpstreamTls::None {
        return Ok(frontends::UpstreamTls::None);
    }
    let tls = ClientTls::load(upstream.files.clone(), &[])?;
    files.push(Read::Client(tls.clone()));
    let server = upstream.tls_name.clone();
    Ok(match upstream.tls {
        UpstreamTls::Implicit => frontends::UpstreamTls::Implicit(tls, server),
        _ => frontends::UpstreamTls::StartTls(tls, server),
    })
}

/// How the status page names it. One that is still to be identified accepts nothing yet.
pub(super) fn named(frontend: &Frontend) -> admin::Frontend {
    admin::Frontend {
        name: frontend.name().to_owned(),
        listen: frontend.listen().to_string(),
        upstream: match frontend.upstream() {
            Some(upstream) => upstream.address.to_string(),
            None => String::new(),
        },
        standing: Arc::new(ArcSwap::from_pointee(admin::Standing {
            kind: kind(frontend),
            accepting: !matches!(frontend, Frontend::Auto(_)),
            note: None,
        })),
    }
}

pub(super) fn kind(frontend: &Frontend) -> String {
    match frontend {
        Frontend::Auto(_) => "auto".to_owned(),
        Frontend::Milter(_) => "milter".to_owned(),
        Frontend::Mailbox(mailbox) => format!("{}, proxy", mailbox.protocol.name()),
        Frontend::Smtp(smtp) => match smtp.role {
            Role::Filter => format!("{}, filter", smtp.protocol.name()),
            Role::Proxy => format!("{}, proxy", smtp.protocol.name()),
            Role::Journal => "journal".to_owned(),
        },
    }
}
