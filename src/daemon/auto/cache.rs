//! `identities.json` in the data directory: what each server was when it was last seen, so that a start needs no server.
//!
//! By the front end's name, and for its upstream alone: another upstream is another server. Written whole: a new file,
//! synced, in the old one's place. A file that cannot be read is as good as none, and is said so.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::judge::Spoken;
use crate::net::Address;

pub(super) struct Cache {
    dir: PathBuf,
    entries: Mutex<Entries>,
}

type Entries = BTreeMap<String, Entry>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    upstream: Address,
    #[serde(flatten)]
    spoken: Spoken,
}

impl Cache {
    pub(super) fn open(data_dir: &Path) -> Self {
        let entries = read(data_dir).unwrap_or_else(|error| {
            let file = file(data_dir).display().to_string();
            tracing::warn!(file, %error, "what servers were cannot be read: they are identified again");
            Entries::new()
        });
        Self {
            dir: data_dir.to_owned(),
            entries: Mutex::new(entries),
        }
    }

    pub(super) fn find(&self, frontend: &str, upstream: &Address) -> Option<Spoken> {
        let entries = self.entries.lock();
        let entry = entries.get(frontend)?;
        (entry.upstream == *upstream).then_some(entry.spoken)
    }

    /// Blocks until it is on the disk.
    pub(super) fn keep(
        &self,
        frontend: &str,
        upstream: &Address,
        spoken: Spoken,
    ) -> io::Result<()> {
        let entry = Entry {
            upstream: upstream.clone(),
            spoken,
        };
        // Held while it writes: the file is never older than the map.
        let mut entries = self.entries.lock();
        if entries.get(frontend) == Some(&entry) {
            return Ok(());
        }
        let mut new = entries.clone();
        new.insert(frontend.to_owned(), entry);
        write(&self.dir, &new)?;
        *entries = new;
        Ok(())
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("identities.json")
}

fn read(dir: &Path) -> io::Result<Entries> {
    match fs::read(file(dir)) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Entries::new()),
        Err(error) => Err(error),
    }
}

fn write(dir: &Path, entries: &Entries) -> io::Result<()> {
    let new = dir.join("identities.json.new");
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    out.write_all(&serde_json::to_vec_pretty(entries)?)?;
    out.sync_all()?;
    fs::rename(new, file(dir))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identify::TlsMode, message::Protocol};

    const IMAP: Spoken = Spoken {
        protocol: Protocol::Imap,
        tls: TlsMode::StartTls,
    };

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn what_was_kept_is_there_after_a_restart_for_that_server_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (server, other) = (address("a.example:143"), address("b.example:143"));
        let cache = Cache::open(dir.path());
        assert_eq!(cache.find("front", &server), None);
        cache.keep("front", &server, IMAP).unwrap();
        let cache = Cache::open(dir.path());
        assert_eq!(cache.find("front", &server), Some(IMAP));
        assert_eq!(cache.find("front", &other), None);
        assert_eq!(cache.find("back", &server), None);
        let text = fs::read_to_string(file(dir.path())).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected =
            serde_json::json!({"upstream": "a.example:143", "protocol": "imap", "tls": "starttls"});
        assert_eq!(value["front"], expected);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_as_good_as_none_and_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let server = address("a.example:143");
        for broken in [
            "",
            "{",
            "[]",
            "{\"front\": {\"upstream\": \"a.example:143\", \"protocol\": \"x\"}}",
        ] {
            fs::write(file(dir.path()), broken).unwrap();
            let cache = Cache::open(dir.path());
            assert_eq!(cache.find("front", &server), None, "{broken}");
            cache.keep("front", &server, IMAP).unwrap();
            assert_eq!(Cache::open(dir.path()).find("front", &server), Some(IMAP));
        }
    }

    #[test]
    fn what_is_known_already_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let server = address("a.example:143");
        let cache = Cache::open(dir.path());
        cache.keep("front", &server, IMAP).unwrap();
        fs::remove_file(file(dir.path())).unwrap();
        cache.keep("front", &server, IMAP).unwrap();
        assert!(!file(dir.path()).exists());
    }
}
