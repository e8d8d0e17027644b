//! External routers that nobody here wrote, as peers of hosts that the agent configures: FRR and GoBGP, and a BIRD with
//! a configuration of another shape.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use crate::common::{
    net::{
        Host, Switch, address4, address6, block4, block6, cluster, put_block, put_filter, put_peer, put_pool,
        put_settings, start, until, until_blocks,
    },
    routers::{Router, attribute},
};
use calico_confd::bird::SessionKind;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// FRR in AS 65001, host number 66. Its IPv4 sessions have a password, that with host 3 another one than host 3 knows;
/// its IPv6 session takes only packets from one hop away.
const FRR: &str = "
hostname frr
router bgp 65001
 bgp router-id 10.192.0.66
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 neighbor 10.192.0.2 remote-as 64512
 neighbor 10.192.0.2 password s3cret-word
 neighbor 10.192.0.2 timers connect 1
 neighbor 10.192.0.2 advertisement-interval 0
 neighbor 10.192.0.3 remote-as 64512
 neighbor 10.192.0.3 password another-word
 neighbor 10.192.0.3 timers connect 1
 neighbor fd00:192::2 remote-as 64512
 neighbor fd00:192::2 ttl-security hops 1
 neighbor fd00:192::2 timers connect 1
 neighbor fd00:192::2 advertisement-interval 0
 address-family ipv4 unicast
  network 172.20.1.0/24
  network 172.20.2.0/24
  network 172.20.2.128/25
  network 172.20.3.0/24 route-map tagged
  network 172.20.9.0/24
  neighbor 10.192.0.2 activate
  neighbor 10.192.0.2 send-community all
  neighbor 10.192.0.2 route-map prepended out
  neighbor 10.192.0.3 activate
 exit-address-family
 address-family ipv6 unicast
  network 2001:db8:1::/48
  network 2001:db8:2::/48
  neighbor fd00:192::2 activate
 exit-address-family
exit
ip prefix-list nine permit 172.20.9.0/24
route-map tagged permit 10
 set community 65001:42
exit
route-map prepended permit 10
 match ip address prefix-list nine
 set as-path prepend 65009
exit
route-map prepended permit 20
exit
";

#[tokio::test]
async fn frr_with_filters_communities_passwords_and_ttl_security() {
    let switch = Switch::new();
    let kv = cluster(&[2, 3]);
    put_block(&kv, 2, "10.244.2.64/26");
    put_pool(&kv, "hidden", json!({"cidr": "10.50.0.0/16", "disableBGPExport": true}));
    put_block(&kv, 2, "10.50.2.0/26");
    put_settings(
        &kv,
        json!({
            "bindMode": "NodeIP",
            "communities": [{"name": "gold", "value": "64512:100"}],
            "prefixAdvertisements": [{"cidr": "10.244.0.0/16", "communities": ["gold", "64512:50:5364"]}],
        }),
    );
    put_filter(
        &kv,
        "frr",
        json!({
            "importV4": [
                {"action": "Reject", "cidr": "172.20.2.0/24", "matchOperator": "In", "prefixLength": {"min": 25}},
                {"action": "Accept", "communities": {"values": ["65001:42"]}, "peerType": "eBGP", "interface": "eth*",
                 "operations": [{"setPriority": {"value": 512}}, {"addCommunity": {"value": "64512:7"}}]},
                {"action": "Reject", "asPathPrefix": [65009]},
                {"action": "Reject", "asPathPrefix": [65001, 65009]},
            ],
            "exportV4": [
                {"action": "Reject", "cidr": "10.244.2.64/26", "matchOperator": "Equal"},
                {"action": "Accept", "cidr": "10.244.0.0/16", "matchOperator": "In", "prefixLength": {"max": 26},
                 "operations": [{"prependASPath": {"prefix": [64999, 64998]}}, {"addCommunity": {"value": "64512:666"}}]},
            ],
            "importV6": [{"action": "Accept", "cidr": "2001:db8:1::/48", "matchOperator": "Equal"}, {"action": "Reject"}],
        }),
    );
    let secret = json!({"secretKeyRef": {"name": "tor", "key": "rack1"}});
    put_peer(&kv, "tor4", json!({"peerIP": "10.192.0.66", "asNumber": 65001, "password": secret, "filters": ["frr"]}));
    put_peer(
        &kv,
        "tor6",
        json!({"peerIP": "fd00:192::66", "asNumber": 65001, "filters": ["frr"], "ttlSecurity": 1, "node": "host2"}),
    );
    let frr = Router::frr(&switch, 66, FRR).await;
    let mut hosts = Vec::new();
    for last in [2, 3] {
        let mut host = Host::new(&switch, last);
        host.add_workload_interface();
        host.agent.put_secret("tor/rack1", "s3cret-word\n");
        host.agent.start(&kv);
        host.start_bird(false).await;
        hosts.push(host);
    }
    let [here, there] = [&hosts[0], &hosts[1]];
    here.until_established(4).await;
    until_blocks(here, 3).await;
    here.workload("add", "10.244.2.9/32");
    here.workload("add", "10.244.3.9/32");
    here.workload("add", "10.50.2.9/32");
    let listening = here.namespace.run("ss -ltnH");
    let at: Vec<&str> = listening.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
    assert!(at.iter().all(|at| matches!(*at, "10.192.0.2:179" | "[fd00:192::2]:179")) && at.len() >= 2, "{at:?}");

    from_frr(here).await;
    to_frr(here, &frr).await;
    wrong_password(there).await;
    let shown = format!("{:?}{:?}", here.agent.reports.reason(), here.agent.reports.problems());
    assert!(!shown.contains("s3cret-word"), "{shown}");
    assert_eq!(here.agent.reports.problems(), [""; 0]);
}

/// What the import filters leave of FRR's announcements.
async fn from_frr(here: &Host) {
    for (prefix, via) in [
        ("172.20.1.0/24", address4(66)),
        ("172.20.2.0/24", address4(66)),
        ("172.20.3.0/24", address4(66)),
        ("2001:db8:1::/48", address6(66)),
    ] {
        until(&format!("{prefix} of FRR's"), LIMIT, || async { here.has_route(prefix, &via) }).await;
    }
    let table = here.table().await;
    for refused in ["172.20.2.128/25", "172.20.9.0/24", "2001:db8:2::/48"] {
        assert!(!table.contains(refused), "{refused} in\n{table}");
    }
    let tagged = here.told("show route 172.20.3.0/24 all").await;
    for wanted in ["BGP.local_pref: 2147483135", "(65001,42)", "(64512,7)"] {
        assert!(tagged.contains(wanted), "{wanted} in\n{tagged}");
    }
    let plain = here.told("show route 172.20.1.0/24 all").await;
    assert!(plain.contains("BGP.local_pref: 2147482623"), "the normal priority:\n{plain}");
    let session = here.sessions().await.into_iter().find(|session| session.kind == SessionKind::Node).unwrap();
    let channel = &session.channels[0];
    assert_eq!((session.peer_as, session.local_as, channel.imported), (Some(65001), Some(64512), 1));
    assert!(channel.refused >= 1, "{channel:?}");
}

/// What FRR gets.
async fn to_frr(here: &Host, frr: &Router) {
    let own = || frr.frr_path("ipv4", &block4(2));
    until("FRR has the block, changed by the filter", LIMIT, || async {
        own()["aspath"]["string"] == "64512 64999 64998" && own()["nexthops"][0]["ip"] == address4(2).as_str()
    })
    .await;
    let communities = own()["community"]["string"].as_str().unwrap_or_default().to_owned();
    assert_eq!(communities, "64512:100 64512:666");
    assert_eq!(own()["largeCommunity"]["string"], "64512:50:5364");
    let borrowed = || frr.frr_path("ipv4", "10.244.3.9/32");
    until("FRR has the borrowed address, by the pools' rules", LIMIT, || async {
        borrowed()["aspath"]["string"] == "64512" && borrowed()["community"]["string"] == "64512:100"
    })
    .await;
    until("FRR has the block of the other host", LIMIT, || async { frr.frr_path("ipv4", &block4(3)).is_object() })
        .await;
    until("FRR has the IPv6 block", LIMIT, || async {
        frr.frr_path("ipv6", &block6(2))["aspath"]["string"] == "64512"
    })
    .await;
    let table = frr.vtysh("show bgp ipv4 unicast json").unwrap();
    for never in ["10.244.2.64/26", "10.244.2.9/32", "10.50.2.0/26", "10.50.2.9/32", "10.192.0.0/16"] {
        assert_eq!(table["routes"][never], Value::Null, "{never}");
    }
    assert!(here.agent.reports.is_ready());
}

/// Both have a password, and not the same: the session stays down, and only the kernel's counters tell why.
async fn wrong_password(there: &Host) {
    until("the kernel counts wrong signatures", LIMIT, || async {
        let text = there.namespace.run("cat /proc/self/net/netstat");
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("TcpExt:")).collect();
        let at = lines[0].split(' ').position(|name| name == "TCPMD5Failure").unwrap();
        lines[1].split(' ').nth(at).unwrap() != "0"
    })
    .await;
    let session = there.sessions().await.into_iter().find(|session| session.kind == SessionKind::Global).unwrap();
    assert!(!session.established && session.imported == 0, "{session:?}");
}

/// GoBGP in AS 4200000002, host number 67, on a port of its own. It sits on an address that only a gateway leads to, and
/// sees this cluster as AS 64999 in IPv6.
const GOBGP: &str = r#"
[global.config]
  as = 4200000002
  router-id = "10.192.0.67"
  port = 1791
[[neighbors]]
  [neighbors.config]
    neighbor-address = "10.192.0.2"
    peer-as = 64512
    auth-password = "a word of GoBGP's"
  [neighbors.transport.config]
    local-address = "172.31.0.1"
  [neighbors.ebgp-multihop.config]
    enabled = true
    multihop-ttl = 64
  [neighbors.timers.config]
    connect-retry = 1
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "fd00:192::2"
    peer-as = 64999
  [neighbors.transport.config]
    local-address = "fd00:192::67"
  [neighbors.ebgp-multihop.config]
    enabled = true
    multihop-ttl = 64
  [neighbors.timers.config]
    connect-retry = 1
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv6-unicast"
"#;

#[tokio::test]
async fn gobgp_behind_a_gateway_with_next_hops_and_as_numbers() {
    let switch = Switch::new();
    let kv = cluster(&[2, 3]);
    put_filter(&kv, "large", json!({"importV4": [{"action": "Reject", "communities": {"values": ["65002:1:2"]}}]}));
    let secret = json!({"secretKeyRef": {"name": "gobgp", "key": "password"}});
    put_peer(
        &kv,
        "g4",
        json!({"node": "host2", "peerIP": "172.31.0.1:1791", "asNumber": "64086.59906", "password": secret, "filters": ["large"],
            "reachableBy": "10.192.0.67", "nextHopMode": "Keep", "numAllowedLocalASNumbers": 1, "keepaliveTime": "20s"}),
    );
    put_peer(
        &kv,
        "g6",
        json!({"node": "host2", "peerIP": "[fd00:192::67]:1791", "asNumber": 4_200_000_002_u32, "localASNumber": 64999,
            "sourceAddress": "None"}),
    );
    let gobgp = Router::gobgp(&switch, 67, &["172.31.0.1/32"], GOBGP).await;
    for (family, route) in [
        ("ipv4", "172.20.1.0/24 community 65002:7"),
        ("ipv4", "172.20.2.0/24 large-community 65002:1:2"),
        ("ipv4", "172.20.3.0/24 aspath 64512"),
        ("ipv6", "2001:db8:1::/48"),
        ("ipv6", "2001:db8:3::/48 aspath 64999"),
    ] {
        gobgp.gobgp_run(&format!("global rib -a {family} add {route}"));
    }
    let mut here = Host::new(&switch, 2);
    here.agent.put_secret("gobgp/password", "a word of GoBGP's");
    here.agent.start(&kv);
    here.start_bird(false).await;
    let there = start(&switch, &kv, 3).await;
    here.until_established(4).await;
    until_blocks(&here, 3).await;
    until_blocks(&there, 2).await;

    assert!(here.has_route("172.31.0.1", "10.192.0.67"), "the fixed route to the neighbour");
    for (prefix, via) in
        [("172.20.1.0/24", address4(67)), ("172.20.3.0/24", address4(67)), ("2001:db8:1::/48", address6(67))]
    {
        until(&format!("{prefix} of GoBGP's"), LIMIT, || async { here.has_route(prefix, &via) }).await;
    }
    let table = here.table().await;
    for refused in ["172.20.2.0/24", "2001:db8:3::/48"] {
        assert!(!table.contains(refused), "{refused} in\n{table}");
    }
    to_gobgp(&gobgp).await;
    let session = here.sessions().await.into_iter().find(|s| s.local_as == Some(64999)).unwrap();
    assert_eq!(session.peer_address, Some("fd00:192::67".parse().unwrap()));
    assert_eq!(session.peer_as, Some(4_200_000_002));
}

/// Next hops: kept in IPv4, this host in IPv6, where the path shows the other AS number too.
async fn to_gobgp(gobgp: &Router) {
    let (path, next_hop, reachable) = (2, 3, 14);
    until("GoBGP has the blocks of both hosts", LIMIT, || async {
        let (four, six) = (gobgp.gobgp_paths("ipv4"), gobgp.gobgp_paths("ipv6"));
        [2, 3].iter().all(|last| four.contains_key(&block4(*last)) && six.contains_key(&block6(*last)))
    })
    .await;
    let (four, six) = (gobgp.gobgp_paths("ipv4"), gobgp.gobgp_paths("ipv6"));
    for last in [2, 3] {
        assert_eq!(attribute(&four[&block4(last)], next_hop)["nexthop"], address4(last).as_str(), "{four:?}");
        assert_eq!(attribute(&six[&block6(last)], reachable)["nexthop"], address6(2).as_str(), "{six:?}");
    }
    let numbers = |attributes: &Value| attribute(attributes, path)["as_paths"][0]["asns"].clone();
    assert_eq!(numbers(&four[&block4(2)]), json!([64512]));
    // BIRD, like others, shows both numbers to a neighbour that knows it by a second one.
    let shown = numbers(&six[&block6(2)]);
    assert_eq!(shown[0], 64999, "{shown}");
    assert!(four.keys().all(|prefix| prefix.starts_with("10.244.") || prefix.starts_with("172.20.")), "{four:?}");
}

/// A filter is put, changed, broken and mended: routes follow at once, and no session restarts.
#[tokio::test]
async fn filters_come_and_go_without_a_session_moving() {
    let switch = Switch::new();
    let kv = cluster(&[2, 3]);
    put_peer(&kv, "router", json!({"peerIP": "10.192.0.68", "asNumber": 65003, "node": "host2"}));
    let (here, there) = (start(&switch, &kv, 2).await, start(&switch, &kv, 3).await);
    let mut router = Host::new(&switch, 68);
    router
        .start_foreign_bird(
            "router id 10.192.0.68; protocol device {} protocol kernel { ipv4 { export where source = RTS_BGP; }; }
             protocol static { ipv4; route 172.20.1.0/24 blackhole; route 172.20.2.0/24 blackhole; }
             protocol direct { ipv4; }
             protocol bgp ours { local as 65003; neighbor 10.192.0.2 as 64512; connect delay time 1;
               connect retry time 1; ipv4 { import all; export where source = RTS_STATIC; }; }",
        )
        .await;
    here.until_established(3).await;
    there.until_established(2).await;
    until_blocks(&here, 3).await;
    let routes = |prefixes: &[&str], block: bool| {
        let wanted: Vec<bool> = ["172.20.1.0/24", "172.20.2.0/24"].iter().map(|p| prefixes.contains(p)).collect();
        let (here, router) = (&here, &router);
        async move {
            until(&format!("{wanted:?} of the router's routes, and {block} for the block there"), LIMIT, || async {
                let found = ["172.20.1.0/24", "172.20.2.0/24"].map(|p| here.has_route(p, "10.192.0.68"));
                let there = router.namespace.run(&format!("ip route show {}", block4(2)));
                found.to_vec() == wanted && there.contains("via 10.192.0.2 ") == block
            })
            .await;
        }
    };
    routes(&["172.20.1.0/24", "172.20.2.0/24"], true).await;
    let before = here.sessions().await;

    let reject = |cidr: &str| json!([{"action": "Reject", "cidr": cidr, "matchOperator": "In"}]);
    put_filter(&kv, "f", json!({"importV4": reject("172.20.1.0/24")}));
    let spec = json!({"peerIP": "10.192.0.68", "asNumber": 65003, "node": "host2", "filters": ["f"]});
    put_peer(&kv, "router", spec);
    routes(&["172.20.2.0/24"], true).await;
    put_filter(&kv, "f", json!({"importV4": reject("172.20.2.0/24"), "exportV4": reject("10.244.0.0/16")}));
    routes(&["172.20.1.0/24"], false).await;
    // Valid, and still without a meaning.
    let nothing = json!({"min": 30, "max": 20});
    let rule = json!({"action": "Reject", "cidr": "172.20.0.0/16", "matchOperator": "In", "prefixLength": nothing});
    put_filter(&kv, "f", json!({"importV4": [rule]}));
    routes(&[], true).await;
    until("the reason is said", LIMIT, || async {
        here.agent.reports.problems().iter().any(|problem| problem.starts_with("BGPFilter f: importV4[0]: "))
    })
    .await;
    kv.remove("/calico/resources/v3/projectcalico.org/bgpfilters/f");
    routes(&[], false).await;
    put_filter(&kv, "f", json!({}));
    routes(&["172.20.1.0/24", "172.20.2.0/24"], true).await;

    for (old, new) in before.iter().zip(here.sessions().await) {
        let (old_since, new_since) = (old.since.unwrap(), new.since.unwrap());
        let moved = new_since.duration_since(old_since).unwrap_or_else(|error| error.duration());
        assert!(new.established && new.name == old.name && moved <= Duration::from_millis(5), "{new:?}");
    }
}
