//! What an agent of a node says of itself to its supervisor: one JSON object a line, on standard output.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Problems beyond this many are only counted: a report goes out with every change and every heartbeat.
const MOST_PROBLEMS: usize = 100;

/// State of an agent at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentHealth {
    /// It does its work: what is wanted is in force.
    pub ready: bool,
    /// One line: why not ready, or what is in force.
    pub reason: String,
    /// Objects that are left out or governed closed, each with the reason; the first hundred of them.
    #[serde(default)]
    pub problems: Vec<String>,
    /// How many problems there are, also of those not listed.
    #[serde(default)]
    pub problem_count: usize,
    /// Numbers for `/metrics`, by their whole name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gauges: BTreeMap<String, u64>,
}

impl AgentHealth {
    /// Lists problems, as many as a report carries, and counts them all.
    pub fn set_problems(&mut self, problems: impl ExactSizeIterator<Item = String>) {
        self.problem_count = problems.len();
        self.problems = problems.take(MOST_PROBLEMS).collect();
        let more = self.problem_count - self.problems.len();
        self.problems.extend((more > 0).then(|| format!("and {more} more, see the log")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_stays_small_however_many_records_are_bad() {
        let mut health = AgentHealth::default();
        let mut set = |count: usize| {
            health.set_problems((0..count).map(|at| at.to_string()));
            (health.problems.len(), health.problem_count, health.problems.last().cloned())
        };
        assert_eq!(set(MOST_PROBLEMS), (MOST_PROBLEMS, MOST_PROBLEMS, Some("99".to_owned())));
        let many = MOST_PROBLEMS + 7;
        assert_eq!(set(many), (MOST_PROBLEMS + 1, many, Some("and 7 more, see the log".to_owned())));
        assert_eq!(set(0), (0, 0, None));
    }
}
