//! Names of kernel objects.
//!
//! A name must be stable over restarts (what an earlier run made is recognised by it), must not collide however the
//! names that people chose look, and should be readable in `nft list ruleset`. So a name that is plain text already
//! is used as it is, everything else becomes a hash; the hashed form starts with `_`, which no plain form does.

use sha2::{Digest, Sha256};

use calico_policy::instruction::{PolicyId, PolicyKind, ProfileId, SetId};

/// Ingress is traffic to the endpoint, egress from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Direction {
    /// To the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

impl Direction {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// One letter, as in chain names.
    pub(crate) fn letter(self) -> char {
        match self {
            Self::Ingress => 'i',
            Self::Egress => 'e',
        }
    }

    /// The word for people.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// 96 bits of SHA-256 in hex: names are chosen by people whom we do not trust, so a collision must not be found by
/// trying, which 48 bits of work per pair make pointless.
pub(crate) fn digest(parts: &[&[u8]]) -> String {
    use std::fmt::Write;
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().take(12).fold(String::with_capacity(24), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Letters, digits, `-` and `.` as resources' names have them, not too long.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    (1..=64).contains(&name.len()) && name.chars().all(plain)
}

/// The chain of a policy's or profile's rules in one direction: `p` profile, `g` global policy, `n` namespaced policy;
/// with `q` before it if it never answers what it denies.
pub(crate) fn list_chain(list: &ListId, direction: Direction, quiet: bool) -> String {
    let quiet = if quiet { "q" } else { "" };
    let letter = direction.letter();
    let rest = |names: &[&str]| match names.iter().all(|name| is_plain(name)) {
        true => names.join("/"),
        false => format!("_{}", digest(&names.iter().map(|name| name.as_bytes()).collect::<Vec<_>>())),
    };
    match list {
        ListId::Profile(ProfileId(name)) => format!("{quiet}p{letter}-{}", rest(&[name])),
        ListId::Policy(PolicyId { kind: PolicyKind::Global, name, .. }) => {
            format!("{quiet}g{letter}-{}", rest(&[name]))
        }
        ListId::Policy(PolicyId { kind: PolicyKind::Namespaced, namespace, name }) => {
            format!("{quiet}n{letter}-{}", rest(&[namespace, name]))
        }
    }
}

/// Something with rules of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ListId {
    /// A policy.
    Policy(PolicyId),
    /// A profile.
    Profile(ProfileId),
}

/// A set of named ports.
pub(crate) fn port_set(id: &SetId) -> String {
    set_name('m', id)
}

/// The set of a selector: `h` while it holds single addresses only, `i` with networks.
pub(crate) fn selector_set(id: &SetId, interval: bool) -> String {
    set_name(if interval { 'i' } else { 'h' }, id)
}

fn set_name(kind: char, id: &SetId) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match id.0.split_once(':') {
        Some((class, rest))
            if (1..=8).contains(&class.len())
                && class.chars().all(|c| c.is_ascii_lowercase())
                && (1..=80).contains(&rest.len())
                && rest.chars().all(plain) =>
        {
            format!("{kind}-{class}.{rest}")
        }
        _ => format!("{kind}-_{}", digest(&[id.0.as_bytes()])),
    }
}

/// A set named by its content, shared by all rules that list the same members.
pub(crate) fn literal_set(class: char, ranges: &[crate::family::Range]) -> String {
    let mut bytes = Vec::with_capacity(ranges.len() * 32);
    for (first, last) in ranges {
        bytes.extend_from_slice(&first.to_be_bytes());
        bytes.extend_from_slice(&last.to_be_bytes());
    }
    format!("{class}-{}", digest(&[&bytes]))
}

/// Text that is safe in a comment which other programs print between double quotes, cut to what nft shows.
pub(crate) fn comment(text: &str) -> String {
    const MOST: usize = 120;
    let mut clean: String =
        text.chars().map(|c| if c.is_ascii_graphic() && c != '"' && c != '\\' || c == ' ' { c } else { '?' }).collect();
    if clean.len() > MOST {
        // Beginning and end: the end of our comments says which rule it is.
        let tail = clean.split_off(clean.len() - 50);
        clean.truncate(MOST - 50 - 2);
        clean.push_str("..");
        clean.push_str(&tail);
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(name: &str) -> String {
        list_chain(&ListId::Profile(ProfileId(name.to_owned())), Direction::Ingress, false)
    }

    fn policy(kind: PolicyKind, namespace: &str, name: &str) -> String {
        let id = PolicyId { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        list_chain(&ListId::Policy(id), Direction::Egress, true)
    }

    #[test]
    fn plain_names_stay_readable_and_others_cannot_collide_with_them() {
        assert_eq!(profile("prof-a"), "pi-prof-a");
        assert_eq!(profile("kns.default"), "pi-kns.default");
        assert_eq!(policy(PolicyKind::Global, "", "default.web"), "qge-default.web");
        assert_eq!(policy(PolicyKind::Namespaced, "prod", "web"), "qne-prod/web");
        let hashed = profile("PROF A");
        assert!(hashed.starts_with("pi-_") && hashed.len() == 4 + 24, "{hashed}");
        assert_ne!(hashed, profile(&hashed[3..]), "a profile named like a hash gets a hash of its own");
        assert_ne!(policy(PolicyKind::Namespaced, "A", "b"), policy(PolicyKind::Namespaced, "", "Ab"));
        assert_eq!(selector_set(&SetId("s:Ab_-9".into()), false), "h-s.Ab_-9");
        assert_eq!(selector_set(&SetId("s:Ab_-9".into()), true), "i-s.Ab_-9");
        assert_eq!(port_set(&SetId("n:Ab_-9".into())), "m-n.Ab_-9");
        assert!(selector_set(&SetId("weird id".into()), true).starts_with("i-_"));
    }

    #[test]
    fn comments_are_harmless_and_short() {
        assert_eq!(comment("a\"b\\c\nd\u{e9}"), "a?b?c?d?");
        let long = format!("{} ingress[7]", "x".repeat(300));
        assert_eq!(comment(&long).len(), 120);
        assert!(comment(&long).ends_with("ingress[7]"));
    }
}
