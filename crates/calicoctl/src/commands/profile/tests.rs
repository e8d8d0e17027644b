#![allow(clippy::unwrap_used)]
use calico_model::{Profile, ProfileName, ProfileSpec, Rule};
use calico_store::{Injected, WriteKind};
use serde_json::{Value, json};

use crate::{
    args::{Command, parse},
    failure::{Exit, Failure},
    output::{Format, Output},
    testing::{Bench, text},
};

/// Does what a person types behind `calicoctl`.
async fn typed(bench: &Bench, line: &str) -> Result<Output, Failure> {
    let words = std::iter::once("calicoctl").chain(line.split_whitespace());
    let cli = parse(words.map(Into::into)).unwrap_or_else(|error| panic!("{line}: {error}"));
    let Some(Command::Profile { command }) = cli.command else { panic!("{line} is read as something else") };
    super::run(&bench.ctx, &command).await
}

async fn refusal(bench: &Bench, line: &str) -> (String, Exit) {
    match typed(bench, line).await {
        Ok(output) => panic!("{line} succeeded: {}", output.text),
        Err(failure) => (failure.to_string(), failure.exit()),
    }
}

fn rule(value: Value) -> Rule {
    serde_json::from_value(value).unwrap()
}

async fn stored(bench: &Bench, name: &str) -> Profile {
    let name = ProfileName::typed(name).unwrap();
    bench.ctx.store.get::<ProfileSpec>(name.as_stored()).await.unwrap()
}

/// A datastore with the profile WEB.
async fn with_web() -> Bench {
    let bench = Bench::new();
    text(typed(&bench, "profile add WEB").await);
    bench
}

async fn shown(bench: &Bench) -> String {
    text(typed(bench, "profile WEB rule show").await)
}

#[tokio::test]
async fn rules_are_added_shown_and_removed_in_the_words_of_the_classic_tool() {
    let bench = with_web().await;
    for line in [
        "profile WEB rule add inbound allow tcp to ports 80,443,8000-8080",
        "profile --at=1 WEB rule add inbound deny tcp from tag GUEST cidr 10.1.2.3/8 to ports 3306",
        "profile WEB rule add inbound --at 4 allow icmp type 8",
        "profile WEB rule add outbound allow icmpv6 type 128 code 0 from cidr fe80::1",
        "profile rule add WEB outbound deny udp to ports 57 --at=2",
    ] {
        assert_eq!(text(typed(&bench, line).await), "", "{line}");
    }
    assert_eq!(
        shown(&bench).await,
        "Inbound rules:\n   1 deny tcp from tag GUEST cidr 10.0.0.0/8 to ports 3306\n   2 allow from tag WEB\n   \
         3 allow tcp to ports 80,443,8000:8080\n   4 allow icmp type 8\nOutbound rules:\n   1 allow\n   \
         2 deny udp to ports 57\n   3 allow icmpv6 type 128 code 0 from cidr fe80::1/128\n"
    );
    let profile = stored(&bench, "WEB").await;
    assert_eq!(
        profile.spec.ingress[0],
        rule(
            json!({"action": "Deny", "protocol": "TCP", "source": {"selector": "GUEST == ''", "nets": ["10.0.0.0/8"]},
            "destination": {"ports": [3306]}})
        )
    );
    for line in [
        "profile WEB rule remove inbound --at=2",
        "profile WEB rule remove inbound allow tcp to ports 8000:8080,443,80",
        "profile WEB rule remove outbound allow",
    ] {
        assert_eq!(text(typed(&bench, line).await), "", "{line}");
    }
    assert_eq!(
        shown(&bench).await,
        "Inbound rules:\n   1 deny tcp from tag GUEST cidr 10.0.0.0/8 to ports 3306\n   2 allow icmp type 8\n\
         Outbound rules:\n   1 deny udp to ports 57\n   2 allow icmpv6 type 128 code 0 from cidr fe80::1/128\n"
    );
}

#[tokio::test]
async fn a_rule_that_is_there_is_not_added_again_in_any_spelling() {
    let bench = with_web().await;
    text(typed(&bench, "profile WEB rule add inbound allow tcp from cidr 1.2.3.4 to ports 80,443").await);
    let before = bench.everything().await;
    for line in [
        "profile WEB rule add inbound allow tcp from cidr 1.2.3.4/32 to ports 443,80",
        "profile WEB rule add inbound --at=1 allow TCP from cidr 1.2.3.4 to ports 80:80,443",
        "profile WEB rule add outbound allow",
    ] {
        assert_eq!(text(typed(&bench, line).await), "Rule already present, skipping.\n", "{line}");
    }
    assert_eq!(bench.everything().await, before);
}

#[tokio::test]
async fn bad_words_are_underlined_and_change_nothing() {
    let bench = with_web().await;
    let before = bench.everything().await;
    for (line, exit, expected) in [
        (
            "profile WEB rule add inbound allow icmp to ports 80",
            Exit::Usage,
            "error: Ports are not valid with protocol icmp.\n    allow icmp to ports 80\n                  ^^^^^^^^\n\
             hint: say tcp or udp first, as in: allow tcp to ports 80\n",
        ),
        (
            "profile WEB rule add inbound allow icmp type 255",
            Exit::Failed,
            "error: Invalid ICMP type \"255\": it is a number from 0 to 254.\n    allow icmp type 255\n                    ^^^\n",
        ),
        (
            "profile WEB rule remove inbound allow from 192.168.0.0/16",
            Exit::Usage,
            "error: This word has no meaning here.\n    allow from 192.168.0.0/16\n               ^^^^^^^^^^^^^^\n\
             hint: say cidr before a network or address: from cidr 192.168.0.0/16\n",
        ),
        (
            "profile b@d rule add inbound --at=x allow sctp to port 0",
            Exit::Usage,
            "error: Profile name \"b@d\" is not valid: only letters, digits, dots, dashes and underscores are allowed.\n\
             error: Position \"x\" is not a number.\n\
             error: The protocols here are tcp, udp, icmp and icmpv6.\n    allow sctp to port 0\n          ^^^^\n\
             error: This word has no meaning here.\n    allow sctp to port 0\n                  ^^^^\n\
             error: Ports need a protocol that has them: tcp or udp.\n    allow sctp to port 0\n                  ^^^^^^\n\
             error: Port (0) out-of-range: ports are 1 to 65535.\n    allow sctp to port 0\n                       ^\n",
        ),
    ] {
        let (words, code) = refusal(&bench, line).await;
        assert!(words.starts_with(expected), "{line}:\n{words}\nis not\n{expected}");
        assert_eq!(code, exit, "{line}");
    }
    assert_eq!(bench.everything().await, before);
}

#[tokio::test]
async fn positions_are_those_of_the_list() {
    let bench = with_web().await;
    let before = bench.everything().await;
    for at in ["0", "3", "-1", "99999999999999999999"] {
        let (words, exit) = refusal(&bench, &format!("profile WEB rule add inbound --at={at} deny")).await;
        assert_eq!(exit, Exit::Failed, "{words}");
        assert!(words.contains(at) && words.contains("hint: "), "{words}");
    }
    for at in ["0", "2", "-1"] {
        let (words, _) = refusal(&bench, &format!("profile WEB rule remove inbound --at={at}")).await;
        assert!(
            words.starts_with("error: Rule position out-of-range.\n  cause: there is one inbound rule\n"),
            "{words}"
        );
    }
    let (words, _) = refusal(&bench, "profile WEB rule remove inbound deny").await;
    assert!(words.starts_with("error: Rule not found.\n  cause: there is no inbound rule \"deny\"\n"), "{words}");
    assert_eq!(bench.everything().await, before);
}

#[tokio::test]
async fn an_unknown_profile_is_said_to_be_none() {
    let bench = Bench::new();
    for line in
        ["tag show", "tag add T", "tag remove T", "rule show", "rule json", "rule update", "rule add inbound deny"]
    {
        let (words, exit) = refusal(&bench, &format!("profile NONE {line}")).await;
        assert!(words.starts_with("error: Profile NONE not found.\nhint: "), "{words}");
        assert_eq!(exit, Exit::Failed);
    }
    assert!(bench.everything().await.is_empty());
}

#[tokio::test]
async fn rules_that_only_v3_has_are_shown_and_survive() {
    let bench = with_web().await;
    let mut profile = stored(&bench, "WEB").await;
    let special = [
        rule(json!({"action": "Log", "metadata": {"annotations": {"why": "because"}}})),
        rule(json!({"action": "Allow", "protocol": "TCP", "source": {"selector": "role == 'db'", "x-new": 1},
            "destination": {"ports": ["http"]}})),
    ];
    profile.spec.ingress.extend(special.clone());
    profile.spec.labels_to_apply.insert("zone".into(), "a".into());
    bench.ctx.store.update(profile).await.unwrap();

    text(typed(&bench, "profile WEB rule add inbound --at=3 deny udp").await);
    text(typed(&bench, "profile WEB rule remove inbound --at=1").await);
    text(typed(&bench, "profile WEB tag add APP").await);
    let profile = stored(&bench, "WEB").await;
    assert_eq!([&profile.spec.ingress[0], &profile.spec.ingress[2]], [&special[0], &special[1]]);
    assert_eq!(
        shown(&bench).await,
        "Inbound rules:\n   1 log (v3)\n   2 deny udp\n   \
         3 allow tcp from selector \"role == 'db'\" x-new=1 to ports http (v3)\nOutbound rules:\n   1 allow\n"
    );
    assert!(bench.said().iter().any(|line| line.contains("calicoctl get profile web-f1e29c6d -o yaml")));

    let output = typed(&bench, "profile WEB rule show -o json").await.unwrap();
    let data: Value = serde_json::from_str(&output.render(Format::Json)).unwrap();
    assert_eq!(
        data["inbound"][1],
        json!({"position": 2, "words": "deny udp", "classic": true,
        "rule": {"action": "Deny", "protocol": "UDP"}})
    );
    assert_eq!(data["inbound"][2]["classic"], false);
    assert_eq!(data["profile"], "WEB");

    // The document says all of it, so it can be taken away and brought back.
    let before = stored(&bench, "WEB").await.spec;
    let document = text(typed(&bench, "profile WEB rule json").await);
    assert!(document.ends_with("}\n\n"), "{document}");
    text(typed(&bench, "profile WEB rule remove inbound --at=1").await);
    *bench.console.1.lock().unwrap() = document;
    let answer = text(typed(&bench, "profile WEB rule update").await);
    assert_eq!(answer, "Successfully updated rules on profile WEB\n");
    assert_eq!(stored(&bench, "WEB").await.spec, before);
}

#[tokio::test]
async fn a_document_replaces_both_lists_or_nothing() {
    let bench = with_web().await;
    let before = bench.everything().await;
    for (document, expected) in [
        ("", "error: It is not JSON: "),
        (
            r#"{"id": "DB", "inbound_rules": [], "outbound_rules": []}"#,
            "error: Rules JSON \"id\"=DB doesn't match profile name WEB.\n",
        ),
        (r#"{"id": "WEB", "inbound_rules": []}"#, "error: Member outbound_rules is missing.\n"),
        (
            r#"{"id": "WEB", "inbound_rules": [{"protocol": "icmp", "dst_ports": [80]}], "outbound_rules": []}"#,
            "error: inbound_rules[0]: Ports are not valid with protocol icmp.\n    allow icmp to ports 80\n",
        ),
        (
            r#"{"id": "WEB", "inbound_rules": [{"v3": {"action": "Allow", "protocol": "tcp"}}], "outbound_rules": []}"#,
            "error: Profile \"web-f1e29c6d\" is not valid: spec.ingress[0].protocol = \"tcp\"",
        ),
    ] {
        *bench.console.1.lock().unwrap() = document.to_owned();
        let (words, exit) = refusal(&bench, "profile WEB rule update").await;
        assert!(words.starts_with(expected), "{document}: {words}");
        assert_eq!(exit, Exit::Failed);
    }
    assert_eq!(bench.everything().await, before);
    *bench.console.1.lock().unwrap() =
        r#"{"id": "web-f1e29c6d", "inbound_rules": [{"action": "deny"}], "outbound_rules": []}"#.to_owned();
    text(typed(&bench, "profile WEB rule update").await);
    assert_eq!(shown(&bench).await, "Inbound rules:\n   1 deny\nOutbound rules:\n");
}

#[tokio::test]
async fn tags_are_labels_with_an_empty_value() {
    let bench = with_web().await;
    assert_eq!(text(typed(&bench, "profile WEB tag add APP_7890").await), "Tag APP_7890 added to profile WEB\n");
    let before = bench.everything().await;
    assert_eq!(text(typed(&bench, "profile WEB tag add APP_7890").await), "Tag APP_7890 added to profile WEB\n");
    assert_eq!(bench.everything().await, before, "it was there");
    assert_eq!(stored(&bench, "WEB").await.spec.labels_to_apply["APP_7890"], "");
    assert_eq!(text(typed(&bench, "profile WEB tag show").await), "APP_7890\nWEB\n");
    assert_eq!(text(typed(&bench, "profile WEB tag remove WEB").await), "Tag WEB removed from profile WEB\n");

    let mut profile = stored(&bench, "WEB").await;
    profile.spec.labels_to_apply.insert("zone".into(), "a".into());
    bench.ctx.store.update(profile).await.unwrap();
    assert_eq!(text(typed(&bench, "profile WEB tag show").await), "APP_7890\n");
    assert!(bench.said().iter().any(|line| line.ends_with("lends labels with values: zone=a")), "{:?}", bench.said());
    let output = typed(&bench, "profile WEB tag show -o json").await.unwrap();
    assert_eq!(output.data, json!({"profile": "WEB", "tags": ["APP_7890"], "labels": {"zone": "a"}}));

    let before = bench.everything().await;
    for (line, expected) in [
        (
            "add zone",
            "error: Tag zone cannot be added to profile WEB.\n  cause: the profile lends its endpoints the label zone=a",
        ),
        ("remove zone", "error: Tag zone is not on profile WEB\n  cause: zone=a is a label with a value"),
        ("remove GONE", "error: Tag GONE is not on profile WEB\nhint: its tags are: calicoctl profile WEB tag show"),
        ("add bad!", "error: Tag \"bad!\" is not valid: only letters"),
    ] {
        let (words, exit) = refusal(&bench, &format!("profile WEB tag {line}")).await;
        assert!(words.starts_with(expected), "{words}");
        assert_eq!(exit, Exit::Failed);
    }
    assert_eq!(bench.everything().await, before);
}

#[tokio::test]
async fn two_edits_at_once_both_hold() {
    let bench = with_web().await;
    let mut left = 3;
    bench.kv.inject(move |behind, write| {
        if write.kind == WriteKind::Update && left > 0 {
            left -= 1;
            let mut profile: Profile = Profile::classic_default(&ProfileName::typed("WEB").unwrap());
            let action = if left % 2 == 0 { "Deny" } else { "Allow" };
            profile.spec.ingress.push(rule(json!({"action": action, "protocol": "UDP"})));
            behind.put(write.key, profile.to_json());
        }
        Injected::Proceed
    });
    text(typed(&bench, "profile WEB rule add inbound deny tcp").await);
    assert_eq!(
        shown(&bench).await,
        "Inbound rules:\n   1 allow from tag WEB\n   2 deny udp\n   3 deny tcp\nOutbound rules:\n   1 allow\n"
    );
}

#[tokio::test]
async fn a_profile_that_cannot_be_stored_is_named_with_the_way_out() {
    let bench = with_web().await;
    let mut profile = stored(&bench, "WEB").await;
    profile.spec.egress.push(rule(json!({"action": "Allow", "protocol": "tcp"})));
    bench.kv.put(&profile.key().to_string(), profile.to_json());
    let (words, _) = refusal(&bench, "profile WEB rule add inbound deny").await;
    assert!(
        words.contains("spec.egress[1].protocol") && words.contains("calicoctl get profile web-f1e29c6d"),
        "{words}"
    );
}

#[tokio::test]
async fn a_profile_may_be_called_as_a_word_of_the_grammar() {
    for name in ["rule", "tag", "add", "show", "inbound"] {
        let bench = Bench::new();
        text(typed(&bench, &format!("profile add {name}")).await);
        text(typed(&bench, &format!("profile {name} rule add inbound deny tcp from tag rule")).await);
        text(typed(&bench, &format!("profile {name} tag add tag")).await);
        assert_eq!(stored(&bench, name).await.spec.ingress.len(), 2, "{name}");
        assert!(text(typed(&bench, &format!("profile {name} tag show")).await).contains("tag\n"), "{name}");
        text(typed(&bench, &format!("profile {name} rule remove inbound deny tcp from tag rule")).await);
        assert_eq!(stored(&bench, name).await.spec.ingress.len(), 1, "{name}");
    }
}

#[test]
fn what_the_grammar_has_no_place_for_is_refused_with_the_usage() {
    for words in [
        "WEB rule",
        "WEB rule frob",
        "WEB rule add",
        "WEB rule add inbound",
        "WEB rule add sideways allow",
        "WEB rule add allow inbound",
        "WEB rule remove inbound",
        "WEB rule remove inbound --at=1 allow",
        "WEB rule show inbound",
        "WEB rule json extra",
        "WEB tag",
        "WEB tag add",
        "WEB tag add a b",
        "WEB rules show",
    ] {
        let line = format!("calicoctl profile {words}");
        let error = parse(line.split(' ').map(Into::into)).expect_err(words);
        assert_eq!(error.exit_code(), 2, "{words}");
        assert!(error.use_stderr(), "{words}");
        // The name is no mistake.
        assert!(!error.to_string().contains("'WEB'"), "{words}: {error}");
    }
}
