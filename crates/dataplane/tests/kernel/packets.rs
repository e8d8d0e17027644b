//! What passes and what does not.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
};

use calico_policy::instruction::{
    EntityMatch, HostAction, IcmpMatch, Instruction, Pool, Rule, RuleAction, SetId, Settings,
};

use crate::support::*;

const HOST_V4: &str = "192.0.2.1";
const HOST_V6: &str = "2001:db8::1";

fn to_host(workload: &Workload, port: u16) -> [bool; 2] {
    [(workload.v4, HOST_V4), (workload.v6, HOST_V6)].map(|(source, host)| {
        let destination = SocketAddr::new(host.parse().unwrap(), port);
        udp_arrives(Some(&workload.namespace), source, None, destination)
    })
}

fn from_host(workload: &Workload, port: u16) -> [bool; 2] {
    [(HOST_V4, workload.v4), (HOST_V6, workload.v6)].map(|(source, address)| {
        let destination = SocketAddr::new(address, port);
        udp_arrives(None, source.parse().unwrap(), Some(&workload.namespace), destination)
    })
}

fn open() -> Instruction {
    profile("open", vec![allow()], vec![allow()])
}

fn host_action(endpoint_to_host: HostAction) -> Instruction {
    Instruction::Settings(Settings { endpoint_to_host, ..Settings::default() })
}

#[test]
pub(crate) fn an_interface_without_endpoint_passes_nothing() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let (known, stranger) = (host.workload(1), host.workload(9));
        // Somebody routes to it all the same.
        run("ip route add 10.65.0.9/32 dev cali9 && ip -6 route add fd65::9/128 dev cali9");
        absorb(&mut dataplane, [open(), known.endpoint(&["open"])]);
        assert!(dataplane.apply().await.unwrap().problems.is_empty());
        assert_eq!(talks(&stranger, &known, 80), [false; 2]);
        assert_eq!(talks(&known, &stranger, 80), [false; 2]);
        assert_eq!(to_host(&stranger, 80), [false; 2]);
        // With an endpoint it does.
        absorb(&mut dataplane, [stranger.endpoint(&["open"])]);
        dataplane.apply().await.unwrap();
        assert_eq!(talks(&stranger, &known, 80), [true; 2]);
        assert_eq!(talks(&known, &stranger, 80), [true; 2]);
    });
}

#[test]
pub(crate) fn the_base_alone_closes_workloads_and_nothing_else() {
    on_a_host(|host| async move {
        let outsider = host.outsider();
        let workload = host.workload(1);
        run("ip route add 10.65.0.1/32 dev cali1");
        run("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0");
        let _dataplane = dataplane().await;
        assert_eq!(run("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding"), "1\n1\n");
        let destination = SocketAddr::new(workload.v4, 80);
        let source: IpAddr = "198.51.100.2".parse().unwrap();
        assert!(!udp_arrives(Some(&outsider), source, Some(&workload.namespace), destination));
        assert_eq!(to_host(&workload, 80), [false; 2]);
        let host_address = SocketAddr::new("198.51.100.1".parse().unwrap(), 80);
        assert!(udp_arrives(Some(&outsider), source, None, host_address), "others still reach the host");
    });
}

#[test]
pub(crate) fn an_endpoint_without_profile_or_with_a_missing_one_passes_nothing() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let (a, b) = (host.workload(1), host.workload(2));
        for profiles in [&[][..], &["missing"], &["missing", "open"]] {
            absorb(&mut dataplane, [open(), a.endpoint(&["open"]), b.endpoint(profiles)]);
            dataplane.apply().await.unwrap();
            assert_eq!(talks(&a, &b, 80), [false; 2], "in, {profiles:?}");
            assert_eq!(talks(&b, &a, 80), [false; 2], "out, {profiles:?}");
        }
        absorb(&mut dataplane, [profile("missing", vec![], vec![])]);
        dataplane.apply().await.unwrap();
        assert_eq!(talks(&a, &b, 80), [true; 2], "an empty profile leaves it to the next");
    });
}

#[test]
pub(crate) fn members_of_a_set_get_in_and_others_do_not() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let [a, b, c] = [1, 2, 3].map(|number| host.workload(number));
        absorb(
            &mut dataplane,
            [
                set("s:friends", &["10.65.0.1/32", "fd65::1/128"]),
                profile("friends", vec![allow_from("s:friends")], vec![allow()]),
                a.endpoint(&["friends"]),
                b.endpoint(&["friends"]),
                c.endpoint(&["friends"]),
            ],
        );
        dataplane.apply().await.unwrap();
        assert_eq!(talks(&a, &b, 80), [true; 2]);
        assert_eq!(talks(&c, &b, 80), [false; 2]);
        let delta = |added: &[&str], removed: &[&str]| Instruction::SetDelta {
            id: SetId("s:friends".to_owned()),
            added: added.iter().map(|net| net.parse::<ipnet::IpNet>().unwrap()).collect(),
            removed: removed.iter().map(|net| net.parse::<ipnet::IpNet>().unwrap()).collect(),
        };
        absorb(&mut dataplane, [delta(&["10.65.0.3/32", "fd65::3/128"], &["10.65.0.1/32", "fd65::1/128"])]);
        dataplane.apply().await.unwrap();
        assert_eq!(talks(&c, &b, 80), [true; 2]);
        assert_eq!(talks(&a, &b, 80), [false; 2]);
        // A network that covers members: the set becomes an interval set, and back.
        absorb(&mut dataplane, [delta(&["10.65.0.0/24", "::/0"], &[])]);
        dataplane.apply().await.unwrap();
        assert!(nft("list set ip calico i-s.friends").is_none_or(|set| set.contains("10.65.0.0/24")));
        assert_eq!(talks(&a, &b, 80), [true; 2]);
        absorb(&mut dataplane, [delta(&[], &["10.65.0.0/24", "::/0"])]);
        dataplane.apply().await.unwrap();
        let set = nft("list set ip calico h-s.friends");
        assert!(set.is_none_or(|set| set.contains("10.65.0.3")), "what it covered is back");
        assert_eq!(talks(&c, &b, 80), [true; 2]);
        assert_eq!(talks(&a, &b, 80), [false; 2]);
    });
}

#[test]
pub(crate) fn both_ends_must_allow() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let (a, b) = (host.workload(1), host.workload(2));
        for (out, into, passes) in [(allow(), allow(), true), (deny(), allow(), false), (allow(), deny(), false)] {
            absorb(
                &mut dataplane,
                [
                    profile("a", vec![], vec![out]),
                    profile("b", vec![into], vec![]),
                    a.endpoint(&["a"]),
                    b.endpoint(&["b"]),
                ],
            );
            dataplane.apply().await.unwrap();
            assert_eq!(talks(&a, &b, 80), [passes; 2]);
            assert_eq!(talks(&b, &a, 80), [false; 2], "not the other way");
        }
    });
}

#[test]
pub(crate) fn ports_protocols_and_icmp_types_are_told_apart() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let (a, b) = (host.workload(1), host.workload(2));
        let udp = Rule {
            protocol: Some(17),
            destination: EntityMatch { ports: vec![(80, 80), (8000, 8100)], ..EntityMatch::default() },
            ..allow()
        };
        let tcp = Rule {
            protocol: Some(6),
            destination: EntityMatch { not_ports: vec![(22, 22)], ..EntityMatch::default() },
            ..allow()
        };
        let ping = Rule { protocol: Some(1), icmp: Some(IcmpMatch { icmp_type: 8, code: None }), ..allow() };
        absorb(
            &mut dataplane,
            [profile("some", vec![udp, tcp, ping], vec![allow()]), a.endpoint(&["some"]), b.endpoint(&["some"])],
        );
        dataplane.apply().await.unwrap();
        for (port, passes) in [(79, false), (80, true), (81, false), (8000, true), (8100, true), (8101, false)] {
            assert_eq!(talks(&a, &b, port), [passes; 2], "udp {port}");
        }
        for (port, passes) in [(22, false), (80, true)] {
            for address in b.addresses() {
                let works = tcp_works(Some(&a.namespace), Some(&b.namespace), SocketAddr::new(address, port));
                assert_eq!(works, passes, "tcp {address} {port}");
            }
        }
        a.namespace.sh("ping -c1 -W2 10.65.0.2");
        let refused = a.namespace.sh("ping -6 -c1 -W1 fd65::2 || echo refused");
        assert!(refused.contains("refused"), "the rule is for ICMP of IPv4");
    });
}

#[test]
pub(crate) fn a_source_that_is_not_the_workloads_own_is_dropped() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let (a, b, c) = (host.workload(1), host.workload(2), host.workload(3));
        absorb(&mut dataplane, [open(), a.endpoint(&["open"]), b.endpoint(&["open"]), c.endpoint(&["open"])]);
        dataplane.apply().await.unwrap();
        assert_eq!(talks(&a, &b, 80), [true; 2], "its own address passes");
        // The kernel's own reverse path filter is off, so that it is our rule that is tested.
        run("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done");
        let probes = [("10.65.0.3/32", b.v4), ("192.0.2.1/32", b.v4), ("203.0.113.7/32", b.v4), ("fd65::3/128", b.v6)];
        for (forged, destination) in probes {
            a.namespace.sh(&format!("ip address add {forged} dev eth0 $(echo {forged} | grep -q : && echo nodad)"));
            let source: IpAddr = forged.split('/').next().unwrap().parse().unwrap();
            let destination = SocketAddr::new(destination, 80);
            assert!(!udp_arrives(Some(&a.namespace), source, Some(&b.namespace), destination), "{forged}");
            a.namespace.sh(&format!("ip address del {forged} dev eth0"));
        }
        for family in ["ip", "ip6"] {
            let listing = nft(&format!("list chain {family} calico wl-antispoof | grep spoofed"));
            assert!(listing.is_none_or(|listing| !listing.contains("packets 0 ")), "dropped as spoofed");
        }
    });
}

/// Workload interfaces have `route_localnet`, for DNAT by the host's owner; a workload that sends to 127.0.0.1 itself
/// must not reach what listens there because it trusts everybody on its host.
#[test]
pub(crate) fn the_loopback_of_the_host_is_out_of_a_workloads_reach() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let a = host.workload(1);
        absorb(&mut dataplane, [open(), a.endpoint(&["open"]), host_action(HostAction::Accept)]);
        dataplane.apply().await.unwrap();
        assert_eq!(to_host(&a, 80), [true; 2], "policy lets it reach the host");
        run("ip link set lo up");
        a.namespace.sh(
            "ip address flush dev lo; for f in /proc/sys/net/ipv4/conf/*/route_localnet; do echo 1 > $f; done && \
             ip route del local 127.0.0.0/8 dev lo table local 2>/dev/null; ip link set lo down; \
             ip route add 127.0.0.0/8 via 192.0.2.1 dev eth0 onlink src 10.65.0.1",
        );
        for loopback in ["127.0.0.1:80", "127.1.2.3:80"] {
            assert!(!udp_arrives(Some(&a.namespace), a.v4, None, loopback.parse().unwrap()), "{loopback}");
        }
        // What the host's owner leads there arrives.
        run("nft add table ip owner && nft add chain ip owner pre '{ type nat hook prerouting priority -100; }' && \
             nft add rule ip owner pre iifname cali1 ip daddr 192.0.2.1 udp dport 81 dnat to 127.0.0.1:80");
        let listener = bound(|| std::net::UdpSocket::bind("127.0.0.1:80"));
        listener.set_read_timeout(Some(PATIENCE)).unwrap();
        let source = a.v4;
        a.namespace.run(move || {
            std::net::UdpSocket::bind((source, 0)).unwrap().send_to(b"probe", "192.0.2.1:81").unwrap();
        });
        let mut buffer = [0; 8];
        assert_eq!(receive(&listener, &mut buffer).expect("what was led there").0, 5);
    });
}

#[test]
pub(crate) fn from_workload_to_host_the_setting_decides_after_policy() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let (allowed, denied) = (host.workload(1), host.workload(2));
        absorb(
            &mut dataplane,
            [
                open(),
                profile("closed", vec![allow()], vec![deny()]),
                allowed.endpoint(&["open"]),
                denied.endpoint(&["closed"]),
            ],
        );
        for action in [HostAction::Return, HostAction::Drop, HostAction::Accept] {
            absorb(&mut dataplane, [host_action(action)]);
            dataplane.apply().await.unwrap();
            assert_eq!(to_host(&allowed, 80), [action != HostAction::Drop; 2], "{action:?}");
            assert_eq!(to_host(&denied, 80), [false; 2], "{action:?}");
        }
    });
}

#[test]
pub(crate) fn under_an_input_policy_of_drop_only_the_setting_accept_lets_workloads_in() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let workload = host.workload(1);
        run("iptables -P INPUT DROP && ip6tables -P INPUT DROP");
        run("ip6tables -A INPUT -p ipv6-icmp -j ACCEPT");
        absorb(&mut dataplane, [open(), workload.endpoint(&["open"])]);
        for (action, passes) in [(HostAction::Return, false), (HostAction::Accept, true), (HostAction::Drop, false)] {
            absorb(&mut dataplane, [host_action(action)]);
            dataplane.apply().await.unwrap();
            assert_eq!(to_host(&workload, 80), [passes; 2], "{action:?}");
        }
        assert!(!run("iptables -S INPUT").contains("calico"), "the rule is gone with the setting");
    });
}

#[test]
pub(crate) fn the_host_reaches_its_workloads_whatever_their_policy() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let workload = host.workload(1);
        absorb(&mut dataplane, [host_action(HostAction::Drop), workload.endpoint(&[])]);
        dataplane.apply().await.unwrap();
        assert_eq!(from_host(&workload, 80), [true; 2]);
        for address in workload.addresses() {
            assert!(tcp_works(None, Some(&workload.namespace), SocketAddr::new(address, 80)), "and the answers return");
        }
        assert_eq!(to_host(&workload, 80), [false; 2]);
    });
}

#[test]
pub(crate) fn neighbour_discovery_works_where_policy_denies_all() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let workload = host.workload(1);
        absorb(&mut dataplane, [host_action(HostAction::Drop), workload.endpoint(&[])]);
        dataplane.apply().await.unwrap();
        let ping = workload.namespace.sh("ping -6 -c1 -W1 fe80::1%eth0 || echo refused");
        assert!(ping.contains("refused"));
        let neighbours = workload.namespace.sh("ip -6 neigh show fe80::1");
        assert!(neighbours.contains("lladdr"), "the host answered the solicitation: {neighbours}");
    });
}

#[test]
pub(crate) fn established_flows_survive_a_denial_and_new_ones_do_not_start() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let (a, b) = (host.workload(1), host.workload(2));
        absorb(&mut dataplane, [open(), a.endpoint(&["open"]), b.endpoint(&["open"])]);
        dataplane.apply().await.unwrap();
        let address = SocketAddr::new(b.v4, 8055);
        let listener = b.namespace.run(move || TcpListener::bind(address).unwrap());
        let mut client = a.namespace.run(move || TcpStream::connect(address).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        absorb(&mut dataplane, [profile("open", vec![deny()], vec![allow()])]);
        dataplane.apply().await.unwrap();
        let mut line = [0; 5];
        client.write_all(b"still").unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        server.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"still");
        drop(listener);
        assert!(!tcp_works(Some(&a.namespace), Some(&b.namespace), address));
    });
}

#[test]
pub(crate) fn a_workload_does_not_inject_into_the_overlay() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let (a, b) = (host.workload(1), host.workload(2));
        absorb(&mut dataplane, [open(), a.endpoint(&["open"]), b.endpoint(&["open"])]);
        dataplane.apply().await.unwrap();
        assert_eq!(talks(&a, &b, 4789), [false; 2]);
        assert_eq!(talks(&a, &b, 4790), [true; 2]);
    });
}

#[test]
pub(crate) fn pools_with_masquerade_hide_their_addresses_from_the_outside_only() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let outsider = host.outsider();
        let (a, b) = (host.workload(1), host.workload(2));
        absorb(&mut dataplane, [open(), a.endpoint(&["open"]), b.endpoint(&["open"])]);
        let pool = |cidr: &str, masquerade| Pool { cidr: cidr.parse().unwrap(), masquerade };
        for masquerade in [true, false] {
            absorb(
                &mut dataplane,
                [Instruction::Pools { pools: vec![pool("10.65.0.0/16", masquerade), pool("fd65::/64", masquerade)] }],
            );
            dataplane.apply().await.unwrap();
            let seen = |source: IpAddr, destination: &'static str| {
                let receiver = outsider.run(move || bound(|| std::net::UdpSocket::bind((destination, 80))));
                receiver.set_read_timeout(Some(PATIENCE)).unwrap();
                a.namespace.run(move || {
                    let sender = std::net::UdpSocket::bind((source, 0)).unwrap();
                    sender.send_to(b"probe", (destination, 80)).unwrap();
                });
                receive(&receiver, &mut [0; 8]).unwrap().1.ip().to_string()
            };
            let expected = if masquerade { ["198.51.100.1", "2001:db8:1::1"] } else { ["10.65.0.1", "fd65::1"] };
            assert_eq!([seen(a.v4, "198.51.100.2"), seen(a.v6, "2001:db8:1::2")], expected);
            assert_eq!(talks(&a, &b, 80), [true; 2], "with their own addresses, which `talks` checks");
        }
        assert!(nft("list chains ip").is_none_or(|chains| !chains.contains("nat-post")), "no pool, no hook");
    });
}

#[test]
pub(crate) fn two_endpoints_on_one_interface_the_lower_name_has_it() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let (a, b) = (host.workload(1), host.workload(2));
        absorb(
            &mut dataplane,
            [
                open(),
                a.endpoint(&["open"]),
                endpoint("zz", "cali2", &b.addresses(), &["open"]),
                endpoint("aa", "cali2", &b.addresses(), &[]),
            ],
        );
        let report = dataplane.apply().await.unwrap();
        assert_eq!(report.problems.len(), 1);
        assert!(report.problems[0].to_string().starts_with("test/zz: interface cali2 belongs to endpoint test/aa"));
        assert_eq!(talks(&a, &b, 80), [false; 2]);
        let id = calico_policy::instruction::EndpointId { namespace: "test".into(), name: "aa".into() };
        absorb(&mut dataplane, [Instruction::EndpointRemove { id }]);
        assert!(dataplane.apply().await.unwrap().problems.is_empty());
        assert_eq!(talks(&a, &b, 80), [true; 2]);
    });
}

#[test]
pub(crate) fn an_interface_name_that_cannot_be_leaves_the_endpoint_closed_and_is_said() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let a = host.workload(1);
        for bad in ["", "eth0", "cali/1", "cali0123456789ab", "cali 1"] {
            absorb(&mut dataplane, [open(), a.endpoint(&["open"]), endpoint("bad", bad, &[], &["open"])]);
            let report = dataplane.apply().await.unwrap();
            assert!(report.problems.iter().any(|p| p.subject == "test/bad" && p.reason.contains("cali")), "{bad:?}");
        }
        // An endpoint that had a good name and now has a bad one is closed.
        absorb(&mut dataplane, [endpoint("cali1", "eth0", &a.addresses(), &["open"])]);
        dataplane.apply().await.unwrap();
        assert_eq!(to_host(&a, 80), [false; 2]);
        assert_eq!(run("ip route show proto 80"), "");
    });
}

#[test]
pub(crate) fn a_log_rule_goes_on() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let (a, b) = (host.workload(1), host.workload(2));
        let log = Rule::of(RuleAction::Log);
        absorb(
            &mut dataplane,
            [profile("log", vec![log, allow()], vec![allow()]), a.endpoint(&["log"]), b.endpoint(&["log"])],
        );
        dataplane.apply().await.unwrap();
        assert_eq!(talks(&a, &b, 80), [true; 2]);
        let rule = nft("list chain ip calico pi-log | grep allow");
        assert!(rule.is_none_or(|rule| !rule.contains("counter packets 0 ")), "and was counted");
    });
}
