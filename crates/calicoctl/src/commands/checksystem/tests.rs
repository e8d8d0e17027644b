#![allow(clippy::unwrap_used)]
use calico_dataplane::probe::Feature;
use calico_datastore::{Status, admin::StatusAnswer};

use super::{facts::Facts, judge::Wanted, *};
use crate::testing::Bench;

/// A host that can do everything.
fn good() -> Facts {
    Facts {
        kernel: "6.1.0-21-amd64".into(),
        features: Ok(Feature::ALL.into_iter().map(|feature| (feature, Ok(()))).collect()),
        forwarding: [Some(true); 2],
        most_connections: Some(262_144),
        rp_filter: Some(0),
        uplink: Some(("eth0".into(), 1500)),
        most_files: Some(65_536),
        docker: Ok(()),
        bird: Ok(()),
        bgp_port: Ok(()),
        datastore: Ok(()),
        datastore_is_named: false,
        endpoints: vec![("http://10.0.0.1:2379".into(), Ok("version 3.5.1, 20 KiB".into()))],
        kept: Some(Ok("revision 7".into())),
        plugin: Some(Ok(())),
    }
}

const NOTHING: Wanted = Wanted { docker: false, bird: false };

fn without(features: &[Feature]) -> Facts {
    let mut facts = good();
    let known = facts.features.as_mut().unwrap();
    for feature in features {
        known.insert(*feature, Err("not supported".into()));
    }
    facts
}

fn ending(facts: &Facts, wanted: Wanted) -> (Exit, String) {
    let output = shown(&judge::judge(facts, wanted));
    (output.exit, output.failure.map(|failure| failure.to_string()).unwrap_or_default())
}

#[test]
fn a_good_host_is_ok_in_every_line() {
    let output = shown(&judge::judge(&good(), NOTHING));
    assert_eq!((output.exit, &output.failure), (Exit::Done, &None));
    let rows = output.data.as_array().unwrap();
    assert!(rows.len() > Feature::ALL.len() && rows.iter().all(|row| row["state"] == "ok"), "{}", output.text);
    assert!(rows.iter().all(|row| row["wayOut"].is_null()), "nothing to mend");
}

#[test]
fn what_only_a_feature_needs_is_told_and_is_no_failure() {
    let facts = without(&[Feature::Vxlan, Feature::Ipv6, Feature::IptablesLegacy]);
    let output = shown(&judge::judge(&facts, NOTHING));
    assert_eq!(output.exit, Exit::Done);
    let row = |item: &str| output.data.as_array().unwrap().iter().find(|row| row["item"] == item).unwrap().clone();
    let vxlan = row("VXLAN over IPv4");
    assert_eq!((vxlan["state"].as_str(), vxlan["required"].as_bool()), (Some("missing"), Some(false)));
    assert!(vxlan["wayOut"].as_str().unwrap().contains("modprobe vxlan") && vxlan["neededFor"] == "pools with VXLAN");
    assert!(output.text.contains("VXLAN over IPv4: not supported\n"), "{}", output.text);
}

#[test]
fn what_no_node_runs_without_ends_with_1_and_is_named() {
    let (exit, words) = ending(&without(&[Feature::Veth]), NOTHING);
    assert!(exit == Exit::Failed && words.contains("lacks what a node needs: veth."), "{words}");
    let (exit, words) = ending(&Facts { kernel: "2.4.37".into(), ..good() }, NOTHING);
    assert!(exit == Exit::Failed && words.contains("Linux kernel"), "{words}");
    let (exit, words) = ending(&Facts { features: Err("EPERM".into()), ..good() }, NOTHING);
    assert!(exit == Exit::Failed && words.contains("network namespaces"), "{words}");
}

#[test]
fn one_kind_of_rules_is_enough() {
    assert_eq!(ending(&without(&[Feature::Nftables]), NOTHING).0, Exit::Done);
    let none = without(&[Feature::Nftables, Feature::IptablesNft, Feature::IptablesLegacy]);
    let (exit, words) = ending(&none, NOTHING);
    assert!(exit == Exit::Failed && words.contains("nftables"), "{words}");
}

#[test]
fn what_was_asked_for_is_required_and_what_is_usual_is_not() {
    let no = || Err("not there".to_owned());
    let bare = Facts { docker: no(), bird: no(), datastore: no(), bgp_port: no(), ..good() };
    assert_eq!(ending(&bare, NOTHING), (Exit::Done, String::new()));
    let (exit, words) = ending(&bare, Wanted { docker: true, bird: false });
    assert!(exit == Exit::Failed && words.contains("Docker") && !words.contains("BIRD"), "{words}");
    let (exit, words) = ending(&bare, Wanted { docker: false, bird: true });
    assert!(exit == Exit::Failed && words.contains("BIRD 2"), "{words}");
    let (exit, words) = ending(&Facts { datastore_is_named: true, ..bare }, NOTHING);
    assert!(exit == Exit::Failed && words.contains("datastore"), "{words}");
}

#[test]
fn settings_that_will_hurt_are_warnings() {
    let facts = Facts {
        forwarding: [Some(false), Some(false)],
        most_connections: Some(1000),
        rp_filter: Some(1),
        uplink: Some(("wan0".into(), 1280)),
        most_files: Some(256),
        ..good()
    };
    let output = shown(&judge::judge(&facts, NOTHING));
    let rows = output.data.as_array().unwrap();
    assert_eq!(rows.iter().filter(|row| row["state"] == "warning").count(), 6, "{}", output.text);
    assert!(output.exit == Exit::Done && output.text.contains("wan0 carries 1280 bytes"), "{}", output.text);
}

/// What the datastore of this host answers, but for a change.
fn kept(change: impl FnOnce(&mut Status)) -> StatusAnswer {
    let mut datastore = Status {
        revision: 9,
        compacted: 0,
        leases: 0,
        bytes: 4096,
        bytes_in_use: 2048,
        history_bytes: 0,
        full: false,
        trouble: None,
        cluster: 1,
        member: 1,
        folder: "/var/lib/calico/datastore".into(),
    };
    change(&mut datastore);
    StatusAnswer { datastore, listens_on: None, invitations: 0, hosts: 2, connected: 1 }
}

#[test]
fn the_datastores_members_and_the_plugin_are_told_and_fail_nothing() {
    let facts = Facts {
        endpoints: vec![
            ("http://a:2379".into(), Ok("version 3.4.30, 20 KiB".into())),
            ("http://b:2379".into(), Err("connection refused".into())),
        ],
        kept: Some(facts::of_status(&kept(|status| status.full = true))),
        plugin: Some(Err("nobody serves it".into())),
        ..good()
    };
    let output = shown(&judge::judge(&facts, NOTHING));
    assert_eq!(output.exit, Exit::Done);
    for words in ["http://b:2379: connection refused", "its disk is full", "Docker's plugin: nobody serves it"] {
        assert!(output.text.contains(words), "{}", output.text);
    }
    let bare = Facts { endpoints: Vec::new(), kept: None, plugin: None, ..good() };
    let text = shown(&judge::judge(&bare, NOTHING)).text;
    assert!(!text.contains("endpoints") && !text.contains("of this host") && !text.contains("plugin"), "{text}");
    let said = facts::of_status(&kept(|_| ())).unwrap();
    assert_eq!(said, "revision 9, 2 of 4 KiB in use, 2 hosts joined, 1 of them connected");
    let broken = kept(|status| status.trouble = Some("fsync failed".to_owned()));
    assert!(facts::of_status(&broken).unwrap_err().contains("fsync failed"));
}

#[test]
fn the_uplink_is_the_default_route_of_the_lowest_metric() {
    let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                 eth0\t00000000\t0100000A\t0003\t0\t0\t200\t00000000\t0\t0\t0\n\
                 wan0\t00000000\t0200000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                 docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
    assert_eq!(facts::default_interface(table).as_deref(), Some("wan0"));
    assert_eq!(facts::default_interface("Iface\n"), None);
}

#[tokio::test]
async fn only_root_may_try_and_bad_runtimes_are_refused() {
    let args = |runtime: Option<&str>| Checksystem {
        fix: false,
        libnetwork: false,
        runtime: runtime.map(str::to_owned),
        kernel_config: None,
        output: Default::default(),
    };
    let bench = Bench::not_root();
    let refused = checksystem(Ok(&bench.ctx), &args(None)).await.unwrap_err();
    assert_eq!(refused.message(), "This command must be run as root.");
    let refused = checksystem(Ok(&bench.ctx), &args(Some("rkt"))).await.unwrap_err();
    assert_eq!(refused.message(), "Invalid runtime specified: 'rkt'");
}
