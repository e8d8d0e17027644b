#![allow(clippy::unwrap_used)]
use serde_json::{Value, json};

use super::*;

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn rule(text: &str) -> Value {
    let rule = parse(&words(text)).unwrap_or_else(|bad| panic!("{text}: {bad}"));
    let mut rule = serde_json::to_value(rule).unwrap();
    rule.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    rule
}

/// Each fault as the words that it underlines and its reason, and whether the grammar is broken.
fn faults(text: &str) -> (Vec<(String, String)>, bool) {
    let bad = parse(&words(text)).expect_err(text);
    let told = bad.faults().iter().map(|fault| (fault.words().to_owned(), fault.reason().to_owned()));
    (told.collect(), bad.is_grammar())
}

#[test]
fn sentences_of_the_reference_are_v3_rules() {
    for (text, expected) in [
        ("allow", json!({"action": "Allow"})),
        ("deny", json!({"action": "Deny"})),
        ("allow tcp", json!({"action": "Allow", "protocol": "TCP"})),
        ("allow icmp", json!({"action": "Allow", "protocol": "ICMP"})),
        ("allow icmpv6 type 128", json!({"action": "Allow", "protocol": "ICMPv6", "icmp": {"type": 128}})),
        ("allow tcp to ports 80", json!({"action": "Allow", "protocol": "TCP", "destination": {"ports": [80]}})),
        (
            "allow tcp from ports 5 tag A cidr 10.0.0.0/8 to ports 6 tag B cidr 11.0.0.0/8",
            json!({"action": "Allow", "protocol": "TCP",
                "source": {"ports": [5], "selector": "A == ''", "nets": ["10.0.0.0/8"]},
                "destination": {"ports": [6], "selector": "B == ''", "nets": ["11.0.0.0/8"]}}),
        ),
        (
            "allow from tag DB cidr 10.0.0.0/8 to tag X cidr 11.0.0.0/8",
            json!({"action": "Allow", "source": {"selector": "DB == ''", "nets": ["10.0.0.0/8"]},
                "destination": {"selector": "X == ''", "nets": ["11.0.0.0/8"]}}),
        ),
        (
            "allow icmpv6 type 3 code 2 from tag A to tag B cidr fe80::/10",
            json!({"action": "Allow", "protocol": "ICMPv6", "icmp": {"type": 3, "code": 2},
                "source": {"selector": "A == ''"}, "destination": {"selector": "B == ''", "nets": ["fe80::/10"]}}),
        ),
        ("allow from", json!({"action": "Allow"})),
        ("allow tcp from", json!({"action": "Allow", "protocol": "TCP"})),
        ("allow tcp from to", json!({"action": "Allow", "protocol": "TCP"})),
        ("DENY UDP to ports 57", json!({"action": "Deny", "protocol": "UDP", "destination": {"ports": [57]}})),
        (
            "allow udp to ports 53,1000:2000,3000-4000",
            json!({"action": "Allow", "protocol": "UDP", "destination": {"ports": [53, "1000:2000", "3000:4000"]}}),
        ),
        (
            "allow from cidr 10.1.0.5/8,1.2.3.4",
            json!({"action": "Allow", "source": {"nets": ["10.0.0.0/8", "1.2.3.4/32"]}}),
        ),
        (
            "allow from tag from to tag cidr",
            json!({"action": "Allow", "source": {"selector": "from == ''"}, "destination": {"selector": "cidr == ''"}}),
        ),
    ] {
        assert_eq!(rule(text), expected, "{text}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_words() {
    for (text, grammar, expected) in [
        ("", true, vec![("", "A rule begins with allow or deny.")]),
        ("tcp to ports 80", true, vec![("tcp", "A rule begins with allow or deny.")]),
        ("drop tcp", true, vec![("drop", UNKNOWN)]),
        ("zzz tcp", true, vec![("zzz", "A rule begins with allow or deny.")]),
        ("allow deny", true, vec![("deny", "A rule has one action, and it is allow already.")]),
        ("allow tcp udp", true, vec![("udp", "A rule has one protocol, and it is tcp already.")]),
        ("allow sctp", true, vec![("sctp", "The protocols here are tcp, udp, icmp and icmpv6.")]),
        ("allow from ports 80", true, vec![("ports 80", "Ports need a protocol that has them: tcp or udp.")]),
        ("allow icmp to ports 80", true, vec![("ports 80", "Ports are not valid with protocol icmp.")]),
        ("allow tcp to ports", true, vec![("ports", "A value is missing behind ports.")]),
        ("allow tcp to ports tag A", true, vec![("ports", "A value is missing behind ports.")]),
        ("allow from tag", true, vec![("tag", "A value is missing behind tag.")]),
        ("allow tcp ports 80", true, vec![("ports", "ports needs from or to before it.")]),
        ("allow tcp to port 80", true, vec![("port", UNKNOWN)]),
        ("allow from 192.168.0.0/16", true, vec![("192.168.0.0/16", UNKNOWN)]),
        ("allow icmp code 3", true, vec![("code", "A code needs a type before it.")]),
        ("allow type 3", true, vec![("type 3", "A type is for icmp and icmpv6.")]),
        ("allow tcp type 3", true, vec![("type 3", "A type is for icmp and icmpv6.")]),
        (
            "allow icmp code 3 type 3",
            true,
            vec![("code", "A code needs a type before it."), ("type", "type stands before code.")],
        ),
        ("allow icmp from tag A type 3", true, vec![("type", "type stands before from.")]),
        ("allow from tag A to tag B tcp", true, vec![("tcp", "tcp stands before from.")]),
        ("allow to tag X from tag Y", true, vec![("from", "from stands before to.")]),
        ("allow from tag A from tag B", true, vec![("from", "A rule has one from."), ("tag", "tag is there twice.")]),
        ("allow from cidr 10.0.0.0/8 tag T", true, vec![("tag", "tag stands before cidr.")]),
        ("allow tcp from tag A ports 5", true, vec![("ports", "ports stands before tag.")]),
        ("allow tcp from cidr 10.0.0.0/8 ports 5", true, vec![("ports", "ports stands before cidr.")]),
        ("allow tcp to ports 80 ports 81", true, vec![("ports", "ports is there twice.")]),
        ("allow icmp type 3 type 4", true, vec![("type", "A rule has one type.")]),
        ("allow icmp type 255", false, vec![("255", "Invalid ICMP type \"255\": it is a number from 0 to 254.")]),
        ("allow icmp type 3 code x", false, vec![("x", "Invalid ICMP code \"x\": it is a number from 0 to 254.")]),
        (
            "allow from tag bad!",
            false,
            vec![(
                "bad!",
                "Tag \"bad!\" is not valid: only letters, digits, dots, dashes and underscores are allowed.",
            )],
        ),
        (
            "allow from cidr 300.0.0.0/8",
            false,
            vec![(
                "300.0.0.0/8",
                "Invalid CIDR specified: \"300.0.0.0/8\" is no network (as 10.0.0.0/8 or fd00::/64) and no address.",
            )],
        ),
        (
            "allow icmp from cidr fe80::/10",
            false,
            vec![("fe80::/10", "fe80::/10 is IPv6, but icmp is IPv4's; that of IPv6 is icmpv6.")],
        ),
        (
            "allow icmpv6 from cidr 10.0.0.0/8",
            false,
            vec![("10.0.0.0/8", "10.0.0.0/8 is IPv4, but icmpv6 is IPv6's; that of IPv4 is icmp.")],
        ),
        (
            "allow from cidr 10.0.0.0/8 to cidr fe80::/10",
            false,
            vec![("fe80::/10", "fe80::/10 is IPv6, but 10.0.0.0/8 is IPv4, and a rule is of one family.")],
        ),
        ("allow tcp to ports 80,99999,443", false, vec![("99999", "Port (99999) out-of-range: ports are 1 to 65535.")]),
    ] {
        let (told, is_grammar) = faults(text);
        let told: Vec<(&str, &str)> = told.iter().map(|(words, reason)| (words.as_str(), reason.as_str())).collect();
        assert_eq!(told, expected, "{text}");
        assert_eq!(is_grammar, grammar, "{text}");
    }
}

#[test]
fn all_faults_are_told_at_once_in_the_order_of_the_words() {
    let (told, _) = faults("alow icmp type 300 from ports 0,x tag b@d cidr 10.0.0.0/8,fd00::/8,y to prots 80 cidr 1/2");
    let words: Vec<&str> = told.iter().map(|(words, _)| words.as_str()).collect();
    assert_eq!(
        words,
        ["alow", "300", "ports 0,x", "0", "x", "b@d", "fd00::/8", "y", "prots", "prots 80", "1/2"],
        "{told:#?}"
    );
}

#[test]
fn the_marks_stand_below_the_words() {
    let bad = parse(&["allow", "tcp", "to", "ports", "80,x"]).unwrap_err();
    let text = bad.faults()[0].to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1..], ["    allow tcp to ports 80,x", "                          ^"]);
    // A word of several lines or without letters is marked too.
    let bad = parse(&["allow", "", "from\nto"]).unwrap_err();
    assert_eq!(bad.faults().len(), 2);
    assert!(bad.faults()[0].to_string().ends_with("\n    allow  from to\n          ^"), "{}", bad.faults()[0]);
    let ports = vec!["1"; 5000].join(",");
    let bad = parse(&["allow", "tcp", "to", "ports", &format!("{ports},x,{ports}")]).unwrap_err();
    let text = bad.faults()[0].to_string();
    assert!(text.lines().all(|line| line.chars().count() < 400), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let place = lines[2].find('^').unwrap();
    assert_eq!(lines[1].chars().nth(lines[2][..place].chars().count()), Some('x'), "{text}");
}

#[test]
fn the_hint_says_what_to_type() {
    for (text, hint) in [
        ("allow from 192.168.0.0/16", "say cidr before a network or address: from cidr 192.168.0.0/16"),
        ("allow tcp to 80", "say ports before a port: to ports 80"),
        ("allow tcp 80", "say ports before a port: to ports 80"),
        ("allow from DB", "say tag before a tag: from tag DB"),
        ("allow tcp to port 80", "say ports for port"),
        ("allow tcp src tag A", "say from for src"),
        ("drop", "say deny for drop"),
        ("allow icmp6", "say icmpv6 for icmp6"),
        ("deny from ports 80", "say tcp or udp first, as in: deny tcp to ports 80"),
        ("allow tcp", ""),
    ] {
        match parse(&words(text)) {
            Ok(_) => assert_eq!(hint, "", "{text}"),
            Err(bad) => assert_eq!(bad.faults()[0].hint(), Some(hint), "{text}"),
        }
    }
}
