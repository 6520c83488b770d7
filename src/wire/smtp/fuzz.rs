//! Entries for the fuzz targets in `tests/fuzz/` and for the property tests: whatever a client says, nothing panics, and
//! no message passes that the journal has not got, byte for byte.

use std::{fmt, sync::Arc};

use super::{
    Dialect, Relay, Role, Rules, Server, Step, TellClient,
    relay::{Copied, Fate},
};
use crate::message::Client;

/// What came of a session with a willing next hop and a journal that always syncs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What the client heard.
    pub replies: Vec<u8>,
    /// The copies whose messages the next hop took.
    pub copies: Vec<Vec<u8>>,
    /// The messages that it took.
    pub taken: Vec<Vec<u8>>,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "replies {}", self.replies.escape_ascii())?;
        for copy in &self.copies {
            writeln!(f, "copy    {}", copy.escape_ascii())?;
        }
        for message in &self.taken {
            writeln!(f, "taken   {}", message.escape_ascii())?;
        }
        Ok(())
    }
}

/// Lets a client say `input`, in pieces of `step` bytes. Where a session leaves its connection to the next hop, what
/// follows is said in another one on it.
pub fn session(role: Role, input: &[u8], step: usize) -> Outcome {
    let rules = Rules {
        dialect: Dialect::Smtp,
        role,
        hostname: "tee.example".to_owned(),
        hold_end: true,
        starttls: false,
        upstream_starttls: false,
        keep_upstream: role == Role::Filter,
        tell_client: TellClient::No,
        line_bytes_max: 1024,
        recipients_max: 10,
        message_bytes_max: 0,
    };
    let rules = Arc::new(rules);
    let begin = || Relay::new(rules.clone(), Client::default(), true, false);
    let mut relay = begin();
    let mut next_hop = Some(Server::new(Dialect::Smtp, "next.example").keeping_content());
    let (mut outcome, mut copy, mut ended) = (Outcome::default(), Vec::new(), None);
    let mut unread = Vec::new();
    for piece in input.chunks(step.max(1)) {
        unread.extend_from_slice(piece);
        loop {
            let taken = relay.receive_client(&unread);
            unread.drain(..taken);
            let mut moved = taken > 0 || !relay.to_upstream.is_empty();
            if let Some(server) = &mut next_hop {
                server.receive(&relay.to_upstream);
                relay.to_upstream.clear();
                let taken = relay.receive_upstream(&server.to_client);
                server.to_client.drain(..taken);
                moved |= taken > 0;
                outcome.taken.append(&mut server.kept);
            }
            copy.append(&mut relay.copy);
            outcome.replies.append(&mut relay.to_client);
            match relay.poll() {
                Some(Step::BeginCopy) => relay.copy_begun(Copied::Safe { reply: None }),
                Some(Step::EndCopy) => {
                    let facts = relay.take_ended();
                    assert_eq!(
                        facts.bytes,
                        copy.len() as u64,
                        "the copy has another length"
                    );
                    ended = Some(std::mem::take(&mut copy));
                    relay.copy_ended(Copied::Safe { reply: None });
                }
                Some(Step::DropCopy(_)) => copy.clear(),
                Some(Step::Fate(Fate::Accepted(_))) => outcome.copies.extend(ended.take()),
                Some(Step::Fate(_)) => ended = None,
                Some(Step::DropUpstream) => next_hop = None,
                Some(_) => {}
                None if moved => {}
                None if relay.is_closing() && !unread.is_empty() => {
                    let Some(kept) = relay.leave() else { break };
                    relay = begin();
                    relay.resume(kept);
                }
                None => break,
            }
        }
    }
    outcome
}

/// The law for any input, however it arrives: what the next hop took, the journal has.
pub fn check(role: Role, input: &[u8], step: usize) -> [Outcome; 2] {
    [step, usize::MAX].map(|step| {
        let outcome = session(role, input, step);
        assert_eq!(
            outcome.copies, outcome.taken,
            "a copy is not the message, or one is missing"
        );
        outcome
    })
}

/// Any bytes as commands.
pub fn command(bytes: &[u8]) {
    check(Role::Proxy, bytes, 3);
}

/// Any bytes as the content of DATA up to its end: here, chunking changes nothing at all. (Where a client goes on behind
/// a refused BDAT, what it hears depends on when the refusal arrived.)
pub fn data(bytes: &[u8]) {
    let mut input = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n".to_vec();
    let content = input.len() - 2;
    input.extend_from_slice(bytes);
    if let Some(end) = memchr::memmem::find(&input[content..], b"\r\n.\r\n") {
        input.truncate(content + end + 5);
    }
    for role in [Role::Filter, Role::Proxy] {
        let [pieces, whole] = check(role, &input, 3);
        assert_eq!(pieces, whole, "chunking changed something");
    }
}

/// Any bytes as chunks: the first byte of each piece says how long it is.
pub fn bdat(bytes: &[u8]) {
    let mut input = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n".to_vec();
    let mut rest = bytes;
    while let Some((size, tail)) = rest.split_first() {
        let (piece, tail) = tail.split_at(usize::from(*size).min(tail.len()));
        let last = if tail.is_empty() { " LAST" } else { "" };
        input.extend_from_slice(format!("BDAT {}{last}\r\n", piece.len()).as_bytes());
        input.extend_from_slice(piece);
        rest = tail;
    }
    input.extend_from_slice(b"QUIT\r\n");
    for role in [Role::Filter, Role::Proxy] {
        check(role, &input, 3);
    }
}
