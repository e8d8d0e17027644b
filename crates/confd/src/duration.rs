//! Durations as v3 stores them: Go's notation, `1m30s`.

use std::time::Duration;

/// Reads a duration. Units: `h`, `m`, `s`, `ms`, `us`, `ns`; fractions are allowed, signs are not.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("120s", 120.0),
            ("2m0s", 120.0),
            ("1h0m1s", 3601.0),
            ("1.5s", 1.5),
            ("250ms", 0.25),
            ("0", 0.0),
            ("0s", 0.0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_secs_f64(seconds)), "{text:?}");
        }
        for bad in ["", "s", "5", "-1s", "+1s", "1x", "1s ", "1.2.3s", ".s", "99999999999999999999h", "1s5"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
