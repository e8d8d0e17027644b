//! What is programmed for an interface, read from the kernel: for people, and for other processes than the agent.
//!
//! Nothing is written, and nothing of what the agent believes is needed: from the interface's element in each map its
//! chains are followed, in the order in which a packet meets them.

use std::{collections::HashSet, net::IpAddr};

use calico_policy::instruction::PublishedPort;

use crate::{
    Error, Options,
    family::Family,
    ifname::IfName,
    iptables::{Variant, list_interface},
    netlink::{Nft, Rtnl},
    program::{Expr, verdict},
    render::{HostList, Map},
    writer::{has_nftables, left_by_iptables},
};

/// What is programmed for one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// One for each family and place where its packets are judged.
    pub paths: Vec<ListedPath>,
    /// The host's ports that lead to the interface.
    pub published: Vec<ListedPort>,
}

/// A published port of the host, as the kernel holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedPort {
    /// Which port leads where.
    pub port: PublishedPort,
    /// Packets and bytes that it led; `None` if they are not counted. The kernel asks once for each connection, with its
    /// first packet, so these are connections.
    pub counter: Option<(u64, u64)>,
}

/// The chains that packets of one family meet at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPath {
    /// 4 or 6.
    pub ip_version: u8,
    /// Where: `from workload`, `to workload`, `host endpoint hep-in` and so on.
    pub place: String,
    /// The endpoint, as the map's element names it; `None` if it is the one of all other interfaces.
    pub owner: Option<String>,
    /// The chains, each after the one that first leads to it.
    pub chains: Vec<ListedChain>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedChain {
    /// Its name.
    pub name: String,
    /// What it is for: which tiers, which policy.
    pub comment: Option<String>,
    /// How many chains lead to it, one through the other.
    pub depth: usize,
    /// Its rules, in order.
    pub rules: Vec<ListedRule>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRule {
    /// In the words of `nft` or `iptables`, without counter and comment.
    pub text: String,
    /// Which rule of which policy or profile it is, or why it is there.
    pub comment: Option<String>,
    /// Packets and bytes that met it; `None` if they are not counted.
    pub counter: Option<(u64, u64)>,
    /// The chain that it leads to.
    pub leads_to: Option<String>,
}

/// Lists what is programmed for an interface in the calling thread's network namespace. An interface that nothing is
/// programmed for has no paths. Rules of iptables are in its own words, and its chains have no comments.
///
/// # Errors
/// [`Error::Kernel`] without the right to read rules, [`Error::Program`] or [`Error::ProgramMissing`] if those of
/// iptables cannot be read.
pub async fn of_interface(interface: &str) -> Result<Listing, Error> {
    let nft = Nft::open()?;
    let mut listing = Listing::default();
    let Some(name) = IfName::new(interface) else { return Ok(listing) };
    let routed = routed(&name).await?;
    for family in Family::ALL {
        let mut ports = Vec::new();
        for variant in Variant::ALL {
            if left_by_iptables(&nft, variant, family).await {
                let (paths, published) = list_interface(variant, family, name.as_str()).await?;
                listing.paths.extend(paths);
                ports.extend(published);
            }
        }
        let is_there = has_nftables(&nft).await && nft.has_table(family).await?;
        if is_there {
            for exact in [true, false] {
                ports.extend(nft.list_published(family, exact).await?);
            }
        }
        ports.retain(|listed| routed.contains(&listed.port.address));
        ports.sort_by_key(|listed| listed.port);
        listing.published.extend(ports);
        if !is_there {
            continue;
        }
        for map in Map::all() {
            let (owner, chain) = match nft.read_target(family, map.name(), &name).await? {
                Some(target) => (Some(target.comment.to_string()), target.chain.to_string()),
                None => match others(&nft, family, map).await? {
                    Some(chain) => (None, chain),
                    None => continue,
                },
            };
            let ip_version = if family == Family::V4 { 4 } else { 6 };
            let chains = follow(&nft, family, chain).await?;
            listing.paths.push(ListedPath { ip_version, place: map.place(), owner, chains });
        }
    }
    Ok(listing)
}

/// The addresses to which a route of ours leads by an interface.
async fn routed(interface: &IfName) -> Result<HashSet<IpAddr>, Error> {
    let rtnl = Rtnl::open(Options::default().route_protocol)?;
    let links = rtnl.links().await?;
    let mut addresses = HashSet::new();
    let Some(link) = links.into_iter().find(|link| link.name == *interface) else { return Ok(addresses) };
    for family in Family::ALL {
        let routes = rtnl.routes(family).await?.into_iter().filter(|route| route.interface == link.index);
        addresses.extend(routes.map(|route| route.destination.addr()));
    }
    Ok(addresses)
}

/// The comment of a policy's or profile's chain for one direction (`ingress` or `egress`), as the kernel holds it.
/// `who` is `policy TIER/NAME`, `policy TIER/NAMESPACE/NAME` or `profile NAME`.
#[must_use]
pub fn chain_comment(who: &str, way: &str) -> String {
    crate::name::comment(&format!("{who} {way}"))
}

/// The same of one of its rules: its place from 0, and its action in small letters.
#[must_use]
pub fn rule_comment(who: &str, way: &str, index: usize, action: &str) -> String {
    crate::name::comment(&format!("{who} {way}[{index}] {action}"))
}

/// The chain of the host endpoint of all other interfaces: the last rule of the chain that looks in the map.
async fn others(nft: &Nft, family: Family, map: Map) -> Result<Option<String>, Error> {
    let Map::Host(list) = map else { return Ok(None) };
    let rules = nft.list_chain(family, HostList::dispatch(list)).await?;
    let last = rules.into_iter().flat_map(|rule| rule.rules).last();
    Ok(last.and_then(|rule| rule.leads_to))
}

/// A chain and all that it leads to, depth first.
async fn follow(nft: &Nft, family: Family, start: String) -> Result<Vec<ListedChain>, Error> {
    let mut seen = HashSet::new();
    let mut chains = Vec::new();
    let mut waiting = vec![(start, 0)];
    while let Some((name, depth)) = waiting.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let Some(mut chain) = nft.list_chain(family, &name).await? else { continue };
        chain.depth = depth;
        // The first one on top.
        waiting.extend(chain.rules.iter().rev().filter_map(|rule| Some((rule.leads_to.clone()?, depth + 1))));
        chains.push(chain);
    }
    Ok(chains)
}

/// The chain that a rule leads to.
pub(crate) fn leads_to(exprs: &[Expr]) -> Option<String> {
    exprs.iter().find_map(|expr| match expr {
        Expr::Verdict { code: verdict::JUMP | verdict::GOTO, chain } => chain.clone(),
        _ => None,
    })
}
