//! What the oracle's way through the host asks, answered from instructions.

use std::{borrow::Cow, net::IpAddr};

use calico_model::{Action, Direction};

use super::Programmed;
use crate::{
    instruction::{
        EndpointId, HostEndpointId, HostInterfaces, PolicyId, Pool, ProfileId, PublishedAt, Rule, RuleAction, RuleSet,
        Settings, TierPolicies,
    },
    oracle::{Asked, Led, List, Outcome, Owner, Place, Reason, Stage, Step, Subject, View, is_workload, step},
    packet::Packet,
};

/// What a policy or profile says.
enum Answer {
    Decided(usize, Action),
    Passed(usize),
    NoRule,
}

impl View for Programmed {
    fn settings(&self) -> Cow<'_, Settings> {
        Cow::Borrowed(&self.settings)
    }

    fn interface_addresses(&self, interface: &str) -> Vec<IpAddr> {
        self.interfaces.get(interface).cloned().unwrap_or_default()
    }

    fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.interfaces.values().flatten().any(|own| *own == address)
    }

    fn is_host(&self, address: IpAddr) -> bool {
        self.hosts.contains(&address)
    }

    fn pools(&self) -> Cow<'_, [Pool]> {
        Cow::Borrowed(&self.pools)
    }

    fn workload(&self, interface: &str) -> Option<EndpointId> {
        self.endpoints.iter().find(|(_, endpoint)| endpoint.interface == interface).map(|(id, _)| id.clone())
    }

    fn may_use(&self, endpoint: &EndpointId, source: IpAddr) -> bool {
        self.endpoints.get(endpoint).is_some_and(|endpoint| {
            endpoint.addresses.contains(&source) || endpoint.spoofable.iter().any(|net| net.contains(&source))
        })
    }

    fn floating(&self, external: IpAddr) -> Option<(IpAddr, String)> {
        let claims = self.endpoints.values().flat_map(|endpoint| {
            let nats = endpoint.nats.iter().filter(|nat| nat.external == external);
            nats.map(|nat| (nat.internal, endpoint.interface.clone()))
        });
        claims.min()
    }

    fn published(&self, at: &PublishedAt) -> Option<Led> {
        self.endpoints.values().find_map(|endpoint| {
            let port = endpoint.published.iter().find(|port| port.claim() == *at)?;
            Some(Led { address: port.address, port: port.port, interface: endpoint.interface.clone() })
        })
    }

    fn host_endpoint(&self, interface: &str, list: List) -> Option<HostEndpointId> {
        let own = self.interfaces.get(interface).map(Vec::as_slice).unwrap_or_default();
        let stands_for = |interfaces: &HostInterfaces| match interfaces {
            HostInterfaces::Named(name) => name == interface,
            HostInterfaces::WithAddress(addresses) => addresses.iter().any(|address| own.contains(address)),
            HostInterfaces::AnyInterface => false,
        };
        let all = || self.host_endpoints.iter();
        let specific = all().find(|(_, endpoint)| !is_workload(interface) && stands_for(&endpoint.interfaces));
        let sees = match list {
            List::Untracked | List::Workload => false,
            List::Normal => !is_workload(interface),
            List::Forward | List::PreDnat => true,
        };
        let any = || all().find(|(_, endpoint)| sees && endpoint.interfaces == HostInterfaces::AnyInterface);
        specific.or_else(any).map(|(id, _)| id.clone())
    }

    fn has_policies(&self, subject: &Subject, list: List, direction: Direction) -> bool {
        self.list(subject, list).iter().any(|tier| !policies(tier, direction).is_empty())
    }

    fn decide(&self, subject: &Subject, list: List, direction: Direction, packet: &Packet) -> Option<Step> {
        let has_profiles = matches!(list, List::Workload | List::Normal);
        if !has_profiles && !self.has_policies(subject, list, direction) {
            return None;
        }
        let mut asked = Vec::new();
        let reason = self
            .tiers_decide(subject, list, direction, packet, &mut asked)
            .or_else(|| has_profiles.then(|| self.profiles_decide(subject, direction, packet, &mut asked)))
            .unwrap_or(Reason::Undecided);
        Some(step(Stage::Policy(list, direction), Some(subject.clone()), reason, asked))
    }
}

impl Programmed {
    fn list(&self, subject: &Subject, list: List) -> &[TierPolicies] {
        match (subject, list) {
            (Subject::Workload(id), _) => self.endpoints.get(id).map(|endpoint| &*endpoint.tiers),
            (Subject::Host(id, _), list) => self.host_endpoints.get(id).map(|endpoint| match list {
                List::Normal | List::Workload => &*endpoint.normal,
                List::Forward => &*endpoint.forward,
                List::Untracked => &*endpoint.untracked,
                List::PreDnat => &*endpoint.pre_dnat,
            }),
        }
        .unwrap_or_default()
    }

    fn tiers_decide(
        &self,
        subject: &Subject,
        list: List,
        direction: Direction,
        packet: &Packet,
        asked: &mut Vec<Asked>,
    ) -> Option<Reason> {
        let denies = matches!(list, List::Workload | List::Normal | List::Forward);
        let tiers = self.list(subject, list).iter().filter(|tier| !policies(tier, direction).is_empty());
        for tier in tiers {
            let mut passed = false;
            for id in policies(tier, direction) {
                let owner = Owner::Policy { tier: tier.tier.clone(), id: id.clone() };
                let rules = self.policies.get(id).map(|rules| side(rules, direction)).unwrap_or_default();
                match self.rules_answer(rules, packet) {
                    Answer::Decided(index, action) => {
                        return Some(Reason::Rule { place: Place { owner, direction, index }, action });
                    }
                    Answer::Passed(index) => {
                        asked.push(Asked { owner, outcome: Outcome::Passed(index) });
                        passed = true;
                        break;
                    }
                    Answer::NoRule => asked.push(Asked { owner, outcome: Outcome::NoRule }),
                }
            }
            if !passed && denies && !tier.pass_at_end {
                return Some(Reason::EndOfTier { tier: tier.tier.clone() });
            }
        }
        None
    }

    fn profiles_decide(
        &self,
        subject: &Subject,
        direction: Direction,
        packet: &Packet,
        asked: &mut Vec<Asked>,
    ) -> Reason {
        let profiles = match subject {
            Subject::Workload(id) => self.endpoints.get(id).map(|endpoint| &endpoint.profiles),
            Subject::Host(id, _) => self.host_endpoints.get(id).map(|endpoint| &endpoint.profiles),
        };
        for ProfileId(name) in profiles.into_iter().flatten() {
            let owner = Owner::Profile(name.clone());
            let rules = self.profiles.get(&ProfileId(name.clone())).map(|rules| side(rules, direction));
            match self.rules_answer(rules.unwrap_or_default(), packet) {
                Answer::Decided(index, action) => {
                    return Reason::Rule { place: Place { owner, direction, index }, action };
                }
                Answer::Passed(index) => asked.push(Asked { owner, outcome: Outcome::Passed(index) }),
                Answer::NoRule => asked.push(Asked { owner, outcome: Outcome::NoRule }),
            }
        }
        Reason::NoProfile
    }

    fn rules_answer(&self, rules: &[Rule], packet: &Packet) -> Answer {
        for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| self.matches(rule, packet)) {
            match rule.action {
                RuleAction::Allow => return Answer::Decided(index, Action::Allow),
                RuleAction::Deny => return Answer::Decided(index, Action::Deny),
                RuleAction::Pass => return Answer::Passed(index),
                RuleAction::Log => {}
            }
        }
        Answer::NoRule
    }
}

fn policies(tier: &TierPolicies, direction: Direction) -> &[PolicyId] {
    match direction {
        Direction::Ingress => &tier.ingress,
        Direction::Egress => &tier.egress,
    }
}

fn side(rules: &RuleSet, direction: Direction) -> &[Rule] {
    match direction {
        Direction::Ingress => &rules.ingress,
        Direction::Egress => &rules.egress,
    }
}
