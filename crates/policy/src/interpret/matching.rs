//! Whether a rule of an instruction matches a packet.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Programmed, SetMembers};
use crate::{
    instruction::{EntityMatch, IcmpMatch, PortMember, Rule, SetId},
    packet::Packet,
};

impl Programmed {
    pub(super) fn matches(&self, rule: &Rule, packet: &Packet) -> bool {
        let protocol = packet.protocol();
        let (source_port, destination_port) = packet.ports().unzip();
        let is_icmp = |wanted: &IcmpMatch| {
            packet.icmp().is_some_and(|(icmp_type, code)| {
                icmp_type == wanted.icmp_type && wanted.code.is_none_or(|wanted| wanted == code)
            })
        };
        let end = |entity, address, port| self.entity_matches(entity, address, protocol, port);
        rule.ip_version.is_none_or(|version| version == packet.family())
            && rule.protocol.is_none_or(|wanted| wanted == protocol)
            && rule.not_protocol.is_none_or(|unwanted| unwanted != protocol)
            && rule.icmp.as_ref().is_none_or(is_icmp)
            && !rule.not_icmp.as_ref().is_some_and(is_icmp)
            && end(&rule.source, packet.source, source_port)
            && end(&rule.destination, packet.destination, destination_port)
    }

    fn entity_matches(&self, entity: &EntityMatch, address: IpAddr, protocol: u8, port: Option<u16>) -> bool {
        let in_net = |net: &IpNet| net.contains(&address);
        let in_set = |id: &SetId| match self.sets.get(id) {
            Some(SetMembers::Nets(nets)) => nets.iter().any(in_net),
            Some(SetMembers::Ports(_)) | None => false,
        };
        let in_range = |&(low, high): &(u16, u16)| port.is_some_and(|port| (low..=high).contains(&port));
        let in_port_set = |id: &SetId| match (self.sets.get(id), port) {
            (Some(SetMembers::Ports(members)), Some(port)) => members.contains(&PortMember { address, protocol, port }),
            _ => false,
        };
        let any_port = entity.ports.is_empty() && entity.port_sets.is_empty();
        (entity.nets.is_empty() || entity.nets.iter().any(in_net))
            && !entity.not_nets.iter().any(in_net)
            && entity.sets.iter().all(in_set)
            && !entity.not_sets.iter().any(in_set)
            && (any_port || entity.ports.iter().any(in_range) || entity.port_sets.iter().any(in_port_set))
            && !entity.not_ports.iter().any(in_range)
            && !entity.not_port_sets.iter().any(in_port_set)
    }
}
