//! Felix' settings: of the cluster, of groups of hosts, of this host.
//!
//! For each setting the first of these that has it decides: the configuration `node.<host>`, the oldest one whose node
//! selector selects this host, `default`. A word that is none closes where security depends on it, and is reported.

use std::collections::BTreeMap;

use calico_model::{FelixConfiguration, FelixConfigurationSpec, KindName, LEAST_MTU, Port, ProtoPort, ResourceKey};
use calico_selector::parse;
use ipnet::IpNet;

use super::{cluster::Cluster, overlay::Parameters};
use crate::{
    Problem,
    endpoint::network,
    instruction::{
        DenyAction, FailsafePort, HostAction, IptablesBackend, NatOutgoing, Renderer, ServiceLoop, Settings,
    },
};

/// The configuration that holds for all hosts.
const DEFAULT: &str = "default";
/// The IANA port of VXLAN.
const VXLAN_PORT: u16 = 4789;
/// Upstream's network identifier of VXLAN.
const VXLAN_VNI: u32 = 4096;
/// The greatest `logActionRateLimitBurst` that the field allows. The kernel refuses what takes too long to earn at the
/// rate, and one refused rule is a whole refused write.
const MAX_LOG_BURST: u32 = 9999;

/// Everything that follows from the configurations.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Effective {
    /// For the dataplane.
    pub(super) settings: Settings,
    /// Of the tunnels between hosts.
    pub(super) tunnels: Parameters,
    /// Workloads may use the foreign sources that their endpoints list.
    pub(super) spoofing: bool,
    /// Floating addresses are in force.
    pub(super) floating: bool,
    /// Words that are none.
    pub(super) problems: Vec<Problem>,
}

/// A configuration that may be this host's.
#[derive(PartialEq)]
struct Stored {
    /// `None` if nothing of it can be read: then it might close anything.
    spec: Option<Box<FelixConfigurationSpec>>,
    /// RFC 3339, so that the oldest is the least; one without a time counts as older than all.
    created: String,
}

#[derive(Default)]
pub(super) struct FelixSettings {
    by_name: BTreeMap<String, Stored>,
    /// This host's labels, for node selectors.
    labels: BTreeMap<String, String>,
}

impl FelixSettings {
    /// Replaces a configuration. True if that may change the settings.
    pub(super) fn set(&mut self, node: &str, name: &str, configuration: &FelixConfiguration) -> bool {
        let created = configuration.metadata.creation_timestamp.clone().unwrap_or_default();
        self.store(node, name, Stored { spec: Some(Box::new(configuration.spec.clone())), created })
    }

    /// Notes a configuration of which nothing can be read.
    pub(super) fn set_unreadable(&mut self, node: &str, name: &str) -> bool {
        self.store(node, name, Stored { spec: None, created: String::new() })
    }

    /// Forgets a configuration.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.by_name.remove(name).is_some()
    }

    /// Replaces this host's labels.
    pub(super) fn set_labels(&mut self, labels: BTreeMap<String, String>) {
        self.labels = labels;
    }

    fn store(&mut self, node: &str, name: &str, stored: Stored) -> bool {
        // Those of other hosts never matter.
        if name.strip_prefix("node.").is_some_and(|other| other != node) || self.by_name.get(name) == Some(&stored) {
            return false;
        }
        self.by_name.insert(name.to_owned(), stored);
        true
    }

    /// The settings in force.
    pub(super) fn effective(&self, node: &str, cluster: &Cluster) -> Effective {
        let mut reader = Reader { layers: self.layers(node), problems: Vec::new() };
        let closed = reader.layers.iter().any(|(_, stored)| stored.spec.is_none());
        let defaults = Settings::default();
        let words = [("Drop", HostAction::Drop), ("Accept", HostAction::Accept), ("Return", HostAction::Return)];
        let field = "defaultEndpointToHostAction";
        let mut endpoint_to_host =
            reader.word(field, |spec| &spec.default_endpoint_to_host_action, words, HostAction::Drop);
        if closed {
            endpoint_to_host = Some(HostAction::Drop);
        }
        let settings = Settings {
            endpoint_to_host: endpoint_to_host.unwrap_or(HostAction::Return),
            deny: reader.deny(),
            failsafe_inbound: reader.failsafe(
                "failsafeInboundHostPorts",
                |spec| spec.failsafe_inbound_host_ports.as_ref(),
                defaults.failsafe_inbound,
            ),
            failsafe_outbound: reader.failsafe(
                "failsafeOutboundHostPorts",
                |spec| spec.failsafe_outbound_host_ports.as_ref(),
                defaults.failsafe_outbound,
            ),
            log_prefix: reader.text(|spec| &spec.log_prefix).map_or(defaults.log_prefix, |(_, text)| text.to_owned()),
            log_rate: reader.log_rate(),
            log_burst: reader
                .first(|spec| spec.log_action_rate_limit_burst)
                .and_then(|(_, burst)| u32::try_from(burst).ok())
                .filter(|&burst| burst > 0)
                .map(|burst| burst.min(MAX_LOG_BURST)),
            vxlan_from_workloads: reader.flag(|spec| spec.allow_vxlan_packets_from_workloads) && !closed,
            ipip_from_workloads: reader.flag(|spec| spec.allow_ipip_packets_from_workloads) && !closed,
            accept_invalid: reader.flag(|spec| spec.disable_conntrack_invalid_check) && !closed,
            vxlan_port: reader.vxlan_port(cluster.uses_vxlan()),
            nat_outgoing: reader.nat_outgoing(),
            service_cidrs: cluster.services().to_vec(),
            service_loop: reader
                .word(
                    "serviceLoopPrevention",
                    |spec| &spec.service_loop_prevention,
                    [("Drop", ServiceLoop::Drop), ("Reject", ServiceLoop::Reject), ("Disabled", ServiceLoop::Disabled)],
                    ServiceLoop::Drop,
                )
                .unwrap_or_default(),
            return_allowed: reader.return_allowed(),
            renderer: reader
                .word(
                    "nftablesMode",
                    |spec| &spec.nftables_mode,
                    [("Auto", Renderer::Auto), ("Enabled", Renderer::Nftables), ("Disabled", Renderer::Iptables)],
                    Renderer::Auto,
                )
                .unwrap_or_default(),
            iptables_backend: reader
                .word(
                    "iptablesBackend",
                    |spec| &spec.iptables_backend,
                    [
                        ("Auto", IptablesBackend::Auto),
                        ("NFT", IptablesBackend::Nft),
                        ("Legacy", IptablesBackend::Legacy),
                    ],
                    IptablesBackend::Auto,
                )
                .unwrap_or_default(),
        };
        let switch = [("Enabled", true), ("Any", true), ("Disabled", false)];
        let spoofing =
            reader.word("workloadSourceSpoofing", |spec| &spec.workload_source_spoofing, switch, false) == Some(true);
        let floating = reader.word("floatingIPs", |spec| &spec.floating_ips, switch, false) == Some(true);
        let tunnels = reader.tunnels(settings.vxlan_port);
        Effective { settings, tunnels, spoofing: spoofing && !closed, floating, problems: reader.problems }
    }

    /// The configurations that hold here, the one that decides first in front.
    fn layers(&self, node: &str) -> Vec<(&str, &Stored)> {
        let own = format!("node.{node}");
        let mut chosen: Vec<(&str, &Stored)> = Vec::new();
        let named = |name: &str| self.by_name.get_key_value(name).map(|(name, stored)| (name.as_str(), stored));
        chosen.extend(named(&own));
        let others = self.by_name.iter().filter(|(name, _)| **name != own && *name != DEFAULT);
        let mut selected: Vec<(&str, &Stored)> = others
            .filter(|(_, stored)| stored.spec.as_ref().is_none_or(|spec| self.is_selected(spec)))
            .map(|(name, stored)| (name.as_str(), stored))
            .collect();
        // Those that cannot be read do not decide, but they close.
        selected.sort_by_key(|(name, stored)| (stored.spec.is_some(), &stored.created, *name));
        let decides = selected.iter().position(|(_, stored)| stored.spec.is_some());
        selected.truncate(decides.map_or(selected.len(), |first| first + 1));
        chosen.extend(selected);
        chosen.extend(named(DEFAULT));
        chosen
    }

    /// A selector that cannot be read selects nothing; it is reported with the record. Without one a configuration is
    /// nobody's.
    fn is_selected(&self, spec: &FelixConfigurationSpec) -> bool {
        let selector = spec.node_selector.as_deref().filter(|selector| !selector.is_empty());
        selector.and_then(|selector| parse(selector).ok()).is_some_and(|selector| selector.matches(&self.labels))
    }
}

/// What upstream's client, and so ours, writes into every record that says nothing of these settings. Such a word in a
/// host's own record must not hide what the cluster's says.
const FILLED_IN: [(&str, &str); 2] = [("nftablesMode", "Auto"), ("floatingIPs", "Disabled")];

struct Reader<'a> {
    layers: Vec<(&'a str, &'a Stored)>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// The first value, and the name of the configuration that has it.
    fn first<T>(&self, get: impl Fn(&'a FelixConfigurationSpec) -> Option<T>) -> Option<(&'a str, T)> {
        self.layers.iter().find_map(|(name, stored)| Some((*name, get(stored.spec.as_deref()?)?)))
    }

    fn text(&self, get: impl Fn(&'a FelixConfigurationSpec) -> &'a Option<String>) -> Option<(&'a str, &'a str)> {
        self.first(|spec| get(spec).as_deref().filter(|text| !text.is_empty()))
    }

    fn flag(&self, get: impl Fn(&'a FelixConfigurationSpec) -> Option<bool>) -> bool {
        self.first(get).is_some_and(|(_, value)| value)
    }

    /// One of some words, in any case; `closed` for any other.
    fn word<T: Copy, const N: usize>(
        &mut self,
        field: &str,
        get: impl Fn(&'a FelixConfigurationSpec) -> &'a Option<String>,
        words: [(&str, T); N],
        closed: T,
    ) -> Option<T> {
        let filler = FILLED_IN.iter().find(|(filled, _)| *filled == field).map(|(_, word)| *word);
        let said = |text: &&str| !text.is_empty() && filler.is_none_or(|word| !text.eq_ignore_ascii_case(word));
        let (name, text) = self.first(|spec| get(spec).as_deref().filter(said))?;
        let known = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
        if known.is_none() {
            let list = words.map(|(word, _)| word).join(", ");
            self.problem(name, field, text, &format!("it is one of {list}; the safest of them holds"));
        }
        Some(known.map_or(closed, |(_, value)| *value))
    }

    fn deny(&mut self) -> DenyAction {
        let words = [("Drop", DenyAction::Drop), ("Reject", DenyAction::Reject)];
        let closed = DenyAction::Drop;
        self.word("nftablesFilterDenyAction", |spec| &spec.nftables_filter_deny_action, words, closed)
            .or_else(|| self.word("iptablesFilterDenyAction", |spec| &spec.iptables_filter_deny_action, words, closed))
            .unwrap_or_default()
    }

    fn return_allowed(&mut self) -> bool {
        let words = [("Accept", false), ("Return", true)];
        self.word("nftablesFilterAllowAction", |spec| &spec.nftables_filter_allow_action, words, true)
            .or_else(|| self.word("iptablesFilterAllowAction", |spec| &spec.iptables_filter_allow_action, words, true))
            .unwrap_or_default()
    }

    /// One port that cannot be read takes only itself away: a list of exceptions from policy must not grow by mistake,
    /// and a host must not lose its other ways in.
    fn failsafe(
        &mut self,
        field: &str,
        get: impl Fn(&'a FelixConfigurationSpec) -> Option<&'a Vec<ProtoPort>>,
        default: Vec<FailsafePort>,
    ) -> Vec<FailsafePort> {
        let Some((name, ports)) = self.first(get) else { return default };
        let mut found = Vec::new();
        for port in ports {
            let net: Option<Option<IpNet>> = match port.net.as_str() {
                "" => Some(None),
                text => network(text).map(Some),
            };
            match (port.number(), port.port, net) {
                (Some(protocol), number @ 1.., Some(net)) => found.push(FailsafePort { protocol, port: number, net }),
                _ => {
                    let shown = format!("{}:{}:{}", port.protocol, port.net, port.port);
                    self.problem(name, field, &shown, "not a TCP, UDP or SCTP port; it is left out");
                }
            }
        }
        found
    }

    fn log_rate(&mut self) -> Option<(u32, u32)> {
        let (name, text) = self.text(|spec| &spec.log_action_rate_limit)?;
        let rate = text.split_once('/').and_then(|(lines, unit)| {
            let seconds = match unit.trim().to_ascii_lowercase().as_str() {
                "s" | "sec" | "second" => 1,
                "m" | "min" | "minute" => 60,
                "h" | "hour" => 3600,
                "d" | "day" => 86400,
                _ => return None,
            };
            Some((lines.trim().parse::<u32>().ok().filter(|&lines| lines > 0)?, seconds))
        });
        if rate.is_none() {
            self.problem(name, "logActionRateLimit", text, "it is like 10/minute; there is no limit");
        }
        rate
    }

    fn vxlan_port(&self, pools: bool) -> Option<u16> {
        let enabled = self.first(|spec| spec.vxlan_enabled).map_or(pools, |(_, enabled)| enabled);
        let port = self.first(|spec| spec.vxlan_port).and_then(|(_, port)| u16::try_from(port).ok());
        enabled.then(|| port.filter(|&port| port > 0).unwrap_or(VXLAN_PORT))
    }

    fn tunnels(&mut self, port: Option<u16>) -> Parameters {
        let vni = self.first(|spec| spec.vxlan_vni).map_or(VXLAN_VNI, |(name, vni)| match u32::try_from(vni) {
            Ok(vni @ 1..=0xff_ffff) => vni,
            _ => {
                let reason = format!("not a network identifier (1 to 16777215); it is {VXLAN_VNI}");
                self.problem(name, "vxlanVNI", &vni.to_string(), &reason);
                VXLAN_VNI
            }
        });
        let mtu = [
            self.mtu("vxlanMTU", |spec| spec.vxlan_mtu, LEAST_MTU[0]),
            self.mtu("vxlanMTUV6", |spec| spec.vxlan_mtu_v6, LEAST_MTU[1]),
        ];
        Parameters { port, vni, mtu }
    }

    /// 0 is upstream's word for what fits.
    fn mtu(&mut self, field: &str, get: impl Fn(&'a FelixConfigurationSpec) -> Option<i64>, least: u32) -> Option<u32> {
        let (name, mtu) = self.first(get).filter(|(_, mtu)| *mtu != 0)?;
        let usable = u32::try_from(mtu).ok().filter(|mtu| (least..=65535).contains(mtu));
        if usable.is_none() {
            let reason = format!("not an MTU ({least} to 65535); what fits is taken");
            self.problem(name, field, &mtu.to_string(), &reason);
        }
        usable
    }

    fn nat_outgoing(&mut self) -> NatOutgoing {
        let address = self.text(|spec| &spec.nat_outgoing_address).and_then(|(name, text)| {
            let parsed = text.parse().ok();
            if parsed.is_none() {
                self.problem(name, "natOutgoingAddress", text, "not an IPv4 address; the interface's own is used");
            }
            parsed
        });
        let ports = self.first(|spec| spec.nat_port_range.as_ref()).and_then(|(name, port)| match port {
            Port::Number(port @ 1..) => Some((*port, *port)),
            Port::Range(low @ 1.., high) if low <= high => Some((*low, *high)),
            other => {
                self.problem(name, "natPortRange", &other.to_string(), "not a range of ports; the kernel's is used");
                None
            }
        });
        let words = [("IPPoolsOnly", false), ("IPPoolsAndHostIPs", true)];
        let exclusions = self.word("natOutgoingExclusions", |spec| &spec.nat_outgoing_exclusions, words, false);
        NatOutgoing {
            address,
            ports,
            interface: self
                .text(|spec| &spec.iptables_nat_outgoing_interface_filter)
                .map(|(_, interface)| interface.to_owned()),
            exclude_hosts: exclusions.unwrap_or_default(),
        }
    }

    fn problem(&mut self, name: &str, field: &str, value: &str, reason: &str) {
        let object = ResourceKey::new(KindName::FelixConfiguration, None, name);
        self.problems.push(Problem { object, reason: format!("spec.{field} = {value:?}: {reason}") });
    }
}
