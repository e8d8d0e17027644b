//! What is written for the scenes of the golden tests, as text; and the kernel's opinion of it.
//!
//! After an intended change, set `INSTA_UPDATE=always` and look at the difference.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use super::*;
use crate::{
    golden_policies::policies_and_hosts,
    golden_tests::{everything, state},
    ifname::IfName,
    namespace::{in_a_namespace, run as shell},
    op::{ChainHead, OpKind},
    ruleset::{Action, Base, Chain, End, Hook, Interface, Key, Match, Rule, SetSpec},
    state::State,
};

/// A back end that was told of everything that a state wants.
fn told(state: &State, variant: Variant) -> Iptables {
    let mut iptables = Iptables::open(variant, Arc::new(Options::default())).unwrap();
    for op in state.plan().transactions().flatten() {
        iptables.absorb(op).unwrap();
    }
    iptables
}

/// All that has to be written into an empty kernel for one family.
fn text(iptables: &mut Iptables, family: Family) -> String {
    iptables.sets = Some(HashMap::new());
    let sets = iptables.wanted_sets(family, true);
    let sets = diff::sets(&sets.wants, &HashMap::new());
    iptables.render(family);
    let context = iptables.context(family);
    let state = &iptables.families[family.index()];
    let mut texts = Texts { state, context: &context, maps: BTreeMap::new() };
    let mut lines = |table: Table, chain: &str| texts.lines(table, chain);
    let rules = diff::rules(&state.wanted, &state.layout.hooks, &Saved::new(), false, false, &mut lines);
    format!("# ipset restore\n{}# iptables-restore --noflush\n{}", sets.first, rules.text)
}

fn distrust(iptables: &mut Iptables) {
    Family::ALL.iter().for_each(|family| iptables.distrust_rules(*family));
    iptables.distrust_sets();
}

#[test]
fn the_rules_of_everything() {
    let mut iptables = told(&state(everything()), Variant::Nft);
    insta::assert_snapshot!("everything_v4", text(&mut iptables, Family::V4));
    insta::assert_snapshot!("everything_v6", text(&mut iptables, Family::V6));
}

#[test]
fn the_rules_of_policies_and_host_endpoints() {
    let mut iptables = told(&state(policies_and_hosts()), Variant::Nft);
    insta::assert_snapshot!("policies_v4", text(&mut iptables, Family::V4));
    insta::assert_snapshot!("policies_v6", text(&mut iptables, Family::V6));
}

#[test]
fn allowed_packets_can_be_left_to_others() {
    let mut iptables = told(&state(policies_and_hosts()), Variant::Nft);
    let before = text(&mut iptables, Family::V4);
    iptables.set_return_allowed(true);
    let after = text(&mut iptables, Family::V4);
    let filter = |text: &str| text.split("*filter").nth(1).unwrap().to_owned();
    assert!(filter(&before).contains("allowed by policy"));
    assert!(!filter(&after).contains("allowed by policy"));
    let established =
        after.lines().find(|line| line.contains("ESTABLISHED") && line.starts_with("-A cali-ei")).unwrap();
    assert!(established.ends_with("-j MARK --set-xmark 0x10000/0x10000"), "{established}");
}

/// Everything is accepted by the programs, read back as it was wanted, and gone when nothing is wanted.
#[test]
fn both_kinds_of_iptables_take_it_and_give_it_back() {
    for variant in Variant::ALL {
        for instructions in [everything(), policies_and_hosts()] {
            in_a_namespace(move || async move {
                let program = variant.program();
                let others =
                    format!("{program}-save | grep -v '^#'; ip6{}-save | grep -v '^#'; ipset save", &program[2..]);
                shell(&format!("{program} -A FORWARD -i docker0 -j ACCEPT && ipset create mine hash:ip"));
                let mut iptables = told(&state(instructions), variant);
                let written = iptables.write(&Family::ALL).await.unwrap();
                assert!(written.runs == 3 && written.interfered == [false; 2], "{written:?}");
                assert_eq!(iptables.write(&Family::ALL).await.unwrap(), Written::default());
                distrust(&mut iptables);
                assert_eq!(iptables.write(&Family::ALL).await.unwrap(), Written::default(), "{variant:?}");
                assert!(iptables.is_installed(Family::V4).await.unwrap());
                remove(variant, iptables.options.clone(), false).await.unwrap();
                let left = shell(&others);
                assert!(!left.contains("cali"), "{left}");
                assert!(left.contains("docker0") && left.contains("create mine"), "{left}");
            });
        }
    }
}

#[test]
fn a_set_of_another_type_under_our_name_is_evaded() {
    in_a_namespace(move || async move {
        shell("ipset create cali40pools bitmap:ip range 10.0.0.0/24");
        shell("iptables-nft -A INPUT -m set --match-set cali40pools src -j DROP");
        let mut iptables = told(&state(everything()), Variant::Nft);
        iptables.write(&Family::ALL).await.unwrap();
        let sets = shell("ipset list -n");
        let ours = sets.lines().find(|name| name.starts_with("cali40pools-1_"));
        assert!(ours.is_some(), "{sets}");
        assert!(shell("iptables-nft -t nat -S").contains(ours.unwrap()));
        assert!(sets.contains("cali40pools\n"), "in use by somebody");
        assert_eq!(iptables.write(&Family::ALL).await.unwrap(), Written::default());
    });
}

/// Conditions that the scenes do not have, in the words of both families.
fn odd_rules(family: Family) -> Vec<Rule> {
    let protocol = |number, negated| Match::Protocol { number, negated };
    let icmp = |code, negated| Match::Icmp { icmp_type: 255, code, negated };
    let net = |end, net: &str, negated| Match::Net { end, net: net.parse().unwrap(), negated };
    let (wide, narrow) = match family {
        Family::V4 => ("10.0.0.0/8", "10.1.0.0/16"),
        Family::V6 => ("fd00::/8", "fd00:1::/32"),
    };
    let interface = |name| Match::InterfaceName(Interface::Incoming, IfName::new(name).unwrap());
    let matches = vec![
        vec![protocol(0, false)],
        vec![protocol(0, true)],
        vec![protocol(253, false)],
        vec![protocol(6, true), protocol(17, true)],
        vec![icmp(None, false)],
        vec![icmp(Some(7), true)],
        vec![net(End::Source, wide, false), net(End::Source, narrow, true), net(End::Destination, narrow, true)],
        vec![interface("eth0+")],
        vec![interface("a\"b\\c'd")],
        vec![Match::CtState(64 | 8)],
        vec![Match::DestinationTranslated],
        vec![Match::Rate { over: true, packets: 7, unit: 3600, burst: 9 }],
        vec![Match::Rate { over: false, packets: 1, unit: 86400, burst: 9999 }],
    ];
    matches.into_iter().map(|matches| Rule::new(matches, vec![Action::Drop]).counted("odd")).collect()
}

#[test]
fn both_kinds_of_iptables_take_the_odd_rules_too() {
    for variant in Variant::ALL {
        in_a_namespace(move || async move {
            let mut iptables = Iptables::open(variant, Arc::new(Options::default())).unwrap();
            for family in Family::ALL {
                let base = Some(Base { nat: false, hook: Hook::Forward, priority: -5 });
                let chain = Chain { name: "odd".to_owned(), base, comment: None, rules: odd_rules(family) };
                let kinds = [OpKind::AddTable, OpKind::AddChain(ChainHead::from(&chain))];
                for kind in kinds.into_iter().chain(OpKind::rules(chain)) {
                    iptables.absorb(&Op { family, kind }).unwrap();
                }
            }
            iptables.write(&Family::ALL).await.unwrap();
            distrust(&mut iptables);
            assert_eq!(iptables.write(&Family::ALL).await.unwrap(), Written::default(), "read back as written");
            let rules = shell(&format!("{}-save", variant.program()));
            assert_eq!(
                rules.lines().filter(|line| line.starts_with("-A cali-odd ")).count(),
                10 + 4 + 5 + 4,
                "{rules}"
            );
        });
    }
}

/// A set of addresses, or of ports, with these members.
fn filled(family: Family, name: &str, key: Key, members: &[u128]) -> Vec<Op> {
    let spec = SetSpec::set(key, false);
    let ranges = members.iter().map(|member| (*member, *member)).collect();
    let name = name.to_owned();
    let kinds = [
        OpKind::AddTable,
        OpKind::AddSet { name: name.clone(), spec },
        OpKind::AddElements { set: name, spec, ranges },
    ];
    kinds.into_iter().map(|kind| Op { family, kind }).collect()
}

/// A chain of the forward hook with one rule.
fn forwarding(family: Family, matches: Vec<Match>, action: Action) -> Vec<Op> {
    let base = Some(Base { nat: false, hook: Hook::Forward, priority: -5 });
    let chain = Chain { name: "one".to_owned(), base, comment: None, rules: vec![Rule::new(matches, vec![action])] };
    let head = OpKind::AddChain(ChainHead::from(&chain));
    [head].into_iter().chain(OpKind::rules(chain)).map(|kind| Op { family, kind }).collect()
}

fn absorb(iptables: &mut Iptables, ops: Vec<Op>) {
    ops.iter().for_each(|op| iptables.absorb(op).unwrap());
}

fn members_of(iptables: &Iptables, set: &str) -> String {
    let evasion = iptables.families[0].evasions.get(set).copied().unwrap_or_default();
    shell(&format!("ipset save {} | grep ^add | cut -d' ' -f3 | sort | xargs", name::set(Family::V4, set, evasion)))
}

/// One word of a network set must not make everything else wait for ever.
#[test]
fn the_unspecified_address_comes_into_a_set_and_goes_again() {
    in_a_namespace(move || async move {
        let mut iptables = Iptables::open(Variant::Nft, Arc::new(Options::default())).unwrap();
        let family = Family::V4;
        absorb(&mut iptables, filled(family, "s", Key::Address(family), &[0x0a00_0001]));
        let condition = Match::AddressSet { family, end: End::Source, set: "s".to_owned(), negated: false };
        absorb(&mut iptables, forwarding(family, vec![condition], Action::Drop));
        iptables.write(&Family::ALL).await.unwrap();
        assert_eq!(members_of(&iptables, "s").trim(), "10.0.0.1");
        let spec = SetSpec::set(Key::Address(family), false);
        let (set, ranges) = ("s".to_owned(), vec![(0, 0)]);
        let add = OpKind::AddElements { set: set.clone(), spec, ranges: ranges.clone() };
        absorb(&mut iptables, vec![Op { family, kind: add }]);
        iptables.write(&Family::ALL).await.unwrap();
        assert_eq!(members_of(&iptables, "s").trim(), "0.0.0.0 10.0.0.1");
        absorb(&mut iptables, vec![Op { family, kind: OpKind::DeleteElements { set, spec, ranges } }]);
        iptables.write(&Family::ALL).await.unwrap();
        assert_eq!(members_of(&iptables, "s").trim(), "10.0.0.1");
        assert_eq!(shell("ipset list -n").lines().count(), 1, "no set is left over");
    });
}

/// Programs of iptables take a limited number of words a rule.
#[test]
fn thousands_of_ports_are_taken_also_negated() {
    for variant in Variant::ALL {
        in_a_namespace(move || async move {
            let mut iptables = Iptables::open(variant, Arc::new(Options::default())).unwrap();
            let ports: Vec<u128> = (0..3000).map(|n| 10 + 3 * n).collect();
            absorb(&mut iptables, filled(Family::V4, "p", Key::Port, &ports));
            let port = |end, negated| Match::PortSet { end, set: "p".to_owned(), negated };
            let (source, destination) = (port(End::Source, false), port(End::Destination, false));
            let conditions = vec![source, destination, port(End::Destination, true)];
            absorb(&mut iptables, forwarding(Family::V4, conditions, Action::Drop));
            iptables.write(&Family::ALL).await.unwrap();
            distrust(&mut iptables);
            assert_eq!(iptables.write(&Family::ALL).await.unwrap(), Written::default(), "read back as written");
        });
    }
}

/// Who has to go from a set of IPv4 goes, whatever becomes of IPv6.
#[test]
fn a_family_that_cannot_be_written_does_not_hold_up_the_other() {
    in_a_namespace(move || async move {
        let mut iptables = Iptables::open(Variant::Nft, Arc::new(Options::default())).unwrap();
        let family = Family::V4;
        absorb(&mut iptables, filled(family, "s", Key::Address(family), &[0x0a00_0001, 0x0a00_0002]));
        let condition = Match::AddressSet { family, end: End::Source, set: "s".to_owned(), negated: false };
        absorb(&mut iptables, forwarding(family, vec![condition], Action::Accept));
        iptables.write(&Family::ALL).await.unwrap();
        let spec = SetSpec::set(Key::Address(family), false);
        let ranges = vec![(0x0a00_0001, 0x0a00_0001)];
        absorb(&mut iptables, vec![Op { family, kind: OpKind::DeleteElements { set: "s".to_owned(), spec, ranges } }]);
        let impossible = Action::DestinationNat("10.0.0.9".parse().unwrap());
        absorb(&mut iptables, forwarding(Family::V6, Vec::new(), impossible));
        for _ in 0..2 {
            let error = iptables.write(&Family::ALL).await.unwrap_err().to_string();
            assert!(error.contains("ip6tables"), "{error}");
            assert_eq!(members_of(&iptables, "s").trim(), "10.0.0.2");
        }
    });
}

/// A set that could not be removed is not taken for an empty one when its name is wanted again.
#[test]
fn a_set_that_comes_back_has_none_of_its_former_members() {
    in_a_namespace(move || async move {
        let mut iptables = Iptables::open(Variant::Nft, Arc::new(Options::default())).unwrap();
        let family = Family::V4;
        absorb(&mut iptables, filled(family, "s", Key::Address(family), &[0x0a00_0001]));
        iptables.write(&Family::ALL).await.unwrap();
        shell("iptables-nft -A INPUT -m set --match-set cali40s src -j DROP");
        absorb(&mut iptables, vec![Op { family, kind: OpKind::DeleteSet { name: "s".to_owned() } }]);
        iptables.write(&Family::ALL).await.unwrap();
        assert_eq!(members_of(&iptables, "s").trim(), "10.0.0.1", "in use by somebody");
        absorb(&mut iptables, filled(family, "s", Key::Address(family), &[0x0a00_0002]));
        iptables.write(&Family::ALL).await.unwrap();
        assert_eq!(members_of(&iptables, "s").trim(), "10.0.0.2");
    });
}

/// A jump that somebody keeps pushing down is put back a few times, and then left for a while.
#[test]
fn a_fight_over_the_first_place_ends() {
    in_a_namespace(move || async move {
        let mut iptables = told(&state(everything()), Variant::Nft);
        iptables.write(&Family::ALL).await.unwrap();
        let mut written = 0;
        for _ in 0..2 * MOST_DISPLACEMENTS {
            shell("iptables-nft -I FORWARD -i docker0 -j ACCEPT");
            iptables.distrust_rules(Family::V4);
            written += iptables.write(&Family::ALL).await.unwrap().runs;
        }
        assert_eq!(written, MOST_DISPLACEMENTS);
        // One that is gone is always put back.
        shell("iptables-nft -F FORWARD");
        iptables.distrust_rules(Family::V4);
        let mended = iptables.write(&Family::ALL).await.unwrap();
        assert!(mended.runs == 1 && mended.interfered[0], "{mended:?}");
    });
}
