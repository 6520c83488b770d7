//! HTTPS for discovery: certificates verified, answers bounded, no way from HTTPS to HTTP.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{
    Client, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::WWW_AUTHENTICATE,
    redirect::Policy,
};

use super::{DomainError, dns::Dns};
use crate::{
    identify::identity::printable,
    net::{ClientTls, ClientTlsFiles},
};

/// For one place, from DNS to the last byte.
const PATIENCE: Duration = Duration::from_secs(8);

/// No configuration is as large.
const BODY_BYTES_MAX: usize = 256 << 10;

const REDIRECTS_MAX: usize = 3;

#[derive(Debug)]
pub(super) struct Fetcher(Client);

impl Fetcher {
    pub(super) fn new(trust: &ClientTlsFiles, dns: Dns) -> Result<Self, DomainError> {
        let tls = ClientTls::load(trust.clone(), &["http/1.1"])?;
        let client = Client::builder()
            .tls_backend_preconfigured((*tls.config()).clone())
            .dns_resolver(Arc::new(Names(dns)))
            .no_proxy()
            // The address stands in a URL: where we are sent on to, nobody hears it.
            .referer(false)
            .redirect(Policy::custom(|attempt| {
                let before = attempt.previous();
                let was_https = before.last().is_some_and(|url| url.scheme() == "https");
                let downgrades = was_https && attempt.url().scheme() != "https";
                match downgrades || before.len() > REDIRECTS_MAX {
                    true => attempt.stop(),
                    false => attempt.follow(),
                }
            }))
            .timeout(PATIENCE)
            .user_agent("mailtee")
            .build()
            .map_err(|error| DomainError::Http(error.to_string()))?;
        Ok(Self(client))
    }

    /// A document, or what came in its place.
    pub(super) async fn text(&self, url: &str) -> Result<String, String> {
        let mut answer = self.0.get(url).send().await.map_err(|it| cause(&it))?;
        if answer.status() != StatusCode::OK {
            return Err(answer.status().to_string());
        }
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|it| cause(&it))? {
            if body.len() + piece.len() > BODY_BYTES_MAX {
                return Err(format!("more than {} KiB", BODY_BYTES_MAX >> 10));
            }
            body.extend_from_slice(&piece);
        }
        String::from_utf8(body).map_err(|_| "it is not UTF-8".to_owned())
    }

    /// A JMAP session, or the wish to see who asks for it.
    pub(super) async fn jmap(&self, url: &str) -> Result<String, String> {
        let answer = self.0.get(url).send().await.map_err(|it| cause(&it))?;
        match answer.headers().get(WWW_AUTHENTICATE) {
            Some(scheme) if answer.status() == StatusCode::UNAUTHORIZED => Ok(format!(
                "a session, for who logs in: {}",
                printable(scheme.as_bytes())
            )),
            _ => Err(answer.status().to_string()),
        }
    }
}

/// The innermost cause says it best.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    printable(cause.to_string().as_bytes())
}

/// A domain as URLs and DNS write it.
pub(super) fn host(domain: &str) -> Result<String, DomainError> {
    let bad = || DomainError::BadDomain(domain.to_owned());
    let url = Url::parse(&format!("https://{domain}/")).map_err(|_| bad())?;
    let host = url.domain().ok_or_else(bad)?.trim_end_matches('.');
    let alone = url.port().is_none() && url.username().is_empty() && url.path() == "/";
    let is_domain = alone && url.query().is_none() && host.contains('.');
    match is_domain && super::is_host(host) {
        true => Ok(host.to_owned()),
        false => Err(bad()),
    }
}

pub(super) fn autoconfig_url(domain: &str, user: Option<&str>) -> String {
    let url = format!("https://autoconfig.{domain}/mail/config-v1.1.xml");
    match user.map(|user| Url::parse_with_params(&url, [("emailaddress", user)])) {
        Some(Ok(url)) => url.into(),
        _ => url,
    }
}

/// Asks our resolver, so that `--resolver` holds for HTTP as well.
struct Names(Dns);

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let dns = self.0.clone();
        Box::pin(async move {
            let found = dns.addresses(name.as_str()).await;
            if found.is_empty() {
                return Err("no such host".into());
            }
            let addresses: Addrs = Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_a_domain_and_nothing_else() {
        assert_eq!(host("Example.ORG").unwrap(), "example.org");
        assert_eq!(host("grüße.example").unwrap(), "xn--gre-6ka8l.example");
        for bad in [
            "",
            "localhost",
            "192.0.2.1",
            "a.b/c",
            "a.b?c",
            "u@a.b",
            "a.b:80",
            "a b.c",
        ] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_is_quoted_in_the_url() {
        let url = autoconfig_url("example.org", Some("a+b&c@example.org"));
        let expected = "https://autoconfig.example.org/mail/config-v1.1.xml?emailaddress=a%2Bb%26c%40example.org";
        assert_eq!(url, expected);
    }
}
