//! The closed list of kinds: everything that depends on it is made from this one table.

use std::fmt;

use crate::{AnyResource, Resource};

/// Hands the table of kinds to another macro: the kind, its spec's type, its plural (the segment of its keys), whether
/// it is namespaced, and what it is.
macro_rules! with_kinds {
    ($then:ident) => {
        $then! {
            BGPConfiguration BGPConfigurationSpec "bgpconfigurations" false
                "BGP settings of the cluster (`default`) or a node (`node.<name>`).",
            BGPFilter BGPFilterSpec "bgpfilters" false
                "Which routes go out to BGP neighbours and come in from them.",
            BGPPeer BGPPeerSpec "bgppeers" false
                "A BGP neighbour.",
            BlockAffinity BlockAffinitySpec "blockaffinities" false
                "Which host owns a block, as a resource; IPAM in etcd does not use it.",
            CalicoNodeStatus CalicoNodeStatusSpec "caliconodestatuses" false
                "What a node reports of itself, on request.",
            ClusterInformation ClusterInformationSpec "clusterinformations" false
                "The cluster's identity and readiness.",
            FelixConfiguration FelixConfigurationSpec "felixconfigurations" false
                "Felix settings.",
            GlobalNetworkPolicy GlobalNetworkPolicySpec "globalnetworkpolicies" false
                "Ordered rules for endpoints of every namespace and for hosts.",
            GlobalNetworkSet GlobalNetworkSetSpec "globalnetworksets" false
                "Networks with labels, for selectors of rules.",
            HostEndpoint HostEndpointSpec "hostendpoints" false
                "An interface of a host that policy applies to.",
            IPAMConfiguration IPAMConfigurationSpec "ipamconfigurations" false
                "Settings of address management; IPAM in etcd reads another key.",
            IPPool IPPoolSpec "ippools" false
                "A range of addresses for workloads.",
            IPReservation IPReservationSpec "ipreservations" false
                "Addresses that auto-assignment skips.",
            KubeControllersConfiguration KubeControllersConfigurationSpec "kubecontrollersconfigurations" false
                "Settings of upstream's controllers for Kubernetes.",
            NetworkPolicy NetworkPolicySpec "networkpolicies" true
                "Ordered rules for endpoints of one namespace.",
            NetworkSet NetworkSetSpec "networksets" true
                "Networks with labels, for selectors of rules of one namespace.",
            Node NodeSpec "nodes" false
                "A host.",
            Profile ProfileSpec "profiles" false
                "Labels and rules that endpoints inherit by name.",
            StagedGlobalNetworkPolicy StagedGlobalNetworkPolicySpec "stagedglobalnetworkpolicies" false
                "A global policy on trial: reported on, never enforced.",
            StagedKubernetesNetworkPolicy StagedKubernetesNetworkPolicySpec "stagedkubernetesnetworkpolicies" true
                "A Kubernetes policy on trial: reported on, never enforced.",
            StagedNetworkPolicy StagedNetworkPolicySpec "stagednetworkpolicies" true
                "A policy on trial: reported on, never enforced.",
            Tier TierSpec "tiers" false
                "A group of policies with a default action.",
            WorkloadEndpoint WorkloadEndpointSpec "workloadendpoints" true
                "An interface of a workload.",
        }
    };
}
pub(crate) use with_kinds;

macro_rules! names {
    ($($kind:ident $spec:ident $plural:literal $namespaced:literal $doc:literal),+ $(,)?) => {
        /// Every kind that this crate knows, by upstream's name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(clippy::upper_case_acronyms)]
        pub enum KindName { $(#[doc = $doc] $kind),+ }

        impl KindName {
            /// All kinds.
            pub const ALL: &'static [KindName] = &[$(KindName::$kind),+];

            /// The kind as written in `kind:`.
            pub const fn as_str(self) -> &'static str {
                match self { $(KindName::$kind => stringify!($kind)),+ }
            }

            /// The path segment in etcd, lower case.
            pub const fn plural(self) -> &'static str {
                match self { $(KindName::$kind => $plural),+ }
            }

            /// True if resources of this kind live in a namespace.
            pub const fn is_namespaced(self) -> bool {
                match self { $(KindName::$kind => $namespaced),+ }
            }

            /// The kind of a path segment, `None` for plurals that are not followed here.
            pub fn from_plural(plural: &str) -> Option<Self> {
                match plural { $($plural => Some(KindName::$kind),)+ _ => None }
            }

            /// Calls the visitor with this kind's spec.
            pub fn visit<V: KindVisitor>(self, visitor: V) -> V::Out {
                match self { $(KindName::$kind => visitor.visit::<crate::$spec>()),+ }
            }
        }

        impl AnyResource {
            /// Calls the visitor with the resource as what it is.
            pub fn visit<V: ResourceVisitor>(self, visitor: V) -> V::Out {
                match self { $(Self::$kind(resource) => visitor.visit(resource)),+ }
            }
        }
    };
}
with_kinds!(names);

impl fmt::Display for KindName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What can be done with any kind whose name is known at run time only; see [`KindName::visit`].
pub trait KindVisitor {
    /// What comes of it.
    type Out;

    /// Does it.
    fn visit<S: crate::Kind>(self) -> Self::Out;
}

/// What can be done with a resource of any kind; see [`AnyResource::visit`].
pub trait ResourceVisitor {
    /// What comes of it.
    type Out;

    /// Does it.
    fn visit<S: crate::Kind>(self, resource: Resource<S>) -> Self::Out;
}
