//! What host endpoints have in common: ports that are always open, and what keeps IPv6 alive.

use std::collections::BTreeMap;

use calico_policy::instruction::FailsafePort;
use ipnet::IpNet;

use super::{
    Facts, HostList,
    rule::{Literals, literal_ports},
};
use crate::{
    Options,
    family::Family,
    ruleset::{Action, End, Match, Rule},
};

/// The chain of neighbour discovery.
pub(super) const NEIGHBOURS: &str = "nd";

/// Ports that no policy closes, by place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Failsafe {
    /// To the host.
    In,
    /// From the host.
    Out,
    /// To the host before connection tracking: answers to what it may always reach as well.
    RawIn,
    /// From the host before connection tracking: answers from its own ports as well.
    RawOut,
}

impl Failsafe {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::In, Self::Out, Self::RawIn, Self::RawOut];

    /// The chain.
    pub(super) fn chain_name(self) -> &'static str {
        match self {
            Self::In => "fs-in",
            Self::Out => "fs-out",
            Self::RawIn => "fs-raw-in",
            Self::RawOut => "fs-raw-out",
        }
    }

    /// Some chain calls it.
    pub(super) fn is_wanted(self, facts: &Facts) -> bool {
        HostList::ALL.into_iter().any(|list| facts.judges(list) && list.failsafe() == Some(self))
    }

    /// Accept ends the base chain: policy of the same place does not see the packet. Later places have the same ports.
    pub(super) fn rules(self, family: Family, facts: &Facts, literals: &mut Literals) -> Vec<Rule> {
        let settings = &facts.settings;
        let (inbound, outbound) = (&settings.failsafe_inbound, &settings.failsafe_outbound);
        let (to, from) = (End::Destination, End::Source);
        match self {
            Self::In => open(family, inbound, to, from, literals),
            Self::Out => open(family, outbound, to, to, literals),
            Self::RawIn => {
                let mut rules = open(family, inbound, to, from, literals);
                rules.extend(open(family, outbound, from, from, literals));
                rules
            }
            Self::RawOut => {
                let mut rules = open(family, outbound, to, to, literals);
                rules.extend(open(family, inbound, from, to, literals));
                rules
            }
        }
    }
}

/// One rule for each protocol and network. `port` says which port, `other` where the other end is.
fn open(family: Family, list: &[FailsafePort], port: End, other: End, literals: &mut Literals) -> Vec<Rule> {
    type Ports = Vec<(u16, u16)>;
    let mut groups: BTreeMap<(Option<IpNet>, u8), Ports> = BTreeMap::new();
    for FailsafePort { protocol, port, net } in list {
        if net.is_none_or(|net| Family::of(&net) == family) {
            groups.entry((*net, *protocol)).or_default().push((*port, *port));
        }
    }
    let mut rules = Vec::new();
    for ((net, number), ports) in groups {
        let mut matches = vec![Match::Protocol { number, negated: false }];
        matches.extend(literal_ports(port, &ports, false, literals).unwrap_or_default());
        let net = net.filter(|net| net.prefix_len() > 0);
        matches.extend(net.map(|net| Match::Net { end: other, net: net.trunc(), negated: false }));
        rules.push(Rule::new(matches, vec![Action::Accept]).counted("failsafe port"));
    }
    rules
}

/// Whether a chain of neighbour discovery is needed.
pub(super) fn needs_neighbours(family: Family, facts: &Facts) -> bool {
    let lists = [HostList::UntrackedIn, HostList::UntrackedOut, HostList::PreDnat, HostList::In, HostList::Out];
    family == Family::V6 && lists.into_iter().any(|list| facts.judges(list))
}

/// The types of ICMPv6 without which a host has no IPv6 on a link: multicast listener discovery, router and neighbour
/// discovery.
pub(super) fn neighbours() -> Vec<Rule> {
    let types = |(first, last)| Rule::new(vec![Match::IcmpTypes(first, last)], vec![Action::Accept]);
    [(130, 136), (143, 143)].map(types).to_vec()
}

/// To [`neighbours`], from a place where all packets are the host's own.
pub(super) fn jump_neighbours(family: Family) -> Vec<Rule> {
    match family {
        Family::V4 => Vec::new(),
        Family::V6 => vec![Rule::new(vec![icmp()], vec![Action::Jump(NEIGHBOURS.to_owned())])],
    }
}

/// To [`neighbours`], from a place that also sees what is going to be forwarded, which these types never are.
pub(super) fn jump_neighbours_to_here(family: Family) -> Vec<Rule> {
    if family == Family::V4 {
        return Vec::new();
    }
    let to = |net: &str| Match::Net { end: End::Destination, net: net.parse().expect("a network"), negated: false };
    let here = [to("ff00::/8"), to("fe80::/10"), Match::LocalDestination];
    here.map(|here| Rule::new(vec![icmp(), here], vec![Action::Jump(NEIGHBOURS.to_owned())])).to_vec()
}

fn icmp() -> Match {
    Match::Protocol { number: Family::V6.icmp(), negated: false }
}

/// Marks off, the interface's chain by the map, else that of `*`. A map element is a goto, so what it led to comes
/// back to the caller and not to the rule of `*`.
pub(super) fn dispatch(list: HostList, family: Family, facts: &Facts, options: &Options) -> Vec<Rule> {
    let mut rules = vec![
        Rule::new(Vec::new(), vec![Action::ClearMark(options.marks())]),
        Rule::new(Vec::new(), vec![Action::Dispatch(list.interface(), list.map().to_owned())]),
    ];
    if let Some(Some(chains)) = facts.lists.get(&list) {
        rules.push(Rule::new(Vec::new(), vec![Action::Goto(chains[family.index()].clone())]));
    }
    rules
}
