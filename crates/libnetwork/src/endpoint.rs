//! From Docker's endpoint to Calico's: names, addresses, ports, and what makes it open.
//!
//! All of it is pure. An endpoint is written twice: when Docker makes it, with addresses and without any profile, so
//! that nothing passes; and when it is known whose it is, with the labels of its container and the profiles of its
//! networks ([`open`]). What the second step gave is noted in annotations, so that later rounds only add and take what
//! has changed and leave alone what people changed by hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use calico_model::{EndpointPort, MacAddress, ProfileName, Protocol, Resource, WorkloadEndpoint, WorkloadEndpointSpec};
use ipnet::IpNet;

use crate::protocol::{Interface, PortBinding};

/// Namespace, orchestrator and workload of all endpoints of Docker's networks, as upstream's plugin had them.
pub(crate) const LIBNETWORK: &str = "libnetwork";

/// The workload as people call it; `calicoctl` shows it.
pub(crate) const ANNOTATION_WORKLOAD: &str = "org.projectcalico/workload-name";
/// The container's id.
pub(crate) const ANNOTATION_CONTAINER: &str = "org.projectcalico/docker-container";
/// The id of the network of which Docker made the endpoint.
pub(crate) const ANNOTATION_NETWORK: &str = "org.projectcalico/docker-network";
/// The profiles that the endpoint was given for its networks, by commas.
pub(crate) const ANNOTATION_PROFILES: &str = "org.projectcalico/docker-profiles";
/// Why the endpoint is closed.
pub(crate) const ANNOTATION_CLOSED: &str = "org.projectcalico/closed-because";

/// A label of a container whose name begins so is one of its endpoints.
const LABEL_PREFIX: &str = "org.projectcalico.label.";

/// Docker's id of an endpoint, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointId(String);

impl EndpointId {
    /// Takes what Docker sent.
    ///
    /// # Errors
    /// It is not an id: other things become part of names of interfaces and keys.
    pub(crate) fn parse(id: &str) -> Result<Self, String> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if id.len() == 64 && id.bytes().all(hex) {
            return Ok(Self(id.to_owned()));
        }
        Err(format!("{id:?} is not the id of an endpoint: 64 hexadecimal digits"))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The host's end of the pair, upstream's rule.
    pub(crate) fn host_interface(&self) -> String {
        format!("cali{}", &self.0[..11])
    }

    /// The container's end until Docker moves it; a name that no rule takes for a workload's.
    pub(crate) fn container_interface(&self) -> String {
        format!("temp{}", &self.0[..11])
    }

    /// Bytes of the id, which Docker draws at random.
    fn bytes<const N: usize>(&self, from: usize) -> [u8; N] {
        std::array::from_fn(|at| {
            let place = 2 * (from + at);
            u8::from_str_radix(&self.0[place..place + 2], 16).expect("an id is hexadecimal digits")
        })
    }

    /// A MAC address, locally administered.
    pub(crate) fn mac(&self) -> MacAddress {
        let [a, b, c, d, e] = self.bytes(8);
        MacAddress([0x02, a, b, c, d, e])
    }

    /// The gateway of the endpoint's default route: link-local, another one for each endpoint, so that a container with
    /// several networks can tell them apart. The network that clouds have their metadata on is left out.
    pub(crate) fn gateway4(&self) -> Ipv4Addr {
        let [a, b] = self.bytes(16);
        // RFC 3927 §2.1 keeps the first and the last 256 addresses.
        let third = match 1 + a % 253 {
            169 => 254,
            third => third,
        };
        Ipv4Addr::new(169, 254, third, 1 + b % 254)
    }

    /// The same for IPv6.
    pub(crate) fn gateway6(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.bytes(20);
        let pair = |high, low| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0xca11, pair(a, b), pair(c, d), pair(e, f))
    }
}

/// The addresses of an interface that Docker describes, IPv4 first.
///
/// # Errors
/// One cannot be read, or there is none.
pub(crate) fn addresses(interface: &Interface) -> Result<Vec<IpAddr>, String> {
    let mut found = Vec::new();
    for text in [&interface.address, &interface.address_ipv6] {
        if text.is_empty() {
            continue;
        }
        let bare = text.split('/').next().unwrap_or_default();
        found.push(bare.parse().map_err(|_| format!("{text:?} is not an address"))?);
    }
    if found.is_empty() {
        return Err("the endpoint has no address; the network needs --ipam-driver calico-ipam".to_owned());
    }
    Ok(found)
}

/// The endpoint as it is first stored: closed.
pub(crate) fn closed(
    node: &str,
    id: &EndpointId,
    network: &str,
    addresses: &[IpAddr],
    mac: MacAddress,
) -> WorkloadEndpoint {
    let has = |v4: bool| addresses.iter().any(|address| address.is_ipv4() == v4);
    let spec = WorkloadEndpointSpec {
        orchestrator: LIBNETWORK.to_owned(),
        workload: LIBNETWORK.to_owned(),
        node: node.to_owned(),
        endpoint: id.as_str().to_owned(),
        ip_networks: addresses.iter().map(|address| IpNet::from(*address).to_string()).collect(),
        ipv4_gateway: if has(true) { id.gateway4().to_string() } else { String::new() },
        ipv6_gateway: if has(false) { id.gateway6().to_string() } else { String::new() },
        interface_name: id.host_interface(),
        mac: mac.to_string(),
        ..WorkloadEndpointSpec::default()
    };
    let mut endpoint = Resource::namespaced(LIBNETWORK, "", spec);
    endpoint.metadata.annotations.insert(ANNOTATION_NETWORK.to_owned(), network.to_owned());
    endpoint
}

/// The addresses of a stored endpoint.
pub(crate) fn stored_addresses(endpoint: &WorkloadEndpoint) -> impl Iterator<Item = IpAddr> + '_ {
    endpoint.spec.ip_networks.iter().filter_map(|net| net.split('/').next()?.parse().ok())
}

/// A port of the host that is to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// IANA's number.
    pub protocol: u8,
    /// The unspecified one for all addresses of the host and of its family.
    pub address: IpAddr,
    pub port: u16,
}

/// The protocols that ports have, with the name that the network's profile lets in.
pub(crate) const PUBLISHED: [(&str, &str); 3] =
    [("TCP", "published-tcp"), ("UDP", "published-udp"), ("SCTP", "published-sctp")];

/// The ports of an endpoint for what Docker publishes. Of a range of host ports, and of `dynamic` where none was chosen,
/// the first is used that neither one of the `others` nor a process of the host has; `probe` says of a port why it
/// cannot be had, and is asked for each of `everywhere` ([`everywhere`]) where no address was chosen.
///
/// # Errors
/// A port that cannot be published, in words for the user of `docker run`.
pub(crate) fn ports(
    bindings: &[PortBinding],
    others: &[(String, EndpointPort)],
    dynamic: RangeInclusive<u16>,
    everywhere: &[IpAddr],
    mut probe: impl FnMut(HostPort) -> Result<(), String>,
) -> Result<Vec<EndpointPort>, String> {
    let mut ports: Vec<EndpointPort> = Vec::new();
    for binding in bindings {
        let (protocol, name) = match binding.protocol {
            6 => PUBLISHED[0],
            17 => PUBLISHED[1],
            132 => PUBLISHED[2],
            other => return Err(format!("protocol {other} cannot be published: TCP, UDP and SCTP can")),
        };
        if binding.port == 0 {
            return Err("port 0 of a container cannot be published".to_owned());
        }
        let host_ip = host_ip(&binding.host_ip)?;
        let range = match (binding.host_port, binding.host_port_end) {
            (0, _) => dynamic.clone(),
            (first, last) => first..=last.max(first),
        };
        let wanted = |host_port| EndpointPort {
            name: name.to_owned(),
            protocol: Protocol::from(protocol),
            port: binding.port,
            host_port: Some(host_port),
            host_ip: Some(host_ip.clone()),
            extra: serde_json::Map::new(),
        };
        let chosen = host_ip.parse().ok().map(|address| [address]);
        let places = chosen.as_ref().map_or(everywhere, |one| one);
        let mut reason = String::new();
        let free = range.clone().find_map(|host_port| {
            let port = wanted(host_port);
            if let Some((holder, _)) = others.iter().find(|(_, other)| collide(other, &port)) {
                reason = format!("port is already allocated by {holder}");
                return None;
            }
            if ports.iter().any(|own| collide(own, &port) && *own != port) {
                "port is already allocated by this container".clone_into(&mut reason);
                return None;
            }
            let mut ask =
                |address: &IpAddr| probe(HostPort { protocol: binding.protocol, address: *address, port: host_port });
            match places.iter().try_for_each(&mut ask) {
                Ok(()) => Some(port),
                Err(cause) => {
                    reason = cause;
                    None
                }
            }
        });
        let Some(port) = free else {
            let place = if host_ip.is_empty() { "0.0.0.0" } else { &host_ip };
            return Err(format!("Bind for {place}:{} failed: {reason}", range.start()));
        };
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    Ok(ports)
}

/// An address to publish on, empty for all of them.
fn host_ip(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let address: IpAddr = text.parse().map_err(|_| format!("{text:?} is not an address of this host"))?;
    Ok(if address.is_unspecified() { String::new() } else { address.to_string() })
}

/// What all addresses of the host are for an endpoint's ports: the unspecified address of each family that it has.
pub(crate) fn everywhere(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let of = |address: IpAddr| match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let families: BTreeSet<IpAddr> = addresses.map(of).collect();
    families.into_iter().collect()
}

/// True if two ports of different endpoints cannot both be published.
pub(crate) fn collide(one: &EndpointPort, other: &EndpointPort) -> bool {
    let ip = |port: &EndpointPort| port.host_ip.clone().unwrap_or_default();
    let taken = one.host_port.unwrap_or(0);
    let all = ip(one).is_empty() || ip(other).is_empty();
    taken != 0 && one.protocol == other.protocol && one.host_port == other.host_port && (all || ip(one) == ip(other))
}

/// Whose an endpoint is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The container's id.
    pub container: String,
    /// Its name.
    pub name: String,
    /// All its labels.
    pub labels: BTreeMap<String, String>,
    /// The profiles of all its networks.
    pub profiles: BTreeSet<ProfileName>,
    /// The addresses of all its endpoints: what comes in at one is answered by the default route, maybe at another.
    pub siblings: BTreeSet<IpAddr>,
    /// Why it cannot be opened, whatever its labels say: a network of it that cannot be a profile.
    pub obstacle: Option<String>,
}

/// The endpoint as it is to be stored now that its owner is known; the same as before if nothing has to change.
pub(crate) fn open(endpoint: &WorkloadEndpoint, owner: &Owner) -> WorkloadEndpoint {
    let mut opened = endpoint.clone();
    let notes = &mut opened.metadata.annotations;
    notes.insert(ANNOTATION_WORKLOAD.to_owned(), owner.name.clone());
    notes.insert(ANNOTATION_CONTAINER.to_owned(), owner.container.clone());
    let given = notes.get(ANNOTATION_PROFILES).cloned();
    if given.is_none() {
        let with_labels = labelled(endpoint, owner);
        match owner.obstacle.clone().map_or(with_labels, Err) {
            Ok(labels) => opened.metadata.labels = labels,
            Err(reason) => {
                opened.metadata.annotations.insert(ANNOTATION_CLOSED.to_owned(), reason);
                return opened;
            }
        }
    }
    let given: BTreeSet<&str> =
        given.as_deref().unwrap_or_default().split(',').filter(|name| !name.is_empty()).collect();
    let wanted: BTreeSet<&str> = owner.profiles.iter().map(ProfileName::as_stored).collect();
    let profiles = &mut opened.spec.profiles;
    profiles.retain(|name| !given.contains(name.as_str()) || wanted.contains(name.as_str()));
    for name in wanted.difference(&given) {
        if !profiles.iter().any(|present| present == name) {
            profiles.push((*name).to_owned());
        }
    }
    let notes = &mut opened.metadata.annotations;
    notes.remove(ANNOTATION_CLOSED);
    notes.insert(ANNOTATION_PROFILES.to_owned(), wanted.into_iter().collect::<Vec<_>>().join(","));
    let own: BTreeSet<IpAddr> = stored_addresses(endpoint).collect();
    let has = |v4: bool| own.iter().any(|address| address.is_ipv4() == v4);
    let siblings = owner.siblings.difference(&own).filter(|address| has(address.is_ipv4()));
    opened.spec.allow_spoofed_source_prefixes = siblings.map(|address| IpNet::from(*address).to_string()).collect();
    opened
}

/// The labels of an endpoint with those of its container.
///
/// # Errors
/// Which of them cannot be stored, and why.
fn labelled(endpoint: &WorkloadEndpoint, owner: &Owner) -> Result<BTreeMap<String, String>, String> {
    let mut labels = endpoint.metadata.labels.clone();
    for (name, value) in &owner.labels {
        let Some(key) = name.strip_prefix(LABEL_PREFIX) else { continue };
        if key.starts_with("projectcalico.org/") {
            return Err(format!("label {name} of the container: {key} belongs to Calico itself"));
        }
        labels.insert(key.to_owned(), value.clone());
    }
    let mut tried = endpoint.clone();
    tried.metadata.labels.clone_from(&labels);
    match tried.prepare() {
        Ok(()) => Ok(labels),
        Err(invalid) => {
            let faults = invalid.faults.iter();
            let of_labels = faults.filter(|fault| fault.path.starts_with("metadata.labels"));
            let words: Vec<String> = of_labels.map(|fault| format!("{}: {}", fault.value, fault.reason)).collect();
            match words.is_empty() {
                // What else is wrong is told when the endpoint is written.
                true => Ok(labels),
                false => Err(format!("a label of the container is not valid: {}", words.join("; "))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn binding(host_port: u16, host_port_end: u16) -> PortBinding {
        PortBinding { protocol: 6, port: 80, host_ip: String::new(), host_port, host_port_end }
    }

    /// The host's ports that the bindings get, where 40000 is another container's and 40001 a process's.
    fn given(bindings: &[PortBinding]) -> Result<Vec<u16>, String> {
        let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
        let mut others = ports(&[binding(40_000, 40_000)], &[], 1..=1, &all, |_| Ok(())).unwrap();
        let others = [("web".to_owned(), others.remove(0))];
        let probe = |port: HostPort| if port.port == 40_001 { Err("a process".to_owned()) } else { Ok(()) };
        let ports = ports(bindings, &others, 40_000..=40_003, &all, probe)?;
        Ok(ports.iter().filter_map(|port| port.host_port).collect())
    }

    #[test]
    fn a_port_is_one_that_nobody_has() {
        assert_eq!(given(&[binding(0, 0)]), Ok(vec![40_002]), "whatever the host has free");
        assert_eq!(given(&[binding(40_001, 40_003)]), Ok(vec![40_002]), "of a range");
        let other = PortBinding { port: 81, ..binding(0, 0) };
        assert_eq!(given(&[binding(0, 0), other.clone()]), Ok(vec![40_002, 40_003]), "two of one container");
        let third = PortBinding { port: 82, ..other.clone() };
        for (bindings, words) in [
            (&[binding(40_000, 40_000)][..], "Bind for 0.0.0.0:40000 failed: port is already allocated by web"),
            (&[binding(40_001, 40_001)], "Bind for 0.0.0.0:40001 failed: a process"),
            (&[binding(0, 0), other, third], "port is already allocated by this container"),
        ] {
            let error = given(bindings).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn all_addresses_are_those_of_each_family_that_the_endpoint_has() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let both = everywhere(["fd00::9", "10.7.0.9", "10.7.0.10"].map(address).into_iter());
        assert_eq!(both, [address("0.0.0.0"), address("::")]);
        let probe = |port: HostPort| if port.address == address("::") { Err("a process".to_owned()) } else { Ok(()) };
        let published = |all: &[IpAddr], host_ip: &str| {
            let binding = PortBinding { host_ip: host_ip.to_owned(), ..binding(8080, 8080) };
            ports(&[binding], &[], 1..=1, all, probe).map(|ports| ports.len())
        };
        assert_eq!(published(&both[..1], ""), Ok(1), "a port of IPv6 does not matter to it");
        let taken = Err("Bind for 0.0.0.0:8080 failed: a process".to_owned());
        assert_eq!(published(&both, ""), taken);
        assert_eq!(published(&both, "192.0.2.1"), Ok(1), "the address that was chosen is asked for alone");
    }
}
