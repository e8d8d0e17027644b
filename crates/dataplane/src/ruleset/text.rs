//! Rules as text that `nft -f` accepts.

use std::{fmt, net::IpAddr};

use super::{Action, Base, CT_ESTABLISHED_RELATED, CT_INVALID, Chain, Data, End, Interface, Key, Match, Rule, SetSpec};
use crate::family::Family;

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "s",
            Self::Destination => "d",
        })
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Incoming => "iifname",
            Self::Outgoing => "oifname",
        })
    }
}

/// The units that nft knows; others have no word and are not made.
fn unit_word(seconds: u64) -> &'static str {
    match seconds {
        ..60 => "second",
        60..3600 => "minute",
        3600..86400 => "hour",
        _ => "day",
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |negated: &bool| if *negated { "!= " } else { "" };
        match self {
            Self::InterfacePrefix(interface, prefix) => write!(f, "{interface} \"{prefix}*\""),
            Self::InterfaceName(interface, name) => write!(f, "{interface} \"{name}\""),
            Self::Protocol { number, negated } => write!(f, "meta l4proto {}{number}", not(negated)),
            Self::ProtocolSet { set, negated } => write!(f, "meta l4proto {}@{set}", not(negated)),
            Self::IcmpTypes(first, last) => write!(f, "@th,0,8 >= {first} @th,0,8 <= {last}"),
            Self::Icmp { icmp_type, code: None, negated } => write!(f, "@th,0,8 {}{icmp_type}", not(negated)),
            Self::Icmp { icmp_type, code: Some(code), negated } => {
                write!(f, "@th,0,16 {}{:#06x}", not(negated), u16::from_be_bytes([*icmp_type, *code]))
            }
            Self::Net { end, net, negated } => write!(f, "{} {end}addr {}{net}", Family::of(net), not(negated)),
            Self::AddressSet { family, end, set, negated } => write!(f, "{family} {end}addr {}@{set}", not(negated)),
            Self::Port { end, range: (first, last), negated } if first == last => {
                write!(f, "th {end}port {}{first}", not(negated))
            }
            Self::Port { end, range: (first, last), negated } => {
                write!(f, "th {end}port {}{first}-{last}", not(negated))
            }
            Self::PortSet { end, set, negated } => write!(f, "th {end}port {}@{set}", not(negated)),
            Self::CtState(CT_INVALID) => f.write_str("ct state invalid"),
            Self::CtState(CT_ESTABLISHED_RELATED) => f.write_str("ct state established,related"),
            Self::CtState(bits) => write!(f, "ct state & {bits:#x} != 0"),
            Self::PortMemberSet { family, end, set, negated } => {
                write!(f, "{family} {end}addr . meta l4proto . th {end}port {}@{set}", not(negated))
            }
            Self::DestinationTranslated => f.write_str("ct status dnat"),
            Self::Mark { mask, value } => write!(f, "meta mark & {mask:#x} == {value:#x}"),
            Self::MarkAny(mask) => write!(f, "meta mark & {mask:#x} != 0"),
            Self::LocalDestination => f.write_str("fib daddr type local"),
            Self::Rate { over, packets, unit, burst } => {
                let over = if *over { "over " } else { "" };
                write!(f, "limit rate {over}{packets}/{} burst {burst} packets", unit_word(*unit))
            }
            Self::ConnectionsOver(number) => write!(f, "ct count over {number}"),
            Self::Spoofed => f.write_str("fib saddr . mark . iif oif 0"),
            Self::ToItself { family, set } => write!(f, "{family} saddr . {family} daddr @{set}"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Dispatch(interface, map) => write!(f, "{interface} vmap @{map}"),
            Self::SetMark(bits) => write!(f, "meta mark set meta mark | {bits:#x}"),
            Self::ClearMark(bits) => write!(f, "meta mark set meta mark & {:#x}", !bits),
            Self::Log(prefix) => write!(f, "log prefix \"{prefix}\" level info"),
            Self::Masquerade { ports: None } => f.write_str("masquerade fully-random"),
            Self::Masquerade { ports: Some((first, last)) } => write!(f, "masquerade to :{first}-{last} fully-random"),
            Self::SourceNat { to, ports: None } => write!(f, "snat to {to} fully-random"),
            Self::SourceNat { to: to @ IpAddr::V4(_), ports: Some((first, last)) } => {
                write!(f, "snat to {to}:{first}-{last} fully-random")
            }
            Self::SourceNat { to, ports: Some((first, last)) } => {
                write!(f, "snat to [{to}]:{first}-{last} fully-random")
            }
            Self::DestinationNat(to) => write!(f, "dnat to {to}"),
            Self::DestinationNatBy { family, map, exact } => {
                let address = if *exact { format!("{family} daddr . ") } else { String::new() };
                write!(f, "dnat {family} to {address}meta l4proto . th dport map @{map}")
            }
            Self::NoTrack => f.write_str("notrack"),
            Self::Reject(Family::V4) => f.write_str("reject with icmp port-unreachable"),
            Self::Reject(Family::V6) => f.write_str("reject with icmpv6 port-unreachable"),
            Self::ResetTcp => f.write_str("reject with tcp reset"),
            Self::SetDscp(family, value) => write!(f, "{family} dscp set {value}"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = self.matches.iter().map(ToString::to_string).collect();
        words.extend(self.counter.then(|| "counter".to_owned()));
        words.extend(self.actions.iter().map(ToString::to_string));
        words.extend(self.comment.iter().map(|comment| format!("comment \"{comment}\"")));
        f.write_str(&words.join(" "))
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(comment) = &self.comment {
            writeln!(f, "\t\tcomment \"{comment}\"")?;
        }
        if let Some(Base { nat, hook, priority }) = &self.base {
            let kind = if *nat { "nat" } else { "filter" };
            let hook = format!("{hook:?}").to_lowercase();
            writeln!(f, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl fmt::Display for SetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = match self.key {
            Key::Address(Family::V4) => "ipv4_addr",
            Key::Address(Family::V6) => "ipv6_addr",
            Key::Port => "inet_service",
            Key::Protocol => "inet_proto",
            Key::InterfaceName => "ifname",
            Key::PortMember(Family::V4) => "ipv4_addr . inet_proto . inet_service",
            Key::PortMember(Family::V6) => "ipv6_addr . inet_proto . inet_service",
            Key::ProtocolPort => "inet_proto . inet_service",
            Key::Twice(Family::V4) => "ipv4_addr . ipv4_addr",
            Key::Twice(Family::V6) => "ipv6_addr . ipv6_addr",
        };
        let data = match self.data {
            Data::None => "",
            Data::Verdict => " : verdict",
            Data::Destination(Family::V4) => " : ipv4_addr . inet_service",
            Data::Destination(Family::V6) => " : ipv6_addr . inet_service",
        };
        let flags = if self.interval { " flags interval;" } else { "" };
        let counter = if self.counts() { " counter;" } else { "" };
        write!(f, "type {key}{data};{flags}{counter}")
    }
}
