//! Kinds with a few rules each.

use super::{Fault, Faults, is_subdomain};
use crate::{BlockAffinity, CalicoNodeStatus, IPAMConfiguration};

pub(crate) fn block_affinity(resource: &BlockAffinity) -> Vec<Fault> {
    let mut faults = Faults::default();
    let known = |state: &str| matches!(state, "confirmed" | "pending" | "pendingDeletion");
    faults.check_text("spec.state", &resource.spec.state, known, "it is confirmed, pending or pendingDeletion");
    let deleted = resource.spec.deleted.0;
    faults.check(!deleted, "spec.deleted", deleted, "it is set while the affinity is deleted, by nobody else");
    faults.0
}

pub(crate) fn ipam_configuration(resource: &IPAMConfiguration) -> Vec<Fault> {
    let mut faults = Faults::default();
    let spec = &resource.spec;
    let blocks = spec.max_blocks_per_host;
    faults.check((0..=1_000_000).contains(&blocks), "spec.maxBlocksPerHost", blocks, "it must be 0 to 1000000");
    let known = |word: &str| matches!(word, "Enabled" | "Disabled");
    let persistence = spec.kube_virt_vm_address_persistence.as_ref();
    faults.check_optional("spec.kubeVirtVMAddressPersistence", persistence, known, "it is Enabled or Disabled");
    if let Some(seconds) = spec.ip_cooldown_seconds {
        faults.check((0..=1200).contains(&seconds), "spec.ipCooldownSeconds", seconds, "it must be 0 to 1200");
    }
    faults.0
}

pub(crate) fn node_status(resource: &CalicoNodeStatus) -> Vec<Fault> {
    let mut faults = Faults::default();
    let spec = &resource.spec;
    let node = spec.node.len() <= 253 && is_subdomain(&spec.node);
    faults.check(node, "spec.node", &spec.node, "it must be the name of a node");
    faults.check(!spec.classes.is_empty(), "spec.classes", "", "it must name at least one of Agent, BGP, Routes");
    let known = |class: &str| matches!(class, "Agent" | "BGP" | "Routes");
    faults.check_each("spec.classes", &spec.classes, known, "it is Agent, BGP or Routes");
    for (index, class) in spec.classes.iter().enumerate() {
        let first = !spec.classes[..index].contains(class);
        faults.check(first, &format!("spec.classes[{index}]"), class, "it is given twice");
    }
    match spec.update_period_seconds {
        Some(period) => faults.check(period <= 86_400, "spec.updatePeriodSeconds", period, "it must be 0 to 86400"),
        None => faults.add("spec.updatePeriodSeconds", "", "it is missing"),
    }
    faults.0
}
