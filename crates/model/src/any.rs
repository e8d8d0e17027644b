//! The closed set of resources that the agents follow.

use crate::{
    BGPConfiguration, BGPPeer, ClusterInformation, Fault, FelixConfiguration, HostEndpoint, IPPool, IPReservation,
    Invalid, KindName, Metadata, Node, Profile, Resource, ResourceKey, Revision, Tier, WorkloadEndpoint, validate,
};

/// The same for a resource of whatever kind.
macro_rules! each {
    ($any:expr, $resource:ident => $result:expr) => {
        match $any {
            Self::BGPConfiguration($resource) => $result,
            Self::BGPPeer($resource) => $result,
            Self::ClusterInformation($resource) => $result,
            Self::FelixConfiguration($resource) => $result,
            Self::HostEndpoint($resource) => $result,
            Self::IPPool($resource) => $result,
            Self::IPReservation($resource) => $result,
            Self::Node($resource) => $result,
            Self::Profile($resource) => $result,
            Self::Tier($resource) => $result,
            Self::WorkloadEndpoint($resource) => $result,
        }
    };
}

/// A resource of any kind.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum AnyResource {
    BGPConfiguration(BGPConfiguration),
    BGPPeer(BGPPeer),
    ClusterInformation(ClusterInformation),
    FelixConfiguration(FelixConfiguration),
    HostEndpoint(HostEndpoint),
    IPPool(IPPool),
    IPReservation(IPReservation),
    Node(Node),
    Profile(Profile),
    Tier(Tier),
    WorkloadEndpoint(WorkloadEndpoint),
}

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
    /// Deleted, or no longer readable.
    Remove {
        /// Where it was.
        key: ResourceKey,
    },
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
    },
    /// JSON of the kind's shape that cannot be used.
    #[error("{key} cannot be used: {invalid}")]
    Invalid {
        /// Where it is stored.
        key: ResourceKey,
        /// What is wrong.
        invalid: Invalid,
    },
    /// The name inside differs from the key.
    #[error("{key} holds a {} named {name:?}", key.kind)]
    Name {
        /// Where it is stored.
        key: ResourceKey,
        /// The name inside.
        name: String,
    },
}

impl DecodeError {
    /// Where the value is stored.
    pub fn key(&self) -> &ResourceKey {
        match self {
            Self::Json { key, .. } | Self::Invalid { key, .. } | Self::Name { key, .. } => key,
        }
    }
}

impl AnyResource {
    /// Reads the value stored under `key`.
    ///
    /// # Errors
    /// [`DecodeError`] names the key and what is wrong.
    pub fn decode(key: &ResourceKey, value: &[u8], revision: Revision) -> Result<Self, DecodeError> {
        match key.kind {
            KindName::BGPConfiguration => decode::<crate::BGPConfigurationSpec>(key, value, revision),
            KindName::BGPPeer => decode::<crate::BGPPeerSpec>(key, value, revision),
            KindName::ClusterInformation => decode::<crate::ClusterInformationSpec>(key, value, revision),
            KindName::FelixConfiguration => decode::<crate::FelixConfigurationSpec>(key, value, revision),
            KindName::HostEndpoint => decode::<crate::HostEndpointSpec>(key, value, revision),
            KindName::IPPool => decode::<crate::IPPoolSpec>(key, value, revision),
            KindName::IPReservation => decode::<crate::IPReservationSpec>(key, value, revision),
            KindName::Node => decode::<crate::NodeSpec>(key, value, revision),
            KindName::Profile => decode::<crate::ProfileSpec>(key, value, revision),
            KindName::Tier => decode::<crate::TierSpec>(key, value, revision),
            KindName::WorkloadEndpoint => decode::<crate::WorkloadEndpointSpec>(key, value, revision),
        }
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
            Err(invalid) => Err(DecodeError::Invalid { key: key.clone(), invalid }),
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
    let resource = Resource::<S>::from_json(value, Some(revision))
        .map_err(|source| DecodeError::Json { key: key.clone(), source })?;
    if resource.name() != key.name {
        return Err(DecodeError::Name { key: key.clone(), name: resource.name().to_owned() });
    }
    Ok(S::into_any(resource))
}
