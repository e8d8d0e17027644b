//! Rule lists in one piece of memory: most policies of a cluster are in use on no host near, and are kept all the same.
//!
//! Equal lists give equal bytes. Numbers are in groups of seven bits, the least significant first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::code::{Code, CodeEnd, CodeRule};
use crate::instruction::{IcmpMatch, RuleAction};

/// The bytes of a [`Code`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PackedCode(Box<[u8]>);

/// What holds of bytes that [`PackedCode::new`] wrote.
const WRITTEN: &str = "the bytes are as they were written";

impl PackedCode {
    pub(crate) fn new(code: &Code) -> Self {
        let mut bytes = Vec::with_capacity(64);
        for rules in [&code.ingress, &code.egress] {
            list(&mut bytes, rules, rule);
        }
        Self(bytes.into())
    }

    pub(crate) fn unpack(&self) -> Code {
        let mut reader = Reader(&self.0);
        Code { ingress: reader.list(Reader::rule), egress: reader.list(Reader::rule) }
    }
}

fn number(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn list<T>(bytes: &mut Vec<u8>, items: &[T], item: fn(&mut Vec<u8>, &T)) {
    number(bytes, items.len());
    items.iter().for_each(|one| item(bytes, one));
}

fn option<T>(bytes: &mut Vec<u8>, value: Option<&T>, item: fn(&mut Vec<u8>, &T)) {
    bytes.push(value.is_some().into());
    value.into_iter().for_each(|value| item(bytes, value));
}

fn byte(bytes: &mut Vec<u8>, value: &u8) {
    bytes.push(*value);
}

fn text(bytes: &mut Vec<u8>, value: &str) {
    number(bytes, value.len());
    bytes.extend_from_slice(value.as_bytes());
}

fn net(bytes: &mut Vec<u8>, net: &IpNet) {
    bytes.push(net.addr().is_ipv4().into());
    match net.addr() {
        IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
    }
    bytes.push(net.prefix_len());
}

fn ports(bytes: &mut Vec<u8>, &(low, high): &(u16, u16)) {
    bytes.extend_from_slice(&low.to_be_bytes());
    bytes.extend_from_slice(&high.to_be_bytes());
}

fn icmp(bytes: &mut Vec<u8>, icmp: &IcmpMatch) {
    bytes.push(icmp.icmp_type);
    option(bytes, icmp.code.as_ref(), byte);
}

fn rule(bytes: &mut Vec<u8>, rule: &CodeRule) {
    bytes.push(rule.action as u8);
    for value in [&rule.ip_version, &rule.protocol, &rule.not_protocol] {
        option(bytes, value.as_ref(), byte);
    }
    option(bytes, rule.icmp.as_ref(), icmp);
    option(bytes, rule.not_icmp.as_ref(), icmp);
    option(bytes, rule.source.as_ref(), |bytes, one| end(bytes, one));
    option(bytes, rule.destination.as_ref(), |bytes, one| end(bytes, one));
}

fn end(bytes: &mut Vec<u8>, end: &CodeEnd) {
    list(bytes, &end.nets, net);
    list(bytes, &end.not_nets, net);
    option(bytes, end.positive.as_ref(), |bytes, one| text(bytes, one));
    option(bytes, end.negative.as_ref(), |bytes, one| text(bytes, one));
    list(bytes, &end.ports, ports);
    list(bytes, &end.not_ports, ports);
    list(bytes, &end.names, |bytes, one| text(bytes, one));
    list(bytes, &end.not_names, |bytes, one| text(bytes, one));
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().expect("so many bytes were taken")
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    fn number(&mut self) -> usize {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            value |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }

    fn list<T>(&mut self, item: fn(&mut Self) -> T) -> Box<[T]> {
        let length = self.number();
        (0..length).map(|_| item(self)).collect()
    }

    fn option<T>(&mut self, item: fn(&mut Self) -> T) -> Option<T> {
        (self.byte() != 0).then(|| item(self))
    }

    fn text(&mut self) -> Box<str> {
        let length = self.number();
        std::str::from_utf8(self.take(length)).expect(WRITTEN).into()
    }

    fn net(&mut self) -> IpNet {
        let address = match self.byte() {
            0 => IpAddr::from(Ipv6Addr::from(self.array())),
            _ => IpAddr::from(Ipv4Addr::from(self.array::<4>())),
        };
        IpNet::new(address, self.byte()).expect(WRITTEN)
    }

    fn ports(&mut self) -> (u16, u16) {
        (u16::from_be_bytes(self.array()), u16::from_be_bytes(self.array()))
    }

    fn icmp(&mut self) -> IcmpMatch {
        IcmpMatch { icmp_type: self.byte(), code: self.option(Self::byte) }
    }

    fn rule(&mut self) -> CodeRule {
        const ACTIONS: [RuleAction; 4] = [RuleAction::Allow, RuleAction::Deny, RuleAction::Pass, RuleAction::Log];
        let action = self.byte();
        CodeRule {
            action: ACTIONS.into_iter().find(|known| *known as u8 == action).expect(WRITTEN),
            ip_version: self.option(Self::byte),
            protocol: self.option(Self::byte),
            not_protocol: self.option(Self::byte),
            icmp: self.option(Self::icmp),
            not_icmp: self.option(Self::icmp),
            source: self.option(|reader| Box::new(reader.end())),
            destination: self.option(|reader| Box::new(reader.end())),
        }
    }

    fn end(&mut self) -> CodeEnd {
        CodeEnd {
            nets: self.list(Self::net),
            not_nets: self.list(Self::net),
            positive: self.option(Self::text),
            negative: self.option(Self::text),
            ports: self.list(Self::ports),
            not_ports: self.list(Self::ports),
            names: self.list(Self::text),
            not_names: self.list(Self::text),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::{collection::vec, option, prelude::*, sample::select};

    use super::*;

    fn end() -> impl Strategy<Value = Option<Box<CodeEnd>>> {
        let nets = || {
            let net = select(vec!["10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "::/0", "2001:db8::/33", "::1/128"]);
            vec(net.prop_map(|text| text.parse().unwrap()), 0..4).prop_map(Vec::into_boxed_slice)
        };
        let texts = || vec(".{0,300}".prop_map(|text: String| text.into()), 0..3).prop_map(Vec::into_boxed_slice);
        let text = || option::of("\\PC{0,200}".prop_map(|text: String| text.into()));
        let ports = || vec(any::<(u16, u16)>(), 0..150).prop_map(Vec::into_boxed_slice);
        let all = (nets(), nets(), text(), text(), ports(), ports(), texts(), texts());
        option::of(all.prop_map(|(nets, not_nets, positive, negative, ports, not_ports, names, not_names)| {
            Box::new(CodeEnd { nets, not_nets, positive, negative, ports, not_ports, names, not_names })
        }))
    }

    fn rules() -> impl Strategy<Value = Box<[CodeRule]>> {
        let icmp = || {
            let both = (any::<u8>(), any::<Option<u8>>());
            option::of(both.prop_map(|(icmp_type, code)| IcmpMatch { icmp_type, code }))
        };
        let action = select(vec![RuleAction::Allow, RuleAction::Deny, RuleAction::Pass, RuleAction::Log]);
        let numbers = any::<(Option<u8>, Option<u8>, Option<u8>)>();
        let rule = (action, numbers, icmp(), icmp(), end(), end()).prop_map(
            |(action, (ip_version, protocol, not_protocol), icmp, not_icmp, source, destination)| CodeRule {
                action,
                ip_version,
                protocol,
                not_protocol,
                icmp,
                not_icmp,
                source,
                destination,
            },
        );
        vec(rule, 0..4).prop_map(Vec::into_boxed_slice)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_packed_comes_out_again(ingress in rules(), egress in rules()) {
            let code = Code { ingress, egress };
            let packed = PackedCode::new(&code);
            prop_assert_eq!(&packed.unpack(), &code);
            prop_assert_eq!(PackedCode::new(&packed.unpack()), packed);
        }
    }
}
