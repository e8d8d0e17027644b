//! What would have to change for the opposite verdict.

use std::{fmt, net::IpAddr};

use calico_model::{Action, Direction, Icmp, Port, Protocol, Rule, WorkloadEndpoint};
use calico_selector::{parse, scope::NAMESPACE_LABEL};

use super::{
    Labels, List, State,
    path::{Until, translated, walk},
    why::{Owner, Place, Reason, Stage, Step, Subject},
};
use crate::{
    instruction::HostAction,
    packet::{Packet, Transport},
};

/// Labels that the system gives, which say nothing of what a workload is for.
const SYSTEM_LABELS: &str = "projectcalico.org/";

/// One station on a packet's way, and what could be done there. A packet that is denied passes once every hint has
/// been followed, with one of its remedies each; one that passes is denied once any of them is.
#[derive(Clone, Debug, PartialEq)]
pub struct Hint {
    /// The station as it is.
    pub step: Step,
    /// What changes it, the smallest change first.
    pub remedies: Vec<Remedy>,
}

/// A change.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Remedy {
    /// A rule in front of another one, in the same policy or profile.
    RuleBefore {
        /// The one that decides now.
        place: Place,
        /// The new one.
        rule: Box<Rule>,
    },
    /// The rule that decides now goes, or is made to match less. What then decides is another question.
    WithoutRule(Place),
    /// A rule in a policy of the tier that applies to the endpoint in this direction.
    RuleInTier {
        /// The tier.
        tier: String,
        /// Whom the policy must apply to.
        subject: Subject,
        /// Ingress or egress.
        direction: Direction,
        /// The rule.
        rule: Box<Rule>,
    },
    /// A rule in any policy of the endpoint that is asked here, or in a profile of it where profiles are.
    RuleFor {
        /// Whom it must apply to.
        subject: Subject,
        /// Ingress or egress.
        direction: Direction,
        /// The rule.
        rule: Box<Rule>,
    },
    /// The object is repaired.
    Mend {
        /// Which.
        object: String,
        /// What is wrong with it.
        fault: String,
    },
    /// The profile is created.
    CreateProfile(String),
    /// A setting of Felix.
    Setting {
        /// Its name.
        name: &'static str,
        /// The value that it needs.
        value: &'static str,
    },
    /// No policy and no setting changes this.
    Nothing,
}

/// What would have to change so that a packet that passes is denied, or one that is denied passes.
pub fn what_would_change(state: &State, packet: &Packet) -> Vec<Hint> {
    let steps = walk(state, packet, Until::Arrived).steps;
    let denied = steps.iter().any(|step| !step.verdict.is_allow());
    let concerned = steps.into_iter().filter(|step| step.verdict.is_allow() != denied);
    let hints = concerned.map(|step| {
        let remedies = if denied { opening(state, packet, &step) } else { closing(state, packet, &step) };
        Hint { step, remedies }
    });
    hints.filter(|hint| !hint.remedies.is_empty()).collect()
}

fn opening(state: &State, packet: &Packet, step: &Step) -> Vec<Remedy> {
    let (direction, subject) = match (&step.stage, &step.subject) {
        (Stage::Policy(_, direction), Some(subject)) => (*direction, subject.clone()),
        _ => return vec![opening_without_policy(state, &step.reason)],
    };
    let rule = || Box::new(rule_for(state, packet, step, direction, Action::Allow));
    match &step.reason {
        Reason::Rule { place, .. } => {
            vec![Remedy::RuleBefore { place: place.clone(), rule: rule() }, Remedy::WithoutRule(place.clone())]
        }
        Reason::EndOfTier { tier } => vec![Remedy::RuleInTier { tier: tier.clone(), subject, direction, rule: rule() }],
        Reason::NoProfile => vec![Remedy::RuleFor { subject, direction, rule: rule() }],
        Reason::Closed { owner, fault } => vec![Remedy::Mend { object: owner.to_string(), fault: fault.clone() }],
        Reason::ClosedHost { fault } => vec![Remedy::Mend { object: subject.to_string(), fault: fault.clone() }],
        Reason::MissingProfile(name) => vec![Remedy::CreateProfile(name.clone())],
        other => vec![opening_without_policy(state, other)],
    }
}

fn opening_without_policy(state: &State, reason: &Reason) -> Remedy {
    match reason {
        Reason::ToHost(HostAction::Drop) if state.unreadable_felix().is_some() => Remedy::Mend {
            object: format!("FelixConfiguration {}", state.unreadable_felix().unwrap_or_default()),
            fault: "it cannot be read, so that it closes what it could open".to_owned(),
        },
        Reason::ToHost(HostAction::Drop) => Remedy::Setting { name: "defaultEndpointToHostAction", value: "Accept" },
        Reason::ServiceLoop => Remedy::Setting { name: "serviceLoopPrevention", value: "Disabled" },
        _ => Remedy::Nothing,
    }
}

fn closing(state: &State, packet: &Packet, step: &Step) -> Vec<Remedy> {
    let (Stage::Policy(list, direction), Some(subject)) = (&step.stage, &step.subject) else { return Vec::new() };
    let rule = || Box::new(rule_for(state, packet, step, *direction, Action::Deny));
    match &step.reason {
        Reason::Rule { place, .. } => {
            let before = Remedy::RuleBefore { place: place.clone(), rule: rule() };
            let without = Remedy::WithoutRule(place.clone());
            if list.denies_at_end() { vec![before, without] } else { vec![before] }
        }
        Reason::BuiltIn | Reason::Undecided => {
            vec![Remedy::RuleFor { subject: subject.clone(), direction: *direction, rule: rule() }]
        }
        _ => Vec::new(),
    }
}

/// A rule that matches the packet at a station: its protocol and port, and the other end by its labels, or by its
/// address if it has none that the policy there can mean.
fn rule_for(state: &State, packet: &Packet, step: &Step, direction: Direction, action: Action) -> Rule {
    let packet = match step.stage {
        // Before destinations are translated.
        Stage::Policy(List::Untracked | List::PreDnat, _) => translated(state, packet).as_sent(),
        _ => translated(state, packet),
    };
    let mut rule = Rule::of(action);
    let name = |text: &str| Some(Protocol::Name(text.to_owned()));
    rule.protocol = match packet.protocol() {
        1 => name("ICMP"),
        6 => name("TCP"),
        17 => name("UDP"),
        58 => name("ICMPv6"),
        132 => name("SCTP"),
        other => Some(Protocol::Number(other)),
    };
    match packet.transport {
        Transport::Ports { destination, .. } => rule.destination.ports = vec![Port::Number(destination)],
        Transport::Icmp { icmp_type, .. } => {
            rule.icmp = Some(Icmp { icmp_type: Some(u16::from(icmp_type)), code: None });
        }
        Transport::Other(_) => {}
    }
    let (end, address) = match direction {
        Direction::Ingress => (&mut rule.source, packet.source),
        Direction::Egress => (&mut rule.destination, packet.destination),
    };
    let namespace = match &step.reason {
        Reason::Rule { place: Place { owner: Owner::Policy { id, .. }, .. }, .. } => Some(id.namespace.as_str()),
        _ => None,
    };
    match state.selector_of(address, namespace.filter(|namespace| !namespace.is_empty())) {
        Some(selector) => end.selector = selector,
        None => end.nets = vec![ipnet::IpNet::from(address).to_string()],
    }
    rule
}

impl State {
    /// A selector for the endpoint that has an address, from its labels. Rules of a policy of a namespace mean endpoints
    /// of that one only.
    fn selector_of(&self, address: IpAddr, namespace: Option<&str>) -> Option<String> {
        let within = |endpoint: &&WorkloadEndpoint| {
            let stored = endpoint.metadata.labels.get(NAMESPACE_LABEL).map(String::as_str);
            namespace.is_none() || stored == namespace
        };
        let mut holders = self.endpoints.values().filter(|endpoint| self.addresses(endpoint).contains(&address));
        let labels: Labels = self.labels(holders.find(within)?);
        let quoted = |text: &str| if text.contains('\'') { format!("\"{text}\"") } else { format!("'{text}'") };
        let own = labels.iter().filter(|(key, _)| !key.starts_with(SYSTEM_LABELS));
        let terms: Vec<String> = own.map(|(key, value)| format!("{key} == {}", quoted(value))).collect();
        let selector = terms.join(" && ");
        // No label has both kinds of quotes, but what is stored need not be valid.
        (!terms.is_empty() && parse(&selector).is_ok()).then_some(selector)
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.step.stage)?;
        if let Some(subject) = &self.step.subject {
            write!(f, " of {subject}")?;
        }
        for (at, remedy) in self.remedies.iter().enumerate() {
            write!(f, "{}{remedy}", if at == 0 { ": " } else { "; or " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = |direction: &Direction| if *direction == Direction::Ingress { "ingress" } else { "egress" };
        match self {
            Self::RuleBefore { place, rule } => write!(f, "before {place}: {}", Short(rule)),
            Self::WithoutRule(place) => write!(f, "take {place} out, or make it match less"),
            Self::RuleInTier { tier, direction, rule, .. } => {
                write!(f, "in a policy of tier {tier} that applies here, {}: {}", way(direction), Short(rule))
            }
            Self::RuleFor { direction, rule, .. } => {
                write!(f, "in what applies here, {}: {}", way(direction), Short(rule))
            }
            Self::Mend { object, fault } => write!(f, "repair {object}: {fault}"),
            Self::CreateProfile(name) => write!(f, "create profile {name}, or take it off the endpoint"),
            Self::Setting { name, value } => write!(f, "set {name}: {value} in the FelixConfiguration"),
            Self::Nothing => f.write_str("no policy changes this"),
        }
    }
}

/// A suggested rule in one line.
struct Short<'a>(&'a Rule);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(rule) = self;
        f.write_str(&rule.action)?;
        if let Some(protocol) = &rule.protocol {
            write!(f, " {protocol}")?;
        }
        if let Some(icmp_type) = rule.icmp.and_then(|icmp| icmp.icmp_type) {
            write!(f, " type {icmp_type}")?;
        }
        for (word, end) in [("from", &rule.source), ("to", &rule.destination)] {
            if !end.selector.is_empty() {
                write!(f, " {word} {}", end.selector)?;
            }
            if let Some(net) = end.nets.first() {
                write!(f, " {word} {net}")?;
            }
            if let Some(port) = end.ports.first() {
                write!(f, " {word} port {port}")?;
            }
        }
        Ok(())
    }
}
