//! Which servers a domain names for its mail, told by the domain alone: Thunderbird's autoconfiguration at all its places,
//! SRV records, JMAP's well-known address, MX. All are asked at once, and what they say is ranked by how directly the
//! domain itself says it.
//!
//! A server that takes a password in plain text is counted and never a candidate; nothing falls back to plain text
//! where TLS fails. An address is told to the domain's own server alone, over verified HTTPS.

mod autoconfig;
mod candidate;
mod dns;
mod fetch;

use std::net::{IpAddr, SocketAddr};

use futures_util::future::join_all;
use serde::Serialize;

use super::identity::{Kind, TlsMode};
use crate::net::{ClientTlsFiles, TlsError};
use candidate::rank;
pub use candidate::{Candidate, Source};
use dns::Dns;
use fetch::Fetcher;

#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    #[error("identify: {0:?} is not a domain")]
    BadDomain(String),
    #[error("identify: dns: {0}")]
    Dns(String),
    #[error("identify: http: {0}")]
    Http(String),
    #[error("identify: {0}")]
    Tls(#[from] TlsError),
}

/// One place that was asked, and what was there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Asked {
    pub place: String,
    pub found: String,
}

/// What was found of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Domain {
    pub domain: String,
    /// By service, the best first.
    pub candidates: Vec<Candidate>,
    pub asked: Vec<Asked>,
}

/// Asks for domains.
#[derive(Debug)]
pub struct Finder {
    dns: Dns,
    fetcher: Fetcher,
}

/// What one place said.
struct Said {
    asked: Asked,
    candidates: Vec<Candidate>,
}

impl Finder {
    /// `resolver` is the DNS server to ask, in place of the system's.
    pub fn new(trust: &ClientTlsFiles, resolver: Option<SocketAddr>) -> Result<Self, DomainError> {
        let dns = Dns::new(resolver)?;
        let fetcher = Fetcher::new(trust, dns.clone())?;
        Ok(Self { dns, fetcher })
    }

    /// Where a host is.
    pub async fn addresses(&self, host: &str) -> Vec<IpAddr> {
        self.dns.addresses(host).await
    }

    /// Asks everywhere; `user` is the address, where one is known.
    pub async fn find(&self, domain: &str, user: Option<&str>) -> Result<Domain, DomainError> {
        let domain = fetch::host(domain)?;
        let domain = domain.as_str();
        let at = |source, url| self.autoconfig(source, url, domain, user);
        let (first, second, http, ispdb, by_mx, srv, jmap) = tokio::join!(
            at(Source::Autoconfig, fetch::autoconfig_url(domain, user)),
            at(
                Source::WellKnown,
                format!("https://{domain}/.well-known/autoconfig/mail/config-v1.1.xml"),
            ),
            at(
                Source::AutoconfigHttp,
                format!("http://autoconfig.{domain}/mail/config-v1.1.xml"),
            ),
            at(Source::Ispdb, format!("https://v1.ispdb.net/{domain}")),
            self.by_mx(domain, user),
            join_all(dns::SERVICES.iter().map(|it| self.srv(it, domain))),
            self.jmap(domain),
        );
        let said = [first, second, http, ispdb]
            .into_iter()
            .chain(by_mx)
            .chain(srv)
            .chain([jmap]);
        let mut found = Domain {
            domain: domain.to_owned(),
            candidates: Vec::new(),
            asked: Vec::new(),
        };
        for mut said in said {
            found.asked.push(said.asked);
            found.candidates.append(&mut said.candidates);
        }
        rank(&mut found.candidates);
        Ok(found)
    }

    async fn autoconfig(
        &self,
        source: Source,
        url: String,
        domain: &str,
        user: Option<&str>,
    ) -> Said {
        let (found, candidates) = match self.fetcher.text(&url).await {
            Err(why) => (why, Vec::new()),
            Ok(text) => match autoconfig::read(&text, domain, user) {
                Err(why) => (why.to_string(), Vec::new()),
                Ok(servers) => {
                    let named = servers.len();
                    let candidates: Vec<Candidate> = servers
                        .into_iter()
                        .enumerate()
                        .filter_map(|(order, server)| server.into_candidate(source, order))
                        .collect();
                    let plain = named - candidates.len();
                    let found = match plain {
                        0 => format!("{} servers", candidates.len()),
                        _ => format!(
                            "{} servers, and {plain} that would take a password in plain text, left out",
                            candidates.len()
                        ),
                    };
                    (found, candidates)
                }
            },
        };
        Said {
            asked: Asked { place: url, found },
            candidates,
        }
    }

    /// The mail exchangers, and what the domain of the first says.
    async fn by_mx(&self, domain: &str, user: Option<&str>) -> Vec<Said> {
        let place = format!("MX {domain}");
        let exchangers = match self.dns.mx(domain).await {
            Ok(exchangers) => exchangers,
            Err(found) => {
                let asked = Asked { place, found };
                return vec![Said {
                    asked,
                    candidates: Vec::new(),
                }];
            }
        };
        let mut more = Vec::new();
        let parent = exchangers.first().and_then(|(_, host)| dns::parent(host));
        if let Some(parent) = parent.filter(|parent| *parent != domain) {
            let (config, ispdb) = tokio::join!(
                self.autoconfig(
                    Source::MxAutoconfig,
                    // Another's domain is not told who asks.
                    fetch::autoconfig_url(parent, None),
                    domain,
                    user,
                ),
                self.autoconfig(
                    Source::MxIspdb,
                    format!("https://v1.ispdb.net/{parent}"),
                    domain,
                    user,
                ),
            );
            more = vec![config, ispdb];
        }
        let candidates = exchangers.iter().map(|(preference, host)| Candidate {
            kind: Kind::Smtp,
            host: host.clone(),
            port: 25,
            tls: TlsMode::StartTls,
            source: Source::Mx,
            user: None,
            url: None,
            order: u32::from(*preference),
        });
        let said = Said {
            candidates: candidates.collect(),
            asked: Asked {
                place,
                found: format!("{} mail exchangers", exchangers.len()),
            },
        };
        std::iter::once(said).chain(more).collect()
    }

    async fn srv(&self, service: &dns::Service, domain: &str) -> Said {
        let name = format!("{}._tcp.{domain}", service.name);
        let (found, candidates) = match self.dns.srv(&name).await {
            Err(why) => (why, Vec::new()),
            Ok(servers) if servers.is_empty() => ("expressly not offered".to_owned(), Vec::new()),
            Ok(servers) => {
                let candidates = servers.into_iter().map(|server| Candidate {
                    kind: service.kind,
                    tls: service.tls,
                    source: Source::Srv,
                    user: None,
                    url: (service.kind == Kind::Jmap).then(|| {
                        format!("https://{}:{}/.well-known/jmap", server.host, server.port)
                    }),
                    order: server.order,
                    host: server.host,
                    port: server.port,
                });
                let candidates: Vec<_> = candidates.collect();
                (format!("{} servers", candidates.len()), candidates)
            }
        };
        Said {
            asked: Asked {
                place: format!("SRV {name}"),
                found,
            },
            candidates,
        }
    }

    async fn jmap(&self, domain: &str) -> Said {
        let url = format!("https://{domain}/.well-known/jmap");
        let found = self.fetcher.jmap(&url).await;
        let candidate = found.is_ok().then(|| Candidate {
            kind: Kind::Jmap,
            host: domain.to_owned(),
            port: 443,
            tls: TlsMode::Implicit,
            source: Source::JmapWellKnown,
            user: None,
            url: Some(url.clone()),
            order: 0,
        });
        Said {
            asked: Asked {
                place: url,
                found: found.unwrap_or_else(|why| why),
            },
            candidates: candidate.into_iter().collect(),
        }
    }
}

/// Letters, digits and what stands between them: no name of a host has more in it, and none of ours goes on with more.
fn is_host(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && name.chars().all(plain)
}
