//! What a table is to hold and what was found in it.

use std::{collections::HashMap, sync::Arc};

use calico_policy::instruction::{PortMember, PublishedPort, SetId};

use crate::{
    family::{Family, Range},
    ifname::IfName,
    name::{Direction, ListId},
    op::Target,
    program::chain_fingerprint,
    render::{BaseChain, EndpointChain, LimitChain, TierChain},
    ruleset::{Base, Chain, SetSpec},
    tracker::{Fingerprint, Want, fingerprint},
};

/// A wanted chain.
#[derive(Clone, Debug)]
pub(crate) struct ChainWant {
    /// Of its base and rules.
    content: Fingerprint,
    /// Set for base chains.
    pub(super) base: ReadBase,
    /// Where its rules come from.
    pub(super) source: ChainSource,
}

impl ChainWant {
    /// Wants a chain as it was rendered.
    pub(crate) fn new(chain: &Chain, family: Family, source: ChainSource) -> Self {
        let base = chain.base.map_or(ReadBase::Regular, ReadBase::Ours);
        Self { content: fingerprint(&(base, chain_fingerprint(chain, family))), base, source }
    }
}

impl ChainWant {
    /// Where its rules come from.
    pub(crate) fn source(&self) -> &ChainSource {
        &self.source
    }
}

impl Want for ChainWant {
    fn fingerprint(&self) -> Fingerprint {
        self.content
    }
}

/// Where a chain's rules come from; they are rendered again when they are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChainSource {
    /// Always there.
    Base(BaseChain),
    /// A policy's or profile's rules in one direction, and whether it must be quiet.
    List(ListId, Direction, bool),
    /// The policies of a tier.
    Tier(Arc<TierChain>),
    /// Endpoints of one kind.
    Endpoint(Arc<EndpointChain>),
    /// Limits of one endpoint.
    Limits(Arc<LimitChain>),
}

/// A wanted set.
#[derive(Clone, Debug)]
pub(crate) struct SetWant {
    /// Its kind.
    pub spec: SetSpec,
    /// Where its elements come from.
    pub source: SetSource,
}

impl Want for SetWant {
    fn fingerprint(&self) -> Fingerprint {
        fingerprint(&Some(self.spec))
    }
}

/// Where a set's elements come from.
#[derive(Clone, Debug)]
pub(crate) enum SetSource {
    /// A selector's members.
    Selector(SetId),
    /// Named ports.
    Ports(SetId),
    /// Its name says its content.
    Literal(Arc<[Range]>),
    /// All pools.
    Pools,
    /// Pools with masquerade.
    Masquerade,
    /// All hosts' addresses.
    Hosts,
    /// Published ports of one address of the host (`true`), or of all of them.
    Published(bool),
    /// Addresses that published ports lead to.
    PublishedSelf,
    /// A dispatch map, whose elements are tracked one by one.
    Dispatch,
}

/// A wanted map element.
#[derive(Clone, Debug)]
pub(crate) struct TargetWant {
    /// Where it leads.
    pub target: Target,
    /// Of the target.
    pub content: Fingerprint,
}

impl TargetWant {
    pub(crate) fn new(target: Target) -> Self {
        Self { content: fingerprint(&target), target }
    }
}

impl Want for TargetWant {
    fn fingerprint(&self) -> Fingerprint {
        self.content
    }
}

/// What was read from the kernel.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ReadTable {
    /// Chains by name.
    pub chains: HashMap<String, ReadChain>,
    /// Sets and maps by name.
    pub sets: HashMap<String, ReadSet>,
    /// Somebody switched the table off; it must be switched on again.
    pub dormant: bool,
}

/// A chain in the kernel.
#[derive(Debug, PartialEq)]
pub(crate) struct ReadChain {
    /// Of its rules.
    pub content: Fingerprint,
    /// What makes it a base chain.
    pub base: ReadBase,
}

/// The base of a chain in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ReadBase {
    /// No base chain.
    Regular,
    /// One that we might have made.
    Ours(Base),
    /// One that we did not: another hook, or a policy other than accept.
    Foreign,
}

/// A set or map in the kernel.
#[derive(Debug, PartialEq)]
pub(crate) struct ReadSet {
    /// `None`: of a kind that we never make.
    pub spec: Option<SetSpec>,
    /// Its elements.
    pub elements: ReadElements,
}

/// Elements in the kernel.
#[derive(Debug, PartialEq)]
pub(crate) enum ReadElements {
    /// Of a set.
    Ranges(Vec<Range>),
    /// Of a set of addresses with protocol and port.
    Ports(Vec<PortMember>),
    /// Of a map of published ports.
    Published(Vec<PublishedPort>),
    /// Of a dispatch map.
    Targets(HashMap<IfName, Fingerprint>),
    /// Not understood; the set must be made anew.
    Broken,
}

/// In which order members of sets change when nothing else does.
///
/// A packet on its way may look into one set before a transaction and into another after it. If a member moves between
/// sets that rules only ask "is it in", it must never be in none of them; if they only ask "is it not in", never in both.
/// A state in between is seen by every packet for a moment, so it must decide as the old or the new one does. That is
/// certain only if one address moves, and no packet meets two chains that ask about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemberOrder {
    /// New members first, old ones go in a transaction after that.
    GrowFirst,
    /// Old members first, new ones come in a transaction after that.
    ShrinkFirst,
    /// Whatever comes in between would be neither the old nor the new state: one transaction.
    AtOnce,
}

/// Gives what the table itself does not keep.
pub(crate) trait Content {
    /// The order in which the members of these sets may change.
    fn member_order(&self, sets: &[&SetSource]) -> MemberOrder;
    /// The elements of a wanted set.
    fn elements(&self, family: Family, source: &SetSource) -> Vec<Range>;
    /// The members of a wanted set of named ports.
    fn ports(&self, family: Family, source: &SetSource) -> Vec<PortMember>;
    /// The elements of a wanted map of published ports.
    fn published(&self, family: Family, source: &SetSource) -> Vec<PublishedPort>;
    /// The rules of a wanted chain.
    fn chain(&self, family: Family, source: &ChainSource) -> Chain;
}
