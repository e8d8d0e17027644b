#![allow(clippy::unwrap_used)]

use calico_model::{AnyResource, Change, KindName, ResourceKey, Revision};
use calico_policy::packet::Transport;
use serde_json::{Value, json};

use super::*;

fn set(json: Value) -> Change {
    let kind = *KindName::ALL.iter().find(|name| name.as_str() == json["kind"]).unwrap();
    let key =
        ResourceKey::new(kind, json["metadata"]["namespace"].as_str(), json["metadata"]["name"].as_str().unwrap());
    let resource = AnyResource::decode(&key, json.to_string().as_bytes(), Revision(1)).unwrap();
    Change::Set { key, resource: Box::new(resource) }
}

fn endpoint(node: &str, number: u8, role: &str, profiles: &[&str]) -> Change {
    set(json!({"kind": "WorkloadEndpoint", "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": format!("{node}-docker-w{number}-eth0"), "namespace": "default", "labels": {"role": role},
            "annotations": {"org.projectcalico/workload-name": format!("{role}{number}")}},
        "spec": {"node": node, "orchestrator": "docker", "workload": format!("{number}cafe00000000"), "endpoint": "eth0",
            "interfaceName": format!("cali{number}"), "profiles": profiles,
            "ipNetworks": [format!("10.65.0.{number}/32"), format!("fd65::{number}/128")]}}))
}

fn node(name: &str, number: u8) -> Change {
    set(json!({"kind": "Node", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name},
        "spec": {"bgp": {"ipv4Address": format!("172.18.0.{number}/24")}}}))
}

fn policy(name: &str, spec: Value) -> Change {
    set(
        json!({"kind": "GlobalNetworkPolicy", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name}, "spec": spec}),
    )
}

fn profile(name: &str, ingress: Value, egress: Value) -> Change {
    set(json!({"kind": "Profile", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name},
        "spec": {"ingress": ingress, "egress": egress}}))
}

/// A client on one host, a database on another, all open by profile.
fn cluster(more: Vec<Change>) -> Cluster {
    let open = json!([{"action": "Allow"}]);
    let all = [
        profile("open", open.clone(), open),
        node("h1", 1),
        node("h2", 2),
        endpoint("h1", 1, "web", &["open"]),
        endpoint("h2", 3, "db", &["open"]),
    ];
    all.into_iter().chain(more).collect()
}

fn party(cluster: &Cluster, address: &str) -> Party {
    cluster.party(address.parse().unwrap())
}

fn ask(cluster: &Cluster, from: &str, to: &str, port: u16) -> Answer {
    why(cluster, &Question::to_port(party(cluster, from), party(cluster, to), 6, port))
}

fn lock() -> Change {
    policy(
        "lock",
        json!({"selector": "role == 'db'", "types": ["Ingress"], "ingress": [
            {"action": "Allow", "protocol": "TCP", "source": {"selector": "role == 'web'"}, "destination": {"ports": [5432]}},
            {"action": "Deny", "protocol": "TCP", "destination": {"ports": [22]}}]}),
    )
}

#[test]
fn an_allowed_flow_names_both_hosts_the_route_and_what_would_deny_it() {
    let cluster = cluster(vec![lock()]);
    let answer = ask(&cluster, "10.65.0.1", "10.65.0.3", 5432);
    assert_eq!(answer.summary, "allowed: tcp 5432 from web1 to db3");
    let hosts: Vec<&str> = answer.hosts.iter().map(|host| host.node.as_str()).collect();
    assert_eq!(hosts, ["h1", "h2"]);
    assert_eq!(answer.route.text, "h1 to h2 (172.18.0.2), there by cali3");
    let last = answer.hosts[1].steps.last().unwrap();
    assert_eq!(
        last.decided,
        "GlobalNetworkPolicy lock, tier default, ingress rule 1 of 2: Allow TCP from role == 'web' to ports 5432"
    );
    assert_eq!(last.of.as_deref(), Some("db3"));
    assert!(answer.proven, "{:?}", answer.changes);
    assert!(
        answer.changes[0].text.starts_with("in GlobalNetworkPolicy lock, tier default, before ingress rule 1: Deny")
    );
    assert!(answer.changes[0].command.as_ref().unwrap().starts_with("calicoctl patch globalnetworkpolicy lock -p '{"));
}

#[test]
fn a_published_port_is_told_and_the_workload_behind_it_is_asked() {
    let Change::Set { resource, .. } = endpoint("h2", 3, "db", &["open"]) else { panic!("it is there") };
    let mut json: Value = serde_json::from_slice(&resource.to_json()).unwrap();
    json["spec"]["ports"] = json!([{"protocol": "TCP", "port": 5432, "hostPort": 15432}]);
    let published = cluster(vec![lock(), set(json)]);
    let answer = ask(&published, "10.65.0.1", "172.18.0.2", 15432);
    assert_eq!(answer.summary, "allowed: tcp 15432 from web1 to host h2");
    assert!(
        answer.route.text.ends_with("; port 15432 of h2 is published and leads to db3 (10.65.0.3:5432, by cali3)"),
        "{}",
        answer.route.text
    );
    let led = answer.route.translated.unwrap();
    assert_eq!((led.node.as_str(), led.port, led.name.as_str()), ("h2", 15432, "db3"));
    assert_eq!((led.endpoint.as_str(), led.interface.as_str()), ("default/h2-docker-w3-eth0", "cali3"));
    assert_eq!(led.to.to_string(), "10.65.0.3:5432");

    let answer = ask(&published, "192.0.2.9", "172.18.0.2", 15432);
    assert!(answer.summary.starts_with("denied at ingress of db3 on h2: "), "{}", answer.summary);
    assert_eq!(answer.hosts[0].steps.last().unwrap().asked[0].object, "GlobalNetworkPolicy lock, tier default");
    assert!(answer.proven && answer.route.translated.is_some(), "{:?}", answer.changes);

    let outsider = || party(&published, "192.0.2.9");
    let question = Question::to_port(outsider(), party(&published, "172.18.0.2"), 6, 1);
    let shares: Vec<_> =
        by_port(&published, &question, 6).into_iter().map(|share| (share.traffic, share.verdict.is_allow())).collect();
    let expected = [("tcp 1-15431", true), ("tcp 15432", false), ("tcp 15433-65535", true)];
    assert_eq!(shares, expected.map(|(traffic, allowed)| (traffic.to_owned(), allowed)), "no port was named");
    let answer = ask(&cluster(vec![lock()]), "192.0.2.9", "172.18.0.2", 15432);
    assert!(!answer.route.text.contains("published") && answer.summary.starts_with("allowed"), "{}", answer.summary);
}

#[test]
fn a_denied_flow_names_the_rule_and_the_change_is_proven() {
    let cluster = cluster(vec![lock()]);
    let answer = ask(&cluster, "10.65.0.1", "10.65.0.3", 22);
    assert_eq!(
        answer.summary,
        "denied at ingress of db3 on h2: tcp 22 from web1 to db3: GlobalNetworkPolicy lock, tier default, ingress rule \
         2 of 2: Deny TCP to ports 22"
    );
    let rule = answer.hosts[1].steps.last().unwrap().rule.as_ref().unwrap();
    assert_eq!((rule.number, rule.of, rule.rule["action"].as_str()), (2, 2, Some("Deny")));
    assert!(answer.proven, "{:?}", answer.changes);
    let end = ask(&cluster, "10.65.0.1", "10.65.0.3", 80);
    assert!(
        end.summary.ends_with("end of tier default: no rule of its policies matches, so it denies"),
        "{}",
        end.summary
    );
    assert_eq!(end.hosts[1].steps.last().unwrap().asked[0].outcome, "no rule matches");
    assert!(end.changes[0].text.starts_with("in GlobalNetworkPolicy lock, tier default, last ingress rule: Allow TCP"));
    assert!(end.proven);
}

#[test]
fn without_a_profile_a_policy_is_proposed_that_opens_nothing_else() {
    let cluster = cluster(vec![endpoint("h2", 4, "cache", &[])]);
    let answer = ask(&cluster, "10.65.0.1", "10.65.0.4", 80);
    assert!(answer.summary.ends_with("no policy decides, and it has no profile"), "{}", answer.summary);
    assert!(answer.proven, "{:?}", answer.changes);
    let rules = answer.changes[0].resource.as_ref().unwrap()["spec"]["ingress"].clone();
    assert_eq!(rules[1]["action"], "Pass", "{rules}");
    assert_eq!(answer.changes[0].resource.as_ref().unwrap()["metadata"]["name"], "allow-ingress");
    let taken = policy("allow-ingress", json!({"selector": "role == 'nobody'", "types": ["Ingress"]}));
    let mut cluster = cluster;
    cluster.absorb(taken);
    let answer = ask(&cluster, "10.65.0.1", "10.65.0.4", 80);
    assert_eq!(answer.changes[0].resource.as_ref().unwrap()["metadata"]["name"], "allow-ingress-2");
    assert!(answer.proven, "{:?}", answer.changes);
}

#[test]
fn both_ends_closed_need_both_changes() {
    let egress = policy(
        "quiet",
        json!({"selector": "role == 'web'", "types": ["Egress"], "egress": [
        {"action": "Deny", "protocol": "TCP"}]}),
    );
    let cluster = cluster(vec![lock(), egress]);
    let answer = ask(&cluster, "10.65.0.1", "10.65.0.3", 22);
    assert!(answer.summary.starts_with("denied at egress of web1 on h1"), "{}", answer.summary);
    assert_eq!(answer.changes.len(), 2, "{:?}", answer.changes);
    assert!(answer.proven);
}

#[test]
fn ends_are_found_by_all_their_names() {
    let cluster = cluster(Vec::new());
    let web = cluster.party("10.65.0.1".parse().unwrap()).end;
    for word in ["web1", "1cafe", "default/h1-docker-w1-eth0", "h1-docker-w1-eth0", "cali1"] {
        assert_eq!(cluster.named(word), std::slice::from_ref(&web), "{word}");
    }
    assert_eq!(cluster.named("h2"), [End::Host("h2".into())]);
    assert_eq!(cluster.named("eth0").len(), 2, "an endpoint id that several have");
    assert!(cluster.named("nobody").is_empty() && cluster.named("1ca").is_empty());
    assert_eq!(cluster.party("fd65::3".parse().unwrap()).name(&cluster), "db3");
    assert_eq!(cluster.party("172.18.0.2".parse().unwrap()).end, End::Host("h2".into()));
    assert_eq!(cluster.party("192.0.2.1".parse().unwrap()).end, End::Outside);
}

#[test]
fn the_way_in_and_out_of_the_cluster() {
    let pool = set(json!({"kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "pool"},
        "spec": {"cidr": "10.65.0.0/16", "natOutgoing": true}}));
    let cluster = cluster(vec![lock(), pool]);
    let out = ask(&cluster, "10.65.0.1", "192.0.2.1", 80);
    assert_eq!(out.route.text, "leaves h1 by the host's own routes");
    assert_eq!(out.route.masqueraded, Some("172.18.0.1".parse().unwrap()));
    let inward = ask(&cluster, "192.0.2.1", "10.65.0.3", 80);
    assert_eq!((inward.hosts.len(), inward.verdict), (1, Verdict::Drop));
    assert!(inward.changes[0].text.contains("nets 192.0.2.1/32"), "{:?}", inward.changes);
    let nobody = ask(&cluster, "192.0.2.1", "192.0.2.2", 80);
    assert!(nobody.hosts.is_empty() && nobody.route.text.starts_with("neither end"), "{nobody:?}");
    let own = ask(&cluster, "172.18.0.2", "10.65.0.3", 80);
    assert_eq!((own.verdict, own.from.name.as_str()), (Verdict::Allow, "host h2"));
    let ipv6 = ask(&cluster, "fd65::1", "fd65::3", 80);
    assert_eq!(ipv6.route.warnings, ["h2 has no IPv6 address in its record: no route leads there"]);
}

#[test]
fn ports_are_told_in_ranges() {
    let cluster = cluster(vec![lock()]);
    let question = Question::to_port(party(&cluster, "10.65.0.1"), party(&cluster, "10.65.0.3"), 6, 1);
    let shares: Vec<(String, Verdict)> =
        by_port(&cluster, &question, 6).into_iter().map(|share| (share.traffic, share.verdict)).collect();
    let expected = [("tcp 1-5431", Verdict::Drop), ("tcp 5432", Verdict::Allow), ("tcp 5433-65535", Verdict::Drop)];
    assert_eq!(shares, expected.map(|(words, verdict)| (words.to_owned(), verdict)));
    let answer = why(&cluster, &Question { ports: Some((1, 5431)), ..question });
    assert!(answer.summary.contains("tcp 1-5431 from web1"), "{}", answer.summary);
    assert!(answer.changes[0].text.ends_with("to ports 1:5431"), "{:?}", answer.changes);
    assert!(answer.proven);
}

#[test]
fn a_policy_that_cannot_be_followed_is_named_with_its_fault() {
    let bad = policy(
        "bad",
        json!({"selector": "role == 'db'", "types": ["Ingress"], "ingress": [
        {"action": "Allow", "source": {"selector": "role =="}}]}),
    );
    let cluster = cluster(vec![bad]);
    let answer = ask(&cluster, "10.65.0.1", "10.65.0.3", 80);
    assert!(answer.summary.contains("GlobalNetworkPolicy bad, tier default cannot be followed"), "{}", answer.summary);
    assert!(answer.changes[0].text.starts_with("mend GlobalNetworkPolicy bad"), "{:?}", answer.changes);
    assert!(!answer.proven, "nobody knows what it will say");
}

/// Whatever is proposed for whatever state: it works, or does not claim to.
#[test]
fn what_is_claimed_to_work_works() {
    let actions = ["Allow", "Deny", "Pass", "Log"];
    let mut proven = 0;
    for number in 0..256usize {
        let action = |at: usize| actions[(number >> (2 * at)) & 3];
        let tier = set(json!({"kind": "Tier", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "first"},
            "spec": {"order": 1, "defaultAction": if number % 3 == 0 { "Pass" } else { "Deny" }}}));
        let first = policy(
            "first.a",
            json!({"tier": "first", "selector": "role == 'db'", "types": ["Ingress"],
            "ingress": [{"action": action(0), "protocol": "TCP", "destination": {"ports": [80]}}, {"action": action(1)}]}),
        );
        let second = policy(
            "b",
            json!({"selector": "all()", "types": ["Ingress", "Egress"],
            "ingress": [{"action": action(2), "source": {"selector": "role == 'web'"}}],
            "egress": [{"action": action(3), "protocol": "TCP"}]}),
        );
        let cluster = cluster(vec![tier, first, second]);
        for port in [80, 81] {
            let answer = ask(&cluster, "10.65.0.1", "10.65.0.3", port);
            assert!(!answer.changes.is_empty(), "{number}: {answer:?}");
            assert!(answer.proven, "{number} {port}: {answer:#?}");
            proven += 1;
        }
    }
    assert_eq!(proven, 512);
}

#[test]
fn ping_is_a_question_too() {
    let cluster = cluster(vec![lock()]);
    let transport = Transport::Icmp { icmp_type: 8, code: 0 };
    let question = Question::of(party(&cluster, "10.65.0.1"), party(&cluster, "10.65.0.3"), transport);
    let answer = why(&cluster, &question);
    assert!(answer.summary.starts_with("denied at ingress of db3 on h2: ping from web1 to db3"), "{}", answer.summary);
    assert!(answer.proven, "{:?}", answer.changes);
}

#[test]
fn the_way_says_vxlan_where_packets_are_encapsulated() {
    let pool = |mode: &str, field: &str| {
        set(json!({"kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "p"},
            "spec": {"cidr": "10.65.0.0/16", field: mode}}))
    };
    let far = set(json!({"kind": "Node", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "h2"},
        "spec": {"bgp": {"ipv4Address": "172.19.0.2/24"}}}));
    for (more, through) in [
        (vec![], false),
        (vec![pool("Always", "vxlanMode")], true),
        (vec![pool("CrossSubnet", "vxlanMode")], false),
        (vec![pool("CrossSubnet", "vxlanMode"), far], true),
    ] {
        let cluster = cluster(more);
        let route = ask(&cluster, "10.65.0.1", "10.65.0.3", 80).route;
        assert_eq!(route.text.contains("VXLAN"), through, "{}", route.text);
        assert!(route.warnings.is_empty(), "{:?}", route.warnings);
    }
    let cluster = cluster(vec![pool("Always", "ipipMode")]);
    let route = ask(&cluster, "10.65.0.1", "10.65.0.3", 80).route;
    assert!(route.warnings.iter().any(|warning| warning.contains("IP-in-IP")), "{:?}", route.warnings);
}
