//! How often a stranger may say a wrong token.
//!
//! Tokens cannot be guessed; this keeps the log short and the processor free when somebody tries all the same. Counted
//! by source: a whole /64 of IPv6 is one. Pure: seconds come from the caller.

use std::{collections::HashMap, net::IpAddr};

/// So many wrong tokens from one source …
const MOST: usize = 10;
/// … in so many seconds.
const WINDOW: i64 = 60;
/// The most sources that are remembered; beyond, the one that was quiet longest is forgotten.
const MOST_SOURCES: usize = 1024;

/// Wrong tokens of late.
#[derive(Debug, Default)]
pub(super) struct Guesses(HashMap<IpAddr, Vec<i64>>);

impl Guesses {
    /// Whether `from` may try now.
    ///
    /// # Errors
    /// The seconds to wait.
    pub(super) fn may_try(&self, from: IpAddr, now: i64) -> Result<(), i64> {
        let recent = self.0.get(&source(from)).map(Vec::as_slice).unwrap_or_default();
        let mut recent = recent.iter().filter(|at| is_recent(**at, now)).copied();
        match recent.next() {
            Some(first) if 1 + recent.count() >= MOST => Err((first + WINDOW - now).clamp(1, WINDOW)),
            _ => Ok(()),
        }
    }

    /// `from` has said a wrong token.
    pub(super) fn wrong(&mut self, from: IpAddr, now: i64) {
        if self.0.len() >= MOST_SOURCES && !self.0.contains_key(&source(from)) {
            let quietest = self.0.iter().min_by_key(|(_, times)| times.last().copied()).map(|(source, _)| *source);
            quietest.map(|quietest| self.0.remove(&quietest));
        }
        let times = self.0.entry(source(from)).or_default();
        times.retain(|at| is_recent(*at, now));
        times.push(now);
        if times.len() > MOST {
            times.remove(0);
        }
    }
}

/// A time in the future is none: the clock was set back.
fn is_recent(at: i64, now: i64) -> bool {
    (0..WINDOW).contains(&(now - at))
}

fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => IpAddr::from((u128::from(address) & !u128::from(u64::MAX)).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ten_in_a_minute_are_enough_and_others_are_not_punished() {
        let (one, other) = ("10.0.0.3".parse().unwrap(), "10.0.0.4".parse().unwrap());
        let mut guesses = Guesses::default();
        for second in 0..10 {
            assert_eq!(guesses.may_try(one, second), Ok(()));
            guesses.wrong(one, second);
        }
        assert_eq!(guesses.may_try(one, 9), Err(51));
        assert_eq!(guesses.may_try("::ffff:10.0.0.3".parse().unwrap(), 59), Err(1));
        assert_eq!(guesses.may_try(other, 9), Ok(()));
        assert_eq!(guesses.may_try(one, 60), Ok(()), "the first is forgotten");
        assert_eq!(guesses.may_try(one, -1000), Ok(()), "a clock that was set back locks nobody out");
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_memory_has_an_end() {
        let mut guesses = Guesses::default();
        for last in 0..10u16 {
            guesses.wrong(IpAddr::from([0xfd00, 0, 0, 1, 0, 0, 0, last]), 0);
        }
        assert!(guesses.may_try("fd00:0:0:1::99".parse().unwrap(), 0).is_err());
        assert!(guesses.may_try("fd00:0:0:2::1".parse().unwrap(), 0).is_ok());
        for network in 0..5000u16 {
            guesses.wrong(IpAddr::from([0xfd01, 0, 0, network, 0, 0, 0, 1]), 1);
        }
        assert_eq!(guesses.0.len(), MOST_SOURCES);
    }
}
