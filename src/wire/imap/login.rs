//! Who logs in: LOGIN with its name in a literal, and the answers of AUTHENTICATE. The name is told before the server hears
//! it, for another server may be the right one.

use super::{
    Verdict, Watcher,
    command::{Authenticating, Kind},
    lexis::Literal,
    line::Whole,
};
use crate::{message::WireText, wire::watch::Step};

/// A name that comes as a literal.
#[derive(Debug, Default)]
pub(super) struct Name {
    before: Vec<u8>,
    pub(super) held: Vec<u8>,
    bytes: usize,
}

impl Watcher {
    /// LOGIN's first word is a literal. What the server waits for is passed on, so that it can say `+`.
    pub(super) fn name_follows(&mut self, literal: Literal, line: &[u8]) -> Verdict {
        let mut name = Name {
            bytes: literal.bytes as usize,
            ..Name::default()
        };
        let verdict = if literal.waits {
            name.before = line.to_vec();
            Verdict::Forward
        } else {
            name.held = line.to_vec();
            Verdict::Swallow
        };
        self.client.name = Some(Box::new(name));
        verdict
    }

    pub(super) fn name_ends(&mut self) {
        let Some(name) = self.client.name.take() else {
            return;
        };
        let user = WireText::from(&name.held[name.held.len() - name.bytes..]);
        if let Some(Kind::Login(login)) = self.unfinished() {
            *login = Some(user.clone());
            let before = name.before;
            self.step(Step::Login { user, before });
        }
        if !name.held.is_empty() {
            self.step(Step::Say(name.held));
        }
    }

    /// The client's answer to a challenge.
    pub(super) fn sasl_answer(&mut self, whole: &Whole<'_>) {
        self.client.awaits = true;
        if whole.text == b"*" {
            return;
        }
        let told = match self.unfinished() {
            Some(Kind::Authenticate(authenticating)) => {
                authenticating.sasl.answer(whole.text);
                let before = std::mem::take(&mut authenticating.line);
                if whole.long || before.is_empty() {
                    None
                } else {
                    authenticating.login(before)
                }
            }
            _ => None,
        };
        self.to_server.steps.extend(told);
    }
}

impl Authenticating {
    /// Tells who the user is, once.
    pub(super) fn login(&mut self, before: Vec<u8>) -> Option<Step<'static>> {
        if self.told || !self.moves {
            return None;
        }
        let user = self.sasl.mailbox()?.clone();
        self.told = true;
        Some(Step::Login { user, before })
    }
}
