//! Rule lists, port lists and sets that are larger than anybody should write, and members that are odd: they are
//! programmed all the same, as one list that could not be would keep everything else from being programmed.

use std::net::{IpAddr, SocketAddr};

use calico_policy::instruction::{
    Endpoint, EndpointId, EntityMatch, FailsafePort, HostEndpoint, HostEndpointId, HostInterfaces, IcmpMatch,
    Instruction, Members, Nat, NatOutgoing, Pool, PortMember, ProfileId, Qos, Rule, RuleAction, ServiceLoop, SetId,
    Settings,
};

use crate::support::*;

const UDP: u8 = 17;

/// Every second port from a first one on; lists of these have no ranges.
fn every_second(first: u16, count: u16) -> Vec<(u16, u16)> {
    (0..count).map(|n| (first + 2 * n, first + 2 * n)).collect()
}

fn to_ports(rule: Rule, ports: Vec<(u16, u16)>, not_ports: Vec<(u16, u16)>) -> Rule {
    Rule { protocol: Some(UDP), destination: EntityMatch { ports, not_ports, ..EntityMatch::default() }, ..rule }
}

/// Which of some ports of a workload another one reaches, in both families.
fn reached(from: &Workload, to: &Workload, ports: &[u16]) -> Vec<u16> {
    let passes = |port: &u16| {
        let families = [(from.v4, to.v4), (from.v6, to.v6)].map(|(source, address)| {
            let destination = SocketAddr::new(address, *port);
            udp_arrives(Some(&from.namespace), source, Some(&to.namespace), destination)
        });
        assert_eq!(families[0], families[1], "port {port}");
        families[0]
    };
    ports.iter().copied().filter(|port| passes(port)).collect()
}

#[test]
pub(crate) fn thousands_of_ports_are_told_apart() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let (client, server) = (host.workload(1), host.workload(2));
        let everywhere = vec![(0, u16::MAX)];
        let ingress = vec![
            to_ports(deny(), every_second(10_000, 2500), Vec::new()),
            to_ports(deny(), Vec::new(), every_second(9000, 3500)),
            // Both ends by a long list, in which every source port is.
            Rule {
                source: EntityMatch { ports: [everywhere, every_second(1, 900)].concat(), ..EntityMatch::default() },
                ..to_ports(allow(), every_second(9000, 1500), every_second(9000, 200))
            },
        ];
        let open = profile("open", vec![allow()], vec![allow()]);
        let ports = profile("ports", ingress, vec![allow()]);
        absorb(&mut dataplane, [open, ports, client.endpoint(&["open"]), server.endpoint(&["ports"])]);
        assert!(dataplane.apply().await.unwrap().problems.is_empty());
        // Denied by the first rule from 10000, by the second if odd, not allowed below 9400.
        assert_eq!(reached(&client, &server, &[9001, 9002, 9398, 9400, 9401, 9998, 10_000, 15_002]), [9400, 9998]);
        dataplane.distrust();
        assert_eq!(dataplane.apply().await.unwrap().operations, 0, "read back as written");
    });
}

#[test]
pub(crate) fn a_list_of_ten_thousand_rules_is_followed_to_its_end() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let (client, server) = (host.workload(1), host.workload(2));
        let mut rules: Vec<Rule> =
            (0..10_000).map(|n| to_ports(deny(), vec![(10_000 + n, 10_000 + n)], Vec::new())).collect();
        rules.push(to_ports(allow(), vec![(9000, 20_000)], Vec::new()));
        let open = profile("open", vec![allow()], vec![allow()]);
        let long = profile("long", rules, vec![allow()]);
        absorb(&mut dataplane, [open, long, client.endpoint(&["open"]), server.endpoint(&["long"])]);
        assert!(dataplane.apply().await.unwrap().problems.is_empty());
        assert_eq!(reached(&client, &server, &[9000, 10_000, 19_999, 20_000, 20_001]), [9000, 20_000]);
    });
}

#[test]
pub(crate) fn odd_members_of_sets_hold_up_nothing() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let (client, server) = (host.workload(1), host.workload(2));
        let port = |address: IpAddr, port| PortMember { address, protocol: UDP, port };
        let named = SetId("n:odd".to_owned());
        let members = [
            port("0.0.0.0".parse().unwrap(), 80),
            port("::".parse().unwrap(), 80),
            port(server.v4, 0),
            port(server.v4, 9000),
            port(server.v6, 9000),
        ];
        let ports = Instruction::SetReplace { id: named.clone(), members: members.into_iter().collect::<Members>() };
        let from = set("s:odd", &["0.0.0.0/32", "::/128", &format!("{}/32", client.v4), &format!("{}/128", client.v6)]);
        let rule = Rule {
            destination: EntityMatch { port_sets: vec![named], ..EntityMatch::default() },
            ..allow_from("s:odd")
        };
        let open = profile("open", vec![allow()], vec![allow()]);
        let odd = profile("odd", vec![rule], vec![allow()]);
        absorb(&mut dataplane, [ports, from, open, odd, client.endpoint(&["open"]), server.endpoint(&["odd"])]);
        assert!(dataplane.apply().await.unwrap().problems.is_empty());
        assert_eq!(reached(&client, &server, &[9000, 9001]), [9000]);
        // Without the odd ones, and the other way round.
        let plain = set("s:odd", &[&format!("{}/32", client.v4), &format!("{}/128", client.v6)]);
        let none = set("s:odd", &["0.0.0.0/32", "::/128", "0.0.0.0/0", "::/0", "255.255.255.255/32"]);
        for members in [plain, none] {
            absorb(&mut dataplane, [members]);
            assert!(dataplane.apply().await.unwrap().problems.is_empty());
            assert_eq!(reached(&client, &server, &[9000, 9001]), [9000]);
        }
        dataplane.distrust();
        assert_eq!(dataplane.apply().await.unwrap().operations, 0, "read back as written");
    });
}

/// Words that a person or a hostile client can write somewhere, together with an endpoint that must go on.
#[test]
pub(crate) fn odd_words_hold_up_nothing() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let (client, server) = (host.workload(1), host.workload(2));
        let evil = "\"; -j ACCEPT\nCOMMIT\n*filter\n-P FORWARD ACCEPT\\ %n %p %% %x % \u{e9}\u{0}";
        let profiles = |names: &[&str]| names.iter().map(|name| ProfileId((*name).to_owned())).collect();
        let only = |port| to_ports(allow(), vec![(port, port)], Vec::new());
        let mut rules = vec![Rule::of(RuleAction::Log), only(9000)];
        for version in [0, 4, 6, 9] {
            rules.push(Rule { ip_version: Some(version), protocol: Some(255), not_protocol: Some(0), ..allow() });
        }
        for icmp_type in [0, 254, 255] {
            let icmp = Some(IcmpMatch { icmp_type, code: Some(255) });
            rules.push(Rule { icmp, not_icmp: icmp, ..allow() });
        }
        let endpoint = |name: &str, workload: &Workload, profiles| Instruction::EndpointUpdate {
            id: EndpointId { namespace: evil.to_owned(), name: name.to_owned() },
            endpoint: Endpoint {
                interface: workload.interface.clone(),
                addresses: workload.addresses(),
                spoofable: ["0.0.0.0/0", "10.0.0.0/8", "::/0"].map(|net| net.parse().unwrap()).into(),
                nats: ["0.0.0.0", "255.255.255.255", "224.0.0.1"]
                    .map(|external| Nat { internal: workload.v4, external: external.parse().unwrap() })
                    .into(),
                qos: Qos {
                    ingress_packet_rate: Some(u32::MAX),
                    ingress_packet_burst: Some(u32::MAX),
                    egress_packet_rate: Some(100_000),
                    egress_packet_burst: Some(u32::MAX),
                    ingress_max_connections: Some(u32::MAX),
                    egress_max_connections: Some(u32::MAX),
                    dscp: Some(63),
                },
                profiles,
                ..Endpoint::default()
            },
        };
        let pool = |cidr: &str| Pool { cidr: cidr.parse().unwrap(), masquerade: true };
        absorb(
            &mut dataplane,
            [
                profile("open", vec![allow()], vec![allow()]),
                profile(evil, rules, vec![allow()]),
                Instruction::Pools { pools: vec![pool("0.0.0.0/0"), pool("10.65.0.0/16"), pool("::/0")] },
                endpoint("client", &client, profiles(&["open"])),
                endpoint(evil, &server, profiles(&[evil, evil])),
                Instruction::HostEndpointUpdate {
                    id: HostEndpointId(evil.to_owned()),
                    endpoint: HostEndpoint {
                        interfaces: HostInterfaces::Named("eth7.a_b-c".to_owned()),
                        normal: Vec::new(),
                        forward: Vec::new(),
                        untracked: Vec::new(),
                        pre_dnat: Vec::new(),
                        profiles: profiles(&[evil, "nobody's"]),
                    },
                },
            ],
        );
        let failsafe = |net: &str| FailsafePort { protocol: 132, port: 1, net: net.parse().ok() };
        let long = "0123456789abcdef0123456789abcdef+";
        for name in
            ["+", "eth+", "", "eth7", "0123456789abcde+", "0123456789abcde", long, "a b+", "a\"b+", "e\u{e9}+", evil]
        {
            let settings = Settings {
                log_prefix: evil.to_owned(),
                log_rate: Some((1, 86400)),
                log_burst: Some(9999),
                failsafe_inbound: vec![failsafe("0.0.0.0/0"), failsafe("::/0"), failsafe("none")],
                nat_outgoing: NatOutgoing {
                    address: Some("0.0.0.0".parse().unwrap()),
                    ports: Some((0, u16::MAX)),
                    interface: Some(name.to_owned()),
                    exclude_hosts: true,
                },
                service_cidrs: ["0.0.0.0/32", "10.96.0.0/12", "10.96.0.0/16", "::/128"]
                    .map(|net| net.parse().unwrap())
                    .into(),
                service_loop: ServiceLoop::Reject,
                vxlan_port: Some(u16::MAX),
                ..Settings::default()
            };
            absorb(&mut dataplane, [Instruction::Settings(settings)]);
            let report = dataplane.apply().await.unwrap_or_else(|error| panic!("{name:?}: {error}"));
            let floating = |reason: &str| reason.ends_with("is no address of a workload; it gets no route");
            assert!(report.problems.iter().all(|problem| floating(&problem.reason)), "{name:?}: {report:?}");
            assert_eq!(reached(&client, &server, &[9000, 9001]), [9000], "{name:?}");
            dataplane.distrust();
            assert_eq!(dataplane.apply().await.unwrap().operations, 0, "{name:?} is read back as written");
        }
    });
}
