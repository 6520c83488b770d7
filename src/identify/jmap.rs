//! Is there JMAP behind an HTTP server? `/.well-known/jmap` is asked, without credentials (RFC 8620 section 2.2).
//!
//! A challenge there is enough, unless the server challenges everywhere: a path that nobody has is asked beside it. A
//! redirect is followed on the same host alone.

use tokio::time::Instant;

use super::{
    dial::Dial,
    http::{self, Answer},
    identity::{Identity, JmapSession, Kind, printable},
    talk::Trouble,
};

pub(super) const WELL_KNOWN: &str = "/.well-known/jmap";
const NOBODY_HAS: &str = "/.well-known/mailtee-asks-for-nothing";
const REDIRECTS_MAX: usize = 3;

/// Asks one path on a connection of its own.
pub(super) async fn ask(
    dial: &Dial,
    secured: bool,
    path: &str,
    deadline: Instant,
) -> Result<Answer, Trouble> {
    let (mut talk, _) = dial.open(secured, deadline).await?;
    http::get(&mut talk, &dial.host_header(), path).await
}

/// Judges the answer to [`WELL_KNOWN`], following where it leads.
pub(super) async fn judge(
    dial: &Dial,
    secured: bool,
    mut answer: Answer,
    deadline: Instant,
    found: &mut Identity,
) {
    found.kind = Kind::Http;
    if let Some(server) = answer.header("server") {
        found.tells(&format!("Server: {server}"));
    }
    let mut path = WELL_KNOWN.to_owned();
    for _ in 0..REDIRECTS_MAX {
        found.saw(format!("GET {path}: {}", answer.status_line));
        let Some(location) = answer.location() else {
            break;
        };
        found.saw(format!("it leads on to {location}"));
        let Some(next) = on_this_host(&dial.origin(secured), location) else {
            return;
        };
        path = next.to_owned();
        match ask(dial, secured, &path, deadline).await {
            Ok(next) => answer = next,
            Err(trouble) => return found.saw(format!("GET {path}: {trouble}")),
        }
    }
    let is_jmap = match answer.status {
        200 => is_session(&answer.body),
        401 => {
            let control = ask(dial, secured, NOBODY_HAS, deadline).await;
            let everywhere = control.as_ref().is_ok_and(|it| it.status == 401);
            if everywhere {
                found.saw("it asks for a login everywhere, so this says nothing of JMAP");
            }
            !everywhere
        }
        _ => false,
    };
    if is_jmap {
        found.kind = Kind::Jmap;
        found.jmap = Some(JmapSession {
            url: format!("{}{WELL_KNOWN}", dial.origin(secured)),
            status: answer.status,
            authenticate: answer
                .headers("www-authenticate")
                .map(|it| printable(it.as_bytes()))
                .collect(),
        });
    }
}

/// The path of a redirect that stays where we are.
fn on_this_host<'a>(origin: &str, location: &'a str) -> Option<&'a str> {
    let path = location.strip_prefix(origin).unwrap_or(location);
    (path.starts_with('/') && !path.starts_with("//")).then_some(path)
}

/// RFC 8620 section 2: a session has both.
pub(super) fn is_session(body: &[u8]) -> bool {
    let session: Result<serde_json::Value, _> = serde_json::from_slice(body);
    session.is_ok_and(|it| it["apiUrl"].is_string() && it["capabilities"].is_object())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_followed_on_the_same_host_alone() {
        let origin = "https://mail.example.org";
        assert_eq!(on_this_host(origin, "/jmap"), Some("/jmap"));
        assert_eq!(
            on_this_host(origin, "https://mail.example.org/jmap/session"),
            Some("/jmap/session")
        );
        for away in [
            "https://mail.example.org.evil.example/jmap",
            "https://mail.example.org@evil.example/",
            "http://mail.example.org/jmap",
            "//evil.example/jmap",
            "jmap",
            "",
        ] {
            assert_eq!(on_this_host(origin, away), None, "{away}");
        }
    }
}
