//! From what was typed to the pools that are wanted. No I/O.

use std::net::IpAddr;

use calico_model::{EncapMode, IPPool, IPPoolSpec};
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use crate::{
    args::{PoolOptions, TunnelMode},
    failure::Failure,
};

/// The name of a new pool: its CIDR, with dashes for what a name cannot have. Upstream's converter of 2016 data calls
/// them so; a CIDR that begins with `::` gets a zero in front, since names begin with a letter or digit.
pub(super) fn name(cidr: IpNet) -> String {
    let name = cidr.to_string().replace(['.', ':', '/'], "-");
    if name.starts_with('-') { format!("0{name}") } else { name }
}

/// True if the two have an address in common.
pub(super) fn meet(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// The family of a CIDR in words.
pub(super) fn family(cidr: IpNet) -> &'static str {
    if cidr.addr().is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Reads a CIDR. A bare address is a network of one; host bits are cleared.
pub(super) fn cidr(word: &str) -> Result<IpNet, Failure> {
    calico_classic::net(word).ok_or_else(|| {
        Failure::new(format!("Invalid CIDR specified {word}")).hint("a CIDR is written as 192.168.0.0/16 or fd00::/64")
    })
}

/// The networks that together are the range, as few as possible.
pub(super) fn range(start: &str, end: &str) -> Result<Vec<IpNet>, Failure> {
    let address = |word: &str, what: &str| {
        word.parse::<IpAddr>().map_err(|_| {
            Failure::new(format!("Invalid {what} specified.")).because(format!("{word:?} is no IPv4 or IPv6 address"))
        })
    };
    let (start, end) = match (address(start, "START_IP"), address(end, "END_IP")) {
        (Ok(start), Ok(end)) => (start, end),
        (start, end) => {
            let faults = start.err().into_iter().chain(end.err()).collect();
            return Err(Failure::together(faults).expect("one of the two is a failure"));
        }
    };
    if start.is_ipv4() == end.is_ipv4() && start >= end {
        return Err(Failure::new("START_IP must be a smaller ip address than END_IP"));
    }
    match (start, end) {
        (IpAddr::V4(start), IpAddr::V4(end)) => Ok(Ipv4Subnets::new(start, end, 0).map(IpNet::V4).collect()),
        (IpAddr::V6(start), IpAddr::V6(end)) => Ok(Ipv6Subnets::new(start, end, 0).map(IpNet::V6).collect()),
        _ => Err(Failure::new("START_IP and END_IP must be the same ip version")),
    }
}

/// What pools shall be like, apart from their range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    nat_outgoing: bool,
    ipip: EncapMode,
    vxlan: EncapMode,
    disabled: bool,
    /// `None`: as it is, or the default of the family.
    block_size: Option<u8>,
}

impl Wanted {
    /// Reads the options.
    ///
    /// # Errors
    /// The block size is no number.
    pub(super) fn read(options: &PoolOptions) -> Result<Self, Failure> {
        let mode = |mode: Option<TunnelMode>| match mode {
            None => EncapMode::Never,
            Some(TunnelMode::Always) => EncapMode::Always,
            Some(TunnelMode::CrossSubnet) => EncapMode::CrossSubnet,
        };
        let number = |word: &String| {
            let digits = word.strip_prefix('/').unwrap_or(word);
            digits
                .parse::<u8>()
                .map_err(|_| Failure::new(format!("Invalid block size {word:?}.")).hint("it is a prefix length, as 26"))
        };
        Ok(Self {
            nat_outgoing: options.nat_outgoing,
            ipip: mode(options.ipip),
            vxlan: mode(options.vxlan),
            disabled: options.disabled,
            block_size: options.block_size.as_ref().map(number).transpose()?,
        })
    }

    /// True if traffic shall be carried in IP-in-IP.
    pub(super) fn is_ipip(&self) -> bool {
        self.ipip != EncapMode::Never
    }

    /// Why no pool of this range can be so.
    pub(super) fn fault(&self, cidr: IpNet) -> Option<Failure> {
        let (least, most, default) = if cidr.addr().is_ipv4() { (20, 32, 26) } else { (116, 128, 122) };
        if self.is_ipip() && !cidr.addr().is_ipv4() {
            return Some(Failure::new("IP in IP not supported for IPv6 pools").hint("for IPv6 use --vxlan"));
        }
        let size = self.block_size.unwrap_or(default);
        if !(least..=most).contains(&size) {
            let reason = format!("Invalid block size {size} for pool {cidr}: it must be {least} to {most}.");
            return Some(Failure::new(reason).hint("add IPv4 and IPv6 pools with different block sizes one by one"));
        }
        if cidr.prefix_len() > size && !self.disabled {
            let reason = format!(
                "An {} pool must have a prefix length of {size} or lower. Given: {cidr}. No pools added.",
                family(cidr)
            );
            let way_out = format!("with --block-size={} the blocks are small enough", cidr.prefix_len());
            return Some(if cidr.prefix_len() <= most {
                Failure::new(reason).hint(way_out)
            } else {
                Failure::new(reason)
            });
        }
        None
    }

    /// A new pool.
    pub(super) fn pool(&self, cidr: IpNet) -> IPPool {
        let mut pool =
            IPPool::new(name(cidr), IPPoolSpec { cidr, block_size: self.block_size, ..IPPoolSpec::default() });
        self.set(&mut pool.spec);
        pool
    }

    /// Gives a pool these options; its block size stays.
    pub(super) fn set(&self, spec: &mut IPPoolSpec) {
        spec.nat_outgoing = self.nat_outgoing;
        spec.ipip_mode = Some(self.ipip);
        spec.vxlan_mode = Some(self.vxlan);
        spec.disabled = self.disabled;
    }

    /// Why a pool that is there cannot be changed so.
    pub(super) fn fault_of_change(&self, pool: &IPPool) -> Option<Failure> {
        let present = pool.spec.block_prefix_len();
        let wanted = self.block_size.filter(|wanted| *wanted != present)?;
        let reason =
            format!("The block size of pool {} cannot be changed to {wanted}; it is {present}.", pool.spec.cidr);
        Some(Failure::new(reason).hint("remove the pool when nothing uses it any more, and add it anew"))
    }
}
