//! Who may ask: a browser that was lured here (DNS rebinding, cross-site requests) and a local user without rights may not.
//!
//! A rebound name shows in `Host`, so pages answer to addresses, `localhost` and configured names alone. The API wants
//! `Authorization: Bearer` with the token of a file that only its owner reads: no other site's page can send that header
//! without a preflight that nobody answers, and no other local user knows the token.

use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use subtle::ConstantTimeEq;

use super::Shared;

/// No script, no foreign content, no frame.
pub(super) const PAGE_HEADERS: [(header::HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

/// The API's secret. It prints nothing.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Where it lies below the daemon's data directory.
    pub fn file(data_dir: &Path) -> PathBuf {
        data_dir.join("admin.token")
    }

    /// The token of this data directory, made on first use.
    pub fn open(data_dir: &Path) -> io::Result<Token> {
        match fs::read(Self::file(data_dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(data_dir),
            // A stop of the machine while it was made: nobody has this one.
            Ok(bytes) if bytes.trim_ascii().is_empty() => Self::create(data_dir),
            _ => Self::read(data_dir),
        }
    }

    /// The token of this data directory, as the command line reads it.
    pub fn read(data_dir: &Path) -> io::Result<Token> {
        let text = fs::read_to_string(Self::file(data_dir))?;
        let text = text.trim();
        if text.len() < 32 {
            let path = Self::file(data_dir);
            let message = format!("{}: no token in it", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Token(text.into()))
    }

    fn create(data_dir: &Path) -> io::Result<Token> {
        let random: [u8; 32] = rand::random();
        let text = blake3::Hash::from_bytes(random).to_hex().to_string();
        // Whole under its name or not at all.
        let new = data_dir.join("admin.token.new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        fs::rename(new, Self::file(data_dir))?;
        fs::File::open(data_dir)?.sync_all()?;
        Ok(Token(text.into()))
    }

    /// The secret itself, for the `Authorization` header.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

pub(super) async fn require_known_host(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    if is_known(&host(&request), &shared.allowed_hosts) {
        next.run(request).await
    } else {
        let hint = "this host name is not in [admin].allowed_hosts\n";
        (StatusCode::MISDIRECTED_REQUEST, hint).into_response()
    }
}

pub(super) async fn require_token(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    if bears(request.headers(), &shared.token) {
        next.run(request).await
    } else {
        let hint = "the token in data_dir/admin.token is needed\n";
        (StatusCode::UNAUTHORIZED, hint).into_response()
    }
}

fn bears(headers: &HeaderMap, token: &Token) -> bool {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    given.as_bytes().ct_eq(token.0.as_bytes()).into()
}

/// The name that the client believes it talks to, without its port.
fn host(request: &Request) -> String {
    let given = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request
            .headers()
            .get(header::HOST)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default(),
    };
    match given.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name.to_owned(),
        _ => given.to_owned(),
    }
}

fn is_known(host: &str, allowed: &[String]) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || allowed.iter().any(|name| host.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use axum::body::Body;

    use super::*;

    fn asked_for(host_header: &str) -> String {
        let request = Request::builder()
            .uri("/")
            .header(header::HOST, host_header)
            .body(Body::empty())
            .expect("a request");
        host(&request)
    }

    #[test]
    fn a_rebound_name_is_not_known() {
        let allowed = ["mail.example.org".to_owned()];
        for good in [
            "127.0.0.1:9725",
            "[::1]:9725",
            "localhost",
            "Mail.Example.org:9725",
        ] {
            assert!(is_known(&asked_for(good), &allowed), "{good}");
        }
        for bad in [
            "evil.example:9725",
            "127.0.0.1.evil.example",
            "",
            "localhost.evil",
        ] {
            assert!(!is_known(&asked_for(bad), &allowed), "{bad}");
        }
    }

    #[test]
    fn the_token_is_made_once_and_readable_by_its_owner_alone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let made = Token::open(dir.path()).expect("made");
        let again = Token::open(dir.path()).expect("read");
        assert_eq!(made.expose(), again.expose());
        let mode = fs::metadata(Token::file(dir.path())).expect("a file");
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        assert_eq!(format!("{made:?}"), "Token(…)");
    }

    #[test]
    fn a_token_file_that_a_stop_left_empty_is_made_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(Token::file(dir.path()), "").expect("written");
        fs::write(dir.path().join("admin.token.new"), "half").expect("written");
        let made = Token::open(dir.path()).expect("made");
        let again = Token::read(dir.path()).expect("read");
        assert_eq!(made.expose(), again.expose());
        fs::write(Token::file(dir.path()), "short").expect("written");
        assert!(
            Token::open(dir.path()).is_err(),
            "an operator's mistake stays visible"
        );
    }

    #[test]
    fn only_the_exact_token_opens_the_api() {
        let token = Token("0123456789abcdef0123456789abcdef".into());
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
            bears(&headers, &token)
        };
        assert!(with("Bearer 0123456789abcdef0123456789abcdef"));
        assert!(!with("Bearer 0123456789abcdef"));
        assert!(!with("Basic 0123456789abcdef0123456789abcdef"));
        assert!(!bears(&HeaderMap::new(), &token));
    }
}
