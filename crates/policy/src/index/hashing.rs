//! The hash of all tables of the engine that are looked into for each change.
//!
//! Keys are what users and workloads choose (labels, names, addresses), so nobody may be able to choose them alike: the
//! hash is seeded from the system's randomness, once per process and once more per table. SipHash, the standard
//! library's, was nearly a tenth of the time of a large cluster's snapshot; this one (a folded multiplication) is a
//! fraction of that. Nothing that leaves the engine may depend on the order of a table.

use std::{
    hash::{BuildHasher, RandomState},
    sync::LazyLock,
};

use foldhash::{
    SharedSeed,
    fast::{FoldHasher, SeedableRandomState},
};

/// A map with this hash.
pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, Hashing>;
/// A set with this hash.
pub(crate) type HashSet<K> = std::collections::HashSet<K, Hashing>;

/// The crate's own random seed is made of addresses and the time, which may be known.
static SHARED: LazyLock<SharedSeed> = LazyLock::new(|| SharedSeed::from_u64(random()));

/// How a table hashes its keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hashing(SeedableRandomState);

impl Default for Hashing {
    fn default() -> Self {
        Self(SeedableRandomState::with_seed(random(), &SHARED))
    }
}

impl BuildHasher for Hashing {
    type Hasher = FoldHasher;

    #[inline]
    fn build_hasher(&self) -> FoldHasher {
        self.0.build_hasher()
    }
}

/// The standard library has its keys from the system.
fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// Four bytes of a hash, to stand in a table beside the number of what it is the hash of: then a table that grows need
/// not look at each key again, which is a cache miss or two per entry and was a quarter of a large cluster's snapshot.
/// [`spread`](Self::spread) is what the table goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShortHash(u32);

impl ShortHash {
    /// Of a hash.
    #[inline]
    pub(super) fn of(hash: u64) -> Self {
        Self((hash ^ hash >> 32) as u32)
    }

    /// Eight bytes again: a table takes its groups from the lower ones and tells entries apart by the upper ones.
    #[inline]
    pub(super) fn spread(self) -> u64 {
        u64::from(self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}
