//! The chains that are always there, or while a setting or a host endpoint asks for them.

use std::net::{Ipv4Addr, Ipv6Addr};

use calico_policy::instruction::{HostAction, NatOutgoing, ServiceLoop};
use ipnet::{IpNet, Ipv4Net};

use super::{
    Deny, Facts, Failsafe, HOSTS_SET, HostList, MASQUERADE_SET, Map, POOLS_SET, PUBLISHED_AT_MAP, PUBLISHED_MAP,
    PUBLISHED_SELF_SET,
    endpoint::{TCP, UDP},
    host,
    rule::{Literals, literal_addresses},
};
use crate::{
    Options,
    family::Family,
    ifname::IfName,
    name::Direction,
    ruleset::{Action, Base, Chain, End, Hook, Interface, Match, Rule},
};

const DISPATCH_FROM: &str = "d-wl-from";
const DISPATCH_TO: &str = "d-wl-to";
const TO_HOST: &str = "wl-to-host";
const ANTI_SPOOF: &str = "wl-antispoof";
const FLOATING: &str = "fip-dnat";
const PUBLISHED: &str = super::PUBLISHED_CHAIN;
const PUBLISHED_BACK: &str = "published-back";

/// One of the chains that are always there, or while something asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum BaseChain {
    /// By incoming interface to the endpoint's egress chain.
    DispatchFrom,
    /// By outgoing interface to the endpoint's ingress chain.
    DispatchTo,
    /// By interface to the host endpoint's chain.
    DispatchHost(HostList),
    /// Ports that are always open.
    Failsafe(Failsafe),
    /// Neighbour discovery.
    Neighbours,
    /// Source addresses of workloads, the host's loopback.
    AntiSpoof,
    /// From a workload to its own host.
    WorkloadToHost,
    /// Floating IPs.
    Floating,
    /// Published ports.
    Published,
    /// Who must not see its own address, or the host's loopback, as the source of what a published port led to it.
    PublishedBack,
    /// Marks, workloads' sources, untracked policy.
    RawPrerouting,
    /// Untracked policy.
    RawOutput,
    /// Policy before destination NAT.
    ManglePrerouting,
    /// Destination NAT of what comes in.
    NatPrerouting,
    /// Destination NAT of what the host makes.
    NatOutput,
    /// To the host.
    Input,
    /// Through the host.
    Forward,
    /// From the host.
    Output,
    /// The mark for other tables' FORWARD chains.
    ForwardMark,
    /// The mark for other tables' INPUT chains.
    InputMark,
    /// From the host after destination NAT; DSCP.
    ManglePostrouting,
    /// Source NAT.
    NatPostrouting,
}

impl BaseChain {
    /// The chains that must be there.
    pub(crate) fn wanted(family: Family, facts: &Facts) -> Vec<Self> {
        let mut chains = vec![
            Self::DispatchFrom,
            Self::DispatchTo,
            Self::AntiSpoof,
            Self::WorkloadToHost,
            Self::RawPrerouting,
            Self::Input,
            Self::Forward,
            Self::ForwardMark,
        ];
        let floating = facts.floating.pairs(family).next().is_some();
        let vxlan = facts.settings.vxlan_port.is_some();
        chains.extend(facts.lists.keys().map(|list| list.chain()));
        chains.extend(Failsafe::ALL.into_iter().filter(|failsafe| failsafe.is_wanted(facts)).map(Self::Failsafe));
        let mut want = |chain, wanted: bool| chains.extend(wanted.then_some(chain));
        want(Self::Neighbours, host::needs_neighbours(family, facts));
        want(Self::Floating, floating);
        let published = facts.published[family.index()];
        want(Self::Published, published);
        want(Self::PublishedBack, published);
        want(Self::NatPrerouting, floating || published);
        want(Self::NatOutput, floating || published);
        want(Self::RawOutput, vxlan || facts.judges(HostList::UntrackedOut));
        want(Self::ManglePrerouting, facts.judges(HostList::PreDnat));
        want(Self::Output, facts.judges(HostList::Out));
        want(Self::InputMark, facts.settings.endpoint_to_host == HostAction::Accept);
        want(Self::ManglePostrouting, facts.judges(HostList::TranslatedOut) || !facts.dscp.is_empty());
        want(Self::NatPostrouting, floating || published || facts.masquerade[family.index()]);
        chains
    }

    fn name(self) -> &'static str {
        match self {
            Self::DispatchFrom => DISPATCH_FROM,
            Self::DispatchTo => DISPATCH_TO,
            Self::DispatchHost(list) => list.dispatch(),
            Self::Failsafe(failsafe) => failsafe.chain_name(),
            Self::Neighbours => host::NEIGHBOURS,
            Self::AntiSpoof => ANTI_SPOOF,
            Self::WorkloadToHost => TO_HOST,
            Self::Floating => FLOATING,
            Self::Published => PUBLISHED,
            Self::PublishedBack => PUBLISHED_BACK,
            Self::RawPrerouting => "raw-pre",
            Self::RawOutput => "raw-out",
            Self::ManglePrerouting => "m-pre",
            Self::NatPrerouting => "nat-pre",
            Self::NatOutput => "nat-out",
            Self::Input => "f-input",
            Self::Forward => "f-forward",
            Self::Output => "f-output",
            Self::ForwardMark => "f-forward-mark",
            Self::InputMark => "f-input-mark",
            Self::ManglePostrouting => "m-post",
            Self::NatPostrouting => "nat-post",
        }
    }

    /// Where it is attached. Filter chains run before those of other tables at 0.
    fn base(self) -> Option<Base> {
        let base = |nat, hook, priority| Some(Base { nat, hook, priority });
        match self {
            Self::RawPrerouting => base(false, Hook::Prerouting, -300),
            Self::RawOutput => base(false, Hook::Output, -300),
            Self::ManglePrerouting => base(false, Hook::Prerouting, -150),
            Self::NatPrerouting => base(true, Hook::Prerouting, -100),
            Self::NatOutput => base(true, Hook::Output, -100),
            Self::Input => base(false, Hook::Input, -5),
            Self::Forward => base(false, Hook::Forward, -5),
            Self::Output => base(false, Hook::Output, -5),
            Self::ForwardMark => base(false, Hook::Forward, -1),
            Self::InputMark => base(false, Hook::Input, -1),
            Self::ManglePostrouting => base(false, Hook::Postrouting, -150),
            // After 100, where Docker and kube-proxy do their source NAT: theirs is more specific.
            Self::NatPostrouting => base(true, Hook::Postrouting, 110),
            _ => None,
        }
    }

    /// Renders it.
    pub(crate) fn render(self, family: Family, facts: &Facts, options: &Options, literals: &mut Literals) -> Chain {
        let view = View { family, facts, options };
        let rules = match self {
            Self::DispatchFrom => view.dispatch(Direction::Egress),
            Self::DispatchTo => view.dispatch(Direction::Ingress),
            Self::DispatchHost(list) => host::dispatch(list, family, facts, options),
            Self::Failsafe(failsafe) => failsafe.rules(family, facts, literals),
            Self::Neighbours => host::neighbours(),
            Self::AntiSpoof => view.anti_spoof(),
            Self::WorkloadToHost => view.to_host(),
            Self::Floating => view.floating(),
            Self::Published => view.published(),
            Self::PublishedBack => view.published_back(),
            Self::RawPrerouting => view.raw_prerouting(),
            Self::RawOutput => view.raw_output(),
            Self::ManglePrerouting => view.mangle_prerouting(),
            Self::NatPrerouting => view.destination_nat(true),
            Self::NatOutput => view.destination_nat(false),
            Self::Input => view.input(),
            Self::Forward => view.forward(literals),
            Self::Output => view.output(),
            Self::ForwardMark => view.forward_mark(),
            Self::InputMark => vec![view.mark_workloads(Interface::Incoming)],
            Self::ManglePostrouting => view.mangle_postrouting(literals),
            Self::NatPostrouting => view.nat_postrouting(),
        };
        Chain { name: self.name().to_owned(), base: self.base(), comment: None, rules }
    }
}

/// What base chains are rendered from.
struct View<'a> {
    family: Family,
    facts: &'a Facts,
    options: &'a Options,
}

fn just(action: Action) -> Rule {
    Rule::new(Vec::new(), vec![action])
}

fn protocol(number: u8) -> Match {
    Match::Protocol { number, negated: false }
}

impl View<'_> {
    fn workload(&self, interface: Interface) -> Match {
        Match::InterfacePrefix(interface, self.options.interface_prefix.clone())
    }

    fn mark_workloads(&self, interface: Interface) -> Rule {
        Rule::new(vec![self.workload(interface)], vec![Action::SetMark(self.options.mark_accept)])
    }

    fn accepted(&self) -> Match {
        Match::Mark { mask: self.options.mark_accept, value: self.options.mark_accept }
    }

    fn not_accepted(&self) -> Match {
        Match::Mark { mask: self.options.mark_accept, value: 0 }
    }

    fn deny(&self) -> Action {
        Deny(self.facts.deny()).action(self.family)
    }

    fn member(&self, end: End, set: &str, negated: bool) -> Match {
        Match::AddressSet { family: self.family, end, set: set.to_owned(), negated }
    }

    /// Packets between hosts, to this one: protocol and port of VXLAN.
    fn vxlan(&self) -> Option<Vec<Match>> {
        let port = self.facts.settings.vxlan_port?;
        Some(vec![protocol(UDP), Match::Port { end: End::Destination, range: (port, port), negated: false }])
    }

    /// Looks in a host endpoint map, if any judges there.
    fn judge(&self, list: HostList, matches: Vec<Match>) -> Option<Rule> {
        let jump = Rule::new(matches, vec![Action::Jump(list.dispatch().to_owned())]);
        self.facts.judges(list).then_some(jump)
    }

    /// The two directions of a VXLAN flow have different ports, so connection tracking would only collect entries.
    fn raw_prerouting(&self) -> Vec<Rule> {
        let mut rules = vec![just(Action::ClearMark(self.options.all_marks()))];
        rules.extend(self.vxlan().map(|mut matches| {
            matches.push(Match::LocalDestination);
            Rule::new(matches, vec![Action::NoTrack])
        }));
        rules.push(Rule::new(vec![self.workload(Interface::Incoming)], vec![Action::Goto(ANTI_SPOOF.to_owned())]));
        if let Some(judge) = self.judge(HostList::UntrackedIn, Vec::new()) {
            rules.extend(host::jump_neighbours_to_here(self.family));
            rules.push(judge);
            // Also what is forwarded: its answers are then strangers to connection tracking, and denied as such unless
            // untracked policy of the other side allows them.
            rules.push(Rule::new(vec![self.accepted()], vec![Action::NoTrack]));
        }
        rules
    }

    fn raw_output(&self) -> Vec<Rule> {
        let mut rules = vec![just(Action::ClearMark(self.options.all_marks()))];
        rules.extend(self.vxlan().map(|matches| Rule::new(matches, vec![Action::NoTrack])));
        if let Some(judge) = self.judge(HostList::UntrackedOut, Vec::new()) {
            rules.extend(host::jump_neighbours(self.family));
            rules.push(judge);
            rules.push(Rule::new(vec![self.accepted()], vec![Action::NoTrack]));
        }
        rules
    }

    /// Workload interfaces have `route_localnet`, so that the host's owner can lead connections to 127.0.0.1 by DNAT.
    /// That would also let a workload address the host's loopback itself, and whatever listens there because only the
    /// host can reach it. Before any DNAT a packet with such a destination is never one that the owner led there. The
    /// kernel itself refuses this for ::1.
    fn anti_spoof(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if self.family == Family::V4 {
            let loopback = IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
            let matches = vec![Match::Net { end: End::Destination, net: loopback, negated: false }];
            rules.push(Rule::new(matches, vec![Action::Drop]).counted("to the host's loopback"));
        }
        let mine = self.facts.spoofable.iter().filter(|(_, net)| Family::of(net) == self.family);
        rules.extend(mine.map(|(interface, net): &(IfName, IpNet)| {
            let mut matches = vec![Match::InterfaceName(Interface::Incoming, *interface)];
            let all = net.prefix_len() == 0;
            matches.extend((!all).then_some(Match::Net { end: End::Source, net: *net, negated: false }));
            Rule::new(matches, vec![Action::Return])
        }));
        rules.push(Rule::new(vec![Match::Spoofed], vec![Action::Drop]).counted("spoofed source address"));
        rules
    }

    fn mangle_prerouting(&self) -> Vec<Rule> {
        let mut rules = vec![Rule::new(vec![self.accepted()], vec![Action::Accept])];
        rules.extend(host::jump_neighbours_to_here(self.family));
        rules.extend(self.judge(HostList::PreDnat, Vec::new()));
        rules
    }

    /// Loopback addresses are local to the host, and for nobody else to reach: a packet to 127.0.0.0/8 that comes in
    /// would be dropped for that by the kernel if it were not translated before. What the host sends to ::1 could not
    /// leave it, whatever its settings.
    fn destination_nat(&self, comes_in: bool) -> Vec<Rule> {
        let mut rules = Vec::new();
        if self.facts.floating.pairs(self.family).next().is_some() {
            rules.push(just(Action::Jump(FLOATING.to_owned())));
        }
        if self.facts.published[self.family.index()] {
            let loopback = match self.family {
                Family::V4 => comes_in.then(|| IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8))),
                Family::V6 => Some(IpNet::from(std::net::IpAddr::from(Ipv6Addr::LOCALHOST))),
            };
            let mut matches = vec![Match::LocalDestination];
            matches.extend(loopback.map(|net| Match::Net { end: End::Destination, net, negated: true }));
            rules.push(Rule::new(matches, vec![Action::Jump(PUBLISHED.to_owned())]));
        }
        rules
    }

    /// A port of one address goes before that of all.
    fn published(&self) -> Vec<Rule> {
        let by = |map: &str, exact| Action::DestinationNatBy { family: self.family, map: map.to_owned(), exact };
        vec![just(by(PUBLISHED_AT_MAP, true)), just(by(PUBLISHED_MAP, false))]
    }

    /// No workload takes a packet from its own address, and none can answer one from the host's loopback.
    fn published_back(&self) -> Vec<Rule> {
        let masquerade = || vec![Action::Masquerade { ports: None }];
        let mut rules = Vec::new();
        if self.family == Family::V4 {
            let net = IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
            let from = Match::Net { end: End::Source, net, negated: false };
            rules.push(Rule::new(vec![from], masquerade()).counted("from the host's loopback"));
        }
        let to_itself = Match::ToItself { family: self.family, set: PUBLISHED_SELF_SET.to_owned() };
        rules.push(Rule::new(vec![to_itself], masquerade()).counted("to itself by a port of the host"));
        rules
    }

    fn floating(&self) -> Vec<Rule> {
        let translate = |(external, internal)| {
            let external = Match::Net { end: End::Destination, net: IpNet::from(external), negated: false };
            Rule::new(vec![external], vec![Action::DestinationNat(internal)])
        };
        self.facts.floating.pairs(self.family).map(translate).collect()
    }

    /// What hosts send each other comes first; from workloads policy never comes back.
    fn input(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if let Some(vxlan) = self.vxlan() {
            // A workload is no host, also if it has the address of one.
            let workload = self.workload(Interface::Incoming);
            let host = self.member(End::Source, HOSTS_SET, false);
            for (from, action, comment) in [
                (Some(workload), Action::Drop, "VXLAN, not from a host"),
                (Some(host), Action::Accept, "VXLAN from a host"),
                (None, Action::Drop, "VXLAN, not from a host"),
            ] {
                let here = vxlan.iter().cloned().chain(from).chain([Match::LocalDestination]);
                rules.push(Rule::new(here.collect(), vec![action]).counted(comment));
            }
        }
        rules.push(Rule::new(vec![self.workload(Interface::Incoming)], vec![Action::Goto(TO_HOST.to_owned())]));
        if let Some(judge) = self.judge(HostList::In, Vec::new()) {
            rules.push(Rule::new(vec![self.accepted()], vec![Action::Accept]));
            rules.extend(host::jump_neighbours(self.family));
            rules.push(judge);
        }
        rules
    }

    /// A packet that an earlier place allowed (the mark is still set) is not judged again where it came in.
    fn forward(&self, literals: &mut Literals) -> Vec<Rule> {
        let mut rules = Vec::new();
        if self.facts.judges(HostList::TranslatedOut) {
            rules.push(just(Action::SetMark(self.options.mark_forwarded)));
        }
        rules.extend(self.judge(HostList::ForwardIn, vec![self.not_accepted()]));
        for (interface, chain) in [(Interface::Incoming, DISPATCH_FROM), (Interface::Outgoing, DISPATCH_TO)] {
            rules.push(Rule::new(vec![self.workload(interface)], vec![Action::Jump(chain.to_owned())]));
        }
        rules.extend(self.judge(HostList::ForwardOut, Vec::new()));
        rules.extend(self.service_loop(literals));
        rules
    }

    /// By now real traffic of services has another destination: what is left would go round between here and the
    /// router.
    fn service_loop(&self, literals: &mut Literals) -> Option<Rule> {
        let action = match self.facts.settings.service_loop {
            ServiceLoop::Drop => Action::Drop,
            ServiceLoop::Reject => Action::Reject(self.family),
            ServiceLoop::Disabled => return None,
        };
        let destination =
            literal_addresses(self.family, End::Destination, &self.facts.settings.service_cidrs, literals)?;
        Some(Rule::new(destination, vec![action]).counted("service address that no service has"))
    }

    /// What host endpoints alone allowed is no reason for other tables to let it pass.
    fn forward_mark(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if !self.facts.lists.is_empty() {
            rules.push(just(Action::ClearMark(self.options.mark_accept)));
        }
        rules.extend([Interface::Incoming, Interface::Outgoing].map(|interface| self.mark_workloads(interface)));
        rules
    }

    /// To its own workloads the host is never judged. A packet whose destination was translated still has the old
    /// route here, so it is judged later.
    fn output(&self) -> Vec<Rule> {
        let mut rules = vec![
            Rule::new(vec![self.accepted()], vec![Action::Accept]),
            Rule::new(vec![self.workload(Interface::Outgoing)], vec![Action::Return]),
        ];
        rules.extend(self.vxlan().map(|mut matches| {
            matches.push(self.member(End::Destination, HOSTS_SET, false));
            Rule::new(matches, vec![Action::Accept]).counted("VXLAN to a host")
        }));
        rules.push(Rule::new(vec![Match::DestinationTranslated], vec![Action::Return]));
        rules.extend(host::jump_neighbours(self.family));
        rules.extend(self.judge(HostList::Out, Vec::new()));
        rules
    }

    fn mangle_postrouting(&self, literals: &mut Literals) -> Vec<Rule> {
        let mut rules = Vec::new();
        for (value, sources) in &self.facts.dscp {
            let nets: Vec<IpNet> = sources.iter().copied().map(IpNet::from).collect();
            let Some(mut matches) = literal_addresses(self.family, End::Source, &nets, literals) else { continue };
            matches.extend([POOLS_SET, HOSTS_SET].map(|set| self.member(End::Destination, set, true)));
            rules.push(Rule::new(matches, vec![Action::SetDscp(self.family, *value)]));
        }
        if let Some(judge) = self.judge(HostList::TranslatedOut, vec![Match::DestinationTranslated]) {
            let forwarded = Match::MarkAny(self.options.mark_forwarded | self.options.mark_accept);
            rules.push(Rule::new(vec![forwarded], vec![Action::Return]));
            rules.push(Rule::new(vec![self.workload(Interface::Outgoing)], vec![Action::Return]));
            rules.push(judge);
        }
        rules
    }

    /// A workload that talks to itself by its floating IP must see that address in the answers; then masquerade.
    fn nat_postrouting(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mut by_text: Vec<_> = self.facts.floating.pairs(self.family).collect();
        by_text.sort_by_key(|(external, internal)| (*internal, external.to_string()));
        by_text.dedup_by_key(|(_, internal)| *internal);
        for (external, internal) in by_text {
            let is = |end| Match::Net { end, net: IpNet::from(internal), negated: false };
            let to = Action::SourceNat { to: external, ports: None };
            rules.push(Rule::new(vec![is(End::Source), is(End::Destination)], vec![to]).counted("to itself"));
        }
        if self.facts.published[self.family.index()] {
            let matches = vec![Match::DestinationTranslated, self.workload(Interface::Outgoing)];
            rules.push(Rule::new(matches, vec![Action::Jump(PUBLISHED_BACK.to_owned())]));
        }
        if self.facts.masquerade[self.family.index()] {
            rules.extend(self.masquerade(&self.facts.settings.nat_outgoing));
        }
        rules
    }

    fn masquerade(&self, outgoing: &NatOutgoing) -> Vec<Rule> {
        let mut matches =
            vec![self.member(End::Source, MASQUERADE_SET, false), self.member(End::Destination, POOLS_SET, true)];
        matches.extend(outgoing.exclude_hosts.then(|| self.member(End::Destination, HOSTS_SET, true)));
        if let Some(name) = &outgoing.interface {
            let (prefix, is_prefix) = name.strip_suffix('+').map_or((name.as_str(), false), |prefix| (prefix, true));
            // A name that no interface can have: nothing leaves by it, and no back end takes it.
            match (prefix, IfName::new(prefix)) {
                ("", _) if is_prefix => {}
                (_, None) => return Vec::new(),
                // As long as names can be, so there are none that only start with it.
                (_, Some(name)) if !is_prefix || prefix.len() == IfName::LONGEST => {
                    matches.push(Match::InterfaceName(Interface::Outgoing, name));
                }
                _ => matches.push(Match::InterfacePrefix(Interface::Outgoing, prefix.to_owned())),
            }
        }
        let to = outgoing.address.filter(|_| self.family == Family::V4);
        let action = |ports| match to {
            Some(to) => Action::SourceNat { to: to.into(), ports },
            None => Action::Masquerade { ports },
        };
        let ports = outgoing.ports.map(|(one, other)| (one.min(other), one.max(other)));
        let with_ports = ports.into_iter().flat_map(|ports| [TCP, UDP].map(|number| (number, ports)));
        let mut rules: Vec<Rule> = with_ports
            .map(|(number, ports)| {
                let matches = [vec![protocol(number)], matches.clone()].concat();
                Rule::new(matches, vec![action(Some(ports))]).counted("from a pool to outside all pools")
            })
            .collect();
        rules.push(Rule::new(matches, vec![action(None)]).counted("from a pool to outside all pools"));
        rules
    }

    /// Marks off, the endpoint's chain by the map, and what was not accepted there is dropped: also that of an
    /// interface which is not in the map.
    fn dispatch(&self, direction: Direction) -> Vec<Rule> {
        let interface = match direction {
            Direction::Egress => Interface::Incoming,
            Direction::Ingress => Interface::Outgoing,
        };
        let map = Map::of_workloads(direction).name().to_owned();
        let unknown = format!("{}: workload interface without endpoint", direction.word());
        vec![
            just(Action::ClearMark(self.options.marks())),
            just(Action::Dispatch(interface, map)),
            Rule::new(vec![self.not_accepted()], vec![self.deny()]).counted(unknown),
        ]
    }

    /// Without neighbour discovery and multicast listener reports no IPv6 at all, so they come before policy: types 130
    /// to 133, 135 and 136. Router advertisements (134) are not for a workload to send.
    fn to_host(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if self.family == Family::V6 {
            for (first, last) in [(130, 133), (135, 136)] {
                let matches = vec![protocol(self.family.icmp()), Match::IcmpTypes(first, last)];
                rules.push(Rule::new(matches, vec![Action::Accept]));
            }
        }
        rules.push(just(Action::Jump(DISPATCH_FROM.to_owned())));
        match self.facts.settings.endpoint_to_host {
            // Silent, whatever deny does elsewhere.
            HostAction::Drop => {
                rules.push(just(Action::Drop).counted("workload to host, endpointToHostAction Drop"));
            }
            HostAction::Accept => rules.push(just(Action::Accept)),
            HostAction::Return => {}
        }
        rules
    }
}
