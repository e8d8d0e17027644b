//! The engine: from changes of resources to changes of what the kernel must hold.
//!
//! Data flows one way. A change of an endpoint or network set reaches the [`Index`] (labels and addresses, of every
//! host); one of an endpoint of this host also [`Reach`](reach::Reach), which says which policies select it, and
//! [`Workloads`] or [`HostEndpoints`]. A flush completes the endpoints that may have changed, which says which policies
//! and profiles are in use; links the rules of those that changed or came into use, which says which sets are in use;
//! and then collects what has changed in an order that is safe to apply: sets, policies and profiles, endpoints, and
//! what nothing refers to any more.
//!
//! What cannot be followed is closed, never skipped ([`Change::Unusable`](calico_model::Change::Unusable) and everything below it). What it closes
//! depends on what is stored now, not on what was stored before: a restart must not change a verdict.
//!
//! | unusable | what of it can be read | nothing can be read |
//! |---|---|---|
//! | policy | denies in its place, for what the readable parts of its selectors reach; before all others if its place may be among what cannot be read | denies before all others, for its namespace or everything |
//! | tier | stands in its place, denies at its end | its policies deny, before all others |
//! | profile | denies; its labels hold | denies, and no policy opens anything for endpoints that name it |
//! | network set | no members; a rule that an empty set would open closes its policy | the same, of every selector |
//! | workload endpoint | not programmed, so nothing passes; in no set | the same |
//! | host endpoint | the host's own traffic is closed | reported: nobody knows whose it is |
//! | Felix configuration | each bad word closes | what a setting could open is closed |
//! | pool, node, BGP configuration | holds as far as it goes | as if it were not there |

mod absorb;
mod cluster;
mod codes;
mod doubts;
mod few;
mod hosts;
mod overlay;
mod policies;
mod profiles;
mod reach;
mod settings;
mod stored;
mod tally;
mod tiers;
mod workloads;

use std::{collections::BTreeMap, net::IpAddr};

use calico_model::{KindName, ResourceKey, WorkloadEndpoint};
use ipnet::IpNet;

use self::{
    cluster::Cluster,
    codes::Codes,
    doubts::Doubts,
    hosts::HostEndpoints,
    overlay::Overlay,
    policies::Policies,
    profiles::Profiles,
    settings::{Effective, FelixSettings},
    workloads::Workloads,
};
pub use self::{overlay::BlockHolders, tally::Tally};
use crate::{
    Problem,
    compile::Selectors,
    index::Index,
    instruction::{EndpointId, FailsafePort, Instruction, Pool, Settings},
};

/// What this host's kernel must hold, calculated from the resources of the whole cluster.
///
/// Deterministic: the instructions of all flushes together depend only on the changes, not on their order or on
/// where the flushes fall (see `tests/equivalence.rs`).
pub struct Engine {
    node: String,
    index: Index,
    codes: Codes,
    selectors: Selectors,
    policies: Policies,
    profiles: Profiles,
    workloads: Workloads,
    hosts: HostEndpoints,
    doubts: Doubts,
    cluster: Cluster,
    overlay: Overlay,
    felix: FelixSettings,
    effective: Effective,
    /// Settings and lists may not be those that follow from configurations, pools and nodes.
    unsettled: bool,
    /// Endpoints of all hosts that ask for foreign sources: whether they take part depends on the settings.
    spoofers: BTreeMap<ResourceKey, Box<WorkloadEndpoint>>,
    /// Stored objects that cannot be used, and why.
    unusable: BTreeMap<ResourceKey, String>,
    problems_version: u64,
    /// The next flush may change problems.
    problems_follow: bool,
    sent: Sent,
}

/// What the dataplane has of lists and settings.
#[derive(Default)]
struct Sent {
    settings: Option<Settings>,
    /// Empty before the first instruction, which is what a dataplane starts with.
    hosts: Vec<IpAddr>,
    pools: Option<Vec<Pool>>,
}

impl Engine {
    /// An engine that knows nothing yet, for the host of this name.
    pub fn new(node: impl Into<String>) -> Self {
        let (node, cluster, felix) = (node.into(), Cluster::default(), FelixSettings::default());
        let effective = felix.effective(&node, &cluster);
        Self {
            node,
            index: Index::default(),
            codes: Codes::default(),
            selectors: Selectors::default(),
            policies: Policies::default(),
            profiles: Profiles::default(),
            workloads: Workloads::default(),
            hosts: HostEndpoints::default(),
            doubts: Doubts::default(),
            cluster,
            overlay: Overlay::default(),
            felix,
            effective,
            unsettled: true,
            spoofers: BTreeMap::new(),
            unusable: BTreeMap::new(),
            problems_version: 0,
            problems_follow: false,
            sent: Sent::default(),
        }
    }

    /// What has changed since the last flush, to be applied in this order; the first one carries the pools and the
    /// settings even if there are none. Empty if nothing has changed.
    pub fn flush(&mut self) -> Vec<Instruction> {
        self.problems_version += u64::from(std::mem::take(&mut self.problems_follow));
        let mut out = if self.settle() { self.flush_lists() } else { Vec::new() };
        for key in self.policies.reach.take_changed() {
            match key.kind {
                KindName::HostEndpoint => self.hosts.touch(key.name),
                _ => self.workloads.touch(EndpointId::of(&key)),
            }
        }
        let mut endpoints = self.workloads.flush(&mut self.policies, &mut self.profiles, &self.effective);
        endpoints.extend(self.hosts.flush(&mut self.policies, &mut self.profiles));
        let policies = self.policies.flush(&mut self.codes, &mut self.index, &self.doubts);
        let profiles = self.profiles.flush(&mut self.codes, &mut self.index, &self.doubts);
        let sets = self.index.flush();
        out.extend(sets.updates);
        out.extend(policies.updates);
        out.extend(profiles.updates);
        out.extend(endpoints);
        out.extend(profiles.removals);
        out.extend(policies.removals);
        out.extend(sets.removals);
        out.extend(self.overlay.flush(&self.node, &self.effective.tunnels));
        out
    }

    /// Takes in who holds a block of addresses; `None` for a block that is not there (any more).
    pub fn absorb_block(&mut self, block: IpNet, holders: Option<BlockHolders>) {
        self.doubt_problems();
        self.overlay.set_block(block, holders);
    }

    /// Forgets all blocks, and with the next flush the routes to them.
    pub fn forget_blocks(&mut self) {
        self.doubt_problems();
        self.overlay.forget_blocks();
    }

    /// True if blocks matter: a pool uses VXLAN, so the routes to its blocks are this host's to make.
    pub fn wants_blocks(&self) -> bool {
        self.overlay.wants_blocks()
    }

    /// The objects that are governed closed on this host, and those that cannot be used, sorted, each once; of policies
    /// and profiles, those in use as of the last flush.
    pub fn problems(&self) -> Vec<Problem> {
        let unusable = self.unusable.iter();
        let mut problems: Vec<Problem> =
            unusable.map(|(object, reason)| Problem { object: object.clone(), reason: reason.clone() }).collect();
        let found = self
            .workloads
            .problems(&self.effective.settings)
            .chain(self.hosts.problems())
            .chain(self.policies.problems());
        let found = found.chain(self.profiles.problems()).chain(self.effective.problems.iter().cloned());
        let found = found.chain(self.overlay.problems());
        problems.extend(found.filter(|problem| !self.unusable.contains_key(&problem.object)));
        problems.sort();
        problems
    }

    /// Looks at all rules in use again, as one may mean a network set that has become usable or unusable.
    fn doubt(&mut self) {
        self.codes.doubt(&mut self.index, &self.doubts);
        self.policies.doubt();
        self.profiles.doubt();
    }

    /// Brings the settings up to date, and what depends on them. True if anything may have changed.
    fn settle(&mut self) -> bool {
        if !std::mem::take(&mut self.unsettled) {
            return false;
        }
        let before = std::mem::replace(&mut self.effective, self.felix.effective(&self.node, &self.cluster));
        if before.floating != self.effective.floating || reserved(&before) != reserved(&self.effective) {
            self.workloads.touch_all();
        }
        if before.spoofing != self.effective.spoofing {
            for (key, endpoint) in std::mem::take(&mut self.spoofers) {
                self.set_workload(&key, &endpoint, None);
            }
        }
        true
    }

    fn flush_lists(&mut self) -> Vec<Instruction> {
        let mut out = Vec::new();
        if self.sent.settings.as_ref() != Some(&self.effective.settings) {
            self.sent.settings = Some(self.effective.settings.clone());
            out.push(Instruction::Settings(self.effective.settings.clone()));
        }
        let addresses = self.cluster.host_addresses();
        if self.sent.hosts != addresses {
            self.sent.hosts = addresses.clone();
            out.push(Instruction::Hosts { addresses });
        }
        let pools = self.cluster.distinct_pools();
        if self.sent.pools.as_ref() != Some(&pools) {
            self.sent.pools = Some(pools.clone());
            out.push(Instruction::Pools { pools });
        }
        out
    }
}

/// The settings that say which ports of the host no endpoint may have.
fn reserved(effective: &Effective) -> (&[FailsafePort], Option<u16>) {
    (&effective.settings.failsafe_inbound, effective.settings.vxlan_port)
}

#[cfg(test)]
mod tests;
