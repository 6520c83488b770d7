//! kill -9 at random instants: what got 250 is in the vault once, what did not is there at most once, nothing else is.
//!
//! The clients are the kit's, which know each message, and Postfix's smtp-source, whose messages the next hop knows.
//! `MAILTEE_ROUNDS` sets the number of rounds (100). A failure names its seed; `MAILTEE_SEED` plays its choices again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::kit::{
    Mail, Mailtee, Sink, SmtpClient, Vault,
    mail::Random,
    sink::{Answer, Moment},
    vault::blob_id,
    wait_until,
};

/// How many clients there are, and how many sessions smtp-source keeps.
pub(crate) const SESSIONS: usize = 4;

/// What the clients know, over all rounds. A serial is never sent twice.
#[derive(Default)]
pub(crate) struct Ledger {
    serial: AtomicU64,
    /// Serials whose content went out whole; with `true`, those that got 250.
    tried: Mutex<BTreeMap<u64, bool>>,
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

/// Some larger than what the journal keeps in a segment, most small.
pub(crate) fn mail(serial: u64) -> Mail {
    match serial % 50 {
        0 => Mail::sized(serial, 400_000),
        1..10 => Mail::sized(serial, 20_000),
        _ => Mail::plain(serial),
    }
}

impl Ledger {
    /// Goes out now: a serial that nobody has sent yet.
    pub(crate) fn next(&self) -> u64 {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        self.tried.lock().unwrap().insert(serial, false);
        serial
    }

    pub(crate) fn acknowledge(&self, serial: u64) {
        self.tried.lock().unwrap().insert(serial, true);
        self.acknowledged.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The blob id of each message that was acknowledged.
    pub(crate) fn promised(&self) -> BTreeSet<String> {
        let tried = self.tried.lock().unwrap();
        let promised = tried.iter().filter(|(_, acknowledged)| **acknowledged);
        promised
            .map(|(&serial, _)| blob_id(&mail(serial).bytes))
            .collect()
    }

    /// The blob id of each message that ever went out.
    pub(crate) fn sent(&self) -> BTreeSet<String> {
        let tried = self.tried.lock().unwrap();
        tried
            .keys()
            .map(|&serial| blob_id(&mail(serial).bytes))
            .collect()
    }

    /// One client: sends for as long as it is let, connects again whenever the daemon is gone.
    fn client(&self, address: SocketAddr) {
        while !self.is_over() {
            let Ok(mut client) = SmtpClient::greeted(address) else {
                std::thread::yield_now();
                continue;
            };
            while !self.is_over() {
                let serial = self.next();
                match client.mail(&mail(serial)) {
                    Ok(reply) if reply.is_success() => self.acknowledge(serial),
                    Ok(reply) => {
                        assert_eq!(
                            reply.code / 100,
                            4,
                            "our trouble is never a 5xx: {}",
                            reply.text()
                        );
                        // a mail server whose milter has failed says so for the rest of the session
                        break;
                    }
                    Err(_) => break,
                }
            }
        }
    }

    /// Waits for some more acknowledgements, at most `more`, then a moment that nothing is in step with.
    pub(crate) fn random_instant(&self, random: &mut Random, more: u64) {
        let goal = self.acknowledged.load(Ordering::Acquire) + 1 + random.below(more);
        wait_until(Duration::from_secs(60), "mail flows again", || {
            (self.acknowledged.load(Ordering::Acquire) >= goal).then_some(())
        });
        spin(random.below(3_000));
    }

    /// What got 250 has gone on.
    pub(crate) fn check_passed(&self, passed: &Passed) {
        let passed: BTreeSet<String> = passed.0.lock().unwrap().drain(..).collect();
        for (&serial, &acknowledged) in self.tried.lock().unwrap().iter() {
            assert!(
                !acknowledged || passed.contains(&blob_id(&mail(serial).bytes)),
                "message {serial} got 250 and never reached the next hop"
            );
        }
    }

    /// The law, over all that was ever sent.
    pub(crate) fn check(&self, vault: &Vault) {
        let tried = self.tried.lock().unwrap();
        let mut known: BTreeMap<String, (u64, bool)> = BTreeMap::new();
        for (&serial, &acknowledged) in tried.iter() {
            known.insert(blob_id(&mail(serial).bytes), (serial, acknowledged));
        }
        let mut seen = BTreeSet::new();
        for (id, blob) in vault.emails() {
            let (serial, _) = known
                .get(&blob)
                .unwrap_or_else(|| panic!("{id} was never sent"));
            assert!(seen.insert(*serial), "message {serial} is there twice");
        }
        let missing: Vec<_> = known
            .values()
            .filter(|(serial, acknowledged)| *acknowledged && !seen.contains(serial))
            .collect();
        assert!(
            missing.is_empty(),
            "got 250 and is not there: {} of {}: {:?}",
            missing.len(),
            known.len(),
            &missing[..missing.len().min(10)]
        );
        // a message that was sent once was seen once
        let mut sighted = BTreeSet::new();
        for sighting in vault.sightings() {
            let email = sighting["emailId"].to_string();
            assert!(sighted.insert(email), "sighted twice: {sighting}");
        }
        assert_eq!(sighted.len(), seen.len(), "each copy has its sighting");
        let files: BTreeSet<String> = vault
            .check_blob_files()
            .into_iter()
            .map(|name| format!("G{name}"))
            .collect();
        for (blob, (serial, _)) in &known {
            assert!(
                !seen.contains(serial) || files.contains(blob),
                "message {serial} has no file"
            );
        }
    }
}

/// What the next hop took: the blob id of each message, in order.
#[derive(Clone, Default)]
pub(crate) struct Passed(Arc<Mutex<Vec<String>>>);

impl Passed {
    /// A willing next hop, and what it takes; `captured` is that part of a message which passed mailtee.
    pub(crate) fn next_hop(captured: fn(&[u8]) -> &[u8]) -> (Sink, Self) {
        let passed = Self::default();
        let taken = passed.clone();
        let sink = Sink::forgetful(move |moment| {
            if let Moment::EndOfData(received) = moment {
                // before the reply: whoever heard the reply may look for the message
                taken
                    .0
                    .lock()
                    .unwrap()
                    .push(blob_id(captured(&received.bytes)));
            }
            Answer::Default
        });
        (sink, passed)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// All of it, where nothing may have been sent twice.
    pub(crate) fn distinct(&self) -> BTreeSet<String> {
        let mut passed = BTreeSet::new();
        for id in self.0.lock().unwrap().drain(..) {
            assert!(
                passed.insert(id),
                "sent twice: no message of smtp-source is"
            );
        }
        passed
    }
}

/// Keeps the processor for so many microseconds: too short a time for a sleep to hit.
pub(crate) fn spin(micros: u64) {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_micros(micros) {
        std::hint::spin_loop();
    }
}

pub(crate) fn rounds() -> u64 {
    let rounds = std::env::var("MAILTEE_ROUNDS").ok();
    rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(100)
}

/// Mail flows while the vault is away: the more rounds, the more waits at their end.
pub(crate) fn to_come_to_rest() -> Duration {
    Duration::from_secs(120 + 2 * rounds())
}

pub(crate) fn seed() -> u64 {
    let seed = std::env::var("MAILTEE_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random);
    eprintln!("MAILTEE_SEED={seed}");
    seed
}

/// Runs the clients against `front` while `rounds` kills and restarts things; then everything must come to rest.
pub(crate) fn under_load(ledger: &Ledger, front: SocketAddr, rounds: impl FnOnce(&Ledger)) {
    under_load_of(ledger, |_| ledger.client(front), rounds);
}

/// The same with clients of another kind, which are numbered from 0.
pub(crate) fn under_load_of(
    ledger: &Ledger,
    client: impl Fn(usize) + Sync,
    rounds: impl FnOnce(&Ledger),
) {
    std::thread::scope(|scope| {
        for number in 0..SESSIONS {
            let client = &client;
            scope.spawn(move || client(number));
        }
        // the clients must hear of a failure here, or the scope waits for them for ever
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rounds(ledger)));
        ledger.stop.store(true, Ordering::Release);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Small segments: each life begins by making new ones, and rounds cross from one into the next.
pub(crate) const JOURNAL: &str =
    "[journal]\nsegment_bytes = \"2 MiB\"\nfree_bytes_min = \"1 MiB\"\n";
/// A target that is gone is soon asked again.
const IMPATIENT: &str = "target_retry_min = \"50ms\"\ntarget_retry_max = \"200ms\"\n\
                         message_retry_min = \"50ms\"\nmessage_retry_max = \"200ms\"\n";

#[test]
fn a_killed_daemon_loses_nothing_and_doubles_nothing() {
    let mut random = Random(seed());
    let (sink, passed) = Passed::next_hop(|whole| whole);
    let mut mailtee = Mailtee::filter(sink.address()).append(JOURNAL).start();
    let ledger = Ledger::default();
    under_load(&ledger, mailtee.frontend, |ledger| {
        for round in 0..rounds() {
            ledger.random_instant(&mut random, 80);
            mailtee.kill();
            if round % 8 == 7 {
                // and once more while it recovers
                mailtee.spawn();
                spin(random.below(120_000));
                mailtee.kill();
            }
            mailtee.start();
        }
    });
    mailtee.wait_until_forwarded(to_come_to_rest());
    ledger.check_passed(&passed);
    ledger.check(&mailtee.vault());
    let metrics = mailtee.metrics();
    assert_eq!(metrics.value("quarantined_records", &[]), 0.0);
    assert_eq!(
        metrics.value("sync_lag_seconds", &[("target", "vault")]),
        0.0
    );
}

#[test]
fn a_killed_vault_loses_nothing_and_doubles_nothing() {
    let mut random = Random(seed());
    let (sink, _) = Passed::next_hop(|whole| whole);
    let mut vault = Mailtee::vault_alone();
    let mailtee = Mailtee::filter(sink.address())
        .without_vault()
        .append(JOURNAL)
        .append(&(vault.as_target("archive") + IMPATIENT))
        .start();
    let ledger = Ledger::default();
    under_load(&ledger, mailtee.frontend, |ledger| {
        for round in 0..rounds() {
            ledger.random_instant(&mut random, 80);
            vault.kill();
            if round % 8 == 7 {
                vault.spawn();
                spin(random.below(120_000));
                vault.kill();
            }
            vault.start();
        }
    });
    mailtee.wait_until_forwarded(to_come_to_rest());
    let parked = mailtee.metrics();
    let parked = parked.value("parked_messages", &[("target", "archive")]);
    assert_eq!(parked, 0.0, "a killed vault is no reason to park");
    ledger.check(&vault.vault());
}

/// Postfix's own load generator, started again whenever a kill has ended it.
pub(crate) struct SmtpSource {
    front: SocketAddr,
    child: Option<Child>,
}

impl SmtpSource {
    pub(crate) fn before(front: SocketAddr) -> Self {
        Self { front, child: None }
    }

    pub(crate) fn start(&mut self) {
        self.stop();
        let child = Command::new("/usr/sbin/smtp-source")
            .args([
                "-d",
                "-s",
                &SESSIONS.to_string(),
                "-m",
                "1000000",
                "-l",
                "3000",
            ])
            .arg(self.front.to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("smtp-source, of the package postfix"));
    }

    pub(crate) fn stop(&mut self) {
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

/// Its own count says nothing of a single message, but what the next hop answered with 250 is known byte for byte: each
/// is in the vault once. What else is there was synced, and its next hop had not answered yet: one a session and kill.
#[test]
fn what_smtp_source_sends_through_a_killed_daemon_is_there_once() {
    let rounds = usize::try_from(rounds()).unwrap();
    let mut random = Random(seed());
    let (sink, taken) = Passed::next_hop(|whole| whole);
    let mut mailtee = Mailtee::filter(sink.address()).append(JOURNAL).start();
    let mut source = SmtpSource::before(mailtee.frontend);
    for _ in 0..rounds {
        source.start();
        let goal = taken.count() + 1 + usize::try_from(random.below(80)).unwrap();
        wait_until(Duration::from_secs(60), "smtp-source sends", || {
            (taken.count() >= goal).then_some(())
        });
        spin(random.below(3_000));
        mailtee.kill();
        mailtee.start();
    }
    source.stop();
    mailtee.wait_until_forwarded(to_come_to_rest());
    let passed = taken.distinct();
    let mut seen = BTreeSet::new();
    for (id, blob) in mailtee.vault().emails() {
        assert!(seen.insert(blob), "{id} is there twice");
    }
    let missing = passed.difference(&seen).count();
    assert_eq!(
        missing,
        0,
        "passed and not in the vault, of {}",
        passed.len()
    );
    let unanswered = seen.difference(&passed).count();
    assert!(
        unanswered <= SESSIONS * (rounds + 1),
        "{unanswered} were never sent"
    );
}
