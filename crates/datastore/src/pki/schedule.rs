//! When a certificate is replaced, and how often that is tried.

use std::time::Duration;

/// The moment, in seconds since 1970, from which a certificate is to be replaced: when two thirds of its life are
/// over. So a month is left in which the datastore may be down.
pub fn renew_at(not_before: i64, not_after: i64) -> i64 {
    let life = i128::from(not_after) - i128::from(not_before);
    let at = i128::from(not_before) + life.max(0) * 2 / 3;
    i64::try_from(at).expect("it lies between two values of this type")
}

/// Whether a certificate is to be replaced now. One from the future is too: the clock was wrong when it was made.
pub fn is_due(not_before: i64, not_after: i64, now: i64) -> bool {
    now >= renew_at(not_before, not_after) || now < not_before
}

/// The pause after each failure: a minute at first, then twice as long each time, an hour at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    failures: u32,
}

impl Patience {
    const FIRST: Duration = Duration::from_secs(60);
    const LONGEST: Duration = Duration::from_secs(3600);

    /// It failed: how long to wait.
    pub fn after_failure(&mut self) -> Duration {
        let pause = Self::FIRST.saturating_mul(1 << self.failures.min(10)).min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// It worked, or is not due.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}
