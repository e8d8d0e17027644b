//! Many commands at once, and commands that are cut short.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, thread, time::Duration};

use calico_e2e::{Cluster, SOON, assert_closes_to, assert_matrix, eventually, world::datastore};
use calico_lab::{Host, Output, wait_until};
use rustix::process::Signal;
use serde_json::Value;

/// Runs commands on hosts, all at once.
fn at_once(commands: &[(&Host, String)]) -> Vec<Output> {
    thread::scope(|scope| {
        let runs: Vec<_> = commands.iter().map(|(host, command)| scope.spawn(|| host.run(command))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    })
}

/// The addresses that are held, from the blocks; every one once, and as often as the handles count.
fn held(cluster: &Cluster) -> usize {
    let datastore = datastore(&cluster.lab.etcd());
    let json = |part: &str| -> Vec<Value> {
        let values = datastore.iter().filter(|(key, _)| key.contains(part));
        values.map(|(_, value)| serde_json::from_str(value).unwrap()).collect()
    };
    let in_blocks: usize = json("/assignment/")
        .iter()
        .map(|block| block["allocations"].as_array().unwrap().iter().filter(|one| !one.is_null()).count())
        .sum();
    let in_handles: u64 = json("/handle/")
        .iter()
        .flat_map(|handle| handle["block"].as_object().unwrap().values())
        .map(|count| count.as_u64().unwrap())
        .sum();
    assert_eq!(in_blocks as u64, in_handles, "blocks and handles say the same: {datastore:?}");
    in_blocks
}

/// Forty `container add` at once on two hosts: every one gets an address, no address is given twice, and all talk.
#[test]
fn forty_adds_at_once() {
    let cluster = Cluster::up(2, "");
    let names: Vec<String> = (0..20).map(|number| format!("w{number}")).collect();
    let all = names.join(" ");
    for host in cluster.lab.hosts() {
        host.ok(&format!("for name in {all}; do docker run --net=none --name=$name -tid busybox >/dev/null; done"));
    }
    cluster.lab.host(1).ok("calicoctl profile add P");
    let each = |command: &dyn Fn(&String) -> String| -> Vec<(&Host, String)> {
        let hosts = cluster.lab.hosts().iter();
        hosts.flat_map(|host| names.iter().map(move |name| (host, name))).map(|(h, n)| (h, command(n))).collect()
    };
    let answers = at_once(&each(&|name| format!("calicoctl container add {name}")));
    let said: Vec<String> = answers.into_iter().map(|answer| answer.ok().unwrap()).collect();
    let addresses: BTreeSet<&str> = said.iter().map(|said| said.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(addresses.len(), 40, "{said:?}");
    assert_eq!(held(&cluster), 40);

    // What the interfaces carry is what was said.
    for host in cluster.lab.hosts() {
        let script = format!("for name in {all}; do docker exec $name ip -4 -o addr show eth1; done");
        let shown = host.ok(&script);
        let carried = addresses.iter().filter(|address| shown.contains(&format!(" {address}/32 ")));
        assert_eq!(carried.count(), 20, "{shown}");
    }
    for answer in at_once(&each(&|name| format!("calicoctl container {name} profile set P"))) {
        answer.ok().unwrap();
    }
    let pings: Vec<String> = addresses.iter().map(|address| format!("ping -c 1 -w 1 {address} >/dev/null")).collect();
    let all_pings = format!("docker exec w0 sh -c '{}'", pings.join(" && "));
    wait_until(SOON * 2, "w0 to reach all 40 addresses", || cluster.lab.host(1).run(&all_pings).success()).unwrap();

    for answer in at_once(&each(&|name| format!("calicoctl container remove {name}"))) {
        answer.ok().unwrap();
    }
    assert_eq!(held(&cluster), 0);
}

/// Of several who want the same thing one gets it, the others are told, and nothing is left of their tries.
#[test]
fn one_wins_and_the_others_leave_nothing() {
    let cluster = Cluster::up(2, "");
    let (host1, host2) = (cluster.lab.host(1), cluster.lab.host(2));
    for host in cluster.lab.hosts() {
        host.ok("for name in twice wa wb wc; do docker run --net=none --name=$name -tid busybox >/dev/null; done");
    }
    // The same container.
    let outcomes = at_once(&vec![(host1, "calicoctl container add twice".to_owned()); 4]);
    assert_eq!(outcomes.iter().filter(|outcome| outcome.success()).count(), 1, "{outcomes:?}");
    let losers = outcomes.iter().filter(|outcome| !outcome.success());
    losers.for_each(|outcome| assert!(outcome.text().contains("already been configured"), "{}", outcome.text()));
    assert_eq!(held(&cluster), 1);
    assert_eq!(host1.ok("ip -o link").matches(": cali").count(), 1);

    // The same address, in a block that nobody has yet.
    let want = |host, name| (host, format!("calicoctl container add {name} 192.168.44.44"));
    let names = ["wa", "wb", "wc"];
    let wanted: Vec<_> = cluster.lab.hosts().iter().flat_map(|host| names.map(|name| want(host, name))).collect();
    let outcomes = at_once(&wanted);
    assert_eq!(outcomes.iter().filter(|outcome| outcome.success()).count(), 1, "{outcomes:?}");
    let losers = outcomes.iter().filter(|outcome| !outcome.success());
    losers.for_each(|outcome| assert!(outcome.text().contains("already assigned"), "{}", outcome.text()));
    assert_eq!(held(&cluster), 2);
    let interfaces = [host1, host2].map(|host| host.ok("ip -o link").matches(": cali").count());
    assert_eq!(interfaces.iter().sum::<usize>(), 2, "{interfaces:?}");

    // The same service: never two, and in the end one that runs.
    let outcomes = at_once(&[(host1, "calicoctl node".to_owned()), (host1, "calicoctl node".to_owned())]);
    assert!(outcomes.iter().any(Output::success), "{outcomes:?}");
    let containers = host1.ok("docker ps -a --format '{{.Names}} {{.State}}' | grep calico-node");
    assert_eq!(containers, "calico-node running\n");
    eventually("the service to be ready", || host1.run("docker exec calico-node calico-node health").success());
    assert_eq!(host1.ok("pgrep -x bird").lines().count(), 1);
}

/// Changes of one record at the same time all count.
#[test]
fn changes_of_one_endpoint_add_up() {
    let cluster = Cluster::up(1, "");
    let host = cluster.lab.host(1);
    let (mut a, b) = (cluster.add(1, "wa"), cluster.add(1, "wb"));
    let profiles: Vec<String> = (0..8).map(|number| format!("P{number}")).collect();
    let each = |verb: &str| -> Vec<(&Host, String)> {
        profiles.iter().map(|profile| (host, format!("calicoctl {verb} {profile}"))).collect()
    };
    at_once(&each("profile add")).into_iter().for_each(|added| drop(added.ok().unwrap()));
    let mut commands = each("container wa profile append");
    commands.extend((0..4).map(|_| (host, "calicoctl container wa ip add ipv4".to_owned())));
    for answer in at_once(&commands) {
        let said = answer.ok().unwrap();
        if let Some(address) = said.strip_prefix("IP ").and_then(|rest| rest.split(' ').next()) {
            a.addresses.push(address.parse().unwrap());
        }
    }
    assert_eq!(a.addresses.len(), 5);
    assert_eq!(held(&cluster), 6);
    b.calicoctl("profile set P7");
    assert_matrix(&[&a, &b], &[("wa", "wb"), ("wb", "wa")]);
    let shown = host.ok("calicoctl container wa endpoint show -o json");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let text = shown.to_string();
    assert!(profiles.iter().all(|profile| text.contains(profile)), "{text}");
    at_once(&each("container wa profile remove")).into_iter().for_each(|removed| drop(removed.ok().unwrap()));
    assert_closes_to(&[&a, &b], &[]);
}

/// `container add` cut short at any moment: interrupted, it leaves all or nothing; killed, `container remove` finds
/// what it left.
#[test]
fn commands_that_are_cut_short() {
    let cluster = Cluster::up(1, "");
    let host = cluster.lab.host(1);
    host.ok("docker run --net=none --name=wk -tid busybox");
    let whole = host.command("calicoctl container add wk").output().unwrap().elapsed;
    host.ok("calicoctl container remove wk");
    let is_clean = || {
        let endpoints = host.ok("calicoctl endpoint show -o json");
        let nothing = serde_json::from_str::<Value>(&endpoints).unwrap().as_array().is_some_and(Vec::is_empty);
        nothing && held(&cluster) == 0 && !host.ok("ip -o link").contains(": cali")
    };
    assert!(is_clean());
    let mut aborted = 0;
    const STEPS: u32 = 12;
    for (signal, step) in [Signal::INT, Signal::KILL].into_iter().flat_map(|s| (0..STEPS).map(move |step| (s, step))) {
        let add = host.spawn("exec calicoctl container add wk");
        // Not a wait for anything: the moment itself is what is tried.
        thread::sleep(whole * step / (STEPS - 2));
        add.signal(signal);
        let outcome = add.wait(Duration::from_secs(20)).unwrap();
        if outcome.success() {
            assert_eq!(held(&cluster), 1, "{}", outcome.text());
        } else {
            aborted += 1;
            if signal == Signal::INT {
                assert!(is_clean(), "interrupted at step {step}, it leaves something:\n{}", outcome.text());
            }
        }
        host.run("calicoctl container remove wk");
        assert!(is_clean(), "after {signal:?} at step {step} not all could be removed:\n{}", outcome.text());
    }
    assert!(aborted >= 4, "only {aborted} were cut short: the moments were badly chosen");
}
