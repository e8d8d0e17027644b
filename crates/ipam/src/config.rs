//! The cluster's IPAM settings at `/calico/ipam/v2/config`.
//!
//! A missing *key* means the defaults of [`Config::default`]; a missing *member* of an existing object means zero,
//! so `{}` forbids claiming blocks. That is upstream's reading, and its writers omit members that are zero.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::wire::{self, is_zero};

/// Where the settings are stored.
pub const CONFIG_KEY: &str = "/calico/ipam/v2/config";

/// How many blocks a host may own when nothing says otherwise; a safeguard against runaway claims.
pub const DEFAULT_MAX_BLOCKS: usize = 20;

/// The settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Hosts use their own blocks only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict_affinity: bool,
    /// Hosts claim blocks by themselves when they need addresses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_allocate_blocks: bool,
    /// How many blocks a host may own per family; 0 for [`DEFAULT_MAX_BLOCKS`], negative for no limit.
    #[serde(default, rename = "maxBlocksPerHost", skip_serializing_if = "is_zero")]
    pub max_blocks_per_host: i64,
    /// `Enabled` or `Disabled`: virtual machines keep their addresses.
    #[serde(default, rename = "kubeVirtVMAddressPersistence", skip_serializing_if = "Option::is_none")]
    pub vm_address_persistence: Option<String>,
    /// How long a released address rests before it is used again, in seconds; 0 or negative for not at all.
    #[serde(default, rename = "ipCooldownSeconds", skip_serializing_if = "is_zero")]
    pub cooldown_seconds: i64,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Settings that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Hosts could neither claim blocks nor borrow from existing ones in time.
    #[error("without strict affinity, blocks must be allocated automatically: set one of the two")]
    NeitherStrictNorAuto,
    /// A host at its limit would borrow, so that the limit means nothing.
    #[error("a maximum of blocks per host needs strict affinity, otherwise hosts borrow beyond it")]
    MaxNeedsStrict,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            strict_affinity: false,
            auto_allocate_blocks: true,
            max_blocks_per_host: 0,
            vm_address_persistence: Some("Enabled".into()),
            cooldown_seconds: 0,
            extra: Map::new(),
        }
    }
}

impl Config {
    /// Reads stored settings.
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

    /// Whether the settings may be written.
    ///
    /// # Errors
    /// The contradiction.
    pub fn check(&self) -> Result<(), ConfigError> {
        match (self.strict_affinity, self.auto_allocate_blocks) {
            (false, false) => Err(ConfigError::NeitherStrictNorAuto),
            (false, true) if self.max_blocks_per_host > 0 => Err(ConfigError::MaxNeedsStrict),
            _ => Ok(()),
        }
    }

    /// How long released addresses rest.
    pub fn cooldown(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.cooldown_seconds).unwrap_or(0))
    }

    /// How many blocks a host may own, given what a request says; `None` for no limit. The smaller of the two
    /// when both are set.
    pub fn block_limit(&self, requested: Option<u32>) -> Option<usize> {
        let global = self.max_blocks_per_host;
        let limit = match requested.map(i64::from).filter(|requested| *requested > 0) {
            Some(requested) if global > 0 => requested.min(global),
            Some(requested) => requested,
            None => global,
        };
        if limit == 0 { Some(DEFAULT_MAX_BLOCKS) } else { usize::try_from(limit).ok() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn zero_members_are_omitted_and_missing_ones_are_zero() {
        let empty = Config::from_json(b"{}").unwrap();
        assert!(!empty.auto_allocate_blocks);
        assert_eq!(empty.to_json(), b"{}");
        let full = r#"{"strict_affinity":true,"auto_allocate_blocks":true,"maxBlocksPerHost":4,"kubeVirtVMAddressPersistence":"Enabled","ipCooldownSeconds":60,"new":1}"#;
        assert_eq!(Config::from_json(full.as_bytes()).unwrap().to_json(), full.as_bytes());
    }

    #[test]
    fn contradictions() {
        let config = |strict, auto, max| Config {
            strict_affinity: strict,
            auto_allocate_blocks: auto,
            max_blocks_per_host: max,
            ..Config::default()
        };
        assert_eq!(config(false, false, 0).check(), Err(ConfigError::NeitherStrictNorAuto));
        assert_eq!(config(false, true, 1).check(), Err(ConfigError::MaxNeedsStrict));
        assert_eq!(config(false, true, -1).check(), Ok(()));
        assert_eq!(config(true, false, 1).check(), Ok(()));
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn limits_combine() {
        for (global, requested, limit) in [
            (0, None, Some(20)),
            (0, Some(0), Some(20)),
            (0, Some(30), Some(30)),
            (4, None, Some(4)),
            (4, Some(2), Some(2)),
            (4, Some(9), Some(4)),
            (-1, None, None),
            (-1, Some(3), Some(3)),
        ] {
            let config = Config { max_blocks_per_host: global, ..Config::default() };
            assert_eq!(config.block_limit(requested), limit, "{global} {requested:?}");
        }
    }

    #[test]
    fn negative_cooldowns_mean_none() {
        assert_eq!(Config { cooldown_seconds: -1, ..Config::default() }.cooldown(), Duration::ZERO);
        assert_eq!(Config { cooldown_seconds: 60, ..Config::default() }.cooldown(), Duration::from_secs(60));
    }
}
