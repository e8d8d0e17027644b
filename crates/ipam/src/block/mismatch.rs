//! Why a release from a block is refused.

use std::net::IpAddr;

use crate::HandleId;

/// Why a release is refused: the caller acts on outdated knowledge, and the address may be somebody else's by now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// The address was assigned anew since.
    #[error("{address} was assigned anew since: its sequence number is {found}, not {expected}")]
    Sequence {
        /// The address.
        address: IpAddr,
        /// What the caller gave.
        expected: u64,
        /// What is stored.
        found: u64,
    },
    /// Another handle holds the address.
    #[error("{address} is held by {}, not by {expected}", found.as_ref().map_or("no handle", HandleId::as_str))]
    Handle {
        /// The address.
        address: IpAddr,
        /// What the caller gave.
        expected: HandleId,
        /// What is stored.
        found: Option<HandleId>,
    },
}

impl Mismatch {
    /// The address that was not released.
    pub fn address(&self) -> IpAddr {
        match self {
            Self::Sequence { address, .. } | Self::Handle { address, .. } => *address,
        }
    }
}
