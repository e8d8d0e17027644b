#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use calico_ipam::{AssignIp, AutoAssign, HandleId, Ipam};
use calico_model::{EncapMode, IPPool, IPPoolSpec, Node, NodeSpec, Resource};
use calico_store::{Injected, WriteKind};
use serde_json::{Value, json};

use crate::{
    args::{Command, PoolCommand, TunnelMode, parse},
    commands::endpoint::ANNOTATION_WORKLOAD,
    failure::{Exit, Failure},
    output::{Format, Output},
    testing::{Bench, NODE, text},
};

/// Does what a person types behind `calicoctl`.
async fn typed(bench: &Bench, line: &str) -> Result<Output, Failure> {
    let words = std::iter::once("calicoctl").chain(line.split_whitespace());
    let cli = parse(words.map(Into::into)).unwrap_or_else(|error| panic!("{line}: {error}"));
    let Some(Command::Pool { command }) = cli.command else { panic!("{line} is read as something else") };
    super::run(&bench.ctx, &command).await
}

async fn refusal(bench: &Bench, line: &str) -> String {
    match typed(bench, line).await {
        Ok(output) => panic!("{line} succeeded: {}", output.text),
        Err(failure) => {
            assert_eq!(failure.exit(), Exit::Failed, "{failure}");
            failure.to_string()
        }
    }
}

async fn pool(bench: &Bench, name: &str) -> IPPool {
    bench.ctx.store.get::<IPPoolSpec>(name).await.unwrap()
}

/// The pools that there are: CIDR, name and options.
async fn pools(bench: &Bench) -> Vec<(String, String, String)> {
    let output = typed(bench, "pool show -o json").await.unwrap();
    let word = |row: &Value, member: &str| row[member].as_str().unwrap().to_owned();
    let options = |row: &Value| {
        let options: Vec<&str> = row["options"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        options.join(",")
    };
    let rows = output.data.as_array().unwrap().iter();
    rows.map(|row| (word(row, "cidr"), word(row, "name"), options(row))).collect()
}

fn row(cidr: &str, name: &str, options: &str) -> (String, String, String) {
    (cidr.to_owned(), name.to_owned(), options.to_owned())
}

#[tokio::test]
async fn pools_are_named_by_their_cidr_as_upstream_names_them() {
    let bench = Bench::new();
    let line = "pool add 10.0.1.77/24 fed0:8001::/64 192.168.0.0/16 fd80:24e2:f998:72d6::/64 ::1:0:0/112";
    assert_eq!(text(typed(&bench, line).await), "");
    assert_eq!(
        pools(&bench).await,
        [
            row("10.0.1.0/24", "10-0-1-0-24", ""),
            row("192.168.0.0/16", "192-168-0-0-16", ""),
            row("::1:0:0/112", "0--1-0-0-112", ""),
            row("fd80:24e2:f998:72d6::/64", "fd80-24e2-f998-72d6---64", ""),
            row("fed0:8001::/64", "fed0-8001---64", ""),
        ]
    );
    let spec = pool(&bench, "10-0-1-0-24").await.spec;
    assert_eq!((spec.block_size, spec.node_selector.as_str()), (Some(26), "all()"));
}

#[tokio::test]
async fn options_are_set_and_set_anew() {
    let bench = Bench::new();
    text(typed(&bench, "pool add --nat-outgoing 10.0.0.0/16 --vxlan=crosssubnet --block-size=28").await);
    let spec = pool(&bench, "10-0-0-0-16").await.spec;
    assert_eq!(
        (spec.nat_outgoing, spec.vxlan_mode, spec.ipip_mode, spec.disabled, spec.block_size),
        (true, Some(EncapMode::CrossSubnet), Some(EncapMode::Never), false, Some(28))
    );
    assert_eq!(pools(&bench).await[0].2, "vxlan=CrossSubnet,nat-outgoing");
    // The name that somebody gave and the block size stay.
    let mut named = pool(&bench, "10-0-0-0-16").await;
    named.spec.cidr = "10.1.0.0/16".parse().unwrap();
    named.spec.node_selector = "zone == 'a'".into();
    bench.put(Resource::new("by-hand", named.spec.clone())).await;
    for (line, options) in [
        ("pool add 10.1.0.0/16 --disabled --vxlan", "vxlan,disabled"),
        ("pool add 10.1.0.0/16 --ipip --nat-outgoing", "ipip,nat-outgoing"),
        ("pool add 10.1.0.0/16 --ipip=CrossSubnet --block-size /28", "ipip=CrossSubnet"),
        ("pool add 10.1.0.0/16", ""),
    ] {
        text(typed(&bench, line).await);
        assert_eq!(pools(&bench).await[1], row("10.1.0.0/16", "by-hand", options), "{line}");
        let spec = pool(&bench, "by-hand").await.spec;
        assert_eq!((spec.block_size, spec.node_selector.as_str()), (Some(28), "zone == 'a'"), "{line}");
    }
    assert!(bench.said().iter().any(|line| line.contains("IP-in-IP is stored")), "{:?}", bench.said());
}

#[tokio::test]
async fn bad_pools_are_all_told_and_none_is_added() {
    let bench = Bench::new();
    text(typed(&bench, "pool add 192.168.0.0/16").await);
    let before = bench.everything().await;
    for (line, expected) in [
        (
            "add 300.0.0.0/8 10.0.0.0/16 nonsense",
            "error: Invalid CIDR specified 300.0.0.0/8\nerror: Invalid CIDR specified nonsense\nhint: ",
        ),
        (
            "add 10.0.0.0/24 fed0::/64 --ipip",
            "error: IP in IP not supported for IPv6 pools\nhint: for IPv6 use --vxlan",
        ),
        (
            "add 10.0.0.0/27 fed0::/123",
            "error: An IPv4 pool must have a prefix length of 26 or lower. Given: 10.0.0.0/27. No pools added.\n\
             error: An IPv6 pool must have a prefix length of 122 or lower. Given: fed0::/123. No pools added.\n\
             hint: with --block-size=27",
        ),
        ("add 10.0.0.1", "error: An IPv4 pool must have a prefix length of 26 or lower. Given: 10.0.0.1/32."),
        (
            "add 192.168.7.0/24",
            "error: Cannot add IP pool 192.168.7.0/24 - pool overlaps with an existing pool 192.168.0.0/16\n  \
             cause: 192.168.0.0/16 is IPPool 192-168-0-0-16\n",
        ),
        (
            "add 192.0.0.0/8",
            "error: Cannot add IP pool 192.0.0.0/8 - pool overlaps with an existing pool 192.168.0.0/16\n",
        ),
        (
            "add 10.0.0.0/16 10.0.8.0/24",
            "error: Cannot add IP pool 10.0.8.0/24 - pool overlaps with another new pool 10.0.0.0/16\n",
        ),
        ("add 10.0.0.0/16 10.0.0.0/16", "error: Cannot add IP pool 10.0.0.0/16 - pool overlaps with another new pool"),
        (
            "add 10.0.0.0/16 --block-size=33",
            "error: Invalid block size 33 for pool 10.0.0.0/16: it must be 20 to 32.\n",
        ),
        ("add 10.0.0.0/16 --block-size=x", "error: Invalid block size \"x\"."),
        (
            "add 192.168.0.0/16 --block-size=28",
            "error: The block size of pool 192.168.0.0/16 cannot be changed to 28; it is 26.",
        ),
        ("add 169.254.7.0/24", "error: Cannot add IP pool 169.254.7.0/24: it overlaps the link-local addresses.\n"),
    ] {
        let words = refusal(&bench, &format!("pool {line}")).await;
        assert!(words.starts_with(expected), "{line}:\n{words}");
    }
    assert_eq!(bench.everything().await, before);
}

#[tokio::test]
async fn a_name_that_another_pool_has_is_said_and_nothing_of_the_call_is_left() {
    let bench = Bench::new();
    let other = IPPoolSpec { cidr: "172.16.0.0/16".parse().unwrap(), ..IPPoolSpec::default() };
    bench.put(Resource::new("10-1-0-0-16", other)).await;
    text(typed(&bench, "pool add 10.9.0.0/16 --nat-outgoing").await);
    let before = pools(&bench).await;
    let words = refusal(&bench, "pool add 10.9.0.0/16 10.0.0.0/16 10.1.0.0/16").await;
    assert!(
        words.starts_with("error: Cannot add IP pool 10.1.0.0/16.\n  cause: there is an IPPool 10-1-0-0-16"),
        "{words}"
    );
    assert_eq!(pools(&bench).await, before);
}

#[tokio::test]
async fn two_who_add_overlapping_pools_at_once_do_not_both_succeed() {
    let bench = Bench::new();
    let mut first = true;
    bench.kv.inject(move |behind, write| {
        if write.kind == WriteKind::Create && std::mem::take(&mut first) {
            let spec = IPPoolSpec { cidr: "10.0.8.0/24".parse().unwrap(), ..IPPoolSpec::default() };
            let other: IPPool = Resource::new("other", spec);
            behind.put(&other.key().to_string(), other.to_json());
        }
        Injected::Proceed
    });
    let words = refusal(&bench, "pool add 10.0.0.0/16").await;
    assert!(words.contains("overlaps with an existing pool 10.0.8.0/24"), "{words}");
    assert_eq!(pools(&bench).await, [row("10.0.8.0/24", "other", "")]);
}

#[tokio::test]
async fn whatever_write_fails_all_or_none_of_the_pools_are_there() {
    for arrives in [false, true] {
        for nth in 0..3 {
            let bench = Bench::new();
            text(typed(&bench, "pool add 10.9.0.0/16 --nat-outgoing").await);
            let before = pools(&bench).await;
            let mut writes = 0;
            bench.kv.inject(move |_, _| {
                writes += 1;
                match arrives {
                    _ if writes != nth + 1 => Injected::Proceed,
                    true => Injected::FailAfter,
                    false => Injected::FailBefore,
                }
            });
            let words = refusal(&bench, "pool add 10.9.0.0/16 10.0.0.0/16 fd00::/64 --disabled").await;
            assert!(!words.contains("left behind"), "{words}");
            assert_eq!(pools(&bench).await, before, "write {nth}: {words}");
        }
    }
}

#[tokio::test]
async fn a_range_becomes_as_few_pools_as_possible() {
    let bench = Bench::new();
    text(typed(&bench, "pool range add 172.24.0.0 172.24.25.255 --nat-outgoing").await);
    text(typed(&bench, "pool range add fd00::1:0 fd00::2:ffff").await);
    assert_eq!(
        pools(&bench).await,
        [
            row("172.24.0.0/20", "172-24-0-0-20", "nat-outgoing"),
            row("172.24.16.0/21", "172-24-16-0-21", "nat-outgoing"),
            row("172.24.24.0/23", "172-24-24-0-23", "nat-outgoing"),
            row("fd00::1:0/112", "fd00--1-0-112", ""),
            row("fd00::2:0/112", "fd00--2-0-112", ""),
        ]
    );
    let before = bench.everything().await;
    for (line, expected) in [
        (
            "x 1.2.3",
            "error: Invalid START_IP specified. (\"x\" is no IPv4 or IPv6 address)\nerror: Invalid END_IP specified.",
        ),
        ("10.0.0.0 fd00::1", "error: START_IP and END_IP must be the same ip version\n"),
        ("10.0.0.9 10.0.0.1", "error: START_IP must be a smaller ip address than END_IP\n"),
        ("10.0.0.1 10.0.0.1", "error: START_IP must be a smaller ip address than END_IP\n"),
        ("172.24.20.0 172.24.30.255", "error: Cannot add range - range conflicts with pool 172.24.16.0/21"),
        ("fe00::1:0 fe00::2:ffff --ipip", "error: The range is split into pools, and one or more of them cannot be.\n"),
        (
            "10.0.0.0 10.0.0.99",
            "error: The range is split into pools, and one or more of them cannot be.\n  \
             cause: An IPv4 pool must have a prefix length of 26 or lower. Given: 10.0.0.64/27.",
        ),
    ] {
        let words = refusal(&bench, &format!("pool range add {line}")).await;
        assert!(words.starts_with(expected), "{line}:\n{words}");
    }
    assert_eq!(bench.everything().await, before);
}

#[tokio::test]
async fn shown_are_a_table_for_each_family_and_everything_on_request() {
    let bench = Bench::new();
    let empty = "+-----------+---------+\n| IPv4 CIDR | Options |\n+-----------+---------+\n+-----------+---------+\n";
    assert_eq!(text(typed(&bench, "pool show --ipv4").await), empty);
    text(typed(&bench, "pool add 10.0.0.0/16 --ipip --nat-outgoing").await);
    text(typed(&bench, "pool add 9.0.0.0/16 fd00::/64 --disabled").await);
    let all = text(typed(&bench, "pool show").await);
    let (v4, v6) = (text(typed(&bench, "pool show --ipv4").await), text(typed(&bench, "pool show --ipv6").await));
    assert_eq!(all, format!("{v4}{v6}"));
    assert!(v6.contains("IPv6 CIDR") && v6.contains("fd00::/64") && v6.contains("disabled"), "{v6}");
    let place = |text: &str| v4.find(text).unwrap_or_else(|| panic!("{text}: {v4}"));
    assert!(place("9.0.0.0/16") < place("10.0.0.0/16") && place("10.0.0.0/16") < place("ipip,nat-outgoing"), "{v4}");

    let wide = text(typed(&bench, "pool show -o wide").await);
    for word in ["Name", "10-0-0-0-16", "65536", "Block Size", "122", "all()", "18446744073709551616"] {
        assert!(wide.contains(word), "{word}: {wide}");
    }
    let output = typed(&bench, "pool show --ipv4 -o json").await.unwrap();
    assert_eq!(
        output.data[1],
        json!({"cidr": "10.0.0.0/16", "name": "10-0-0-0-16", "options": ["ipip", "nat-outgoing"], "blockSize": 26,
            "inUse": 0, "total": 65536, "nodeSelector": "all()", "family": "IPv4", "natOutgoing": true,
            "ipipMode": "Always", "vxlanMode": "Never", "disabled": false, "disableBGPExport": false,
            "assignmentMode": "Automatic", "allowedUses": ["Workload", "Tunnel"]})
    );
    let yaml = output.render(Format::Yaml);
    assert!(yaml.contains("natOutgoing: true"), "{yaml}");
    assert!(parse(["calicoctl", "pool", "show", "--ipv4", "--ipv6"].map(Into::into)).is_err());
}

/// A node, and addresses that it has assigned: an endpoint's, one whose endpoint is gone, a tunnel's.
async fn with_users(bench: &Bench) {
    bench.put(Node::new(NODE, NodeSpec::default())).await;
    let ipam = Ipam::new(bench.ctx.store.clone());
    let notes = |pairs: &[(&str, &str)]| -> Option<BTreeMap<String, String>> {
        Some(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    };
    for (address, handle, attrs) in [
        ("192.168.0.1", "docker.c1", notes(&[("node", NODE)])),
        ("192.168.0.2", "docker.0123456789abcdef", notes(&[("node", NODE)])),
        ("192.168.0.3", "vxlan-tunnel-addr-host-1", notes(&[("node", NODE), ("type", "vxlanTunnelAddress")])),
    ] {
        let request = AssignIp {
            ip: address.parse().unwrap(),
            handle: Some(HandleId::from(handle)),
            attrs,
            host: NODE.into(),
            intended_use: None,
            max_alloc_per_handle: None,
        };
        ipam.assign_ip(request).await.unwrap();
    }
    let mut endpoint = bench.endpoint(NODE, "c1", "e1", &[]).await;
    endpoint.metadata.annotations.insert(ANNOTATION_WORKLOAD.into(), "workload_A".into());
    bench.ctx.store.update(endpoint).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_keeps_addresses_in_use_names_the_size_of_their_blocks() {
    let bench = Bench::new();
    text(typed(&bench, "pool add 192.168.0.0/16 --block-size=28").await);
    with_users(&bench).await;
    let said = text(typed(&bench, "pool remove 192.168.0.0/16").await);
    let (_, line) = said.split_once("keep them in use: calicoctl ").unwrap();
    assert_eq!(line, "pool add 192.168.0.0/16 --block-size=28\n");
    text(typed(&bench, line).await);
}

#[tokio::test(start_paused = true)]
async fn an_outage_behind_the_deletion_leaves_no_doubt_about_it() {
    let bench = Bench::new();
    text(typed(&bench, "pool add 192.168.0.0/16").await);
    let kv = bench.kv.clone();
    bench.kv.inject(move |_, write| {
        kv.set_down(write.kind == WriteKind::Delete && write.key.contains("ippools"));
        Injected::Proceed
    });
    let said = refusal(&bench, "pool remove 192.168.0.0/16").await;
    assert!(said.contains("Pool 192.168.0.0/16 is deleted; what still"), "{said}");
    bench.kv.set_down(false);
    assert!(pools(&bench).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_is_removed_says_what_still_uses_it_and_how_to_go_on() {
    let bench = Bench::new();
    text(typed(&bench, "pool add 192.168.0.0/16 --nat-outgoing").await);
    with_users(&bench).await;
    assert_eq!(
        text(typed(&bench, "pool remove 192.168.0.0/16").await),
        "Deleted IP Pool 192.168.0.0/16\n\
         3 addresses of 192.168.0.0/16 are still in use:\n  \
         192.168.0.1  container workload_A on host host-1\n  \
         192.168.0.2  container 0123456789ab on host host-1, without an endpoint\n  \
         192.168.0.3  tunnel on host host-1\n\
         They stay with their holders, but other hosts do not learn their routes any more and nothing masquerades them.\n\
         To go on:\n  \
         take them back: on the container's host, calicoctl container workload_A ip remove 192.168.0.1, or calicoctl \
         container remove workload_A\n  \
         or keep them in use: calicoctl pool add 192.168.0.0/16 --nat-outgoing\n"
    );
    assert_eq!(bench.said()[..2], ["Disabling IP Pool", "Removing IPAM configuration for pool"]);
    assert!(pools(&bench).await.is_empty());
    // Programs get the same, and nothing but that.
    text(typed(&bench, "pool add 192.168.0.0/16").await);
    let output = typed(&bench, "pool remove 192.168.0.0/16 -o json").await.unwrap();
    assert_eq!(
        (output.data[0]["cidr"].as_str(), output.data[0]["name"].as_str()),
        (Some("192.168.0.0/16"), Some("192-168-0-0-16"))
    );
    assert_eq!(
        output.data[0]["stillInUse"][0],
        json!({"address": "192.168.0.1", "holder": "container workload_A on host host-1", "container": "workload_A"})
    );
    assert_eq!(bench.said().len(), 2, "{:?}", bench.said());
    // The block lives on without an owner; no host claims it any more.
    let keys: Vec<String> = bench.everything().await.into_iter().map(|(key, _)| key).collect();
    assert!(!keys.iter().any(|key| key.starts_with("/calico/ipam/v2/host/")), "{keys:?}");
    let blocks = Ipam::new(bench.ctx.store.clone()).all_blocks().await.unwrap();
    assert_eq!((blocks.len(), blocks[0].owner()), (1, None));

    // What was said to keep them in use does; a block of another size would cut through.
    let words = refusal(&bench, "pool add 192.168.0.0/16 --block-size=28").await;
    assert!(words.contains("block 192.168.0.0/26 of an earlier pool") && words.contains("--block-size=26"), "{words}");
    text(typed(&bench, "pool add 192.168.0.0/16 --nat-outgoing").await);
    assert_eq!(pools(&bench).await, [row("192.168.0.0/16", "192-168-0-0-16", "nat-outgoing")]);
}

#[tokio::test(start_paused = true)]
async fn an_unused_pool_goes_with_its_blocks_and_nobody_is_named() {
    let bench = Bench::new();
    text(typed(&bench, "pool add 10.0.0.0/24 10.1.0.0/24").await);
    bench.put(Node::new(NODE, NodeSpec::default())).await;
    let ipam = Ipam::new(bench.ctx.store.clone());
    let request = AutoAssign { host: NODE.into(), num4: 1, handle: Some("docker.x".into()), ..AutoAssign::default() };
    ipam.auto_assign(request).await.unwrap();
    ipam.release_by_handle(&"docker.x".into()).await.unwrap();
    // By name and by CIDR, one of them twice.
    assert_eq!(
        text(typed(&bench, "pool remove 10-0-0-0-24 10.1.0.9/24 10.0.0.0/24").await),
        "Deleted IP Pool 10.0.0.0/24\nDeleted IP Pool 10.1.0.0/24\n"
    );
    let keys: Vec<String> = bench.everything().await.into_iter().map(|(key, _)| key).collect();
    assert!(!keys.iter().any(|key| key.contains("ippools") || key.contains("/block/")), "{keys:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_pool_is_named_before_anything_is_removed() {
    let bench = Bench::new();
    text(typed(&bench, "pool add 10.0.0.0/24").await);
    let before = bench.everything().await;
    let words = refusal(&bench, "pool remove 10.0.0.0/24 10.1.0.0/24 nonsense").await;
    assert!(
        words.starts_with("error: 10.1.0.0/24 is not a configured pool.\nerror: Invalid CIDR specified nonsense\nhint: the pools are 10.0.0.0/24"),
        "{words}"
    );
    assert_eq!(bench.everything().await, before);
}

#[tokio::test(start_paused = true)]
async fn removing_wins_against_somebody_who_changes_the_pool_meanwhile() {
    let bench = Bench::new();
    text(typed(&bench, "pool add 10.0.0.0/24").await);
    let mut races = 3;
    bench.kv.inject(move |behind, write| {
        if write.kind == WriteKind::Delete && write.key.contains("ippools") && races > 0 {
            races -= 1;
            let spec = IPPoolSpec { cidr: "10.0.0.0/24".parse().unwrap(), disabled: true, ..IPPoolSpec::default() };
            let mut pool: IPPool = Resource::new("10-0-0-0-24", spec);
            pool.metadata.annotations.insert("race".into(), races.to_string());
            behind.put(write.key, pool.to_json());
        }
        Injected::Proceed
    });
    assert_eq!(text(typed(&bench, "pool remove 10.0.0.0/24").await), "Deleted IP Pool 10.0.0.0/24\n");
    assert!(pools(&bench).await.is_empty());
}

#[test]
fn words_that_contradict_each_other_are_not_understood() {
    for words in [
        "pool",
        "pool add",
        "pool remove",
        "pool range",
        "pool range add 10.0.0.0",
        "pool add 10.0.0.0/16 --ipip --vxlan",
        "pool add 10.0.0.0/16 --vxlan=Sometimes",
        "pool show 10.0.0.0/16",
        "pool show -o xml",
    ] {
        let line = format!("calicoctl {words}");
        let error = parse(line.split(' ').map(Into::into)).expect_err(words);
        assert_eq!(error.exit_code(), 2, "{words}");
    }
    // An option without a value does not swallow the CIDR behind it.
    let line = "calicoctl pool add --ipip 10.0.0.0/16 --nat-outgoing 10.1.0.0/16";
    let Some(Command::Pool { command: PoolCommand::Add { cidrs, options } }) =
        parse(line.split(' ').map(Into::into)).unwrap().command
    else {
        panic!("read as something else")
    };
    assert_eq!((cidrs.len(), options.ipip), (2, Some(TunnelMode::Always)));
}
