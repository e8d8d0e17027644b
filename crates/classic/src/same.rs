//! Whether two rules are one.

use calico_model::{EntityRule, Port, Protocol, Rule};
use ipnet::IpNet;

use crate::Tag;

/// True if both match the same packets in the same way and differ in spelling only: `6` and `TCP`, the order of ports,
/// `10.1.2.3/8` and `10.0.0.0/8`. Notes on a rule say nothing of packets.
pub fn same(one: &Rule, other: &Rule) -> bool {
    canonical(one) == canonical(other)
}

fn canonical(rule: &Rule) -> Rule {
    let protocol = |protocol: &Option<Protocol>| protocol.as_ref().map(named);
    Rule {
        protocol: protocol(&rule.protocol),
        not_protocol: protocol(&rule.not_protocol),
        source: end(&rule.source),
        destination: end(&rule.destination),
        metadata: None,
        ..rule.clone()
    }
}

/// The name that v3 has for a protocol's number.
fn named(protocol: &Protocol) -> Protocol {
    let name = match protocol.number() {
        Some(1) => "ICMP",
        Some(6) => "TCP",
        Some(17) => "UDP",
        Some(58) => "ICMPv6",
        Some(132) => "SCTP",
        Some(136) => "UDPLite",
        _ => return protocol.clone(),
    };
    Protocol::Name(name.to_owned())
}

fn end(end: &EntityRule) -> EntityRule {
    EntityRule {
        nets: nets(&end.nets),
        not_nets: nets(&end.not_nets),
        ports: ports(&end.ports),
        not_ports: ports(&end.not_ports),
        selector: selector(&end.selector),
        not_selector: selector(&end.not_selector),
        ..end.clone()
    }
}

fn selector(text: &str) -> String {
    Tag::of_selector(text).map_or_else(|| text.to_owned(), |tag| tag.selector())
}

fn nets(texts: &[String]) -> Vec<String> {
    let clean = |text: &String| text.parse::<IpNet>().map_or_else(|_| text.clone(), |net| net.trunc().to_string());
    let mut nets: Vec<String> = texts.iter().map(clean).collect();
    nets.sort();
    nets.dedup();
    nets
}

fn ports(ports: &[Port]) -> Vec<Port> {
    let mut ports = ports.to_vec();
    ports.sort();
    ports.dedup();
    ports
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn spelling_makes_no_difference_and_everything_else_does() {
        let rule = |value: Value| serde_json::from_value::<Rule>(value).unwrap();
        let base = json!({"action": "Allow", "protocol": "TCP", "source": {"nets": ["10.0.0.0/8", "11.0.0.0/8"]},
            "destination": {"ports": [80, 443], "selector": "web == ''"}});
        for spelling in [
            json!({"protocol": 6}),
            json!({"protocol": "6"}),
            json!({"source": {"nets": ["11.0.0.0/8", "10.1.2.3/8", "10.0.0.0/8"]}}),
            json!({"destination": {"ports": [443, "80:80"], "selector": "web==\"\""}}),
            json!({"metadata": {"annotations": {"why": "because"}}}),
        ] {
            let mut other = base.clone();
            other.as_object_mut().unwrap().extend(spelling.as_object().unwrap().clone());
            assert!(same(&rule(base.clone()), &rule(other)), "{spelling}");
        }
        for difference in [
            json!({"action": "Deny"}),
            json!({"protocol": 17}),
            json!({"ipVersion": 4}),
            json!({"source": {"nets": ["10.0.0.0/8"]}}),
            json!({"destination": {"ports": [80, 443], "selector": "has(web)"}}),
            json!({"unheardOf": true}),
        ] {
            let mut other = base.clone();
            other.as_object_mut().unwrap().extend(difference.as_object().unwrap().clone());
            assert!(!same(&rule(base.clone()), &rule(other)), "{difference}");
        }
    }
}
