//! Passwords and tokens: where they come from, and a type that no log can print.

use std::{env, fmt, fs, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::header::HeaderValue;

use super::ChannelError;

/// A secret value. Printed in any way, it shows nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the value; from here on nothing prints it.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself, for the wire alone.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Where a secret lies; it is read when needed and again on reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    File(PathBuf),
    /// The name of an environment variable.
    Environment(String),
    /// In the configuration itself, where the operator allowed it.
    Inline(Secret),
}

impl SecretSource {
    /// The value without line ends at its end; an empty one is an error.
    pub fn read(&self) -> Result<Secret, ChannelError> {
        let (what, value) = match self {
            Self::File(path) => (
                path.display().to_string(),
                fs::read_to_string(path).map_err(|e| e.to_string()),
            ),
            Self::Environment(name) => (
                format!("${name}"),
                env::var(name).map_err(|e| match e {
                    env::VarError::NotPresent => "not set".to_string(),
                    env::VarError::NotUnicode(_) => "not UTF-8".to_string(),
                }),
            ),
            Self::Inline(secret) => ("an inline secret".to_owned(), Ok(secret.0.clone())),
        };
        let value = value.map(|text| text.trim_end_matches(['\r', '\n']).to_string());
        match value {
            Ok(value) if value.is_empty() => Err(ChannelError::Options {
                what,
                why: "is empty".into(),
            }),
            Ok(value) => Ok(Secret(value)),
            Err(why) => Err(ChannelError::Options { what, why }),
        }
    }
}

/// How we say who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing, or the client certificate alone.
    #[default]
    None,
    Bearer(SecretSource),
    Basic {
        user: String,
        password: SecretSource,
    },
}

impl Credentials {
    /// The value of `Authorization`, marked so that no HTTP layer logs or indexes it.
    pub(super) fn authorization(&self) -> Result<Option<HeaderValue>, ChannelError> {
        let text = match self {
            Self::None => return Ok(None),
            Self::Bearer(token) => format!("Bearer {}", token.read()?.reveal()),
            Self::Basic { user, password } => {
                let pair = format!("{user}:{}", password.read()?.reveal());
                format!("Basic {}", STANDARD.encode(pair))
            }
        };
        let mut value = HeaderValue::try_from(text).map_err(|_| ChannelError::Options {
            what: "credentials".into(),
            why: "hold characters that HTTP does not allow".into(),
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2".into());
        assert!(!format!("{secret} {secret:?} {:?}", Some(&secret)).contains("hunter2"));
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "hunter2\r\n").unwrap();
        let source = SecretSource::File(file.path().into());
        assert_eq!(source.read().unwrap().reveal(), "hunter2");
        let basic = Credentials::Basic {
            user: "alice".into(),
            password: source,
        };
        let value = basic.authorization().unwrap().unwrap();
        assert_eq!(value, "Basic YWxpY2U6aHVudGVyMg==");
        assert!(!format!("{value:?} {basic:?}").contains("aHVudGVyMg"));
    }

    #[test]
    fn an_absent_or_empty_secret_is_named_by_its_place() {
        let absent = SecretSource::File("/nonexistent/token".into());
        let why = absent.read().unwrap_err().to_string();
        assert!(why.contains("/nonexistent/token"), "{why}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let empty = SecretSource::File(file.path().into()).read().unwrap_err();
        assert!(empty.to_string().ends_with("is empty"), "{empty}");
    }
}
