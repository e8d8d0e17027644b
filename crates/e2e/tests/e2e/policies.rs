//! Policies over two hosts: applied from files, selected by labels of containers, broken, taken back, and written by
//! either renderer.
#![allow(clippy::unwrap_used)]

use calico_e2e::{Cluster, assert_closes_to, assert_matrix, eventually, trio::Trio};
use calico_lab::Host;

const ROOT: &str = "/calico/resources/v3/projectcalico.org";

/// Clients may ping the database, and nobody else may; everybody may send.
const POLICIES: &str = r"
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: database}
spec:
  selector: role == 'db'
  types: [Ingress]
  ingress:
  - {action: Allow, protocol: ICMP, source: {selector: role == 'client'}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: send}
spec:
  selector: has(role)
  types: [Egress]
  egress:
  - {action: Allow}
";

fn apply(host: &Host, text: &str) -> String {
    host.write("/tmp/policies.yaml", text).unwrap();
    host.ok("calicoctl apply -f /tmp/policies.yaml")
}

#[test]
fn labels_decide_who_talks() {
    let cluster = Cluster::up(2, "");
    let (host1, host2, etcd) = (cluster.lab.host(1), cluster.lab.host(2), cluster.lab.etcd());
    let (mut client, mut db) = (cluster.run(1, "client"), cluster.run(2, "db"));
    client.add("--label role=client");
    db.add("--label role=db");
    host2.ok("docker run --net=none --label org.projectcalico.label.role=other --name=other -tid ubuntu");
    let mut other = cluster.run(2, "late");
    other.add("--label role=other");
    let all = [&client, &db, &other];
    assert_matrix(&all, &[]);

    apply(host1, POLICIES);
    let open = [("client", "db")];
    assert_matrix(&all, &open);
    let shown = host1.ok("calicoctl get globalnetworkpolicies -o wide");
    assert!(shown.contains("database") && shown.contains("role == 'db'"), "{shown}");

    // Docker's own labels are taken over.
    let endpoint = host2.ok("calicoctl container add other");
    assert!(endpoint.contains("added"), "{endpoint}");
    let labels = host2.ok("calicoctl get workloadendpoints -o yaml");
    assert!(labels.contains("role: other"), "{labels}");

    // A policy on trial changes nothing, a tier before the others does.
    apply(host1, &POLICIES.replace("kind: Global", "kind: StagedGlobal").replace("Allow", "Deny"));
    assert_matrix(&all, &open);
    apply(
        host1,
        "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: quarantine}\nspec: {order: 1}\n---\n\
         apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: quarantine.client}\nspec:\n  \
         tier: quarantine\n  selector: role == 'client'\n  types: [Ingress, Egress]\n",
    );
    assert_closes_to(&all, &[]);
    host1.ok("calicoctl delete globalnetworkpolicy quarantine.client");
    assert_matrix(&all, &open);

    a_broken_policy_closes_what_it_governs(host1, &etcd, || assert_closes_to(&all, &[]));
    host1.ok("calicoctl delete globalnetworkpolicy broken");
    assert_matrix(&all, &open);

    host1.ok("calicoctl delete -f /tmp/policies.yaml --skip-not-exists");
    host1.write("/tmp/policies.yaml", POLICIES).unwrap();
    host1.ok("calicoctl delete -f /tmp/policies.yaml");
    assert_closes_to(&all, &[]);
}

/// Its selector says which endpoints, a rule of it cannot be read: those are closed, and everybody is told.
fn a_broken_policy_closes_what_it_governs(host: &Host, etcd: &calico_lab::Etcd<'_>, closes: impl FnOnce()) {
    let broken = r#"{"kind":"GlobalNetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"broken"},
        "spec":{"order":1,"selector":"role == 'db'","types":["Ingress"],
        "ingress":[{"action":"Allow","source":{"selector":"role =="}}]}}"#;
    let refused = host.fails(&format!("calicoctl apply -f - <<'END'\n{broken}\nEND"));
    assert!(refused.text().contains("spec.ingress[0].source.selector"), "{}", refused.text());
    etcd.put(&format!("{ROOT}/globalnetworkpolicies/broken"), broken).unwrap();
    closes();
    // The container that hosts the service of the database is on the other host; both say it.
    for word in ["broken", "spec.ingress[0].source.selector"] {
        eventually("calicoctl status to name the policy and the place", || {
            host.run("calicoctl status").text().contains(word)
        });
    }
    let metrics = host.ok("curl -s http://127.0.0.1:9099/metrics || wget -qO- http://127.0.0.1:9099/metrics");
    assert!(metrics.contains("calico_component_problems{component=\"felix\"} 1"), "{metrics}");
}

/// The other renderer takes over and hands back while traffic flows: nothing allowed is lost, nothing denied passes.
#[test]
fn the_renderer_can_be_changed_under_traffic() {
    let trio = Trio::up();
    let host = trio.host();
    let switch = |mode: &str| {
        host.ok(&format!(
            "calicoctl patch felixconfiguration default -p '{{\"spec\":{{\"nftablesMode\":\"{mode}\"}}}}'"
        ));
    };
    let (nftables, iptables) = ("nft list tables", "iptables-save");
    host.ok("calicoctl apply -f - <<'END'\napiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {}\nEND");
    trio.undisturbed("the change to iptables", || {
        switch("Disabled");
        eventually("the rules to be in iptables", || host.ok(iptables).contains("cali-"));
        eventually("the nftables tables to go", || !host.ok(nftables).contains("ip calico"));
    });
    trio.undisturbed("the change back", || {
        switch("Enabled");
        eventually("the rules to be in nftables", || host.ok(nftables).contains("ip calico"));
        eventually("the iptables chains to go", || !host.ok(iptables).contains("cali-"));
    });
}
