//! The packets that rules can tell apart: one for every range of ports between the bounds that some rule names.

use std::collections::BTreeSet;

use calico_policy::{
    instruction::{Rule, SetId},
    interpret::{Programmed, SetMembers},
    packet::Transport,
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
/// Where clients' ports begin to be chosen by the system; no rule is expected to name this one.
pub(crate) const CLIENT_PORT: u16 = 40_009;

/// One kind of packet, for all that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    /// The packet's.
    pub transport: Transport,
    /// The destination ports that it stands for.
    pub ports: Option<(u16, u16)>,
}

/// What the rules that may decide ask for.
#[derive(Default)]
pub(crate) struct Bounds {
    /// First ports of ranges.
    starts: BTreeSet<u16>,
    protocols: BTreeSet<u8>,
    icmp: BTreeSet<(u8, u8)>,
}

impl Bounds {
    pub(crate) fn take(&mut self, host: &Programmed, rule: &Rule) {
        for (low, high) in rule.destination.ports.iter().chain(&rule.destination.not_ports) {
            self.range(*low, *high);
        }
        let sets = rule.destination.port_sets.iter().chain(&rule.destination.not_port_sets);
        sets.for_each(|set| self.named(host, set));
        self.protocols.extend(rule.protocol.into_iter().chain(rule.not_protocol));
        for icmp in [rule.icmp, rule.not_icmp].into_iter().flatten() {
            self.icmp.insert((icmp.icmp_type, icmp.code.unwrap_or(0)));
        }
    }

    fn named(&mut self, host: &Programmed, set: &SetId) {
        if let Some(SetMembers::Ports(members)) = host.sets.get(set) {
            members.iter().for_each(|member| self.range(member.port, member.port));
        }
    }

    /// A single port.
    pub(crate) fn port(&mut self, port: u16) {
        self.range(port, port);
    }

    fn range(&mut self, low: u16, high: u16) {
        self.starts.insert(low);
        self.starts.extend(high.checked_add(1));
    }

    /// A packet for every difference, in one family.
    pub(crate) fn probes(&self, family: u8) -> Vec<Probe> {
        let mut probes = Vec::new();
        let mut starts: Vec<u16> = std::iter::once(1).chain(self.starts.iter().copied().filter(|s| *s > 1)).collect();
        starts.dedup();
        let with_ports = [Some(TCP), Some(UDP), self.protocols.contains(&SCTP).then_some(SCTP)];
        for protocol in with_ports.into_iter().flatten() {
            for (index, start) in starts.iter().enumerate() {
                let end = starts.get(index + 1).map_or(u16::MAX, |next| next - 1);
                let transport = Transport::Ports { protocol, source: CLIENT_PORT, destination: *start };
                probes.push(Probe { transport, ports: Some((*start, end)) });
            }
        }
        let echo = if family == 4 { (8, 0) } else { (128, 0) };
        let icmp: BTreeSet<(u8, u8)> = self.icmp.iter().copied().chain([echo]).collect();
        probes.extend(
            icmp.into_iter()
                .map(|(icmp_type, code)| Probe { transport: Transport::Icmp { icmp_type, code }, ports: None }),
        );
        let usual = [1, TCP, UDP, 58, SCTP];
        let others = self.protocols.iter().filter(|number| !usual.contains(number));
        probes.extend(others.map(|number| Probe { transport: Transport::Other(*number), ports: None }));
        probes
    }
}

/// A protocol, or a protocol with ports, in words.
pub(crate) fn traffic(transport: Transport, ports: Option<(u16, u16)>) -> String {
    match (transport, ports) {
        (Transport::Ports { protocol, .. }, Some((low, high))) => {
            let name = match protocol {
                TCP => "tcp",
                UDP => "udp",
                _ => "sctp",
            };
            match (low, high) {
                (1, u16::MAX) => format!("{name}, all ports"),
                (low, high) if low == high => format!("{name} {low}"),
                (low, high) => format!("{name} {low}-{high}"),
            }
        }
        (Transport::Icmp { icmp_type: 8 | 128, .. }, _) => "ping".to_owned(),
        (Transport::Icmp { icmp_type, code }, _) => format!("icmp type {icmp_type} code {code}"),
        (Transport::Ports { protocol, .. }, None) | (Transport::Other(protocol), _) => format!("protocol {protocol}"),
    }
}
