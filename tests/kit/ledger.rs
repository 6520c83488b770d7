//! What clients have sent and what was acknowledged, over all rounds; and the reckoning: each message that was acknowledged
//! is in the vault once, none is twice, nothing else is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Mail, Passed, SmtpClient, Vault, vault::blob_id, wait_until};

/// How many clients there are, and how many sessions smtp-source keeps.
pub const SESSIONS: usize = 4;

/// What the clients know. A serial is never sent twice.
#[derive(Default)]
pub struct Ledger {
    serial: AtomicU64,
    /// Serials whose content went out whole; with `true`, those that got 250.
    tried: Mutex<BTreeMap<u64, bool>>,
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

/// Some larger than what the journal keeps in a segment, most small.
pub fn mail(serial: u64) -> Mail {
    match serial % 50 {
        0 => Mail::sized(serial, 400_000),
        1..10 => Mail::sized(serial, 20_000),
        _ => Mail::plain(serial),
    }
}

impl Ledger {
    /// Goes out now: a serial that nobody has sent yet.
    pub fn next(&self) -> u64 {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        self.tried.lock().unwrap().insert(serial, false);
        serial
    }

    pub fn acknowledge(&self, serial: u64) {
        self.tried.lock().unwrap().insert(serial, true);
        self.acknowledged.fetch_add(1, Ordering::Release);
    }

    /// How many were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// A client tries until it gets what it wants, or all is over. The others may spend a round in less time than a login
    /// takes, again and again.
    pub fn try_until_over<T>(
        &self,
        what: &str,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        wait_until(Duration::from_secs(600), what, || match self.is_over() {
            true => Some(None),
            false => attempt().map(Some),
        })
    }

    /// The blob id of each message that was acknowledged.
    pub fn promised(&self) -> BTreeSet<String> {
        self.blobs(|acknowledged| acknowledged)
    }

    /// The blob id of each message that ever went out.
    pub fn sent(&self) -> BTreeSet<String> {
        self.blobs(|_| true)
    }

    fn blobs(&self, wanted: impl Fn(bool) -> bool) -> BTreeSet<String> {
        let tried = self.tried.lock().unwrap();
        let wanted = tried
            .iter()
            .filter(|(_, acknowledged)| wanted(**acknowledged));
        wanted
            .map(|(&serial, _)| blob_id(&mail(serial).bytes))
            .collect()
    }

    /// Lets SMTP clients send to `front` while `rounds` kills and restarts things; then everything must come to rest.
    pub fn under_load(&self, front: SocketAddr, rounds: impl FnOnce()) {
        self.under_load_of(|_| self.client(front), rounds);
    }

    /// The same with clients of another kind, which are numbered from 0.
    pub fn under_load_of(&self, client: impl Fn(usize) + Sync, rounds: impl FnOnce()) {
        std::thread::scope(|scope| {
            for number in 0..SESSIONS {
                let client = &client;
                scope.spawn(move || client(number));
            }
            // the clients must hear of a failure here, or the scope waits for them for ever
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(rounds));
            self.stop.store(true, Ordering::Release);
            if let Err(panic) = outcome {
                std::panic::resume_unwind(panic);
            }
        });
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

    /// What got 250 has gone on.
    pub fn check_passed(&self, passed: &Passed) {
        let passed = passed.all();
        let tried = self.tried.lock().unwrap().clone();
        for (serial, acknowledged) in tried {
            assert!(
                !acknowledged || passed.contains(&blob_id(&mail(serial).bytes)),
                "message {serial} got 250 and never reached the next hop"
            );
        }
    }

    /// The law, over all that was ever sent.
    pub fn check(&self, vault: &Vault) {
        let tried = self.tried.lock().unwrap().clone();
        let known = tried.into_iter().map(|(serial, acknowledged)| {
            let blob = blob_id(&mail(serial).bytes);
            (blob, (serial, acknowledged))
        });
        let known: BTreeMap<String, (u64, bool)> = known.collect();
        let copies = vault.each_once();
        for (blob, id) in &copies {
            assert!(known.contains_key(blob), "{id} was never sent");
        }
        let missing: Vec<_> = known
            .iter()
            .filter(|(blob, (_, acknowledged))| *acknowledged && !copies.contains_key(*blob))
            .map(|(_, (serial, _))| serial)
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
        assert_eq!(sighted.len(), copies.len(), "each copy has its sighting");
        let files = vault.check_blob_files();
        let files: BTreeSet<String> = files.into_iter().map(|name| format!("G{name}")).collect();
        for (blob, id) in &copies {
            assert!(files.contains(blob), "{id} has no file");
        }
    }
}
