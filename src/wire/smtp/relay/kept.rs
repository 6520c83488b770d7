//! A connection to the next hop that outlives its session, as Postfix keeps its own: the next session of our own mail
//! server then needs no connect, no greeting and no EHLO.
//!
//! It is left only by a session that said nothing but mail on it and heard no refusal, for a next hop counts errors, and
//! commands that bring no mail (Exim refuses the eleventh NOOP or RSET, Sendmail doubles its delay from the third EHLO
//! on); and only between messages, where XFORWARD's words are forgotten too. Whatever else was said (AUTH, XCLIENT, RSET,
//! a second EHLO, what we do not know) is the session's own, and its QUIT goes to the next hop.

use super::*;

/// Longer ones are not kept; the longest domain name has 255.
const HELLO_BYTES_MAX: usize = 512;
/// After so many transactions it is left to nobody: OpenSMTPD refuses the hundred and first of a session, and the next
/// session may bring more than one.
const TRANSACTIONS_MAX: u32 = 50;

/// What the next session needs to know of the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    greeting: Vec<u8>,
    /// The one EHLO, LHLO or HELO, without its line end, and the next hop's reply. Empty before it.
    hello: Vec<u8>,
    hello_reply: Vec<u8>,
    /// Begun on it, by all its sessions.
    transactions: u32,
}

impl Relay {
    /// Begins on a connection that an earlier session left. Before anything else.
    pub fn resume(&mut self, kept: Box<Kept>) {
        self.awaited.clear();
        self.barrier = Barrier::None;
        self.to_client.extend_from_slice(&kept.greeting);
        self.kept = Some(kept);
        self.resumed = true;
    }

    /// What the connection to the next hop leaves to another session, if it may have one. The session is over then.
    pub fn leave(&mut self) -> Option<Box<Kept>> {
        let may = self.may_leave();
        self.kept.take().filter(|_| may)
    }

    pub(super) fn may_leave(&self) -> bool {
        self.kept
            .as_ref()
            .is_some_and(|kept| !kept.hello.is_empty() && kept.transactions < TRANSACTIONS_MAX)
            && !self.upstream_gone
            && self.awaited.is_empty()
            && self.partial_reply.is_empty()
            && self.to_upstream.is_empty()
            && !self.transaction.open
            && self.content.chunks.is_none()
            && self.forwarded.is_none()
            && !self.told_client
    }

    /// Is this the EHLO that the next hop has heard on this connection already? Then its reply is known.
    pub(super) fn hello_known(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        let first = std::mem::take(&mut self.resumed)
            && self.awaited.is_empty()
            && self.content.chunks.is_none();
        let kept = self.kept.as_ref()?;
        (first && kept.hello == line).then(|| kept.hello_reply.clone())
    }

    pub(super) fn keep_greeting(&mut self, greeting: &[u8]) {
        if self.rules.keep_upstream {
            self.kept = Some(Box::new(Kept {
                greeting: greeting.to_vec(),
                ..Kept::default()
            }));
        }
    }

    pub(super) fn keep_hello(&mut self, line: Vec<u8>, reply: &[u8]) {
        if line.len() > HELLO_BYTES_MAX {
            self.kept = None;
        } else if let Some(kept) = &mut self.kept {
            kept.hello = line;
            kept.hello_reply = reply.to_vec();
        }
    }

    /// What goes to the next hop may make the connection this session's own.
    pub(super) fn keep_past(&mut self, awaited: &Awaited) {
        self.resumed = false;
        let Some(kept) = &mut self.kept else {
            return;
        };
        let is_mail = match awaited {
            Awaited::Mail(_) => {
                kept.transactions += 1;
                true
            }
            Awaited::Rcpt(_) | Awaited::Data | Awaited::Xforward(_) => true,
            Awaited::Hello { .. } => kept.hello.is_empty(),
            _ => false,
        };
        if !is_mail {
            self.kept = None;
        }
    }
}
