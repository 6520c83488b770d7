//! A message's content by BDAT (RFC 3030). Chunks pass as they came; the end that is held back is the last byte of the
//! last chunk, or its command line where it is empty.

use super::*;
use crate::wire::smtp::command::Command;

/// The chunk that the client is sending.
#[derive(Debug)]
pub(super) struct Chunk {
    remaining: u64,
    last: bool,
    /// Thrown away; the reply when it is complete.
    refused: Option<Vec<u8>>,
}

impl Relay {
    /// False: the line has to wait.
    pub(super) fn begin_chunk(&mut self, line: &[u8], command: &Command<'_>) -> bool {
        let Some((size, last)) = command.chunk() else {
            if !self.awaited.is_empty() {
                self.barrier = Barrier::Replies;
                return false;
            }
            // How many bytes follow is not known, so nothing behind this can be read.
            self.refuse_and_close(Failure::ChunkMalformed);
            return true;
        };
        // A next hop without CHUNKING would read the chunk as commands. And after a refused chunk only RSET helps
        // (RFC 3030 section 2): a next hop that took the rest would have a message that is not the copy.
        if !self.next_hop.chunking || self.content.chunk_refused {
            self.discard_chunk(size, last, Failure::ChunkOutOfOrder);
            return true;
        }
        if self.content.chunks.is_none() {
            let asked = self.awaited.iter().rev().find_map(|awaited| match awaited {
                Awaited::Mail(sender) => Some(sender.binary),
                _ => None,
            });
            self.content = Content {
                chunks: Some(ChunkDecoder::default()),
                binary: asked.unwrap_or(self.transaction.binary),
                ..Content::default()
            };
            self.suspended = true;
            self.steps.push_back(Step::BeginCopy);
        }
        if last && size == 0 {
            self.held_end.extend_from_slice(line);
            self.held_end.extend_from_slice(b"\r\n");
        } else {
            self.to_upstream.extend_from_slice(line);
            self.to_upstream.extend_from_slice(b"\r\n");
        }
        self.awaited.push_back(if last {
            Awaited::LastChunk(0)
        } else {
            Awaited::Chunk
        });
        self.input = Input::Chunk(Chunk {
            remaining: size,
            last,
            refused: None,
        });
        true
    }

    pub(super) fn chunk_refused(&mut self) {
        if std::mem::take(&mut self.content.copying) {
            self.copy.clear();
            self.steps.push_back(Step::DropCopy("rejected"));
        }
        self.content.chunk_refused = true;
    }

    pub(super) fn discard_chunk(&mut self, size: u64, last: bool, failure: Failure) {
        let reply = failure.with_id(None).into_bytes();
        self.input = Input::Chunk(Chunk {
            remaining: size,
            last,
            refused: Some(reply),
        });
    }

    /// Is a chunk complete without another byte?
    pub(super) fn chunk_is_due(&self) -> bool {
        matches!(&self.input, Input::Chunk(chunk) if chunk.remaining == 0)
    }

    pub(super) fn chunk(&mut self, bytes: &[u8]) -> usize {
        let Input::Chunk(chunk) = &mut self.input else {
            return 0;
        };
        let taken = usize::try_from(chunk.remaining).map_or(bytes.len(), |n| n.min(bytes.len()));
        chunk.remaining -= taken as u64;
        let (ends, last) = (chunk.remaining == 0, chunk.last);
        if chunk.refused.is_none() && self.content.spoiled.is_none() {
            self.pass_chunk(&bytes[..taken], ends, last);
        }
        if ends {
            self.end_chunk();
        }
        taken
    }

    fn pass_chunk(&mut self, piece: &[u8], ends: bool, last: bool) {
        let from = self.copy.len();
        let content = &mut self.content;
        let decoded = match &mut content.chunks {
            Some(decoder) if !content.binary => {
                let decoded = decoder.decode(piece, ends, ends && last, &mut self.copy);
                content.replaced = decoder.saw_bare();
                decoded
            }
            _ => {
                self.copy.extend_from_slice(piece);
                Ok(())
            }
        };
        content.bytes += (self.copy.len() - from) as u64;
        if decoded.is_err() {
            return self.spoil(Failure::BareLineEnd, None);
        }
        self.judge_content(self.content.replaced);
        if self.content.spoiled.is_some() {
            // Not even this piece: a chunk that the next hop has whole, it would answer.
            return;
        }
        let passed = &self.copy[from..];
        match passed.split_last() {
            Some((end, before)) if ends && last => {
                self.to_upstream.extend_from_slice(before);
                self.held_end.push(*end);
            }
            _ => self.to_upstream.extend_from_slice(passed),
        }
        if !self.content.copying {
            self.copy.truncate(from);
        }
    }

    fn end_chunk(&mut self) {
        let Input::Chunk(chunk) = std::mem::replace(&mut self.input, Input::Commands) else {
            return;
        };
        if let Some(reply) = chunk.refused {
            return self.answer(reply);
        }
        if chunk.last || self.content.spoiled.is_some() {
            self.barrier = Barrier::LastChunk;
            self.last_chunk_due();
        }
    }

    /// The content ends once every earlier reply is in: only then is it known who will get the message, and a refusal of
    /// ours stands in its place.
    pub(super) fn last_chunk_due(&mut self) {
        if self.awaited.len() > 1 && !self.upstream_gone {
            return;
        }
        self.barrier = Barrier::None;
        if let Some(reply) = self.content.spoiled.take() {
            return self.end_spoiled_chunk(&reply);
        }
        if self.content.chunk_refused {
            let reply = Failure::ChunkOutOfOrder.with_id(None);
            return self.end_spoiled_chunk(reply.as_bytes());
        }
        let replies = self.transaction.replies(self.rules.dialect);
        if let Some(Awaited::LastChunk(n)) = self.awaited.front_mut() {
            *n = replies;
        }
        self.sync_copy();
    }
}
