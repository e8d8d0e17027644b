#![allow(clippy::unwrap_used)]
use super::*;

#[tokio::test]
async fn removed_whole_and_again_softly() {
    let bench = bench().await;
    let before = without_blocks(&bench).await;
    text(calicoctl(&bench, "add A ipv4 ipv6").await);
    assert_eq!(text(calicoctl(&bench, "remove A").await), format!("Removed Calico from {}\n", id_of("A")));
    assert_nothing_left(&bench, "A", "remove").await;
    assert_eq!(without_blocks(&bench).await, before);
    assert_eq!(text(calicoctl(&bench, "remove A").await), format!("Failed find Calico data for {}\n", id_of("A")));
    assert!(refusal(calicoctl(&bench, "remove nobody").await).contains("Container nobody was not found."));
}

#[tokio::test]
async fn a_container_that_is_gone_is_removed_by_name_id_or_beginning_of_it() {
    let id = id_of("A");
    for word in ["A", id.as_str(), &id[..12]] {
        let bench = bench().await;
        text(calicoctl(&bench, "add A").await);
        bench.host.containers.lock().unwrap().as_mut().unwrap().remove("A");
        let shown = calicoctl(&bench, &format!("{word} endpoint show")).await.unwrap();
        assert_eq!(shown.data[0]["workload"], id, "{word}");
        assert_eq!(text(calicoctl(&bench, &format!("remove {word}")).await), format!("Removed Calico from {id}\n"));
        assert_nothing_left(&bench, "A", word).await;
    }
}

#[tokio::test]
async fn a_new_container_of_an_old_name_is_not_taken_for_the_old_one() {
    let bench = bench().await;
    text(calicoctl(&bench, "add A").await);
    container(&bench, "A", |container| container.id = "cd".repeat(32));
    assert!(refusal(calicoctl(&bench, "A profile set").await).contains("Container A is unknown to Calico."));
    assert_eq!(text(calicoctl(&bench, "remove A").await), format!("Removed Calico from {}\n", id_of("A")));
    assert_nothing_left(&bench, "A", "the old one").await;
}

#[tokio::test]
async fn a_removal_that_fails_anywhere_is_finished_by_another() {
    let writes = 6;
    for nth in 0..writes {
        for fails in [Injected::FailBefore, Injected::FailAfter] {
            let bench = bench().await;
            text(calicoctl(&bench, "add A ipv4 ipv6").await);
            let mut seen = 0;
            bench.kv.inject(move |_, _| {
                seen += 1;
                if seen == nth + 1 { fails } else { Injected::Proceed }
            });
            if let Err(failure) = calicoctl(&bench, "remove A").await {
                let said = failure.to_string();
                let again = format!("calicoctl container remove {}", id_of("A"));
                assert!(said.contains("A is not removed completely.") && said.contains(&again), "{said}");
            }
            bench.kv.stop_injecting();
            bench.host.containers.lock().unwrap().as_mut().unwrap().get_mut("A").unwrap().running = false;
            text(calicoctl(&bench, "remove A").await);
            assert_nothing_left(&bench, "A", &format!("write {nth} {fails:?}")).await;
        }
    }
}

#[tokio::test]
async fn an_address_is_not_freed_while_the_interface_stays() {
    let bench = bench().await;
    text(calicoctl(&bench, "add A 192.168.0.1").await);
    let before = bench.everything().await;
    bench.host.fail.lock().unwrap().insert("detach");
    let said = refusal(calicoctl(&bench, "remove A").await);
    assert!(said.contains("Could not remove Calico interface cali"), "{said}");
    assert_eq!(bench.everything().await, before);
}

#[tokio::test]
async fn foreign_interfaces_and_addresses_are_left_alone() {
    let bench = bench().await;
    text(calicoctl(&bench, "add B 192.168.0.2").await);
    text(calicoctl(&bench, "add A 192.168.0.1").await);
    let key = endpoints(&bench).await.into_iter().find(|e| e.spec.workload == id_of("A")).unwrap().key();
    let poison = |endpoint: &mut WorkloadEndpoint| {
        endpoint.spec.interface_name = "eth0".into();
        endpoint.spec.ip_networks.push("192.168.0.2/32".into());
        Ok::<(), calico_store::Error>(())
    };
    bench.ctx.store.modify(&key, poison).await.unwrap();
    bench.host.attached.lock().unwrap().insert(
        "eth0".into(),
        calico_workload::Attachment {
            host_interface: "eth0".into(),
            container_interface: "x".into(),
            addresses: Vec::new(),
            gateway4: None,
            gateway6: None,
            mtu: None,
        },
    );
    text(calicoctl(&bench, "remove A").await);
    assert!(bench.host.attached.lock().unwrap().contains_key("eth0"));
    assert_eq!(held(&bench, "B").await.len(), 1);
    assert!(held(&bench, "A").await.is_empty());
}

#[tokio::test]
async fn addresses_come_and_go() {
    let bench = bench().await;
    text(calicoctl(&bench, "add A 192.168.0.1").await);
    assert_eq!(
        text(calicoctl(&bench, "A ip add fd80:24e2:f998:72d6::7").await),
        "IP fd80:24e2:f998:72d6::7 added to A\n"
    );
    let endpoint = endpoints(&bench).await.remove(0);
    assert_eq!(endpoint.spec.ip_networks, ["192.168.0.1/32", "fd80:24e2:f998:72d6::7/128"]);
    assert_eq!((endpoint.spec.ipv4_gateway.as_str(), endpoint.spec.ipv6_gateway.as_str()), ("10.5.0.1", "fd00::1"));
    assert_eq!(held(&bench, "A").await.len(), 2);

    assert_eq!(text(calicoctl(&bench, "A ip remove 192.168.0.1").await), "IP 192.168.0.1 removed from A\n");
    let endpoint = endpoints(&bench).await.remove(0);
    assert_eq!(endpoint.spec.ip_networks, ["fd80:24e2:f998:72d6::7/128"]);
    assert_eq!((endpoint.spec.ipv4_gateway.as_str(), endpoint.spec.ipv6_gateway.as_str()), ("", "fd00::1"));
    assert_eq!(held(&bench, "A").await.len(), 1);
    text(calicoctl(&bench, "A ip remove fd80:24e2:f998:72d6::7").await);
    assert!(endpoints(&bench).await[0].spec.ip_networks.is_empty(), "the last may go");
    assert!(held(&bench, "A").await.is_empty());
}

#[tokio::test]
async fn a_failed_change_of_addresses_is_undone() {
    for (words, fails) in [
        ("A ip add 192.168.0.9", "add_address"),
        ("A ip remove 192.168.0.1", "remove_address"),
        ("A ip add 192.168.0.9", "write"),
        ("A ip remove 192.168.0.1", "write"),
        ("A ip add 192.168.0.9", "answer"),
        ("A ip remove 192.168.0.1", "answer"),
    ] {
        let bench = bench().await;
        text(calicoctl(&bench, "add A 192.168.0.1 ipv6").await);
        let (spec, attached) = (endpoints(&bench).await.remove(0).spec, bench.host.attached.lock().unwrap().clone());
        let mut failed = false;
        match fails {
            "write" | "answer" => bench.kv.inject(move |_, write| {
                let hit = !failed && write.key.contains("workloadendpoints");
                failed |= hit;
                match hit {
                    true if fails == "write" => Injected::FailBefore,
                    true => Injected::FailAfter,
                    false => Injected::Proceed,
                }
            }),
            operation => {
                bench.host.fail.lock().unwrap().insert(operation);
            }
        }
        let said = refusal(calicoctl(&bench, words).await);
        assert!(said.contains("Aborting.") && !said.contains("left behind"), "{words} {fails}: {said}");
        bench.kv.stop_injecting();
        assert_eq!(endpoints(&bench).await.remove(0).spec, spec, "{words} {fails}");
        assert_eq!(*bench.host.attached.lock().unwrap(), attached, "{words} {fails}");
        assert_eq!(held(&bench, "A").await.len(), 2, "{words} {fails}");
    }
}

#[tokio::test]
async fn profiles_of_a_container() {
    let bench = bench().await;
    text(crate::commands::profile::add(&bench.ctx, "PROF_A_B").await);
    text(calicoctl(&bench, "add A").await);
    assert_eq!(text(calicoctl(&bench, "A profile set PROF_A_B").await), "Profile(s) set to PROF_A_B.\n");
    let stored = ProfileName::typed("PROF_A_B").unwrap().as_stored().to_owned();
    assert_eq!(endpoints(&bench).await[0].spec.profiles, [stored]);
    let shown = calicoctl(&bench, "A endpoint show").await.unwrap();
    assert_eq!(shown.data[0]["profiles"][0], "PROF_A_B");
    assert_eq!(shown.data[0]["workloadName"], "A");
    assert_eq!(shown.data[0]["state"], "active");
    assert!(shown.render(Format::Yaml).contains("PROF_A_B"));
    let said = refusal(calicoctl(&bench, "B profile append PROF_A_B").await);
    assert!(
        said.contains("Failed to append profiles to endpoint.") && said.contains("Container B is unknown"),
        "{said}"
    );
}

#[tokio::test]
async fn a_restarted_container_is_told_how_to_be_connected_again() {
    let bench = bench().await;
    let mut profile = calico_model::Profile::classic_default(&ProfileName::typed("PROF_A").unwrap());
    profile.prepare().unwrap();
    bench.put(profile).await;
    text(calicoctl(&bench, "add A 192.168.0.1 fd80:24e2:f998:72d6::1").await);
    text(calicoctl(&bench, "A profile set PROF_A").await);
    let before = bench.everything().await;
    // The pair goes with the namespace of the first run.
    bench.host.attached.lock().unwrap().clear();
    let again = [
        "calicoctl container remove A",
        "calicoctl container add A 192.168.0.1 fd80:24e2:f998:72d6::1",
        "calicoctl container A profile set PROF_A",
    ];
    for words in ["add A", "A ip add ipv4", "A ip remove 192.168.0.1"] {
        let said = refusal(calicoctl(&bench, words).await);
        assert!(said.contains(&format!("hint: connect it again: {}", again.join(" && "))), "{words}: {said}");
        assert_eq!(bench.everything().await, before, "{words}");
    }
    for command in again {
        text(calicoctl(&bench, command.strip_prefix("calicoctl container ").unwrap()).await);
    }
    let spec = endpoints(&bench).await.remove(0).spec;
    assert!(bench.host.attached.lock().unwrap().contains_key(&spec.interface_name));
    assert_eq!(spec.ip_networks, ["192.168.0.1/32", "fd80:24e2:f998:72d6::1/128"]);
    assert_eq!(spec.profiles.len(), 1);
}

/// A restart while a command waits for another: the number of the old process may be anybody's.
#[tokio::test]
async fn the_container_is_looked_at_again_once_it_is_locked() {
    let bench = bench().await;
    let containers = bench.host.containers.lock().unwrap().take().unwrap();
    let stopped = {
        let mut stopped = containers.clone();
        let container = stopped.get_mut("A").unwrap();
        (container.running, container.pid) = (false, 0);
        stopped
    };
    *bench.host.containers.lock().unwrap() = Some(containers);
    *bench.host.on_lock.lock().unwrap() = Some(stopped);
    let said = refusal(calicoctl(&bench, "add A").await);
    assert!(said.contains("A is not currently running."), "{said}");
}

#[tokio::test]
async fn labels_are_typed_or_taken_from_the_container() {
    let bench = bench().await;
    container(&bench, "A", |container| {
        let labels = [
            ("org.projectcalico.label.role", "web"),
            ("org.projectcalico.label.zone", "a"),
            ("org.projectcalico.label.", "no key"),
            ("com.example.team", "x"),
        ];
        container.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    });
    text(calicoctl(&bench, "add A --label zone=b --label example.org/tier=").await);
    let labels = |endpoint: &WorkloadEndpoint| {
        let labels = endpoint.metadata.labels.iter().filter(|(key, _)| !key.starts_with("projectcalico.org/"));
        labels.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(labels(&endpoints(&bench).await[0]), "example.org/tier= role=web zone=b");

    assert_eq!(text(calicoctl(&bench, "A label set role=db rack=1").await), "Label(s) rack=1, role=db set.\n");
    assert_eq!(
        text(calicoctl(&bench, "A label remove zone example.org/tier").await),
        "Label(s) zone, example.org/tier removed.\n"
    );
    assert_eq!(labels(&endpoints(&bench).await[0]), "rack=1 role=db");
    assert_eq!(text(calicoctl(&bench, "A label remove rack zone").await), "Label zone is not on the endpoint.\n");
    assert_eq!(labels(&endpoints(&bench).await[0]), "rack=1 role=db", "all or nothing");
    let shown = text(calicoctl(&bench, "A label show").await);
    assert!(shown.contains("|              rack              |    1    |"), "{shown}");
}

#[tokio::test]
async fn labels_that_cannot_be_stored_change_nothing() {
    let bench = bench().await;
    container(&bench, "B", |container| {
        container.labels.insert("org.projectcalico.label.role".into(), "two words".into());
    });
    for (line, words) in [
        ("add A --label role", "it is not KEY=VALUE"),
        ("add A --label role=a=b", "Label role=a=b is not valid"),
        ("add A --label=-x=y", "-x"),
        ("add A --label a=1 --label a=2", "more than once"),
        ("add A --label projectcalico.org/namespace=x", "belongs to Calico"),
        ("add B", "two words"),
    ] {
        let before = bench.everything().await;
        let said = refusal(calicoctl(&bench, line).await);
        assert!(said.contains(words), "{line}: {said}");
        assert_eq!(bench.everything().await, before, "{line}");
        assert!(bench.host.attached.lock().unwrap().is_empty(), "{line}");
    }
    text(calicoctl(&bench, "add A").await);
    let before = bench.everything().await;
    for (line, words) in [
        ("A label set role=not~good", "is not valid"),
        ("A label set projectcalico.org/orchestrator=x", "belongs to Calico"),
        ("A label remove projectcalico.org/orchestrator", "belongs to Calico"),
        ("C label set a=b", "was not found"),
    ] {
        let said = refusal(calicoctl(&bench, line).await);
        assert!(said.contains(words), "{line}: {said}");
    }
    assert_eq!(bench.everything().await, before);
    let line = "add B --label role=db";
    text(calicoctl(&bench, line).await);
}
