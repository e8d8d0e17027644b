//! What would have to change for the opposite verdict: as text, as a rule to write, as a command.
//!
//! Each change is made to a copy of the cluster, and the question is asked again there: what is proposed is known to
//! work, or said not to be enough.

use calico_model::{
    Action, AnyResource, Change, Direction, GlobalNetworkPolicySpec, KindName, Metadata, PolicySpec, Port, Resource,
    ResourceKey, Rule,
};
use calico_policy::{
    oracle::{Hint, Owner, Remedy, Subject, what_would_change},
    packet::Verdict,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    End, Question,
    follow::Leg,
    steps::{direction_word, kind_of, object, rule_place, subject_name},
    verdict as verdict_of,
};
use crate::{Cluster, words};

/// Labels that the system gives.
const SYSTEM_LABELS: &str = "projectcalico.org/";

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fix {
    /// On which host's account.
    pub node: String,
    /// What to do, in words.
    pub text: String,
    /// The rule to write, or to take out.
    pub rule: Option<Value>,
    /// The resource as it would be.
    pub resource: Option<Value>,
    /// A command that does it.
    pub command: Option<String>,
}

/// The changes, and whether they have been seen to work.
pub(super) fn fixes(cluster: &Cluster, question: &Question, legs: &[Leg], now: Verdict) -> (Vec<Fix>, bool) {
    let wanted = !now.is_allow();
    let mut hints: Vec<(&Leg, Hint)> = Vec::new();
    for leg in legs {
        // A host that lets the packet pass would say how to deny it.
        if leg.judge().request.0.is_allow() != wanted {
            let mut found = what_would_change(&leg.state, &leg.packet);
            let remedies = found.iter_mut().flat_map(|hint| &mut hint.remedies);
            remedies.for_each(|remedy| as_asked(remedy, cluster, question));
            hints.extend(found.into_iter().map(|hint| (leg, hint)));
        }
    }
    if !wanted {
        // The receiver's own ingress is what people mean first.
        hints.reverse();
    }
    let mut then = cluster.clone();
    let mut fixes = Vec::new();
    for (leg, hint) in &hints {
        let Some(remedy) = hint.remedies.first() else { continue };
        // To deny, any one is enough, so each is made to the cluster as it is; the first is what is tried.
        let base = if wanted { &then } else { cluster };
        let (fix, change) = fix(base, leg, hint, remedy);
        if let Some(change) = change.filter(|_| wanted || fixes.is_empty()) {
            then.absorb(change);
        }
        fixes.push(fix);
    }
    let proven = !fixes.is_empty() && verdict_of(&then, question).is_allow() == wanted;
    (fixes, proven)
}

/// The rule for what was asked: all ports that are meant, and the other end by its own labels if they are enough.
fn as_asked(remedy: &mut Remedy, cluster: &Cluster, question: &Question) {
    let (Remedy::RuleBefore { rule, .. } | Remedy::RuleInTier { rule, .. } | Remedy::RuleFor { rule, .. }) = remedy
    else {
        return;
    };
    match question.ports() {
        Some((1, u16::MAX)) => rule.destination.ports.clear(),
        Some((low, high)) if low < high => rule.destination.ports = vec![Port::Range(low, high)],
        _ => {}
    }
    for (end, party) in [(&mut rule.source, &question.from), (&mut rule.destination, &question.to)] {
        if let End::Endpoint(id) = &party.end
            && !end.selector.is_empty()
            && let Some(selector) = selector(cluster, &Subject::Workload(id.clone()))
        {
            end.selector = selector;
        }
    }
}

fn fix(cluster: &Cluster, leg: &Leg, hint: &Hint, remedy: &Remedy) -> (Fix, Option<Change>) {
    let bare = |text: String| {
        let node = leg.node.clone();
        Fix { node, text, rule: None, resource: None, command: None }
    };
    match remedy {
        Remedy::RuleBefore { place, rule } => {
            let change = insert(cluster, &place.owner, place.direction, Some(place.index), rule);
            let of = object(cluster, &place.owner);
            let way = direction_word(place.direction);
            let at = place.index + 1;
            let text = format!("in {of}, before {way} rule {at}: {}", words::rule(rule));
            with_change(bare(text), Some(rule), &place.owner, place.direction, change)
        }
        Remedy::WithoutRule(place) => {
            let rule = rule_place(cluster, place);
            let what = rule.map_or(String::new(), |rule| format!(": {}", rule.text));
            let way = direction_word(place.direction);
            let of = object(cluster, &place.owner);
            (bare(format!("in {of}, take {way} rule {} out{what}", place.index + 1)), None)
        }
        Remedy::RuleInTier { tier, subject, direction, rule } => {
            let asked = hint.step.asked.iter().rev().map(|asked| &asked.owner);
            let last = asked.into_iter().find(|owner| matches!(owner, Owner::Policy { tier: own, .. } if own == tier));
            match last {
                Some(owner) => appended(cluster, bare, owner, *direction, rule),
                None => new_policy(cluster, bare, subject, Some(tier), *direction, rule),
            }
        }
        Remedy::RuleFor { subject, direction, rule } => match last_profile(cluster, subject) {
            Some(owner) if rule.parsed_action() == Some(Action::Allow) => {
                appended(cluster, bare, &owner, *direction, rule)
            }
            _ => new_policy(cluster, bare, subject, None, *direction, rule),
        },
        Remedy::CreateProfile(name) => {
            let mut fix = bare(format!("create the profile {name}, or take it off the endpoint"));
            fix.command = Some(format!("calicoctl profile add {name}"));
            (fix, None)
        }
        Remedy::Setting { name, value } => {
            let parsed = serde_json::from_str(value).unwrap_or_else(|_| Value::from(*value));
            let mut fix = bare(format!("set {name}: {value} in the FelixConfiguration default"));
            let patch = json!({"spec": {*name: parsed}});
            fix.command = Some(patch_command(KindName::FelixConfiguration, "default", "", &patch));
            (fix, setting(cluster, name, &parsed))
        }
        Remedy::Mend { object: named, fault } => {
            let of = match &hint.step.reason {
                calico_policy::oracle::Reason::Closed { owner, .. } => object(cluster, owner),
                calico_policy::oracle::Reason::ToHost(_) => named.clone(),
                _ => hint.step.subject.as_ref().map_or_else(String::new, |subject| subject_name(cluster, subject)),
            };
            (bare(format!("mend {of}: {fault}")), None)
        }
        other => (bare(other.to_string()), None),
    }
}

fn appended(
    cluster: &Cluster,
    bare: impl Fn(String) -> Fix,
    owner: &Owner,
    direction: Direction,
    rule: &Rule,
) -> (Fix, Option<Change>) {
    let change = insert(cluster, owner, direction, None, rule);
    let text = format!("in {}, last {} rule: {}", object(cluster, owner), direction_word(direction), words::rule(rule));
    with_change(bare(text), Some(rule), owner, direction, change)
}

fn with_change(
    mut fix: Fix,
    rule: Option<&Rule>,
    owner: &Owner,
    direction: Direction,
    change: Option<(ResourceKey, AnyResource)>,
) -> (Fix, Option<Change>) {
    fix.rule = rule.and_then(|rule| serde_json::to_value(rule).ok());
    let Some((key, resource)) = change else { return (fix, None) };
    let value: Value = serde_json::from_slice(&resource.to_json()).unwrap_or_default();
    let way = direction_word(direction);
    let patch = json!({"spec": {way: value["spec"][way]}});
    let (kind, name, namespace) = match owner {
        Owner::Policy { id, .. } => (kind_of(id), id.name.as_str(), id.namespace.as_str()),
        Owner::Profile(name) => (KindName::Profile, name.as_str(), ""),
    };
    fix.command = Some(patch_command(kind, name, namespace, &patch));
    fix.resource = Some(value);
    (fix, Some(Change::Set { key, resource: Box::new(resource) }))
}

/// The policy or profile with one rule more, before another one or at the end.
fn insert(
    cluster: &Cluster,
    owner: &Owner,
    direction: Direction,
    before: Option<usize>,
    rule: &Rule,
) -> Option<(ResourceKey, AnyResource)> {
    let key = match owner {
        Owner::Policy { id, .. } => {
            let namespace = (!id.namespace.is_empty()).then_some(id.namespace.as_str());
            ResourceKey::new(kind_of(id), namespace, &id.name)
        }
        Owner::Profile(name) => ResourceKey::new(KindName::Profile, None, name),
    };
    let mut resource = cluster.get(&key)?.clone();
    let lists = match &mut resource {
        AnyResource::GlobalNetworkPolicy(policy) => [&mut policy.spec.0.ingress, &mut policy.spec.0.egress],
        AnyResource::NetworkPolicy(policy) => [&mut policy.spec.0.ingress, &mut policy.spec.0.egress],
        AnyResource::Profile(profile) => [&mut profile.spec.ingress, &mut profile.spec.egress],
        _ => return None,
    };
    let [ingress, egress] = lists;
    let rules = if direction == Direction::Ingress { ingress } else { egress };
    let at = before.unwrap_or(rules.len()).min(rules.len());
    rules.insert(at, rule.clone());
    Some((key, resource))
}

/// A policy for nothing else: what its rule does not match goes on as before.
fn new_policy(
    cluster: &Cluster,
    bare: impl Fn(String) -> Fix,
    subject: &Subject,
    tier: Option<&str>,
    direction: Direction,
    rule: &Rule,
) -> (Fix, Option<Change>) {
    let of = subject_name(cluster, subject);
    let way = direction_word(direction);
    let Some(selector) = selector(cluster, subject) else {
        let mut fix = bare(format!(
            "give {of} a label, or a profile, and a policy that selects it with the {way} rule: {}",
            words::rule(rule)
        ));
        fix.rule = serde_json::to_value(rule).ok();
        return (fix, None);
    };
    let mut rules = vec![rule.clone(), Rule::of(Action::Pass)];
    let (mut ingress, mut egress) = (Vec::new(), Vec::new());
    if direction == Direction::Ingress { &mut ingress } else { &mut egress }.append(&mut rules);
    let spec = PolicySpec {
        tier: tier.unwrap_or("default").to_owned(),
        selector,
        types: vec![direction.as_str().to_owned()],
        order: serde_json::from_value(json!(1)).unwrap_or_default(),
        ingress,
        egress,
        ..PolicySpec::default()
    };
    let action = rule.action.to_ascii_lowercase();
    let prefix = if spec.tier == "default" { String::new() } else { format!("{}.", spec.tier) };
    let names = std::iter::once(format!("{prefix}{action}-{way}"))
        .chain((2..).map(|number| format!("{prefix}{action}-{way}-{number}")));
    let free = |name: &String| cluster.get(&ResourceKey::new(KindName::GlobalNetworkPolicy, None, name)).is_none();
    let name = names.into_iter().find(free).expect("there are more numbers than policies");
    let resource = Resource {
        metadata: Metadata { name, ..Metadata::default() },
        ..Resource::new("", GlobalNetworkPolicySpec(spec))
    };
    let key = ResourceKey::new(KindName::GlobalNetworkPolicy, None, &resource.metadata.name);
    let resource = AnyResource::GlobalNetworkPolicy(resource);
    let mut fix =
        bare(format!("a new policy that selects {of}, with the {way} rules: {}; then Pass", words::rule(rule)));
    fix.rule = serde_json::to_value(rule).ok();
    let value: Value = serde_json::from_slice(&resource.to_json()).unwrap_or_default();
    fix.command = Some(format!("echo {} | calicoctl create -f -", quoted(&written(&value).to_string())));
    fix.resource = Some(value);
    (fix, Some(Change::Set { key, resource: Box::new(resource) }))
}

/// A resource without the members that the datastore fills in.
fn written(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.retain(|_, member| !member.is_null());
    }
    value
}

/// What selects the endpoint by its own labels.
fn selector(cluster: &Cluster, subject: &Subject) -> Option<String> {
    let labels = match subject {
        Subject::Workload(id) => &cluster.endpoint(id)?.metadata.labels,
        Subject::Host(id, _) => {
            cluster.get(&ResourceKey::new(KindName::HostEndpoint, None, &id.0)).map(|any| &any.metadata().labels)?
        }
    };
    let quote = |text: &str| if text.contains('\'') { format!("\"{text}\"") } else { format!("'{text}'") };
    let own = labels.iter().filter(|(key, _)| !key.starts_with(SYSTEM_LABELS));
    let terms: Vec<String> = own.map(|(key, value)| format!("{key} == {}", quote(value))).collect();
    (!terms.is_empty()).then(|| terms.join(" && "))
}

fn last_profile(cluster: &Cluster, subject: &Subject) -> Option<Owner> {
    let profiles = match subject {
        Subject::Workload(id) => &cluster.endpoint(id)?.spec.profiles,
        Subject::Host(id, _) => match cluster.get(&ResourceKey::new(KindName::HostEndpoint, None, &id.0))? {
            AnyResource::HostEndpoint(endpoint) => &endpoint.spec.profiles,
            _ => return None,
        },
    };
    let stored = |name: &&String| cluster.get(&ResourceKey::new(KindName::Profile, None, name)).is_some();
    profiles.iter().rev().find(stored).map(|name| Owner::Profile(name.clone()))
}

fn setting(cluster: &Cluster, name: &str, value: &Value) -> Option<Change> {
    let key = ResourceKey::new(KindName::FelixConfiguration, None, "default");
    let mut json: Value = match cluster.get(&key) {
        Some(resource) => serde_json::from_slice(&resource.to_json()).ok()?,
        None => json!({"kind": "FelixConfiguration", "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": "default"}, "spec": {}}),
    };
    json["spec"][name] = value.clone();
    let resource = AnyResource::decode(&key, json.to_string().as_bytes(), calico_model::Revision(0)).ok()?;
    Some(Change::Set { key, resource: Box::new(resource) })
}

fn patch_command(kind: KindName, name: &str, namespace: &str, patch: &Value) -> String {
    let namespace = if namespace.is_empty() { String::new() } else { format!(" -n {namespace}") };
    format!(
        "calicoctl patch {} {name}{namespace} -p {}",
        kind.as_str().to_ascii_lowercase(),
        quoted(&patch.to_string())
    )
}

/// As one word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
