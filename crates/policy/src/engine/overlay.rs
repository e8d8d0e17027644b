//! How addresses of VXLAN pools on other hosts are reached: this host's tunnels, the other hosts' tunnel end points,
//! and a route for each block and each borrowed address.
//!
//! A route follows from a block and from the node that has it, so a change of a block costs one look at this block;
//! changes of nodes, pools and settings are rare, and cost a look at all blocks. Blocks are IPAM's; they are needed only
//! while a pool uses VXLAN ([`Overlay::wants_blocks`]).
//!
//! What is missing makes no route: a node without address or tunnel address, a block whose owner has no Node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use calico_model::{EncapMode, IPPoolSpec, KindName, MacAddress, NodeSpec, ResourceKey};
use ipnet::IpNet;

use super::cluster::host_address;
use crate::{
    Problem,
    instruction::{ClusterRoute, Instruction, Tunnel, Tunnels, Vtep},
};

/// Who holds the addresses of a block, as far as routes are concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockHolders {
    /// The host that the block belongs to; `None` for one that nobody owns (any more).
    pub owner: Option<String>,
    /// Addresses that hosts other than the owner hold.
    pub elsewhere: Vec<(IpAddr, String)>,
}

/// What Felix' settings say of tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parameters {
    /// `None`: no VXLAN.
    pub(super) port: Option<u16>,
    pub(super) vni: u32,
    /// By family, IPv4 first.
    pub(super) mtu: [Option<u32>; 2],
}

/// What is kept of a node in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct End {
    /// With the length of its subnet's prefix.
    host: Option<IpNet>,
    tunnel: Option<IpAddr>,
    mac: Option<MacAddress>,
}

type Ends = [End; 2];

#[derive(Default)]
pub(super) struct Overlay {
    /// Pools with VXLAN, by name.
    pools: BTreeMap<String, (IpNet, EncapMode)>,
    /// Pools with IP-in-IP.
    ipip: BTreeSet<String>,
    nodes: BTreeMap<String, Ends>,
    blocks: BTreeMap<IpNet, BlockHolders>,
    /// Everything may have changed.
    all: bool,
    dirty: BTreeSet<IpNet>,
    /// VXLAN was switched off as of the last flush.
    disabled: bool,
    /// The routes that each block asks for. Blocks may overlap, if pools once had other block sizes.
    asked: BTreeMap<IpNet, BTreeMap<IpNet, ClusterRoute>>,
    /// By destination, the blocks that ask for a route there.
    claims: BTreeMap<IpNet, BTreeSet<IpNet>>,
    /// Blocks whose owner cannot be reached through a tunnel, and the owner.
    lacking: BTreeMap<IpNet, String>,
    sent: Sent,
}

/// What the dataplane has.
#[derive(Default)]
struct Sent {
    tunnels: Tunnels,
    vteps: BTreeMap<IpAddr, Vtep>,
    routes: BTreeMap<IpNet, ClusterRoute>,
}

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

fn parsed(text: Option<&String>, v4: bool) -> Option<IpAddr> {
    text?.parse().ok().filter(|address: &IpAddr| address.is_ipv4() == v4)
}

impl Overlay {
    pub(super) fn set_pool(&mut self, name: &str, spec: Option<&IPPoolSpec>) {
        let is_on = |mode: Option<EncapMode>| mode.filter(|mode| *mode != EncapMode::Never);
        let pool = spec.and_then(|spec| Some((spec.cidr.trunc(), is_on(spec.vxlan_mode)?)));
        if self.pools.get(name) != pool.as_ref() {
            self.pools.remove(name);
            self.pools.extend(pool.map(|pool| (name.to_owned(), pool)));
            self.all = true;
        }
        if spec.is_some_and(|spec| is_on(spec.ipip_mode).is_some()) {
            self.ipip.insert(name.to_owned());
        } else {
            self.ipip.remove(name);
        }
    }

    pub(super) fn set_node(&mut self, name: &str, spec: Option<&NodeSpec>) {
        let ends = spec.map(|spec| {
            // The kernel takes no other; the computed one is what all hosts then agree on.
            let mac = |text: Option<&String>| text.and_then(|text| text.parse().ok()).filter(MacAddress::is_unicast);
            [
                End {
                    host: host_address(spec, true),
                    tunnel: parsed(spec.ipv4_vxlan_tunnel_addr.as_ref(), true),
                    mac: mac(spec.vxlan_tunnel_mac_addr.as_ref()),
                },
                End {
                    host: host_address(spec, false),
                    tunnel: parsed(spec.ipv6_vxlan_tunnel_addr.as_ref(), false),
                    mac: mac(spec.vxlan_tunnel_mac_addr_v6.as_ref()),
                },
            ]
        });
        if self.nodes.get(name) != ends.as_ref() {
            self.nodes.remove(name);
            self.nodes.extend(ends.map(|ends| (name.to_owned(), ends)));
            self.all = true;
        }
    }

    pub(super) fn set_block(&mut self, block: IpNet, holders: Option<BlockHolders>) {
        if self.blocks.get(&block) != holders.as_ref() {
            self.blocks.remove(&block);
            self.blocks.extend(holders.map(|holders| (block, holders)));
            self.dirty.insert(block);
        }
    }

    pub(super) fn forget_blocks(&mut self) {
        self.blocks.clear();
        self.all = true;
    }

    /// True as long as a pool uses VXLAN.
    pub(super) fn wants_blocks(&self) -> bool {
        !self.pools.is_empty()
    }

    pub(super) fn flush(&mut self, node: &str, parameters: &Parameters) -> Vec<Instruction> {
        let mut out = Vec::new();
        let tunnels = self.tunnels(node, parameters);
        if tunnels != self.sent.tunnels {
            self.sent.tunnels = tunnels.clone();
            self.all = true;
            out.push(Instruction::Tunnels(tunnels));
        }
        self.all |= std::mem::replace(&mut self.disabled, parameters.port.is_none()) != parameters.port.is_none();
        let all = std::mem::take(&mut self.all);
        let mut dirty = std::mem::take(&mut self.dirty);
        let mut gone = Vec::new();
        if all {
            let vteps = self.vteps(node);
            let present = std::mem::replace(&mut self.sent.vteps, vteps);
            gone.extend(present.keys().filter(|address| !self.sent.vteps.contains_key(address)).copied());
            let changed = self.sent.vteps.values().filter(|vtep| present.get(&vtep.address) != Some(vtep));
            out.extend(changed.map(|vtep| Instruction::VtepUpdate { vtep: *vtep }));
            dirty.extend(self.blocks.keys().chain(self.asked.keys()));
        }
        let touched: BTreeSet<IpNet> = dirty.into_iter().flat_map(|block| self.ask(block, node, parameters)).collect();
        out.extend(touched.into_iter().filter_map(|destination| self.settle(destination)));
        out.extend(gone.into_iter().map(|address| Instruction::VtepRemove { address }));
        out
    }

    /// Pools whose traffic does not come through, and nodes that cannot be reached.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let pool = |name: &String| Problem {
            object: ResourceKey::new(KindName::IPPool, None, name),
            reason: "spec.ipipMode: IP-in-IP is not supported, so this pool's addresses are not reached from other \
                     hosts; set it to Never, and vxlanMode if the hosts' network does not know the pool"
                .to_owned(),
        };
        let mut problems: Vec<Problem> = self.ipip.iter().map(pool).collect();
        let unserved = self.pools.keys().filter(|_| self.disabled).map(|name| Problem {
            object: ResourceKey::new(KindName::IPPool, None, name),
            reason: "spec.vxlanMode: vxlanEnabled is false in the FelixConfiguration of this host, so the pool's \
                     addresses on other hosts are not reached; take that out"
                .to_owned(),
        });
        problems.extend(unserved);
        let owners: BTreeSet<(&str, usize)> =
            self.lacking.iter().map(|(block, owner)| (owner.as_str(), family(block.addr()))).collect();
        for (owner, at) in owners {
            let version = if at == 0 { "IPv4" } else { "IPv6" };
            let reason = match self.nodes.get(owner).map(|ends| &ends[at]) {
                Some(End { host: None, .. }) => format!(
                    "spec.bgp: it has no {version} address, and {version} blocks of VXLAN pools are its own; start it \
                     with such an address"
                ),
                Some(End { tunnel: None, .. }) => format!(
                    "it has no {version} VXLAN tunnel address (yet), so its blocks of VXLAN pools are not reached; \
                     calico-node on it takes one"
                ),
                _ => continue,
            };
            problems.push(Problem { object: ResourceKey::new(KindName::Node, None, owner), reason });
        }
        problems
    }

    /// This host's own ends.
    fn tunnels(&self, node: &str, parameters: &Parameters) -> Tunnels {
        let own = |at: usize| {
            let used = self.pools.values().any(|(cidr, _)| family(cidr.addr()) == at);
            let end = self.nodes.get(node)?.get(at).filter(|_| used)?;
            Some(Tunnel {
                address: end.tunnel?,
                mac: end.mac.unwrap_or_else(|| MacAddress::of_vxlan(node, at == 1)),
                local: end.host?.addr(),
                port: parameters.port?,
                vni: parameters.vni,
                mtu: parameters.mtu[at],
            })
        };
        Tunnels { v4: own(0), v6: own(1) }
    }

    /// The other hosts' ends, in the families in which this host has one. Of several nodes with one address the first
    /// by name has it.
    fn vteps(&self, node: &str) -> BTreeMap<IpAddr, Vtep> {
        let mut found = BTreeMap::new();
        for (name, ends) in self.nodes.iter().filter(|(name, _)| *name != node) {
            for (at, end) in ends.iter().enumerate() {
                let (Some(address), Some(host)) = (end.tunnel, end.host) else { continue };
                if self.sent.tunnels.for_address(address).is_none_or(|own| own.address == address) {
                    continue;
                }
                let mac = end.mac.unwrap_or_else(|| MacAddress::of_vxlan(name, at == 1));
                found.entry(address).or_insert(Vtep { address, mac, host: host.addr() });
            }
        }
        found
    }

    /// How addresses of the pool that a block is part of travel.
    fn mode(&self, block: &IpNet) -> Option<EncapMode> {
        let pools = self.pools.values().filter(|(cidr, _)| cidr.contains(block));
        pools.max_by_key(|(cidr, _)| cidr.prefix_len()).map(|(_, mode)| *mode)
    }

    /// Computes anew which routes a block asks for. Returns the destinations that may have changed.
    fn ask(&mut self, block: IpNet, node: &str, parameters: &Parameters) -> BTreeSet<IpNet> {
        self.lacking.remove(&block);
        if let Some(owner) = self.lacks(&block) {
            self.lacking.insert(block, owner.to_owned());
        }
        let wanted = self.routes(block, node, parameters).unwrap_or_default();
        let before = self.asked.remove(&block).unwrap_or_default();
        for destination in before.keys().filter(|destination| !wanted.contains_key(destination)) {
            if let Some(blocks) = self.claims.get_mut(destination) {
                blocks.remove(&block);
                if blocks.is_empty() {
                    self.claims.remove(destination);
                }
            }
        }
        for destination in wanted.keys() {
            self.claims.entry(*destination).or_default().insert(block);
        }
        let touched = wanted.keys().chain(before.keys()).copied().collect();
        if !wanted.is_empty() {
            self.asked.insert(block, wanted);
        }
        touched
    }

    /// The owner of a block of a VXLAN pool, if its Node lacks what a tunnel to it needs.
    fn lacks(&self, block: &IpNet) -> Option<&str> {
        self.mode(block)?;
        let owner = self.blocks.get(block)?.owner.as_deref()?;
        let end = &self.nodes.get(owner)?[family(block.addr())];
        (end.host.is_none() || end.tunnel.is_none()).then_some(owner)
    }

    fn routes(&self, block: IpNet, node: &str, parameters: &Parameters) -> Option<BTreeMap<IpNet, ClusterRoute>> {
        parameters.port?;
        let mode = self.mode(&block)?;
        let holders = self.blocks.get(&block)?;
        let mut routes = BTreeMap::new();
        let is_single = block.prefix_len() == block.max_prefix_len();
        match holders.owner.as_deref() {
            Some(owner) if owner == node && !is_single => drop(routes.insert(block, ClusterRoute::Unassigned)),
            Some(owner) => {
                routes.extend(self.way(owner, family(block.addr()), mode, node).map(|route| (block, route)));
            }
            None => {}
        }
        for (address, holder) in &holders.elsewhere {
            let way = self.way(holder, family(*address), mode, node);
            routes.extend(way.map(|route| (IpNet::from(*address), route)));
        }
        Some(routes)
    }

    /// The way to another host; `None` to this one, and if there is none.
    fn way(&self, to: &str, at: usize, mode: EncapMode, node: &str) -> Option<ClusterRoute> {
        if to == node {
            return None;
        }
        let end = &self.nodes.get(to)?[at];
        let host = end.host?.addr();
        let own = self.nodes.get(node).and_then(|ends| ends[at].host);
        let own = own.filter(|own| own.contains(&host) && own.addr() != host);
        if let Some(own) = own.filter(|_| mode == EncapMode::CrossSubnet) {
            return Some(ClusterRoute::Direct { via: host, local: own.addr() });
        }
        let via = end.tunnel?;
        // Not the end of another node that has the same address.
        self.sent.vteps.get(&via).filter(|vtep| vtep.host == host).map(|_| ClusterRoute::Tunnel { via })
    }

    /// What has changed of a destination. Of several blocks the smallest decides.
    fn settle(&mut self, destination: IpNet) -> Option<Instruction> {
        let claims = self.claims.get(&destination);
        let winner = claims.and_then(|blocks| blocks.iter().max_by_key(|block| (block.prefix_len(), **block)));
        let wanted = winner.and_then(|block| self.asked.get(block)?.get(&destination)).copied();
        let present = match wanted {
            Some(route) => self.sent.routes.insert(destination, route),
            None => self.sent.routes.remove(&destination),
        };
        match wanted {
            _ if wanted == present => None,
            Some(route) => Some(Instruction::RouteUpdate { destination, route }),
            None => Some(Instruction::RouteRemove { destination }),
        }
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> [(&'static str, usize); 10] {
        let Self { pools, ipip, nodes, blocks, all: _, dirty, disabled: _, asked, claims, lacking, sent } = self;
        [
            ("VXLAN pools", pools.len()),
            ("IP-in-IP pools", ipip.len()),
            ("nodes", nodes.len()),
            ("blocks", blocks.len()),
            ("dirty blocks", dirty.len()),
            ("asked", asked.len()),
            ("claims", claims.len()),
            ("lacking", lacking.len()),
            ("end points", sent.vteps.len()),
            ("routes", sent.routes.len()),
        ]
    }
}

#[cfg(test)]
#[path = "overlay_tests.rs"]
mod tests;
