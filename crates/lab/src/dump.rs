//! Everything about a lab that helps to understand why a test failed, as files.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::error::{Context, Result};
use crate::host::Host;
use crate::lab::{Lab, SWITCH};

/// What is asked of every host; file name and command.
const QUESTIONS: [(&str, &str); 16] = [
    ("addresses", "ip -details addr"),
    ("routes4", "ip -details -4 route show table all"),
    ("routes6", "ip -details -6 route show table all"),
    ("rules", "ip -4 rule; ip -6 rule"),
    ("neighbours", "ip neigh; ip neigh show proxy"),
    ("tunnels", "ip -details link show type vxlan; bridge fdb show"),
    ("nft", "nft -a list ruleset"),
    ("iptables", "iptables-save -c; ip6tables-save -c"),
    ("conntrack", "conntrack -L"),
    ("sysctl", "sysctl -a --pattern 'forwarding|proxy_arp|proxy_ndp|rp_filter'"),
    ("processes", "ps -ef --forest"),
    ("sockets", "ss -tunlp; ss -tn"),
    (
        "bird",
        "for ctl in $(find /run/calico /var/run/calico -name '*.ctl' 2>/dev/null | sort -u); do \
              for what in 'show status' 'show protocols all' 'show route all'; do birdc -s $ctl $what; done; done",
    ),
    ("bird-configuration", "cat /etc/calico/confd/config/*.cfg | sed 's/password \"[^\"]*\"/password \"…\"/'"),
    ("docker", "docker ps -a --no-trunc; docker images"),
    ("docker-calico-node", "docker logs calico-node; docker inspect calico-node"),
];

/// Enough for any of the questions; a hanging daemon must not keep a failing test from ending.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn dump(lab: &Lab, dir: &Path) -> Result<()> {
    for host in lab.machines() {
        dump_host(host, &dir.join(host.name()))?;
    }
    if let Ok(etcd) = lab.try_etcd() {
        let keys = etcd.ctl("--command-timeout 5s get --prefix /").unwrap_or_else(|error| error.to_string());
        write(&dir.join("etcd.txt"), &keys)?;
    }
    Ok(())
}

fn dump_host(host: &Host, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).context(|| format!("make {}", dir.display()))?;
    for (name, command) in QUESTIONS {
        // The switch has neither containers nor BGP.
        if host.name() == SWITCH && (name.starts_with("docker") || name.starts_with("bird")) {
            continue;
        }
        let answer = match host.command(command).limit(LIMIT).output() {
            Ok(output) => output.text(),
            Err(error) => error.to_string(),
        };
        write(&dir.join(format!("{name}.txt")), &answer)?;
    }
    copy_logs(&host.dir().join("log"), &dir.join("log"))
}

/// Copies plain files only: a log folder is the host's to fill, and links in it could lead anywhere.
fn copy_logs(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).context(|| format!("make {}", to.display()))?;
    for entry in fs::read_dir(from).context(|| format!("list {}", from.display()))?.flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => copy_logs(&source, &target)?,
            Ok(kind) if kind.is_file() => {
                fs::copy(&source, &target).context(|| format!("copy {}", source.display()))?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))
        .and_then(|()| fs::write(path, text))
        .context(|| format!("write {}", path.display()))
}
