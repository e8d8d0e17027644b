//! What can be wrong with a stored block, and which of it keeps the block from being used.
//!
//! Two parts of a block matter differently. If the allocations are in order, it is certain who holds what, and
//! addresses may be released. Only if the queue of free ordinals is in order as well may anybody assign from the
//! block: an ordinal that stands in it twice, or although it is held, would be given out twice. Everything else is
//! untidy, and told, but does no harm.

use std::collections::BTreeSet;

use ipnet::IpNet;
use time::OffsetDateTime;

use super::{Block, Ordinal};
use crate::range::{self, MAX_BLOCK_BITS};

/// One thing that is wrong with a block. The words are those that upstream's `ipam check` prints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockFault {
    /// The prefix has host bits, or more addresses than a block may have.
    #[error("{cidr} is not the prefix of a block")]
    Prefix {
        /// The prefix.
        cidr: IpNet,
    },
    /// There is not one allocation per address.
    #[error("{found} allocations for {expected} addresses")]
    Allocations {
        /// How many there are.
        found: usize,
        /// How many addresses the prefix has.
        expected: u128,
    },
    /// Nothing is stored about an address's holder.
    #[error("allocation {ordinal} indexes a nonexistent attribute {index}")]
    NoAttribute {
        /// The address's place in the block.
        ordinal: Ordinal,
        /// The index into the attributes.
        index: usize,
    },
    /// An attribute of nobody.
    #[error("attribute index {index} exists but is not indexed by an allocation")]
    UnusedAttribute {
        /// The index into the attributes.
        index: usize,
    },
    /// An address was released at a time that has not come yet.
    #[error("attribute index {index} has releasedAt in the future, suggesting clock skew")]
    ReleasedInFuture {
        /// The index into the attributes.
        index: usize,
    },
    /// The queue names an ordinal that the block does not have.
    #[error("ordinal {ordinal} appears in the Unallocated array but is out of the block")]
    QueueOutside {
        /// The ordinal.
        ordinal: Ordinal,
    },
    /// The queue names an ordinal twice.
    #[error("ordinal {ordinal} appears more than once in Unallocated array")]
    QueueTwice {
        /// The ordinal.
        ordinal: Ordinal,
    },
    /// The queue names an ordinal that is held.
    #[error("ordinal {ordinal} is allocated but appears in Unallocated")]
    QueueHeld {
        /// The ordinal.
        ordinal: Ordinal,
    },
    /// Some ordinals are neither held nor in the queue: nobody will ever get them.
    #[error(
        "expected {size} addresses in this block, but Unallocated ({free}) + Allocated ({held}) = {}",
        free + held
    )]
    Lost {
        /// How many addresses the block has.
        size: u128,
        /// The length of the queue.
        free: usize,
        /// How many are held.
        held: usize,
    },
}

impl Block {
    /// Everything that is wrong, in the order in which upstream looks for it: its programs name the first only.
    pub fn faults(&self, now: OffsetDateTime) -> Vec<BlockFault> {
        let size = range::size(self.cidr);
        if let Err(fault) = self.check_shape() {
            return vec![fault];
        }
        let mut faults = Vec::new();
        let mut indexed = BTreeSet::new();
        for (ordinal, index) in self.allocations.iter().enumerate() {
            let Some(index) = *index else { continue };
            indexed.insert(index);
            if index >= self.attributes().len() {
                faults.push(BlockFault::NoAttribute { ordinal, index });
            }
        }
        for (index, attribute) in self.attributes().iter().enumerate() {
            if !indexed.contains(&index) {
                faults.push(BlockFault::UnusedAttribute { index });
            }
            if attribute.released_at.is_some_and(|at| at.0 > now) {
                faults.push(BlockFault::ReleasedInFuture { index });
            }
        }
        faults.extend(self.queue_faults());
        let (free, held) = (self.unallocated.len(), self.allocations.iter().flatten().count());
        if (free + held) as u128 != size {
            faults.push(BlockFault::Lost { size, free, held });
        }
        faults
    }

    fn queue_faults(&self) -> impl Iterator<Item = BlockFault> + '_ {
        let mut seen = vec![false; self.allocations.len()];
        self.unallocated.iter().filter_map(move |&ordinal| {
            match (self.allocations.get(ordinal), seen.get_mut(ordinal)) {
                (Some(held), Some(seen)) => {
                    if std::mem::replace(seen, true) {
                        Some(BlockFault::QueueTwice { ordinal })
                    } else {
                        held.is_some().then_some(BlockFault::QueueHeld { ordinal })
                    }
                }
                _ => Some(BlockFault::QueueOutside { ordinal }),
            }
        })
    }

    fn check_shape(&self) -> Result<(), BlockFault> {
        let expected = range::size(self.cidr);
        if expected > 1 << MAX_BLOCK_BITS || self.cidr != self.cidr.trunc() {
            return Err(BlockFault::Prefix { cidr: self.cidr });
        }
        let found = self.allocations.len();
        if found as u128 == expected { Ok(()) } else { Err(BlockFault::Allocations { found, expected }) }
    }

    /// That it is certain who holds what: addresses may be released.
    pub(crate) fn check_held(&self) -> Result<(), BlockFault> {
        self.check_shape()?;
        let attributes = self.attributes().len();
        let beyond = |(ordinal, index): (Ordinal, &Option<usize>)| {
            index.filter(|index| *index >= attributes).map(|index| BlockFault::NoAttribute { ordinal, index })
        };
        self.allocations.iter().enumerate().find_map(beyond).map_or(Ok(()), Err)
    }

    /// That it is certain what is free as well: addresses may be assigned.
    pub(crate) fn check_queue(&self) -> Result<(), BlockFault> {
        self.queue_faults().next().map_or(Ok(()), Err)
    }

    /// Mends what can be mended without taking an address from its holder: the queue names every ordinal that nobody
    /// holds, once, in the order that it had; attributes of nobody are dropped; an address whose holder is unknown
    /// stays held, by nobody in particular, for a person to look at. Returns whether anything was changed.
    ///
    /// # Errors
    /// What cannot be mended.
    pub(crate) fn mend(&mut self) -> Result<bool, BlockFault> {
        self.check_shape()?;
        let before = self.clone();
        let attributes = self.attributes.get_or_insert_default();
        let unknown = attributes.len();
        let mut indexes = self.allocations.iter_mut().flatten().filter(|index| **index >= unknown).peekable();
        if indexes.peek().is_some() {
            attributes.push(super::Attribute::default());
            indexes.for_each(|index| *index = unknown);
        }
        let mut queued = vec![false; self.allocations.len()];
        let free = |ordinal: Ordinal| self.allocations.get(ordinal).is_some_and(Option::is_none);
        self.unallocated.retain(|&ordinal| free(ordinal) && !std::mem::replace(&mut queued[ordinal], true));
        self.unallocated.extend((0..self.allocations.len()).filter(|&ordinal| free(ordinal) && !queued[ordinal]));
        self.prune();
        if before.attributes.is_none() && self.attributes().is_empty() {
            self.attributes = None;
        }
        Ok(*self != before)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use time::{Duration, macros::datetime};

    use super::*;
    use crate::{Attribute, Owner, Timestamp};

    const NOW: OffsetDateTime = datetime!(2026-08-22 10:00:00 UTC);

    fn block(allocations: &[Option<usize>], unallocated: &[Ordinal], attributes: usize) -> Block {
        let mut block = Block::new("10.0.0.0/30".parse().unwrap(), &Owner::host("n"), None, NOW);
        block.allocations = allocations.to_vec();
        block.unallocated = unallocated.to_vec();
        let handle = |n: usize| Attribute { handle_id: Some(format!("h{n}")), ..Attribute::default() };
        block.attributes = Some((0..attributes).map(handle).collect());
        block
    }

    /// Whether a block may be assigned from, and released from.
    fn usable(block: &Block) -> (bool, bool) {
        (Block::from_json(&block.to_json()).is_ok(), block.check_held().is_ok())
    }

    #[test]
    fn each_fault_is_found_and_keeps_from_what_it_endangers() {
        let cases: &[(Block, &str, bool, bool)] = &[
            (block(&[None, Some(0), None, None], &[0, 2, 3], 1), "", true, true),
            (block(&[None; 3], &[0, 1, 2], 0), "3 allocations for 4 addresses", false, false),
            (
                block(&[Some(2), None, None, None], &[1, 2, 3], 0),
                "allocation 0 indexes a nonexistent attribute 2",
                false,
                false,
            ),
            (
                block(&[None; 4], &[0, 1, 2, 3], 1),
                "attribute index 0 exists but is not indexed by an allocation",
                true,
                true,
            ),
            (
                block(&[None; 4], &[0, 1, 2, 9], 0),
                "ordinal 9 appears in the Unallocated array but is out of the block",
                false,
                true,
            ),
            (block(&[None; 4], &[0, 1, 2, 2], 0), "ordinal 2 appears more than once in Unallocated array", false, true),
            (
                block(&[None, Some(0), None, None], &[0, 1, 2], 1),
                "ordinal 1 is allocated but appears in Unallocated",
                false,
                true,
            ),
            (
                block(&[None, Some(0), None, None], &[0, 2], 1),
                "expected 4 addresses in this block, but Unallocated (2) + Allocated (1) = 3",
                true,
                true,
            ),
        ];
        for (block, words, assign, release) in cases {
            let faults = block.faults(NOW);
            assert_eq!(faults.first().map(ToString::to_string).unwrap_or_default(), *words);
            assert_eq!(usable(block), (*assign, *release), "{words}");
        }
    }

    #[test]
    fn a_release_in_the_future_is_told() {
        let mut block = block(&[Some(0), None, None, None], &[1, 2, 3], 1);
        block.attributes =
            Some(vec![Attribute { released_at: Some(Timestamp(NOW + Duration::MINUTE)), ..Attribute::default() }]);
        assert_eq!(block.faults(NOW), [BlockFault::ReleasedInFuture { index: 0 }]);
        assert!(block.faults(NOW + Duration::HOUR).is_empty());
    }

    proptest! {
        #[test]
        fn whatever_is_wrong_mending_keeps_holders_and_leaves_a_block_in_order(
            allocations in prop::collection::vec(prop::option::of(0usize..5), 4),
            unallocated in prop::collection::vec(0usize..6, 0..8),
            attributes in 0usize..4,
        ) {
            let before = block(&allocations, &unallocated, attributes);
            let mut after = before.clone();
            let changed = after.mend().unwrap();
            prop_assert_eq!(changed, !before.faults(NOW).is_empty());
            prop_assert!(after.faults(NOW).is_empty());
            prop_assert!(Block::from_json(&after.to_json()).is_ok());
            for (ordinal, index) in allocations.iter().enumerate() {
                prop_assert_eq!(after.allocations[ordinal].is_some(), index.is_some());
                let holder = before.attribute(ordinal).cloned();
                let unknown = index.map(|_| Attribute::default());
                prop_assert_eq!(after.attribute(ordinal).cloned(), holder.or(unknown));
            }
        }
    }

    #[test]
    fn mending_takes_nothing_from_its_holder_and_frees_nothing_twice() {
        let mut block = block(&[None, Some(1), Some(7), None], &[3, 1, 3, 9], 3);
        assert!(block.mend().unwrap());
        assert!(block.faults(NOW).is_empty(), "{:?}", block.faults(NOW));
        assert_eq!(block.unallocated, [3, 0]);
        assert_eq!(block.attribute(1).unwrap().handle_id.as_deref(), Some("h1"));
        assert_eq!(block.attribute(2), Some(&Attribute::default()), "held, by nobody known");
        assert!(!block.mend().unwrap(), "nothing is left to mend");

        let mut new = Block::new("10.0.0.0/30".parse().unwrap(), &Owner::host("n"), None, NOW);
        assert!(!new.mend().unwrap(), "a new block is in order");
        new.allocations.pop();
        assert!(new.mend().is_err());
    }
}
