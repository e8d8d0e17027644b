//! BGP configurations and peers.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::{Fault, Faults, NAME_RULE, address, is_subdomain, shown};
use crate::{BGPConfiguration, BGPConfigurationSpec, BGPPeer, BGPPeerSpec, parse_go_duration};

pub(super) const LOG_LEVELS: [&str; 6] = ["Trace", "Debug", "Info", "Warning", "Error", "Fatal"];

pub(crate) fn bgp_configuration(resource: &BGPConfiguration) -> Vec<Fault> {
    let mut faults = Faults::default();
    let spec = &resource.spec;
    let level = |level: &str| LOG_LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level));
    let rule = format!("it is one of {}", LOG_LEVELS.join(", "));
    faults.check_text("spec.logSeverityScreen", &spec.log_severity_screen, level, &rule);
    let aggregation = &spec.service_load_balancer_aggregation;
    let switch = |word: &str| matches!(word, "Enabled" | "Disabled");
    faults.check_text("spec.serviceLoadBalancerAggregation", aggregation, switch, "it is Enabled or Disabled");
    if let Some(port) = spec.listen_port {
        faults.check(port > 0, "spec.listenPort", port, "it must be 1 to 65535");
    }
    let bind = |mode: &str| matches!(mode, "None" | "NodeIP");
    faults.check_optional("spec.bindMode", spec.bind_mode.as_ref(), bind, "it is None or NodeIP");
    let ignored = |name: &str| name != "*" && (1..=15).contains(&name.len());
    let rule = "it must be 1 to 15 characters and more than a lone '*'";
    faults.check_each("spec.ignoredInterfaces", &spec.ignored_interfaces, ignored, rule);
    only_on_default(&mut faults, resource);
    services(&mut faults, spec);
    communities(&mut faults, spec);
    mesh(&mut faults, spec);
    let extra = |name: &str| spec.extra.get(name).map(shown).unwrap_or_default();
    let v4 = extra("localWorkloadPeeringIPV4");
    faults.check_text("spec.localWorkloadPeeringIPV4", &v4, address::is_ipv4, address::IPV4_RULE);
    let v6 = extra("localWorkloadPeeringIPV6");
    faults.check_text("spec.localWorkloadPeeringIPV6", &v6, address::is_ipv6, address::IPV6_RULE);
    let routes = ["Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly"];
    faults.one_of_extra(&spec.extra, "programClusterRoutes", &routes);
    faults.0
}

fn only_on_default(faults: &mut Faults, resource: &BGPConfiguration) {
    if resource.name() == "default" {
        return;
    }
    let spec = &resource.spec;
    for (name, given) in [
        ("nodeToNodeMeshEnabled", spec.node_to_node_mesh_enabled.is_some()),
        ("asNumber", spec.as_number.is_some()),
        ("serviceClusterIPs", !spec.service_cluster_ips.is_empty()),
        ("serviceExternalIPs", !spec.service_external_ips.is_empty()),
        ("serviceLoadBalancerIPs", !spec.service_load_balancer_ips.is_empty()),
        ("nodeMeshPassword", spec.node_mesh_password.is_some()),
        ("nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time.is_some()),
    ] {
        faults.check(!given, &format!("spec.{name}"), "", "it belongs to the BGPConfiguration named default only");
    }
}

fn services(faults: &mut Faults, spec: &BGPConfigurationSpec) {
    for (name, list) in [
        ("serviceClusterIPs", &spec.service_cluster_ips),
        ("serviceExternalIPs", &spec.service_external_ips),
        ("serviceLoadBalancerIPs", &spec.service_load_balancer_ips),
    ] {
        for (index, service) in list.iter().enumerate() {
            let path = format!("spec.{name}[{index}].cidr");
            let good = address::is_address_or_clean_network(&service.cidr);
            faults.check(good, &path, &service.cidr, address::CIDR_RULE);
        }
    }
}

fn communities(faults: &mut Faults, spec: &BGPConfigurationSpec) {
    const RULE: &str = "a community is aa:nn with 16-bit numbers, or aa:nn:mm with 32-bit numbers";
    let advertised = !spec.prefix_advertisements.is_empty();
    faults.check(spec.communities.is_empty() || advertised, "spec.communities", "", "no prefixAdvertisements use them");
    faults.check(spec.communities.len() <= 500, "spec.communities", spec.communities.len(), "there are more than 500");
    for (index, community) in spec.communities.iter().enumerate() {
        let path = format!("spec.communities[{index}].value");
        faults.check(is_community(&community.value), &path, &community.value, RULE);
    }
    let count = spec.prefix_advertisements.len();
    faults.check(count <= 500, "spec.prefixAdvertisements", count, "there are more than 500");
    for (index, advertisement) in spec.prefix_advertisements.iter().enumerate() {
        let path = format!("spec.prefixAdvertisements[{index}]");
        let good = address::is_address_or_clean_network(&advertisement.cidr);
        faults.check(good, &format!("{path}.cidr"), &advertisement.cidr, address::CIDR_RULE);
        let known = |name: &str| is_community(name) || spec.communities.iter().any(|community| community.name == name);
        let rule = "it is neither a community's value nor a name from spec.communities";
        faults.check_each(&format!("{path}.communities"), &advertisement.communities, known, rule);
        let count = advertisement.communities.len();
        faults.check(count <= 50, &format!("{path}.communities"), count, "there are more than 50");
    }
}

/// RFC 1997 (two 16-bit halves) or RFC 8092 (three 32-bit parts).
pub(super) fn is_community(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let digits = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    parts.iter().all(digits)
        && match parts.len() {
            2 => parts.iter().all(|part| part.parse::<u16>().is_ok()),
            3 => parts.iter().all(|part| part.parse::<u32>().is_ok()),
            _ => false,
        }
}

fn mesh(faults: &mut Faults, spec: &BGPConfigurationSpec) {
    let off = spec.node_to_node_mesh_enabled == Some(false);
    let reason = "it is for the node-to-node mesh, which is off";
    // The value of a password's reference is not repeated in messages.
    faults.check(!(off && spec.node_mesh_password.is_some()), "spec.nodeMeshPassword", "", reason);
    if let Some(time) = &spec.node_mesh_max_restart_time {
        faults.check(!off, "spec.nodeMeshMaxRestartTime", time, reason);
        faults.check(parse_go_duration(time).is_some(), "spec.nodeMeshMaxRestartTime", time, DURATION_RULE);
    }
}

pub(super) const DURATION_RULE: &str = "it must be a duration such as 90s or 1m30s";

pub(crate) fn bgp_peer(resource: &BGPPeer) -> Vec<Fault> {
    let mut faults = Faults::default();
    let spec = &resource.spec;
    faults.check_text("spec.node", &spec.node, is_subdomain, NAME_RULE);
    let both = !spec.node.is_empty() && !spec.node_selector.is_empty();
    faults.check(!both, "spec.nodeSelector", &spec.node_selector, "node and nodeSelector exclude each other");
    faults.selector("spec.nodeSelector", &spec.node_selector);
    faults.selector("spec.peerSelector", &spec.peer_selector);
    far_end(&mut faults, spec);
    options(&mut faults, spec);
    faults.0
}

fn text<'a>(spec: &'a BGPPeerSpec, name: &str) -> &'a str {
    spec.extra.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Who the neighbour is.
fn far_end(faults: &mut Faults, spec: &BGPPeerSpec) {
    let workloads = text(spec, "localWorkloadSelector");
    faults.selector("spec.localWorkloadSelector", workloads);
    let peer = peer_address(&spec.peer_ip);
    if !spec.peer_ip.is_empty() {
        let rule = "it must be an address, or address:port with an IPv6 address in brackets";
        faults.check(peer.is_some(), "spec.peerIP", &spec.peer_ip, rule);
        let alone = spec.peer_selector.is_empty() && workloads.is_empty();
        faults.check(alone, "spec.peerIP", &spec.peer_ip, "it excludes peerSelector and localWorkloadSelector");
    }
    if !spec.peer_selector.is_empty() {
        let reason = "it excludes asNumber, which comes from the selected nodes, and localWorkloadSelector";
        let alone = spec.as_number.is_none() && workloads.is_empty();
        faults.check(alone, "spec.peerSelector", &spec.peer_selector, reason);
    }
    if !workloads.is_empty() {
        faults.check(spec.as_number.is_some(), "spec.asNumber", "", "it is needed with localWorkloadSelector");
    }
    let gateway = text(spec, "reachableBy");
    if !gateway.is_empty() {
        match (gateway.parse::<IpAddr>(), peer) {
            (Err(_), _) => faults.add("spec.reachableBy", gateway, address::IP_RULE),
            (Ok(_), None) => faults.add("spec.reachableBy", gateway, "it needs a peerIP"),
            (Ok(gateway), Some(peer)) => {
                let reason = "it is of another address family than peerIP";
                faults.check(gateway.is_ipv4() == peer.is_ipv4(), "spec.reachableBy", gateway, reason);
            }
        }
    }
}

/// `v4`, `v4:port`, `v6` or `[v6]:port`.
fn peer_address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    text.parse::<SocketAddr>().ok().filter(|socket| socket.port() > 0).map(|socket| socket.ip())
}

fn options(faults: &mut Faults, spec: &BGPPeerSpec) {
    faults.one_of_extra(&spec.extra, "sourceAddress", &["UseNodeIP", "None"]);
    faults.one_of_extra(&spec.extra, "nextHopMode", &["Auto", "Self", "Keep"]);
    faults.one_of_extra(&spec.extra, "reversePeering", &["Auto", "Manual"]);
    if spec.keep_original_next_hop && spec.extra.contains_key("nextHopMode") {
        faults.add("spec.nextHopMode", text(spec, "nextHopMode"), "it excludes keepOriginalNextHop");
    }
    for name in ["maxRestartTime", "keepaliveTime"] {
        if let Some(value) = spec.extra.get(name) {
            let good = value.as_str().and_then(parse_go_duration).is_some();
            faults.check(good, &format!("spec.{name}"), shown(value), DURATION_RULE);
        }
    }
    if let Some(hops) = spec.extra.get("ttlSecurity") {
        let good = hops.as_u64().is_some_and(|hops| hops <= 255);
        faults.check(good, "spec.ttlSecurity", shown(hops), "it must be 0 to 255");
    }
    let filters: Vec<String> =
        spec.extra.get("filters").and_then(Value::as_array).into_iter().flatten().map(shown).collect();
    faults.check_each("spec.filters", &filters, is_subdomain, NAME_RULE);
}
