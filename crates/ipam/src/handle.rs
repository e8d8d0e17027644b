//! Handles: who holds addresses, as an index from an id that the caller chose to blocks.
//!
//! The index is raised before a block is written and lowered after a release, so it may count too much and never
//! too little; that a handle names a block means "look there", the number means nothing. A handle whose last count
//! is gone is deleted.

use std::{collections::BTreeMap, fmt};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::wire::{self, null_is_empty};

/// The prefix of handle keys.
pub const HANDLE_ROOT: &str = "/calico/ipam/v2/handle/";

/// The id of a handle, unique per workload. The empty id means "no handle" wherever one may be given.
///
/// Whatever follows a carriage return is cut: an old migration stored such ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandleId(String);

impl HandleId {
    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for "no handle".
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where the handle is stored.
    pub fn key(&self) -> String {
        format!("{HANDLE_ROOT}{}", self.0)
    }
}

impl From<&str> for HandleId {
    fn from(id: &str) -> Self {
        Self(id.split('\r').next().unwrap_or_default().to_owned())
    }
}

impl From<String> for HandleId {
    fn from(id: String) -> Self {
        id.as_str().into()
    }
}

impl fmt::Display for HandleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One handle as it is stored; the id is in the key only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Handle {
    /// How many addresses per block were asked for and not yet released, by the block's prefix as text.
    #[serde(default, rename = "block", deserialize_with = "null_is_empty")]
    counts: BTreeMap<String, i64>,
    /// A workaround of another datastore; always false here.
    #[serde(default)]
    pub deleted: bool,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Handle {
    /// Reads a stored handle.
    ///
    /// # Errors
    /// The JSON error.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        wire::decode(bytes)
    }

    /// The stored form.
    pub fn to_json(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// The blocks in which the handle may hold addresses. Keys that are no prefixes are left out.
    pub fn blocks(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.counts.keys().filter_map(|block| block.parse().ok())
    }

    /// The count for a block.
    pub fn count(&self, block: IpNet) -> i64 {
        self.counts.get(&block.to_string()).copied().unwrap_or(0)
    }

    /// True if no block is left and the key is to be deleted.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub(crate) fn increment(&mut self, block: IpNet, count: usize) {
        let total = self.counts.entry(block.to_string()).or_default();
        *total = total.saturating_add_unsigned(count as u64);
    }

    /// Lowers a count, and drops the block at zero. Returns false and changes nothing if there is less than that:
    /// the handle counts too little already, and dropping the block could lose addresses.
    pub(crate) fn decrement(&mut self, block: IpNet, count: usize) -> bool {
        let key = block.to_string();
        let left = self.count(block).saturating_sub_unsigned(count as u64);
        match left {
            ..0 => return false,
            0 => drop(self.counts.remove(&key)),
            left => drop(self.counts.insert(key, left)),
        }
        true
    }

    /// Sets a count, and drops the block at zero. Returns whether it was another.
    pub(crate) fn set(&mut self, block: IpNet, count: usize) -> bool {
        let (key, count) = (block.to_string(), i64::try_from(count).unwrap_or(i64::MAX));
        let before = match count {
            0 => self.counts.remove(&key),
            count => self.counts.insert(key, count),
        };
        before != (count > 0).then_some(count)
    }

    /// Drops a block that no longer exists. Returns whether it was there.
    pub(crate) fn forget(&mut self, block: IpNet) -> bool {
        self.counts.remove(&block.to_string()).is_some()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn counts_go_up_and_down_and_never_below_zero() {
        let mut handle = Handle::default();
        handle.increment(net("10.10.0.8/29"), 2);
        handle.increment(net("fd00::40/122"), 1);
        handle.increment(net("10.10.0.16/29"), 1);
        let json = r#"{"block":{"10.10.0.16/29":1,"10.10.0.8/29":2,"fd00::40/122":1},"deleted":false}"#;
        assert_eq!(handle.to_json(), json.as_bytes());
        assert!(!handle.decrement(net("10.10.0.8/29"), 3));
        assert_eq!(handle.count(net("10.10.0.8/29")), 2);
        assert!(handle.decrement(net("10.10.0.8/29"), 2));
        assert!(!handle.decrement(net("10.10.0.8/29"), 1));
        assert!(handle.decrement(net("10.10.0.16/29"), 1));
        assert!(handle.forget(net("fd00::40/122")));
        assert!(!handle.forget(net("fd00::40/122")));
        assert!(handle.is_empty());
        assert_eq!(handle.to_json(), br#"{"block":{},"deleted":false}"#);
    }

    #[test]
    fn ids_end_at_a_carriage_return() {
        let handle = HandleId::from("net.c1\r\neth0");
        assert_eq!(handle.key(), "/calico/ipam/v2/handle/net.c1");
        assert!(HandleId::from("\r").is_empty());
    }

    #[test]
    fn unknown_members_and_odd_blocks_survive() {
        let json = br#"{"block":{"10.10.0.8/29":1,"odd":3},"deleted":false,"id":"x"}"#;
        let handle = Handle::from_json(json).unwrap();
        assert_eq!(handle.blocks().collect::<Vec<_>>(), [net("10.10.0.8/29")]);
        assert_eq!(handle.to_json(), json);
        assert!(Handle::from_json(br#"{"block":null}"#).unwrap().is_empty());
    }
}
