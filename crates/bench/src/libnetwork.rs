//! Docker's own network command: what `docker run --net` costs over `--net=none`, and how much of it is ours.
//!
//! Every round runs one container in each kind of network, so that a busy moment falls on all of them. Beside ours
//! stand Docker's own bridge and a remote driver that does nothing ([`crate::floor`]): Docker makes name resolution,
//! rules and addresses in the container for any network, and nothing of that for `--net=none`.

use std::time::Duration;

use calico_lab::{Host, Lab, LabOptions, wait_until};
use miette::{IntoDiagnostic, Result};

use crate::{
    floor::{self, FLOOR},
    report::Report,
};

/// Containers run in each kind of network.
const SAMPLES: usize = 50;
/// Rounds before that, which are not counted: Docker loads its plugins, blocks of addresses are claimed.
const WARM_UP: usize = 5;

/// The kinds of network, by the name of the measure.
const KINDS: [&str; 4] = ["none", "floor", "bridge", "calico"];
const NONE: usize = 0;
const NOTHING: usize = 1;
const BRIDGE: usize = 2;
const CALICO: usize = 3;

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let lab = Lab::up(&LabOptions::hosts(1)).into_diagnostic()?;
    let host = lab.host(1);
    floor::serve(&host.path("/run/docker/plugins")).into_diagnostic()?;
    let _service = host.spawn("CALICO_LIBNETWORK=true exec calico-node run");
    wait_until(Duration::from_secs(60), "the service to be ready", || host.run("calico-node health").success())
        .into_diagnostic()?;
    host.ok(&format!("docker network create -d {FLOOR} --ipam-driver {FLOOR} floor"));
    for network in ["bridge", "bridge2"] {
        host.ok(&format!("docker network create my{network}"));
    }
    for network in ["calico", "calico2"] {
        host.ok(&format!("docker network create -d calico --ipam-driver calico-ipam my{network}"));
    }
    runs(report, host);
    connects(report, host);
    Ok(())
}

/// `docker run`, from the command to the running container.
fn runs(report: &mut Report, host: &Host) {
    let mut times: [Vec<Duration>; 4] = Default::default();
    for round in 0..WARM_UP + SAMPLES {
        let [outer, inner] = floor::pair(u32::try_from(round).expect("few rounds") + 1);
        host.ok(&format!("ip link add {outer} type veth peer name {inner}"));
        for step in 0..KINDS.len() {
            // Another one goes first each time.
            let kind = (round + step) % KINDS.len();
            let network = match kind {
                NONE => "none".to_owned(),
                NOTHING => "floor".to_owned(),
                _ => format!("my{}", KINDS[kind]),
            };
            let run = host.run(&format!("docker run -d --net={network} --name=c{kind} busybox sleep 100000"));
            let elapsed = run.elapsed;
            run.ok().unwrap_or_else(|error| panic!("{error}"));
            if round >= WARM_UP {
                times[kind].push(elapsed);
            }
        }
        host.ok("docker rm -f c0 c1 c2 c3");
        host.run(&format!("ip link del {outer}"));
    }
    let medians: Vec<f64> = KINDS
        .iter()
        .zip(times)
        .map(|(kind, times)| {
            let what = match *kind {
                "none" => "yardstick: docker run --net=none",
                "floor" => "yardstick: a network of a remote driver that does nothing",
                "bridge" => "yardstick: a network of Docker's own bridge driver",
                _ => "docker run in a network of Calico",
            };
            report.add_times(&format!("libnetwork/run_{kind}"), times, what)
        })
        .collect();
    let mut over = |name: &str, more: usize, less: usize, what: &str| {
        report.add(format!("libnetwork/{name}/p50"), medians[more] - medians[less], "ms", SAMPLES, what);
    };
    over("run_over_none", CALICO, NONE, "a network of Calico over --net=none");
    over("docker_over_none", NOTHING, NONE, "of that, Docker's own part: the driver that does nothing");
    over("run_over_docker", CALICO, NOTHING, "of that, ours: over the driver that does nothing");
    over("bridge_over_none", BRIDGE, NONE, "yardstick: Docker's bridge over --net=none");
}

/// `docker network connect` and `disconnect` of a running container.
fn connects(report: &mut Report, host: &Host) {
    host.ok("docker run -d --net=mybridge --name=moving busybox sleep 100000");
    for (kind, network, what) in
        [("bridge", "mybridge2", "yardstick: Docker's bridge"), ("calico", "mycalico2", "a network of Calico")]
    {
        let (mut connected, mut disconnected) = (Vec::new(), Vec::new());
        for round in 0..WARM_UP + SAMPLES {
            for (verb, times) in [("connect", &mut connected), ("disconnect", &mut disconnected)] {
                let done = host.run(&format!("docker network {verb} {network} moving"));
                let elapsed = done.elapsed;
                done.ok().unwrap_or_else(|error| panic!("{error}"));
                if round >= WARM_UP {
                    times.push(elapsed);
                }
            }
        }
        report.add_times(&format!("libnetwork/connect_{kind}"), connected, what);
        report.add_times(&format!("libnetwork/disconnect_{kind}"), disconnected, what);
    }
    host.ok("docker rm -f moving");
}
