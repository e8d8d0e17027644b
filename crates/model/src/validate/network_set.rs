//! Network sets.

use super::{Fault, Faults, address};
use crate::{Metadata, NetSetSpec};

pub(crate) fn network_set(metadata: &Metadata, spec: &NetSetSpec) -> Vec<Fault> {
    let mut faults = Faults::default();
    let rule = "it must be a network or an address, such as 10.0.0.0/16, 10.0.0.1 or fd00::/64";
    faults.check_each("spec.nets", &spec.nets, address::is_address_or_network, rule);
    let taken = metadata.labels.get(calico_selector::scope::NAMESPACE_LABEL);
    if let Some(value) = taken {
        faults.add("metadata.labels", value, "the label projectcalico.org/namespace is given by its namespace");
    }
    faults.0
}
