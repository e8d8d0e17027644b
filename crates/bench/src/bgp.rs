//! How fast BGP follows: from a new peer to its session, and from an endpoint to its route on another host and back.
//!
//! The peer is a BIRD with a configuration of its own, started anew for each sample so that no wait of an earlier
//! session is left; it is its log that says when the session is up, because a question to BIRD wakes it. Routes are
//! observed by the kernel's notifications.

use std::{
    net::{IpAddr, Ipv4Addr},
    thread,
    time::{Duration, Instant},
};

use calico_lab::{Host, Lab, LabOptions, Running, wait_until};
use calico_model::{WorkloadEndpoint, WorkloadEndpointSpec};
use miette::{IntoDiagnostic, Result, miette};
use nlink::netlink::{Connection, NetworkEvent, Route, RtnetlinkGroup};
use tokio_stream::StreamExt;

use crate::{felix, report::Report};

/// Peers added.
const PEERS: usize = 7;
/// Endpoints that come and go.
const ROUTES: usize = 50;
/// Slower than this only if something hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// AS number of the external router.
const RACK_AS: u32 = 65_000;
/// In the pool that a node makes by default, and in no host's block: it is announced by itself.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 7);

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let lab = Lab::up(&LabOptions { docker: false, ..LabOptions::hosts(3) }).into_diagnostic()?;
    let _services = [1, 2].map(|number| lab.host(number).spawn("exec calico-node run"));
    for number in [1, 2] {
        let host = lab.host(number);
        wait_until(LIMIT, "calico-node to be ready", || host.run("calico-node health").success()).into_diagnostic()?;
    }
    routes(report, &lab)?;
    peers(report, &lab)
}

/// An endpoint of host1, of which host2 learns by the mesh.
fn routes(report: &mut Report, lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    host.ok("ip link add calibench type veth peer name bench0 && ip link set bench0 up && ip link set calibench up");
    let endpoints = lab.etcd().endpoints();
    let (announced, withdrawn) = felix::inside(lab.host(2), || follow(&endpoints))?;
    let detail = "an endpoint is written to etcd, until another host's kernel has its route";
    report.add_times("bgp/announce", announced, detail);
    let detail = "an endpoint is removed from etcd, until the route is gone from another host's kernel";
    report.add_times("bgp/withdraw", withdrawn, detail);
    Ok(())
}

/// Makes and removes an endpoint of host1, and takes the times until the calling thread's kernel has followed.
async fn follow(endpoints: &str) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let store = felix::store(endpoints)?;
    let kernel = Connection::<Route>::new().into_diagnostic()?;
    kernel.subscribe(&[RtnetlinkGroup::Ipv4Route]).into_diagnostic()?;
    let mut events = kernel.events().await;
    let (mut announced, mut withdrawn) = (Vec::new(), Vec::new());
    // The first may wait for the mesh's session.
    for round in 0..=ROUTES {
        let start = Instant::now();
        let made = store.create(endpoint()).await.into_diagnostic()?;
        until(&mut events, |event| matches!(event, NetworkEvent::NewRoute(_))).await?;
        let came = start.elapsed();
        let start = Instant::now();
        store.delete(&made).await.into_diagnostic()?;
        until(&mut events, |event| matches!(event, NetworkEvent::DelRoute(_))).await?;
        if round > 0 {
            announced.push(came);
            withdrawn.push(start.elapsed());
        }
    }
    Ok((announced, withdrawn))
}

/// Waits for such news of the endpoint's route.
async fn until(
    events: &mut (impl StreamExt<Item = nlink::Result<NetworkEvent>> + Unpin),
    wanted: impl Fn(&NetworkEvent) -> bool,
) -> Result<()> {
    let ours = |event: &NetworkEvent| {
        event.as_route().and_then(|route| route.destination()) == Some(&IpAddr::from(ADDRESS)) && wanted(event)
    };
    let seen = async {
        while let Some(event) = events.next().await {
            if ours(&event.into_diagnostic()?) {
                return Ok(());
            }
        }
        Err(miette!("the kernel's notifications ended"))
    };
    tokio::time::timeout(LIMIT, seen).await.map_err(|_| miette!("no news of {ADDRESS} within {LIMIT:?}"))?
}

fn endpoint() -> WorkloadEndpoint {
    let spec = WorkloadEndpointSpec {
        orchestrator: "docker".into(),
        workload: "bench".into(),
        node: "host1".into(),
        endpoint: "eth1".into(),
        interface_name: "calibench".into(),
        ip_networks: vec![format!("{ADDRESS}/32")],
        ..Default::default()
    };
    let mut endpoint = WorkloadEndpoint::namespaced("default", "", spec);
    endpoint.metadata.name = "host1-docker-bench-eth1".into();
    endpoint
}

/// An external router, of which host1 is told by the command.
fn peers(report: &mut Report, lab: &Lab) -> Result<()> {
    let (host, router) = (lab.host(1), lab.host(3));
    let address = router.ipv4();
    let (mut commands, mut established) = (Vec::new(), Vec::new());
    for _ in 0..PEERS {
        let rack = Rack::start(router, host.ipv4())?;
        let start = Instant::now();
        let added = host.run(&format!("calicoctl bgp peer add {address} as {RACK_AS}"));
        commands.push(added.elapsed);
        added.ok().into_diagnostic()?;
        rack.wait_for_session()?;
        established.push(start.elapsed());
        host.ok(&format!("calicoctl bgp peer remove {address}"));
        // Until BIRD has let it go, a new one of this name is no new one.
        let sessions = || host.run("birdc -s /var/run/calico/bird.ctl show protocols").stdout;
        wait_until(LIMIT, "the session to go", || !sessions().contains(&address.to_string().replace('.', "_")))
            .into_diagnostic()?;
    }
    let command = report.add_times("bgp/peer_add_command", commands, "yardstick: `calicoctl bgp peer add` alone");
    let detail = format!("until the new peer says that the session is up; the command alone takes {command:.0} ms");
    report.add_times("bgp/peer_add", established, &detail);
    Ok(())
}

/// A BIRD that knows nothing of us but one neighbour, and waits for it.
struct Rack {
    bird: Running,
}

impl Rack {
    fn start(router: &Host, neighbour: Ipv4Addr) -> Result<Self> {
        let address = router.ipv4();
        let configuration = format!(
            "log stderr all;\nrouter id {address};\nprotocol device {{}}\nprotocol bgp rack {{\n  debug {{ states }};\n  \
             local {address} as {RACK_AS};\n  neighbor {neighbour} as 64512;\n  multihop;\n  passive;\n  \
             ipv4 {{ import all; export none; }};\n}}\n"
        );
        router.write("/etc/rack.conf", configuration).into_diagnostic()?;
        let bird = router.spawn("mkdir -p /run/rack && exec bird -f -c /etc/rack.conf -s /run/rack/bird.ctl");
        let rack = Self { bird };
        wait_until(LIMIT, "the external router to start", || rack.bird.stderr().contains("Started"))
            .into_diagnostic()?;
        Ok(rack)
    }

    /// Looks every millisecond, which costs the measured programs nothing.
    fn wait_for_session(&self) -> Result<()> {
        let start = Instant::now();
        while !self.bird.stderr().contains("rack: State changed to up") {
            if start.elapsed() > LIMIT {
                return Err(miette!("no session within {LIMIT:?}; the router says:\n{}", self.bird.stderr()));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}
