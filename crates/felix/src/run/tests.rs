#![allow(clippy::unwrap_used)]
//! The loop's invariants, with a recording driver and the in-memory datastore.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use calico_model::{
    ClusterInformation, ClusterInformationSpec, Profile, ProfileName, Revision, WorkloadEndpoint, WorkloadEndpointSpec,
};
use calico_policy::instruction::{Instruction, RuleAction, RuleSet};
use calico_store::{Kv, MemoryKv};
use tokio::sync::{Notify, oneshot};

use super::*;
use crate::Applied;

/// What the driver was told, in order.
#[allow(clippy::large_enum_variant, reason = "a handful of values in a test")]
#[derive(Clone, Debug, PartialEq)]
enum Call {
    InstallBase,
    Absorb(Instruction),
    Apply,
    Distrust,
}

#[derive(Default)]
struct Script {
    calls: Vec<Call>,
    /// How many coming `apply` calls fail.
    fail: u32,
    /// How long each `apply` takes.
    slow: Duration,
}

#[derive(Clone, Default)]
struct FakeDriver {
    script: Rc<RefCell<Script>>,
    disturbance: Rc<Notify>,
}

impl Driver for FakeDriver {
    type Error = String;

    async fn install_base(&mut self) -> Result<(), String> {
        self.script.borrow_mut().calls.push(Call::InstallBase);
        Ok(())
    }
    fn absorb(&mut self, instruction: Instruction) {
        self.script.borrow_mut().calls.push(Call::Absorb(instruction));
    }
    async fn apply(&mut self) -> Result<Applied, String> {
        let slow = self.script.borrow().slow;
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
        }
        let mut script = self.script.borrow_mut();
        script.calls.push(Call::Apply);
        if script.fail > 0 {
            script.fail -= 1;
            return Err("the kernel said no".into());
        }
        Ok(Applied::default())
    }
    fn distrust(&mut self) {
        self.script.borrow_mut().calls.push(Call::Distrust);
    }
    async fn disturbed(&mut self) {
        self.disturbance.notified().await;
    }
}

struct Bench {
    kv: Arc<MemoryKv>,
    store: Store,
    driver: FakeDriver,
    health: Rc<RefCell<AgentHealth>>,
    stop: Option<oneshot::Sender<()>>,
}

impl Bench {
    fn start() -> Self {
        let kv = Arc::new(MemoryKv::new());
        let store = Store::new(kv.clone());
        let (stop, stopped) = oneshot::channel();
        let bench = Self { kv, store, driver: FakeDriver::default(), health: Rc::default(), stop: Some(stop) };
        let (store, driver, health) = (bench.store.clone(), bench.driver.clone(), bench.health.clone());
        tokio::task::spawn_local(async move {
            let report = |now: &AgentHealth| *health.borrow_mut() = now.clone();
            let shutdown = async { drop(stopped.await) };
            run(&store, driver, Options::new("h1"), report, shutdown).await.unwrap();
        });
        bench
    }

    fn calls(&self) -> Vec<Call> {
        self.driver.script.borrow().calls.clone()
    }

    fn applies(&self) -> usize {
        self.calls().iter().filter(|call| **call == Call::Apply).count()
    }

    fn programmed_endpoints(&self) -> usize {
        let updates = |call: &Call| matches!(call, Call::Absorb(Instruction::EndpointUpdate { .. }));
        self.calls().iter().filter(|call| updates(call)).count()
    }

    /// The rules that a policy had last.
    fn policy(&self, name: &str) -> Option<Arc<RuleSet>> {
        self.calls().iter().rev().find_map(|call| match call {
            Call::Absorb(Instruction::PolicyUpdate { id, rules }) if id.name == name => Some(rules.clone()),
            _ => None,
        })
    }

    async fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition(self) {
            assert!(
                Instant::now() < deadline,
                "{what} never came; calls: {:?}; health: {:?}",
                self.calls(),
                self.health
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn initialise(&self) {
        let spec = ClusterInformationSpec { datastore_ready: Some(true), ..Default::default() };
        self.store.create(ClusterInformation::new("default", spec)).await.unwrap();
    }

    async fn set_ready(&self, ready: bool) {
        let key = ResourceKey::new(KindName::ClusterInformation, None, "default");
        let change = |cluster: &mut ClusterInformation| {
            cluster.spec.datastore_ready = Some(ready);
            Ok::<_, calico_store::Error>(())
        };
        self.store.modify(&key, change).await.unwrap();
    }

    async fn add_endpoint(&self, index: u8) {
        let spec = WorkloadEndpointSpec {
            orchestrator: "docker".into(),
            workload: format!("w{index}"),
            node: "h1".into(),
            endpoint: "eth1".into(),
            interface_name: format!("cali{index}"),
            ip_networks: vec![format!("10.65.0.{index}/32")],
            profiles: vec!["web".into()],
            ..Default::default()
        };
        self.store.create(WorkloadEndpoint::namespaced("default", "", spec)).await.unwrap();
    }
}

fn scenario(body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, body);
}

#[test]
fn closed_by_default_base_rules_come_before_anything_else() {
    scenario(async {
        let bench = Bench::start();
        bench.initialise().await;
        bench.until("the first write", |bench| bench.applies() == 1).await;
        assert_eq!(bench.calls()[0], Call::InstallBase);
    });
}

#[test]
fn nothing_is_written_while_the_cluster_is_not_initialised() {
    scenario(async {
        let bench = Bench::start();
        bench.add_endpoint(1).await;
        bench.until("the reason", |bench| bench.health.borrow().reason.contains("not initialised")).await;
        assert_eq!(bench.calls(), [Call::InstallBase]);
        bench.initialise().await;
        bench.until("the endpoint", |bench| bench.programmed_endpoints() == 1).await;
        bench.until("ready", |bench| bench.health.borrow().ready).await;
    });
}

#[test]
fn nothing_is_written_before_in_sync() {
    scenario(async {
        let bench = Bench::start();
        bench.kv.set_down(true);
        bench.until("lost", |bench| bench.health.borrow().reason.contains("waiting for the datastore")).await;
        assert_eq!(bench.calls(), [Call::InstallBase]);
    });
}

#[test]
fn closed_by_default_a_flush_before_in_sync_is_mended_by_the_base_rules() {
    scenario(async {
        let bench = Bench::start();
        bench.kv.set_down(true);
        bench.until("lost", |bench| bench.health.borrow().reason.contains("waiting for the datastore")).await;
        bench.driver.disturbance.notify_one();
        bench.until("the base rules again", |bench| bench.calls() == [Call::InstallBase, Call::InstallBase]).await;
    });
}

#[test]
fn a_datastore_marked_not_ready_changes_nothing_and_disturbances_are_still_mended() {
    scenario(async {
        let bench = Bench::start();
        bench.initialise().await;
        bench.add_endpoint(1).await;
        bench.until("the endpoint", |bench| bench.programmed_endpoints() == 1).await;
        bench.set_ready(false).await;
        bench.until("the reason", |bench| bench.health.borrow().reason.contains("last known state")).await;
        assert!(bench.health.borrow().ready, "the last known state is in force");
        let before = bench.applies();
        bench.add_endpoint(2).await;
        // Also a repair that fails: waiting for its repetition must not turn into a loop without pause.
        bench.driver.script.borrow_mut().fail = 3;
        bench.driver.disturbance.notify_one();
        bench.until("the mending", |bench| bench.applies() == before + 4).await;
        assert_eq!(bench.programmed_endpoints(), 1, "a change waits for the datastore");
        bench.set_ready(true).await;
        bench.until("the second endpoint", |bench| bench.programmed_endpoints() == 2).await;
    });
}

#[test]
fn mending_without_end_leaves_time_for_others() {
    scenario(async {
        let bench = Bench::start();
        bench.initialise().await;
        bench.until("the first write", |bench| bench.applies() == 1).await;
        tokio::time::pause();
        bench.driver.script.borrow_mut().slow = Duration::from_millis(10);
        let (before, begin) = (bench.applies(), Instant::now());
        while begin.elapsed() < Duration::from_secs(100) {
            bench.driver.disturbance.notify_one();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mended = bench.applies() - before;
        assert!((5_000..6_000).contains(&mended), "{mended} times 10 ms in 100 s, with 5 s saved up");
    });
}

#[test]
fn a_dead_datastore_changes_nothing_and_heals() {
    scenario(async {
        let bench = Bench::start();
        bench.initialise().await;
        bench.add_endpoint(1).await;
        bench.until("the endpoint", |bench| bench.programmed_endpoints() == 1).await;
        bench.until("ready", |bench| bench.health.borrow().ready).await;
        let before = bench.calls();
        bench.kv.set_down(true);
        bench.until("lost", |bench| bench.health.borrow().reason.contains("unreachable")).await;
        assert!(bench.health.borrow().ready, "the last known state is in force");
        assert_eq!(bench.calls(), before);
        bench.kv.set_down(false);
        bench.add_endpoint(2).await;
        bench.until("the second endpoint", |bench| bench.programmed_endpoints() == 2).await;
        let removed = |call: &Call| matches!(call, Call::Absorb(Instruction::EndpointRemove { .. }));
        assert!(!bench.calls().iter().any(removed), "an outage must not look like deletions");
    });
}

#[test]
fn a_failed_write_is_retried_after_reading_back() {
    scenario(async {
        let bench = Bench::start();
        bench.driver.script.borrow_mut().fail = 2;
        bench.initialise().await;
        bench.until("ready", |bench| bench.health.borrow().ready).await;
        let calls = bench.calls();
        let tail: Vec<&Call> = calls.iter().filter(|call| matches!(call, Call::Apply | Call::Distrust)).collect();
        assert_eq!(tail, [&Call::Apply, &Call::Distrust, &Call::Apply, &Call::Distrust, &Call::Apply]);
    });
}

#[test]
fn a_disturbance_is_mended() {
    scenario(async {
        let bench = Bench::start();
        bench.initialise().await;
        bench.until("the first write", |bench| bench.applies() == 1).await;
        bench.driver.disturbance.notify_one();
        bench.until("the second write", |bench| bench.applies() == 2).await;
    });
}

#[test]
fn a_record_that_cannot_be_read_is_reported_and_the_rest_works() {
    scenario(async {
        let bench = Bench::start();
        bench.initialise().await;
        let key = ResourceKey::new(KindName::Profile, None, "web").to_string();
        let revision: Revision = bench.kv.create(&key, b"{not json".to_vec()).await.unwrap();
        bench.add_endpoint(1).await;
        bench.until("the endpoint", |bench| bench.programmed_endpoints() == 1).await;
        bench.until("the problem", |bench| bench.health.borrow().problems.iter().any(|p| p.contains(&key))).await;
        let mut web = Profile::classic_default(&ProfileName::typed("web").unwrap());
        web.prepare().unwrap();
        bench.kv.update(&key, web.to_json(), revision).await.unwrap();
        bench.until("no problem", |bench| bench.health.borrow().problems.is_empty()).await;

        let pool = ResourceKey::new(KindName::IPPool, None, "pool").to_string();
        let revision = bench.kv.create(&pool, b"[]".to_vec()).await.unwrap();
        bench.until("another problem", |bench| bench.health.borrow().problems.iter().any(|p| p.contains(&pool))).await;
        bench.kv.delete(&pool, revision).await.unwrap();
        bench.until("no problem once it is deleted", |bench| bench.health.borrow().problems.is_empty()).await;
    });
}

#[test]
fn a_policy_that_cannot_be_used_closes_what_it_governs_until_it_is_mended() {
    scenario(async {
        let bench = Bench::start();
        bench.initialise().await;
        bench.add_endpoint(1).await;
        bench.until("the endpoint", |bench| bench.programmed_endpoints() == 1).await;
        let key = ResourceKey::new(KindName::NetworkPolicy, Some("default"), "bad");
        let text = r#"{"metadata":{"name":"bad","namespace":"default"},"spec":{"types":["Ingress"],"ingress":[{"action":"Perhaps"}]}}"#;
        let revision = bench.kv.create(&key.to_string(), text.as_bytes().to_vec()).await.unwrap();
        bench.until("its closing", |bench| bench.policy("bad").is_some_and(|rules| rules.ingress.len() == 1)).await;
        assert_eq!(bench.policy("bad").unwrap().ingress[0].action, RuleAction::Deny);
        bench
            .until("the word of it", |bench| {
                bench
                    .health
                    .borrow()
                    .problems
                    .iter()
                    .any(|problem| problem.contains("bad") && problem.contains("Perhaps"))
            })
            .await;
        assert!(bench.health.borrow().ready, "everything else goes on");
        let counted = |name: &str| bench.health.borrow().gauges.get(name).copied();
        assert_eq!(counted("felix_active_local_endpoints"), Some(1));
        assert_eq!(counted("felix_active_local_policies"), Some(1));
        let mended = text.replace("Perhaps", "Allow").into_bytes();
        let revision = bench.kv.update(&key.to_string(), mended, revision).await.unwrap();
        let allows = |bench: &Bench| {
            let rules = bench.policy("bad");
            rules.is_some_and(|rules| rules.ingress[0].action == RuleAction::Allow)
        };
        bench.until("the policy", allows).await;
        bench.until("no problem but the missing profile", |bench| bench.health.borrow().problems.len() == 1).await;
        bench.kv.delete(&key.to_string(), revision).await.unwrap();
        let removed = |call: &Call| matches!(call, Call::Absorb(Instruction::PolicyRemove { .. }));
        bench.until("its removal", |bench| bench.calls().iter().any(removed)).await;
    });
}

#[test]
fn stopping_writes_nothing() {
    scenario(async {
        let mut bench = Bench::start();
        bench.initialise().await;
        bench.until("the first write", |bench| bench.applies() == 1).await;
        let before = bench.calls();
        bench.stop.take().unwrap().send(()).unwrap();
        tokio::task::yield_now().await;
        assert_eq!(bench.calls(), before);
    });
}
