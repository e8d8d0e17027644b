//! Rules as the kernel's own small programs: loads into a register, comparisons, verdicts.
//!
//! This is the form in which rules are compared with what is in the kernel: [`compile`] makes it from our rules,
//! [`crate::netlink`] reads it back. Only what the kernel reports unchanged is in it; counters are left to the kernel.

mod decompile;

use std::net::IpAddr;

use calico_policy::instruction::{PortMember, PublishedPort};

use crate::{
    family::{Family, address_key, net_range},
    ruleset::{Action, Chain, End, Interface, Key, Match, Rule},
    tracker::{Fingerprint, fingerprint},
};

#[cfg(test)]
pub(crate) use decompile::decompile;
pub(crate) use decompile::text;

/// The first 16-byte data register.
pub(crate) const REGISTER: u32 = 1;
/// The second and third one, for a translation's ports.
pub(crate) const PORT_REGISTERS: (u32, u32) = (2, 3);
/// The register whose content is the verdict.
pub(crate) const VERDICT_REGISTER: u32 = 0;

/// `nft_meta_keys`, those we use.
pub(crate) mod meta {
    pub(crate) const MARK: u32 = 3;
    pub(crate) const IIFNAME: u32 = 6;
    pub(crate) const OIFNAME: u32 = 7;
    pub(crate) const L4PROTO: u32 = 16;
}

/// `nft_ct_keys`, those we use.
pub(crate) mod ct {
    pub(crate) const STATE: u32 = 0;
    pub(crate) const STATUS: u32 = 2;
}

/// `nft_payload_bases`.
pub(crate) mod base {
    pub(crate) const NETWORK: u32 = 1;
    pub(crate) const TRANSPORT: u32 = 2;
}

/// `nft_cmp_ops`; a range knows equal and not equal only.
pub(crate) mod cmp {
    pub(crate) const EQ: u32 = 0;
    pub(crate) const NEQ: u32 = 1;
    pub(crate) const LTE: u32 = 3;
    pub(crate) const GTE: u32 = 5;
}

/// Verdict codes.
pub(crate) mod verdict {
    pub(crate) const DROP: i32 = 0;
    pub(crate) const ACCEPT: i32 = 1;
    pub(crate) const JUMP: i32 = -3;
    pub(crate) const GOTO: i32 = -4;
    pub(crate) const RETURN: i32 = -5;
}

/// What is asked of a route.
pub(crate) mod fib {
    /// `saddr . mark . iif`, result the outgoing interface's index.
    pub(crate) const REVERSE_PATH: (u32, u32) = (1 | 4 | 8, 1);
    /// `daddr`, result the type of the address.
    pub(crate) const DESTINATION_TYPE: (u32, u32) = (2, 3);
    /// `RTN_LOCAL`.
    pub(crate) const LOCAL: u32 = 2;
}

/// `NF_NAT_RANGE_*`.
pub(crate) mod nat {
    pub(crate) const MAP_ADDRESSES: u32 = 1;
    pub(crate) const PORTS_GIVEN: u32 = 1 << 1;
    pub(super) const RANDOM_FULLY: u32 = 1 << 4;
}

/// `IPS_DST_NAT`.
pub(crate) const STATUS_DESTINATION_NAT: u32 = 1 << 5;
/// `NFT_REJECT_ICMP_UNREACH` and `NFT_REJECT_TCP_RST`.
pub(crate) mod reject {
    pub(crate) const UNREACHABLE: u32 = 0;
    pub(crate) const TCP_RESET: u32 = 1;
}
/// Where IPv4 keeps its header checksum.
const IPV4_CHECKSUM: u32 = 10;
/// `LOG_INFO`.
const LEVEL_INFO: u32 = 6;

/// One step of a rule's program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Expr {
    /// Load meta information.
    Meta { key: u32, register: u32 },
    /// Store meta information.
    MetaSet { key: u32 },
    /// Load packet bytes.
    Payload { base: u32, offset: u32, length: u32, register: u32 },
    /// Store packet bytes, and mend the checksum at an offset.
    PayloadSet { base: u32, offset: u32, length: u32, checksum: Option<u32> },
    /// Load a property of the flow.
    Ct { key: u32 },
    /// Look up a route.
    Fib { flags: u32, result: u32 },
    /// Mask and flip.
    Bitwise { mask: Vec<u8>, xor: Vec<u8> },
    /// Go on only if the register compares so.
    Compare { op: u32, data: Vec<u8> },
    /// Go on only if the register is in (or, not equal, outside) the range.
    Range { op: u32, from: Vec<u8>, to: Vec<u8> },
    /// Go on only if the register is in the set, or, with `verdict`, take the verdict that the map has.
    Lookup { set: String, negated: bool, verdict: bool },
    /// Load what the map has for the register, or else go on with the next rule.
    LookupData { map: String },
    /// Count; the values do not matter.
    Counter,
    /// End with a verdict.
    Verdict { code: i32, chain: Option<String> },
    /// Kernel log.
    Log { prefix: String, level: u32 },
    /// Load a constant.
    Immediate { register: u32, data: Vec<u8> },
    /// Masquerade, with or without ports in the first two registers.
    Masquerade { flags: u32, ports: bool },
    /// Translate an address to the one in [`REGISTER`], with or without ports in [`PORT_REGISTERS`].
    Nat { destination: bool, family: u32, flags: u32, ports: bool },
    /// Translate the destination to address and port as a map's value has them from [`REGISTER`] on.
    NatByMap { family: u32 },
    /// No connection tracking.
    NoTrack,
    /// Drop with an answer.
    Reject { kind: u32, code: u8 },
    /// Go on within the rate or, inverted, above it.
    Limit { packets: u64, unit: u64, burst: u32, over: bool },
    /// Go on while there are more flows than this.
    ConnectionsOver { count: u32 },
    /// iptables' way to keep a comment.
    XtComment(String),
    /// Anything that we never write.
    Foreign(String),
}

/// A rule as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Program {
    /// The steps.
    pub exprs: Vec<Expr>,
    /// The comment.
    pub comment: Option<String>,
}

/// Translates a rule for one family's table.
pub(crate) fn compile(rule: &Rule, family: Family) -> Program {
    let mut exprs = Vec::with_capacity(8);
    for condition in &rule.matches {
        compile_match(condition, family, &mut exprs);
    }
    if rule.counter {
        exprs.push(Expr::Counter);
    }
    for action in &rule.actions {
        compile_action(action, family, &mut exprs);
    }
    Program { exprs, comment: rule.comment.clone() }
}

/// The fingerprint of a chain's rules, equal to that of the rules read back.
pub(crate) fn chain_fingerprint(chain: &Chain, family: Family) -> Fingerprint {
    content_fingerprint(chain.rules.iter().map(|rule| fingerprint(&compile(rule, family))).collect())
}

/// The fingerprint of rules in order, from theirs.
pub(crate) fn content_fingerprint(rules: Vec<Fingerprint>) -> Fingerprint {
    fingerprint(&rules)
}

fn compare(negated: bool, data: impl Into<Vec<u8>>) -> Expr {
    Expr::Compare { op: if negated { cmp::NEQ } else { cmp::EQ }, data: data.into() }
}

fn lookup(set: &str, negated: bool) -> Expr {
    Expr::Lookup { set: set.to_owned(), negated, verdict: false }
}

fn interface_key(interface: Interface) -> u32 {
    match interface {
        Interface::Incoming => meta::IIFNAME,
        Interface::Outgoing => meta::OIFNAME,
    }
}

fn load_meta(key: u32) -> Expr {
    Expr::Meta { key, register: REGISTER }
}

fn load_address(family: Family, end: End) -> Expr {
    load_address_to(family, end, REGISTER)
}

fn load_address_to(family: Family, end: End, register: u32) -> Expr {
    let offset = match (family, end) {
        (Family::V4, End::Source) => 12,
        (Family::V4, End::Destination) => 16,
        (Family::V6, End::Source) => 8,
        (Family::V6, End::Destination) => 24,
    };
    Expr::Payload { base: base::NETWORK, offset, length: u32::from(family.width()) / 8, register }
}

fn load_port(end: End, register: u32) -> Expr {
    let offset = match end {
        End::Source => 0,
        End::Destination => 2,
    };
    Expr::Payload { base: base::TRANSPORT, offset, length: 2, register }
}

/// The registers of four bytes after an address in [`REGISTER`], for protocol and port. The kernel names those at a
/// multiple of 16 bytes by that (1 to 4), the others by 8 and their place.
pub(crate) fn member_registers(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (9, 10),
        Family::V6 => (2, 13),
    }
}

/// The register of four bytes after an address in [`REGISTER`], where a map's value has the port.
pub(crate) fn data_port_register(family: u32) -> u32 {
    let family = if family == u32::from(Family::V4.number()) { Family::V4 } else { Family::V6 };
    member_registers(family).0
}

/// A set's key of address, protocol and port: each part padded to four bytes.
pub(crate) fn port_member_key(member: &PortMember) -> Vec<u8> {
    let length = usize::from(Family::of_address(&member.address).width() / 8);
    let [high, low] = member.port.to_be_bytes();
    let mut key = key_bytes(address_key(&member.address), length);
    key.extend_from_slice(&[member.protocol, 0, 0, 0, high, low, 0, 0]);
    key
}

/// The member of a key read from the kernel; `None` if it is not one of this family.
pub(crate) fn port_member(family: Family, key: &[u8]) -> Option<PortMember> {
    let (address, rest) = key.split_at_checked(usize::from(family.width() / 8))?;
    let [protocol, 0, 0, 0, high, low, 0, 0] = *rest else { return None };
    let address = address.iter().fold(0, |value, byte| value << 8 | u128::from(*byte));
    Some(PortMember { address: family.address(address), protocol, port: u16::from_be_bytes([high, low]) })
}

/// A map's key for a published port: with the host's address, or with protocol and port alone.
pub(crate) fn published_key(port: &PublishedPort, exact: bool) -> Vec<u8> {
    let member = PortMember { address: port.host, protocol: port.protocol, port: port.host_port };
    let mut key = port_member_key(&member);
    if !exact {
        key.drain(..key.len() - 8);
    }
    key
}

/// The value for it: address, then port padded to four bytes.
pub(crate) fn published_value(port: &PublishedPort) -> Vec<u8> {
    let family = Family::of_address(&port.address);
    let mut value = key_bytes(address_key(&port.address), usize::from(family.width() / 8));
    value.extend_from_slice(&port.port.to_be_bytes());
    value.extend_from_slice(&[0, 0]);
    value
}

/// The published port of a key and value read from the kernel; `None` if it is not one of this family.
pub(crate) fn published_port(family: Family, key: &[u8], value: &[u8]) -> Option<PublishedPort> {
    let length = usize::from(family.width() / 8);
    let exact = key.len() > 8;
    let key = if exact { key.to_vec() } else { [vec![0; length].as_slice(), key].concat() };
    let PortMember { address: host, protocol, port: host_port } = port_member(family, &key)?;
    let (address, rest) = value.split_at_checked(length)?;
    let [high, low, 0, 0] = *rest else { return None };
    let address = address.iter().fold(0, |value, byte| value << 8 | u128::from(*byte));
    let (address, port) = (family.address(address), u16::from_be_bytes([high, low]));
    Some(PublishedPort { protocol, host_port, host, address, port })
}

/// A set's key as bytes, of one that is a number.
pub(crate) fn range_key(key: Key, value: u128) -> Vec<u8> {
    match key {
        Key::Twice(family) => key_bytes(value, Key::Address(family).len()).repeat(2),
        _ => key_bytes(value, key.len()),
    }
}

/// The number that a set's key in bytes is; `None` if it is none.
pub(crate) fn range_number(key: Key, bytes: &[u8]) -> Option<u128> {
    let number = match key {
        Key::Twice(family) => {
            let (first, second) = bytes.split_at_checked(Key::Address(family).len())?;
            (first == second).then_some(first)?
        }
        _ => bytes,
    };
    Some(number.iter().fold(0, |value, byte| value << 8 | u128::from(*byte)))
}

/// The last `length` bytes of a key in network order.
pub(crate) fn key_bytes(key: u128, length: usize) -> Vec<u8> {
    key.to_be_bytes()[16 - length..].to_vec()
}

fn compile_match(condition: &Match, family: Family, exprs: &mut Vec<Expr>) {
    let transport = |length| Expr::Payload { base: base::TRANSPORT, offset: 0, length, register: REGISTER };
    let has_bits =
        |bits: u32| [Expr::Bitwise { mask: bits.to_ne_bytes().to_vec(), xor: vec![0; 4] }, compare(true, [0; 4])];
    match condition {
        Match::InterfacePrefix(interface, prefix) => {
            exprs.extend([load_meta(interface_key(*interface)), compare(false, prefix.as_bytes())]);
        }
        Match::InterfaceName(interface, name) => {
            exprs.extend([load_meta(interface_key(*interface)), compare(false, name.key().as_slice())]);
        }
        Match::Protocol { number, negated } => {
            exprs.extend([load_meta(meta::L4PROTO), compare(*negated, [*number])]);
        }
        Match::ProtocolSet { set, negated } => {
            exprs.extend([load_meta(meta::L4PROTO), lookup(set, *negated)]);
        }
        Match::IcmpTypes(first, last) => exprs.extend([
            transport(1),
            Expr::Compare { op: cmp::GTE, data: vec![*first] },
            transport(1),
            Expr::Compare { op: cmp::LTE, data: vec![*last] },
        ]),
        Match::Icmp { icmp_type, code: None, negated } => {
            exprs.extend([transport(1), compare(*negated, [*icmp_type])]);
        }
        // Both bytes in one comparison: the negation of a pair is not the pair of the negations.
        Match::Icmp { icmp_type, code: Some(code), negated } => {
            exprs.extend([transport(2), compare(*negated, [*icmp_type, *code])]);
        }
        Match::Net { end, net, negated } => {
            let length = usize::from(family.width() / 8);
            exprs.push(load_address(family, *end));
            if net.prefix_len() < family.width() {
                let mask = key_bytes(address_key(&net.netmask()), length);
                exprs.push(Expr::Bitwise { mask, xor: vec![0; length] });
            }
            exprs.push(compare(*negated, key_bytes(net_range(net).0, length)));
        }
        Match::AddressSet { family, end, set, negated } => {
            exprs.extend([load_address(*family, *end), lookup(set, *negated)]);
        }
        Match::Port { end, range: (first, last), negated } => {
            exprs.push(load_port(*end, REGISTER));
            let (from, to) = (first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec());
            match negated {
                _ if first == last => exprs.push(compare(*negated, from)),
                true => exprs.push(Expr::Range { op: cmp::NEQ, from, to }),
                false => {
                    exprs.extend([Expr::Compare { op: cmp::GTE, data: from }, Expr::Compare { op: cmp::LTE, data: to }])
                }
            }
        }
        Match::PortSet { end, set, negated } => exprs.extend([load_port(*end, REGISTER), lookup(set, *negated)]),
        Match::PortMemberSet { family, end, set, negated } => {
            let (protocol, port) = member_registers(*family);
            let load_protocol = Expr::Meta { key: meta::L4PROTO, register: protocol };
            exprs.extend([load_address(*family, *end), load_protocol, load_port(*end, port), lookup(set, *negated)]);
        }
        Match::CtState(bits) => {
            exprs.push(Expr::Ct { key: ct::STATE });
            exprs.extend(has_bits(*bits));
        }
        Match::DestinationTranslated => {
            exprs.push(Expr::Ct { key: ct::STATUS });
            exprs.extend(has_bits(STATUS_DESTINATION_NAT));
        }
        Match::MarkAny(mask) => {
            exprs.push(load_meta(meta::MARK));
            exprs.extend(has_bits(*mask));
        }
        Match::Mark { mask, value } => exprs.extend([
            load_meta(meta::MARK),
            Expr::Bitwise { mask: mask.to_ne_bytes().to_vec(), xor: vec![0; 4] },
            compare(false, value.to_ne_bytes()),
        ]),
        Match::Spoofed => {
            let (flags, result) = fib::REVERSE_PATH;
            exprs.extend([Expr::Fib { flags, result }, compare(false, [0; 4])]);
        }
        Match::ToItself { family, set } => {
            let destination = load_address_to(*family, End::Destination, member_registers(*family).0);
            exprs.extend([load_address(*family, End::Source), destination, lookup(set, false)]);
        }
        Match::LocalDestination => {
            let (flags, result) = fib::DESTINATION_TYPE;
            exprs.extend([Expr::Fib { flags, result }, compare(false, fib::LOCAL.to_ne_bytes())]);
        }
        Match::Rate { over, packets, unit, burst } => {
            exprs.push(Expr::Limit { packets: *packets, unit: *unit, burst: *burst, over: *over });
        }
        Match::ConnectionsOver(count) => exprs.push(Expr::ConnectionsOver { count: *count }),
    }
}

fn compile_action(action: &Action, family: Family, exprs: &mut Vec<Expr>) {
    let end = |code, chain: Option<&String>| Expr::Verdict { code, chain: chain.cloned() };
    let write_mark = |mask: u32, xor: u32| {
        let (mask, xor) = (mask.to_ne_bytes().to_vec(), xor.to_ne_bytes().to_vec());
        [load_meta(meta::MARK), Expr::Bitwise { mask, xor }, Expr::MetaSet { key: meta::MARK }]
    };
    match action {
        Action::Accept => exprs.push(end(verdict::ACCEPT, None)),
        Action::Drop => exprs.push(end(verdict::DROP, None)),
        Action::Return => exprs.push(end(verdict::RETURN, None)),
        Action::Jump(chain) => exprs.push(end(verdict::JUMP, Some(chain))),
        Action::Goto(chain) => exprs.push(end(verdict::GOTO, Some(chain))),
        Action::Dispatch(interface, map) => exprs.extend([
            load_meta(interface_key(*interface)),
            Expr::Lookup { set: map.clone(), negated: false, verdict: true },
        ]),
        Action::SetMark(bits) => exprs.extend(write_mark(!bits, *bits)),
        Action::ClearMark(bits) => exprs.extend(write_mark(!bits, 0)),
        Action::Log(prefix) => exprs.push(Expr::Log { prefix: prefix.clone(), level: LEVEL_INFO }),
        Action::Masquerade { ports } => {
            let flags = nat::RANDOM_FULLY | load_ports(*ports, (REGISTER, PORT_REGISTERS.0), exprs);
            exprs.push(Expr::Masquerade { flags, ports: ports.is_some() });
        }
        Action::SourceNat { to, ports } => {
            exprs.push(load_constant(to));
            let flags = nat::MAP_ADDRESSES | nat::RANDOM_FULLY | load_ports(*ports, PORT_REGISTERS, exprs);
            let family = u32::from(family.number());
            exprs.push(Expr::Nat { destination: false, family, flags, ports: ports.is_some() });
        }
        Action::DestinationNat(to) => {
            exprs.push(load_constant(to));
            let family = u32::from(family.number());
            exprs.push(Expr::Nat { destination: true, family, flags: nat::MAP_ADDRESSES, ports: false });
        }
        Action::DestinationNatBy { family, map, exact } => {
            let (protocol, port) =
                if *exact { member_registers(*family) } else { (REGISTER, member_registers(Family::V4).0) };
            exprs.extend(exact.then(|| load_address(*family, End::Destination)));
            exprs.push(Expr::Meta { key: meta::L4PROTO, register: protocol });
            exprs.push(load_port(End::Destination, port));
            exprs.push(Expr::LookupData { map: map.clone() });
            exprs.push(Expr::NatByMap { family: u32::from(family.number()) });
        }
        Action::NoTrack => exprs.push(Expr::NoTrack),
        Action::Reject(Family::V4) => exprs.push(Expr::Reject { kind: reject::UNREACHABLE, code: 3 }),
        Action::Reject(Family::V6) => exprs.push(Expr::Reject { kind: reject::UNREACHABLE, code: 4 }),
        Action::ResetTcp => exprs.push(Expr::Reject { kind: reject::TCP_RESET, code: 0 }),
        Action::SetDscp(family, value) => exprs.extend(set_dscp(*family, *value)),
    }
}

fn load_constant(address: &IpAddr) -> Expr {
    let length = usize::from(Family::of_address(address).width() / 8);
    Expr::Immediate { register: REGISTER, data: key_bytes(address_key(address), length) }
}

/// Loads a range of ports, if there is one. Returns the flag that says so.
fn load_ports(ports: Option<(u16, u16)>, registers: (u32, u32), exprs: &mut Vec<Expr>) -> u32 {
    let Some((first, last)) = ports else { return 0 };
    for (register, port) in [(registers.0, first), (registers.1, last)] {
        exprs.push(Expr::Immediate { register, data: port.to_be_bytes().to_vec() });
    }
    nat::PORTS_GIVEN
}

/// The bits lie in the first two bytes of the header: in IPv4 the high ones of the second byte, in IPv6 across both.
fn set_dscp(family: Family, value: u8) -> [Expr; 3] {
    let (mask, xor, checksum) = match family {
        Family::V4 => ([0xff, 0x03], [0, value << 2], Some(IPV4_CHECKSUM)),
        Family::V6 => ([0xf0, 0x3f], [value >> 2, value << 6], None),
    };
    let (base, offset, length) = (base::NETWORK, 0, 2);
    [
        Expr::Payload { base, offset, length, register: REGISTER },
        Expr::Bitwise { mask: mask.to_vec(), xor: xor.to_vec() },
        Expr::PayloadSet { base, offset, length, checksum },
    ]
}
