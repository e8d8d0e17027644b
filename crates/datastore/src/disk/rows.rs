//! The tables of the database, and how a change is written into a row.
//!
//! | table | key | value |
//! |---|---|---|
//! | `changes` | revision, number within it | one write of one key |
//! | `leases` | id | granted time to live in seconds |
//! | `meta` | name | a number; see [`Meta`] |
//!
//! A row of `changes`, numbers little-endian:
//!
//! ```text
//! deletion  0 │ key
//! put       1 │ length of the key: u32 │ key │ create revision: i64 │ version: i64 │ lease: i64 │ value
//! ```

use calico_store::mvcc::{Change, OwnedChange, OwnedValue};
use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

/// The format that this program writes. A file of a greater one is refused and left alone.
pub(super) const FORMAT: i64 = 1;

pub(super) const CHANGES: TableDefinition<(i64, u32), &[u8]> = TableDefinition::new("changes");
pub(super) const LEASES: TableDefinition<i64, i64> = TableDefinition::new("leases");
pub(super) const META: TableDefinition<&str, i64> = TableDefinition::new("meta");

const DELETION: u8 = 0;
const PUT: u8 = 1;
/// A put without its key and value.
const HEAD: usize = 1 + 4 + 3 * 8;

/// What a database says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The revision of the last write.
    pub revision: i64,
    /// The compacted revision; 0 if nothing was compacted.
    pub compacted: i64,
    /// Counts the transactions of the database, so that one of which the outcome is not known can be looked up.
    pub serial: i64,
    /// The id of the cluster, as etcd has one; drawn when the datastore is made, and kept by backups.
    pub cluster: u64,
    /// The id of its only member.
    pub member: u64,
}

impl Meta {
    /// Of a new datastore.
    pub(super) fn new() -> Self {
        Self { revision: 1, compacted: 0, serial: 0, cluster: draw(), member: draw() }
    }

    pub(super) fn write(&self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        let mut table = transaction.open_table(META)?;
        table.insert("format", FORMAT)?;
        table.insert("revision", self.revision)?;
        table.insert("compacted", self.compacted)?;
        table.insert("serial", self.serial)?;
        table.insert("cluster", self.cluster.cast_signed())?;
        table.insert("member", self.member.cast_signed())?;
        Ok(())
    }

    /// Reads it; `Err` is the format of a file that this program does not know.
    pub(super) fn read(transaction: &ReadTransaction) -> Result<Result<Self, i64>, redb::Error> {
        let table = transaction.open_table(META)?;
        let number = |name: &str| {
            let found = table.get(name)?.map(|row| row.value());
            found.ok_or_else(|| redb::Error::Corrupted(format!("the table meta has no row {name}")))
        };
        let format = number("format")?;
        if format != FORMAT {
            return Ok(Err(format));
        }
        Ok(Ok(Self {
            revision: number("revision")?,
            compacted: number("compacted")?,
            serial: number("serial")?,
            cluster: number("cluster")?.cast_unsigned(),
            member: number("member")?.cast_unsigned(),
        }))
    }
}

/// A random number that is not 0. It tells clusters and leases apart; nothing depends on nobody guessing it.
pub(crate) fn draw() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // Every `RandomState` has keys of its own, which come from the system's random numbers.
    RandomState::new().build_hasher().finish().max(1)
}

/// A row of the table of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub key: (i64, u32),
    pub value: Vec<u8>,
}

impl Row {
    /// A change as a row.
    pub(crate) fn new(change: &Change<'_>) -> Self {
        let key = (change.revision, change.sub);
        let Some(put) = &change.value else {
            return Self { key, value: [&[DELETION], change.key.as_ref()].concat() };
        };
        let mut value = Vec::with_capacity(HEAD + change.key.len() + put.value.len());
        value.push(PUT);
        let length = u32::try_from(change.key.len()).expect("a request of gigabytes is refused before it gets here");
        value.extend_from_slice(&length.to_le_bytes());
        value.extend_from_slice(change.key);
        for number in [put.create_revision, put.version, put.lease] {
            value.extend_from_slice(&number.to_le_bytes());
        }
        value.extend_from_slice(put.value);
        Self { key, value }
    }
}

/// What a row takes, key included, in bytes.
pub(super) fn size(value: &[u8]) -> u64 {
    // The key is a revision and a number.
    value.len() as u64 + 12
}

/// True if a row is a deletion.
pub(super) fn is_deletion(value: &[u8]) -> bool {
    value.first() == Some(&DELETION)
}

/// A change out of its row; `None` if the row is none.
pub(super) fn decode((revision, sub): (i64, u32), row: &[u8]) -> Option<OwnedChange> {
    let (tag, rest) = row.split_first()?;
    match *tag {
        DELETION => Some(OwnedChange { revision, sub, key: rest.to_vec(), value: None }),
        PUT => {
            let (length, rest) = rest.split_first_chunk()?;
            let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            let (create_revision, rest) = number(rest)?;
            let (version, rest) = number(rest)?;
            let (lease, value) = number(rest)?;
            let value = OwnedValue { value: value.to_vec(), create_revision, version, lease };
            Some(OwnedChange { revision, sub, key: key.to_vec(), value: Some(value) })
        }
        _ => None,
    }
}

fn number(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((i64::from_le_bytes(*number), rest))
}

/// All leases with their time to live.
pub(super) fn leases(transaction: &ReadTransaction) -> Result<Vec<(i64, i64)>, redb::Error> {
    let table = transaction.open_table(LEASES)?;
    let row = |row: Result<(redb::AccessGuard<'_, i64>, redb::AccessGuard<'_, i64>), redb::StorageError>| {
        let (id, ttl) = row?;
        Ok((id.value(), ttl.value()))
    };
    table.iter()?.map(row).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use calico_store::mvcc::{Bytes, ChangedValue, Key};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_change_comes_back_as_it_went(
            key in prop::collection::vec(any::<u8>(), 0..40),
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
            numbers in any::<[i64; 3]>(),
        ) {
            let shared: (Key, Option<Bytes>) = (key.clone().into(), value.clone().map(Into::into));
            let [create_revision, version, lease] = numbers;
            let put = shared.1.as_ref().map(|value| ChangedValue { value, create_revision, version, lease });
            let row = Row::new(&Change { revision: 5, sub: 2, key: &shared.0, value: put });
            let value = value.map(|value| OwnedValue { value, create_revision, version, lease });
            prop_assert_eq!(decode(row.key, &row.value), Some(OwnedChange { revision: 5, sub: 2, key, value }));
        }

        #[test]
        fn no_bytes_make_it_panic(row in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode((1, 0), &row);
        }
    }

    #[test]
    fn a_row_that_ends_too_early_is_none() {
        let (key, value): (Key, Bytes) = (b"key".as_slice().into(), b"".as_slice().into());
        let put = ChangedValue { value: &value, create_revision: 1, version: 1, lease: 0 };
        let row = Row::new(&Change { revision: 1, sub: 0, key: &key, value: Some(put) }).value;
        assert!(decode((1, 0), &row).is_some());
        for end in 0..row.len() {
            assert_eq!(decode((1, 0), &row[..end]), None, "{end} bytes");
        }
    }
}
