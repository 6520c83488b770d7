//! What is known of the message under way. The envelope follows the next hop's replies, the content the client's bytes:
//! with pipelining the one may be a whole round trip behind the other, so they begin and end apart.

use crate::{
    message::{Envelope, WireText},
    wire::smtp::{Dialect, content::ChunkDecoder},
};

/// What MAIL said, until the next hop has answered it.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) address: WireText,
    pub(super) parameters: WireText,
    /// BODY=BINARYMIME.
    pub(super) binary: bool,
}

/// What the next hop has agreed to so far.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// It has taken MAIL.
    pub(super) open: bool,
    /// With BODY=BINARYMIME.
    pub(super) binary: bool,
    pub(super) envelope: Envelope,
    /// Recipients that it took.
    pub(super) accepted: usize,
}

impl Transaction {
    /// Replies to the end of data: one, or for LMTP one an accepted recipient (RFC 2033 section 4.2).
    pub(super) fn replies(&self, dialect: Dialect) -> usize {
        match dialect {
            Dialect::Smtp => 1,
            Dialect::Lmtp => self.accepted.max(1),
        }
    }
}

/// The content that the client is sending.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// By BDAT; nothing here if by DATA.
    pub(super) chunks: Option<ChunkDecoder>,
    /// BODY=BINARYMIME: bare CR and LF are content (RFC 3030 section 3).
    pub(super) binary: bool,
    pub(super) bytes: u64,
    /// A copy is being made.
    pub(super) copying: bool,
    /// The next hop refused a chunk.
    pub(super) chunk_refused: bool,
    /// It is read to its end and thrown away; this is the reply then.
    pub(super) spoiled: Option<Vec<u8>>,
    /// Bare line ends were replaced.
    pub(super) replaced: bool,
}
