//! Which servers a domain names for its mail, told by the domain alone: Thunderbird's autoconfiguration at all its places,
//! SRV records, JMAP's well-known address, MX. All are asked at once, and what they say is ranked by how directly the
//! domain itself says it.
//!
//! A server that takes a password in plain text is named as such and never a candidate; nothing falls back to plain text
//! where TLS fails. An address is told to the domain's own server alone, over verified HTTPS.

mod autoconfig;
mod dns;
mod fetch;

use std::net::{IpAddr, SocketAddr};

use futures_util::future::join_all;
use serde::Serialize;

use super::identity::{Identity, Kind, TlsMode};
use crate::net::{ClientTlsFiles, TlsError};
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

/// Candidates told of one domain.
const CANDIDATES_MAX: usize = 100;

/// Where something was said, the most trusted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// `https://autoconfig.DOMAIN/mail/config-v1.1.xml`
    Autoconfig,
    /// `https://DOMAIN/.well-known/autoconfig/mail/config-v1.1.xml`
    WellKnown,
    /// The first, over HTTP: whoever is on the way may have written it.
    AutoconfigHttp,
    /// Thunderbird's database of providers.
    Ispdb,
    /// The places above, of the domain that the mail exchanger is in.
    MxAutoconfig,
    MxIspdb,
    /// RFC 6186, RFC 8314, RFC 8620 section 2.2, RFC 5804 section 1.8
    Srv,
    /// `https://DOMAIN/.well-known/jmap`
    JmapWellKnown,
    /// RFC 5321 section 5.1
    Mx,
}

impl Source {
    pub fn name(self) -> &'static str {
        match self {
            Self::Autoconfig => "autoconfig",
            Self::WellKnown => "autoconfig, well-known",
            Self::AutoconfigHttp => "autoconfig over HTTP",
            Self::Ispdb => "ISPDB",
            Self::MxAutoconfig => "autoconfig of the MX",
            Self::MxIspdb => "ISPDB for the MX",
            Self::Srv => "SRV",
            Self::JmapWellKnown => "well-known JMAP",
            Self::Mx => "MX",
        }
    }
}

/// A server that was named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    #[serde(rename = "protocol")]
    pub kind: Kind,
    pub host: String,
    pub port: u16,
    pub tls: TlsMode,
    pub source: Source,
    /// What to log in as; none where nobody said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Lower goes first among those of one source.
    #[serde(skip)]
    order: u32,
}

impl Candidate {
    /// What keeps the server that was found at this place from being the one that was named: nothing may be sent to it then.
    pub fn fault(&self, found: &Identity) -> Option<String> {
        if found.kind != self.kind {
            let (named, found) = (self.kind.name(), found.kind.name());
            return Some(format!("named as {named}, found {found}"));
        }
        // TLS from the first byte on is no less than STARTTLS.
        if found.tls != self.tls && found.tls != TlsMode::Implicit {
            let (named, found) = (self.tls.name(), found.tls.name());
            return Some(format!("named with TLS {named}, found {found}"));
        }
        let why = found.certificate.as_ref()?.why_not.as_ref()?;
        Some(format!("its certificate does not verify: {why}"))
    }
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

/// The best first, for each service; one named twice stands where it is named best. TLS from the first byte goes before
/// STARTTLS within what one source says (RFC 8314 section 3).
fn rank(candidates: &mut Vec<Candidate>) {
    let implicit_first = |it: &Candidate| it.tls != TlsMode::Implicit;
    candidates.sort_by_key(|it| (it.kind.name(), it.source, implicit_first(it), it.order));
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates.drain(..) {
        let is_same = |it: &Candidate| {
            (it.kind, &it.host, it.port) == (candidate.kind, &candidate.host, candidate.port)
        };
        if kept.len() < CANDIDATES_MAX && !kept.iter().any(is_same) {
            kept.push(candidate);
        }
    }
    *candidates = kept;
}

#[cfg(test)]
mod tests {
    use super::{super::identity::Certificate, *};

    fn candidate(host: &str, source: Source, tls: TlsMode, order: u32) -> Candidate {
        Candidate {
            kind: Kind::Imap,
            host: host.to_owned(),
            port: 993,
            tls,
            source,
            user: None,
            url: None,
            order,
        }
    }

    #[test]
    fn the_domains_own_word_goes_first_and_tls_before_starttls() {
        let mut all = vec![
            candidate("e", Source::Srv, TlsMode::Implicit, 0),
            candidate("d", Source::Ispdb, TlsMode::Implicit, 0),
            candidate("b", Source::Autoconfig, TlsMode::StartTls, 0),
            candidate("a", Source::Autoconfig, TlsMode::Implicit, 7),
            candidate("a", Source::Srv, TlsMode::Implicit, 0),
            candidate("f", Source::Srv, TlsMode::Implicit, 3),
        ];
        rank(&mut all);
        let hosts: Vec<&str> = all.iter().map(|it| it.host.as_str()).collect();
        assert_eq!(hosts, ["a", "b", "d", "e", "f"]);
    }

    #[test]
    fn a_server_that_has_less_than_was_named_is_not_the_one() {
        let found = |kind, tls, why_not: Option<&str>| {
            let mut found = Identity::new("a:143".to_owned());
            (found.kind, found.tls) = (kind, tls);
            found.certificate = (tls != TlsMode::None).then(|| Certificate {
                why_not: why_not.map(str::to_owned),
                ..Certificate::default()
            });
            found
        };
        let starttls = candidate("a", Source::Srv, TlsMode::StartTls, 0);
        let implicit = candidate("a", Source::Srv, TlsMode::Implicit, 0);
        let imap = |tls| found(Kind::Imap, tls, None);
        assert_eq!(starttls.fault(&imap(TlsMode::StartTls)), None);
        assert_eq!(starttls.fault(&imap(TlsMode::Implicit)), None);
        assert_eq!(implicit.fault(&imap(TlsMode::Implicit)), None);
        for less in [
            starttls.fault(&imap(TlsMode::None)),
            implicit.fault(&imap(TlsMode::StartTls)),
            implicit.fault(&imap(TlsMode::None)),
            starttls.fault(&found(Kind::Pop3, TlsMode::StartTls, None)),
            starttls.fault(&found(Kind::Imap, TlsMode::StartTls, Some("expired"))),
        ] {
            assert!(less.is_some());
        }
    }
}
