//! Settings of upstream's controllers for Kubernetes. Nothing here acts on them; they can be stored and seen.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AnyResource, Fault, Kind, KindName, Resource};

/// A configuration resource of upstream's controllers.
pub type KubeControllersConfiguration = Resource<KubeControllersConfigurationSpec>;

/// The settings, kept as found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KubeControllersConfigurationSpec {
    /// All members.
    #[serde(flatten)]
    pub members: Map<String, Value>,
}

impl Kind for KubeControllersConfigurationSpec {
    const NAME: KindName = KindName::KubeControllersConfiguration;

    fn faults(_: &Resource<Self>) -> Vec<Fault> {
        Vec::new()
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::KubeControllersConfiguration(resource)
    }
}
