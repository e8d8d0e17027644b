//! Workload and host endpoints.

use super::{Fault, Faults, NAME_RULE, address, is_interface, is_port_name, is_subdomain};
use crate::{EndpointPort, HostEndpoint, WorkloadEndpoint, WorkloadEndpointSpec, WorkloadName};

const INTERFACE_RULE: &str = "it must be 1 to 15 letters, digits, '_', '.' and '-', or '*'";

pub(crate) fn workload_endpoint(resource: &WorkloadEndpoint) -> Vec<Fault> {
    let mut faults = Faults::default();
    let spec = &resource.spec;
    workload_identity(&mut faults, resource);
    faults.check_text("spec.serviceAccountName", &spec.service_account_name, is_subdomain, NAME_RULE);
    faults.check_each("spec.profiles", &spec.profiles, is_subdomain, NAME_RULE);
    faults.check(is_interface(&spec.interface_name), "spec.interfaceName", &spec.interface_name, INTERFACE_RULE);
    faults.check_text("spec.mac", &spec.mac, address::is_mac, "it is not a MAC address");
    let one = |text: &str| address::single_address(text).is_some();
    faults.check_each("spec.ipNetworks", &spec.ip_networks, one, "it must be one address, a /32 or a /128");
    nats(&mut faults, spec);
    faults.check_text("spec.ipv4Gateway", &spec.ipv4_gateway, address::is_ipv4, address::IPV4_RULE);
    faults.check_text("spec.ipv6Gateway", &spec.ipv6_gateway, address::is_ipv6, address::IPV6_RULE);
    let prefixes = &spec.allow_spoofed_source_prefixes;
    let rule = "it must be an address or a network";
    faults.check_each("spec.allowSpoofedSourcePrefixes", prefixes, address::is_address_or_network, rule);
    for (index, port) in spec.ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        endpoint_port(&mut faults, &path, port);
        faults.check_text(&format!("{path}.name"), &port.name, is_port_name, PORT_NAME_RULE);
        let reachable = !port.name.is_empty() || port.host_port.unwrap_or(0) > 0;
        faults.check(reachable, &format!("{path}.name"), "", "a port needs a name or a hostPort");
    }
    faults.0
}

/// The parts of the name, and the name that they make.
fn workload_identity(faults: &mut Faults, resource: &WorkloadEndpoint) {
    let spec = &resource.spec;
    for (name, part) in [
        ("node", &spec.node),
        ("orchestrator", &spec.orchestrator),
        ("workload", &spec.workload),
        ("endpoint", &spec.endpoint),
        ("pod", &spec.pod),
    ] {
        faults.check_text(&format!("spec.{name}"), part, is_subdomain, NAME_RULE);
    }
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let id = |id: &str| id.bytes().all(inner) && !id.starts_with('-') && !id.ends_with('-');
    faults.check_text("spec.containerID", &spec.container_id, id, "it must be letters, digits and inner dashes");

    let workload = match spec.orchestrator.as_str() {
        "k8s" => Some("pod"),
        "cni" => Some("containerID"),
        "libnetwork" => None,
        _ => Some("workload"),
    };
    let name = WorkloadName::of(spec);
    let parts = [
        (Some("node"), name.node),
        (Some("orchestrator"), name.orchestrator),
        (workload, name.workload),
        (Some("endpoint"), name.endpoint),
    ];
    for (field, part) in parts {
        let Some(field) = field.filter(|_| part.is_empty()) else { continue };
        faults.add(format!("spec.{field}"), "", "it is missing, and the endpoint's name is made of it");
    }
    if let Ok(expected) = &name.build() {
        let reason = format!("the name made of node, orchestrator, workload and endpoint is {expected}");
        faults.check(resource.name() == expected, "metadata.name", resource.name(), &reason);
    }
}

fn nats(faults: &mut Faults, spec: &WorkloadEndpointSpec) {
    for (index, nat) in spec.ip_nats.iter().enumerate() {
        let path = format!("spec.ipNATs[{index}]");
        faults.check(
            address::is_ip(&nat.external_ip),
            &format!("{path}.externalIP"),
            &nat.external_ip,
            address::IP_RULE,
        );
        let internal = address::single_address(&nat.internal_ip);
        let own =
            internal.is_some() && spec.ip_networks.iter().any(|network| address::single_address(network) == internal);
        faults.check(own, &format!("{path}.internalIP"), &nat.internal_ip, "it is none of the endpoint's addresses");
        let same = address::is_ipv4(&nat.internal_ip) == address::is_ipv4(&nat.external_ip);
        faults.check(same, &path, &nat.external_ip, "the two addresses are of different families");
    }
}

pub(crate) fn host_endpoint(resource: &HostEndpoint) -> Vec<Fault> {
    let mut faults = Faults::default();
    let spec = &resource.spec;
    if spec.node.is_empty() {
        faults.add("spec.node", "", "it is missing: the host that the interface belongs to");
    }
    faults.check_text("spec.node", &spec.node, |node| is_subdomain(node) && node.len() <= 253, NAME_RULE);
    faults.check_text("spec.interfaceName", &spec.interface_name, is_interface, INTERFACE_RULE);
    let found = !spec.interface_name.is_empty() || !spec.expected_ips.is_empty();
    faults.check(found, "spec.interfaceName", "", "either this or expectedIPs must be given");
    faults.check_each("spec.expectedIPs", &spec.expected_ips, address::is_ip, address::IP_RULE);
    faults.check_each("spec.profiles", &spec.profiles, is_subdomain, NAME_RULE);
    for (index, port) in spec.ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        endpoint_port(&mut faults, &path, port);
        faults.check(is_port_name(&port.name), &format!("{path}.name"), &port.name, PORT_NAME_RULE);
    }
    faults.0
}

const PORT_NAME_RULE: &str = "a port name is 1 to 15 lower-case letters, digits and single inner dashes, at least one \
                              letter";

fn endpoint_port(faults: &mut Faults, path: &str, port: &EndpointPort) {
    let rule = "it must be TCP, UDP or SCTP";
    faults.check(port.protocol.has_ports(), &format!("{path}.protocol"), &port.protocol, rule);
    faults.check(port.port > 0, &format!("{path}.port"), port.port, "ports start at 1");
}
