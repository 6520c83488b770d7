//! What the next hop says, and what each reply changes.

use super::*;
use crate::wire::smtp::xforward;

impl Relay {
    /// Takes bytes from the next hop and returns how many.
    pub fn receive_upstream(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while self.takes_upstream() {
            let rest = &bytes[at..];
            if self.partial_reply.is_empty() {
                match reply::scan(rest) {
                    reply::Scan::Reply { bytes, code } => {
                        self.reply(&rest[..bytes], code, rest.len() > bytes);
                        at += bytes;
                        continue;
                    }
                    reply::Scan::Malformed => self.refuse_and_close(Failure::UpstreamNonsense),
                    reply::Scan::Partial => self.partial_reply.extend_from_slice(rest),
                }
                return bytes.len();
            }
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.partial_reply.extend_from_slice(rest);
                if self.partial_reply.len() > reply::REPLY_BYTES_MAX {
                    self.refuse_and_close(Failure::UpstreamNonsense);
                }
                return bytes.len();
            };
            at += end + 1;
            self.partial_reply.extend_from_slice(&rest[..=end]);
            let whole = std::mem::take(&mut self.partial_reply);
            match reply::scan(&whole) {
                reply::Scan::Reply { code, .. } => self.reply(&whole, code, at < bytes.len()),
                reply::Scan::Malformed => self.refuse_and_close(Failure::UpstreamNonsense),
                reply::Scan::Partial => self.partial_reply = whole,
            }
        }
        at
    }

    fn reply(&mut self, reply: &[u8], code: u16, behind: bool) {
        self.last_code = code;
        let done = reply::is_success(code);
        if code >= 400 {
            self.kept = None;
        }
        if matches!(self.input, Input::Data(_)) && self.awaited.is_empty() {
            // The next hop has had enough before the end. The client listens only after its end, so it hears this then.
            self.spoil_with(reply.to_vec());
            return;
        }
        if self.content.spoiled.is_some() && self.awaited.len() <= 1 {
            // To a chunk that we refuse ourselves.
            return self.drop_upstream();
        }
        let asks_for = match self.awaited.front() {
            Some(Awaited::Data) => 354,
            Some(Awaited::Auth | Awaited::Other) => 334,
            _ => 0,
        };
        if matches!(code, 334 | 354) && code != asks_for {
            // It takes for DATA or AUTH what we did not, and what follows for another thing than we do: a message would
            // pass that nobody copied.
            return self.refuse_and_close(Failure::UpstreamNonsense);
        }
        let Some(awaited) = self.awaited.pop_front() else {
            // "421 closing", most likely.
            self.kept = None;
            self.to_client.extend_from_slice(reply);
            return;
        };
        match awaited {
            Awaited::Opening(opening) => self.opening(opening, reply, code, behind),
            Awaited::Hello { name, verb, line } => {
                if done {
                    self.keep_hello(line, reply);
                    self.hello(name, verb, reply);
                } else {
                    self.hello_unknown |= matches!(code, 500 | 502);
                    self.to_client.extend_from_slice(reply);
                }
            }
            Awaited::Ours => {}
            Awaited::Content(n) => self.fate(n, reply, code),
            // Before its end: the client hears it at the end, as it does with DATA.
            Awaited::LastChunk(0) => {
                self.awaited.push_front(Awaited::LastChunk(0));
                self.spoil_with(reply.to_vec());
            }
            Awaited::LastChunk(n) => self.fate(n, reply, code),
            awaited => {
                if code != 354 {
                    self.to_client.extend_from_slice(reply);
                }
                self.apply(awaited, reply, code);
            }
        }
        self.after_reply();
    }

    /// What a passed-on command's reply changes.
    fn apply(&mut self, awaited: Awaited, reply: &[u8], code: u16) {
        let done = reply::is_success(code);
        match awaited {
            Awaited::Mail(sender) if done => {
                self.transaction = Transaction {
                    open: true,
                    binary: sender.binary,
                    ..Transaction::default()
                };
                self.transaction.envelope.sender = sender.address;
                self.transaction.envelope.sender_parameters = sender.parameters;
            }
            // Recipients refused before it belong to no message.
            Awaited::Mail(_) if !self.transaction.open && self.transaction.accepted == 0 => {
                self.transaction = Transaction::default();
            }
            Awaited::Rcpt(mut recipient) => {
                if done {
                    self.transaction.accepted += 1;
                } else {
                    let text = reply::text(reply);
                    let text = &text[..text.len().min(REFUSAL_BYTES_MAX)];
                    self.named_bytes += text.len();
                    recipient.refused = Some(text.into());
                }
                self.transaction.envelope.recipients.push(recipient);
            }
            Awaited::Data if code == 354 => self.begin_data(reply),
            Awaited::Chunk if !done => self.chunk_refused(),
            Awaited::Rset if done => self.end_transaction(),
            Awaited::Auth => self.auth_reply(code),
            Awaited::Xforward(argument) if done => self.take_xforward(&argument),
            Awaited::Xclient(argument) if done => self.take_xclient(&argument),
            Awaited::Quit => self.close(),
            // An unknown command that opens a dialogue, as X-EXPS does.
            Awaited::Other if code == 334 => self.input = Input::Dialogue,
            _ => {}
        }
    }

    fn auth_reply(&mut self, code: u16) {
        match code {
            334 => self.input = Input::Dialogue,
            235 => {
                if let Some(login) = self.auth.take().and_then(AuthWatch::into_login) {
                    self.client.login = Some(login);
                }
            }
            _ => self.auth = None,
        }
    }

    pub(super) fn take_xforward(&mut self, argument: &[u8]) {
        // The first one makes every attribute unknown: nothing of our peer's own session is mixed in.
        let client = self.forwarded.get_or_insert_default();
        xforward::apply(argument, client);
    }

    /// Our own replies that are due now, and barriers that have fallen.
    fn after_reply(&mut self) {
        self.due_locals();
        if self.suspended || self.closing {
            return;
        }
        match self.barrier {
            Barrier::Replies if self.awaited.is_empty() => {
                self.barrier = Barrier::None;
                if std::mem::take(&mut self.chunks_void_if_done)
                    && reply::is_success(self.last_code)
                {
                    self.drop_content();
                }
            }
            Barrier::LastChunk => self.last_chunk_due(),
            _ => {}
        }
        if self.client_gone && self.awaited.is_empty() && !self.suspended {
            self.close();
        }
    }

    pub(super) fn due_locals(&mut self) {
        loop {
            match self.awaited.front_mut() {
                Some(Awaited::Local(reply)) => {
                    let reply = std::mem::take(reply);
                    self.to_client.extend_from_slice(&reply);
                }
                Some(Awaited::LocalXforward(argument)) => {
                    let argument = std::mem::take(argument);
                    self.take_xforward(&argument);
                    self.to_client.extend_from_slice(b"250 2.0.0 Ok\r\n");
                }
                _ => return,
            }
            self.awaited.pop_front();
        }
    }

    pub(super) fn end_transaction(&mut self) {
        self.transaction = Transaction::default();
        self.forwarded = None;
        self.told_client = false;
    }

    /// One of `n` replies to the end of data.
    fn fate(&mut self, n: usize, reply: &[u8], code: u16) {
        let done = reply::is_success(code);
        match &self.own_reply {
            Some(own) if done => self.to_client.extend_from_slice(own),
            _ => self.to_client.extend_from_slice(reply),
        }
        self.fate_replies.extend_from_slice(reply);
        self.fate_accepted |= done;
        if n > 1 {
            self.awaited.push_front(Awaited::Content(n - 1));
            return;
        }
        let replies = reply::text(&self.fate_replies).to_vec();
        self.fate_replies.clear();
        let taken = std::mem::take(&mut self.fate_accepted);
        self.own_reply = None;
        self.steps.push_back(Step::Fate(if taken {
            Fate::Accepted(replies)
        } else {
            Fate::Rejected(replies)
        }));
        // A next hop that refuses a message without recipients may well go on with the transaction.
        if taken || self.transaction.accepted > 0 {
            self.end_transaction();
        }
    }
}
