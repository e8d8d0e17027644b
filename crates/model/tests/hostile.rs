//! Whatever stands in the datastore or in a file is read, refused or understood in part; nothing of it ends the
//! program, whatever its kind says that it is.

#![allow(clippy::unwrap_used)]

use calico_model::{AnyResource, Change, KindName, ResourceKey, Revision, input};
use proptest::{prelude::*, sample::select};
use serde_json::{Map, Value, json};

/// Member names that some kind has, and some that none has.
const NAMES: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "name",
    "namespace",
    "labels",
    "annotations",
    "ingress",
    "egress",
    "action",
    "protocol",
    "source",
    "destination",
    "nets",
    "notNets",
    "selector",
    "notSelector",
    "namespaceSelector",
    "ports",
    "icmp",
    "type",
    "code",
    "ipVersion",
    "http",
    "methods",
    "paths",
    "services",
    "serviceAccounts",
    "names",
    "types",
    "tier",
    "order",
    "cidr",
    "node",
    "orchestrator",
    "workload",
    "endpoint",
    "interfaceName",
    "ipNetworks",
    "expectedIPs",
    "profiles",
    "exportV4",
    "operations",
    "prefixLength",
    "communities",
    "values",
    "peerIP",
    "failsafeInboundHostPorts",
    "port",
    "natPortRange",
    "stagedAction",
    "podSelector",
    "preDNAT",
    "Selector",
    "x",
];

fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        select(vec![
            "",
            " ",
            "Allow",
            "TCP",
            "tcp",
            "10.0.0.0/8",
            "10.0.0.1",
            "fd00::/8",
            "has(a)",
            "!global()",
            "a == 'b'",
            "Ingress",
            "1:2",
            "2:1",
            "80",
            "all()",
            "(",
            "p",
            "default.p",
            "Always",
            "1m0s",
            "é",
            "\u{0}",
            "it's",
        ])
        .prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    let leaf = prop_oneof![
        4 => text,
        2 => prop_oneof![Just(0i64), Just(1), Just(6), Just(256), Just(65536), Just(-1), any::<i64>()].prop_map(Value::from),
        1 => any::<i16>().prop_map(|number| json!(f64::from(number) / 8.0)),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(6, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(select(NAMES), inner, 0..6).prop_map(|members| {
                Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
            }),
        ]
    })
}

fn member() -> impl Strategy<Value = Value> {
    prop::collection::btree_map(select(NAMES), value(), 0..8).prop_map(|members| {
        Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_value_of_any_kind_is_judged(
        kind in select(KindName::ALL), metadata in member(), spec in member(), status in value(),
    ) {
        let mut value = json!({"metadata": metadata, "spec": spec});
        value["metadata"]["name"] = "p".into();
        if status.is_object() {
            value["status"] = status;
        }
        let key = ResourceKey::new(kind, kind.is_namespaced().then_some("n"), "p");
        match AnyResource::decode_valid(&key, value.to_string().as_bytes(), Revision(1)) {
            Ok(resource) => {
                // What was read is written and read again as the same.
                let again = AnyResource::decode(&key, &resource.to_json(), Revision(1)).unwrap();
                prop_assert_eq!(again.to_json(), resource.to_json());
            }
            Err(error) => {
                let change = Change::from(error);
                let Change::Unusable { resource, reason, .. } = change else { panic!("{change:?}") };
                prop_assert!(!reason.is_empty());
                if let Some(resource) = resource {
                    prop_assert_eq!(resource.key().kind, kind);
                    resource.faults();
                }
            }
        }

        value["kind"] = kind.as_str().into();
        value["apiVersion"] = "projectcalico.org/v3".into();
        if let Ok(mut resource) = input::parse(value) {
            let _ = resource.prepare();
            resource.to_json();
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}", yaml in "[a-z0-9:{}\\[\\],&*!|>'\"#%@` \n-]{0,120}") {
        for text in [text, yaml] {
            for document in input::documents(&text).into_iter().flatten() {
                let _ = input::parse(document);
            }
        }
    }
}

#[test]
fn depth_and_repetition_are_bounded() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("- ", ""), ("a:\n ", "")] {
        let text = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        let _ = input::documents(&text);
        let key = ResourceKey::new(KindName::Profile, None, "p");
        assert!(AnyResource::decode_valid(&key, text.as_bytes(), Revision(1)).is_err());
    }
    // Each line doubles what the one before stands for.
    let mut text = "a0: &a0 [x, x]\n".to_owned();
    for at in 1..40 {
        text.push_str(&format!("a{at}: &a{at} [*a{before}, *a{before}]\n", before = at - 1));
    }
    assert!(input::documents(&text).is_err());
    // Nested parentheses cost no stack; more than a selector may be long are refused.
    for (depth, good) in [(500, true), (100_000, false)] {
        let selector = format!("{}has(a){}", "(".repeat(depth), ")".repeat(depth));
        let json = json!({"metadata": {"name": "p"}, "spec": {"selector": selector}}).to_string();
        let key = ResourceKey::new(KindName::GlobalNetworkPolicy, None, "p");
        assert_eq!(AnyResource::decode_valid(&key, json.as_bytes(), Revision(1)).is_ok(), good, "{depth}");
    }
}
