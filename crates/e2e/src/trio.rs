//! Two hosts with two allowed containers and a denied one, and the promise that a disturbance does not touch them.

use std::net::IpAddr;

use calico_lab::{Host, PingReport, Pinger};

use crate::{Cluster, assert_matrix, eventually};

/// `wa` on the first host and `wb` on the second may talk; `denied` on the second may talk to neither.
pub struct Trio {
    /// The hosts.
    pub cluster: Cluster,
    /// Address of `wa`.
    pub a: IpAddr,
    /// Address of `wb`.
    pub b: IpAddr,
}

/// What became of the three streams of pings.
pub struct Streams {
    /// `wa` to `wb`.
    pub there: PingReport,
    /// `wb` to `wa`.
    pub back: PingReport,
    /// `denied` to `wa`.
    pub denied: PingReport,
}

impl Trio {
    /// Raises the hosts and the containers, and waits until the allowed pair talks and BGP is up.
    pub fn up() -> Self {
        let cluster = Cluster::up(2, "");
        let (a, b) = {
            let (a, b, denied) = (cluster.add(1, "wa"), cluster.add(2, "wb"), cluster.add(2, "denied"));
            cluster.lab.host(1).ok("calicoctl profile add P");
            cluster.lab.host(1).ok("calicoctl profile add Q");
            a.calicoctl("profile set P");
            b.calicoctl("profile set P");
            denied.calicoctl("profile set Q");
            assert_matrix(&[&a, &b, &denied], &[("wa", "wb"), ("wb", "wa")]);
            (a.ip(), b.ip())
        };
        cluster.wait_for_mesh();
        Self { cluster, a, b }
    }

    /// The first host, on which the disturbances happen.
    pub fn host(&self) -> &Host {
        self.cluster.lab.host(1)
    }

    /// A hundred pings a second in both directions and at the denied pair while `disturb` does its worst, and for a
    /// second after it, as its effect may come late.
    pub fn ping_during(&self, disturb: impl FnOnce()) -> Streams {
        let (host1, host2) = (self.host(), self.cluster.lab.host(2));
        let there = Pinger::start(host1, "wa", self.b).unwrap();
        let back = Pinger::start(host2, "wb", self.a).unwrap();
        let denied = Pinger::start(host2, "denied", self.a).unwrap();
        disturb();
        let after = there.sent() + 100;
        eventually("a second of pings after it", || there.sent() >= after);
        Streams { there: there.stop(), back: back.stop(), denied: denied.stop() }
    }

    /// Asserts that `disturb` loses no ping of the allowed pair and lets none of the denied pair through.
    #[track_caller]
    pub fn undisturbed(&self, what: &str, disturb: impl FnOnce()) {
        let Streams { there, back, denied } = self.ping_during(disturb);
        assert!(there.sent > 100, "{what}: only {} pings were sent", there.sent);
        assert!(there.lost.is_empty(), "{what}: wa to wb: {there}");
        assert!(back.lost.is_empty(), "{what}: wb to wa: {back}");
        assert_eq!(denied.received, 0, "{what}: the denied pair was answered: {denied}");
    }
}

/// Whether the container `calico-node` says that it is ready.
pub fn is_ready(host: &Host) -> bool {
    host.run("docker exec calico-node calico-node health").success()
}
