//! The lab's wires: one bridge per segment on the switch, one veth pair per host.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::address::Place;
use crate::error::{Context, LabError, Result};
use crate::host::Host;

/// Joins the hosts to the switch and gives everybody addresses and routes.
pub(crate) fn connect(switch: &Host, hosts: &[Host]) -> Result<()> {
    ip(switch, &switch_commands(hosts))?;
    forward(switch)?;
    hosts.iter().try_for_each(|host| ip(host, &host_commands(host.place())))
}

fn switch_commands(hosts: &[Host]) -> String {
    let mut text = "link set lo up\n".to_owned();
    let segments: BTreeSet<_> = hosts.iter().map(|host| host.place().segment).chain([0]).collect();
    for segment in segments {
        let bridge = format!("br{segment}");
        // Snooping would drop neighbour discovery for groups that nobody has reported yet.
        text += &format!("link add {bridge} type bridge forward_delay 0 mcast_snooping 0\n");
        text += &addresses(Place::router(segment), &bridge);
    }
    for host in hosts {
        let (name, pid, segment) = (host.name(), host.init().pid, host.place().segment);
        text += &format!("link add {name} type veth peer name eth0 netns {pid}\n");
        text += &format!("link set {name} master br{segment} up\n");
    }
    // There is no way out of a lab, and whoever tries is told so at once.
    text + "route add unreachable 0.0.0.0/0\nroute add unreachable ::/0 metric 4096\n"
}

fn host_commands(place: Place) -> String {
    let router = Place::router(place.segment);
    format!(
        "link set lo up\n{}route add 0.0.0.0/0 via {}\nroute add ::/0 via {}\n",
        addresses(place, "eth0"),
        router.ipv4(),
        router.ipv6()
    )
}

fn addresses(place: Place, device: &str) -> String {
    format!(
        "addr add {}/{} broadcast + dev {device}\naddr add {}/{} dev {device} nodad\nlink set {device} up\n",
        place.ipv4(),
        Place::PREFIX4,
        place.ipv6(),
        Place::PREFIX6
    )
}

/// Runs `ip` commands in the host's network, with the machine's files: process ids are the machine's.
fn ip(host: &Host, commands: &str) -> Result<()> {
    let what = || format!("set up the network of {}", host.name());
    let mut child = host.in_network(|| {
        Command::new("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context(what)
    })?;
    let mut stdin = child.stdin.take().expect("standard input was asked to be a pipe");
    stdin.write_all(commands.as_bytes()).context(what)?;
    drop(stdin);
    let output = child.wait_with_output().context(what)?;
    if output.status.success() {
        return Ok(());
    }
    Err(LabError::Command {
        host: host.name().to_owned(),
        command: format!("ip -batch - <<EOF\n{commands}EOF"),
        outcome: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Lets the switch forward between its segments.
fn forward(switch: &Host) -> Result<()> {
    for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let path = format!("/proc/sys/net/{name}");
        // The files show the network of the thread that opens them.
        switch.in_network(|| std::fs::write(&path, "1").context(|| format!("write {path} on the switch")))?;
    }
    Ok(())
}
