//! The kinds with a few rules each, and Felix configurations.

use super::*;
use crate::{
    BGPFilterSpec, BlockAffinitySpec, CalicoNodeStatusSpec, FelixConfigurationSpec, GlobalNetworkSetSpec,
    IPAMConfigurationSpec, IPPoolSpec, NetworkSetSpec,
};

fn named<S: Kind>(name: &str, spec: &str) -> Vec<String> {
    paths::<S>(&format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{{spec}}}}}"#))
}

#[test]
fn filters_by_table() {
    for (rule, expected) in [
        (r#"{"action":"Accept"}"#, ""),
        (r#"{"action":"Reject","cidr":"10.0.0.0/8","matchOperator":"In","prefixLength":{"min":24,"max":32}}"#, ""),
        (r#"{"action":"accept"}"#, ".action"),
        (r#"{"action":"Accept","cidr":"10.0.0.0/8"}"#, ".matchOperator"),
        (r#"{"action":"Accept","matchOperator":"Equal"}"#, ".cidr"),
        (r#"{"action":"Accept","cidr":"10.0.0.1/8","matchOperator":"In"}"#, ".cidr"),
        (r#"{"action":"Accept","cidr":"fd00::/8","matchOperator":"In"}"#, ".cidr"),
        (r#"{"action":"Accept","cidr":"10.0.0.0/8","matchOperator":"Within"}"#, ".matchOperator"),
        (r#"{"action":"Accept","prefixLength":{"min":24}}"#, ".prefixLength"),
        (
            r#"{"action":"Accept","cidr":"10.0.0.0/8","matchOperator":"In","prefixLength":{"max":33}}"#,
            ".prefixLength.max",
        ),
        (r#"{"action":"Accept","source":"LocalPeers"}"#, ".source"),
        (r#"{"action":"Accept","peerType":"ebgp"}"#, ".peerType"),
        (r#"{"action":"Accept","interface":"cali*"}"#, ""),
        (r#"{"action":"Accept","interface":"0123456789abcdef"}"#, ".interface"),
        (r#"{"action":"Accept","communities":{"values":["1:2:3"]}}"#, ""),
        (r#"{"action":"Accept","communities":{"values":["1:2","3:4"]}}"#, ".communities.values"),
        (r#"{"action":"Accept","communities":{"values":["1:65536"]}}"#, ".communities.values[0]"),
        (r#"{"action":"Accept","priority":0}"#, ".priority"),
        (r#"{"action":"Reject","operations":[{"setPriority":{"value":1}}]}"#, ".operations"),
        (r#"{"action":"Accept","operations":[{}]}"#, ".operations[0]"),
        (r#"{"action":"Accept","operations":[{"addCommunity":{"value":"x"}}]}"#, ".operations[0].addCommunity.value"),
        (
            r#"{"action":"Accept","operations":[{"prependASPath":{"prefix":[]}}]}"#,
            ".operations[0].prependASPath.prefix",
        ),
        (r#"{"action":"Accept","operations":[{"setPriority":{}}]}"#, ".operations[0].setPriority.value"),
    ] {
        let found = named::<BGPFilterSpec>("f", &format!(r#""importV4":[{rule}]"#));
        let expected: Vec<String> =
            if expected.is_empty() { vec![] } else { vec![format!("spec.importV4[0]{expected}")] };
        assert_eq!(found, expected, "{rule}");
    }
    let six = r#""exportV6":[{"action":"Accept","cidr":"10.0.0.0/8","matchOperator":"In","prefixLength":{"max":128}}]"#;
    assert_eq!(named::<BGPFilterSpec>("f", six), ["spec.exportV6[0].cidr"]);
}

#[test]
fn network_sets_take_addresses_and_networks() {
    let nets = r#""nets":["192.0.2.0/24","198.51.100.7","203.0.113.9/24","FD00:0::/8"]"#;
    assert!(named::<GlobalNetworkSetSpec>("s", nets).is_empty());
    assert_eq!(
        named::<GlobalNetworkSetSpec>("s", r#""nets":["10.0.0.0/8","x","10.0.0.0/33"]"#),
        ["spec.nets[1]", "spec.nets[2]"]
    );
    let taken = r#"{"metadata":{"name":"s","namespace":"n","labels":{"projectcalico.org/namespace":"n"}},"spec":{}}"#;
    assert_eq!(paths::<NetworkSetSpec>(taken), ["metadata.labels"]);
}

#[test]
fn felix_configurations_by_table() {
    for (spec, expected) in [
        (r#""defaultEndpointToHostAction":"drop","iptablesFilterDenyAction":"REJECT","chainInsertMode":"append""#, ""),
        (r#""nftablesFilterDenyAction":"Refuse""#, "spec.nftablesFilterDenyAction"),
        (r#""iptablesMangleAllowAction":"Drop""#, "spec.iptablesMangleAllowAction"),
        (r#""chainInsertMode":"prepend""#, "spec.chainInsertMode"),
        (r#""iptablesBackend":"nft""#, "spec.iptablesBackend"),
        (r#""nftablesMode":"enabled""#, "spec.nftablesMode"),
        (r#""workloadSourceSpoofing":"any""#, "spec.workloadSourceSpoofing"),
        (r#""serviceLoopPrevention":"Accept""#, "spec.serviceLoopPrevention"),
        (
            r#""failsafeInboundHostPorts":[],"failsafeOutboundHostPorts":[{"protocol":"tcp","port":22,"net":"::/0"}]"#,
            "",
        ),
        (
            r#""failsafeInboundHostPorts":[{"protocol":"tcp","port":22},{"protocol":"tcp","port":1,"net":"x"}]"#,
            "spec.failsafeInboundHostPorts[1].net",
        ),
        (r#""natPortRange":"32000:33000""#, ""),
        (r#""natPortRange":"http""#, "spec.natPortRange"),
        (r#""natOutgoingAddress":"10.0.0.0/8""#, "spec.natOutgoingAddress"),
        (r#""kubeNodePortRanges":["30000:32767",80]"#, ""),
        (r#""kubeNodePortRanges":["http"]"#, "spec.kubeNodePortRanges[0]"),
        (r#""kubeNodePortRanges":[1,2,3,4,5,6,7,8]"#, "spec.kubeNodePortRanges"),
        (r#""externalNodesList":["10.0.0.0/8","fd00::/8"]"#, "spec.externalNodesList[1]"),
        (r#""routeTableRange":{"min":1,"max":2},"routeTableRanges":[]"#, "spec.routeTableRanges"),
        (r#""nodeSelector":"has(a)""#, "spec.nodeSelector"),
    ] {
        let expected: Vec<&str> = if expected.is_empty() { vec![] } else { vec![expected] };
        assert_eq!(named::<FelixConfigurationSpec>("default", spec), expected, "{spec}");
    }
    assert!(named::<FelixConfigurationSpec>("racks", r#""nodeSelector":"has(a)""#).is_empty());
}

/// An absent list of failsafe ports is the default one, an empty list is none.
#[test]
fn absent_and_empty_failsafe_ports_differ() {
    let read = |spec: &str| {
        let json = format!(r#"{{"metadata":{{"name":"default"}},"spec":{spec}}}"#);
        Resource::<FelixConfigurationSpec>::from_json(json.as_bytes(), None).unwrap()
    };
    let empty = read(r#"{"failsafeInboundHostPorts":[]}"#);
    assert_eq!(empty.spec.failsafe_inbound_host_ports, Some(vec![]));
    assert_eq!(empty.spec.failsafe_outbound_host_ports, None);
    let written = String::from_utf8(empty.to_json()).unwrap();
    assert!(written.contains(r#""failsafeInboundHostPorts":[]"#) && !written.contains("Outbound"), "{written}");
    let null = read(r#"{"failsafeInboundHostPorts":null}"#);
    assert_eq!(null.spec.failsafe_inbound_host_ports, None);
}

#[test]
fn kinds_with_a_few_rules() {
    assert!(named::<IPAMConfigurationSpec>("default", r#""strictAffinity":true"#).is_empty());
    assert_eq!(
        named::<IPAMConfigurationSpec>("other", r#""maxBlocksPerHost":-1,"ipCooldownSeconds":1201"#),
        ["metadata.name", "spec.maxBlocksPerHost", "spec.ipCooldownSeconds"]
    );
    let good = r#""node":"h1","classes":["Agent","BGP"],"updatePeriodSeconds":0"#;
    assert!(named::<CalicoNodeStatusSpec>("s", good).is_empty());
    assert_eq!(
        named::<CalicoNodeStatusSpec>("s", r#""node":"h1","classes":["Agent","Cpu","Agent"]"#),
        ["spec.classes[1]", "spec.classes[2]", "spec.updatePeriodSeconds"]
    );
    let deleted = r#""state":"confirmed","node":"h","cidr":"10.0.0.0/26","deleted":"true""#;
    assert_eq!(named::<BlockAffinitySpec>("a", deleted), ["spec.deleted"]);
    let long = format!(r#""cidr":"10.0.0.0/16","nodeSelector":"a == '{}'""#, "x".repeat(1024));
    assert_eq!(named::<IPPoolSpec>("p", &long), ["spec.nodeSelector"]);
}

#[test]
fn a_block_affinity_has_its_flag_as_text() {
    let json =
        r#"{"metadata":{"name":"a"},"spec":{"state":"pending","node":"h","cidr":"10.0.0.0/26","deleted":false}}"#;
    let affinity = Resource::<BlockAffinitySpec>::from_json(json.as_bytes(), None).unwrap();
    let written = String::from_utf8(affinity.to_json()).unwrap();
    assert!(written.contains(r#""deleted":"false""#), "{written}");
    assert_eq!(Resource::<BlockAffinitySpec>::from_json(written.as_bytes(), None).unwrap().spec, affinity.spec);
}
