//! What is refused before anything is done.

use std::net::IpAddr;

use nlink::{Connection, Route};

use crate::{AttachError, Attachment, NetnsRef, error::kernel, link, netns::Workload};

/// Checks everything that can be refused before acting: both names valid and free, the namespace there and not the
/// host's own, no address on any of the workload's interfaces already, gateways and MTU possible.
///
/// # Errors
/// The first refusal.
pub async fn check(netns: &NetnsRef, attachment: &Attachment) -> Result<(), AttachError> {
    pure(attachment)?;
    let workload = Workload::open(netns)?;
    let host = Connection::<Route>::new().map_err(kernel(|| "opening a netlink socket".into()))?;
    against_kernel(&host, &workload, attachment).await
}

/// True if the namespace has an interface of the name.
///
/// # Errors
/// [`AttachError::Namespace`], [`AttachError::Kernel`].
pub async fn interface_exists(netns: &NetnsRef, interface: &str) -> Result<bool, AttachError> {
    exists(&Workload::open(netns)?.links, interface).await
}

/// What can be said without looking at the kernel.
pub(crate) fn pure(attachment: &Attachment) -> Result<(), AttachError> {
    interface_name(&attachment.host_interface)?;
    interface_name(&attachment.container_interface)?;
    for (at, address) in attachment.addresses.iter().enumerate() {
        usable(*address)?;
        if attachment.addresses[..at].contains(address) {
            return Err(AttachError::Address { address: *address, reason: "it is given twice".into() });
        }
    }
    for gateway in attachment.gateways() {
        self::gateway(gateway, &attachment.addresses)?;
    }
    match attachment.mtu {
        Some(mtu) => self::mtu(mtu, attachment.addresses.iter().any(IpAddr::is_ipv6)),
        None => Ok(()),
    }
}

/// What the kernel's present state refuses.
pub(crate) async fn against_kernel(
    host: &Connection<Route>,
    workload: &Workload,
    attachment: &Attachment,
) -> Result<(), AttachError> {
    if exists(&workload.links, &attachment.container_interface).await? {
        return Err(AttachError::InterfaceTaken { name: attachment.container_interface.clone() });
    }
    if exists(host, &attachment.host_interface).await? {
        return Err(AttachError::HostInterfaceTaken { name: attachment.host_interface.clone() });
    }
    let present = addresses(&workload.links).await?;
    for address in &attachment.addresses {
        absent(*address, &present)?;
    }
    for gateway in attachment.gateways() {
        self::gateway(gateway, &present.iter().map(|(_, address)| *address).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Every address of a namespace with the index of its interface.
pub(crate) async fn addresses(links: &Connection<Route>) -> Result<Vec<(u32, IpAddr)>, AttachError> {
    let all = links.get_addresses().await.map_err(kernel(|| "reading the workload's addresses".into()))?;
    // `local` is the interface's own address where `address` may be that of the other end.
    Ok(all.iter().filter_map(|a| Some((a.ifindex(), *a.local().or(a.address())?))).collect())
}

/// Refuses an address that is among `present`.
pub(crate) fn absent(address: IpAddr, present: &[(u32, IpAddr)]) -> Result<(), AttachError> {
    if present.iter().any(|(_, found)| *found == address) {
        return Err(AttachError::Address { address, reason: "one of its interfaces has it already".into() });
    }
    Ok(())
}

/// Refuses an address that no workload can have.
pub(crate) fn usable(address: IpAddr) -> Result<(), AttachError> {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    let reason = if address.is_unspecified() {
        "it is the unspecified address"
    } else if address.is_loopback() {
        "it is a loopback address"
    } else if address.is_multicast() || broadcast {
        "it is a multicast or broadcast address"
    } else if link_local {
        "it is a link-local address"
    } else {
        return Ok(());
    };
    Err(AttachError::Address { address, reason: reason.into() })
}

/// Refuses a gateway that the kernel would refuse or that would swallow the traffic.
pub(crate) fn gateway(gateway: IpAddr, own: &[IpAddr]) -> Result<(), AttachError> {
    let refuse = |reason| Err(AttachError::Gateway { gateway, reason });
    if own.contains(&gateway) {
        return refuse("it is an address of the workload itself");
    }
    if gateway.is_unspecified() || gateway.is_loopback() || gateway.is_multicast() {
        return refuse("it is not the address of a host");
    }
    Ok(())
}

/// Refuses an MTU that the pair or a family cannot have.
pub(crate) fn mtu(mtu: u32, ipv6: bool) -> Result<(), AttachError> {
    let reason = match mtu {
        0..68 => "IPv4 needs at least 68 bytes",
        68..1280 if ipv6 => "IPv6 needs at least 1280 bytes",
        65536.. => "a veth pair carries at most 65535 bytes",
        _ => return Ok(()),
    };
    Err(AttachError::Mtu { mtu, reason })
}

/// Refuses what the kernel does not take as an interface name, and what it takes but reads as something else.
pub(crate) fn interface_name(name: &str) -> Result<(), AttachError> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > 15 {
        "it is longer than 15 bytes"
    } else if name == "." || name == ".." {
        "it is the name of a folder"
    } else if name == "all" || name == "default" {
        "sysctl uses it for all interfaces"
    } else if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        "only visible ASCII characters are allowed"
    } else if name.contains(['/', ':']) {
        "slashes and colons are not allowed"
    } else if name.contains('%') {
        "the kernel would replace the percent sign by a number"
    } else {
        return Ok(());
    };
    Err(AttachError::InterfaceName { name: name.to_owned(), reason })
}

async fn exists(links: &Connection<Route>, interface: &str) -> Result<bool, AttachError> {
    interface_name(interface)?;
    Ok(link::by_name(links, interface).await?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(addresses: &[&str]) -> Attachment {
        Attachment {
            host_interface: "cali1".into(),
            container_interface: "eth1".into(),
            addresses: addresses.iter().map(|a| a.parse().expect("an address")).collect(),
            gateway4: None,
            gateway6: None,
            mtu: None,
        }
    }

    #[test]
    fn names_are_what_the_kernel_takes_literally() {
        for good in ["eth1", "cali0123456789a", "eth0.100", "a", "wlan-0_x"] {
            assert!(interface_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "all", "default", "a b", "a/b", "a:b", "eth%d", "0123456789abcdef", "é", "a\n"] {
            let error = interface_name(bad).expect_err(bad);
            assert!(matches!(&error, AttachError::InterfaceName { name, .. } if name == bad), "{error}");
        }
    }

    #[test]
    fn addresses_that_no_workload_can_have_are_refused() {
        for good in ["10.0.0.0", "192.168.1.255", "169.254.9.9", "fd00::1", "2001:db8::"] {
            assert!(pure(&attachment(&[good])).is_ok(), "{good}");
        }
        for bad in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1", "fe80::1"] {
            let error = pure(&attachment(&[bad])).expect_err(bad);
            assert!(matches!(error, AttachError::Address { .. }), "{bad}: {error}");
        }
        assert!(matches!(pure(&attachment(&["10.0.0.1", "10.0.0.1"])), Err(AttachError::Address { .. })));
    }

    #[test]
    fn a_gateway_is_somebody_else() {
        let mut wanted = attachment(&["10.0.0.1"]);
        wanted.gateway4 = Some([10, 0, 0, 1].into());
        assert!(matches!(pure(&wanted), Err(AttachError::Gateway { .. })));
        wanted.gateway4 = Some([127, 0, 0, 1].into());
        assert!(matches!(pure(&wanted), Err(AttachError::Gateway { .. })));
        // Without an address of its family a gateway is not used, and so cannot be wrong.
        wanted.addresses = vec!["fd00::1".parse().expect("an address")];
        assert!(pure(&wanted).is_ok());
    }

    #[test]
    fn the_mtu_has_limits() {
        for (mtu, address, good) in [
            (67, "10.0.0.1", false),
            (68, "10.0.0.1", true),
            (1279, "10.0.0.1", true),
            (1279, "fd00::1", false),
            (1280, "fd00::1", true),
            (65535, "fd00::1", true),
            (65536, "10.0.0.1", false),
        ] {
            let wanted = Attachment { mtu: Some(mtu), ..attachment(&[address]) };
            assert_eq!(pure(&wanted).is_ok(), good, "{mtu} {address}");
        }
    }
}
