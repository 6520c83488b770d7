//! Discovery: from the URL in the configuration to a server's account, endpoints and limits (RFC 8620 section 2).

use std::time::Instant;

use reqwest::Url;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use super::{
    Options,
    shapes::{BLOB, BlobLimits, CORE, CoreLimits, MAIL, SIGHTINGS, Session},
    verdict::{Refusal, Verdict},
};
use crate::channel::{Channel, is_secured};

const SESSION_BYTES_MAX: usize = 1024 * 1024;
const REDIRECTS_MAX: usize = 5;
/// More at once bring nothing: the target's work is bounded by its disk.
const CONCURRENCY_MAX: u64 = 16;

/// What is known of the server, as long as its session state stays.
pub(super) struct Server {
    pub api: Url,
    pub upload: Url,
    /// `downloadUrl`, still a template.
    download: String,
    base: Url,
    pub account: String,
    pub limits: CoreLimits,
    /// The server takes blobs inside API requests (RFC 9404).
    pub blob: Option<BlobLimits>,
    /// The server keeps sightings itself.
    pub sightings: bool,
    pub state: String,
    pub read_at: Instant,
    pub uploads: Semaphore,
    pub requests: Semaphore,
}

impl Server {
    pub(super) async fn discover(channel: &Channel, options: &Options) -> Result<Self, Refusal> {
        let mut url = session_url(&options.url)?;
        for _ in 0..=REDIRECTS_MAX {
            let answer = channel.get(url.clone(), SESSION_BYTES_MAX).await?;
            match (answer.status, &answer.location) {
                (200, _) => {
                    let session: Session = serde_json::from_slice(&answer.body)
                        .map_err(|e| misled(format!("{url} is no JMAP session: {e}")))?;
                    return Self::from_session(session, answer.url, options);
                }
                (301 | 302 | 303 | 307 | 308, Some(location)) => {
                    url = join(&url, location)?;
                }
                (status, _) => {
                    let refusal = Refusal::http(status, answer.retry_after, &answer.body);
                    return Err(Refusal {
                        why: format!("session: {}", refusal.why),
                        ..refusal
                    });
                }
            }
        }
        Err(misled(format!("{url}: too many redirects")))
    }

    fn from_session(session: Session, base: Url, options: &Options) -> Result<Self, Refusal> {
        let account = match &options.account {
            Some(named) => session
                .accounts
                .iter()
                .find(|(id, account)| *id == named || account.name == *named)
                .map(|(id, _)| id),
            None => session.primary_accounts.get(MAIL),
        };
        let account = account.cloned().ok_or_else(|| {
            Refusal::new(
                Verdict::Unauthorized,
                "the session has no such mail account",
            )
        })?;
        let limits: CoreLimits = capability(session.capabilities.get(CORE));
        let of_account = session
            .accounts
            .get(&account)
            .map(|a| &a.account_capabilities);
        let announced = |name: &str| {
            session.capabilities.contains_key(name)
                && of_account.is_none_or(|a| a.contains_key(name))
        };
        let blob = announced(BLOB).then(|| capability(of_account.and_then(|a| a.get(BLOB))));
        Ok(Self {
            api: join(&base, &session.api_url)?,
            upload: join(
                &base,
                &expand(&session.upload_url, &[("accountId", &account)]),
            )?,
            download: session.download_url.clone(),
            blob,
            sightings: blob.is_some() && announced(SIGHTINGS),
            state: session.state.clone(),
            read_at: Instant::now(),
            uploads: permits(limits.max_concurrent_upload),
            requests: permits(limits.max_concurrent_requests),
            base,
            account,
            limits,
        })
    }

    pub(super) fn download(&self, blob_id: &str) -> Result<Url, Refusal> {
        let variables = [
            ("accountId", self.account.as_str()),
            ("blobId", blob_id),
            ("name", "message.eml"),
            ("type", "message/rfc822"),
        ];
        join(&self.base, &expand(&self.download, &variables))
    }

    /// The capabilities that a request of ours may name.
    pub(super) fn using(&self) -> Vec<&'static str> {
        let mut using = vec![CORE, MAIL];
        using.extend(self.blob.map(|_| BLOB));
        using.extend(self.sightings.then_some(SIGHTINGS));
        using
    }
}

fn permits(limit: u64) -> Semaphore {
    Semaphore::new(limit.clamp(1, CONCURRENCY_MAX) as usize)
}

/// A limit object of another shape than ours is read as if it were absent.
fn capability<T: DeserializeOwned + Default>(value: Option<&serde_json::Value>) -> T {
    value
        .and_then(|value| T::deserialize(value).ok())
        .unwrap_or_default()
}

fn session_url(configured: &str) -> Result<Url, Refusal> {
    let mut url = Url::parse(configured).map_err(|e| misled(format!("{configured}: {e}")))?;
    if url.path() == "/" {
        url.set_path("/.well-known/jmap");
    }
    Ok(url)
}

fn join(base: &Url, relative: &str) -> Result<Url, Refusal> {
    let url = base
        .join(relative)
        .map_err(|e| misled(format!("{relative}: {e}")))?;
    match is_secured(&url) {
        true => Ok(url),
        false => Err(misled(format!("the server names the unsecured {url}"))),
    }
}

fn misled(why: String) -> Refusal {
    Refusal::new(Verdict::Unavailable, why)
}

/// URI templates of level 1 (RFC 6570), all that RFC 8620 section 2 needs.
fn expand(template: &str, variables: &[(&str, &str)]) -> String {
    let mut out = template.to_string();
    for (name, value) in variables {
        let mut encoded = String::new();
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    encoded.push(char::from(byte))
                }
                _ => encoded += &format!("%{byte:02X}"),
            }
        }
        out = out.replace(&format!("{{{name}}}"), &encoded);
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn session() -> Session {
        serde_json::from_value(json!({
            "capabilities": {CORE: {"maxSizeUpload": 1000, "maxConcurrentUpload": 5}, MAIL: {}, BLOB: {}, SIGHTINGS: {}},
            "accounts": {
                "a/1": {"name": "alice", "accountCapabilities": {MAIL: {}, BLOB: {"maxSizeBlobSet": null}}},
                "b": {"name": "bob", "accountCapabilities": {MAIL: {}}},
            },
            "primaryAccounts": {MAIL: "a/1"},
            "apiUrl": "/jmap/", "uploadUrl": "/jmap/upload/{accountId}/",
            "downloadUrl": "/jmap/{accountId}/{blobId}/{name}?type={type}", "state": "s1",
        }))
        .unwrap()
    }

    fn base() -> Url {
        Url::parse("https://mail.example.org/.well-known/jmap").unwrap()
    }

    #[test]
    fn relative_urls_and_templates_become_whole_ones() {
        let server = Server::from_session(session(), base(), &Options::default())
            .ok()
            .unwrap();
        assert_eq!(server.api.as_str(), "https://mail.example.org/jmap/");
        assert_eq!(
            server.upload.as_str(),
            "https://mail.example.org/jmap/upload/a%2F1/"
        );
        assert_eq!(
            server.download("G1").ok().unwrap().as_str(),
            "https://mail.example.org/jmap/a%2F1/G1/message.eml?type=message%2Frfc822"
        );
        assert_eq!(server.limits.max_size_upload, 1000);
        assert_eq!(server.limits.max_calls_in_request, 16);
        assert_eq!(server.uploads.available_permits(), 5);
    }

    #[test]
    fn a_capability_counts_where_server_and_account_have_it() {
        let server = Server::from_session(session(), base(), &Options::default())
            .ok()
            .unwrap();
        assert!(server.blob.is_some() && !server.sightings);
        let bob = Options {
            account: Some("bob".into()),
            ..Options::default()
        };
        let server = Server::from_session(session(), base(), &bob).ok().unwrap();
        assert_eq!((server.account.as_str(), server.blob), ("b", None));
    }

    #[test]
    fn an_account_that_is_not_there_and_a_url_in_the_clear_are_refused() {
        let nobody = Options {
            account: Some("nobody".into()),
            ..Options::default()
        };
        let refusal = Server::from_session(session(), base(), &nobody)
            .err()
            .unwrap();
        assert_eq!(refusal.verdict, Verdict::Unauthorized);
        let clear = Session {
            api_url: "http://mail.example.org/jmap/".into(),
            ..session()
        };
        assert!(Server::from_session(clear, base(), &Options::default()).is_err());
    }
}
