//! Blocks: slices of a pool, the unit of compare-and-swap and the only truth about who holds which address.
//!
//! An address is taken exactly when its ordinal has an allocation. Free ordinals stand in a queue: assignment takes
//! from its head, release appends to its tail, so that an address rests as long as possible before it is used again.
//! A released ordinal first points at an attribute that holds nothing but the time of release ("cooling"); garbage
//! collection frees it once the cool-down is over, at once when there is none.
//!
//! Invariants, checked on every read ([`Block::from_json`]): one allocation per address, every index into the
//! attributes exists, every ordinal in the queue lies in the block, is there once and is not allocated.
//! A block makes no decision about time or place by itself: `now` and the cool-down are passed in.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::{
    HandleId, Owner, Reservations, Timestamp,
    range::{self, Family, MAX_BLOCK_BITS, nth_address, ordinal_of},
    wire::{self, null_is_empty},
};

mod fault;
mod mismatch;

pub use fault::BlockFault;
pub use mismatch::Mismatch;

/// An address's place in its block, from 0.
pub type Ordinal = usize;

/// Addresses reserved at both ends of a Windows host's blocks carry this handle; a block that holds only them counts
/// as empty.
pub const WINDOWS_RESERVED_HANDLE: &str = "windows-reserved-ipam-handle";

/// The prefix of block keys.
pub const BLOCK_ROOT: &str = "/calico/ipam/v2/assignment/";

/// Where the block of a prefix is stored.
pub fn block_key(block: IpNet) -> String {
    let family = Family::of_net(block).segment();
    format!("{BLOCK_ROOT}{family}/block/{}-{}", block.addr(), block.prefix_len())
}

/// The prefix of a block key, `None` for other keys.
pub fn parse_block_key(key: &str) -> Option<IpNet> {
    let (family, block) = key.strip_prefix(BLOCK_ROOT)?.split_once("/block/")?;
    let block: IpNet = block.replacen('-', "/", 1).parse().ok()?;
    (family == Family::of_net(block).segment() && block == block.trunc()).then_some(block)
}

/// What is known of the holder of one or more addresses of a block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// The handle that holds the addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// What the caller noted: `node`, `type`, `namespace`, `pod` and the like.
    #[serde(default, skip_serializing_if = "nothing")]
    pub secondary: Option<BTreeMap<String, String>>,
    /// The same for the owner that takes over when a virtual machine migrates.
    #[serde(default, rename = "alternateOwnerAttrs", skip_serializing_if = "nothing")]
    pub alternate: Option<BTreeMap<String, String>>,
    /// Set when the addresses were released and cool down.
    #[serde(default, rename = "releasedAt", skip_serializing_if = "Option::is_none")]
    pub released_at: Option<Timestamp>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Attribute {
    /// What an assignment stores. No attributes and empty ones are different things: `Some` of an empty map is
    /// stored as if it were absent and so never equals a stored attribute.
    pub(crate) fn new(handle: Option<&HandleId>, secondary: Option<&BTreeMap<String, String>>) -> Self {
        Self {
            handle_id: handle.map(|handle| handle.as_str().to_owned()),
            secondary: secondary.cloned(),
            ..Self::default()
        }
    }

    /// The handle, repaired.
    pub fn handle(&self) -> Option<HandleId> {
        self.handle_id.as_deref().map(HandleId::from).filter(|handle| !handle.is_empty())
    }

    /// True for what a Windows host sets aside; such addresses have a handle in name only.
    pub(crate) fn is_windows_reserved(&self) -> bool {
        self.handle_id.as_deref().is_some_and(|handle| handle.eq_ignore_ascii_case(WINDOWS_RESERVED_HANDLE))
    }
}

fn nothing(map: &Option<BTreeMap<String, String>>) -> bool {
    map.as_ref().is_none_or(BTreeMap::is_empty)
}

/// Sequence numbers by ordinal. The JSON object has its keys in text order, as Go writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequences(BTreeMap<Ordinal, u64>);

impl Serialize for Sequences {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let texts: BTreeMap<String, u64> = self.0.iter().map(|(ordinal, n)| (ordinal.to_string(), *n)).collect();
        texts.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Sequences {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts: BTreeMap<String, u64> = null_is_empty(deserializer)?;
        let parse = |(text, n): (String, u64)| text.parse().map(|ordinal| (ordinal, n));
        texts.into_iter().map(parse).collect::<Result<_, _>>().map(Self).map_err(serde::de::Error::custom)
    }
}

/// One block as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// The block's prefix.
    pub cidr: IpNet,
    /// Who owns the block, as [`Owner`] prints; `None` once the owner gave it up while addresses were in use.
    #[serde(default)]
    pub affinity: Option<String>,
    /// When the owner claimed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_claim_time: Option<Timestamp>,
    /// By ordinal: index into the attributes, or free.
    #[serde(deserialize_with = "null_is_empty")]
    pub allocations: Vec<Option<usize>>,
    /// The queue of free ordinals.
    #[serde(deserialize_with = "null_is_empty")]
    pub unallocated: Vec<Ordinal>,
    /// Shared by all addresses with the same content; `null` in a block that never held an address.
    #[serde(default)]
    pub attributes: Option<Vec<Attribute>>,
    /// Goes up by one with every update; starts at Unix nanoseconds, so that a block that was deleted and made
    /// again does not repeat numbers.
    #[serde(default, rename = "sequenceNumber")]
    pub sequence_number: u64,
    /// By allocated ordinal: the block's number just before the write that allocated it.
    #[serde(default, rename = "sequenceNumberForAllocation")]
    pub sequences: Sequences,
    /// A workaround of another datastore; always false here.
    #[serde(default)]
    pub deleted: bool,
    /// The owner as blocks before v2 named it; read, never written.
    #[serde(default, rename = "hostAffinity", skip_serializing)]
    legacy_owner: Option<String>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Addresses set aside at both ends of every block of a Windows host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReserved {
    /// How many at the start.
    pub start: usize,
    /// How many at the end.
    pub end: usize,
    /// The handle that holds them; only [`WINDOWS_RESERVED_HANDLE`] leaves the block empty in the sense of
    /// [`Block::is_empty`].
    pub handle: HandleId,
    /// Stored as the attribute `note`.
    pub note: String,
}

/// One address to release from a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Release {
    pub ordinal: Ordinal,
    pub handle: Option<HandleId>,
    pub sequence: Option<u64>,
}

/// What a release did, in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Freed {
    /// Ordinals that were free or cooling already.
    pub already_free: Vec<Ordinal>,
    /// Ordinals released now, ascending.
    pub ordinals: Vec<Ordinal>,
    /// How many of them each handle held.
    pub by_handle: BTreeMap<HandleId, usize>,
}

impl Block {
    /// A new block, all of it free but for what the host reserves.
    pub fn new(cidr: IpNet, owner: &Owner, reserved: Option<&HostReserved>, now: OffsetDateTime) -> Self {
        let size = range::size(cidr).min(1 << MAX_BLOCK_BITS) as usize;
        let mut block = Self {
            cidr,
            affinity: Some(owner.to_string()),
            affinity_claim_time: Some(Timestamp(now)),
            allocations: vec![None; size],
            unallocated: (0..size).collect(),
            attributes: None,
            sequence_number: u64::try_from(now.unix_timestamp_nanos()).unwrap_or(0),
            sequences: Sequences::default(),
            deleted: false,
            legacy_owner: None,
            extra: Map::new(),
        };
        if let Some(reserved) = reserved {
            let note = BTreeMap::from([("note".to_owned(), reserved.note.clone())]);
            block.attributes = Some(vec![Attribute::new(Some(&reserved.handle), Some(&note))]);
            let (start, end) = (reserved.start.min(size), size.saturating_sub(reserved.end));
            block.unallocated.retain(|ordinal| (start..end).contains(ordinal));
            for ordinal in (0..start).chain(end.max(start)..size) {
                block.allocations[ordinal] = Some(0);
            }
        }
        block
    }

    /// Reads a stored block.
    ///
    /// # Errors
    /// A word on what is wrong with it; such a block must not be used or written.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let block = Self::from_damaged_json(bytes)?;
        block.check_queue().map_err(|fault| fault.to_string()).map(|()| block)
    }

    /// Reads a stored block although its queue may be wrong: who holds what is certain, what is free is not. Enough
    /// to look and to release, not to assign.
    ///
    /// # Errors
    /// A word on what is wrong with it.
    pub(crate) fn from_damaged_json(bytes: &[u8]) -> Result<Self, String> {
        let block = Self::from_json_unchecked(bytes)?;
        block.check_held().map_err(|fault| fault.to_string()).map(|()| block)
    }

    /// Reads a stored block whatever is wrong with it, to be told by [`faults`](Self::faults).
    ///
    /// # Errors
    /// The JSON error.
    pub fn from_json_unchecked(bytes: &[u8]) -> Result<Self, String> {
        let mut block: Self = wire::decode(bytes)?;
        if let (None, Some(host)) = (&block.affinity, block.legacy_owner.take()) {
            block.affinity = Some(Owner::host(host).to_string());
        }
        Ok(block)
    }

    /// The stored form.
    pub fn to_json(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// Where the block is stored.
    pub fn key(&self) -> String {
        block_key(self.cidr)
    }

    /// Who owns the block; `None` without owner or with one of a kind not known here.
    pub fn owner(&self) -> Option<Owner> {
        self.affinity.as_deref()?.parse().ok()
    }

    /// True if `owner` owns the block.
    pub fn is_owned_by(&self, owner: &Owner) -> bool {
        self.owner().as_ref() == Some(owner)
    }

    /// The attributes, none in a new block.
    pub fn attributes(&self) -> &[Attribute] {
        self.attributes.as_deref().unwrap_or_default()
    }

    /// What is known of the holder of an ordinal; `None` if it is free.
    pub fn attribute(&self, ordinal: Ordinal) -> Option<&Attribute> {
        self.attributes().get((*self.allocations.get(ordinal)?)?)
    }

    /// The sequence number of an allocation, 0 if there is none.
    pub fn sequence(&self, ordinal: Ordinal) -> u64 {
        self.sequences.0.get(&ordinal).copied().unwrap_or(0)
    }

    /// The address of an ordinal.
    pub fn address(&self, ordinal: Ordinal) -> IpAddr {
        nth_address(self.cidr, ordinal)
    }

    /// The ordinal of an address of this block.
    pub fn ordinal(&self, address: IpAddr) -> Option<Ordinal> {
        ordinal_of(self.cidr, address)
    }

    /// Addresses in use, cooling and reserved ones included.
    pub fn in_use(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.allocations.iter().enumerate().filter_map(|(n, index)| index.map(|_| self.address(n)))
    }

    /// Addresses of a handle.
    pub fn held_by(&self, handle: &HandleId) -> Vec<IpAddr> {
        self.ordinals_of(handle).map(|ordinal| self.address(ordinal)).collect()
    }

    fn ordinals_of<'a>(&'a self, handle: &'a HandleId) -> impl Iterator<Item = Ordinal> + 'a {
        (0..self.allocations.len())
            .filter(move |n| self.attribute(*n).and_then(Attribute::handle).as_ref() == Some(handle))
    }

    /// How many addresses auto-assignment could take.
    pub fn free(&self, reservations: &Reservations) -> usize {
        self.unallocated.iter().filter(|ordinal| !reservations.contains(self.address(**ordinal))).count()
    }

    /// True if nothing is allocated but what a Windows host reserves. Cooling addresses are allocated.
    pub fn is_empty(&self) -> bool {
        (0..self.allocations.len()).filter_map(|n| self.attribute(n)).all(Attribute::is_windows_reserved)
    }

    /// Takes up to `count` free addresses from the head of the queue; reserved ones keep their place in it.
    pub(crate) fn take(&mut self, count: usize, attribute: &Attribute, reserved: &Reservations) -> Vec<Ordinal> {
        let free = self.unallocated.iter().copied().filter(|n| !reserved.contains(self.address(*n)));
        let taken: Vec<Ordinal> = free.take(count).collect();
        self.allocate(&taken, attribute);
        taken
    }

    /// Takes one address. Returns false if somebody has it.
    pub(crate) fn take_one(&mut self, ordinal: Ordinal, attribute: &Attribute) -> bool {
        let free = self.attribute(ordinal).is_none();
        if free {
            self.allocate(&[ordinal], attribute);
        }
        free
    }

    fn allocate(&mut self, ordinals: &[Ordinal], attribute: &Attribute) {
        if ordinals.is_empty() {
            return;
        }
        let index = self.index_of(attribute);
        for ordinal in ordinals {
            self.allocations[*ordinal] = Some(index);
            self.sequences.0.insert(*ordinal, self.sequence_number);
        }
        self.unallocated.retain(|ordinal| !ordinals.contains(ordinal));
    }

    /// The index of an identical attribute, which is appended if there is none.
    fn index_of(&mut self, attribute: &Attribute) -> usize {
        let attributes = self.attributes.get_or_insert_default();
        attributes.iter().position(|known| known == attribute).unwrap_or_else(|| {
            attributes.push(attribute.clone());
            attributes.len() - 1
        })
    }

    /// Releases addresses: all of `requests` or, on a mismatch, none. Addresses that are free already are reported,
    /// an address named twice counts once.
    pub(crate) fn release(&mut self, requests: &[Release], now: OffsetDateTime) -> Result<Freed, Mismatch> {
        let unique: BTreeMap<Ordinal, &Release> = requests.iter().map(|request| (request.ordinal, request)).collect();
        let mut released = Freed::default();
        for (ordinal, request) in unique {
            match self.releasable(request)? {
                None => released.already_free.push(ordinal),
                Some(handle) => {
                    released.ordinals.push(ordinal);
                    if let Some(handle) = handle {
                        *released.by_handle.entry(handle).or_default() += 1;
                    }
                }
            }
        }
        self.cool(&released.ordinals, now);
        for ordinal in &released.ordinals {
            self.sequences.0.insert(*ordinal, self.sequence_number);
        }
        Ok(released)
    }

    /// `None` if the address is free or cooling, else the handle that holds it, if any.
    fn releasable(&self, request: &Release) -> Result<Option<Option<HandleId>>, Mismatch> {
        let address = self.address(request.ordinal);
        let found = self.sequence(request.ordinal);
        if let Some(expected) = request.sequence.filter(|expected| *expected != found) {
            return Err(Mismatch::Sequence { address, expected, found });
        }
        let Some(attribute) = self.attribute(request.ordinal).filter(|attribute| attribute.released_at.is_none())
        else {
            return Ok(None);
        };
        let found = attribute.handle();
        match &request.handle {
            Some(expected) if found.as_ref() != Some(expected) => {
                Err(Mismatch::Handle { address, expected: expected.clone(), found })
            }
            _ => Ok(Some(found)),
        }
    }

    /// Releases all addresses of a handle and returns how many there were.
    pub(crate) fn release_handle(&mut self, handle: &HandleId, now: OffsetDateTime) -> usize {
        let ordinals: Vec<Ordinal> = self.ordinals_of(handle).collect();
        self.cool(&ordinals, now);
        ordinals.len()
    }

    /// Points ordinals at a new attribute that says when they were released.
    fn cool(&mut self, ordinals: &[Ordinal], now: OffsetDateTime) {
        if ordinals.is_empty() {
            return;
        }
        let attributes = self.attributes.get_or_insert_default();
        attributes.push(Attribute { released_at: Some(Timestamp(now)), ..Attribute::default() });
        let index = attributes.len() - 1;
        for ordinal in ordinals {
            self.allocations[*ordinal] = Some(index);
        }
    }

    /// Frees addresses whose cool-down is over, in ascending order to the tail of the queue, and drops attributes
    /// that nothing refers to. Returns whether an address became free.
    pub(crate) fn collect(&mut self, cooldown: Duration, now: OffsetDateTime) -> bool {
        let over = |attribute: &Attribute| attribute.released_at.is_some_and(|at| now - at.0 >= cooldown);
        let ordinals: Vec<Ordinal> =
            (0..self.allocations.len()).filter(|n| self.attribute(*n).is_some_and(over)).collect();
        for ordinal in &ordinals {
            self.allocations[*ordinal] = None;
            self.unallocated.push(*ordinal);
            self.sequences.0.remove(ordinal);
        }
        self.prune();
        !ordinals.is_empty()
    }

    /// Drops attributes that nothing refers to and renumbers the rest.
    fn prune(&mut self) {
        let Some(attributes) = &mut self.attributes else { return };
        let mut renumbered = vec![None; attributes.len()];
        for index in self.allocations.iter().flatten() {
            renumbered[*index] = Some(0);
        }
        for (new, slot) in renumbered.iter_mut().flatten().enumerate() {
            *slot = new;
        }
        let mut old = 0..;
        attributes.retain(|_| old.next().is_some_and(|n: usize| renumbered[n].is_some()));
        for index in self.allocations.iter_mut().flatten() {
            *index = renumbered[*index].expect("every index in use was given a new number above");
        }
    }

    /// Changes what is known of one address's holder, without touching others that share the attribute.
    pub(crate) fn replace_attribute(&mut self, ordinal: Ordinal, attribute: &Attribute) {
        if self.attribute(ordinal).is_some() {
            self.allocations[ordinal] = Some(self.index_of(attribute));
            self.prune();
        }
    }

    /// Takes the owner away.
    pub(crate) fn disown(&mut self) {
        self.affinity = None;
        self.affinity_claim_time = None;
    }
}

#[cfg(test)]
mod tests;
