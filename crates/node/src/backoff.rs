//! How long to wait before a process that died is started again.

use std::time::{Duration, Instant};

/// Wait before the first restart.
const MIN: Duration = Duration::from_millis(100);
/// Longest wait.
const MAX: Duration = Duration::from_secs(10);
/// A process that lived this long was healthy: the next restart waits [`MIN`] again.
const HEALTHY: Duration = Duration::from_secs(30);

/// Doubling waits; pure, the caller brings the time.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: MIN }
    }

    /// The wait after a process that was started at `started` ended at `ended`.
    pub(crate) fn after_exit(&mut self, started: Instant, ended: Instant) -> Duration {
        if ended.duration_since(started) >= HEALTHY {
            self.next = MIN;
        }
        let wait = self.next;
        self.next = (wait * 2).min(MAX);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum_and_start_anew_after_a_healthy_run() {
        let start = Instant::now();
        let mut backoff = Backoff::new();
        let waits: Vec<u64> = (0..9).map(|_| backoff.after_exit(start, start).as_millis() as u64).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(backoff.after_exit(start, start + HEALTHY), MIN);
        assert_eq!(backoff.after_exit(start, start), MIN * 2);
    }
}
