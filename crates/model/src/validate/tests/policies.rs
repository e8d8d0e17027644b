//! Policies and their rules, by tables.

use super::*;
use crate::{
    GlobalNetworkPolicySpec, NetworkPolicySpec, StagedGlobalNetworkPolicySpec, StagedKubernetesNetworkPolicySpec,
    StagedNetworkPolicySpec,
};

fn global(spec: &str) -> Vec<String> {
    paths::<GlobalNetworkPolicySpec>(&format!(r#"{{"metadata":{{"name":"p"}},"spec":{{{spec}}}}}"#))
}

fn of_a_namespace(spec: &str) -> Vec<String> {
    let metadata = r#"{"name":"p","namespace":"prod"}"#;
    paths::<NetworkPolicySpec>(&format!(r#"{{"metadata":{metadata},"spec":{{{spec}}}}}"#))
}

/// The paths below `spec.ingress[0]` of a global policy.
fn rule(json: &str) -> Vec<String> {
    let found = global(&format!(r#""ingress":[{json}]"#));
    let below = |path: &String| path.strip_prefix("spec.ingress[0]").unwrap_or(path).to_owned();
    found.iter().map(below).collect()
}

#[test]
fn policies_by_table() {
    let long = format!(r#""selector":"has({})""#, "a/".repeat(600));
    let edge = format!(r#""selector":"a == '{}'""#, "x".repeat(1017));
    let rules = format!(r#""egress":[{}]"#, [r#"{"action":"Allow"}"#; 1025].join(","));
    let table: &[(&str, &[&str])] = &[
        ("", &[]),
        (r#""order":-1.5,"types":["Egress","Ingress"],"performanceHints":["AssumeNeededOnEveryNode"]"#, &[]),
        // The tier's name stands in a label too.
        (r#""tier":"Not A Tier""#, &["metadata.labels", "spec.tier"]),
        (r#""types":["Ingress","Ingress"]"#, &["spec.types[1]"]),
        (r#""types":["ingress","Egress"]"#, &["spec.types[0]"]),
        (r#""performanceHints":["Fast"]"#, &["spec.performanceHints[0]"]),
        (r#""stagedAction":"Set""#, &["spec.stagedAction"]),
        (r#""doNotTrack":true,"applyOnForward":true"#, &[]),
        (r#""doNotTrack":true"#, &["spec.doNotTrack"]),
        (r#""preDNAT":true"#, &["spec.preDNAT"]),
        (r#""preDNAT":true,"doNotTrack":true,"applyOnForward":true"#, &["spec.preDNAT"]),
        (r#""preDNAT":true,"applyOnForward":true,"types":["Ingress","Egress"]"#, &["spec.types"]),
        (r#""preDNAT":true,"applyOnForward":true,"types":["Ingress"],"egress":[{"action":"Allow"}]"#, &["spec.egress"]),
        (
            r#""selector":"a = 'b'","namespaceSelector":"has(","serviceAccountSelector":"x""#,
            &["spec.selector", "spec.serviceAccountSelector", "spec.namespaceSelector"],
        ),
        (r#""selector":"global()""#, &[]),
        (r#""namespaceSelector":"!global()""#, &["spec.namespaceSelector"]),
        (&edge, &[]),
        (&long, &["spec.selector", "spec.selector"]),
        (&rules, &["spec.egress"]),
    ];
    for (spec, expected) in table {
        assert_eq!(global(spec), *expected, "{}", &spec[..spec.len().min(200)]);
    }
}

#[test]
fn rules_of_policies_by_table() {
    let nets = format!(r#"{{"action":"Allow","source":{{"nets":[{}]}}}}"#, [r#""10.0.0.0/8""#; 257].join(","));
    let ports =
        format!(r#"{{"action":"Allow","protocol":"TCP","destination":{{"notPorts":[{}]}}}}"#, ["1"; 51].join(","));
    let selector = format!(r#"{{"action":"Allow","source":{{"selector":"a == '{}'"}}}}"#, "x".repeat(1020));
    let methods = format!(
        r#"{{"action":"Allow","http":{{"methods":[{}]}}}}"#,
        (0..21).map(|n| format!(r#""M{n}""#)).collect::<Vec<_>>().join(",")
    );
    let table: &[(&str, &[&str])] = &[
        (r#"{"action":"Log","metadata":{"annotations":{"why":"so"}}}"#, &[]),
        (r#"{"action":"any word"}"#, &[".action"]),
        (r#"{}"#, &[".action"]),
        (r#"{"action":"Allow","ipVersion":5}"#, &[".ipVersion"]),
        (r#"{"action":"Allow","ipVersion":4,"protocol":58}"#, &[".ipVersion"]),
        (r#"{"action":"Allow","ipVersion":6,"protocol":"ICMP"}"#, &[".ipVersion"]),
        (r#"{"action":"Allow","protocol":1,"icmp":{"type":8,"code":0},"notICMP":{"type":3}}"#, &[]),
        (r#"{"action":"Allow","icmp":{"type":8}}"#, &[".protocol"]),
        (r#"{"action":"Allow","protocol":"TCP","notICMP":{"type":8}}"#, &[".protocol"]),
        (r#"{"action":"Allow","protocol":"ICMP","icmp":{"code":1}}"#, &[".icmp.code"]),
        (r#"{"action":"Allow","protocol":"ICMP","notICMP":{"code":1}}"#, &[".notICMP.code"]),
        (r#"{"action":"Deny","http":{"methods":["GET"]}}"#, &[".http"]),
        (r#"{"action":"Allow","protocol":"UDP","http":{"methods":["GET"]}}"#, &[".http"]),
        (r#"{"action":"Allow","http":{"methods":["GET","GET"]}}"#, &[".http.methods[1]"]),
        (
            r#"{"action":"Allow","http":{"paths":[{"exact":"a"},{"prefix":"/a?b"},{"exact":"/a","prefix":"/b"}]}}"#,
            &[".http.paths[0].exact", ".http.paths[1].prefix", ".http.paths[2]"],
        ),
        (r#"{"action":"Allow","metadata":{"annotations":{"in valid":"x"}}}"#, &[".metadata.annotations"]),
        (r#"{"action":"Allow","source":{"services":{"name":"a","namespace":"b"}}}"#, &[]),
        (r#"{"action":"Allow","source":{"services":{"name":"a"}}}"#, &[".source.services.namespace"]),
        (r#"{"action":"Allow","source":{"services":{"namespace":"b"}}}"#, &[".source.services.name"]),
        (r#"{"action":"Allow","destination":{"services":{"name":"a","namespace":"b"}}}"#, &[".destination.services"]),
        (
            r#"{"action":"Allow","source":{"services":{"name":"a","namespace":"b"},"notNets":["10.0.0.0/8"]}}"#,
            &[".source.services"],
        ),
        (r#"{"action":"Allow","source":{"namespaceSelector":"global()"}}"#, &[]),
        (r#"{"action":"Allow","source":{"namespaceSelector":"global() || has(a)"}}"#, &[".source.namespaceSelector"]),
        (r#"{"action":"Allow","source":{"selector":"global()"}}"#, &[".source.selector"]),
        (r#"{"action":"Allow","destination":{"notSelector":"global()"}}"#, &[".destination.notSelector"]),
        (&nets, &[".source.nets"]),
        (&ports, &[".destination.notPorts"]),
        (&selector, &[".source.selector"]),
        (&methods, &[".http.methods"]),
    ];
    for (json, expected) in table {
        assert_eq!(rule(json), *expected, "{}", &json[..json.len().min(200)]);
    }
    let egress =
        r#""egress":[{"action":"Allow","protocol":"TCP","destination":{"ports":[80],"services":{"name":"a"}}}]"#;
    assert_eq!(of_a_namespace(egress), ["spec.egress[0].destination.services"]);
    let egress = r#""egress":[{"action":"Allow","http":{"methods":["GET"]}}]"#;
    assert_eq!(of_a_namespace(egress), ["spec.egress[0].http"]);
}

/// Each of these upstream accepts, and then its agent loses a condition or ends.
#[test]
fn what_upstream_would_lose_or_fall_over_is_refused() {
    let key = "k".repeat(508);
    let of_accounts = |accounts: &str| format!(r#"{{"action":"Allow","source":{{"serviceAccounts":{accounts}}}}}"#);
    assert_eq!(rule(&of_accounts(r#"{"names":["it's"]}"#)), [".source.serviceAccounts.names[0]"]);
    assert_eq!(rule(&of_accounts(r#"{"names":["a\"b"]}"#)), [".source.serviceAccounts.names[0]"]);
    assert_eq!(rule(&of_accounts(&format!(r#"{{"selector":"has({key})"}}"#))), [".source.serviceAccounts.selector"]);
    let source = |source: &str| rule(&format!(r#"{{"action":"Allow","source":{{{source}}}}}"#));
    assert_eq!(source(&format!(r#""namespaceSelector":"has({key})""#)), [".source.namespaceSelector"]);
    assert_eq!(source(&format!(r#""selector":"has({key})""#)), [""; 0], "it gets no prefix");
    assert_eq!(source(r#""namespaceSelector":"!global()""#), [".source.namespaceSelector"]);
    assert_eq!(source(r#""selector":" ""#), [""; 0], "alone, it selects everything");
    assert_eq!(source(r#""selector":" \t","namespaceSelector":"has(a)""#), [".source.selector"]);
    assert_eq!(source(r#""selector":"has(a)","notSelector":" ""#), [".source.notSelector"]);

    let rule = |source: &str| format!(r#""ingress":[{{"action":"Allow","source":{{{source}}}}}]"#);
    assert_eq!(of_a_namespace(&rule(r#""selector":" ""#)), ["spec.ingress[0].source.selector"]);
    assert_eq!(of_a_namespace(r#""selector":"  ""#), ["spec.selector"]);
    assert_eq!(global(r#""selector":"  ""#), [""; 0], "alone, it selects everything");
    assert_eq!(global(r#""selector":" ","namespaceSelector":"has(a)""#), ["spec.selector"]);
    assert_eq!(global(&format!(r#""serviceAccountSelector":"has({key})""#)), ["spec.serviceAccountSelector"]);
    let json = r#"{"metadata":{"name":"p","namespace":"it's"},"spec":{}}"#;
    assert_eq!(paths::<NetworkPolicySpec>(json), ["metadata.namespace"]);
    // A profile's rules are joined with service accounts and namespaces just so.
    assert_eq!(
        profile_rule(r#"{"action":"Allow","source":{"serviceAccounts":{"names":["it's"]}}}"#),
        ["spec.ingress[0].source.serviceAccounts.names[0]"]
    );
}

#[test]
fn names_of_policies() {
    let global = |name: &str| {
        paths::<GlobalNetworkPolicySpec>(&format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{}}}}"#)).is_empty()
    };
    let of_a_namespace = |name: &str| {
        let json = format!(r#"{{"metadata":{{"name":"{name}","namespace":"n"}},"spec":{{}}}}"#);
        paths::<NetworkPolicySpec>(&json).is_empty()
    };
    let long = "w".repeat(64);
    for (name, in_both, namespaced) in [
        ("web", true, true),
        ("security.web", true, true),
        (long.as_str(), true, true),
        ("a.b.c", false, false),
        ("web_1", false, false),
        ("knp.default.a.b", false, true),
        ("ossg.default.a", false, true),
        ("kcnp.default.a", false, false),
        ("knp.default.A", false, false),
    ] {
        assert_eq!((global(name), of_a_namespace(name)), (in_both, namespaced), "{name}");
    }
}

#[test]
fn a_staged_deletion_has_nothing_but_a_tier() {
    let staged = |spec: &str| {
        let json = format!(r#"{{"metadata":{{"name":"p","namespace":"n"}},"spec":{{"stagedAction":{spec}}}}}"#);
        paths::<StagedNetworkPolicySpec>(&json)
    };
    assert!(staged(r#""Delete","tier":"t""#).is_empty());
    assert_eq!(staged(r#""Delete","order":1"#), ["spec.stagedAction"]);
    assert_eq!(staged(r#""set""#), ["spec.stagedAction"]);
    let json = r#"{"metadata":{"name":"p"},"spec":{"ingress":[{"action":"Allow","icmp":{"type":8}}]}}"#;
    assert_eq!(paths::<StagedGlobalNetworkPolicySpec>(json), ["spec.ingress[0].protocol"]);
}

#[test]
fn staged_kubernetes_policies() {
    let staged = |spec: &str| {
        let json = format!(r#"{{"metadata":{{"name":"p","namespace":"n"}},"spec":{spec}}}"#);
        paths::<StagedKubernetesNetworkPolicySpec>(&json)
    };
    let good = r#"{"podSelector":{"matchExpressions":[{"key":"a","operator":"In","values":["b"]}]},
        "ingress":[{"ports":[{"protocol":"TCP","port":80,"endPort":90}],
                    "from":[{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}}]}],"policyTypes":["Ingress"]}"#;
    assert!(staged(good).is_empty(), "{:?}", staged(good));
    let bad = r#"{"podSelector":{"matchExpressions":[{"key":"a","operator":"In"}]},
        "egress":[{"ports":[{"protocol":"ICMP","port":"http","endPort":90}],
                   "to":[{"ipBlock":{"cidr":"x","except":["y"]}},
                         {"podSelector":{"matchExpressions":[{"key":"a","operator":"Is"}]}}]}],
        "policyTypes":["Both"]}"#;
    let mut found = staged(bad);
    found.sort();
    assert_eq!(
        found,
        [
            "spec.egress[0].ports[0].endPort",
            "spec.egress[0].ports[0].protocol",
            "spec.egress[0].to[0].ipBlock.cidr",
            "spec.egress[0].to[0].ipBlock.except[0]",
            "spec.egress[0].to[1].podSelector.matchExpressions[0].operator",
            "spec.podSelector.matchExpressions[0].operator",
            "spec.policyTypes[0]",
        ]
    );
}
