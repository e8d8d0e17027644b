#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;

fn compile_rule(rule: &Value) -> Result<Rule, String> {
    let spec: ProfileSpec = serde_json::from_value(json!({"ingress": [rule]})).unwrap();
    match compile(&spec) {
        Ok(mut compiled) => Ok(compiled.rules.ingress.remove(0)),
        Err(faults) => {
            Err(faults.iter().map(|fault| format!("{}: {}", fault.path, fault.reason)).collect::<Vec<_>>().join("; "))
        }
    }
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
        (json!({"action": "Allow", "protocol": "ICMP", "ipVersion": 6}), "its conditions exclude both"),
        (
            json!({"action": "Allow", "source": {"nets": ["10.0.0.0/8"]}, "destination": {"nets": ["::/0"]}}),
            "exclude both",
        ),
        (json!({"action": "Allow", "source": {"nets": ["10.0.0.1/8"]}}), "source.nets[0]: it has bits set"),
        (json!({"action": "Allow", "source": {"nets": ["10.0.0.0/8", "x"]}}), "source.nets[1]: not an address"),
        (json!({"action": "Allow", "destination": {"notNets": ["::/0"]}}), "destination.notNets: it excludes every"),
        (json!({"action": "Allow", "source": {"ports": [80]}}), "source.ports: ports need the protocol"),
        (
            json!({"action": "Allow", "protocol": "UDPLite", "source": {"notPorts": [80]}}),
            "source.notPorts: ports need",
        ),
        (json!({"action": "Allow", "protocol": "TCP", "source": {"ports": [0]}}), "source.ports[0]: not a port"),
        (json!({"action": "Allow", "protocol": "TCP", "source": {"ports": ["http"]}}), "source.ports[0]: named ports"),
        (json!({"action": "Allow", "source": {"selector": "has("}}), "spec.ingress[0].source: selector: "),
        (json!({"action": "Allow", "source": {"notSelector": "a) || (b"}}), "source: notSelector: "),
        (json!({"action": "Allow", "source": {"selector": "has(a)", "notSelector": " "}}), "source.selector: "),
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
    let faults = compile(&spec).unwrap_err();
    let paths: Vec<&str> = faults.iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(paths, ["spec.ingress[1].action", "spec.ingress[1].source.ports", "spec.egress[0].destination.nets[0]"]);
}
