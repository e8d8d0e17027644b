//! Two hosts with two allowed containers and a denied one, and the promise that a disturbance does not touch them.

use std::net::IpAddr;

use calico_lab::{Host, PingReport, Pinger};

use crate::{Cluster, assert_matrix, eventually};

/// The arguments of `calicoctl node` on both hosts; see [`Cluster::up`].
pub const NODE: &str = "--ip6={ip6}";

/// `wa` on the first host and `wb` on the second may talk; `denied` on the second may talk to neither.
pub struct Trio {
    /// The hosts.
    pub cluster: Cluster,
    /// Addresses of `wa`, one of each family.
    pub a: Vec<IpAddr>,
    /// Addresses of `wb`, one of each family.
    pub b: Vec<IpAddr>,
}

/// What became of the streams of pings, each with its name.
pub struct Streams {
    /// Between `wa` and `wb`, in both directions.
    pub allowed: Vec<(String, PingReport)>,
    /// From `denied` to `wa`.
    pub denied: Vec<(String, PingReport)>,
}

impl Trio {
    /// Raises the hosts and the containers, and waits until the allowed pair talks and BGP is up.
    pub fn up() -> Self {
        let cluster = Cluster::up(2, NODE);
        let (a, b) = {
            let mut workloads = [cluster.add(1, "wa"), cluster.add(2, "wb"), cluster.add(2, "denied")];
            cluster.lab.host(1).ok("calicoctl profile add P");
            cluster.lab.host(1).ok("calicoctl profile add Q");
            for (workload, profile) in workloads.iter_mut().zip(["P", "P", "Q"]) {
                workload.ip_add("ipv6");
                workload.calicoctl(&format!("profile set {profile}"));
            }
            let [a, b, denied] = &workloads;
            assert_matrix(&[a, b, denied], &[("wa", "wb"), ("wb", "wa")]);
            (a.addresses.clone(), b.addresses.clone())
        };
        cluster.wait_for_mesh();
        Self { cluster, a, b }
    }

    /// The first host, on which the disturbances happen.
    pub fn host(&self) -> &Host {
        self.cluster.lab.host(1)
    }

    /// A hundred pings a second in both families and directions, and at the denied pair, while `disturb` does its worst
    /// and for a second after it, as its effect may come late.
    pub fn ping_during(&self, disturb: impl FnOnce()) -> Streams {
        let (host1, host2) = (self.host(), self.cluster.lab.host(2));
        let start = |host: &Host, from: &str, to: &[IpAddr]| -> Vec<(String, Pinger)> {
            to.iter().map(|to| (format!("{from} to {to}"), Pinger::start(host, from, *to).unwrap())).collect()
        };
        let mut allowed = start(host1, "wa", &self.b);
        allowed.extend(start(host2, "wb", &self.a));
        let denied = start(host2, "denied", &self.a);
        disturb();
        let after = allowed[0].1.sent() + 100;
        eventually("a second of pings after it", || allowed[0].1.sent() >= after);
        let stop = |streams: Vec<(String, Pinger)>| streams.into_iter().map(|(name, p)| (name, p.stop())).collect();
        Streams { allowed: stop(allowed), denied: stop(denied) }
    }

    /// Asserts that `disturb` loses no ping of the allowed pair and lets none of the denied pair through.
    #[track_caller]
    pub fn undisturbed(&self, what: &str, disturb: impl FnOnce()) {
        let Streams { allowed, denied } = self.ping_during(disturb);
        for (name, report) in allowed {
            assert!(report.sent > 100, "{what}: {name}: only {} pings were sent", report.sent);
            assert!(report.lost.is_empty(), "{what}: {name}: {report}");
        }
        for (name, report) in denied {
            assert_eq!(report.received, 0, "{what}: {name} was answered: {report}");
        }
    }
}

/// Whether the container `calico-node` says that it is ready.
pub fn is_ready(host: &Host) -> bool {
    host.run("docker exec calico-node calico-node health").success()
}
