//! From the connection to the next hop up to its greeting for the client: STARTTLS and XCLIENT, where they are asked
//! for, are talked through before the client hears anything. What fails here is a plain "try again later" for it.

use super::*;
use crate::wire::smtp::xforward;

#[derive(Debug)]
pub(super) enum Opening {
    Greeting,
    /// Our EHLO that asks for STARTTLS; with the greeting that the client will hear.
    ClearHello(Vec<u8>),
    StartTls(Vec<u8>),
    /// Our EHLO that asks for XCLIENT.
    Hello,
    /// Its 220 is a new greeting.
    Xclient,
}

impl Relay {
    pub(super) fn opening(&mut self, opening: Opening, reply: &[u8], code: u16, behind: bool) {
        let done = reply::is_success(code);
        match opening {
            Opening::Greeting if !done => {
                // Its own words: it may say for how long, or why.
                self.steps.push_back(Step::Failed(Failure::UpstreamRefused));
                self.to_client.extend_from_slice(reply);
                self.drop_upstream();
                self.closing = true;
            }
            Opening::Greeting if self.rules.upstream_starttls && !self.upstream_tls => {
                self.hello_upstream(Opening::ClearHello(reply.to_vec()));
            }
            Opening::Greeting => self.introduce(reply.to_vec()),
            Opening::ClearHello(greeting) => {
                self.learn(reply);
                if done && self.next_hop.starttls {
                    self.to_upstream.extend_from_slice(b"STARTTLS\r\n");
                    self.awaited
                        .push_back(Awaited::Opening(Opening::StartTls(greeting)));
                } else {
                    self.refuse_and_close(Failure::UpstreamRefused);
                }
            }
            // Said in clear by whoever, to be read as if it had come through TLS.
            Opening::StartTls(_) if behind => self.refuse_and_close(Failure::UpstreamInjection),
            Opening::StartTls(greeting) if done => {
                self.held_reply = greeting;
                self.suspended = true;
                self.steps.push_back(Step::SecureUpstream);
            }
            Opening::Hello => {
                self.learn(reply);
                match self.next_hop.xclient.take() {
                    Some(allowed) if done => {
                        let line = &mut self.to_upstream;
                        let attributes = &xforward::XCLIENT_ATTRIBUTES;
                        xforward::command("XCLIENT", attributes, &self.client, &allowed, line);
                        self.awaited.push_back(Awaited::Opening(Opening::Xclient));
                    }
                    // Without it the next hop would take every stranger for us.
                    _ => self.refuse_and_close(Failure::UpstreamRefused),
                }
            }
            Opening::Xclient if code == 220 => self.greet(reply),
            Opening::StartTls(_) | Opening::Xclient => {
                self.refuse_and_close(Failure::UpstreamRefused);
            }
        }
    }

    /// The answer to [`Step::SecureUpstream`]: the handshake is done.
    pub fn upstream_secured(&mut self) {
        self.suspended = false;
        self.upstream_tls = true;
        // What was said in clear is forgotten.
        self.next_hop = NextHop::default();
        let greeting = std::mem::take(&mut self.held_reply);
        self.introduce(greeting);
    }

    fn introduce(&mut self, greeting: Vec<u8>) {
        if self.rules.tell_client == TellClient::Xclient {
            self.hello_upstream(Opening::Hello);
        } else {
            self.greet(&greeting);
        }
    }

    fn greet(&mut self, greeting: &[u8]) {
        self.next_hop = NextHop::default();
        self.keep_greeting(greeting);
        self.to_client.extend_from_slice(greeting);
        self.barrier = Barrier::None;
    }

    fn hello_upstream(&mut self, opening: Opening) {
        let verb = match self.rules.dialect {
            Dialect::Smtp => "EHLO",
            Dialect::Lmtp => "LHLO",
        };
        let line = format!("{verb} {}\r\n", self.rules.hostname);
        self.to_upstream.extend_from_slice(line.as_bytes());
        self.awaited.push_back(Awaited::Opening(opening));
    }
}
