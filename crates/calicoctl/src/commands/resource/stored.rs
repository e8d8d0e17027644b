//! Resources as they stand in the datastore, of whatever kind.
//!
//! A policy that an older release stored may be called otherwise than its key says (`default.web` is read as `web`):
//! the key is what it is found, deleted and compared by, the name is what people see. Upstream's program does the
//! same.

use calico_model::{AnyResource, Kind, KindName, KindVisitor, Resource, ResourceKey, Revision};
use calico_store::{Entry, Error, Store};

/// A resource with its version.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// The version that was read.
    pub(super) revision: Revision,
    /// What stands there.
    pub(super) resource: AnyResource,
}

/// All resources of a kind, or of a namespace of it.
#[derive(Debug)]
pub(super) struct Listed {
    /// The version of the listing.
    pub(super) revision: Revision,
    /// What can be read, in key order.
    pub(super) resources: Vec<Stored>,
    /// What cannot.
    pub(super) unreadable: Vec<Error>,
}

/// What stands under a key.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Corrupt`], [`Error::Unreachable`].
pub(super) async fn get(store: &Store, key: &ResourceKey) -> Result<Stored, Error> {
    match store.kv().get(&key.to_string()).await? {
        Some(entry) => decode(key.kind, &entry),
        None => Err(Error::NotFound { key: key.to_string() }),
    }
}

/// All of a kind, or of a namespace of it.
///
/// # Errors
/// [`Error::Unreachable`].
pub(super) async fn list(store: &Store, kind: KindName, namespace: Option<&str>) -> Result<Listed, Error> {
    let listing = store.kv().list(&prefix(kind, namespace)).await?;
    let mut listed = Listed { revision: listing.revision, resources: Vec::new(), unreadable: Vec::new() };
    for entry in &listing.entries {
        // Keys with too many segments are nobody's resource.
        let Ok(key) = entry.key.parse::<ResourceKey>() else { continue };
        match decode(key.kind, entry) {
            Ok(stored) => listed.resources.push(stored),
            Err(error) => listed.unreadable.push(error),
        }
    }
    Ok(listed)
}

/// The beginning of the keys of a kind, or of a namespace of it.
pub(super) fn prefix(kind: KindName, namespace: Option<&str>) -> String {
    let all = ResourceKey::prefix(kind);
    match namespace {
        Some(namespace) => format!("{all}{namespace}/"),
        None => all,
    }
}

/// A stored value as a resource. Its name may differ from the key's.
fn decode(kind: KindName, entry: &Entry) -> Result<Stored, Error> {
    struct Decode<'a>(&'a Entry);

    impl KindVisitor for Decode<'_> {
        type Out = Result<AnyResource, Error>;

        fn visit<S: Kind>(self) -> Self::Out {
            let Entry { key, value, revision } = self.0;
            match Resource::<S>::from_json(value, Some(*revision)) {
                Ok(resource) => Ok(S::into_any(resource)),
                Err(error) => Err(Error::Corrupt { key: key.clone(), cause: error.to_string() }),
            }
        }
    }

    let resource = kind.visit(Decode(entry))?;
    Ok(Stored { revision: entry.revision, resource })
}

/// As [`get`], of a value that is at hand.
///
/// # Errors
/// [`Error::Corrupt`].
pub(super) fn from_value(kind: KindName, value: &serde_json::Value, revision: Revision) -> Result<AnyResource, Error> {
    let value = value.to_string().into_bytes();
    decode(kind, &Entry { key: kind.plural().to_owned(), value, revision }).map(|stored| stored.resource)
}
