//! The rules as text, for review; and `nft`'s opinion of them.
//!
//! After an intended change, set `INSTA_UPDATE=always` and look at the difference.

use std::{fmt::Write, sync::Arc};

use calico_model::MacAddress;
use calico_policy::instruction::{
    Endpoint, EndpointId, EntityMatch, HostAction, IcmpMatch, Instruction, Pool, ProfileId, Rule, RuleAction, RuleSet,
    SetId, Settings,
};
use ipnet::IpNet;

use crate::{
    Options,
    family::{Family, Range},
    golden_policies::policies_and_hosts,
    namespace,
    netlink::Nft,
    program::{compile, decompile},
    render::Map,
    ruleset::{Data, Key},
    state::State,
    table::{ChainWant, Content, SetWant},
};

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|net| net.parse().expect("a network")).collect()
}

fn sets(list: &[&str]) -> Vec<SetId> {
    list.iter().map(|id| SetId((*id).to_owned())).collect()
}

fn allow() -> Rule {
    Rule::of(RuleAction::Allow)
}

fn tcp(destination: EntityMatch) -> Rule {
    Rule { protocol: Some(6), destination, ..allow() }
}

fn ports(ports: &[(u16, u16)]) -> EntityMatch {
    EntityMatch { ports: ports.to_vec(), ..EntityMatch::default() }
}

/// One rule for each thing a rule can say.
fn every_condition() -> Vec<Rule> {
    let any = EntityMatch::default;
    let from = |source| Rule { source, ..allow() };
    let icmp = |icmp_type, code| Some(IcmpMatch { icmp_type, code });
    vec![
        allow(),
        Rule::of(RuleAction::Deny),
        Rule::of(RuleAction::Pass),
        Rule::of(RuleAction::Log),
        Rule { ip_version: Some(4), ..allow() },
        Rule { ip_version: Some(6), ..allow() },
        Rule { protocol: Some(132), not_protocol: Some(6), ..allow() },
        Rule { protocol: Some(1), icmp: icmp(8, None), ..allow() },
        Rule { icmp: icmp(3, Some(4)), ..allow() },
        Rule { protocol: Some(58), not_icmp: icmp(128, None), ..allow() },
        Rule { not_icmp: icmp(3, Some(4)), ..allow() },
        Rule {
            not_icmp: icmp(8, None),
            source: EntityMatch { not_ports: vec![(22, 22)], ..any() },
            ..Rule::of(RuleAction::Log)
        },
        Rule { destination: EntityMatch { not_ports: vec![(22, 22)], ..any() }, ..allow() },
        from(EntityMatch { nets: nets(&["10.0.0.0/8"]), ..any() }),
        from(EntityMatch { nets: nets(&["10.1.2.3/32"]), not_nets: nets(&["fd00::/8"]), ..any() }),
        from(EntityMatch { nets: nets(&["10.0.0.0/8", "fd00::/8", "10.1.0.0/16", "192.0.2.1/32"]), ..any() }),
        from(EntityMatch { nets: nets(&["0.0.0.0/0", "fd00::1/128"]), ..any() }),
        from(EntityMatch { not_nets: nets(&["0.0.0.0/0"]), ..any() }),
        from(EntityMatch { not_nets: nets(&["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32"]), ..any() }),
        from(EntityMatch { sets: sets(&["s:hosts", "s:nets"]), not_sets: sets(&["s:hosts"]), ..any() }),
        from(EntityMatch { sets: sets(&["s:missing"]), ..any() }),
        from(EntityMatch { not_sets: sets(&["s:missing"]), ..any() }),
        tcp(ports(&[(80, 80)])),
        tcp(ports(&[(80, 90)])),
        tcp(ports(&[(80, 80), (443, 443), (8000, 8000)])),
        tcp(ports(&[(80, 80), (1000, 2000), (1500, 3000), (81, 81)])),
        tcp(EntityMatch { not_ports: vec![(22, 22)], ..any() }),
        tcp(EntityMatch { not_ports: vec![(1, 1023)], ..any() }),
        tcp(EntityMatch { not_ports: vec![(22, 22), (80, 89)], ..any() }),
        tcp(ports(&[(0, 65535)])),
        Rule { destination: ports(&[(53, 53)]), ..allow() },
        Rule { protocol: Some(1), destination: ports(&[(53, 53)]), ..allow() },
        Rule {
            protocol: Some(17),
            source: EntityMatch { nets: nets(&["10.0.0.0/8", "fd00::/8"]), ports: vec![(1024, 65535)], ..any() },
            destination: EntityMatch { sets: sets(&["s:hosts"]), not_ports: vec![(53, 53)], ..any() },
            ..Rule::of(RuleAction::Deny)
        },
    ]
}

fn set(name: &str, members: &[&str]) -> Instruction {
    Instruction::SetReplace { id: SetId(name.to_owned()), members: nets(members).into_iter().collect() }
}

fn endpoint(number: u8, profiles: &[&str]) -> Instruction {
    Instruction::EndpointUpdate {
        id: EndpointId { namespace: "ns".to_owned(), name: format!("endpoint-{number}") },
        endpoint: Endpoint {
            interface: format!("cali{number}"),
            mac: Some(MacAddress([2, 0, 0, 0, 0, number])),
            addresses: vec![format!("10.65.0.{number}").parse().expect("an address")],
            profiles: profiles.iter().map(|p| ProfileId((*p).to_owned())).collect(),
            ..Endpoint::default()
        },
    }
}

pub(crate) fn everything() -> Vec<Instruction> {
    let profile = |name: &str, ingress, egress| Instruction::ProfileUpdate {
        id: ProfileId(name.to_owned()),
        rules: RuleSet { ingress, egress }.into(),
    };
    let pool = |cidr: &str, masquerade| Pool { cidr: cidr.parse().expect("a network"), masquerade };
    vec![
        set("s:hosts", &["10.65.0.1/32", "10.65.0.2/32", "fd65::1/128"]),
        set("s:nets", &["10.65.0.0/16", "10.65.1.0/24", "10.66.0.1/32", "0.0.0.0/0", "fd65::/64", "fd65::1/128"]),
        profile("every-condition", every_condition(), vec![allow()]),
        profile("Odd Name", vec![allow()], vec![]),
        endpoint(1, &["every-condition"]),
        endpoint(2, &["every-condition", "Odd Name"]),
        endpoint(3, &[]),
        endpoint(4, &["not-made-yet"]),
        endpoint(5, &["every-condition"]),
        Instruction::Pools {
            pools: vec![pool("10.65.0.0/16", true), pool("10.66.0.0/16", false), pool("fd65::/64", false)],
        },
        Instruction::Settings(Settings { endpoint_to_host: HostAction::Accept, ..Settings::default() }),
    ]
}

pub(crate) fn state(instructions: Vec<Instruction>) -> State {
    let mut state = State::new(Arc::new(Options::default()));
    for instruction in instructions {
        state.absorb(instruction).expect("can be programmed");
    }
    state.flush();
    state
}

/// A range of keys as nft writes it.
struct RangeText(Key, Range);

impl std::fmt::Display for RangeText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(key, (first, last)) = self;
        let one = |value: u128| match key {
            Key::Address(family) => family.address(value).to_string(),
            Key::Twice(family) => format!("{0} . {0}", family.address(value)),
            _ => value.to_string(),
        };
        if first == last { f.write_str(&one(*first)) } else { write!(f, "{}-{}", one(*first), one(*last)) }
    }
}

/// One family's table in the language of `nft`.
fn text(state: &mut State, family: Family) -> String {
    let mut out = format!("table {family} calico {{\n");
    let mut wanted: Vec<(String, SetWant)> =
        state.table(family).sets.all_wanted().map(|(name, want)| (name.clone(), want.clone())).collect();
    wanted.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, want) in wanted {
        let kind = if want.spec.data == Data::None { "set" } else { "map" };
        let _ = writeln!(out, "\t{kind} {name} {{\n\t\t{}", want.spec);
        let mut elements: Vec<String> = state
            .elements(family, &want.source)
            .into_iter()
            .map(|range| RangeText(want.spec.key, range).to_string())
            .collect();
        elements.extend(
            state
                .ports(family, &want.source)
                .iter()
                .map(|member| format!("{} . {} . {}", member.address, member.protocol, member.port)),
        );
        elements.extend(state.published(family, &want.source).iter().map(|port| {
            let host = if port.host.is_unspecified() { String::new() } else { format!("{} . ", port.host) };
            format!("{host}{} . {} : {} . {}", port.protocol, port.host_port, port.address, port.port)
        }));
        for map in Map::all() {
            if name == map.name() {
                let targets = state.table(family).targets(map).all_wanted();
                elements.extend(targets.map(|(interface, want)| {
                    let target = &want.target;
                    let verb = if target.goto { "goto" } else { "jump" };
                    format!("\"{interface}\" comment \"{}\" : {verb} {}", target.comment, target.chain)
                }));
                elements.sort();
            }
        }
        if !elements.is_empty() {
            let _ = writeln!(out, "\t\telements = {{ {} }}", elements.join(", "));
        }
        out.push_str("\t}\n");
    }
    let mut chains: Vec<(String, ChainWant)> =
        state.table(family).chains.all_wanted().map(|(name, want)| (name.clone(), want.clone())).collect();
    chains.sort_by(|a, b| a.0.cmp(&b.0));
    for (_, want) in chains {
        let _ = write!(out, "{}", state.chain(family, want.source()));
    }
    out + "}\n"
}

#[test]
fn the_rules_of_everything() {
    let mut state = state(everything());
    insta::assert_snapshot!("everything_v4", text(&mut state, Family::V4));
    insta::assert_snapshot!("everything_v6", text(&mut state, Family::V6));
}

#[test]
fn the_rules_of_policies_and_host_endpoints() {
    let mut state = state(policies_and_hosts());
    insta::assert_snapshot!("policies_v4", text(&mut state, Family::V4));
    insta::assert_snapshot!("policies_v6", text(&mut state, Family::V6));
}

#[test]
fn the_base_alone() {
    let mut state = state(Vec::new());
    insta::assert_snapshot!("base_v4", text(&mut state, Family::V4));
}

/// What the kernel holds can be shown in the words that it was made of.
#[test]
fn programs_are_taken_apart_as_they_were_put_together() {
    for instructions in [everything(), policies_and_hosts()] {
        let mut state = state(instructions);
        for family in Family::ALL {
            let wanted: Vec<ChainWant> =
                state.table(family).chains.all_wanted().map(|(_, want)| want.clone()).collect();
            for rule in wanted.iter().flat_map(|want| state.chain(family, want.source()).rules) {
                assert_eq!(decompile(&compile(&rule, family), family).as_ref(), Some(&rule), "{rule}");
            }
        }
    }
}

/// `nft` translates the text, we the same rules by netlink. Both must read the same afterwards, and what we read back
/// must be what we wanted.
#[test]
fn nft_agrees_with_what_we_write() {
    for instructions in [everything(), policies_and_hosts()] {
        nft_agrees(state(instructions));
    }
}

fn nft_agrees(mut wanted: State) {
    let texts = Family::ALL.map(|family| text(&mut wanted, family));
    let by_nft = namespace::Namespace::new();
    let theirs = by_nft.run(move || {
        let mut listing = Vec::new();
        for text in texts {
            listing.push(load(&text));
        }
        listing
    });
    namespace::in_a_namespace(move || async move {
        let nft = Nft::open().expect("root");
        let plan = wanted.plan();
        for transaction in plan.transactions() {
            nft.commit(transaction).await.expect("accepted");
        }
        for (family, theirs) in Family::ALL.into_iter().zip(theirs) {
            let ours = namespace::run(&format!("nft list table {family} calico"));
            same(&normal(&ours), &normal(&theirs));
            let read = nft.read_table(family).await.expect("readable");
            wanted.read_back(family, read);
        }
        assert_eq!(wanted.plan(), crate::op::Plan::default(), "read back, nothing is left to do");
    });
}

/// Fails with the blocks that only one side has.
#[track_caller]
pub(crate) fn same(ours: &[String], theirs: &[String]) {
    let only = |one: &[String], other: &[String]| -> Vec<String> {
        one.iter().filter(|block| !other.contains(block)).cloned().collect()
    };
    assert_eq!(only(ours, theirs).join("\n"), only(theirs, ours).join("\n"));
    assert_eq!(ours.len(), theirs.len());
}

pub(crate) fn load(text: &str) -> String {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is installed");
    nft.stdin.take().expect("piped").write_all(text.as_bytes()).expect("nft reads");
    assert!(nft.wait().expect("started").success(), "nft refuses:\n{text}");
    let family = text.split_whitespace().nth(1).expect("table FAMILY");
    namespace::run(&format!("nft list table {family} calico"))
}

/// Elements of maps come in the kernel's order, and in lines that depend on it.
pub(crate) fn normal(listing: &str) -> Vec<String> {
    let joined = listing.replace(",\n", ", ");
    let mut lines = Vec::new();
    for line in joined.lines().map(str::trim) {
        match line.strip_prefix("elements = {").and_then(|rest| rest.strip_suffix('}')) {
            Some(elements) => {
                let mut list: Vec<&str> = elements.split(',').map(str::trim).collect();
                list.sort_unstable();
                lines.push(format!("elements {}", list.join(", ")));
            }
            None => lines.push(line.to_owned()),
        }
    }
    // Chains are listed in the order of their making.
    let mut blocks: Vec<String> = lines.split(|line| line == "}").map(|block| block.join("\n")).collect();
    blocks.sort();
    blocks
}
