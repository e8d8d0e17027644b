//! Filters, priorities, gateways and settings around them: from records to a configuration, without I/O.

#![allow(clippy::unwrap_used)]

use crate::common::{
    Known, bird_accepts, config, filter,
    net::{Host, Switch, until},
    node, peer, problems, remove, settings, state, with,
};
use calico_confd::Template;
use calico_model::KindName;
use calico_store::Event;
use proptest::{option, prelude::*, sample::select};
use serde_json::{Value, json};

/// What the filters of the only IPv4 peer do: calls of import and export, or `closed`.
fn screens(events: Vec<Event>) -> [String; 2] {
    let peer = config(events).families[0].peers[0].clone();
    [peer.import, peer.export].map(|screen| if screen.closed { "closed".into() } else { screen.calls.join(" ") })
}

#[test]
fn filters_of_a_peer_in_its_order_and_only_where_they_have_rules() {
    let tor = |filters| peer("tor", json!({"peerIP": "10.192.0.9", "asNumber": 65000, "filters": filters}));
    let events = |filters| {
        with([
            filter("b", json!({"importV4": [{"action": "Reject"}], "exportV6": [{"action": "Accept"}]})),
            filter("a", json!({"importV4": [{"action": "Accept"}], "exportV4": [{"action": "Accept"}]})),
            filter("unused", json!({"importV4": [{"action": "?"}]})),
            tor(filters),
        ])
    };
    assert_eq!(screens(events(json!(["b", "a"]))), ["filter_b_import4 filter_a_import4", "filter_a_export4"]);
    assert_eq!(screens(events(json!([]))), ["", ""]);
    let functions = config(events(json!(["b"]))).families.map(|family| family.functions.len());
    assert_eq!(functions, [1, 0], "those that are called");
    assert_eq!(problems(events(json!(["b", "a"]))), [""; 0]);
}

#[test]
fn a_filter_that_cannot_be_followed_lets_nothing_through_in_its_direction() {
    let tor = || peer("tor", json!({"peerIP": "10.192.0.9", "asNumber": 65000, "filters": ["f"]}));
    for (spec, closed) in [
        (None, ["closed", "closed"]),
        (Some(json!({"importV4": [{"action": "Accept"}, {"action": "Perhaps"}]})), ["closed", ""]),
        (
            Some(json!({"exportV4": [{"action": "Accept", "cidr": "10.0.0.1/8", "matchOperator": "In"}]})),
            ["", "closed"],
        ),
        (Some(json!({"exportV6": [{"action": "Accept", "colour": "blue"}]})), ["", ""]),
        (Some(json!({"importV5": [{"action": "Accept"}]})), ["closed", "closed"]),
    ] {
        let events = || with([tor()].into_iter().chain(spec.clone().map(|spec| filter("f", spec))));
        assert_eq!(screens(events()), closed, "{spec:?}");
        let found = problems(events());
        assert_eq!(found.is_empty(), closed == ["", ""], "{found:?}");
        assert!(found.iter().all(|problem| problem.starts_with("BGPFilter f: ")), "{found:?}");
        let text = Template::built_in().render(&config(events())).unwrap();
        for (direction, wanted) in ["import", "export"].iter().zip(closed) {
            assert_eq!(text.contains(&format!("    {direction} none;")), wanted == "closed", "{spec:?}\n{text}");
        }
    }
    let mut state = state(with([tor(), filter("f", json!({"importV4": [{"action": "Reject"}]}))]));
    assert!(state.absorb(remove(KindName::BGPFilter, "f")), "its removal closes the peer again");
    assert!(state.decide(&Known::default()).unwrap().config.families[0].peers[0].import.closed);
}

/// Whether a peer is in this node's AS depends on the number that this node shows it.
#[test]
fn inside_or_outside_of_the_as() {
    for (spec, internal) in [
        (json!({"asNumber": 64512}), true),
        (json!({"asNumber": 65000}), false),
        (json!({"asNumber": 65000, "localASNumber": 65000}), true),
        (json!({"asNumber": 64512, "localASNumber": 65000}), false),
    ] {
        let mut whole = json!({"peerIP": "10.192.0.9"});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        assert_eq!(config(with([peer("p", whole)])).families[0].peers[0].internal, internal, "{spec}");
    }
    let mesh = with([node("host2", json!({"ipv4Address": "10.192.0.6/16", "asNumber": 65001}))]);
    assert!(!config(mesh).families[0].peers[0].internal);
}

#[test]
fn priorities_are_told_by_all_nodes_once_any_filter_speaks_of_them() {
    let preference = |spec| config(with([filter("elsewhere", spec)])).normal_preference;
    assert_eq!(preference(json!({"importV4": [{"action": "Accept"}]})), None);
    assert_eq!(preference(json!({"importV6": [{"action": "Accept", "priority": 512}]})), Some(2_147_482_623));
    let set = json!([{"setPriority": {"value": 512}}]);
    let spec = json!({"exportV4": [{"action": "Accept", "operations": set}]});
    assert_eq!(preference(spec.clone()), Some(2_147_482_623));

    // Between nodes of different AS numbers no preference arrives: each end says it itself.
    let other = || node("host2", json!({"ipv4Address": "10.192.0.6/16", "asNumber": 65001}));
    let events = || with([filter("elsewhere", spec.clone()), other()]);
    assert_eq!(problems(events()), [""; 0]);
    let text = Template::built_in().render(&config(events())).unwrap();
    assert!(text.contains("import filter import_Mesh_10_192_0_6;"), "{text}");
}

#[test]
fn one_gateway_to_each_neighbour() {
    let via = |name: &str, ip: &str, gateway: &str| {
        peer(name, json!({"peerIP": ip, "asNumber": 65000, "reachableBy": gateway}))
    };
    let events = with([
        via("a", "172.20.0.1", "10.192.0.1"),
        via("b", "172.20.0.1:1790", "10.192.0.2"),
        via("c", "172.20.0.2", "10.192.0.1"),
    ]);
    let gateways = config(events).families[0].gateways.clone();
    let shown: Vec<String> = gateways.iter().map(|g| format!("{} {}", g.peer, g.gateway)).collect();
    assert_eq!(shown, ["172.20.0.1/32 10.192.0.1", "172.20.0.2/32 10.192.0.1"]);
}

#[test]
fn settings_that_are_not_followed_are_said() {
    for (spec, word) in [
        (json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]}), Some("Kubernetes")),
        (json!({"programClusterRoutes": "Disabled"}), Some("programClusterRoutes")),
        (json!({"programClusterRoutes": "EnabledNoEncapOnly", "ipv4NormalRoutePriority": 1024}), None),
        (json!({"ipv6NormalRoutePriority": 512}), Some("ipv6NormalRoutePriority")),
        (json!({"localWorkloadPeeringIPV4": "10.0.0.1"}), Some("localWorkloadPeeringIPV4")),
        (json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["gold"]}]}), Some("gold")),
    ] {
        let found = problems(with([settings(spec.clone())]));
        assert_eq!(found.len(), usize::from(word.is_some()), "{spec}: {found:?}");
        assert!(word.is_none_or(|word| found[0].contains(word)), "{spec}: {found:?}");
    }
}

/// Routes with everything that a rule can ask for: prefix, communities, AS path, preference.
const ROUTES: &str = "
protocol static given {
  ipv4;
  route 10.0.0.0/8 blackhole;
  route 10.1.0.0/16 blackhole { bgp_community.add((65000, 42)); bgp_path.prepend(65009); bgp_path.prepend(65000); };
  route 10.1.2.0/24 blackhole { bgp_large_community.add((65000, 1, 2)); bgp_path.prepend(65009); };
  route 10.1.2.3/32 blackhole { bgp_local_pref = 2147483135; };
  route 11.0.0.0/8 via \"lo\";
}
";

/// The rules' meaning, asked of BIRD itself: which of the routes a list lets through.
#[tokio::test]
async fn rules_mean_what_they_say() {
    let all = "10.0.0.0/8 10.1.0.0/16 10.1.2.0/24 10.1.2.3/32 11.0.0.0/8";
    let net = |cidr: &str, operator: &str| json!({"cidr": cidr, "matchOperator": operator});
    let long = |cidr: &str, operator: &str, length: Value| json!({"cidr": cidr, "matchOperator": operator, "prefixLength": length});
    let cases = [
        (json!({}), all),
        (net("10.1.0.0/16", "Equal"), "10.1.0.0/16"),
        (net("10.1.0.0/16", "NotEqual"), "10.0.0.0/8 10.1.2.0/24 10.1.2.3/32 11.0.0.0/8"),
        (net("10.1.0.0/16", "In"), "10.1.0.0/16 10.1.2.0/24 10.1.2.3/32"),
        (net("10.1.0.0/16", "NotIn"), "10.0.0.0/8 11.0.0.0/8"),
        (net("0.0.0.0/0", "In"), all),
        (net("10.1.2.3/32", "In"), "10.1.2.3/32"),
        (long("10.0.0.0/8", "In", json!({"min": 9, "max": 24})), "10.1.0.0/16 10.1.2.0/24"),
        (long("10.0.0.0/8", "In", json!({"min": 24})), "10.1.2.0/24 10.1.2.3/32"),
        (long("10.0.0.0/8", "NotIn", json!({"max": 16})), "10.1.2.0/24 10.1.2.3/32 11.0.0.0/8"),
        (json!({"communities": {"values": ["65000:42"]}}), "10.1.0.0/16"),
        (json!({"communities": {"values": ["65000:1:2"]}}), "10.1.2.0/24"),
        (json!({"asPathPrefix": [65000]}), "10.1.0.0/16"),
        (json!({"asPathPrefix": [65000, 65009]}), "10.1.0.0/16"),
        (json!({"asPathPrefix": [65009]}), "10.1.2.0/24"),
        (json!({"priority": 512}), "10.1.2.3/32"),
        (json!({"interface": "l*"}), "11.0.0.0/8"),
        (json!({"source": "RemotePeers"}), ""),
        (json!({"peerType": "iBGP"}), all),
        (json!({"peerType": "eBGP"}), ""),
    ];
    let accept = |condition: &Value| {
        let mut rule = condition.clone();
        rule["action"] = json!("Accept");
        json!([rule, {"action": "Reject"}])
    };
    let names: Vec<String> = (0..cases.len()).map(|at| format!("case{at}")).collect();
    let mut events = vec![peer("p", json!({"peerIP": "10.192.0.9", "filters": names}))];
    events.extend(cases.iter().zip(&names).map(|((rule, _), name)| filter(name, json!({"importV4": accept(rule)}))));
    let text = Template::built_in().render(&config(with(events))).unwrap();
    let switch = Switch::new();
    let mut host = Host::new(&switch, 5);
    host.start_foreign_bird(&format!("{text}{ROUTES}")).await;
    until("BIRD answers", std::time::Duration::from_secs(60), || async {
        calico_confd::bird::Client::connect(&host.agent.options.socket_path).await.is_ok()
    })
    .await;
    for ((rule, wanted), name) in cases.iter().zip(&names) {
        let question =
            format!("show route table master4 protocol given filter {{ 'filter_{name}_import4'(true); reject; }}");
        let answer = host.told(&question).await;
        let mut found: Vec<&str> = answer
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|word| word.contains('/'))
            .collect();
        found.sort();
        assert_eq!(found.join(" "), *wanted, "{rule}: {answer}");
    }
}

/// A value for each member of a rule, sensible or not.
fn any_rule() -> impl Strategy<Value = Value> {
    let texts = |texts: &'static [&'static str]| option::of(select(texts).prop_map(|text| json!(text)));
    let number = |low: i64, high: i64| option::of((low..high).prop_map(|number| json!(number)));
    let operations = select(vec![
        json!([{"addCommunity": {"value": "65000:1"}}]),
        json!([{"addCommunity": {"value": "1:2:3"}}, {"prependASPath": {"prefix": [1, 4_294_967_295_u32]}}]),
        json!([{"setPriority": {"value": 1}}, {"setPriority": {"value": 2_147_483_646}}]),
        json!([{"setPriority": {"value": 0}}]),
        json!([{}]),
    ]);
    let members = (
        (select(&["Accept", "Reject", "?"][..]), texts(&["10.0.0.0/8", "fd00::/8", "0.0.0.0/0", "::/0", "10.0.0.1/8"])),
        (texts(&["Equal", "NotEqual", "In", "NotIn"]), number(0, 33), number(0, 129)),
        (texts(&["RemotePeers", "x"]), texts(&["eth*", "*", "a\"b", "cali-_.@1"]), texts(&["eBGP", "iBGP"])),
        (texts(&["65000:1", "1:2:3", "0:0", "70000:1", "x"]), option::of(prop::collection::vec(any::<u32>(), 1..4))),
        (number(0, 3), option::of(operations)),
    );
    members.prop_map(
        |((action, cidr), (operator, low, high), (source, interface, kind), (community, path), (priority, changes))| {
            let mut rule = json!({"action": action});
            let length = match (&low, &high) {
                (None, None) => None,
                _ => Some(json!({"min": low, "max": high})),
            };
            let communities = community.map(|community| json!({"values": [community]}));
            for (member, value) in [
                ("cidr", cidr),
                ("matchOperator", operator),
                ("prefixLength", length),
                ("source", source),
                ("interface", interface),
                ("peerType", kind),
                ("communities", communities),
                ("asPathPrefix", path.map(|path| json!(path))),
                ("priority", priority),
                ("operations", changes),
            ] {
                if let Some(value) = value {
                    rule[member] = value;
                }
            }
            rule
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the rules are, the file is one that BIRD takes: a filter is followed or closed, never a broken file.
    #[test]
    fn bird_accepts_whatever_comes_of_any_rules(rules in prop::collection::vec(any_rule(), 32)) {
        let lists = ["importV4", "exportV4", "importV6", "exportV6"];
        let mut events = vec![node("host1", json!({"ipv4Address": "10.192.0.5/16", "ipv6Address": "fd00:192::5/64"}))];
        for (at, rule) in rules.iter().enumerate() {
            let name = format!("f{at}");
            let spec: Value = [(lists[at % 4].to_owned(), json!([rule]))].into_iter().collect::<serde_json::Map<_, _>>().into();
            events.push(filter(&name, spec));
            // A peer each, so that one closed filter hides no other.
            let address = if at % 4 < 2 { format!("10.192.1.{at}") } else { format!("fd00:192::1:{at:x}") };
            events.push(peer(&name, json!({"peerIP": address, "asNumber": 64512 + at % 2, "filters": [name]})));
        }
        let text = Template::built_in().render(&config(events)).unwrap();
        prop_assert!(bird_accepts(&text).is_ok(), "{:?}\n{text}", bird_accepts(&text));
    }
}
