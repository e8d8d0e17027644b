#![allow(clippy::unwrap_used)]
use calico_model::{EndpointPort, ProfileName, Resource, WorkloadEndpointSpec};
use calico_store::{Injected, WriteKind};

use crate::{
    args::{EndpointFilter, EndpointShow, OutputArgs, ProfileChange},
    commands::{
        endpoint::show,
        endpoint_profile::{Target, change, show as show_profiles},
        profile::add,
    },
    output::Format,
    testing::{Bench, NODE, refusal, text},
};

fn endpoint(id: &str) -> Target {
    Target::Endpoint { id: id.into(), filter: EndpointFilter::default() }
}

fn detailed(filter: EndpointFilter) -> EndpointShow {
    EndpointShow { filter, endpoint: None, detailed: true, output: OutputArgs::default() }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Profiles `A_1`, `b`, `c` and the endpoint `e1` with the given ones.
async fn bench(profiles: &[&str]) -> Bench {
    let bench = Bench::new();
    for name in ["A_1", "b", "c"] {
        text(add(&bench.ctx, name).await);
    }
    let stored: Vec<String> = profiles.iter().map(|name| stored(name)).collect();
    let stored: Vec<&str> = stored.iter().map(String::as_str).collect();
    bench.endpoint(NODE, "c1", "e1", &stored).await;
    bench
}

fn stored(name: &str) -> String {
    ProfileName::typed(name).unwrap().as_stored().to_owned()
}

async fn profiles_of(bench: &Bench, id: &str) -> Vec<String> {
    let (endpoints, _) = bench.ctx.store.list::<WorkloadEndpointSpec>().await.unwrap();
    endpoints.into_iter().find(|endpoint| endpoint.spec.endpoint == id).unwrap().spec.profiles
}

#[tokio::test]
async fn profile_lists_change_as_told() {
    use ProfileChange::{Append, Remove, Set};
    let a_1 = stored("A_1");
    /// What it had, what is done with what was typed, the answer, what it then has.
    type Case<'a> = (&'a [&'a str], ProfileChange, &'a [&'a str], &'a str, &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (&[], Append, &["A_1", "b"], "Profile(s) A_1, b appended.", &["A_1", "b"]),
        (&["c"], Append, &["A_1"], "Profile(s) A_1 appended.", &["c", "A_1"]),
        (&["c"], Append, &[&a_1], "Profile(s) A_1 appended.", &["c", "A_1"]),
        (&["b"], Append, &["c", "b"], "Profile b is already in endpoint profile list", &["b"]),
        (&["b"], Append, &[], "No profile specified.", &["b"]),
        (&["A_1", "b", "c"], Remove, &["c", "A_1"], "Profile(s) c,A_1 removed.", &["b"]),
        (&["A_1"], Remove, &[&a_1], "Profile(s) A_1 removed.", &[]),
        (&["b"], Remove, &["b", "c"], "Profile c is not in endpoint profile list.", &["b"]),
        (&["b"], Remove, &[], "No profile specified.", &["b"]),
        (&["b"], Set, &["c", "A_1"], "Profile(s) set to c, A_1.", &["c", "A_1"]),
        (&["b"], Set, &["b"], "Profile(s) set to b.", &["b"]),
        (&["b"], Set, &[], "Removed all profiles from endpoint.", &[]),
    ];
    for (had, verb, typed, answer, has) in cases {
        let bench = bench(had).await;
        let said = text(change(&bench.ctx, &endpoint("e1"), *verb, &words(typed)).await);
        assert_eq!(said, format!("{answer}\n"), "{had:?} {verb:?} {typed:?}");
        let has: Vec<String> = has.iter().map(|name| stored(name)).collect();
        assert_eq!(profiles_of(&bench, "e1").await, has, "{had:?} {verb:?} {typed:?}");
    }
}

#[tokio::test]
async fn refusals_change_nothing() {
    use ProfileChange::{Append, Remove, Set};
    let bench = bench(&["b"]).await;
    bench.endpoint("host-2", "c2", "twin", &[]).await;
    bench.endpoint(NODE, "c3", "twin", &[]).await;
    let before = bench.everything().await;
    let cases: &[(&str, ProfileChange, &[&str], &[&str])] = &[
        ("e1", Append, &["nope"], &["Profile with name nope was not found.", "calicoctl profile add nope"]),
        ("e1", Set, &["b", "nope"], &["Profile with name nope was not found."]),
        ("e1", Remove, &["nope"], &["Profile with name nope was not found."]),
        ("e1", Append, &["c", "c"], &["Profile with name c was specified more than once."]),
        ("e1", Set, &["A_1", "b", "A_1"], &["Profile with name A_1 was specified more than once."]),
        ("e1", Set, &["bad name"], &["\"bad name\" is not valid"]),
        ("gone", Append, &["b"], &["Failed to append profiles to endpoint.", "Endpoint gone is unknown to Calico."]),
        ("gone", Remove, &["b"], &["Failed to remove profiles from endpoint.", "Endpoint gone is unknown to Calico."]),
        ("gone", Set, &[], &["Failed to set profiles for endpoint.", "Endpoint gone is unknown to Calico."]),
        ("twin", Append, &["b"], &["More than 1 endpoint matches the provided criteria."]),
        ("twin", Set, &["b"], &["More than 1 endpoint matches the provided criteria."]),
        ("twin", Remove, &["b"], &["More than 1 endpoint matches the provided criteria."]),
    ];
    for (id, verb, typed, expected) in cases {
        let said = refusal(change(&bench.ctx, &endpoint(id), *verb, &words(typed)).await);
        for part in *expected {
            assert!(said.contains(part), "{id} {verb:?} {typed:?}: {said}");
        }
    }
    assert_eq!(bench.everything().await, before);
}

#[tokio::test]
async fn a_filter_says_which_of_several() {
    let bench = bench(&[]).await;
    bench.endpoint("host-2", "c2", "twin", &[]).await;
    bench.endpoint(NODE, "c3", "twin", &[]).await;
    let filter = EndpointFilter { host: Some("HOST-2".into()), ..EndpointFilter::default() };
    let target = Target::Endpoint { id: "twin".into(), filter };
    text(change(&bench.ctx, &target, ProfileChange::Append, &words(&["b"])).await);
    let (endpoints, _) = bench.ctx.store.list::<WorkloadEndpointSpec>().await.unwrap();
    let with: Vec<&str> =
        endpoints.iter().filter(|e| !e.spec.profiles.is_empty()).map(|e| e.spec.workload.as_str()).collect();
    assert_eq!(with, ["c2"]);
}

#[tokio::test]
async fn a_name_whose_profile_is_gone_can_still_be_taken_off() {
    let bench = bench(&["A_1", "b"]).await;
    text(crate::commands::profile::remove(&bench.ctx, "A_1", true).await);
    let said = text(change(&bench.ctx, &endpoint("e1"), ProfileChange::Remove, &words(&["A_1"])).await);
    assert_eq!(said, "Profile(s) A_1 removed.\n");
    assert_eq!(profiles_of(&bench, "e1").await, ["b"]);
}

#[tokio::test]
async fn a_lost_race_keeps_both_changes() {
    let bench = bench(&[]).await;
    let mut raced = false;
    bench.kv.inject(move |behind, write| {
        if write.kind == WriteKind::Update && !raced {
            raced = true;
            let value = String::from_utf8(write.value.unwrap().to_vec()).unwrap();
            behind.put(write.key, value.replace("\"profiles\":[\"b\"]", "\"profiles\":[\"c\"]"));
        }
        Injected::Proceed
    });
    text(change(&bench.ctx, &endpoint("e1"), ProfileChange::Append, &words(&["b"])).await);
    assert_eq!(profiles_of(&bench, "e1").await, ["c", "b"]);
}

#[tokio::test]
async fn profiles_are_listed_by_name() {
    let bench = bench(&["c", "A_1"]).await;
    let output = show_profiles(&bench.ctx, &endpoint("e1")).await.unwrap();
    assert_eq!(output.text, "+------+\n| Name |\n+------+\n| A_1  |\n|  c   |\n+------+\n");
    text(change(&bench.ctx, &endpoint("e1"), ProfileChange::Set, &[]).await);
    let output = show_profiles(&bench.ctx, &endpoint("e1")).await.unwrap();
    assert_eq!(output.text, "Endpoint has no profiles associated with it.\n");
    assert_eq!(output.render(Format::Json), "[]\n");
    let said = refusal(show_profiles(&bench.ctx, &endpoint("gone")).await);
    assert!(said.contains("Failed to list profiles in endpoint.") && said.contains("is unknown to Calico."), "{said}");
}

#[tokio::test]
async fn endpoints_counted_and_listed() {
    let bench = bench(&["c", "A_1"]).await;
    bench.endpoint("host-2", "c2", "e2", &["deleted"]).await;
    bench.endpoint("host-2", "c2", "e3", &[]).await;
    let counted = show(&bench.ctx, &EndpointShow::default()).await.unwrap();
    insta::assert_snapshot!("endpoint_show", counted.text);
    insta::assert_snapshot!("endpoint_show_json", counted.render(Format::Json));
    let listed = show(&bench.ctx, &detailed(EndpointFilter::default())).await.unwrap();
    insta::assert_snapshot!("endpoint_show_detailed", listed.text);
    insta::assert_snapshot!("endpoint_show_detailed_yaml", listed.render(Format::Yaml));
}

#[tokio::test]
async fn published_ports_are_told_where_there_are_any() {
    let bench = bench(&[]).await;
    let show_all = async || show(&bench.ctx, &detailed(EndpointFilter::default())).await.unwrap();
    assert!(!show_all().await.text.contains("Published"));
    let port = |host_port, host_ip: Option<&str>| EndpointPort {
        name: String::new(),
        protocol: "TCP".into(),
        port: 80,
        host_port: Some(host_port),
        host_ip: host_ip.map(str::to_owned),
        extra: Default::default(),
    };
    let mut endpoint = bench.endpoint(NODE, "c2", "e2", &[]).await;
    endpoint.spec.ports = vec![port(8080, None), port(8081, Some("192.0.2.1")), port(8082, Some("::1"))];
    endpoint.spec.ports.push(EndpointPort { name: "http".into(), host_port: Some(0), ..port(0, None) });
    bench.ctx.store.update(endpoint).await.unwrap();
    let shown = show_all().await;
    assert!(shown.text.contains("| 192.0.2.1:8081->80/tcp |"), "{}", shown.text);
    let published = ["8080->80/tcp", "192.0.2.1:8081->80/tcp", "[::1]:8082->80/tcp"];
    assert_eq!(shown.data[1]["published"], serde_json::json!(published));
}

#[tokio::test]
async fn containers_of_docker_s_networks_are_told_by_name_and_why_they_are_closed() {
    let bench = bench(&[]).await;
    let show_all = async || show(&bench.ctx, &detailed(EndpointFilter::default())).await.unwrap();
    let mut endpoint = bench.endpoint(NODE, "libnetwork", "e2", &[]).await;
    let before = show_all().await.text;
    assert!(!before.contains("Container") && !before.contains("Closed because"), "{before}");
    bench.ctx.store.delete(&endpoint).await.unwrap();
    let notes = [("workload-name", "db"), ("closed-because", "a label is not valid")];
    endpoint.metadata.annotations =
        notes.map(|(name, value)| (format!("org.projectcalico/{name}"), value.to_owned())).into();
    endpoint.spec.orchestrator = "libnetwork".to_owned();
    let mut stored = Resource::namespaced("libnetwork", "", endpoint.spec);
    stored.metadata.annotations = endpoint.metadata.annotations;
    bench.ctx.store.create(stored).await.unwrap();
    let shown = show_all().await;
    assert!(
        shown.text.contains("| Container |    Closed because    |") && shown.text.contains(" db "),
        "{}",
        shown.text
    );
    assert!(shown.text.contains("| a label is not valid |"), "{}", shown.text);
    let row = shown.data.as_array().unwrap().iter().find(|row| row["endpoint"] == "e2").unwrap();
    assert_eq!((&row["workloadName"], &row["closedBecause"]), (&"db".into(), &"a label is not valid".into()));
}

#[tokio::test]
async fn filters_narrow_and_no_match_is_an_empty_table() {
    let bench = bench(&[]).await;
    bench.endpoint("host-2", "c2", "e2", &[]).await;
    let count = async |filter: EndpointFilter| {
        let shown = show(&bench.ctx, &detailed(filter)).await.unwrap();
        shown.data.as_array().unwrap().len()
    };
    let filter = |host: Option<&str>, orchestrator: Option<&str>, workload: Option<&str>| EndpointFilter {
        host: host.map(Into::into),
        orchestrator: orchestrator.map(Into::into),
        workload: workload.map(Into::into),
    };
    assert_eq!(count(filter(None, None, None)).await, 2);
    assert_eq!(count(filter(Some("host-2"), None, None)).await, 1);
    assert_eq!(count(filter(None, Some("docker"), Some("c1"))).await, 1);
    assert_eq!(count(filter(Some("host-2"), None, Some("c1"))).await, 0);
    assert_eq!(count(filter(None, Some("cni"), None)).await, 0);
    let one = EndpointShow { endpoint: Some("e2".into()), ..detailed(EndpointFilter::default()) };
    assert_eq!(show(&bench.ctx, &one).await.unwrap().data.as_array().unwrap().len(), 1);
}
