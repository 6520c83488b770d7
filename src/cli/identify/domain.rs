//! What a domain says of its servers, and what those say themselves: looked at, listed, and made into front ends.
//!
//! A server that is less than the domain says (another protocol, no TLS, a certificate that does not verify) is told with
//! that fault, and gets no front end: nothing falls back to plain text.

use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr},
};

use futures_util::future::try_join_all;
use serde::Serialize;

use super::{Format, Identify, Kind, Verdict, block_texts, endpoint, report, usual};
use crate::{
    cli::output::{self, printable},
    identify::{self, Candidate, Domain, DomainError, Finder, Identity, Options},
    net::{Address, ClientTlsFiles},
};

/// Servers of one service that are looked at, at once.
const LOOKED_AT_MAX: usize = 3;

/// A server that was looked at, and what is amiss with it.
#[derive(Serialize)]
struct Seen {
    #[serde(flatten)]
    identity: Identity,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

impl Seen {
    fn is_well(&self) -> bool {
        self.fault.is_none() && self.identity.kind.is_protocol()
    }
}

/// An IP address alone means its usual port.
pub(super) fn resolver(text: &str) -> Result<SocketAddr, String> {
    let ip = text.parse::<IpAddr>();
    ip.map(|ip| SocketAddr::new(ip, 53))
        .or_else(|_| text.parse())
        .map_err(|_| "expected an IP address, or address:port".to_owned())
}

/// Whether a server's name could be a domain's, and so is worth asking for.
pub(super) fn may_be_domain(host: &str) -> bool {
    host.trim_end_matches('.').contains('.') && host.parse::<IpAddr>().is_err()
}

impl Identify {
    pub(super) fn finder(&self) -> Result<Finder, DomainError> {
        let trust = ClientTlsFiles {
            ca_file: self.ca_file.clone(),
            identity: None,
        };
        Finder::new(&trust, self.resolver)
    }

    /// Looks at servers, each where our resolver says that it is.
    pub(super) async fn look(
        &self,
        addresses: &[Address],
        finder: Option<&Finder>,
    ) -> anyhow::Result<Vec<Identity>> {
        let looking = addresses.iter().map(|it| self.look_at(it, finder));
        try_join_all(looking).await
    }

    async fn look_at(
        &self,
        address: &Address,
        finder: Option<&Finder>,
    ) -> anyhow::Result<Identity> {
        let mut options = Options {
            ca_file: self.ca_file.clone(),
            tls_name: self.tls_name.clone(),
            ..Options::default()
        };
        let Address::Tcp { host, port } = address else {
            return Ok(identify::identify(address, &options).await?);
        };
        // Without --resolver the system looks names up in its own way: it knows /etc/hosts.
        let finder = finder.filter(|_| self.resolver.is_some() && host.parse::<IpAddr>().is_err());
        let Some(finder) = finder else {
            return Ok(identify::identify(address, &options).await?);
        };
        let found = finder.addresses(host).await;
        let Some(ip) = found.first() else {
            let address = address.to_string();
            return Ok(Identity::unreachable(address, "its name has no address"));
        };
        options.tls_name.get_or_insert_with(|| host.clone());
        let at = endpoint(&ip.to_string(), *port);
        let mut identity = identify::identify(&at, &options).await?;
        identity.address = address.to_string();
        Ok(identity)
    }

    /// Asks a domain, then its best servers; `is_host` where the name may as well be a server's own.
    pub(super) async fn domain(
        &self,
        domain: &str,
        user: Option<&str>,
        is_host: bool,
    ) -> anyhow::Result<Verdict> {
        let finder = self.finder()?;
        let hosts = if is_host { usual(domain) } else { Vec::new() };
        let (domain, own) =
            tokio::join!(finder.find(domain, user), self.look(&hosts, Some(&finder)));
        let (domain, mut own) = (domain?, own?);
        let best = best(&domain);
        let places: Vec<Address> = best.iter().map(|it| endpoint(&it.host, it.port)).collect();
        let found = self.look(&places, Some(&finder)).await?;
        let mut seen = down_to_the_first_that_is_well(best.into_iter().zip(found));
        own.retain(|it| {
            let is_seen = places.iter().any(|place| place.to_string() == it.address);
            // No front end for a guess where a server is named: it could be the same one without TLS.
            let named = domain.candidates.iter().map(|named| named.kind);
            let is_guess = self.config && named.into_iter().any(|kind| kind == it.kind);
            // A port where nobody listens tells nothing about a host.
            it.kind.is_protocol() && !is_seen && !is_guess
        });
        seen.extend(own.into_iter().map(|identity| Seen {
            identity,
            fault: None,
        }));
        match (self.config, self.format) {
            (true, _) => self.print_front_ends(&seen)?,
            (false, Format::Json) => {
                output::line(&serde_json::to_string(&domain)?)?;
                for seen in &seen {
                    output::line(&serde_json::to_string(seen)?)?;
                }
            }
            (false, Format::Text) => {
                // What was asked in vain matters to nobody who named a server.
                let is_domain = !is_host || !domain.candidates.is_empty() || seen.is_empty();
                let domain = is_domain.then(|| told(&domain));
                let servers = seen.iter().map(|it| match &it.fault {
                    None => report(&it.identity),
                    Some(fault) => {
                        format!(
                            "{}\n  {:<12}  {}",
                            report(&it.identity),
                            "FAULT",
                            printable(fault)
                        )
                    }
                });
                let texts: Vec<String> = domain.into_iter().chain(servers).collect();
                output::line(&texts.join("\n\n"))?;
            }
        }
        Ok(match seen.iter().any(Seen::is_well) {
            true => Verdict::Well,
            false => Verdict::Amiss,
        })
    }

    fn print_front_ends(&self, seen: &[Seen]) -> anyhow::Result<()> {
        let (well, amiss): (Vec<_>, Vec<_>) = seen.iter().partition(|it| it.is_well());
        for seen in amiss {
            let fault = seen.fault.as_deref().unwrap_or("no protocol was found");
            let address = &seen.identity.address;
            writeln!(io::stderr(), "mailtee: {address}: {}", printable(fault))?;
        }
        let texts = block_texts(well.iter().filter_map(|it| self.block(&it.identity)));
        anyhow::ensure!(
            !texts.is_empty(),
            "{}: nothing was found that a front end can sit in front of",
            self.server
        );
        Ok(output::line(&texts.join("\n"))?)
    }
}

/// Mail is brought to an exchanger, and handed to a submission server: two services of one protocol.
fn service(candidate: &Candidate) -> (Kind, bool) {
    (candidate.kind, candidate.port == 25)
}

/// The best servers of each service.
fn best(domain: &Domain) -> Vec<&Candidate> {
    let mut taken = Vec::new();
    let is_among_them = |it: &&Candidate| {
        taken.push(service(it));
        let of_its_own = taken.iter().filter(|of| **of == service(it));
        of_its_own.count() <= LOOKED_AT_MAX
    };
    domain.candidates.iter().filter(is_among_them).collect()
}

/// Of each service what is amiss with those named first, and the first that is well; nothing of those behind it.
fn down_to_the_first_that_is_well<'a>(
    found: impl Iterator<Item = (&'a Candidate, Identity)>,
) -> Vec<Seen> {
    let mut done = Vec::new();
    let mut seen = Vec::new();
    for (candidate, identity) in found {
        if done.contains(&service(candidate)) {
            continue;
        }
        let fault = candidate.fault(&identity);
        if fault.is_none() {
            done.push(service(candidate));
        }
        seen.push(Seen { identity, fault });
    }
    seen
}

/// What a domain says, for people.
fn told(domain: &Domain) -> String {
    let mut text = printable(&domain.domain);
    let mut row = |label: &str, value: &str| {
        text.push_str(&format!("\n  {label:<12}  {}", printable(value)));
    };
    for candidate in &domain.candidates {
        let place = match &candidate.url {
            Some(url) => url.clone(),
            None => format!("{}:{}", candidate.host, candidate.port),
        };
        let secured = super::secured(candidate.tls);
        let user = candidate.user.as_ref().map(|user| format!(", as {user}"));
        let user = user.unwrap_or_default();
        let source = candidate.source.name();
        row(
            candidate.kind.name(),
            &format!("{place}{secured}{user}  ({source})"),
        );
    }
    for (index, asked) in domain.asked.iter().enumerate() {
        let label = if index == 0 { "asked" } else { "" };
        row(label, &format!("{}: {}", asked.place, asked.found));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_has_its_usual_port() {
        assert_eq!(resolver("192.0.2.1").unwrap().port(), 53);
        assert_eq!(resolver("[::1]:5353").unwrap().port(), 5353);
        assert!(resolver("dns.example.org").is_err());
    }

    #[test]
    fn a_name_with_a_dot_may_be_a_domain() {
        assert!(may_be_domain("example.org"));
        for host in ["localhost", "192.0.2.1", "::1", "localhost."] {
            assert!(!may_be_domain(host), "{host}");
        }
    }
}
