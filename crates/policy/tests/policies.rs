//! Which policies apply to what, in which order, and what of them reaches the dataplane.

#![allow(clippy::unwrap_used)]

mod held;

use std::sync::Arc;

use calico_model::{Action, EntityRule, Port, Protocol, Resource, Rule};
use calico_policy::instruction::{HostInterfaces, Members, PolicyId, PolicyKind, SetId};
use held::{
    Host, from, global, host_endpoint, in_namespace, listed, namespaced, nets, owned, policy, profile, removed,
    selected, set, tier, workload,
};

fn web() -> calico_model::Change {
    set(workload("web", "10.0.0.1", &[("role", "web")]))
}

#[test]
fn order_is_by_number_and_then_by_name_namespace_and_kind() {
    let changes = [
        set(policy("z", Some(-1.5))),
        set(policy("a", Some(10.0))),
        set(namespaced("default", "a", Some(10.0))),
        set(policy("a-x", Some(10.0))),
        set(policy("b", Some(9.99))),
        set(policy("last", None)),
        set(namespaced("default", "early", None)),
        set(policy("zero", Some(0.0))),
        set(policy("minus-zero", Some(-0.0))),
    ];
    let host = Host::with(changes.into_iter().chain([web()]));
    assert_eq!(host.ingress("web"), "default: z minus-zero zero b a-x a default/a default/early last");
}

#[test]
fn tiers_are_in_order_and_those_that_nobody_stored_come_last() {
    let of_tier = |name: &str, tier: &str| {
        let mut policy = policy(name, None);
        policy.spec.tier = tier.into();
        set(policy)
    };
    let mut host = Host::with([
        web(),
        set(tier("default", Some(1_000_000), "Deny")),
        set(tier("zz", None, "Pass")),
        set(tier("aa", None, "Deny")),
        set(tier("late", Some(2_000_000), "Pass")),
        set(tier("first", Some(5), "Pass")),
        of_tier("p1", "first"),
        of_tier("p2", ""),
        of_tier("p3", "zz"),
        of_tier("p4", "aa"),
        of_tier("p5", "late"),
        of_tier("p6", "missing-b"),
        of_tier("p7", "missing-a"),
    ]);
    assert_eq!(
        host.ingress("web"),
        "first+: p1 | aa: p4 | default: p2 | zz+: p3 | late+: p5 | missing-a: p7 | missing-b: p6"
    );
    // A tier without policies here changes nothing; one with some changes the endpoint and nothing else.
    assert!(host.take([set(tier("unused", Some(1), "Pass"))]).is_empty());
    assert_eq!(host.take([set(tier("missing-b", Some(1), "Pass"))]), ["endpoint web"]);
    assert!(host.ingress("web").starts_with("missing-b+: p6 | first+: p1"));
    let first = set(tier("first", Some(5), "Pass"));
    assert_eq!(host.take([removed(&first)]), ["endpoint web"]);
    assert!(host.ingress("web").ends_with("missing-a: p7") && host.ingress("web").contains("| first: p1 |"));
}

#[test]
fn directions_follow_from_types_or_from_the_rules() {
    let mut host = Host::with([web()]);
    let cases: [(&[&str], usize, usize, bool, bool); 6] = [
        (&[], 0, 0, true, false),
        (&[], 1, 0, true, false),
        (&[], 0, 1, false, true),
        (&[], 1, 1, true, true),
        (&["Egress"], 1, 1, false, true),
        (&["Ingress", "Egress"], 0, 0, true, true),
    ];
    for (types, into, out, ingress, egress) in cases {
        let mut changed = policy("p", None);
        changed.spec.types = types.iter().map(|&word| word.into()).collect();
        changed.spec.ingress = vec![Rule::of(Action::Allow); into];
        changed.spec.egress = vec![Rule::of(Action::Allow); out];
        host.take([set(changed)]);
        let found = (!host.ingress("web").is_empty(), !host.egress("web").is_empty());
        assert_eq!(found, (ingress, egress), "{types:?} {into} {out}");
    }
}

#[test]
fn only_policies_of_local_endpoints_are_active_and_only_their_sets_exist() {
    let mut used = policy("used", None);
    used.spec.selector = "role == 'web'".into();
    used.spec.ingress = vec![from(Action::Allow, selected("role == 'db'"))];
    let mut unused = policy("unused", None);
    unused.spec.selector = "role == 'db'".into();
    unused.spec.ingress = vec![from(Action::Allow, selected("role == 'cache'"))];
    let mut far = workload("far", "10.0.1.1", &[("role", "db")]);
    far.spec.node = "other".into();
    let mut host = Host::with([set(used.clone()), set(unused.clone()), set(far.clone())]);
    assert!(host.held.policies.is_empty() && host.held.sets.is_empty());
    assert_eq!(host.take([web()]), ["set", "policy used", "endpoint web"]);
    assert_eq!(host.members("role == 'db'"), ["10.0.1.1/32"]);
    // A label moves the endpoint from one policy to the other.
    let moved = set(workload("web", "10.0.0.1", &[("role", "db")]));
    assert_eq!(host.take([moved]), ["set", "policy unused", "endpoint web", "-policy used", "-set"]);
    assert!(host.members("role == 'cache'").is_empty());
    // What nothing here uses is not even compiled aloud.
    used.spec.ingress.push(Rule { action: "Perhaps".into(), ..Rule::default() });
    assert!(host.take([set(used)]).is_empty());
    assert!(host.problems().is_empty());
    assert_eq!(host.take([removed(&web())]), ["-endpoint web", "-policy unused", "-set"]);
    assert!(host.held.policies.is_empty() && host.held.sets.is_empty());
}

#[test]
fn an_endpoint_loses_a_policy_before_the_policy_goes() {
    let change = set(policy("p", None));
    let mut host = Host::with([web(), change.clone()]);
    assert_eq!(host.take([removed(&change)]), ["endpoint web", "-policy p"]);
    assert_eq!(host.take([change.clone(), removed(&change)]), [""; 0]);
}

#[test]
fn new_rules_of_a_policy_leave_its_endpoints_alone() {
    let mut changed = policy("p", None);
    let mut host = Host::with([web(), set(changed.clone())]);
    changed.spec.ingress.push(from(Action::Deny, selected("has(x)")));
    assert_eq!(host.take([set(changed.clone())]), ["set", "policy p"]);
    assert!(host.take([set(changed.clone())]).is_empty(), "a repeated value is no change");
    changed.spec.ingress.pop();
    assert_eq!(host.take([set(changed.clone())]), ["policy p", "-set"]);
    changed.spec.order = Some(7.into());
    assert_eq!(host.take([set(changed)]), [""; 0], "it is alone in its tier");
}

#[test]
fn staged_policies_do_nothing() {
    let spec = policy("p", None).spec.0;
    let staged: Resource<calico_model::StagedGlobalNetworkPolicySpec> = Resource::new("p", spec.clone().into());
    let of_namespace: Resource<calico_model::StagedNetworkPolicySpec> =
        Resource::namespaced("default", "p", spec.into());
    let host = Host::with([web(), set(staged), set(of_namespace)]);
    assert!(host.held.policies.is_empty() && host.endpoint("web").tiers.is_empty());
}

#[test]
fn a_namespaced_policy_stays_in_its_namespace() {
    let other = in_namespace("blue", "other", "10.0.0.2", &[("role", "web")]);
    let mut local = namespaced("blue", "p", None);
    local.spec.selector = "role == 'web'".into();
    local.spec.ingress = vec![from(Action::Allow, selected("role == 'web'"))];
    let host = Host::with([web(), set(other), set(local)]);
    assert_eq!((host.ingress("web"), host.ingress("other")), (String::new(), "default: blue/p".into()));
    assert_eq!(host.members("(projectcalico.org/namespace == 'blue') && (role == 'web')"), ["10.0.0.2/32"]);
}

#[test]
fn namespaces_and_service_accounts_select_by_inherited_labels() {
    let mut a = workload("a", "10.0.0.1", &[]);
    a.spec.profiles = vec!["kns.default".into(), "ksa.default.robot".into()];
    a.spec.service_account_name = "robot".into();
    let mut b = workload("b", "10.0.0.2", &[]);
    b.spec.profiles = vec!["kns.default".into()];
    let mut by_namespace = policy("by-namespace", None);
    by_namespace.spec.namespace_selector = "env == 'prod'".into();
    let mut by_account = policy("by-account", None);
    by_account.spec.service_account_selector = "team == 'x'".into();
    let mut host = Host::with([
        set(profile("kns.default", &[("pcns.env", "prod")])),
        set(profile("ksa.default.robot", &[("pcsa.team", "x")])),
        set(a),
        set(b),
        set(by_namespace),
        set(by_account),
    ]);
    assert_eq!(host.ingress("a"), "default: by-account by-namespace");
    assert_eq!(host.ingress("b"), "default: by-namespace");
    host.take([set(profile("kns.default", &[("pcns.env", "dev")]))]);
    assert_eq!((host.ingress("a"), host.ingress("b")), ("default: by-account".into(), String::new()));
}

#[test]
fn network_sets_are_members_by_their_labels() {
    let mut by_label = policy("p", None);
    by_label.spec.ingress = vec![
        from(Action::Allow, selected("kind == 'bad'")),
        from(Action::Allow, EntityRule { namespace_selector: "env == 'dev'".into(), ..Default::default() }),
    ];
    let mut everywhere: Resource<calico_model::GlobalNetworkSetSpec> =
        Resource::new("s", nets(&["192.0.2.0/24", "192.0.2.7/24", "2001:db8::1"]).into());
    everywhere.metadata.labels = owned(&[("kind", "bad")]);
    let mut of_blue: Resource<calico_model::NetworkSetSpec> =
        Resource::namespaced("blue", "s", nets(&["198.51.100.0/24"]).into());
    of_blue.metadata.labels = owned(&[("kind", "bad")]);
    let mut host = Host::with([
        web(),
        set(by_label),
        set(everywhere.clone()),
        set(of_blue),
        set(profile("kns.blue", &[("pcns.env", "dev")])),
    ]);
    assert_eq!(host.members("kind == 'bad'"), ["192.0.2.0/24", "198.51.100.0/24", "2001:db8::1/128"]);
    assert_eq!(host.members("pcns.env == 'dev'"), ["198.51.100.0/24"]);
    everywhere.spec.0.nets.truncate(1);
    assert_eq!(host.take([set(everywhere.clone())]), ["members"]);
    assert_eq!(host.take([removed(&set(everywhere))]), ["members"]);
    assert_eq!(host.members("kind == 'bad'"), ["198.51.100.0/24"]);
    assert!(host.problems().is_empty());
}

#[test]
fn host_endpoints_have_four_lists() {
    let flagged = |name: &str, untracked, pre_dnat, forward| {
        let mut policy = policy(name, None);
        policy.spec.do_not_track = untracked;
        policy.spec.pre_dnat = pre_dnat;
        policy.spec.apply_on_forward = forward;
        set(policy)
    };
    let both = |mut policy: Resource<calico_model::GlobalNetworkPolicySpec>| {
        policy.spec.types = vec!["Ingress".into(), "Egress".into()];
        set(policy)
    };
    let mut plain = policy("normal", None);
    plain.spec.selector = "has(host)".into();
    let host = Host::with([
        web(),
        set(host_endpoint("eth", "eth0", &[])),
        both(plain),
        flagged("forward", false, false, true),
        flagged("untracked", true, false, true),
        flagged("pre-dnat", false, true, true),
    ]);
    let endpoint = host.host_endpoint("eth");
    let ingress = |list: &[_]| listed(list, |tier| &tier.ingress);
    assert_eq!(ingress(&endpoint.normal), "default: forward normal");
    assert_eq!(listed(&endpoint.normal, |tier| &tier.egress), "default: normal");
    assert_eq!(ingress(&endpoint.forward), "default: forward");
    assert_eq!(ingress(&endpoint.untracked), "default: untracked");
    assert_eq!(ingress(&endpoint.pre_dnat), "default: pre-dnat");
    assert_eq!(host.ingress("web"), "default: forward", "workloads have the one list");
    assert!(host.problems().is_empty(), "{:?}", host.problems());
}

#[test]
fn host_endpoints_stand_for_interfaces_of_this_host() {
    let mut elsewhere = host_endpoint("far", "eth0", &["192.0.2.9"]);
    elsewhere.spec.node = "other".into();
    let mut host = Host::with([
        set(host_endpoint("named", "eth0", &["192.0.2.1"])),
        set(host_endpoint("any", "*", &[])),
        set(host_endpoint("by-address", "", &["192.0.2.3", "192.0.2.2"])),
        set(elsewhere),
    ]);
    let interfaces = |name: &str| host.host_endpoint(name).interfaces.clone();
    assert_eq!(interfaces("named"), HostInterfaces::Named("eth0".into()));
    assert_eq!(interfaces("any"), HostInterfaces::AnyInterface);
    let addresses = ["192.0.2.2", "192.0.2.3"].map(|address| address.parse().unwrap());
    assert_eq!(interfaces("by-address"), HostInterfaces::WithAddress(addresses.to_vec()));
    assert_eq!(host.held.host_endpoints.len(), 3);
    assert_eq!(host.take([removed(&set(host_endpoint("any", "*", &[])))]), ["-host endpoint any"]);
}

#[test]
fn host_endpoints_are_members_and_have_named_ports() {
    let port = |name: &str, number| calico_model::EndpointPort {
        name: name.into(),
        protocol: Protocol::from("TCP"),
        port: number,
        host_port: None,
        host_ip: None,
        extra: serde_json::Map::new(),
    };
    let mut far = host_endpoint("far", "eth0", &["192.0.2.9", "2001:db8::9"]);
    far.spec.node = "other".into();
    far.spec.ports = vec![port("ssh", 22)];
    let mut near = workload("web", "10.0.0.1", &[("host", "far")]);
    near.spec.ports = vec![port("ssh", 2222), port("", 80)];
    let mut rule = Rule::of(Action::Allow);
    rule.protocol = Some(Protocol::from("TCP"));
    rule.source = selected("host == 'far'");
    rule.destination = EntityRule { ports: vec![Port::Name("ssh".into())], ..selected("host == 'far'") };
    let mut changed = policy("p", None);
    changed.spec.ingress = vec![rule];
    let mut host = Host::with([set(far.clone()), set(near.clone()), set(changed)]);
    assert_eq!(host.members("host == 'far'"), ["10.0.0.1/32", "192.0.2.9/32", "2001:db8::9/128"]);
    let selector = held::set_id("host == 'far'").0;
    let id = SetId(calico_selector::set_id::of_named_port(&selector, "tcp", "ssh"));
    let ports = |host: &Host| match &host.held.sets[&id] {
        Members::Ports(ports) => {
            ports.iter().map(|port| format!("{},{}:{}", port.address, port.protocol, port.port)).collect::<Vec<_>>()
        }
        Members::Nets(nets) => panic!("{nets:?}"),
    };
    assert_eq!(ports(&host), ["10.0.0.1,6:2222", "192.0.2.9,6:22", "2001:db8::9,6:22"]);
    far.spec.ports = vec![port("ssh", 23)];
    assert_eq!(host.take([set(far.clone())]), ["members"]);
    assert_eq!(ports(&host), ["10.0.0.1,6:2222", "192.0.2.9,6:23", "2001:db8::9,6:23"]);
    near.metadata.labels.clear();
    host.take([set(near), removed(&set(far))]);
    assert!(ports(&host).is_empty());
}

#[test]
fn endpoints_with_equal_policies_share_one_list() {
    let many = (0..50).map(|number| set(workload(&format!("w{number}"), &format!("10.0.0.{number}"), &[])));
    let host = Host::with(many.chain([set(policy("p", None)), set(policy("q", None))]));
    let first = host.endpoint("w0").tiers.clone();
    assert!((1..50).all(|number| Arc::ptr_eq(&first, &host.endpoint(&format!("w{number}")).tiers)));
    let rules = |name: &str| host.held.policies[&global(name)].clone();
    assert!(Arc::ptr_eq(&rules("p"), &rules("q")), "equal rules are kept once");
}

#[test]
fn policies_of_one_name_are_told_apart() {
    let host = Host::with([
        web(),
        set(in_namespace("blue", "other", "10.0.0.2", &[])),
        set(policy("p", None)),
        set(namespaced("default", "p", None)),
        set(namespaced("blue", "p", None)),
    ]);
    assert_eq!(host.ingress("web"), "default: p default/p");
    assert_eq!(host.ingress("other"), "default: p blue/p");
    let id = PolicyId { kind: PolicyKind::Namespaced, namespace: "blue".into(), name: "p".into() };
    assert!(host.held.policies.contains_key(&id));
}
