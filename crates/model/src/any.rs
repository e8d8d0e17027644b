//! The closed set of resources that the agents follow.

use crate::{
    Fault, Invalid, KindVisitor, Metadata, Resource, ResourceKey, Revision, kind::with_kinds, salvage::salvage,
    validate,
};

/// What is the same for every kind.
macro_rules! any {
    ($($kind:ident $spec:ident $plural:literal $namespaced:literal $doc:literal),+ $(,)?) => {
        /// The same for a resource of whatever kind.
        macro_rules! each {
            ($any:expr, $resource:ident => $result:expr) => {
                match $any { $(Self::$kind($resource) => $result),+ }
            };
        }

        /// A resource of any kind.
        #[derive(Clone, Debug, PartialEq)]
        pub enum AnyResource { $(#[doc = $doc] $kind(Resource<crate::$spec>)),+ }
    };
}
with_kinds!(any);

/// One change of the datastore's resources, the input of everything that follows them. Level-triggered: a set
/// carries the whole new value and may repeat the old one.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Created or changed.
    Set {
        /// Where it is stored.
        key: ResourceKey,
        /// What stands there now.
        resource: Box<AnyResource>,
    },
    /// Deleted.
    Remove {
        /// Where it was.
        key: ResourceKey,
    },
    /// Stored, but it cannot be used: what it governs must be closed, not left as if it were not there.
    Unusable {
        /// Where it is stored.
        key: ResourceKey,
        /// What is wrong with it, in one line.
        reason: String,
        /// As much of it as could be read.
        resource: Option<Box<AnyResource>>,
    },
}

impl Change {
    /// The resource that changes.
    pub fn key(&self) -> &ResourceKey {
        match self {
            Self::Set { key, .. } | Self::Remove { key } | Self::Unusable { key, .. } => key,
        }
    }

    /// True if members of the record could not be read: in [`Unusable`](Self::Unusable)'s resource they are absent,
    /// whatever they meant.
    pub fn is_partial(&self) -> bool {
        matches!(self, Self::Unusable { reason, .. } if reason.starts_with(MALFORMED))
    }
}

/// What the reason begins with if a record is not of its kind's form.
const MALFORMED: &str = "it is not a valid ";

impl From<DecodeError> for Change {
    fn from(error: DecodeError) -> Self {
        let reason = error.reason();
        match error {
            DecodeError::Invalid { key, resource, .. } | DecodeError::Name { key, resource, .. } => {
                Self::Unusable { key, reason, resource: Some(resource) }
            }
            DecodeError::Json { key, resource, .. } => Self::Unusable { key, reason, resource },
        }
    }
}

/// A stored value that is not what its key says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not JSON, or not of the kind's shape.
    #[error("{key} does not hold a valid {}: {source}", key.kind)]
    Json {
        /// Where it is stored.
        key: ResourceKey,
        /// What is wrong.
        source: serde_json::Error,
        /// What could be read all the same.
        resource: Option<Box<AnyResource>>,
    },
    /// JSON of the kind's shape that cannot be used.
    #[error("{key} cannot be used: {invalid}")]
    Invalid {
        /// Where it is stored.
        key: ResourceKey,
        /// What is wrong.
        invalid: Invalid,
        /// What was read.
        resource: Box<AnyResource>,
    },
    /// The name inside, or the namespace, differs from the key.
    #[error("{key} holds a {} named {name:?}", key.kind)]
    Name {
        /// Where it is stored.
        key: ResourceKey,
        /// The name inside, with the namespace if that differs.
        name: String,
        /// What was read.
        resource: Box<AnyResource>,
    },
}

impl DecodeError {
    /// Where the value is stored.
    pub fn key(&self) -> &ResourceKey {
        match self {
            Self::Json { key, .. } | Self::Invalid { key, .. } | Self::Name { key, .. } => key,
        }
    }

    /// What is wrong, without the key.
    pub fn reason(&self) -> String {
        match self {
            Self::Json { key, source, .. } => format!("{MALFORMED}{}: {source}", key.kind),
            Self::Invalid { invalid, .. } => invalid.reasons(),
            Self::Name { key, name, .. } => format!("it holds a {} named {name:?}", key.kind),
        }
    }
}

impl AnyResource {
    /// Reads the value stored under `key`.
    ///
    /// # Errors
    /// [`DecodeError`] names the key and what is wrong.
    pub fn decode(key: &ResourceKey, value: &[u8], revision: Revision) -> Result<Self, DecodeError> {
        struct Decode<'a>(&'a ResourceKey, &'a [u8], Revision);

        impl KindVisitor for Decode<'_> {
            type Out = Result<AnyResource, DecodeError>;

            fn visit<S: crate::Kind>(self) -> Self::Out {
                decode::<S>(self.0, self.1, self.2)
            }
        }

        key.kind.visit(Decode(key, value, revision))
    }

    /// Reads the value stored under `key` and refuses what cannot be used. The agents skip such a record, as if it
    /// were not there, and go on; upstream's Felix does the same with what its validators refuse.
    ///
    /// # Errors
    /// [`DecodeError`] names the key and what is wrong.
    pub fn decode_valid(key: &ResourceKey, value: &[u8], revision: Revision) -> Result<Self, DecodeError> {
        let resource = Self::decode(key, value, revision)?;
        match Invalid::unless_empty(key.kind, &key.name, resource.faults()) {
            Ok(()) => Ok(resource),
            Err(invalid) => Err(DecodeError::Invalid { key: key.clone(), invalid, resource: Box::new(resource) }),
        }
    }

    /// Everything that makes the resource unusable: all that a write refuses, except faults of annotations, which
    /// nothing here acts on. Fields that a write fills in may be empty. What upstream stores is accepted, also where
    /// it looks wrong (a profile rule with a strange action, host bits in a reservation, a bare address as an
    /// endpoint's network).
    pub fn faults(&self) -> Vec<Fault> {
        each!(self, resource => faults(resource))
    }

    /// Where the resource is stored.
    pub fn key(&self) -> ResourceKey {
        each!(self, resource => resource.key())
    }

    /// Name, labels, annotations and the rest.
    pub fn metadata(&self) -> &Metadata {
        each!(self, resource => &resource.metadata)
    }

    /// As [`metadata`](Self::metadata), to change it.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        each!(self, resource => &mut resource.metadata)
    }

    /// The revision it was read at, or that a file gave.
    pub fn revision(&self) -> Option<Revision> {
        each!(self, resource => resource.revision)
    }

    /// As [`Resource::prepare`].
    ///
    /// # Errors
    /// All faults at once.
    pub fn prepare(&mut self) -> Result<(), Invalid> {
        each!(self, resource => resource.prepare())
    }

    /// As [`Resource::to_json`].
    pub fn to_json(&self) -> Vec<u8> {
        each!(self, resource => resource.to_json())
    }
}

fn faults<S: crate::Kind>(resource: &Resource<S>) -> Vec<Fault> {
    let mut faults = validate::identity(S::NAME, &resource.metadata);
    faults.extend(S::faults(resource));
    faults
}

fn decode<S: crate::Kind>(key: &ResourceKey, value: &[u8], revision: Revision) -> Result<AnyResource, DecodeError> {
    let resource = Resource::<S>::from_json(value, Some(revision)).map_err(|source| {
        let read = salvage::<S>(key, value, revision).map(|resource| Box::new(S::into_any(resource)));
        DecodeError::Json { key: key.clone(), source, resource: read }
    })?;
    let name = resource.name();
    // A policy of an older release is read under a name without its tier; see `policy`.
    let agrees = name == key.name || (S::HAS_OLD_NAMES && key.name.strip_prefix("default.") == Some(name));
    // That a namespace is missing, or has no place here, is for the validation to say.
    let elsewhere = resource.metadata.namespace.as_ref().filter(|_| key.namespace.is_some());
    let name = match elsewhere.filter(|namespace| Some(*namespace) != key.namespace.as_ref()) {
        Some(namespace) => Some(format!("{namespace}/{name}")),
        None => (!agrees).then(|| name.to_owned()),
    };
    let resource = S::into_any(resource);
    match name {
        None => Ok(resource),
        Some(name) => Err(DecodeError::Name { key: key.clone(), name, resource: Box::new(resource) }),
    }
}
