//! BGP filters.

use super::{Fault, Faults};
use crate::BGPFilter;

pub(crate) fn bgp_filter(resource: &BGPFilter) -> Vec<Fault> {
    let mut faults = Faults::default();
    let spec = &resource.spec;
    let lists = [
        ("exportV4", &spec.export_v4),
        ("importV4", &spec.import_v4),
        ("exportV6", &spec.export_v6),
        ("importV6", &spec.import_v6),
    ];
    for (name, rules) in lists {
        for (index, rule) in rules.iter().enumerate() {
            let good = matches!(rule.action.as_str(), "Accept" | "Reject");
            faults.check(good, &format!("spec.{name}[{index}].action"), &rule.action, "it is Accept or Reject");
        }
    }
    faults.0
}
