//! From a workload endpoint's resource to what matters of it, or why it cannot be followed.

use std::net::IpAddr;

use calico_model::{Fault, MacAddress, WorkloadEndpointSpec};
use ipnet::IpNet;

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
}

/// Reads what holds on every host. An endpoint with a fault takes part in nothing: no interface, no set.
pub(crate) fn identity(spec: &WorkloadEndpointSpec) -> Result<Identity, Vec<Fault>> {
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
    if !spec.allow_spoofed_source_prefixes.is_empty() {
        let prefixes = spec.allow_spoofed_source_prefixes.join(", ");
        let reason = "source spoofing is disabled, and an endpoint that asks for it is closed";
        faults.push(Fault::new("spec.allowSpoofedSourcePrefixes", prefixes, reason));
    }
    if faults.is_empty() { Ok(Identity { addresses, mac }) } else { Err(faults) }
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
    if name.len() > MAX_INTERFACE_NAME {
        return fault(format!("interface names have at most {MAX_INTERFACE_NAME} bytes"));
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
        return fault("interface names consist of letters, digits, dots, dashes and underscores".into());
    }
    if !name.starts_with(INTERFACE_PREFIX) {
        return fault(format!("workload interfaces start with {INTERFACE_PREFIX}"));
    }
    Ok(())
}

/// Faults as one sentence.
pub(crate) fn sentence(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
