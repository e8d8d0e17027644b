//! What decided on a packet, as data and in words.

use std::fmt;

use calico_model::{Action, Direction};

use crate::{
    BUILT_IN_PROFILE,
    instruction::{EndpointId, HostAction, HostEndpointId, PolicyId},
    packet::Verdict,
};

/// What each station on a packet's way decided, in its order. The last one is what stopped a packet that was denied;
/// of a packet that passed, every one let it pass. Empty if nothing here governs the packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Why {
    /// The stations.
    pub steps: Vec<Step>,
}

/// One station.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub stage: Stage,
    /// Whose policy, where it is an endpoint's.
    pub subject: Option<Subject>,
    /// What decided.
    pub reason: Reason,
    /// Policies and profiles that were asked before that, in order.
    pub asked: Vec<Asked>,
    /// What came of it here.
    pub verdict: Verdict,
}

/// A kind of station.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Whether a workload may use the source, and reach the destination, at all.
    SourceCheck,
    /// An endpoint's list of policies, and its profiles, for packets of a direction.
    Policy(List, Direction),
    /// Traffic between hosts that carries other traffic.
    Tunnel,
    /// What a workload may send to its own host once its policy allows it.
    ToHost,
    /// From a host to its own workload.
    FromHost,
    /// Service addresses that no service has.
    ServiceLoop,
}

/// The lists of policies that endpoints have (`dataplane.md` 1.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    /// Of a workload endpoint.
    Workload,
    /// Of a host endpoint, for traffic of the host itself.
    Normal,
    /// Of a host endpoint, for traffic that the host forwards.
    Forward,
    /// Of a host endpoint, before connection tracking.
    Untracked,
    /// Of a host endpoint, before destinations are translated.
    PreDnat,
}

/// Whose policy is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A workload endpoint of this host.
    Workload(EndpointId),
    /// A host endpoint of this host, for an interface.
    Host(HostEndpointId, String),
}

/// Whose rule it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A policy's.
    Policy {
        /// The tier it stands in.
        tier: String,
        /// Which.
        id: PolicyId,
    },
    /// A profile's, by its stored name.
    Profile(String),
}

/// A rule's place in the datastore.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Whose.
    pub owner: Owner,
    /// In which list.
    pub direction: Direction,
    /// Where in it, from 0.
    pub index: usize,
}

/// A policy or profile that was asked and did not end the evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Which.
    pub owner: Owner,
    /// What it said.
    pub outcome: Outcome,
}

/// How asking a policy or profile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No rule matched.
    NoRule,
    /// The rule of this index says Pass.
    Passed(usize),
    /// No rule matched, and with this policy the tier ended, which says Pass at its end.
    TierPassed,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// A rule matched, and it says Allow or Deny.
    Rule {
        /// Which.
        place: Place,
        /// What it says.
        action: Action,
    },
    /// No policy of the tier decided, and its default action is Deny.
    EndOfTier {
        /// Which.
        tier: String,
    },
    /// No policy decided, and no profile has a rule for this: denied.
    NoProfile,
    /// A policy or profile that cannot be followed: denied.
    Closed {
        /// Which.
        owner: Owner,
        /// What is wrong with it.
        fault: String,
    },
    /// The host endpoint itself cannot be followed, so its profiles are not asked: denied.
    ClosedHost {
        /// What is wrong with it.
        fault: String,
    },
    /// A profile that does not exist: denied.
    MissingProfile(String),
    /// The built-in profile that allows all.
    BuiltIn,
    /// No rule of a list that denies nothing at its end matched: on to the next station.
    Undecided,
    /// Of a flow that passed before, or an answer to it: no policy is asked.
    Established,
    /// Of no flow, and no beginning of one: denied.
    Invalid,
    /// A port that no policy of a host endpoint closes.
    Failsafe {
        /// The port.
        port: u16,
    },
    /// Neighbour or multicast listener discovery: always allowed.
    NeighbourDiscovery,
    /// A workload's interface that no endpoint of this host has: denied.
    UnknownInterface(String),
    /// A source address that is not the endpoint's: denied.
    ForgedSource,
    /// The host's loopback, which no workload reaches: denied.
    Loopback,
    /// A packet that only hosts may send, from a workload: denied.
    Overlay,
    /// Tunnelled traffic from a known host, or to one: allowed.
    Peer,
    /// Tunnelled traffic from who is no host: dropped.
    Stranger,
    /// From the host to its own workload: allowed.
    FromHost,
    /// From a workload to its host, after policy.
    ToHost(HostAction),
    /// To a service address that no service has: it would come back from the router.
    ServiceLoop,
}

impl Why {
    /// The station that stopped the packet, if one did.
    pub fn denied_by(&self) -> Option<&Step> {
        self.steps.iter().find(|step| !step.verdict.is_allow())
    }

    /// True if untracked policy allowed the packet, so that connection tracking does not see it.
    pub fn is_untracked(&self) -> bool {
        let untracked = |step: &Step| matches!(step.stage, Stage::Policy(List::Untracked, _));
        self.steps.iter().any(|step| untracked(step) && step.allows_by_rule())
    }
}

impl Step {
    /// True if a rule allows.
    pub fn allows_by_rule(&self) -> bool {
        matches!(self.reason, Reason::Rule { action: Action::Allow, .. })
    }
}

impl List {
    /// True if the end of a tier, and the end of all, denies.
    pub(super) fn denies_at_end(self) -> bool {
        matches!(self, Self::Workload | Self::Normal | Self::Forward)
    }

    /// True if profiles are asked where no tier decided.
    pub(super) fn has_profiles(self) -> bool {
        matches!(self, Self::Workload | Self::Normal)
    }
}

impl Reason {
    /// True if the packet goes on.
    pub fn allows(&self) -> bool {
        match self {
            Self::Rule { action, .. } => *action == Action::Allow,
            Self::ToHost(action) => *action != HostAction::Drop,
            Self::BuiltIn
            | Self::Undecided
            | Self::Established
            | Self::Failsafe { .. }
            | Self::NeighbourDiscovery
            | Self::Peer
            | Self::FromHost => true,
            Self::EndOfTier { .. }
            | Self::NoProfile
            | Self::Closed { .. }
            | Self::ClosedHost { .. }
            | Self::MissingProfile(_)
            | Self::Invalid
            | Self::UnknownInterface(_)
            | Self::ForgedSource
            | Self::Loopback
            | Self::Overlay
            | Self::Stranger
            | Self::ServiceLoop => false,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            write!(f, "{}{step}", if at > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.stage)?;
        if let Some(subject) = &self.subject {
            write!(f, " of {subject}")?;
        }
        write!(f, ": {}", self.reason)?;
        for (at, asked) in self.asked.iter().enumerate() {
            write!(f, "{}{asked}", if at == 0 { " (before: " } else { "; " })?;
        }
        f.write_str(if self.asked.is_empty() { "" } else { ")" })
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SourceCheck => f.write_str("source check"),
            Self::Policy(list, direction) => {
                let way = if *direction == Direction::Ingress { "ingress" } else { "egress" };
                match list {
                    List::Workload | List::Normal => write!(f, "{way}"),
                    List::Forward => write!(f, "forwarded {way}"),
                    List::Untracked => write!(f, "untracked {way}"),
                    List::PreDnat => write!(f, "pre-DNAT {way}"),
                }
            }
            Self::Tunnel => f.write_str("tunnel"),
            Self::ToHost => f.write_str("to the host"),
            Self::FromHost => f.write_str("from the host"),
            Self::ServiceLoop => f.write_str("service loop"),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(id) => write!(f, "endpoint {id}"),
            Self::Host(id, interface) => write!(f, "host endpoint {} ({interface})", id.0),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy { tier, id } if tier == "default" => write!(f, "policy {id}"),
            Self::Policy { tier, id } => write!(f, "policy {id} of tier {tier}"),
            Self::Profile(name) => write!(f, "profile {name}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.direction == Direction::Ingress { "ingress" } else { "egress" };
        write!(f, "rule {way}[{}] of {}", self.index, self.owner)
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outcome {
            Outcome::NoRule => write!(f, "{}: no rule matches", self.owner),
            Outcome::Passed(index) => write!(f, "{}: rule {index} passes", self.owner),
            Outcome::TierPassed => write!(f, "{}: no rule matches, and its tier passes", self.owner),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { place, action: Action::Allow } => write!(f, "allowed by {place}"),
            Self::Rule { place, .. } => write!(f, "denied by {place}"),
            Self::EndOfTier { tier } => write!(f, "denied at the end of tier {tier}: no policy there decides"),
            Self::NoProfile => f.write_str("denied: no policy decides and no profile has a rule for it"),
            Self::Closed { owner, fault } => write!(f, "denied: {owner} cannot be followed: {fault}"),
            Self::ClosedHost { fault } => write!(f, "denied: the host endpoint cannot be followed: {fault}"),
            Self::MissingProfile(name) => write!(f, "denied: profile {name} does not exist"),
            Self::BuiltIn => write!(f, "allowed by profile {BUILT_IN_PROFILE}"),
            Self::Undecided => f.write_str("no rule matches, on to the next"),
            Self::Established => f.write_str("allowed: of a connection that was allowed"),
            Self::Invalid => f.write_str("denied: it belongs to no connection and begins none"),
            Self::Failsafe { port } => write!(f, "allowed: port {port} is a failsafe port"),
            Self::NeighbourDiscovery => f.write_str("allowed: neighbour discovery"),
            Self::UnknownInterface(name) => write!(f, "denied: no endpoint of this host has the interface {name}"),
            Self::ForgedSource => f.write_str("denied: the source is no address of the endpoint"),
            Self::Loopback => f.write_str("denied: no workload reaches its host's loopback"),
            Self::Overlay => f.write_str("denied: workloads must not send traffic that hosts tunnel"),
            Self::Peer => f.write_str("allowed: tunnelled traffic between hosts"),
            Self::Stranger => f.write_str("denied: tunnelled traffic from who is no host"),
            Self::FromHost => f.write_str("allowed: a host reaches its own workloads"),
            Self::ToHost(HostAction::Drop) => f.write_str("denied: defaultEndpointToHostAction is Drop"),
            Self::ToHost(HostAction::Accept) => f.write_str("allowed: defaultEndpointToHostAction is Accept"),
            Self::ToHost(HostAction::Return) => f.write_str("allowed, as far as the host's own rules do"),
            Self::ServiceLoop => f.write_str("denied: no service has this address, and it would come back"),
        }
    }
}
