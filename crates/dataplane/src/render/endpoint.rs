//! Chains that endpoints share: one per distinct list of a tier's policies, one per distinct endpoint.
//!
//! Both are named by what they contain and never change.

use std::sync::Arc;

use calico_policy::instruction::{DenyAction, PolicyId, ProfileId};

use super::{Deny, HostList};
use crate::{
    Options,
    family::Family,
    name::{self, Direction, ListId},
    ruleset::{Action, CT_ESTABLISHED_RELATED, CT_INVALID, Chain, End, Match, Rule},
};

/// `NEXTHDR_IPV4`, IP in IP.
const IPIP: u8 = 4;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// Whose packets a chain judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// A workload's.
    Workload(Direction),
    /// A host endpoint's, at one place.
    Host(HostList),
}

impl Role {
    /// From the endpoint's point of view.
    pub(crate) fn direction(self) -> Direction {
        match self {
            Self::Workload(direction) => direction,
            Self::Host(list) => list.direction(),
        }
    }

    /// No answer can be sent to a denied packet.
    pub(crate) fn is_quiet(self) -> bool {
        matches!(self, Self::Host(list) if list.is_quiet())
    }

    fn is_tracked(self) -> bool {
        !matches!(self, Self::Host(list) if !list.is_tracked())
    }

    fn has_profiles(self) -> bool {
        !matches!(self, Self::Host(list) if !list.has_profiles())
    }

    /// A tier denies what none of its policies matched.
    pub(crate) fn denies_at_end_of_tier(self) -> bool {
        !matches!(self, Self::Host(list) if !list.denies_at_end_of_tier())
    }
}

/// The policies of one tier, in order, and what happens to a packet that none of them matched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TierChain {
    /// The tier's name.
    pub tier: String,
    /// Of the policies.
    pub direction: Direction,
    /// The chains of policies are those that never answer.
    pub quiet: bool,
    /// What is denied, and how; `None` leaves it to what follows.
    pub end: Option<DenyAction>,
    /// The policies.
    pub policies: Vec<PolicyId>,
}

impl TierChain {
    /// Its name says all of the above.
    pub(crate) fn name(&self) -> String {
        let end = [self.end.map_or(0, |deny| 1 + deny as u8), u8::from(self.quiet)];
        let kinds: Vec<[u8; 1]> = self.policies.iter().map(|policy| [policy.kind as u8]).collect();
        let mut parts: Vec<&[u8]> = vec![self.tier.as_bytes(), &end];
        for (policy, kind) in self.policies.iter().zip(&kinds) {
            parts.extend([kind.as_slice(), policy.namespace.as_bytes(), policy.name.as_bytes()]);
        }
        format!("t{}-{}", self.direction.letter(), name::digest(&parts))
    }

    /// Each policy in turn. A policy that decided has set the accept or the pass mark, or dropped the packet.
    pub(crate) fn render(&self, family: Family, options: &Options) -> Chain {
        let mut rules = Vec::with_capacity(2 * self.policies.len() + 1);
        for (index, policy) in self.policies.iter().enumerate() {
            let chain = name::list_chain(&ListId::Policy(policy.clone()), self.direction, self.quiet);
            rules.push(Rule::new(Vec::new(), vec![Action::Jump(chain)]));
            if self.end.is_some() || index + 1 < self.policies.len() {
                rules.push(Rule::new(vec![Match::MarkAny(options.marks())], vec![Action::Return]));
            }
        }
        if let Some(deny) = self.end {
            let deny = Rule::new(Vec::new(), vec![Deny(deny).action(family)]);
            rules.push(deny.counted(format!("tier {} {} no policy matched", self.tier, self.direction.word())));
        }
        let comment = format!("tier {} {}, policies: {}", self.tier, self.direction.word(), self.policies.len());
        Chain { name: self.name(), base: None, comment: Some(name::comment(&comment)), rules }
    }
}

/// All that decides about the packets of some endpoints in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EndpointChain {
    /// Whose packets.
    pub role: Role,
    /// The tiers that have policies for the direction: name, and name of the chain.
    pub tiers: Vec<(String, String)>,
    /// The profiles.
    pub profiles: Arc<[ProfileId]>,
    /// The chains of profiles are those that never answer.
    pub quiet: bool,
    /// What deny does here.
    pub deny: DenyAction,
    /// Packets that connection tracking calls invalid are judged like others.
    pub accept_invalid: bool,
    /// Workloads must not send to this UDP port, whatever policy says.
    pub no_vxlan: Option<u16>,
    /// Workloads must not send IP in IP.
    pub no_ipip: bool,
}

impl EndpointChain {
    /// A chain without rules: nothing is judged.
    pub(crate) fn is_empty(&self) -> bool {
        let always = !matches!(self.role, Role::Host(list) if !list.judges_always());
        self.tiers.is_empty() && !always
    }

    /// Renders it, with a name that says its content.
    pub(crate) fn render(&self, family: Family, options: &Options) -> Chain {
        let rules = if self.is_empty() { Vec::new() } else { self.rules(family, options) };
        let text: Vec<String> = rules.iter().map(ToString::to_string).collect();
        let parts: Vec<&[u8]> = text.iter().map(|rule| rule.as_bytes()).collect();
        let prefix = match self.role {
            Role::Workload(direction) => format!("e{}", direction.letter()),
            Role::Host(list) => list.map().to_owned(),
        };
        let name = format!("{prefix}-{}", name::digest(&parts));
        Chain { name, base: None, comment: Some(name::comment(&self.comment())), rules }
    }

    fn comment(&self) -> String {
        let list = |mut names: Vec<&str>| {
            names.extend(names.is_empty().then_some("none"));
            names.join(", ")
        };
        let tiers = list(self.tiers.iter().map(|(tier, _)| tier.as_str()).collect());
        let profiles = list(self.profiles.iter().map(|profile| profile.0.as_str()).collect());
        let what = match self.role {
            Role::Workload(direction) => format!("{} of endpoints", direction.word()),
            Role::Host(list) => format!("{} of host endpoints", list.map()),
        };
        match self.role.has_profiles() {
            true => format!("{what} with tiers {tiers}, profiles {profiles}"),
            false => format!("{what} with tiers {tiers}"),
        }
    }

    /// Established flows first, then what is always open or closed, the tiers, the profiles.
    fn rules(&self, family: Family, options: &Options) -> Vec<Rule> {
        let deny = Deny(self.deny).action(family);
        let mut rules = Vec::new();
        if self.role.is_tracked() {
            rules.extend(self.tracked(&deny));
        }
        if let Role::Host(list) = self.role {
            let failsafe = list.failsafe().map(|failsafe| Action::Jump(failsafe.chain_name().to_owned()));
            rules.extend(failsafe.map(|jump| Rule::new(Vec::new(), vec![jump])));
        }
        rules.extend(self.overlay(&deny));
        let accepted = Rule::new(
            vec![Match::Mark { mask: options.mark_accept, value: options.mark_accept }],
            vec![Action::Return],
        );
        for (index, (_, chain)) in self.tiers.iter().enumerate() {
            if index > 0 {
                // The tier before was left by a pass, which is over now.
                rules.push(Rule::new(Vec::new(), vec![Action::ClearMark(options.mark_pass)]));
            }
            rules.push(Rule::new(Vec::new(), vec![Action::Jump(chain.clone())]));
            rules.push(accepted.clone());
        }
        if !self.role.has_profiles() {
            return rules;
        }
        for profile in self.profiles.iter() {
            let chain = name::list_chain(&ListId::Profile(profile.clone()), self.role.direction(), self.quiet);
            rules.push(Rule::new(Vec::new(), vec![Action::Jump(chain)]));
            rules.push(accepted.clone());
        }
        let last = if self.profiles.is_empty() { "no profile" } else { "no profile allows it" };
        rules.push(Rule::new(Vec::new(), vec![deny]).counted(last));
        rules
    }

    fn tracked(&self, deny: &Action) -> Vec<Rule> {
        let mut rules = vec![Rule::new(vec![Match::CtState(CT_ESTABLISHED_RELATED)], vec![Action::Accept])];
        if !self.accept_invalid {
            let invalid = Rule::new(vec![Match::CtState(CT_INVALID)], vec![deny.clone()]);
            rules.push(invalid.counted("invalid for connection tracking"));
        }
        rules
    }

    /// A workload must not inject packets into the hosts' overlay, whatever its policy says.
    fn overlay(&self, deny: &Action) -> Vec<Rule> {
        let protocol = |number| Match::Protocol { number, negated: false };
        let mut rules = Vec::new();
        if self.role != Role::Workload(Direction::Egress) {
            return rules;
        }
        if self.no_ipip {
            rules.push(Rule::new(vec![protocol(IPIP)], vec![deny.clone()]).counted("IP in IP from a workload"));
        }
        if let Some(port) = self.no_vxlan {
            let port = Match::Port { end: End::Destination, range: (port, port), negated: false };
            rules.push(Rule::new(vec![protocol(UDP), port], vec![deny.clone()]).counted("VXLAN from a workload"));
        }
        rules
    }
}

/// Limits of one endpoint in one direction, before the chain that it shares with others: the counts are its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LimitChain {
    /// The endpoint's interface.
    pub interface: crate::ifname::IfName,
    /// Of the packets.
    pub direction: Direction,
    /// Packets per second, and how many at once.
    pub rate: Option<(u32, u32)>,
    /// TCP connections at a time.
    pub connections: Option<u32>,
    /// Packets that connection tracking calls invalid are not denied.
    pub accept_invalid: bool,
    /// What deny does.
    pub deny: DenyAction,
    /// The shared chain.
    pub next: String,
}

impl LimitChain {
    /// Its name says all of the above.
    pub(crate) fn name(&self) -> String {
        let text = format!("{self:?}");
        format!("l{}-{}-{}", self.direction.letter(), self.interface, &name::digest(&[text.as_bytes()])[..12])
    }

    /// The rate counts packets of established flows too; connections are counted where new ones pass.
    pub(crate) fn render(&self, family: Family) -> Chain {
        let mut rules = Vec::new();
        let word = self.direction.word();
        if let Some((packets, burst)) = self.rate {
            // The kernel takes neither a rate nor a burst of none.
            let over = Match::Rate { over: true, packets: u64::from(packets.max(1)), unit: 1, burst: burst.max(1) };
            rules.push(Rule::new(vec![over], vec![Action::Drop]).counted(format!("{word} packet rate")));
        }
        if let Some(most) = self.connections {
            rules.push(Rule::new(vec![Match::CtState(CT_ESTABLISHED_RELATED)], vec![Action::Accept]));
            if !self.accept_invalid {
                let invalid = Rule::new(vec![Match::CtState(CT_INVALID)], vec![Deny(self.deny).action(family)]);
                rules.push(invalid.counted("invalid for connection tracking"));
            }
            let tcp = Match::Protocol { number: TCP, negated: false };
            let over = Rule::new(vec![tcp, Match::ConnectionsOver(most)], vec![Action::ResetTcp]);
            rules.push(over.counted(format!("{word} connection limit")));
        }
        rules.push(Rule::new(Vec::new(), vec![Action::Goto(self.next.clone())]));
        let comment = name::comment(&format!("{word} limits of the endpoint on {}", self.interface));
        Chain { name: self.name(), base: None, comment: Some(comment), rules }
    }
}
