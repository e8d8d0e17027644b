//! Durations as Go writes them: `1m30s`, `1.5h`, `250ms`.

use std::time::Duration;

const UNITS: [(&str, f64); 7] =
    [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// Reads a duration that is not negative, `None` if it is none: numbers with units, `0` alone without one.
pub fn parse_go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_len);
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        let (_, seconds) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(scaled(number, seconds)?)?;
        rest = next;
    }
    Some(total)
}

/// `number` times `unit`, the whole part exactly.
fn scaled(number: &str, unit: f64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let unit = Duration::try_from_secs_f64(unit).ok()?;
    let whole: u32 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = if fraction.is_empty() { 0.0 } else { format!("0.{fraction}").parse().ok()? };
    unit.checked_mul(whole)?.checked_add(unit.mul_f64(fraction))
}

/// Writes a duration as Go does: `0s`, `250ms`, `1m30s`, `1h0m0s`.
pub fn format_go_duration(duration: Duration) -> String {
    if duration.is_zero() {
        return "0s".to_owned();
    }
    let nanos = duration.as_nanos();
    // Below a second the largest unit that fits, with a fraction.
    for (limit, unit, size) in [(1_000, "ns", 1), (1_000_000, "µs", 1_000), (1_000_000_000, "ms", 1_000_000)] {
        if nanos < limit {
            return format!("{}{unit}", decimal(nanos, size));
        }
    }
    let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
    let seconds = decimal(rest, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `nanos / size` without trailing zeros.
fn decimal(nanos: u128, size: u128) -> String {
    let (whole, rest) = (nanos / size, nanos % size);
    if rest == 0 {
        return whole.to_string();
    }
    let width = size.ilog10() as usize;
    let fraction = format!("{rest:0width$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rewritten_as_go_does() {
        for (typed, stored) in [
            ("90s", "1m30s"),
            ("60s", "1m0s"),
            ("0", "0s"),
            ("0s", "0s"),
            ("3600s", "1h0m0s"),
            ("1.5s", "1.5s"),
            ("1h1m1.001s", "1h1m1.001s"),
            ("250ms", "250ms"),
            ("1500us", "1.5ms"),
            (".5s", "500ms"),
            ("1s1s", "2s"),
        ] {
            assert_eq!(parse_go_duration(typed).map(format_go_duration).as_deref(), Some(stored), "{typed}");
        }
        for bad in ["", "90", "s", "1x", "-1s", "1s2", ".s", "1.2.3s", "1 s"] {
            assert_eq!(parse_go_duration(bad), None, "{bad:?}");
        }
    }
}
