//! From a rule to words.

use std::fmt::Write;

use calico_model::{EntityRule, Port, Protocol, Rule};
use serde_json::Value;

use crate::{Tag, parse, same};

/// A rule in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// One line.
    pub text: String,
    /// True if the line can be typed as it is, and means the rule; false if the rule has something that only v3 has.
    pub is_classic: bool,
}

/// Says a rule. What the classic language has no words for is said in words like v3's own: nothing that decides about
/// packets is left out. Notes on a rule are.
pub fn say(rule: &Rule) -> Said {
    let words = words(rule);
    // Words that only look like a rule of the language mean something else, or nothing.
    let is_classic = parse(&words).is_ok_and(|again| same(&again, rule));
    Said { text: words.join(" "), is_classic }
}

fn words(rule: &Rule) -> Vec<String> {
    let mut words = vec![match rule.parsed_action() {
        Some(action) => action.as_str().to_lowercase(),
        // Upstream stores any word here; what is none of v3's is shown as it is.
        None => format!("action {:?}", rule.action),
    }];
    words.extend(rule.ip_version.map(|version| format!("ipv{version}")));
    words.extend(rule.protocol.as_ref().map(protocol));
    words.extend(rule.not_protocol.as_ref().map(|not| format!("not-protocol {}", protocol(not))));
    for (prefix, icmp) in [("", rule.icmp), ("not-", rule.not_icmp)] {
        let Some(icmp) = icmp else { continue };
        let before = words.len();
        for (name, number) in [("type", icmp.icmp_type), ("code", icmp.code)] {
            if let Some(number) = number {
                words.extend([format!("{prefix}{name}"), number.to_string()]);
            }
        }
        if words.len() == before {
            words.push(format!("{prefix}icmp-any"));
        }
    }
    for (name, said) in [("from", &rule.source), ("to", &rule.destination)] {
        let said = end(said);
        if !said.is_empty() {
            words.push(name.to_owned());
            words.extend(said);
        }
    }
    if let Some(http) = &rule.http {
        words.push(format!("http {}", json(http)));
    }
    words.extend(rule.extra.iter().map(|(name, value)| member(name, value)));
    words
}

fn protocol(protocol: &Protocol) -> String {
    match protocol.number() {
        Some(6) => "tcp".to_owned(),
        Some(17) => "udp".to_owned(),
        Some(1) => "icmp".to_owned(),
        Some(58) => "icmpv6".to_owned(),
        Some(132) => "sctp".to_owned(),
        Some(136) => "udplite".to_owned(),
        _ => format!("protocol {protocol}"),
    }
}

/// The words of one end; none if it has no condition.
fn end(end: &EntityRule) -> Vec<String> {
    let mut words = Vec::new();
    let mut say = |name: &str, value: String| {
        if !value.is_empty() {
            words.extend([name.to_owned(), value]);
        }
    };
    say("ports", ports(&end.ports));
    say("not-ports", ports(&end.not_ports));
    match Tag::of_selector(&end.selector) {
        Some(tag) => say("tag", tag.to_string()),
        None => say("selector", quoted(&end.selector)),
    }
    say("not-selector", quoted(&end.not_selector));
    say("namespaces", quoted(&end.namespace_selector));
    if let Some(accounts) = &end.service_accounts {
        say("service-accounts", json(accounts));
    }
    if let Some(service) = &end.services {
        say("service", json(service));
    }
    say("cidr", end.nets.join(","));
    say("not-cidr", end.not_nets.join(","));
    words.extend(end.extra.iter().map(|(name, value)| member(name, value)));
    words
}

fn quoted(selector: &str) -> String {
    if selector.is_empty() { String::new() } else { format!("{selector:?}") }
}

fn ports(ports: &[Port]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("rules are plain maps with text keys")
}

/// A member that this version does not know.
fn member(name: &str, value: &Value) -> String {
    let mut text = String::new();
    let _ = write!(text, "{name}={value}");
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn of(value: Value) -> Said {
        say(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn classic_rules_are_said_as_they_are_typed() {
        for (text, rule) in [
            ("allow", json!({"action": "Allow"})),
            ("allow from tag WEB", json!({"action": "Allow", "source": {"selector": "WEB==\"\""}})),
            (
                "allow tcp from tag applications to ports 3306",
                json!({"action": "Allow", "protocol": 6, "source": {"selector": "applications == ''"},
                    "destination": {"ports": [3306]}}),
            ),
            ("allow icmp type 8", json!({"action": "Allow", "protocol": "ICMP", "icmp": {"type": 8}})),
            (
                "deny udp from ports 53,1000:2000 cidr fd00::/8,fe80::1/128 to cidr ::/0",
                json!({"action": "Deny", "protocol": "UDP", "source": {"ports": [53, "1000:2000"],
                    "nets": ["fd00::/8", "fe80::1/128"]}, "destination": {"nets": ["::/0"]},
                    "metadata": {"annotations": {"why": "because"}}}),
            ),
        ] {
            let said = of(rule);
            assert_eq!((said.text.as_str(), said.is_classic), (text, true));
        }
    }

    #[test]
    fn what_only_v3_has_is_said_and_not_taken_for_classic() {
        for (text, rule) in [
            ("log", json!({"action": "Log"})),
            ("pass tcp", json!({"action": "Pass", "protocol": "TCP"})),
            ("action \"allow\"", json!({"action": "allow"})),
            ("allow ipv4", json!({"action": "Allow", "ipVersion": 4})),
            ("allow sctp to ports 80", json!({"action": "Allow", "protocol": "SCTP", "destination": {"ports": [80]}})),
            ("allow protocol 47", json!({"action": "Allow", "protocol": 47})),
            ("allow not-protocol tcp", json!({"action": "Allow", "notProtocol": "TCP"})),
            ("allow icmp code 3", json!({"action": "Allow", "protocol": "ICMP", "icmp": {"code": 3}})),
            (
                "allow icmp type 3 code 255",
                json!({"action": "Allow", "protocol": "ICMP", "icmp": {"type": 3, "code": 255}}),
            ),
            ("allow icmp icmp-any", json!({"action": "Allow", "protocol": "ICMP", "icmp": {}})),
            ("allow icmp not-type 8", json!({"action": "Allow", "protocol": "ICMP", "notICMP": {"type": 8}})),
            (
                "allow tcp to ports http,80",
                json!({"action": "Allow", "protocol": "TCP", "destination": {"ports": ["http", 80]}}),
            ),
            (
                "allow tcp to not-ports 80",
                json!({"action": "Allow", "protocol": "TCP", "destination": {"notPorts": [80]}}),
            ),
            (
                "allow from selector \"role == 'db' && a == ''\" not-selector \"b == ''\" namespaces \"has(c)\"",
                json!({"action": "Allow", "source": {"selector": "role == 'db' && a == ''", "notSelector": "b == ''",
                    "namespaceSelector": "has(c)"}}),
            ),
            ("allow from not-cidr 10.0.0.0/8", json!({"action": "Allow", "source": {"notNets": ["10.0.0.0/8"]}})),
            (
                "allow from service-accounts {\"names\":[\"a\"]}",
                json!({"action": "Allow", "source": {"serviceAccounts": {"names": ["a"]}}}),
            ),
            (
                "allow to service {\"name\":\"a\",\"namespace\":\"b\"}",
                json!({"action": "Allow", "destination": {"services": {"name": "a", "namespace": "b"}}}),
            ),
            ("allow http {\"methods\":[\"GET\"]}", json!({"action": "Allow", "http": {"methods": ["GET"]}})),
            ("allow from x={\"y\":1} z=2", json!({"action": "Allow", "source": {"x": {"y": 1}}, "z": 2})),
        ] {
            let said = of(rule);
            assert_eq!((said.text.as_str(), said.is_classic), (text, false));
        }
    }

    /// Sentences of the language, as words.
    fn sentence() -> impl Strategy<Value = Vec<String>> {
        let tag = "[A-Za-z0-9]([A-Za-z0-9_.-]{0,8}[A-Za-z0-9])?";
        let port = prop_oneof![
            (1_u16..).prop_map(|port| port.to_string()),
            (1_u16.., 1_u16.., prop::bool::ANY)
                .prop_map(|(a, b, colon)| { format!("{}{}{}", a.min(b), if colon { ':' } else { '-' }, a.max(b)) }),
        ];
        let ports = prop::collection::vec(port, 1..20).prop_map(|ports| ports.join(","));
        let v4 = (any::<[u8; 4]>(), prop::option::of(0_u8..=32)).prop_map(|(address, length)| {
            let address = std::net::Ipv4Addr::from(address);
            length.map_or_else(|| address.to_string(), |length| format!("{address}/{length}"))
        });
        let v6 = (any::<[u8; 16]>(), prop::option::of(0_u8..=128)).prop_map(|(address, length)| {
            let address = std::net::Ipv6Addr::from(address);
            length.map_or_else(|| address.to_string(), |length| format!("{address}/{length}"))
        });
        let nets = move |is_v6: bool| {
            let one = if is_v6 { v6.clone().boxed() } else { v4.clone().boxed() };
            prop::collection::vec(one, 1..4).prop_map(|nets| nets.join(","))
        };
        let kinds = prop_oneof![
            Just((None, false)),
            Just((None, true)),
            Just((Some("tcp"), false)),
            Just((Some("udp"), true)),
            Just((Some("icmp"), false)),
            Just((Some("icmpv6"), true)),
        ];
        (prop::bool::ANY, kinds).prop_flat_map(move |(deny, (protocol, is_v6))| {
            let has_ports = matches!(protocol, Some("tcp" | "udp"));
            let is_icmp = matches!(protocol, Some("icmp" | "icmpv6"));
            let end = || (prop::option::of(ports.clone()), prop::option::of(tag), prop::option::of(nets(is_v6)));
            let icmp = prop::option::of((0_u8..=254, prop::option::of(0_u8..=254)));
            (icmp, prop::option::of(end()), prop::option::of(end())).prop_map(move |(icmp, from, to)| {
                let mut words = vec![if deny { "deny" } else { "allow" }.to_owned()];
                words.extend(protocol.map(str::to_owned));
                if let Some((icmp_type, code)) = icmp.filter(|_| is_icmp) {
                    words.extend(["type".to_owned(), icmp_type.to_string()]);
                    words.extend(code.into_iter().flat_map(|code| ["code".to_owned(), code.to_string()]));
                }
                for (side, end) in [("from", from), ("to", to)] {
                    let Some((ports, tag, nets)) = end else { continue };
                    words.push(side.to_owned());
                    for (name, value) in [("ports", ports.filter(|_| has_ports)), ("tag", tag), ("cidr", nets)] {
                        words.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
                    }
                }
                words
            })
        })
    }

    proptest! {
        /// Every sentence is a rule that v3 takes, and what is said of that rule means it again.
        #[test]
        fn sentences_become_rules_and_sentences_again(words in sentence()) {
            let rule = parse(&words).unwrap();
            let mut profile = calico_model::Profile::new("p", calico_model::ProfileSpec::default());
            profile.spec.ingress = vec![rule.clone()];
            prop_assert!(profile.prepare().is_ok(), "{:?}", profile.prepare());
            let said = say(&rule);
            prop_assert!(said.is_classic, "{}", said.text);
            let again = parse(&said.text.split(' ').collect::<Vec<_>>()).unwrap();
            prop_assert_eq!(&again, &rule);
            prop_assert_eq!(say(&again), said);
            let document = crate::document("p", std::slice::from_ref(&rule), &[]);
            prop_assert!(document["inbound_rules"][0].get("v3").is_none(), "{}", document);
            prop_assert_eq!(crate::read_document(&document.to_string(), &["p"]).unwrap(), (vec![rule], vec![]));
        }

        /// Nothing that is typed makes the parser fall over, and what it refuses has a place in what was typed.
        #[test]
        fn any_words_are_a_rule_or_have_faults(words in prop::collection::vec(
            prop_oneof![prop::sample::select(&crate::VOCABULARY[..]).prop_map(str::to_owned), ".{0,6}", "[0-9,:-]{1,9}"],
            0..12,
        )) {
            match parse(&words) {
                Ok(rule) => prop_assert!(say(&rule).is_classic),
                Err(bad) => {
                    prop_assert!(!bad.faults().is_empty());
                    for fault in bad.faults() {
                        prop_assert!(fault.to_string().contains('^'));
                    }
                }
            }
        }
    }
}
