//! What instructions promise each other.

use std::collections::BTreeSet;

use super::{Programmed, SetMembers};
use crate::instruction::{
    Endpoint, HostEndpoint, Instruction, Members, PolicyId, ProfileId, RuleSet, SetId, TierPolicies,
};

impl Programmed {
    /// The promise that an instruction breaks, if it breaks one.
    pub(super) fn objection(&self, instruction: &Instruction) -> Option<String> {
        match instruction {
            Instruction::SetReplace { id, members } => self.replaced_badly(id, members),
            Instruction::SetDelta { id, added, removed } => self.changed_badly(id, added, removed),
            Instruction::SetRemove { id } => {
                let policies = self.policies.iter().map(|(id, rules)| (format!("policy {id}"), rules));
                let profiles = self.profiles.iter().map(|(id, rules)| (format!("profile {}", id.0), rules));
                let mut users = policies.chain(profiles).filter(|(_, rules)| sets_of(rules).any(|(set, _)| set == id));
                let user = users.next().map(|(user, _)| format!("{user} refers to it"));
                user.or_else(|| missing(self.sets.contains_key(id), "set"))
            }
            Instruction::ProfileUpdate { rules, .. } | Instruction::PolicyUpdate { rules, .. } => {
                self.rules_fault(rules)
            }
            Instruction::ProfileRemove { id } => {
                let user = self.referring(|profiles, _| profiles.contains(id));
                user.or_else(|| missing(self.profiles.contains_key(id), "profile"))
            }
            Instruction::PolicyRemove { id } => {
                let user =
                    self.referring(|_, tiers| tiers.iter().any(|tier| policies_of(tier).any(|policy| policy == id)));
                user.or_else(|| missing(self.policies.contains_key(id), "policy"))
            }
            Instruction::EndpointUpdate { id, endpoint } => {
                let mut others = self.endpoints.iter().filter(|(other, _)| *other != id);
                let holder = others.find(|(_, other)| other.interface == endpoint.interface);
                let lists = [&*endpoint.tiers];
                self.endpoint_fault(&endpoint.profiles, &lists)
                    .or_else(|| holder.map(|(holder, _)| format!("its interface belongs to {holder}")))
            }
            Instruction::EndpointRemove { id } => missing(self.endpoints.contains_key(id), "endpoint"),
            Instruction::HostEndpointUpdate { endpoint, .. } => {
                self.endpoint_fault(&endpoint.profiles, &lists_of(endpoint))
            }
            Instruction::HostEndpointRemove { id } => missing(self.host_endpoints.contains_key(id), "host endpoint"),
            Instruction::Hosts { addresses } => {
                (!addresses.is_sorted_by(|a, b| a < b)).then(|| "they are not sorted".to_owned())
            }
            Instruction::VtepRemove { address } => missing(self.vteps.contains_key(address), "tunnel end point"),
            Instruction::RouteRemove { destination } => missing(self.routes.contains_key(destination), "route"),
            Instruction::Pools { .. }
            | Instruction::Settings(_)
            | Instruction::Tunnels(_)
            | Instruction::VtepUpdate { .. }
            | Instruction::RouteUpdate { .. } => None,
        }
    }

    fn replaced_badly(&self, id: &SetId, members: &Members) -> Option<String> {
        let changes = self.sets.get(id).is_some_and(|present| !present.is_sort_of(members));
        let sorted = match members {
            Members::Nets(nets) => nets.is_sorted_by(|a, b| a < b),
            Members::Ports(ports) => ports.is_sorted_by(|a, b| a < b),
        };
        if changes {
            return Some("a set does not change its sort".to_owned());
        }
        (!sorted).then(|| "its members are not sorted, or there are repeats".to_owned())
    }

    fn changed_badly(&self, id: &SetId, added: &Members, removed: &Members) -> Option<String> {
        let Some(members) = self.sets.get(id) else { return Some("there is no such set".into()) };
        if added.is_empty() && removed.is_empty() {
            return Some("it changes nothing".into());
        }
        match (members, added, removed) {
            (SetMembers::Nets(members), Members::Nets(added), Members::Nets(removed)) => {
                delta_fault(members, added, removed)
            }
            (SetMembers::Ports(members), Members::Ports(added), Members::Ports(removed)) => {
                delta_fault(members, added, removed)
            }
            _ => Some("the members are not of the set's sort".into()),
        }
    }

    fn rules_fault(&self, rules: &RuleSet) -> Option<String> {
        sets_of(rules).find_map(|(set, ports)| match self.sets.get(set) {
            None => Some(format!("it refers to the set {}, which is not there", set.0)),
            Some(members) if ports != matches!(members, SetMembers::Ports(_)) => {
                Some(format!("it refers to the set {}, which is of the other sort", set.0))
            }
            Some(_) => None,
        })
    }

    fn endpoint_fault(&self, profiles: &[ProfileId], lists: &[&[TierPolicies]]) -> Option<String> {
        let profile = profiles.iter().find(|profile| !self.profiles.contains_key(profile));
        let mut policies = lists.iter().flat_map(|list| list.iter()).flat_map(policies_of);
        let policy = policies.find(|policy| !self.policies.contains_key(policy));
        let mut tiers = lists.iter().flat_map(|list| list.iter());
        let idle = tiers.find(|tier| tier.ingress.is_empty() && tier.egress.is_empty());
        profile
            .map(|profile| format!("it refers to the profile {}, which is not there", profile.0))
            .or_else(|| policy.map(|policy| format!("it refers to the policy {policy}, which is not there")))
            .or_else(|| idle.map(|tier| format!("its tier {} has no policy", tier.tier)))
    }

    /// An endpoint of which something is true.
    fn referring(&self, refers: impl Fn(&[ProfileId], &[TierPolicies]) -> bool) -> Option<String> {
        let workload = |endpoint: &Endpoint| refers(&endpoint.profiles, &endpoint.tiers);
        let host = |endpoint: &HostEndpoint| lists_of(endpoint).iter().any(|list| refers(&endpoint.profiles, list));
        let workloads = self.endpoints.iter().filter(|(_, endpoint)| workload(endpoint));
        let hosts = self.host_endpoints.iter().filter(|(_, endpoint)| host(endpoint));
        let mut names = workloads
            .map(|(id, _)| format!("endpoint {id}"))
            .chain(hosts.map(|(id, _)| format!("host endpoint {}", id.0)));
        names.next().map(|name| format!("{name} refers to it"))
    }
}

impl SetMembers {
    fn is_sort_of(&self, members: &Members) -> bool {
        matches!((self, members), (Self::Nets(_), Members::Nets(_)) | (Self::Ports(_), Members::Ports(_)))
    }
}

fn missing(is_there: bool, what: &str) -> Option<String> {
    (!is_there).then(|| format!("there is no such {what}"))
}

fn delta_fault<T: Ord + std::fmt::Debug>(members: &BTreeSet<T>, added: &[T], removed: &[T]) -> Option<String> {
    let present = added.iter().find(|member| members.contains(member));
    let absent = removed.iter().find(|member| !members.contains(member));
    present
        .map(|member| format!("{member:?} is in the set already"))
        .or_else(|| absent.map(|member| format!("{member:?} is not in the set")))
}

/// The sets that rules refer to; true for those of ports.
fn sets_of(rules: &RuleSet) -> impl Iterator<Item = (&SetId, bool)> {
    let ends = rules.ingress.iter().chain(&rules.egress).flat_map(|rule| [&rule.source, &rule.destination]);
    ends.flat_map(|end| {
        let nets = end.sets.iter().chain(&end.not_sets).map(|set| (set, false));
        nets.chain(end.port_sets.iter().chain(&end.not_port_sets).map(|set| (set, true)))
    })
}

fn policies_of(tier: &TierPolicies) -> impl Iterator<Item = &PolicyId> {
    tier.ingress.iter().chain(&tier.egress)
}

pub(super) fn lists_of(endpoint: &HostEndpoint) -> [&[TierPolicies]; 4] {
    [&endpoint.normal, &endpoint.forward, &endpoint.untracked, &endpoint.pre_dnat]
}
