//! Which of the host's addresses is the node's: pure decisions over what the kernel tells.
//!
//! A given address is taken as it is, and a warning says if no interface has it. Otherwise it is that of the
//! interface by which the default route leaves, since the host is known to others by it; otherwise the first usable
//! one in the order of interfaces, leaving out those that containers and virtual machines hang on. IPv6 is only ever
//! given.

use std::{fmt, net::Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{Request, StartupError, Warning};

/// An interface of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Switched on, and connected as far as it can tell.
    pub(crate) up: bool,
    pub(crate) loopback: bool,
    /// Addresses with the prefix length of their subnet, in the kernel's order.
    pub(crate) addresses: Vec<IpNet>,
    /// Metric of the best IPv4 default route through it, and the source address that the route prescribes.
    pub(crate) default_route: Option<(u32, Option<Ipv4Addr>)>,
}

/// The node's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) ipv4: Ipv4Net,
    pub(crate) ipv6: Option<Ipv6Net>,
    /// Where the IPv4 address comes from, for people.
    origin: String,
    pub(crate) warnings: Vec<Warning>,
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.ipv4, self.origin)?;
        match self.ipv6 {
            Some(ipv6) => write!(f, " and {ipv6}"),
            None => Ok(()),
        }
    }
}

/// Settles the node's addresses.
///
/// # Errors
/// [`StartupError::Setting`], [`StartupError::NoAddress`].
pub(crate) fn settle(request: &Request, interfaces: &[Interface]) -> Result<Addresses, StartupError> {
    request.check()?;
    let mut warnings = Vec::new();
    let mut located = |address: IpNet| match locate(address, interfaces) {
        Some((net, interface)) => (net, format!("given, of {interface}")),
        None => {
            let message = format!("no interface of this host has the address {}", address.addr());
            warnings.push(Warning::new(message, "if that is not meant so, give the right one with --ip or --ip6"));
            (address, "given".to_owned())
        }
    };
    let (ipv4, origin) = match request.ip {
        Some(ip) => match located(Ipv4Net::from(ip).into()) {
            (IpNet::V4(ipv4), origin) => (ipv4, origin),
            (IpNet::V6(_), _) => unreachable!("an address is located in its own family"),
        },
        None => detect(interfaces)?,
    };
    let ipv6 = request.ip6.and_then(|ip6| match located(Ipv6Net::from(ip6).into()).0 {
        IpNet::V6(ipv6) => Some(ipv6),
        IpNet::V4(_) => None,
    });
    Ok(Addresses { ipv4, ipv6, origin, warnings })
}

/// The address with the prefix length it has on an interface, and that interface's name.
fn locate(address: IpNet, interfaces: &[Interface]) -> Option<(IpNet, &str)> {
    interfaces.iter().find_map(|interface| {
        let net = interface.addresses.iter().find(|net| net.addr() == address.addr())?;
        Some((*net, interface.name.as_str()))
    })
}

/// Detects the IPv4 address.
fn detect(interfaces: &[Interface]) -> Result<(Ipv4Net, String), StartupError> {
    let mut by_route: Vec<(u32, &Interface)> =
        interfaces.iter().filter_map(|i| Some((i.default_route?.0, i))).filter(|(_, i)| i.up).collect();
    by_route.sort_by_key(|(metric, interface)| (*metric, interface.index));
    for (_, interface) in by_route {
        if let Some(net) = address_of(interface) {
            return Ok((net, format!("detected: {} has the default route", interface.name)));
        }
    }
    let mut by_index: Vec<&Interface> = interfaces.iter().collect();
    by_index.sort_by_key(|interface| interface.index);
    let mut left_out = Vec::new();
    for interface in by_index {
        match unfit(interface) {
            Some(reason) => left_out.push(format!("{} {reason}", interface.name)),
            None => {
                let net = address_of(interface).expect("an interface that is fit has an address");
                return Ok((net, format!("detected: first address, of {}", interface.name)));
            }
        }
    }
    let cause = if left_out.is_empty() { "it has no interface".to_owned() } else { left_out.join(", ") };
    Err(StartupError::NoAddress { cause })
}

/// The node's address among an interface's: the one that the default route prescribes as source, else the first.
fn address_of(interface: &Interface) -> Option<Ipv4Net> {
    let usable = || {
        interface
            .addresses
            .iter()
            .filter_map(|net| match net {
                IpNet::V4(net) => Some(*net),
                IpNet::V6(_) => None,
            })
            .filter(|net| {
                let address = net.addr();
                !(address.is_loopback()
                    || address.is_link_local()
                    || address.is_multicast()
                    || address.is_unspecified())
            })
    };
    let prescribed = interface.default_route.and_then(|(_, source)| source);
    usable().find(|net| Some(net.addr()) == prescribed).or_else(|| usable().next())
}

/// Why an interface without a default route is left out.
fn unfit(interface: &Interface) -> Option<&'static str> {
    if interface.loopback {
        Some("is the loopback interface")
    } else if serves_workloads(&interface.name) {
        Some("is for containers or virtual machines")
    } else if !interface.up {
        Some("is down")
    } else if address_of(interface).is_none() {
        Some("has no usable IPv4 address")
    } else {
        None
    }
}

/// True for the names of interfaces that Docker, libvirt, LXC, Kubernetes' network plugins and we make.
fn serves_workloads(name: &str) -> bool {
    const PREFIXES: [&str; 13] = [
        "docker",
        "cbr",
        "virbr",
        "lxcbr",
        "lxdbr",
        "veth",
        "cali",
        "tunl",
        "flannel",
        "br-",
        "cni",
        "vxlan.calico",
        "wireguard.cali",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn interface(index: u32, name: &str, addresses: &[&str]) -> Interface {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Interface { index, name: name.into(), up: true, loopback: name == "lo", addresses, default_route: None }
    }

    fn with_default(interface: Interface, metric: u32, source: Option<[u8; 4]>) -> Interface {
        Interface { default_route: Some((metric, source.map(Ipv4Addr::from))), ..interface }
    }

    fn down(interface: Interface) -> Interface {
        Interface { up: false, ..interface }
    }

    fn lo() -> Interface {
        interface(1, "lo", &["127.0.0.1/8", "::1/128", "10.9.9.9/32"])
    }

    #[test]
    fn detection() {
        let eth0 = || interface(2, "eth0", &["10.5.0.1/24"]);
        let eth1 = || interface(3, "eth1", &["10.6.0.1/16", "10.6.0.9/16"]);
        for (what, interfaces, expected) in [
            ("the interface of the default route", vec![lo(), eth0(), with_default(eth1(), 0, None)], "10.6.0.1/16"),
            (
                "the source that the route prescribes",
                vec![lo(), eth0(), with_default(eth1(), 0, Some([10, 6, 0, 9]))],
                "10.6.0.9/16",
            ),
            (
                "a prescribed source that the interface does not have",
                vec![lo(), with_default(eth1(), 0, Some([10, 7, 0, 9]))],
                "10.6.0.1/16",
            ),
            (
                "the better of two default routes",
                vec![with_default(eth0(), 100, None), with_default(eth1(), 50, None)],
                "10.6.0.1/16",
            ),
            (
                "the first of two equal default routes",
                vec![with_default(eth1(), 0, None), with_default(eth0(), 0, None)],
                "10.5.0.1/24",
            ),
            ("not a default route that is down", vec![eth0(), down(with_default(eth1(), 0, None))], "10.5.0.1/24"),
            (
                "not a default route without an address",
                vec![eth0(), with_default(interface(3, "ppp0", &[]), 0, None)],
                "10.5.0.1/24",
            ),
            (
                "a bridge, if the default route says so",
                vec![eth0(), with_default(interface(3, "br-lan", &["10.8.0.1/24"]), 0, None)],
                "10.8.0.1/24",
            ),
            ("the first in order of index", vec![eth1(), lo(), eth0()], "10.5.0.1/24"),
            ("the next, if the first is down", vec![down(eth0()), eth1()], "10.6.0.1/16"),
            (
                "the first usable address of an interface",
                vec![lo(), interface(2, "eth0", &["fd00::1/64", "169.254.7.7/16", "10.5.0.3/24"])],
                "10.5.0.3/24",
            ),
        ] {
            assert_eq!(detect(&interfaces).unwrap().0.to_string(), expected, "{what}");
        }
    }

    #[test]
    fn interfaces_of_containers_and_machines_are_left_out() {
        for name in
            ["docker0", "cbr0", "virbr0", "lxcbr0", "veth12", "cali123", "tunl0", "flannel.1", "br-0123456789ab"]
        {
            let found = detect(&[lo(), interface(2, name, &["172.17.0.1/16"]), interface(3, "eth0", &["10.5.0.1/24"])]);
            assert_eq!(found.unwrap().0.to_string(), "10.5.0.1/24", "{name}");
        }
    }

    #[test]
    fn no_address_says_what_was_looked_at() {
        let interfaces = [
            lo(),
            interface(4, "docker0", &["172.17.0.1/16"]),
            down(interface(2, "eth0", &["10.5.0.1/24"])),
            interface(3, "eth1", &["fd00::1/64"]),
        ];
        let error = detect(&interfaces).expect_err("there is none");
        assert_eq!(
            error.to_string(),
            "this host has no usable IPv4 address: lo is the loopback interface, eth0 is down, eth1 has no usable \
             IPv4 address, docker0 is for containers or virtual machines"
        );
        assert!(error.way_out().is_some_and(|way_out| way_out.contains("--ip")));
        assert!(detect(&[]).is_err());
    }

    #[test]
    fn given_addresses_get_the_prefix_length_of_their_subnet() {
        let interfaces =
            [lo(), interface(2, "eth0", &["10.5.0.1/24", "fd05::1/64"]), interface(3, "docker0", &["172.17.0.1/16"])];
        let request =
            Request { ip: Some([172, 17, 0, 1].into()), ip6: Some("fd05::1".parse().unwrap()), ..Request::default() };
        let found = settle(&request, &interfaces).unwrap();
        assert_eq!(found.to_string(), "172.17.0.1/16 (given, of docker0) and fd05::1/64");
        assert!(found.warnings.is_empty());
    }

    #[test]
    fn a_given_address_that_no_interface_has_is_taken_with_a_warning() {
        let request =
            Request { ip: Some([10, 1, 1, 1].into()), ip6: Some("fd09::9".parse().unwrap()), ..Request::default() };
        let found = settle(&request, &[lo()]).unwrap();
        assert_eq!(found.to_string(), "10.1.1.1/32 (given) and fd09::9/128");
        assert_eq!(found.warnings.len(), 2);
        assert!(found.warnings[0].message.contains("10.1.1.1") && found.warnings[1].message.contains("fd09::9"));
    }

    #[test]
    fn ipv6_is_never_guessed() {
        let interfaces = [with_default(interface(2, "eth0", &["10.5.0.1/24", "2001:db8::1/64"]), 0, None)];
        assert_eq!(settle(&Request::default(), &interfaces).unwrap().ipv6, None);
    }
}
