//! What an audit finds beside leaks: states that a process left which died on the way, and what should never be.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

/// One thing that is not as it should be. Serialised with a member `kind` for programs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum Finding {
    /// Several things use one address.
    #[error("{address} is used by {}: stop all of them but one", users.join(" and "))]
    DoubleUse {
        /// The address.
        address: IpAddr,
        /// Who uses it.
        users: Vec<String>,
    },
    /// Blocks overlap and hold the same address.
    #[error("{address} is allocated in the blocks {}", list(blocks))]
    DoubleAllocation {
        /// The address.
        address: IpAddr,
        /// The blocks.
        blocks: Vec<IpNet>,
    },
    /// A block whose contents contradict each other.
    #[error("block {block}: {}", faults.join("; "))]
    DamagedBlock {
        /// The block.
        block: IpNet,
        /// All that is wrong with it.
        faults: Vec<String>,
    },
    /// A block that no pool covers: its pool was removed.
    #[error("block {block} is in no pool; {in_use} of its addresses are in use")]
    Orphan {
        /// The block.
        block: IpNet,
        /// Allocated addresses.
        in_use: usize,
    },
    /// A block that nobody owns and nobody uses.
    #[error("block {block} has no owner and no address in use")]
    Abandoned {
        /// The block.
        block: IpNet,
    },
    /// A block whose owner has no affinity for it, so that the host neither announces nor uses it.
    #[error("block {block} is {owner}'s, but {owner} has no affinity for it")]
    NoAffinity {
        /// The block.
        block: IpNet,
        /// Its owner.
        owner: String,
    },
    /// An affinity for a block that does not exist.
    #[error("{owner} has an affinity ({state}) for {block}, and there is no such block")]
    NoBlock {
        /// The owner of the affinity.
        owner: String,
        /// The block.
        block: IpNet,
        /// The affinity's state.
        state: String,
    },
    /// An affinity for another's block.
    #[error("{owner} has an affinity ({state}) for {block}, which is {}", held_by(block_owner.as_deref()))]
    ForeignAffinity {
        /// The owner of the affinity.
        owner: String,
        /// The block.
        block: IpNet,
        /// The affinity's state.
        state: String,
        /// Who owns the block.
        block_owner: Option<String>,
    },
    /// A claim or a release that stopped half way.
    #[error("{owner} has an affinity for its own block {block} that is {state}, so the block is not routed")]
    Unfinished {
        /// The owner.
        owner: String,
        /// The block.
        block: IpNet,
        /// The affinity's state.
        state: String,
    },
    /// A host that owns blocks and is not in the datastore.
    #[error("{node} has blocks and is no node: {}", list(blocks))]
    NoNode {
        /// The host.
        node: String,
        /// Its blocks.
        blocks: Vec<IpNet>,
    },
    /// A handle whose count for a block is not what it holds there.
    #[error("handle {handle} counts {counted} in {block} and holds {held}")]
    WrongCount {
        /// The handle.
        handle: String,
        /// The block.
        block: IpNet,
        /// What the handle says.
        counted: i64,
        /// What the block says.
        held: usize,
    },
    /// A value that cannot be read.
    #[error("{key} cannot be read: {cause}")]
    Unreadable {
        /// The key.
        key: String,
        /// Why not.
        cause: String,
    },
}

fn list(blocks: &[IpNet]) -> String {
    blocks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn held_by(owner: Option<&str>) -> String {
    owner.map_or_else(|| "nobody's".to_owned(), |owner| format!("{owner}'s"))
}
