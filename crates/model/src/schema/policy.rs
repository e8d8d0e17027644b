//! The members of rules and of the kinds that hold them.

use super::{Member, Shape, kinds::TEXT_LIST, member, needed};

use Shape::{Any, Bool, Int, List, Number, Object, Port, Protocol, Text, Texts};

const ICMP: Shape = Object(&[member("type", Int(0, 65535)), member("code", Int(0, 65535))]);

const ENTITY: Shape = Object(&[
    member("nets", TEXT_LIST),
    member("selector", Text),
    member("namespaceSelector", Text),
    member("services", Object(&[member("name", Text), member("namespace", Text)])),
    member("ports", List(&Port)),
    member("notNets", TEXT_LIST),
    member("notSelector", Text),
    member("notPorts", List(&Port)),
    member("serviceAccounts", Object(&[member("names", TEXT_LIST), member("selector", Text)])),
]);

const RULES: Shape = List(&Object(&[
    member("action", Text),
    member("ipVersion", Int(0, 255)),
    member("protocol", Protocol),
    member("icmp", ICMP),
    member("notProtocol", Protocol),
    member("notICMP", ICMP),
    member("source", ENTITY),
    member("destination", ENTITY),
    member(
        "http",
        Object(&[
            member("methods", TEXT_LIST),
            member("paths", List(&Object(&[member("exact", Text), member("prefix", Text)]))),
        ]),
    ),
    member("metadata", Object(&[member("annotations", Texts)])),
]));

pub(super) const PROFILE: Shape =
    Object(&[member("ingress", RULES), member("egress", RULES), member("labelsToApply", Texts)]);

const TIER: Member = member("tier", Text);
const ORDER: Member = member("order", Number);
const INGRESS: Member = member("ingress", RULES);
const EGRESS: Member = member("egress", RULES);
const SELECTOR: Member = member("selector", Text);
const TYPES: Member = member("types", TEXT_LIST);
const SERVICE_ACCOUNT_SELECTOR: Member = member("serviceAccountSelector", Text);
const HINTS: Member = member("performanceHints", TEXT_LIST);
const STAGED_ACTION: Member = member("stagedAction", Text);
const DO_NOT_TRACK: Member = member("doNotTrack", Bool);
const PRE_DNAT: Member = member("preDNAT", Bool);
const APPLY_ON_FORWARD: Member = member("applyOnForward", Bool);
const NAMESPACE_SELECTOR: Member = member("namespaceSelector", Text);

pub(super) const OF_A_NAMESPACE: Shape =
    Object(&[TIER, ORDER, INGRESS, EGRESS, SELECTOR, TYPES, SERVICE_ACCOUNT_SELECTOR, HINTS]);

pub(super) const STAGED_OF_A_NAMESPACE: Shape =
    Object(&[STAGED_ACTION, TIER, ORDER, INGRESS, EGRESS, SELECTOR, TYPES, SERVICE_ACCOUNT_SELECTOR, HINTS]);

pub(super) const GLOBAL: Shape = Object(&[
    TIER,
    ORDER,
    INGRESS,
    EGRESS,
    SELECTOR,
    TYPES,
    DO_NOT_TRACK,
    PRE_DNAT,
    APPLY_ON_FORWARD,
    SERVICE_ACCOUNT_SELECTOR,
    NAMESPACE_SELECTOR,
    HINTS,
]);

pub(super) const STAGED_GLOBAL: Shape = Object(&[
    STAGED_ACTION,
    TIER,
    ORDER,
    INGRESS,
    EGRESS,
    SELECTOR,
    TYPES,
    DO_NOT_TRACK,
    PRE_DNAT,
    APPLY_ON_FORWARD,
    SERVICE_ACCOUNT_SELECTOR,
    NAMESPACE_SELECTOR,
    HINTS,
]);

const LABEL_SELECTOR: Shape = Object(&[
    member("matchLabels", Texts),
    member(
        "matchExpressions",
        List(&Object(&[needed("key", Text), needed("operator", Text), member("values", TEXT_LIST)])),
    ),
]);

const KUBERNETES_PORTS: Member =
    member("ports", List(&Object(&[member("protocol", Text), member("port", Any), member("endPort", Int(0, 65535))])));

const KUBERNETES_PEERS: Shape = List(&Object(&[
    member("podSelector", LABEL_SELECTOR),
    member("namespaceSelector", LABEL_SELECTOR),
    member("ipBlock", Object(&[needed("cidr", Text), member("except", TEXT_LIST)])),
]));

pub(super) const STAGED_KUBERNETES: Shape = Object(&[
    STAGED_ACTION,
    member("podSelector", LABEL_SELECTOR),
    member("ingress", List(&Object(&[KUBERNETES_PORTS, member("from", KUBERNETES_PEERS)]))),
    member("egress", List(&Object(&[KUBERNETES_PORTS, member("to", KUBERNETES_PEERS)]))),
    member("policyTypes", TEXT_LIST),
]);
