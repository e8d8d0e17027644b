//! `calicoctl container add`: alone, and until the first answer to a ping from the other host.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use calico_lab::{Lab, LabOptions, Pinger, reaches, wait_until};
use miette::{IntoDiagnostic, Result, miette};

use crate::report::Report;

/// Containers added.
const SAMPLES: usize = 50;

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let lab = Lab::up(&LabOptions::hosts(2).with_node_image()).into_diagnostic()?;
    let (host1, host2) = (lab.host(1), lab.host(2));
    for host in lab.hosts() {
        host.command("calicoctl node").output().and_then(calico_lab::Output::ok).into_diagnostic()?;
    }
    host1.ok("calicoctl profile add P");
    host2.ok("docker run --net=none --name=probe -tid busybox");
    host2.ok("calicoctl container add probe");
    host2.ok("calicoctl container probe profile set P");

    let (mut runs, mut adds, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..SAMPLES {
        let run = host1.run(&format!("docker run --net=none --name=w{index} -tid busybox"));
        runs.push(run.elapsed);
        let start = Instant::now();
        let add = host1.run(&format!("calicoctl container add w{index}"));
        adds.push(add.elapsed);
        let said = add.ok().into_diagnostic()?;
        let address: IpAddr = said
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.parse().ok())
            .ok_or_else(|| miette!("no address in {said}"))?;
        host1.ok(&format!("calicoctl container w{index} profile set P"));
        if !reaches(host2, "probe", address, Duration::from_secs(20)).into_diagnostic()? {
            return Err(miette!("{address} never answered"));
        }
        answers.push(start.elapsed());
    }
    let run = report.add_times("attach/docker_run", runs, "yardstick: docker run --net=none");
    report.add_times("attach/add", adds, &format!("calicoctl container add; docker run alone takes {run:.0} ms"));
    report.add_times(
        "attach/add_to_ping",
        answers,
        "container add and profile set, until a ping from the other host is answered",
    );
    withdrawn(report, &lab)
}

/// The time from the removal of a container until the other host has no route to it any more.
fn withdrawn(report: &mut Report, lab: &Lab) -> Result<()> {
    let (host1, host2) = (lab.host(1), lab.host(2));
    let shown = host1.ok("docker exec w0 ip -4 -o addr show eth1");
    let address: IpAddr = shown
        .split_whitespace()
        .find_map(|word| word.strip_suffix("/32"))
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| miette!("no address in {shown}"))?;
    let pings = Pinger::start_on(host2, address).into_diagnostic()?;
    let start = Instant::now();
    host1.ok("calicoctl container remove w0");
    wait_until(Duration::from_secs(20), "the interface to go", || {
        !host1.run("ip route show proto 80").stdout.contains(&format!("{address} "))
    })
    .into_diagnostic()?;
    report.add(
        "attach/remove",
        start.elapsed().as_secs_f64() * 1000.0,
        "ms",
        1,
        "container remove until the route is gone",
    );
    drop(pings);
    Ok(())
}
