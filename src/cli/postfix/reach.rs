//! Whether Postfix may connect to a unix socket: every folder on the way searchable, the socket itself writable, for the
//! user that its processes run as. Access control lists are not looked at.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    process::Command,
};

use super::{advice::Level, entrance::SocketPath};

/// A user and all of its groups.
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gids: Vec<u32>,
}

impl User {
    /// As the system knows it, whatever its users are kept in.
    pub(super) fn named(name: &str) -> Option<Self> {
        let id = |option| {
            let output = Command::new("id")
                .args([option, "--", name])
                .output()
                .ok()?;
            let words = String::from_utf8(output.stdout).ok()?;
            let numbers: Option<Vec<u32>> =
                words.split_whitespace().map(|n| n.parse().ok()).collect();
            numbers.filter(|_| output.status.success())
        };
        Some(Self {
            name: name.to_owned(),
            uid: id("-u")?.first().copied()?,
            gids: id("-G")?,
        })
    }

    /// `bit` as of the others' three: 1 to search a folder, 2 to write.
    fn may(&self, bit: u32, facts: &Metadata) -> bool {
        let shift = if facts.uid() == self.uid {
            6
        } else if self.gids.contains(&facts.gid()) {
            3
        } else {
            0
        };
        self.uid == 0 || facts.mode() >> shift & bit != 0
    }

    /// What keeps this user from the socket.
    pub(super) fn trouble(&self, socket: &SocketPath) -> Option<(Level, String)> {
        let path = socket.path.display();
        let folders = socket.path.parent().into_iter().flat_map(Path::ancestors);
        let mut folders: Vec<&Path> = folders
            .take_while(|f| f.starts_with(&socket.base))
            .collect();
        folders.reverse();
        for folder in folders {
            let facts = match fs::metadata(folder) {
                Ok(facts) => facts,
                Err(error) => {
                    return Some(unseen(folder, &error, "make it, for mailtee to listen in"));
                }
            };
            if !self.may(1, &facts) {
                let text = format!(
                    "user {} cannot enter {}, on the way to {path}: chgrp it to a group of that user, with mode 2750",
                    self.name,
                    folder.display()
                );
                return Some((Level::Warning, text));
            }
        }
        match fs::metadata(&socket.path) {
            Ok(facts) if !facts.file_type().is_socket() => Some((
                Level::Warning,
                format!("{path} is not a socket: name mailtee's `listen`"),
            )),
            // Connecting takes write permission alone on Linux.
            Ok(facts) if !self.may(2, &facts) => {
                let text = format!(
                    "user {} may not write to {path}: set socket_mode = \"0660\", and its group to one of that user's",
                    self.name
                );
                Some((Level::Warning, text))
            }
            Ok(_) => None,
            Err(error) => Some(unseen(
                &socket.path,
                &error,
                "start mailtee, which makes it",
            )),
        }
    }
}

fn unseen(path: &Path, error: &io::Error, advice: &str) -> (Level, String) {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => (Level::Warning, format!("{path} is not there: {advice}")),
        _ => (
            Level::Note,
            format!("{path} cannot be looked at ({error}): check again as root"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        os::unix::{fs::PermissionsExt, net::UnixListener},
    };

    use super::*;

    #[test]
    fn a_socket_is_within_reach_or_it_is_said_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("mailtee");
        let socket = SocketPath {
            base: dir.path().to_owned(),
            path: inner.join("milter.sock"),
        };
        let gid = fs::metadata(dir.path()).unwrap().gid();
        let user = |gids| User {
            name: "postfix".to_owned(),
            uid: u32::MAX - 1,
            gids,
        };
        let mode =
            |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let said = |user: &User| {
            user.trouble(&socket)
                .map(|(_, text)| text)
                .unwrap_or_default()
        };
        let (member, stranger) = (user(vec![gid]), user(vec![]));

        mode(dir.path(), 0o755);
        assert!(
            said(&member).contains("mailtee is not there: make it"),
            "{}",
            said(&member)
        );
        fs::create_dir(&inner).unwrap();
        mode(&inner, 0o750);
        assert!(
            said(&stranger).contains("cannot enter"),
            "{}",
            said(&stranger)
        );
        assert!(said(&member).contains("start mailtee"), "{}", said(&member));
        fs::write(&socket.path, "").unwrap();
        assert!(said(&member).contains("not a socket"), "{}", said(&member));
        fs::remove_file(&socket.path).unwrap();
        let _listener = UnixListener::bind(&socket.path).unwrap();
        mode(&socket.path, 0o600);
        assert!(
            said(&member).contains("may not write to"),
            "{}",
            said(&member)
        );
        mode(&socket.path, 0o660);
        assert_eq!(member.trouble(&socket), None);
        // A chroot begins below folders that its user could not enter.
        mode(&inner, 0o755);
        mode(&socket.path, 0o666);
        mode(dir.path(), 0o700);
        assert!(said(&stranger).contains("cannot enter"));
        let within = SocketPath {
            base: inner.clone(),
            path: socket.path.clone(),
        };
        assert_eq!(stranger.trouble(&within), None);
    }

    #[test]
    fn users_are_asked_of_the_system() {
        let root = User::named("root").unwrap();
        assert_eq!((root.uid, root.gids.contains(&0)), (0, true));
        assert!(User::named("no-such-user-here").is_none());
    }
}
