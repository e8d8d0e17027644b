//! Real BIRDs in network namespaces, configured by the agent from an in-memory datastore.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::common::net::{
    Host, Switch, address4, address6, block4, block6, cluster, join, put_block, put_filter, put_host_settings,
    put_node_in_as, put_peer, put_pool, put_settings, start, until, until_blocks,
};
use calico_confd::bird::{Client, SessionKind, needs_recovery};
use calico_store::MemoryKv;
use serde_json::json;

/// Hosts 2 and 3, which have heard of each other's blocks.
async fn two_hosts(switch: &Switch, kv: &MemoryKv) -> [Host; 2] {
    let hosts = [start(switch, kv, 2).await, start(switch, kv, 3).await];
    for (host, other) in [(&hosts[0], 3), (&hosts[1], 2)] {
        host.until_established(2).await;
        until_blocks(host, other).await;
    }
    hosts
}

#[tokio::test]
async fn two_hosts_learn_each_others_blocks() {
    let switch = Switch::new();
    let kv = cluster(&[2, 3]);
    let hosts = [start(&switch, &kv, 2).await, start(&switch, &kv, 3).await];
    for (host, other) in [(&hosts[0], 3), (&hosts[1], 2)] {
        host.until_established(2).await;
        until_blocks(host, other).await;
        let own = host.last;
        let mut wanted = vec![
            format!("blackhole {} via - metric 2048", block4(own)),
            format!("blackhole {} via - metric 2048", block6(own)),
            format!("unicast {} via {} metric 2048", block4(other), address4(other)),
            format!("unicast {} via {} metric 2048", block6(other), address6(other)),
        ];
        // `ip -j` gives a type to what is no ordinary route only.
        wanted.iter_mut().for_each(|line| *line = line.replace("unicast ", "- "));
        wanted.sort();
        assert_eq!(host.bird_routes(), wanted, "and nothing else");
        until("the agent says so", Duration::from_secs(60), || async { host.agent.reports.is_ready() }).await;
    }
    // BIRD's own pauses between attempts are 60 s and more.
    let configuration = hosts[0].agent.text();
    let pauses = "connect delay time 1; connect retry time 2; error wait time 1,10;";
    assert!(configuration.contains(pauses), "{configuration}");
    for session in hosts[0].sessions().await {
        assert_eq!(session.kind, SessionKind::Mesh);
        assert_eq!(session.description.as_deref(), Some("node host3"));
        assert_eq!((session.imported, session.exported), (1, 1), "{}", session.name);
    }
}

/// An address of another host's block that a workload here has: its route goes out as it is, an address of an own
/// block does not.
#[tokio::test]
async fn borrowed_addresses_come_and_go_at_once() {
    let switch = Switch::new();
    let kv = cluster(&[2, 3]);
    let (here, there) = (start(&switch, &kv, 2).await, start(&switch, &kv, 3).await);
    until_blocks(&there, 2).await;
    until_blocks(&here, 3).await;
    let own = ["10.244.2.9/32", "fd00:244:0:2::9/128"];
    own.iter().for_each(|address| here.workload("add", address));

    let mut times: BTreeMap<_, Vec<Duration>> = BTreeMap::new();
    for address in ["10.244.3.9/32", "fd00:244:0:3::9/128"].repeat(5) {
        let via = if address.contains(':') { address6(2) } else { address4(2) };
        for (verb, wanted) in [("add", true), ("del", false)] {
            here.workload(verb, address);
            let start = Instant::now();
            until(&format!("{verb} {address}"), Duration::from_secs(60), || async {
                there.has_route(address, &via) == wanted
            })
            .await;
            times.entry((address, verb)).or_default().push(start.elapsed());
        }
    }
    // By messages: what waits for the kernel's scan every 10 s is quick at most once, by chance. A busy machine may
    // delay single ones.
    for (what, mut times) in times {
        times.sort();
        assert!(times[1] < Duration::from_secs(5), "{what:?}: {times:?}");
    }
    for address in own {
        assert!(
            !there.has_route(address, &address4(2)) && !there.has_route(address, &address6(2)),
            "{address} is inside"
        );
    }
}

#[tokio::test]
async fn a_host_that_joins_or_leaves_disturbs_nobody() {
    let switch = Switch::new();
    let kv = cluster(&[2, 3]);
    let hosts = two_hosts(&switch, &kv).await;
    let monitor = hosts[0].monitor();
    let before = hosts[0].sessions().await;

    join(&kv, 4);
    let third = start(&switch, &kv, 4).await;
    hosts[0].until_established(4).await;
    until_blocks(&hosts[0], 4).await;
    until_blocks(&third, 2).await;
    kv.remove("/calico/resources/v3/projectcalico.org/nodes/host4");
    hosts[0].until_established(2).await;
    until("the blocks of the third are gone", Duration::from_secs(60), || async { hosts[0].bird_routes().len() == 4 })
        .await;

    let after = hosts[0].sessions().await;
    assert_eq!(after.len(), before.len());
    for (old, new) in before.iter().zip(&after) {
        let (old_since, new_since) = (old.since.unwrap(), new.since.unwrap());
        let moved = new_since.duration_since(old_since).unwrap_or_else(|error| error.duration());
        assert!(moved <= Duration::from_millis(5), "{}: {moved:?}", new.name);
        assert!(new.established && new.name == old.name);
    }
    let lost = monitor.deletions();
    assert_eq!(lost.len(), 2, "the two blocks of the third and nothing else: {lost:?}");
    assert!(lost.iter().all(|line| line.contains(&block4(4)) || line.contains(&block6(4))), "{lost:?}");
}

/// A crash of the daemon: `-R` and graceful restart keep every route, here and there.
#[tokio::test]
async fn a_killed_bird_comes_back_without_losing_a_route() {
    let switch = Switch::new();
    let kv = cluster(&[2, 3]);
    let [mut here, there] = two_hosts(&switch, &kv).await;
    let routes = [here.bird_routes(), there.bird_routes()];
    let monitors = [here.monitor(), there.monitor()];

    here.kill_bird();
    until("the agent notices", Duration::from_secs(60), || async { !here.agent.reports.is_ready() }).await;
    assert_eq!(here.bird_routes(), routes[0], "a dead daemon leaves its routes");
    assert!(recovery_in(&here).await, "there is something to recover");
    here.start_bird(true).await;
    here.until_established(2).await;
    there.until_established(2).await;
    until("recovery is over", Duration::from_secs(60), || async {
        let Ok(mut client) = Client::connect(&here.agent.options.socket_path).await else { return false };
        client.status().await.is_ok_and(|status| status.recovery.is_none())
    })
    .await;
    until("the agent is content", Duration::from_secs(60), || async { here.agent.reports.is_ready() }).await;
    assert_eq!([here.bird_routes(), there.bird_routes()], routes);
    for (monitor, other) in monitors.iter().zip([3, 2]) {
        let (remote4, remote6) = (block4(other), block6(other));
        let lost: Vec<String> = monitor.deletions();
        let remote = lost.iter().filter(|line| line.contains(&remote4) || line.contains(&remote6));
        assert_eq!(remote.count(), 0, "{lost:?}");
    }
}

/// Asks from a thread inside the host's network namespace.
async fn recovery_in(host: &Host) -> bool {
    use std::os::fd::AsFd;
    let namespace = std::fs::File::open(host.namespace.path()).unwrap();
    let inside = std::thread::spawn(move || {
        let network = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(namespace.as_fd(), network).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(needs_recovery()).unwrap()
    });
    tokio::task::spawn_blocking(|| inside.join().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_host_without_routes_of_birds_needs_no_recovery() {
    let switch = Switch::new();
    let host = Host::new(&switch, 2);
    host.namespace.run("ip route add blackhole 10.244.2.0/26 proto 80");
    assert!(!recovery_in(&host).await, "routes of others do not count");
    host.namespace.run("ip -6 route add blackhole fd00:244::/122 proto bird");
    assert!(recovery_in(&host).await);
}

#[tokio::test]
async fn what_is_never_announced() {
    let switch = Switch::new();
    let kv = cluster(&[2, 3]);
    put_pool(&kv, "hidden", json!({"cidr": "10.50.0.0/16", "disableBGPExport": true}));
    put_pool(&kv, "tunnelled", json!({"cidr": "10.60.0.0/16", "vxlanMode": "Always"}));
    put_block(&kv, 2, "10.50.1.0/26");
    put_block(&kv, 2, "10.60.1.0/26");
    let (here, there) = (start(&switch, &kv, 2).await, start(&switch, &kv, 3).await);
    here.namespace.run("ip route add default via 10.192.0.99");
    for address in ["10.50.1.9/32", "10.50.2.9/32", "10.244.2.9/32", "172.30.0.9/32", "fd00:999::9/128"] {
        here.workload("add", address);
    }
    until_blocks(&there, 2).await;
    here.workload("add", "10.244.3.9/32");
    until("the last one is there", Duration::from_secs(60), || async {
        there.has_route("10.244.3.9/32", &address4(2))
    })
    .await;
    let foreign: Vec<String> = there.bird_routes().into_iter().filter(|line| line.contains("via 10.192.0.2")).collect();
    assert_eq!(
        foreign,
        ["- 10.244.2.0/26 via 10.192.0.2 metric 2048", "- 10.244.3.9 via 10.192.0.2 metric 2048"],
        "the tunnelled block is felix's to program"
    );
    let table = there.table().await;
    assert!(table.contains("10.60.1.0/26"), "but it is announced:\n{table}");
    for never in ["10.50.", "172.30.", "10.244.2.9"] {
        assert!(!table.contains(never), "{never} in\n{table}");
    }
}

/// A router that wants to be everything: its announcements reach neither table nor kernel.
#[tokio::test]
async fn a_hostile_peer_gets_nowhere() {
    let switch = Switch::new();
    let kv = cluster(&[2, 3]);
    put_peer(&kv, "tor", json!({"peerIP": "10.192.0.66", "asNumber": 65000}));
    let (here, there) = (start(&switch, &kv, 2).await, start(&switch, &kv, 3).await);
    let evil = [
        "0.0.0.0/0",
        "10.192.0.2/32",
        "10.192.0.3/32",
        "10.192.0.0/17",
        "10.192.128.0/17",
        "127.0.0.0/9",
        "224.0.0.0/8",
        "10.244.2.0/26",
    ];
    let statics: String = evil.iter().map(|net| format!("route {net} blackhole; ")).collect();
    let mut router = Host::new(&switch, 66);
    router
        .start_foreign_bird(&format!(
            "router id 10.192.0.66; protocol device {{}} protocol static {{ ipv4; {statics} route 172.16.0.0/16 blackhole; }}
             template bgp t {{ local 10.192.0.66 as 65000; multihop; connect delay time 1; connect retry time 1;
               ipv4 {{ import none; export all; }}; }}
             protocol bgp a from t {{ neighbor 10.192.0.2 as 64512; }} protocol bgp b from t {{ neighbor 10.192.0.3 as 64512; }}"
        ))
        .await;
    for (host, other) in [(&here, 3), (&there, 2)] {
        host.until_established(3).await;
        until_blocks(host, other).await;
        until("a route that is fine", Duration::from_secs(60), || async {
            host.has_route("172.16.0.0/16", "10.192.0.66")
        })
        .await;
        let table = host.bird_routes();
        let fine = |line: &&String| line.contains("172.16.0.0/16") || !line.contains("via 10.192.0.66");
        // host2's own block is refused by host2; for host3 it is a block of the cluster like any other.
        let wrong: Vec<_> =
            table.iter().filter(|line| !(fine(line) || host.last == 3 && line.contains(&block4(2)))).collect();
        assert!(wrong.is_empty(), "host{}: {wrong:?}", host.last);
        assert!(host.has_route(&block4(other), &address4(other)), "the cluster's own is preferred");
    }
    let session = here.sessions().await.into_iter().find(|session| session.kind == SessionKind::Global).unwrap();
    assert_eq!(session.peer_as, Some(65000));
    assert_eq!(session.imported, 1);
}

/// The stop for an upgrade: the peers keep the routes, and so does the kernel.
#[tokio::test]
async fn a_planned_restart_loses_no_route() {
    let switch = Switch::new();
    let kv = cluster(&[2, 3]);
    let [mut here, there] = two_hosts(&switch, &kv).await;
    let routes = [here.bird_routes(), there.bird_routes()];
    let monitors = [here.monitor(), there.monitor()];
    let mut client = Client::connect(&here.agent.options.socket_path).await.unwrap();
    client.graceful_restart().await.unwrap();
    until("the daemon has ended", Duration::from_secs(60), || async {
        Client::connect(&here.agent.options.socket_path).await.is_err()
    })
    .await;
    assert_eq!([here.bird_routes(), there.bird_routes()], routes, "while it is away");
    here.start_bird(true).await;
    here.until_established(2).await;
    there.until_established(2).await;
    until("all is as before", Duration::from_secs(60), || async {
        [here.bird_routes(), there.bird_routes()] == routes && here.agent.reports.is_ready()
    })
    .await;
    for (monitor, other) in monitors.iter().zip([3, 2]) {
        let lost = monitor.deletions();
        assert!(!lost.iter().any(|line| line.contains(&block4(other)) || line.contains(&block6(other))), "{lost:?}");
    }
}

/// A password on both sides, another port, and a peer of all hosts that is one of them.
#[tokio::test]
async fn passwords_ports_and_a_peer_of_all_hosts_that_is_one_of_them() {
    let switch = Switch::new();
    let kv = cluster(&[2, 3]);
    let settings = json!({
        "listenPort": 1790,
        "nodeMeshPassword": {"secretKeyRef": {"name": "mesh", "key": "all"}},
    });
    put_settings(&kv, settings);
    put_host_settings(&kv, 3, json!({"listenPort": 1791}));
    put_peer(&kv, "self", json!({"peerIP": "10.192.0.2:1790", "asNumber": 64512}));
    let mut hosts = Vec::new();
    for last in [2, 3] {
        let mut host = Host::new(&switch, last);
        host.add_workload_interface();
        host.agent.put_secret("mesh/all", "s3cret word");
        host.agent.start(&kv);
        host.start_bird(false).await;
        hosts.push(host);
    }
    // Host 3 has a global peer at host 2 instead of the mesh's session, without a password: it does not come up.
    for (host, other) in [(&hosts[0], 3), (&hosts[1], 2)] {
        until("the IPv6 session of the mesh", Duration::from_secs(60), || async {
            host.sessions().await.iter().any(|session| session.established && session.name.starts_with("Mesh_fd00"))
        })
        .await;
        until("its route", Duration::from_secs(60), || async { host.has_route(&block6(other), &address6(other)) })
            .await;
    }
    let sessions = hosts[0].sessions().await;
    let itself = sessions.iter().find(|session| session.kind == SessionKind::Global).unwrap();
    assert!(!itself.established && itself.peer_address == Some("10.192.0.2".parse().unwrap()), "{itself:?}");
    assert!(sessions.iter().any(|session| session.name == "Mesh_fd00_192__3_port_1791"));
    assert!(
        hosts[1].sessions().await.iter().all(|session| session.kind != SessionKind::Global || !session.established)
    );
    let listening = hosts[0].namespace.run("ss -ltnH");
    assert!(listening.contains(":1790 ") && !listening.contains(":179 "), "{listening}");
    let listening = hosts[1].namespace.run("ss -ltnH");
    assert!(listening.contains(":1791 ") && !listening.contains(":1790 "), "{listening}");

    hosts[1].agent.put_secret("mesh/all", "another word");
    until("a wrong password ends the session", Duration::from_secs(60), || async {
        !hosts[1].sessions().await.iter().any(|session| session.established)
    })
    .await;
    hosts[1].agent.put_secret("mesh/all", "s3cret word");
    until("the right one brings it back", Duration::from_secs(60), || async {
        hosts[1].sessions().await.iter().any(|session| session.established)
    })
    .await;
}

/// An address that two hosts have: others use both, each of the two its own as long as there is one.
#[tokio::test]
async fn an_address_on_two_hosts() {
    let switch = Switch::new();
    let kv = cluster(&[2, 3, 4]);
    let hosts = [start(&switch, &kv, 2).await, start(&switch, &kv, 3).await, start(&switch, &kv, 4).await];
    for (host, other) in [(&hosts[0], 4), (&hosts[1], 4), (&hosts[2], 2), (&hosts[2], 3)] {
        until_blocks(host, other).await;
    }
    let limit = Duration::from_secs(60);
    for (address, ways) in
        [("10.244.4.9/32", [address4(2), address4(3)]), ("fd00:244:0:4::9/128", [address6(2), address6(3)])]
    {
        hosts[0].workload("add", address);
        until("the remote way to it", limit, || async { hosts[1].has_route(address, &ways[0]) }).await;
        hosts[1].workload("add", address);
        let family = if address.contains(':') { "-6" } else { "-4" };
        let shown = |host: &Host| host.namespace.run(&format!("ip {family} route show {address}"));
        let what = format!("both ways to {address}: {:?}", ways);
        until(&what, limit, || async { ways.iter().all(|way| shown(&hosts[2]).contains(&format!("via {way} "))) })
            .await;
        // In each of the two its own way is the first choice; the other's may stand behind it.
        for host in &hosts[..2] {
            let plain = address.split('/').next().unwrap();
            let used = host.namespace.run(&format!("ip {family} route get {plain}"));
            assert!(used.contains("dev cali0"), "{used}");
        }
        hosts[0].workload("del", address);
        until("the remote way takes over", limit, || async { hosts[0].has_route(address, &ways[1]) }).await;
        until("one way is left", limit, || async {
            hosts[2].has_route(address, &ways[1]) && !shown(&hosts[2]).contains(&format!("via {} ", ways[0]))
        })
        .await;
        hosts[1].workload("del", address);
        until("no way is left", limit, || async { hosts.iter().all(|host| !shown(host).contains(" via ")) }).await;
    }
}

/// Each host in an AS of its own: nobody passes on what another has said, and priorities are said by each end.
#[tokio::test]
async fn an_as_number_for_each_host() {
    let switch = Switch::new();
    let kv = cluster(&[]);
    for last in [2, 3, 4] {
        join(&kv, last);
        put_node_in_as(&kv, last, 65000 + u32::from(last));
    }
    let rule = json!({"action": "Accept", "operations": [{"setPriority": {"value": 512}}]});
    put_filter(&kv, "somewhere", json!({"importV4": [rule]}));
    let hosts = [start(&switch, &kv, 2).await, start(&switch, &kv, 3).await, start(&switch, &kv, 4).await];
    for host in &hosts {
        for other in [2, 3, 4].into_iter().filter(|other| *other != host.last) {
            until_blocks(host, other).await;
            let route = host.told(&format!("show route {} all", block4(other))).await;
            let paths: Vec<&str> = route.lines().filter(|line| line.contains("BGP.as_path:")).map(str::trim).collect();
            assert_eq!(paths, [format!("BGP.as_path: {}", 65000 + u32::from(other))], "{route}");
            assert!(route.contains("BGP.local_pref: 2147482623"), "{route}");
        }
    }
}
