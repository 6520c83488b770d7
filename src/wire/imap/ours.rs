//! Commands that are ours to answer, of which the server hears nothing: STARTTLS, and a login that is withheld.
//!
//! Such a login is read to its end, and its literals with it where they come without leave; where one waits for leave, our
//! NO stands in its place.

use super::{
    Verdict, Watcher,
    client::{Sink, State},
    line::Whole,
};
use crate::wire::watch::Step;

// To a login that is withheld (RFC 5530 section 3), where we have a certificate, and where we have none.
const USE_TLS: &[u8] =
    b" NO [PRIVACYREQUIRED] Passwords are not taken without TLS: say STARTTLS first\r\n";
const NO_TLS: &[u8] =
    b" NO [PRIVACYREQUIRED] Passwords are not taken without TLS, and there is none here: \
    the operator must set certificate\r\n";

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
        let why = match self.rules.starttls {
            true => USE_TLS,
            false => NO_TLS,
        };
        self.step(Step::Reply([tag, why].concat()));
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
