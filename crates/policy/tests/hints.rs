//! What the oracle suggests does what it says: followed, it turns the verdict around.

#![allow(clippy::unwrap_used)]

mod common;

use calico_model::{
    AnyResource, Change, Direction, FelixConfigurationSpec, GlobalNetworkPolicySpec, NetworkPolicySpec, PolicySpec,
    ProfileSpec, Resource, Rule,
};
use calico_policy::{
    instruction::{PolicyId, PolicyKind},
    oracle::{self, Hint, Owner, Remedy, State, Subject, what_would_change},
    packet::Packet,
};
use common::{
    NODE, Step,
    packets::{aimed, interfaces, packet},
    set, steps,
};
use proptest::prelude::*;

fn policy(state: &State, id: &PolicyId, change: impl FnOnce(&mut PolicySpec)) -> Change {
    let mut spec = state.policies[id].value.clone();
    change(&mut spec);
    match id.kind {
        PolicyKind::Global => set(Resource::new(&id.name, GlobalNetworkPolicySpec(spec))),
        PolicyKind::Namespaced => set(Resource::namespaced(&id.namespace, &id.name, NetworkPolicySpec(spec))),
    }
}

fn with_rule(state: &State, owner: &Owner, direction: Direction, index: usize, rule: &Rule) -> Change {
    fn rules(direction: Direction, ingress: &mut Vec<Rule>, egress: &mut Vec<Rule>, at: usize, rule: &Rule) {
        let list = if direction == Direction::Ingress { ingress } else { egress };
        list.insert(at, rule.clone());
    }
    match owner {
        Owner::Policy { id, .. } => {
            policy(state, id, |spec| rules(direction, &mut spec.ingress, &mut spec.egress, index, rule))
        }
        Owner::Profile(name) => {
            let mut profile = state.profiles[name].value.clone();
            rules(direction, &mut profile.spec.ingress, &mut profile.spec.egress, index, rule);
            set(profile)
        }
    }
}

/// A new profile in front of an endpoint's own.
fn with_profile(state: &State, subject: &Subject, direction: Direction, rule: &Rule) -> Vec<Change> {
    let mut spec = ProfileSpec::default();
    let list = if direction == Direction::Ingress { &mut spec.ingress } else { &mut spec.egress };
    list.push(rule.clone());
    let name = format!("suggested-{}", state.profiles.len());
    let profile = set(Resource::new(&name, spec));
    let endpoint = match subject {
        Subject::Workload(id) => {
            let mut endpoint = state.endpoints[id].clone();
            endpoint.spec.profiles.insert(0, name);
            set(endpoint)
        }
        Subject::Host(id, _) => {
            let mut endpoint = state.hosts[id].value.clone();
            endpoint.spec.profiles.insert(0, name);
            set(endpoint)
        }
    };
    vec![profile, endpoint]
}

/// A remedy as changes of what is stored; `None` for one that is not of that sort.
fn changes(state: &State, hint: &Hint) -> Option<Vec<Change>> {
    let asked = |tier: &str| {
        let of_tier = |owner: &&Owner| matches!(owner, Owner::Policy { tier: of, .. } if of == tier);
        hint.step.asked.iter().map(|asked| &asked.owner).find(of_tier)
    };
    Some(match &hint.remedies[0] {
        Remedy::RuleBefore { place, rule } => {
            vec![with_rule(state, &place.owner, place.direction, place.index, rule)]
        }
        Remedy::RuleInTier { tier, direction, rule, .. } => {
            vec![with_rule(state, asked(tier).unwrap(), *direction, 0, rule)]
        }
        Remedy::RuleFor { subject, direction, rule } => match hint.step.asked.iter().map(|asked| &asked.owner).next() {
            Some(owner) => vec![with_rule(state, owner, *direction, 0, rule)],
            None => with_profile(state, subject, *direction, rule),
        },
        Remedy::CreateProfile(name) => {
            let spec = ProfileSpec {
                ingress: vec![Rule::of(calico_model::Action::Allow)],
                egress: vec![Rule::of(calico_model::Action::Allow)],
                ..Default::default()
            };
            vec![set(Resource::new(name, spec))]
        }
        Remedy::Setting { name, value } => {
            let value = if *value == "true" { serde_json::json!(true) } else { serde_json::json!(value) };
            let name_of = format!("node.{NODE}");
            let before = state.felix.get(&name_of).cloned().flatten();
            let mut spec = serde_json::to_value(before.map(|before| before.spec).unwrap_or_default()).unwrap();
            spec[name] = value;
            let spec: FelixConfigurationSpec = serde_json::from_value(spec).unwrap();
            vec![set(Resource::new(name_of, spec))]
        }
        _ => return None,
    })
}

/// Rules of policies of a namespace mean endpoints of that one only: a suggestion that names the other end by its labels
/// does not fit into each of them.
fn fits(change: &Change, hint: &Hint) -> bool {
    let (Change::Set { resource, .. }, Remedy::RuleInTier { rule, .. } | Remedy::RuleFor { rule, .. }) =
        (change, &hint.remedies[0])
    else {
        return true;
    };
    let names = !rule.source.selector.is_empty() || !rule.destination.selector.is_empty();
    !(names && matches!(**resource, AnyResource::NetworkPolicy(_)))
}

/// Follows hints; `None` if one cannot be followed by changes of what is stored.
fn followed(state: &State, hints: &[Hint]) -> Option<State> {
    let mut next = state.clone();
    for hint in hints {
        for change in changes(&next, hint)? {
            if !fits(&change, hint) {
                return None;
            }
            next.apply(&change);
        }
    }
    Some(next)
}

fn check(state: &State, packet: &Packet) -> Result<usize, TestCaseError> {
    let (verdict, why) = oracle::verdict(state, packet);
    let hints = what_would_change(state, packet);
    let groups: Vec<&[Hint]> = if verdict.is_allow() { hints.chunks(1).collect() } else { vec![&hints] };
    let mut count = 0;
    for group in groups {
        let Some(next) = followed(state, group) else { continue };
        let (found, after) = oracle::verdict(&next, packet);
        let words: Vec<String> = group.iter().map(ToString::to_string).collect();
        // One change may open or close more than one station, so that a later one of the same policy differs.
        prop_assert!(
            found.is_allow() != verdict.is_allow(),
            "{packet:?}: {verdict:?}\n{why}\nhints: {words:#?}\nafter: {found:?}\n{after}"
        );
        count += 1;
    }
    Ok(count)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_hint_that_is_followed_turns_the_verdict_around(
        (steps, packets) in (steps(), prop::collection::vec(packet(), 24)),
    ) {
        let mut state = State { interfaces: interfaces(), ..State::new(NODE) };
        for step in &steps {
            if let Step::Change(change) = step {
                state.apply(change);
            }
        }
        for (at, packet) in packets.iter().enumerate() {
            check(&state, &aimed(packet, &state, (at, at / 3)))?;
        }
    }
}
