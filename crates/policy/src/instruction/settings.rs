//! What holds for the whole host.

use ipnet::IpNet;

/// What happens to packets from a workload to its own host that egress policy allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HostAction {
    /// Drop them.
    Drop,
    /// Accept them.
    Accept,
    /// Leave them to the host's own INPUT rules.
    #[default]
    Return,
}

/// What deny does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DenyAction {
    /// Silence.
    #[default]
    Drop,
    /// An ICMP error, port unreachable, where the hook allows one to be sent; silence elsewhere.
    Reject,
}

/// What becomes of packets to a service address that no service has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ServiceLoop {
    /// Dropped.
    #[default]
    Drop,
    /// Refused with an ICMP error.
    Reject,
    /// Let alone.
    Disabled,
}

/// A port of a host that no policy closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FailsafePort {
    /// TCP, UDP or SCTP, by number.
    pub protocol: u8,
    /// The port.
    pub port: u16,
    /// The other end, anyone if `None`.
    pub net: Option<IpNet>,
}

/// Which renderer writes the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Renderer {
    /// nftables if the kernel has it, else iptables.
    #[default]
    Auto,
    /// nftables.
    Nftables,
    /// iptables and ipset.
    Iptables,
}

/// Which kernel interface iptables uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IptablesBackend {
    /// The one that the host's own rules are in.
    #[default]
    Auto,
    /// `iptables-nft`.
    Nft,
    /// `iptables-legacy`.
    Legacy,
}

/// How masquerading is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NatOutgoing {
    /// This source address in place of the outgoing interface's.
    pub address: Option<std::net::Ipv4Addr>,
    /// Source ports of TCP and UDP, both ends included.
    pub ports: Option<(u16, u16)>,
    /// Only packets that leave by interfaces whose name is this, or starts with it if it ends in `+`.
    pub interface: Option<String>,
    /// Not what goes to hosts (`NATOutgoingExclusions: IPPoolsAndHostIPs`).
    pub exclude_hosts: bool,
}

/// Host-wide settings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Workload to host.
    pub endpoint_to_host: HostAction,
    /// Deny.
    pub deny: DenyAction,
    /// Ports of host endpoints that are always open from outside.
    pub failsafe_inbound: Vec<FailsafePort>,
    /// Ports elsewhere that this host always reaches through its host endpoints.
    pub failsafe_outbound: Vec<FailsafePort>,
    /// `LogPrefix` with its specifiers: %t tier, %k kind, %n name, %p namespace/name; `: ` is written after it.
    pub log_prefix: String,
    /// At most so many log lines of one rule, as (lines, seconds).
    pub log_rate: Option<(u32, u32)>,
    /// Log lines that may come at once.
    pub log_burst: Option<u32>,
    /// Workloads may send VXLAN packets, as far as policy lets them.
    pub vxlan_from_workloads: bool,
    /// Workloads may send IP-in-IP packets, as far as policy lets them.
    pub ipip_from_workloads: bool,
    /// Packets that connection tracking calls invalid are judged like others.
    pub accept_invalid: bool,
    /// UDP port of VXLAN between hosts, while a pool uses it.
    pub vxlan_port: Option<u16>,
    /// Masquerading.
    pub nat_outgoing: NatOutgoing,
    /// Addresses of services.
    pub service_cidrs: Vec<IpNet>,
    /// What becomes of packets to them that nobody took.
    pub service_loop: ServiceLoop,
    /// Packets that policy allowed are left to the user's own rules (`FilterAllowAction: Return`), where the renderer
    /// can tell the difference.
    pub return_allowed: bool,
    /// Who writes the rules.
    pub renderer: Renderer,
    /// How iptables is spoken to.
    pub iptables_backend: IptablesBackend,
}

impl Settings {
    /// Why a port of this host cannot be published, if it cannot. A failsafe port is the way back into a host whose
    /// policy is wrong, so that no endpoint may take it, from whatever addresses it is open. VXLAN between hosts is not
    /// tracked, hence never translated.
    #[must_use]
    pub fn reserves(&self, protocol: u8, port: u16) -> Option<&'static str> {
        const UDP: u8 = 17;
        let failsafe = |failsafe: &FailsafePort| failsafe.protocol == protocol && failsafe.port == port;
        if self.failsafe_inbound.iter().any(failsafe) {
            return Some(
                "it is a failsafe port of the host: take it out of failsafeInboundHostPorts, or publish another",
            );
        }
        (protocol == UDP && self.vxlan_port == Some(port)).then_some("hosts speak VXLAN by it: publish another")
    }
}

impl Default for Settings {
    /// Upstream's defaults, failsafe ports included.
    fn default() -> Self {
        let port = |protocol, port| FailsafePort { protocol, port, net: None };
        let tcp = [179, 2379, 2380, 5473, 6443, 6666, 6667].map(|number| port(6, number));
        let mut failsafe_inbound = vec![port(6, 22), port(17, 68)];
        failsafe_inbound.extend(tcp);
        let mut failsafe_outbound = vec![port(17, 53), port(17, 67)];
        failsafe_outbound.extend(tcp);
        Self {
            endpoint_to_host: HostAction::default(),
            deny: DenyAction::default(),
            failsafe_inbound,
            failsafe_outbound,
            log_prefix: "calico-packet".to_owned(),
            log_rate: None,
            log_burst: None,
            vxlan_from_workloads: false,
            ipip_from_workloads: false,
            accept_invalid: false,
            vxlan_port: None,
            nat_outgoing: NatOutgoing::default(),
            service_cidrs: Vec::new(),
            service_loop: ServiceLoop::default(),
            return_allowed: false,
            renderer: Renderer::default(),
            iptables_backend: IptablesBackend::default(),
        }
    }
}
