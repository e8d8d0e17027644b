//! Addresses that auto-assignment skips, merged from all IPReservations.
//!
//! Several reservations that together cover a block reserve it whole, so ranges are kept merged: sorted, disjoint
//! and not touching. Choosing an address explicitly ignores reservations.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    Family,
    range::{address, bounds, number},
};

/// A set of addresses of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    v4: Vec<(u128, u128)>,
    v6: Vec<(u128, u128)>,
}

impl Reservations {
    /// The union of ranges.
    pub fn new(nets: impl IntoIterator<Item = IpNet>) -> Self {
        let (v4, v6): (Vec<_>, Vec<_>) = nets.into_iter().partition(|net| Family::of_net(*net) == Family::V4);
        Self { v4: merge(v4), v6: merge(v6) }
    }

    /// Reads one entry of a reservation: a prefix, host bits allowed, or a bare address.
    pub(crate) fn parse(text: &str) -> Option<IpNet> {
        let text = text.trim();
        text.parse::<IpNet>().map(|net| net.trunc()).ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
    }

    fn ranges(&self, family: Family) -> &[(u128, u128)] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// The merged range that holds a number.
    fn around(&self, family: Family, number: u128) -> Option<(u128, u128)> {
        let ranges = self.ranges(family);
        let next = ranges.partition_point(|range| range.0 <= number);
        let range = *ranges.get(next.checked_sub(1)?)?;
        (number <= range.1).then_some(range)
    }

    /// True if the address is reserved.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.around(Family::of(address), number(address)).is_some()
    }

    /// The first address from `start` on that is not reserved; `None` if no other follows.
    pub fn first_free_from(&self, start: IpAddr) -> Option<IpAddr> {
        let family = Family::of(start);
        let Some((_, last)) = self.around(family, number(start)) else { return Some(start) };
        let greatest = if family == Family::V4 { u128::from(u32::MAX) } else { u128::MAX };
        // Ranges do not touch, so what follows one is free.
        (last < greatest).then(|| address(family, last + 1))
    }

    /// The last reserved address of the range that covers all of `net`, `None` if some address of it is free.
    pub(crate) fn covers(&self, net: IpNet) -> Option<u128> {
        let (first, last) = bounds(net);
        self.around(Family::of_net(net), first).filter(|range| last <= range.1).map(|range| range.1)
    }

    /// True if some address of `net` is reserved.
    pub(crate) fn touches(&self, net: IpNet) -> bool {
        let (first, last) = bounds(net);
        let ranges = self.ranges(Family::of_net(net));
        let next = ranges.partition_point(|range| range.0 <= last);
        next.checked_sub(1).is_some_and(|n| ranges[n].1 >= first)
    }

    /// How many addresses of `net` are reserved.
    pub fn count_in(&self, net: IpNet) -> u128 {
        let (first, last) = bounds(net);
        let overlap = |&(from, to): &(u128, u128)| {
            let (from, to) = (from.max(first), to.min(last));
            if from > to { 0 } else { (to - from).saturating_add(1) }
        };
        self.ranges(Family::of_net(net)).iter().map(overlap).fold(0, u128::saturating_add)
    }
}

fn merge(nets: Vec<IpNet>) -> Vec<(u128, u128)> {
    let mut ranges: Vec<_> = nets.into_iter().map(bounds).collect();
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn set(texts: &[&str]) -> Reservations {
        Reservations::new(texts.iter().map(|text| Reservations::parse(text).unwrap()))
    }

    #[test]
    fn neighbours_merge_and_cover_together() {
        let set = set(&["10.0.0.4/30", "10.0.0.0/30", "10.0.0.9", "fd00::/127"]);
        assert!(set.covers("10.0.0.0/29".parse().unwrap()).is_some());
        assert!(set.covers("10.0.0.8/31".parse().unwrap()).is_none());
        assert!(set.contains("10.0.0.9".parse().unwrap()));
        assert!(!set.contains("10.0.0.8".parse().unwrap()));
        assert!(set.contains("fd00::1".parse().unwrap()));
        assert!(!set.contains("fd00::2".parse().unwrap()));
        assert_eq!(set.count_in("10.0.0.0/28".parse().unwrap()), 9);
        assert_eq!(set.count_in("10.0.1.0/28".parse().unwrap()), 0);
        assert!(set.touches("10.0.0.0/24".parse().unwrap()));
        assert!(set.touches("10.0.0.6/31".parse().unwrap()));
        assert!(!set.touches("10.0.0.10/31".parse().unwrap()));
    }

    #[test]
    fn what_is_reserved_is_passed_over_in_one_step() {
        let set = set(&["10.0.0.0/30", "10.0.0.4/30", "255.255.255.0/24", "fd00::/65"]);
        let from = |start: &str| set.first_free_from(start.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(from("10.0.0.1").as_deref(), Some("10.0.0.8"));
        assert_eq!(from("10.0.0.9").as_deref(), Some("10.0.0.9"));
        assert_eq!(from("fd00::1").as_deref(), Some("fd00::8000:0:0:0"));
        assert_eq!(from("255.255.255.9"), None);
    }

    #[test]
    fn entries_may_have_host_bits_or_no_prefix() {
        assert_eq!(Reservations::parse("10.0.0.7/29"), Some("10.0.0.0/29".parse().unwrap()));
        assert_eq!(Reservations::parse("fd00::7"), Some("fd00::7/128".parse().unwrap()));
        assert_eq!(Reservations::parse("nonsense"), None);
    }

    #[test]
    fn the_whole_space_does_not_overflow() {
        let set = set(&["::/0", "0.0.0.0/0"]);
        assert_eq!(set.count_in("::/0".parse().unwrap()), u128::MAX);
        assert!(set.covers("::/0".parse().unwrap()).is_some());
        assert_eq!(set.count_in("0.0.0.0/0".parse().unwrap()), 1 << 32);
    }
}
