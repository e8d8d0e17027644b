//! One rule of the dataplane as rules of iptables: their text, and what that means.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

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
    published: BTreeMap<&'static str, BTreeSet<PublishedPort>>,
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
        Self {
            family: Family::V4,
            table: Table::Filter,
            base: None,
            return_allowed: false,
            options: Options::default(),
            ranges,
            published: BTreeMap::new(),
        }
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
    fn published(&self, map: &str) -> Option<&BTreeSet<PublishedPort>> {
        self.published.get(map)
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

/// Whether a TCP packet is dropped by these rules, by the rules' own meaning: ports, protocol and our mark bit.
fn drops(lines: &[String], source: u16, destination: u16) -> bool {
    let bit = scratch(&Options::default());
    let mut mark = 0;
    for line in lines {
        let mut words = line.split(' ').peekable();
        let (mut holds, mut negated) = (true, false);
        let mut target = "";
        let among = |list: &str, port: u16| {
            list.split(',').any(|range| {
                let (first, last) = range.split_once(':').unwrap_or((range, range));
                (first.parse().unwrap()..=last.parse().unwrap()).contains(&port)
            })
        };
        while let Some(word) = words.next() {
            let met = match word {
                "-m" => {
                    words.next();
                    continue;
                }
                "!" => {
                    negated = true;
                    continue;
                }
                "-p" => words.next() == Some("tcp"),
                "--sports" => among(words.next().unwrap(), source),
                "--dports" => among(words.next().unwrap(), destination),
                "--mark" => words.next() == Some(&format!("{bit:#x}/{bit:#x}")) && mark == bit,
                "-j" => {
                    target = words.next().unwrap();
                    break;
                }
                other => panic!("{other} in {line}"),
            };
            holds &= met != std::mem::take(&mut negated);
        }
        match (holds, target) {
            (true, "DROP") => return true,
            (true, "MARK") => {
                mark = if line.ends_with(&format!("{bit:#x}/{bit:#x}")) && !line.contains("0x0/") { bit } else { 0 }
            }
            (true, other) => panic!("{other} in {line}"),
            (false, _) => {}
        }
    }
    false
}

#[test]
fn lists_of_any_length_mean_what_they_say() {
    let single =
        |count: u128, first: u128| -> BTreeSet<Range> { (0..count).map(|n| (first + 2 * n, first + 2 * n)).collect() };
    for (sources, destinations, others) in [(3, 3, 3), (40, 200, 3), (200, 40, 200), (300, 300, 0), (90, 90, 90)] {
        let mut around = Fixture::default();
        around.ranges.insert("sources", single(sources, 0));
        around.ranges.insert("destinations", single(destinations, 1));
        around.ranges.insert("others", single(others, 101));
        let list = |end, set: &str, negated| Match::PortSet { end, set: set.to_owned(), negated };
        let conditions = vec![
            protocol(6, false),
            list(End::Source, "sources", false),
            list(End::Destination, "destinations", false),
            list(End::Destination, "others", true),
        ];
        let lines = lines_in(&around, conditions, vec![Action::Drop]);
        let within = |set: &str, port: u16| around.ranges[set].contains(&(u128::from(port), u128::from(port)));
        for source in [0, 1, 4, 78, 79, 80, 398, 400, 598, 600, 65535] {
            for destination in [0, 1, 2, 79, 81, 99, 101, 103, 105, 279, 281, 399, 401, 499, 501, 599, 601, 65535] {
                let expected =
                    within("sources", source) && within("destinations", destination) && !within("others", destination);
                assert_eq!(drops(&lines, source, destination), expected, "{source} {destination}: {lines:?}");
            }
        }
    }
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
