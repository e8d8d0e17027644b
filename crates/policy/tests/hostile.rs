//! What upstream opens or falls over, and whatever else nobody should have stored: closed for what it governs, said
//! aloud, and nothing else is touched.

#![allow(clippy::unwrap_used)]

mod held;

use calico_model::{Action, Change, EntityRule, KindName, Resource, ResourceKey, Rule, ServiceAccountMatch};
use calico_policy::instruction::{DenyAction, IcmpMatch};
use held::{
    Host, denies, from, global, host_endpoint, in_namespace, listed, namespaced, owned, policy, profile, record,
    removed, selected, set, stored, tier, unjudged, workload,
};
use serde_json::{Value, json};

fn web() -> Change {
    set(workload("web", "10.0.0.1", &[("role", "web")]))
}

/// A neighbour in another namespace that a good policy governs.
fn neighbour() -> [Change; 2] {
    let mut good = namespaced("blue", "good", None);
    good.spec.selector = "role == 'web'".into();
    [set(in_namespace("blue", "other", "10.0.0.2", &[("role", "web")])), set(good)]
}

/// The neighbour is governed by its policy alone, which is as it was.
fn neighbour_goes_on(host: &Host) {
    assert_eq!(host.ingress("other"), "default: blue/good");
    let good = host.held.policies.iter().find(|(id, _)| id.name == "good").unwrap().1;
    assert_eq!((good.ingress.len(), denies(good)), (1, false));
}

fn policy_of(namespace: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
        "metadata": {"name": "bad", "namespace": namespace}, "spec": spec,
    })
}

fn global_policy(spec: &Value) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "bad"}, "spec": spec,
    })
}

/// The policy `bad` governs `web` and denies; its fault is told; the neighbour goes on. Both as validation judges it
/// and as the engine does alone.
fn closes(value: &Value, list: &str, reason: &str) {
    for change in [stored(value), unjudged(stored(value))] {
        let judged = matches!(change, Change::Unusable { .. });
        let mut host = Host::with(neighbour().into_iter().chain([web()]));
        host.take([change.clone()]);
        assert_eq!(host.ingress("web"), list, "{value}");
        let bad = host.held.policies.iter().find(|(id, _)| id.name == "bad").unwrap().1;
        assert!(denies(bad), "{value}: {bad:?}");
        neighbour_goes_on(&host);
        let problems = host.problems();
        assert!(problems.len() == 1 && problems[0].contains("bad: "), "{problems:?}");
        assert!(judged || problems[0].contains(reason), "{problems:?} without {reason}");
        host.take([removed(&change)]);
        assert!(host.problems().is_empty() && host.endpoint("web").tiers.is_empty());
    }
}

#[test]
fn a_selector_of_blanks_in_a_namespace_closes_that_namespace_and_nothing_falls_over() {
    let spec = json!({"selector": "  ", "types": ["Ingress"], "ingress": [{"action": "Allow"}]});
    closes(&policy_of("default", &spec), "default: default/bad", "is no selector");
    // Alone it means everything, which is clear.
    let mut clear = policy("clear", None);
    clear.spec.selector = " \t ".into();
    let host = Host::with([web(), set(clear)]);
    assert!(!denies(host.rules("clear")) && host.problems().is_empty());
}

#[test]
fn a_namespace_selector_that_does_not_parse_never_widens_a_rule() {
    let spec = json!({
        "types": ["Ingress"],
        "ingress": [{"action": "Allow", "source": {"namespaceSelector": "env == ", "selector": "has(role)"}}],
    });
    closes(&policy_of("default", &spec), "default: default/bad", "namespaceSelector: ");
}

#[test]
fn a_namespace_selector_that_does_not_parse_leaves_a_policy_what_its_selector_selects() {
    let spec = json!({
        "selector": "role == 'web' && projectcalico.org/namespace == 'default'",
        "namespaceSelector": "env == ", "types": ["Ingress"], "ingress": [{"action": "Allow"}],
    });
    closes(&global_policy(&spec), "default: bad", "namespaceSelector: ");
}

#[test]
fn a_quote_in_a_service_account_never_widens_a_rule() {
    let accounts = ServiceAccountMatch { names: vec!["a'b".into()], selector: "has(x)".into(), ..Default::default() };
    let mut bad = namespaced("default", "bad", None);
    let source = EntityRule { service_accounts: Some(accounts), ..Default::default() };
    bad.spec.ingress = vec![from(Action::Allow, source)];
    let host = Host::with(neighbour().into_iter().chain([web(), set(bad)]));
    assert!(host.held.policies.iter().any(|(id, rules)| id.name == "bad" && denies(rules)));
    assert!(host.problems()[0].contains("\"a'b\" is not the name of a service account"), "{:?}", host.problems());
    neighbour_goes_on(&host);
}

#[test]
fn a_key_that_a_prefix_makes_too_long_closes() {
    let key = "k".repeat(508);
    let in_rule = json!({
        "types": ["Ingress"],
        "ingress": [{"action": "Allow", "source": {"namespaceSelector": format!("has({key})")}}],
    });
    closes(&policy_of("default", &in_rule), "default: default/bad", "is no selector");
    let of_policy = json!({
        "selector": "role == 'web' && projectcalico.org/namespace == 'default'", "types": ["Ingress"],
        "serviceAccountSelector": format!("has({key})"), "ingress": [{"action": "Allow"}],
    });
    closes(&global_policy(&of_policy), "default: bad", "is no selector");
}

#[test]
fn nested_parentheses_do_not_overflow_a_stack() {
    let deep = format!("{}role == 'web'{}", "(".repeat(100_000), ")".repeat(100_000));
    let mut nested = policy("nested", None);
    nested.spec.selector = deep.clone();
    nested.spec.ingress = vec![from(Action::Allow, selected(&deep))];
    let host = Host::with([web(), set(nested)]);
    assert_eq!(host.ingress("web"), "default: nested");
    assert_eq!(host.members("role == 'web'"), ["10.0.0.1/32"]);
    assert!(host.problems().is_empty());
}

#[test]
fn icmp_types_with_codes_and_protocols_by_number_are_followed() {
    let rule = |value: Value| serde_json::from_value::<Rule>(value).unwrap();
    let mut icmp = policy("icmp", None);
    icmp.spec.ingress = vec![
        rule(json!({"action": "Allow", "protocol": 1, "icmp": {"type": 3, "code": 4}})),
        rule(json!({"action": "Deny", "protocol": "ICMPv6", "notICMP": {"type": 1, "code": 0}})),
        rule(json!({"action": "Allow", "protocol": 1, "icmp": {"type": 8}})),
    ];
    let host = Host::with([web(), set(icmp)]);
    let rules = &host.rules("icmp").ingress;
    assert_eq!((rules[0].protocol, rules[0].ip_version), (Some(1), Some(4)), "the number is ICMP in IPv4 only");
    assert_eq!(rules[0].icmp, Some(IcmpMatch { icmp_type: 3, code: Some(4) }));
    assert_eq!((rules[1].ip_version, rules[1].not_icmp), (Some(6), Some(IcmpMatch { icmp_type: 1, code: Some(0) })));
    assert!(host.problems().is_empty());
}

#[test]
fn reject_goes_with_host_endpoints() {
    let felix = json!({
        "kind": "FelixConfiguration", "metadata": {"name": "default"}, "spec": {"nftablesFilterDenyAction": "Reject"},
    });
    let host = Host::with([set(host_endpoint("eth", "eth0", &[])), set(policy("p", None)), stored(&felix)]);
    assert_eq!(host.held.settings.deny, DenyAction::Reject);
    assert_eq!(listed(&host.host_endpoint("eth").normal, |tier| &tier.ingress), "default: p");
    assert!(host.problems().is_empty());
}

#[test]
fn a_bad_selector_an_unknown_action_and_an_impossible_port_close_what_they_govern() {
    let rules = [
        (json!({"action": "Allow", "source": {"selector": "role = 'x'"}}), "selector: "),
        (json!({"action": "allow"}), "it is Allow, Deny, Log or Pass"),
        (json!({"action": "Allow", "protocol": "TCP", "destination": {"ports": [0]}}), "not a port"),
        (json!({"action": "Allow", "http": {"methods": ["GET"]}}), "this condition is not followed"),
        (json!({"action": "Allow", "source": {"services": {"name": "s", "namespace": "n"}}}), "services"),
        (json!({"action": "Allow", "source": {"nets": ["10.0.0.0/33"]}}), "not an address or a network"),
        (json!({"action": "Allow", "futureCondition": true}), "this condition is not followed"),
    ];
    for (rule, reason) in rules {
        let spec = json!({"types": ["Ingress"], "ingress": [{"action": "Allow"}, rule]});
        closes(&policy_of("default", &spec), "default: default/bad", reason);
    }
}

#[test]
fn a_fault_in_one_direction_denies_in_all_directions_that_the_policy_governs() {
    let spec = json!({
        "types": ["Ingress", "Egress"], "ingress": [{"action": "Allow"}], "egress": [{"action": "Nothing"}],
    });
    let host = Host::with([web(), stored(&policy_of("default", &spec))]);
    assert_eq!(
        (host.ingress("web"), host.egress("web")),
        ("default: default/bad".into(), "default: default/bad".into())
    );
    let words = json!({"types": ["Ingress", "Sideways"], "ingress": [{"action": "Allow"}]});
    let host = Host::with([web(), unjudged(stored(&policy_of("default", &words)))]);
    assert_eq!(host.egress("web"), "default: default/bad", "nobody knows which direction was meant");
    assert!(denies(host.held.policies.values().next().unwrap()));
}

#[test]
fn flags_that_exclude_each_other_close() {
    let mut host = Host::with([set(host_endpoint("eth", "eth0", &[]))]);
    let flags: [(&str, Value); 3] = [
        ("untracked", json!({"doNotTrack": true})),
        ("untracked", json!({"doNotTrack": true, "preDNAT": true, "applyOnForward": true})),
        ("pre-dnat", json!({"preDNAT": true, "applyOnForward": true, "egress": [{"action": "Allow"}]})),
    ];
    for (list, mut spec) in flags {
        spec["ingress"] = json!([{"action": "Allow"}]);
        host.take([unjudged(stored(&global_policy(&spec)))]);
        let endpoint = host.host_endpoint("eth");
        let found = if list == "untracked" { &endpoint.untracked } else { &endpoint.pre_dnat };
        assert_eq!(listed(found, |tier| &tier.ingress), "default: bad", "{spec}");
        assert!(denies(host.rules("bad")) && endpoint.normal.is_empty(), "{spec}");
        assert_eq!(host.problems().len(), 1);
    }
}

fn unreadable(kind: KindName, namespace: Option<&str>, name: &str) -> Change {
    record(&ResourceKey::new(kind, namespace, name), "{not json")
}

#[test]
fn a_policy_of_which_nothing_can_be_read_closes_its_namespace_before_everything() {
    let change = unreadable(KindName::NetworkPolicy, Some("default"), "bad");
    let mut early = policy("early", Some(-1e9));
    early.spec.tier = "first".into();
    early.spec.selector = "projectcalico.org/namespace == 'default'".into();
    let mut host = Host::with(neighbour().into_iter().chain([web(), set(tier("first", Some(-5), "Pass")), set(early)]));
    host.take([change.clone()]);
    assert_eq!(host.ingress("web"), "(unreadable): default/bad | first+: early");
    assert_eq!(host.egress("web"), "(unreadable): default/bad");
    neighbour_goes_on(&host);
    assert!(host.problems()[0].starts_with("NetworkPolicy default/bad: "), "{:?}", host.problems());
    // A restart comes to the same.
    let mut fresh = Host::with([web(), change.clone()]);
    assert_eq!(fresh.egress("web"), "(unreadable): default/bad");
    fresh.take([removed(&change)]);
    assert!(fresh.endpoint("web").tiers.is_empty() && fresh.problems().is_empty());
}

#[test]
fn a_policy_whose_place_cannot_be_read_denies_before_all_others_where_its_selector_reaches() {
    let mut early = policy("early", Some(-1e9));
    early.spec.selector = "has(role)".into();
    let spec = json!({"order": "high", "selector": "role == 'web'", "ingress": [{"action": "Allow"}]});
    let db = set(workload("db", "10.0.0.5", &[("role", "db")]));
    let host = Host::with(neighbour().into_iter().chain([web(), db, set(early), stored(&policy_of("default", &spec))]));
    assert_eq!(host.ingress("web"), "(unreadable): default/bad | default: early");
    assert_eq!(host.egress("web"), "(unreadable): default/bad", "its types might be what cannot be read");
    assert_eq!(host.ingress("db"), "default: early");
}

#[test]
fn a_global_policy_of_which_nothing_can_be_read_closes_everything() {
    let host = Host::with([
        web(),
        set(host_endpoint("eth", "eth0", &[])),
        unreadable(KindName::GlobalNetworkPolicy, None, "bad"),
    ]);
    assert_eq!(host.ingress("web"), "(unreadable): bad");
    let endpoint = host.host_endpoint("eth");
    for list in [&endpoint.normal, &endpoint.forward] {
        assert_eq!(listed(list, |tier| &tier.ingress), "(unreadable): bad");
        assert_eq!(listed(list, |tier| &tier.egress), "(unreadable): bad");
    }
    assert!(denies(host.rules("bad")));
}

#[test]
fn an_unusable_tier_denies_at_its_end_and_one_that_cannot_be_read_denies_in_front() {
    let mut of_tier = policy("p", None);
    of_tier.spec.tier = "t".into();
    let odd = json!({"kind": "Tier", "metadata": {"name": "t"}, "spec": {"order": 5, "defaultAction": "Perhaps"}});
    let other = set(policy("q", Some(1.0)));
    let mut host = Host::with([web(), set(of_tier), other, set(tier("default", Some(10), "Deny")), stored(&odd)]);
    assert_eq!(host.ingress("web"), "t: p | default: q");
    assert!(host.problems()[0].starts_with("Tier t: "), "{:?}", host.problems());
    host.take([set(tier("t", Some(50), "Pass"))]);
    assert_eq!(host.ingress("web"), "default: q | t+: p");
    assert!(!denies(host.rules("p")) && host.problems().is_empty());
    host.take([unreadable(KindName::Tier, None, "t")]);
    assert_eq!(host.ingress("web"), "t: p | default: q");
    assert!(denies(host.rules("p")) && !denies(host.rules("q")));
    host.take([set(tier("t", Some(50), "Pass"))]);
    assert!(!denies(host.rules("p")));
}

#[test]
fn an_unusable_profile_denies_and_one_that_cannot_be_read_takes_policies_along() {
    let mut user = workload("web", "10.0.0.1", &[]);
    user.spec.profiles = vec!["first".into(), "p".into()];
    let mut labelled = policy("by-label", None);
    labelled.spec.selector = "has(quarantine)".into();
    let odd = json!({
        "kind": "Profile", "metadata": {"name": "p"},
        "spec": {"labelsToApply": {"quarantine": ""}, "ingress": [{"action": "Allow", "protocol": "TCP", "icmp": {"type": 8}}]},
    });
    let everywhere = set(policy("all", Some(1.0)));
    let mut host = Host::with([set(user), set(labelled), everywhere, set(profile("first", &[])), stored(&odd)]);
    assert_eq!(host.ingress("web"), "default: all by-label", "its labels hold");
    let rules = |host: &Host| host.held.profiles.iter().find(|(id, _)| id.0 == "p").unwrap().1.clone();
    assert!(denies(&rules(&host)));
    // Without its labels nobody knows which policies apply: none may open anything, and no other profile either.
    host.take([unreadable(KindName::Profile, None, "p")]);
    assert!(host.endpoint("web").tiers.is_empty() && denies(&rules(&host)));
    assert_eq!(host.endpoint("web").profiles.len(), 1);
    host.take([set(profile("p", &[]))]);
    assert_eq!((host.ingress("web"), host.endpoint("web").profiles.len()), ("default: all".into(), 2));
    assert!(!denies(&rules(&host)) && host.problems().is_empty());
}

/// An empty set in place of one that nobody can read: safe where it allows its members or denies all others.
#[test]
fn an_unusable_network_set_opens_nothing() {
    let with = |name: &str, action: Action, end: EntityRule| {
        let mut policy = policy(name, None);
        policy.spec.ingress = vec![from(action, end), Rule::of(Action::Allow)];
        set(policy)
    };
    let not = |selector: &str| EntityRule { not_selector: selector.into(), ..Default::default() };
    let policies = [
        with("allow", Action::Allow, selected("kind == 'bad'")),
        with("allow-others", Action::Allow, not("kind == 'bad'")),
        with("deny", Action::Deny, selected("kind == 'bad'")),
        with("deny-others", Action::Deny, not("kind == 'bad'")),
        with("pass", Action::Pass, selected("kind == 'bad'")),
        with("log", Action::Log, selected("kind == 'bad'")),
        with("elsewhere", Action::Deny, selected("kind == 'good'")),
    ];
    let mut host = Host::with(policies.into_iter().chain([web()]));
    let closed = |host: &Host| -> Vec<String> {
        let closed = host.held.policies.iter().filter(|(_, rules)| denies(rules));
        closed.map(|(id, _)| id.to_string()).collect()
    };
    let odd = |nets: Value| {
        json!({
            "kind": "GlobalNetworkSet", "metadata": {"name": "s", "labels": {"kind": "bad"}}, "spec": {"nets": nets},
        })
    };
    host.take([stored(&odd(json!(["192.0.2.0/24"])))]);
    assert_eq!(host.members("kind == 'bad'"), ["192.0.2.0/24"]);
    assert!(closed(&host).is_empty());
    for change in [stored(&odd(json!(["192.0.2.0/24", "nonsense"]))), unjudged(stored(&odd(json!(["nonsense"]))))] {
        host.take([change]);
        assert!(host.members("kind == 'bad'").is_empty());
        assert_eq!(closed(&host), ["allow-others", "deny", "pass"]);
        let problems = host.problems();
        assert!(problems.iter().any(|problem| problem.starts_with("GlobalNetworkSet s: ")), "{problems:?}");
        assert!(problems.iter().any(|problem| problem.starts_with("GlobalNetworkPolicy deny: ")), "{problems:?}");
    }
    // Its labels are not known either, so any selector may mean it.
    host.take([unreadable(KindName::GlobalNetworkSet, None, "s")]);
    assert_eq!(closed(&host), ["allow-others", "deny", "elsewhere", "pass"]);
    host.take([stored(&odd(json!(["192.0.2.0/24"])))]);
    assert!(closed(&host).is_empty() && host.problems().is_empty());
    assert_eq!(host.members("kind == 'bad'"), ["192.0.2.0/24"]);
}

#[test]
fn an_unusable_network_set_is_meant_by_the_labels_of_its_namespace_too() {
    let mut by_namespace = policy("p", None);
    let end = EntityRule { namespace_selector: "env == 'dev'".into(), ..Default::default() };
    by_namespace.spec.ingress = vec![from(Action::Deny, end)];
    let odd = json!({
        "kind": "NetworkSet", "metadata": {"name": "s", "namespace": "blue"}, "spec": {"nets": ["nonsense"]},
    });
    let mut host = Host::with([web(), set(by_namespace), stored(&odd)]);
    assert!(!denies(host.rules("p")));
    host.take([set(profile("kns.blue", &[("pcns.env", "dev")]))]);
    assert!(denies(host.rules("p")));
    host.take([set(profile("kns.blue", &[("pcns.env", "prod")]))]);
    assert!(!denies(host.rules("p")));
}

#[test]
fn unusable_endpoints_are_closed() {
    let good = workload("web", "10.0.0.1", &[("role", "web")]);
    let mut host = Host::with([set(good.clone()), set(policy("p", None)), set(host_endpoint("eth", "eth0", &[]))]);
    let unusable = |change: Change| match change {
        Change::Set { key, resource } => {
            Change::Unusable { key, reason: "it has two heads".into(), resource: Some(resource) }
        }
        other => other,
    };
    assert_eq!(host.take([unusable(set(good.clone()))]), ["-endpoint web"]);
    assert_eq!(host.problems(), ["WorkloadEndpoint default/web: it has two heads"]);
    host.take([set(good)]);
    let mut opening = policy("untracked", None);
    opening.spec.do_not_track = true;
    opening.spec.apply_on_forward = true;
    let mut forward = policy("forward", None);
    forward.spec.apply_on_forward = true;
    host.take([set(opening), set(forward)]);
    assert!(!host.host_endpoint("eth").untracked.is_empty());
    host.take([unusable(set(host_endpoint("eth", "eth0", &[])))]);
    let endpoint = host.host_endpoint("eth");
    assert!(endpoint.normal.is_empty() && endpoint.untracked.is_empty() && endpoint.profiles.is_empty());
    assert_eq!(listed(&endpoint.forward, |tier| &tier.ingress), "default: forward", "what denies goes on denying");
    assert_eq!(host.problems(), ["HostEndpoint eth: it has two heads"]);
    host.take([unreadable(KindName::WorkloadEndpoint, Some("default"), "web")]);
    assert!(host.held.endpoints.is_empty());
}

#[test]
fn a_felix_configuration_that_cannot_be_read_closes_what_it_could_open() {
    let open = json!({
        "kind": "FelixConfiguration", "metadata": {"name": "node.n1"},
        "spec": {"defaultEndpointToHostAction": "Accept", "workloadSourceSpoofing": "Any", "allowVXLANPacketsFromWorkloads": true},
    });
    let mut spoofer = workload("web", "10.0.0.1", &[]);
    spoofer.spec.allow_spoofed_source_prefixes = vec!["10.9.0.0/16".into()];
    let mut host = Host::with([set(spoofer), stored(&open)]);
    assert_eq!(host.endpoint("web").spoofable.len(), 1);
    assert!(host.held.settings.vxlan_from_workloads);
    host.take([unreadable(KindName::FelixConfiguration, None, "default")]);
    let settings = &host.held.settings;
    assert_eq!(settings.endpoint_to_host, calico_policy::instruction::HostAction::Drop);
    assert!(!settings.vxlan_from_workloads && host.held.endpoints.is_empty());
    assert_eq!(host.problems().len(), 2, "{:?}", host.problems());
    // That of another host does not matter.
    host.take([
        removed(&unreadable(KindName::FelixConfiguration, None, "default")),
        unreadable(KindName::FelixConfiguration, None, "node.other"),
    ]);
    assert!(host.held.settings.vxlan_from_workloads && host.endpoint("web").spoofable.len() == 1);
}

#[test]
fn a_namespace_with_quotes_does_not_escape_into_a_selector() {
    let name = "x' || has(role) || a == 'y";
    let mut bad = namespaced(name, "bad", None);
    bad.spec.selector = "has(role)".into();
    let mut host = Host::with(neighbour().into_iter().chain([web(), set(bad)]));
    assert!(host.endpoint("web").tiers.is_empty());
    neighbour_goes_on(&host);
    let mut member = in_namespace(name, "member", "10.0.0.3", &[("role", "web")]);
    member.spec.interface_name = "calim".into();
    host.take([set(member)]);
    assert_eq!(host.endpoint("member").tiers.len(), 1, "its own namespace is closed");
}

#[test]
fn policies_of_odd_sizes_are_taken() {
    let mut large = policy("large", None);
    large.spec.ingress = vec![Rule::of(Action::Allow); 5_000];
    large.spec.selector =
        format!("role in {{{}}}", (0..20_000).map(|n| format!("'{n}'")).collect::<Vec<_>>().join(","));
    let mut host = Host::with([set(workload("web", "10.0.0.1", &[("role", "19999")])), set(large)]);
    assert_eq!(host.ingress("web"), "default: large");
    assert_eq!(host.rules("large").ingress.len(), 5_000);
    let labels: Vec<(String, String)> = (0..1_000).map(|n| (format!("k{n}"), "v".repeat(200))).collect();
    let labels: Vec<(&str, &str)> = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let mut wide: Resource<_> = workload("web", "10.0.0.1", &[]);
    wide.metadata.labels = owned(&labels);
    host.take([set(wide)]);
    assert!(host.endpoint("web").tiers.is_empty() && !host.held.policies.contains_key(&global("large")));
}
