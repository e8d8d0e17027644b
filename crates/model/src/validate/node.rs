//! Nodes.

use serde_json::Value;

use super::{Fault, Faults, NAME_RULE, address, is_subdomain};
use crate::{Node, NodeBgp};

pub(crate) fn node(resource: &Node) -> Vec<Fault> {
    let mut faults = Faults::default();
    let spec = &resource.spec;
    if let Some(bgp) = &spec.bgp {
        check_bgp(&mut faults, bgp);
    }
    let mut check = |name: &str, value, good: fn(&str) -> bool, rule| {
        faults.check_optional(&format!("spec.{name}"), value, good, rule);
    };
    check("ipv4VXLANTunnelAddr", spec.ipv4_vxlan_tunnel_addr.as_ref(), address::is_ipv4, address::IPV4_RULE);
    check("ipv6VXLANTunnelAddr", spec.ipv6_vxlan_tunnel_addr.as_ref(), address::is_ipv6, address::IPV6_RULE);
    let mac_rule = "it is not a MAC address";
    check("vxlanTunnelMACAddr", spec.vxlan_tunnel_mac_addr.as_ref(), address::is_mac, mac_rule);
    check("vxlanTunnelMACAddrV6", spec.vxlan_tunnel_mac_addr_v6.as_ref(), address::is_mac, mac_rule);
    for (index, entry) in spec.addresses.iter().enumerate() {
        let good = address::is_address_or_clean_network(&entry.address);
        let path = format!("spec.addresses[{index}].address");
        faults.check(good, &path, &entry.address, "it must be an address, or a network without host bits");
    }
    check_extra(&mut faults, resource);
    faults.0
}

fn check_bgp(faults: &mut Faults, bgp: &NodeBgp) {
    if *bgp == NodeBgp::default() {
        faults.add("spec.bgp", "{}", "it is empty; leave it out for a host without BGP");
        return;
    }
    let mut check = |name: &str, value, good: fn(&str) -> bool, rule| {
        faults.check_optional(&format!("spec.bgp.{name}"), value, good, rule);
    };
    let v4_rule = "it must be an IPv4 address with the prefix length of its subnet, such as 192.0.2.1/24";
    check("ipv4Address", bgp.ipv4_address.as_ref(), address::is_v4_address_or_network, v4_rule);
    let v6_rule = "it must be an IPv6 address with the prefix length of its subnet, such as 2001:db8::1/64";
    check("ipv6Address", bgp.ipv6_address.as_ref(), address::is_v6_address_or_network, v6_rule);
    check("ipv4IPIPTunnelAddr", bgp.ipv4_ipip_tunnel_addr.as_ref(), address::is_ipv4, address::IPV4_RULE);
    let id_rule = "a cluster id has the form of an IPv4 address";
    check("routeReflectorClusterID", bgp.route_reflector_cluster_id.as_ref(), address::is_ipv4, id_rule);
}

/// Members that have no field here because nothing here acts on them yet.
fn check_extra(faults: &mut Faults, resource: &Node) {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(wireguard) = resource.spec.extra.get("wireguard") {
        let v4 = text(wireguard, "interfaceIPv4Address");
        faults.check_text("spec.wireguard.interfaceIPv4Address", &v4, address::is_ipv4, address::IPV4_RULE);
        let v6 = text(wireguard, "interfaceIPv6Address");
        faults.check_text("spec.wireguard.interfaceIPv6Address", &v6, address::is_ipv6, address::IPV6_RULE);
    }
    for (index, interface) in
        resource.spec.extra.get("interfaces").and_then(Value::as_array).into_iter().flatten().enumerate()
    {
        let name = text(interface, "name");
        faults.check(is_subdomain(&name), &format!("spec.interfaces[{index}].name"), &name, NAME_RULE);
    }
    for name in ["wireguardPublicKey", "wireguardPublicKeyV6"] {
        let key = resource.status.as_ref().map(|status| text(status, name)).unwrap_or_default();
        faults.check_text(&format!("status.{name}"), &key, is_wireguard_key, "it must be 32 bytes in base64");
    }
}

/// 32 bytes in base64: 43 digits, the last of which holds 4 bits, and one padding character.
fn is_wireguard_key(text: &str) -> bool {
    let digit = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    text.len() == 44 && text.ends_with('=') && text.bytes().take(43).all(digit)
}
