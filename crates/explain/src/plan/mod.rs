//! What a change of resources would do: to the rules of every host, and to the traffic between existing endpoints.
//!
//! Both sides are calculated as felix would: each host's engine over the whole cluster, before and after. Verdicts are
//! compared for pairs of *classes*: endpoints that no rule before or after can tell apart ([`classes`]), and for every
//! range of ports that a rule distinguishes ([`probes`]), so the result is complete and a thousand alike endpoints
//! cost as much as one.
//!
//! What the datastore does not say is assumed: traffic between hosts goes by the interface that has the host's
//! address, which a host endpoint may name.

mod classes;
mod hosts;
pub(crate) mod pairs;
pub(crate) mod probes;

use std::{cell::LazyCell, collections::BTreeMap};

use calico_model::Change;
use calico_policy::{interpret::Programmed, packet::Verdict};
use serde::Serialize;

use crate::Cluster;

/// What would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Hosts whose rules change, by name.
    pub hosts: Vec<HostPlan>,
    /// Traffic whose verdict changes.
    pub verdicts: Vec<VerdictChange>,
}

/// What would change on one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HostPlan {
    /// The host.
    pub node: String,
    /// Each object, in the order of evaluation as far as there is one.
    pub changes: Vec<ObjectChange>,
    /// Objects that would be governed closed and are not now, with the reason.
    pub problems: Vec<String>,
}

/// One object that is programmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectChange {
    /// Which, in words.
    pub object: String,
    /// What becomes of it.
    pub change: What,
    /// In detail.
    pub lines: Vec<Line>,
}

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It comes into use.
    Added,
    /// It goes out of use.
    Removed,
    /// It stays and is another.
    Changed,
}

/// A detail that comes or goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Line {
    /// It comes; else it goes.
    pub added: bool,
    /// What.
    pub text: String,
}

/// Traffic whose verdict changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerdictChange {
    /// The endpoints that send, as namespace and name.
    pub from: Vec<String>,
    /// The endpoints that receive. Traffic of an endpoint to itself is not meant.
    pub to: Vec<String>,
    /// 4, 6 or both.
    pub families: Vec<u8>,
    /// Protocol and ports.
    pub traffic: String,
    /// As it is.
    #[serde(serialize_with = "word")]
    pub before: Verdict,
    /// As it would be.
    #[serde(serialize_with = "word")]
    pub after: Verdict,
}

/// The verdict as one word, for programs.
pub(crate) fn word<S: serde::Serializer>(verdict: &Verdict, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(verdict_word(*verdict))
}

/// The verdict as one word.
pub fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allowed",
        Verdict::Drop => "denied",
        Verdict::Reject => "rejected",
    }
}

/// A host before and after.
struct Host {
    before: Programmed,
    after: Programmed,
}

/// Compares the cluster with what it would be after some changes.
pub fn plan(now: &Cluster, changes: &[Change]) -> Plan {
    let mut then = now.clone();
    changes.iter().for_each(|change| then.absorb(change.clone()));
    let names = LazyCell::new(|| hosts::set_names([now, &then]));
    let mut hosts = BTreeMap::new();
    let mut plans = Vec::new();
    for node in now.nodes().union(&then.nodes()) {
        let (mut before, known) = now.programmed(node);
        let (mut after, problems) = then.programmed(node);
        let problems = problems.iter().filter(|problem| !known.contains(problem)).map(ToString::to_string).collect();
        let changes = hosts::compare(now, &then, &before, &after, &names);
        let plan = HostPlan { node: node.clone(), changes, problems };
        if !plan.changes.is_empty() || !plan.problems.is_empty() {
            plans.push(plan);
        }
        for (cluster, programmed) in [(now, &mut before), (&then, &mut after)] {
            programmed.interfaces = pairs::uplink(cluster, node);
        }
        hosts.insert(node.clone(), Host { before, after });
    }
    Plan { hosts: plans, verdicts: pairs::compare(now, &hosts) }
}

#[cfg(test)]
mod tests;
