//! A message's content by DATA, and the end of any content.

use super::*;
use crate::wire::smtp::Dialect;

/// What the copying of a message came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Copied {
    /// It is safe; for protocol `journal`, our own reply to the client in the place of the inner next hop's.
    Safe { reply: Option<Vec<u8>> },
    /// It is not, and the message must not pass (`tempfail`): the id for the reply.
    Failed { id: String },
    /// It is not, and the message passes all the same (`pass`).
    Gap,
    /// The next hop is gone and has not heard the end: there is nothing to have a copy of.
    Unwanted,
}

impl Relay {
    /// The next hop said 354. The client hears it once the copy has begun.
    pub(super) fn begin_data(&mut self, reply: &[u8]) {
        // Also where no recipient was taken that we saw: whether somebody gets it is the next hop's to say.
        self.drop_content();
        self.held_reply = reply.to_vec();
        self.suspended = true;
        self.steps.push_back(Step::BeginCopy);
    }

    /// The answer to [`Step::BeginCopy`].
    pub fn copy_begun(&mut self, copied: Copied) {
        self.suspended = false;
        let by_chunks = self.content.chunks.is_some();
        match copied {
            Copied::Safe { .. } => self.content.copying = true,
            Copied::Gap | Copied::Unwanted => {}
            Copied::Failed { id } if by_chunks => {
                return self.spoil(Failure::CaptureFailed, Some(&id));
            }
            Copied::Failed { id } => {
                self.steps.push_back(Step::Failed(Failure::CaptureFailed));
                self.steps.push_back(Step::DropCopy("failed"));
                self.held_reply.clear();
                self.drop_upstream();
                let reply = Failure::CaptureFailed.with_id(Some(&id));
                self.to_client.extend_from_slice(reply.as_bytes());
                self.end_transaction();
                self.barrier = Barrier::None;
                return;
            }
        }
        if !by_chunks {
            self.to_client.append(&mut self.held_reply);
            self.input = Input::Data(Box::default());
            self.barrier = Barrier::None;
        }
    }

    pub(super) fn data(&mut self, bytes: &[u8]) -> usize {
        let Input::Data(state) = &mut self.input else {
            return 0;
        };
        let (decoder, stuffer) = &mut **state;
        let from = self.copy.len();
        // One allocation a read, not one each time that a line does not fit any more.
        self.copy.reserve(bytes.len());
        self.to_upstream.reserve(bytes.len() + bytes.len() / 32);
        let decoded = decoder.decode(bytes, &mut self.copy);
        let bare = decoder.saw_bare();
        self.content.bytes += (self.copy.len() - from) as u64;
        if self.content.spoiled.is_none() {
            stuffer.stuff(&self.copy[from..], &mut self.to_upstream);
            self.content.replaced = bare;
            self.judge_content(bare);
        }
        if !self.content.copying {
            self.copy.truncate(from);
        }
        if decoded.ended {
            self.input = Input::Commands;
            self.content_complete();
        }
        decoded.consumed
    }

    /// Refuses content that breaks a rule; it is read to its end all the same, so that both sides stay in step.
    pub(super) fn judge_content(&mut self, bare: bool) {
        let limit = self.rules.message_bytes_max;
        if bare && self.rules.role == Role::Proxy {
            self.spoil(Failure::BareLineEnd, None);
        } else if limit > 0 && self.content.bytes > limit {
            self.spoil(Failure::MessageTooLarge, None);
        }
    }

    /// From here on the content is thrown away. The next hop never hears its end.
    pub(super) fn spoil(&mut self, failure: Failure, id: Option<&str>) {
        self.steps.push_back(Step::Failed(failure));
        self.spoil_as(
            failure.with_id(id).into_bytes(),
            match failure {
                Failure::CaptureFailed => "failed",
                Failure::UpstreamLostInMessage => "aborted",
                _ => "rejected",
            },
        );
    }

    pub(super) fn spoil_with(&mut self, reply: Vec<u8>) {
        self.spoil_as(reply, "rejected");
    }

    fn spoil_as(&mut self, reply: Vec<u8>, outcome: &'static str) {
        self.content.spoiled = Some(reply);
        self.content.copying = false;
        self.copy.clear();
        self.steps.push_back(Step::DropCopy(outcome));
        // With chunks, earlier commands may still await their replies: those come first.
        if self.awaited.len() <= 1 {
            self.drop_upstream();
        }
    }

    /// The shell could not write to the copy. True where the message passes all the same.
    pub fn copy_failed(&mut self, copied: Copied) {
        let Copied::Failed { id } = copied else {
            self.content.copying = false;
            self.copy.clear();
            return;
        };
        if self.content.spoiled.is_some() {
            return;
        }
        if let Some(end) = self.steps.iter().position(|s| *s == Step::EndCopy) {
            // The end came in the same read: this is what is said to it, and it is not asked for any more.
            self.steps.remove(end);
            return self.copy_ended(Copied::Failed { id });
        }
        let between_chunks = self.content.chunks.is_some()
            && !matches!(self.input, Input::Chunk(_))
            && self.barrier != Barrier::LastChunk;
        if between_chunks && !matches!(self.awaited.back(), Some(Awaited::Chunk)) {
            // The chunk has been answered, or the client went on: no reply is left to say it in.
            return self.refuse_and_close(Failure::CaptureFailed);
        }
        self.spoil(Failure::CaptureFailed, Some(&id));
        if between_chunks {
            // No byte of the client's will come before it hears this.
            self.barrier = Barrier::LastChunk;
            self.last_chunk_due();
        }
    }

    /// All of DATA's content is here, and none of its end has been passed on.
    fn content_complete(&mut self) {
        let replies = self.transaction.replies(self.rules.dialect);
        if let Some(reply) = self.content.spoiled.take() {
            self.say_spoiled(&reply, replies);
            return;
        }
        self.held_end.extend_from_slice(b".\r\n");
        self.sync_copy();
    }

    /// The content is whole, and `held_end` is its end: it goes on at once, or behind the sync of the copy.
    pub(super) fn sync_copy(&mut self) {
        if !self.content.copying {
            self.pass_end();
            self.content = Content::default();
            return;
        }
        if !self.rules.hold_end {
            self.pass_end();
        }
        self.suspended = true;
        self.steps.push_back(Step::EndCopy);
    }

    pub(super) fn say_spoiled(&mut self, reply: &[u8], replies: usize) {
        self.content = Content::default();
        let count = match self.rules.dialect {
            Dialect::Smtp => 1,
            Dialect::Lmtp => replies,
        };
        for _ in 0..count {
            self.to_client.extend_from_slice(reply);
        }
        self.end_transaction();
    }

    /// Says the reply to content that was thrown away, in its place: the last of what is awaited.
    pub(super) fn end_spoiled_chunk(&mut self, reply: &[u8]) {
        let replies = match self.awaited.pop_back() {
            Some(Awaited::LastChunk(_)) => self.transaction.replies(self.rules.dialect),
            _ => 1,
        };
        self.answer_awaited();
        self.held_end.clear();
        self.drop_upstream();
        self.say_spoiled(reply, replies);
    }

    /// Says something to each command whose reply the dropped next hop will never give, so that the client, who counts,
    /// takes no reply for another's.
    pub(super) fn answer_awaited(&mut self) {
        self.due_locals();
        while self.awaited.pop_front().is_some() {
            let reply = Failure::UpstreamLostInMessage.with_id(None);
            self.to_client.extend_from_slice(reply.as_bytes());
            self.due_locals();
        }
    }

    /// What is held of the end goes out, and the fate is awaited.
    pub(super) fn pass_end(&mut self) {
        self.to_upstream.append(&mut self.held_end);
        if self.content.chunks.is_none() {
            let replies = self.transaction.replies(self.rules.dialect);
            self.awaited.push_back(Awaited::Content(replies));
        }
    }

    /// The facts for the sighting, once, at [`Step::EndCopy`].
    pub fn take_ended(&mut self) -> Ended {
        let envelope = &mut self.transaction.envelope;
        Ended {
            envelope: match self.transaction.accepted {
                // The transaction may well go on.
                0 => envelope.clone(),
                _ => std::mem::take(envelope),
            },
            client: self.client().clone(),
            replaced: self.content.replaced,
            bytes: self.content.bytes,
        }
    }

    /// The answer to [`Step::EndCopy`].
    pub fn copy_ended(&mut self, copied: Copied) {
        self.suspended = false;
        match copied {
            Copied::Safe { reply } => {
                self.own_reply = reply;
                self.let_go();
            }
            Copied::Gap => self.let_go(),
            Copied::Failed { id } => self.end_unheard(Failure::CaptureFailed, Some(&id)),
            Copied::Unwanted => self.end_unheard(Failure::UpstreamLostInMessage, None),
        }
    }

    fn let_go(&mut self) {
        if !self.held_end.is_empty() {
            self.pass_end();
        }
        self.content = Content::default();
    }

    /// The content was whole, but the next hop will not hear its end.
    fn end_unheard(&mut self, failure: Failure, id: Option<&str>) {
        let replies = self.transaction.replies(self.rules.dialect);
        self.held_end.clear();
        self.awaited.clear(); // at most the last chunk's own
        self.spoil(failure, id);
        let reply = failure.with_id(id);
        self.say_spoiled(reply.as_bytes(), replies);
    }
}
