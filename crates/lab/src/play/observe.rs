//! What can be seen of the product from outside, with tools that are not ours, and how it changed.

use std::collections::{BTreeMap, BTreeSet};

use super::WORKLOADS;
use super::screen::Ink;
use crate::error::Result;
use crate::host::Host;
use crate::lab::Lab;

/// More names than this in one line help nobody.
const NAMES_SHOWN: usize = 6;

/// The state of the datastore and of all hosts.
#[derive(Debug, Default)]
pub(super) struct Facts {
    keys: BTreeMap<String, String>,
    interfaces: BTreeMap<&'static str, String>,
    hosts: Vec<HostFacts>,
}

#[derive(Debug, Default)]
struct HostFacts {
    name: String,
    routes: BTreeSet<String>,
    sessions: BTreeSet<Session>,
    chains: BTreeSet<String>,
    rules: usize,
}

/// A BGP session as BIRD shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Session {
    name: String,
    state: String,
}

impl Session {
    pub(super) fn is_established(&self) -> bool {
        self.state == "Established"
    }
}

impl Facts {
    pub(super) fn gather(lab: &Lab) -> Result<Self> {
        let hosts = lab.on_every_host(|host| {
            Ok(HostFacts {
                name: host.name().to_owned(),
                routes: routes(host)?,
                sessions: sessions(host),
                chains: chains(&rules(host)?).collect(),
                rules: count_rules(&rules(host)?),
            })
        })?;
        let interfaces =
            WORKLOADS.into_iter().filter_map(|(host, name)| Some((name, interface(lab.host(host), name)?))).collect();
        Ok(Self { keys: keys(lab)?, interfaces, hosts })
    }

    /// What is different from `before`, by label.
    pub(super) fn changes_since(&self, before: &Self) -> Vec<(String, Vec<(Ink, String)>)> {
        let mut changes = vec![("datastore".to_owned(), key_changes(&before.keys, &self.keys))];
        let plain = |text: &str| vec![(Ink::Plain, text.to_owned())];
        for (name, text) in self.interfaces.iter().filter(|(name, text)| before.interfaces.get(*name) != Some(text)) {
            changes.push(((*name).to_owned(), plain(text)));
        }
        for (host, old) in self.hosts.iter().zip(&before.hosts) {
            let name = &host.name;
            changes.push((format!("{name} routes"), set_changes(&old.routes, &host.routes)));
            if host.sessions != old.sessions {
                let lines =
                    host.sessions.iter().map(|session| (Ink::Plain, format!("{} {}", session.name, session.state)));
                changes.push((format!("{name} BGP"), lines.collect()));
            }
            if host.chains != old.chains || host.rules != old.rules {
                changes.push((format!("{name} rules"), plain(&rule_summary(old, host))));
            }
        }
        changes
    }
}

/// The datastore, without what the agents report about themselves all the time.
fn keys(lab: &Lab) -> Result<BTreeMap<String, String>> {
    let text = lab.etcd().ctl("get --prefix /calico/")?;
    Ok(pairs(&text).filter(|(key, _)| !key.starts_with("/calico/felix/")).collect())
}

/// etcdctl prints keys and values in turn, each on a line: values are JSON without line breaks.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    let mut lines = text.lines();
    std::iter::from_fn(move || Some((lines.next()?.to_owned(), lines.next().unwrap_or_default().to_owned())))
}

/// Routes that lead to containers: through their interfaces, from BIRD, or blocks of addresses.
fn routes(host: &Host) -> Result<BTreeSet<String>> {
    let text = host.command("ip -4 route; ip -6 route").output()?.ok()?;
    Ok(text.lines().filter(|line| is_calico_route(line)).map(tidy).collect())
}

fn is_calico_route(line: &str) -> bool {
    !line.starts_with("fe80:")
        && [" dev cali", " proto bird", " proto 80", "blackhole "].iter().any(|p| line.contains(p))
}

/// Without what only repeats itself on every route.
fn tidy(line: &str) -> String {
    ["metric 2048 ", "metric 1024 ", "pref medium", "scope link "]
        .iter()
        .fold(format!("{} ", line.trim()), |line, noise| line.replace(noise, ""))
        .trim()
        .to_owned()
}

/// BGP sessions of a host; none while BIRD does not run.
pub(super) fn sessions(host: &Host) -> BTreeSet<Session> {
    let output = host.command("birdc -s /var/run/calico/bird.ctl show protocols").output();
    output.map(|output| parse_sessions(&output.stdout)).unwrap_or_default()
}

/// Columns: name, protocol, table, state, since, and for BGP the session's state and the last error.
fn parse_sessions(text: &str) -> BTreeSet<Session> {
    text.lines()
        .filter_map(|line| {
            let mut columns = line.split_whitespace();
            let name = columns.next()?;
            (columns.next()? == "BGP")
                .then(|| Session { name: name.to_owned(), state: columns.skip(3).collect::<Vec<_>>().join(" ") })
        })
        .collect()
}

fn rules(host: &Host) -> Result<String> {
    // No such table before the service started.
    Ok(host.command("nft list table ip calico").output()?.stdout)
}

fn chains(table: &str) -> impl Iterator<Item = String> + '_ {
    table.lines().filter_map(|line| Some(line.trim().strip_prefix("chain ")?.strip_suffix(" {")?.to_owned()))
}

/// Lines inside chains, but for the one that says where a base chain is hooked.
fn count_rules(table: &str) -> usize {
    let mut in_chain = false;
    let mut count = 0;
    for line in table.lines().map(str::trim) {
        match line {
            "}" => in_chain = false,
            _ if line.starts_with("chain ") => in_chain = true,
            _ if in_chain && !line.starts_with("type ") && !line.is_empty() => count += 1,
            _ => {}
        }
    }
    count
}

/// The container's interface with addresses and default route, in words; nothing while the container does not run.
fn interface(host: &Host, container: &str) -> Option<String> {
    let addresses = host.in_container(container, &["ip", "-o", "addr", "show", "scope", "global"]).ok()?;
    let addresses: Vec<_> = addresses
        .lines()
        .filter_map(|line| {
            let columns: Vec<_> = line.split_whitespace().collect();
            Some(format!("{} {}", columns.get(1)?, columns.get(3)?))
        })
        .collect();
    let default = host.in_container(container, &["ip", "route", "show", "default"]).unwrap_or_default();
    let default = default.lines().next().map(|line| format!(", {}", tidy(line))).unwrap_or_default();
    Some(if addresses.is_empty() { "no network".to_owned() } else { format!("{}{default}", addresses.join(", ")) })
}

fn key_changes(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<(Ink, String)> {
    let short = |key: &str| shorten(&key.trim_start_matches("/calico/").replace("resources/v3/projectcalico.org/", ""));
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (Ink::Bad, format!("- {}", short(key))));
    let came = after.iter().filter_map(|(key, value)| match before.get(key) {
        None => Some((Ink::Good, format!("+ {}", short(key)))),
        Some(old) if old != value => Some((Ink::Plain, format!("~ {}", short(key)))),
        Some(_) => None,
    });
    gone.chain(came).collect()
}

/// Ids of containers and endpoints take a whole line and tell nothing: a few digits do.
fn shorten(key: &str) -> String {
    const SHOWN: usize = 8;
    let is_id = |part: &str| part.len() >= 32 && part.chars().all(|c| c.is_ascii_hexdigit());
    key.split_inclusive(['-', '.', '/'])
        .map(|part| match part.trim_end_matches(['-', '.', '/']) {
            id if is_id(id) => format!("{}…{}", &id[..SHOWN], &part[id.len()..]),
            _ => part.to_owned(),
        })
        .collect()
}

fn set_changes(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<(Ink, String)> {
    let gone = before.difference(after).map(|line| (Ink::Bad, format!("- {line}")));
    gone.chain(after.difference(before).map(|line| (Ink::Good, format!("+ {line}")))).collect()
}

fn rule_summary(before: &HostFacts, after: &HostFacts) -> String {
    let mut text = format!("table ip calico: {} chains, {} rules", after.chains.len(), after.rules);
    let new: Vec<_> = after.chains.difference(&before.chains).map(String::as_str).collect();
    let gone = before.chains.difference(&after.chains).count();
    if !before.chains.is_empty() && !new.is_empty() {
        let more = if new.len() > NAMES_SHOWN { ", …" } else { "" };
        text += &format!("; new: {}{more}", new[..new.len().min(NAMES_SHOWN)].join(", "));
    }
    if gone > 0 {
        text += &format!("; {gone} removed");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_birds_table() {
        let text = "BIRD 2.0.12 ready.\nName       Proto      Table      State  Since         Info\n\
                    device1    Device     ---        up     1764000000.123\n\
                    Mesh_172_30_0_12 BGP        ---        up     1764000000.123  Established   \n\
                    Mesh_fd00_172_30__12 BGP ---        start  1764000000.123  Active        Socket: Connection refused\n";
        let sessions: Vec<_> = parse_sessions(text).into_iter().collect();
        assert_eq!(sessions.iter().map(Session::is_established).collect::<Vec<_>>(), [true, false]);
        assert_eq!(sessions[1].state, "Active Socket: Connection refused");
    }

    #[test]
    fn counts_rules_not_sets_and_hooks() {
        let table = "table ip calico {\n\tset s {\n\t\ttype ipv4_addr\n\t\telements = { 10.0.0.1 }\n\t}\n\n\
                     \tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n\
                     \t\tiifname \"cali*\" jump x\n\t\tdrop\n\t}\n\n\tchain x {\n\t\taccept\n\t}\n}\n";
        assert_eq!(count_rules(table), 3);
        assert_eq!(chains(table).collect::<Vec<_>>(), ["forward", "x"]);
    }

    #[test]
    fn shows_routes_to_containers_only() {
        assert!(is_calico_route("192.168.0.1 dev cali0123456789a proto 80 scope link"));
        assert!(is_calico_route("192.168.9.0/26 via 172.30.0.12 dev eth0 proto bird metric 2048"));
        assert!(!is_calico_route("172.30.0.0/24 dev eth0 proto kernel scope link src 172.30.0.11"));
        assert!(!is_calico_route("fe80::/64 dev cali0123456789a proto kernel metric 256"));
        assert_eq!(
            tidy("192.168.9.0/26 via 172.30.0.12 dev eth0 proto bird metric 2048 "),
            "192.168.9.0/26 via 172.30.0.12 dev eth0 proto bird"
        );
    }

    #[test]
    fn long_ids_are_shortened_and_nothing_else() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(
            shorten(&format!("workloadendpoints/default/host1-docker-{id}-{}", &id[..32])),
            "workloadendpoints/default/host1-docker-01234567…-01234567…"
        );
        assert_eq!(shorten("ipam/v2/handle/docker.abc"), "ipam/v2/handle/docker.abc");
    }

    #[test]
    fn tells_what_came_went_and_changed() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| (format!("/calico/{key}"), (*value).to_owned())).collect::<BTreeMap<_, _>>()
        };
        let before = map(&[("a", "1"), ("b", "1"), ("resources/v3/projectcalico.org/nodes/n", "1")]);
        let after = map(&[("b", "2"), ("c", "1"), ("resources/v3/projectcalico.org/nodes/n", "2")]);
        let changes: Vec<_> = key_changes(&before, &after).into_iter().map(|(_, text)| text).collect();
        assert_eq!(changes, ["- a", "~ b", "+ c", "~ nodes/n"]);
        assert_eq!(pairs("k\nv\nl\n\n").collect::<Vec<_>>(), [("k".into(), "v".into()), ("l".into(), String::new())]);
    }
}
