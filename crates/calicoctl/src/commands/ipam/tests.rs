#![allow(clippy::unwrap_used)]
use calico_ipam::{AutoAssign, HandleId};
use calico_model::{ClusterInformation, ClusterInformationSpec, IPPool, IPPoolSpec, KindName, ResourceKey};
use calico_store::{Injected, Kv, WriteKind};

use super::*;
use crate::{
    args::{self, Command, IpamCheck, IpamInfo, IpamRelease, IpamRepair, IpamSplit},
    testing::{Bench, NODE, refusal, text},
};

/// A cluster with a pool of two blocks, and two addresses of a handle that no endpoint has.
async fn bench(locked: bool) -> Bench {
    let bench = Bench::new();
    let spec = ClusterInformationSpec {
        cluster_guid: "1".into(),
        datastore_ready: Some(!locked),
        ..ClusterInformationSpec::default()
    };
    bench.put(ClusterInformation::new("default", spec)).await;
    let spec = IPPoolSpec { cidr: "10.10.0.0/28".parse().unwrap(), block_size: Some(29), ..IPPoolSpec::default() };
    bench.put(IPPool::new("pool", spec)).await;
    bench.node("host-1", "192.168.1.1/24", None).await;
    let request = AutoAssign {
        host: "host-1".into(),
        num4: 2,
        handle: Some("net.c1".into()),
        attrs: Some([("node".to_owned(), "host-1".to_owned())].into()),
        ..AutoAssign::default()
    };
    ipam(&bench).auto_assign(request).await.unwrap();
    bench
}

fn ipam(bench: &Bench) -> Ipam {
    Ipam::new(bench.ctx.store.clone())
}

async fn held(bench: &Bench) -> Vec<IpAddr> {
    ipam(bench).ips_by_handle(&"net.c1".into()).await.unwrap_or_default()
}

async fn run_check(bench: &Bench, args: IpamCheck) -> Result<Output, Failure> {
    run(&bench.ctx, &IpamCommand::Check(args)).await
}

async fn run_release(bench: &Bench, args: IpamRelease) -> Result<Output, Failure> {
    run(&bench.ctx, &IpamCommand::Release(args)).await
}

#[tokio::test]
async fn classic_words_for_one_address() {
    let bench = bench(false).await;
    let address = held(&bench).await[0].to_string();
    let info = async |address: &str| {
        let args = IpamInfo { address: address.into(), ..IpamInfo::default() };
        run(&bench.ctx, &IpamCommand::Info(args)).await
    };
    assert_eq!(text(info(&address).await), "{\"node\":\"host-1\"}\n");
    assert_eq!(text(info("10.99.0.1").await), "IP 10.99.0.1 is not currently assigned\n");
    assert!(refusal(info("10.99").await).starts_with("error: Invalid IP address specified."));
    let request = AutoAssign { host: "host-1".into(), num4: 1, ..AutoAssign::default() };
    let bare = ipam(&bench).auto_assign(request).await.unwrap().v4[0].addr().to_string();
    assert_eq!(text(info(&bare).await), format!("No attributes defined for {bare}\n"));

    let release = async |address: &str| {
        run_release(&bench, IpamRelease { address: Some(address.into()), ..IpamRelease::default() }).await
    };
    assert_eq!(text(release(&address).await), "Address successfully released\n");
    assert_eq!(text(release(&address).await), "Failed to release address\n");
    assert!(refusal(release("nonsense").await).starts_with("error: Invalid IP address specified."));
}

#[tokio::test]
async fn a_handle_is_released_at_once() {
    let bench = bench(false).await;
    let by_handle = || IpamRelease { handle: Some("net.c1".into()), ..IpamRelease::default() };
    let said = text(run_release(&bench, by_handle()).await);
    assert!(said.starts_with("Successfully released 2 addresses of handle net.c1: 10.10.0."), "{said}");
    assert!(held(&bench).await.is_empty());
    assert!(refusal(run_release(&bench, by_handle()).await).contains("does not exist"));
}

#[tokio::test]
async fn a_report_goes_to_standard_output_and_the_exit_code_tells_of_problems() {
    let bench = bench(false).await;
    let output = run_check(&bench, IpamCheck { report: Some("-".into()), deep: true, ..IpamCheck::default() }).await;
    let report: serde_json::Value = serde_json::from_str(&text(output)).unwrap();
    assert_eq!(report["allocations"].as_object().unwrap().len(), 2);
    assert_eq!(report["findings"], serde_json::json!([]));
    let ends = async || run_check(&bench, IpamCheck::default()).await.unwrap().exit;
    assert_eq!(ends().await, Exit::Failed);
    ipam(&bench).release_by_handle(&"net.c1".into()).await.unwrap();
    assert_eq!(ends().await, Exit::Done);
}

#[tokio::test]
async fn findings_are_told_and_counted_when_asked() {
    let bench = bench(false).await;
    bench.kv.put("/calico/ipam/v2/host/host-9/ipv4/block/10.10.0.0-29", r#"{"state":"pending"}"#);
    let shallow = text(run_check(&bench, IpamCheck::default()).await);
    assert!(shallow.ends_with("Check complete; found 2 problems.\n"), "{shallow}");
    let deep = text(run_check(&bench, IpamCheck { deep: true, ..IpamCheck::default() }).await);
    assert!(deep.contains("  host-9 has blocks and is no node: 10.10.0.0/29\n"), "{deep}");
    assert!(deep.ends_with("Found 2 findings.\nCheck complete; found 4 problems.\n"), "{deep}");
}

#[tokio::test]
async fn what_windows_hosts_set_aside_is_in_use() {
    let bench = bench(false).await;
    ipam(&bench).release_by_handle(&"net.c1".into()).await.unwrap();
    let mut block = ipam(&bench).all_blocks().await.unwrap().remove(0);
    let handle = Some(calico_ipam::WINDOWS_RESERVED_HANDLE.to_owned());
    block.attributes = Some(vec![calico_ipam::Attribute { handle_id: handle, ..calico_ipam::Attribute::default() }]);
    let ordinal = block.unallocated.remove(0);
    block.allocations[ordinal] = Some(0);
    bench.kv.put(&block.key(), block.to_json());
    let said = text(run_check(&bench, IpamCheck { show_all_ips: true, ..IpamCheck::default() }).await);
    let address = block.address(ordinal);
    assert!(said.contains(&format!("  {address} belongs to Reserved for Windows\n  {address} allocated;")), "{said}");
    assert!(said.contains("using 1 IPs") && said.ends_with("found 0 problems.\n"), "{said}");
}

#[tokio::test]
async fn nothing_is_called_leaked_while_an_endpoint_cannot_be_read() {
    let bench = bench(false).await;
    let key = "/calico/resources/v3/projectcalico.org/workloadendpoints/default/host--1-docker-c1-eth0";
    bench.kv.put(key, "nonsense");
    let said = refusal(run_check(&bench, IpamCheck::default()).await);
    assert!(said.starts_with("error: It is not known which addresses are in use") && said.contains(key), "{said}");
    bench.kv.remove(key);
    assert!(text(run_check(&bench, IpamCheck::default()).await).ends_with("found 2 problems.\n"));
}

#[tokio::test]
async fn a_report_that_cannot_be_written_is_a_failure_with_the_text_told() {
    let bench = bench(false).await;
    let args = IpamCheck { report: Some("/nonexistent/report".into()), ..IpamCheck::default() };
    let output = run_check(&bench, args).await.unwrap();
    assert_eq!(output.exit, Exit::Failed);
    assert!(output.text.ends_with("found 2 problems.\n") && output.failure.is_some());
}

/// Writes a report and returns its place.
async fn report(bench: &Bench, folder: &tempfile::TempDir, name: &str) -> String {
    let file = folder.path().join(name).to_str().unwrap().to_owned();
    run_check(bench, IpamCheck { report: Some(file.clone()), ..IpamCheck::default() }).await.unwrap();
    file
}

#[tokio::test]
async fn what_changed_since_a_report_is_not_released() {
    let (bench, folder) = (bench(true).await, tempfile::tempdir().unwrap());
    let first = report(&bench, &folder, "first").await;
    // The addresses are given back, and another gets them; then they look leaked again.
    ipam(&bench).release_by_handle(&"net.c1".into()).await.unwrap();
    let addresses = 16;
    let request =
        AutoAssign { host: "host-1".into(), num4: addresses, handle: Some("net.c2".into()), ..AutoAssign::default() };
    ipam(&bench).auto_assign(request).await.unwrap();
    let second = report(&bench, &folder, "second").await;

    let both = IpamRelease { reports: vec![first.clone(), second.clone()], ..IpamRelease::default() };
    let said = text(run_release(&bench, both).await);
    assert!(said.starts_with("Report didn't contain any leaked IPs to clean up.\n"), "{said}");
    let outdated = text(run_release(&bench, IpamRelease { reports: vec![first], ..IpamRelease::default() }).await);
    assert!(outdated.contains("update conflict: 10.10.0."), "{outdated}");
    let holds = ipam(&bench).ips_by_handle(&"net.c2".into()).await.unwrap().len();
    assert_eq!(holds, addresses, "nothing was released");

    let current = text(run_release(&bench, IpamRelease { reports: vec![second], ..IpamRelease::default() }).await);
    assert!(current.contains("Released 16 IPs successfully"), "{current}");
    // The handle counted what was asked of each block, so that it outlives its addresses; the next report has it.
    let third = report(&bench, &folder, "third").await;
    let said = text(run_release(&bench, IpamRelease { reports: vec![third], ..IpamRelease::default() }).await);
    assert!(said.contains("Released 1 handles; 0 skipped; 0 errors."), "{said}");
    assert!(text(run_check(&bench, IpamCheck::default()).await).ends_with("found 0 problems.\n"));
}

#[tokio::test]
async fn a_leaked_handle_that_is_used_again_stays() {
    let (bench, folder) = (bench(true).await, tempfile::tempdir().unwrap());
    let id = HandleId::from("net.c9");
    bench.kv.put(&id.key(), r#"{"block":{"10.10.0.0/29":1,"10.10.0.8/29":1},"deleted":false}"#);
    let file = report(&bench, &folder, "report").await;
    let release = || IpamRelease { reports: vec![file.clone()], ..IpamRelease::default() };
    let mut block = ipam(&bench).all_blocks().await.unwrap().remove(0);
    let index = block.attributes().len();
    let attribute = calico_ipam::Attribute { handle_id: Some("net.c9".into()), ..calico_ipam::Attribute::default() };
    block.attributes.get_or_insert_default().push(attribute);
    let ordinal = block.unallocated.remove(0);
    block.allocations[ordinal] = Some(index);
    bench.kv.put(&block.key(), block.to_json());
    let said = text(run_release(&bench, release()).await);
    assert!(said.contains("Released 0 handles; 1 skipped; 0 errors."), "{said}");
    assert!(bench.kv.get(&id.key()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_file_that_is_no_report_is_refused() {
    let (bench, folder) = (bench(true).await, tempfile::tempdir().unwrap());
    let file = folder.path().join("x").to_str().unwrap().to_owned();
    std::fs::write(&file, "nonsense").unwrap();
    let output = run_release(&bench, IpamRelease { reports: vec![file], ..IpamRelease::default() }).await.unwrap();
    assert_eq!(output.exit, Exit::Failed);
    assert!(output.failure.unwrap().to_string().contains("is not a report of ipam check."));
}

fn split(number: &str) -> IpamCommand {
    IpamCommand::Split(IpamSplit { number: number.into(), name: Some("pool".into()), ..IpamSplit::default() })
}

#[tokio::test]
async fn a_refused_split_changes_nothing_and_a_failed_one_is_undone() {
    let bench = bench(true).await;
    let before = bench.everything().await;
    for number in ["3", "4", "x"] {
        refusal(run(&bench.ctx, &split(number)).await);
        assert_eq!(bench.everything().await, before, "{number}");
    }
    let key = ResourceKey::new(KindName::IPPool, None, "split-pool-1").to_string();
    bench.kv.inject(move |_, write| if write.key == key { Injected::FailBefore } else { Injected::Proceed });
    let said = refusal(run(&bench.ctx, &split("2")).await);
    bench.kv.stop_injecting();
    assert!(said.starts_with("error: IP Pool pool is not split."), "{said}");
    assert_eq!(bench.everything().await, before);
    assert!(text(run(&bench.ctx, &split("2")).await).contains("Created split-pool-1 with CIDR 10.10.0.8/29.\n"));
    assert_eq!(held(&bench).await.len(), 2);
}

#[tokio::test]
async fn a_split_whose_last_answer_is_lost_is_done() {
    let bench = bench(true).await;
    let key = ResourceKey::new(KindName::IPPool, None, "pool").to_string();
    bench.kv.inject(move |_, write| match write.kind {
        WriteKind::Delete if write.key == key => Injected::FailAfter,
        _ => Injected::Proceed,
    });
    assert!(text(run(&bench.ctx, &split("2")).await).contains("Created split-pool-1 with CIDR 10.10.0.8/29.\n"));
    let (pools, _) = bench.ctx.store.list::<IPPoolSpec>().await.unwrap();
    let names: Vec<&str> = pools.iter().map(IPPool::name).collect();
    assert_eq!(names, ["split-pool-0", "split-pool-1"]);
}

#[tokio::test]
async fn repairs_want_a_locked_datastore_and_leave_nothing_that_can_be_mended() {
    let open = bench(false).await;
    let repair = || IpamCommand::Repair(IpamRepair::default());
    assert!(refusal(run(&open.ctx, &repair()).await).starts_with("error: data store is not locked."));

    let bench = bench(true).await;
    bench.kv.put("/calico/ipam/v2/host/host-9/ipv4/block/10.10.0.0-29", r#"{"state":"pending"}"#);
    bench.kv.put(&HandleId::from("net.c1").key(), r#"{"block":{},"deleted":false}"#);
    let said = text(run(&bench.ctx, &repair()).await);
    assert!(said.ends_with("findings; 0 are left.\n"), "{said}");
    assert!(said.contains("Mended: handle net.c1 counts 0 in 10.10.0."), "{said}");
    assert_eq!(held(&bench).await.len(), 2, "found by its handle again");
    assert_eq!(text(run(&bench.ctx, &repair()).await), "Mended 0 findings; 0 are left.\n");
}

/// A cluster in which the container `A` runs on this host.
async fn with_container() -> Bench {
    let bench = Bench::new();
    let spec = ClusterInformationSpec { datastore_ready: Some(true), ..ClusterInformationSpec::default() };
    bench.put(ClusterInformation::new("default", spec)).await;
    let spec = IPPoolSpec { cidr: "10.10.0.0/24".parse().unwrap(), ..IPPoolSpec::default() };
    bench.put(IPPool::new("pool", spec)).await;
    bench.node(NODE, "192.168.1.1/24", None).await;
    let container = calico_workload::docker::Container {
        id: "41".repeat(32),
        name: "A".into(),
        pid: 4711,
        running: true,
        network_mode: "none".into(),
        labels: Default::default(),
        image: "ubuntu".into(),
        started_at: None,
    };
    bench.host.containers.lock().unwrap().as_mut().unwrap().insert("A".into(), container);
    bench
}

async fn container(bench: &Bench, words: &str) -> bool {
    let line = format!("calicoctl container {words}");
    let cli = args::parse(line.split_whitespace().map(Into::into)).unwrap();
    let Some(Command::Container { command }) = cli.command else { panic!("{line}") };
    crate::commands::container::run(&bench.ctx, &command).await.is_ok()
}

async fn problems(bench: &Bench) -> String {
    let args = IpamCheck { deep: true, show_problem_ips: true, ..IpamCheck::default() };
    text(run_check(bench, args).await)
}

#[tokio::test]
async fn what_container_commands_leave_behind_is_in_order() {
    const CLEAN: &str = "Found 0 findings.\nCheck complete; found 0 problems.\n";
    let bench = with_container().await;
    assert!(container(&bench, "add A").await);
    assert!(problems(&bench).await.ends_with(CLEAN), "{}", problems(&bench).await);
    assert!(container(&bench, "remove A").await);
    assert!(problems(&bench).await.ends_with(CLEAN), "{}", problems(&bench).await);
    for failing in 0.. {
        let bench = with_container().await;
        let mut writes = 0;
        bench.kv.inject(move |_, _| {
            writes += 1;
            if writes - 1 == failing { Injected::FailBefore } else { Injected::Proceed }
        });
        let done = container(&bench, "add A").await;
        bench.kv.stop_injecting();
        // What may be left is a claim that the next assignment on this host finishes, or repair does.
        let shallow = text(run_check(&bench, IpamCheck::default()).await);
        assert!(shallow.ends_with("Check complete; found 0 problems.\n"), "write {failing} fails: {shallow}");
        let repair = IpamCommand::Repair(IpamRepair { force: true, ..IpamRepair::default() });
        let said = text(run(&bench.ctx, &repair).await);
        assert!(said.ends_with("findings; 0 are left.\n"), "write {failing} fails: {said}");
        assert!(problems(&bench).await.ends_with(CLEAN));
        if done && failing > 4 {
            break;
        }
    }
}
