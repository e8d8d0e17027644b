//! The system tests that the classic tool had: those about profiles and tunnels between two hosts. The list of all is
//! at the head of `scenarios_one_host.rs`.
#![allow(clippy::unwrap_used)]

use calico_e2e::{Cluster, Workload, assert_closes_to, assert_matrix, eventually};
use serde_json::Value;

#[test]
fn two_hosts() {
    let cluster = Cluster::up(2, "");
    five_containers_and_three_profiles(&cluster);
    a_pool_with_vxlan_is_tunnelled(&cluster);
    let mut four = ["main", "wa", "wb", "wc"].map(|name| cluster.run(if name == "main" { 1 } else { 2 }, name));
    for (workload, address) in four.iter_mut().zip(["192.168.11.1", "192.168.11.2", "192.168.11.3", "192.168.11.4"]) {
        workload.add(address);
    }
    let four = four.each_ref();
    for (workload, profile) in four[1..].iter().zip(["PROF_A", "PROF_B", "PROF_C"]) {
        cluster.lab.host(1).ok(&format!("calicoctl profile add {profile}"));
        workload.calicoctl(&format!("profile set {profile}"));
    }
    between_two_profiles(four);
    profiles_of_an_endpoint_change(&cluster, four);
    endpoints_are_found_by_what_is_known_of_them(&cluster, four);
}

/// The pairs of `main` with each of these, both ways.
fn with_main<'a>(others: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    others.iter().flat_map(|other| [("main", *other), (*other, "main")]).collect()
}

/// 10: three containers on one host, two on the other; who has a profile in common talks, on whatever host.
fn five_containers_and_three_profiles(cluster: &Cluster) {
    let host1 = cluster.lab.host(1);
    let names = ["w1", "w2", "w3", "w4", "w5"];
    let mut five = names.map(|name| cluster.run(if name < "w4" { 1 } else { 2 }, name));
    for profile in ["PROF_1_3_5", "PROF_2", "PROF_4"] {
        host1.ok(&format!("calicoctl profile add {profile}"));
    }
    let profiles = ["PROF_1_3_5", "PROF_2", "PROF_1_3_5", "PROF_4", "PROF_1_3_5"];
    for (at, (workload, profile)) in five.iter_mut().zip(profiles).enumerate() {
        workload.add(&format!("192.168.10.{}", at + 1));
        workload.calicoctl(&format!("profile set {profile}"));
    }
    let odd = ["w1", "w3", "w5"];
    let allowed: Vec<(&str, &str)> =
        odd.iter().flat_map(|from| odd.iter().filter(move |to| from != *to).map(move |to| (*from, *to))).collect();
    assert_matrix(&five.each_ref(), &allowed);
    for workload in &five {
        workload.host.ok(&format!("calicoctl container remove {0} && docker rm -f {0}", workload.name));
    }
    for profile in ["PROF_1_3_5", "PROF_2", "PROF_4"] {
        host1.ok(&format!("calicoctl profile remove {profile}"));
    }
}

/// 9: a container with two profiles talks to those that have one of them each; these do not talk to one another.
fn between_two_profiles(four: [&Workload<'_>; 4]) {
    four[0].calicoctl("profile set PROF_A PROF_B");
    assert_matrix(&four, &with_main(&["wa", "wb"]));
    four[0].calicoctl("profile set");
    assert_closes_to(&four, &[]);
}

/// 11: the profiles of one endpoint, by container and by endpoint id, step by step.
fn profiles_of_an_endpoint_change(cluster: &Cluster, four: [&Workload<'_>; 4]) {
    let main = four[0];
    let detailed = format!("calicoctl endpoint show --detailed --host={} -o json", main.host.name());
    let shown: Value = serde_json::from_str(&main.host.ok(&detailed)).unwrap();
    let ids: Vec<&str> = shown.as_array().unwrap().iter().filter_map(|row| row["endpoint"].as_str()).collect();
    let [id] = ids[..] else { panic!("one endpoint is on this host: {shown}") };
    let by_id = format!("endpoint {id}");
    let by_name = "container main".to_owned();
    for (who, words, then) in [
        (&by_name, "set PROF_A", &["wa"][..]),
        // What was there is replaced.
        (&by_name, "set PROF_B PROF_C", &["wb", "wc"]),
        (&by_id, "set", &[]),
        (&by_name, "append PROF_A", &["wa"]),
        (&by_id, "append PROF_B PROF_C", &["wa", "wb", "wc"]),
        (&by_name, "remove PROF_C", &["wa", "wb"]),
        (&by_id, "remove PROF_A PROF_B", &[]),
    ] {
        main.host.ok(&format!("calicoctl {who} profile {words}"));
        assert_closes_to(&four, &with_main(then));
    }
    // Appending what is there and removing what is not says so, with code 0, and changes nothing.
    main.calicoctl("profile append PROF_A");
    let before = cluster.datastore();
    let said = main.host.run("calicoctl container main profile append PROF_A");
    assert!(said.success() && said.text().contains("already in endpoint profile list"), "{}", said.text());
    let said = main.host.run("calicoctl container main profile remove PROF_C");
    assert!(said.success() && said.text().contains("is not in endpoint profile list"), "{}", said.text());
    let refused = main.host.fails("calicoctl container main profile append NOBODY");
    assert!(refused.text().contains("Profile with name NOBODY was not found"), "{}", refused.text());
    assert_eq!(cluster.datastore(), before);
    assert_matrix(&four, &with_main(&["wa"]));
}

/// 3: which endpoints are where, from any host, narrowed by host, workload and endpoint.
fn endpoints_are_found_by_what_is_known_of_them(cluster: &Cluster, four: [&Workload<'_>; 4]) {
    let rows = |arguments: &str| -> Vec<Value> {
        let shown = cluster.lab.host(2).ok(&format!("calicoctl endpoint show {arguments} -o json"));
        serde_json::from_str::<Value>(&shown).unwrap().as_array().unwrap().clone()
    };
    let hosts = rows("");
    let counts: Vec<String> = hosts.iter().map(|row| format!("{} {}", row["hostname"], row["endpoints"])).collect();
    assert_eq!(counts, ["\"host1\" 1", "\"host2\" 3"], "{hosts:?}");
    assert_eq!(rows("--host=host2").len(), 1);
    assert_eq!(rows("--detailed").len(), 4);
    let on_second = rows("--detailed --host=host2");
    assert_eq!(on_second.len(), 3);
    for workload in &four[1..] {
        let row = on_second.iter().find(|row| row["addresses"].to_string().contains(&workload.ip().to_string()));
        let row = row.unwrap_or_else(|| panic!("no row of {}: {on_second:?}", workload.name));
        let id = row["endpoint"].as_str().unwrap();
        assert_eq!(rows(&format!("--detailed --endpoint={id}")), std::slice::from_ref(row));
        assert_eq!(rows(&format!("--detailed --host=host1 --endpoint={id}")), Vec::<Value>::new());
        let own = workload.calicoctl("endpoint show -o json");
        assert!(own.contains(id), "{own}");
    }
    let table = cluster.lab.host(1).ok("calicoctl endpoint show --detailed");
    for words in ["Hostname", "Orchestrator ID", "Workload ID", "Endpoint ID", "Addresses", "MAC", "Profiles", "State"]
    {
        assert!(table.contains(words), "{words} in {table}");
    }
}

/// 4: what a pool with VXLAN sends to another host goes in packets between the hosts, so that no router in between needs
/// to know the pool.
fn a_pool_with_vxlan_is_tunnelled(cluster: &Cluster) {
    let (host1, host2) = (cluster.lab.host(1), cluster.lab.host(2));
    host1.ok("calicoctl pool add 10.4.0.0/16 --vxlan && calicoctl profile add TUNNEL");
    // What arrives from the other host, as it is on the wire.
    host2.ok("nft 'table ip wire { chain arrives { type filter hook prerouting priority -400; \
         iifname eth0 udp dport 4789 counter; iifname eth0 ip saddr 10.4.0.0/16 counter; }; }'");
    let (mut near, mut far) = (cluster.run(1, "near"), cluster.run(2, "far"));
    near.add("10.4.0.1");
    far.add("10.4.1.1");
    for workload in [&near, &far] {
        workload.calicoctl("profile set TUNNEL");
    }
    assert_matrix(&[&near, &far], &[("near", "far"), ("far", "near")]);
    let arrived = host2.ok("nft list table ip wire");
    let packets: Vec<u64> = arrived
        .split("counter packets ")
        .skip(1)
        .map(|rest| rest.split_whitespace().next().unwrap().parse().unwrap())
        .collect();
    assert!(packets.len() == 2 && packets[0] > 0 && packets[1] == 0, "{arrived}");
    host2.ok("nft delete table ip wire");
    for host in [host1, host2] {
        host.ok("ip link show vxlan.calico");
    }
    for workload in [&near, &far] {
        workload.host.ok(&format!("calicoctl container remove {0} && docker rm -f {0}", workload.name));
    }
    host1.ok("calicoctl pool remove 10.4.0.0/16 && calicoctl profile remove TUNNEL");
    for host in [host1, host2] {
        eventually("the device to go with the pool", || !host.run("ip link show vxlan.calico").success());
    }
}
