//! Plans against a small kernel: any sequence of instructions, applied in any portions.

use std::{collections::BTreeMap, sync::Arc};

use calico_policy::{
    instruction::{
        Endpoint, EndpointId, EntityMatch, Instruction, Members, ProfileId, Rule, RuleAction, RuleSet, SetId,
    },
    interpret::{Programmed, SetMembers},
    packet::{Hop, Packet, Transport, Verdict},
};
use proptest::prelude::*;

use crate::{
    Options,
    arbitrary::{ETH0, any_instruction, packet, spoofed},
    fake_kernel::{FakeKernel, summary},
    family::Family,
    ifname::IfName,
    op::{OpKind, Plan},
    state::State,
};

/// A host under test: what was asked, what is believed, what there is.
struct Bench {
    asked: Programmed,
    applied: Programmed,
    state: State,
    kernel: FakeKernel,
}

impl Bench {
    fn new() -> Self {
        let addresses = ETH0.map(|address| address.parse().expect("an address"));
        let interfaces = BTreeMap::from([("eth0".to_owned(), addresses.to_vec())]);
        let asked = Programmed { interfaces, ..Programmed::default() };
        let mut state = State::new(Arc::new(Options::default()));
        let eth0 = IfName::new("eth0").expect("valid");
        state.read_addresses(addresses.into_iter().map(|address| (address, eth0)).collect());
        Self { applied: asked.clone(), asked, state, kernel: FakeKernel::default() }
    }

    /// Instructions that break a promise are left out: the engine never makes such.
    fn absorb(&mut self, instruction: &Instruction) {
        if self.asked.apply(instruction).is_ok() {
            self.state.absorb(instruction.clone()).expect("names are valid");
        }
    }

    /// Applies, as the driver does; between transactions each packet has its old or its new verdict.
    fn apply(&mut self, packets: &[Packet]) -> Result<(), TestCaseError> {
        self.state.flush();
        for family in Family::ALL {
            if self.state.table(family).stale {
                let read = self.kernel.read(family);
                self.state.read_back(family, read);
            }
        }
        let plan = self.state.plan();
        let begun = self.kernel.read(Family::V4).is_some();
        for transaction in plan.transactions() {
            self.kernel.commit(transaction).map_err(TestCaseError::fail)?;
            for packet in packets.iter().filter(|_| begun) {
                let (old, new) = (self.applied.verdict(packet), self.asked.verdict(packet));
                let spoofed = [&self.applied, &self.asked].map(|state| spoofed(state, packet));
                if spoofed[0] != spoofed[1] {
                    continue;
                }
                let now = self.kernel.verdict(packet, spoofed[0]);
                prop_assert!(now == old || now == new, "{packet:?} is {now:?} between {old:?} and {new:?}");
            }
        }
        self.state.settle();
        self.applied = self.asked.clone();
        for packet in packets {
            let spoofed = spoofed(&self.asked, packet);
            prop_assert_eq!(self.kernel.verdict(packet, spoofed), self.asked.verdict(packet), "{:?}", packet);
        }
        Ok(())
    }

    /// What a host that starts now would come to.
    fn fresh_start(&self) -> FakeKernel {
        let mut other = Self::new();
        for instruction in as_instructions(&self.asked) {
            other.absorb(&instruction);
        }
        other.apply(&[]).expect("a fresh start works");
        other.kernel
    }
}

/// The shortest way to a state.
fn as_instructions(programmed: &Programmed) -> Vec<Instruction> {
    let Programmed {
        interfaces: _, sets, policies, profiles, endpoints, host_endpoints, hosts, pools, settings, ..
    } = programmed.clone();
    let mut instructions =
        vec![Instruction::Settings(settings), Instruction::Hosts { addresses: hosts }, Instruction::Pools { pools }];
    instructions.extend(sets.into_iter().map(|(id, members)| {
        let members = match members {
            SetMembers::Nets(nets) => Members::Nets(nets.into_iter().collect()),
            SetMembers::Ports(ports) => Members::Ports(ports.into_iter().collect()),
        };
        Instruction::SetReplace { id, members }
    }));
    instructions.extend(policies.into_iter().map(|(id, rules)| Instruction::PolicyUpdate { id, rules }));
    instructions.extend(profiles.into_iter().map(|(id, rules)| Instruction::ProfileUpdate { id, rules }));
    instructions.extend(endpoints.into_iter().map(|(id, endpoint)| Instruction::EndpointUpdate { id, endpoint }));
    let hosts = host_endpoints.into_iter();
    instructions.extend(hosts.map(|(id, endpoint)| Instruction::HostEndpointUpdate { id, endpoint }));
    instructions
}

#[derive(Clone, Debug)]
enum Event {
    Instruction(Box<Instruction>),
    Apply,
    /// Somebody else changes the tables; the notification comes before the next apply.
    Vandal(usize),
    /// The agent is killed and starts again.
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => any_instruction().prop_map(|instruction| Event::Instruction(Box::new(instruction))),
        4 => Just(Event::Apply),
        1 => any::<usize>().prop_map(Event::Vandal),
        1 => Just(Event::Restart),
    ]
}

/// What the host sends to itself passes more hooks than this small kernel has.
fn from_or_to_elsewhere(mut packet: Packet) -> Packet {
    if packet.from == Hop::Host && packet.to == Hop::Host {
        packet.to = Hop::Interface("eth0".to_owned());
    }
    packet
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_way_leads_to_the_same_rules_and_the_right_verdicts(
        events in prop::collection::vec(event(), 1..40),
        packets in prop::collection::vec(packet().prop_map(from_or_to_elsewhere), 40),
    ) {
        let mut bench = Bench::new();
        let mut disturbed = false;
        for event in events {
            match event {
                Event::Instruction(instruction) => bench.absorb(&instruction),
                Event::Apply => {
                    bench.apply(if disturbed { &[] } else { &packets })?;
                    disturbed = false;
                }
                Event::Vandal(choice) => {
                    for family in Family::ALL {
                        bench.kernel.vandalise(family, choice);
                        bench.state.table(family).stale = true;
                    }
                    disturbed = true;
                }
                Event::Restart => {
                    let kernel = std::mem::take(&mut bench.kernel);
                    let asked = bench.asked.clone();
                    let applied = bench.applied.clone();
                    bench = Bench::new();
                    as_instructions(&asked).iter().for_each(|instruction| bench.absorb(instruction));
                    (bench.kernel, bench.applied) = (kernel, applied);
                }
            }
        }
        bench.apply(if disturbed { &[] } else { &packets })?;
        let fresh = bench.fresh_start();
        prop_assert!(bench.kernel == fresh, "{:?} instead of {:?}", summary(&bench.kernel), summary(&fresh));
        for family in Family::ALL {
            let read = bench.kernel.read(family);
            bench.state.read_back(family, read);
        }
        prop_assert_eq!(bench.state.plan(), Plan::default(), "read back, nothing is left to do");
    }
}

fn change(bench: &mut Bench, instruction: Instruction) -> Plan {
    bench.absorb(&instruction);
    bench.state.flush();
    let plan = bench.state.plan();
    bench.apply(&[]).expect("accepted");
    plan
}

/// Twenty endpoints on two profiles.
fn populated() -> Bench {
    let mut bench = Bench::new();
    for name in ["one", "two"] {
        let rules = RuleSet { ingress: vec![Rule::of(RuleAction::Allow)], egress: Vec::new() };
        bench.absorb(&Instruction::ProfileUpdate { id: ProfileId(name.to_owned()), rules: rules.into() });
    }
    for number in 0..20 {
        bench.absorb(&numbered(number, &["one"]));
    }
    bench.apply(&[]).expect("accepted");
    bench
}

fn one(net: &str) -> Members {
    Members::Nets(vec![net.parse().expect("a network")])
}

fn numbered(number: u8, profiles: &[&str]) -> Instruction {
    Instruction::EndpointUpdate {
        id: EndpointId { namespace: "ns".to_owned(), name: format!("n{number}") },
        endpoint: Endpoint {
            interface: format!("cali{number}"),
            mac: None,
            addresses: Vec::new(),
            profiles: profiles.iter().map(|p| ProfileId((*p).to_owned())).collect(),
            ..Endpoint::default()
        },
    }
}

#[test]
fn one_more_endpoint_of_a_known_kind_is_four_map_elements() {
    let mut bench = populated();
    let plan = change(&mut bench, numbered(99, &["one"]));
    assert!(plan.prepare.is_empty() && plan.cleanup.is_empty());
    assert_eq!(plan.switch.len(), 4, "two maps, two families: {plan:?}");
}

#[test]
fn an_endpoint_of_a_new_kind_gets_its_chains_before_it_is_switched() {
    let mut bench = populated();
    let plan = change(&mut bench, numbered(99, &["two", "one"]));
    assert!(!plan.prepare.is_empty() && plan.cleanup.is_empty());
    assert_eq!(plan.switch.len(), 4);
    let plan = change(&mut bench, numbered(99, &["one"]));
    assert!(plan.prepare.is_empty() && !plan.cleanup.is_empty(), "the chains of its kind go last");
}

#[test]
fn a_change_of_a_profile_is_one_transaction_however_many_endpoints_have_it() {
    let mut bench = populated();
    let rules = RuleSet { ingress: vec![Rule::of(RuleAction::Deny)], egress: Vec::new() };
    let plan = change(&mut bench, Instruction::ProfileUpdate { id: ProfileId("one".to_owned()), rules: rules.into() });
    assert!(plan.prepare.is_empty() && plan.cleanup.is_empty());
    assert_eq!(plan.switch.len(), 4, "flush and one rule, two families: {plan:?}");
}

#[test]
fn a_member_is_one_element() {
    let mut bench = populated();
    let id = SetId("s:a".to_owned());
    let members = one("10.0.0.1/32");
    change(&mut bench, Instruction::SetReplace { id: id.clone(), members });
    let added = one("10.0.0.2/32");
    let plan = change(&mut bench, Instruction::SetDelta { id: id.clone(), added, removed: Members::Nets(Vec::new()) });
    assert_eq!((plan.prepare.len(), plan.switch.len(), plan.cleanup.len()), (0, 1, 0), "{plan:?}");
    let added = one("10.0.0.0/8");
    let plan = change(&mut bench, Instruction::SetDelta { id, added, removed: Members::Nets(Vec::new()) });
    assert_eq!(plan.cleanup.len(), 2, "a network makes it another kind of set, the old one goes: {plan:?}");
}

/// A packet that looks into one set before the change and into another after it must find the member in one of them.
#[test]
fn a_member_that_moves_between_sets_is_never_in_none_or_never_in_both() {
    let net = || Members::Nets(vec!["10.0.0.1/32".parse().expect("a network")]);
    let none = || Members::Nets(Vec::new());
    let id = |name: &str| SetId(name.to_owned());
    let asks = |negated: bool| {
        let rule = |name: &str| {
            let (sets, not_sets) = if negated { (vec![], vec![id(name)]) } else { (vec![id(name)], vec![]) };
            Rule { source: EntityMatch { sets, not_sets, ..EntityMatch::default() }, ..Rule::of(RuleAction::Allow) }
        };
        RuleSet { ingress: vec![rule("s:a"), rule("s:b")], egress: Vec::new() }
    };
    for negated in [false, true] {
        let mut bench = populated();
        bench.absorb(&Instruction::SetReplace { id: id("s:a"), members: net() });
        bench.absorb(&Instruction::SetReplace { id: id("s:b"), members: none() });
        bench.absorb(&Instruction::ProfileUpdate { id: ProfileId("one".to_owned()), rules: asks(negated).into() });
        bench.apply(&[]).expect("accepted");
        bench.absorb(&Instruction::SetDelta { id: id("s:a"), added: none(), removed: net() });
        let plan = change(&mut bench, Instruction::SetDelta { id: id("s:b"), added: net(), removed: none() });
        let first_adds = matches!(plan.switch.as_slice(), [op] if matches!(op.kind, OpKind::AddElements { .. }));
        let last_adds = matches!(plan.cleanup.as_slice(), [op] if matches!(op.kind, OpKind::AddElements { .. }));
        assert_eq!((first_adds, last_adds), (!negated, negated), "{plan:?}");
    }
}

/// In between, a packet that meets two chains could be allowed by both, though before and after one of them denies.
#[test]
fn two_members_that_move_at_once_move_in_one_transaction() {
    let nets = |text: &[&str]| Members::Nets(text.iter().map(|net| net.parse().expect("a network")).collect());
    let id = |name: &str| SetId(name.to_owned());
    let from = |action, set: &str| {
        let source = EntityMatch { sets: vec![id(set)], ..EntityMatch::default() };
        Rule { source, ..Rule::of(action) }
    };
    let to = |action, set: &str| Rule { destination: from(action, set).source, ..Rule::of(action) };
    let (x, w, none): (&[&str], &[&str], &[&str]) = (&["10.65.0.2/32"], &["10.65.0.1/32"], &[]);
    let mut bench = Bench::new();
    for (name, members) in [("s:a", x), ("s:b", none), ("s:c", w), ("s:d", none)] {
        bench.absorb(&Instruction::SetReplace { id: id(name), members: nets(members) });
    }
    let rules = RuleSet {
        ingress: vec![from(RuleAction::Allow, "s:d"), from(RuleAction::Deny, "s:c")],
        egress: vec![to(RuleAction::Allow, "s:a"), to(RuleAction::Deny, "s:b")],
    };
    bench.absorb(&Instruction::ProfileUpdate { id: ProfileId("one".to_owned()), rules: rules.into() });
    for (number, address) in [(1, x), (2, w)] {
        let mut endpoint = numbered(number, &["one"]);
        if let Instruction::EndpointUpdate { endpoint, .. } = &mut endpoint {
            endpoint.addresses = vec![address[0].trim_end_matches("/32").parse().expect("an address")];
        }
        bench.absorb(&endpoint);
    }
    bench.apply(&[]).expect("accepted");
    for (from, to, member) in [("s:a", "s:b", x), ("s:c", "s:d", w)] {
        bench.absorb(&Instruction::SetDelta { id: id(from), added: nets(none), removed: nets(member) });
        bench.absorb(&Instruction::SetDelta { id: id(to), added: nets(member), removed: nets(none) });
    }
    let hop = |number: u8| Hop::Interface(format!("cali{number}"));
    let address = |net: &[&str]| net[0].trim_end_matches("/32").parse().expect("an address");
    let packet = Packet::new(hop(2), hop(1), address(w), address(x), Transport::Other(200));
    bench.state.flush();
    assert_eq!(bench.state.plan().transactions().count(), 1);
    bench.apply(&[packet]).expect("denied before, between and after");
}

#[test]
fn nothing_asked_nothing_done() {
    let mut bench = populated();
    let plan = change(&mut bench, numbered(3, &["one"]));
    assert_eq!(plan, Plan::default());
}

#[test]
fn an_empty_host_denies_workloads_and_nobody_else() {
    let mut bench = Bench::new();
    bench.apply(&[]).expect("accepted");
    let packet = |from: &str, to: Hop| {
        let address = |text: &str| text.parse().expect("an address");
        let from = Hop::Interface(from.to_owned());
        Packet::new(from, to, address("10.0.0.1"), address("10.0.0.2"), Transport::Other(200))
    };
    let verdict = |packet| bench.kernel.verdict(&packet, false);
    assert_eq!(verdict(packet("cali1", Hop::Host)), Verdict::Drop);
    assert_eq!(verdict(packet("eth0", Hop::Interface("cali1".to_owned()))), Verdict::Drop);
    assert_eq!(verdict(packet("eth0", Hop::Interface("eth1".to_owned()))), Verdict::Allow);
    assert_eq!(verdict(packet("eth0", Hop::Host)), Verdict::Allow);
}

/// A transaction is one message, and messages have a limit.
#[test]
fn very_many_members_come_in_several_transactions() {
    let members = (0..450_000u32).map(|number| {
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
        ipnet::IpNet::from(std::net::IpAddr::from(address))
    });
    let mut bench = populated();
    bench.absorb(&Instruction::SetReplace { id: SetId("s:a".to_owned()), members: Members::Nets(members.collect()) });
    bench.state.flush();
    let plan = bench.state.plan();
    let sizes: Vec<usize> = plan.transactions().map(|ops| ops.iter().map(|op| op.kind.elements()).sum()).collect();
    assert_eq!(sizes, [400_000, 50_000, 0], "the last one is the empty set of IPv6");
}
