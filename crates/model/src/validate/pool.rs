//! Pools, reservations and tiers.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Fault, Faults, address};
use crate::{EncapMode, IPPool, IPPoolSpec, IPReservation, Tier};

pub(crate) fn pool(resource: &IPPool) -> Vec<Fault> {
    let mut faults = Faults::default();
    let spec = &resource.spec;
    range(&mut faults, spec);
    encapsulation(&mut faults, spec);
    uses(&mut faults, spec);
    faults.selector("spec.nodeSelector", &spec.node_selector);
    faults.selector("spec.namespaceSelector", &spec.namespace_selector);
    let modes = |mode: &str| matches!(mode, "Automatic" | "Manual");
    faults.check_text("spec.assignmentMode", &spec.assignment_mode, modes, "it is Automatic or Manual");
    faults.0
}

fn range(faults: &mut Faults, spec: &IPPoolSpec) {
    let cidr = spec.cidr;
    let clean = cidr.trunc();
    faults.check(clean == cidr, "spec.cidr", cidr, &format!("it has host bits set; the network is {clean}"));
    let link_local = match cidr {
        IpNet::V4(net) => overlaps_v4(&net, &Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
        IpNet::V6(net) => overlaps_v6(&net, &Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)),
    };
    faults.check(!link_local, "spec.cidr", cidr, "it overlaps the link-local addresses");
    let (least, most) = if matches!(cidr, IpNet::V4(_)) { (20, 32) } else { (116, 128) };
    let block = spec.block_prefix_len();
    if !(least..=most).contains(&block) {
        faults.add("spec.blockSize", block, format!("it must be {least} to {most}"));
    } else if cidr.prefix_len() > block && !spec.disabled {
        faults.add(
            "spec.cidr",
            cidr,
            format!("it is smaller than one block (/{block}); make it larger or the blocks smaller"),
        );
    }
}

fn overlaps_v4(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn overlaps_v6(a: &Ipv6Net, b: &Ipv6Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn is_on(mode: Option<EncapMode>) -> bool {
    mode.unwrap_or_default() != EncapMode::Never
}

fn encapsulation(faults: &mut Faults, spec: &IPPoolSpec) {
    let (ipip, vxlan) = (is_on(spec.ipip_mode), is_on(spec.vxlan_mode));
    if ipip && matches!(spec.cidr, IpNet::V6(_)) {
        faults.add("spec.ipipMode", "", "IP-in-IP carries IPv4 only; use vxlanMode");
    }
    faults.check(!(ipip && vxlan), "spec.ipipMode", "", "ipipMode and vxlanMode exclude each other");
}

fn uses(faults: &mut Faults, spec: &IPPoolSpec) {
    const PATH: &str = "spec.allowedUses";
    let known = |name: &str| matches!(name, "Workload" | "Tunnel" | "LoadBalancer");
    faults.check_each(PATH, &spec.allowed_uses, known, "it is Workload, Tunnel or LoadBalancer");
    let has = |name: &str| spec.allowed_uses.iter().any(|allowed| allowed == name);
    // Without a list a pool serves workloads and tunnels.
    if !spec.namespace_selector.is_empty() && (spec.allowed_uses.is_empty() || has("Tunnel")) {
        let reason = "a pool for some namespaces cannot serve tunnels; set allowedUses to [Workload]";
        faults.add("spec.namespaceSelector", &spec.namespace_selector, reason);
    }
    if has("LoadBalancer") {
        faults.check(spec.allowed_uses.len() == 1, PATH, "LoadBalancer", "it does not go together with other uses");
        let plain = !is_on(spec.ipip_mode) && !is_on(spec.vxlan_mode);
        faults.check(plain, PATH, "LoadBalancer", "it does not go together with ipipMode or vxlanMode");
        let announced = !spec.disable_bgp_export;
        faults.check(announced, "spec.disableBGPExport", true, "load balancer addresses must be announced");
        let all = spec.node_selector.is_empty() || spec.node_selector == "all()";
        faults.check(all, "spec.nodeSelector", &spec.node_selector, "with use LoadBalancer it must be all()");
    }
}

pub(crate) fn reservation(resource: &IPReservation) -> Vec<Fault> {
    let mut faults = Faults::default();
    let rule = "it must be a network; a single address is a /32 or /128";
    faults.check_each("spec.reservedCIDRs", &resource.spec.reserved_cidrs, address::is_network, rule);
    faults.0
}

/// The three tiers that every cluster has keep their place and their end.
const BUILT_IN: [(&str, f64, &str); 3] =
    [("default", 1e6, "Deny"), ("kube-admin", 1e3, "Pass"), ("kube-baseline", 1e7, "Pass")];

pub(crate) fn tier(resource: &Tier) -> Vec<Fault> {
    let mut faults = Faults::default();
    let action = &resource.spec.default_action;
    faults.check_text("spec.defaultAction", action, |action| matches!(action, "Deny" | "Pass"), "it is Deny or Pass");
    let Some((name, order, end)) = BUILT_IN.into_iter().find(|(name, ..)| *name == resource.name()) else {
        return faults.0;
    };
    faults.check_text("spec.defaultAction", action, |action| action == end, &format!("that of tier {name} is {end}"));
    if let Some(given) = &resource.spec.order {
        let reason = format!("that of tier {name} is {order}");
        faults.check(given.as_f64() == Some(order), "spec.order", given, &reason);
    }
    faults.0
}
