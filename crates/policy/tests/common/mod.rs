//! A small random cluster: few names, addresses and labels, so that everything collides with everything.

#![allow(clippy::unwrap_used, dead_code)]

pub(crate) mod packets;
mod rules;
pub(crate) mod scenario;

use std::collections::BTreeMap;

use calico_model::{
    Action, AnyResource, BGPConfigurationSpec, Change, EndpointPort, FelixConfigurationSpec, HostEndpointSpec, IPNat,
    IPPoolSpec, Kind, NetSetSpec, NodeSpec, PolicySpec, ProfileSpec, Protocol, Resource, ResourceKey, Revision, Rule,
    StagedGlobalNetworkPolicySpec, TierSpec, WorkloadEndpointSpec,
};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

use self::rules::{rules, selector};

/// The host whose engine is tested.
pub(crate) const NODE: &str = "n1";

/// One step of a run.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Change(Change),
    Flush,
}

pub(crate) fn set<S: Kind>(resource: Resource<S>) -> Change {
    Change::Set { key: resource.key(), resource: Box::new(S::into_any(resource)) }
}

pub(crate) fn strings(choices: &'static [&'static str]) -> impl Strategy<Value = String> + Clone {
    select(choices).prop_map(str::to_owned)
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(strings(&["a", "b", "c", "pcns.a"]), strings(&["", "1", "2"]), 0..3)
}

fn profile_name() -> impl Strategy<Value = String> + Clone {
    prop_oneof![
        20 => strings(&["p1", "p2", "p3"]),
        1 => strings(&["ghost", "kns.blue", calico_policy::BUILT_IN_PROFILE]),
    ]
}

fn profiles() -> impl Strategy<Value = Vec<String>> {
    prop_oneof![20 => prop::collection::vec(profile_name(), 1..4), 1 => Just(Vec::new())]
}

fn named_ports() -> impl Strategy<Value = Vec<EndpointPort>> {
    let port = (strings(&["http", "dns", ""]), select(vec!["TCP", "UDP", "ICMP"]), select(vec![80, 443, 53]));
    let port = (port, host_ports()).prop_map(|((name, protocol, port), (host_port, host_ip))| EndpointPort {
        name,
        protocol: Protocol::from(protocol),
        port,
        host_port,
        host_ip: host_ip.map(str::to_owned),
        extra: Default::default(),
    });
    prop::collection::vec(port, 0..3)
}

/// Port and address of the host, some of them the host's own, some that cannot be meant.
fn host_ports() -> impl Strategy<Value = (Option<u16>, Option<&'static str>)> {
    let port = select(vec![80, 443, 443, 60, 60, 22, 4789, 0]);
    let address = select(vec!["", "0.0.0.0", "::", "192.0.2.1", "198.51.100.1", "127.0.0.1", "2001:db8::1", "x"]);
    prop_oneof![
        2 => Just((None, None)),
        2 => port.clone().prop_map(|port| (Some(port), None)),
        1 => (port, address).prop_map(|(port, address)| (Some(port), Some(address))),
    ]
}

fn address() -> impl Strategy<Value = String> {
    prop_oneof![
        90 => strings(&["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3", "fd00::1/128", "fd00::2/128"]),
        1 => strings(&["10.0.0.0/24", "127.0.0.1/32", "nonsense"]),
    ]
}

fn nats() -> impl Strategy<Value = Vec<IPNat>> {
    let nat = (strings(&["10.0.0.1", "10.0.0.2", "fd00::1"]), strings(&["10.9.9.9", "10.9.9.8", "fd99::9"]));
    let nat = nat.prop_map(|(internal_ip, external_ip)| IPNat { internal_ip, external_ip, ..Default::default() });
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(nat, 1..3)]
}

fn endpoint() -> impl Strategy<Value = AnyResource> {
    let interface = prop_oneof![40 => strings(&["cali1", "cali2", "cali3"]), 1 => strings(&["", "eth0", "cali/1", "cali567890123456"])];
    let mac = prop_oneof![40 => strings(&["", "ee:ee:ee:ee:ee:ee"]), 1 => strings(&["ee:ee"])];
    (
        (select(vec!["blue", "default"]), select(vec!["a", "b", "c"])),
        (select(vec![NODE, NODE, NODE, "n2"]), interface, mac),
        prop_oneof![20 => prop::collection::vec(address(), 1..4), 1 => Just(Vec::new())],
        profiles(),
        (labels(), named_ports(), nats()),
        prop_oneof![9 => Just(""), 1 => Just("robot")],
        prop_oneof![19 => Just(false), 1 => Just(true)],
    )
        .prop_map(
            |(
                (namespace, name),
                (node, interface_name, mac),
                nets,
                profiles,
                (labels, ports, nats),
                account,
                spoof,
            )| {
                let spec = WorkloadEndpointSpec {
                    node: node.into(),
                    orchestrator: "docker".into(),
                    workload: name.into(),
                    endpoint: "eth0".into(),
                    interface_name,
                    mac,
                    ip_networks: nets,
                    ip_nats: nats,
                    ports,
                    profiles,
                    service_account_name: account.into(),
                    allow_spoofed_source_prefixes: if spoof { vec!["10.8.0.0/16".into()] } else { Vec::new() },
                    ..Default::default()
                };
                // Not of the node, so that an endpoint can move.
                let mut resource = Resource::namespaced(namespace, name, spec);
                resource.metadata.labels = labels;
                Kind::set_defaults(&mut resource);
                Kind::into_any(resource)
            },
        )
}

fn host_endpoint() -> impl Strategy<Value = AnyResource> {
    let interface = prop_oneof![
        20 => strings(&["eth0", "eth0", "eth1", "*", "*", "lo", ""]),
        1 => strings(&["cali1", "eth/0"]),
    ];
    let address = prop_oneof![
        20 => strings(&["192.0.2.1", "198.51.100.1", "2001:db8::1", "10.0.0.3"]),
        1 => strings(&["nonsense"]),
    ];
    (
        strings(&["h1", "h2", "h3"]),
        (select(vec![NODE, NODE, NODE, "n2"]), interface),
        prop::collection::vec(address, 0..3),
        profiles(),
        (labels(), named_ports()),
    )
        .prop_map(|(name, (node, interface_name), expected_ips, profiles, (mut labels, ports))| {
            let spec = HostEndpointSpec {
                node: node.into(),
                interface_name,
                expected_ips,
                profiles,
                ports,
                ..Default::default()
            };
            labels.insert("hep".into(), String::new());
            let mut resource = Resource::new(name, spec);
            resource.metadata.labels = labels;
            Kind::into_any(resource)
        })
}

/// One in six is bad, of rough clusters.
fn bad(rough: bool) -> impl Strategy<Value = bool> {
    prop_oneof![5 => Just(false), u32::from(rough) => Just(true)]
}

fn profile(rough: bool) -> impl Strategy<Value = AnyResource> {
    let open = || Just(vec![Rule::of(Action::Allow)]);
    let rules = move |bad| prop_oneof![1 => open().boxed(), 2 => rules(bad, 5).boxed()];
    let body = bad(rough).prop_flat_map(move |bad| (rules(bad).boxed(), rules(bad).boxed()));
    (profile_name(), body, labels()).prop_map(|(name, (ingress, egress), labels_to_apply)| {
        Kind::into_any(Resource::new(name, ProfileSpec { ingress, egress, labels_to_apply, extra: Default::default() }))
    })
}

/// Which endpoints, where in the order, in which lists.
fn policy_frame(bad: bool) -> impl Strategy<Value = PolicySpec> {
    let order = select(vec![None, Some(json!(1)), Some(json!(2)), Some(json!(1.5)), Some(json!(-3))]);
    let types = prop_oneof![
        10 => select(vec![vec![], vec!["Ingress"], vec!["Egress"], vec!["Ingress", "Egress"]]),
        u32::from(bad) => select(vec![vec!["ingress"], vec!["Both", "Egress"]]),
    ];
    let flags = prop_oneof![
        8 => Just((false, false, false)),
        4 => Just((false, false, true)),
        2 => Just((true, false, true)),
        2 => Just((false, true, true)),
        u32::from(bad) => select(vec![(true, true, true), (true, false, false), (false, true, false)]),
    ];
    let tier = prop_oneof![4 => strings(&["", "default", "t1", "t2"]), 1 => strings(&["nowhere"])];
    let scopes = (selector(bad, 60), prop_oneof![9 => Just(String::new()), 1 => selector(bad, 80)]);
    let accounts = prop_oneof![12 => Just(String::new()), 1 => strings(&["has(a)", "all()"])];
    (tier, order, types, flags, scopes, accounts).prop_map(
        |(tier, order, types, (do_not_track, pre_dnat, apply_on_forward), (selector, namespace_selector), accounts)| {
            // Where there is no list of workloads, hosts are meant more often than not.
            let selector = if do_not_track || pre_dnat { selector.replace("(a", "(hep") } else { selector };
            PolicySpec {
                tier,
                order: order.and_then(|order| order.as_number().cloned()),
                selector,
                namespace_selector,
                service_account_selector: accounts,
                types: types.into_iter().map(str::to_owned).collect(),
                do_not_track,
                pre_dnat,
                apply_on_forward,
                ..Default::default()
            }
        },
    )
}

fn policy(rough: bool) -> impl Strategy<Value = AnyResource> {
    let body =
        bad(rough).prop_flat_map(|bad| (policy_frame(bad).boxed(), rules(bad, 4).boxed(), rules(bad, 4).boxed()));
    let name = strings(&["a", "b", "a-x", "c"]);
    (name, select(vec![None, None, Some("blue"), Some("default")]), body).prop_map(
        |(name, namespace, (mut spec, ingress, egress))| {
            spec.ingress = ingress;
            // There is no egress before destination NAT.
            spec.egress = if spec.pre_dnat { Vec::new() } else { egress };
            if spec.pre_dnat {
                spec.types.retain(|word| word != "Egress");
            }
            match namespace {
                None => Kind::into_any(Resource::new(name, calico_model::GlobalNetworkPolicySpec(spec))),
                Some(namespace) => {
                    // What only global policies have.
                    (spec.do_not_track, spec.pre_dnat, spec.apply_on_forward) = (false, false, false);
                    spec.namespace_selector.clear();
                    Kind::into_any(Resource::namespaced(namespace, name, calico_model::NetworkPolicySpec(spec)))
                }
            }
        },
    )
}

fn staged() -> impl Strategy<Value = AnyResource> {
    (strings(&["a", "b"]), rules(false, 3)).prop_map(|(name, ingress)| {
        let spec = PolicySpec { ingress, staged_action: "Set".into(), ..Default::default() };
        Kind::into_any(Resource::new(name, StagedGlobalNetworkPolicySpec(spec)))
    })
}

fn tier() -> impl Strategy<Value = AnyResource> {
    let order = select(vec![None, Some(json!(1)), Some(json!(2)), Some(json!(1_000_000))]);
    let action = prop_oneof![20 => strings(&["", "Deny", "Pass", "Pass"]), 1 => strings(&["Perhaps"])];
    (strings(&["default", "t1", "t2"]), order, action).prop_map(|(name, order, default_action)| {
        let order = order.and_then(|order| order.as_number().cloned());
        Kind::into_any(Resource::new(name, TierSpec { order, default_action, extra: Default::default() }))
    })
}

fn network_set() -> impl Strategy<Value = AnyResource> {
    let net = prop_oneof![
        20 => strings(&["10.0.0.0/31", "10.0.0.2", "10.0.0.1/8", "0.0.0.0/0", "fd00::/64", "192.0.2.9/32"]),
        1 => strings(&["nonsense"]),
    ];
    let nets = prop::collection::vec(net, 0..3);
    (strings(&["s1", "s2"]), any::<bool>(), nets, labels()).prop_map(|(name, global, nets, mut labels)| {
        labels.insert("set".into(), String::new());
        let spec = NetSetSpec { nets, extra: Default::default() };
        if global {
            let mut set = Resource::new(name, calico_model::GlobalNetworkSetSpec(spec));
            set.metadata.labels = labels;
            return Kind::into_any(set);
        }
        let mut set = Resource::namespaced("blue", name, calico_model::NetworkSetSpec(spec));
        set.metadata.labels = labels;
        Kind::into_any(set)
    })
}

fn pool() -> impl Strategy<Value = AnyResource> {
    (strings(&["pool1", "pool2", "pool3"]), select(vec!["10.0.0.0/8", "10.0.0.0/16", "fd00::/64"]), any::<bool>())
        .prop_map(|(name, cidr, nat_outgoing)| {
            let spec = IPPoolSpec { cidr: cidr.parse().unwrap(), nat_outgoing, ..Default::default() };
            Kind::into_any(Resource::new(name, spec))
        })
}

/// One or two settings, as they are written.
fn felix() -> impl Strategy<Value = AnyResource> {
    let setting = select(vec![
        json!({"defaultEndpointToHostAction": "Drop"}),
        json!({"defaultEndpointToHostAction": "ACCEPT"}),
        json!({"defaultEndpointToHostAction": "Return"}),
        json!({"defaultEndpointToHostAction": "Perhaps"}),
        json!({"nftablesFilterDenyAction": "Reject"}),
        json!({"iptablesFilterDenyAction": "Reject"}),
        json!({"failsafeInboundHostPorts": []}),
        json!({"failsafeInboundHostPorts": [{"protocol": "tcp", "port": 80, "net": "10.0.0.0/8"}, {"protocol": "x", "port": 1}]}),
        json!({"failsafeOutboundHostPorts": [{"protocol": "UDP", "port": 53}, {"protocol": "sctp", "port": 80}]}),
        json!({"workloadSourceSpoofing": "Any"}),
        json!({"floatingIPs": "Enabled"}),
        json!({"floatingIPs": "Enabled", "workloadSourceSpoofing": "Any"}),
        json!({"disableConntrackInvalidCheck": true}),
        json!({"allowVXLANPacketsFromWorkloads": true, "allowIPIPPacketsFromWorkloads": true}),
        json!({"vxlanEnabled": true, "vxlanPort": 53}),
        json!({"serviceLoopPrevention": "Reject"}),
        json!({"serviceLoopPrevention": "Disabled"}),
        json!({"natOutgoingExclusions": "IPPoolsAndHostIPs", "natOutgoingAddress": "192.0.2.77"}),
    ]);
    let name = strings(&["default", "default", "node.n1", "node.n2", "some", "n1"]);
    let node_selector = select(vec![None, Some("has(rack)"), Some("all()"), Some("has(")]);
    let created = select(vec![None, Some("2026-01-01T00:00:00Z"), Some("2025-01-01T00:00:00Z")]);
    (name, setting, node_selector, created).prop_map(|(name, setting, node_selector, created)| {
        let mut spec: FelixConfigurationSpec = serde_json::from_value(setting).unwrap();
        if name == "some" || name == "n1" {
            spec.node_selector = node_selector.map(str::to_owned);
        }
        let mut resource = Resource::new(name, spec);
        resource.metadata.creation_timestamp = created.map(str::to_owned);
        Kind::into_any(resource)
    })
}

fn node() -> impl Strategy<Value = AnyResource> {
    let spec = select(vec![
        json!({"bgp": {"ipv4Address": "192.0.2.1/24", "ipv6Address": "2001:db8::1/64"}}),
        json!({"bgp": {"ipv4Address": "192.0.2.2"}, "addresses": [{"address": "10.0.0.3"}]}),
        json!({"addresses": [{"address": "198.51.100.1/24", "type": "InternalIP"}, {"address": "x"}]}),
        json!({}),
    ]);
    (strings(&["n1", "n2"]), spec, any::<bool>()).prop_map(|(name, spec, racked)| {
        let spec: NodeSpec = serde_json::from_value(spec).unwrap();
        let mut resource = Resource::new(name, spec);
        resource.metadata.labels.extend(racked.then(|| ("rack".to_owned(), "7".to_owned())));
        Kind::into_any(resource)
    })
}

fn bgp() -> impl Strategy<Value = AnyResource> {
    let spec = select(vec![
        json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]}),
        json!({"serviceExternalIPs": [{"cidr": "10.96.0.5/32"}], "serviceLoadBalancerIPs": [{"cidr": "fd96::/64"}]}),
        json!({}),
    ]);
    (strings(&["default", "node.n1"]), spec).prop_map(|(name, spec)| {
        let spec: BGPConfigurationSpec = serde_json::from_value(spec).unwrap();
        Kind::into_any(Resource::new(name, spec))
    })
}

fn resource(rough: bool) -> impl Strategy<Value = AnyResource> {
    prop_oneof![
        12 => endpoint().boxed(),
        8 => profile(rough).boxed(),
        14 => policy(rough).boxed(),
        3 => tier().boxed(),
        4 => network_set().boxed(),
        8 => host_endpoint().boxed(),
        2 => felix().boxed(),
        1 => pool().boxed(),
        1 => node().boxed(),
        1 => bgp().boxed(),
        1 => staged().boxed(),
    ]
}

/// What somebody may have done to a record on its way into the datastore.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// Nothing, and nobody checks it either.
    Unchecked,
    /// Nothing.
    None,
    /// The member of this number is of another sort than it should be.
    Member(usize),
    /// It is no JSON.
    All,
}

fn change(rough: bool) -> impl Strategy<Value = Change> {
    let harm = prop_oneof![
        20 => Just(Harm::Unchecked),
        40 => Just(Harm::None),
        2 * u32::from(rough) => (0..40_usize).prop_map(Harm::Member),
        u32::from(rough) => Just(Harm::All),
    ];
    let kept = (resource(rough), harm).prop_map(|(resource, harm)| stored(resource, harm));
    let removal = resource(rough).prop_map(|resource| Change::Remove { key: resource.key() });
    prop_oneof![10 => kept.boxed(), 1 => removal.boxed()]
}

/// What the syncer makes of a record.
fn stored(resource: AnyResource, harm: Harm) -> Change {
    let key = resource.key();
    let bytes = match harm {
        Harm::Unchecked => return Change::Set { key, resource: Box::new(resource) },
        Harm::None => resource.to_json(),
        Harm::Member(number) => {
            let mut value: Value = serde_json::from_slice(&resource.to_json()).unwrap();
            harm_member(&mut value, number);
            value.to_string().into_bytes()
        }
        Harm::All => b"{".to_vec(),
    };
    match AnyResource::decode_valid(&key, &bytes, Revision(1)) {
        Ok(resource) => Change::Set { key, resource: Box::new(resource) },
        Err(error) => error.into(),
    }
}

/// Replaces a member of the spec, or the labels.
fn harm_member(value: &mut Value, number: usize) {
    let Value::Object(spec) = value["spec"].take() else { return };
    let mut spec = spec;
    let at = number % (spec.len() + 1);
    match spec.iter_mut().nth(at) {
        Some((_, member)) => *member = json!([{"no": ["such", 7]}]),
        None => value["metadata"]["labels"] = json!(7),
    }
    value["spec"] = Value::Object(spec);
}

/// Changes and flushes in any order.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let steps = |rough| {
        let step = prop_oneof![6 => change(rough).prop_map(Step::Change), 1 => Just(Step::Flush)];
        prop::collection::vec(step, 8..70)
    };
    // Much that is bad closes everything, and hides all other differences.
    prop_oneof![2 => steps(false), 1 => steps(true)]
}

/// What stands at the end of a run, as it was last told.
pub(crate) fn standing(steps: &[Step]) -> BTreeMap<ResourceKey, Change> {
    let mut standing = BTreeMap::new();
    for step in steps {
        match step {
            Step::Change(Change::Remove { key }) => drop(standing.remove(key)),
            Step::Change(change) => drop(standing.insert(change.key().clone(), change.clone())),
            Step::Flush => {}
        }
    }
    standing
}
