//! What each station decided, in the words of the resources.

use calico_model::{AnyResource, Direction, KindName, ResourceKey, Rule};
use calico_policy::{
    instruction::{PolicyId, PolicyKind},
    oracle::{Asked, Flow, List, Outcome, Owner, Place as RuleAt, Reason, Stage, Step, Subject},
    packet::Verdict,
};
use serde::Serialize;
use serde_json::Value;

use super::{HostVerdict, Question, follow::Leg};
use crate::{Cluster, plan::word, words};

/// One station and its decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepTaken {
    /// Which: `ingress`, `forwarded egress`, `source check` and so on.
    pub stage: String,
    /// Whose policy, by the name that people know.
    pub of: Option<String>,
    /// What came of it here.
    #[serde(serialize_with = "word")]
    pub verdict: Verdict,
    /// What decided, in words.
    pub decided: String,
    /// The rule, if one decided.
    pub rule: Option<RulePlace>,
    /// What was asked before and did not decide.
    pub asked: Vec<AskedObject>,
}

/// A rule with its place in the datastore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RulePlace {
    /// `GlobalNetworkPolicy`, `NetworkPolicy` or `Profile`.
    pub kind: String,
    /// Of a namespaced policy.
    pub namespace: Option<String>,
    /// The resource's name, as stored.
    pub name: String,
    /// The policy's tier.
    pub tier: Option<String>,
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// Its place in that list, from 1.
    pub number: usize,
    /// How many there are.
    pub of: usize,
    /// The same place as in the file: `spec.ingress[1]`.
    pub path: String,
    /// As it is written.
    pub rule: Value,
    /// In one line.
    pub text: String,
}

/// A policy or profile that was asked and did not decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AskedObject {
    /// Which, in words.
    pub object: String,
    /// What it said.
    pub outcome: String,
}

pub(super) fn of_host(cluster: &Cluster, leg: &Leg, flow: &Flow) -> HostVerdict {
    let steps = |why: &calico_policy::oracle::Why| why.steps.iter().map(|step| taken(cluster, step)).collect();
    let reply = flow.reply.as_ref().filter(|(verdict, _)| !verdict.is_allow());
    HostVerdict {
        node: leg.node.clone(),
        verdict: flow.verdict(),
        steps: steps(&flow.request.1),
        reply: reply.map(|(_, why)| steps(why)).unwrap_or_default(),
    }
}

/// The first line of the answer.
pub(super) fn summary(
    cluster: &Cluster,
    question: &Question,
    traffic: &str,
    verdict: Verdict,
    hosts: &[HostVerdict],
) -> String {
    let what = format!("{traffic} from {} to {}", question.from.name(cluster), question.to.name(cluster));
    let Some(host) = hosts.iter().find(|host| !host.verdict.is_allow()) else {
        return format!("allowed: {what}");
    };
    let word = crate::plan::verdict_word(verdict);
    let reply = !host.reply.is_empty();
    let steps = if reply { &host.reply } else { &host.steps };
    let Some(step) = steps.iter().find(|step| !step.verdict.is_allow()) else { return format!("{word}: {what}") };
    let of = step.of.as_ref().map_or(String::new(), |of| format!(" of {of}"));
    let answer = if reply { "the answer is " } else { "" };
    format!("{answer}{word} at {}{of} on {}: {what}: {}", step.stage, host.node, step.decided)
}

fn taken(cluster: &Cluster, step: &Step) -> StepTaken {
    let rule = match &step.reason {
        Reason::Rule { place, .. } => rule_place(cluster, place),
        _ => None,
    };
    StepTaken {
        stage: stage(step.stage),
        of: step.subject.as_ref().map(|subject| subject_name(cluster, subject)),
        verdict: step.verdict,
        decided: decided(cluster, step, rule.as_ref()),
        rule,
        asked: step.asked.iter().map(|asked| asked_object(cluster, asked)).collect(),
    }
}

/// The station as a place: what follows "at".
fn stage(stage: Stage) -> String {
    match stage {
        Stage::Policy(List::PreDnat, Direction::Ingress) => "ingress before DNAT".to_owned(),
        Stage::SourceCheck => "the source check".to_owned(),
        Stage::ToHost => "the step to the host".to_owned(),
        Stage::FromHost => "the step from the host".to_owned(),
        Stage::ServiceLoop => "the check for service loops".to_owned(),
        Stage::Tunnel => "the tunnel".to_owned(),
        other => other.to_string(),
    }
}

pub(super) fn subject_name(cluster: &Cluster, subject: &Subject) -> String {
    match subject {
        Subject::Workload(id) => cluster.workload_name(id),
        Subject::Host(id, interface) => format!("host endpoint {} ({interface})", id.0),
    }
}

fn decided(cluster: &Cluster, step: &Step, rule: Option<&RulePlace>) -> String {
    match (&step.reason, rule) {
        (Reason::Rule { .. }, Some(rule)) => rule.words(cluster),
        (Reason::EndOfTier { tier }, _) => format!("end of tier {tier}: no rule of its policies matches, so it denies"),
        (Reason::NoProfile, _) => no_profile(cluster, step),
        (Reason::Closed { owner, fault }, _) => format!("{} cannot be followed: {fault}", object(cluster, owner)),
        (Reason::MissingProfile(name), _) => format!("profile {name} does not exist"),
        (Reason::BuiltIn, _) => format!("profile {} allows everything", calico_policy::BUILT_IN_PROFILE),
        (other, _) => {
            let words = other.to_string();
            // The verdict is said beside it.
            let bare = ["denied: ", "allowed: ", "allowed, "].iter().find_map(|verdict| words.strip_prefix(verdict));
            bare.unwrap_or(&words).to_owned()
        }
    }
}

fn no_profile(cluster: &Cluster, step: &Step) -> String {
    let profiles = match &step.subject {
        Some(Subject::Workload(id)) => cluster.endpoint(id).is_some_and(|endpoint| !endpoint.spec.profiles.is_empty()),
        _ => step.asked.iter().any(|asked| matches!(asked.owner, Owner::Profile(_))),
    };
    if profiles {
        "no policy decides, and no rule of its profiles matches"
    } else {
        "no policy decides, and it has no profile"
    }
    .to_owned()
}

fn asked_object(cluster: &Cluster, asked: &Asked) -> AskedObject {
    let outcome = match asked.outcome {
        Outcome::NoRule => "no rule matches".to_owned(),
        Outcome::Passed(index) => format!("rule {} passes on to the next tier", index + 1),
        Outcome::TierPassed => "no rule matches, and its tier passes".to_owned(),
    };
    AskedObject { object: object(cluster, &asked.owner), outcome }
}

/// A policy or profile in words: kind and name, and the tier.
pub(super) fn object(cluster: &Cluster, owner: &Owner) -> String {
    match owner {
        Owner::Policy { tier, id } => format!("{} {id}, tier {tier}", kind_of(id).as_str()),
        Owner::Profile(name) => format!("Profile {}", cluster.profile_name(name)),
    }
}

pub(super) fn kind_of(id: &PolicyId) -> KindName {
    match id.kind {
        PolicyKind::Global => KindName::GlobalNetworkPolicy,
        PolicyKind::Namespaced => KindName::NetworkPolicy,
    }
}

pub(super) fn direction_word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

pub(super) fn rule_place(cluster: &Cluster, place: &RuleAt) -> Option<RulePlace> {
    let rules = cluster.rules(&place.owner, place.direction)?;
    let rule = rules.get(place.index)?;
    let (kind, namespace, name, tier) = match &place.owner {
        Owner::Policy { tier, id } => {
            let namespace = (!id.namespace.is_empty()).then(|| id.namespace.clone());
            (kind_of(id), namespace, id.name.clone(), Some(tier.clone()))
        }
        Owner::Profile(name) => (KindName::Profile, None, name.clone(), None),
    };
    Some(RulePlace {
        kind: kind.as_str().to_owned(),
        namespace,
        name,
        tier,
        direction: direction_word(place.direction),
        number: place.index + 1,
        of: rules.len(),
        path: format!("spec.{}[{}]", direction_word(place.direction), place.index),
        rule: serde_json::to_value(rule).unwrap_or_default(),
        text: words::rule(rule),
    })
}

impl RulePlace {
    fn words(&self, cluster: &Cluster) -> String {
        let Self { kind, name, direction, number, of, text, .. } = self;
        let name = match &self.namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None if kind == KindName::Profile.as_str() => cluster.profile_name(name),
            None => name.clone(),
        };
        let tier = self.tier.as_ref().map_or(String::new(), |tier| format!(", tier {tier}"));
        format!("{kind} {name}{tier}, {direction} rule {number} of {of}: {text}")
    }
}

impl Cluster {
    /// A profile's name as people typed it.
    pub(crate) fn profile_name(&self, stored: &str) -> String {
        match self.get(&ResourceKey::new(KindName::Profile, None, stored)) {
            Some(AnyResource::Profile(profile)) => profile.profile_name().as_typed().to_owned(),
            _ => stored.to_owned(),
        }
    }

    /// The rules of a policy or profile in one direction.
    pub(super) fn rules(&self, owner: &Owner, direction: Direction) -> Option<&[Rule]> {
        match owner {
            Owner::Policy { id, .. } => Some(self.policy(id)?.rules(direction)),
            Owner::Profile(name) => match self.get(&ResourceKey::new(KindName::Profile, None, name))? {
                AnyResource::Profile(profile) => Some(match direction {
                    Direction::Ingress => &profile.spec.ingress,
                    Direction::Egress => &profile.spec.egress,
                }),
                _ => None,
            },
        }
    }
}
