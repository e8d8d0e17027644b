//! The members of an address set, and which of them the kernel may hold.
//!
//! A rule's set may list networks that overlap, the kernel's interval sets may not (it refuses the covered and the
//! covering one alike). So only the outermost networks are in the kernel; the others wait here, and come back in the
//! transaction that removes what covered them. A set of single addresses only is a hash set, which is faster; it
//! becomes an interval set, under another name, as soon as it has a network.
//!
//! Invariants: the kernel's elements never overlap; the union of the elements is the union of the members; an
//! insertion or removal says exactly which elements change.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::family::{Family, Range};

/// An address as a number of its own width.
trait Bits: Copy + Ord {
    /// Bits of an address.
    const WIDTH: u8;
    /// With all bits after the first `length` cleared.
    fn network(self, length: u8) -> Self;
    /// With all bits after the first `length` set.
    fn last(self, length: u8) -> Self;
    /// As a set key.
    fn key(self) -> u128;
}

macro_rules! bits {
    ($kind:ty, $width:literal) => {
        impl Bits for $kind {
            const WIDTH: u8 = $width;
            fn network(self, length: u8) -> Self {
                self & <$kind>::MAX.checked_shl(u32::from($width - length)).unwrap_or(0)
            }
            fn last(self, length: u8) -> Self {
                self | <$kind>::MAX.checked_shr(u32::from(length)).unwrap_or(0)
            }
            fn key(self) -> u128 {
                u128::from(self)
            }
        }
    };
}
bits!(u32, 32);
bits!(u128, 128);

/// Networks of one family. Ordered by address and then length, a network comes before all that it covers.
#[derive(Debug, Default)]
struct Nets<A> {
    nets: BTreeSet<(A, u8)>,
    /// How many there are of each length, so that looking for a covering network tries only lengths that occur.
    lengths: BTreeMap<u8, usize>,
}

impl<A: Bits> Nets<A> {
    fn covered(&self, (address, length): (A, u8)) -> bool {
        self.lengths.range(..length).any(|(shorter, _)| self.nets.contains(&(address.network(*shorter), *shorter)))
    }

    /// The outermost members strictly inside a network.
    fn outermost_inside(&self, net: (A, u8)) -> Vec<(A, u8)> {
        let mut found: Vec<(A, u8)> = Vec::new();
        for inner in self.nets.range(net..=(net.0.last(net.1), A::WIDTH)).filter(|inner| **inner != net) {
            if found.last().is_none_or(|outer| inner.0 > outer.0.last(outer.1)) {
                found.push(*inner);
            }
        }
        found
    }

    fn insert(&mut self, net: (A, u8)) -> Option<Delta> {
        if !self.nets.insert(net) {
            return None;
        }
        *self.lengths.entry(net.1).or_default() += 1;
        if self.covered(net) {
            return None;
        }
        Some(Delta { added: elements(&[net]), removed: elements(&self.outermost_inside(net)) })
    }

    fn remove(&mut self, net: (A, u8)) -> Option<Delta> {
        if !self.nets.remove(&net) {
            return None;
        }
        if let Some(count) = self.lengths.get_mut(&net.1) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&net.1);
            }
        }
        if self.covered(net) {
            return None;
        }
        Some(Delta { added: elements(&self.outermost_inside(net)), removed: elements(&[net]) })
    }

    fn elements(&self) -> Vec<Range> {
        let mut found: Vec<Range> = Vec::with_capacity(self.nets.len());
        let mut end = None;
        for (address, length) in &self.nets {
            if end.is_none_or(|end| *address > end) {
                end = Some(address.last(*length));
                found.extend(elements(&[(*address, *length)]));
            }
        }
        found
    }

    fn has_networks(&self) -> bool {
        self.lengths.range(..A::WIDTH).next().is_some()
    }
}

/// As ranges of keys. The whole space is two halves: as one range it would have no end element, which the kernel
/// takes for something else when the set has other elements.
fn elements<A: Bits>(nets: &[(A, u8)]) -> Vec<Range> {
    let mut ranges = Vec::with_capacity(nets.len());
    for (address, length) in nets {
        let (first, last) = (address.key(), address.last(*length).key());
        if *length == 0 {
            let half = last >> 1;
            ranges.extend([(first, half), (half + 1, last)]);
        } else {
            ranges.push((first, last));
        }
    }
    ranges
}

/// A change of the kernel's elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    /// New elements; they do not overlap what is left after the removal.
    pub added: Vec<Range>,
    /// Elements to remove first.
    pub removed: Vec<Range>,
}

/// The members of one set, both families.
#[derive(Debug, Default)]
pub(crate) struct Members {
    v4: Nets<u32>,
    v6: Nets<u128>,
}

impl Members {
    /// Adds a member; `None` if no element changes.
    pub(crate) fn insert(&mut self, net: &IpNet) -> Option<Delta> {
        match net {
            IpNet::V4(net) => self.v4.insert((net.network().to_bits(), net.prefix_len())),
            IpNet::V6(net) => self.v6.insert((net.network().to_bits(), net.prefix_len())),
        }
    }

    /// Removes a member; `None` if no element changes.
    pub(crate) fn remove(&mut self, net: &IpNet) -> Option<Delta> {
        match net {
            IpNet::V4(net) => self.v4.remove((net.network().to_bits(), net.prefix_len())),
            IpNet::V6(net) => self.v6.remove((net.network().to_bits(), net.prefix_len())),
        }
    }

    /// The elements that the kernel must hold, ascending and without overlap.
    pub(crate) fn elements(&self, family: Family) -> Vec<Range> {
        match family {
            Family::V4 => self.v4.elements(),
            Family::V6 => self.v6.elements(),
        }
    }

    /// Whether this family has any.
    pub(crate) fn has_elements(&self, family: Family) -> bool {
        match family {
            Family::V4 => !self.v4.nets.is_empty(),
            Family::V6 => !self.v6.nets.is_empty(),
        }
    }

    /// Whether this family needs an interval set.
    pub(crate) fn has_networks(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4.has_networks(),
            Family::V6 => self.v6.has_networks(),
        }
    }

    /// The same members, from a list.
    pub(crate) fn collect<'a>(nets: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let mut members = Self::default();
        for net in nets {
            members.insert(net);
        }
        members
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    fn delta(added: &[&str], removed: &[&str]) -> Option<Delta> {
        let ranges = |list: &[&str]| list.iter().map(|n| crate::family::net_range(&net(n))).collect();
        Some(Delta { added: ranges(added), removed: ranges(removed) })
    }

    #[test]
    fn only_the_outermost_is_in_the_kernel() {
        let mut members = Members::default();
        assert_eq!(members.insert(&net("10.0.1.0/24")), delta(&["10.0.1.0/24"], &[]));
        assert_eq!(members.insert(&net("10.0.1.1/32")), None, "covered");
        assert_eq!(members.insert(&net("10.0.9.9/32")), delta(&["10.0.9.9/32"], &[]));
        assert_eq!(members.insert(&net("10.0.0.0/16")), delta(&["10.0.0.0/16"], &["10.0.1.0/24", "10.0.9.9/32"]));
        assert_eq!(members.insert(&net("10.0.0.0/16")), None, "there already");
        assert_eq!(members.remove(&net("10.0.1.0/24")), None, "was covered");
        assert_eq!(members.remove(&net("10.0.0.0/16")), delta(&["10.0.1.1/32", "10.0.9.9/32"], &["10.0.0.0/16"]));
        assert_eq!(members.remove(&net("10.0.0.0/16")), None, "not there");
        assert!(!members.has_networks(Family::V4));
    }

    #[test]
    fn everything_is_two_halves() {
        let mut members = Members::default();
        members.insert(&net("10.0.0.1/32"));
        assert_eq!(members.insert(&net("0.0.0.0/0")), delta(&["0.0.0.0/1", "128.0.0.0/1"], &["10.0.0.1/32"]));
        assert_eq!(members.elements(Family::V4), vec![(0, 0x7fff_ffff), (0x8000_0000, 0xffff_ffff)]);
        assert_eq!(members.insert(&net("::/0")), delta(&["::/1", "8000::/1"], &[]));
        assert_eq!(members.remove(&net("0.0.0.0/0")), delta(&["10.0.0.1/32"], &["0.0.0.0/1", "128.0.0.0/1"]));
    }

    #[test]
    fn families_do_not_meet() {
        let members = Members::collect(&[net("10.0.0.0/8"), net("fd00::1/128")]);
        assert!(members.has_networks(Family::V4) && !members.has_networks(Family::V6));
        assert_eq!(members.elements(Family::V6).len(), 1);
    }

    /// Few addresses and all lengths, so that nets often cover each other.
    fn any_net() -> impl Strategy<Value = IpNet> {
        let v4 = (0u32..16, 0u8..=32).prop_map(|(a, l)| format!("{}/{l}", std::net::Ipv4Addr::from_bits(a << 27 | a)));
        let v6 =
            (0u128..16, 0u8..=128).prop_map(|(a, l)| format!("{}/{l}", std::net::Ipv6Addr::from_bits(a << 123 | a)));
        prop_oneof![v4, v6].prop_map(|text| text.parse::<IpNet>().expect("a network").trunc())
    }

    /// The obvious way: keep a list, and a network is visible if no other one covers it.
    fn naive(members: &BTreeSet<IpNet>, family: Family) -> BTreeSet<Range> {
        let mine: Vec<&IpNet> = members.iter().filter(|net| Family::of(net) == family).collect();
        let visible = mine.iter().filter(|net| !mine.iter().any(|other| other != *net && other.contains(**net)));
        visible
            .flat_map(|net| {
                let (first, last) = crate::family::net_range(net);
                if net.prefix_len() > 0 { vec![(first, last)] } else { vec![(0, last >> 1), ((last >> 1) + 1, last)] }
            })
            .collect()
    }

    proptest! {
        #[test]
        fn equals_the_naive_way_after_any_sequence(steps in prop::collection::vec((any::<bool>(), any_net()), 1..60)) {
            let mut members = Members::default();
            let mut list = BTreeSet::new();
            let mut kernel: [BTreeSet<Range>; 2] = Default::default();
            for (add, net) in steps {
                let changed = if add { list.insert(net); members.insert(&net) } else { list.remove(&net); members.remove(&net) };
                let held = &mut kernel[Family::of(&net).index()];
                let Delta { added, removed } = changed.unwrap_or_default();
                for range in removed {
                    prop_assert!(held.remove(&range), "removed what was not there: {range:?}");
                }
                for range in added {
                    let overlaps = held.iter().any(|other| other.0 <= range.1 && range.0 <= other.1);
                    prop_assert!(!overlaps, "added an overlap: {range:?}");
                    held.insert(range);
                }
                for family in Family::ALL {
                    let want = naive(&list, family);
                    prop_assert_eq!(&kernel[family.index()], &want);
                    prop_assert_eq!(members.elements(family), want.into_iter().collect::<Vec<_>>());
                    let networks = list.iter().any(|n| Family::of(n) == family && n.prefix_len() < family.width());
                    prop_assert_eq!(members.has_networks(family), networks);
                }
            }
        }
    }
}
