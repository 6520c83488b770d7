//! Commands that are ours to answer, of which the server hears nothing: STARTTLS, and a login that is withheld.
//!
//! Such a login is read to its end, and its literals with it where they come without leave; where one waits for leave, our
//! NO stands in its place.

use super::{
    Verdict, Watcher,
    client::{Sink, State},
    line::Whole,
};
use crate::wire::watch::{Step, why_withheld};

impl Watcher {
    /// A line of a login that is withheld, which is ours to answer at its end.
    pub(super) fn withhold(&mut self, tag: &[u8], whole: &Whole<'_>) -> Verdict {
        // What may be a literal and may be none is none: the server, who could think otherwise, does not hear it.
        let literal = whole.literal.unwrap_or_default();
        if let Some(literal) = literal.filter(|literal| !literal.waits) {
            self.client.withheld = Some(tag.into());
            self.client.state = State::Literal {
                left: literal.bytes,
                sink: Sink::Nowhere,
            };
            self.end_literal();
            return Verdict::Swallow;
        }
        if !self.may_answer() {
            return Verdict::Wait;
        }
        self.client.withheld = None;
        self.client.state = State::Line;
        // RFC 5530 section 3.
        let why = why_withheld(self.rules.starttls.then_some("STARTTLS"));
        let why = format!(" NO [PRIVACYREQUIRED] {why}\r\n");
        self.step(Step::Withhold {
            reply: [tag, why.as_bytes()].concat(),
        });
        Verdict::Swallow
    }

    /// Ours to answer; the handshake comes right behind the reply.
    pub(super) fn starttls(&mut self, tag: &[u8]) -> Verdict {
        if !self.may_answer() {
            return Verdict::Wait;
        }
        let reply = |text: &str| [tag, text.as_bytes()].concat();
        let step = if self.rules.starttls && !self.secured && !self.authenticated {
            Step::StartTls {
                reply: reply(" OK Begin TLS negotiation now\r\n"),
            }
        } else {
            Step::Reply(reply(" BAD STARTTLS is not offered here\r\n"))
        };
        self.step(step);
        Verdict::Swallow
    }
}
