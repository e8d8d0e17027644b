//! Trying again after a lost race: bounded, backed off with jitter, logged.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use crate::error::AccessError;

/// How often a change is tried.
pub(crate) const MAX_TRIES: u32 = 100;

/// How long to wait before trying again: a random time up to `base` doubled with every try, and no longer than `cap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest wait before the second try.
    pub base: Duration,
    /// The longest wait of all.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(2), cap: Duration::from_millis(64) }
    }
}

impl Backoff {
    /// No waiting, for tests that order the racers themselves.
    pub const NONE: Self = Self { base: Duration::ZERO, cap: Duration::ZERO };

    fn delay(self, tries: u32) -> Duration {
        let ceiling = self.base.saturating_mul(1 << tries.min(16)).min(self.cap).as_micros() as u64;
        // Each `RandomState` has other keys, which is all the randomness needed here.
        Duration::from_micros(RandomState::new().hash_one(tries) % (ceiling + 1))
    }
}

/// Counts the tries of one change.
pub(crate) struct Retry {
    what: String,
    tries: u32,
    backoff: Backoff,
}

impl Retry {
    pub(crate) fn new(backoff: Backoff, what: impl Into<String>) -> Self {
        Self { what: what.into(), tries: 0, backoff }
    }

    /// To be awaited after a lost race and before the next try.
    ///
    /// # Errors
    /// [`AccessError::Busy`] after [`MAX_TRIES`].
    pub(crate) async fn lost(&mut self) -> Result<(), AccessError> {
        self.tries += 1;
        if self.tries >= MAX_TRIES {
            return Err(AccessError::Busy { what: self.what.clone(), tries: self.tries });
        }
        match self.tries {
            10 | 30 | 60 => tracing::warn!(what = %self.what, tries = self.tries, "still losing races, trying again"),
            _ => tracing::debug!(what = %self.what, tries = self.tries, "lost a race, trying again"),
        }
        let delay = self.backoff.delay(self.tries - 1);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        Ok(())
    }
}

/// A compare-and-swap that another writer came before of, be it with a change or a deletion.
pub(crate) fn is_race(error: &calico_store::Error) -> bool {
    error.is_conflict() || error.is_not_found()
}

/// A failed write that may have taken effect all the same.
pub(crate) fn is_ambiguous(error: &calico_store::Error) -> bool {
    error.is_unreachable()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_bounded_and_differ() {
        let backoff = Backoff::default();
        let delays: std::collections::BTreeSet<_> = (0..200).map(|_| backoff.delay(20)).collect();
        assert!(delays.len() > 20);
        assert!(delays.iter().all(|delay| *delay <= backoff.cap));
        assert!((0..200).all(|_| backoff.delay(0) <= backoff.base));
        assert_eq!(Backoff::NONE.delay(5), Duration::ZERO);
    }

    #[tokio::test]
    async fn tries_end() {
        let mut retry = Retry::new(Backoff::NONE, "block x");
        let mut lost = 0;
        let error = loop {
            match retry.lost().await {
                Ok(()) => lost += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(lost, MAX_TRIES - 1);
        assert!(error.to_string().contains("block x"), "{error}");
    }
}
