//! The rules of one host, before and after.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
};

use calico_model::{AnyResource, Direction, EntityRule, KindName, ResourceKey, Rule};
use calico_policy::{
    entity_selectors,
    instruction::{Endpoint, PolicyId, PolicyKind, ProfileId, RuleSet, SetId, TierPolicies},
    interpret::{Programmed, SetMembers},
};
use calico_selector::parse;

use super::{Line, ObjectChange, What};
use crate::{Cluster, words};

/// Endpoints beyond this many are counted and not named.
const NAMED: usize = 5;
/// Members of a set beyond this many are counted and not named.
const MEMBERS: usize = 8;

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// What changes on a host. `names` are the selectors of all rules, asked for only where the members of a set change.
pub(super) fn compare(
    now: &Cluster,
    then: &Cluster,
    before: &Programmed,
    after: &Programmed,
    names: &impl Deref<Target = SetNames>,
) -> Vec<ObjectChange> {
    let mut changes = settings(now, then, before, after);
    let rules = |set: Option<&std::sync::Arc<RuleSet>>| set.cloned();
    for id in before.policies.keys().chain(after.policies.keys()).collect::<BTreeSet<_>>() {
        let texts = [policy_lines(now, id), policy_lines(then, id)];
        let programmed = [rules(before.policies.get(id)), rules(after.policies.get(id))];
        changes.extend(change(format!("policy {}", policy_words(id)), &programmed, texts));
    }
    for id in before.profiles.keys().chain(after.profiles.keys()).collect::<BTreeSet<_>>() {
        let texts = [profile_lines(now, id), profile_lines(then, id)];
        let programmed = [rules(before.profiles.get(id)), rules(after.profiles.get(id))];
        changes.extend(change(format!("profile {}", id.0), &programmed, texts));
    }
    changes.extend(endpoints(then, before, after));
    changes.extend(host_endpoints(before, after));
    changes.extend(sets(before, after, names));
    changes
}

/// An object of which nothing is said if what is programmed is the same.
fn change<T: PartialEq>(
    object: String,
    programmed: &[Option<T>; 2],
    [old, new]: [Vec<String>; 2],
) -> Option<ObjectChange> {
    let change = match programmed {
        [None, None] => return None,
        [Some(before), Some(after)] if before == after => return None,
        [None, Some(_)] => What::Added,
        [Some(_), None] => What::Removed,
        [Some(_), Some(_)] => What::Changed,
    };
    let lines = match change {
        What::Added => difference(&[], &new),
        What::Removed => difference(&old, &[]),
        What::Changed => difference(&old, &new),
    };
    Some(ObjectChange { object, change, lines })
}

/// What goes, then what comes, each in its order; a repeated line counts as often as it stands there.
fn difference(old: &[String], new: &[String]) -> Vec<Line> {
    let without = |list: &[String], other: &[String], added| {
        let mut spare: BTreeMap<&String, usize> = BTreeMap::new();
        other.iter().for_each(|text| *spare.entry(text).or_default() += 1);
        let extra = list.iter().filter(|text| match spare.get_mut(text) {
            Some(left) if *left > 0 => {
                *left -= 1;
                false
            }
            _ => true,
        });
        extra.map(|text| Line { added, text: text.clone() }).collect::<Vec<_>>()
    };
    let mut lines = without(old, new, false);
    lines.extend(without(new, old, true));
    lines
}

/// A policy as people name it.
pub(crate) fn policy_words(id: &PolicyId) -> String {
    match id.kind {
        PolicyKind::Global => format!("{} (global)", id.name),
        PolicyKind::Namespaced => id.to_string(),
    }
}

fn policy_lines(cluster: &Cluster, id: &PolicyId) -> Vec<String> {
    let Some(policy) = cluster.policy(id) else { return Vec::new() };
    let directions = DIRECTIONS.into_iter().filter(|direction| policy.applies(*direction));
    directions.flat_map(|direction| rule_lines(direction, policy.rules(direction))).collect()
}

fn profile_lines(cluster: &Cluster, id: &ProfileId) -> Vec<String> {
    match cluster.get(&ResourceKey::new(KindName::Profile, None, &id.0)) {
        Some(AnyResource::Profile(profile)) => {
            let mut lines = rule_lines(Direction::Ingress, &profile.spec.ingress);
            lines.extend(rule_lines(Direction::Egress, &profile.spec.egress));
            lines
        }
        _ => Vec::new(),
    }
}

/// Rules with their place: a rule that moves is a change.
fn rule_lines(direction: Direction, rules: &[Rule]) -> Vec<String> {
    let word = direction.as_str().to_ascii_lowercase();
    rules.iter().enumerate().map(|(index, rule)| format!("{word}[{index}]: {}", words::rule(rule))).collect()
}

/// The policies and profiles of an endpoint, in their order.
fn list_lines(prefix: &str, tiers: &[TierPolicies]) -> Vec<String> {
    let mut lines = Vec::new();
    for (word, side) in [("ingress", 0), ("egress", 1)] {
        for tier in tiers {
            let policies = if side == 0 { &tier.ingress } else { &tier.egress };
            lines.extend(
                policies.iter().map(|id| format!("{prefix}{word}: tier {}, policy {}", tier.tier, policy_words(id))),
            );
            if !policies.is_empty() && tier.pass_at_end {
                lines.push(format!("{prefix}{word}: tier {} passes at its end", tier.tier));
            }
        }
    }
    lines
}

fn endpoint_lines(endpoint: &Endpoint) -> Vec<String> {
    let mut lines = list_lines("", &endpoint.tiers);
    lines.extend(endpoint.profiles.iter().map(|profile| format!("profile {}", profile.0)));
    lines
}

/// Endpoints with one and the same change stand together.
fn endpoints(then: &Cluster, before: &Programmed, after: &Programmed) -> Vec<ObjectChange> {
    type Same = (Vec<Line>, u8);
    let mut alike: BTreeMap<Same, (What, Vec<String>)> = BTreeMap::new();
    for id in before.endpoints.keys().chain(after.endpoints.keys()).collect::<BTreeSet<_>>() {
        let pair = [before.endpoints.get(id), after.endpoints.get(id)];
        let texts = pair.map(|endpoint| endpoint.map(endpoint_lines).unwrap_or_default());
        let Some(ObjectChange { change, lines, .. }) = change(String::new(), &pair, texts) else { continue };
        let entry = alike.entry((lines, change as u8)).or_insert((change, Vec::new()));
        entry.1.push(then.workload_name(id));
    }
    let said = |((lines, _), (change, names)): (Same, (What, Vec<String>))| ObjectChange {
        object: format!("{} {}", counted(names.len(), "endpoint"), listed(&names)),
        change,
        lines,
    };
    alike.into_iter().map(said).collect()
}

fn host_endpoints(before: &Programmed, after: &Programmed) -> Vec<ObjectChange> {
    let ids: BTreeSet<_> = before.host_endpoints.keys().chain(after.host_endpoints.keys()).collect();
    let changes = ids.into_iter().filter_map(|id| {
        let pair = [before.host_endpoints.get(id), after.host_endpoints.get(id)];
        let texts = pair.map(|endpoint| {
            let Some(endpoint) = endpoint else { return Vec::new() };
            let mut lines = list_lines("", &endpoint.normal);
            lines.extend(list_lines("forwarded ", &endpoint.forward));
            lines.extend(list_lines("untracked ", &endpoint.untracked));
            lines.extend(list_lines("before DNAT ", &endpoint.pre_dnat));
            lines.extend(endpoint.profiles.iter().map(|profile| format!("profile {}", profile.0)));
            lines
        });
        change(format!("host endpoint {}", id.0), &pair, texts)
    });
    changes.collect()
}

/// Address sets whose members change; those that come and go with their rules are not worth a line.
fn sets(before: &Programmed, after: &Programmed, names: &impl Deref<Target = SetNames>) -> Vec<ObjectChange> {
    let kept = before.sets.iter().filter_map(|(id, old)| Some((id, old, after.sets.get(id)?)));
    let said = |(id, old, new): (&SetId, &SetMembers, &SetMembers)| {
        let object = names.get(id).map_or_else(|| format!("set {}", id.0), |text| format!("addresses of {text}"));
        ObjectChange { object, change: What::Changed, lines: shortened(difference(&members(old), &members(new))) }
    };
    kept.filter(|(_, old, new)| old != new).map(said).collect()
}

fn members(set: &SetMembers) -> Vec<String> {
    match set {
        SetMembers::Nets(nets) => nets.iter().map(ToString::to_string).collect(),
        SetMembers::Ports(ports) => ports
            .iter()
            .map(|member| format!("{} protocol {} port {}", member.address, member.protocol, member.port))
            .collect(),
    }
}

fn shortened(lines: Vec<Line>) -> Vec<Line> {
    let (gone, come): (Vec<Line>, Vec<Line>) = lines.into_iter().partition(|line| !line.added);
    let shorten = |mut lines: Vec<Line>, added| {
        if lines.len() > MEMBERS {
            let more = lines.len() - MEMBERS + 1;
            lines.truncate(MEMBERS - 1);
            lines.push(Line { added, text: format!("and {more} more") });
        }
        lines
    };
    let mut lines = shorten(gone, false);
    lines.extend(shorten(come, true));
    lines
}

/// Selectors by the name of their set.
pub(super) type SetNames = BTreeMap<SetId, String>;

/// The selectors of all rules of some clusters.
pub(super) fn set_names(clusters: [&Cluster; 2]) -> SetNames {
    let mut found = BTreeMap::new();
    for (key, resource) in clusters.into_iter().flat_map(Cluster::resources) {
        let rules: [&[Rule]; 2] = match resource {
            AnyResource::GlobalNetworkPolicy(policy) => [&policy.spec.ingress, &policy.spec.egress],
            AnyResource::NetworkPolicy(policy) => [&policy.spec.ingress, &policy.spec.egress],
            AnyResource::Profile(profile) => [&profile.spec.ingress, &profile.spec.egress],
            _ => continue,
        };
        let ends = rules.into_iter().flatten().flat_map(|rule| [&rule.source, &rule.destination]);
        found.extend(ends.flat_map(|end| names_of(key.namespace.as_deref(), end)));
    }
    found
}

fn names_of(namespace: Option<&str>, end: &EntityRule) -> Vec<(SetId, String)> {
    let Ok(combined) = entity_selectors(namespace, end).combine() else { return Vec::new() };
    let texts = combined.positive.into_iter().chain(combined.negative);
    texts.filter_map(|text| Some((SetId(parse(&text).ok()?.unique_id()), text))).collect()
}

/// Felix' settings and the pools, in the words of their resources.
fn settings(now: &Cluster, then: &Cluster, before: &Programmed, after: &Programmed) -> Vec<ObjectChange> {
    let mut kinds = Vec::new();
    if before.settings != after.settings {
        kinds.extend([KindName::FelixConfiguration, KindName::BGPConfiguration]);
    }
    if before.pools != after.pools {
        kinds.push(KindName::IPPool);
    }
    let mut changes = Vec::new();
    for kind in kinds {
        let keys: BTreeSet<_> = now.of_kind(kind).chain(then.of_kind(kind)).map(|(key, _)| key).collect();
        for key in keys {
            let texts = [now, then].map(|cluster| cluster.get(key).map(spec_lines).unwrap_or_default());
            let pair = [now, then].map(|cluster| cluster.get(key).map(AnyResource::to_json));
            changes.extend(change(format!("{kind} {}", key.name), &pair, texts).filter(|c| !c.lines.is_empty()));
        }
    }
    changes
}

fn spec_lines(resource: &AnyResource) -> Vec<String> {
    let value: serde_json::Value = serde_json::from_slice(&resource.to_json()).unwrap_or_default();
    let members = value.get("spec").and_then(serde_json::Value::as_object).cloned().unwrap_or_default();
    members.into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
}

pub(crate) fn counted(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

pub(crate) fn listed(names: &[String]) -> String {
    let mut said = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        said.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    said
}
