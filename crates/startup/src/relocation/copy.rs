//! Making one datastore equal to another: what differs is a pure question, the writing is compare-and-swap.

use std::{cmp::Ordering, iter};

use calico_model::Revision;
use calico_store::{Entry, Error, Kv, Listing};

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Copied, ROOT, RelocationError,
    RelocationError::{New, Old},
    is_about_migration,
};

/// How many keys are written at once: etcd makes a batch of them, and syncs its disk once.
const AT_ONCE: usize = 32;

/// One way in which a copy differs from its original.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference<'a> {
    /// The copy lacks this entry of the original.
    Missing(&'a Entry),
    /// The copy holds another value than this of the original, written at this revision.
    Other(&'a Entry, Revision),
    /// The copy holds this entry, which the original lacks.
    TooMuch(&'a Entry),
}

impl Difference<'_> {
    /// The key that differs.
    pub fn key(&self) -> &str {
        match self {
            Self::Missing(entry) | Self::Other(entry, _) | Self::TooMuch(entry) => &entry.key,
        }
    }
}

/// How `copy` differs from `original`, key by key. Both are in the order of keys; what is about a migration itself does not
/// count.
pub fn differences<'a>(original: &'a [Entry], copy: &'a [Entry]) -> Vec<Difference<'a>> {
    let (mut original, mut copy) = (relevant(original).peekable(), relevant(copy).peekable());
    let next = || {
        let order = match (original.peek(), copy.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => left.key.cmp(&right.key),
        };
        Some(match order {
            Ordering::Less => original.next().map(Difference::Missing),
            Ordering::Greater => copy.next().map(Difference::TooMuch),
            Ordering::Equal => match (original.next(), copy.next()) {
                (Some(left), Some(right)) if left.value != right.value => Some(Difference::Other(left, right.revision)),
                _ => None,
            },
        })
    };
    iter::from_fn(next).flatten().collect()
}

/// Without the keys of the migration itself.
fn relevant(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    entries.iter().filter(|entry| !is_about_migration(&entry.key))
}

/// The number of keys that are copied.
pub(super) fn count(listing: &Listing) -> usize {
    relevant(&listing.entries).count()
}

/// What came of one round of copying.
pub(super) struct Round {
    /// How many keys differed before it.
    pub(super) written: usize,
    /// Where both stood before it; they were equal if nothing was written.
    pub(super) copied: Copied,
}

/// Compares all of `old` with all of `new`, and writes the differences into `new`. What somebody else changes there
/// meanwhile is an error: nobody else should.
pub(super) async fn round(old: &dyn Kv, new: &dyn Kv) -> Result<Round, RelocationError> {
    let (original, copy) = (old.list(ROOT).await.map_err(Old)?, new.list(ROOT).await.map_err(New)?);
    let writes = differences(&original.entries, &copy.entries);
    let all = stream::iter(&writes).map(Ok);
    all.try_for_each_concurrent(AT_ONCE, |write| apply(new, write)).await.map_err(New)?;
    let copied = Copied { old: original.revision.0, new: copy.revision.0, keys: count(&original) };
    Ok(Round { written: writes.len(), copied })
}

async fn apply(new: &dyn Kv, write: &Difference<'_>) -> Result<(), Error> {
    match write {
        Difference::Missing(entry) => new.create(&entry.key, entry.value.clone()).await.map(drop),
        Difference::Other(entry, revision) => new.update(&entry.key, entry.value.clone(), *revision).await.map(drop),
        Difference::TooMuch(entry) => new.delete(&entry.key, entry.revision).await,
    }
}

/// The differences that arose in `original` after both were equal and that nothing in `copy` stands against: keys
/// written in the original since, and not in the copy.
pub(super) fn late<'a>(original: &'a [Entry], copy: &'a [Entry], copied: Copied) -> Vec<Difference<'a>> {
    let untouched = |revision: Revision| revision.0 <= copied.new;
    let mut writes = differences(original, copy);
    writes.retain(|write| match write {
        Difference::Missing(entry) => entry.revision.0 > copied.old,
        Difference::Other(entry, revision) => entry.revision.0 > copied.old && untouched(*revision),
        Difference::TooMuch(entry) => untouched(entry.revision),
    });
    writes
}

/// Brings after what was written into `old` between the comparison and the switch. Returns how many keys; what a host
/// that has arrived already changed in `new` stays.
pub(super) async fn bring_late(old: &dyn Kv, new: &dyn Kv, copied: Copied) -> Result<usize, RelocationError> {
    let (original, copy) = (old.list(ROOT).await.map_err(Old)?, new.list(ROOT).await.map_err(New)?);
    let mut brought = 0;
    for write in late(&original.entries, &copy.entries, copied) {
        match apply(new, &write).await {
            Ok(()) => brought += 1,
            Err(error) if error.is_conflict() || error.is_not_found() => {}
            Err(error) => return Err(New(error)),
        }
    }
    Ok(brought)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &str, revision: i64) -> Entry {
        Entry { key: format!("/calico/{key}"), value: value.into(), revision: Revision(revision) }
    }

    #[test]
    fn differences_make_the_copy_equal() {
        let original =
            [entry("a", "1", 1), entry("b", "2", 5), entry("datastore/v1/relocation", "", 6), entry("z", "", 2)];
        let copy = [
            entry("b", "1", 9),
            entry("c", "3", 8),
            entry("datastore/v1/relocation", "else", 7),
            entry("datastore/v1/relocation-hosts/h", "", 7),
            entry("z", "", 3),
        ];
        let expected = [
            Difference::Missing(&original[0]),
            Difference::Other(&original[1], Revision(9)),
            Difference::TooMuch(&copy[1]),
        ];
        assert_eq!(differences(&original, &copy), expected);
        assert!(differences(&original, &original).is_empty());
        assert_eq!(differences(&original, &[]).len(), 3);
        assert_eq!(differences(&[], &copy).len(), 3);
    }

    #[test]
    fn late_writes_yield_to_those_in_the_new_place() {
        let copied = Copied { old: 10, new: 20, keys: 3 };
        let original = [
            entry("changed", "late", 11),
            entry("changed-in-both", "late", 11),
            entry("created", "late", 12),
            entry("deleted-in-new", "copied", 3),
            entry("stays", "x", 2),
        ];
        let copy = [
            entry("changed", "copied", 15),
            entry("changed-in-both", "newer", 21),
            entry("created-in-new", "newer", 22),
            entry("deleted", "copied", 16),
            entry("stays", "changed in new", 23),
        ];
        let expected = [
            Difference::Other(&original[0], Revision(15)),
            Difference::Missing(&original[2]),
            Difference::TooMuch(&copy[3]),
        ];
        assert_eq!(late(&original, &copy, copied), expected);
    }
}
