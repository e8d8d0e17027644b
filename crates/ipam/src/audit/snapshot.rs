//! Everything that an audit looks at, read once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use calico_model::{
    IPPoolSpec, KindName, Node, NodeSpec, ResourceKey, Revision, WorkloadEndpoint, WorkloadEndpointSpec,
};
use calico_store::{Entry, Error};
use ipnet::IpNet;

use crate::{
    Affinity, AffinityKey, Block, Family, HANDLE_ROOT, Handle, HandleId, Ipam, error::AccessError, parse_address,
    parse_block_key,
};

/// Whose an address is according to what runs, not to what is allocated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// A host's tunnel device.
    Node(String),
    /// An endpoint: namespace and name.
    Workload(String, String),
    /// Set aside on a Windows host.
    Windows,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "Node({name})"),
            Self::Workload(namespace, name) => write!(f, "Workload({namespace}/{name})"),
            Self::Windows => f.write_str("Reserved for Windows"),
        }
    }
}

/// An address in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The address.
    pub address: IpAddr,
    /// Who uses it.
    pub user: User,
}

/// A block as it is stored, damaged or not.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredBlock {
    /// The prefix that its key says.
    pub cidr: IpNet,
    /// What can be read of it, or why nothing can.
    pub block: Result<Block, String>,
}

/// Pools, blocks, affinities, handles, and who uses addresses.
///
/// All of IPAM is read at one revision, and before the users are: an address that a workload gives back meanwhile may
/// look leaked, but then its sequence number has changed and it is not released for that; one that a workload gets
/// meanwhile is not seen at all. What cannot be told from a leak is an assignment whose endpoint is not stored yet,
/// so whoever acts on an audit locks the datastore first.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// In key order, IPv4 first.
    pub blocks: Vec<StoredBlock>,
    /// By key.
    pub affinities: BTreeMap<AffinityKey, Affinity>,
    /// By id, with the revision of the last write.
    pub handles: BTreeMap<HandleId, (Handle, Revision)>,
    /// By name: the range, and whether the pool is enabled.
    pub pools: Vec<(IpNet, bool)>,
    /// The hosts.
    pub nodes: BTreeSet<String>,
    /// Addresses of hosts' tunnels, by host.
    pub node_uses: Vec<Use>,
    /// Addresses of endpoints, in key order.
    pub workload_uses: Vec<Use>,
    /// Keys of IPAM and of pools whose values cannot be read, and why; blocks are not among them.
    pub unreadable: Vec<(String, String)>,
    /// Keys of nodes and endpoints whose values cannot be read, and why. What they use looks leaked, so nothing may
    /// be released while there are some.
    pub unreadable_users: Vec<(String, String)>,
}

impl Ipam {
    /// Reads everything that an audit looks at.
    ///
    /// # Errors
    /// The datastore's.
    pub async fn snapshot(&self) -> Result<Snapshot, AccessError> {
        let mut snapshot = Snapshot::default();
        for entry in self.kv().list("/calico/ipam/v2/").await?.entries {
            snapshot.add(&entry);
        }
        // In key order, IPv4 would be first by itself; this does not rely on it.
        snapshot.blocks.sort_by_key(|block| Family::of_net(block.cidr));
        let (pools, unreadable) = self.store().list::<IPPoolSpec>().await?;
        snapshot.unreadable.extend(unreadable.iter().map(|error| (key_of(error).to_owned(), error.to_string())));
        snapshot.pools = pools.iter().map(|pool| (pool.spec.cidr.trunc(), !pool.spec.disabled)).collect();
        let (nodes, unreadable) = self.store().list::<NodeSpec>().await?;
        // A node that cannot be read is a node all the same.
        let prefix = ResourceKey::prefix(KindName::Node);
        let names = unreadable.iter().filter_map(|error| key_of(error).strip_prefix(&prefix));
        snapshot.nodes.extend(names.map(str::to_owned));
        snapshot.note_unreadable(unreadable);
        for node in nodes {
            snapshot.nodes.insert(node.name().to_owned());
            let uses = tunnel_addresses(&node).into_iter();
            snapshot.node_uses.extend(uses.map(|address| Use { address, user: User::Node(node.name().to_owned()) }));
        }
        let (endpoints, unreadable) = self.store().list::<WorkloadEndpointSpec>().await?;
        snapshot.note_unreadable(unreadable);
        snapshot.workload_uses = endpoints.iter().flat_map(endpoint_uses).collect();
        Ok(snapshot)
    }
}

impl Snapshot {
    fn add(&mut self, entry: &Entry) {
        if let Some(cidr) = parse_block_key(&entry.key) {
            self.blocks.push(StoredBlock { cidr, block: Block::from_json_unchecked(&entry.value) });
            return;
        }
        let read = if let Some(id) = entry.key.strip_prefix(HANDLE_ROOT) {
            Handle::from_json(&entry.value).map(|handle| drop(self.handles.insert(id.into(), (handle, entry.revision))))
        } else if let Ok(key) = entry.key.parse::<AffinityKey>() {
            Affinity::from_json(&entry.value).map(|affinity| drop(self.affinities.insert(key, affinity)))
        } else {
            Ok(())
        };
        if let Err(cause) = read {
            self.unreadable.push((entry.key.clone(), cause));
        }
    }

    fn note_unreadable(&mut self, errors: Vec<Error>) {
        self.unreadable_users.extend(errors.iter().map(|error| (key_of(error).to_owned(), error.to_string())));
    }

    /// The blocks that can be read.
    pub fn readable_blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter_map(|stored| stored.block.as_ref().ok())
    }
}

/// The key of a value that cannot be read, empty for other errors.
fn key_of(error: &Error) -> &str {
    match error {
        Error::Corrupt { key, .. } => key,
        _ => "",
    }
}

/// The addresses of a host's tunnels, in the order in which upstream looks at them.
fn tunnel_addresses(node: &Node) -> Vec<IpAddr> {
    let spec = &node.spec;
    let wireguard = |member: &str| spec.extra.get("wireguard")?.get(member)?.as_str();
    let ipip = spec.bgp.as_ref().and_then(|bgp| bgp.ipv4_ipip_tunnel_addr.as_deref());
    let texts = [
        spec.ipv4_vxlan_tunnel_addr.as_deref(),
        spec.ipv6_vxlan_tunnel_addr.as_deref(),
        wireguard("interfaceIPv4Address"),
        wireguard("interfaceIPv6Address"),
        ipip,
    ];
    texts.into_iter().flatten().filter_map(address_of).collect()
}

fn endpoint_uses(endpoint: &WorkloadEndpoint) -> impl Iterator<Item = Use> + '_ {
    let namespace = endpoint.metadata.namespace.as_deref().unwrap_or_default();
    let user = User::Workload(namespace.to_owned(), endpoint.name().to_owned());
    let addresses = endpoint.spec.ip_networks.iter().filter_map(|text| address_of(text));
    addresses.map(move |address| Use { address, user: user.clone() })
}

/// The address of text that may have a prefix length behind it; `None` for none.
fn address_of(text: &str) -> Option<IpAddr> {
    let address = text.split('/').next().unwrap_or_default();
    if address.is_empty() {
        return None;
    }
    parse_address(address).inspect_err(|error| tracing::warn!(%text, %error, "not counted as an address in use")).ok()
}
