//! Waiting for conditions instead of sleeping.

use std::time::{Duration, Instant};

use crate::error::{LabError, Result};

/// Asks `condition` again and again, first every few milliseconds, then at least five times a second, until it holds.
///
/// # Errors
/// It did not hold within `limit`; `what` names it in the message.
pub fn wait_until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    wait_for(limit, what, || if condition() { Ok(()) } else { Err(String::new()) })
}

/// As [`wait_until`], for conditions that give a value when they hold and a reason when they do not.
///
/// # Errors
/// It did not hold within `limit`; the message has the last reason.
pub fn wait_for<T>(limit: Duration, what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(reason) if start.elapsed() >= limit => {
                let detail = if reason.is_empty() { reason } else { format!("\n{reason}") };
                return Err(LabError::TimedOut { what: what.to_owned(), after: limit, detail });
            }
            Err(_) => {}
        }
        std::thread::sleep(pause.min(limit.saturating_sub(start.elapsed())));
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn says_what_was_last_seen() {
        let mut asked = 0;
        let error = wait_for::<()>(Duration::from_millis(30), "rain", || {
            asked += 1;
            Err("sunshine".to_owned())
        });
        assert_eq!(error.unwrap_err().to_string(), "rain did not happen within 30ms\nsunshine");
        assert!(asked > 1);
        let mut left = 3;
        wait_until(Duration::from_secs(5), "three times", || {
            left -= 1;
            left == 0
        })
        .unwrap();
        assert_eq!(left, 0);
    }
}
