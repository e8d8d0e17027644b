//! Trying again after a lost race, a bounded number of times and less and less eagerly.

use std::time::Duration;

use calico_model::Revision;
use calico_store::Error;

use crate::{context::Context, failure::Failure};

/// How often a lost race for one record is tried again.
const MOST: u32 = 20;
/// The first wait; each later one is twice as long, up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(200);

/// Lost races for one record.
pub(crate) struct Races {
    what: String,
    lost: u32,
}

impl Races {
    /// None lost yet; `what` names the record in the failure.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), lost: 0 }
    }

    /// Waits a little before the next try.
    ///
    /// # Errors
    /// It was the last.
    pub(crate) async fn lost(&mut self) -> Result<(), Failure> {
        self.lost += 1;
        if self.lost > MOST {
            return Err(Failure::new(format!("{} is being changed by somebody else all the time.", self.what))
                .hint("try again when the other has ended"));
        }
        let wait = FIRST.saturating_mul(1 << self.lost.min(10)).min(LONGEST);
        tracing::debug!(record = %self.what, lost = self.lost, ?wait, "lost a race, trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// Deletes a key as it stands by now; one that is gone is no fault. `what` names the record in the failure, `seen` is
/// the version that was read last.
///
/// # Errors
/// The datastore's; too many lost races.
pub(crate) async fn delete(ctx: &Context, what: &str, key: &str, mut seen: Option<Revision>) -> Result<(), Failure> {
    let kv = ctx.store.kv();
    let mut races = Races::new(what);
    loop {
        let revision = match seen.take() {
            Some(revision) => revision,
            None => match kv.get(key).await? {
                Some(entry) => entry.revision,
                None => return Ok(()),
            },
        };
        match kv.delete(key, revision).await {
            Ok(()) | Err(Error::NotFound { .. }) => return Ok(()),
            Err(Error::Conflict { .. }) => races.lost().await?,
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_lost_race_is_a_failure() {
        let mut races = Races::new("profile web");
        for _ in 0..MOST {
            races.lost().await.expect("not the last");
        }
        let failure = races.lost().await.expect_err("the last");
        assert!(failure.message().contains("profile web is being changed"), "{failure}");
    }
}
