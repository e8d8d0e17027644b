//! What instructions promise each other is checked: an interpreter that takes anything would prove nothing.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use calico_policy::{
    instruction::{
        Endpoint, EndpointId, HostEndpoint, HostEndpointId, HostInterfaces, Instruction, Members, PolicyId, PolicyKind,
        PortMember, ProfileId, Rule, RuleAction, RuleSet, SetId, TierPolicies,
    },
    interpret::Programmed,
};

fn set(name: &str) -> SetId {
    SetId(name.to_owned())
}

fn nets(texts: &[&str]) -> Members {
    Members::Nets(texts.iter().map(|text| text.parse().unwrap()).collect())
}

fn some_ports() -> Members {
    Members::Ports(vec![PortMember { address: "10.0.0.1".parse().unwrap(), protocol: 6, port: 80 }])
}

fn policy_id() -> PolicyId {
    PolicyId { kind: PolicyKind::Global, namespace: String::new(), name: "p".into() }
}

/// Rules that refer to a set of networks and one of ports.
fn rules() -> Arc<RuleSet> {
    let mut rule = Rule::of(RuleAction::Allow);
    rule.source.sets = vec![set("s:a")];
    rule.destination.port_sets = vec![set("n:b")];
    Arc::new(RuleSet { ingress: vec![rule], egress: Vec::new() })
}

fn tier() -> TierPolicies {
    TierPolicies { tier: "default".into(), pass_at_end: false, ingress: vec![policy_id()], egress: Vec::new() }
}

fn endpoint(interface: &str) -> Endpoint {
    let profiles = vec![ProfileId("open".into())];
    Endpoint { interface: interface.into(), profiles, tiers: [tier()].into(), ..Endpoint::default() }
}

fn endpoint_id(name: &str) -> EndpointId {
    EndpointId { namespace: "default".into(), name: name.into() }
}

fn host_endpoint() -> HostEndpoint {
    HostEndpoint {
        interfaces: HostInterfaces::AnyInterface,
        normal: Vec::new(),
        forward: vec![tier()],
        untracked: Vec::new(),
        pre_dnat: Vec::new(),
        profiles: Vec::new(),
    }
}

/// Everything once, in the order of a flush.
fn whole() -> Vec<Instruction> {
    vec![
        Instruction::SetReplace { id: set("s:a"), members: nets(&["10.0.0.1/32"]) },
        Instruction::SetReplace { id: set("n:b"), members: some_ports() },
        Instruction::PolicyUpdate { id: policy_id(), rules: rules() },
        Instruction::ProfileUpdate { id: ProfileId("open".into()), rules: rules() },
        Instruction::EndpointUpdate { id: endpoint_id("web"), endpoint: endpoint("cali1") },
        Instruction::HostEndpointUpdate { id: HostEndpointId("all".into()), endpoint: host_endpoint() },
    ]
}

fn programmed() -> Programmed {
    let mut programmed = Programmed::default();
    whole().iter().for_each(|instruction| programmed.apply(instruction).unwrap());
    programmed
}

#[test]
fn nothing_is_referred_to_before_it_is_there() {
    for left_out in 0..4 {
        let mut programmed = Programmed::default();
        let all = whole().into_iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, instruction)| instruction);
        let refused = all.filter(|instruction| programmed.apply(instruction).is_err()).count();
        assert!(refused > 0, "without {:?}", whole()[left_out]);
    }
}

#[test]
fn nothing_is_removed_while_it_is_referred_to() {
    let removals = [
        Instruction::SetRemove { id: set("s:a") },
        Instruction::SetRemove { id: set("n:b") },
        Instruction::PolicyRemove { id: policy_id() },
        Instruction::ProfileRemove { id: ProfileId("open".into()) },
    ];
    for removal in &removals {
        let mut programmed = programmed();
        let before = programmed.clone();
        assert!(programmed.apply(removal).is_err(), "{removal:?}");
        assert_eq!(programmed, before, "a refused instruction changes nothing");
    }
    let mut programmed = programmed();
    let endpoints = [
        Instruction::EndpointRemove { id: endpoint_id("web") },
        Instruction::HostEndpointRemove { id: HostEndpointId("all".into()) },
    ];
    for instruction in endpoints.iter().chain(removals.iter().rev()) {
        programmed.apply(instruction).unwrap();
    }
    assert_eq!(programmed, Programmed::default());
    for instruction in endpoints.iter().chain(&removals) {
        assert!(programmed.apply(instruction).is_err(), "gone already: {instruction:?}");
    }
}

#[test]
fn a_set_keeps_its_sort_and_its_order() {
    let wrong = [
        Instruction::SetReplace { id: set("s:a"), members: some_ports() },
        Instruction::SetReplace { id: set("s:a"), members: nets(&["10.0.0.2/32", "10.0.0.1/32"]) },
        Instruction::SetReplace { id: set("s:a"), members: nets(&["10.0.0.1/32", "10.0.0.1/32"]) },
        Instruction::SetDelta { id: set("s:a"), added: nets(&["10.0.0.1/32"]), removed: nets(&[]) },
        Instruction::SetDelta { id: set("s:a"), added: nets(&[]), removed: nets(&["10.0.0.2/32"]) },
        Instruction::SetDelta { id: set("s:a"), added: nets(&[]), removed: nets(&[]) },
        Instruction::SetDelta { id: set("s:a"), added: some_ports(), removed: some_ports() },
        Instruction::SetDelta { id: set("s:z"), added: nets(&["10.0.0.1/32"]), removed: nets(&[]) },
    ];
    for instruction in &wrong {
        assert!(programmed().apply(instruction).is_err(), "{instruction:?}");
    }
    let mut programmed = programmed();
    let delta =
        Instruction::SetDelta { id: set("s:a"), added: nets(&["10.0.0.2/32"]), removed: nets(&["10.0.0.1/32"]) };
    programmed.apply(&delta).unwrap();
    let members: Vec<String> = programmed.sets[&set("s:a")].nets().map(ToString::to_string).collect();
    assert_eq!(members, ["10.0.0.2/32"]);
}

#[test]
fn sets_are_used_by_their_sort_and_interfaces_belong_to_one() {
    let mut mixed = Rule::of(RuleAction::Allow);
    mixed.source.sets = vec![set("n:b")];
    let rules = Arc::new(RuleSet { ingress: vec![mixed], egress: Vec::new() });
    let mut programmed = programmed();
    assert!(programmed.apply(&Instruction::PolicyUpdate { id: policy_id(), rules }).is_err());
    let second = |interface| Instruction::EndpointUpdate { id: endpoint_id("db"), endpoint: endpoint(interface) };
    assert!(programmed.apply(&second("cali1")).is_err());
    programmed.apply(&second("cali2")).unwrap();
    let idle = TierPolicies { tier: "t".into(), ..TierPolicies::default() };
    let endpoint = Endpoint { tiers: [idle].into(), ..endpoint("cali1") };
    assert!(programmed.apply(&Instruction::EndpointUpdate { id: endpoint_id("web"), endpoint }).is_err());
}
