//! What this kernel can do for us, found out by doing it.
//!
//! Configuration files of kernels, lists of modules and versions say what might be there; whether a rule or a device can
//! be made says it for certain, and loads the module that it needs on the way. Everything is made in a network namespace
//! that a thread of this process makes and that ends with the thread: the host's own rules, devices and routes are
//! neither looked at nor touched, and nothing is left behind. Only whether IPv6 is switched on is read of the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_policy::instruction::{
    Endpoint, EndpointId, EntityMatch, HostAction, IcmpMatch, Instruction, IptablesBackend, Members, Nat, PolicyId,
    PolicyKind, Pool, PortMember, Qos, Renderer, Rule, RuleAction, RuleSet, SetId, Settings, TierPolicies,
};
use nlink::netlink::{
    Connection, Route,
    link::{LinkConfig, VethLink, VxlanLink},
};

use crate::{Dataplane, Options};

/// One thing that a kernel may be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// Pairs of interfaces, without which no workload gets one.
    Veth,
    /// IPv6 at all.
    Ipv6,
    /// Rules in nftables: tables, chains, maps, conntrack states, marks, the look-up of the way back.
    Nftables,
    /// Sets of addresses, and of addresses with ports, that policies speak of, in nftables.
    NftablesSets,
    /// ICMP types, lists of ports and log lines, in nftables.
    NftablesMatches,
    /// Masquerading and floating IPs, in nftables.
    NftablesNat,
    /// Limits of connections and of packets per second, in nftables.
    NftablesLimits,
    /// The same rules by `iptables-nft` and `ipset`.
    IptablesNft,
    /// The same rules by `iptables-legacy` and `ipset`.
    IptablesLegacy,
    /// VXLAN devices over IPv4.
    Vxlan,
    /// VXLAN devices over IPv6.
    VxlanV6,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Veth,
        Self::Ipv6,
        Self::Nftables,
        Self::NftablesSets,
        Self::NftablesMatches,
        Self::NftablesNat,
        Self::NftablesLimits,
        Self::IptablesNft,
        Self::IptablesLegacy,
        Self::Vxlan,
        Self::VxlanV6,
    ];
}

/// A feature, and why it does not work if it does not.
pub type Outcome = (Feature, Result<(), String>);

/// Tries every feature; for each that does not work, why not, in the kernel's or the program's words.
///
/// # Errors
/// No network namespace can be made, and so nothing was tried: the words say why.
pub fn probe() -> Result<Vec<Outcome>, String> {
    let work = || -> Result<_, String> {
        // A new namespace does not inherit it.
        let ipv6 = ipv6();
        enter_a_new_namespace()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        runtime.block_on(async {
            // Without an interface that is up the kernel has no table of routes at all.
            let up = Connection::<Route>::new().map_err(|error| error.to_string())?.set_link_up("lo").await;
            up.map_err(|error| error.to_string())?;
            let mut outcomes = Vec::new();
            for feature in Feature::ALL {
                outcomes.push((feature, attempt(feature, &ipv6).await));
            }
            Ok(outcomes)
        })
    };
    let thread = std::thread::Builder::new().name("probe".to_owned()).spawn(work);
    let thread = thread.map_err(|error| format!("no thread can be started: {error}"))?;
    thread.join().unwrap_or_else(|_| Err("the thread that tried has panicked".to_owned()))
}

/// Moves the calling thread into a network namespace of its own.
#[allow(unsafe_code, reason = "unshare has no safe wrapper; CLONE_NEWNET does not touch file descriptors")]
fn enter_a_new_namespace() -> Result<(), String> {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    // SAFETY: only `UnshareFlags::FILES` is dangerous, see rustix; it is not used.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
        .map_err(|error| format!("no network namespace can be made: {}", std::io::Error::from(error)))
}

async fn attempt(feature: Feature, ipv6: &Result<(), String>) -> Result<(), String> {
    let nftables = |instructions| rules(Renderer::Nftables, IptablesBackend::Auto, instructions);
    match feature {
        Feature::Veth => link(VethLink::new("probe0", "probe1")).await,
        Feature::Ipv6 => ipv6.clone(),
        Feature::Nftables => nftables(vec![plain()]).await,
        Feature::NftablesSets => nftables(sets()).await,
        Feature::NftablesMatches => nftables(matches()).await,
        Feature::NftablesNat => nftables(nat()).await,
        Feature::NftablesLimits => nftables(vec![limits()]).await,
        Feature::IptablesNft => rules(Renderer::Iptables, IptablesBackend::Nft, everything()).await,
        Feature::IptablesLegacy => rules(Renderer::Iptables, IptablesBackend::Legacy, everything()).await,
        Feature::Vxlan => link(VxlanLink::new("probe2", 4096).local(Ipv4Addr::LOCALHOST).port(4789)).await,
        Feature::VxlanV6 => link(VxlanLink::new("probe3", 4096).local6(Ipv6Addr::LOCALHOST).port(4790)).await,
    }
}

/// Whether the network namespace of the calling thread has IPv6.
fn ipv6() -> Result<(), String> {
    match std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6") {
        Ok(value) if value.trim() == "0" => Ok(()),
        Ok(_) => Err("it is switched off: net.ipv6.conf.all.disable_ipv6 is 1".to_owned()),
        Err(_) => Err("the kernel has no IPv6".to_owned()),
    }
}

async fn link(config: impl LinkConfig) -> Result<(), String> {
    let words = |error: nlink::Error| error.to_string();
    Connection::<Route>::new().map_err(words)?.add_link(config).await.map_err(words)
}

/// Writes the base and what the instructions say, in full.
async fn rules(renderer: Renderer, backend: IptablesBackend, instructions: Vec<Instruction>) -> Result<(), String> {
    let options = Options { renderer: Some(renderer), iptables_backend: Some(backend), ..Options::default() };
    let work = async {
        let mut dataplane = Dataplane::new(options)?;
        dataplane.install_base().await?;
        for instruction in instructions {
            dataplane.absorb(instruction);
        }
        dataplane.apply().await
    };
    let report = work.await.map_err(|error: crate::Error| error.to_string())?;
    match report.problems.first() {
        Some(problem) => Err(problem.to_string()),
        None => Ok(()),
    }
}

fn policy_id() -> PolicyId {
    PolicyId { kind: PolicyKind::Global, namespace: String::new(), name: "probe".to_owned() }
}

fn endpoint(extra: Endpoint) -> Instruction {
    Instruction::EndpointUpdate {
        id: EndpointId { namespace: "probe".to_owned(), name: "probe".to_owned() },
        endpoint: Endpoint { interface: "caliprobe".to_owned(), ..extra },
    }
}

fn plain() -> Instruction {
    endpoint(Endpoint::default())
}

fn of_policy(rules: Vec<Rule>) -> Vec<Instruction> {
    let tier = TierPolicies {
        tier: "default".to_owned(),
        ingress: vec![policy_id()],
        egress: vec![policy_id()],
        ..TierPolicies::default()
    };
    let rules = RuleSet { ingress: rules.clone(), egress: rules };
    vec![
        Instruction::PolicyUpdate { id: policy_id(), rules: rules.into() },
        endpoint(Endpoint { tiers: vec![tier].into(), ..Endpoint::default() }),
    ]
}

fn address() -> IpAddr {
    Ipv4Addr::new(10, 65, 0, 1).into()
}

fn sets() -> Vec<Instruction> {
    let nets = SetId("s:probe".to_owned());
    let ports = SetId("n:probe".to_owned());
    let member = PortMember { address: address(), protocol: 6, port: 80 };
    let rule = Rule {
        protocol: Some(6),
        source: EntityMatch { sets: vec![nets.clone()], ..EntityMatch::default() },
        destination: EntityMatch { port_sets: vec![ports.clone()], ..EntityMatch::default() },
        ..Rule::of(RuleAction::Allow)
    };
    let mut all = vec![
        Instruction::SetReplace { id: nets, members: Members::Nets(vec![address().into()]) },
        Instruction::SetReplace { id: ports, members: Members::Ports(vec![member]) },
    ];
    all.extend(of_policy(vec![rule]));
    all
}

fn matches() -> Vec<Instruction> {
    let any = EntityMatch::default;
    let echo = Some(IcmpMatch { icmp_type: 8, code: Some(0) });
    let ports = EntityMatch { ports: vec![(80, 80), (443, 443), (8000, 8100)], ..any() };
    of_policy(vec![
        Rule { ip_version: Some(4), protocol: Some(1), icmp: echo, ..Rule::of(RuleAction::Allow) },
        Rule { protocol: Some(17), destination: ports, ..Rule::of(RuleAction::Log) },
        Rule {
            not_protocol: Some(132),
            source: EntityMatch { not_nets: vec![address().into()], ..any() },
            ..Rule::of(RuleAction::Deny)
        },
    ])
}

fn nat() -> Vec<Instruction> {
    let external = Ipv4Addr::new(192, 0, 2, 1).into();
    let pool = Pool { cidr: ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 65, 0, 0), 16).into(), masquerade: true };
    vec![
        Instruction::Settings(Settings { endpoint_to_host: HostAction::Return, ..Settings::default() }),
        Instruction::Pools { pools: vec![pool] },
        endpoint(Endpoint {
            addresses: vec![address()],
            nats: vec![Nat { internal: address(), external }],
            ..Endpoint::default()
        }),
    ]
}

fn limits() -> Instruction {
    let qos = Qos {
        ingress_packet_rate: Some(1000),
        egress_packet_rate: Some(1000),
        ingress_max_connections: Some(100),
        egress_max_connections: Some(100),
        ..Qos::default()
    };
    endpoint(Endpoint { qos, ..Endpoint::default() })
}

fn everything() -> Vec<Instruction> {
    [sets(), nat()].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The kernel and the programs that tests need can do all that is not said to be missing on such machines.
    #[test]
    fn this_machine_can_do_what_the_tests_rely_on() {
        let outcomes = probe().unwrap();
        assert_eq!(outcomes.len(), Feature::ALL.len());
        for (feature, outcome) in outcomes {
            outcome.unwrap_or_else(|why| panic!("{feature:?}: {why}"));
        }
    }

    #[test]
    fn the_host_keeps_its_links_and_rules() {
        crate::namespace::in_a_namespace(|| async {
            let before = (crate::namespace::run("ip -o link"), crate::namespace::run("nft list ruleset"));
            let tried = std::thread::spawn(probe).join().unwrap().unwrap();
            assert!(tried.iter().any(|(feature, outcome)| *feature == Feature::Nftables && outcome.is_ok()));
            let after = (crate::namespace::run("ip -o link"), crate::namespace::run("nft list ruleset"));
            assert_eq!(before, after);
        });
    }

    #[test]
    fn a_host_that_has_ipv6_switched_off_is_told_so() {
        crate::namespace::in_a_namespace(|| async {
            crate::namespace::run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
            let tried = std::thread::spawn(probe).join().unwrap().unwrap();
            let found = tried.iter().find(|(feature, _)| *feature == Feature::Ipv6).unwrap();
            assert!(found.1.as_ref().is_err_and(|why| why.contains("disable_ipv6 is 1")), "{found:?}");
        });
    }
}
