//! Which user's mailbox lies on which server: a file of lines `user address`, read again at a reload.
//!
//! `@domain` stands for every user of a domain, `#` begins a comment. Who is not in it stays with the front end's own
//! upstream. Names are compared without regard to case.

use std::{
    collections::HashMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;

use crate::{message::WireText, net::Address};

/// A file that does not read. The old map stays in force.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("upstream map {path}: {source}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("upstream map {path}, line {line}: {why}")]
    Line {
        path: PathBuf,
        line: usize,
        why: String,
    },
}

/// The map. Clones share it, and its reloads.
#[derive(Clone)]
pub struct Users(Arc<File>);

struct File {
    path: PathBuf,
    map: ArcSwap<HashMap<String, Address>>,
}

impl Users {
    pub fn load(path: &Path) -> Result<Self, UsersError> {
        let map = read(path)?;
        Ok(Self(Arc::new(File {
            path: path.to_owned(),
            map: ArcSwap::from_pointee(map),
        })))
    }

    /// Reads the file again.
    pub fn reload(&self) -> Result<(), UsersError> {
        self.0.map.store(Arc::new(read(&self.0.path)?));
        Ok(())
    }

    pub(super) fn find(&self, user: &WireText) -> Option<Address> {
        let user = user.to_text().to_lowercase();
        let map = self.0.map.load();
        let domain = user.rfind('@').map(|at| &user[at..]);
        let found = map.get(&user);
        found.or_else(|| map.get(domain?)).cloned()
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.0.path.display())
    }
}

fn read(path: &Path) -> Result<HashMap<String, Address>, UsersError> {
    let text = std::fs::read_to_string(path).map_err(|source| UsersError::Io {
        path: path.to_owned(),
        source,
    })?;
    parse(&text).map_err(|(line, why)| UsersError::Line {
        path: path.to_owned(),
        line,
        why,
    })
}

/// An error names the line, from 1.
fn parse(text: &str) -> Result<HashMap<String, Address>, (usize, String)> {
    let mut map = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let entry = line.split('#').next().unwrap_or_default();
        let mut words = entry.split_whitespace();
        let Some(user) = words.next() else {
            continue;
        };
        let (Some(address), None) = (words.next(), words.next()) else {
            return Err((number, "a line is: user address".to_owned()));
        };
        let address = address
            .parse()
            .map_err(|error| (number, format!("{address}: {error}")))?;
        if map.insert(user.to_lowercase(), address).is_some() {
            return Err((number, format!("{user} stands here twice")));
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> WireText {
        name.as_bytes().into()
    }

    #[test]
    fn a_user_goes_before_a_domain() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let text = "# old server\n@example.org a:143\nAnn@example.org b:143 # moved\n\njoe c:143\n";
        std::fs::write(&path, text).unwrap();
        let users = Users::load(&path).unwrap();
        let found = |name| users.find(&user(name)).map(|address| address.to_string());
        assert_eq!(found("ann@EXAMPLE.org").as_deref(), Some("b:143"));
        assert_eq!(found("bob@example.org").as_deref(), Some("a:143"));
        assert_eq!(found("joe").as_deref(), Some("c:143"));
        assert_eq!(found("bob"), None);
        std::fs::write(&path, "ann\n").unwrap();
        let refused = users.reload().unwrap_err().to_string();
        assert!(
            refused.ends_with("line 1: a line is: user address"),
            "{refused}"
        );
        assert_eq!(found("joe").as_deref(), Some("c:143"), "the old map stays");
    }

    #[test]
    fn what_is_no_entry_is_named_with_its_line() {
        for (text, line) in [
            ("a b:1\na c:1\n", 2),
            ("a b:1 c\n", 1),
            ("\n\na nowhere\n", 3),
        ] {
            assert_eq!(parse(text).unwrap_err().0, line, "{text:?}");
        }
    }
}
