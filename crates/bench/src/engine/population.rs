//! The clusters that upstream's published benchmarks of its engine generate, made anew as v3 resources: the same
//! numbers of the same things with the same labels, so that a number here can stand beside one of theirs.
//!
//! A cluster is a sequence of resources that is made while it is consumed: the resources of a large one would take
//! more memory than what is measured.

use std::{collections::BTreeMap, net::Ipv4Addr};

use calico_model::{
    Action, AnyResource, EntityRule, GlobalNetworkPolicy, GlobalNetworkSet, Kind, NetSetSpec, PolicySpec, Port,
    Profile, ProfileSpec, Protocol, Rule, WorkloadEndpoint, WorkloadEndpointSpec,
};

/// The host whose engine is measured.
pub(crate) const LOCAL: &str = "localhost";
/// The host of all other endpoints.
pub(crate) const REMOTE: &str = "remotehost";

/// Namespaces in the snapshots, each a profile.
const NAMESPACES: usize = 100;
/// Endpoints of the measured host in the snapshots.
pub(crate) const LOCAL_ENDPOINTS: usize = 200;
/// Ingress rules of a tag policy.
const RULES_PER_POLICY: usize = 5;
/// Networks of the network sets, in turn.
const SET_SIZES: [usize; 10] = [1, 1, 1, 1, 2, 3, 4, 5, 100, 1000];
/// Each endpoint has one label for each, whose value is one of so many.
const ONE_IN: [usize; 5] = [10, 11, 20, 30, 40];
/// Where namespaces' own labels start in the labels that their profiles give.
const NAMESPACE_NAME: &str = "pcns.projectcalico.org/name";

/// Each endpoint has one of these labels; some stand twice.
const MARKERS: [&str; 31] = [
    "FOO_BAR",
    "FOO_BAR",
    "BIFF_BOP",
    "calico/FizzBuzz",
    "calico/BoffBip",
    "calico/Bazzle",
    "calico/Razzle",
    "calico/DoopDeeDoo",
    "calico/SOME_LABEL",
    "calico/BORED_NOW",
    "MyMarkerLabel",
    "xFOO_BAR",
    "xBIFF_BOP",
    "xcalico/FizzBuzz",
    "xcalico/BoffBip",
    "xcalico/Bazzle",
    "xcalico/Razzle",
    "xcalico/DoopDeeDoo",
    "xcalico/SOME_LABEL",
    "xcalico/BORED_NOW",
    "yxMyMarkerLabel",
    "yxFOO_BAR",
    "yxBIFF_BOP",
    "yxcalico/FizzBuzz",
    "yxcalico/BoffBip",
    "yxcalico/Bazzle",
    "yxcalico/Razzle",
    "yxcalico/DoopDeeDoo",
    "yxcalico/SOME_LABEL",
    "yxcalico/BORED_NOW",
    "yxMyMarkerLabel",
];

type Labels = BTreeMap<String, String>;
/// Resources in the order in which they are fed.
pub(crate) type Resources = Box<dyn Iterator<Item = AnyResource>>;

/// Policies, namespaces, endpoints elsewhere, network sets with a policy each, endpoints here: in this order.
pub(crate) fn snapshot(endpoints: usize, tag_policies: usize, network_sets: usize) -> Resources {
    Box::new(
        (0..tag_policies)
            .map(tag_policy)
            .chain((0..NAMESPACES).map(namespace))
            .chain((0..endpoints).map(|number| endpoint(REMOTE, number, number, number + 1)))
            .chain(network_set_policies(network_sets))
            .chain((0..LOCAL_ENDPOINTS).map(move |number| {
                let so_far = endpoints + number;
                endpoint(LOCAL, number, so_far, so_far + 1)
            })),
    )
}

/// The endpoint of this number. `address` counts up over all endpoints; `seed` chooses its labels.
pub(crate) fn endpoint(node: &str, number: usize, address: usize, seed: usize) -> AnyResource {
    let namespace = format!("namespace-{}", number % NAMESPACES);
    workload(node, &namespace, &format!("wep-{number}"), number, address, labels(seed))
}

fn labels(seed: usize) -> Labels {
    let mut labels: Labels = ONE_IN.iter().map(|n| (format!("one-in-{n}"), format!("value-{}", seed % n))).collect();
    labels.insert(MARKERS[seed % MARKERS.len()].to_owned(), "true".to_owned());
    labels
}

/// A pod, as Kubernetes' CNI plugin writes one.
fn workload(node: &str, namespace: &str, pod: &str, number: usize, address: usize, labels: Labels) -> AnyResource {
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_owned(),
        node: node.to_owned(),
        pod: pod.to_owned(),
        endpoint: "eth0".to_owned(),
        ip_networks: vec![format!("{}/32", nth_address(address))],
        profiles: vec![format!("kns.{namespace}")],
        interface_name: format!("cali{number:x}"),
        ..WorkloadEndpointSpec::default()
    };
    let name = format!("{node}-k8s-{}-eth0", pod.replace('-', "--"));
    let mut endpoint = WorkloadEndpoint::namespaced(namespace, name, spec);
    endpoint.metadata.labels = labels;
    Kind::into_any(endpoint)
}

/// The address of this number, from 10.0.0.1 on.
fn nth_address(number: usize) -> Ipv4Addr {
    let number = u32::try_from(number).expect("the clusters are smaller than the address space");
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 1).to_bits() + number)
}

/// The profile of the namespace of this number.
fn namespace(number: usize) -> AnyResource {
    let name = format!("namespace-{number}");
    profile(&name, [(NAMESPACE_NAME.to_owned(), name.clone())])
}

/// A namespace's profile: no rules, these labels.
pub(crate) fn profile(namespace: &str, labels: impl IntoIterator<Item = (String, String)>) -> AnyResource {
    let spec = ProfileSpec { labels_to_apply: labels.into_iter().collect(), ..ProfileSpec::default() };
    Kind::into_any(Profile::new(format!("kns.{namespace}"), spec))
}

fn tag_policy(number: usize) -> AnyResource {
    let marker = |number: usize| format!("has({})", MARKERS[number % MARKERS.len()]);
    let ingress = (0..RULES_PER_POLICY).map(|rule| allow_from(marker(number + rule))).collect();
    global_policy(format!("tag-pol-{number}"), marker(number), ingress)
}

/// A policy of the default tier that decides in both directions, as upstream's generators make them.
pub(crate) fn global_policy(name: String, selector: String, ingress: Vec<Rule>) -> AnyResource {
    let spec = PolicySpec { tier: "default".to_owned(), selector, ingress, types: both(), ..PolicySpec::default() };
    Kind::into_any(GlobalNetworkPolicy::new(name, spec.into()))
}

fn both() -> Vec<String> {
    vec!["Ingress".to_owned(), "Egress".to_owned()]
}

/// An allow rule for what the selector selects.
pub(crate) fn allow_from(selector: String) -> Rule {
    let mut rule = Rule::of(Action::Allow);
    rule.source = EntityRule { selector, ..EntityRule::default() };
    rule
}

/// Network sets of different sizes, each followed by a policy for everybody that allows from it.
fn network_set_policies(sets: usize) -> impl Iterator<Item = AnyResource> {
    let mut next = 0;
    (0..sets).flat_map(move |number| {
        let name = format!("network-set-{number}");
        let first = next;
        next += SET_SIZES[number % SET_SIZES.len()];
        let nets = (first..next).map(|number| format!("{}/32", nth_address(number))).collect();
        let mut set = GlobalNetworkSet::new(&name, NetSetSpec { nets, ..NetSetSpec::default() }.into());
        set.metadata.labels.insert("network-set-name".to_owned(), name.clone());
        let ingress = vec![allow_from(format!("network-set-name == '{name}'"))];
        let policy = global_policy(format!("network-set-pol-{number}"), "all()".to_owned(), ingress);
        [Kind::into_any(set), policy]
    })
}

/// Many tenants that see nothing of each other: per tenant a namespace, a policy that allows within it and to the
/// name server, and one pod with fifteen labels. `local` of the pods are on the measured host, spread evenly.
pub(crate) fn tenants(tenants: usize, local: usize) -> Resources {
    let stride = (tenants / local).max(1);
    let is_local = move |number: &usize| number.is_multiple_of(stride) && number / stride < local;
    Box::new(
        (0..tenants)
            .map(isolation)
            .chain((0..tenants).map(tenant_namespace))
            .chain((0..tenants).filter(move |number| !is_local(number)).map(|number| tenant_pod(REMOTE, number)))
            .chain((0..tenants).filter(is_local).map(|number| tenant_pod(LOCAL, number))),
    )
}

fn tenant_namespace(number: usize) -> AnyResource {
    let name = format!("customer-{number}");
    let labels = [
        (NAMESPACE_NAME.to_owned(), name.clone()),
        ("namespace-id".to_owned(), scrambled(number, 20)),
        ("production".to_owned(), number.is_multiple_of(2).to_string()),
    ];
    profile(&name, labels)
}

/// Upstream's engine is fed policies whose namespace is written out in each selector; so is ours.
fn isolation(number: usize) -> AnyResource {
    let namespace = format!("customer-{number}");
    let selector = format!("{NAMESPACE_NAME} == '{namespace}'");
    let mut to_inside = Rule::of(Action::Allow);
    to_inside.destination = EntityRule { selector: selector.clone(), ..EntityRule::default() };
    let mut to_name_server = Rule::of(Action::Allow);
    to_name_server.protocol = Some(Protocol::Name("UDP".to_owned()));
    to_name_server.destination =
        EntityRule { nets: vec!["10.96.0.10/32".to_owned()], ports: vec![Port::Number(53)], ..EntityRule::default() };
    let spec = PolicySpec {
        tier: "default".to_owned(),
        ingress: vec![allow_from(selector.clone())],
        selector,
        egress: vec![to_inside, to_name_server],
        types: both(),
        ..PolicySpec::default()
    };
    Kind::into_any(GlobalNetworkPolicy::new(format!("{namespace}.isolation"), spec.into()))
}

fn tenant_pod(node: &str, number: usize) -> AnyResource {
    let pod = format!("app-{:09x}-{:05x}", number * 7 + 3, (number * 17 + 5) % (1 << 16));
    workload(node, &format!("customer-{number}"), &pod, number, number, tenant_labels(number))
}

/// Five labels that no other pod has, four of two values, four of a few, one that all have, one of 5,000 values.
fn tenant_labels(number: usize) -> Labels {
    let one_of = |choices: &[&str]| choices[number % choices.len()].to_owned();
    let bit = |place: usize| (number >> place & 1).to_string();
    [
        ("pod-id", scrambled(number * 5, 20)),
        ("instance-id", scrambled(number * 5 + 1, 20)),
        ("short-id", scrambled(number * 5 + 2, 10)),
        ("config-hash", scrambled(number * 5 + 3, 20)),
        ("version-tag", scrambled(number * 5 + 4, 8)),
        ("enabled", bit(0)),
        ("debug", bit(1)),
        ("canary", bit(2)),
        ("managed", bit(3)),
        ("environment", one_of(&["dev", "staging", "prod"])),
        ("tier", one_of(&["frontend", "backend", "middleware", "data"])),
        ("region", one_of(&["us-east", "us-west", "eu-west", "ap-south"])),
        ("team", one_of(&["platform", "payments", "identity", "growth", "infra"])),
        ("managed-by", "saas-controller".to_owned()),
        ("tenant-id", scrambled(number % 5000, 10)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// A text of this length that looks random and follows from the number (a linear congruential generator's output).
fn scrambled(number: usize, length: usize) -> String {
    const DIGITS: &[u8; 16] = b"abcdef0123456789";
    let mut state = (number as u64).wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..length)
        .map(|_| {
            let digit = DIGITS[(state % 16) as usize];
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(digit)
        })
        .collect()
}
