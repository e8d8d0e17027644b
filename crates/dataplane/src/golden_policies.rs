//! Policies, host endpoints and every setting, for the golden files.

use std::net::IpAddr;

use calico_policy::instruction::{
    DenyAction, Endpoint, EndpointId, EntityMatch, FailsafePort, HostAction, HostEndpoint, HostEndpointId,
    HostInterfaces, Instruction, Members, Nat, NatOutgoing, PolicyId, PolicyKind, Pool, PortMember, ProfileId,
    PublishedPort, Qos, Rule, RuleAction, RuleSet, ServiceLoop, SetId, Settings, TierPolicies,
};
use ipnet::IpNet;

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

fn global(name: &str) -> PolicyId {
    PolicyId { kind: PolicyKind::Global, namespace: String::new(), name: name.to_owned() }
}

fn namespaced(name: &str) -> PolicyId {
    PolicyId { kind: PolicyKind::Namespaced, namespace: "prod".to_owned(), name: name.to_owned() }
}

fn policy(id: PolicyId, ingress: Vec<Rule>, egress: Vec<Rule>) -> Instruction {
    Instruction::PolicyUpdate { id, rules: RuleSet { ingress, egress }.into() }
}

fn tier(name: &str, pass_at_end: bool, ingress: &[PolicyId], egress: &[PolicyId]) -> TierPolicies {
    TierPolicies { tier: name.to_owned(), pass_at_end, ingress: ingress.to_vec(), egress: egress.to_vec() }
}

/// Numbers, named ports, both, and their negations, at both ends.
fn named_ports() -> Vec<Rule> {
    let web = || vec![SetId("n:web".to_owned())];
    let any = EntityMatch::default;
    let to = |destination| Rule { protocol: Some(6), destination, ..Rule::of(RuleAction::Allow) };
    vec![
        to(EntityMatch { port_sets: web(), ..any() }),
        to(EntityMatch { port_sets: web(), ports: vec![(80, 80), (443, 443)], ..any() }),
        to(EntityMatch { not_port_sets: web(), not_ports: vec![(22, 22)], ..any() }),
        to(EntityMatch { port_sets: web(), not_port_sets: vec![SetId("n:missing".to_owned())], ..any() }),
        to(EntityMatch { port_sets: vec![SetId("n:missing".to_owned())], ..any() }),
        Rule { destination: EntityMatch { not_port_sets: web(), ..any() }, ..Rule::of(RuleAction::Deny) },
        Rule {
            // A range: nft merges comparisons of neighbouring ports, and gets `!=` of both wrong in doing so.
            source: EntityMatch { port_sets: web(), ports: vec![(1024, 65535)], ..any() },
            destination: EntityMatch { port_sets: web(), ports: vec![(53, 53)], ..any() },
            ..Rule::of(RuleAction::Log)
        },
    ]
}

fn workload(number: u8, tiers: Vec<TierPolicies>, extra: Endpoint) -> Instruction {
    Instruction::EndpointUpdate {
        id: EndpointId { namespace: "prod".to_owned(), name: format!("endpoint-{number}") },
        endpoint: Endpoint {
            interface: format!("cali{number}"),
            addresses: vec![address(&format!("10.65.0.{number}")), address(&format!("fd65::{number}"))],
            tiers: tiers.into(),
            profiles: vec![ProfileId("plain".to_owned())],
            ..extra
        },
    }
}

fn host(name: &str, interfaces: HostInterfaces, endpoint: HostEndpoint) -> Instruction {
    Instruction::HostEndpointUpdate {
        id: HostEndpointId(name.to_owned()),
        endpoint: HostEndpoint { interfaces, ..endpoint },
    }
}

fn nothing() -> HostEndpoint {
    HostEndpoint {
        interfaces: HostInterfaces::AnyInterface,
        normal: Vec::new(),
        forward: Vec::new(),
        untracked: Vec::new(),
        pre_dnat: Vec::new(),
        profiles: vec![ProfileId("plain".to_owned())],
    }
}

/// Settings other than the default ones, all of them.
fn settings() -> Settings {
    let defaults = Settings::default();
    let open = |protocol, port, net| FailsafePort { protocol, port, net };
    Settings {
        endpoint_to_host: HostAction::Drop,
        deny: DenyAction::Reject,
        failsafe_inbound: vec![open(6, 22, None), open(6, 179, Some(net("192.0.2.0/24"))), open(17, 68, None)],
        failsafe_outbound: vec![open(6, 2379, None), open(6, 2380, None), open(17, 53, Some(net("fd00::/8")))],
        log_prefix: "%t %k %n (%p) 100%".to_owned(),
        log_rate: Some((30, 60)),
        log_burst: None,
        accept_invalid: true,
        ipip_from_workloads: true,
        vxlan_port: Some(4790),
        nat_outgoing: NatOutgoing {
            address: Some([192, 0, 2, 7].into()),
            ports: Some((32768, 65535)),
            interface: Some("eth+".to_owned()),
            exclude_hosts: true,
        },
        service_cidrs: vec![net("10.96.0.0/16"), net("10.97.0.0/16"), net("fd96::/112")],
        service_loop: ServiceLoop::Reject,
        ..defaults
    }
}

fn published(protocol: u8, host: &str, host_port: u16, own: &str, port: u16) -> PublishedPort {
    PublishedPort { protocol, host_port, host: address(host), address: address(own), port }
}

/// All that is not in the other golden rules.
pub(crate) fn policies_and_hosts() -> Vec<Instruction> {
    let rule = |action| Rule { protocol: Some(17), ..Rule::of(action) };
    let (web, db, lock) = (global("web"), namespaced("db"), global("lock.down"));
    let qos = Qos {
        ingress_packet_rate: Some(100),
        ingress_packet_burst: Some(20),
        egress_packet_rate: Some(1000),
        ingress_max_connections: Some(3),
        egress_max_connections: Some(50),
        dscp: Some(20),
        ..Qos::default()
    };
    let limited = Endpoint {
        spoofable: vec![net("10.9.0.0/16"), net("fd09::/64")],
        nats: vec![
            Nat { internal: address("10.65.0.2"), external: address("192.0.2.50") },
            Nat { internal: address("fd65::2"), external: address("2001:db8::50") },
        ],
        published: vec![
            published(6, "0.0.0.0", 8080, "10.65.0.2", 80),
            published(6, "192.0.2.1", 8443, "10.65.0.2", 443),
            published(6, "::", 8080, "fd65::2", 80),
            published(17, "2001:db8::1", 5353, "fd65::2", 53),
            published(132, "0.0.0.0", 9, "10.65.0.2", 9),
        ],
        qos,
        ..Endpoint::default()
    };
    let only = |tiers| vec![tier("default", false, tiers, tiers)];
    let web_port = |address, port| PortMember { address, protocol: 6, port };
    vec![
        Instruction::Settings(settings()),
        Instruction::Hosts { addresses: vec![address("192.0.2.1"), address("192.0.2.2"), address("2001:db8::1")] },
        Instruction::Pools { pools: vec![Pool { cidr: net("10.65.0.0/16"), masquerade: true }] },
        Instruction::SetReplace {
            id: SetId("n:web".to_owned()),
            members: Members::Ports(vec![web_port(address("10.65.0.1"), 8080), web_port(address("fd65::1"), 8081)]),
        },
        Instruction::ProfileUpdate { id: ProfileId("plain".to_owned()), rules: RuleSet::default().into() },
        policy(web.clone(), named_ports(), vec![rule(RuleAction::Allow)]),
        policy(db.clone(), vec![rule(RuleAction::Pass), rule(RuleAction::Log)], vec![rule(RuleAction::Deny)]),
        policy(lock.clone(), vec![rule(RuleAction::Deny)], vec![rule(RuleAction::Pass)]),
        workload(
            1,
            vec![
                tier("security", true, std::slice::from_ref(&lock), &[]),
                tier("default", false, &[web.clone(), db.clone()], std::slice::from_ref(&db)),
            ],
            Endpoint::default(),
        ),
        workload(2, only(std::slice::from_ref(&web)), limited),
        host(
            "a",
            HostInterfaces::Named("eth0".to_owned()),
            HostEndpoint {
                normal: only(std::slice::from_ref(&web)),
                forward: vec![tier("default", false, std::slice::from_ref(&lock), &[])],
                untracked: only(std::slice::from_ref(&lock)),
                ..nothing()
            },
        ),
        host(
            "others",
            HostInterfaces::AnyInterface,
            HostEndpoint {
                normal: only(std::slice::from_ref(&db)),
                forward: only(&[db.clone(), lock.clone()]),
                pre_dnat: vec![tier("default", false, std::slice::from_ref(&lock), &[])],
                ..nothing()
            },
        ),
    ]
}
