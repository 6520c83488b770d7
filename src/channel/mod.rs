//! The secured way to a target: an HTTPS client that verifies whom it talks to and shows who it is.
//!
//! TLS is verified against the system's roots, or against the operator's own CA file alone; plain HTTP is refused but to
//! loopback. Redirects are handed back, never followed. Credentials are read from files or the environment and can be
//! read again while in use. A request is bounded by silence, not by size: as long as bytes move it may take its time.
//!
//! It never retries: the caller must know whether the other side may have acted. [`ChannelError::Unreachable`] means
//! that nothing was sent, [`ChannelError::Lost`] that the fate of the request is unknown.

mod secret;
mod tls;
mod upload;

use std::{
    error::Error as _,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use bytes::{Bytes, BytesMut};
use reqwest::{
    Client, Method, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER},
};
use tokio::time::timeout;

pub use secret::{Credentials, Secret, SecretSource};
pub use upload::Upload;

/// How a target is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Trust this CA (or self-signed certificate) instead of the system's roots. PEM.
    pub ca_file: Option<PathBuf>,
    /// Client certificate chain and key, PEM; both or neither.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    pub credentials: Credentials,
    /// `http://host:port` (CONNECT) or `socks5h://host:port`; none: direct.
    pub proxy: Option<String>,
    pub proxy_credentials: Option<(String, SecretSource)>,
    pub connect_timeout: Duration,
    /// Longest silence while a request is sent, answered and its answer read.
    pub silence_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ca_file: None,
            client_certificate: None,
            credentials: Credentials::None,
            proxy: None,
            proxy_credentials: None,
            connect_timeout: Duration::from_secs(10),
            silence_timeout: Duration::from_secs(60),
        }
    }
}

/// Why there is no answer (one of any HTTP status is an answer). The variants differ in what the other side may have
/// done.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The options do not stand: a file is missing, a key does not fit.
    #[error("channel: {what}: {why}")]
    Options { what: String, why: String },
    /// Nothing was sent.
    #[error("channel: cannot reach {host}: {why}")]
    Unreachable { host: String, why: String },
    /// It was sent, wholly or in part, and no answer came: whether it was acted on is unknown.
    #[error("channel: lost {host}: {why}")]
    Lost { host: String, why: String },
    /// Our own copy of the content could not be read.
    #[error("channel: content: {0}")]
    Content(String),
}

/// An HTTP answer of any status, its body read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub url: Url,
    pub location: Option<String>,
    pub retry_after: Option<Duration>,
    pub body: Bytes,
}

/// A client of one target. Requests share its connections; `&self` serves any number at once.
pub struct Channel {
    client: Client,
    credentials: Credentials,
    authorization: ArcSwapOption<HeaderValue>,
    silence_timeout: Duration,
}

impl Channel {
    /// Reads every file that the options name; connects to nobody yet.
    pub fn open(options: &Options) -> Result<Self, ChannelError> {
        let mut builder = Client::builder()
            .user_agent(concat!("mailtee/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls::client_config(options)?)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .pool_max_idle_per_host(16)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(options.silence_timeout)
            .referer(false);
        builder = match &options.proxy {
            None => builder.no_proxy(),
            Some(url) => builder.proxy(proxy(url, options.proxy_credentials.as_ref())?),
        };
        let client = builder.build().map_err(|e| ChannelError::Options {
            what: "client".into(),
            why: causes(&e),
        })?;
        let channel = Self {
            client,
            credentials: options.credentials.clone(),
            authorization: ArcSwapOption::empty(),
            silence_timeout: options.silence_timeout,
        };
        channel.reload_credentials()?;
        Ok(channel)
    }

    /// Reads the credentials again: a token may have been renewed in its file.
    pub fn reload_credentials(&self) -> Result<(), ChannelError> {
        let value = self.credentials.authorization()?;
        self.authorization.store(value.map(Arc::new));
        Ok(())
    }

    /// GET. An answer whose body is longer than `bytes_max` is an error.
    pub async fn get(&self, url: Url, bytes_max: usize) -> Result<Answer, ChannelError> {
        self.send(Method::GET, url, None, Upload::Empty, bytes_max)
            .await
    }

    /// POST of one body. An answer whose body is longer than `bytes_max` is an error.
    pub async fn post(
        &self,
        url: Url,
        content_type: &'static str,
        upload: Upload,
        bytes_max: usize,
    ) -> Result<Answer, ChannelError> {
        self.send(Method::POST, url, Some(content_type), upload, bytes_max)
            .await
    }

    /// The answer's body is cut off by an error beyond `bytes_max`.
    async fn send(
        &self,
        method: Method,
        url: Url,
        content_type: Option<&'static str>,
        upload: Upload,
        bytes_max: usize,
    ) -> Result<Answer, ChannelError> {
        let host = host_of(&url);
        if !is_secured(&url) {
            return Err(ChannelError::Unreachable {
                host,
                why: "plain HTTP is for loopback only".into(),
            });
        }
        let moved = Arc::new(AtomicU64::new(0));
        let mut request = self.client.request(method, url);
        if let Some(authorization) = &*self.authorization.load() {
            request = request.header(AUTHORIZATION, HeaderValue::clone(authorization));
        }
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        if let Some(body) = upload.into_body(moved.clone()) {
            request = request.body(body);
        }
        let sending = request.send();
        tokio::pin!(sending);
        let mut moved_before = 0;
        let mut response = loop {
            match timeout(self.silence_timeout, &mut sending).await {
                Ok(Ok(response)) => break response,
                Ok(Err(error)) => return Err(failure(host, error)),
                Err(_) => {
                    let now = moved.load(Ordering::Relaxed);
                    if now == moved_before {
                        return Err(self.silent(host));
                    }
                    moved_before = now;
                }
            }
        };

        let mut body = BytesMut::new();
        loop {
            match timeout(self.silence_timeout, response.chunk()).await {
                Ok(Ok(Some(chunk))) if body.len() + chunk.len() <= bytes_max => {
                    body.extend_from_slice(&chunk)
                }
                Ok(Ok(Some(_))) => {
                    let why = format!("the answer is longer than {bytes_max} bytes");
                    return Err(ChannelError::Lost { host, why });
                }
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return Err(failure(host, error)),
                Err(_) => return Err(self.silent(host)),
            }
        }
        Ok(Answer {
            status: response.status().as_u16(),
            location: text(response.headers(), LOCATION.as_str()).map(String::from),
            retry_after: retry_after(response.headers(), SystemTime::now()),
            url: response.url().clone(),
            body: body.freeze(),
        })
    }

    fn silent(&self, host: String) -> ChannelError {
        let why = format!("silent for {:?}", self.silence_timeout);
        ChannelError::Lost { host, why }
    }
}

/// HTTPS, or plain HTTP that never leaves the machine.
pub fn is_secured(url: &Url) -> bool {
    let loopback = || {
        let host = url.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    };
    url.scheme() == "https" || (url.scheme() == "http" && loopback())
}

fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_string(),
    }
}

fn failure(host: String, error: reqwest::Error) -> ChannelError {
    let why = causes(&error);
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(content) = inner.downcast_ref::<upload::ContentError>() {
            return ChannelError::Content(content.to_string());
        }
        cause = inner.source();
    }
    if error.is_connect() || error.is_builder() {
        ChannelError::Unreachable { host, why }
    } else {
        ChannelError::Lost { host, why }
    }
}

/// The innermost cause is the one that an operator can act on; reqwest prints only the outermost.
fn causes(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    let mut deepest = None;
    while let Some(inner) = cause {
        deepest = Some(inner.to_string());
        cause = inner.source();
    }
    deepest.unwrap_or_else(|| error.to_string())
}

fn proxy(
    url: &str,
    credentials: Option<&(String, SecretSource)>,
) -> Result<reqwest::Proxy, ChannelError> {
    let proxy = reqwest::Proxy::all(url).map_err(|e| ChannelError::Options {
        what: "proxy".into(),
        why: causes(&e),
    })?;
    Ok(match credentials {
        None => proxy,
        Some((user, password)) => proxy.basic_auth(user, password.read()?.reveal()),
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Seconds or a date (RFC 9110 section 10.2.3); a date counts from the server's own clock where it tells it.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = text(headers, RETRY_AFTER.as_str())?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text: &str| jiff::fmt::rfc2822::parse(text).ok().map(|t| t.timestamp());
    let from = match text(headers, DATE.as_str()).and_then(date) {
        Some(theirs) => theirs,
        None => jiff::Timestamp::try_from(now).ok()?,
    };
    Some(Duration::try_from(date(value)? - from).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_by_the_servers_clock() {
        let mut headers = HeaderMap::new();
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(retry_after(&headers, now), None);
        headers.insert(RETRY_AFTER, HeaderValue::from_static("120"));
        assert_eq!(retry_after(&headers, now), Some(Duration::from_secs(120)));
        headers.insert(
            RETRY_AFTER,
            HeaderValue::from_static("Fri, 31 Dec 1999 23:59:59 GMT"),
        );
        headers.insert(
            DATE,
            HeaderValue::from_static("Fri, 31 Dec 1999 23:59:29 GMT"),
        );
        assert_eq!(retry_after(&headers, now), Some(Duration::from_secs(30)));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("soon"));
        assert_eq!(retry_after(&headers, now), None);
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        for (url, secured) in [
            ("https://mail.example.org/", true),
            ("http://127.0.0.1:8080/", true),
            ("http://[::1]/", true),
            ("http://localhost/jmap", true),
            ("http://mail.example.org/", false),
            ("http://10.0.0.1/", false),
            ("ftp://127.0.0.1/", false),
        ] {
            assert_eq!(is_secured(&Url::parse(url).unwrap()), secured, "{url}");
        }
    }
}
