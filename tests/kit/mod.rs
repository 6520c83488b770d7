//! What the integration tests are made of: real peers, the built daemon, an SMTP client and sink, an IMAP client, varied
//! mail, a vault reader. Everything lives in private directories on loopback ports nobody else holds, and ends with its guard.
//!
//! The kit is synchronous: a test that needs an async runtime brings its own. Nothing sleeps to wait; a wait names its
//! condition and its deadline ([`wait_until`]).

pub mod alert;
pub mod archive;
pub mod client;
pub mod daemon;
pub mod dir;
pub mod disk;
pub mod http;
pub mod imap;
pub mod ledger;
pub mod mail;
pub mod mailbox;
pub mod metrics;
pub mod milter;
pub mod passed;
pub mod peer;
pub mod port;
pub mod program;
pub mod rounds;
pub mod sink;
pub mod vault;

use std::time::{Duration, Instant};

pub use archive::Archive;
pub use client::SmtpClient;
pub use daemon::Mailtee;
pub use dir::TestDir;
pub use disk::{SlowSyncs, SmallDisk};
pub use imap::ImapClient;
pub use ledger::Ledger;
pub use mail::Mail;
pub use mailbox::MailServer;
pub use metrics::Metrics;
pub use milter::MilterClient;
pub use passed::Passed;
pub use peer::Peer;
pub use port::free_port;
pub use rounds::Rounds;
pub use sink::Sink;
pub use vault::Vault;

/// Asks again and again until `condition` gives something; past the deadline it panics, naming `what`.
///
/// The pause between questions is not a guess at a duration: it only keeps the question cheap.
#[track_caller]
pub fn wait_until<T>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(
            Instant::now() < end,
            "waited {deadline:?} in vain until {what}"
        );
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Runs a future on a runtime of its own thread, so that it works from a plain test and from an async one alike.
pub fn block_on<F>(future: F) -> F::Output
where
    F: Future + Send,
    F::Output: Send,
{
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime")
                    .block_on(future)
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
