//! HTTP/1.1, one GET a connection, bounded: what a probe and a look at a domain need of it.

use super::talk::{BYTES_MAX, Talk, Trouble};

const HEADERS_MAX: usize = 100;

/// An answer of any status.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) status_line: String,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// Every value of a header.
    pub(super) fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = move |(key, _): &&(String, String)| key.eq_ignore_ascii_case(name);
        let headers = self.headers.iter().filter(named);
        headers.map(|(_, value)| value.as_str())
    }

    pub(super) fn header<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.headers(name).next()
    }

    /// Where it sends us on to (RFC 9110 section 15.4).
    pub(super) fn location(&self) -> Option<&str> {
        match self.status {
            301 | 302 | 303 | 307 | 308 => self.header("location"),
            _ => None,
        }
    }
}

/// Asks once. Both are our own text or have been looked at: no line end can stand in them.
pub(super) async fn get(talk: &mut Talk, host: &str, path: &str) -> Result<Answer, Trouble> {
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !plain(host) || !plain(path) {
        return Err(Trouble::Broken(format!("no URL: {path:?} at {host:?}")));
    }
    let version = env!("CARGO_PKG_VERSION");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: mailtee/{version}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    talk.send(request.as_bytes()).await?;
    read(talk).await
}

/// Reads an answer: head, then the body as far as it is framed, or until the end (RFC 9112 section 6.3).
pub(super) async fn read(talk: &mut Talk) -> Result<Answer, Trouble> {
    let status_line = talk.line().await?;
    let status = status_line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1)?.parse().ok())
        .ok_or_else(|| Trouble::Broken(format!("no HTTP: {status_line}")))?;
    let mut headers = Vec::new();
    loop {
        let line = talk.line().await?;
        if line.is_empty() {
            break;
        }
        if headers.len() == HEADERS_MAX {
            return Err(Trouble::TooMuch);
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    let mut answer = Answer {
        status,
        status_line,
        headers,
        body: Vec::new(),
    };
    let coding = answer.header("transfer-encoding").unwrap_or_default();
    let length = answer.header("content-length");
    answer.body = if coding.eq_ignore_ascii_case("chunked") {
        chunks(talk).await?
    } else if let Some(length) = length.and_then(|length| length.parse().ok()) {
        talk.exactly(length).await?
    } else {
        talk.rest().await?
    };
    Ok(answer)
}

/// RFC 9112 section 7.1.
async fn chunks(talk: &mut Talk) -> Result<Vec<u8>, Trouble> {
    let mut body = Vec::new();
    loop {
        let line = talk.line().await?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16)
            .map_err(|_| Trouble::Broken(format!("no chunk: {line}")))?;
        if size == 0 {
            return Ok(body);
        }
        if body.len() + size.min(BYTES_MAX) >= BYTES_MAX {
            return Err(Trouble::TooMuch);
        }
        body.extend(talk.exactly(size).await?);
        talk.line().await?;
    }
}
