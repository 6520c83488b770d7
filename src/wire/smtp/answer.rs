//! What is said when something fails: the one table from failure to reply. Wire text is bland and the log has the cause.
//!
//! Nothing here answers 5xx for our own trouble: 5xx is for what the peer sent or what the operator set a limit on.

/// Why something was refused or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    TooManySessions,
    TooManyFromAddress,
    NotAllowed,
    LineTooLong,
    BareCrInCommand,
    TooManyRecipients,
    MessageTooLarge,
    IdleTimeout,
    TotalTimeout,
    ShuttingDown,
    UpstreamRefused,
    UpstreamLost,
    UpstreamTimeout,
    /// The next hop broke off while we had a message in hand, so the reply is about that message.
    UpstreamLostInMessage,
    CaptureFailed,
    BareLineEnd,
    /// There is nobody left to hear it.
    ClientLost,
    TlsHandshake,
    StarttlsInjection,
    StarttlsUnavailable,
    BurlUnavailable,
    StarttlsTooLate,
    NotTrusted,
    ChunkMalformed,
    ChunkOutOfOrder,
    DataAfterChunks,
    UpstreamNonsense,
    UpstreamInjection,
}

impl Failure {
    /// The reply, without its line end.
    pub fn reply(self) -> &'static str {
        match self {
            Self::TooManySessions => "421 4.3.2 Too many sessions, try again later",
            Self::TooManyFromAddress => {
                "421 4.7.0 Too many sessions from your address, try again later"
            }
            Self::NotAllowed => "554 5.7.1 Your address may not send here",
            Self::LineTooLong => "500 5.5.2 Line too long",
            Self::BareCrInCommand => "500 5.5.2 A command may not hold a bare CR",
            Self::TooManyRecipients => "452 4.5.3 Too many recipients",
            Self::MessageTooLarge => "552 5.3.4 Message too large",
            Self::IdleTimeout => "421 4.4.2 Idle for too long, closing",
            Self::TotalTimeout => "421 4.4.2 Session took too long, closing",
            Self::ShuttingDown => "421 4.3.2 Shutting down, try again later",
            Self::UpstreamRefused => "421 4.3.2 Next hop not available, try again later",
            Self::UpstreamLost | Self::UpstreamTimeout => {
                "421 4.4.2 Next hop went away, try again later"
            }
            Self::UpstreamLostInMessage => "451 4.4.2 Next hop went away, try again later",
            Self::CaptureFailed => "451 4.3.0 Message not taken, try again later",
            Self::ClientLost | Self::TlsHandshake => "421 4.4.2 Connection lost",
            Self::BareLineEnd => "550 5.5.2 Message holds a bare CR or LF",
            Self::StarttlsInjection => "554 5.5.0 Data behind STARTTLS",
            Self::StarttlsUnavailable => "502 5.5.1 STARTTLS not offered",
            Self::BurlUnavailable => "502 5.5.1 BURL not offered",
            Self::StarttlsTooLate => "503 5.5.1 Too late for STARTTLS",
            Self::NotTrusted => "550 5.7.0 Not allowed from your address",
            Self::ChunkMalformed => "501 5.5.4 Syntax: BDAT size [LAST]",
            Self::ChunkOutOfOrder => "503 5.5.1 No transaction takes this chunk",
            Self::DataAfterChunks => "503 5.5.1 DATA after BDAT",
            Self::UpstreamNonsense | Self::UpstreamInjection => {
                "421 4.3.0 Next hop not understood, try again later"
            }
        }
    }

    /// As in [`crate::metrics::SESSION_ERRORS`]; none where the peer alone is concerned and nothing was cut short.
    pub fn reason(self) -> Option<&'static str> {
        Some(match self {
            Self::TooManySessions => "too_many_sessions",
            Self::TooManyFromAddress => "too_many_from_address",
            Self::LineTooLong => "line_too_long",
            Self::TooManyRecipients => "too_many_recipients",
            Self::MessageTooLarge => "message_too_large",
            Self::IdleTimeout => "idle_timeout",
            Self::TotalTimeout => "total_timeout",
            Self::UpstreamRefused => "upstream_refused",
            Self::UpstreamLost | Self::UpstreamLostInMessage => "upstream_lost",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::CaptureFailed => "internal",
            Self::ClientLost => "client_lost",
            Self::TlsHandshake => "tls_handshake",
            Self::BareLineEnd => "bare_line_end",
            Self::StarttlsInjection | Self::UpstreamInjection => "starttls_injection",
            Self::NotAllowed
            | Self::BareCrInCommand
            | Self::ChunkMalformed
            | Self::UpstreamNonsense => "protocol",
            Self::ShuttingDown
            | Self::StarttlsUnavailable
            | Self::StarttlsTooLate
            | Self::BurlUnavailable
            | Self::NotTrusted
            | Self::ChunkOutOfOrder
            | Self::DataAfterChunks => return None,
        })
    }

    /// The reply with the id under which the log knows the message.
    pub fn with_id(self, id: Option<&str>) -> String {
        match id {
            Some(id) => format!("{} ({id})\r\n", self.reply()),
            None => format!("{}\r\n", self.reply()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 5xx bounces mail that a mail server in front of us has accepted.
    #[test]
    fn our_own_trouble_is_never_permanent() {
        for ours in [
            Failure::TooManySessions,
            Failure::TooManyFromAddress,
            Failure::IdleTimeout,
            Failure::TotalTimeout,
            Failure::ShuttingDown,
            Failure::UpstreamRefused,
            Failure::UpstreamLost,
            Failure::UpstreamTimeout,
            Failure::UpstreamLostInMessage,
            Failure::CaptureFailed,
            Failure::UpstreamNonsense,
            Failure::UpstreamInjection,
        ] {
            assert!(ours.reply().starts_with('4'), "{ours:?}");
        }
    }
}
