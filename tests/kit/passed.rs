//! A next hop that knows what it took, and Postfix's smtp-source, whose messages nobody else knows.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use super::{
    Mailtee, Rounds, Sink, Vault,
    ledger::SESSIONS,
    sink::{Answer, Moment},
    vault::blob_id,
};

/// What the next hop took: the blob id of each message, in order.
#[derive(Clone, Default)]
pub struct Passed(Arc<Mutex<Vec<String>>>);

impl Passed {
    /// A willing next hop, and what it takes; `captured` is that part of a message which passed mailtee.
    pub fn next_hop(captured: fn(&[u8]) -> &[u8]) -> (Sink, Self) {
        let passed = Self::default();
        let taken = passed.clone();
        let sink = Sink::forgetful(move |moment| {
            if let Moment::EndOfData(received) = moment {
                // before the reply: whoever heard the reply may look for the message
                let id = blob_id(captured(&received.bytes));
                taken.0.lock().unwrap().push(id);
            }
            Answer::Default
        });
        (sink, passed)
    }

    pub fn count(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }

    /// All of it; a message that went on twice is there once.
    pub fn all(&self) -> BTreeSet<String> {
        self.0.lock().unwrap().iter().cloned().collect()
    }

    /// The law where each message has been sent once and only the next hop knows it: what it took is in the vault once. What
    /// else is there was synced, and nobody had heard its 250 yet: one a session and kill.
    pub fn check(&self, vault: &Vault, rounds: &Rounds) {
        let passed = self.all();
        assert_eq!(
            passed.len() as u64,
            self.count(),
            "sent twice: no message of smtp-source is"
        );
        let copies: BTreeSet<_> = vault.each_once().into_keys().collect();
        let missing = passed.difference(&copies).count();
        assert_eq!(
            missing,
            0,
            "passed and not in the vault, of {}",
            passed.len()
        );
        let unanswered = copies.difference(&passed).count() as u64;
        assert!(
            unanswered <= SESSIONS as u64 * (rounds.count() + 1),
            "{unanswered} never passed"
        );
    }
}

/// Postfix's own load generator, started again whenever a kill has ended it.
pub struct SmtpSource {
    front: SocketAddr,
    child: Option<Child>,
}

impl SmtpSource {
    pub fn before(front: SocketAddr) -> Self {
        Self { front, child: None }
    }

    /// Kills `mailtee` in each round while it sends; `passed` is what goes on.
    pub fn send_while_killed(
        mut self,
        mailtee: &mut Mailtee,
        rounds: &mut Rounds,
        passed: &Passed,
    ) {
        self.start();
        rounds.each(
            || passed.count(),
            80,
            |rounds, round| {
                mailtee.kill();
                mailtee.start();
                if round + 1 < rounds.count() {
                    self.start();
                }
            },
        );
    }

    fn start(&mut self) {
        self.stop();
        let sessions = SESSIONS.to_string();
        let child = Command::new("/usr/sbin/smtp-source")
            .args(["-d", "-s", &sessions, "-m", "1000000", "-l", "3000"])
            .arg(self.front.to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("smtp-source, of the package postfix"));
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for SmtpSource {
    fn drop(&mut self) {
        self.stop();
    }
}
