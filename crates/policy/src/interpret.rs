//! What a dataplane that followed the instructions would do: the reference for tests of both sides.
//!
//! [`Programmed`] holds what the instructions so far amount to. Taking one in, it checks what instructions promise:
//! nothing is referred to before it exists or removed while it is referred to, a delta fits the set that it changes,
//! and no two endpoints have one interface.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    INTERFACE_PREFIX,
    instruction::{
        Endpoint, EndpointId, EntityMatch, HostAction, IcmpMatch, Instruction, Members, Pool, ProfileId, Rule,
        RuleAction, RuleSet, SetId, Settings,
    },
    packet::{Hop, Packet, Verdict},
};

/// The sum of instructions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programmed {
    /// Members of each set.
    pub sets: BTreeMap<SetId, BTreeSet<IpNet>>,
    /// Rules of each profile.
    pub profiles: BTreeMap<ProfileId, Arc<RuleSet>>,
    /// The local endpoints.
    pub endpoints: BTreeMap<EndpointId, Endpoint>,
    /// The pools.
    pub pools: Vec<Pool>,
    /// The settings.
    pub settings: Settings,
}

/// An instruction that does not fit what came before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{instruction:?}: {reason}")]
pub struct Violation {
    /// Which.
    pub instruction: Box<Instruction>,
    /// The promise that it breaks.
    pub reason: String,
}

impl Programmed {
    /// Takes an instruction in.
    ///
    /// # Errors
    /// [`Violation`] if it breaks a promise; nothing is changed then.
    pub fn apply(&mut self, instruction: &Instruction) -> Result<(), Violation> {
        match self.objection(instruction) {
            Some(reason) => Err(Violation { instruction: Box::new(instruction.clone()), reason }),
            None => {
                self.accept(instruction.clone());
                Ok(())
            }
        }
    }

    fn objection(&self, instruction: &Instruction) -> Option<String> {
        match instruction {
            Instruction::SetReplace { .. }
            | Instruction::Pools { .. }
            | Instruction::Settings(_)
            | Instruction::PolicyUpdate { .. }
            | Instruction::PolicyRemove { .. }
            | Instruction::HostEndpointUpdate { .. }
            | Instruction::HostEndpointRemove { .. }
            | Instruction::Hosts { .. } => None,
            Instruction::SetDelta { id, added, removed } => {
                let Some(members) = self.sets.get(id) else { return Some("there is no such set".into()) };
                let (added, removed) = (nets(added), nets(removed));
                let present = added.iter().find(|net| members.contains(net));
                let absent = removed.iter().find(|net| !members.contains(net));
                present
                    .map(|net| format!("{net} is in the set already"))
                    .or_else(|| absent.map(|net| format!("{net} is not in the set")))
                    .or_else(|| (added.is_empty() && removed.is_empty()).then(|| "it changes nothing".into()))
            }
            Instruction::SetRemove { id } => {
                let user = self.profiles.iter().find(|(_, rules)| sets_of(rules).any(|set| set == id));
                user.map(|(profile, _)| format!("profile {} refers to it", profile.0))
                    .or_else(|| (!self.sets.contains_key(id)).then(|| "there is no such set".into()))
            }
            Instruction::ProfileUpdate { rules, .. } => {
                let missing = sets_of(rules).find(|set| !self.sets.contains_key(set));
                missing.map(|set| format!("it refers to the set {}, which is not there", set.0))
            }
            Instruction::ProfileRemove { id } => {
                let user = self.endpoints.iter().find(|(_, endpoint)| endpoint.profiles.contains(id));
                user.map(|(endpoint, _)| format!("endpoint {endpoint} refers to it"))
                    .or_else(|| (!self.profiles.contains_key(id)).then(|| "there is no such profile".into()))
            }
            Instruction::EndpointUpdate { id, endpoint } => {
                let missing = endpoint.profiles.iter().find(|profile| !self.profiles.contains_key(profile));
                let mut others = self.endpoints.iter().filter(|(other, _)| *other != id);
                let holder = others.find(|(_, other)| other.interface == endpoint.interface);
                missing
                    .map(|profile| format!("it refers to the profile {}, which is not there", profile.0))
                    .or_else(|| holder.map(|(holder, _)| format!("its interface belongs to {holder}")))
            }
            Instruction::EndpointRemove { id } => {
                (!self.endpoints.contains_key(id)).then(|| "there is no such endpoint".into())
            }
        }
    }

    fn accept(&mut self, instruction: Instruction) {
        match instruction {
            Instruction::SetReplace { id, members } => {
                self.sets.insert(id, nets(&members).iter().copied().collect());
            }
            Instruction::SetDelta { id, added, removed } => {
                let members = self.sets.entry(id).or_default();
                for net in nets(&removed) {
                    members.remove(net);
                }
                members.extend(nets(&added));
            }
            Instruction::SetRemove { id } => {
                self.sets.remove(&id);
            }
            Instruction::ProfileUpdate { id, rules } => {
                self.profiles.insert(id, rules);
            }
            Instruction::ProfileRemove { id } => {
                self.profiles.remove(&id);
            }
            Instruction::EndpointUpdate { id, endpoint } => {
                self.endpoints.insert(id, endpoint);
            }
            Instruction::EndpointRemove { id } => {
                self.endpoints.remove(&id);
            }
            Instruction::Pools { pools } => self.pools = pools,
            Instruction::Settings(settings) => self.settings = settings,
            Instruction::PolicyUpdate { .. }
            | Instruction::PolicyRemove { .. }
            | Instruction::HostEndpointUpdate { .. }
            | Instruction::HostEndpointRemove { .. }
            | Instruction::Hosts { .. } => {}
        }
    }

    /// What becomes of a packet, the first of its flow.
    pub fn verdict(&self, packet: &Packet) -> Verdict {
        let leaves = self.leaves(packet);
        if leaves == Verdict::Deny {
            return Verdict::Deny;
        }
        self.arrives(packet)
    }

    /// The side of the workload that sent it, if one did.
    fn leaves(&self, packet: &Packet) -> Verdict {
        let Hop::Interface(name) = &packet.from else { return Verdict::Allow };
        if !name.starts_with(INTERFACE_PREFIX) {
            return Verdict::Allow;
        }
        let Some(endpoint) = self.behind(name) else { return Verdict::Deny };
        if !endpoint.addresses.contains(&packet.source) && !packet.has_unroutable_source() {
            return Verdict::Deny;
        }
        if packet.to == Hop::Host && packet.is_neighbour_discovery() {
            return Verdict::Allow;
        }
        if packet.is_overlay() {
            return Verdict::Deny;
        }
        let policed = self.evaluate(endpoint, packet, |rules| &rules.egress);
        let dropped = packet.to == Hop::Host && self.settings.endpoint_to_host == HostAction::Drop;
        if dropped { Verdict::Deny } else { policed }
    }

    /// The side of the workload that it goes to, if it goes to one. A host always reaches its own workloads.
    fn arrives(&self, packet: &Packet) -> Verdict {
        match &packet.to {
            Hop::Interface(name) if name.starts_with(INTERFACE_PREFIX) && packet.from != Hop::Host => self
                .behind(name)
                .map_or(Verdict::Deny, |endpoint| self.evaluate(endpoint, packet, |rules| &rules.ingress)),
            _ => Verdict::Allow,
        }
    }

    fn behind(&self, interface: &str) -> Option<&Endpoint> {
        self.endpoints.values().find(|endpoint| endpoint.interface == interface)
    }

    fn evaluate(&self, endpoint: &Endpoint, packet: &Packet, side: fn(&RuleSet) -> &Vec<Rule>) -> Verdict {
        for profile in endpoint.profiles.iter().filter_map(|profile| self.profiles.get(profile)) {
            for rule in side(profile).iter().filter(|rule| self.matches(rule, packet)) {
                match rule.action {
                    RuleAction::Allow => return Verdict::Allow,
                    RuleAction::Deny => return Verdict::Deny,
                    RuleAction::Pass => break,
                    RuleAction::Log => {}
                }
            }
        }
        Verdict::Deny
    }

    fn matches(&self, rule: &Rule, packet: &Packet) -> bool {
        let protocol = packet.protocol();
        let (source_port, destination_port) = packet.ports().unzip();
        let is_icmp = |wanted: &IcmpMatch| {
            packet.icmp().is_some_and(|(icmp_type, code)| {
                icmp_type == wanted.icmp_type && wanted.code.is_none_or(|wanted| wanted == code)
            })
        };
        rule.ip_version.is_none_or(|version| version == packet.family())
            && rule.protocol.is_none_or(|wanted| wanted == protocol)
            && rule.not_protocol.is_none_or(|unwanted| unwanted != protocol)
            && rule.icmp.as_ref().is_none_or(is_icmp)
            && !rule.not_icmp.as_ref().is_some_and(is_icmp)
            && self.entity_matches(&rule.source, packet.source, source_port)
            && self.entity_matches(&rule.destination, packet.destination, destination_port)
    }

    fn entity_matches(&self, entity: &EntityMatch, address: IpAddr, port: Option<u16>) -> bool {
        let in_net = |net: &IpNet| net.contains(&address);
        let in_set = |id: &SetId| self.sets.get(id).is_some_and(|members| members.iter().any(in_net));
        let in_range = |&(low, high): &(u16, u16)| port.is_some_and(|port| (low..=high).contains(&port));
        (entity.nets.is_empty() || entity.nets.iter().any(in_net))
            && !entity.not_nets.iter().any(in_net)
            && entity.sets.iter().all(in_set)
            && !entity.not_sets.iter().any(in_set)
            && (entity.ports.is_empty() || entity.ports.iter().any(in_range))
            && !entity.not_ports.iter().any(in_range)
    }
}

fn nets(members: &Members) -> &[IpNet] {
    match members {
        Members::Nets(nets) => nets,
        Members::Ports(_) => &[],
    }
}

fn sets_of(rules: &RuleSet) -> impl Iterator<Item = &SetId> {
    let ends = rules.ingress.iter().chain(&rules.egress).flat_map(|rule| [&rule.source, &rule.destination]);
    ends.flat_map(|end| end.sets.iter().chain(&end.not_sets))
}
