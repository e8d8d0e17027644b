//! Names that fit: 28 characters for a chain, 31 for a set.
//!
//! The dataplane's own names of chains and sets are longer. One that fits and has only harmless characters is used
//! behind our prefix as it is; every other one keeps its first characters, for people, and gets a hash. The two forms
//! differ by the `_` in front of the hash, which no name of the first form has, so that nobody can choose a name that
//! meets the hash of another.

use sha2::{Digest, Sha256};

use crate::family::Family;

/// What all our chains start with.
pub(crate) const CHAIN_PREFIX: &str = "cali-";
/// Longest chain name of iptables.
const CHAIN_LENGTH: usize = 28;
/// Longest set name of ipset.
const SET_LENGTH: usize = 31;
/// Characters of a hash: 96 bits, so that a collision is not found by trying.
pub(super) const HASH_LENGTH: usize = 16;

/// A chain of the dataplane as iptables knows it.
pub(super) fn chain(name: &str) -> String {
    fit(CHAIN_PREFIX, name, CHAIN_LENGTH)
}

/// A set of the dataplane as ipset knows it. `evasion` is 0, or tells a further name for the same set, for when a set
/// that is none of ours sits on the first.
pub(super) fn set(family: Family, name: &str, evasion: u32) -> String {
    match evasion {
        0 => fit(set_prefix(family), name, SET_LENGTH),
        number => fit(set_prefix(family), &format!("{name}_{number}"), SET_LENGTH),
    }
}

/// What all sets of a family start with.
pub(super) fn set_prefix(family: Family) -> &'static str {
    match family {
        Family::V4 => "cali40",
        Family::V6 => "cali60",
    }
}

fn fit(prefix: &str, name: &str, length: usize) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if name.len() + prefix.len() <= length && name.chars().all(plain) {
        return format!("{prefix}{name}");
    }
    let room = length - prefix.len() - HASH_LENGTH - 1;
    let head = name.chars().take(room).map(|c| if plain(c) { c } else { '-' });
    format!("{prefix}{}_{}", head.collect::<String>(), hash(&[name]))
}

/// 96 bits of SHA-256 over the parts, in letters, digits, `-` and `_`.
pub(super) fn hash(parts: &[&str]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    let mut text = String::with_capacity(HASH_LENGTH);
    for bytes in digest[..HASH_LENGTH / 4 * 3].chunks(3) {
        let bits = bytes.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        text.extend([18, 12, 6, 0].map(|shift| char::from(LETTERS[bits >> shift & 63])));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_kept_and_long_ones_are_cut_to_the_limit() {
        assert_eq!(chain("f-forward"), "cali-f-forward");
        assert_eq!(chain("pi-kns.default"), "cali-pi-kns.default");
        let long = chain("ee-0123456789abcdef01234567");
        assert!(long.len() == 28 && long.starts_with("cali-ee-012_"), "{long}");
        assert_eq!(set(Family::V4, "pools", 0), "cali40pools");
        let long = set(Family::V6, "h-s.AbCdEfGhIjKlMnOpQrStUvWxYz_", 0);
        assert!(long.len() == 31 && long.starts_with("cali60h-s.AbCd_"), "{long}");
    }

    #[test]
    fn nobody_can_choose_a_name_that_meets_another() {
        let long = chain("pi-a-profile-with-a-long-name");
        let forged = chain(&long[CHAIN_PREFIX.len()..]);
        assert_ne!(long, forged, "a name that looks like the hashed form is hashed itself");
        assert_ne!(chain("pi-a b"), chain("pi-a-b"));
        let names: Vec<String> = (0..3).map(|evasion| set(Family::V4, "pools", evasion)).collect();
        assert!(names[0] != names[1] && names[1] != names[2] && names.iter().all(|name| name.len() <= 31));
        assert_ne!(names[1], set(Family::V4, "pools_1", 0).replace("pools-1", "pools"), "{names:?}");
    }

    #[test]
    fn hashes_keep_the_boundaries_of_their_parts() {
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_eq!(hash(&["x"]).len(), HASH_LENGTH);
    }
}
