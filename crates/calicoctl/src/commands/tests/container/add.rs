#![allow(clippy::unwrap_used)]
use super::*;

#[tokio::test]
async fn added_with_everything_that_upstream_would_write() {
    let bench = bench().await;
    assert_eq!(text(calicoctl(&bench, "add A 192.168.0.1").await), "IP 192.168.0.1 added to A\n");
    let endpoint = endpoints(&bench).await.remove(0);
    let spec = &endpoint.spec;
    assert_eq!(endpoint.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(endpoint.name(), format!("host--1-docker-{}-{}", id_of("A"), spec.endpoint));
    assert_eq!((spec.orchestrator.as_str(), spec.node.as_str()), ("docker", NODE));
    assert_eq!(spec.endpoint.len(), 32);
    assert_eq!(spec.interface_name, format!("cali{}", &spec.endpoint[..11]));
    assert_eq!((spec.ip_networks.clone(), spec.ipv4_gateway.as_str()), (vec!["192.168.0.1/32".to_owned()], "10.5.0.1"));
    assert_eq!((spec.ipv6_gateway.as_str(), spec.mac.as_str()), ("", "02:00:00:00:00:01"));
    assert!(spec.profiles.is_empty(), "closed until allowed");
    let attached = bench.host.attached.lock().unwrap()[&spec.interface_name].clone();
    assert_eq!(attached.container_interface, "eth1");
    assert_eq!(attached.gateway4, Some("10.5.0.1".parse().unwrap()));
    assert_eq!(held(&bench, "A").await, ["192.168.0.1".parse::<IpAddr>().unwrap()]);
    let ipam = Ipam::new(bench.ctx.store.clone());
    let assignment = ipam.get_assignment_attributes("192.168.0.1".parse().unwrap()).await.unwrap();
    let notes = assignment.attribute.secondary.unwrap();
    assert_eq!((notes["node"].as_str(), notes["workload"].as_str()), (NODE, id_of("A").as_str()));
}

/// Key and value to the letter, as upstream's own client would have written them; uid and time differ each time.
#[tokio::test]
async fn the_record_to_the_letter() {
    let bench = bench().await;
    text(calicoctl(&bench, "add A 192.168.0.1 fd80:24e2:f998:72d6::1").await);
    let endpoint = endpoints(&bench).await.remove(0);
    let (uid, time) = (endpoint.metadata.uid.unwrap(), endpoint.metadata.creation_timestamp.unwrap());
    let all = bench.everything().await;
    let (key, value) = all.iter().find(|(key, _)| key.contains("/workloadendpoints/")).unwrap();
    insta::assert_snapshot!("record", format!("{key}\n{}", value.replace(&uid, "<uid>").replace(&time, "<time>")));
}

#[tokio::test]
async fn addresses_are_picked_as_asked_for() {
    let bench = bench().await;
    pool(&bench, "small", "10.9.0.0/24", false).await;
    let picked = async |words: &str| {
        let said = text(calicoctl(&bench, words).await);
        let addresses = said.lines().map(|line| line.split(' ').nth(1).unwrap().parse::<IpAddr>().unwrap());
        let addresses: Vec<IpAddr> = addresses.collect();
        text(calicoctl(&bench, "remove A").await);
        addresses
    };
    let v4: ipnet::IpNet = "192.168.0.0/16".parse().unwrap();
    let v6: ipnet::IpNet = "fd80:24e2:f998:72d6::/64".parse().unwrap();
    let small: ipnet::IpNet = "10.9.0.0/24".parse().unwrap();
    assert!(picked("add A 192.168.0.0/16").await.iter().all(|ip| v4.contains(ip)));
    assert!(picked("add A IPv6").await.iter().all(|ip| v6.contains(ip)));
    assert!(picked("add A 10.9.0.77/24").await.iter().all(|ip| small.contains(ip)), "host bits are ignored");
    assert!(picked("add A").await[0].is_ipv4());
    let both = picked("add A ipv6 ipv4").await;
    assert!(both.len() == 2 && both[0].is_ipv4() && both[1].is_ipv6(), "{both:?}");
}

#[tokio::test]
async fn refusals_come_in_order_and_change_nothing() {
    let bench = bench().await;
    pool(&bench, "closed", "10.8.0.0/16", true).await;
    container(&bench, "stopped", |container| (container.running, container.pid) = (false, 0));
    container(&bench, "hosted", |container| container.network_mode = "host".into());
    text(calicoctl(&bench, "add B 192.168.0.7").await);
    let before = bench.everything().await;
    let cases = [
        ("add nobody 300.0.0.1", "Invalid IP address specified.", "the address is looked at first"),
        ("add A 1.2.3", "Invalid IP address specified.", "short forms are no addresses"),
        ("add A 10.0.0.0/33", "Invalid IP address specified.", ""),
        ("add A 192.168.0.1 192.168.0.1", "was specified more than once", ""),
        ("add nobody", "Container nobody was not found.", ""),
        ("add /run/netns/nowhere", "/run/netns/nowhere does not exist.", ""),
        ("add stopped", "stopped is not currently running.", ""),
        ("add hosted", "Can't add hosted to Calico because it is running NetworkMode = host.", ""),
        ("add B", "B has already been configured with Calico Networking.", ""),
        ("add A 10.9.0.0/16", "Invalid CIDR specified for desired pool. No pool found for 10.9.0.0/16.", ""),
        ("add A 10.8.0.0/16", "Requested pool 10.8.0.0/16 is not configured or has wrong attributes.", "disabled"),
        ("add A 10.8.0.1", "10.8.0.1 is not in any configured pools", "disabled"),
        ("add A 172.16.0.1", "172.16.0.1 is not in any configured pools", ""),
        ("add A 192.168.0.7", "IP address is already assigned in pool 192.168.0.0/16.", ""),
        ("add A --interface=sixteen-letters-x", "Invalid interface name specified", ""),
        ("stopped ip add ipv4", "stopped is not currently running.", ""),
        ("A ip add ipv4", "Failed to add IP address to container.", "Container A is unknown to Calico."),
        ("B ip add 192.168.0.7", "IP address is already assigned in pool 192.168.0.0/16.", ""),
        ("B ip add ipv6 --interface=eth7", "Interface provided does not exist in container. Aborting.", ""),
        ("A ip remove 192.168.0.7", "Container is unknown to Calico.", ""),
        ("B ip remove 192.168.0.8", "IP address is not assigned to container. Aborting.", ""),
        ("B ip remove ipv4", "Invalid IP address specified.", ""),
        ("B profile append nope", "Profile with name nope was not found.", ""),
        ("nobody profile set", "Container nobody was not found.", ""),
        ("nobody endpoint show", "Container nobody was not found.", ""),
        ("nobody profile set b@d", "is not valid", "names are looked at first"),
    ];
    for (words, expected, also) in cases {
        let said = refusal(calicoctl(&bench, words).await);
        assert!(said.contains(expected), "{words} ({also}): {said}");
        assert_eq!(bench.everything().await, before, "{words}");
    }
    let said = refusal(calicoctl(&bench, "add A 192.168.0.7").await);
    let owner = bench.host.containers.lock().unwrap().as_ref().unwrap()["B"].id[..12].to_owned();
    assert!(said.contains(&format!("192.168.0.7 belongs to container {owner} on {NODE}\n")), "{said}");
    assert_eq!(bench.host.attached.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn without_docker_root_node_or_datastore() {
    let bench = bench().await;
    *bench.host.containers.lock().unwrap() = None;
    assert!(refusal(calicoctl(&bench, "add A").await).contains("Is the docker daemon running?"));

    let unprivileged = Bench::not_root();
    for words in ["add A", "remove A", "A ip add ipv4", "A ip remove 192.168.0.1"] {
        let failure = calicoctl(&unprivileged, words).await.unwrap_err();
        assert_eq!((failure.exit(), failure.message()), (Exit::Usage, "This command must be run as root."), "{words}");
    }

    let empty = Bench::new();
    container(&empty, "A", |_| {});
    assert!(refusal(calicoctl(&empty, "add A").await).contains("The datastore is not initialised."));
    let cluster = ClusterInformationSpec { datastore_ready: Some(true), ..ClusterInformationSpec::default() };
    empty.put(Resource::new("default", cluster)).await;
    let said = refusal(calicoctl(&empty, "add A").await);
    assert!(said.contains("Node host-1 is not in the datastore.") && said.contains("calicoctl node"), "{said}");
    empty.node(NODE, "10.5.0.1/24", None).await;
    assert!(refusal(calicoctl(&empty, "add A").await).contains("There is no enabled IPv4 pool"));

    empty.kv.set_down(true);
    assert!(refusal(calicoctl(&empty, "add A").await).contains("unreachable"));
}

#[tokio::test]
async fn an_exhausted_pool_is_named() {
    let bench = bench().await;
    let spec = IPPoolSpec { cidr: "10.7.0.0/32".parse().unwrap(), block_size: Some(32), ..IPPoolSpec::default() };
    bench.put(Resource::new("one", spec)).await;
    text(calicoctl(&bench, "add A 10.7.0.0/32").await);
    let before = bench.everything().await;
    let said = refusal(calicoctl(&bench, "add B 10.7.0.0/32").await);
    assert!(said.contains("Failed to allocate any IPs (requested 1 IPv4s and 0 IPv6s)."), "{said}");
    assert_eq!(bench.everything().await, before);
}

#[tokio::test]
async fn every_failed_write_and_every_lost_answer_is_undone() {
    // How many writes an undisturbed addition makes: each of them fails once below.
    let writes = {
        let bench = bench().await;
        let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = count.clone();
        bench.kv.inject(move |_, _| {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Injected::Proceed
        });
        text(calicoctl(&bench, "add A ipv4 ipv6").await);
        count.load(std::sync::atomic::Ordering::SeqCst)
    };
    assert!(writes >= 5, "handle, block and endpoint are written: {writes}");
    for fails in [Injected::FailBefore, Injected::FailAfter] {
        for nth in 0..writes {
            let bench = bench().await;
            let mut seen = 0;
            bench.kv.inject(move |_, _| {
                seen += 1;
                if seen == nth + 1 { fails } else { Injected::Proceed }
            });
            let about = format!("write {nth} of {writes} {fails:?}");
            match calicoctl(&bench, "add A ipv4 ipv6").await {
                Ok(_) => panic!("{about}: succeeded"),
                Err(failure) => assert!(!failure.to_string().contains("left behind"), "{about}: {failure}"),
            }
            bench.kv.stop_injecting();
            assert_nothing_left(&bench, "A", &about).await;
            text(calicoctl(&bench, "add A").await);
        }
    }
}

#[tokio::test]
async fn a_failed_attachment_gives_the_address_back() {
    let bench = bench().await;
    let before = without_blocks(&bench).await;
    bench.host.fail.lock().unwrap().insert("attach");
    let said = refusal(calicoctl(&bench, "add A 192.168.0.1").await);
    assert!(said.contains("A could not be connected.") && said.contains("injected"), "{said}");
    assert_nothing_left(&bench, "A", "attach").await;
    assert_eq!(without_blocks(&bench).await, before);
}

#[tokio::test]
async fn what_cannot_be_undone_is_told() {
    let bench = bench().await;
    bench.host.fail.lock().unwrap().insert("detach");
    bench.kv.inject(
        |_, write| {
            if write.key.contains("workloadendpoints") { Injected::FailBefore } else { Injected::Proceed }
        },
    );
    let said = refusal(calicoctl(&bench, "add A").await);
    assert!(said.contains("undoing it failed as well, interface cali"), "{said}");
    assert_eq!(held(&bench, "A").await, Vec::<IpAddr>::new(), "the rest is undone all the same");
    bench.kv.stop_injecting();
    bench.host.fail.lock().unwrap().clear();
    let said = refusal(calicoctl(&bench, "add A").await);
    assert!(said.contains("calicoctl container remove A"), "{said}");
    text(calicoctl(&bench, "remove A").await);
    text(calicoctl(&bench, "add A").await);
}

#[tokio::test]
async fn interrupted_before_any_step_everything_is_undone() {
    for at in ["check", "attach"] {
        let Bench { ctx, kv, host, runtime, console, interrupter } = bench().await;
        *host.before.lock().unwrap() = Some(Box::new(move |operation| {
            if operation == at {
                interrupter.interrupt();
            }
        }));
        let (interrupter, _) = crate::interrupt::Interrupt::new();
        let bench = Bench { ctx, kv, host, runtime, console, interrupter };
        let failure = calicoctl(&bench, "add A").await.unwrap_err();
        assert_eq!(failure.message(), "Aborted command.", "{at}");
        assert_nothing_left(&bench, "A", at).await;
    }
}

#[tokio::test]
async fn of_two_additions_of_one_container_one_is_refused_and_takes_nothing_from_the_other() {
    // The second comes in whole between the first's checks and its attachment, as it may without the lock.
    let bench = bench().await;
    let other = Bench::new();
    let other_ctx = crate::context::Context {
        store: bench.ctx.store.clone(),
        node: NODE.into(),
        host: bench.host.clone(),
        runtime: bench.runtime.clone(),
        console: bench.console.clone(),
        interrupt: other.ctx.interrupt.clone(),
    };
    let first = calicoctl(&bench, "add A");
    let second = async {
        let cli = args::parse("calicoctl container add A".split(' ').map(Into::into)).unwrap();
        let Some(Command::Container { command }) = cli.command else { panic!() };
        run(&other_ctx, &command).await
    };
    let (first, second) = tokio::join!(first, second);
    let outcomes = [first, second];
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    let stored = endpoints(&bench).await;
    assert_eq!(stored.len(), 1);
    let recorded: Vec<String> = held(&bench, "A").await.iter().map(|ip| format!("{ip}/32")).collect();
    assert_eq!(recorded, stored[0].spec.ip_networks);
    assert_eq!(bench.host.attached.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_appears_meanwhile_is_not_touched() {
    let bench = bench().await;
    bench.kv.inject(|behind, write| {
        if write.kind == WriteKind::Create && write.key.contains("workloadendpoints") {
            behind.put(write.key, write.value.unwrap());
        }
        Injected::Proceed
    });
    // What stands there bears the same uid here, so only the address and the interface may go.
    let said = refusal(calicoctl(&bench, "add A").await);
    assert!(said.contains("A has already been configured with Calico Networking."), "{said}");
    assert_eq!(held(&bench, "A").await, Vec::<IpAddr>::new());
}

#[tokio::test]
async fn a_block_that_another_host_claims_at_the_same_moment_is_used_all_the_same() {
    let bench = bench().await;
    bench.kv.inject(|behind, write| {
        if write.kind == WriteKind::Create && write.key.contains("/assignment/") {
            let theirs = std::str::from_utf8(write.value.unwrap()).unwrap().replace(NODE, "host-2");
            behind.put(write.key, theirs);
        }
        Injected::Proceed
    });
    assert_eq!(text(calicoctl(&bench, "add A 192.168.5.5").await), "IP 192.168.5.5 added to A\n");
    assert_eq!(held(&bench, "A").await, ["192.168.5.5".parse::<IpAddr>().unwrap()]);
    let of_host = |keys: &[(String, String)]| keys.iter().any(|(key, _)| key.contains("/ipam/v2/host/"));
    assert!(!of_host(&bench.everything().await), "the claim that was lost is taken back");
}

#[tokio::test]
async fn a_namespace_is_a_workload_too() {
    let bench = bench().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("Blue");
    std::fs::write(&path, "").unwrap();
    let path = path.to_str().unwrap();
    *bench.host.containers.lock().unwrap() = None;
    assert!(text(calicoctl(&bench, &format!("add {path}")).await).ends_with(&format!("added to {path}\n")));
    let endpoint = endpoints(&bench).await.remove(0);
    assert_eq!(endpoint.spec.orchestrator, "namespace");
    let key = ResourceKey::new(calico_model::KindName::WorkloadEndpoint, Some("default"), endpoint.name());
    assert_eq!(endpoint.key(), key);
    text(calicoctl(&bench, &format!("{path} profile set")).await);
    std::fs::remove_file(path).unwrap();
    text(calicoctl(&bench, &format!("remove {path}")).await);
    assert!(endpoints(&bench).await.is_empty());
}
