//! Who looks: a read token, given once, then a cookie of its own that this process knows for half a day.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use askama::Template;
use axum::{
    Form,
    extract::{FromRequest, Request, State as Of},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use parking_lot::Mutex;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{State, render, to_login};
use crate::message::fingerprint::K1;

const LOGIN_AGE: Duration = Duration::from_secs(12 * 3600);
const LOGINS_MAX: usize = 1024;
/// `__Host-`: only over TLS, only for this host, never from a neighbour's subdomain.
const COOKIE: &str = "__Host-mailtee-vault";

/// Who is logged in: the hash of each cookie, and when it ends.
#[derive(Default)]
pub(crate) struct Logins(Mutex<HashMap<[u8; 32], Instant>>);

impl Logins {
    fn begin(&self, now: Instant) -> String {
        let secret = K1(rand::random()).to_string();
        let mut logins = self.0.lock();
        logins.retain(|_, end| *end > now);
        if logins.len() >= LOGINS_MAX
            && let Some(oldest) = logins
                .iter()
                .min_by_key(|(_, end)| **end)
                .map(|(hash, _)| *hash)
        {
            logins.remove(&oldest);
        }
        logins.insert(hash(&secret), now + LOGIN_AGE);
        secret
    }

    /// Found by its hash, so the time that it takes says nothing of the secret.
    fn holds(&self, secret: &str, now: Instant) -> bool {
        let logins = self.0.lock();
        logins.get(&hash(secret)).is_some_and(|end| *end > now)
    }

    fn end(&self, secret: &str) {
        self.0.lock().remove(&hash(secret));
    }
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == COOKIE).then_some(value)
        })
}

/// Lets a reader through: by its cookie, or by its token in the Authorization header. All others go to the login.
pub(super) async fn required(Of(state): Of<State>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let by_cookie =
        cookie(headers).is_some_and(|secret| state.logins.holds(secret, Instant::now()));
    let by_token = || {
        let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        state.tokens.authorize(given).filter(|scope| scope.read)
    };
    if by_cookie || by_token().is_some() {
        next.run(request).await
    } else {
        to_login()
    }
}

#[derive(Template)]
#[template(path = "login.html", config = "src/vault/askama.toml")]
struct Page {
    failed: bool,
}

pub(super) async fn form() -> Response {
    render(&Page { failed: false })
}

#[derive(Deserialize)]
pub(super) struct Given {
    token: String,
}

pub(super) async fn enter(Of(state): Of<State>, request: Request) -> Response {
    let reading = Form::<Given>::from_request(request, &());
    let given = match tokio::time::timeout(state.limits.idle, reading).await {
        Ok(Ok(Form(given))) => given,
        Ok(Err(refused)) => return refused.into_response(),
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    let scope = state.tokens.scope(&given.token);
    if !scope.is_some_and(|scope| scope.read) {
        let page = render(&Page { failed: true });
        return (StatusCode::FORBIDDEN, page).into_response();
    }
    let secret = state.logins.begin(Instant::now());
    let age = LOGIN_AGE.as_secs();
    let set =
        format!("{COOKIE}={secret}; Path=/; Max-Age={age}; HttpOnly; Secure; SameSite=Strict");
    ([(header::SET_COOKIE, set)], Redirect::to("/")).into_response()
}

pub(super) async fn leave(Of(state): Of<State>, headers: HeaderMap) -> Response {
    if let Some(secret) = cookie(&headers) {
        state.logins.end(secret);
    }
    let clear = format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Strict");
    ([(header::SET_COOKIE, clear)], to_login()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_ends_by_time_and_by_will() {
        let (logins, now) = (Logins::default(), Instant::now());
        let (first, second) = (logins.begin(now), logins.begin(now));
        assert!(logins.holds(&first, now) && !logins.holds("guess", now));
        assert!(!logins.holds(&first, now + LOGIN_AGE));
        logins.end(&second);
        assert!(!logins.holds(&second, now));
    }

    #[test]
    fn logins_are_bounded_and_the_oldest_goes_first() {
        let (logins, now) = (Logins::default(), Instant::now());
        let first = logins.begin(now);
        for n in 0..LOGINS_MAX as u64 {
            logins.begin(now + Duration::from_millis(n + 1));
        }
        assert_eq!(logins.0.lock().len(), LOGINS_MAX);
        assert!(!logins.holds(&first, now));
    }
}
