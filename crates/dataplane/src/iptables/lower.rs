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

use ipnet::IpNet;

use super::{
    dispatch::{self, quoted},
    layout::Table,
    name,
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
/// The greatest rate of xt_limit, in packets per second.
const GREATEST_RATE: u64 = 10_000;
/// Greatest burst of xt_limit at its greatest rate.
const GREATEST_BURST: u32 = 10_000;
/// The longest time that xt_limit can count, in seconds: what comes at once must not take longer to earn.
const LONGEST_CREDIT: u64 = 86400;
/// Ports that one list of a rule can hold.
const MULTIPORT_SLOTS: usize = 15;
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
            return vec![Lowered { conditions: String::new(), target: "-j DROP".to_owned() }];
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
    for step in steps {
        if marked != 0 {
            let conditions = join(&[&has(marked, marked), &step.conditions]);
            lowered.push(Lowered { conditions, target: step.target.clone() });
        } else {
            lowered.extend(conditions.alternatives.iter().map(|alternative| {
                // One protocol to a rule; that of a target is the one that has been checked.
                let again = step.conditions.starts_with("-p ") && alternative.starts_with("-p ");
                let extra = if again { "" } else { &step.conditions };
                let conditions = join(&[alternative, extra, &conditions.stateful]);
                Lowered { conditions, target: step.target.clone() }
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
    let mut lowered = vec![Lowered { conditions: String::new(), target: mark(0) }];
    let (first, last) = match conditions.alternatives.as_slice() {
        [_] => (conditions.stateful.as_str(), ""),
        _ => ("", conditions.stateful.as_str()),
    };
    for alternative in &conditions.alternatives {
        lowered.push(Lowered { conditions: join(&[alternative, first]), target: mark(bit) });
    }
    for excluded in &conditions.none_of {
        lowered.push(Lowered { conditions: join(&[&is_set, excluded]), target: mark(0) });
    }
    for step in steps {
        lowered.push(Lowered { conditions: join(&[&is_set, &step.conditions, last]), target: step.target.clone() });
    }
    lowered
}

fn join(parts: &[&str]) -> String {
    parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

fn has(mask: u32, value: u32) -> String {
    format!("-m mark --mark {value:#x}/{mask:#x}")
}

fn not(negated: bool) -> &'static str {
    if negated { "! " } else { "" }
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

/// The condition that the transport protocol is this one; `None` if no packet has it.
fn protocol(family: Family, number: u8) -> Option<String> {
    match (number, family) {
        // For iptables 0 is any. In IPv6 it names an extension header, which is never the last one.
        (0, Family::V4) => Some("-m u32 --u32 6&0xff=0x0".to_owned()),
        (0, Family::V6) => None,
        (1, _) => Some("-p icmp".to_owned()),
        (6, _) => Some("-p tcp".to_owned()),
        (17, _) => Some("-p udp".to_owned()),
        (58, _) => Some("-p ipv6-icmp".to_owned()),
        (132, _) => Some("-p sctp".to_owned()),
        _ => Some(format!("-p {number}")),
    }
}

fn side(end: End) -> &'static str {
    match end {
        End::Source => "src",
        End::Destination => "dst",
    }
}

fn icmp(family: Family, icmp_type: u8, code: Option<u8>, negated: bool) -> String {
    let negation = not(negated);
    match (family, icmp_type, code) {
        // For iptables type 255 is any. The first fragment, then the first bytes after the header.
        (Family::V4, 255, None) => {
            format!("-m u32 {negation}--u32 \"4&0x1fff=0x0&&0>>22&0x3c@0>>24=0xff\"")
        }
        (Family::V4, 255, Some(code)) => {
            format!("-m u32 {negation}--u32 \"4&0x1fff=0x0&&0>>22&0x3c@0>>16=0xff{code:02x}\"")
        }
        (Family::V4, _, _) => format!("-m icmp {negation}--icmp-type {}", type_and_code(icmp_type, code)),
        (Family::V6, _, _) => format!("-m icmp6 {negation}--icmpv6-type {}", type_and_code(icmp_type, code)),
    }
}

fn type_and_code(icmp_type: u8, code: Option<u8>) -> String {
    code.map_or_else(|| icmp_type.to_string(), |code| format!("{icmp_type}/{code}"))
}

fn multiport(end: End, ports: &[(u16, u16)], negated: bool) -> String {
    let option = if end == End::Source { "--sports" } else { "--dports" };
    let range = |(first, last): &(u16, u16)| match first == last {
        true => first.to_string(),
        false => format!("{first}:{last}"),
    };
    let list: Vec<String> = ports.iter().map(range).collect();
    format!("-m multiport {}{option} {}", not(negated), list.join(","))
}

/// Lists that fit one rule: a port takes one of its slots, a range two.
fn chunks(mut ports: &[(u16, u16)]) -> impl Iterator<Item = &[(u16, u16)]> {
    std::iter::from_fn(move || {
        let mut slots = 0;
        let fitting = ports.iter().take_while(|(first, last)| {
            slots += if first == last { 1 } else { 2 };
            slots <= MULTIPORT_SLOTS
        });
        let (list, rest) = ports.split_at(fitting.count());
        ports = rest;
        (!list.is_empty()).then_some(list)
    })
}

/// The ports in none of these ranges, which ascend and do not overlap.
fn all_but(ports: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut others = Vec::with_capacity(ports.len() + 1);
    let mut next = Some(0);
    for (first, last) in ports {
        if let (Some(next), Some(before)) = (next, first.checked_sub(1))
            && next <= before
        {
            others.push((next, before));
        }
        next = last.checked_add(1);
    }
    others.extend(next.map(|next| (next, u16::MAX)));
    others
}

fn ct_states(bits: u32) -> Option<String> {
    const STATES: [(u32, &str); 5] =
        [(1, "INVALID"), (8, "NEW"), (4, "RELATED"), (2, "ESTABLISHED"), (64, "UNTRACKED")];
    let known: u32 = STATES.iter().map(|(bit, _)| bit).sum();
    let words: Vec<&str> = STATES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, word)| *word).collect();
    (bits != 0 && bits & !known == 0).then(|| words.join(","))
}

/// Within the rate. The unit is the finest in which the rate is a whole number.
fn limit(packets: u64, unit: u64, burst: u32) -> String {
    const UNITS: [(u64, &str); 4] = [(1, "sec"), (60, "min"), (3600, "hour"), (86400, "day")];
    let unit = unit.max(1);
    let whole = UNITS.iter().find(|(seconds, _)| packets * seconds >= unit && (packets * seconds).is_multiple_of(unit));
    let (seconds, word) = whole.or(UNITS.iter().find(|(seconds, _)| packets * seconds >= unit)).unwrap_or(&UNITS[3]);
    let rate = (packets * seconds / unit).clamp(1, GREATEST_RATE * seconds);
    let most = u32::try_from(LONGEST_CREDIT * rate / seconds).unwrap_or(u32::MAX).clamp(1, GREATEST_BURST);
    format!("-m limit --limit {rate}/{word} --limit-burst {}", burst.clamp(1, most))
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
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ruleset::Interface;

    /// A regular chain of the filter table, with these sets of ports or protocols.
    struct Fixture {
        family: Family,
        table: Table,
        base: Option<Base>,
        return_allowed: bool,
        options: Options,
        ranges: BTreeMap<&'static str, BTreeSet<Range>>,
    }

    impl Default for Fixture {
        fn default() -> Self {
            let single = |list: &[u128]| list.iter().map(|number| (*number, *number)).collect();
            let ranges = BTreeMap::from([
                ("ported", single(&[6, 17, 132])),
                ("few", BTreeSet::from([(80, 80), (443, 443), (8000, 8999)])),
                ("many", (0..20).map(|n| (100 * n, 100 * n)).chain([(5000, 6000)]).collect()),
                ("none", BTreeSet::new()),
            ]);
            let options = Options::default();
            Self { family: Family::V4, table: Table::Filter, base: None, return_allowed: false, options, ranges }
        }
    }

    impl Surroundings for Fixture {
        fn family(&self) -> Family {
            self.family
        }
        fn table(&self) -> Table {
            self.table
        }
        fn base(&self) -> Option<Base> {
            self.base
        }
        fn return_allowed(&self) -> bool {
            self.return_allowed
        }
        fn options(&self) -> &Options {
            &self.options
        }
        fn ranges(&self, set: &str) -> Option<&BTreeSet<Range>> {
            self.ranges.get(set)
        }
        fn set_name(&self, set: &str) -> Option<String> {
            (set != "missing").then(|| format!("cali40{set}"))
        }
        fn dispatch(&self, _: Interface, _: &str) -> Vec<(String, String)> {
            vec![("-i eth0".to_owned(), "-g cali-x".to_owned()), (String::new(), "-j cali-map".to_owned())]
        }
    }

    fn lines_in(around: &Fixture, matches: Vec<Match>, actions: Vec<Action>) -> Vec<String> {
        let lowered = lower(&Rule::new(matches, actions), around);
        lowered.into_iter().map(|rule| join(&[&rule.conditions, &rule.target])).collect()
    }

    fn lines(matches: Vec<Match>, actions: Vec<Action>) -> Vec<String> {
        lines_in(&Fixture::default(), matches, actions)
    }

    fn protocol(number: u8, negated: bool) -> Match {
        Match::Protocol { number, negated }
    }

    fn ported(negated: bool) -> Match {
        Match::ProtocolSet { set: "ported".to_owned(), negated }
    }

    fn ports(set: &str, negated: bool) -> Match {
        Match::PortSet { end: End::Destination, set: set.to_owned(), negated }
    }

    fn source(net: &str, negated: bool) -> Match {
        Match::Net { end: End::Source, net: net.parse().expect("a network"), negated }
    }

    #[test]
    fn an_allowed_packet_is_marked_and_then_returned_by_its_mark() {
        let actions = vec![Action::SetMark(0x10000), Action::Return];
        assert_eq!(
            lines(vec![protocol(6, false), source("10.0.0.0/8", false)], actions.clone()),
            ["-p tcp -s 10.0.0.0/8 -j MARK --set-xmark 0x10000/0x10000", "-m mark --mark 0x10000/0x10000 -j RETURN"]
        );
        // Where the bit may be there already, the conditions are asked again.
        let base = Some(Base { nat: false, hook: Hook::Forward, priority: -5 });
        assert_eq!(
            lines_in(&Fixture { base, ..Fixture::default() }, vec![protocol(6, false)], actions),
            ["-p tcp -j MARK --set-xmark 0x10000/0x10000", "-p tcp -j RETURN"]
        );
    }

    #[test]
    fn one_rule_has_one_protocol() {
        let drop = || vec![Action::Drop];
        assert_eq!(lines(vec![ported(false)], drop()), ["-p tcp -j DROP", "-p udp -j DROP", "-p sctp -j DROP"]);
        assert_eq!(lines(vec![ported(false), protocol(17, true)], drop()), ["-p tcp -j DROP", "-p sctp -j DROP"]);
        assert_eq!(lines(vec![protocol(6, false), protocol(6, true)], drop()), Vec::<String>::new());
        assert_eq!(lines(vec![protocol(6, true)], drop()), ["! -p tcp -j DROP"]);
        assert_eq!(
            lines(vec![ported(true), source("10.0.0.1/32", false)], drop()),
            [
                "-j MARK --set-xmark 0x0/0x80000",
                "-s 10.0.0.1/32 -j MARK --set-xmark 0x80000/0x80000",
                "-m mark --mark 0x80000/0x80000 -p tcp -j MARK --set-xmark 0x0/0x80000",
                "-m mark --mark 0x80000/0x80000 -p udp -j MARK --set-xmark 0x0/0x80000",
                "-m mark --mark 0x80000/0x80000 -p sctp -j MARK --set-xmark 0x0/0x80000",
                "-m mark --mark 0x80000/0x80000 -j DROP",
            ]
        );
        // For iptables protocol 0 is any protocol.
        assert_eq!(lines(vec![protocol(0, false)], drop()), ["-m u32 --u32 6&0xff=0x0 -j DROP"]);
        let v6 = Fixture { family: Family::V6, ..Fixture::default() };
        assert_eq!(lines_in(&v6, vec![protocol(0, false)], drop()), Vec::<String>::new());
        assert_eq!(lines_in(&v6, vec![protocol(0, true)], drop()), ["-j DROP"]);
    }

    #[test]
    fn long_lists_of_ports_are_cut_into_what_one_rule_holds() {
        let tcp = |condition| lines(vec![protocol(6, false), condition], vec![Action::Drop]);
        assert_eq!(tcp(ports("few", false)), ["-p tcp -m multiport --dports 80,443,8000:8999 -j DROP"]);
        let many = tcp(ports("many", false));
        assert_eq!(many.len(), 2, "{many:?}");
        assert!(many[1].contains("1500,1600,1700,1800,1900,5000:6000"), "{many:?}");
        let none = tcp(ports("many", true));
        assert_eq!((none.len(), none[0].matches("-m multiport ! --dports").count()), (1, 2), "{none:?}");
        assert_eq!(tcp(ports("none", false)), Vec::<String>::new(), "in nothing");
        assert_eq!(tcp(ports("none", true)), ["-p tcp -j DROP"], "outside nothing");
        let both = lines(vec![ports("few", false)], vec![Action::Drop]);
        assert_eq!(both.len(), 3, "each says a protocol, though an earlier chain has checked it: {both:?}");
        let longest: Vec<(u128, u128)> = (0..2000).map(|n| (10 + 2 * n, 10 + 2 * n)).collect();
        let mut around = Fixture::default();
        around.ranges.insert("longest", longest.into_iter().collect());
        let far = lines_in(&around, vec![protocol(6, false), ports("longest", true)], vec![Action::Drop]);
        assert_eq!(far.iter().filter(|line| line.contains("-m multiport --dports")).count(), 2000usize.div_ceil(15));
        let two = || {
            let source = Match::PortSet { end: End::Source, set: "longest".to_owned(), negated: false };
            vec![protocol(6, false), source, ports("longest", false)]
        };
        let product = lines_in(&around, two(), vec![Action::Drop]);
        assert!(product.len() < 500, "{}", product.len());
        assert!(far.iter().chain(&product).all(|line| line.split(' ').count() < 50), "{far:?} {product:?}");
        assert_eq!(all_but(&[(0, 9), (12, 12), (65535, 65535)]), [(10, 11), (13, 65534)]);
        assert_eq!((all_but(&[]), all_but(&[(0, 65535)])), (vec![(0, 65535)], vec![]));
        // Two ranges cost four slots, so seven fit with one port.
        let wide: Vec<(u16, u16)> = (0..9).map(|n| (10 * n, 10 * n + 5)).collect();
        let sizes: Vec<usize> = chunks(&wide).map(<[_]>::len).collect();
        assert_eq!(sizes, [7, 2]);
    }

    #[test]
    fn icmp_types_that_iptables_takes_for_any_are_compared_as_bytes() {
        let icmp = |icmp_type, code, negated| Match::Icmp { icmp_type, code, negated };
        let drop = || vec![Action::Drop];
        assert_eq!(lines(vec![icmp(3, Some(4), true)], drop()), ["-p icmp -m icmp ! --icmp-type 3/4 -j DROP"]);
        let any = &lines(vec![icmp(255, None, false)], drop())[0];
        assert!(any.contains("-m u32 --u32") && any.contains("=0xff\""), "{any}");
        let v6 = Fixture { family: Family::V6, ..Fixture::default() };
        assert_eq!(
            lines_in(&v6, vec![Match::IcmpTypes(135, 136)], vec![Action::Accept]),
            ["-p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT", "-p ipv6-icmp -m icmp6 --icmpv6-type 136 -j ACCEPT"]
        );
    }

    #[test]
    fn a_second_network_of_one_end_is_a_range() {
        assert_eq!(
            lines(vec![source("10.0.0.0/8", false), source("10.1.0.0/16", true)], vec![Action::Drop]),
            ["-s 10.0.0.0/8 -m iprange ! --src-range 10.1.0.0-10.1.255.255 -j DROP"]
        );
    }

    #[test]
    fn what_counts_packets_comes_last_and_counts_each_once() {
        let rate = |over| Match::Rate { over, packets: 10, unit: 60, burst: 5 };
        let log = || vec![Action::Log("a prefix that is longer than it may be".to_owned())];
        let within = lines(vec![rate(false), protocol(6, false)], log());
        assert!(within[0].starts_with("-p tcp -m limit --limit 10/min --limit-burst 5 -j LOG"), "{within:?}");
        assert!(within[0].contains("\"a prefix that is longer than \""), "{within:?}");
        let alternatives = lines(vec![ported(false), rate(false)], log());
        assert_eq!(alternatives.iter().filter(|line| line.contains("limit")).count(), 1, "{alternatives:?}");
        assert_eq!(
            lines(vec![rate(true)], vec![Action::Drop]),
            [
                "-j MARK --set-xmark 0x0/0x80000",
                "-j MARK --set-xmark 0x80000/0x80000",
                "-m mark --mark 0x80000/0x80000 -m limit --limit 10/min --limit-burst 5 -j MARK --set-xmark 0x0/0x80000",
                "-m mark --mark 0x80000/0x80000 -j DROP",
            ]
        );
        assert_eq!(
            lines(vec![protocol(6, false), Match::ConnectionsOver(3)], vec![Action::ResetTcp]),
            ["-p tcp -m connlimit --connlimit-above 3 --connlimit-mask 0 -j REJECT --reject-with tcp-reset"]
        );
    }

    #[test]
    fn rates_are_written_in_the_finest_unit_that_fits() {
        for (packets, unit, expected) in [
            (100, 1, "100/sec"),
            (120, 60, "2/sec"),
            (10, 60, "10/min"),
            (1, 7, "8/min"),
            (1, 3600, "1/hour"),
            (1, 1_000_000, "1/day"),
            (50_000, 1, "10000/sec"),
        ] {
            let text = limit(packets, unit, 5);
            assert!(text.contains(&format!("--limit {expected} ")), "{packets} per {unit}: {text}");
        }
        assert!(limit(1, 86400, 5).ends_with("--limit-burst 1"), "xt_limit counts no longer than a day");
        assert!(limit(1, 3600, 100).ends_with("--limit-burst 24"));
        assert!(limit(1, 1, 100_000).ends_with("--limit-burst 10000"));
    }

    #[test]
    fn answers_are_only_sent_from_the_filter_table() {
        let raw = Fixture { table: Table::Raw, ..Fixture::default() };
        assert_eq!(lines_in(&raw, vec![], vec![Action::Reject(Family::V4)]), ["-j DROP"]);
        assert_eq!(lines(vec![], vec![Action::Reject(Family::V6)]), ["-j REJECT --reject-with icmp6-port-unreachable"]);
    }

    #[test]
    fn a_map_is_asked_in_place() {
        let dispatch = Action::Dispatch(Interface::Incoming, "m".to_owned());
        assert_eq!(lines(vec![protocol(6, false)], vec![dispatch]), ["-p tcp -i eth0 -g cali-x", "-p tcp -j cali-map"]);
    }

    #[test]
    fn what_cannot_be_said_drops_everything() {
        let set = Match::AddressSet { family: Family::V4, end: End::Source, set: "missing".to_owned(), negated: false };
        assert_eq!(lines(vec![set], vec![Action::Accept]), ["-j DROP"]);
        assert_eq!(lines(vec![Match::CtState(1 << 20)], vec![Action::Accept]), ["-j DROP"]);
    }
}
