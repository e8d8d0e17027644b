//! Rules in one line.

use std::fmt::Write;

use calico_model::{EntityRule, Icmp, Port, Protocol, Rule};

/// A rule as people say it: `Allow TCP from role == 'web' to ports 80,443`.
pub fn rule(rule: &Rule) -> String {
    let mut text = if rule.action.is_empty() { "Allow".to_owned() } else { rule.action.clone() };
    if let Some(version) = rule.ip_version {
        let _ = write!(text, " IPv{version}");
    }
    protocol(&mut text, rule);
    for (word, icmp) in [("", &rule.icmp), (" not", &rule.not_icmp)] {
        if let Some(Icmp { icmp_type, code }) = icmp {
            let _ = write!(text, "{word} type {}", icmp_type.map_or("any".to_owned(), |number| number.to_string()));
            if let Some(code) = code {
                let _ = write!(text, " code {code}");
            }
        }
    }
    for (word, end) in [("from", &rule.source), ("to", &rule.destination)] {
        let said = entity(end);
        if !said.is_empty() {
            let _ = write!(text, " {word} {said}");
        }
    }
    text
}

fn protocol(text: &mut String, rule: &Rule) {
    for (word, protocol) in [("", &rule.protocol), ("not ", &rule.not_protocol)] {
        if let Some(protocol) = protocol {
            let _ = match protocol {
                Protocol::Number(number) => write!(text, " {word}protocol {number}"),
                other => write!(text, " {word}{other}"),
            };
        }
    }
}

/// One end of a rule, empty if it has no condition.
pub fn entity(end: &EntityRule) -> String {
    let mut parts = Vec::new();
    let mut say = |word: &str, value: String| {
        if !value.is_empty() {
            parts.push(if word.is_empty() { value } else { format!("{word} {value}") });
        }
    };
    say("namespaces", end.namespace_selector.clone());
    say("", end.selector.clone());
    say("not", end.not_selector.clone());
    if let Some(accounts) = &end.service_accounts {
        say("service accounts", accounts.names.join(","));
        say("service accounts", accounts.selector.clone());
    }
    if let Some(service) = &end.services {
        say("service", service.name.clone());
    }
    say("nets", end.nets.join(","));
    say("not nets", end.not_nets.join(","));
    say("ports", ports(&end.ports));
    say("not ports", ports(&end.not_ports));
    parts.join(" ")
}

fn ports(ports: &[Port]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_rule_is_one_line() {
        let said = |json: serde_json::Value| rule(&serde_json::from_value(json).unwrap());
        assert_eq!(said(serde_json::json!({"action": "Deny"})), "Deny");
        assert_eq!(
            said(serde_json::json!({"action": "Allow", "protocol": "TCP", "source": {"selector": "role == 'web'"},
                "destination": {"ports": [80, "1000:2000", "http"], "notNets": ["10.0.0.0/8"]}})),
            "Allow TCP from role == 'web' to not nets 10.0.0.0/8 ports 80,1000:2000,http"
        );
        assert_eq!(
            said(
                serde_json::json!({"action": "Allow", "ipVersion": 4, "protocol": "ICMP", "notICMP": {"type": 3, "code": 4}})
            ),
            "Allow IPv4 ICMP not type 3 code 4"
        );
        assert_eq!(said(serde_json::json!({"action": "Pass", "notProtocol": 17})), "Pass not protocol 17");
    }
}
