//! From an endpoint's resource to what matters of it, or why it cannot be followed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use calico_model::{EndpointPort, Fault, HostEndpointSpec, IPNat, MacAddress, QosControls, WorkloadEndpointSpec};
use calico_selector::scope::{NAMESPACE_LABEL, NAMESPACE_PREFIX, SERVICE_ACCOUNT_LABEL, SERVICE_ACCOUNT_PREFIX};
use ipnet::IpNet;

use crate::instruction::{HostInterfaces, Nat, PublishedPort, Qos};

/// What the names of workload interfaces start with.
pub const INTERFACE_PREFIX: &str = "cali";

/// The longest interface name that the kernel takes, in bytes.
const MAX_INTERFACE_NAME: usize = 15;

/// The parts of an endpoint that take part in policy anywhere in the cluster.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// In the order of the resource, without repeats; at least one.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) mac: Option<MacAddress>,
    /// Networks that it may use as source beside its addresses.
    pub(crate) spoofable: Vec<IpNet>,
}

/// Reads what holds on every host. An endpoint with a fault takes part in nothing: no interface, no set. One that asks
/// for foreign sources where the settings do not allow them (`spoofing`) is at fault: upstream closes it as a whole. Not
/// so the endpoints of Docker's networks: what they name are the single addresses of the same container in its other
/// networks, which it answers from by whichever of its interfaces has the default route.
pub(crate) fn identity_with(spec: &WorkloadEndpointSpec, spoofing: bool) -> Result<Identity, Vec<Fault>> {
    let spoofing = spoofing || (spec.orchestrator == "libnetwork" && names_single_sources(spec));
    let mut faults = Vec::new();
    let mut addresses = Vec::new();
    for (at, text) in spec.ip_networks.iter().enumerate() {
        match address(text) {
            Ok(address) if !addresses.contains(&address) => addresses.push(address),
            Ok(_) => {}
            Err(reason) => faults.push(Fault::new(format!("spec.ipNetworks[{at}]"), text, reason)),
        }
    }
    if spec.ip_networks.is_empty() {
        faults.push(Fault::new("spec.ipNetworks", "", "an endpoint without an address is as good as none"));
    }
    let mac = match spec.mac.as_str() {
        "" => None,
        text => text.parse().map_err(|reason: String| faults.push(Fault::new("spec.mac", text, reason))).ok(),
    };
    let spoofable = match spoofing {
        true => spoofable(spec, &mut faults),
        false => Vec::new(),
    };
    if !spoofing && !spec.allow_spoofed_source_prefixes.is_empty() {
        let prefixes = spec.allow_spoofed_source_prefixes.join(", ");
        let reason = "source spoofing is disabled, and an endpoint that asks for it is closed";
        faults.push(Fault::new("spec.allowSpoofedSourcePrefixes", prefixes, reason));
    }
    if faults.is_empty() { Ok(Identity { addresses, mac, spoofable }) } else { Err(faults) }
}

/// True if every source that the endpoint asks for is one address.
fn names_single_sources(spec: &WorkloadEndpointSpec) -> bool {
    let single = |text: &String| network(text).is_some_and(|net| net.prefix_len() == net.max_prefix_len());
    spec.allow_spoofed_source_prefixes.iter().all(single)
}

fn spoofable(spec: &WorkloadEndpointSpec, faults: &mut Vec<Fault>) -> Vec<IpNet> {
    let mut nets = Vec::new();
    for (at, text) in spec.allow_spoofed_source_prefixes.iter().enumerate() {
        match network(text) {
            Some(net) => nets.push(net),
            None => {
                let path = format!("spec.allowSpoofedSourcePrefixes[{at}]");
                faults.push(Fault::new(path, text, "not a network"));
            }
        }
    }
    nets.sort_unstable();
    nets.dedup();
    nets
}

/// A network, without bits behind its prefix, or an address as one.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok().map(|net| net.trunc())
}

fn address(text: &str) -> Result<IpAddr, &'static str> {
    let address = match text.parse::<IpNet>() {
        Ok(net) if net.prefix_len() == net.max_prefix_len() => net.addr(),
        Ok(_) => return Err("an endpoint has single addresses (/32 or /128), not networks"),
        Err(_) => text.parse::<IpAddr>().map_err(|_| "not an IP address")?,
    };
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return Err("no workload can have this address");
    }
    Ok(address)
}

/// Checks what only the endpoint's own host needs.
pub(crate) fn interface(spec: &WorkloadEndpointSpec) -> Result<(), Fault> {
    let name = spec.interface_name.as_str();
    let fault = |reason: String| Err(Fault::new("spec.interfaceName", name, reason));
    if name.is_empty() {
        return fault("the host's end of the veth pair is not named".into());
    }
    interface_name(name).or_else(fault)?;
    if !name.starts_with(INTERFACE_PREFIX) {
        return fault(format!("workload interfaces start with {INTERFACE_PREFIX}"));
    }
    Ok(())
}

fn interface_name(name: &str) -> Result<(), String> {
    if name.len() > MAX_INTERFACE_NAME {
        return Err(format!("interface names have at most {MAX_INTERFACE_NAME} bytes"));
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
        return Err("interface names consist of letters, digits, dots, dashes and underscores".into());
    }
    Ok(())
}

/// The labels that selectors see of a workload endpoint itself, of those that are stored, in the order of their keys.
/// Its namespace is where it is stored, whatever it says. Labels of namespaces and service accounts come from profiles
/// only: nobody may give them to an endpoint of his own.
pub(crate) fn labels<'a>(
    stored: &'a BTreeMap<String, String>,
    namespace: Option<&'a str>,
    spec: &'a WorkloadEndpointSpec,
) -> Vec<(&'a str, &'a str)> {
    let reserved = |key: &str| key.starts_with(NAMESPACE_PREFIX) || key.starts_with(SERVICE_ACCOUNT_PREFIX);
    let own = stored.iter().map(|(key, value)| (key.as_str(), value.as_str())).filter(|(key, _)| !reserved(key));
    let mut labels = Vec::with_capacity(stored.len() + 2);
    labels.extend(own);
    let account = Some(spec.service_account_name.as_str()).filter(|name| !name.is_empty());
    for (key, value) in [(NAMESPACE_LABEL, namespace), (SERVICE_ACCOUNT_LABEL, account)] {
        let Some(value) = value else { continue };
        match labels.binary_search_by_key(&key, |&(key, _)| key) {
            Ok(place) => labels[place].1 = value,
            Err(place) => labels.insert(place, (key, value)),
        }
    }
    labels
}

/// The ports that rules may name: name, protocol number, port. One without a name, or of a protocol that has no ports,
/// cannot be meant.
pub(crate) fn named_ports(ports: &[EndpointPort]) -> impl Iterator<Item = (&str, u8, u16)> {
    ports
        .iter()
        .filter(|port| !port.name.is_empty() && port.protocol.has_ports())
        .filter_map(|port| Some((port.name.as_str(), port.protocol.number()?, port.port)))
}

/// The floating addresses, of those that belong to addresses of the endpoint; sorted.
pub(crate) fn nats(nats: &[IPNat], addresses: &[IpAddr]) -> Vec<Nat> {
    let mut found: Vec<Nat> = nats
        .iter()
        .filter_map(|nat| {
            Some(Nat { internal: nat.internal_ip.parse().ok()?, external: nat.external_ip.parse().ok()? })
        })
        .filter(|nat| addresses.contains(&nat.internal) && nat.internal.is_ipv4() == nat.external.is_ipv4())
        .collect();
    found.sort_unstable_by_key(|nat| (nat.external, nat.internal));
    found.dedup();
    found
}

/// The ports of the host that lead to the endpoint's first address of their family; sorted. Without an address, or
/// where the address cannot be read, of which family it is: of both, or of none.
pub(crate) fn published(ports: &[EndpointPort], addresses: &[IpAddr]) -> Vec<PublishedPort> {
    let own = |host: IpAddr| addresses.iter().copied().find(|own| own.is_ipv4() == host.is_ipv4());
    let mut found = Vec::new();
    for port in ports.iter().filter(|port| port.protocol.has_ports() && port.port > 0) {
        let (Some(protocol), Some(host_port @ 1..)) = (port.protocol.number(), port.host_port) else { continue };
        let hosts = match port.host_ip.as_deref() {
            None | Some("") => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            Some(text) => text.parse::<IpAddr>().into_iter().collect(),
        };
        let led = hosts.into_iter().filter_map(|host| Some((host, own(host)?)));
        found.extend(led.map(|(host, address)| PublishedPort { protocol, host_port, host, address, port: port.port }));
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Limits; what is absent, zero or negative is none.
pub(crate) fn qos(controls: Option<&QosControls>) -> Qos {
    let Some(controls) = controls else { return Qos::default() };
    let limit =
        |value: Option<i64>| value.filter(|&value| value > 0).map(|value| u32::try_from(value).unwrap_or(u32::MAX));
    Qos {
        ingress_packet_rate: limit(controls.ingress_packet_rate),
        ingress_packet_burst: limit(controls.ingress_packet_burst),
        egress_packet_rate: limit(controls.egress_packet_rate),
        egress_packet_burst: limit(controls.egress_packet_burst),
        ingress_max_connections: limit(controls.ingress_max_connections),
        egress_max_connections: limit(controls.egress_max_connections),
        dscp: controls.dscp.as_ref().and_then(dscp),
    }
}

/// A DSCP by number or by its name (RFC 2474, 2597, 3246, 5865, 8622).
fn dscp(value: &serde_json::Value) -> Option<u8> {
    let text = match value {
        serde_json::Value::String(text) => text.to_ascii_uppercase(),
        other => other.to_string(),
    };
    let digits = |prefix: &str| text.strip_prefix(prefix)?.parse::<u8>().ok();
    let number = match text.as_str() {
        "DF" => 0,
        "EF" => 46,
        "VA" => 44,
        "LE" => 1,
        _ => match (digits("CS"), digits("AF")) {
            (Some(class @ 0..=7), _) => class * 8,
            (_, Some(code)) if (1..=4).contains(&(code / 10)) && (1..=3).contains(&(code % 10)) => {
                code / 10 * 8 + code % 10 * 2
            }
            _ => text.parse().ok()?,
        },
    };
    (number < 64).then_some(number)
}

/// Where a host endpoint is.
#[derive(Debug)]
pub(crate) struct HostPlace {
    /// `None` if nothing can be said: then nothing can be closed either.
    pub(crate) interfaces: Option<HostInterfaces>,
    /// Sorted, without repeats.
    pub(crate) addresses: Vec<IpAddr>,
    faults: Vec<Fault>,
}

impl HostPlace {
    /// What is wrong with it, if anything is.
    pub(crate) fn fault(&self) -> Option<String> {
        (!self.faults.is_empty()).then(|| sentence(&self.faults))
    }
}

/// Reads where a host endpoint is. A fault does not keep it from standing where it can be seen to stand: there it closes.
pub(crate) fn host_interfaces(spec: &HostEndpointSpec) -> HostPlace {
    let mut faults = Vec::new();
    let mut addresses = Vec::new();
    for (at, text) in spec.expected_ips.iter().enumerate() {
        match text.parse::<IpAddr>() {
            Ok(address) => addresses.push(address),
            Err(_) => faults.push(Fault::new(format!("spec.expectedIPs[{at}]"), text, "not an IP address")),
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    let interfaces = match spec.interface_name.as_str() {
        "*" => Some(HostInterfaces::AnyInterface),
        "" => {
            if spec.expected_ips.is_empty() {
                faults.push(Fault::new("spec.interfaceName", "", "either this or expectedIPs must be given"));
            }
            (!addresses.is_empty()).then(|| HostInterfaces::WithAddress(addresses.clone()))
        }
        name => match interface_name(name) {
            Ok(()) => Some(HostInterfaces::Named(name.to_owned())),
            Err(reason) => {
                faults.push(Fault::new("spec.interfaceName", name, reason));
                None
            }
        },
    };
    HostPlace { interfaces, addresses, faults }
}

/// Faults as one sentence.
pub(crate) fn sentence(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_endpoint_of_a_docker_network_may_answer_from_its_container_s_other_addresses() {
        let spec = |orchestrator: &str, source: &str| WorkloadEndpointSpec {
            orchestrator: orchestrator.to_owned(),
            ip_networks: vec!["10.0.0.1/32".to_owned()],
            allow_spoofed_source_prefixes: vec![source.to_owned()],
            ..WorkloadEndpointSpec::default()
        };
        let identity = identity_with(&spec("libnetwork", "10.0.0.2/32"), false).unwrap();
        assert_eq!(identity.spoofable, ["10.0.0.2/32".parse().unwrap()]);
        assert!(identity_with(&spec("libnetwork", "fd00::2/128"), false).is_ok());
        assert!(identity_with(&spec("libnetwork", "10.0.0.0/24"), false).is_err(), "a network is more than a sibling");
        assert!(identity_with(&spec("docker", "10.0.0.2/32"), false).is_err());
        assert!(identity_with(&spec("docker", "10.0.0.2/32"), true).is_ok());
    }
}
