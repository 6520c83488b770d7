//! A sighting: one message seen at one place at one time. The journal holds it beside the bytes, and a target keeps it
//! beside the copy. A second sighting of the same message is a second one of these, never a second copy.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Client, Envelope, Fingerprint, WireText};

/// Milliseconds since the Unix epoch, UTC.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// 0 for a time before 1970.
    pub fn from_system(time: std::time::SystemTime) -> Self {
        let since = time
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self(since.as_millis() as u64)
    }

    /// Age in seconds at `now`; 0 where the clock went back.
    pub fn age_seconds(self, now: UnixMillis) -> f64 {
        now.0.saturating_sub(self.0) as f64 / 1000.0
    }

    /// RFC 3339 in UTC with milliseconds, as logs, JMAP and the pages write it.
    pub fn to_rfc3339(self) -> String {
        jiff::Timestamp::from_millisecond(self.0 as i64)
            .map(|t| format!("{t:.3}"))
            .unwrap_or_else(|_| self.0.to_string())
    }
}

/// The name of a capture: a UUID of version 7, so ids sort by time. Written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaptureId(u128);

impl CaptureId {
    /// `random` supplies the 74 bits of the id that are not time.
    pub fn from_parts(now: UnixMillis, random: [u8; 10]) -> Self {
        Self(
            uuid::Builder::from_unix_timestamp_millis(now.0, &random)
                .as_uuid()
                .as_u128(),
        )
    }

    /// Big-endian, so that bytes sort as ids do.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The inverse of [`to_bytes`](Self::to_bytes).
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for CaptureId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for CaptureId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a capture id has 32 hexadecimal digits, as `mailtee queue list` prints it")]
pub struct NoCaptureId;

impl FromStr for CaptureId {
    type Err = NoCaptureId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = Uuid::try_parse(text).map_err(|_| NoCaptureId)?;
        Ok(Self(id.as_u128()))
    }
}

impl Serialize for CaptureId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CaptureId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The protocol of the front end (or engine) that saw the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Smtp,
    Lmtp,
    /// A journal report: the copy is the inner message, the envelope is the report's.
    Journal,
    Milter,
    Imap,
    Pop3,
}

impl Protocol {
    /// The word of configuration and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Lmtp => "lmtp",
            Self::Journal => "journal",
            Self::Milter => "milter",
            Self::Imap => "imap",
            Self::Pop3 => "pop3",
        }
    }
}

/// In what way the copy is not, byte for byte, what crossed the wire. An empty list means it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fidelity {
    /// Bare CR or LF were replaced by a space (SMTP smuggling defence on a filter port), here and on the way through.
    CrLfReplaced,
    /// Rebuilt from milter events.
    Milter,
    /// As the mail server stored it, after delivery.
    AfterDelivery,
    /// The mail server has undone its transfer encodings (IMAP's `BINARY[]`).
    Decoded,
    /// Header and text, which the mail server showed by themselves (IMAP's `BODY[HEADER]` and `BODY[TEXT]`).
    Joined,
    /// A journal report could not be taken apart: the copy is the whole report.
    ReportUnparsed,
}

/// What the next hop made of the message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Acceptance {
    /// The next hop took it; its own reply. With LMTP one line for each recipient that it had accepted, in their order:
    /// some of them may be refusals.
    Accepted { reply: WireText },
    /// The next hop refused it; only kept where `capture_rejected = true`.
    Rejected { reply: WireText },
    /// Synced in the journal, but its answer was never recorded (a crash, a lost connection).
    Unknown,
    /// There is no next hop (protocol `journal`), nobody tells us (a milter), or the message lay in a mailbox.
    NotAsked,
}

/// Where a message lay in a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub account: WireText,
    pub folder: WireText,
    pub uid: Option<u32>,
    pub uid_validity: Option<u32>,
    pub flags: Vec<WireText>,
    pub internal_date: Option<UnixMillis>,
}

/// Where the message was seen: on its way, or in a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Transaction { envelope: Envelope, client: Client },
    Placement(Placement),
}

/// One sighting of one message: everything about it but its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    pub id: CaptureId,
    /// When the first byte of content arrived.
    pub captured_at: UnixMillis,
    /// The name of the front end in the configuration.
    pub frontend: String,
    pub protocol: Protocol,
    /// The session's id, as in the logs.
    pub session: String,
    pub origin: Origin,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fidelity: Vec<Fidelity>,
    /// Content length in bytes, dot-stuffing undone.
    pub bytes: u64,
    pub fingerprint: Fingerprint,
}

impl Sighting {
    /// The envelope, where the message was seen in a transaction.
    pub fn envelope(&self) -> Option<&Envelope> {
        match &self.origin {
            Origin::Transaction { envelope, .. } => Some(envelope),
            Origin::Placement(_) => None,
        }
    }

    /// Who brought it, where it was seen on its way.
    pub fn client(&self) -> Option<&Client> {
        match &self.origin {
            Origin::Transaction { client, .. } => Some(client),
            Origin::Placement(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capture_ids_sort_by_time_and_survive_text() {
        let early = CaptureId::from_parts(UnixMillis(1_000), [255; 10]);
        let late = CaptureId::from_parts(UnixMillis(1_001), [0; 10]);
        assert!(early < late);
        assert_eq!(early.to_string().parse::<CaptureId>().unwrap(), early);
        assert_eq!(CaptureId::from_bytes(late.to_bytes()), late);
    }

    #[test]
    fn times_are_written_in_utc_with_milliseconds() {
        assert_eq!(UnixMillis(1_500).to_rfc3339(), "1970-01-01T00:00:01.500Z");
    }
}
