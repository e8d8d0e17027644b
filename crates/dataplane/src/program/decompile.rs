//! Programs back into the words that they were made of, for people who look at what the kernel holds.
//!
//! The inverse of [`compile`]: what is taken apart is put together again and compared, so a rule is either shown as
//! exactly what it does or, if it is none of ours, as the names of its expressions.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    Expr, Program, base, cmp, compile, ct, fib, load_address, load_address_to, load_port, member_registers, meta, nat,
    reject, verdict,
};
use crate::{
    family::Family,
    ifname::IfName,
    program::{PORT_REGISTERS, REGISTER},
    ruleset::{Action, End, Interface, Match, Rule},
};

/// The text of a rule, without its counter and comment.
pub(crate) fn text(program: &Program, family: Family) -> String {
    match decompile(program, family) {
        Some(rule) => Rule { counter: false, comment: None, ..rule }.to_string(),
        None => {
            let names: Vec<String> = program.exprs.iter().map(|expr| format!("{expr:?}")).collect();
            format!("not ours: {}", names.join(", "))
        }
    }
}

/// The rule that compiles to this program; `None` if it is none that we write.
pub(crate) fn decompile(program: &Program, family: Family) -> Option<Rule> {
    let mut rule = Rule { comment: program.comment.clone(), ..Rule::default() };
    let mut icmp = false;
    let mut rest = program.exprs.as_slice();
    while !rest.is_empty() {
        if rest[0] == Expr::Counter {
            rule.counter = true;
            rest = &rest[1..];
        } else if let Some((action, length)) = action(rest, family) {
            rule.actions.push(action);
            rest = &rest[length..];
        } else {
            let (condition, length) = condition(rest, family, icmp)?;
            icmp |= matches!(condition, Match::Protocol { number, negated: false } if number == family.icmp());
            rule.matches.push(condition);
            rest = &rest[length..];
        }
    }
    (compile(&rule, family) == *program).then_some(rule)
}

fn interface(key: u32) -> Option<Interface> {
    match key {
        meta::IIFNAME => Some(Interface::Incoming),
        meta::OIFNAME => Some(Interface::Outgoing),
        _ => None,
    }
}

fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// The condition at the start of a program, and how many steps it takes.
fn condition(exprs: &[Expr], family: Family, icmp: bool) -> Option<(Match, usize)> {
    match exprs {
        [Expr::Meta { key, register: REGISTER }, rest @ ..] => of_meta(*key, rest),
        [Expr::Ct { key }, Expr::Bitwise { mask, .. }, Expr::Compare { op: cmp::NEQ, .. }, ..] => {
            let condition = match *key {
                ct::STATE => Match::CtState(word(mask)?),
                _ => Match::DestinationTranslated,
            };
            Some((condition, 3))
        }
        [Expr::Fib { flags, result }, Expr::Compare { .. }, ..] => {
            let spoofed = (*flags, *result) == fib::REVERSE_PATH;
            Some((if spoofed { Match::Spoofed } else { Match::LocalDestination }, 2))
        }
        [Expr::Limit { packets, unit, burst, over }, ..] => {
            Some((Match::Rate { over: *over, packets: *packets, unit: *unit, burst: *burst }, 1))
        }
        [Expr::ConnectionsOver { count }, ..] => Some((Match::ConnectionsOver(*count), 1)),
        [Expr::Payload { base: base::NETWORK, .. }, rest @ ..] => of_address(&exprs[0], rest, family),
        [Expr::Payload { base: base::TRANSPORT, length: 1, .. }, rest @ ..] => of_icmp_type(rest),
        [Expr::Payload { base: base::TRANSPORT, length: 2, .. }, Expr::Compare { op, data }, ..] if icmp => {
            let [icmp_type, code] = *data.as_slice() else { return None };
            Some((Match::Icmp { icmp_type, code: Some(code), negated: *op == cmp::NEQ }, 2))
        }
        [Expr::Payload { base: base::TRANSPORT, .. }, rest @ ..] => of_port(&exprs[0], rest),
        _ => None,
    }
}

fn of_meta(key: u32, rest: &[Expr]) -> Option<(Match, usize)> {
    match (key, rest) {
        (meta::MARK, [Expr::Bitwise { mask, .. }, Expr::Compare { op: cmp::NEQ, .. }, ..]) => {
            Some((Match::MarkAny(word(mask)?), 3))
        }
        (meta::MARK, [Expr::Bitwise { mask, .. }, Expr::Compare { op: cmp::EQ, data }, ..]) => {
            Some((Match::Mark { mask: word(mask)?, value: word(data)? }, 3))
        }
        (meta::L4PROTO, [Expr::Compare { op, data }, ..]) => {
            Some((Match::Protocol { number: *data.first()?, negated: *op == cmp::NEQ }, 2))
        }
        (meta::L4PROTO, [Expr::Lookup { set, negated, verdict: false }, ..]) => {
            Some((Match::ProtocolSet { set: set.clone(), negated: *negated }, 2))
        }
        (_, [Expr::Compare { op: cmp::EQ, data }, ..]) => {
            let interface = interface(key)?;
            let condition = match data.len() {
                16 => Match::InterfaceName(interface, IfName::from_key(data)?),
                _ => Match::InterfacePrefix(interface, String::from_utf8(data.clone()).ok()?),
            };
            Some((condition, 2))
        }
        _ => None,
    }
}

fn end_of_address(load: &Expr, family: Family) -> Option<End> {
    [End::Source, End::Destination].into_iter().find(|end| load_address(family, *end) == *load)
}

fn of_address(load: &Expr, rest: &[Expr], family: Family) -> Option<(Match, usize)> {
    let end = end_of_address(load, family)?;
    let (protocol, port) = member_registers(family);
    match rest {
        [Expr::Lookup { set, negated, verdict: false }, ..] => {
            Some((Match::AddressSet { family, end, set: set.clone(), negated: *negated }, 2))
        }
        [second, Expr::Lookup { set, .. }, ..]
            if end == End::Source && *second == load_address_to(family, End::Destination, protocol) =>
        {
            Some((Match::ToItself { family, set: set.clone() }, 3))
        }
        [Expr::Meta { register, .. }, load, Expr::Lookup { set, negated, .. }, ..]
            if *register == protocol && *load == load_port(end, port) =>
        {
            Some((Match::PortMemberSet { family, end, set: set.clone(), negated: *negated }, 4))
        }
        [Expr::Bitwise { mask, .. }, Expr::Compare { op, data }, ..] => {
            let length = mask.iter().map(|byte| byte.count_ones() as u8).sum();
            let net = IpNet::new(address(data)?, length).ok()?;
            Some((Match::Net { end, net, negated: *op == cmp::NEQ }, 3))
        }
        [Expr::Compare { op, data }, ..] => {
            Some((Match::Net { end, net: IpNet::from(address(data)?), negated: *op == cmp::NEQ }, 2))
        }
        _ => None,
    }
}

fn of_icmp_type(rest: &[Expr]) -> Option<(Match, usize)> {
    match rest {
        [
            Expr::Compare { op: cmp::GTE, data: first },
            Expr::Payload { .. },
            Expr::Compare { op: cmp::LTE, data: last },
            ..,
        ] => Some((Match::IcmpTypes(*first.first()?, *last.first()?), 4)),
        [Expr::Compare { op, data }, ..] => {
            Some((Match::Icmp { icmp_type: *data.first()?, code: None, negated: *op == cmp::NEQ }, 2))
        }
        _ => None,
    }
}

fn of_port(load: &Expr, rest: &[Expr]) -> Option<(Match, usize)> {
    let end = [End::Source, End::Destination].into_iter().find(|end| load_port(*end, REGISTER) == *load)?;
    match rest {
        [Expr::Lookup { set, negated, .. }, ..] => {
            Some((Match::PortSet { end, set: set.clone(), negated: *negated }, 2))
        }
        [Expr::Compare { op: cmp::GTE, data: first }, Expr::Compare { op: cmp::LTE, data: last }, ..] => {
            Some((Match::Port { end, range: (port(first)?, port(last)?), negated: false }, 3))
        }
        [Expr::Range { from, to, .. }, ..] => {
            Some((Match::Port { end, range: (port(from)?, port(to)?), negated: true }, 2))
        }
        [Expr::Compare { op, data }, ..] => {
            let port = port(data)?;
            Some((Match::Port { end, range: (port, port), negated: *op == cmp::NEQ }, 2))
        }
        _ => None,
    }
}

/// The action at the start of a program, and how many steps it takes.
fn action(exprs: &[Expr], family: Family) -> Option<(Action, usize)> {
    let whole = match exprs {
        [Expr::Verdict { code, chain }, ..] => (verdict_action(*code, chain.as_ref())?, 1),
        [Expr::Meta { key, .. }, Expr::Lookup { set, verdict: true, .. }, ..] => {
            (Action::Dispatch(interface(*key)?, set.clone()), 2)
        }
        [Expr::Meta { .. }, Expr::Bitwise { mask, xor }, Expr::MetaSet { .. }, ..] => match word(xor)? {
            0 => (Action::ClearMark(!word(mask)?), 3),
            bits => (Action::SetMark(bits), 3),
        },
        [
            Expr::Payload { .. },
            Expr::Meta { .. },
            Expr::Payload { .. },
            Expr::LookupData { map },
            Expr::NatByMap { .. },
            ..,
        ] => (Action::DestinationNatBy { family, map: map.clone(), exact: true }, 5),
        [Expr::Meta { .. }, Expr::Payload { .. }, Expr::LookupData { map }, Expr::NatByMap { .. }, ..] => {
            (Action::DestinationNatBy { family, map: map.clone(), exact: false }, 4)
        }
        [Expr::Log { prefix, .. }, ..] => (Action::Log(prefix.clone()), 1),
        [Expr::NoTrack, ..] => (Action::NoTrack, 1),
        [Expr::Reject { kind: reject::TCP_RESET, .. }, ..] => (Action::ResetTcp, 1),
        [Expr::Reject { .. }, ..] => (Action::Reject(family), 1),
        [Expr::Payload { .. }, Expr::Bitwise { xor, .. }, Expr::PayloadSet { .. }, ..] => {
            let [first, second] = *xor.as_slice() else { return None };
            let value = if family == Family::V4 { second >> 2 } else { first << 2 | second >> 6 };
            (Action::SetDscp(family, value), 3)
        }
        [Expr::Immediate { .. } | Expr::Masquerade { .. }, ..] => translation(exprs)?,
        _ => return None,
    };
    Some(whole)
}

fn verdict_action(code: i32, chain: Option<&String>) -> Option<Action> {
    Some(match (code, chain) {
        (verdict::ACCEPT, None) => Action::Accept,
        (verdict::DROP, None) => Action::Drop,
        (verdict::RETURN, None) => Action::Return,
        (verdict::JUMP, Some(chain)) => Action::Jump(chain.clone()),
        (verdict::GOTO, Some(chain)) => Action::Goto(chain.clone()),
        _ => return None,
    })
}

/// Constants in registers, and what uses them.
fn translation(exprs: &[Expr]) -> Option<(Action, usize)> {
    let constants = exprs.iter().take_while(|expr| matches!(expr, Expr::Immediate { .. })).count();
    let constant = |wanted| {
        exprs[..constants].iter().find_map(|expr| match expr {
            Expr::Immediate { register, data } if *register == wanted => Some(data.as_slice()),
            _ => None,
        })
    };
    let ports = |(first, last), given: bool| match given {
        true => Some(Some((port(constant(first)?)?, port(constant(last)?)?))),
        false => Some(None),
    };
    let action = match exprs.get(constants)? {
        Expr::Masquerade { ports: given, .. } => {
            Action::Masquerade { ports: ports((REGISTER, PORT_REGISTERS.0), *given)? }
        }
        Expr::Nat { destination: true, flags: nat::MAP_ADDRESSES, .. } => {
            Action::DestinationNat(address(constant(REGISTER)?)?)
        }
        Expr::Nat { destination: false, ports: given, .. } => {
            Action::SourceNat { to: address(constant(REGISTER)?)?, ports: ports(PORT_REGISTERS, *given)? }
        }
        _ => return None,
    };
    Some((action, constants + 1))
}
