//! What the facts mean. Pure.

use calico_dataplane::probe::Feature;
use calico_model::{LEAST_MTU, VXLAN_OVERHEAD};

use super::facts::Facts;

/// The classic tool's least version.
const LEAST_KERNEL: (u32, u32) = (2, 6);
/// Connections; a host that follows fewer refuses new ones under load.
const FEW_CONNECTIONS: u64 = 65_536;
/// Files that a busy node may have open.
const FEW_FILES: u64 = 4096;

/// How an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It works.
    Ok,
    /// It works, but not well, or not yet.
    Warning,
    /// It does not work.
    Missing,
}

impl State {
    /// For people.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Missing => "missing",
        }
    }
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    /// What.
    pub(super) item: &'static str,
    /// How it is.
    pub(super) state: State,
    /// No node can run without.
    pub(super) required: bool,
    /// What it is good for.
    pub(super) needed_for: &'static str,
    /// What was found; why it does not work.
    pub(super) detail: String,
    /// What helps.
    pub(super) way_out: String,
}

/// What was asked for in particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The service in a container.
    pub(super) docker: bool,
    /// The service straight on the host.
    pub(super) bird: bool,
}

/// All checks, in the order in which they are shown.
pub(super) fn judge(facts: &Facts, wanted: Wanted) -> Vec<Check> {
    let mut checks = vec![kernel(&facts.kernel)];
    match &facts.features {
        Err(why) => checks.push(Check {
            item: "network namespaces",
            state: State::Missing,
            required: true,
            needed_for: "containers; nothing else could be tried",
            detail: why.clone(),
            way_out: "CONFIG_NET_NS=y, and run it as root outside of containers".to_owned(),
        }),
        Ok(features) => {
            let works = |feature: Feature| features.get(&feature).is_some_and(Result::is_ok);
            let rules = [Feature::Nftables, Feature::IptablesNft, Feature::IptablesLegacy];
            let any_rules = rules.into_iter().any(works);
            for (feature, outcome) in features {
                checks.push(feature_check(*feature, outcome, any_rules));
            }
        }
    }
    checks.extend(settings(facts));
    checks.extend(surroundings(facts, wanted));
    checks.extend(datastore(facts));
    checks.extend(facts.plugin.as_ref().map(plugin));
    checks
}

/// The datastore itself: each endpoint, and the one that this host keeps. That there must be one is told elsewhere.
fn datastore(facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    if !facts.endpoints.is_empty() {
        let is_well = facts.endpoints.iter().all(|(_, answer)| answer.is_ok());
        let words = facts.endpoints.iter().map(|(endpoint, answer)| match answer {
            Ok(words) | Err(words) => format!("{endpoint}: {words}"),
        });
        checks.push(Check {
            item: "datastore's endpoints",
            state: if is_well { State::Ok } else { State::Warning },
            required: false,
            needed_for: "a datastore that outlives one of its members",
            detail: words.collect::<Vec<_>>().join("; "),
            way_out: "look after those that do not answer; etcdctl endpoint health".to_owned(),
        });
    }
    checks.extend(facts.kept.as_ref().map(|state| Check {
        item: "datastore of this host",
        state: if state.is_ok() { State::Ok } else { State::Missing },
        required: false,
        needed_for: "hosts without an etcd",
        detail: match state {
            Ok(words) | Err(words) => words.clone(),
        },
        way_out: "calicoctl datastore status, calicoctl datastore check".to_owned(),
    }));
    checks
}

fn plugin(served: &Result<(), String>) -> Check {
    Check {
        item: "Docker's plugin",
        state: if served.is_ok() { State::Ok } else { State::Warning },
        required: false,
        needed_for: "docker network create -d calico",
        detail: served.clone().err().unwrap_or_default(),
        way_out: "start the service: calicoctl node --libnetwork".to_owned(),
    }
}

fn kernel(release: &str) -> Check {
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    let version = numbers.next().zip(numbers.next());
    let (state, detail) = match version {
        Some(version) if version >= LEAST_KERNEL => (State::Ok, release.to_owned()),
        Some(_) => (State::Missing, format!("it is {release}, the least is {}.{}", LEAST_KERNEL.0, LEAST_KERNEL.1)),
        None => (State::Warning, format!("{release:?} is no version; what it can do is tried below")),
    };
    let way_out = "install a newer kernel".to_owned();
    Check { item: "Linux kernel", state, required: true, needed_for: "everything", detail, way_out }
}

/// What a feature is called, what it is good for, and what helps where it does not work.
fn words(feature: Feature) -> (&'static str, &'static str, &'static str) {
    match feature {
        Feature::Veth => ("veth", "every workload's interface", "modprobe veth (CONFIG_VETH)"),
        Feature::Ipv6 => ("IPv6", "workloads with IPv6 addresses", "sysctl -w net.ipv6.conf.all.disable_ipv6=0"),
        Feature::Nftables => {
            ("nftables", "policy", "modprobe nf_tables nft_ct nft_fib_inet (CONFIG_NF_TABLES), or use iptables")
        }
        Feature::NftablesSets => ("nftables: sets", "policy by label", "CONFIG_NF_TABLES with sets and concatenations"),
        Feature::NftablesMatches => {
            ("nftables: matches", "ICMP types, ports, log lines", "modprobe nft_log (CONFIG_NFT_LOG)")
        }
        Feature::NftablesNat => (
            "nftables: NAT",
            "pools with nat-outgoing, floating IPs",
            "modprobe nft_masq nft_nat (CONFIG_NFT_MASQ, _NAT)",
        ),
        Feature::NftablesLimits => (
            "nftables: limits",
            "limits of connections and packets",
            "modprobe nft_limit nft_connlimit (CONFIG_NFT_CONNLIMIT)",
        ),
        Feature::IptablesNft => (
            "iptables-nft, ipset",
            "rules in iptables instead of nftables",
            "apt install iptables ipset; modprobe ip_set_hash_net",
        ),
        Feature::IptablesLegacy => (
            "iptables-legacy, ipset",
            "rules in old iptables",
            "apt install iptables ipset; modprobe ip_tables ip6_tables xt_set",
        ),
        Feature::Vxlan => ("VXLAN over IPv4", "pools with VXLAN", "modprobe vxlan (CONFIG_VXLAN)"),
        Feature::VxlanV6 => {
            ("VXLAN over IPv6", "IPv6 pools with VXLAN", "modprobe vxlan udp_tunnel (CONFIG_VXLAN, CONFIG_IPV6)")
        }
    }
}

/// Without pairs there are no workloads; one kind of rules is enough, and nftables is the one that is used first.
fn feature_check(feature: Feature, outcome: &Result<(), String>, any_rules: bool) -> Check {
    let (item, needed_for, way_out) = words(feature);
    let required = feature == Feature::Veth || (feature == Feature::Nftables && !any_rules);
    let (state, detail) = match outcome {
        Ok(()) => (State::Ok, String::new()),
        Err(why) => (State::Missing, why.clone()),
    };
    Check { item, state, required, needed_for, detail, way_out: way_out.to_owned() }
}

/// Settings of the kernel, most of which the service makes itself when it starts.
fn settings(facts: &Facts) -> Vec<Check> {
    let optional = |item, needed_for, state, detail: String, way_out: &str| Check {
        item,
        state,
        required: false,
        needed_for,
        detail,
        way_out: way_out.to_owned(),
    };
    let forwarding = |item, state: Option<bool>, setting: &str| {
        let (state, detail) = match state {
            Some(true) => (State::Ok, String::new()),
            Some(false) => (State::Warning, "it is off; the service switches it on when it starts".to_owned()),
            None => (State::Missing, format!("the kernel has no {setting}")),
        };
        let way_out = format!("sysctl -w {setting}=1, or checksystem --fix");
        optional(item, "packets between workloads", state, detail, &way_out)
    };
    let (state, detail) = match facts.most_connections {
        Some(most) if most < FEW_CONNECTIONS => (State::Warning, format!("only {most} connections are followed")),
        Some(most) => (State::Ok, format!("{most} connections")),
        None => (State::Ok, "not in use yet".to_owned()),
    };
    let conntrack = "sysctl -w net.netfilter.nf_conntrack_max=1000000, or checksystem --fix";
    let mut checks = vec![
        forwarding("IPv4 forwarding", facts.forwarding[0], "net.ipv4.ip_forward"),
        forwarding("IPv6 forwarding", facts.forwarding[1], "net.ipv6.conf.all.forwarding"),
        optional("conntrack limit", "many connections", state, detail, conntrack),
    ];
    if let Some(value) = facts.rp_filter {
        let (state, detail) = match value {
            1 => (State::Warning, "strict for all interfaces: it drops what comes back by another way".to_owned()),
            other => (State::Ok, format!("{other}: set for each workload's interface by the service")),
        };
        let way_out = "sysctl -w net.ipv4.conf.all.rp_filter=2, if routes to a host differ by direction";
        checks.push(optional("rp_filter", "tunnels and several uplinks", state, detail, way_out));
    }
    if let Some((interface, mtu)) = &facts.uplink {
        let is_small = *mtu < LEAST_MTU[1] + VXLAN_OVERHEAD[1];
        let state = if is_small { State::Warning } else { State::Ok };
        let detail = format!("{interface} carries {mtu} bytes");
        checks.push(optional("MTU of the uplink", "IPv6 through VXLAN", state, detail, "raise it to 1350 or more"));
    }
    if let Some(most) = facts.most_files {
        let state = if most < FEW_FILES { State::Warning } else { State::Ok };
        let detail = format!("{most} files");
        checks.push(optional(
            "open files",
            "a node with many workloads",
            state,
            detail,
            "LimitNOFILE=65536, ulimit -n 65536",
        ));
    }
    checks
}

/// Programs and services.
fn surroundings(facts: &Facts, wanted: Wanted) -> Vec<Check> {
    let of = |item, needed_for, required, outcome: &Result<(), String>, bad: State, way_out: &str| {
        let (state, detail) = match outcome {
            Ok(()) => (State::Ok, String::new()),
            Err(why) => (bad, why.clone()),
        };
        Check { item, state, required, needed_for, detail, way_out: way_out.to_owned() }
    };
    let missing = |required| if required { State::Missing } else { State::Warning };
    vec![
        of(
            "Docker",
            "containers, and the service in one",
            wanted.docker,
            &facts.docker,
            missing(wanted.docker),
            "systemctl start docker, or run the service on the host: calicoctl node --runtime=none",
        ),
        of(
            "BIRD 2",
            "the service straight on the host",
            wanted.bird,
            &facts.bird,
            missing(wanted.bird),
            "apt install bird2, or run the service in its container",
        ),
        of(
            "BGP port 179",
            "routes between hosts",
            false,
            &facts.bgp_port,
            State::Warning,
            "stop the other program: systemctl disable --now bird",
        ),
        of(
            "datastore",
            "everything that hosts share",
            facts.datastore_is_named,
            &facts.datastore,
            missing(facts.datastore_is_named),
            "start etcd, and say where it is with ETCD_ENDPOINTS; without one, `calicoctl node` keeps the datastore itself",
        ),
    ]
}
