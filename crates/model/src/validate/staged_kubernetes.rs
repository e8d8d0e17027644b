//! Kubernetes policies on trial.

use serde_json::Value;

use super::{Fault, Faults, address, policy};
use crate::StagedKubernetesNetworkPolicy;

pub(crate) fn staged_kubernetes(resource: &StagedKubernetesNetworkPolicy) -> Vec<Fault> {
    const PATH: &str = "spec.stagedAction";
    let mut faults = Faults::default();
    let spec = &resource.spec;
    let action = spec.staged_action.as_str();
    faults.check_text(PATH, action, policy::is_staged_action, policy::STAGED_ACTION_RULE);
    let given = spec.pod_selector.is_some()
        || !(spec.ingress.is_empty() && spec.egress.is_empty() && spec.policy_types.is_empty());
    faults.check(action != "Delete" || !given, PATH, action, "with Delete nothing else is given");
    let known = |word: &str| matches!(word, "Ingress" | "Egress");
    faults.check_each("spec.policyTypes", &spec.policy_types, known, "it is Ingress or Egress");
    if let Some(selector) = &spec.pod_selector {
        label_selector(&mut faults, "spec.podSelector", selector);
    }
    for (path, list, peers) in [("spec.ingress", &spec.ingress, "from"), ("spec.egress", &spec.egress, "to")] {
        for (index, rule) in list.iter().enumerate() {
            let path = format!("{path}[{index}]");
            for (index, port) in items(rule, "ports").enumerate() {
                ports(&mut faults, &format!("{path}.ports[{index}]"), port);
            }
            for (index, other) in items(rule, peers).enumerate() {
                peer(&mut faults, &format!("{path}.{peers}[{index}]"), other);
            }
        }
    }
    faults.0
}

fn items<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn label_selector(faults: &mut Faults, path: &str, selector: &Value) {
    for (index, expression) in items(selector, "matchExpressions").enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let (operator, values) = (text(expression, "operator"), items(expression, "values").count());
        let rule = match operator {
            "In" | "NotIn" => (values > 0).then_some(()).ok_or("it needs values"),
            "Exists" | "DoesNotExist" => (values == 0).then_some(()).ok_or("it has no values"),
            _ => Err("it is In, NotIn, Exists or DoesNotExist"),
        };
        if let Err(rule) = rule {
            faults.add(format!("{path}.operator"), operator, rule);
        }
    }
}

fn ports(faults: &mut Faults, path: &str, port: &Value) {
    let protocol = text(port, "protocol");
    let known = |word: &str| matches!(word, "TCP" | "UDP" | "SCTP");
    faults.check_text(&format!("{path}.protocol"), protocol, known, "it is TCP, UDP or SCTP");
    if let (Some(last), first) = (port.get("endPort").and_then(Value::as_u64), port.get("port")) {
        let above = first.and_then(Value::as_u64).is_some_and(|first| first <= last);
        faults.check(above, &format!("{path}.endPort"), last, "it must not lie below port, which must be a number");
    }
}

fn peer(faults: &mut Faults, path: &str, peer: &Value) {
    for name in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = peer.get(name) {
            label_selector(faults, &format!("{path}.{name}"), selector);
        }
    }
    if let Some(block) = peer.get("ipBlock") {
        let path = format!("{path}.ipBlock");
        let cidr = text(block, "cidr");
        faults.check(address::is_network(cidr), &format!("{path}.cidr"), cidr, "it must be a network");
        for (index, except) in items(block, "except").enumerate() {
            let text = except.as_str().unwrap_or_default();
            let path = format!("{path}.except[{index}]");
            faults.check(address::is_network(text), &path, text, "it must be a network");
        }
    }
}
