//! Which pool a Docker network takes addresses from, and pools that come and go with networks. The decisions are pure.

use std::{fmt, net::IpAddr, str::FromStr};

use calico_ipam::Family;
use calico_model::{IPPool, IPPoolSpec, Resource};
use ipnet::IpNet;

/// Marks a pool or a profile that was made for a network and goes with it.
pub(crate) const ANNOTATION_MADE_BY: &str = "org.projectcalico/made-by";
/// Its value.
pub(crate) const MADE_BY: &str = "libnetwork";

/// What Docker calls a pool by. Everything that later requests need is in it, so nothing has to be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolId {
    /// Any pool that is for the node.
    Any(Family),
    /// The pool of this range.
    Range(IpNet),
    /// The pool of the first range, and addresses of the second, which lies in it, unless others are asked for.
    Part(IpNet, IpNet),
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any(Family::V4) => f.write_str("any-ipv4"),
            Self::Any(Family::V6) => f.write_str("any-ipv6"),
            Self::Range(net) => net.fmt(f),
            Self::Part(net, part) => write!(f, "{net},{part}"),
        }
    }
}

impl FromStr for PoolId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "any-ipv4" => Ok(Self::Any(Family::V4)),
            "any-ipv6" => Ok(Self::Any(Family::V6)),
            // The words of upstream's plugin, which networks of its time still have.
            "CalicoPoolIPv4" => Ok(Self::Any(Family::V4)),
            "CalicoPoolIPv6" => Ok(Self::Any(Family::V6)),
            net => {
                let range = |text: &str| text.parse().map_err(|_| format!("{net:?} is no pool of Calico's"));
                match net.split_once(',') {
                    Some((net, part)) => Ok(Self::Part(range(net)?, range(part)?)),
                    None => range(net).map(Self::Range),
                }
            }
        }
    }
}

impl PoolId {
    /// The pool's range, where one was asked for.
    pub(crate) fn range(self) -> Option<IpNet> {
        match self {
            Self::Any(_) => None,
            Self::Range(net) | Self::Part(net, _) => Some(net),
        }
    }

    /// The same pool, and a part of it to take addresses from; an empty text is all of it.
    ///
    /// # Errors
    /// A sentence for the user of `docker network create --ip-range`.
    pub(crate) fn narrowed(self, typed: &str) -> Result<Self, String> {
        if typed.is_empty() {
            return Ok(self);
        }
        let part: IpNet = typed.parse().map_err(|_| format!("--ip-range {typed} is not a range of addresses"))?;
        match self.range() {
            Some(net) if net.contains(&part) => Ok(Self::Part(net, part.trunc())),
            Some(net) => Err(format!("--ip-range {typed} is not within --subnet {net}")),
            None => Err(format!("--ip-range {typed} needs --subnet, the pool that it is a part of")),
        }
    }

    pub(crate) fn family(self) -> Family {
        match self {
            Self::Any(family) => family,
            Self::Range(net) | Self::Part(net, _) => Family::of_net(net),
        }
    }

    /// What Docker is told of the range. It looks for routes that overlap the range of a network for which none was
    /// chosen, except for this one; and our own routes overlap every pool.
    pub(crate) fn shown(self) -> String {
        match self {
            Self::Any(Family::V4) => "0.0.0.0/0".to_owned(),
            Self::Any(Family::V6) => "::/0".to_owned(),
            Self::Range(net) | Self::Part(net, _) => net.to_string(),
        }
    }

    /// The gateway that Docker writes down for the network. It is used for nothing: each endpoint has its own.
    pub(crate) fn gateway(self) -> &'static str {
        match self.family() {
            Family::V4 => "169.254.1.1/32",
            Family::V6 => "fe80::1/128",
        }
    }
}

/// What to do about a range that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Choice {
    /// It is a pool.
    Existing(IpNet),
    /// It becomes this one.
    New(Box<IPPool>),
}

/// Judges `docker network create --subnet`. `hosts` are the addresses of nodes.
///
/// # Errors
/// A sentence for the user of that command.
pub(crate) fn choose(typed: &str, pools: &[IPPool], hosts: &[IpAddr]) -> Result<Choice, String> {
    let net: IpNet = typed.parse().map_err(|_| format!("subnet {typed} is not a range of addresses"))?;
    let net = net.trunc();
    if let Some(pool) = pools.iter().find(|pool| pool.spec.cidr.trunc() == net) {
        if pool.spec.disabled {
            return Err(format!("subnet {net} is pool {}, which is disabled", pool.name()));
        }
        return Ok(Choice::Existing(net));
    }
    let overlaps = |pool: &&IPPool| pool.spec.cidr.contains(&net.network()) || net.contains(&pool.spec.cidr.network());
    if let Some(pool) = pools.iter().find(overlaps) {
        return Err(format!(
            "subnet {net} overlaps pool {} ({}); give the pool's whole range, or one that overlaps no pool",
            pool.spec.cidr,
            pool.name()
        ));
    }
    sane(net)?;
    if let Some(host) = hosts.iter().find(|host| net.contains(*host)) {
        return Err(format!("subnet {net} contains {host}, the address of a host"));
    }
    Ok(Choice::New(Box::new(new_pool(net, pools))))
}

/// Refuses ranges that workloads cannot have, or that are too small or too large to be meant.
fn sane(net: IpNet) -> Result<(), String> {
    let refuse = |reason: &str| Err(format!("subnet {net} cannot be a pool: {reason}"));
    let first = net.network();
    let special = match first {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified(),
    };
    let reserved = matches!(first, IpAddr::V4(v4) if v4.octets()[0] >= 240);
    if special || reserved {
        return refuse("workloads cannot have its addresses");
    }
    let (shortest, longest) = if first.is_ipv4() { (8, 30) } else { (16, 126) };
    match net.prefix_len() {
        len if len < shortest => refuse("it is too large"),
        len if len > longest => refuse("it is too small"),
        _ => Ok(()),
    }
}

/// A pool like the others of its family: hosts reach each other's workloads in the same way.
fn new_pool(net: IpNet, pools: &[IPPool]) -> IPPool {
    let model = pools.iter().find(|pool| pool.spec.cidr.addr().is_ipv4() == net.addr().is_ipv4());
    let model = model.map(|pool| pool.spec.clone()).unwrap_or_default();
    let usual = IPPoolSpec { cidr: net, ..IPPoolSpec::default() }.block_prefix_len();
    let spec = IPPoolSpec {
        cidr: net,
        vxlan_mode: model.vxlan_mode,
        ipip_mode: model.ipip_mode,
        nat_outgoing: model.nat_outgoing,
        disable_bgp_export: model.disable_bgp_export,
        block_size: Some(usual.max(net.prefix_len())),
        // Only networks that ask for the range get it.
        assignment_mode: "Manual".to_owned(),
        ..IPPoolSpec::default()
    };
    let name = net.to_string().replace("::", "-0-").replace(['.', ':', '/'], "-").replace("--", "-");
    let mut pool = Resource::new(format!("libnetwork-{name}"), spec);
    pool.metadata.annotations.insert(ANNOTATION_MADE_BY.to_owned(), MADE_BY.to_owned());
    pool
}

/// True for what was made for a network.
pub(crate) fn is_made_by_us(annotations: &std::collections::BTreeMap<String, String>) -> bool {
    annotations.get(ANNOTATION_MADE_BY).is_some_and(|by| by == MADE_BY)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pool(name: &str, cidr: &str) -> IPPool {
        Resource::new(name, IPPoolSpec { cidr: cidr.parse().unwrap(), nat_outgoing: true, ..IPPoolSpec::default() })
    }

    #[test]
    fn a_subnet_is_a_pool_or_becomes_one() {
        let pools = [pool("default", "192.168.0.0/16")];
        let existing = Choice::Existing("192.168.0.0/16".parse().unwrap());
        assert_eq!(choose("192.168.0.0/16", &pools, &[]), Ok(existing.clone()));
        assert_eq!(choose("192.168.7.7/16", &pools, &[]), Ok(existing), "host bits mean nothing");
        for (subnet, block, name) in [
            ("10.20.0.0/16", 26, "libnetwork-10-20-0-0-16"),
            ("10.20.0.0/28", 28, "libnetwork-10-20-0-0-28"),
            ("fd00:1::/64", 122, "libnetwork-fd00-1-0-64"),
        ] {
            let Choice::New(mut new) = choose(subnet, &pools, &[]).unwrap() else { panic!("{subnet} is new") };
            assert_eq!((new.name(), new.spec.block_size), (name, Some(block)), "{subnet}");
            assert!(is_made_by_us(&new.metadata.annotations));
            new.prepare().unwrap();
        }
    }

    #[test]
    fn what_cannot_be_a_pool_is_told_why() {
        let mut disabled = pool("old", "10.9.0.0/16");
        disabled.spec.disabled = true;
        let pools = [pool("default", "192.168.0.0/16"), disabled];
        let hosts = ["172.17.8.101".parse().unwrap()];
        for (subnet, word) in [
            ("192.168.5.0/24", "overlaps pool 192.168.0.0/16 (default)"),
            ("192.0.0.0/8", "overlaps pool"),
            ("10.9.0.0/16", "disabled"),
            ("127.0.0.0/16", "workloads cannot"),
            ("169.254.0.0/16", "workloads cannot"),
            ("240.0.0.0/8", "workloads cannot"),
            ("fe80::/64", "workloads cannot"),
            ("0.0.0.0/0", "overlaps"),
            ("64.0.0.0/4", "too large"),
            ("10.8.0.0/31", "too small"),
            ("172.17.8.0/24", "172.17.8.101, the address of a host"),
            ("nonsense", "not a range"),
        ] {
            let error = choose(subnet, &pools, &hosts).unwrap_err();
            assert!(error.contains(word), "{subnet}: {error}");
        }
    }

    #[test]
    fn a_pool_s_id_says_all_that_is_needed_later() {
        let range = PoolId::Range("10.20.0.0/16".parse().unwrap());
        let part = range.narrowed("10.20.7.9/24").unwrap();
        assert_eq!(part, PoolId::Part("10.20.0.0/16".parse().unwrap(), "10.20.7.0/24".parse().unwrap()));
        for id in [PoolId::Any(Family::V4), PoolId::Any(Family::V6), range, part] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for bad in ["pool", "10.20.0.0/16,", "10.20.0.0/16,x"] {
            assert!(bad.parse::<PoolId>().is_err(), "{bad}");
        }
        for (pool, part, words) in [
            (range, "10.21.0.0/24", "not within"),
            (range, "10.0.0.0/8", "not within"),
            (range, "x", "not a range"),
            (PoolId::Any(Family::V4), "10.20.0.0/24", "needs --subnet"),
        ] {
            let error = pool.narrowed(part).unwrap_err();
            assert!(error.contains(words), "{part}: {error}");
        }
    }
}
