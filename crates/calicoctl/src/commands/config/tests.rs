#![allow(clippy::unwrap_used)]

use calico_model::{BGPConfigurationSpec, FelixConfigurationSpec};
use calico_store::Kv;
use serde_json::Value;

use super::run;
use crate::{
    args::{Command, parse},
    output::Output,
    testing::{Bench, refusal, text},
};

async fn config(bench: &Bench, words: &str) -> Result<Output, crate::failure::Failure> {
    let line = format!("calicoctl config {words}");
    let cli = parse(line.split_whitespace().map(Into::into)).unwrap_or_else(|error| panic!("{line}: {error}"));
    let Some(Command::Config { command }) = cli.command else { panic!("{line}") };
    run(&bench.ctx, &command).await
}

#[tokio::test]
async fn set_shown_removed_in_the_classic_words() {
    let bench = Bench::new();
    for (scope, level) in [("felix", "error"), ("bgp", "debug"), ("node bgp", "info"), ("node felix", "critical")] {
        let say = async |words: &str| text(config(&bench, &format!("{scope} loglevel {words}")).await);
        assert_eq!(say("").await, "No value configured\n", "{scope}");
        assert_eq!(say("--remove").await, "No value configured\n", "{scope}");
        assert_eq!(say(level).await, "", "{scope}");
        assert_eq!(say("").await, format!("{level}\n"), "{scope}");
    }
    let felix = bench.ctx.store.get::<FelixConfigurationSpec>("default").await.unwrap();
    assert_eq!(felix.spec.log_severity_screen.as_deref(), Some("Error"));
    let own = bench.ctx.store.get::<BGPConfigurationSpec>("node.host-1").await.unwrap();
    assert_eq!(own.spec.log_severity_screen, "Info");
    assert_eq!(text(config(&bench, "felix loglevel --remove").await), "Value removed\n");
    let felix = bench.ctx.store.get::<FelixConfigurationSpec>("default").await.unwrap();
    assert_eq!(felix.spec.log_severity_screen, None);
}

#[tokio::test]
async fn other_fields_and_members_of_newer_programs_stay() {
    let bench = Bench::new();
    config(&bench, "felix vxlanPort 4790").await.unwrap();
    let key = "/calico/resources/v3/projectcalico.org/felixconfigurations/default";
    let mut stored: Value = serde_json::from_slice(&bench.kv.behind().get(key).await.unwrap().unwrap().value).unwrap();
    stored["spec"]["fieldOfTomorrow"] = "x".into();
    bench.kv.put(key, stored.to_string());
    config(&bench, "felix reportinginterval 60").await.unwrap();
    config(&bench, "felix failsafeInboundHostPorts tcp:22,udp:68").await.unwrap();
    let stored: Value = serde_json::from_slice(&bench.kv.behind().get(key).await.unwrap().unwrap().value).unwrap();
    assert_eq!(stored["spec"]["fieldOfTomorrow"], "x");
    assert_eq!((&stored["spec"]["vxlanPort"], &stored["spec"]["reportingInterval"]), (&4790.into(), &"1m0s".into()));
    let listing = text(config(&bench, "felix").await);
    for row in [
        "| failsafeInboundHostPorts ",
        "| tcp:22,udp:68 ",
        "| vxlanPort ",
        "| 4790 ",
        "| fieldOfTomorrow ",
        "| reportingInterval ",
        "| 1m0s ",
    ] {
        assert!(listing.contains(row), "{row}: {listing}");
    }
    assert!(!listing.contains("interfacePrefix"), "it is not set: {listing}");
    let all = text(config(&bench, "felix --all").await);
    assert!(all.contains("| interfacePrefix ") && all.contains("Drop, Accept, Return"), "{all}");
}

#[tokio::test]
async fn wrong_names_and_values_are_told_and_change_nothing() {
    let bench = Bench::new();
    config(&bench, "felix loglevel info").await.unwrap();
    let before = bench.everything().await;
    for (words, parts) in [
        ("felix loglevel DEBUG", vec!["The configuration value 'DEBUG' is not recognized", "debug, info"]),
        ("bgp loglevel debugger", vec!["'debugger' is not recognized as a valid value", "one of"]),
        ("felix logLevels x", vec!["The configuration 'logLevels' is not recognized as a valid option.", "--force"]),
        ("felix logSeverityScren", vec!["did you mean logSeverityScreen?"]),
        ("bgp nonsense x --force", vec!["'nonsense' is not recognized as a valid option"]),
        ("felix vxlanEnabled maybe", vec!["'maybe'", "it is true or false"]),
        ("felix defaultEndpointToHostAction Deny", vec!["Drop, Accept, Return"]),
        ("felix reportingInterval 1.5s", vec!["reportingInterval", "whole numbers"]),
        ("felix failsafeInboundHostPorts tcp:bad:22", vec!["[0].net", "address or a network"]),
        ("bgp listenPort 0", vec!["1 to 65535"]),
        ("bgp listenPort 70000", vec!["whole number from 0 to 65535"]),
        ("bgp asNumber 4294967296", vec!["not an AS number"]),
        ("node bgp nodeToNodeMeshEnabled false", vec!["nodeToNodeMeshEnabled", "default"]),
        ("felix natPortRange http", vec!["by number"]),
        ("bgp nodeMeshPassword geheim", vec!["NAME/KEY"]),
    ] {
        let said = refusal(config(&bench, words).await);
        for part in parts {
            assert!(said.contains(part), "{words}: {part:?} is missing in:\n{said}");
        }
        assert!(!said.contains("geheim"), "{said}");
    }
    assert_eq!(bench.everything().await, before);
}

#[tokio::test]
async fn a_parameter_without_a_field_is_handed_on_by_force() {
    let bench = Bench::new();
    assert_eq!(text(config(&bench, "felix SomeNewThing 7 --force").await), "");
    assert!(bench.said()[0].starts_with("note: The --force option is set."), "{:?}", bench.said());
    assert_eq!(text(config(&bench, "felix SomeNewThing --force").await), "7\n");
    let felix = bench.ctx.store.get::<FelixConfigurationSpec>("default").await.unwrap();
    assert_eq!(felix.metadata.annotations["config.projectcalico.org/SomeNewThing"], "7");
    assert!(text(config(&bench, "felix").await).contains("| SomeNewThing "));
    assert_eq!(text(config(&bench, "felix SomeNewThing --remove --force").await), "Value removed\n");
    assert_eq!(text(config(&bench, "felix SomeNewThing --remove --force").await), "No value configured\n");
}

#[tokio::test]
async fn every_field_of_felix_can_be_read_by_its_name() {
    let bench = Bench::new();
    for field in calico_model::field::all(calico_model::KindName::FelixConfiguration) {
        let name = field.name();
        assert_eq!(text(config(&bench, &format!("felix {name}")).await), "No value configured\n", "{name}");
    }
}
