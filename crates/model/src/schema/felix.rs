//! The members of FelixConfiguration.
//!
//! Settings of dataplanes and features that only upstream has come and go with its versions; they are let through by
//! the start of their names.

use super::{Member, Shape, member, needed};

use Shape::{Any, Bool, Int, List, OneOf, Open, Port, Text, WholeDuration, Word};

const U32: Shape = Int(0, u32::MAX as i64);
const NUMBER: Shape = Int(i32::MIN as i64, i32::MAX as i64);
const LEVEL: Shape = Word(&["Trace", "Debug", "Info", "Warning", "Error", "Fatal"]);
const ALLOW: Shape = Word(&["Accept", "Return"]);
const DENY: Shape = Word(&["Drop", "Reject"]);
const SWITCH: Shape = OneOf(&["Enabled", "Disabled"]);
const ROUTES: Shape = OneOf(&["Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly"]);
const FAILSAFE: Shape =
    List(&Shape::Object(&[needed("protocol", Text), needed("port", Int(0, 65535)), member("net", Text)]));
const TABLES: Shape = Shape::Object(&[needed("min", NUMBER), needed("max", NUMBER)]);

/// What the names of settings start with that are not looked into.
const ELSEWHERE: &[&str] =
    &["bpf", "debug", "flowLogs", "windows", "go", "feature", "prometheusMetrics", "healthTimeout", "istio", "cgroup"];

pub(super) const FELIX_CONFIGURATION: Shape = Open(MEMBERS, ELSEWHERE);

const MEMBERS: &[Member] = &[
    member("nodeSelector", Text),
    // Logging.
    member("logSeverityScreen", LEVEL),
    member("logSeverityFile", LEVEL),
    member("logSeveritySys", LEVEL),
    member("logFilePath", Text),
    member("logPrefix", Text),
    member("logDebugFilenameRegex", Text),
    member("logActionRateLimit", Text),
    member("logActionRateLimitBurst", NUMBER),
    // Interfaces and addresses.
    member("interfacePrefix", Text),
    member("interfaceExclude", Text),
    member("interfaceRefreshInterval", WholeDuration),
    member("mtuIfacePattern", Text),
    member("ipv6Support", Bool),
    member("ipForwarding", SWITCH),
    member("floatingIPs", SWITCH),
    member("workloadSourceSpoofing", OneOf(&["Disabled", "Any"])),
    member("disableConntrackInvalidCheck", Bool),
    // Rules.
    member("chainInsertMode", Word(&["Insert", "Append"])),
    member("defaultEndpointToHostAction", Word(&["Drop", "Accept", "Return"])),
    member("serviceLoopPrevention", OneOf(&["Drop", "Reject", "Disabled"])),
    member("failsafeInboundHostPorts", FAILSAFE),
    member("failsafeOutboundHostPorts", FAILSAFE),
    member("kubeNodePortRanges", List(&Port)),
    member("natPortRange", Port),
    member("natOutgoingAddress", Text),
    member("natOutgoingExclusions", OneOf(&["IPPoolsOnly", "IPPoolsAndHostIPs"])),
    member("sidecarAccelerationEnabled", Bool),
    member("xdpEnabled", Bool),
    member("genericXDPEnabled", Bool),
    member("xdpRefreshInterval", WholeDuration),
    // iptables.
    member("iptablesBackend", OneOf(&["Legacy", "NFT", "Auto"])),
    member("iptablesFilterAllowAction", ALLOW),
    member("iptablesMangleAllowAction", ALLOW),
    member("iptablesFilterDenyAction", DENY),
    member("iptablesRefreshInterval", WholeDuration),
    member("iptablesPostWriteCheckInterval", WholeDuration),
    member("iptablesLockFilePath", Text),
    member("iptablesLockTimeout", WholeDuration),
    member("iptablesLockProbeInterval", WholeDuration),
    member("iptablesMarkMask", U32),
    member("iptablesNATOutgoingInterfaceFilter", Text),
    member("ipsetsRefreshInterval", WholeDuration),
    member("maxIpsetSize", NUMBER),
    // nftables.
    member("nftablesMode", OneOf(&["Enabled", "Disabled", "Auto"])),
    member("nftablesFlowTableOffload", SWITCH),
    member("nftablesFilterAllowAction", ALLOW),
    member("nftablesMangleAllowAction", ALLOW),
    member("nftablesFilterDenyAction", DENY),
    member("nftablesRefreshInterval", WholeDuration),
    member("nftablesMarkMask", U32),
    // Encapsulation.
    member("ipipEnabled", Bool),
    member("ipipMTU", NUMBER),
    member("vxlanEnabled", Bool),
    member("vxlanMTU", NUMBER),
    member("vxlanMTUV6", NUMBER),
    member("vxlanPort", NUMBER),
    member("vxlanVNI", NUMBER),
    member("allowVXLANPacketsFromWorkloads", Bool),
    member("allowIPIPPacketsFromWorkloads", Bool),
    member("wireguardEnabled", Bool),
    member("wireguardEnabledV6", Bool),
    member("wireguardListeningPort", NUMBER),
    member("wireguardListeningPortV6", NUMBER),
    member("wireguardRoutingRulePriority", NUMBER),
    member("wireguardInterfaceName", Text),
    member("wireguardInterfaceNameV6", Text),
    member("wireguardMTU", NUMBER),
    member("wireguardMTUV6", NUMBER),
    member("wireguardHostEncryptionEnabled", Bool),
    member("wireguardKeepAlive", WholeDuration),
    member("wireguardThreadingEnabled", Bool),
    // Routes.
    member("routeRefreshInterval", WholeDuration),
    member("routeSource", Word(&["WorkloadIPs", "CalicoIPAM"])),
    member("routeSyncDisabled", Bool),
    member("routeTableRange", TABLES),
    member("routeTableRanges", List(&TABLES)),
    member("programClusterRoutes", ROUTES),
    member("deviceRouteProtocol", NUMBER),
    member("deviceRouteSourceAddress", Text),
    member("deviceRouteSourceAddressIPv6", Text),
    member("removeExternalRoutes", Bool),
    member("externalNodesList", List(&Text)),
    member("ipv4NormalRoutePriority", NUMBER),
    member("ipv4ElevatedRoutePriority", NUMBER),
    member("ipv6NormalRoutePriority", NUMBER),
    member("ipv6ElevatedRoutePriority", NUMBER),
    member("liveMigrationRouteConvergenceTime", Any),
    // Driver, reports, health.
    member("useInternalDataplaneDriver", Bool),
    member("dataplaneDriver", Text),
    member("dataplaneWatchdogTimeout", WholeDuration),
    member("netlinkTimeout", WholeDuration),
    member("policySyncPathPrefix", Text),
    member("endpointStatusPathPrefix", Text),
    member("reportingInterval", WholeDuration),
    member("reportingTTL", WholeDuration),
    member("endpointReportingEnabled", Bool),
    member("endpointReportingDelay", WholeDuration),
    member("healthEnabled", Bool),
    member("healthHost", Text),
    member("healthPort", NUMBER),
    member("prometheusMetricsEnabled", Bool),
    member("prometheusMetricsHost", Text),
    member("prometheusMetricsPort", NUMBER),
    member("prometheusGoMetricsEnabled", Bool),
    member("prometheusProcessMetricsEnabled", Bool),
    member("prometheusWireGuardMetricsEnabled", Bool),
    member("usageReportingEnabled", Bool),
    member("usageReportingInitialDelay", WholeDuration),
    member("usageReportingInterval", WholeDuration),
    member("requireMTUFile", Bool),
    // Clouds.
    member("openstackRegion", Text),
    member("metadataAddr", Text),
    member("metadataPort", NUMBER),
    member("awsSrcDstCheck", OneOf(&["DoNothing", "Enable", "Disable"])),
];
