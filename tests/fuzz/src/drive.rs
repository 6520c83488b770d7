//! A whole session without sockets: a client that says what the fuzzer says, the relay, and a willing next hop.
//!
//! The law: what the next hop was given for a message it took is what the copy has, byte for byte.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    message::Client,
    wire::smtp::{
        Dialect, Relay, Role, Rules, Server, Step,
        relay::{Copied, Fate, TellClient},
    },
};

/// What came of a session.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// The copies of messages that the next hop took.
    pub copies: Vec<Vec<u8>>,
    /// Everything that the client heard.
    pub said: Vec<u8>,
}

pub fn rules(dialect: Dialect, role: Role) -> Arc<Rules> {
    Arc::new(Rules {
        dialect,
        role,
        hostname: "relay.test".to_owned(),
        hold_end: true,
        starttls: false,
        upstream_starttls: false,
        tell_client: TellClient::No,
        line_bytes_max: 4096,
        recipients_max: 100,
        message_bytes_max: 0,
    })
}

/// Lets the client say EHLO or LHLO and hear the answer, then `input` in pieces of at most `size` bytes, then hang up.
pub fn session(rules: Arc<Rules>, input: &[u8], size: usize) -> Session {
    let dialect = rules.dialect;
    let mut relay = Relay::new(rules, Client::default(), true, false);
    let mut hop = Server::new(dialect, "hop.test").keeping_content();
    let mut done = Session::default();
    let mut copy = Vec::new();
    let mut whole: VecDeque<Vec<u8>> = VecDeque::new();
    // what the hop was given since the message before, up to the end of the one that it took
    let mut taken: VecDeque<Vec<u8>> = VecDeque::new();
    let mut from_hop: Vec<u8> = Vec::new();
    let mut hello: &[u8] = match dialect {
        Dialect::Smtp => b"EHLO client.test\r\n",
        Dialect::Lmtp => b"LHLO client.test\r\n",
    };
    let (mut at, mut offer, mut hop_gone, mut ended) = (0, size, false, false);
    loop {
        let mut moved = false;
        copy.append(&mut relay.copy);
        while let Some(step) = relay.poll() {
            moved = true;
            match step {
                Step::BeginCopy => {
                    copy.clear();
                    relay.copy_begun(Copied::Safe { reply: None });
                }
                Step::EndCopy => {
                    copy.append(&mut relay.copy);
                    let facts = relay.take_ended();
                    assert_eq!(facts.bytes, copy.len() as u64, "the length of the copy");
                    whole.push_back(std::mem::take(&mut copy));
                    relay.copy_ended(Copied::Safe { reply: None });
                }
                Step::DropCopy(_) => copy.clear(),
                Step::Fate(fate) => {
                    let copy = whole.pop_front().expect("a fate has its copy");
                    if let Fate::Accepted(_) = fate {
                        let given = taken.pop_front().expect("the hop took it");
                        assert!(given.ends_with(&copy), "the copy is what was passed on");
                        done.copies.push(copy);
                    }
                }
                Step::DropUpstream => hop_gone = true,
                Step::SecureClient | Step::SecureUpstream => unreachable!("no TLS is offered"),
                Step::Failed(_) => {}
            }
            copy.append(&mut relay.copy);
        }
        for byte in std::mem::take(&mut relay.to_upstream) {
            moved = true;
            if hop_gone {
                continue;
            }
            let before = hop.messages();
            hop.receive(&[byte]);
            if hop.messages() > before {
                taken.push_back(std::mem::take(&mut hop.content));
            }
        }
        from_hop.append(&mut hop.to_client);
        if !from_hop.is_empty() && !hop_gone && relay.takes_upstream() {
            let n = relay.receive_upstream(&from_hop);
            from_hop.drain(..n);
            moved |= n > 0;
        }
        done.said.append(&mut relay.to_client);
        if relay.is_closing() {
            break;
        }
        if moved {
            continue;
        }
        if relay.takes_client() && !hello.is_empty() {
            // alone: nothing may be pipelined behind it (RFC 2920 section 3.1)
            let n = relay.receive_client(hello);
            hello = &hello[n..];
            continue;
        }
        if relay.takes_client() && (at < input.len() || relay.has_waiting_line()) {
            let piece = &input[at..at.saturating_add(offer).min(input.len())];
            let n = relay.receive_client(piece);
            at += n;
            // what it left over is offered again with what follows
            let waits = n == 0 && at + piece.len() < input.len();
            offer = if waits { offer.saturating_mul(2) } else { size };
            if n > 0 || waits || !relay.takes_client() {
                continue;
            }
        }
        if ended {
            break;
        }
        ended = true;
        relay.client_ended();
    }
    done
}
