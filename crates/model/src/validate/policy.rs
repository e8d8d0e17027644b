//! Policies.

use super::{Fault, Faults, rules};
use crate::{Direction, KindName, PolicySpec, StagedKubernetesNetworkPolicy};

pub(crate) fn policy(kind: KindName, spec: &PolicySpec) -> Vec<Fault> {
    let mut faults = Faults::default();
    let _ = kind;
    faults.selector("spec.selector", &spec.selector);
    faults.selector("spec.serviceAccountSelector", &spec.service_account_selector);
    faults.selector("spec.namespaceSelector", &spec.namespace_selector);
    faults.0.extend(rules("spec.ingress", Direction::Ingress, &spec.ingress));
    faults.0.extend(rules("spec.egress", Direction::Egress, &spec.egress));
    faults.0
}

pub(crate) fn staged_kubernetes(resource: &StagedKubernetesNetworkPolicy) -> Vec<Fault> {
    let mut faults = Faults::default();
    let known = |action: &str| matches!(action, "Set" | "Delete" | "Learn" | "Ignore");
    faults.check_text("spec.stagedAction", &resource.spec.staged_action, known, "it is Set, Delete, Learn or Ignore");
    faults.0
}
