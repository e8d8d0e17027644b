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

/// How many texts back a repetition is looked for, so that a long list takes no longer per rule.
const LOOK_BACK: usize = 32;

/// What holds of bytes that [`PackedCode::new`] wrote.
const WRITTEN: &str = "the bytes are as they were written";

impl PackedCode {
    pub(crate) fn new(code: &Code) -> Self {
        let mut writer = Writer { bytes: Vec::with_capacity(64), texts: Vec::new() };
        for rules in [&code.ingress, &code.egress] {
            writer.list(rules, Writer::rule);
        }
        Self(writer.bytes.into())
    }

    pub(crate) fn unpack(&self) -> Code {
        let mut reader = Reader { bytes: &self.0, texts: Vec::new() };
        Code { ingress: reader.list(Reader::rule), egress: reader.list(Reader::rule) }
    }
}

struct Writer<'a> {
    bytes: Vec<u8>,
    /// Those written so far: a rule list says the same selector often.
    texts: Vec<&'a str>,
}

impl<'a> Writer<'a> {
    fn number(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// A byte with a bit for each part that follows.
    fn flags<const N: usize>(&mut self, parts: [bool; N]) {
        self.bytes.push(parts.iter().enumerate().fold(0, |bits, (at, part)| bits | u8::from(*part) << at));
    }

    fn list<T>(&mut self, items: &'a [T], item: fn(&mut Self, &'a T)) {
        self.number(items.len());
        items.iter().for_each(|one| item(self, one));
    }

    fn filled<T>(&mut self, items: &'a [T], item: fn(&mut Self, &'a T)) {
        if !items.is_empty() {
            self.list(items, item);
        }
    }

    /// How many texts ago this one was written, or zero and the text.
    fn text(&mut self, text: &'a str) {
        if let Some(at) = self.texts.iter().rev().take(LOOK_BACK).position(|known| *known == text) {
            return self.number(at + 1);
        }
        self.texts.push(text);
        self.number(0);
        self.number(text.len());
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn net(&mut self, net: &IpNet) {
        self.bytes.push(net.addr().is_ipv4().into());
        match net.addr() {
            IpAddr::V4(address) => self.bytes.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => self.bytes.extend_from_slice(&address.octets()),
        }
        self.bytes.push(net.prefix_len());
    }

    fn ports(&mut self, &(low, high): &(u16, u16)) {
        self.bytes.extend_from_slice(&low.to_be_bytes());
        self.bytes.extend_from_slice(&high.to_be_bytes());
    }

    fn icmp(&mut self, icmp: IcmpMatch) {
        self.bytes.push(icmp.icmp_type);
        self.flags([icmp.code.is_some()]);
        self.bytes.extend(icmp.code);
    }

    fn rule(&mut self, rule: &'a CodeRule) {
        self.bytes.push(rule.action as u8);
        self.flags([
            rule.ip_version.is_some(),
            rule.protocol.is_some(),
            rule.not_protocol.is_some(),
            rule.icmp.is_some(),
            rule.not_icmp.is_some(),
            rule.source.is_some(),
            rule.destination.is_some(),
        ]);
        self.bytes.extend([rule.ip_version, rule.protocol, rule.not_protocol].into_iter().flatten());
        [rule.icmp, rule.not_icmp].into_iter().flatten().for_each(|icmp| self.icmp(icmp));
        [&rule.source, &rule.destination].into_iter().flatten().for_each(|end| self.end(end));
    }

    fn end(&mut self, end: &'a CodeEnd) {
        self.flags([
            !end.nets.is_empty(),
            !end.not_nets.is_empty(),
            end.positive.is_some(),
            end.negative.is_some(),
            !end.ports.is_empty(),
            !end.not_ports.is_empty(),
            !end.names.is_empty(),
            !end.not_names.is_empty(),
        ]);
        self.filled(&end.nets, Self::net);
        self.filled(&end.not_nets, Self::net);
        [&end.positive, &end.negative].into_iter().flatten().for_each(|text| self.text(text));
        self.filled(&end.ports, Self::ports);
        self.filled(&end.not_ports, Self::ports);
        self.filled(&end.names, |writer, name| writer.text(name));
        self.filled(&end.not_names, |writer, name| writer.text(name));
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    texts: Vec<&'a str>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(length);
        self.bytes = rest;
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

    fn flags<const N: usize>(&mut self) -> [bool; N] {
        let bits = self.byte();
        std::array::from_fn(|at| bits >> at & 1 == 1)
    }

    fn list<T>(&mut self, item: fn(&mut Self) -> T) -> Box<[T]> {
        let length = self.number();
        (0..length).map(|_| item(self)).collect()
    }

    fn filled<T>(&mut self, filled: bool, item: fn(&mut Self) -> T) -> Box<[T]> {
        if filled { self.list(item) } else { Box::default() }
    }

    fn text(&mut self) -> Box<str> {
        let known = self.number();
        if known == 0 {
            let length = self.number();
            let text = std::str::from_utf8(self.take(length)).expect(WRITTEN);
            self.texts.push(text);
            return text.into();
        }
        self.texts[self.texts.len() - known].into()
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
        let icmp_type = self.byte();
        let [code] = self.flags();
        IcmpMatch { icmp_type, code: code.then(|| self.byte()) }
    }

    fn rule(&mut self) -> CodeRule {
        const ACTIONS: [RuleAction; 4] = [RuleAction::Allow, RuleAction::Deny, RuleAction::Pass, RuleAction::Log];
        let action = self.byte();
        let [ip_version, protocol, not_protocol, icmp, not_icmp, source, destination] = self.flags();
        CodeRule {
            action: ACTIONS.into_iter().find(|known| *known as u8 == action).expect(WRITTEN),
            ip_version: ip_version.then(|| self.byte()),
            protocol: protocol.then(|| self.byte()),
            not_protocol: not_protocol.then(|| self.byte()),
            icmp: icmp.then(|| self.icmp()),
            not_icmp: not_icmp.then(|| self.icmp()),
            source: source.then(|| Box::new(self.end())),
            destination: destination.then(|| Box::new(self.end())),
        }
    }

    fn end(&mut self) -> CodeEnd {
        let [nets, not_nets, positive, negative, ports, not_ports, names, not_names] = self.flags();
        CodeEnd {
            nets: self.filled(nets, Self::net),
            not_nets: self.filled(not_nets, Self::net),
            positive: positive.then(|| self.text()),
            negative: negative.then(|| self.text()),
            ports: self.filled(ports, Self::ports),
            not_ports: self.filled(not_ports, Self::ports),
            names: self.filled(names, Self::text),
            not_names: self.filled(not_names, Self::text),
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
        let text = || option::of("a|b|\\PC{0,200}".prop_map(|text: String| text.into()));
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
