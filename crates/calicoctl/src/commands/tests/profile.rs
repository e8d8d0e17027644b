#![allow(clippy::unwrap_used)]
use calico_model::{ProfileName, ProfileSpec, Resource};
use calico_store::{Injected, WriteKind};

use crate::{
    commands::profile::{add, remove, show},
    output::Format,
    testing::{Bench, NODE, refusal, text},
};

#[tokio::test]
async fn a_new_profile_is_stored_under_its_normal_name_and_shown_under_the_typed_one() {
    let bench = Bench::new();
    assert_eq!(text(add(&bench.ctx, "PROF_A_B").await), "Created profile PROF_A_B\n");
    let stored = ProfileName::typed("PROF_A_B").unwrap().as_stored().to_owned();
    let profile = bench.ctx.store.get::<ProfileSpec>(&stored).await.unwrap();
    assert_eq!(profile.spec.labels_to_apply["PROF_A_B"], "");
    assert_eq!(profile.spec.ingress[0].source.selector, "PROF_A_B == ''");
    assert_eq!(
        text(show(&bench.ctx, false).await),
        "+----------+\n|   Name   |\n+----------+\n| PROF_A_B |\n+----------+\n"
    );
}

#[tokio::test]
async fn adding_again_in_either_form_says_so_and_ends_with_0() {
    let bench = Bench::new();
    text(add(&bench.ctx, "PROF_A_B").await);
    let before = bench.everything().await;
    let stored = ProfileName::typed("PROF_A_B").unwrap().as_stored().to_owned();
    for word in ["PROF_A_B", &stored] {
        assert_eq!(text(add(&bench.ctx, word).await), "Profile PROF_A_B already exists.\n");
    }
    assert_eq!(bench.everything().await, before);
}

#[tokio::test]
async fn names_that_differ_only_in_case_are_two_profiles() {
    let bench = Bench::new();
    for word in ["web", "WEB", "Web"] {
        assert_eq!(text(add(&bench.ctx, word).await), format!("Created profile {word}\n"));
    }
    assert_eq!(bench.everything().await.len(), 3);
}

#[tokio::test]
async fn a_bad_name_is_refused_with_the_rule_and_nothing_is_written() {
    let bench = Bench::new();
    for word in ["", "a b", "bad!", "-a", "a_"] {
        let words = refusal(add(&bench.ctx, word).await);
        assert!(words.contains("is not valid") && words.contains("hint: profile names are"), "{words}");
    }
    assert!(bench.everything().await.is_empty());
}

#[tokio::test]
async fn removing_takes_either_form_and_refuses_one_in_use() {
    let bench = Bench::new();
    text(add(&bench.ctx, "PROF_A").await);
    let stored = ProfileName::typed("PROF_A").unwrap().as_stored().to_owned();
    bench.endpoint(NODE, "c1", "e1", &[&stored]).await;
    let before = bench.everything().await;
    assert_eq!(
        text(remove(&bench.ctx, "PROF_A", false).await),
        "Cannot remove profile - profile in use by endpoint(s).\n\
         Use the '--no-check' flag to remove the profile anyway.\n"
    );
    assert_eq!(bench.everything().await, before);
    assert_eq!(text(remove(&bench.ctx, &stored, true).await), "Deleted profile PROF_A\n");
    assert_eq!(text(remove(&bench.ctx, "PROF_A", false).await), "Profile PROF_A not found.\n");
}

#[tokio::test]
async fn removing_wins_against_somebody_who_changes_the_profile_meanwhile() {
    let bench = Bench::new();
    text(add(&bench.ctx, "web").await);
    let mut races = 0;
    bench.kv.inject(move |behind, write| {
        if write.kind == WriteKind::Delete && races < 3 {
            races += 1;
            let mut profile: Resource<ProfileSpec> = Resource::new("web", ProfileSpec::default());
            profile.metadata.annotations.insert("race".into(), races.to_string());
            behind.put(write.key, profile.to_json());
        }
        Injected::Proceed
    });
    assert_eq!(text(remove(&bench.ctx, "web", false).await), "Deleted profile web\n");
    assert!(bench.everything().await.is_empty());
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_told_and_skipped() {
    let bench = Bench::new();
    text(add(&bench.ctx, "web").await);
    bench.kv.put("/calico/resources/v3/projectcalico.org/profiles/broken", b"{not json");
    let shown = text(show(&bench.ctx, false).await);
    assert!(shown.contains("web") && !shown.contains("broken"), "{shown}");
    assert!(bench.said().iter().any(|line| line.starts_with("note: warning: skipped: ") && line.contains("broken")));
}

#[tokio::test]
async fn detailed_lists_members_and_profiles_without_any() {
    let bench = Bench::new();
    text(add(&bench.ctx, "PROF_A").await);
    text(add(&bench.ctx, "lonely").await);
    let stored = ProfileName::typed("PROF_A").unwrap().as_stored().to_owned();
    bench.endpoint("host-2", "c2", "e2", &[&stored]).await;
    bench.endpoint(NODE, "c1", "e1", &[&stored]).await;
    let output = show(&bench.ctx, true).await.unwrap();
    insta::assert_snapshot!("profile_show_detailed", output.text);
    insta::assert_snapshot!("profile_show_detailed_json", output.render(Format::Json));
    insta::assert_snapshot!("profile_show_detailed_yaml", output.render(Format::Yaml));
}

#[tokio::test]
async fn a_dead_datastore_is_named_with_the_way_out() {
    let bench = Bench::new();
    bench.kv.set_down(true);
    for words in [refusal(add(&bench.ctx, "web").await), refusal(show(&bench.ctx, false).await)] {
        assert!(words.contains("unreachable") && words.contains("hint: make sure that etcd runs"), "{words}");
    }
}
