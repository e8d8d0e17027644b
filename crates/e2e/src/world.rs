//! Everything that a refused command must leave as it was: datastore, kernel, Docker, containers, files.

use std::{collections::BTreeMap, fmt::Write as _};

use calico_lab::{Etcd, Host, Lab, wait_until};

use crate::SOON;

/// What is looked at on a host, each with the command that shows it. Nothing in it changes by itself.
const LOOKS: [(&str, &str); 7] = [
    ("interfaces", "ip -o link | cut -d' ' -f2 | sort"),
    ("addresses", "ip -o addr | sed 's/valid_lft.*//; s/\\\\.*//'"),
    ("routes", "ip route; ip -6 route"),
    ("forwarding", "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding"),
    ("rules", "nft -s list ruleset"),
    ("files", "find /var/run/calico /var/lib/calico /etc/calico | sort"),
    (
        "containers",
        "docker ps -a --no-trunc --format '{{.ID}} {{.Names}} {{.State}}' 2>/dev/null | sort; \
         for id in $(docker ps -q 2>/dev/null); do \
           pid=$(docker inspect -f '{{.State.Pid}}' $id); \
           nsenter -t $pid -n sh -c 'ip -o addr; ip route; ip -6 route; ip neigh show nud permanent' \
             | sed 's/valid_lft.*//'; \
         done",
    ),
];

/// The datastore and a host at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World(BTreeMap<String, String>);

impl World {
    /// Looks at everything now.
    pub fn now(lab: &Lab, host: &Host) -> Self {
        let script: String = LOOKS.iter().map(|(name, look)| format!("echo '== {name}'; {look};")).collect();
        let shown = host.run(&script).stdout;
        let parts = shown.split("== ").filter_map(|part| part.split_once('\n'));
        let parts = parts.map(|(name, text)| (format!("{} of {}", name, host.name()), text.to_owned()));
        Self(parts.chain(datastore(&lab.etcd())).collect())
    }

    /// Looks until two looks in a row, a moment apart, show the same: what was under way has ended.
    #[track_caller]
    pub fn settled(lab: &Lab, host: &Host) -> Self {
        let mut last = Self::now(lab, host);
        wait_until(SOON, "the host to settle", || {
            let look = Self::now(lab, host);
            std::mem::replace(&mut last, look.clone()) == look
        })
        .unwrap_or_else(|error| panic!("{error}"));
        last
    }

    /// Asserts that all is as it was, and shows what is not.
    #[track_caller]
    pub fn assert_same(&self, now: &Self, after: &str) {
        let mut changes = String::new();
        for name in self.0.keys().chain(now.0.keys().filter(|name| !self.0.contains_key(*name))) {
            let text = |world: &Self| world.0.get(name).cloned().unwrap_or_default();
            let (before, now) = (text(self), text(now));
            let _ = lines_only_in(&before, &now).try_for_each(|line| writeln!(changes, "  {name}: - {line}"));
            let _ = lines_only_in(&now, &before).try_for_each(|line| writeln!(changes, "  {name}: + {line}"));
        }
        assert!(self == now, "`{after}` changed something:\n{changes}");
    }
}

fn lines_only_in<'a>(text: &'a str, other: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter(move |line| !other.lines().any(|known| known == *line))
}

/// All keys below `/calico/` with their values.
pub fn datastore(etcd: &Etcd<'_>) -> BTreeMap<String, String> {
    let text = etcd.ctl("get --prefix /calico/").unwrap_or_else(|error| panic!("{error}"));
    // A line with the key, a line with the value; no value of ours or of upstream has a line break.
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len().is_multiple_of(2), "a value of several lines in:\n{text}");
    lines.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
}
