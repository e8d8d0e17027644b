//! Calico v3 resources as they stand in the datastore: types, names, keys, defaults, validation.
//!
//! This crate decides what a resource *is*: which JSON members it has, which of them a write fills in, which
//! values are refused and under which key it is stored. It does no I/O and has no clock: who creates a resource
//! passes the time and the uid.
//!
//! ```
//! use calico_model::{IPPool, IPPoolSpec, Resource, Kind};
//!
//! let mut pool: IPPool = Resource::new("pool1", IPPoolSpec { cidr: "10.10.0.0/16".parse().unwrap(), ..Default::default() });
//! pool.prepare()?;                                    // defaults, then validation
//! assert_eq!(pool.key().to_string(), "/calico/resources/v3/projectcalico.org/ippools/pool1");
//! assert_eq!(pool.spec.block_size, Some(26));
//! # Ok::<(), calico_model::Invalid>(())
//! ```
//!
//! Names to know: [`Resource`] is the envelope (metadata, spec, status) around a [`Kind`]'s spec; [`ResourceKey`]
//! is its place in etcd; [`Fault`] is one reason for refusal, [`Invalid`] all of them at once; [`AnyResource`] is
//! the closed set of kinds that the agents follow.

mod agent_health;
mod any;
mod bgp;
mod bgp_filter;
mod block_affinity;
mod cluster;
mod diagnose;
mod duration;
mod endpoint;
mod felix;
pub mod field;
pub mod input;
mod ipam;
mod key;
mod kind;
mod kube_controllers;
mod metadata;
mod name;
mod network_set;
mod node;
mod node_status;
mod policy;
mod pool;
mod profile;
mod resource;
mod rule;
mod salvage;
mod scalar;
mod schema;
mod staged_kubernetes;
mod tier;
mod validate;
mod vxlan;

pub use agent_health::AgentHealth;
pub use any::{AnyResource, Change, DecodeError};
pub use bgp::{
    BGPConfiguration, BGPConfigurationSpec, BGPPeer, BGPPeerSpec, Community, PrefixAdvertisement, ServiceCidr,
};
pub use bgp_filter::{
    AddCommunity, BGPFilter, BGPFilterOperation, BGPFilterRule, BGPFilterSpec, CommunityMatch, PrefixLength,
    PrependAsPath, SetPriority,
};
pub use block_affinity::{BlockAffinity, BlockAffinitySpec, Flag};
pub use cluster::{ClusterInformation, ClusterInformationSpec};
pub use duration::{format_go_duration, parse_go_duration};
pub use endpoint::{
    EndpointPort, HostEndpoint, HostEndpointSpec, IPNat, QosControls, WorkloadEndpoint, WorkloadEndpointSpec,
    WorkloadName,
};
pub use felix::{FelixConfiguration, FelixConfigurationSpec, ProtoPort};
pub use ipam::{IPAMConfiguration, IPAMConfigurationSpec};
pub use key::{KeyError, RESOURCE_ROOT, ResourceKey};
pub use kind::{KindName, KindVisitor, ResourceVisitor};
pub use kube_controllers::{KubeControllersConfiguration, KubeControllersConfigurationSpec};
pub use metadata::Metadata;
pub use name::{ANNOTATION_TYPED_NAME, NameError, ProfileName, normalise};
pub use network_set::{GlobalNetworkSet, GlobalNetworkSetSpec, NetSetSpec, NetworkSet, NetworkSetSpec};
pub use node::{Node, NodeAddress, NodeBgp, NodeSpec};
pub use node_status::{CalicoNodeStatus, CalicoNodeStatusSpec};
pub use policy::{
    ANNOTATION_METADATA, Direction, GlobalNetworkPolicy, GlobalNetworkPolicySpec, LABEL_TIER, NetworkPolicy,
    NetworkPolicySpec, PolicySpec, StagedGlobalNetworkPolicy, StagedGlobalNetworkPolicySpec, StagedNetworkPolicy,
    StagedNetworkPolicySpec,
};
pub use pool::{EncapMode, IPPool, IPPoolSpec, IPReservation, IPReservationSpec};
pub use profile::{Profile, ProfileSpec};
pub use resource::{Kind, Resource, Revision};
pub use rule::{Action, EntityRule, HttpMatch, HttpPath, Icmp, Rule, RuleMetadata, ServiceAccountMatch, ServiceMatch};
pub use scalar::{AsNumber, MacAddress, Port, Protocol, timestamp};
pub use staged_kubernetes::{StagedKubernetesNetworkPolicy, StagedKubernetesNetworkPolicySpec};
pub use tier::{Tier, TierSpec};
pub use validate::{Fault, Invalid};
pub use vxlan::{LEAST_MTU, VXLAN_DEVICES, VXLAN_OVERHEAD};
