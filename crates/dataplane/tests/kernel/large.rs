//! Rule lists, port lists and sets that are larger than anybody should write, and members that are odd: they are
//! programmed all the same, as one list that could not be would keep everything else from being programmed.

use std::net::{IpAddr, SocketAddr};

use calico_policy::instruction::{EntityMatch, Instruction, Members, PortMember, Rule, SetId};

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
