//! Affinities: which host claims which block.
//!
//! The affinity is an index from host to blocks and the first step of every claim; whether the host owns the block
//! is decided by the block alone. A claim goes `pending`, block, `confirmed`; giving up goes `pendingDeletion`, block,
//! key deleted. Whoever finds another state than `confirmed` finishes or undoes what was begun.
//!
//! ```text
//!             create                block is ours             give up
//!  (no key) ────────► pending ──────────────────► confirmed ─────────► pendingDeletion ──► (no key)
//!      ▲                 │                                                    │
//!      └─────────────────┘ block is another's           revived by a claim ───┘ (back to pending)
//! ```

use std::{convert::Infallible, fmt, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::{Family, wire};

/// What kind of thing claims blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerKind {
    /// A host; its blocks are routed to it.
    Host,
    /// A load balancer: no host, nothing is routed.
    Virtual,
}

impl OwnerKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Virtual => "virtual",
        }
    }
}

/// Who claims a block; printed as in a block's `affinity`: `host:node1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// Host or load balancer.
    pub kind: OwnerKind,
    /// Its name, not empty.
    pub name: String,
}

/// A block's `affinity` that names nobody known here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an owner (host:<name> or virtual:<name>)")]
pub struct OwnerError(String);

impl Owner {
    /// A host.
    pub fn host(name: impl Into<String>) -> Self {
        Self { kind: OwnerKind::Host, name: name.into() }
    }

    /// A load balancer.
    pub fn load_balancer(name: impl Into<String>) -> Self {
        Self { kind: OwnerKind::Virtual, name: name.into() }
    }

    /// The prefix of all keys of this owner's affinities, with its trailing slash: what confd watches.
    pub fn affinity_prefix(&self) -> String {
        format!("/calico/ipam/v2/{}/{}/", self.kind.as_str(), self.name)
    }

    /// The prefix of the keys of one family.
    pub(crate) fn family_prefix(&self, family: Family) -> String {
        format!("{}{}/block/", self.affinity_prefix(), family.segment())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.name)
    }
}

impl FromStr for Owner {
    type Err = OwnerError;

    fn from_str(text: &str) -> Result<Self, OwnerError> {
        match text.split_once(':') {
            Some(("host", name)) if !name.is_empty() => Ok(Self::host(name)),
            Some(("virtual", name)) if !name.is_empty() => Ok(Self::load_balancer(name)),
            _ => Err(OwnerError(text.to_owned())),
        }
    }
}

/// The place of one affinity: `/calico/ipam/v2/host/<host>/ipv4/block/10.0.0.0-26`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityKey {
    /// Who claims.
    pub owner: Owner,
    /// The block's prefix.
    pub block: IpNet,
}

/// A string that is not the key of an affinity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not the key of a block affinity")]
pub struct AffinityKeyError(String);

impl AffinityKey {
    /// A key from its parts.
    pub fn new(owner: &Owner, block: IpNet) -> Self {
        Self { owner: owner.clone(), block }
    }
}

impl fmt::Display for AffinityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = self.owner.family_prefix(Family::of_net(self.block));
        write!(f, "{prefix}{}-{}", self.block.addr(), self.block.prefix_len())
    }
}

impl FromStr for AffinityKey {
    type Err = AffinityKeyError;

    fn from_str(key: &str) -> Result<Self, AffinityKeyError> {
        let parse = || {
            let (kind, rest) = key.strip_prefix("/calico/ipam/v2/")?.split_once('/')?;
            let mut segments = rest.split('/');
            let owner: Owner = format!("{kind}:{}", segments.next()?).parse().ok()?;
            let family = segments.next()?;
            let block = segments.next().filter(|segment| *segment == "block").and(segments.next())?;
            let block: IpNet = block.replacen('-', "/", 1).parse().ok()?;
            let sound =
                segments.next().is_none() && family == Family::of_net(block).segment() && block == block.trunc();
            sound.then_some(Self { owner, block })
        };
        parse().ok_or_else(|| AffinityKeyError(key.to_owned()))
    }
}

/// How far a claim has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AffinityState {
    /// Begun; the block may not exist or be another's. Routing ignores it.
    #[default]
    Pending,
    /// The block exists and is the host's.
    Confirmed,
    /// Being given up.
    PendingDeletion,
    /// Written before there were states; counts as confirmed.
    Legacy,
    /// A state not known here; counts as not confirmed.
    Other(String),
}

impl AffinityState {
    fn as_str(&self) -> &str {
        match self {
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::PendingDeletion => "pendingDeletion",
            Self::Legacy => "",
            Self::Other(state) => state,
        }
    }
}

impl fmt::Display for AffinityState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Legacy { "confirmed" } else { self.as_str() })
    }
}

impl FromStr for AffinityState {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "pending" => Self::Pending,
            "confirmed" => Self::Confirmed,
            "pendingDeletion" => Self::PendingDeletion,
            "" => Self::Legacy,
            other => Self::Other(other.to_owned()),
        })
    }
}

impl Serialize for AffinityState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for AffinityState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(text.parse().unwrap_or_else(|never: Infallible| match never {}))
    }
}

/// One affinity as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Affinity {
    /// How far the claim has come.
    #[serde(default = "legacy")]
    pub state: AffinityState,
    /// A workaround of another datastore; always false here.
    #[serde(default)]
    pub deleted: bool,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn legacy() -> AffinityState {
    AffinityState::Legacy
}

impl Affinity {
    /// The first step of a claim.
    pub fn pending() -> Self {
        Self { state: AffinityState::Pending, deleted: false, extra: Map::new() }
    }

    /// Reads a stored affinity. The empty value is one from before there were states.
    ///
    /// # Errors
    /// The JSON error.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Ok(Self { state: AffinityState::Legacy, ..Self::pending() });
        }
        wire::decode(bytes)
    }

    /// The stored form.
    pub fn to_json(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// True if the block may be used and routed, provided that the block agrees.
    pub fn is_confirmed(&self) -> bool {
        matches!(self.state, AffinityState::Confirmed | AffinityState::Legacy)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_print_and_parse() {
        for (key, owner, block) in [
            ("/calico/ipam/v2/host/node1/ipv4/block/10.0.0.64-26", Owner::host("node1"), "10.0.0.64/26"),
            (
                "/calico/ipam/v2/host/n.example.org/ipv6/block/fd00::40-122",
                Owner::host("n.example.org"),
                "fd00::40/122",
            ),
            ("/calico/ipam/v2/virtual/lb/ipv4/block/10.0.0.0-32", Owner::load_balancer("lb"), "10.0.0.0/32"),
        ] {
            let parsed: AffinityKey = key.parse().unwrap();
            assert_eq!(parsed, AffinityKey::new(&owner, block.parse().unwrap()));
            assert_eq!(parsed.to_string(), key);
            assert!(key.starts_with(&owner.affinity_prefix()));
        }
        for bad in [
            "/calico/ipam/v2/host/node1",
            "/calico/ipam/v2/host/node1/ipv4/block/10.0.0.1-26",
            "/calico/ipam/v2/host/node1/ipv6/block/10.0.0.0-26",
            "/calico/ipam/v2/host/node1/ipv4/blocks/10.0.0.0-26",
            "/calico/ipam/v2/host/node1/ipv4/block/10.0.0.0-26/x",
            "/calico/ipam/v2/host//ipv4/block/10.0.0.0-26",
            "/calico/ipam/v2/handle/node1/ipv4/block/10.0.0.0-26",
            "/calico/ipam/v2/host/node1/ipv4/block/10.0.0.0",
        ] {
            assert!(bad.parse::<AffinityKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_does_not_match_longer_host_names() {
        let key = AffinityKey::new(&Owner::host("node10"), "10.0.0.0/26".parse().unwrap()).to_string();
        assert!(!key.starts_with(&Owner::host("node1").affinity_prefix()));
    }

    #[test]
    fn values() {
        assert_eq!(Affinity::pending().to_json(), br#"{"state":"pending","deleted":false}"#);
        assert!(Affinity::from_json(b"").unwrap().is_confirmed());
        assert!(Affinity::from_json(br#"{"state":"","deleted":false}"#).unwrap().is_confirmed());
        assert!(Affinity::from_json(b"{}").unwrap().is_confirmed());
        assert!(!Affinity::from_json(br#"{"state":"pendingDeletion"}"#).unwrap().is_confirmed());
        assert!(Affinity::from_json(b"nonsense").is_err());
        let newer = br#"{"state":"half","deleted":false,"reason":"x"}"#;
        let parsed = Affinity::from_json(newer).unwrap();
        assert!(!parsed.is_confirmed());
        assert_eq!(parsed.to_json(), newer);
    }

    #[test]
    fn owners_of_other_kinds_are_refused() {
        for bad in ["node1", "host:", "rack:a", ""] {
            assert!(bad.parse::<Owner>().is_err(), "{bad}");
        }
    }
}
