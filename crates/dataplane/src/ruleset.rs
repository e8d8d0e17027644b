//! Rules in words of their own: what a packet must look like and what then happens to it.
//!
//! The renderer writes these, [`crate::netlink`] turns them into the kernel's expressions, and [`fmt::Display`] into
//! text that `nft -f` accepts. The text is what golden tests show for review; a kernel test loads it with `nft` and
//! compares the result with what netlink wrote, so the two translations check each other.

use std::fmt;

use ipnet::IpNet;

use crate::family::Family;

/// The table that holds all rules, one per family.
pub(crate) const TABLE: &str = "calico";

/// Hooks we attach to, with the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Hook {
    /// Before the routing decision.
    Prerouting = 0,
    /// To the host itself.
    Input = 1,
    /// Through the host.
    Forward = 2,
    /// On the way out.
    Postrouting = 4,
}

/// What makes a chain a base chain. The policy is always accept: what is to be dropped is dropped by a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Base {
    /// A `nat` chain, else `filter`.
    pub nat: bool,
    /// Where it is attached.
    pub hook: Hook,
    /// Lower runs earlier.
    pub priority: i32,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Its name in the table.
    pub name: String,
    /// Set for base chains.
    pub base: Option<Base>,
    /// For people.
    pub comment: Option<String>,
    /// The rules, in order.
    pub rules: Vec<Rule>,
}

/// A rule: if all of `matches` hold, count and do `actions` in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Conditions.
    pub matches: Vec<Match>,
    /// Count packets and bytes.
    pub counter: bool,
    /// Consequences. Only the last may be a verdict.
    pub actions: Vec<Action>,
    /// For people: which profile and rule this is.
    pub comment: Option<String>,
}

impl Rule {
    /// A rule without counter and comment.
    pub(crate) fn new(matches: Vec<Match>, actions: Vec<Action>) -> Self {
        Self { matches, counter: false, actions, comment: None }
    }

    /// The same with a counter and a comment.
    pub(crate) fn counted(mut self, comment: impl AsRef<str>) -> Self {
        self.counter = true;
        self.comment = Some(crate::name::comment(comment.as_ref()));
        self
    }
}

/// Which end of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    /// Source address or port.
    Source,
    /// Destination address or port.
    Destination,
}

/// Incoming or outgoing interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Interface {
    /// The packet came in by it.
    Incoming,
    /// The packet leaves by it.
    Outgoing,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Match {
    /// The interface's name starts with this.
    InterfacePrefix(Interface, String),
    /// Transport protocol.
    Protocol {
        /// IP protocol number.
        number: u8,
        /// Any but this.
        negated: bool,
    },
    /// Transport protocol in a set.
    ProtocolSet {
        /// The set's name in the table.
        set: String,
        /// Not in it.
        negated: bool,
    },
    /// One byte at the start of the transport header, in a range: ICMP type. Check the protocol first.
    IcmpTypes(u8, u8),
    /// ICMP type, and code if given. Check the protocol first.
    Icmp {
        /// The type.
        icmp_type: u8,
        /// The code, if it matters.
        code: Option<u8>,
        /// Any combination but this.
        negated: bool,
    },
    /// Address in one network.
    Net {
        /// Which address.
        end: End,
        /// Where it must be; of the table's family.
        net: IpNet,
        /// Where it must not be.
        negated: bool,
    },
    /// Address in a set.
    AddressSet {
        /// The table's family.
        family: Family,
        /// Which address.
        end: End,
        /// The set's name in the table.
        set: String,
        /// Not in it.
        negated: bool,
    },
    /// Port in one range. Check the protocol first.
    Port {
        /// Which port.
        end: End,
        /// Both included.
        range: (u16, u16),
        /// Outside it.
        negated: bool,
    },
    /// Port in a set. Check the protocol first.
    PortSet {
        /// Which port.
        end: End,
        /// The set's name in the table.
        set: String,
        /// Not in it.
        negated: bool,
    },
    /// Connection tracking state has any of these `NF_CT_STATE` bits.
    CtState(u32),
    /// Packet mark under a mask.
    Mark {
        /// Bits looked at.
        mask: u32,
        /// What they must be.
        value: u32,
    },
    /// The route back to the source does not leave by the interface that the packet came in by.
    Spoofed,
}

/// `ct state invalid`.
pub(crate) const CT_INVALID: u32 = 1;
/// `ct state established,related`.
pub(crate) const CT_ESTABLISHED_RELATED: u32 = 2 | 4;

/// A consequence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Leave this base chain; later ones still see the packet.
    Accept,
    /// Gone for good.
    Drop,
    /// Back to the caller.
    Return,
    /// Call a chain.
    Jump(String),
    /// Continue in a chain and return to the caller of this one.
    Goto(String),
    /// Verdict from a map keyed by interface name.
    Dispatch(Interface, String),
    /// Set these mark bits.
    SetMark(u32),
    /// Clear these mark bits.
    ClearMark(u32),
    /// A line in the kernel log that starts with this.
    Log(String),
    /// Source address becomes the outgoing interface's, with a random port.
    Masquerade,
}

/// What a set's keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// Addresses of a family.
    Address(Family),
    /// TCP, UDP, SCTP port numbers.
    Port,
    /// IP protocol numbers.
    Protocol,
    /// Interface names.
    InterfaceName,
}

impl Key {
    /// Bytes of one key.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Address(Family::V4) => 4,
            Self::Address(Family::V6) => 16,
            Self::Port => 2,
            Self::Protocol => 1,
            Self::InterfaceName => 16,
        }
    }

    /// The greatest key as a number.
    pub(crate) fn greatest(self) -> u128 {
        u128::MAX >> (128 - 8 * self.len())
    }
}

/// What kind of set or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SetSpec {
    /// What its keys are.
    pub key: Key,
    /// Holds ranges, else single keys.
    pub interval: bool,
    /// A map to verdicts, else a set.
    pub verdicts: bool,
}

impl SetSpec {
    /// A set.
    pub(crate) fn set(key: Key, interval: bool) -> Self {
        Self { key, interval, verdicts: false }
    }

    /// The map type of the dispatch.
    pub(crate) const DISPATCH: Self = Self { key: Key::InterfaceName, interval: false, verdicts: true };
}

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

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |negated: &bool| if *negated { "!= " } else { "" };
        match self {
            Self::InterfacePrefix(interface, prefix) => write!(f, "{interface} \"{prefix}*\""),
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
            Self::Mark { mask, value } => write!(f, "meta mark & {mask:#x} == {value:#x}"),
            Self::Spoofed => f.write_str("fib saddr . mark . iif oif 0"),
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
            Self::Masquerade => f.write_str("masquerade fully-random"),
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
        };
        let verdict = if self.verdicts { " : verdict" } else { "" };
        let flags = if self.interval { " flags interval;" } else { "" };
        write!(f, "type {key}{verdict};{flags}")
    }
}
