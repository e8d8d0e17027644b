//! What the engine promises, one promise per test.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use calico_model::{
    Action, Change, EndpointPort, FelixConfigurationSpec, IPPoolSpec, KindName, Profile, ProfileName, ProfileSpec,
    Protocol, Resource, ResourceKey, Rule, WorkloadEndpoint, WorkloadEndpointSpec,
};
use calico_policy::{
    BUILT_IN_PROFILE, Engine,
    instruction::{HostAction, Instruction, ProfileId, RuleAction, SetId},
    interpret::Programmed,
    packet::{Hop, Packet, Transport, Verdict},
};
use common::{NODE, set};
use ipnet::IpNet;

/// An endpoint of this host, with the interface `cali<name>`.
fn endpoint(name: &str, address: &str, profiles: &[&str]) -> WorkloadEndpoint {
    let spec = WorkloadEndpointSpec {
        node: NODE.to_owned(),
        interface_name: format!("cali{name}"),
        ip_networks: vec![address.to_owned()],
        profiles: profiles.iter().map(|&name| name.to_owned()).collect(),
        ..Default::default()
    };
    Resource::namespaced("default", name, spec)
}

fn elsewhere(mut endpoint: WorkloadEndpoint) -> WorkloadEndpoint {
    endpoint.spec.node = "other".to_owned();
    endpoint
}

fn labelled(mut endpoint: WorkloadEndpoint, labels: &[(&str, &str)]) -> WorkloadEndpoint {
    let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
    endpoint.metadata.labels.extend(labels);
    endpoint
}

/// A profile that lets in what the selector selects and everything out.
fn letting_in(name: &str, selector: &str, labels: &[(&str, &str)]) -> Profile {
    let mut rule = Rule::of(Action::Allow);
    rule.source.selector = selector.to_owned();
    let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
    let spec = ProfileSpec {
        ingress: vec![rule],
        egress: vec![Rule::of(Action::Allow)],
        labels_to_apply: labels.collect(),
        ..Default::default()
    };
    Resource::new(name, spec)
}

fn removal(kind: KindName, name: &str) -> Change {
    let namespace = (kind == KindName::WorkloadEndpoint).then_some("default");
    Change::Remove { key: ResourceKey::new(kind, namespace, name) }
}

fn set_id(selector: &str) -> SetId {
    SetId(calico_selector::parse(selector).unwrap().unique_id())
}

/// An engine with the sum of its instructions.
struct Host {
    engine: Engine,
    programmed: Programmed,
}

impl Host {
    fn new() -> Self {
        Self { engine: Engine::new(NODE), programmed: Programmed::default() }
    }

    fn with(changes: impl IntoIterator<Item = Change>) -> Self {
        let mut host = Self::new();
        host.take(changes);
        host
    }

    /// Absorbs the changes and returns what one flush says.
    fn take(&mut self, changes: impl IntoIterator<Item = Change>) -> Vec<Instruction> {
        for change in changes {
            self.engine.absorb(change);
        }
        let instructions = self.engine.flush();
        for instruction in &instructions {
            self.programmed.apply(instruction).unwrap();
        }
        instructions
    }

    fn members(&self, selector: &str) -> Vec<String> {
        self.programmed.sets[&set_id(selector)].nets().map(ToString::to_string).collect()
    }

    fn verdict(&self, from: &WorkloadEndpoint, to: &WorkloadEndpoint) -> Verdict {
        let address = |endpoint: &WorkloadEndpoint| endpoint.spec.ip_networks[0].parse::<IpNet>().unwrap().addr();
        let hop = |endpoint: &WorkloadEndpoint| Hop::Interface(endpoint.spec.interface_name.clone());
        let transport = Transport::Ports { protocol: 6, source: 40_000, destination: 80 };
        self.programmed.verdict(&Packet::new(hop(from), hop(to), address(from), address(to), transport))
    }

    fn problems(&self) -> Vec<String> {
        self.engine.problems().iter().map(ToString::to_string).collect()
    }
}

fn named<'a>(instructions: &'a [Instruction]) -> Vec<&'a str> {
    let name = |instruction: &'a Instruction| match instruction {
        Instruction::SetReplace { .. } => "set",
        Instruction::SetDelta { .. } => "members",
        Instruction::SetRemove { .. } => "-set",
        Instruction::ProfileUpdate { .. } => "profile",
        Instruction::ProfileRemove { .. } => "-profile",
        Instruction::EndpointUpdate { .. } => "endpoint",
        Instruction::EndpointRemove { .. } => "-endpoint",
        Instruction::Pools { .. } => "pools",
        Instruction::Settings(_) => "settings",
        Instruction::PolicyUpdate { .. } => "policy",
        Instruction::PolicyRemove { .. } => "-policy",
        Instruction::HostEndpointUpdate { .. } => "host endpoint",
        Instruction::HostEndpointRemove { .. } => "-host endpoint",
        Instruction::Hosts { .. } => "hosts",
        Instruction::Tunnels(_) => "tunnels",
        Instruction::VtepUpdate { .. } => "vtep",
        Instruction::VtepRemove { .. } => "-vtep",
        Instruction::RouteUpdate { .. } => "route",
        Instruction::RouteRemove { .. } => "-route",
    };
    instructions.iter().map(name).collect()
}

#[test]
fn the_walk_through() {
    let profile = Profile::classic_default(&ProfileName::typed("PROF_A_B").unwrap());
    let name = profile.name().to_owned();
    let (a, b) = (endpoint("a", "10.0.0.1/32", &[&name]), endpoint("b", "10.0.0.2/32", &[&name]));
    let c = endpoint("c", "10.0.0.3/32", &[]);
    let mut host = Host::with([set(profile), set(a.clone()), set(b.clone()), set(c.clone())]);
    for (from, to, expected) in
        [(&a, &b, Verdict::Allow), (&b, &a, Verdict::Allow), (&c, &a, Verdict::Drop), (&a, &c, Verdict::Drop)]
    {
        assert_eq!(host.verdict(from, to), expected, "{} to {}", from.name(), to.name());
    }
    host.take([set(endpoint("b", "10.0.0.2/32", &[]))]);
    assert_eq!(host.verdict(&a, &b), Verdict::Drop);
    assert_eq!(host.members("PROF_A_B == ''"), ["10.0.0.1/32"]);
    assert!(host.problems().is_empty());
}

#[test]
fn what_is_used_comes_first_and_goes_last() {
    let mut host = Host::new();
    let first = host.take([set(letting_in("p", "has(a)", &[])), set(endpoint("a", "10.0.0.1/32", &["p"]))]);
    assert_eq!(named(&first), ["settings", "pools", "set", "profile", "endpoint"]);
    assert_eq!(named(&host.take([removal(KindName::WorkloadEndpoint, "a")])), ["-endpoint", "-profile", "-set"]);
    assert_eq!(host.programmed, Programmed::default());
}

#[test]
fn an_endpoint_without_a_profile_passes_nothing() {
    let (a, b) = (endpoint("a", "10.0.0.1/32", &[]), endpoint("b", "10.0.0.2/32", &[BUILT_IN_PROFILE]));
    let host = Host::with([set(a.clone()), set(b.clone())]);
    assert_eq!(host.verdict(&a, &b), Verdict::Drop);
    assert_eq!(host.verdict(&b, &a), Verdict::Drop);
    assert!(host.problems().is_empty(), "closed by intent is no problem");
}

#[test]
fn a_missing_profile_denies_even_before_an_open_one() {
    let a = endpoint("a", "10.0.0.1/32", &["late", BUILT_IN_PROFILE]);
    let b = endpoint("b", "10.0.0.2/32", &[BUILT_IN_PROFILE]);
    let mut host = Host::with([set(a.clone()), set(b.clone())]);
    assert_eq!(host.verdict(&b, &a), Verdict::Drop);
    assert_eq!(host.problems(), ["Profile late: it does not exist, but endpoints of this host name it"]);
    let instructions = host.take([set(letting_in("late", "", &[]))]);
    assert_eq!(named(&instructions), ["profile"]);
    assert_eq!(host.verdict(&b, &a), Verdict::Allow);
    assert!(host.problems().is_empty());
    host.take([removal(KindName::Profile, "late")]);
    assert_eq!(host.verdict(&b, &a), Verdict::Drop);
}

#[test]
fn a_profile_that_cannot_be_followed_is_closed_as_a_whole() {
    let a = endpoint("a", "10.0.0.1/32", &["p"]);
    let mut profile = letting_in("p", "", &[]);
    let mut host = Host::with([set(profile.clone()), set(a.clone())]);
    assert_eq!(host.verdict(&a, &a), Verdict::Allow);
    profile.spec.egress.push(Rule { action: "Perhaps".to_owned(), ..Rule::default() });
    host.take([set(profile)]);
    assert_eq!(host.verdict(&a, &a), Verdict::Drop);
    let rules = &host.programmed.profiles[&ProfileId("p".to_owned())];
    assert!([&rules.ingress, &rules.egress].iter().all(|rules| rules[0].action == RuleAction::Deny));
    let reason = "Profile p: spec.egress[1].action = \"Perhaps\": it is Allow, Deny, Log or Pass";
    assert_eq!(host.problems(), [reason]);
}

#[test]
fn only_profiles_of_local_endpoints_are_active() {
    let mut host = Host::with([
        set(letting_in("p", "has(a)", &[])),
        set(letting_in("broken", "has(", &[])),
        set(elsewhere(endpoint("far", "10.0.1.1/32", &["p", "broken"]))),
    ]);
    assert!(host.programmed.profiles.is_empty() && host.programmed.sets.is_empty());
    assert!(host.problems().is_empty(), "what governs nothing here is no problem here");
    host.take([set(endpoint("a", "10.0.0.1/32", &["p"]))]);
    assert_eq!(host.programmed.profiles.len(), 1);
}

#[test]
fn sets_hold_endpoints_of_all_hosts() {
    let user = endpoint("a", "10.0.0.1/32", &["p"]);
    let far = elsewhere(labelled(endpoint("far", "10.0.1.1/32", &[]), &[("role", "web")]));
    let mut host = Host::with([set(letting_in("p", "role == 'web'", &[])), set(user), set(far.clone())]);
    assert_eq!(host.members("role == 'web'"), ["10.0.1.1/32"]);
    let mut moved = far.clone();
    moved.spec.ip_networks = vec!["10.0.1.2".into(), "fd00::2/128".into()];
    assert_eq!(named(&host.take([set(moved)])), ["members"]);
    assert_eq!(host.members("role == 'web'"), ["10.0.1.2/32", "fd00::2/128"]);
    host.take([set(labelled(far, &[("role", "db")]))]);
    assert!(host.members("role == 'web'").is_empty());
}

#[test]
fn an_address_leaves_a_set_with_its_last_holder() {
    let holder = |name| elsewhere(labelled(endpoint(name, "10.0.1.1/32", &[]), &[("x", "")]));
    let mut host = Host::with([
        set(letting_in("p", "has(x)", &[])),
        set(endpoint("a", "10.0.0.1/32", &["p"])),
        set(holder("one")),
        set(holder("two")),
    ]);
    assert_eq!(host.take([removal(KindName::WorkloadEndpoint, "one")]), []);
    assert_eq!(host.members("has(x)"), ["10.0.1.1/32"]);
    assert_eq!(named(&host.take([removal(KindName::WorkloadEndpoint, "two")])), ["members"]);
    assert!(host.members("has(x)").is_empty());
}

#[test]
fn own_labels_go_before_inherited_ones_and_first_profiles_before_later() {
    let labels = [("p", "1"), ("q", "")].map(|(name, value)| letting_in(name, "", &[("k", value)]));
    let cases =
        [(["p", "q"], None, "1"), (["q", "p"], None, ""), (["p", "q"], Some("own"), "own"), (["p", "q"], Some(""), "")];
    for (profiles, own, expected) in cases {
        let own = own.map(|value| ("k", value));
        let mut host = Host::with(labels.clone().map(set));
        host.take([
            set(letting_in("user", &format!("k == '{expected}'"), &[])),
            set(endpoint("user", "10.0.0.9/32", &["user"])),
            set(elsewhere(labelled(endpoint("a", "10.0.0.1/32", &profiles), own.as_slice()))),
        ]);
        assert_eq!(host.members(&format!("k == '{expected}'")), ["10.0.0.1/32"], "{profiles:?} {own:?}");
    }
}

#[test]
fn endpoints_cannot_give_themselves_namespace_labels() {
    let rule_of_namespace = {
        let mut profile = letting_in("p", "", &[]);
        profile.spec.ingress[0].source.namespace_selector = "team == 'red'".to_owned();
        profile
    };
    let liar = elsewhere(labelled(endpoint("liar", "10.0.1.1/32", &[]), &[("pcns.team", "red")]));
    let member = elsewhere(endpoint("member", "10.0.1.2/32", &["kns.red"]));
    let host = Host::with([
        set(rule_of_namespace),
        set(endpoint("a", "10.0.0.1/32", &["p"])),
        set(letting_in("kns.red", "", &[("pcns.team", "red")])),
        set(liar),
        set(member),
    ]);
    assert_eq!(host.members("pcns.team == 'red'"), ["10.0.1.2/32"]);
}

#[test]
fn the_first_of_two_endpoints_has_the_interface() {
    let claim = |name| {
        let mut endpoint = endpoint(name, "10.0.0.1/32", &[]);
        endpoint.spec.interface_name = "calix".to_owned();
        endpoint
    };
    let mut host = Host::with([set(claim("b"))]);
    assert!(host.problems().is_empty());
    assert_eq!(named(&host.take([set(claim("a"))])), ["-endpoint", "endpoint"]);
    assert_eq!(host.problems(), ["WorkloadEndpoint default/b: its interface calix belongs to default/a"]);
    let keys: Vec<String> = host.programmed.endpoints.keys().map(ToString::to_string).collect();
    assert_eq!(keys, ["default/a"]);
    assert_eq!(named(&host.take([removal(KindName::WorkloadEndpoint, "a")])), ["-endpoint", "endpoint"]);
    assert!(host.problems().is_empty());
}

/// The endpoint with ports of the host that lead to its own port 80.
fn publishing(mut endpoint: WorkloadEndpoint, ports: &[(u16, &str)]) -> WorkloadEndpoint {
    let port = |&(host_port, host_ip): &(u16, &str)| EndpointPort {
        name: String::new(),
        protocol: Protocol::from("TCP"),
        port: 80,
        host_port: Some(host_port),
        host_ip: Some(host_ip.to_owned()),
        extra: Default::default(),
    };
    endpoint.spec.ports = ports.iter().map(port).collect();
    endpoint
}

#[test]
fn a_published_port_that_another_endpoint_or_the_host_has_is_a_problem() {
    let to_80 = |host: &Host| -> Vec<String> {
        let ports = host.programmed.endpoints.values().flat_map(|endpoint| &endpoint.published);
        ports.map(|port| format!("{} to {}", port.claim(), port.address)).collect()
    };
    let b = publishing(endpoint("b", "10.0.0.2", &["p"]), &[(8080, ""), (8081, "192.0.2.1")]);
    let mut host = Host::with([set(letting_in("p", "all()", &[])), set(b)]);
    assert!(host.problems().is_empty());
    assert_eq!(to_80(&host), ["8080/tcp to 10.0.0.2", "192.0.2.1:8081/tcp to 10.0.0.2"]);
    let a = publishing(endpoint("a", "10.0.0.1", &["p"]), &[(8080, "0.0.0.0"), (8081, ""), (22, "")]);
    host.take([set(a)]);
    let reserved = "WorkloadEndpoint default/a: the host's port 22/tcp does not lead here: it is a failsafe port of the \
                    host: take it out of failsafeInboundHostPorts, or publish another";
    let taken = "WorkloadEndpoint default/b: the host's port 8080/tcp does not lead here: default/a has it";
    assert_eq!(host.problems(), [reserved, taken]);
    assert!(to_80(&host).iter().all(|port| !port.starts_with("22/")), "{:?}", to_80(&host));
    let spec = FelixConfigurationSpec { failsafe_inbound_host_ports: Some(Vec::new()), ..Default::default() };
    host.take([set(Resource::new("default", spec))]);
    assert_eq!(host.problems(), [taken]);
    assert!(to_80(&host).contains(&"22/tcp to 10.0.0.1".to_owned()), "{:?}", to_80(&host));
    host.take([removal(KindName::WorkloadEndpoint, "a")]);
    assert!(host.problems().is_empty());
}

#[test]
fn two_endpoints_may_swap_their_interfaces() {
    let swapped = |name, interface: &str| {
        let mut endpoint = endpoint(name, "10.0.0.1/32", &[]);
        endpoint.spec.interface_name = interface.to_owned();
        set(endpoint)
    };
    let mut host = Host::with([swapped("a", "cali1"), swapped("b", "cali2")]);
    let instructions = host.take([swapped("a", "cali2"), swapped("b", "cali1")]);
    assert_eq!(named(&instructions), ["-endpoint", "-endpoint", "endpoint", "endpoint"]);
}

#[test]
fn endpoints_that_cannot_be_programmed_are_problems_on_their_own_host_only() {
    type Spoil = fn(&mut WorkloadEndpointSpec);
    let cases: [(Spoil, &str); 11] = [
        (|spec| spec.ip_networks.clear(), "without an address"),
        (|spec| spec.ip_networks.push("10.0.0.0/24".into()), "spec.ipNetworks[1]"),
        (|spec| spec.ip_networks.push("x".into()), "not an IP address"),
        (|spec| spec.ip_networks.push("224.0.0.1/32".into()), "no workload can have this address"),
        (|spec| spec.mac = "ee:ee".into(), "spec.mac"),
        (|spec| spec.interface_name.clear(), "is not named"),
        (|spec| spec.interface_name = "cali567890123456".into(), "at most 15 bytes"),
        (|spec| spec.interface_name = "cali/1".into(), "letters, digits"),
        (|spec| spec.interface_name = "cali 1".into(), "letters, digits"),
        (|spec| spec.interface_name = "eth0".into(), "start with cali"),
        (|spec| spec.allow_spoofed_source_prefixes.push("10.9.0.0/16".into()), "source spoofing is disabled"),
    ];
    for (spoil, expected) in cases {
        let mut bad = endpoint("a", "10.0.0.1/32", &[]);
        spoil(&mut bad.spec);
        let mut host = Host::with([set(bad.clone())]);
        assert!(host.programmed.endpoints.is_empty(), "{expected}");
        assert!(host.problems().len() == 1 && host.problems()[0].contains(expected), "{:?}", host.problems());
        host.take([set(elsewhere(bad))]);
        assert!(host.problems().is_empty(), "{expected}");
    }
}

#[test]
fn an_endpoint_that_goes_bad_is_withdrawn_everywhere() {
    let good = labelled(endpoint("b", "10.0.0.2/32", &[]), &[("x", "")]);
    let mut host =
        Host::with([set(letting_in("p", "has(x)", &[])), set(endpoint("a", "10.0.0.1/32", &["p"])), set(good.clone())]);
    let mut bad = good;
    bad.spec.ip_networks.push("nonsense".into());
    assert_eq!(named(&host.take([set(bad)])), ["members", "-endpoint"]);
    assert!(host.members("has(x)").is_empty());
}

#[test]
fn the_hosts_own_setting_goes_before_the_clusters() {
    let configuration = |name: &str, action: &str| {
        let spec =
            FelixConfigurationSpec { default_endpoint_to_host_action: Some(action.to_owned()), ..Default::default() };
        set(Resource::new(name, spec))
    };
    let mut host = Host::new();
    let mut action = |change: Option<Change>| {
        host.take(change);
        (host.programmed.settings.endpoint_to_host, host.problems().join(", "))
    };
    let fine = |action| (action, String::new());
    assert_eq!(action(None), fine(HostAction::Return));
    assert_eq!(action(Some(configuration("default", "ACCEPT"))), fine(HostAction::Accept));
    assert_eq!(action(Some(configuration("node.other", "Drop"))), fine(HostAction::Accept));
    assert_eq!(action(Some(configuration("node.n1", "Drop"))), fine(HostAction::Drop));
    let (closed, problem) = action(Some(configuration("node.n1", "Perhaps")));
    assert_eq!(closed, HostAction::Drop);
    assert!(problem.starts_with("FelixConfiguration node.n1: "), "{problem}");
    assert_eq!(action(Some(removal(KindName::FelixConfiguration, "node.n1"))), fine(HostAction::Accept));
    assert_eq!(action(Some(removal(KindName::FelixConfiguration, "default"))), fine(HostAction::Return));
}

#[test]
fn pools_are_listed_once_per_range() {
    let pool = |name: &str, cidr: &str, nat_outgoing| {
        let spec = IPPoolSpec { cidr: cidr.parse().unwrap(), nat_outgoing, disabled: true, ..Default::default() };
        set(Resource::new(name, spec))
    };
    let mut host =
        Host::with([pool("b", "10.1.0.0/16", true), pool("a", "10.1.0.0/16", false), pool("c", "fd00::/64", true)]);
    let listed = |host: &Host| -> BTreeMap<String, bool> {
        host.programmed.pools.iter().map(|pool| (pool.cidr.to_string(), pool.masquerade)).collect()
    };
    assert_eq!(listed(&host), BTreeMap::from([("10.1.0.0/16".into(), false), ("fd00::/64".into(), true)]));
    assert_eq!(named(&host.take([removal(KindName::IPPool, "a")])), ["pools"]);
    assert_eq!(listed(&host), BTreeMap::from([("10.1.0.0/16".into(), true), ("fd00::/64".into(), true)]));
    assert_eq!(host.take([]), []);
}

#[test]
fn equal_selectors_share_one_set_however_they_are_spelt() {
    let host = Host::with([
        set(letting_in("p", "role == 'web'", &[])),
        set(letting_in("q", "( role==\"web\" )", &[])),
        set(endpoint("a", "10.0.0.1/32", &["p", "q"])),
    ]);
    assert_eq!(host.programmed.sets.len(), 1);
}

#[test]
fn a_change_of_rules_keeps_the_sets_that_stay_in_use() {
    let mut profile = letting_in("p", "has(a)", &[]);
    let mut host = Host::with([set(profile.clone()), set(endpoint("a", "10.0.0.1/32", &["p"]))]);
    let mut more = Rule::of(Action::Deny);
    more.source.selector = "has(b)".to_owned();
    profile.spec.ingress.insert(0, more);
    assert_eq!(named(&host.take([set(profile.clone())])), ["set", "profile"]);
    profile.spec.ingress.truncate(1);
    assert_eq!(named(&host.take([set(profile)])), ["profile", "-set"]);
}
