//! The members of each kind but policies, which share theirs, and FelixConfiguration, which has more than all others
//! together.

use super::{Shape, felix, member, needed, policy};
use crate::KindName;

use Shape::{Any, AsNumber, Bool, Duration, Int, List, Network, Number, Object, OneOf, Protocol, Text, Texts};

pub(super) const TEXT_LIST: Shape = List(&Text);

const METADATA: Shape = Object(&[
    member("name", Text),
    member("namespace", Text),
    member("uid", Text),
    member("creationTimestamp", Text),
    member("resourceVersion", Text),
    member("labels", Texts),
    member("annotations", Texts),
    member("generateName", Text),
    member("selfLink", Text),
    member("generation", Int(0, i64::MAX)),
    member("deletionTimestamp", Text),
    member("deletionGracePeriodSeconds", Int(0, i64::MAX)),
    member("finalizers", TEXT_LIST),
    member("ownerReferences", List(&Any)),
    member("managedFields", List(&Any)),
]);

const CONDITIONS: Shape = Object(&[member(
    "conditions",
    List(&Object(&[
        member("type", Text),
        member("status", Text),
        member("observedGeneration", Int(0, i64::MAX)),
        member("lastTransitionTime", Text),
        member("reason", Text),
        member("message", Text),
    ])),
)]);

/// The whole resource with its spec, without and with a status.
macro_rules! resource {
    ($spec:expr $(, $status:expr)?) => {
        const {
            Object(&[
                member("kind", Text),
                member("apiVersion", Text),
                member("metadata", METADATA),
                member("spec", $spec),
                $(member("status", $status),)?
            ])
        }
    };
}

pub(super) fn of(kind: KindName) -> Shape {
    match kind {
        KindName::BGPConfiguration => resource!(BGP_CONFIGURATION),
        KindName::BGPFilter => resource!(BGP_FILTER),
        KindName::BGPPeer => resource!(BGP_PEER),
        KindName::BlockAffinity => resource!(BLOCK_AFFINITY),
        KindName::CalicoNodeStatus => resource!(NODE_STATUS_REQUEST, Any),
        KindName::ClusterInformation => resource!(CLUSTER_INFORMATION),
        KindName::FelixConfiguration => resource!(felix::FELIX_CONFIGURATION),
        KindName::GlobalNetworkPolicy => resource!(policy::GLOBAL),
        KindName::GlobalNetworkSet | KindName::NetworkSet => resource!(NETWORK_SET),
        KindName::HostEndpoint => resource!(HOST_ENDPOINT),
        KindName::IPAMConfiguration => resource!(IPAM_CONFIGURATION),
        KindName::IPPool => resource!(POOL, CONDITIONS),
        KindName::IPReservation => resource!(RESERVATION),
        KindName::KubeControllersConfiguration => resource!(Any, Any),
        KindName::NetworkPolicy => resource!(policy::OF_A_NAMESPACE),
        KindName::Node => resource!(NODE, NODE_STATUS),
        KindName::Profile => resource!(policy::PROFILE),
        KindName::StagedGlobalNetworkPolicy => resource!(policy::STAGED_GLOBAL),
        KindName::StagedKubernetesNetworkPolicy => resource!(policy::STAGED_KUBERNETES),
        KindName::StagedNetworkPolicy => resource!(policy::STAGED_OF_A_NAMESPACE),
        KindName::Tier => resource!(TIER, CONDITIONS),
        KindName::WorkloadEndpoint => resource!(WORKLOAD_ENDPOINT),
    }
}

const SECRET: Shape =
    Object(&[member("secretKeyRef", Object(&[member("name", Text), member("key", Text), member("optional", Bool)]))]);

const SERVICES: Shape = List(&Object(&[needed("cidr", Text)]));

const BGP_CONFIGURATION: Shape = Object(&[
    member("logSeverityScreen", Text),
    member("nodeToNodeMeshEnabled", Bool),
    member("asNumber", AsNumber),
    member("serviceLoadBalancerIPs", SERVICES),
    member("serviceExternalIPs", SERVICES),
    member("serviceClusterIPs", SERVICES),
    member("serviceLoadBalancerAggregation", Text),
    member("communities", List(&Object(&[needed("name", Text), needed("value", Text)]))),
    member("prefixAdvertisements", List(&Object(&[needed("cidr", Text), member("communities", TEXT_LIST)]))),
    member("listenPort", Int(0, 65535)),
    member("nodeMeshPassword", SECRET),
    member("nodeMeshMaxRestartTime", Duration),
    member("bindMode", Text),
    member("ignoredInterfaces", TEXT_LIST),
    member("localWorkloadPeeringIPV4", Text),
    member("localWorkloadPeeringIPV6", Text),
    member("programClusterRoutes", Text),
    member("ipv4NormalRoutePriority", Int(1, 2_147_483_646)),
    member("ipv6NormalRoutePriority", Int(1, 2_147_483_646)),
]);

const BGP_PEER: Shape = Object(&[
    member("node", Text),
    member("nodeSelector", Text),
    member("peerIP", Text),
    member("asNumber", AsNumber),
    member("localASNumber", AsNumber),
    member("peerSelector", Text),
    member("keepOriginalNextHop", Bool),
    member("nextHopMode", Text),
    member("password", SECRET),
    member("sourceAddress", Text),
    member("maxRestartTime", Duration),
    member("keepaliveTime", Duration),
    member("numAllowedLocalASNumbers", Int(0, i32::MAX as i64)),
    member("ttlSecurity", Int(0, 255)),
    member("reachableBy", Text),
    member("filters", TEXT_LIST),
    member("localWorkloadSelector", Text),
    member("reversePeering", Text),
]);

const PRIORITY: Shape = Int(1, 2_147_483_646);

const FILTER_RULES: Shape = List(&Object(&[
    member("cidr", Text),
    member("prefixLength", Object(&[member("min", Int(0, 128)), member("max", Int(0, 128))])),
    member("source", Text),
    member("interface", Text),
    member("matchOperator", Text),
    member("peerType", Text),
    member("communities", Object(&[member("values", TEXT_LIST)])),
    member("asPathPrefix", List(&AsNumber)),
    member("priority", PRIORITY),
    member("action", Text),
    member(
        "operations",
        List(&Object(&[
            member("addCommunity", Object(&[needed("value", Text)])),
            member("prependASPath", Object(&[needed("prefix", List(&AsNumber))])),
            member("setPriority", Object(&[needed("value", PRIORITY)])),
        ])),
    ),
]));

const BGP_FILTER: Shape = Object(&[
    member("exportV4", FILTER_RULES),
    member("importV4", FILTER_RULES),
    member("exportV6", FILTER_RULES),
    member("importV6", FILTER_RULES),
]);

const BLOCK_AFFINITY: Shape = Object(&[
    member("state", Text),
    member("node", Text),
    member("type", Text),
    member("cidr", Text),
    member("deleted", Any),
]);

const NODE_STATUS_REQUEST: Shape = Object(&[
    member("node", Text),
    member("classes", TEXT_LIST),
    member("updatePeriodSeconds", Int(0, u32::MAX as i64)),
]);

const IPAM_CONFIGURATION: Shape = Object(&[
    member("strictAffinity", Bool),
    member("maxBlocksPerHost", Int(i32::MIN as i64, i32::MAX as i64)),
    member("autoAllocateBlocks", Bool),
    member("kubeVirtVMAddressPersistence", Text),
    member("ipCooldownSeconds", Int(i32::MIN as i64, i32::MAX as i64)),
]);

const NETWORK_SET: Shape = Object(&[member("nets", TEXT_LIST)]);

const CLUSTER_INFORMATION: Shape = Object(&[
    member("clusterGUID", Text),
    member("clusterType", Text),
    member("calicoVersion", Text),
    member("datastoreReady", Bool),
    member("variant", Text),
]);

const HOST_ENDPOINT: Shape = Object(&[
    member("node", Text),
    member("interfaceName", Text),
    member("expectedIPs", TEXT_LIST),
    member("profiles", TEXT_LIST),
    member(
        "ports",
        List(&Object(&[member("name", Text), needed("protocol", Protocol), needed("port", Int(0, 65535))])),
    ),
]);

const MODE: Shape = OneOf(&["Never", "Always", "CrossSubnet"]);

const POOL: Shape = Object(&[
    needed("cidr", Network),
    member("vxlanMode", MODE),
    member("ipipMode", MODE),
    member("natOutgoing", Bool),
    member("disabled", Bool),
    member("disableBGPExport", Bool),
    member("blockSize", Int(0, 128)),
    member("nodeSelector", Text),
    member("namespaceSelector", Text),
    member("allowedUses", TEXT_LIST),
    member("assignmentMode", Text),
]);

const RESERVATION: Shape = Object(&[member("reservedCIDRs", TEXT_LIST)]);

const NODE: Shape = Object(&[
    member(
        "bgp",
        Object(&[
            member("asNumber", AsNumber),
            member("ipv4Address", Text),
            member("ipv6Address", Text),
            member("ipv4IPIPTunnelAddr", Text),
            member("routeReflectorClusterID", Text),
        ]),
    ),
    member("ipv4VXLANTunnelAddr", Text),
    member("vxlanTunnelMACAddr", Text),
    member("ipv6VXLANTunnelAddr", Text),
    member("vxlanTunnelMACAddrV6", Text),
    member("orchRefs", List(&Object(&[member("nodeName", Text), member("orchestrator", Text)]))),
    member("wireguard", Object(&[member("interfaceIPv4Address", Text), member("interfaceIPv6Address", Text)])),
    member("addresses", List(&Object(&[needed("address", Text), member("type", Text)]))),
    member("interfaces", List(&Object(&[member("name", Text), member("addresses", TEXT_LIST)]))),
]);

const NODE_STATUS: Shape =
    Object(&[member("wireguardPublicKey", Text), member("wireguardPublicKeyV6", Text), member("podCIDRs", TEXT_LIST)]);

const TIER: Shape = Object(&[member("order", Number), member("defaultAction", Text)]);

const LIMIT: Shape = Int(i64::MIN, i64::MAX);

const QOS_CONTROLS: Shape = Object(&[
    member("ingressBandwidth", LIMIT),
    member("egressBandwidth", LIMIT),
    member("ingressBurst", LIMIT),
    member("egressBurst", LIMIT),
    member("ingressPeakrate", LIMIT),
    member("egressPeakrate", LIMIT),
    member("ingressMinburst", LIMIT),
    member("egressMinburst", LIMIT),
    member("ingressPacketRate", LIMIT),
    member("egressPacketRate", LIMIT),
    member("ingressPacketBurst", LIMIT),
    member("egressPacketBurst", LIMIT),
    member("ingressMaxConnections", LIMIT),
    member("egressMaxConnections", LIMIT),
    member("dscp", Any),
]);

const WORKLOAD_ENDPOINT: Shape = Object(&[
    member("orchestrator", Text),
    member("workload", Text),
    member("node", Text),
    member("containerID", Text),
    member("pod", Text),
    member("endpoint", Text),
    member("serviceAccountName", Text),
    member("ipNetworks", TEXT_LIST),
    member("ipNATs", List(&Object(&[needed("internalIP", Text), needed("externalIP", Text)]))),
    member("ipv4Gateway", Text),
    member("ipv6Gateway", Text),
    member("profiles", TEXT_LIST),
    member("interfaceName", Text),
    member("mac", Text),
    member(
        "ports",
        List(&Object(&[
            member("name", Text),
            needed("protocol", Protocol),
            needed("port", Int(0, 65535)),
            member("hostPort", Int(0, 65535)),
            member("hostIP", Text),
        ])),
    ),
    member("allowSpoofedSourcePrefixes", TEXT_LIST),
    member("qosControls", QOS_CONTROLS),
]);

#[cfg(test)]
mod tests {
    use super::{super::Member, *};

    /// Members that differ in case only could not be told apart, and a typo here would refuse good input.
    #[test]
    fn members_are_unique_and_in_camel_case() {
        fn look(shape: Shape) {
            match shape {
                List(inner) => look(*inner),
                Object(members) | Shape::Open(members, _) => {
                    let mut names: Vec<_> = members.iter().map(|m: &Member| m.name.to_ascii_lowercase()).collect();
                    names.sort();
                    let count = names.len();
                    names.dedup();
                    assert_eq!(names.len(), count, "{names:?}");
                    for Member { name, shape, .. } in members {
                        assert!(name.starts_with(|c: char| c.is_ascii_lowercase()), "{name}");
                        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric()), "{name}");
                        look(*shape);
                    }
                }
                _ => {}
            }
        }
        KindName::ALL.iter().for_each(|kind| look(of(*kind)));
    }
}
