//! Living with other programs' rules.

use calico_dataplane::Event;
use calico_policy::instruction::{EndpointId, Instruction};

use crate::support::*;

fn open(a: &Workload, b: &Workload) -> Vec<Instruction> {
    vec![profile("open", vec![allow()], vec![allow()]), a.endpoint(&["open"]), b.endpoint(&["open"])]
}

#[test]
fn tables_of_others_stay_byte_for_byte() {
    on_a_host(|host| async move {
        let (a, b) = (host.workload(1), host.workload(2));
        run("nft 'table inet firewall { set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }; \
             chain c { type filter hook forward priority 10; policy accept; ip saddr @s counter accept; }; }'");
        run("nft 'table ip other { chain calico { }; map wl-from { type ifname : verdict; }; }'");
        run("iptables -A INPUT -p tcp --dport 22 -m comment --comment 'calico: mine' -j ACCEPT");
        run("iptables -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE");
        let foreign = || {
            let tables = run("nft list tables");
            let others = tables.lines().filter(|table| !table.ends_with(" calico"));
            others.map(|table| run(&format!("nft -a list {table} 2>/dev/null"))).collect::<Vec<_>>()
        };
        let before = foreign();
        assert!(before.len() >= 4);
        let mut dataplane = dataplane().await;
        absorb(&mut dataplane, open(&a, &b));
        dataplane.apply().await.unwrap();
        assert_eq!(foreign(), before);
        absorb(
            &mut dataplane,
            [Instruction::EndpointRemove { id: EndpointId { namespace: "test".to_owned(), name: "cali1".to_owned() } }],
        );
        dataplane.apply().await.unwrap();
        dataplane.distrust();
        dataplane.apply().await.unwrap();
        assert_eq!(foreign(), before);
    });
}

#[test]
fn a_forward_policy_of_drop_does_not_stop_workloads() {
    on_a_host(|host| async move {
        let (a, b) = (host.workload(1), host.workload(2));
        run("iptables -P FORWARD DROP && ip6tables -P FORWARD DROP");
        run("iptables -A FORWARD -i docker0 -j DROP");
        let mut dataplane = dataplane().await;
        let mut repairs = Repairs::default();
        absorb(&mut dataplane, open(&a, &b));
        dataplane.apply().await.unwrap();
        assert_eq!(talks(&a, &b, 80), [true; 2]);
        let rule =
            "-A FORWARD -m mark --mark 0x10000/0x10000 -m comment --comment \"calico: allowed by policy\" -j ACCEPT";
        let listing = run("iptables -S FORWARD");
        assert_eq!(listing.lines().nth(1), Some(rule), "first in the chain, and iptables can read it: {listing}");
        for vandalism in ["iptables -F FORWARD", "iptables -D FORWARD 1", "nft flush table ip filter"] {
            run("iptables -S FORWARD | grep -q docker0 || iptables -A FORWARD -i docker0 -j DROP");
            dataplane.apply().await.unwrap();
            run(vandalism);
            repairs.mend(&mut dataplane, Event::ForeignFilterChange).await;
            assert_eq!(run("iptables -S FORWARD").matches("calico").count(), 1, "{vandalism}");
        }
        assert_eq!(talks(&a, &b, 80), [true; 2]);
        // Others' traffic is still dropped: the mark is ours to give.
        run("iptables -P FORWARD ACCEPT");
        repairs.mend(&mut dataplane, Event::ForeignFilterChange).await;
        assert!(!run("iptables -S FORWARD").contains("calico"), "not needed any more");
        assert!(run("ip6tables -S FORWARD").contains("calico"), "still needed there");
    });
}

#[test]
fn a_packet_that_policy_denies_is_not_let_in_by_that_rule() {
    on_a_host(|host| async move {
        let (a, b) = (host.workload(1), host.workload(2));
        let outsider = host.outsider();
        run("iptables -P FORWARD DROP");
        let mut dataplane = dataplane().await;
        absorb(&mut dataplane, [profile("out", vec![], vec![allow()]), a.endpoint(&["out"]), b.endpoint(&["out"])]);
        dataplane.apply().await.unwrap();
        assert_eq!(talks(&a, &b, 80), [false; 2]);
        // Somebody marks everything with our bit before us: it does not help him.
        run(
            "nft 'table ip mallory { chain c { type filter hook prerouting priority -400; meta mark set 0x10000; }; }'",
        );
        assert_eq!(talks(&a, &b, 80), [false; 2]);
        let _second = host.second_network();
        let there = "203.0.113.2:80".parse().unwrap();
        let from = "198.51.100.2".parse().unwrap();
        assert!(
            !udp_arrives(Some(&outsider), from, Some(&_second), there),
            "not a workload's packet: Docker's drop holds"
        );
        run("iptables -P FORWARD ACCEPT");
        assert!(udp_arrives(Some(&outsider), from, Some(&_second), there), "it was the policy");
    });
}

#[test]
fn with_docker_the_rule_is_in_docker_user() {
    on_a_host(|host| async move {
        let (a, b) = (host.workload(1), host.workload(2));
        let docker = "iptables -P FORWARD DROP && iptables -N DOCKER-USER && iptables -A DOCKER-USER -j RETURN && \
                      iptables -I FORWARD -j DOCKER-USER && iptables -A FORWARD -o docker0 -j DROP";
        run(docker);
        run(&docker.replace("iptables", "ip6tables"));
        let mut dataplane = dataplane().await;
        let mut repairs = Repairs::default();
        absorb(&mut dataplane, open(&a, &b));
        dataplane.apply().await.unwrap();
        assert_eq!(talks(&a, &b, 80), [true; 2]);
        let count = || {
            (
                run("iptables -S DOCKER-USER").matches("calico").count(),
                run("iptables -S FORWARD").matches("calico").count(),
            )
        };
        assert_eq!(count(), (1, 0));
        run("iptables -F DOCKER-USER");
        repairs.mend(&mut dataplane, Event::ForeignFilterChange).await;
        assert_eq!(count(), (1, 0));
        // Docker starts anew: its chains go and come, as its own programs do it.
        run("iptables -D FORWARD -j DOCKER-USER");
        repairs.mend(&mut dataplane, Event::ForeignFilterChange).await;
        assert_eq!(count(), (0, 1), "nobody looks into DOCKER-USER");
        run("iptables -I FORWARD -j DOCKER-USER");
        repairs.mend(&mut dataplane, Event::ForeignFilterChange).await;
        assert_eq!(count(), (1, 0));
        assert_eq!(talks(&a, &b, 80), [true; 2]);
    });
}

#[test]
fn save_and_restore_by_iptables_keeps_our_rule_and_its_meaning() {
    on_a_host(|host| async move {
        let (a, b) = (host.workload(1), host.workload(2));
        run("iptables -P FORWARD DROP && ip6tables -P FORWARD DROP");
        let mut dataplane = dataplane().await;
        let mut repairs = Repairs::default();
        absorb(&mut dataplane, open(&a, &b));
        dataplane.apply().await.unwrap();
        let before = run("iptables-save | grep -v ^#");
        run(
            "iptables-save > /dev/shm/calico-test-$$ && iptables-restore < /dev/shm/calico-test-$$; rm /dev/shm/calico-test-$$",
        );
        assert_eq!(run("iptables-save | grep -v ^#"), before);
        repairs.mend(&mut dataplane, Event::ForeignFilterChange).await;
        assert_eq!(run("iptables -S FORWARD").matches("calico").count(), 1, "recognised in iptables' own form");
        assert!(dataplane.apply().await.unwrap().is_unchanged());
        assert_eq!(talks(&a, &b, 80), [true; 2]);
    });
}

#[test]
fn a_drop_policy_of_the_old_iptables_is_reported_with_the_way_out() {
    on_a_host(|_host| async move {
        let mut dataplane = dataplane().await;
        assert!(dataplane.apply().await.unwrap().problems.is_empty());
        run("iptables-legacy -P FORWARD DROP && ip6tables-legacy -P FORWARD DROP");
        run("iptables-legacy -A FORWARD -i docker0 -j ACCEPT");
        dataplane.distrust();
        let report = dataplane.apply().await.unwrap();
        let subjects: Vec<&str> = report.problems.iter().map(|problem| problem.subject.as_str()).collect();
        assert_eq!(subjects, ["iptables-legacy", "ip6tables-legacy"]);
        assert!(report.problems[0].reason.contains("iptables-legacy -P FORWARD ACCEPT"));
        run("iptables-legacy -P FORWARD ACCEPT && ip6tables-legacy -P FORWARD ACCEPT");
        dataplane.distrust();
        assert!(dataplane.apply().await.unwrap().problems.is_empty());
    });
}
