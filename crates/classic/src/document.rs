//! The JSON of `rule json` and `rule update`.
//!
//! ```json
//! { "id": "WEB",
//!   "inbound_rules": [{ "action": "allow", "protocol": "tcp", "src_tag": "LB", "dst_ports": [80, "8000:8080"] }],
//!   "outbound_rules": [{ "action": "allow" }] }
//! ```
//!
//! Members of a rule: `action`, `protocol`, `icmp_type`, `icmp_code`, and for each of `src` and `dst` `_tag`,
//! `_selector`, `_ports`, `_net`, `_nets` (several networks). A rule that has something that these cannot say is the one
//! member `v3`, with the rule as v3 has it; so what is printed can always be read back without a loss.

use std::collections::BTreeMap;

use calico_model::{EntityRule, Protocol, Rule};
use serde_json::{Map, Value, json};

use crate::{Tag, fault::underlined, keyword::Keyword, parse};

/// The lists of a document, by their v3 name.
const LISTS: [&str; 2] = ["inbound_rules", "outbound_rules"];

/// The members of a rule.
const MEMBERS: [&str; 14] = [
    "action",
    "protocol",
    "icmp_type",
    "icmp_code",
    "src_tag",
    "src_selector",
    "src_ports",
    "src_net",
    "src_nets",
    "dst_tag",
    "dst_selector",
    "dst_ports",
    "dst_net",
    "dst_nets",
];

/// What namespaces are called in the selectors of the time, and in v3's.
const NAMESPACE: (&str, &str) = ("calico/k8s_ns", "projectcalico.org/namespace");

/// A document that cannot be taken, with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadDocument(
    /// Each with the place in the document; there is at least one.
    pub Vec<String>,
);

impl std::fmt::Display for BadDocument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for BadDocument {}

/// The document of a profile's rules.
pub fn document(id: &str, inbound: &[Rule], outbound: &[Rule]) -> Value {
    let rules = |rules: &[Rule]| rules.iter().map(written).collect::<Vec<_>>();
    json!({ "id": id, LISTS[0]: rules(inbound), LISTS[1]: rules(outbound) })
}

/// Reads a document for the profile that is called `names` (as typed, as stored): the inbound rules and the outbound
/// ones.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_document(text: &str, names: &[&str]) -> Result<(Vec<Rule>, Vec<Rule>), BadDocument> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| BadDocument(vec![format!("It is not JSON: {error}.")]))?;
    let Value::Object(members) = value else {
        return Err(BadDocument(vec![
            "It is not an object with the members id, inbound_rules, outbound_rules.".into(),
        ]));
    };
    let mut faults = Vec::new();
    match members.get("id") {
        None => faults.push("Member id is missing.".to_owned()),
        Some(Value::String(id)) if names.contains(&id.as_str()) => {}
        Some(id) => {
            let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
            let name = names.first().copied().unwrap_or_default();
            faults.push(format!("Rules JSON \"id\"={id} doesn't match profile name {name}."));
        }
    }
    let known = |name: &String| name == "id" || LISTS.contains(&name.as_str());
    faults.extend(members.keys().filter(|name| !known(name)).map(|name| format!("Member {name} has no meaning here.")));
    let [inbound, outbound] = LISTS.map(|list| rules(&mut faults, list, members.get(list)));
    if faults.is_empty() { Ok((inbound, outbound)) } else { Err(BadDocument(faults)) }
}

fn rules(faults: &mut Vec<String>, list: &str, value: Option<&Value>) -> Vec<Rule> {
    match value {
        None => faults.push(format!("Member {list} is missing.")),
        Some(Value::Array(items)) => {
            let mut rules = Vec::new();
            for (index, item) in items.iter().enumerate() {
                match read(item) {
                    Ok(rule) => rules.push(rule),
                    Err(found) => faults.extend(found.iter().map(|fault| format!("{list}[{index}]{fault}"))),
                }
            }
            return rules;
        }
        Some(other) => faults.push(format!("{list} = {other}: it is not a list of rules.")),
    }
    Vec::new()
}

/// One rule as classic members, if these say all of it.
fn written(rule: &Rule) -> Value {
    let classic = classic(rule);
    match read(&classic) {
        Ok(again) if again == *rule => classic,
        _ => json!({ "v3": rule }),
    }
}

/// What classic members say of a rule, be it all or not.
fn classic(rule: &Rule) -> Value {
    let mut members = Map::new();
    members.insert("action".into(), rule.action.to_lowercase().into());
    if let Some(Protocol::Name(name)) = &rule.protocol {
        members.insert("protocol".into(), name.to_lowercase().into());
    }
    for (name, number) in
        [("icmp_type", rule.icmp.and_then(|i| i.icmp_type)), ("icmp_code", rule.icmp.and_then(|i| i.code))]
    {
        members.extend(number.map(|number| (name.to_owned(), number.into())));
    }
    for (side, end) in [("src", &rule.source), ("dst", &rule.destination)] {
        let mut set = |name: &str, value: Value| members.insert(format!("{side}_{name}"), value);
        match Tag::of_selector(&end.selector) {
            Some(tag) => drop(set("tag", tag.as_str().into())),
            None if end.selector.is_empty() => {}
            None => drop(set("selector", end.selector.as_str().into())),
        }
        match &end.nets[..] {
            [] => {}
            [net] => drop(set("net", net.as_str().into())),
            nets => drop(set("nets", nets.into())),
        }
        if !end.ports.is_empty() {
            set("ports", json!(end.ports));
        }
    }
    Value::Object(members)
}

/// The faults of one rule begin with what is between the rule and the fault: `.src_net = …` or `: …`.
fn read(item: &Value) -> Result<Rule, Vec<String>> {
    let Value::Object(members) = item else { return Err(vec![format!(" = {item}: it is not an object.")]) };
    if let Some(v3) = members.get("v3") {
        if members.len() > 1 {
            return Err(vec![": beside v3 there must be no other member.".to_owned()]);
        }
        return serde_json::from_value(v3.clone()).map_err(|error| vec![format!(".v3: {error}.")]);
    }
    let mut reader = Reader { members, faults: Vec::new() };
    let rule = reader.rule();
    match rule {
        Some(rule) if reader.faults.is_empty() => Ok(rule),
        _ => Err(reader.faults),
    }
}

/// Turns members into a sentence, which is then read as if it had been typed: so both follow the same rules.
struct Reader<'a> {
    members: &'a Map<String, Value>,
    faults: Vec<String>,
}

impl Reader<'_> {
    fn rule(&mut self) -> Option<Rule> {
        for name in self.members.keys().filter(|name| !MEMBERS.contains(&name.as_str())) {
            self.faults
                .push(format!(".{name}: Key {name} is not allowed on Rule; the keys are {}.", MEMBERS.join(", ")));
        }
        // Upstream's converter takes a rule without action for one that allows.
        let mut sentence = vec![self.text("action").unwrap_or_else(|| "allow".to_owned())];
        sentence.extend(self.protocol());
        for (word, member) in [("type", "icmp_type"), ("code", "icmp_code")] {
            sentence.extend(self.number(member).into_iter().flat_map(|number| [word.to_owned(), number]));
        }
        for (word, side) in [("from", "src"), ("to", "dst")] {
            let values = [
                ("ports", self.ports(&format!("{side}_ports"))),
                ("tag", self.text(&format!("{side}_tag"))),
                ("cidr", self.nets(side)),
            ];
            if values.iter().any(|(_, value)| value.is_some()) {
                sentence.push(word.to_owned());
            }
            for (name, value) in values {
                sentence.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
            }
        }
        let selectors: BTreeMap<&str, String> =
            ["src", "dst"].into_iter().filter_map(|side| Some((side, self.selector(side)?))).collect();
        if !self.faults.is_empty() {
            return None;
        }
        match parse(&sentence) {
            Ok(mut rule) => {
                for (side, selector) in selectors {
                    let end = if side == "src" { &mut rule.source } else { &mut rule.destination };
                    join(end, selector);
                }
                Some(rule)
            }
            Err(bad) => {
                self.faults.extend(bad.faults().iter().map(|fault| format!(": {fault}")));
                None
            }
        }
    }

    fn member(&self, name: &str) -> Option<&Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    fn refuse(&mut self, name: &str, reason: &str) {
        let value = &self.members[name];
        self.faults.push(format!(".{name} = {value}: {reason}"));
    }

    fn text(&mut self, name: &str) -> Option<String> {
        match self.member(name)? {
            Value::String(text) => Some(text.clone()),
            _ => {
                self.refuse(name, "it is not a text.");
                None
            }
        }
    }

    /// A word of another kind in this place could pass for one of the sentence: `from` would be a rule that matches
    /// everything.
    fn protocol(&mut self) -> Option<String> {
        let word = self.text("protocol")?;
        if matches!(Keyword::of(&word), Some(Keyword::Protocol(_))) {
            return Some(word);
        }
        self.refuse("protocol", "it is none of tcp, udp, icmp and icmpv6.");
        None
    }

    fn number(&mut self, name: &str) -> Option<String> {
        match self.member(name)? {
            Value::Number(number) => Some(number.to_string()),
            Value::String(text) => Some(text.clone()),
            _ => {
                self.refuse(name, "it is not a number from 0 to 254.");
                None
            }
        }
    }

    fn ports(&mut self, name: &str) -> Option<String> {
        let ports = match self.member(name)? {
            Value::Array(items) => items.iter().map(port).collect::<Option<Vec<String>>>(),
            _ => None,
        };
        match ports {
            Some(ports) if ports.is_empty() => None,
            Some(ports) => Some(ports.join(",")),
            None => {
                self.refuse(name, "it is not a list of ports (80) and ranges (\"8000:8080\").");
                None
            }
        }
    }

    /// The networks of `_net` and `_nets` together.
    fn nets(&mut self, side: &str) -> Option<String> {
        let mut nets: Vec<String> = self.text(&format!("{side}_net")).into_iter().collect();
        let several = format!("{side}_nets");
        let more = match self.member(&several) {
            None => Some(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            Some(_) => None,
        };
        match more {
            Some(more) => nets.extend(more),
            None => self.refuse(&several, "it is not a list of networks."),
        }
        (!nets.is_empty()).then(|| nets.join(","))
    }

    fn selector(&mut self, side: &str) -> Option<String> {
        let name = format!("{side}_selector");
        let selector = self.text(&name)?.replace(NAMESPACE.0, NAMESPACE.1);
        match calico_selector::parse(&selector) {
            Ok(_) => Some(selector).filter(|selector| !selector.trim().is_empty()),
            Err(error) => {
                self.faults.push(format!(".{name}: {error}{}", underlined(&selector, error.span())));
                None
            }
        }
    }
}

/// A port as it stands in a list.
fn port(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(number.to_string()),
        // A comma would make two of one.
        Value::String(text) if !text.contains(',') => Some(text.clone()),
        _ => None,
    }
}

/// Adds a selector to the tag that an end may have.
fn join(end: &mut EntityRule, selector: String) {
    end.selector = match Tag::of_selector(&end.selector) {
        Some(tag) => format!("({selector}) && {}", tag.selector()),
        None => selector,
    };
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rule(value: Value) -> Rule {
        serde_json::from_value(value).unwrap()
    }

    fn in_document(rules: Value) -> String {
        json!({"id": "WEB", "inbound_rules": rules, "outbound_rules": []}).to_string()
    }

    #[test]
    fn the_documented_form_is_read() {
        let text = in_document(json!([
            {"action": "allow", "src_tag": "lb", "dst_ports": [80, "1000:2000", "443"], "protocol": "tcp"},
            {"protocol": null, "src_tag": null, "dst_ports": []},
            {"action": "deny", "protocol": "icmp", "icmp_type": 3, "icmp_code": "4", "src_net": "10.1.0.5/8"},
            {"action": "allow", "dst_net": "fd00::1", "dst_nets": ["fe80::/10"]},
        ]));
        let (inbound, outbound) = read_document(&text, &["WEB", "web-f1e29c6d"]).unwrap();
        assert_eq!(outbound, []);
        let expected = [
            json!({"action": "Allow", "protocol": "TCP", "source": {"selector": "lb == ''"},
                "destination": {"ports": [80, "1000:2000", 443]}}),
            json!({"action": "Allow"}),
            json!({"action": "Deny", "protocol": "ICMP", "icmp": {"type": 3, "code": 4}, "source": {"nets": ["10.0.0.0/8"]}}),
            json!({"action": "Allow", "destination": {"nets": ["fd00::1/128", "fe80::/10"]}}),
        ];
        assert_eq!(inbound, expected.map(rule));
    }

    #[test]
    fn a_selector_and_a_tag_must_both_hold() {
        let text = in_document(json!([
            {"src_selector": "a == 'b' || has(c)", "src_tag": "T", "dst_selector": "calico/k8s_ns == 'x'"},
            {"src_selector": " "},
        ]));
        let (inbound, _) = read_document(&text, &["WEB"]).unwrap();
        assert_eq!(inbound[0].source.selector, "(a == 'b' || has(c)) && T == ''");
        assert_eq!(inbound[0].destination.selector, "projectcalico.org/namespace == 'x'");
        assert_eq!(inbound[1], rule(json!({"action": "Allow"})));
    }

    #[test]
    fn what_is_written_is_read_back_as_it_was() {
        let rules = [
            json!({"action": "Allow"}),
            json!({"action": "Allow", "protocol": "ICMPv6", "icmp": {"type": 128, "code": 0}}),
            json!({"action": "Deny", "protocol": "UDP", "source": {"ports": [53], "nets": ["10.0.0.0/8"],
                "selector": "role == 'db'"}, "destination": {"nets": ["11.0.0.0/8", "12.0.0.0/8"]}}),
            json!({"action": "Log"}),
            json!({"action": "Allow", "protocol": 6}),
            json!({"action": "Allow", "protocol": "TCP", "destination": {"ports": ["http"]}}),
            json!({"action": "Allow", "source": {"notSelector": "a == ''"}, "metadata": {"annotations": {"a": "b"}}}),
            json!({"action": "Allow", "icmp": {"code": 3}, "unheardOf": [1]}),
        ]
        .map(rule);
        let written = document("WEB", &rules, &rules[..1]);
        let (inbound, outbound) = read_document(&written.to_string(), &["WEB"]).unwrap();
        assert_eq!((&inbound[..], &outbound[..]), (&rules[..], &rules[..1]));
        let is_v3: Vec<bool> =
            written["inbound_rules"].as_array().unwrap().iter().map(|rule| rule.get("v3").is_some()).collect();
        assert_eq!(is_v3, [false, false, false, true, true, true, true, true]);
        assert_eq!(
            written["inbound_rules"][2],
            json!({"action": "deny", "protocol": "udp", "src_ports": [53], "src_net": "10.0.0.0/8",
                "src_selector": "role == 'db'", "dst_nets": ["11.0.0.0/8", "12.0.0.0/8"]})
        );
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_place() {
        let told = |text: &str| read_document(text, &["WEB"]).unwrap_err().0;
        assert!(told("{not json")[0].starts_with("It is not JSON: "), "{:?}", told("{not json"));
        assert_eq!(told("[]"), ["It is not an object with the members id, inbound_rules, outbound_rules."]);
        assert_eq!(
            told(r#"{"inbound_rules": 7, "rules": []}"#),
            [
                "Member id is missing.",
                "Member rules has no meaning here.",
                "inbound_rules = 7: it is not a list of rules.",
                "Member outbound_rules is missing.",
            ]
        );
        let bad = json!({"id": "APP", "inbound_rules": [
            {"action": "allow", "foo": 1},
            {"action": "drop"},
            {"protocol": "icmp", "dst_ports": [80]},
            7,
            {"src_tag": 7, "dst_ports": "80", "icmp_type": [], "src_nets": [1]},
            {"v3": {"action": "Allow"}, "action": "allow"},
            {"v3": {"source": 7}},
            {"src_selector": "a = 'b'"},
            {"protocol": "tcp", "dst_ports": ["90:80", "1,2"]},
            {"icmp_code": 3},
            {"action": "allow", "protocol": "from"},
            {"action": "tcp"},
        ], "outbound_rules": []});
        let told = told(&bad.to_string());
        let beginnings = [
            "Rules JSON \"id\"=APP doesn't match profile name WEB.",
            "inbound_rules[0].foo: Key foo is not allowed on Rule; the keys are action, protocol,",
            "inbound_rules[1]: This word has no meaning here.\n    drop\n    ^^^^",
            "inbound_rules[2]: Ports are not valid with protocol icmp.\n    allow icmp to ports 80\n",
            "inbound_rules[3] = 7: it is not an object.",
            "inbound_rules[4].icmp_type = []: it is not a number",
            "inbound_rules[4].src_tag = 7: it is not a text.",
            "inbound_rules[4].src_nets = [1]: it is not a list of networks.",
            "inbound_rules[4].dst_ports = \"80\": it is not a list of ports",
            "inbound_rules[5]: beside v3 there must be no other member.",
            "inbound_rules[6].v3: invalid type",
            "inbound_rules[7].src_selector: ",
            "inbound_rules[8].dst_ports = [\"90:80\",\"1,2\"]: it is not a list of ports",
            "inbound_rules[9]: A code needs a type before it.",
            "inbound_rules[9]: A code is for icmp and icmpv6.",
            "inbound_rules[10].protocol = \"from\": it is none of tcp, udp, icmp and icmpv6.",
            "inbound_rules[11]: A rule begins with allow or deny.",
        ];
        assert_eq!(told.len(), beginnings.len(), "{told:#?}");
        for (fault, beginning) in told.iter().zip(beginnings) {
            assert!(fault.starts_with(beginning), "{beginning}: {fault}");
        }
        assert!(told[11].ends_with("\n    a = 'b'\n      ^"), "{}", told[11]);
    }
}
