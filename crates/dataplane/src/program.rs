//! Rules as the kernel's own small programs: loads into a register, comparisons, verdicts.
//!
//! This is the form in which rules are compared with what is in the kernel: [`compile`] makes it from our rules,
//! [`crate::netlink`] reads it back. Only what the kernel reports unchanged is in it; counters are left to the kernel.

use crate::{
    family::{Family, address_key, net_range},
    ruleset::{Action, Chain, End, Interface, Match, Rule},
    tracker::{Fingerprint, fingerprint},
};

/// The first 16-byte data register.
pub(crate) const REGISTER: u32 = 1;
/// The register whose content is the verdict.
pub(crate) const VERDICT_REGISTER: u32 = 0;

/// `nft_meta_keys`, those we use.
pub(crate) mod meta {
    pub(crate) const MARK: u32 = 3;
    pub(crate) const IIFNAME: u32 = 6;
    pub(crate) const OIFNAME: u32 = 7;
    pub(crate) const L4PROTO: u32 = 16;
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

/// `saddr . mark . iif`, result the outgoing interface's index.
pub(crate) const FIB_FLAGS: u32 = 1 | 4 | 8;
/// `NFT_FIB_RESULT_OIF`.
pub(crate) const FIB_RESULT: u32 = 1;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const RANDOM_FULLY: u32 = 1 << 4;
/// `LOG_INFO`.
const LEVEL_INFO: u32 = 6;

/// One step of a rule's program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Expr {
    /// Load meta information.
    Meta { key: u32 },
    /// Store meta information.
    MetaSet { key: u32 },
    /// Load packet bytes.
    Payload { base: u32, offset: u32, length: u32 },
    /// Load the connection tracking state.
    CtState,
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
    /// Count; the values do not matter.
    Counter,
    /// End with a verdict.
    Verdict { code: i32, chain: Option<String> },
    /// Kernel log.
    Log { prefix: String, level: u32 },
    /// Masquerade.
    Masquerade { flags: u32 },
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
        compile_action(action, &mut exprs);
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

fn load_address(family: Family, end: End) -> Expr {
    let offset = match (family, end) {
        (Family::V4, End::Source) => 12,
        (Family::V4, End::Destination) => 16,
        (Family::V6, End::Source) => 8,
        (Family::V6, End::Destination) => 24,
    };
    Expr::Payload { base: base::NETWORK, offset, length: u32::from(family.width()) / 8 }
}

fn load_port(end: End) -> Expr {
    let offset = match end {
        End::Source => 0,
        End::Destination => 2,
    };
    Expr::Payload { base: base::TRANSPORT, offset, length: 2 }
}

/// The last `length` bytes of a key in network order.
pub(crate) fn key_bytes(key: u128, length: usize) -> Vec<u8> {
    key.to_be_bytes()[16 - length..].to_vec()
}

fn compile_match(condition: &Match, family: Family, exprs: &mut Vec<Expr>) {
    let transport = |length| Expr::Payload { base: base::TRANSPORT, offset: 0, length };
    match condition {
        Match::InterfacePrefix(interface, prefix) => {
            exprs.extend([Expr::Meta { key: interface_key(*interface) }, compare(false, prefix.as_bytes())]);
        }
        Match::Protocol { number, negated } => {
            exprs.extend([Expr::Meta { key: meta::L4PROTO }, compare(*negated, [*number])]);
        }
        Match::ProtocolSet { set, negated } => {
            exprs.extend([Expr::Meta { key: meta::L4PROTO }, lookup(set, *negated)]);
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
            exprs.push(load_port(*end));
            let (from, to) = (first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec());
            match negated {
                _ if first == last => exprs.push(compare(*negated, from)),
                true => exprs.push(Expr::Range { op: cmp::NEQ, from, to }),
                false => {
                    exprs.extend([Expr::Compare { op: cmp::GTE, data: from }, Expr::Compare { op: cmp::LTE, data: to }])
                }
            }
        }
        Match::PortSet { end, set, negated } => exprs.extend([load_port(*end), lookup(set, *negated)]),
        Match::CtState(bits) => exprs.extend([
            Expr::CtState,
            Expr::Bitwise { mask: bits.to_ne_bytes().to_vec(), xor: vec![0; 4] },
            compare(true, [0; 4]),
        ]),
        Match::Mark { mask, value } => exprs.extend([
            Expr::Meta { key: meta::MARK },
            Expr::Bitwise { mask: mask.to_ne_bytes().to_vec(), xor: vec![0; 4] },
            compare(false, value.to_ne_bytes()),
        ]),
        Match::Spoofed => {
            exprs.extend([Expr::Fib { flags: FIB_FLAGS, result: FIB_RESULT }, compare(false, [0; 4])]);
        }
    }
}

fn compile_action(action: &Action, exprs: &mut Vec<Expr>) {
    let end = |code, chain: Option<&String>| Expr::Verdict { code, chain: chain.cloned() };
    let write_mark = |mask: u32, xor: u32| {
        let (mask, xor) = (mask.to_ne_bytes().to_vec(), xor.to_ne_bytes().to_vec());
        [Expr::Meta { key: meta::MARK }, Expr::Bitwise { mask, xor }, Expr::MetaSet { key: meta::MARK }]
    };
    match action {
        Action::Accept => exprs.push(end(verdict::ACCEPT, None)),
        Action::Drop => exprs.push(end(verdict::DROP, None)),
        Action::Return => exprs.push(end(verdict::RETURN, None)),
        Action::Jump(chain) => exprs.push(end(verdict::JUMP, Some(chain))),
        Action::Goto(chain) => exprs.push(end(verdict::GOTO, Some(chain))),
        Action::Dispatch(interface, map) => exprs.extend([
            Expr::Meta { key: interface_key(*interface) },
            Expr::Lookup { set: map.clone(), negated: false, verdict: true },
        ]),
        Action::SetMark(bits) => exprs.extend(write_mark(!bits, *bits)),
        Action::ClearMark(bits) => exprs.extend(write_mark(!bits, 0)),
        Action::Log(prefix) => exprs.push(Expr::Log { prefix: prefix.clone(), level: LEVEL_INFO }),
        Action::Masquerade => exprs.push(Expr::Masquerade { flags: RANDOM_FULLY }),
    }
}
