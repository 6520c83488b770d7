//! What was found out about one server. Everything in it came from the server and is bounded and printable.

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

/// Characters of one piece of evidence.
const TEXT_CHARS_MAX: usize = 200;

/// Pieces of evidence; a greeting may have many lines.
const EVIDENCE_MAX: usize = 32;

/// Keywords, and mechanisms, that are told: the largest servers have some eighty.
const KEYWORDS_MAX: usize = 256;

/// What a server speaks, as far as it told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Smtp,
    Lmtp,
    Imap,
    Pop3,
    ManageSieve,
    Nntp,
    Milter,
    Jmap,
    Http,
    /// It speaks, but nothing that is known here.
    Unknown,
    /// It takes connections and says nothing.
    Silent,
    Refused,
    /// No connection, and no refusal either; or the name has no address.
    Unreachable,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Lmtp => "lmtp",
            Self::Imap => "imap",
            Self::Pop3 => "pop3",
            Self::ManageSieve => "managesieve",
            Self::Nntp => "nntp",
            Self::Milter => "milter",
            Self::Jmap => "jmap",
            Self::Http => "http",
            Self::Unknown => "unknown",
            Self::Silent => "silent",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
        }
    }

    /// Was a protocol found?
    pub fn is_protocol(self) -> bool {
        !matches!(
            self,
            Self::Unknown | Self::Silent | Self::Refused | Self::Unreachable
        )
    }
}

/// How TLS comes into a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    None,
    /// STARTTLS or STLS. Without a certificate beside it the server offers TLS and fails at it.
    StartTls,
    /// Before the first word.
    Implicit,
}

impl TlsMode {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::StartTls => "starttls",
            Self::Implicit => "implicit",
        }
    }

    /// In a sentence: "imap with STARTTLS".
    pub fn told(self) -> &'static str {
        match self {
            Self::None => "no TLS",
            Self::StartTls => "STARTTLS",
            Self::Implicit => "implicit TLS",
        }
    }
}

/// What a server says it can do, at one point of the dialogue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// One entry a keyword, with its parameters.
    pub all: Vec<String>,
    /// SASL mechanisms.
    pub auth: Vec<String>,
    /// The largest message it takes, where it says so (RFC 1870).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Certificate {
    pub subject: String,
    pub names: Vec<String>,
    pub issuer: String,
    pub not_before: Option<jiff::Timestamp>,
    pub not_after: Option<jiff::Timestamp>,
    /// Against the authorities and the name that were asked for.
    pub verifies: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// The version of TLS that was agreed on.
    pub tls: Option<String>,
}

/// A server, identified or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    pub address: String,
    #[serde(rename = "protocol")]
    pub kind: Kind,
    pub tls: TlsMode,
    /// SMTP, LMTP, IMAP or POP3, and the dialogue told all there is to tell of protocol and TLS. If not, it broke off, or the
    /// server turned us away: what was not found may be there.
    #[serde(skip)]
    pub is_settled: bool,
    /// What was seen that led to the verdict, in the order in which it was seen.
    pub evidence: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greeting: Option<String>,
    /// In the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plain: Option<Capabilities>,
    /// Under TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secured: Option<Capabilities>,
    /// What the server says of itself (IMAP ID, IMPLEMENTATION, an HTTP Server header).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub about: Vec<String>,
    /// Where a JMAP session is, and what it wants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jmap: Option<JmapSession>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub took: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JmapSession {
    pub url: String,
    pub status: u16,
    /// The challenges of WWW-Authenticate.
    pub authenticate: Vec<String>,
}

impl Identity {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            kind: Kind::Silent,
            tls: TlsMode::None,
            is_settled: false,
            evidence: Vec::new(),
            greeting: None,
            plain: None,
            secured: None,
            about: Vec::new(),
            jmap: None,
            certificate: None,
            took: Duration::ZERO,
        }
    }

    /// A server that has no place to go to.
    pub fn unreachable(address: String, why: &str) -> Self {
        let mut identity = Self::new(address);
        identity.kind = Kind::Unreachable;
        identity.saw(why);
        identity
    }

    /// How TLS comes into a connection, where what is offered and then refused counts as a promise.
    pub fn promised_tls(&self) -> TlsMode {
        let mut offered = self.plain.iter().flat_map(|it| &it.all);
        let is_starttls =
            |it: &String| it.eq_ignore_ascii_case("STARTTLS") || it.eq_ignore_ascii_case("STLS");
        let greets_with = |greeting: &String| {
            let upper = greeting.to_ascii_uppercase();
            upper.contains("[CAPABILITY ") && upper.contains(" STARTTLS")
        };
        let is_promised = offered.any(is_starttls) || self.greeting.iter().any(greets_with);
        match self.tls {
            TlsMode::None if is_promised => TlsMode::StartTls,
            tls => tls,
        }
    }

    pub(super) fn saw(&mut self, evidence: impl Into<String>) {
        // How it ended matters more than what came just before.
        self.evidence.truncate(EVIDENCE_MAX - 1);
        self.evidence.push(printable(evidence.into().as_bytes()));
    }

    /// What it says of itself.
    pub(super) fn tells(&mut self, about: &str) {
        let about = printable(about.as_bytes());
        if self.about.len() < KEYWORDS_MAX && !self.about.contains(&about) {
            self.about.push(about);
        }
    }

    /// What it says it can do, now that TLS is in force, or is not yet. Cut where it says too much.
    pub(super) fn can(&mut self, mut capabilities: Capabilities) {
        capabilities.all.truncate(KEYWORDS_MAX);
        capabilities.auth.truncate(KEYWORDS_MAX);
        for text in capabilities.all.iter_mut().chain(&mut capabilities.auth) {
            *text = printable(text.as_bytes());
        }
        match self.certificate {
            Some(_) => self.secured = Some(capabilities),
            None => self.plain = Some(capabilities),
        }
    }
}

fn seconds<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((took.as_secs_f64() * 1000.0).round() / 1000.0)
}

/// A server's bytes as text that a terminal and a log can bear: no control character, no turning round, and not long.
pub(super) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * TEXT_CHARS_MAX)]);
    let turns = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut shown = String::new();
    for (count, c) in text.trim_end_matches(['\r', '\n']).chars().enumerate() {
        if count == TEXT_CHARS_MAX {
            shown.push('…');
            break;
        }
        shown.push(if c.is_control() || turns(c) {
            '\u{fffd}'
        } else {
            c
        });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_itself_is_bounded_and_printable() {
        let mut found = Identity::new("mail.example.org:4190".to_owned());
        (0..300).for_each(|n| found.tells(&format!("IMPLEMENTATION \0\u{9b}31m {n}")));
        assert_eq!(found.about.len(), KEYWORDS_MAX);
        assert_eq!(found.about[7], "IMPLEMENTATION \u{fffd}\u{fffd}31m 7");
    }

    #[test]
    fn a_server_that_can_do_too_much_is_cut_short() {
        let many: Vec<String> = (0..30_000).map(|it| format!("X{it}\x1b")).collect();
        let mut found = Identity::new("mail.example.org:143".to_owned());
        found.can(Capabilities {
            all: many.clone(),
            auth: many,
            size: None,
        });
        let told = found.plain.unwrap();
        let kept = (told.all.len(), told.auth.len());
        assert_eq!(kept, (KEYWORDS_MAX, KEYWORDS_MAX));
        assert_eq!(told.all[0], "X0\u{fffd}");
    }

    #[test]
    fn evidence_is_short_and_moves_no_cursor() {
        assert_eq!(printable(b"220 ok\r\n"), "220 ok");
        assert_eq!(printable(b"\x1b[2J\xff"), "\u{fffd}[2J\u{fffd}");
        let long = vec![b'x'; 10 << 20];
        assert_eq!(printable(&long).chars().count(), TEXT_CHARS_MAX + 1);
    }
}
