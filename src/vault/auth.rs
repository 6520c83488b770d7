//! Who may do what: bearer tokens with scopes, kept hashed in one file, compared in constant time.
//!
//! ```text
//! # name      scopes        SHA-256 of the token
//! target      write         6b86b273ff34fce1…
//! operator    read          d4735e3a265e16ee…
//! ```
//!
//! A token is 256 random bits, so a plain hash is enough. The first start makes two, each in a file of its own (0600):
//! `target.token` may put messages in and nothing else, `operator.token` may read. A line taken out revokes its token at
//! the next start.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::message::fingerprint::K1;

/// Why the tokens are not known; the vault does not open then.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("vault: tokens ({path}): {cause}")]
    File {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error(
        "vault: tokens ({path}), line {line}: expected a name, scopes (read, write or read,write) and 64 hexadecimal digits"
    )]
    Line { path: PathBuf, line: usize },
}

/// What a token allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    pub read: bool,
    pub write: bool,
}

impl Scope {
    /// Which JMAP methods it allows. A writer may ask whether what it can name is there; what it brought it cannot read.
    pub(crate) fn may(self, method: &str) -> bool {
        match method {
            "Core/echo" | "Mailbox/get" | "Mailbox/query" => true,
            "Email/get" | "Blob/lookup" => self.read || self.write,
            "Blob/upload" | "Email/import" | "Email/set" | "Mailbox/set" | "Sighting/import" => {
                self.write
            }
            _ => self.read,
        }
    }
}

struct Token {
    hash: [u8; 32],
    scope: Scope,
}

pub(crate) struct Tokens {
    known: Vec<Token>,
}

impl Tokens {
    /// Reads the tokens; makes the first two where there is no file. The files of those it made.
    pub(crate) fn open(
        dir: &Path,
        file: Option<PathBuf>,
    ) -> Result<(Self, Vec<PathBuf>), TokenError> {
        let path = file.unwrap_or_else(|| dir.join("tokens"));
        let fresh = match path.exists() {
            true => Vec::new(),
            false => make(dir, &path).map_err(|cause| TokenError::File {
                path: path.clone(),
                cause,
            })?,
        };
        let text = fs::read_to_string(&path).map_err(|cause| TokenError::File {
            path: path.clone(),
            cause,
        })?;
        let mut known = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line_text = line.trim();
            if line_text.is_empty() || line_text.starts_with('#') {
                continue;
            }
            known.push(parse(line_text).ok_or_else(|| TokenError::Line {
                path: path.clone(),
                line: index + 1,
            })?);
        }
        Ok((Self { known }, fresh))
    }

    /// What the token allows. Every known one is compared, whichever matches.
    pub(crate) fn scope(&self, token: &str) -> Option<Scope> {
        let hash: [u8; 32] = Sha256::digest(token.trim().as_bytes()).into();
        let mut found = None;
        for known in &self.known {
            if bool::from(known.hash.ct_eq(&hash)) {
                found = Some(known.scope);
            }
        }
        found
    }

    /// What an `Authorization` header allows: a bearer token, or Basic with any user and the token as its password.
    pub(crate) fn authorize(&self, header: &str) -> Option<Scope> {
        let (scheme, rest) = header.split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.scope(rest);
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
        self.scope(pair.split_once(':')?.1)
    }
}

fn parse(line: &str) -> Option<Token> {
    let mut words = line.split_whitespace();
    let (_name, scopes, hash) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() {
        return None;
    }
    let mut scope = Scope::default();
    for word in scopes.split(',') {
        match word {
            "read" => scope.read = true,
            "write" => scope.write = true,
            _ => return None,
        }
    }
    let hash = hash.parse::<K1>().ok()?.0;
    Some(Token { hash, scope })
}

/// Two tokens, each in a file of its own, then the file of their hashes: a stop in between starts over.
fn make(dir: &Path, path: &Path) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(dir)?;
    let mut lines = String::from("# name scopes SHA-256-of-the-token\n");
    let mut files = Vec::new();
    for (name, scopes) in [("target", "write"), ("operator", "read")] {
        let token = K1(rand::random()).to_string();
        let hash = K1(Sha256::digest(token.as_bytes()).into());
        let file = dir.join(format!("{name}.token"));
        write_private(&file, &format!("{token}\n"))?;
        files.push(file);
        lines.push_str(&format!("{name} {scopes} {hash}\n"));
    }
    write_private(path, &lines)?;
    Ok(files)
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_first_start_makes_a_writer_and_a_reader_and_the_second_none() {
        let dir = tempfile::tempdir().unwrap();
        let (tokens, fresh) = Tokens::open(dir.path(), None).unwrap();
        assert_eq!(fresh.len(), 2);
        let scope = |file: &Path| {
            let mode = fs::metadata(file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            tokens.scope(&fs::read_to_string(file).unwrap()).unwrap()
        };
        let writer = scope(&fresh[0]);
        assert!(writer.may("Sighting/import") && !writer.may("Blob/get"));
        let reader = scope(&fresh[1]);
        assert!(reader.may("Blob/get") && !reader.may("Email/import"));
        let (again, fresh_again) = Tokens::open(dir.path(), None).unwrap();
        assert!(fresh_again.is_empty());
        let operator = fs::read_to_string(&fresh[1]).unwrap();
        assert_eq!(again.scope(&operator), Some(reader));
    }

    #[test]
    fn bearer_and_basic_carry_a_token_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let hash = K1(Sha256::digest(b"secret").into());
        fs::write(&path, format!("# mine\na read,write {hash}\n")).unwrap();
        let (tokens, _) = Tokens::open(dir.path(), Some(path)).unwrap();
        let both = Some(Scope {
            read: true,
            write: true,
        });
        let basic = format!("Basic {}", STANDARD.encode("anyone:secret"));
        assert_eq!(tokens.authorize("Bearer secret"), both);
        assert_eq!(tokens.authorize(&basic), both);
        for wrong in [
            "Bearer Secret",
            "Bearer",
            "secret",
            "Digest secret",
            "Basic secret",
            "",
        ] {
            assert_eq!(tokens.authorize(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        fs::write(&path, "# ok\n\na root 00\n").unwrap();
        let error = Tokens::open(dir.path(), Some(path)).err().unwrap();
        assert!(matches!(error, TokenError::Line { line: 3, .. }));
    }
}
