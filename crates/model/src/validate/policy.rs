//! Policies, enforced and staged.

use calico_selector::{
    parse,
    scope::{NAMESPACE_PREFIX, PolicySelectors, SERVICE_ACCOUNT_PREFIX},
};

use super::{Fault, Faults, Holder, is_subdomain, policy_rule, rules, selector};
use crate::{Direction, KindName, Metadata, PolicySpec};

/// Rules in one direction.
const MOST_RULES: usize = 1024;

pub(crate) fn policy(kind: KindName, metadata: &Metadata, spec: &PolicySpec) -> Vec<Fault> {
    let mut faults = Faults::default();
    let namespace = metadata.namespace.as_deref().filter(|_| kind.is_namespaced());
    staged(&mut faults, kind, spec);
    faults.check_text("spec.tier", &spec.tier, is_subdomain, "it must be the name of a tier");
    types(&mut faults, spec);
    hooks(&mut faults, spec);
    let hint = |hint: &str| hint == "AssumeNeededOnEveryNode";
    faults.check_each("spec.performanceHints", &spec.performance_hints, hint, "it is AssumeNeededOnEveryNode");
    selectors(&mut faults, namespace, spec);
    for (path, direction) in [("spec.ingress", Direction::Ingress), ("spec.egress", Direction::Egress)] {
        let list = spec.rules(direction);
        faults.check(list.len() <= MOST_RULES, path, list.len(), "there are more than 1024 rules");
        faults.0.extend(rules(path, Holder::Policy(namespace), direction, list));
    }
    faults.0
}

fn staged(faults: &mut Faults, kind: KindName, spec: &PolicySpec) {
    const PATH: &str = "spec.stagedAction";
    let action = spec.staged_action.as_str();
    if !matches!(kind, KindName::StagedNetworkPolicy | KindName::StagedGlobalNetworkPolicy) {
        faults.check(action.is_empty(), PATH, action, "only staged policies have one");
        return;
    }
    faults.check_text(PATH, action, is_staged_action, STAGED_ACTION_RULE);
    if action == "Delete" {
        let bare = PolicySpec {
            staged_action: spec.staged_action.clone(),
            tier: spec.tier.clone(),
            extra: spec.extra.clone(),
            ..PolicySpec::default()
        };
        faults.check(*spec == bare, PATH, action, "with Delete nothing else but the tier is given");
    }
}

pub(super) const STAGED_ACTION_RULE: &str = "it is Set, Delete, Learn or Ignore";

pub(super) fn is_staged_action(action: &str) -> bool {
    matches!(action, "Set" | "Delete" | "Learn" | "Ignore")
}

fn types(faults: &mut Faults, spec: &PolicySpec) {
    let known = |word: &str| matches!(word, "Ingress" | "Egress");
    faults.check_each("spec.types", &spec.types, known, "it is Ingress or Egress");
    for (index, word) in spec.types.iter().enumerate() {
        let first = !spec.types[..index].contains(word);
        faults.check(first, &format!("spec.types[{index}]"), word, "it is given twice");
    }
}

/// Where in a packet's way the policy acts.
fn hooks(faults: &mut Faults, spec: &PolicySpec) {
    faults.check(!(spec.pre_dnat && spec.do_not_track), "spec.preDNAT", true, "it excludes doNotTrack");
    let reason = "it needs applyOnForward: true";
    faults.check(!spec.pre_dnat || spec.apply_on_forward, "spec.preDNAT", true, reason);
    faults.check(!spec.do_not_track || spec.apply_on_forward, "spec.doNotTrack", true, reason);
    if spec.pre_dnat {
        let reason = "a preDNAT policy has ingress rules only";
        faults.check(spec.egress.is_empty(), "spec.egress", spec.egress.len(), reason);
        let egress = spec.types.iter().any(|word| word == "Egress");
        faults.check(!egress, "spec.types", "Egress", reason);
    }
}

/// Each selector by itself, then whether they can be joined.
fn selectors(faults: &mut Faults, namespace: Option<&str>, spec: &PolicySpec) {
    let before = faults.0.len();
    for (name, text, prefix) in [
        ("selector", &spec.selector, ""),
        ("serviceAccountSelector", &spec.service_account_selector, SERVICE_ACCOUNT_PREFIX),
        ("namespaceSelector", &spec.namespace_selector, NAMESPACE_PREFIX),
    ] {
        let path = format!("spec.{name}");
        selector::check(faults, &path, text, prefix);
        policy_rule::length(faults, &path, text);
    }
    if faults.0.len() > before {
        return;
    }
    let joined = PolicySelectors {
        namespace,
        selector: &spec.selector,
        namespace_selector: &spec.namespace_selector,
        service_account_selector: &spec.service_account_selector,
    };
    if joined.combine().ok().is_some_and(|joined| parse(&joined).is_ok()) {
        return;
    }
    match namespace {
        Some(namespace) if namespace.contains('\'') => {
            faults.add("metadata.namespace", namespace, "the namespace of a policy has no quotes");
        }
        _ => faults.add("spec.selector", &spec.selector, selector::JOIN_RULE),
    }
}
