//! Six hosts without a mesh: two route reflectors and four clients.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use crate::common::net::{
    Host, Switch, address4, address6, block4, block6, cluster, put_peer, put_reflector, put_settings, start, until,
};
use calico_confd::bird::{Client, SessionKind};
use calico_store::MemoryKv;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);
const REFLECTORS: [u8; 2] = [2, 3];
const CLIENTS: [u8; 4] = [4, 5, 6, 7];

/// The datastore: hosts 2 and 3 reflect, all peer with them, and with nobody else.
fn star() -> MemoryKv {
    let kv = cluster(&[2, 3, 4, 5, 6, 7]);
    REFLECTORS.iter().for_each(|last| put_reflector(&kv, *last, "10.0.0.1"));
    put_settings(&kv, json!({"nodeToNodeMeshEnabled": false}));
    put_peer(&kv, "reflectors", json!({"peerSelector": "has(rr)"}));
    kv
}

/// Waits until a host routes the blocks of these hosts, each to the host itself.
async fn until_all(host: &Host, others: &[u8]) {
    for other in others.iter().copied().filter(|other| *other != host.last) {
        let what = format!("host{} routes the blocks of host{other} to it", host.last);
        until(&what, LIMIT, || async {
            host.has_route(&block4(other), &address4(other)) && host.has_route(&block6(other), &address6(other))
        })
        .await;
    }
}

/// Ends a reflector's BIRD so that its neighbours forget all that it said: no graceful restart covers this.
async fn end(host: &Host) {
    let mut client = Client::connect(&host.agent.options.socket_path).await.unwrap();
    assert_eq!(client.ask("down").await.unwrap().code, 7);
}

#[tokio::test]
async fn every_host_learns_every_block_until_the_last_reflector_is_gone() {
    let switch = Switch::new();
    let kv = star();
    let mut hosts = Vec::new();
    for last in REFLECTORS.into_iter().chain(CLIENTS) {
        hosts.push(start(&switch, &kv, last).await);
    }
    let (reflectors, clients) = hosts.split_at(2);
    for host in &hosts {
        let others = if REFLECTORS.contains(&host.last) { 5 } else { 2 };
        host.until_established(others * 2).await;
        until_all(host, &[2, 3, 4, 5, 6, 7]).await;
    }
    let session = clients[0].sessions().await.remove(0);
    assert_eq!((session.kind, session.description.as_deref()), (SessionKind::Global, Some("node host2")));
    let reflected = clients[1].told(&format!("show route {} all", block4(4))).await;
    assert!(reflected.contains("BGP.originator_id: 10.192.0.4"), "{reflected}");
    assert!(reflected.contains("BGP.cluster_list: 10.0.0.1"), "{reflected}");

    // An address of a reflector's own block, which the reflector would not announce as its own.
    for (address, via) in [("10.244.2.9/32", address4(4)), ("fd00:244:0:2::9/128", address6(4))] {
        clients[0].workload("add", address);
        for host in [&clients[1], &clients[3], &reflectors[0]] {
            let what = format!("host{} knows who borrowed {address}", host.last);
            until(&what, LIMIT, || async { host.has_route(address, &via) }).await;
        }
    }

    let monitors = [clients[1].monitor(), clients[2].monitor()];
    end(&reflectors[0]).await;
    for client in clients {
        client.until_established(2).await;
        until("the blocks of the dead reflector are gone", LIMIT, || async {
            !client.has_route(&block4(2), &address4(2)) && !client.has_route(&block6(2), &address6(2))
        })
        .await;
        until_all(client, &[3, 4, 5, 6, 7]).await;
    }
    for monitor in &monitors {
        let lost = monitor.deletions();
        let others: Vec<_> =
            lost.iter().filter(|line| !line.contains(&block4(2)) && !line.contains(&block6(2))).collect();
        assert!(others.is_empty(), "one reflector's end costs nothing but its own blocks: {others:?}");
    }
    assert!(clients[1].has_route("10.244.2.9/32", &address4(4)));

    end(&reflectors[1]).await;
    for client in clients {
        let what = format!("host{} has only its own blocks left", client.last);
        until(&what, LIMIT, || async {
            let routes = client.bird_routes();
            routes.len() == 2 && routes.iter().all(|route| route.starts_with("blackhole"))
        })
        .await;
    }
}
