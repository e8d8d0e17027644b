//! Tiers: where each stands and how it ends.

use std::{cmp::Ordering, collections::BTreeMap};

/// What is stored of a tier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Tier {
    /// As written.
    Known {
        /// Lower first.
        order: f64,
        /// What no policy of it decides goes on to the next.
        passes: bool,
    },
    /// It is stored, but nothing of it can be read. It might stand anywhere, so it stands first and its policies deny.
    Unreadable,
}

/// The tiers that are stored, by name.
#[derive(Default)]
pub(super) struct Tiers(BTreeMap<String, Tier>);

/// A tier's place among the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// 0: what cannot be read; 1: stored ones; 2: those that policies name and nobody stored.
    group: u8,
    order: f64,
    /// The tier's name.
    pub(super) name: &'a str,
    /// What no policy of it decides goes on to the next.
    pub(super) passes: bool,
}

impl Place<'_> {
    /// True if the tier's place is not known, so that its policies deny.
    pub(super) fn is_unreadable(&self) -> bool {
        self.group == 0
    }

    /// By group, order and name.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        self.group.cmp(&other.group).then(self.order.total_cmp(&other.order)).then(self.name.cmp(other.name))
    }
}

impl Tiers {
    /// Replaces what is known of a tier. True if that is news.
    pub(super) fn set(&mut self, name: &str, tier: Option<Tier>) -> bool {
        let before = match tier {
            Some(tier) => self.0.insert(name.to_owned(), tier),
            None => self.0.remove(name),
        };
        before != tier
    }

    /// Where a policy's tier stands; `None` for a policy of which even that cannot be read.
    pub(super) fn place<'a>(&self, name: Option<&'a str>) -> Place<'a> {
        let Some(name) = name else {
            return Place { group: 0, order: f64::NEG_INFINITY, name: "(unreadable)", passes: false };
        };
        match self.0.get(name) {
            Some(Tier::Known { order, passes }) => Place { group: 1, order: *order + 0.0, name, passes: *passes },
            Some(Tier::Unreadable) => Place { group: 0, order: 0.0, name, passes: false },
            None => Place { group: 2, order: 0.0, name, passes: false },
        }
    }
}
