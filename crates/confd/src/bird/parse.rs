//! Small readers of BIRD's words.

use std::time::{Duration, SystemTime};

/// A time as our configuration makes BIRD print it: seconds since 1970 with a fraction. `None` for the formats of
/// other configurations, which lack the date or the time zone.
pub(super) fn time(text: &str) -> Option<SystemTime> {
    let (seconds, fraction) = text.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let nanos = fraction.parse::<u32>().ok()? * 10_u32.pow(9 - u32::try_from(fraction.len()).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds.parse().ok()?, nanos))
}

/// The text after `key` and the blanks that follow it.
pub(super) fn after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.trim_start().strip_prefix(key).map(str::trim)
}

/// The next word of `text`, and the rest from the word after it on.
pub(super) fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    if text.is_empty() {
        return None;
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    Some((&text[..end], text[end..].trim_start()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn times() {
        let at = |text| time(text).map(|at| at.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        assert_eq!(at("1795461205.066"), Some(Duration::from_millis(1_795_461_205_066)));
        assert_eq!(at("1.000001"), Some(Duration::from_micros(1_000_001)));
        for other in ["17:54:00.123", "2026-01-01", "1795461205", "", ".", "1.", "-1.5", "+1.5", "1.0000000000"] {
            assert_eq!(at(other), None, "{other:?}");
        }
    }

    #[test]
    fn words() {
        assert_eq!(word("  up   since  x "), Some(("up", "since  x ")));
        assert_eq!(word("  "), None);
        assert_eq!(after("    Neighbor AS:      64512", "Neighbor AS:"), Some("64512"));
    }
}
