//! IMAP or POP3: the watcher and the opening of each, and how each turns a client away.

use super::{TellMailbox, upstream::Caller};
use crate::{
    message::Protocol,
    net::Peer,
    wire::{
        imap, pop3,
        watch::{Opening, Watch},
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Imap,
    Pop3,
}

/// How a client comes in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// It is told of STARTTLS.
    pub(super) offers_tls: bool,
    /// Before TLS, no login that shows its secret.
    pub(super) withholds_logins: bool,
}

/// What is said to the server before there is a session.
pub(super) struct Talk {
    pub(super) starttls: bool,
    pub(super) tell: TellMailbox,
    pub(super) caller: Caller,
}

impl Dialect {
    pub(super) fn of(protocol: Protocol) -> Option<Self> {
        match protocol {
            Protocol::Imap => Some(Self::Imap),
            Protocol::Pop3 => Some(Self::Pop3),
            _ => None,
        }
    }

    pub(super) fn watcher(self, entry: Entry) -> Box<dyn Watch + Send> {
        let Entry {
            offers_tls,
            withholds_logins,
        } = entry;
        match self {
            Self::Imap => Box::new(imap::Watcher::new(imap::Rules {
                starttls: offers_tls,
                withholds_logins,
            })),
            Self::Pop3 => Box::new(pop3::Watcher::new(pop3::Rules {
                stls: offers_tls,
                withholds_logins,
            })),
        }
    }

    pub(super) fn lost_reasons(self) -> &'static [&'static str] {
        match self {
            Self::Imap => imap::LOST_REASONS,
            Self::Pop3 => &pop3::LOST_REASONS,
        }
    }

    pub(super) fn opening(self, talk: &Talk) -> Box<dyn Opening + Send> {
        match self {
            Self::Imap => Box::new(imap::Opening::new(imap::OpeningRules {
                starttls: talk.starttls,
                id: (talk.tell == TellMailbox::Id).then(|| talk.caller.id_fields()),
            })),
            Self::Pop3 => Box::new(pop3::Opening::new(pop3::OpeningRules {
                stls: talk.starttls,
                xclient: match (talk.tell, talk.caller.peer) {
                    (TellMailbox::Xclient, Peer::Tcp(client)) => Some(client),
                    _ => None,
                },
            })),
        }
    }

    /// What a client hears that has no session; `why` is one line of text.
    pub(super) fn refusal(self, why: &str) -> String {
        match self {
            // RFC 5530 section 3.
            Self::Imap => format!("* BYE [UNAVAILABLE] mailtee: {why}\r\n"),
            // RFC 3206 section 4.
            Self::Pop3 => format!("-ERR [SYS/TEMP] mailtee: {why}\r\n"),
        }
    }
}
