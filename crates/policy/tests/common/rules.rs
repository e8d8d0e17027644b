//! Random rules.
//!
//! `bad` says whether things without a clear meaning may come up. One of them closes a whole policy or profile, so most
//! are made without.

use calico_model::{EntityRule, Icmp, Port, Protocol, Rule, ServiceAccountMatch, ServiceMatch};
use proptest::{prelude::*, sample::select};

use super::strings;

pub(super) fn selector(bad: bool, chance: u32) -> impl Strategy<Value = String> {
    let good = strings(&[
        "has(a)",
        "a == ''",
        "a == '1' || b == '2'",
        "!has(b)",
        "all()",
        "a in {'1', '2'} && c != '1'",
        "has(pcns.a)",
        "projectcalico.org/serviceaccount == 'robot'",
        "projectcalico.org/namespace == 'blue'",
        "!(a == '1')",
        "b contains ''",
        "has(hep)",
        "has(set)",
    ]);
    let broken = strings(&["has(", " ", "a) || (b"]);
    prop_oneof![100 - chance => Just(String::new()), chance => good, 3 * u32::from(bad) => broken]
}

fn nets(bad: bool, chance: u32) -> impl Strategy<Value = Vec<String>> {
    let net = move |six: bool| {
        let good: &[&str] =
            if six { &["fd00::/64", "fd00::1/128"] } else { &["10.0.0.0/31", "10.0.0.2", "10.0.0.0/8"] };
        prop_oneof![
            20 => strings(good),
            u32::from(bad) => strings(&["10.0.0.1/8", "any", "0.0.0.0/0", "fd00::/64", "10.0.0.1/32"]),
        ]
    };
    let some = any::<bool>().prop_flat_map(move |six| prop::collection::vec(net(six), 1..3));
    prop_oneof![100 - chance => Just(Vec::new()), chance => some]
}

fn ports(bad: bool, chance: u32, numbers: bool) -> impl Strategy<Value = Vec<Port>> {
    let number = select(vec![Port::Number(80), Port::Number(443), Port::Range(50, 100), Port::Range(53, 53)]);
    let name = || select(vec![Port::Name("http".into()), Port::Name("dns".into()), Port::Name("ghost".into())]);
    let good = if numbers { prop_oneof![3 => number, 2 => name()].boxed() } else { name().boxed() };
    let port = prop_oneof![20 => good, u32::from(bad) => select(vec![Port::Number(0), Port::Range(9, 1)])];
    prop_oneof![100 - chance => Just(Vec::new()), chance => prop::collection::vec(port, 1..3)]
}

fn accounts(bad: bool) -> impl Strategy<Value = Option<ServiceAccountMatch>> {
    let of = |names: &[&str], selector: &str| {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Just(Some(ServiceAccountMatch { names, selector: selector.to_owned(), ..Default::default() }))
    };
    prop_oneof![
        40 => Just(None),
        2 => of(&["robot"], ""),
        1 => of(&[], "has(a)"),
        u32::from(bad) => of(&["it's"], ""),
        u32::from(bad) => of(&[], "has("),
    ]
}

/// `ports`: none, names only, or numbers too.
fn entity(bad: bool, with_ports: (bool, bool)) -> impl Strategy<Value = EntityRule> {
    let services = prop_oneof![
        60 => Just(None),
        u32::from(bad) => Just(Some(ServiceMatch { name: "dns".into(), ..Default::default() })),
    ];
    let namespace = prop_oneof![
        30 => Just(String::new()),
        2 => strings(&["has(a)", "all()", "global()"]),
        u32::from(bad) => strings(&["has("]),
    ];
    let (has_ports, numbers) = with_ports;
    let port_chance = if has_ports { 35 } else { 0 };
    (
        (nets(bad, 15).boxed(), nets(bad, 8).boxed()),
        (selector(bad, 30).boxed(), selector(bad, 15).boxed(), namespace.boxed()),
        (ports(bad, port_chance, numbers).boxed(), ports(bad, port_chance / 3, numbers).boxed()),
        (services.boxed(), accounts(bad).boxed()),
    )
        .prop_map(
            |(
                (nets, not_nets),
                (selector, not_selector, namespace_selector),
                (ports, not_ports),
                (services, service_accounts),
            )| {
                EntityRule {
                    nets,
                    not_nets,
                    selector,
                    not_selector,
                    namespace_selector,
                    ports,
                    not_ports,
                    services,
                    service_accounts,
                    ..Default::default()
                }
            },
        )
}

fn protocol(bad: bool) -> impl Strategy<Value = Option<Protocol>> {
    let of = |texts: &'static [&'static str]| select(texts).prop_map(|text| Some(Protocol::from(text)));
    prop_oneof![
        8 => Just(None),
        8 => of(&["TCP", "6", "UDP", "17"]),
        4 => of(&["ICMP", "ICMPv6", "SCTP", "47", "1"]),
        u32::from(bad) => of(&["tcp", "0"]),
    ]
}

fn icmp(bad: bool) -> impl Strategy<Value = Option<Icmp>> {
    let types = || select(vec![Some(8), Some(3), Some(128)]);
    let good = (types(), select(vec![None, None, Some(0), Some(1)]));
    let odd = (select(vec![None, Some(255), Some(300)]), select(vec![None, Some(0), Some(300)]));
    let one = prop_oneof![4 => good.boxed(), u32::from(bad) => odd.boxed()];
    prop_oneof![2 => Just(None), 3 => one.prop_map(|(icmp_type, code)| Some(Icmp { icmp_type, code }))]
}

pub(super) fn rule(bad: bool) -> impl Strategy<Value = Rule> {
    let action = prop_oneof![
        20 => strings(&["Allow", "Allow", "Allow", "Deny", "Deny", "Pass", "Log"]),
        u32::from(bad) => strings(&["allow", "", "Reject"]),
    ];
    let version = prop_oneof![10 => Just(None), 2 => select(vec![Some(4), Some(6)]), u32::from(bad) => Just(Some(5))];
    let not_protocol = prop_oneof![9 => Just(None), 1 => protocol(bad)];
    let members = |json: serde_json::Value| Just(json.as_object().unwrap().clone());
    let extra = prop_oneof![
        20 => members(serde_json::json!({})),
        1 => members(serde_json::json!({"later": null})),
        u32::from(bad) => members(serde_json::json!({"later": {"than": "now"}})),
    ];
    let http = prop_oneof![60 => Just(false), u32::from(bad) => Just(true)];
    let stray = prop_oneof![9 => Just(false), u32::from(bad) => Just(true)];
    (action.boxed(), version.boxed(), protocol(bad).boxed(), not_protocol.boxed(), extra.boxed(), (http, stray).boxed())
        .prop_flat_map(move |(action, ip_version, protocol, not_protocol, extra, (http, stray))| {
            let numbers = stray || protocol.as_ref().is_some_and(Protocol::has_ports);
            let with_ports = (numbers || protocol.is_none(), numbers);
            let has_types = stray || matches!(protocol.as_ref().and_then(Protocol::number), Some(1 | 58));
            let ends = (entity(bad, with_ports).boxed(), entity(bad, with_ports).boxed());
            (ends, icmp(bad).boxed(), icmp(bad).boxed()).prop_map(move |((source, destination), icmp, not_icmp)| Rule {
                action: action.clone(),
                ip_version,
                protocol: protocol.clone(),
                not_protocol: not_protocol.clone(),
                icmp: icmp.filter(|_| has_types),
                not_icmp: not_icmp.filter(|_| has_types && icmp.is_none()),
                source,
                destination,
                http: http.then(Default::default),
                extra: extra.clone(),
                ..Default::default()
            })
        })
}

/// A rule with at most a protocol, so that it matches many packets.
fn plain() -> impl Strategy<Value = Rule> {
    let action = strings(&["Allow", "Allow", "Deny", "Pass"]);
    let protocol =
        prop_oneof![2 => Just(None), 1 => select(vec!["TCP", "UDP"]).prop_map(|text| Some(Protocol::from(text)))];
    (action, protocol).prop_map(|(action, protocol)| Rule { action, protocol, ..Rule::default() })
}

/// A list of rules; half of the rules may be unclear if `bad`.
pub(super) fn rules(bad: bool, most: usize) -> impl Strategy<Value = Vec<Rule>> {
    let any_rule = any::<bool>().prop_flat_map(move |half| rule(bad && half).boxed());
    prop::collection::vec(prop_oneof![3 => any_rule.boxed(), 2 => plain().boxed()], 0..most)
}
