//! What the engine says of itself without naming an object: how much there is, and whether problems may be others.

use super::Engine;

/// How much this host's kernel is to hold, as of the last flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Workload endpoints.
    pub endpoints: usize,
    /// Host endpoints.
    pub host_endpoints: usize,
    /// Policies in use.
    pub policies: usize,
    /// Profiles in use.
    pub profiles: usize,
    /// Sets of addresses and of ports that rules in use ask.
    pub sets: usize,
}

impl Engine {
    /// How much is in use.
    #[must_use]
    pub fn tally(&self) -> Tally {
        Tally {
            endpoints: self.workloads.programmed(),
            host_endpoints: self.hosts.programmed(),
            policies: self.policies.in_use(),
            profiles: self.profiles.in_use(),
            sets: self.index.sets_in_use(),
        }
    }

    /// Goes up whenever [`problems`](Self::problems) may have changed, so that an agent need not list them after each of
    /// the many changes that concern other hosts.
    #[must_use]
    pub fn problems_version(&self) -> u64 {
        self.problems_version
    }

    /// Notes that problems may be others now, and after the next flush.
    pub(super) fn doubt_problems(&mut self) {
        self.problems_version += 1;
        self.problems_follow = true;
    }
}
