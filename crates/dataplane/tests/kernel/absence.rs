//! What happens while our rules are gone, and to rules whose interface is gone.

use std::net::{SocketAddr, UdpSocket};

use calico_dataplane::Dataplane;

use crate::support::*;

/// A flow of datagrams there and back between two workloads.
struct Flow([UdpSocket; 2]);

impl Flow {
    fn open(from: &Workload, to: &Workload, v6: bool, port: u16) -> Self {
        let ends = [from, to].map(|workload| SocketAddr::new(if v6 { workload.v6 } else { workload.v4 }, port));
        let socket = |workload: &Workload, own: SocketAddr, other: SocketAddr| {
            workload.namespace.run(move || {
                let socket = bound(|| UdpSocket::bind(own));
                socket.connect(other).unwrap();
                socket.set_read_timeout(Some(SILENCE)).unwrap();
                socket
            })
        };
        Self([socket(from, ends[0], ends[1]), socket(to, ends[1], ends[0])])
    }

    /// Whether a datagram comes there and an answer back.
    fn works(&self) -> bool {
        let [from, to] = &self.0;
        let mut buffer = [0; 16];
        let passes = |from: &UdpSocket, to: &UdpSocket, buffer: &mut [u8]| {
            from.send(b"probe").is_ok() && to.recv(buffer).is_ok()
        };
        passes(from, to, &mut buffer) && passes(to, from, &mut buffer)
    }
}

async fn mend(dataplane: &mut Dataplane) {
    tokio::time::timeout(PATIENCE, dataplane.next_event()).await.expect("a notification");
    let report = dataplane.apply().await.unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
}

#[test]
fn what_got_through_while_the_rules_were_gone_does_not_go_on() {
    on_a_host(|host| async move {
        let (a, b, c) = (host.workload(1), host.workload(2), host.workload(3));
        let mut dataplane = dataplane().await;
        absorb(&mut dataplane, [profile("open", vec![allow()], vec![allow()]), profile("out", vec![], vec![allow()])]);
        absorb(&mut dataplane, [a.endpoint(&["open"]), b.endpoint(&["open"]), c.endpoint(&["out"])]);
        dataplane.apply().await.unwrap();
        for (number, vandalism) in [
            "nft flush ruleset",
            "nft delete table ip calico && nft delete table ip6 calico",
            "nft flush table ip calico && nft flush table ip6 calico",
            "for t in ip ip6; do nft insert rule $t calico d-wl-to accept; done",
        ]
        .into_iter()
        .enumerate()
        {
            let flows = [false, true].map(|v6| {
                let port = 4000 + 2 * number as u16;
                (Flow::open(&a, &b, v6, port), Flow::open(&a, &c, v6, port + 1))
            });
            for (allowed, denied) in &flows {
                assert!(allowed.works() && !denied.works(), "before {vandalism}");
            }
            run(vandalism);
            for (allowed, denied) in &flows {
                assert!(allowed.works() && denied.works(), "the host is open after {vandalism}");
            }
            mend(&mut dataplane).await;
            for (allowed, denied) in &flows {
                assert!(allowed.works(), "allowed, after {vandalism} was mended");
                assert!(!denied.works(), "denied, after {vandalism} was mended");
            }
        }

        // And what got through while nobody watched.
        drop(dataplane);
        run("nft flush ruleset");
        let denied = Flow::open(&a, &c, false, 5000);
        assert!(denied.works());
        let mut dataplane = self::dataplane().await;
        absorb(&mut dataplane, [profile("open", vec![allow()], vec![allow()]), profile("out", vec![], vec![allow()])]);
        absorb(&mut dataplane, [a.endpoint(&["open"]), b.endpoint(&["open"]), c.endpoint(&["out"])]);
        dataplane.apply().await.unwrap();
        assert!(!denied.works());
    });
}

#[test]
fn a_restart_and_our_own_changes_leave_connections_alone() {
    on_a_host(|host| async move {
        let (a, b) = (host.workload(1), host.workload(2));
        let tracked = || run("conntrack -L 2>/dev/null; conntrack -L -f ipv6 2>/dev/null").lines().count();
        let mut dataplane = dataplane().await;
        absorb(&mut dataplane, [profile("open", vec![allow()], vec![allow()]), profile("out", vec![], vec![allow()])]);
        absorb(&mut dataplane, [a.endpoint(&["open"]), b.endpoint(&["open"])]);
        dataplane.apply().await.unwrap();
        assert_eq!(talks(&a, &b, 80), [true; 2]);
        let before = tracked();
        assert!(before >= 2);
        absorb(&mut dataplane, [b.endpoint(&["out", "open"])]);
        dataplane.apply().await.unwrap();
        dataplane.distrust();
        dataplane.apply().await.unwrap();
        drop(dataplane);
        let mut dataplane = self::dataplane().await;
        absorb(&mut dataplane, [profile("open", vec![allow()], vec![allow()])]);
        absorb(&mut dataplane, [a.endpoint(&["open"]), b.endpoint(&["open"])]);
        dataplane.apply().await.unwrap();
        assert_eq!(tracked(), before);
    });
}

#[test]
fn rules_go_with_the_interface_and_come_back_with_it() {
    on_a_host(|host| async move {
        let b = host.workload(2);
        let mut dataplane = dataplane().await;
        let ours = endpoint("cali1", "cali1", &["10.65.0.1".parse().unwrap()], &["web"]);
        let elements = |interface: &str| {
            let maps = run("for t in ip ip6; do for m in wl-from wl-to; do nft list map $t calico $m; done; done");
            maps.matches(&format!("\"{interface}\"")).count()
        };
        absorb(&mut dataplane, [profile("web", vec![allow()], vec![allow()]), ours, b.endpoint(&["web"])]);
        dataplane.apply().await.unwrap();
        assert_eq!(elements("cali1"), 4, "rules may come before the interface");
        for _ in 0..2 {
            let a = host.workload(1);
            mend(&mut dataplane).await;
            assert_eq!(elements("cali1"), 4);
            assert!(talks(&b, &a, 80)[0]);
            run("ip link delete cali1");
            mend(&mut dataplane).await;
            assert_eq!((elements("cali1"), elements("cali2")), (0, 4));
            // A change of its profile does not bring it back.
            absorb(&mut dataplane, [profile("web", vec![deny(), allow()], vec![allow()])]);
            absorb(&mut dataplane, [profile("web", vec![allow()], vec![allow()])]);
            dataplane.apply().await.unwrap();
            assert_eq!(elements("cali1"), 0);
        }
        // A new endpoint of the same interface has its rules early again.
        let id = calico_policy::instruction::EndpointId { namespace: "test".to_owned(), name: "cali1".to_owned() };
        absorb(&mut dataplane, [calico_policy::instruction::Instruction::EndpointRemove { id }]);
        dataplane.apply().await.unwrap();
        absorb(&mut dataplane, [endpoint("again", "cali1", &["10.65.0.1".parse().unwrap()], &["web"])]);
        dataplane.apply().await.unwrap();
        assert_eq!(elements("cali1"), 4);
    });
}
