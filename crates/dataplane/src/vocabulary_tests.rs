//! Every word that rules can be made of: `nft` must read our text as what we write by netlink, and what we read back
//! must be what we wrote.

use std::collections::{BTreeSet, HashMap};

use calico_policy::instruction::{PortMember, PublishedPort};

use crate::{
    family::{Family, Range, address_key},
    golden_tests::{load, normal, same},
    ifname::IfName,
    namespace,
    netlink::Nft,
    op::{ChainHead, Op, OpKind, Target},
    program::chain_fingerprint,
    ruleset::{Action, Base, Chain, End, Hook, Interface, Key, Match, Rule, SetSpec},
    table::ReadElements,
    tracker::fingerprint,
};

const MAP: &str = "by-name";
const PORTS: &str = "ports";
const PUBLISHED_AT: &str = "published-at";
const PUBLISHED: &str = "published";
const TWICE: &str = "twice";

fn eth0() -> IfName {
    IfName::new("eth0").expect("valid")
}

fn base(name: &str, nat: bool, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_owned(), base: Some(Base { nat, hook, priority }), comment: None, rules }
}

fn accept(matches: Vec<Match>) -> Rule {
    Rule::new(matches, vec![Action::Accept])
}

fn just(action: Action) -> Rule {
    Rule::new(Vec::new(), vec![action])
}

fn over_tcp(action: Action) -> Rule {
    Rule::new(vec![Match::Protocol { number: 6, negated: false }], vec![action])
}

/// Words that the golden rules do not have.
fn chains(family: Family) -> Vec<Chain> {
    let address = |v4: &str, v6: &str| if family == Family::V4 { v4 } else { v6 }.parse().expect("an address");
    let ports = |end, negated| Match::PortMemberSet { family, end, set: PORTS.to_owned(), negated };
    let rate = |over, unit| Match::Rate { over, packets: 7, unit, burst: 11 };
    let filter = vec![
        accept(vec![Match::InterfaceName(Interface::Incoming, eth0())]),
        accept(vec![ports(End::Source, false), ports(End::Destination, true)]),
        accept(vec![Match::DestinationTranslated]),
        accept(vec![Match::MarkAny(0x3_0000)]),
        accept(vec![Match::LocalDestination]),
        accept(vec![Match::ToItself { family, set: TWICE.to_owned() }]),
        just(Action::Dispatch(Interface::Incoming, MAP.to_owned())),
        Rule::new(vec![rate(true, 1)], vec![Action::Drop]).counted("over the rate"),
        Rule::new(vec![rate(false, 60)], vec![Action::Log("a minute: ".to_owned())]),
        Rule::new(vec![rate(false, 3600)], vec![Action::Log("an hour: ".to_owned())]),
        Rule::new(vec![rate(false, 86400)], vec![Action::Log("a day: ".to_owned())]),
        Rule::new(
            vec![Match::Protocol { number: 6, negated: false }, Match::ConnectionsOver(3)],
            vec![Action::ResetTcp],
        )
        .counted("too many"),
        just(Action::Reject(family)),
    ];
    let to = address("10.0.0.9", "fd00::9");
    let postrouting = vec![
        over_tcp(Action::Masquerade { ports: Some((1024, 2000)) }),
        over_tcp(Action::SourceNat { to, ports: Some((1024, 2000)) }),
        just(Action::SourceNat { to, ports: None }),
        just(Action::Masquerade { ports: None }),
    ];
    let by = |map: &str, exact| Action::DestinationNatBy { family, map: map.to_owned(), exact };
    let elsewhere = vec![
        Rule::new(vec![Match::LocalDestination], vec![Action::DestinationNat(to)]),
        Rule::new(vec![Match::LocalDestination], vec![by(PUBLISHED_AT, true)]),
        just(by(PUBLISHED, false)),
    ];
    let dscp = vec![just(Action::SetDscp(family, 20)), just(Action::SetDscp(family, 63))];
    vec![
        Chain { name: "target".to_owned(), base: None, comment: None, rules: vec![] },
        base("raw", false, Hook::Prerouting, -300, vec![just(Action::NoTrack)]),
        base("input", false, Hook::Input, -5, filter.clone()),
        base("output", false, Hook::Output, -5, filter),
        base("mangle", false, Hook::Postrouting, -150, dscp),
        base("nat-out", true, Hook::Output, -100, elsewhere),
        base("nat-post", true, Hook::Postrouting, 110, postrouting),
    ]
}

fn members(family: Family) -> Vec<PortMember> {
    let address = if family == Family::V4 { "10.0.0.1" } else { "fd00::1" }.parse().expect("an address");
    [(6, 80), (17, 53), (132, 65535)].map(|(protocol, port)| PortMember { address, protocol, port }).to_vec()
}

/// Published ports, of one address of the host and of all.
fn published(family: Family) -> [Vec<PublishedPort>; 2] {
    let texts = match family {
        Family::V4 => ["192.0.2.1", "0.0.0.0", "10.0.0.1"],
        Family::V6 => ["2001:db8::1", "::", "fd00::1"],
    };
    let [own, all, address] = texts.map(|text| text.parse().expect("an address"));
    [own, all].map(|host| {
        let ports = [(6, 8080, 80), (17, 53, 65535), (132, 1, 1)];
        ports.map(|(protocol, host_port, port)| PublishedPort { protocol, host_port, host, address, port }).to_vec()
    })
}

/// The addresses of which each is two times in an element.
fn twice(family: Family) -> Vec<Range> {
    let texts = if family == Family::V4 { ["10.0.0.1", "192.0.2.255"] } else { ["fd00::1", "2001:db8:1:2:3:4:5:ff"] };
    let key = |text: &str| address_key(&text.parse().expect("an address"));
    texts.map(|text| (key(text), key(text))).to_vec()
}

fn target() -> Target {
    Target { chain: "target".into(), goto: true, comment: "who".into() }
}

fn ops(family: Family) -> Vec<Op> {
    let chains = chains(family);
    let ports = SetSpec::set(Key::PortMember(family), false);
    let mut kinds = vec![
        OpKind::AddTable,
        OpKind::AddSet { name: PORTS.to_owned(), spec: ports },
        OpKind::AddPorts { set: PORTS.to_owned(), ports: members(family) },
        OpKind::AddSet { name: MAP.to_owned(), spec: SetSpec::DISPATCH },
        OpKind::AddSet { name: TWICE.to_owned(), spec: SetSpec::set(Key::Twice(family), false) },
        OpKind::AddElements {
            set: TWICE.to_owned(),
            spec: SetSpec::set(Key::Twice(family), false),
            ranges: twice(family),
        },
    ];
    for ((map, exact), ports) in [(PUBLISHED_AT, true), (PUBLISHED, false)].into_iter().zip(published(family)) {
        let (map, spec) = (map.to_owned(), SetSpec::published(family, exact));
        kinds.push(OpKind::AddSet { name: map.clone(), spec });
        kinds.push(OpKind::AddPublished { map: map.clone(), spec, ports: ports.clone() });
        // Taken out by its key, and another value in its place.
        kinds.push(OpKind::DeletePublished { map: map.clone(), spec, ports: ports[..1].to_vec() });
        kinds.push(OpKind::AddPublished { map, spec, ports: ports[..1].to_vec() });
    }
    kinds.extend(chains.iter().map(|chain| OpKind::AddChain(ChainHead::from(chain))));
    kinds.extend(chains.into_iter().flat_map(OpKind::rules));
    kinds.push(OpKind::AddTargets { map: MAP, targets: vec![(eth0(), target())] });
    kinds.into_iter().map(|kind| Op { family, kind }).collect()
}

fn text(family: Family) -> String {
    let elements: Vec<String> =
        members(family).iter().map(|m| format!("{} . {} . {}", m.address, m.protocol, m.port)).collect();
    let ports = SetSpec::set(Key::PortMember(family), false);
    let mut out = format!(
        "table {family} calico {{\n\tset {PORTS} {{\n\t\t{ports}\n\t\telements = {{ {} }}\n\t}}\n\
         \tmap {MAP} {{\n\t\t{}\n\t\telements = {{ \"eth0\" comment \"who\" : goto target }}\n\t}}\n",
        elements.join(", "),
        SetSpec::DISPATCH,
    );
    let pairs: Vec<String> =
        twice(family).iter().map(|(address, _)| format!("{0} . {0}", family.address(*address))).collect();
    let spec = SetSpec::set(Key::Twice(family), false);
    out += &format!("\tset {TWICE} {{\n\t\t{spec}\n\t\telements = {{ {} }}\n\t}}\n", pairs.join(", "));
    for ((map, exact), ports) in [(PUBLISHED_AT, true), (PUBLISHED, false)].into_iter().zip(published(family)) {
        let element = |port: &PublishedPort| {
            let host = if exact { format!("{} . ", port.host) } else { String::new() };
            format!("{host}{} . {} : {} . {}", port.protocol, port.host_port, port.address, port.port)
        };
        let elements: Vec<String> = ports.iter().map(element).collect();
        let spec = SetSpec::published(family, exact);
        out += &format!("\tmap {map} {{\n\t\t{spec}\n\t\telements = {{ {} }}\n\t}}\n", elements.join(", "));
    }
    for chain in chains(family) {
        out += &chain.to_string();
    }
    out + "}\n"
}

#[test]
fn nft_agrees_with_every_word() {
    for family in Family::ALL {
        let theirs = namespace::Namespace::new().run(move || load(&text(family)));
        namespace::in_a_namespace(move || async move {
            let nft = Nft::open().expect("root");
            nft.commit(&ops(family)).await.expect("accepted");
            let ours = namespace::run(&format!("nft list table {family} calico"));
            same(&normal(&ours), &normal(&theirs));
            // Who saves the rules with `nft list` can load them again.
            let saved = ours.clone();
            same(&normal(&namespace::Namespace::new().run(move || load(&saved))), &normal(&ours));
            let read = nft.read_table(family).await.expect("readable").expect("there");
            for chain in chains(family) {
                assert_eq!(read.chains[&chain.name].content, chain_fingerprint(&chain, family), "{family} {chain}");
            }
            match &read.sets[PORTS].elements {
                ReadElements::Ports(ports) => {
                    assert_eq!(ports.iter().copied().collect::<BTreeSet<_>>(), members(family).into_iter().collect());
                }
                other => panic!("{other:?}"),
            }
            for (map, ports) in [PUBLISHED_AT, PUBLISHED].into_iter().zip(published(family)) {
                match &read.sets[map].elements {
                    ReadElements::Published(there) => {
                        assert_eq!(there.iter().collect::<BTreeSet<_>>(), ports.iter().collect());
                    }
                    other => panic!("{other:?}"),
                }
            }
            match &read.sets[TWICE].elements {
                ReadElements::Ranges(ranges) => {
                    assert_eq!(ranges.iter().collect::<BTreeSet<_>>(), twice(family).iter().collect());
                }
                other => panic!("{other:?}"),
            }
            let targets = HashMap::from([(eth0(), fingerprint(&target()))]);
            assert_eq!(read.sets[MAP].elements, ReadElements::Targets(targets));
        });
    }
}
