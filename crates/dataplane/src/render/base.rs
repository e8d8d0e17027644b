//! The chains that are always there.

use std::net::Ipv4Addr;

use calico_policy::instruction::HostAction;
use ipnet::{IpNet, Ipv4Net};

use crate::{
    Options,
    family::Family,
    name::Direction,
    ruleset::{Action, Base, Chain, End, Hook, Interface, Match, Rule},
};

/// Map: interface that a packet came in by → the chain of its endpoint's egress rules.
pub(crate) const WL_FROM: &str = "wl-from";
/// Map: interface that a packet leaves by → the chain of its endpoint's ingress rules.
pub(crate) const WL_TO: &str = "wl-to";
/// Set: all pools.
pub(crate) const POOLS_SET: &str = "pools";
/// Set: pools whose traffic to outside all pools is masqueraded.
pub(crate) const MASQUERADE_SET: &str = "masq";

const DISPATCH_FROM: &str = "d-wl-from";
const DISPATCH_TO: &str = "d-wl-to";
const TO_HOST: &str = "wl-to-host";

/// One of the chains that are always there, or while a setting asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum BaseChain {
    /// By incoming interface to the endpoint's egress chain.
    DispatchFrom,
    /// By outgoing interface to the endpoint's ingress chain.
    DispatchTo,
    /// From a workload to its own host.
    WorkloadToHost,
    /// Marks, spoofing, the host's loopback.
    RawPrerouting,
    /// To the host.
    Input,
    /// Through the host.
    Forward,
    /// The mark for other tables' FORWARD chains.
    ForwardMark,
    /// The mark for other tables' INPUT chains.
    InputMark,
    /// Masquerade.
    NatPostrouting,
}

impl BaseChain {
    /// The chains that must be there under these settings.
    pub(crate) fn wanted(host_action: HostAction, masquerade: bool) -> Vec<Self> {
        let mut chains = vec![
            Self::DispatchFrom,
            Self::DispatchTo,
            Self::WorkloadToHost,
            Self::RawPrerouting,
            Self::Input,
            Self::Forward,
            Self::ForwardMark,
        ];
        chains.extend((host_action == HostAction::Accept).then_some(Self::InputMark));
        chains.extend(masquerade.then_some(Self::NatPostrouting));
        chains
    }

    /// Renders it.
    pub(crate) fn render(self, family: Family, host_action: HostAction, options: &Options) -> Chain {
        let filter = |hook, priority| Some(Base { nat: false, hook, priority });
        let workload = |interface| Match::InterfacePrefix(interface, options.interface_prefix.clone());
        let (name, base, rules) = match self {
            Self::DispatchFrom => (DISPATCH_FROM, None, dispatch(Interface::Incoming, options)),
            Self::DispatchTo => (DISPATCH_TO, None, dispatch(Interface::Outgoing, options)),
            Self::WorkloadToHost => (TO_HOST, None, to_host(family, host_action)),
            Self::RawPrerouting => {
                let spoofed = Rule::new(vec![workload(Interface::Incoming), Match::Spoofed], vec![Action::Drop]);
                let clear = Rule::new(Vec::new(), vec![Action::ClearMark(options.marks())]);
                let mut rules = vec![clear, spoofed.counted("spoofed source address")];
                // The kernel itself refuses this for ::1.
                rules.extend((family == Family::V4).then(|| to_loopback(workload(Interface::Incoming))));
                ("raw-pre", filter(Hook::Prerouting, -300), rules)
            }
            Self::Input => {
                let goto = Rule::new(vec![workload(Interface::Incoming)], vec![Action::Goto(TO_HOST.to_owned())]);
                ("f-input", filter(Hook::Input, -5), vec![goto])
            }
            Self::Forward => {
                let from = Rule::new(vec![workload(Interface::Incoming)], vec![Action::Jump(DISPATCH_FROM.to_owned())]);
                let to = Rule::new(vec![workload(Interface::Outgoing)], vec![Action::Jump(DISPATCH_TO.to_owned())]);
                ("f-forward", filter(Hook::Forward, -5), vec![from, to])
            }
            Self::ForwardMark => {
                let mark = |interface| Rule::new(vec![workload(interface)], vec![Action::SetMark(options.mark_accept)]);
                let rules = vec![mark(Interface::Incoming), mark(Interface::Outgoing)];
                ("f-forward-mark", filter(Hook::Forward, -1), rules)
            }
            Self::InputMark => {
                let mark = Rule::new(vec![workload(Interface::Incoming)], vec![Action::SetMark(options.mark_accept)]);
                ("f-input-mark", filter(Hook::Input, -1), vec![mark])
            }
            Self::NatPostrouting => {
                // After 100, where Docker and kube-proxy do their source NAT: theirs is more specific.
                let base = Some(Base { nat: true, hook: Hook::Postrouting, priority: 110 });
                ("nat-post", base, vec![masquerade(family)])
            }
        };
        Chain { name: name.to_owned(), base, comment: None, rules }
    }
}

/// Workload interfaces have `route_localnet`, so that the host's owner can lead connections to 127.0.0.1 by DNAT. That
/// would also let a workload address the host's loopback itself, and whatever listens there because only the host can
/// reach it. Before any DNAT a packet with such a destination is never one that the owner led there.
fn to_loopback(workload: Match) -> Rule {
    let loopback = IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
    let matches = vec![workload, Match::Net { end: End::Destination, net: loopback, negated: false }];
    Rule::new(matches, vec![Action::Drop]).counted("to the host's loopback")
}

/// Marks off, the endpoint's chain by the map, and what was not accepted there is dropped: also that of an interface
/// which is not in the map.
fn dispatch(interface: Interface, options: &Options) -> Vec<Rule> {
    let (map, direction) = match interface {
        Interface::Incoming => (WL_FROM, Direction::Egress),
        Interface::Outgoing => (WL_TO, Direction::Ingress),
    };
    let not_accepted = Match::Mark { mask: options.mark_accept, value: 0 };
    vec![
        Rule::new(Vec::new(), vec![Action::ClearMark(options.marks())]),
        Rule::new(Vec::new(), vec![Action::Dispatch(interface, map.to_owned())]),
        Rule::new(vec![not_accepted], vec![Action::Drop])
            .counted(format!("{}: workload interface without endpoint", direction.word())),
    ]
}

/// Without neighbour discovery and multicast listener reports no IPv6 at all, so they come before policy: types 130
/// to 133, 135 and 136. Router advertisements (134) are not for a workload to send.
fn to_host(family: Family, host_action: HostAction) -> Vec<Rule> {
    let mut rules = Vec::new();
    if family == Family::V6 {
        for (first, last) in [(130, 133), (135, 136)] {
            let icmp = Match::Protocol { number: family.icmp(), negated: false };
            rules.push(Rule::new(vec![icmp, Match::IcmpTypes(first, last)], vec![Action::Accept]));
        }
    }
    rules.push(Rule::new(Vec::new(), vec![Action::Jump(DISPATCH_FROM.to_owned())]));
    match host_action {
        HostAction::Drop => {
            rules
                .push(Rule::new(Vec::new(), vec![Action::Drop]).counted("workload to host, endpointToHostAction Drop"));
        }
        HostAction::Accept => rules.push(Rule::new(Vec::new(), vec![Action::Accept])),
        HostAction::Return => {}
    }
    rules
}

fn masquerade(family: Family) -> Rule {
    let member = |end, set: &str, negated| Match::AddressSet { family, end, set: set.to_owned(), negated };
    let matches = vec![member(End::Source, MASQUERADE_SET, false), member(End::Destination, POOLS_SET, true)];
    Rule::new(matches, vec![Action::Masquerade { ports: None }]).counted("from a pool to outside all pools")
}
