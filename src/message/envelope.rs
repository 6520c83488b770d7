//! Who sent a message to whom, and through which connection: RFC 5321's envelope with what XFORWARD and TLS add.

use serde::{Deserialize, Serialize};

use super::WireText;

/// An SMTP or LMTP transaction's envelope, as the client spoke it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The reverse-path without its angle brackets; empty for the null sender.
    pub sender: WireText,
    /// The parameters of MAIL, byte for byte, without the leading space: `SIZE=1000 BODY=8BITMIME`.
    #[serde(default, skip_serializing_if = "WireText::is_empty")]
    pub sender_parameters: WireText,
    /// Every recipient that was named, accepted or not, in order.
    pub recipients: Vec<Recipient>,
}

impl Envelope {
    /// The recipients that the next hop took (all, where there is none).
    pub fn accepted(&self) -> impl Iterator<Item = &Recipient> {
        self.recipients
            .iter()
            .filter(|r| r.refused.is_none() && r.role != Some(RecipientRole::OnBehalfOf))
    }
}

/// One RCPT command, or one line of a journal report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The forward-path without its angle brackets.
    pub address: WireText,
    /// The parameters of RCPT, byte for byte: `NOTIFY=SUCCESS ORCPT=rfc822;a@b`.
    #[serde(default, skip_serializing_if = "WireText::is_empty")]
    pub parameters: WireText,
    /// What a journal report said of this recipient; absent for a plain SMTP recipient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<RecipientRole>,
    /// The distribution list that a journal report says this recipient was expanded from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expanded_from: Option<WireText>,
    /// The address that a journal report says forwarded to this recipient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarded_from: Option<WireText>,
    /// The next hop's reply, when it refused this recipient at RCPT. An LMTP refusal after the data comes when the
    /// sighting is on disk already: it stands in [`Acceptance`](super::Acceptance).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<WireText>,
}

/// As which a journal report names a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecipientRole {
    To,
    Cc,
    Bcc,
    /// A journal report's untyped `Recipient:` line.
    Recipient,
    /// A journal report's `On-Behalf-Of:` line; not a recipient, kept beside them.
    OnBehalfOf,
}

/// Where a message came from: our peer, or, where our peer is a trusted MTA, whom XFORWARD, XCLIENT or the PROXY header
/// name. `[UNAVAILABLE]` becomes `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Client {
    /// The remote client's address: an IP address, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<WireText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Host name, as the MTA verified it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<WireText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub helo: Option<WireText>,
    /// `SMTP`, `ESMTP`, `ESMTPS`, `LMTP` …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<WireText>,
    /// XFORWARD SOURCE: `LOCAL` or `REMOTE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<WireText>,
    /// The queue id under which the MTA before us knows the message (XFORWARD IDENT).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_id: Option<WireText>,
    /// The authenticated user (XCLIENT LOGIN, or AUTH seen in role proxy). Never a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<WireText>,
    /// TLS on the connection to us.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFacts>,
}

/// What TLS agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFacts {
    /// `TLSv1.3`, `TLSv1.2`
    pub version: String,
    /// The IANA name of the cipher suite.
    pub cipher: String,
}
