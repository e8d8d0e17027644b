//! One rule of the dataplane as rules of iptables.
//!
//! A rule of iptables has one protocol, one network per end, one target, and no "or". What needs more becomes several
//! rules: one per alternative where each alternative decides by itself, and otherwise a block: a mark bit of our own,
//! the scratch bit, is set if the conditions hold, taken away again by each that must not hold, and what then has it
//! gets the consequences.
//!
//! What cannot be said at all is no reason to leave a rule out, which might open something: it drops everything that
//! gets there. None of the rules that the dataplane renders is of that kind.

use std::collections::BTreeSet;

use calico_policy::instruction::PublishedPort;
use ipnet::IpNet;

use super::{
    dispatch::{self, quoted},
    layout::Table,
    name,
    words::{all_but, chunks, ct_states, icmp, limit, multiport, not, protocol, side},
};
use crate::{
    Options,
    family::{Family, Range, net_range},
    ruleset::{Action, Base, CT_ESTABLISHED_RELATED, End, Hook, Match, Rule},
};

/// Longest log prefix of iptables.
const LOG_PREFIX: usize = 29;
/// The log level that the field's tools expect: notice.
const LOG_LEVEL: &str = "5";
/// Lists of ports that one rule can hold. `iptables-restore` takes 255 words a rule, and a list is five.
const MOST_LISTS: usize = 4;
/// The protocols of which policy knows ports: TCP, UDP, SCTP.
const PORT_PROTOCOLS: [u8; 3] = [6, 17, 132];

/// What a rule's text depends on beside the rule itself.
pub(super) trait Surroundings {
    /// The family of the tables.
    fn family(&self) -> Family;
    /// The iptables table that the rule goes to.
    fn table(&self) -> Table;
    /// Set if the rule is in a base chain, which nothing calls but the chain that lists the base chains.
    fn base(&self) -> Option<Base>;
    /// Packets that policy allowed are left to others' rules too.
    fn return_allowed(&self) -> bool;
    /// Which mark bits are ours.
    fn options(&self) -> &Options;
    /// What a set of ports or protocols holds.
    fn ranges(&self, set: &str) -> Option<&BTreeSet<Range>>;
    /// What a map of published ports holds.
    fn published(&self, map: &str) -> Option<&BTreeSet<PublishedPort>>;
    /// A set's name in ipset; `None` if there is no such set.
    fn set_name(&self, set: &str) -> Option<String>;
    /// The rules in place of a question to a map: conditions, then `-j chain` or `-g chain`.
    fn dispatch(&self, interface: crate::ruleset::Interface, map: &str) -> Vec<(String, String)>;
}

/// A rule of iptables without its comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lowered {
    /// Conditions.
    pub conditions: String,
    /// `-j …` or `-g …`; empty for a rule that only counts.
    pub target: String,
    /// Each packet that the dataplane's rule is about meets one of those with this, and no other packet does.
    pub counts: bool,
}

/// The scratch bit: next to the dataplane's own.
pub(super) fn scratch(options: &Options) -> u32 {
    let ours = options.all_marks();
    match ours.leading_zeros() {
        0 => 1 << (ours.trailing_zeros().saturating_sub(1)),
        zeros => 1 << (32 - zeros),
    }
}

/// The rules of iptables that do what a rule of the dataplane does.
pub(super) fn lower(rule: &Rule, around: &dyn Surroundings) -> Vec<Lowered> {
    let mut conditions = Conditions::new();
    for condition in &rule.matches {
        if conditions.add(condition, around).is_none() {
            tracing::error!(?condition, "iptables cannot express this; everything that gets to the rule is dropped");
            return vec![Lowered { conditions: String::new(), target: "-j DROP".to_owned(), counts: true }];
        }
    }
    let Some(conditions) = conditions.resolve(around.family()) else { return Vec::new() };
    let mut steps = Vec::new();
    for action in &rule.actions {
        steps.extend(targets(action, rule, around));
    }
    if rule.actions.is_empty() {
        steps.push(Step::plain(String::new()));
    }
    let counts_apart = conditions.alternatives.len() > 1 || steps.len() > 1;
    let block = !conditions.none_of.is_empty() || (!conditions.stateful.is_empty() && counts_apart);
    if block { in_a_block(&conditions, &steps, around) } else { in_place(&conditions, &steps, around) }
}

/// One target, and what it needs to hold beside the rule's conditions.
#[derive(Clone, Debug)]
struct Step {
    conditions: String,
    target: String,
    /// These bits are set by it, and were not before.
    marks: u32,
}

impl Step {
    fn plain(target: String) -> Self {
        Self { conditions: String::new(), target, marks: 0 }
    }
}

/// Each alternative with each target. What follows after the bits of a verdict were set only asks for these: in a
/// chain that sets them no packet has them already, because with one of them it would not be there.
fn in_place(conditions: &Resolved, steps: &[Step], around: &dyn Surroundings) -> Vec<Lowered> {
    let mut lowered = Vec::new();
    let mut marked = 0;
    let verdict = if around.base().is_some() { 0 } else { around.options().marks() };
    for (at, step) in steps.iter().enumerate() {
        if marked != 0 {
            let conditions = join(&[&has(marked, marked), &step.conditions]);
            lowered.push(Lowered { conditions, target: step.target.clone(), counts: at == 0 });
        } else {
            lowered.extend(conditions.alternatives.iter().map(|alternative| {
                // One protocol to a rule; that of a target is the one that has been checked.
                let again = step.conditions.starts_with("-p ") && alternative.starts_with("-p ");
                let extra = if again { "" } else { &step.conditions };
                let conditions = join(&[alternative, extra, &conditions.stateful]);
                Lowered { conditions, target: step.target.clone(), counts: at == 0 }
            }));
        }
        marked |= step.marks & verdict;
    }
    lowered
}

/// The scratch bit collects what holds. What counts packets must see each that it is to count once, and no other.
fn in_a_block(conditions: &Resolved, steps: &[Step], around: &dyn Surroundings) -> Vec<Lowered> {
    let bit = scratch(around.options());
    let is_set = has(bit, bit);
    let mark = |value: u32| format!("-j MARK --set-xmark {value:#x}/{bit:#x}");
    let aside = |conditions, target| Lowered { conditions, target, counts: false };
    let mut lowered = vec![aside(String::new(), mark(0))];
    let (first, last) = match conditions.alternatives.as_slice() {
        [_] => (conditions.stateful.as_str(), ""),
        _ => ("", conditions.stateful.as_str()),
    };
    for alternative in &conditions.alternatives {
        lowered.push(aside(join(&[alternative, first]), mark(bit)));
    }
    for excluded in &conditions.none_of {
        lowered.push(aside(join(&[&is_set, excluded]), mark(0)));
    }
    for (at, step) in steps.iter().enumerate() {
        let conditions = join(&[&is_set, &step.conditions, last]);
        lowered.push(Lowered { conditions, target: step.target.clone(), counts: at == 0 });
    }
    lowered
}

fn join(parts: &[&str]) -> String {
    parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

fn has(mask: u32, value: u32) -> String {
    format!("-m mark --mark {value:#x}/{mask:#x}")
}

/// Conditions while they are collected.
struct Conditions {
    /// Protocols that are allowed; `None` is all.
    allowed: Option<BTreeSet<u8>>,
    /// Protocols that are not.
    denied: BTreeSet<u8>,
    /// All of these.
    all_of: Vec<String>,
    /// One of each of these.
    one_of: Vec<Vec<String>>,
    /// None of these.
    none_of: Vec<String>,
    /// Ends that have their one network already.
    netted: Vec<End>,
    /// What counts the packets that it sees, and so must come after all others.
    stateful: Vec<String>,
    /// Ports are looked at. An earlier chain has checked that there are some, but each rule must say so itself.
    has_ports: bool,
    /// Lists of ports of which the packet is in none, still without the protocol that each must name.
    other_ports: Vec<String>,
    /// There is a list of alternatives that is longer than a rule.
    has_long_list: bool,
}

/// Conditions as iptables can take them.
struct Resolved {
    alternatives: Vec<String>,
    none_of: Vec<String>,
    stateful: String,
}

impl Conditions {
    fn new() -> Self {
        Self {
            allowed: None,
            denied: BTreeSet::new(),
            all_of: Vec::new(),
            one_of: Vec::new(),
            none_of: Vec::new(),
            netted: Vec::new(),
            stateful: Vec::new(),
            has_ports: false,
            other_ports: Vec::new(),
            has_long_list: false,
        }
    }

    fn protocols(&mut self, protocols: BTreeSet<u8>, negated: bool) {
        match (&mut self.allowed, negated) {
            (_, true) => self.denied.extend(protocols),
            (Some(allowed), false) => allowed.retain(|number| protocols.contains(number)),
            (allowed @ None, false) => *allowed = Some(protocols),
        }
    }

    /// `None` if iptables cannot express it.
    fn add(&mut self, condition: &Match, around: &dyn Surroundings) -> Option<()> {
        let in_set = |set: &str, flags: &str, negated: bool| {
            Some(format!("-m set {}--match-set {} {flags}", not(negated), around.set_name(set)?))
        };
        let word = match condition {
            Match::InterfacePrefix(interface, prefix) => dispatch::prefix_condition(*interface, prefix),
            Match::InterfaceName(interface, name) => dispatch::condition(*interface, name.as_str())?,
            Match::Protocol { number, negated } => {
                self.protocols(BTreeSet::from([*number]), *negated);
                return Some(());
            }
            Match::ProtocolSet { set, negated } => {
                let numbers = around.ranges(set)?.iter().flat_map(|(first, last)| *first as u8..=*last as u8);
                self.protocols(numbers.collect(), *negated);
                return Some(());
            }
            Match::IcmpTypes(first, last) => {
                self.protocols(BTreeSet::from([around.family().icmp()]), false);
                self.one_of.push((*first..=*last).map(|number| icmp(around.family(), number, None, false)).collect());
                return Some(());
            }
            Match::Icmp { icmp_type, code, negated } => {
                self.protocols(BTreeSet::from([around.family().icmp()]), false);
                icmp(around.family(), *icmp_type, *code, *negated)
            }
            Match::Net { end, net, negated } => self.net(*end, net, *negated),
            Match::AddressSet { end, set, negated, .. } => in_set(set, side(*end), *negated)?,
            Match::Port { end, range, negated } => {
                self.ports(*end, &[*range], *negated);
                return Some(());
            }
            Match::PortSet { end, set, negated } => {
                let ports: Vec<(u16, u16)> =
                    around.ranges(set)?.iter().map(|(first, last)| (*first as u16, *last as u16)).collect();
                self.ports(*end, &ports, *negated);
                return Some(());
            }
            Match::PortMemberSet { end, set, negated, .. } => in_set(set, &format!("{0},{0}", side(*end)), *negated)?,
            Match::CtState(bits) => format!("-m conntrack --ctstate {}", ct_states(*bits)?),
            Match::DestinationTranslated => "-m conntrack --ctstate DNAT".to_owned(),
            Match::Mark { mask, value } => has(*mask, *value),
            Match::MarkAny(bits) => format!("-m mark ! --mark 0x0/{bits:#x}"),
            Match::LocalDestination => "-m addrtype --dst-type LOCAL".to_owned(),
            Match::Rate { over, packets, unit, burst } => {
                let within = limit(*packets, *unit, *burst);
                // xt_limit only knows "within".
                if *over {
                    self.none_of.push(within)
                } else {
                    self.stateful.push(within)
                }
                return Some(());
            }
            Match::ConnectionsOver(most) => {
                self.stateful.push(format!("-m connlimit --connlimit-above {most} --connlimit-mask 0"));
                return Some(());
            }
            Match::ToItself { family, set } => {
                let own = around.ranges(set)?.iter().map(|(address, _)| family.address(*address));
                self.one_of.push(own.map(|address| format!("-s {address} -d {address}")).collect());
                return Some(());
            }
            Match::Spoofed => "-m rpfilter --validmark --invert".to_owned(),
        };
        self.all_of.push(word);
        Some(())
    }

    /// In one list after the other, or in none of them. What does not fit a rule is asked the other way round: the packet
    /// must be in none of the lists of all other ports. That takes a rule for each list, where the alternatives of a
    /// second long list would be multiplied by those of the first.
    fn ports(&mut self, end: End, ports: &[(u16, u16)], negated: bool) {
        self.has_ports = true;
        let lists = |ports: &[(u16, u16)], negated| -> Vec<String> {
            chunks(ports).map(|list| multiport(end, list, negated)).collect()
        };
        let is_long = chunks(ports).nth(MOST_LISTS).is_some();
        match negated {
            true if is_long => self.other_ports.extend(lists(ports, false)),
            true => self.all_of.extend(lists(ports, true)),
            false if is_long && self.has_long_list => self.other_ports.extend(lists(&all_but(ports), false)),
            false => {
                self.has_long_list |= is_long;
                self.one_of.push(lists(ports, false));
            }
        }
    }

    fn net(&mut self, end: End, net: &IpNet, negated: bool) -> String {
        let negation = not(negated);
        if !self.netted.contains(&end) {
            self.netted.push(end);
            let option = if end == End::Source { "-s" } else { "-d" };
            return format!("{negation}{option} {net}");
        }
        // A second network of one end needs another kind of condition.
        let family = Family::of(net);
        let (first, last) = net_range(net);
        let range = format!("{}-{}", family.address(first), family.address(last));
        format!("-m iprange {negation}--{}-range {range}", side(end))
    }

    /// Puts the alternatives together; `None` if they can never hold.
    fn resolve(mut self, family: Family) -> Option<Resolved> {
        if self.has_ports && self.allowed.is_none() {
            self.allowed = Some(BTreeSet::from(PORT_PROTOCOLS));
        }
        let mut none_of = std::mem::take(&mut self.none_of);
        let protocols = self.resolve_protocols(family, &mut none_of);
        for protocol in &protocols {
            none_of.extend(self.other_ports.iter().map(|list| format!("{protocol} {list}")));
        }
        if protocols.is_empty() || self.one_of.iter().any(Vec::is_empty) {
            return None;
        }
        let mut alternatives: Vec<Vec<&str>> =
            protocols.iter().map(|word| if word.is_empty() { Vec::new() } else { vec![word.as_str()] }).collect();
        for alternative in &mut alternatives {
            alternative.extend(self.all_of.iter().map(String::as_str));
        }
        for one_of in &self.one_of {
            let mut longer = Vec::with_capacity(alternatives.len() * one_of.len());
            for alternative in &alternatives {
                longer.extend(one_of.iter().map(|word| [alternative.as_slice(), &[word.as_str()]].concat()));
            }
            alternatives = longer;
        }
        let alternatives = alternatives.into_iter().map(|words| words.join(" ")).collect();
        Some(Resolved { alternatives, none_of, stateful: self.stateful.join(" ") })
    }

    /// The conditions on the protocol, one per alternative; one that is empty holds always.
    fn resolve_protocols(&self, family: Family, none_of: &mut Vec<String>) -> Vec<String> {
        if let Some(allowed) = &self.allowed {
            return allowed.difference(&self.denied).filter_map(|number| protocol(family, *number)).collect();
        }
        let denied: Vec<String> = self.denied.iter().filter_map(|number| protocol(family, *number)).collect();
        match denied.as_slice() {
            [] => vec![String::new()],
            [only] if only.starts_with("-p ") => vec![format!("! {only}")],
            _ => {
                none_of.extend(denied);
                vec![String::new()]
            }
        }
    }
}

/// The targets of an action, in order.
fn targets(action: &Action, rule: &Rule, around: &dyn Surroundings) -> Vec<Step> {
    let accept = around.options().mark_accept;
    let plain = |target: String| vec![Step::plain(target)];
    match action {
        Action::Accept if is_left_to_others(around) => plain("-j RETURN".to_owned()),
        // Its callers let it go on if it looks as what policy allowed.
        Action::Accept if around.return_allowed() && around.table() == Table::Filter && is_for_established(rule) => {
            let mark = Step { conditions: String::new(), target: set_mark(accept, accept), marks: accept };
            vec![mark, Step::plain("-j RETURN".to_owned())]
        }
        Action::Accept => plain("-j ACCEPT".to_owned()),
        Action::Drop => plain("-j DROP".to_owned()),
        Action::Return => plain("-j RETURN".to_owned()),
        Action::Jump(chain) => plain(format!("-j {}", name::chain(chain))),
        Action::Goto(chain) => plain(format!("-g {}", name::chain(chain))),
        Action::Dispatch(interface, map) => around
            .dispatch(*interface, map)
            .into_iter()
            .map(|(conditions, target)| Step { conditions, target, marks: 0 })
            .collect(),
        Action::SetMark(bits) => vec![Step { conditions: String::new(), target: set_mark(*bits, *bits), marks: *bits }],
        Action::ClearMark(bits) => plain(set_mark(0, *bits)),
        Action::Log(prefix) => {
            let mut prefix = prefix.clone();
            while prefix.len() > LOG_PREFIX {
                prefix.pop();
            }
            plain(format!("-j LOG --log-prefix {} --log-level {LOG_LEVEL}", quoted(&prefix)))
        }
        Action::Masquerade { ports } => {
            let ports = ports.map(|(first, last)| format!(" --to-ports {first}-{last}")).unwrap_or_default();
            plain(format!("-j MASQUERADE{ports} --random-fully"))
        }
        Action::SourceNat { to, ports } => {
            let to = match (to, ports) {
                (to, None) => to.to_string(),
                (std::net::IpAddr::V4(to), Some((first, last))) => format!("{to}:{first}-{last}"),
                (std::net::IpAddr::V6(to), Some((first, last))) => format!("[{to}]:{first}-{last}"),
            };
            plain(format!("-j SNAT --to-source {to} --random-fully"))
        }
        Action::DestinationNat(to) => plain(format!("-j DNAT --to-destination {to}")),
        Action::DestinationNatBy { map, exact, .. } => {
            let ports = around.published(map).into_iter().flatten();
            ports.filter_map(|port| published(around.family(), port, *exact)).collect()
        }
        Action::NoTrack => plain("-j CT --notrack".to_owned()),
        // An error can only be sent from the filter table.
        Action::Reject(_) | Action::ResetTcp if around.table() != Table::Filter => plain("-j DROP".to_owned()),
        Action::Reject(Family::V4) => plain("-j REJECT --reject-with icmp-port-unreachable".to_owned()),
        Action::Reject(Family::V6) => plain("-j REJECT --reject-with icmp6-port-unreachable".to_owned()),
        Action::ResetTcp => {
            let target = "-j REJECT --reject-with tcp-reset".to_owned();
            vec![Step { conditions: "-p tcp".to_owned(), target, marks: 0 }]
        }
        Action::SetDscp(_, value) => plain(format!("-j DSCP --set-dscp {value:#04x}")),
    }
}

/// One published port.
fn published(family: Family, port: &PublishedPort, exact: bool) -> Option<Step> {
    let at = if exact { format!(" -d {}", port.host) } else { String::new() };
    let ports = multiport(End::Destination, &[(port.host_port, port.host_port)], false);
    let conditions = format!("{}{at} {ports}", protocol(family, port.protocol)?);
    let to = std::net::SocketAddr::new(port.address, port.port);
    Some(Step { conditions, target: format!("-j DNAT --to-destination {to}"), marks: 0 })
}

/// In a base chain acceptance may mean only that we are done: on the way out always, for others' marks and DSCP.
fn is_left_to_others(around: &dyn Surroundings) -> bool {
    around.base().is_some_and(|base| {
        let out = base.hook == Hook::Postrouting && around.table() == Table::Mangle;
        out || (around.return_allowed() && around.table() == Table::Filter)
    })
}

fn is_for_established(rule: &Rule) -> bool {
    rule.matches.contains(&Match::CtState(CT_ESTABLISHED_RELATED))
}

fn set_mark(value: u32, mask: u32) -> String {
    format!("-j MARK --set-xmark {value:#x}/{mask:#x}")
}

#[cfg(test)]
mod tests;
