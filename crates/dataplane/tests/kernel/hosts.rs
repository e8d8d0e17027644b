//! Host endpoints, and what policies do that profiles cannot.

use std::net::{IpAddr, SocketAddr};

use calico_dataplane::{Dataplane, Event};
use calico_policy::instruction::{
    DenyAction, EntityMatch, HostEndpoint, HostEndpointId, HostInterfaces, Instruction, PolicyId, PolicyKind,
    ProfileId, Rule, RuleAction, RuleSet, Settings, TierPolicies,
};

use crate::support::*;

const HOST: &str = "192.0.2.1";
const OUTSIDER: &str = "198.51.100.2";

fn id(name: &str) -> PolicyId {
    PolicyId { kind: PolicyKind::Global, namespace: String::new(), name: name.to_owned() }
}

fn policy(name: &str, ingress: Vec<Rule>, egress: Vec<Rule>) -> Instruction {
    Instruction::PolicyUpdate { id: id(name), rules: RuleSet { ingress, egress }.into() }
}

/// One tier with these policies in each direction.
fn tier(ingress: &[&str], egress: &[&str]) -> Vec<TierPolicies> {
    let ids = |names: &[&str]| names.iter().map(|name| id(name)).collect();
    vec![TierPolicies { tier: "default".to_owned(), pass_at_end: false, ingress: ids(ingress), egress: ids(egress) }]
}

fn named(interface: &str) -> HostEndpoint {
    HostEndpoint {
        interfaces: HostInterfaces::Named(interface.to_owned()),
        normal: Vec::new(),
        forward: Vec::new(),
        untracked: Vec::new(),
        pre_dnat: Vec::new(),
        profiles: Vec::new(),
    }
}

fn host_endpoint(endpoint: HostEndpoint) -> Instruction {
    Instruction::HostEndpointUpdate { id: HostEndpointId("hep".to_owned()), endpoint }
}

fn to_port(action: RuleAction, port: u16) -> Rule {
    let destination = EntityMatch { ports: vec![(port, port)], ..EntityMatch::default() };
    Rule { protocol: Some(6), destination, ..Rule::of(action) }
}

fn from_port(action: RuleAction, port: u16) -> Rule {
    let source = EntityMatch { ports: vec![(port, port)], ..EntityMatch::default() };
    Rule { protocol: Some(6), source, ..Rule::of(action) }
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

async fn set_up(instructions: impl IntoIterator<Item = Instruction>) -> Dataplane {
    let mut dataplane = dataplane().await;
    absorb(&mut dataplane, instructions);
    let report = dataplane.apply().await.unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    dataplane
}

#[test]
pub(crate) fn a_host_endpoint_closes_all_but_the_failsafe_ports_both_ways() {
    on_a_host(|host| async move {
        let outsider = host.outsider();
        let out = Some(&outsider);
        assert!(tcp_works(out, None, at(HOST, 80)));
        let mut dataplane = set_up([host_endpoint(named("eth0"))]).await;
        assert!(!tcp_works(out, None, at(HOST, 80)));
        assert!(tcp_works(out, None, at(HOST, 22)), "failsafe");
        assert!(!tcp_works(None, out, at(OUTSIDER, 80)));
        assert!(tcp_works(None, out, at(OUTSIDER, 2379)), "failsafe");
        // Neighbour discovery is never policed: with an empty cache failsafe ports work over IPv6.
        run("ip -6 neigh flush dev eth0");
        outsider.sh("ip -6 neigh flush dev eth0");
        assert!(tcp_works(out, None, at("2001:db8::1", 22)));
        let open = HostEndpoint { normal: tier(&["web"], &[]), ..named("eth0") };
        absorb(&mut dataplane, [policy("web", vec![to_port(RuleAction::Allow, 80)], vec![]), host_endpoint(open)]);
        dataplane.apply().await.unwrap();
        assert!(tcp_works(out, None, at(HOST, 80)) && tcp_works(out, None, at("2001:db8::1", 80)));
        assert!(!tcp_works(out, None, at(HOST, 81)), "end of the tier");
        absorb(&mut dataplane, [Instruction::HostEndpointRemove { id: HostEndpointId("hep".to_owned()) }]);
        dataplane.apply().await.unwrap();
        assert!(tcp_works(out, None, at(HOST, 81)));
        assert!(nft("list table ip calico").is_none_or(|table| !table.contains("hep")), "nothing of it is left");
    });
}

#[test]
pub(crate) fn a_host_endpoint_follows_its_address_from_interface_to_interface() {
    on_a_host(|host| async move {
        let (first, second) = (host.outsider(), host.second_network());
        let by_address = HostInterfaces::WithAddress(vec![address("198.51.100.1")]);
        let mut dataplane = set_up([host_endpoint(HostEndpoint { interfaces: by_address, ..named("") })]).await;
        assert!(!tcp_works(Some(&first), None, at(HOST, 80)));
        assert!(tcp_works(Some(&second), None, at(HOST, 80)));
        run("ip address del 198.51.100.1/24 dev eth0 && ip address add 198.51.100.1/24 dev eth1");
        event(&mut dataplane, Event::AddressesChanged).await;
        dataplane.apply().await.unwrap();
        assert!(!tcp_works(Some(&second), None, at(HOST, 80)), "policed where the address is now");
        run("ip route add 198.51.100.2 dev eth0");
        assert!(tcp_works(Some(&first), None, at(HOST, 80)), "and no longer where it was");
    });
}

#[test]
pub(crate) fn the_endpoint_of_all_other_interfaces_covers_the_loopback_and_not_workloads() {
    on_a_host(|host| async move {
        let (outsider, a) = (host.outsider(), host.workload(1));
        let any = HostEndpoint { interfaces: HostInterfaces::AnyInterface, ..named("") };
        let open = profile("open", vec![allow()], vec![allow()]);
        let _dataplane = set_up([open, a.endpoint(&["open"]), host_endpoint(any)]).await;
        assert!(!tcp_works(None, None, at("127.0.0.1", 80)));
        assert!(!tcp_works(Some(&outsider), None, at(HOST, 80)));
        assert!(tcp_works(Some(&a.namespace), None, at(HOST, 80)), "by its own policy only");
        assert!(tcp_works(None, Some(&a.namespace), at("10.65.0.1", 80)), "a host always reaches its workloads");
        assert!(tcp_works(Some(&outsider), Some(&a.namespace), at("10.65.0.1", 80)), "forwarding is not judged");
    });
}

#[test]
pub(crate) fn forward_policy_judges_what_passes_through() {
    on_a_host(|host| async move {
        let (outsider, a) = (host.outsider(), host.workload(1));
        let open = profile("open", vec![allow()], vec![allow()]);
        let rules = policy("p", vec![to_port(RuleAction::Allow, 80)], vec![]);
        let endpoint = HostEndpoint { forward: tier(&["p"], &[]), ..named("eth0") };
        let _dataplane = set_up([open, a.endpoint(&["open"]), rules, host_endpoint(endpoint)]).await;
        assert!(tcp_works(Some(&outsider), Some(&a.namespace), at("10.65.0.1", 80)));
        assert!(!tcp_works(Some(&outsider), Some(&a.namespace), at("10.65.0.1", 22)), "no failsafe here");
        assert!(tcp_works(Some(&a.namespace), Some(&outsider), at(OUTSIDER, 81)), "a direction without policy is free");
    });
}

#[test]
pub(crate) fn untracked_policy_needs_both_directions_and_leaves_no_entry() {
    on_a_host(|host| async move {
        let outsider = host.outsider();
        let rules = |egress| policy("p", vec![to_port(RuleAction::Allow, 80)], egress);
        let endpoint = HostEndpoint { untracked: tier(&["p"], &["p"]), ..named("eth0") };
        let both = rules(vec![from_port(RuleAction::Allow, 80)]);
        let mut dataplane = set_up([both, host_endpoint(endpoint)]).await;
        assert!(tcp_works(Some(&outsider), None, at(HOST, 80)));
        assert!(!run("conntrack -L 2>/dev/null").contains("dport=80"), "not tracked");
        assert!(!tcp_works(Some(&outsider), None, at(HOST, 81)));
        absorb(&mut dataplane, [rules(Vec::new())]);
        dataplane.apply().await.unwrap();
        assert!(!tcp_works(Some(&outsider), None, at(HOST, 80)), "no rule lets the answer out");
    });
}

#[test]
pub(crate) fn what_untracked_policy_lets_in_has_no_answers_from_workloads() {
    on_a_host(|host| async move {
        let (outsider, a) = (host.outsider(), host.workload(1));
        let open = profile("open", vec![allow()], vec![allow()]);
        let rules = policy("p", vec![to_port(RuleAction::Allow, 80)], vec![]);
        let endpoint = HostEndpoint { untracked: tier(&["p"], &["p"]), ..named("eth0") };
        let _dataplane = set_up([open, a.endpoint(&["open"]), rules, host_endpoint(endpoint)]).await;
        assert!(!tcp_works(Some(&outsider), Some(&a.namespace), at("10.65.0.1", 80)), "the answer has no flow");
        assert!(tcp_works(Some(&outsider), Some(&a.namespace), at("10.65.0.1", 81)), "the others have");
    });
}

#[test]
pub(crate) fn pre_dnat_policy_sees_the_port_that_was_sent() {
    on_a_host(|host| async move {
        let (outsider, a) = (host.outsider(), host.workload(1));
        run("nft 'table ip owner { chain pre { type nat hook prerouting priority -100; \
             ip daddr 192.0.2.1 tcp dport { 32010, 32011 } dnat to 10.65.0.1:8055; }; }'");
        let open = profile("open", vec![allow()], vec![allow()]);
        let rules = vec![to_port(RuleAction::Allow, 32010), deny()];
        let endpoint = HostEndpoint { pre_dnat: tier(&["p"], &[]), ..named("eth0") };
        let _dataplane =
            set_up([open, a.endpoint(&["open"]), policy("p", rules, vec![]), host_endpoint(endpoint)]).await;
        let node_port = |port| {
            let listener = a.namespace.run(move || bound(|| std::net::TcpListener::bind(at("10.65.0.1", 8055))));
            let worked = outsider.run(move || std::net::TcpStream::connect_timeout(&at(HOST, port), SILENCE).is_ok());
            drop(listener);
            worked
        };
        assert!(node_port(32010));
        assert!(!node_port(32011));
    });
}

#[test]
pub(crate) fn what_the_host_sends_through_dnat_is_judged_where_it_leaves() {
    on_a_host(|host| async move {
        let outsider = host.outsider();
        run("nft 'table ip owner { chain out { type nat hook output priority -100; \
             ip daddr 203.0.113.9 tcp dport 80 dnat to 198.51.100.2:8055; }; }' && \
             ip route add 203.0.113.9 dev lo");
        let endpoint = HostEndpoint { normal: tier(&[], &["p"]), ..named("eth0") };
        let rules = |port| policy("p", vec![], vec![to_port(RuleAction::Allow, port)]);
        let mut dataplane = set_up([rules(8055), host_endpoint(endpoint)]).await;
        let service = || {
            let listener = outsider.run(|| bound(|| std::net::TcpListener::bind(at(OUTSIDER, 8055))));
            let worked = std::net::TcpStream::connect_timeout(&at("203.0.113.9", 80), SILENCE).is_ok();
            drop(listener);
            worked
        };
        assert!(service(), "the real port is allowed");
        absorb(&mut dataplane, [rules(80)]);
        dataplane.apply().await.unwrap();
        assert!(!service(), "the service's port is not what leaves");
    });
}

/// Denied packets are answered where they can be, and the rules load everywhere.
#[test]
pub(crate) fn reject_answers_and_works_with_every_host_endpoint_list() {
    on_a_host(|host| async move {
        let (outsider, a) = (host.outsider(), host.workload(1));
        let everywhere = HostEndpoint {
            normal: tier(&["p"], &["p"]),
            forward: tier(&["p"], &["p"]),
            untracked: tier(&["q"], &["q"]),
            pre_dnat: tier(&["q"], &[]),
            profiles: vec![ProfileId("open".to_owned())],
            ..named("eth0")
        };
        let open = profile("open", vec![allow()], vec![allow()]);
        let settings = Settings { deny: DenyAction::Reject, ..Settings::default() };
        let _dataplane = set_up([
            Instruction::Settings(settings),
            open,
            a.endpoint(&["open"]),
            policy("p", vec![to_port(RuleAction::Deny, 80), allow()], vec![allow()]),
            policy("q", vec![to_port(RuleAction::Deny, 81)], vec![]),
            host_endpoint(everywhere),
        ])
        .await;
        let answer = |address: &'static str, port, patience| {
            outsider.run(move || {
                std::net::TcpStream::connect_timeout(&at(address, port), patience).map_err(|error| error.kind())
            })
        };
        let silent = Some(std::io::ErrorKind::TimedOut);
        for address in [HOST, "2001:db8::1", "10.65.0.1"] {
            let refused = answer(address, 80, PATIENCE).err();
            assert!(refused.is_some() && refused != silent, "{address}: {refused:?}");
            assert_eq!(answer(address, 81, SILENCE).err(), silent, "{address}: before routing there is no answer");
        }
    });
}

/// Tiers in order; pass leaves the tier; the end of a tier denies or passes; profiles come last.
#[test]
pub(crate) fn tiers_pass_and_end() {
    on_a_host(|host| async move {
        let (a, b) = (host.workload(1), host.workload(2));
        let mut dataplane = dataplane().await;
        let with_tiers = |workload: &Workload, tiers: Vec<TierPolicies>| match workload.endpoint(&["open"]) {
            Instruction::EndpointUpdate { id, mut endpoint } => {
                endpoint.tiers = tiers.into();
                Instruction::EndpointUpdate { id, endpoint }
            }
            other => other,
        };
        let one = |policy: &str, pass_at_end| TierPolicies { pass_at_end, ..tier(&[policy], &[]).remove(0) };
        absorb(
            &mut dataplane,
            [
                profile("open", vec![allow()], vec![allow()]),
                policy("passes", vec![Rule::of(RuleAction::Pass)], vec![]),
                policy("allows", vec![allow()], vec![]),
                policy("denies", vec![deny()], vec![]),
                policy("nothing", vec![], vec![]),
                a.endpoint(&["open"]),
            ],
        );
        for (tiers, expected) in [
            (vec![], true),
            (vec![one("nothing", false)], false),
            (vec![one("nothing", true)], true),
            (vec![one("passes", false)], true),
            (vec![one("passes", false), one("denies", false)], false),
            (vec![one("passes", false), one("nothing", false)], false),
            (vec![one("nothing", true), one("allows", false)], true),
            (vec![one("allows", false), one("denies", false)], true),
            (vec![one("denies", true), one("allows", false)], false),
        ] {
            absorb(&mut dataplane, [with_tiers(&b, tiers.clone())]);
            assert!(dataplane.apply().await.unwrap().problems.is_empty());
            assert_eq!(talks(&a, &b, 80), [expected; 2], "{tiers:?}");
            assert_eq!(talks(&b, &a, 80), [true; 2], "no policy for egress: profiles decide");
        }
    });
}

#[test]
fn a_listing_shows_what_was_met_and_how_often() {
    on_a_host(|host| async move {
        let (a, b, outsider) = (host.workload(1), host.workload(2), host.outsider());
        let rules = policy("web", vec![to_port(RuleAction::Deny, 81), allow()], vec![]);
        let mut guarded = b.endpoint(&["open"]);
        if let Instruction::EndpointUpdate { endpoint, .. } = &mut guarded {
            endpoint.tiers = tier(&["web"], &[]).into();
        }
        let any = HostEndpoint { interfaces: HostInterfaces::AnyInterface, ..named("") };
        let open = profile("open", vec![allow()], vec![allow()]);
        let _dataplane = set_up([open, rules, a.endpoint(&["open"]), guarded, host_endpoint(any)]).await;
        assert!(!tcp_works(Some(&a.namespace), Some(&b.namespace), at("10.65.0.2", 81)));
        drop(outsider);
        let listing = calico_dataplane::listing::of_interface("cali2").await.unwrap();
        let path = listing.paths.iter().find(|path| path.ip_version == 4 && path.place == "to workload").unwrap();
        assert_eq!(path.owner.as_deref(), Some("test/cali2"));
        let rules = || path.chains.iter().flat_map(|chain| &chain.rules);
        let deny = rules().find(|rule| rule.comment.as_deref() == Some("policy default/web ingress[0] deny")).unwrap();
        assert_eq!(deny.text, "meta l4proto 6 th dport 81 drop");
        assert!(deny.counter.unwrap().0 > 0);
        assert_eq!(path.chains.iter().map(|chain| chain.depth).collect::<Vec<_>>(), [0, 1, 2, 1], "{path:#?}");
        let host = calico_dataplane::listing::of_interface("eth9").await.unwrap();
        assert!(host.paths.iter().any(|path| path.place == "host endpoint hep-in" && path.owner.is_none()));
        assert!(rules().all(|rule| !rule.text.starts_with("not ours")));
    });
}
