//! The IPAM configuration as a resource. With the datastore etcd it is stored and nothing more: IPAM reads the key
//! `/calico/ipam/v2/config`, which `calicoctl ipam configure` writes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AnyResource, Fault, Kind, KindName, Resource, metadata::null_is_empty, validate};

/// An IPAM configuration resource; there is one, `default`.
pub type IPAMConfiguration = Resource<IPAMConfigurationSpec>;

/// Settings of address management.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IPAMConfigurationSpec {
    /// No host borrows from another one's block.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub strict_affinity: bool,
    /// Blocks that a host may own; 0 is no limit.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_is_empty")]
    pub max_blocks_per_host: i64,
    /// Blocks are claimed as they are needed. Always stored, false where it was not given.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub auto_allocate_blocks: bool,
    /// `Enabled` or `Disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "kubeVirtVMAddressPersistence")]
    pub kube_virt_vm_address_persistence: Option<String>,
    /// Seconds until a released address is given out again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_cooldown_seconds: Option<i64>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl Kind for IPAMConfigurationSpec {
    const NAME: KindName = KindName::IPAMConfiguration;

    fn faults(resource: &Resource<Self>) -> Vec<Fault> {
        validate::ipam_configuration(resource)
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::IPAMConfiguration(resource)
    }
}
