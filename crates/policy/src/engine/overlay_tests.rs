#![allow(clippy::unwrap_used)]

use calico_model::{AnyResource, Change, Revision};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::BlockHolders;
use crate::{
    Engine,
    instruction::{ClusterRoute, Instruction},
    interpret::Programmed,
};

fn change(kind: calico_model::KindName, name: &str, spec: &Value) -> Change {
    let key = calico_model::ResourceKey::new(kind, None, name);
    let value =
        json!({"kind": kind.as_str(), "apiVersion": "projectcalico.org/v3", "metadata": {"name": name}, "spec": spec});
    let resource = AnyResource::decode_valid(&key, value.to_string().as_bytes(), Revision(1)).unwrap();
    Change::Set { key, resource: Box::new(resource) }
}

fn pool(name: &str, cidr: &str, mode: &str) -> Change {
    change(calico_model::KindName::IPPool, name, &json!({"cidr": cidr, "vxlanMode": mode}))
}

/// A node with addresses of both families: 192.0.SUBNET.NUMBER and fd00:SUBNET::NUMBER.
fn node(name: &str, subnet: u8, number: u8, v4: Option<&str>, v6: Option<&str>) -> Change {
    let mut spec = json!({"bgp": {
        "ipv4Address": format!("192.0.{subnet}.{number}/24"), "ipv6Address": format!("fd00:{subnet}::{number}/64"),
    }});
    if let Some(tunnel) = v4 {
        spec["ipv4VXLANTunnelAddr"] = json!(tunnel);
    }
    if let Some(tunnel) = v6 {
        spec["ipv6VXLANTunnelAddr"] = json!(tunnel);
    }
    change(calico_model::KindName::Node, name, &spec)
}

fn settings(spec: &Value) -> Change {
    change(calico_model::KindName::FelixConfiguration, "default", spec)
}

fn holders(owner: Option<&str>, elsewhere: &[(&str, &str)]) -> Option<BlockHolders> {
    let elsewhere = elsewhere.iter().map(|(address, host)| (address.parse().unwrap(), (*host).to_owned())).collect();
    Some(BlockHolders { owner: owner.map(str::to_owned), elsewhere })
}

/// The engine of host `n1` and the sum of what it said.
struct Host {
    engine: Engine,
    programmed: Programmed,
}

impl Host {
    fn new() -> Self {
        Self { engine: Engine::new("n1"), programmed: Programmed::default() }
    }

    /// Three hosts, two of them in one subnet, and one pool of each family.
    fn with_three(mode: &str) -> Self {
        let mut host = Self::new();
        host.absorb([
            pool("p4", "10.65.0.0/16", mode),
            pool("p6", "fd65::/64", mode),
            node("n1", 1, 1, Some("10.65.1.0"), Some("fd65::100")),
            node("n2", 1, 2, Some("10.65.2.0"), Some("fd65::200")),
            node("n3", 2, 3, Some("10.65.3.0"), Some("fd65::300")),
        ]);
        for (block, owner) in [
            ("10.65.1.0/26", "n1"),
            ("10.65.2.0/26", "n2"),
            ("10.65.3.0/26", "n3"),
            ("fd65::100/122", "n1"),
            ("fd65::200/122", "n2"),
            ("fd65::300/122", "n3"),
        ] {
            host.engine.absorb_block(block.parse().unwrap(), holders(Some(owner), &[]));
        }
        host
    }

    fn absorb(&mut self, changes: impl IntoIterator<Item = Change>) {
        changes.into_iter().for_each(|change| self.engine.absorb(change));
    }

    fn flush(&mut self) -> Vec<Instruction> {
        let said = self.engine.flush();
        said.iter().for_each(|instruction| self.programmed.apply(instruction).unwrap());
        said
    }

    fn block(&mut self, block: &str, holders: Option<BlockHolders>) {
        self.engine.absorb_block(block.parse().unwrap(), holders);
    }

    /// All routes, a line each.
    fn routes(&mut self) -> Vec<String> {
        self.flush();
        let shown = |(destination, route): (&ipnet::IpNet, &ClusterRoute)| match route {
            ClusterRoute::Tunnel { via } => format!("{destination} tunnel {via}"),
            ClusterRoute::Direct { via, .. } => format!("{destination} direct {via}"),
            ClusterRoute::Unassigned => format!("{destination} blackhole"),
        };
        self.programmed.routes.iter().map(shown).collect()
    }
}

#[test]
fn always_means_a_tunnel_to_every_other_host() {
    let mut host = Host::with_three("Always");
    assert_eq!(
        host.routes(),
        [
            "10.65.1.0/26 blackhole",
            "10.65.2.0/26 tunnel 10.65.2.0",
            "10.65.3.0/26 tunnel 10.65.3.0",
            "fd65::100/122 blackhole",
            "fd65::200/122 tunnel fd65::200",
            "fd65::300/122 tunnel fd65::300",
        ]
    );
    let tunnels = &host.programmed.tunnels;
    let own = tunnels.v4.as_ref().unwrap();
    assert_eq!((own.address.to_string(), own.local.to_string()), ("10.65.1.0".into(), "192.0.1.1".into()));
    assert_eq!((own.port, own.vni, own.mtu), (4789, 4096, None));
    // printf n1 | sha1sum; printf n3-v6 | sha1sum
    assert_eq!(own.mac.to_string(), "66:40:b3:ea:b6:3f");
    assert_eq!(tunnels.v6.as_ref().unwrap().local.to_string(), "fd00:1::1");
    let vteps: Vec<String> =
        host.programmed.vteps.values().map(|v| format!("{} {} {}", v.address, v.mac, v.host)).collect();
    assert_eq!(
        vteps,
        [
            "10.65.2.0 66:40:24:34:76:fc 192.0.1.2",
            "10.65.3.0 66:26:c2:ce:28:d0 192.0.2.3",
            "fd65::200 66:f4:09:ca:1b:0c fd00:1::2",
            "fd65::300 66:90:c0:29:2a:8a fd00:2::3",
        ]
    );
    assert!(host.flush().is_empty());
    assert_eq!(host.engine.problems(), []);
}

#[test]
fn cross_subnet_hosts_of_one_subnet_need_no_tunnel() {
    let mut host = Host::with_three("CrossSubnet");
    assert_eq!(
        host.routes(),
        [
            "10.65.1.0/26 blackhole",
            "10.65.2.0/26 direct 192.0.1.2",
            "10.65.3.0/26 tunnel 10.65.3.0",
            "fd65::100/122 blackhole",
            "fd65::200/122 direct fd00:1::2",
            "fd65::300/122 tunnel fd65::300",
        ]
    );
    host.absorb([pool("p4", "10.65.0.0/16", "Always")]);
    assert_eq!(host.routes()[1], "10.65.2.0/26 tunnel 10.65.2.0");
}

#[test]
fn borrowed_addresses_lead_to_the_borrower() {
    let mut host = Host::with_three("Always");
    host.block("10.65.1.0/26", holders(Some("n1"), &[("10.65.1.7", "n3")]));
    host.block("10.65.2.0/26", holders(Some("n2"), &[("10.65.2.7", "n1"), ("10.65.2.8", "n3"), ("10.65.2.9", "gone")]));
    host.block("10.65.3.0/26", holders(None, &[("10.65.3.1", "n2"), ("10.65.3.2", "n1")]));
    assert_eq!(
        host.routes()[..5],
        [
            "10.65.1.0/26 blackhole",
            "10.65.1.7/32 tunnel 10.65.3.0",
            "10.65.2.0/26 tunnel 10.65.2.0",
            "10.65.2.8/32 tunnel 10.65.3.0",
            "10.65.3.1/32 tunnel 10.65.2.0",
        ]
    );
    host.block("10.65.1.0/26", holders(Some("n1"), &[]));
    assert_eq!(host.flush(), [Instruction::RouteRemove { destination: "10.65.1.7/32".parse().unwrap() }]);
}

#[test]
fn blocks_of_one_address_have_no_blackhole() {
    let mut host = Host::with_three("Always");
    host.block("10.65.9.1/32", holders(Some("n1"), &[]));
    host.block("10.65.9.2/32", holders(Some("n2"), &[]));
    let routes = host.routes();
    assert!(routes.contains(&"10.65.9.2/32 tunnel 10.65.2.0".to_owned()), "{routes:?}");
    assert!(!routes.iter().any(|route| route.starts_with("10.65.9.1/32")), "{routes:?}");
}

#[test]
fn without_vxlan_nothing_is_said_and_no_block_is_wanted() {
    let mut host = Host::with_three("Never");
    assert!(!host.engine.wants_blocks());
    assert_eq!(host.routes(), [""; 0]);
    assert!(host.programmed.vteps.is_empty() && host.programmed.tunnels == Default::default());
    host.absorb([pool("p4", "10.65.0.0/16", "Always")]);
    assert!(host.engine.wants_blocks());
    assert_eq!(host.routes().len(), 3);
    assert!(host.programmed.tunnels.v4.is_some() && host.programmed.tunnels.v6.is_none());
    host.absorb([pool("p4", "10.65.0.0/16", "Never")]);
    assert_eq!(host.routes(), [""; 0]);
    assert!(host.programmed.vteps.is_empty() && host.programmed.tunnels == Default::default());
}

#[test]
fn what_is_missing_makes_no_route_and_is_told() {
    let mut host = Host::with_three("Always");
    host.absorb([node("n2", 1, 2, None, Some("fd65::200"))]);
    assert!(!host.routes().iter().any(|route| route.starts_with("10.65.2.0")));
    let problems: Vec<String> = host.engine.problems().iter().map(ToString::to_string).collect();
    assert!(
        problems.len() == 1 && problems[0].contains("n2") && problems[0].contains("no IPv4 VXLAN tunnel address"),
        "{problems:?}"
    );
    // Without an end of our own there is no tunnel; direct routes there are.
    host.absorb([node("n1", 1, 1, None, None), pool("p4", "10.65.0.0/16", "CrossSubnet")]);
    assert_eq!(host.routes()[..2], ["10.65.1.0/26 blackhole", "10.65.2.0/26 direct 192.0.1.2"]);
    assert!(host.programmed.vteps.is_empty());
    host.absorb([settings(&json!({"vxlanEnabled": false}))]);
    assert_eq!(host.routes(), [""; 0]);
    let problems: Vec<String> = host.engine.problems().iter().map(ToString::to_string).collect();
    assert_eq!(problems.iter().filter(|problem| problem.contains("vxlanEnabled is false")).count(), 2, "{problems:?}");
}

#[test]
fn of_two_nodes_with_one_tunnel_address_the_first_has_it() {
    let mut host = Host::with_three("Always");
    host.absorb([node("n3", 2, 3, Some("10.65.2.0"), None)]);
    let routes = host.routes();
    assert!(routes.contains(&"10.65.2.0/26 tunnel 10.65.2.0".to_owned()), "{routes:?}");
    assert!(!routes.iter().any(|route| route.starts_with("10.65.3.0")), "{routes:?}");
}

#[test]
fn settings_of_the_tunnel_are_followed_and_nonsense_is_told() {
    let mut host = Host::with_three("Always");
    host.absorb([settings(&json!({"vxlanPort": 4790, "vxlanVNI": 77, "vxlanMTU": 1400, "vxlanMTUV6": 0}))]);
    host.flush();
    let [v4, v6] = [&host.programmed.tunnels.v4, &host.programmed.tunnels.v6].map(|tunnel| tunnel.clone().unwrap());
    assert_eq!((v4.port, v4.vni, v4.mtu, v6.mtu), (4790, 77, Some(1400), None));
    host.absorb([settings(&json!({"vxlanVNI": 16_777_216, "vxlanMTU": 10, "vxlanMTUV6": 100}))]);
    host.flush();
    let tunnel = host.programmed.tunnels.v4.clone().unwrap();
    assert_eq!((tunnel.vni, tunnel.mtu), (4096, None));
    assert_eq!(host.engine.problems().len(), 3, "{:?}", host.engine.problems());
}

#[test]
fn a_mac_address_of_the_node_goes_before_the_computed_one_if_a_device_can_have_it() {
    let mut host = Host::with_three("Always");
    let computed = calico_model::MacAddress::of_vxlan("n3", false).to_string();
    let own = "66:00:00:00:00:03";
    for (said, taken) in [(own, own), ("01:00:5e:00:00:03", &computed), (own, own), ("00:00:00:00:00:00", &computed)] {
        let spec = json!({
            "bgp": {"ipv4Address": "192.0.2.3/24"}, "ipv4VXLANTunnelAddr": "10.65.3.0", "vxlanTunnelMACAddr": said,
        });
        host.absorb([change(calico_model::KindName::Node, "n3", &spec)]);
        host.flush();
        assert_eq!(host.programmed.vteps[&"10.65.3.0".parse().unwrap()].mac.to_string(), taken, "{said}");
    }
}

#[test]
fn ip_in_ip_is_told_to_be_missing() {
    let mut host = Host::new();
    host.absorb([change(
        calico_model::KindName::IPPool,
        "p",
        &json!({"cidr": "10.1.0.0/16", "ipipMode": "CrossSubnet"}),
    )]);
    host.flush();
    assert!(host.engine.problems()[0].to_string().contains("IP-in-IP is not supported"));
    host.absorb([pool("p", "10.1.0.0/16", "Always")]);
    host.flush();
    assert_eq!(host.engine.problems(), []);
}

/// One step of a random run.
#[derive(Clone, Debug)]
enum Step {
    Change(Box<Change>),
    Block(&'static str, Option<BlockHolders>),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let name = || prop::sample::select(&["n1", "n2", "n3"][..]);
    let pools =
        (any::<bool>(), prop::sample::select(&["Always", "CrossSubnet", "Never"][..])).prop_map(|(wide, mode)| {
            Step::Change(Box::new(if wide { pool("a", "10.65.0.0/16", mode) } else { pool("b", "10.65.2.0/24", mode) }))
        });
    let tunnel = prop::option::of(prop::sample::select(&["10.65.1.0", "10.65.2.0", "10.65.3.0"][..]));
    let nodes = (name(), 1..3u8, 1..4u8, tunnel)
        .prop_map(|(name, subnet, number, v4)| Step::Change(Box::new(node(name, subnet, number, v4, None))));
    let block = prop::sample::select(&["10.65.1.0/26", "10.65.2.0/26", "10.65.2.4/30", "10.65.2.7/32"][..]);
    let elsewhere = prop::collection::vec((prop::sample::select(&["10.65.2.7", "10.65.2.5"][..]), name()), 0..3);
    let held = prop::option::of((prop::option::of(name()), elsewhere));
    let blocks = (block, held)
        .prop_map(|(block, held)| Step::Block(block, held.and_then(|(owner, elsewhere)| holders(owner, &elsewhere))));
    prop_oneof![2 => pools, 3 => nodes, 6 => blocks, 2 => Just(Step::Flush)]
}

proptest! {
    /// Whatever the order of changes and flushes, the sum is what a fresh engine says of the last state.
    #[test]
    fn the_order_of_changes_does_not_matter(steps in prop::collection::vec(step(), 1..40)) {
        let mut host = Host::new();
        let (mut changes, mut blocks) = (std::collections::BTreeMap::new(), std::collections::BTreeMap::new());
        for step in steps {
            match step {
                Step::Change(change) => {
                    host.engine.absorb((*change).clone());
                    changes.insert(change.key().clone(), *change);
                }
                Step::Block(block, holders) => {
                    host.block(block, holders.clone());
                    blocks.insert(block, holders);
                }
                Step::Flush => drop(host.flush()),
            }
        }
        host.flush();
        let mut fresh = Host::new();
        blocks.into_iter().rev().for_each(|(block, holders)| fresh.block(block, holders));
        fresh.absorb(changes.into_values().rev());
        fresh.flush();
        prop_assert_eq!(&host.programmed, &fresh.programmed);
    }
}
