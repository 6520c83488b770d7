//! How long to wait before the next attempt: exponential back-off with full jitter, pure.

use std::time::Duration;

/// Bounds of the delays between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The longest first delay; each further one may be twice as long.
    pub base: Duration,
    /// No delay of ours is longer. A target's own `Retry-After` may be, up to one hour.
    pub cap: Duration,
}

/// No `Retry-After` is believed beyond this: a target whose clock is wrong must not stop forwarding for days.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

impl Policy {
    /// The delay after the `failures`th failure in a row (from 1). `random` is uniform in `[0, 1)`: attempts that failed
    /// together do not come back together. Never less than a quarter of `base`, nor than what the target asked for.
    pub fn delay(&self, failures: u32, retry_after: Option<Duration>, random: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(32);
        let ceiling = self
            .base
            .saturating_mul(1 << doublings.min(31))
            .min(self.cap);
        let floor = (self.base / 4).min(ceiling);
        let own = floor + (ceiling - floor).mul_f64(random.clamp(0.0, 1.0));
        own.max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        base: Duration::from_secs(4),
        cap: Duration::from_secs(60),
    };

    #[test]
    fn delays_double_up_to_the_cap_and_spread_over_the_whole_range() {
        let longest: Vec<_> = (1..=7)
            .map(|n| POLICY.delay(n, None, 1.0).as_secs())
            .collect();
        assert_eq!(longest, [4, 8, 16, 32, 60, 60, 60]);
        for failures in 1..100 {
            assert_eq!(POLICY.delay(failures, None, 0.0), Duration::from_secs(1));
        }
        assert_eq!(POLICY.delay(u32::MAX, None, 0.5).as_secs_f64(), 30.5);
    }

    #[test]
    fn the_target_may_ask_for_longer_but_not_for_ever() {
        let asked = |secs| {
            POLICY
                .delay(1, Some(Duration::from_secs(secs)), 0.0)
                .as_secs()
        };
        assert_eq!(asked(0), 1);
        assert_eq!(asked(120), 120);
        assert_eq!(asked(u64::MAX), 3600);
    }

    #[test]
    fn a_cap_below_the_base_holds() {
        let policy = Policy {
            base: Duration::from_secs(10),
            cap: Duration::from_secs(1),
        };
        assert_eq!(policy.delay(3, None, 0.9), Duration::from_secs(1));
    }
}
