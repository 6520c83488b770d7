//! DNS: SRV, MX and addresses, of the system's servers or of one that is named.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::{Name, RData, RecordType},
};

use super::DomainError;
use crate::identify::identity::{Kind, TlsMode, printable};

/// For one server to answer one question; each is asked twice.
const PATIENCE: Duration = Duration::from_secs(2);

/// Records taken of one answer.
const RECORDS_MAX: usize = 20;

/// A service that is named by an SRV record.
pub(super) struct Service {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) tls: TlsMode,
}

const fn service(name: &'static str, kind: Kind, tls: TlsMode) -> Service {
    Service { name, kind, tls }
}

/// Those without an `s` begin in plain text: STARTTLS is wanted there.
pub(super) const SERVICES: &[Service] = &[
    service("_imaps", Kind::Imap, TlsMode::Implicit),
    service("_imap", Kind::Imap, TlsMode::StartTls),
    service("_pop3s", Kind::Pop3, TlsMode::Implicit),
    service("_pop3", Kind::Pop3, TlsMode::StartTls),
    service("_submissions", Kind::Smtp, TlsMode::Implicit),
    service("_submission", Kind::Smtp, TlsMode::StartTls),
    service("_jmap", Kind::Jmap, TlsMode::Implicit),
    service("_sieve", Kind::ManageSieve, TlsMode::StartTls),
];

/// A server of an SRV record.
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    /// By priority, and by weight within it.
    pub(super) order: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Dns(Arc<TokioResolver>);

impl Dns {
    pub(super) fn new(server: Option<SocketAddr>) -> Result<Self, DomainError> {
        let setup = |error: hickory_resolver::net::NetError| DomainError::Dns(error.to_string());
        let mut builder = match server {
            None => TokioResolver::builder_tokio().map_err(setup)?,
            Some(server) => {
                let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
                for connection in &mut connections {
                    connection.port = server.port();
                }
                let server = NameServerConfig::new(server.ip(), true, connections);
                TokioResolver::builder_with_config(
                    ResolverConfig::from_name_servers(vec![server]),
                    TokioRuntimeProvider::default(),
                )
            }
        };
        let options = builder.options_mut();
        options.timeout = PATIENCE;
        options.attempts = 2;
        Ok(Self(Arc::new(builder.build().map_err(setup)?)))
    }

    /// The records of one kind, or why there are none.
    async fn records(&self, name: &str, kind: RecordType) -> Result<Vec<RData>, String> {
        // With its dot: no search domain of this host is appended.
        match self.0.lookup(format!("{name}."), kind).await {
            Ok(found) => {
                let data = found.answers().iter().map(|record| record.data.clone());
                Ok(data.take(RECORDS_MAX).collect())
            }
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => {
                Err("nothing".to_owned())
            }
            Err(error) => Err(printable(error.to_string().as_bytes())),
        }
    }

    /// Empty where the service is expressly not offered (RFC 6186 section 3.4).
    pub(super) async fn srv(&self, name: &str) -> Result<Vec<Server>, String> {
        let records = self.records(name, RecordType::SRV).await?;
        let servers = records.iter().filter_map(|record| match record {
            RData::SRV(srv) => Some(Server {
                host: host(&srv.target)?,
                port: srv.port,
                order: u32::from(srv.priority) << 16 | u32::from(u16::MAX - srv.weight),
            }),
            _ => None,
        });
        Ok(servers.collect())
    }

    /// Preference and host, the first to be tried first.
    pub(super) async fn mx(&self, domain: &str) -> Result<Vec<(u16, String)>, String> {
        let records = self.records(domain, RecordType::MX).await?;
        let mut exchangers: Vec<(u16, String)> = records
            .iter()
            .filter_map(|record| match record {
                // A lone dot says that the domain takes no mail (RFC 7505).
                RData::MX(mx) => Some((mx.preference, host(&mx.exchange)?)),
                _ => None,
            })
            .collect();
        exchangers.sort();
        Ok(exchangers)
    }

    pub(super) async fn addresses(&self, host: &str) -> Vec<IpAddr> {
        match self.0.lookup_ip(format!("{host}.")).await {
            Ok(found) => found.iter().take(RECORDS_MAX).collect(),
            Err(_) => Vec::new(),
        }
    }
}

/// None for the root, which says that there is no such server, and for what no host is called.
fn host(name: &Name) -> Option<String> {
    let name = name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
    super::is_host(&name).then_some(name)
}

/// The domain that a mail exchanger is in: its name less the first label. None where that may be a suffix under which
/// anybody can register: there is no list of those here, so `co.uk` and its like are recognised by their form.
pub(super) fn parent(host: &str) -> Option<&str> {
    let (_, parent) = host.split_once('.')?;
    let mut labels = parent.rsplit('.');
    let (top, second) = (labels.next()?, labels.next()?);
    let may_be_suffix = labels.next().is_none() && top.len() == 2 && second.len() <= 3;
    (!may_be_suffix).then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exchangers_domain_is_never_a_suffix() {
        assert_eq!(parent("mx1.example.net"), Some("example.net"));
        assert_eq!(parent("a.mx.example.co.uk"), Some("mx.example.co.uk"));
        assert_eq!(parent("example.net"), None);
        assert_eq!(parent("example.co.uk"), None);
        assert_eq!(parent("localhost"), None);
    }
}
