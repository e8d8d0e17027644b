//! How much mending may cost.
//!
//! A disturbance is mended at once: a flush must not leave a host open. But a program that changes our rules whenever
//! we restore them would make both run without end, so mending may take half of the time at most: when it has used up
//! its share of a second, the next disturbance waits for the next second. Pure, the caller brings the time.

use std::time::Duration;

use tokio::time::Instant;

/// Over which time the share is measured.
const WINDOW: Duration = Duration::from_secs(1);
/// How much of a window mending may take.
const SHARE: Duration = Duration::from_millis(500);

/// Time spent on mending in the present window.
#[derive(Debug)]
pub(crate) struct Effort {
    window: Instant,
    spent: Duration,
}

impl Effort {
    /// None yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { window: now, spent: Duration::ZERO }
    }

    /// When a disturbance that came at `now` may be mended; `None` is at once.
    pub(crate) fn wait_until(&mut self, now: Instant) -> Option<Instant> {
        if now >= self.window + WINDOW {
            *self = Self::new(now);
        }
        (self.spent >= SHARE).then(|| self.window + WINDOW)
    }

    /// Mending took from `started` to `ended`.
    pub(crate) fn add(&mut self, started: Instant, ended: Instant) {
        self.spent += ended - started;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_each_second_and_no_more() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut effort = Effort::new(start);
        assert_eq!(effort.wait_until(at(0)), None);
        effort.add(at(0), at(300));
        assert_eq!(effort.wait_until(at(300)), None, "there is time left");
        effort.add(at(300), at(600));
        assert_eq!(effort.wait_until(at(600)), Some(at(1000)), "the share is used up");
        assert_eq!(effort.wait_until(at(1000)), None, "the next second");
        effort.add(at(1000), at(3000));
        assert_eq!(effort.wait_until(at(3000)), None, "one that takes long does not shut out the next");
    }
}
