//! Rules in words of their own: what a packet must look like and what then happens to it.
//!
//! The renderer writes these, [`crate::netlink`] turns them into the kernel's expressions, and [`std::fmt::Display`] into
//! text that `nft -f` accepts. The text is what golden tests show for review; a kernel test loads it with `nft` and
//! compares the result with what netlink wrote, so the two translations check each other.

mod text;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{family::Family, ifname::IfName};

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
    /// Made by the host.
    Output = 3,
    /// On the way out, forwarded or made here.
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
    /// The interface is this one.
    InterfaceName(Interface, IfName),
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
    /// Address, transport protocol and port in a set of [`Key::PortMember`]. Check first that the protocol has ports:
    /// of a packet without that many bytes the condition never holds, negated or not.
    PortMemberSet {
        /// The table's family.
        family: Family,
        /// Which address and port.
        end: End,
        /// The set's name in the table.
        set: String,
        /// Not in it.
        negated: bool,
    },
    /// Connection tracking state has any of these `NF_CT_STATE` bits.
    CtState(u32),
    /// The flow has had its destination translated. Never holds for a packet without a flow (invalid, untracked).
    DestinationTranslated,
    /// Packet mark under a mask.
    Mark {
        /// Bits looked at.
        mask: u32,
        /// What they must be.
        value: u32,
    },
    /// At least one of these mark bits is set.
    MarkAny(u32),
    /// The destination is an address of this host.
    LocalDestination,
    /// Packets per time, counted by this very rule: holds while there are no more or, with `over`, only above it.
    Rate {
        /// Holds for what is above the rate, else for what is within.
        over: bool,
        /// Packets per [`unit`](Self::Rate::unit).
        packets: u64,
        /// Seconds.
        unit: u64,
        /// Packets that may come at once.
        burst: u32,
    },
    /// More than so many flows of which a packet has met this very rule exist at this time.
    ConnectionsOver(u32),
    /// The route back to the source does not leave by the interface that the packet came in by.
    Spoofed,
    /// Source and destination are the same address, one in a set of [`Key::Twice`].
    ToItself {
        /// The table's family.
        family: Family,
        /// The set's name in the table.
        set: String,
    },
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
    Masquerade {
        /// Of these ports, both included. Check first that the protocol has ports.
        ports: Option<(u16, u16)>,
    },
    /// Source address becomes this one, with a random port.
    SourceNat {
        /// Of the table's family.
        to: IpAddr,
        /// Of these ports, both included. Check first that the protocol has ports.
        ports: Option<(u16, u16)>,
    },
    /// Destination address becomes this one, of the table's family; the port stays.
    DestinationNat(IpAddr),
    /// Destination address and port become those that a map has; without an element there the next rule has its turn.
    DestinationNatBy {
        /// The table's family.
        family: Family,
        /// The map's name in the table.
        map: String,
        /// The map asks for the destination address too ([`Key::PortMember`]), else only for protocol and port
        /// ([`Key::ProtocolPort`]).
        exact: bool,
    },
    /// The packet gets no flow. In chains before connection tracking only.
    NoTrack,
    /// Gone, and the sender is told: ICMP port unreachable. In input, forward, output only.
    Reject(Family),
    /// Gone, and the sender is told: TCP reset. Check the protocol first. In input, forward, output only.
    ResetTcp,
    /// The six DSCP bits become these.
    SetDscp(Family, u8),
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
    /// Address, IP protocol number and port together; never ranges.
    PortMember(Family),
    /// IP protocol number and port together; never ranges.
    ProtocolPort,
    /// The same address of a family two times, for source and destination; never ranges.
    Twice(Family),
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
            // Each part fills registers of four bytes.
            Self::PortMember(family) => Self::Address(family).len() + 8,
            Self::ProtocolPort => 8,
            Self::Twice(family) => 2 * Self::Address(family).len(),
        }
    }

    /// The greatest key as a number. Not for keys of several parts, which are no numbers.
    pub(crate) fn greatest(self) -> u128 {
        u128::MAX >> 128usize.saturating_sub(8 * self.len())
    }
}

/// What kind of set or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SetSpec {
    /// What its keys are.
    pub key: Key,
    /// Holds ranges, else single keys.
    pub interval: bool,
    /// What its keys lead to.
    pub data: Data,
}

/// What the keys of a set or map lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Data {
    /// Nothing: a set.
    None,
    /// A map to verdicts.
    Verdict,
    /// A map to an address of a family and a port.
    Destination(Family),
}

impl Data {
    /// Bytes of one value: address and port each fill registers of four.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::None | Self::Verdict => 0,
            Self::Destination(family) => Key::Address(family).len() + 4,
        }
    }
}

impl SetSpec {
    /// A set.
    pub(crate) fn set(key: Key, interval: bool) -> Self {
        Self { key, interval, data: Data::None }
    }

    /// The map type of the dispatch.
    pub(crate) const DISPATCH: Self = Self { key: Key::InterfaceName, interval: false, data: Data::Verdict };

    /// Whether each element counts: those that lead somewhere count the connections that they lead.
    pub(crate) fn counts(self) -> bool {
        matches!(self.data, Data::Destination(_))
    }

    /// A map of published ports, by address too or only by protocol and port.
    pub(crate) fn published(family: Family, exact: bool) -> Self {
        let key = if exact { Key::PortMember(family) } else { Key::ProtocolPort };
        Self { key, interval: false, data: Data::Destination(family) }
    }
}
