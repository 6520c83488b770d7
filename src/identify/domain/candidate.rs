//! A server that a domain names: by whom, how much that is worth, and whether what is found there is what was named.

use serde::Serialize;

use crate::identify::identity::{Identity, Kind, TlsMode};

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
    pub(super) order: u32,
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
        let Some(certificate) = &found.certificate else {
            return Some("it offers TLS and fails at it".to_owned());
        };
        let why = certificate.why_not.as_ref()?;
        Some(format!("its certificate does not verify: {why}"))
    }
}

/// The best first, for each service; one named twice stands where it is named best. TLS from the first byte goes before
/// STARTTLS within what one source says (RFC 8314 section 3).
pub(super) fn rank(candidates: &mut Vec<Candidate>) {
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
    use super::{super::super::identity::Certificate, *};

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
        let mut broken = imap(TlsMode::StartTls);
        broken.certificate = None;
        for less in [
            starttls.fault(&broken),
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
