//! What the recorded cases do not hold: many faults at once, races, streams without end, what upstream has not.

#![allow(clippy::unwrap_used)]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use calico_ipam::{AutoAssign, Ipam};
use calico_model::{ClusterInformationSpec, IPPoolSpec, KindName, NodeSpec, Resource, ResourceKey};
use calico_store::{Injected, Kv, WriteKind};
use futures::FutureExt;
use serde_json::Value;

use crate::{
    args::{self, Command},
    commands,
    failure::{Exit, Failure},
    output::Output,
    testing::{Bench, refusal, text},
};

/// Runs a line, words split at blanks; `~` stands for a blank in a word.
async fn calicoctl(bench: &Bench, line: &str, input: &str) -> Result<Output, Failure> {
    *bench.console.1.lock().unwrap() = input.to_owned();
    let words = format!("calicoctl {line}");
    let words = words.split_whitespace().map(|word| word.replace('~', " ").into());
    let command = args::parse(words).unwrap_or_else(|error| panic!("{line}: {error}")).command.unwrap();
    run(bench, &command).await
}

async fn run(bench: &Bench, command: &Command) -> Result<Output, Failure> {
    match command {
        Command::Get(args) => commands::resource::get(&bench.ctx, args).await,
        Command::Create(args) => commands::resource::create(&bench.ctx, args).await,
        Command::Apply(args) => commands::resource::apply(&bench.ctx, args).await,
        Command::Replace(args) => commands::resource::replace(&bench.ctx, args).await,
        Command::Patch(args) => commands::resource::patch(&bench.ctx, args).await,
        Command::Delete(args) => commands::resource::delete(&bench.ctx, args).await,
        Command::Label(args) => commands::resource::label(&bench.ctx, args).await,
        Command::Validate(args) => commands::resource::validate(&*bench.ctx.console, args),
        other => panic!("{other:?} is no command on resources"),
    }
}

fn set(name: &str, net: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {{name: {name}}}\nspec: {{nets: [{net}]}}\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

async fn stored(bench: &Bench, plural: &str, name: &str) -> Option<Value> {
    let key = format!("/calico/resources/v3/projectcalico.org/{plural}/{name}");
    let entry = bench.kv.behind().get(&key).await.unwrap();
    entry.map(|entry| serde_json::from_slice(&entry.value).unwrap())
}

#[tokio::test]
async fn all_faults_of_all_documents_are_told_and_nothing_is_written() {
    let bench = Bench::new();
    calico_startup::initialise(&bench.ctx.store).await.unwrap();
    let before = bench.everything().await;
    let input = [
        set("good", "10.0.0.0/8"),
        policy("bad", "{selector: \"role = 'web'\", ingress: [{action: Permit}, {action: Allow, protocol: tcp}]}"),
        set("worse", "10.0.0.0/99"),
    ]
    .join("---\n");
    for verb in ["create", "apply", "replace", "validate"] {
        let said = refusal(calicoctl(&bench, &format!("{verb} -f -"), &input).await);
        for words in [
            "standard input, resource 2: GlobalNetworkPolicy bad: spec.selector",
            "\n    role = 'web'\n         ^",
            "spec.ingress[0].action",
            "spec.ingress[1].protocol",
            "standard input, resource 3: GlobalNetworkSet worse: spec.nets[0]",
            "nothing has been changed",
        ] {
            assert!(said.contains(words), "{verb}: {words:?} is missing in\n{said}");
        }
        assert_eq!(bench.everything().await, before, "{verb}");
    }
}

#[tokio::test]
async fn a_cluster_of_another_version_is_refused_unless_allowed() {
    let bench = Bench::new();
    calico_startup::initialise(&bench.ctx.store).await.unwrap();
    let key = ResourceKey::new(KindName::ClusterInformation, None, "default");
    let version = |version: &str| {
        let (store, key, version) = (bench.ctx.store.clone(), key.clone(), version.to_owned());
        async move {
            let change = |info: &mut Resource<ClusterInformationSpec>| {
                info.spec.calico_version.clone_from(&version);
                Ok::<_, calico_store::Error>(())
            };
            store.modify(&key, change).await.unwrap();
        }
    };
    version("v9.9.9").await;
    let lines = ["get nodes", "apply -f -", "delete gnp x -s", "patch tier default -p {}", "label tier default a=b"];
    for line in lines {
        let said = refusal(calicoctl(&bench, line, &set("one", "10.0.0.0/8")).await);
        assert!(said.contains("version mismatch") && said.contains("--allow-version-mismatch"), "{line}: {said}");
        calicoctl(&bench, &format!("{line} --allow-version-mismatch"), &set("one", "10.0.0.0/8")).await.unwrap();
    }
    version(concat!("v", env!("CARGO_PKG_VERSION"), "-12-gabcdef")).await;
    calicoctl(&bench, "get nodes", "").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_race_is_taken_up_again_unless_a_version_was_given() {
    let bench = Bench::new();
    text(calicoctl(&bench, "apply -f -", &set("one", "10.0.0.0/8")).await);
    let lost = Arc::new(AtomicUsize::new(0));
    let counter = lost.clone();
    bench.kv.inject(move |behind, write| {
        if write.kind == WriteKind::Update && write.key.ends_with("/one") && counter.fetch_add(1, Ordering::SeqCst) < 2
        {
            let key = write.key.to_owned();
            let present = behind.get(&key).now_or_never().unwrap().unwrap().unwrap();
            behind.put(&key, present.value);
        }
        Injected::Proceed
    });
    text(calicoctl(&bench, "apply -f -", &set("one", "10.9.0.0/16")).await);
    assert_eq!(lost.load(Ordering::SeqCst), 3);
    assert_eq!(stored(&bench, "globalnetworksets", "one").await.unwrap()["spec"]["nets"][0], "10.9.0.0/16");

    lost.store(0, Ordering::SeqCst);
    let revision = bench.kv.behind().get("/calico/resources/v3/projectcalico.org/globalnetworksets/one").await.unwrap();
    let patch = format!("{{metadata:~{{resourceVersion:~'{}'}},~spec:~{{nets:~[]}}}}", revision.unwrap().revision);
    let said = refusal(calicoctl(&bench, &format!("patch globalnetworkset one -p {patch}"), "").await);
    assert!(said.contains("changed by somebody else"), "{said}");
    assert_eq!(lost.load(Ordering::SeqCst), 1, "one try");
}

#[tokio::test]
async fn apply_creates_what_was_deleted_meanwhile() {
    let bench = Bench::new();
    text(calicoctl(&bench, "apply -f -", &set("one", "10.0.0.0/8")).await);
    let mut first = true;
    bench.kv.inject(move |behind, write| {
        if write.kind == WriteKind::Update && std::mem::take(&mut first) {
            behind.remove(write.key);
        }
        Injected::Proceed
    });
    text(calicoctl(&bench, "apply -f -", &set("one", "10.9.0.0/16")).await);
    assert_eq!(stored(&bench, "globalnetworksets", "one").await.unwrap()["spec"]["nets"][0], "10.9.0.0/16");
}

#[tokio::test]
async fn an_interrupt_ends_between_two_resources_and_says_how_far_it_came() {
    let bench = Bench::new();
    calico_startup::initialise(&bench.ctx.store).await.unwrap();
    let interrupter = Arc::new(bench.interrupter);
    let bench = Bench { interrupter: crate::interrupt::Interrupt::new().0, ..bench };
    let stop = interrupter.clone();
    bench.kv.inject(move |_, write| {
        if write.key.ends_with("/two") {
            stop.interrupt();
        }
        Injected::Proceed
    });
    let input = ["one", "two", "three", "four"].map(|name| set(name, "10.0.0.0/8")).join("---\n");
    let output = calicoctl(&bench, "create -f -", &input).await.unwrap();
    assert_eq!(output.exit, Exit::Failed);
    assert!(output.text.contains("created 2 out of 4"), "{}", output.text);
    assert!(output.failure.unwrap().to_string().contains("Aborted"));
    assert!(stored(&bench, "globalnetworksets", "two").await.is_some());
    assert!(stored(&bench, "globalnetworksets", "three").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pool_is_disabled_first_and_its_blocks_are_let_go() {
    let bench = Bench::new();
    bench.put(Resource::new("host-1", NodeSpec::default())).await;
    let pool = IPPoolSpec { cidr: "10.0.0.0/24".parse().unwrap(), ..IPPoolSpec::default() };
    bench.put(Resource::new("p", pool)).await;
    let ipam = Ipam::new(bench.ctx.store.clone());
    let request = AutoAssign { host: "host-1".into(), num4: 1, ..AutoAssign::default() };
    ipam.auto_assign(request).await.unwrap();
    let was_disabled = Arc::new(AtomicUsize::new(0));
    let counter = was_disabled.clone();
    bench.kv.inject(move |_, write| {
        let value = String::from_utf8_lossy(write.value.unwrap_or_default()).into_owned();
        if write.key.contains("/ippools/p") && value.contains("\"disabled\":true") {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        Injected::Proceed
    });
    assert_eq!(text(calicoctl(&bench, "delete pool p", "").await), "Successfully deleted 1 'IPPool' resource(s)\n");
    assert_eq!(was_disabled.load(Ordering::SeqCst), 1);
    assert!(stored(&bench, "ippools", "p").await.is_none());
    let left: Vec<String> = bench.everything().await.into_iter().map(|(key, _)| key).collect();
    assert!(!left.iter().any(|key| key.contains("/ipam/v2/host/")), "no host claims a block: {left:?}");
    assert!(left.iter().any(|key| key.contains("/assignment/ipv4/block/")), "the address in use stays: {left:?}");
}

#[tokio::test]
async fn a_patch_takes_away_with_null_and_changes_no_name() {
    let bench = Bench::new();
    text(calicoctl(&bench, "apply -f -", &policy("web", "{order: 5, selector: all()}")).await);
    text(calicoctl(&bench, "patch gnp web -p {\"spec\":{\"order\":null}}", "").await);
    let spec = stored(&bench, "globalnetworkpolicies", "web").await.unwrap()["spec"].clone();
    assert!(spec.get("order").is_none() && spec["selector"] == "all()", "{spec}");
    let before = bench.everything().await;
    for (patch, words) in [
        ("{\"metadata\":{\"name\":\"x\"}}", "cannot change what a resource is called"),
        ("{\"kind\":\"Tier\"}", "cannot change what a resource is called"),
        ("{\"spec\":{\"ordre\":1}}", "spec.ordre"),
        ("{\"spec\":{\"selector\":\"((\"}}", "spec.selector"),
        ("[1]", "not an object"),
        ("{", "not an object"),
        ("{\"metadata\":{\"resourceVersion\":\"x\"}}", "must be a number"),
    ] {
        let said = refusal(calicoctl(&bench, &format!("patch gnp web -p {patch}"), "").await);
        assert!(said.contains(words), "{patch}: {said}");
    }
    assert_eq!(bench.everything().await, before);
}

#[tokio::test]
async fn what_is_printed_can_be_applied_again() {
    let bench = Bench::new();
    let nasty = "a: 'no'\n    b: \"12\"\n    c: \"1e3\"\n    d: '~'\n    e: '- x'\n    f: \"two\\nlines\"\n    g: ' x '\n    h: 'y'\n    \
                 i: '0x1F'\n    j: 'null'\n    k: '#'\n    l: 'a: b'\n    m: '2001-01-01'\n    n: '1:30'\n    o: ''\n    p: '010'\n    q: '.5'\n    r: 'ON'\n";
    let input = format!(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata:\n  name: web\n  namespace: 'on'\n  \
         annotations:\n    {nasty}spec:\n  selector: \"a == 'b' && c != \\\"d\\\" || has(e)\"\n  ingress:\n  - action: Allow\n    \
         protocol: TCP\n    destination: {{ports: [80, '1000:2000', http]}}\n"
    );
    text(calicoctl(&bench, "apply -f -", &input).await);
    let without_revision = |everything: Vec<(String, String)>| everything;
    let before = without_revision(bench.everything().await);
    for form in ["yaml", "json"] {
        let printed = text(calicoctl(&bench, &format!("get np -A -o {form}"), "").await);
        text(calicoctl(&bench, "apply -f -", &printed).await);
        assert_eq!(without_revision(bench.everything().await), before, "{form}:\n{printed}");
    }
}

#[tokio::test]
async fn names_are_printed_and_may_be_given_as_they_were_typed() {
    let bench = Bench::new();
    text(calicoctl(&bench, "apply -f -", &[set("b", "10.0.0.0/8"), set("a", "10.0.0.0/8")].join("---\n")).await);
    let names = text(calicoctl(&bench, "get globalnetworksets -o name", "").await);
    assert_eq!(names, "globalnetworkset/a\nglobalnetworkset/b\n");
    text(commands::profile::add(&bench.ctx, "PROF_A").await);
    let names = text(calicoctl(&bench, "get profile PROF_A -o name", "").await);
    assert!(names.starts_with("profile/prof-a-"), "{names}");
    text(calicoctl(&bench, "delete profile PROF_A", "").await);
}

#[tokio::test]
async fn templates_see_what_was_found() {
    let bench = Bench::new();
    text(calicoctl(&bench, "apply -f -", &[set("b", "10.0.0.0/8"), set("a", "10.1.0.0/16")].join("---\n")).await);
    let line = "get globalnetworksets -o go-template={{range~.}}{{range~.Items}}{{.Name}}={{join~.Spec.Nets~\",\"}};{{end}}{{end}}";
    assert_eq!(text(calicoctl(&bench, line, "").await), "a=10.1.0.0/16;b=10.0.0.0/8;");
    let pool = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: p}\nspec: {cidr: 10.0.0.0/8, disabled: true}\n";
    text(calicoctl(&bench, "apply -f -", pool).await);
    let line = "get ippool p -o go-template={{range~.}}{{.Spec.Disabled}}~{{.Spec.NATOutgoing}}{{end}}";
    assert_eq!(text(calicoctl(&bench, line, "").await), "true false");
    for (form, words) in [
        ("go-template={{", "not understood"),
        ("go-template=", "specify a template"),
        ("go-template-file=/nonexistent/t", "cannot be read"),
        ("custom-columns=", "at least one column"),
        ("xml", "Unrecognized output format"),
        ("go-template={{.a}}", "cannot be filled in"),
    ] {
        let said = refusal(calicoctl(&bench, &format!("get globalnetworksets -o {form}"), "").await);
        assert!(said.contains(words), "{form}: {said}");
    }
}

#[tokio::test]
async fn directories_are_read_in_order_and_deeper_only_if_asked() {
    let bench = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("b.YAML", &set("one", "10.2.0.0/16"));
    write("a.yml", &set("one", "10.1.0.0/16"));
    write("deep/c.json", &set("deep", "10.3.0.0/16"));
    write("readme.md", "no resource");
    std::os::unix::fs::symlink(dir.path(), dir.path().join("deep/loop")).unwrap();
    let folder = dir.path().display();
    let said = text(calicoctl(&bench, &format!("apply -f {folder}"), "").await);
    assert_eq!(said, "Successfully applied 2 'GlobalNetworkSet' resource(s)\n");
    assert_eq!(stored(&bench, "globalnetworksets", "one").await.unwrap()["spec"]["nets"][0], "10.2.0.0/16");
    assert!(stored(&bench, "globalnetworksets", "deep").await.is_none());
    text(calicoctl(&bench, &format!("apply -R -f {folder}"), "").await);
    assert!(stored(&bench, "globalnetworksets", "deep").await.is_some());
    let empty = tempfile::tempdir().unwrap();
    let said = refusal(calicoctl(&bench, &format!("apply -f {}", empty.path().display()), "").await);
    assert!(said.contains("No resources specified in directory"), "{said}");
    let said = text(calicoctl(&bench, &format!("apply --skip-empty -f {}", empty.path().display()), "").await);
    assert_eq!(said, "No resources specified\n");
}

#[tokio::test]
async fn a_watch_prints_what_is_there_and_every_change() {
    let bench = Bench::new();
    text(calicoctl(&bench, "apply -f -", &set("a", "10.0.0.0/8")).await);
    let kv = bench.kv.behind();
    let key = |name: &str| format!("/calico/resources/v3/projectcalico.org/globalnetworksets/{name}");
    let value =
        |name: &str| format!("{{\"metadata\":{{\"name\":\"{name}\"}},\"spec\":{{\"nets\":[\"10.9.0.0/16\"]}}}}");
    let said = bench.console.clone();
    // Nobody reads any more after the fourth piece, which ends the watch.
    said.2.store(4, Ordering::SeqCst);
    let changes = async {
        let until = |pieces: usize| {
            let console = said.clone();
            async move {
                while console.0.lock().unwrap().len() < pieces {
                    tokio::task::yield_now().await;
                }
            }
        };
        until(1).await;
        kv.put(&key("b"), value("b"));
        until(2).await;
        kv.put(&key("a"), value("a"));
        until(3).await;
        kv.remove(&key("b"));
    };
    let (output, ()) = tokio::join!(calicoctl(&bench, "get globalnetworksets -w -o wide", ""), changes);
    assert_eq!(text(output), "");
    assert_eq!(
        said.0.lock().unwrap().concat(),
        "EVENT      NAME   NETS         \nADDED      a      10.0.0.0/8   \nADDED      b      10.9.0.0/16  \n\
         MODIFIED   a      10.9.0.0/16  \nDELETED    b      10.9.0.0/16  \n"
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_passed_over_told_and_can_be_deleted() {
    let bench = Bench::new();
    text(calicoctl(&bench, "apply -f -", &set("good", "10.0.0.0/8")).await);
    let key = "/calico/resources/v3/projectcalico.org/globalnetworksets/broken";
    bench.kv.put(key, "{");
    assert_eq!(text(calicoctl(&bench, "get globalnetworksets -o name", "").await), "globalnetworkset/good\n");
    assert!(bench.said().iter().any(|line| line.contains("skipped") && line.contains(key)), "{:?}", bench.said());
    for line in
        ["apply -f -", "replace -f -", "label globalnetworkset broken a=b", "patch globalnetworkset broken -p {}"]
    {
        let said = refusal(calicoctl(&bench, line, &set("broken", "10.0.0.0/8")).await);
        assert!(said.contains("calicoctl delete globalnetworkset broken"), "{line}: {said}");
    }
    assert_eq!(bench.kv.behind().get(key).await.unwrap().unwrap().value, b"{");
    text(calicoctl(&bench, "delete globalnetworkset broken", "").await);
    assert!(bench.kv.behind().get(key).await.unwrap().is_none());
}

#[tokio::test]
async fn files_with_wrong_specs_still_name_what_is_to_be_deleted() {
    let bench = Bench::new();
    text(calicoctl(&bench, "apply -f -", &set("one", "10.0.0.0/8")).await);
    text(calicoctl(&bench, "delete -f -", &set("one", "nonsense, {a: b}")).await);
    assert!(stored(&bench, "globalnetworksets", "one").await.is_none());
    let nameless = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {nmae: one}\n";
    assert!(refusal(calicoctl(&bench, "delete -f -", nameless).await).contains("metadata.nmae"));
}

#[tokio::test]
async fn a_failing_datastore_is_told_and_nothing_is_half_done() {
    let bench = Bench::new();
    text(calicoctl(&bench, "apply -f -", &set("one", "10.0.0.0/8")).await);
    bench.kv.set_down(true);
    for line in ["get nodes", "apply -f -", "delete globalnetworkset one", "label globalnetworkset one a=b"] {
        let said = refusal(calicoctl(&bench, line, &set("two", "10.0.0.0/8")).await);
        assert!(said.contains("unreachable"), "{line}: {said}");
    }
    bench.kv.set_down(false);
    // Lost in the middle: what is written is counted, and the rest is not tried one by one.
    let tried = Arc::new(AtomicUsize::new(0));
    let counter = tried.clone();
    bench.kv.inject(move |_, _| match counter.fetch_add(1, Ordering::SeqCst) {
        0 => Injected::Proceed,
        _ => Injected::FailBefore,
    });
    let input = ["a", "b", "c", "d"].map(|name| set(name, "10.0.0.0/8")).join("---\n");
    let output = calicoctl(&bench, "create -f -", &input).await.unwrap();
    assert!(output.exit == Exit::Failed && output.text.contains("created 1 out of 4"), "{}", output.text);
    let said = output.failure.unwrap().to_string();
    assert!(said.contains("resource 2: GlobalNetworkSet b") && said.contains("unreachable"), "{said}");
    assert_eq!(tried.load(Ordering::SeqCst), 2);
    bench.kv.stop_injecting();
    assert!(stored(&bench, "globalnetworksets", "two").await.is_none());
    assert!(stored(&bench, "globalnetworksets", "one").await.is_some());
}

#[tokio::test]
async fn a_pool_that_overlaps_already_can_still_be_changed() {
    let bench = Bench::new();
    for (name, cidr) in [("a", "10.0.0.0/16"), ("b", "10.0.0.0/24")] {
        let spec = IPPoolSpec { cidr: cidr.parse().unwrap(), ..IPPoolSpec::default() };
        bench.put(Resource::new(name, spec)).await;
    }
    let pool = |name: &str, cidr: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: {cidr}, disabled: true}}\n"
        )
    };
    text(calicoctl(&bench, "apply -f -", &pool("b", "10.0.0.0/24")).await);
    assert_eq!(stored(&bench, "ippools", "b").await.unwrap()["spec"]["disabled"], true);
    let said = refusal(calicoctl(&bench, "apply -f -", &pool("c", "10.0.0.64/26")).await);
    assert!(said.contains("10.0.0.0/16 of IPPool a") && said.contains("10.0.0.0/24 of IPPool b"), "{said}");
}

#[tokio::test]
async fn a_patch_and_a_label_keep_what_a_newer_program_stored() {
    let bench = Bench::new();
    text(calicoctl(&bench, "apply -f -", &policy("default.web", "{order: 5, ingress: [{action: Allow}]}")).await);
    let key = "/calico/resources/v3/projectcalico.org/globalnetworkpolicies/default.web";
    let mut value = stored(&bench, "globalnetworkpolicies", "default.web").await.unwrap();
    value["spec"]["someday"] = 1.into();
    value["spec"]["ingress"][0]["tomorrow"] = "x".into();
    bench.kv.put(key, value.to_string());
    text(calicoctl(&bench, "patch gnp default.web -p {\"spec\":{\"order\":6}}", "").await);
    text(calicoctl(&bench, "label gnp default.web a=b", "").await);
    let after = stored(&bench, "globalnetworkpolicies", "default.web").await.unwrap();
    assert_eq!((&after["spec"]["someday"], &after["spec"]["order"]), (&1.into(), &6.into()), "{after}");
    assert_eq!(after["spec"]["ingress"][0]["tomorrow"], "x", "{after}");
    assert_eq!(after["metadata"]["labels"]["a"], "b");
    let shown = text(calicoctl(&bench, "get gnp default.web -o yaml", "").await);
    assert!(!shown.contains("someday") && !shown.contains("tomorrow"), "{shown}");
}
