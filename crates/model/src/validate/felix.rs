//! Felix configurations: the settings that something here acts on, those that upstream restricts beyond their form, and
//! the rules that concern the object as a whole. The form of all others is checked where people type them
//! ([`crate::input`]).

use serde_json::Value;

use super::{Fault, Faults, address, bgp::LOG_LEVELS, shown};
use crate::{FelixConfiguration, FelixConfigurationSpec, Port, ProtoPort};

pub(crate) fn felix_configuration(resource: &FelixConfiguration) -> Vec<Fault> {
    let mut faults = Faults::default();
    let spec = &resource.spec;
    levels(&mut faults, spec);
    words(&mut faults, spec);
    for (name, ports) in [
        ("failsafeInboundHostPorts", &spec.failsafe_inbound_host_ports),
        ("failsafeOutboundHostPorts", &spec.failsafe_outbound_host_ports),
    ] {
        failsafe(&mut faults, &format!("spec.{name}"), ports.as_deref().unwrap_or_default());
    }
    nat(&mut faults, spec);
    routes(&mut faults, spec);
    let selector = spec.node_selector.as_deref().unwrap_or_default();
    faults.selector("spec.nodeSelector", selector);
    let fixed = resource.name() == "default" || resource.name().starts_with("node.");
    let reason = "default and node.<name> say by their name which nodes they concern";
    faults.check(selector.is_empty() || !fixed, "spec.nodeSelector", selector, reason);
    faults.0
}

fn levels(faults: &mut Faults, spec: &FelixConfigurationSpec) {
    let level = |level: &str| LOG_LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level));
    let rule = format!("it is one of {}", LOG_LEVELS.join(", "));
    faults.check_optional("spec.logSeverityScreen", spec.log_severity_screen.as_ref(), level, &rule);
    for name in ["logSeverityFile", "logSeveritySys"] {
        let value = spec.extra.get(name).map(shown).unwrap_or_default();
        faults.check_text(&format!("spec.{name}"), &value, level, &rule);
    }
}

/// The settings that are one of a few words, and whether their case matters.
fn words(faults: &mut Faults, spec: &FelixConfigurationSpec) {
    let allow: &[&str] = &["Accept", "Return"];
    let deny: &[&str] = &["Drop", "Reject"];
    let switch: &[&str] = &["Enabled", "Disabled"];
    for (name, given, words) in [
        ("defaultEndpointToHostAction", &spec.default_endpoint_to_host_action, ["Drop", "Accept", "Return"].as_slice()),
        ("iptablesFilterAllowAction", &spec.iptables_filter_allow_action, allow),
        ("iptablesMangleAllowAction", &spec.iptables_mangle_allow_action, allow),
        ("iptablesFilterDenyAction", &spec.iptables_filter_deny_action, deny),
        ("nftablesFilterAllowAction", &spec.nftables_filter_allow_action, allow),
        ("nftablesMangleAllowAction", &spec.nftables_mangle_allow_action, allow),
        ("nftablesFilterDenyAction", &spec.nftables_filter_deny_action, deny),
        ("chainInsertMode", &spec.chain_insert_mode, &["Insert", "Append"]),
    ] {
        let known = |text: &str| words.iter().any(|word| word.eq_ignore_ascii_case(text));
        let rule = format!("it is one of {}", words.join(", "));
        faults.check_optional(&format!("spec.{name}"), given.as_ref(), known, &rule);
    }
    for (name, given, words) in [
        ("serviceLoopPrevention", &spec.service_loop_prevention, ["Drop", "Reject", "Disabled"].as_slice()),
        ("workloadSourceSpoofing", &spec.workload_source_spoofing, &["Disabled", "Any"]),
        ("natOutgoingExclusions", &spec.nat_outgoing_exclusions, &["IPPoolsOnly", "IPPoolsAndHostIPs"]),
        ("floatingIPs", &spec.floating_ips, switch),
        ("nftablesMode", &spec.nftables_mode, &["Enabled", "Disabled", "Auto"]),
        ("iptablesBackend", &spec.iptables_backend, &["Legacy", "NFT", "Auto"]),
    ] {
        let rule = format!("it is one of {}", words.join(", "));
        faults.check_optional(&format!("spec.{name}"), given.as_ref(), |text| words.contains(&text), &rule);
    }
}

fn failsafe(faults: &mut Faults, path: &str, ports: &[ProtoPort]) {
    for (index, port) in ports.iter().enumerate() {
        let net = address::is_address_or_network(&port.net);
        let rule = "it must be an address or a network";
        faults.check(port.net.is_empty() || net, &format!("{path}[{index}].net"), &port.net, rule);
    }
}

fn nat(faults: &mut Faults, spec: &FelixConfigurationSpec) {
    let address = spec.nat_outgoing_address.as_ref();
    faults.check_optional("spec.natOutgoingAddress", address, address::is_ip, address::IP_RULE);
    if let Some(port @ Port::Name(_)) = &spec.nat_port_range {
        faults.add("spec.natPortRange", port, NUMBERS);
    }
    let ranges = spec.extra.get("kubeNodePortRanges").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    faults.check(ranges.len() <= 7, "spec.kubeNodePortRanges", ranges.len(), "there are more than 7");
    for (index, range) in ranges.iter().enumerate() {
        let number = shown(range).parse::<Port>().is_ok_and(|port| !matches!(port, Port::Name(_)));
        faults.check(number, &format!("spec.kubeNodePortRanges[{index}]"), shown(range), NUMBERS);
    }
}

const NUMBERS: &str = "it must be a port or a range of ports by number";

fn routes(faults: &mut Faults, spec: &FelixConfigurationSpec) {
    let text = |name: &str| spec.extra.get(name).map(shown).unwrap_or_default();
    for (name, good, rule) in [
        ("deviceRouteSourceAddress", address::is_ipv4 as fn(&str) -> bool, address::IPV4_RULE),
        ("deviceRouteSourceAddressIPv6", address::is_ipv6, address::IPV6_RULE),
    ] {
        faults.check_text(&format!("spec.{name}"), &text(name), good, rule);
    }
    let both = spec.extra.contains_key("routeTableRange") && spec.extra.contains_key("routeTableRanges");
    faults.check(!both, "spec.routeTableRanges", "", "it excludes routeTableRange");
    let nodes: Vec<String> =
        spec.extra.get("externalNodesList").and_then(Value::as_array).into_iter().flatten().map(shown).collect();
    let rule = "it must be an IPv4 address or network";
    faults.check_each("spec.externalNodesList", &nodes, address::is_v4_address_or_network, rule);
}
