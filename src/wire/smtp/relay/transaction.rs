//! One message's way: what the next hop has agreed to so far. `reset` clears exactly this.

use crate::{
    message::{Envelope, WireText},
    wire::smtp::{Dialect, content::ChunkDecoder},
};

/// What MAIL said, until the next hop has answered it.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) address: WireText,
    pub(super) parameters: WireText,
    pub(super) binary: bool,
}

#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// The next hop has taken MAIL.
    pub(super) open: bool,
    pub(super) envelope: Envelope,
    pub(super) accepted: usize,
    /// BODY=BINARYMIME: bare CR and LF are content (RFC 3030 section 3).
    pub(super) binary: bool,
    pub(super) bytes: u64,
    /// A copy is being made.
    pub(super) copying: bool,
    /// Chunks have begun, and a chunk scan with them.
    pub(super) chunks: Option<ChunkDecoder>,
    /// The next hop refused a chunk.
    pub(super) chunk_refused: bool,
    /// Content is read to its end and thrown away; this is the reply then.
    pub(super) spoiled: Option<Vec<u8>>,
    /// Replaced bare line ends.
    pub(super) replaced: bool,
}

impl Transaction {
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Replies to the end of data: one, or for LMTP one an accepted recipient (RFC 2033 section 4.2).
    pub(super) fn replies(&self, dialect: Dialect) -> usize {
        match dialect {
            Dialect::Smtp => 1,
            Dialect::Lmtp => self.accepted.max(1),
        }
    }
}
