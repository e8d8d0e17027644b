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
    ruleset::{Action, Base, Chain, End, Hook, Interface, Match, Rule},
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
    let sets = iptables.wanted_sets(&[family], true);
    let sets = diff::sets(&sets, &HashMap::new());
    iptables.render(family);
    let context = iptables.context(family);
    let state = &iptables.families[family.index()];
    let mut texts = Texts { state, context: &context, maps: BTreeMap::new() };
    let mut lines = |table: Table, chain: &str| texts.lines(table, chain);
    let rules = diff::rules(&state.wanted, &state.layout.hooks, &Saved::new(), false, &mut lines);
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
            assert_eq!(rules.lines().filter(|line| line.starts_with("-A cali-odd ")).count(), 9 + 4 + 5 + 4, "{rules}");
        });
    }
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
