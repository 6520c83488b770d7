//! Servers that keep mail for users: Dovecot, Cyrus, Courier. What an account of theirs holds, folder by folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
};

use super::{
    ImapClient, Peer,
    imap::{Shown, quoted},
    peer,
};

pub struct MailServer {
    pub peer: Peer,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Dovecot,
    Cyrus,
    Courier,
}

/// All that an account holds: its folders by name (as it stands in the protocol), each message in its order.
pub type Account = BTreeMap<String, Vec<Shown>>;

/// A message's bytes and flags.
type Compared<'a> = (&'a [u8], &'a [String]);

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Dovecot => "dovecot",
            Self::Cyrus => "cyrus",
            Self::Courier => "courier",
        }
    }

    /// The server with so many users, to be started.
    pub fn with_users(self, users: u32) -> peer::Setting {
        Peer::set(self.name()).env("USERS", users)
    }
}

impl MailServer {
    pub fn start(kind: Kind, users: u32) -> Self {
        Self::over(kind, kind.with_users(users))
    }

    pub fn over(kind: Kind, setting: peer::Setting) -> Self {
        Self {
            peer: setting.start(),
            kind,
        }
    }

    pub fn imap(&self) -> SocketAddr {
        self.peer.address("IMAP")
    }

    pub fn imaps(&self) -> SocketAddr {
        self.peer.address("IMAPS")
    }

    pub fn pop3(&self) -> SocketAddr {
        self.peer.address("POP3")
    }

    pub fn ca(&self) -> PathBuf {
        self.peer.var("CA").into()
    }

    /// Name and password of user number `number`, from 1.
    pub fn user(&self, number: u32) -> (String, String) {
        let domain = match self.kind {
            Kind::Dovecot => "@mailtee.test",
            Kind::Cyrus | Kind::Courier => "",
        };
        (
            format!("user{number:04}{domain}"),
            format!("pass{number:04}"),
        )
    }

    /// How this server names a folder below INBOX's level: `folder(&["Work", "2026"])`.
    pub fn folder(&self, levels: &[&str]) -> String {
        match self.kind {
            Kind::Dovecot | Kind::Cyrus => levels.join("/"),
            Kind::Courier => format!("INBOX.{}", levels.join(".")),
        }
    }

    /// What the account holds, asked of the server itself.
    pub fn account(&self, user: &(String, String)) -> Account {
        let mut client = ImapClient::logged_in(self.imap(), user);
        let folders = folders(&mut client);
        let mut account = Account::new();
        for folder in folders {
            client.ok(&format!("EXAMINE {}", quoted(&folder)));
            account.insert(folder, client.all().expect("it shows its messages"));
        }
        account
    }
}

/// Every folder that can be selected.
pub fn folders(client: &mut ImapClient) -> BTreeSet<String> {
    let answer = client.ok("LIST \"\" \"*\"");
    let listed = answer.untagged.iter().filter_map(|response| {
        let response = String::from_utf8_lossy(response).into_owned();
        let (attributes, rest) = response.strip_prefix("* LIST (")?.split_once(')')?;
        let attributes = attributes.to_ascii_lowercase();
        if attributes.contains("\\noselect") || attributes.contains("\\nonexistent") {
            return None;
        }
        let (_, name) = rest.trim_start().split_once(' ')?;
        let inside = name.strip_prefix('"').and_then(|n| n.strip_suffix('"'));
        Some(match inside {
            Some(quoted) => quoted.replace("\\\"", "\"").replace("\\\\", "\\"),
            None => name.to_owned(),
        })
    });
    listed.collect()
}

/// An account without what differs from one account to the next that holds the same: UIDs, and when a message arrived.
pub fn comparable(account: &Account) -> BTreeMap<&str, Vec<Compared<'_>>> {
    account
        .iter()
        .map(|(folder, messages)| {
            let mut messages: Vec<_> = messages
                .iter()
                .map(|m| (m.bytes.as_slice(), m.flags.as_slice()))
                .collect();
            messages.sort();
            (folder.as_str(), messages)
        })
        .collect()
}

/// Every message of an account, once.
pub fn distinct(account: &Account) -> BTreeSet<&[u8]> {
    let messages = account.values().flatten();
    messages.map(|message| message.bytes.as_slice()).collect()
}
