//! The keys of a target that say how it is reached: authorities, client certificate, credentials, proxy, times.

use std::time::Duration;

use super::section::Section;
use crate::channel::{Credentials, Options, Secret, SecretSource};

pub(super) fn read_channel(section: &mut Section<'_>, allow_inline: bool) -> Options {
    let default = Options::default();
    let certificate = section.path("client_certificate");
    let key = section.path("client_key");
    let client_certificate = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        // One that is there and wrong has been told by itself, here and below.
        (Some(_), None) if !section.has("client_key") => {
            section.complain("client_key", "the key of `client_certificate`, PEM");
            None
        }
        (None, Some(_)) if !section.has("client_certificate") => {
            section.complain("client_certificate", "the certificate of `client_key`, PEM");
            None
        }
        _ => None,
    };
    let proxy: Option<String> = section.optional("proxy");
    let known = ["http://", "https://", "socks5://", "socks5h://"];
    if let Some(url) = &proxy
        && !refuse_userinfo(
            section,
            "proxy",
            url,
            "`proxy_user` and `proxy_password_file`",
        )
        && !known.iter().any(|scheme| url.starts_with(scheme))
    {
        section.complain("proxy", "http://host:port or socks5h://host:port");
    }
    let proxy_user: Option<String> = section.optional("proxy_user");
    let proxy_password = read_secret(section, &PROXY_PASSWORD, allow_inline);
    match (&proxy_user, &proxy_password) {
        (Some(_), None) if !PROXY_PASSWORD.are_any_in(section) => {
            section.complain("proxy_password_file", "the password of `proxy_user`");
        }
        (None, Some(_)) if !section.has("proxy_user") => {
            section.complain("proxy_user", "the user whose password is given");
        }
        _ => {}
    }
    Options {
        ca_file: section.path("ca_file"),
        client_certificate,
        credentials: read_credentials(section, allow_inline),
        proxy,
        proxy_credentials: proxy_user.zip(proxy_password),
        connect_timeout: section.or("connect_timeout", default.connect_timeout),
        silence_timeout: at_least_a_second(section, "silence_timeout", default.silence_timeout),
    }
}

/// A user or password inside a URL would be printed wherever the URL is; the fault does not quote it either.
pub(super) fn refuse_userinfo(
    section: &Section<'_>,
    key: &'static str,
    url: &str,
    instead: &str,
) -> bool {
    let rest = url.split_once(':').map_or(url, |(_, rest)| rest);
    let rest = rest.trim_start_matches(['/', '\\']);
    let authority = rest.split(['/', '\\', '?', '#']).next();
    let has_userinfo = authority.is_some_and(|authority| authority.contains('@'));
    if has_userinfo {
        section.complain_of(key, "a user or password in the URL", instead);
    }
    has_userinfo
}

fn at_least_a_second(section: &mut Section<'_>, key: &'static str, default: Duration) -> Duration {
    let time = section.or(key, default);
    if time < Duration::from_secs(1) {
        section.complain(key, "at least \"1s\"");
    }
    time
}

fn read_credentials(section: &mut Section<'_>, allow_inline: bool) -> Credentials {
    let token = read_secret(section, &TOKEN, allow_inline);
    let user: Option<String> = section.optional("user");
    let password = read_secret(section, &PASSWORD, allow_inline);
    match (token, user, password) {
        (Some(token), None, None) => Credentials::Bearer(token),
        (None, Some(user), Some(password)) => Credentials::Basic { user, password },
        (None, Some(_), None) if !PASSWORD.are_any_in(section) => {
            section.complain("password_file", "the password of `user`");
            Credentials::None
        }
        (None, None, Some(_)) if !section.has("user") => {
            section.complain("user", "the user whose password is given");
            Credentials::None
        }
        (None, ..) => Credentials::None,
        (Some(_), _, _) => {
            section.complain("user", "either a token, or `user` with a password");
            Credentials::None
        }
    }
}

/// The three keys of one secret.
struct Keys {
    file: &'static str,
    environment: &'static str,
    inline: &'static str,
}

impl Keys {
    fn are_any_in(&self, section: &Section<'_>) -> bool {
        let mut keys = [self.file, self.environment, self.inline].into_iter();
        keys.any(|key| section.has(key))
    }
}

const TOKEN: Keys = Keys {
    file: "token_file",
    environment: "token_env",
    inline: "token",
};
const PASSWORD: Keys = Keys {
    file: "password_file",
    environment: "password_env",
    inline: "password",
};
const PROXY_PASSWORD: Keys = Keys {
    file: "proxy_password_file",
    environment: "proxy_password_env",
    inline: "proxy_password",
};

/// At most one of the three keys may be there. The secret is read at the start, not here: a command that only looks at
/// the journal need not be able to.
fn read_secret(section: &mut Section<'_>, keys: &Keys, allow_inline: bool) -> Option<SecretSource> {
    let file = section.path(keys.file).map(SecretSource::File);
    let environment = section
        .optional(keys.environment)
        .map(SecretSource::Environment);
    let inline: Option<String> = section.optional(keys.inline);
    if inline.is_some() && !allow_inline {
        let expected = format!(
            "`{}` or `{}`, or allow_inline_secrets = true",
            keys.file, keys.environment
        );
        section.complain_of(keys.inline, "a secret in the file", &expected);
    }
    let inline = inline.map(|text| SecretSource::Inline(Secret::new(text)));
    let given: Vec<SecretSource> = [file, environment, inline].into_iter().flatten().collect();
    if given.len() > 1 {
        let found = "more than one";
        let expected = format!("one of `{}` and `{}`", keys.file, keys.environment);
        section.complain_of(keys.file, found, &expected);
    }
    given.into_iter().next()
}
