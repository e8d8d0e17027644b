#![allow(clippy::unwrap_used)]

use calico_selector::{parse, set_id};
use serde_json::{Value, json};

use super::*;
use crate::{
    index::PortFilter,
    instruction::{EntityMatch, Rule, SetId},
};

fn compile_rule(rule: &Value) -> Result<Rule, String> {
    let spec: ProfileSpec = serde_json::from_value(json!({"ingress": [rule]})).unwrap();
    match profile(&spec, &mut Selectors::default()) {
        Ok(code) => Ok(code.link(set_of).ingress.remove(0)),
        Err(faults) => {
            Err(faults.iter().map(|fault| format!("{}: {}", fault.path, fault.reason)).collect::<Vec<_>>().join("; "))
        }
    }
}

fn set_of(selector: &str, ports: Option<PortFilter<'_>>) -> SetId {
    let id = parse(selector).unwrap().unique_id();
    SetId(match ports {
        None => id,
        Some(PortFilter { name, protocol }) => {
            let word = match protocol {
                None => "any",
                Some(17) => "udp",
                Some(132) => "sctp",
                Some(_) => "tcp",
            };
            set_id::of_named_port(&id, word, name)
        }
    })
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn conditions_are_taken_over() {
    let allow = || Rule::of(RuleAction::Allow);
    let set = |selector: &str| SetId(parse(selector).unwrap().unique_id());
    let cases = [
        (json!({"action": "Allow"}), allow()),
        (json!({"action": "Log", "notProtocol": 47}), Rule { not_protocol: Some(47), ..Rule::of(RuleAction::Log) }),
        (
            json!({"action": "Deny", "protocol": "ICMP", "icmp": {"type": 3, "code": 1}}),
            Rule {
                protocol: Some(ICMP),
                ip_version: Some(4),
                icmp: Some(IcmpMatch { icmp_type: 3, code: Some(1) }),
                ..Rule::of(RuleAction::Deny)
            },
        ),
        (
            json!({"action": "Pass", "protocol": 58, "notICMP": {"type": 128}}),
            Rule {
                protocol: Some(ICMPV6),
                ip_version: Some(6),
                not_icmp: Some(IcmpMatch { icmp_type: 128, code: None }),
                ..Rule::of(RuleAction::Pass)
            },
        ),
        (
            json!({"action": "Allow", "icmp": {"type": 8}}),
            Rule { icmp: Some(IcmpMatch { icmp_type: 8, code: None }), ..allow() },
        ),
        (
            json!({"action": "Allow", "protocol": "ICMP", "icmp": {}}),
            Rule { protocol: Some(ICMP), ip_version: Some(4), ..allow() },
        ),
        (
            json!({"action": "Allow", "protocol": "TCP", "destination": {"ports": [80, "1000:2000"], "notPorts": [1500]}}),
            Rule {
                protocol: Some(6),
                destination: EntityMatch {
                    ports: vec![(80, 80), (1000, 2000)],
                    not_ports: vec![(1500, 1500)],
                    ..Default::default()
                },
                ..allow()
            },
        ),
        // A list of one family binds the rule to it, negated or not; the other family's networks go.
        (
            json!({"action": "Allow", "source": {"nets": ["10.0.0.0/8", "fd00::/8"], "notNets": ["10.1.0.0/16"]}}),
            Rule {
                ip_version: Some(4),
                source: EntityMatch {
                    nets: nets(&["10.0.0.0/8"]),
                    not_nets: nets(&["10.1.0.0/16"]),
                    ..Default::default()
                },
                ..allow()
            },
        ),
        (
            json!({"action": "Allow", "source": {"nets": ["10.0.0.1", "::1"]}}),
            Rule { source: EntityMatch { nets: nets(&["10.0.0.1/32", "::1/128"]), ..Default::default() }, ..allow() },
        ),
        (
            json!({"action": "Allow", "source": {"selector": "has(a)", "notSelector": "has(b)"}, "destination": {"notSelector": "has(c)"}}),
            Rule {
                source: EntityMatch { sets: vec![set("(has(a)) && (!(has(b)))")], ..Default::default() },
                destination: EntityMatch { not_sets: vec![set("has(c)")], ..Default::default() },
                ..allow()
            },
        ),
        (
            json!({"action": "Allow", "source": {"namespaceSelector": "env == 'x'", "serviceAccounts": {"names": ["n"]}}}),
            Rule {
                source: EntityMatch {
                    sets: vec![set("(pcns.env == 'x') && (projectcalico.org/serviceaccount in {'n'})")],
                    ..Default::default()
                },
                ..allow()
            },
        ),
        (
            json!({"action": "Allow", "metadata": {"annotations": {"a": "b"}}, "http": null, "source": {"serviceAccounts": {}}}),
            allow(),
        ),
    ];
    for (rule, expected) in cases {
        assert_eq!(compile_rule(&rule), Ok(expected), "{rule}");
    }
}

#[test]
fn what_is_unclear_is_a_fault_with_its_place() {
    let cases = [
        (json!({"action": "allow"}), "spec.ingress[0].action: it is Allow, Deny, Log or Pass"),
        (json!({}), "spec.ingress[0].action"),
        (
            json!({"action": "Allow", "http": {"methods": ["GET"]}}),
            "spec.ingress[0].http: this condition is not followed",
        ),
        (json!({"action": "Allow", "Source": {"nets": ["10.0.0.0/8"]}}), "spec.ingress[0].Source"),
        (json!({"action": "Allow", "ipVersion": 5}), "ipVersion: it is 4 or 6"),
        (json!({"action": "Allow", "protocol": "tcp"}), "protocol: not a protocol"),
        (json!({"action": "Allow", "notProtocol": 0}), "notProtocol: not a protocol"),
        (json!({"action": "Allow", "protocol": "TCP", "icmp": {"type": 8}}), "icmp: only ICMP and ICMPv6 have types"),
        (json!({"action": "Allow", "notICMP": {"type": 8}}), "notICMP: it needs the protocol ICMP or ICMPv6"),
        (json!({"action": "Allow", "icmp": {}}), "icmp: it needs the protocol"),
        (json!({"action": "Allow", "protocol": "ICMP", "icmp": {"code": 1}}), "icmp: it needs a type"),
        (json!({"action": "Allow", "protocol": "ICMP", "notICMP": {}}), "notICMP: it needs a type"),
        (json!({"action": "Allow", "protocol": "ICMP", "icmp": {"type": 255}}), "icmp: a type is at most 254"),
        (
            json!({"action": "Allow", "protocol": "ICMP", "icmp": {"type": 8, "code": 256}}),
            "icmp: a code is at most 255",
        ),
        (json!({"action": "Allow", "source": {"nets": ["10.0.0.1/8"]}}), "source.nets[0]: it has bits set"),
        (json!({"action": "Allow", "source": {"nets": ["10.0.0.0/8", "x"]}}), "source.nets[1]: not an address"),
        (json!({"action": "Allow", "source": {"ports": [80]}}), "source.ports: ports need the protocol"),
        (
            json!({"action": "Allow", "protocol": "UDPLite", "source": {"notPorts": [80]}}),
            "source.notPorts: ports need",
        ),
        (json!({"action": "Allow", "protocol": "TCP", "source": {"ports": [0]}}), "source.ports[0]: not a port"),
        (json!({"action": "Allow", "protocol": "ICMP", "source": {"ports": ["http"]}}), "source.ports: ports need"),
        (json!({"action": "Allow", "source": {"notPorts": ["http", 80]}}), "source.notPorts: ports need"),
        (json!({"action": "Allow", "source": {"selector": "has("}}), "spec.ingress[0].source: selector: "),
        (json!({"action": "Allow", "source": {"notSelector": "a) || (b"}}), "source: notSelector: "),
        (json!({"action": "Allow", "source": {"selector": "has(a)", "notSelector": " "}}), "source: "),
        (
            json!({"action": "Allow", "source": {"selector": "has(a)", "namespaceSelector": "x"}}),
            "source: namespaceSelector: ",
        ),
        (json!({"action": "Allow", "source": {"serviceAccounts": {"names": ["a'b"]}}}), "serviceAccounts.names"),
        (
            json!({"action": "Allow", "source": {"serviceAccounts": {"name": "a"}}}),
            "source.serviceAccounts.name: this condition is not followed",
        ),
        (
            json!({"action": "Allow", "source": {"services": {"name": "a"}}}),
            "source.services: this condition is not followed",
        ),
    ];
    for (rule, expected) in cases {
        let fault = compile_rule(&rule).unwrap_err();
        assert!(fault.contains(expected), "{rule}: {fault}");
    }
}

#[test]
fn all_faults_are_reported_at_once() {
    let spec: ProfileSpec = serde_json::from_value(json!({
        "ingress": [{"action": "Allow"}, {"action": "no", "source": {"ports": [80]}}],
        "egress": [{"action": "Deny", "destination": {"nets": ["x"]}}],
    }))
    .unwrap();
    let faults = profile(&spec, &mut Selectors::default()).unwrap_err();
    let paths: Vec<&str> = faults.iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(paths, ["spec.ingress[1].action", "spec.ingress[1].source.ports", "spec.egress[0].destination.nets[0]"]);
}

/// Their conditions are clear and never hold: no fault, and no opening either.
#[test]
fn rules_that_hold_in_neither_family_keep_their_place_and_never_match() {
    let never = [
        json!({"action": "Allow", "protocol": "ICMP", "ipVersion": 6}),
        json!({"action": "Allow", "protocol": "ICMP", "source": {"nets": ["fd00::/8"]}}),
        json!({"action": "Allow", "protocol": "ICMPv6", "source": {"notNets": ["10.0.0.0/8"]}}),
        json!({"action": "Allow", "source": {"nets": ["10.0.0.0/8"]}, "destination": {"nets": ["::/0"]}}),
        json!({"action": "Allow", "destination": {"notNets": ["::/0"]}}),
        json!({"action": "Allow", "destination": {"notNets": ["0.0.0.0/0", "10.0.0.0/8"]}}),
        json!({"action": "Deny", "ipVersion": 4, "destination": {"notNets": ["0.0.0.0/0", "fd00::/8"]}}),
    ];
    for rule in never {
        assert_eq!(compile_rule(&rule).unwrap().ip_version, Some(NEITHER_FAMILY), "{rule}");
    }
    let one = json!({"action": "Deny", "destination": {"notNets": ["0.0.0.0/0", "fd00::/8"]}});
    let compiled = compile_rule(&one).unwrap();
    assert_eq!((compiled.ip_version, compiled.destination.not_nets), (Some(6), nets(&["fd00::/8"])));
}

#[test]
fn named_ports_become_sets_that_the_selector_narrows() {
    let named =
        |selector: &str, protocol: Option<u8>, name: &str| set_of(selector, Some(PortFilter { name, protocol }));
    let plain = |selector: &str| set_of(selector, None);
    let cases = [
        (
            json!({"ports": ["http"]}),
            None,
            EntityMatch { port_sets: vec![named("all()", None, "http")], ..EntityMatch::default() },
        ),
        // All ports are named, so the selector's own set is not needed.
        (
            json!({"selector": "has(a)", "ports": ["http", "metrics"]}),
            Some("TCP"),
            EntityMatch {
                port_sets: vec![named("has(a)", Some(6), "http"), named("has(a)", Some(6), "metrics")],
                ..EntityMatch::default()
            },
        ),
        (
            json!({"selector": "has(a)", "ports": ["http", 80]}),
            Some("UDP"),
            EntityMatch {
                sets: vec![plain("has(a)")],
                ports: vec![(80, 80)],
                port_sets: vec![named("has(a)", Some(17), "http")],
                ..EntityMatch::default()
            },
        ),
        (
            json!({"selector": "has(a)", "notPorts": ["http"]}),
            Some("SCTP"),
            EntityMatch {
                sets: vec![plain("has(a)")],
                not_port_sets: vec![named("has(a)", Some(132), "http")],
                ..EntityMatch::default()
            },
        ),
        (
            json!({"notSelector": "has(b)", "ports": ["http"]}),
            Some("TCP"),
            EntityMatch {
                not_sets: vec![plain("has(b)")],
                port_sets: vec![named("all()", Some(6), "http")],
                ..EntityMatch::default()
            },
        ),
    ];
    for (end, protocol, expected) in cases {
        let mut rule = json!({"action": "Allow", "destination": end});
        if let Some(protocol) = protocol {
            rule["protocol"] = json!(protocol);
        }
        assert_eq!(compile_rule(&rule).unwrap().destination, expected, "{rule}");
    }
}

/// The sets that upstream needs for each end of a rule (`vectors/selectors.json`).
#[test]
fn rules_need_the_sets_that_upstream_names() {
    let folder =
        std::env::var("VECTORS").unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors").to_owned());
    let text = std::fs::read_to_string(format!("{folder}/selectors.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    let cases: Vec<&Value> =
        file["set_ids"].as_array().unwrap().iter().filter(|case| case["rule"].is_object()).collect();
    assert!(!cases.is_empty());
    for case in cases {
        let ids = |position: &str| -> Vec<SetId> {
            let sets = case["sets"][position].as_array().into_iter().flatten();
            sets.map(|set| SetId(set["id"].as_str().unwrap().to_owned())).collect()
        };
        let protocol = &case["rule"]["protocol"];
        let rule = match compile_rule(&case["rule"]) {
            Ok(rule) => rule,
            // Upstream renders a rule that never matches; validation refuses it.
            Err(fault) if *protocol == "UDPLite" && fault.contains("ports need the protocol") => continue,
            Err(fault) => panic!("{case}: {fault}"),
        };
        for (end, name) in [(&rule.source, "src"), (&rule.destination, "dst")] {
            assert_eq!(end.sets, ids(name), "{case}");
            assert_eq!(end.not_sets, ids(&format!("not_{name}")), "{case}");
            assert_eq!(end.port_sets, ids(&format!("{name}_ports")), "{case}");
            assert_eq!(end.not_port_sets, ids(&format!("not_{name}_ports")), "{case}");
        }
    }
}
