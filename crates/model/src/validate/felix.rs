//! Felix configurations: the settings that this version acts on, and the rules that concern the object as a whole.
//! Other settings are checked for their form where people type them ([`crate::input`]).

use super::{Fault, Faults, bgp::LOG_LEVELS, shown};
use crate::FelixConfiguration;

pub(crate) fn felix_configuration(resource: &FelixConfiguration) -> Vec<Fault> {
    let mut faults = Faults::default();
    let spec = &resource.spec;
    let level = |level: &str| LOG_LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level));
    let rule = format!("it is one of {}", LOG_LEVELS.join(", "));
    faults.check_optional("spec.logSeverityScreen", spec.log_severity_screen.as_ref(), level, &rule);
    for name in ["logSeverityFile", "logSeveritySys"] {
        let value = spec.extra.get(name).map(shown).unwrap_or_default();
        faults.check_text(&format!("spec.{name}"), &value, level, &rule);
    }
    let action = |word: &str| ["drop", "accept", "return"].contains(&word.to_ascii_lowercase().as_str());
    let given = spec.default_endpoint_to_host_action.as_ref();
    faults.check_optional("spec.defaultEndpointToHostAction", given, action, "it is Drop, Accept or Return");
    let selector = spec.node_selector.as_deref().unwrap_or_default();
    faults.selector("spec.nodeSelector", selector);
    let fixed = resource.name() == "default" || resource.name().starts_with("node.");
    let reason = "default and node.<name> say by their name which nodes they concern";
    faults.check(selector.is_empty() || !fixed, "spec.nodeSelector", selector, reason);
    faults.0
}
