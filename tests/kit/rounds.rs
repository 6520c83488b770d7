//! kill -9, again and again: how many rounds, at which instants.
//!
//! `MAILTEE_ROUNDS` sets the number of rounds (100; `tests/run --soak`: 1,000). A failure names its seed; `MAILTEE_SEED` plays
//! its instants again.

use std::time::{Duration, Instant};

use super::{Mailtee, mail::Random, wait_until};

/// Small segments: each life begins by making new ones, and rounds cross from one into the next.
pub const JOURNAL: &str = "[journal]\nsegment_bytes = \"2 MiB\"\nfree_bytes_min = \"1 MiB\"\n";

pub struct Rounds {
    random: Random,
    count: u64,
}

impl Rounds {
    /// All of them. Says the seed.
    pub fn all() -> Self {
        let seed = variable("MAILTEE_SEED").unwrap_or_else(rand::random);
        eprintln!("MAILTEE_SEED={seed}");
        Self {
            random: Random(seed),
            count: rounds(),
        }
    }

    /// One in ten: where each takes a second.
    pub fn some() -> Self {
        let count = rounds().div_ceil(10);
        Self {
            count,
            ..Self::all()
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// In each round: lets some more go on, at most `more`, and then strikes in a moment that nothing is in step with.
    pub fn each(
        &mut self,
        gone_on: impl Fn() -> u64,
        more: u64,
        mut strike: impl FnMut(&mut Self, u64),
    ) {
        for round in 0..self.count {
            self.instant(&gone_on, more);
            strike(self, round);
        }
    }

    /// Kills it in each round, in some of them once more while it recovers.
    pub fn kill(&mut self, daemon: &mut Mailtee, gone_on: impl Fn() -> u64, more: u64) {
        self.each(gone_on, more, |rounds, round| {
            daemon.kill();
            if round % 8 == 7 {
                daemon.spawn();
                spin(rounds.random.below(120_000));
                daemon.kill();
            }
            daemon.start();
        });
    }

    /// Waits until some more has gone on, then for a moment.
    fn instant(&mut self, gone_on: impl Fn() -> u64, more: u64) {
        let goal = gone_on() + 1 + self.random.below(more);
        wait_until(Duration::from_secs(60), "mail flows again", || {
            (gone_on() >= goal).then_some(())
        });
        spin(self.random.below(3_000));
    }
}

/// How long it may take to come to rest: mail flows while the vault is away, so the more rounds, the more waits at their
/// end.
pub fn to_come_to_rest() -> Duration {
    Duration::from_secs(120 + 2 * rounds())
}

fn rounds() -> u64 {
    variable("MAILTEE_ROUNDS").unwrap_or(100)
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Keeps the processor for so many microseconds: too short a time for a sleep to hit.
fn spin(micros: u64) {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_micros(micros) {
        std::hint::spin_loop();
    }
}
