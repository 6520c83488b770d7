//! A target that takes nothing is left alone, then asked carefully. Pure: `now` and randomness are arguments.
//!
//! ```text
//! Closed ──failed──→ Paused ──time──→ Trial (one message, then two, then four …) ──passed──→ Closed
//!   ↑                  ↑  │             │failed: a longer pause
//!   │                  └──┼─────────────┘
//!   │                     └─time, after `failures_to_open` in a row: down──→ Probing ──ok──→ Trial
//! ```
//!
//! A refusal of our credentials is down at once: only a probe can tell that it ended. Trials grow because the fault may be
//! one message's in the batch: those before it pass in a few pauses, not in one each, until it stands alone.

use std::time::{Duration, Instant};

use super::policy::Policy;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Paused {
        until: Instant,
    },
    Probing,
    /// One batch at a time, of so many messages; `sent`: it is on its way.
    Trial {
        count: usize,
        sent: bool,
    },
}

const FIRST_TRIAL: State = State::Trial {
    count: 1,
    sent: false,
};

/// A trial of more messages is as good as none.
const TRIAL_MAX: usize = 256;

/// How much may go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admits {
    All,
    /// One batch of so many messages at most.
    Batch(usize),
    Nothing,
    /// Nothing; ask the target whether it is there, and tell what it said.
    Probe,
}

#[derive(Debug)]
pub(super) struct Breaker {
    policy: Policy,
    failures_to_open: u32,
    state: State,
    /// In a row.
    failures: u32,
    down: bool,
    /// When the first of these failures was told.
    failing_since: Option<Instant>,
    /// Failures of what was sent before are one failure, however many were in flight.
    failed_at: Option<Instant>,
}

impl Breaker {
    pub(super) fn new(policy: Policy, failures_to_open: u32) -> Self {
        Self {
            policy,
            failures_to_open,
            state: State::Closed,
            failures: 0,
            down: false,
            failing_since: None,
            failed_at: None,
        }
    }

    /// Whether the target is taken to be there.
    pub(super) fn is_up(&self) -> bool {
        !self.down
    }

    pub(super) fn admits(&mut self, now: Instant) -> Admits {
        if let State::Paused { until } = self.state
            && until <= now
        {
            self.state = match self.down {
                true => State::Probing,
                false => FIRST_TRIAL,
            };
            if self.down {
                return Admits::Probe;
            }
        }
        match self.state {
            State::Closed => Admits::All,
            State::Trial { count, sent: false } => Admits::Batch(count),
            State::Trial { sent: true, .. } | State::Probing | State::Paused { .. } => {
                Admits::Nothing
            }
        }
    }

    /// When to ask again, where time alone changes the answer.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        match self.state {
            State::Paused { until } => Some(until),
            _ => None,
        }
    }

    /// A trial is on its way.
    pub(super) fn sent(&mut self) {
        if let State::Trial { sent, .. } = &mut self.state {
            *sent = true;
        }
    }

    /// A trial ended without telling anything of the target.
    pub(super) fn trial_again(&mut self) {
        if let State::Trial { sent, .. } = &mut self.state {
            *sent = false;
        }
    }

    /// Something passed. For how long the target had taken nothing, where it was down until now.
    pub(super) fn succeeded(&mut self, now: Instant) -> Option<Duration> {
        self.state = match self.state {
            // A success that was sent before the pause says nothing about after it.
            State::Paused { .. } | State::Probing => return None,
            State::Trial { count, .. } if count < TRIAL_MAX => State::Trial {
                count: 2 * count,
                sent: false,
            },
            State::Trial { .. } | State::Closed => State::Closed,
        };
        self.failures = 0;
        let since = self.failing_since.take();
        let was_down = std::mem::take(&mut self.down);
        since
            .filter(|_| was_down)
            .map(|since| now.duration_since(since))
    }

    pub(super) fn probed(&mut self) {
        if self.state == State::Probing {
            self.state = FIRST_TRIAL;
        }
    }

    /// The target took nothing of what was sent at `sent_at`.
    pub(super) fn failed(
        &mut self,
        sent_at: Instant,
        now: Instant,
        retry_after: Option<Duration>,
        unauthorized: bool,
        random: f64,
    ) {
        let counted = self.failed_at.is_some_and(|before| sent_at <= before);
        if !counted {
            self.failures = self.failures.saturating_add(1);
            self.failing_since.get_or_insert(now);
            self.failed_at = Some(now);
        }
        self.down |= unauthorized || self.failures >= self.failures_to_open;
        let mut until = now + self.policy.delay(self.failures, retry_after, random);
        if let State::Paused { until: before } = self.state {
            until = match (counted, retry_after) {
                (true, None) => before,
                _ => until.max(before),
            };
        }
        self.state = State::Paused { until };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> (Breaker, Instant) {
        let policy = Policy {
            base: SECOND,
            cap: 8 * SECOND,
        };
        (Breaker::new(policy, 3), Instant::now())
    }

    #[test]
    fn one_failure_pauses_and_one_message_tries_whether_it_is_over() {
        let (mut breaker, start) = breaker();
        assert_eq!(breaker.admits(start), Admits::All);
        breaker.failed(start, start, None, false, 1.0);
        assert_eq!(breaker.admits(start), Admits::Nothing);
        assert_eq!(breaker.wakes_at(), Some(start + SECOND));
        for count in [1, 2, 4, 8, 16, 32, 64, 128, 256] {
            assert_eq!(breaker.admits(start + SECOND), Admits::Batch(count));
            breaker.sent();
            assert_eq!(breaker.admits(start + SECOND), Admits::Nothing);
            assert_eq!(breaker.succeeded(start + SECOND), None, "it was never down");
        }
        assert_eq!(breaker.admits(start + SECOND), Admits::All);
        assert!(breaker.is_up());
    }

    #[test]
    fn one_message_at_which_every_batch_fails_stands_alone_after_a_few_pauses() {
        let (mut breaker, mut now) = breaker();
        let (mut before, mut pauses) = (1_300, 0);
        loop {
            let sent_at = now;
            let count = match breaker.admits(now) {
                Admits::All => 500,
                Admits::Batch(count) => count,
                other => panic!("{other:?} after {pauses} pauses"),
            };
            breaker.sent();
            if count <= before {
                before -= count;
                breaker.succeeded(now);
            } else if count == 1 {
                break;
            } else {
                breaker.failed(sent_at, now, None, false, 1.0);
                pauses += 1;
                now += 10 * SECOND;
            }
        }
        assert!(pauses <= 12, "{pauses} pauses");
        assert!(breaker.is_up());
    }

    #[test]
    fn what_was_in_flight_together_fails_once() {
        let (mut breaker, start) = breaker();
        for _ in 0..5 {
            breaker.failed(start, start + SECOND, None, false, 1.0);
        }
        assert!(breaker.is_up());
        assert_eq!(breaker.wakes_at(), Some(start + 2 * SECOND));
    }

    #[test]
    fn a_target_that_is_down_is_probed_before_a_message_goes() {
        let (mut breaker, mut now) = breaker();
        for _ in 0..3 {
            breaker.failed(now, now, None, false, 0.0);
            now += 10 * SECOND;
        }
        assert!(!breaker.is_up());
        assert_eq!(breaker.admits(now), Admits::Probe);
        assert_eq!(breaker.admits(now), Admits::Nothing);
        breaker.probed();
        assert_eq!(breaker.admits(now), Admits::Batch(1));
        assert!(!breaker.is_up(), "up only when a message passed");
        breaker.sent();
        assert_eq!(breaker.succeeded(now), Some(30 * SECOND), "since the first");
        assert!(breaker.is_up());
        assert_eq!(breaker.succeeded(now), None, "told once");
    }

    #[test]
    fn refused_credentials_are_down_at_once() {
        let (mut breaker, now) = breaker();
        breaker.failed(now, now, None, true, 0.0);
        assert!(!breaker.is_up());
        assert_eq!(breaker.admits(now + 10 * SECOND), Admits::Probe);
    }

    #[test]
    fn a_success_from_before_the_pause_does_not_end_it() {
        let (mut breaker, now) = breaker();
        breaker.failed(now, now, Some(100 * SECOND), false, 0.0);
        breaker.succeeded(now);
        assert_eq!(breaker.admits(now + 99 * SECOND), Admits::Nothing);
        assert_eq!(breaker.admits(now + 100 * SECOND), Admits::Batch(1));
    }
}
