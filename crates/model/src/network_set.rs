//! Network sets: networks with labels, so that selectors of rules can mean them.

use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AnyResource, Fault, Kind, KindName, Resource, metadata::null_is_empty, validate};

/// A network set resource of one namespace.
pub type NetworkSet = Resource<NetworkSetSpec>;
/// A network set resource of the cluster.
pub type GlobalNetworkSet = Resource<GlobalNetworkSetSpec>;

/// The networks of a set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NetSetSpec {
    /// Networks and single addresses, as typed; host bits mean nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub nets: Vec<String>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

macro_rules! network_set {
    ($($(#[$doc:meta])* $spec:ident $kind:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $spec(pub NetSetSpec);

        impl Deref for $spec {
            type Target = NetSetSpec;

            fn deref(&self) -> &NetSetSpec {
                &self.0
            }
        }

        impl DerefMut for $spec {
            fn deref_mut(&mut self) -> &mut NetSetSpec {
                &mut self.0
            }
        }

        impl From<NetSetSpec> for $spec {
            fn from(spec: NetSetSpec) -> Self {
                Self(spec)
            }
        }

        impl Kind for $spec {
            const NAME: KindName = KindName::$kind;

            fn faults(resource: &Resource<Self>) -> Vec<Fault> {
                validate::network_set(&resource.metadata, &resource.spec)
            }

            fn into_any(resource: Resource<Self>) -> AnyResource {
                AnyResource::$kind(resource)
            }
        }
    )+};
}

network_set! {
    /// The spec of a [`NetworkSet`].
    NetworkSetSpec NetworkSet;
    /// The spec of a [`GlobalNetworkSet`].
    GlobalNetworkSetSpec GlobalNetworkSet;
}
