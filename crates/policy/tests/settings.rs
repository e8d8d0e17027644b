//! Felix' settings and what else is told to the dataplane beside policy.

#![allow(clippy::unwrap_used)]

mod held;

use calico_model::{Change, IPNat};
use calico_policy::instruction::{
    DenyAction, FailsafePort, HostAction, IptablesBackend, NatOutgoing, Qos, Renderer, ServiceLoop, Settings,
};
use held::{Host, removed, set, stored, unjudged, workload};
use serde_json::{Value, json};

fn configuration(name: &str, spec: &Value) -> Change {
    unjudged(stored(&json!({"kind": "FelixConfiguration", "metadata": {"name": name}, "spec": spec})))
}

fn selected(name: &str, created: &str, selector: &str, mut spec: Value) -> Change {
    spec["nodeSelector"] = json!(selector);
    let metadata = json!({"name": name, "creationTimestamp": created});
    stored(&json!({"kind": "FelixConfiguration", "metadata": metadata, "spec": spec}))
}

fn node(name: &str, labels: &Value, bgp: &Value) -> Change {
    let metadata = json!({"name": name, "labels": labels});
    stored(&json!({"kind": "Node", "metadata": metadata, "spec": {"bgp": bgp}}))
}

fn pool(name: &str, vxlan: &str) -> Change {
    let spec = json!({"cidr": "10.1.0.0/16", "vxlanMode": vxlan});
    stored(&json!({"kind": "IPPool", "metadata": {"name": name}, "spec": spec}))
}

#[test]
fn a_burst_that_no_kernel_takes_is_cut_to_the_greatest_of_the_field() {
    for (burst, expected) in [(9999, Some(9999)), (4_294_967_295_i64, Some(9999)), (0, None), (-1, None)] {
        let spec = json!({"logActionRateLimit": "1/day", "logActionRateLimitBurst": burst});
        let host = Host::with([configuration("default", &spec)]);
        assert_eq!(host.held.settings.log_burst, expected, "{burst}");
    }
}

#[test]
fn every_setting_is_read() {
    let spec = json!({
        "defaultEndpointToHostAction": "ACCEPT", "nftablesFilterDenyAction": "Reject",
        "iptablesFilterDenyAction": "Drop", "iptablesFilterAllowAction": "Return",
        "failsafeInboundHostPorts": [{"protocol": "TCP", "port": 22, "net": "192.0.2.7/24"}, {"protocol": "sctp", "port": 9}],
        "failsafeOutboundHostPorts": [], "logPrefix": "mine %t", "logActionRateLimit": "10/minute",
        "logActionRateLimitBurst": 7, "allowVXLANPacketsFromWorkloads": true, "allowIPIPPacketsFromWorkloads": true,
        "disableConntrackInvalidCheck": true, "vxlanEnabled": true, "vxlanPort": 4790,
        "natOutgoingAddress": "192.0.2.1", "natPortRange": "1000:2000",
        "iptablesNATOutgoingInterfaceFilter": "eth+", "natOutgoingExclusions": "IPPoolsAndHostIPs",
        "serviceLoopPrevention": "Reject", "nftablesMode": "Disabled", "iptablesBackend": "Legacy",
    });
    let services = json!({
        "kind": "BGPConfiguration", "metadata": {"name": "default"},
        "spec": {"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}], "serviceExternalIPs": [{"cidr": "fd00::/108"}]},
    });
    let host = Host::with([configuration("default", &spec), stored(&services)]);
    assert!(host.problems().is_empty(), "{:?}", host.problems());
    let expected = Settings {
        endpoint_to_host: HostAction::Accept,
        deny: DenyAction::Reject,
        failsafe_inbound: vec![
            FailsafePort { protocol: 6, port: 22, net: Some("192.0.2.0/24".parse().unwrap()) },
            FailsafePort { protocol: 132, port: 9, net: None },
        ],
        failsafe_outbound: Vec::new(),
        log_prefix: "mine %t".into(),
        log_rate: Some((10, 60)),
        log_burst: Some(7),
        vxlan_from_workloads: true,
        ipip_from_workloads: true,
        accept_invalid: true,
        vxlan_port: Some(4790),
        nat_outgoing: NatOutgoing {
            address: Some("192.0.2.1".parse().unwrap()),
            ports: Some((1000, 2000)),
            interface: Some("eth+".into()),
            exclude_hosts: true,
        },
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap(), "fd00::/108".parse().unwrap()],
        service_loop: ServiceLoop::Reject,
        return_allowed: true,
        renderer: Renderer::Iptables,
        iptables_backend: IptablesBackend::Legacy,
    };
    assert_eq!(host.held.settings, expected);
    assert_eq!(Host::with([]).held.settings, Settings::default());
}

#[test]
fn words_that_are_none_close_and_are_told() {
    let spec = json!({
        "defaultEndpointToHostAction": "Perhaps", "iptablesFilterDenyAction": "Shout",
        "iptablesFilterAllowAction": "Maybe", "workloadSourceSpoofing": "Sometimes", "floatingIPs": "Often",
        "serviceLoopPrevention": "Never", "nftablesMode": "On", "iptablesBackend": "Old",
        "natOutgoingExclusions": "All", "logActionRateLimit": "many", "natOutgoingAddress": "here",
        "failsafeInboundHostPorts": [{"protocol": "icmp", "port": 1}, {"protocol": "tcp", "port": 22}],
    });
    let host = Host::with([configuration("default", &spec)]);
    let failsafe_inbound = vec![FailsafePort { protocol: 6, port: 22, net: None }];
    // Leaving packets to other rules is the safer of the two allow actions.
    let closed =
        Settings { endpoint_to_host: HostAction::Drop, return_allowed: true, failsafe_inbound, ..Settings::default() };
    assert_eq!(host.held.settings, closed);
    let problems = host.problems();
    assert_eq!(problems.len(), 12, "{problems:#?}");
    assert!(problems.iter().all(|problem| problem.starts_with("FelixConfiguration default: spec.")));
}

#[test]
fn this_hosts_configuration_goes_before_selected_ones_and_those_before_the_default() {
    let action = |action: &str| json!({"defaultEndpointToHostAction": action});
    let mut host = Host::new();
    let mut after = |change: Change| {
        host.take([change]);
        (host.held.settings.endpoint_to_host, host.held.settings.accept_invalid)
    };
    after(configuration("default", &action("Drop")));
    after(selected("b", "2026-01-01T00:00:00Z", "rack == 'r1'", action("Accept")));
    let younger = json!({"defaultEndpointToHostAction": "Return", "disableConntrackInvalidCheck": true});
    assert_eq!(after(selected("a", "2026-02-01T00:00:00Z", "has(rack)", younger)), (HostAction::Drop, false));
    assert_eq!(after(node("n1", &json!({"rack": "r1"}), &Value::Null)), (HostAction::Accept, false), "the oldest only");
    assert_eq!(after(node("n1", &json!({"rack": "r2"}), &Value::Null)), (HostAction::Return, true));
    let own = configuration("node.n1", &action("Drop"));
    assert_eq!(after(own.clone()), (HostAction::Drop, true), "each setting by itself");
    assert_eq!(after(configuration("node.other", &action("Accept"))), (HostAction::Drop, true));
    assert_eq!(after(removed(&own)), (HostAction::Return, true));
    assert_eq!(after(node("n1", &json!({}), &Value::Null)), (HostAction::Drop, false));
}

#[test]
fn floating_addresses_and_foreign_sources_follow_the_settings() {
    let nat = |internal: &str, external: &str| IPNat {
        internal_ip: internal.into(),
        external_ip: external.into(),
        extra: serde_json::Map::new(),
    };
    let mut endpoint = workload("web", "10.0.0.1", &[]);
    endpoint.spec.ip_nats =
        vec![nat("10.0.0.1", "192.0.2.9"), nat("10.0.0.2", "192.0.2.8"), nat("10.0.0.1", "fd00::9")];
    let mut host = Host::with([set(endpoint.clone())]);
    assert!(host.endpoint("web").nats.is_empty());
    let enabled = configuration("default", &json!({"floatingIPs": "Enabled"}));
    assert_eq!(host.take([enabled.clone()]), ["endpoint web"], "it is no setting of the dataplane");
    let nats: Vec<String> = host.endpoint("web").nats.iter().map(|nat| nat.external.to_string()).collect();
    assert_eq!(nats, ["192.0.2.9"], "of its own addresses, in one family");
    host.take([removed(&enabled)]);
    assert!(host.endpoint("web").nats.is_empty());

    endpoint.spec.allow_spoofed_source_prefixes = vec!["10.9.0.0/16".into(), "fd09::/64".into()];
    assert_eq!(host.take([set(endpoint)]), ["-endpoint web"]);
    assert!(host.problems()[0].contains("source spoofing is disabled"));
    host.take([configuration("default", &json!({"workloadSourceSpoofing": "Any"}))]);
    assert_eq!(host.endpoint("web").spoofable.len(), 2);
    assert!(host.problems().is_empty());
}

#[test]
fn limits_and_marks_are_read() {
    let mut endpoint = workload("web", "10.0.0.1", &[]);
    let mut qos = |controls: Value| {
        endpoint.spec.qos_controls = serde_json::from_value(controls).unwrap();
        Host::with([set(endpoint.clone())]).endpoint("web").qos
    };
    let all = qos(json!({
        "ingressPacketRate": 100, "egressPacketRate": 0, "ingressPacketBurst": 5, "egressPacketBurst": -1,
        "ingressMaxConnections": 9, "egressMaxConnections": 4_294_967_296_i64, "dscp": 20,
    }));
    let expected = Qos {
        ingress_packet_rate: Some(100),
        ingress_packet_burst: Some(5),
        ingress_max_connections: Some(9),
        egress_max_connections: Some(u32::MAX),
        dscp: Some(20),
        ..Qos::default()
    };
    assert_eq!(all, expected);
    for (name, number) in [("AF41", Some(34)), ("EF", Some(46)), ("cs6", Some(48)), ("DF", Some(0)), ("AF44", None)] {
        assert_eq!(qos(json!({"dscp": name})).dscp, number, "{name}");
    }
}

#[test]
fn hosts_and_vxlan_follow_nodes_and_pools() {
    let mut host = Host::with([
        node("a", &Value::Null, &json!({"ipv4Address": "192.0.2.2/24", "ipv6Address": "2001:db8::2/64"})),
        node("b", &Value::Null, &json!({"ipv4Address": "192.0.2.1"})),
        stored(&json!({
            "kind": "Node", "metadata": {"name": "c"},
            "spec": {"addresses": [
                {"address": "203.0.113.9", "type": "ExternalIP"}, {"address": "192.0.2.3", "type": "InternalIP"},
            ]},
        })),
    ]);
    let shown = |host: &Host| host.held.hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(&host), ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::2"]);
    assert_eq!(host.take([removed(&node("a", &Value::Null, &Value::Null))]), ["hosts"]);
    assert_eq!(shown(&host), ["192.0.2.1", "192.0.2.3"]);
    assert_eq!(host.held.settings.vxlan_port, None);
    host.take([pool("p", "CrossSubnet")]);
    assert_eq!(host.held.settings.vxlan_port, Some(4789));
    host.take([pool("p", "Never")]);
    assert_eq!(host.held.settings.vxlan_port, None);
}

#[test]
fn what_every_write_fills_in_does_not_hide_what_the_cluster_says() {
    let cluster = configuration("default", &json!({"nftablesMode": "Disabled", "floatingIPs": "Enabled"}));
    let own = configuration("node.n1", &json!({"nftablesMode": "Auto", "floatingIPs": "Disabled"}));
    let mut endpoint = workload("web", "10.0.0.1", &[]);
    let nat = json!({"internalIP": "10.0.0.1", "externalIP": "192.0.2.9"});
    endpoint.spec.ip_nats = vec![serde_json::from_value(nat).unwrap()];
    let host = Host::with([cluster, own, set(endpoint)]);
    assert_eq!(host.held.settings.renderer, Renderer::Iptables);
    assert_eq!(host.endpoint("web").nats.len(), 1);
}
