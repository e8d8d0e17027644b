//! How much mending may cost.
//!
//! A disturbance is mended at once: a flush must not leave a host open. But a program that changes our rules whenever
//! we restore them would make both run without end. So mending lives on credit, which grows with half of the time: a
//! long burst is mended without a pause, and what never ends takes half of the time. Pure, the caller brings the time.

use std::time::Duration;

use tokio::time::Instant;

/// Credit that is saved up in quiet times: how long mending may go on without a pause.
const BURST: f64 = 5.0;
/// How fast credit grows, seconds per second: the share of the time that mending may take.
const SHARE: f64 = 0.5;
/// The longest pause, also after a write that took long.
const LONGEST: f64 = 1.0;

/// What mending may still cost.
#[derive(Debug)]
pub(crate) struct Effort {
    /// Seconds; below zero after a write that took longer than there was credit.
    credit: f64,
    /// When it was looked at last.
    at: Instant,
}

impl Effort {
    /// Nothing spent yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { credit: BURST, at: now }
    }

    /// When a disturbance that came at `now` may be mended; `None` is at once.
    pub(crate) fn wait_until(&mut self, now: Instant) -> Option<Instant> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.credit = (self.credit + passed * SHARE).min(BURST);
        self.at = now;
        (self.credit < 0.0).then(|| now + Duration::from_secs_f64((-self.credit / SHARE).min(LONGEST)))
    }

    /// Mending took from `started` to `ended`.
    pub(crate) fn add(&mut self, started: Instant, ended: Instant) {
        self.credit -= ended.saturating_duration_since(started).as_secs_f64();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mends one disturbance after the other, each taking `cost`, for `time`; returns how often and the longest pause.
    fn mend(effort: &mut Effort, start: Instant, cost: Duration, time: Duration) -> (u32, Duration) {
        let (mut now, mut times, mut longest) = (start, 0, Duration::ZERO);
        while now < start + time {
            if let Some(at) = effort.wait_until(now) {
                longest = longest.max(at - now);
                now = at;
            }
            effort.add(now, now + cost);
            now += cost;
            times += 1;
        }
        (times, longest)
    }

    #[test]
    fn a_burst_is_mended_at_once_and_what_never_ends_takes_half_of_the_time() {
        let start = Instant::now();
        let mut effort = Effort::new(start);
        let cost = Duration::from_millis(50);
        let (times, longest) = mend(&mut effort, start, cost, Duration::from_secs(9));
        assert!(times == 180 && longest.is_zero(), "{times} times, {longest:?}");
        let later = start + Duration::from_secs(60);
        assert_eq!(effort.wait_until(later), None, "saved up again");
        let (times, longest) = mend(&mut effort, later, cost, Duration::from_secs(1000));
        assert!((10_000..10_200).contains(&times), "half of 1000 s is 10 000 times 50 ms: {times}");
        assert!(longest <= Duration::from_millis(150), "{longest:?}");
    }

    #[test]
    fn a_write_that_took_long_does_not_shut_out_the_next() {
        let start = Instant::now();
        let mut effort = Effort::new(start);
        let ended = start + Duration::from_secs(60);
        effort.add(start, ended);
        let at = effort.wait_until(ended).expect("a pause");
        assert!(at - ended <= Duration::from_secs(1), "{:?}", at - ended);
    }
}
