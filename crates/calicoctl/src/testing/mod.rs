//! A machine that records, a console that remembers, and resources, for the commands' tests.

#![allow(clippy::unwrap_used)]

mod runtime;
mod systemd;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use calico_dataplane::{Comparison, listing::Listing};
use calico_model::{MacAddress, Node, NodeBgp, NodeSpec, Resource, WorkloadEndpoint, WorkloadEndpointSpec};
use calico_policy::instruction::Instruction;
use calico_store::{Kv, MemoryKv, Store};
use calico_workload::{
    AttachError, Attached, Attachment, NetnsRef,
    docker::{Container, DockerError, Listed},
};

use crate::{
    context::{Console, Context},
    failure::Failure,
    host::{Host, WorkloadLock},
    interrupt::{Interrupt, Interrupter},
    output::Output,
};
pub(crate) use runtime::FakeRuntime;

/// A machine made of maps.
#[derive(Default)]
pub(crate) struct FakeHost {
    pub(crate) not_root: bool,
    /// `None`: Docker is not running.
    pub(crate) containers: Mutex<Option<BTreeMap<String, Container>>>,
    /// The containers that there are once a workload is locked.
    pub(crate) on_lock: Mutex<Option<BTreeMap<String, Container>>>,
    /// Host interface → what was attached.
    pub(crate) attached: Mutex<BTreeMap<String, Attachment>>,
    /// Operations that fail, by name.
    pub(crate) fail: Mutex<BTreeSet<&'static str>>,
    /// How the kernel differs.
    pub(crate) comparison: Mutex<Comparison>,
    /// Interface → what is programmed for it.
    pub(crate) programmed: Mutex<BTreeMap<String, Listing>>,
    /// What was called, in order.
    pub(crate) calls: Mutex<Vec<String>>,
    /// Called before each operation with its name.
    #[allow(clippy::type_complexity)]
    pub(crate) before: Mutex<Option<Box<dyn FnMut(&str) + Send>>>,
}

impl FakeHost {
    fn step(&self, operation: &'static str, about: &str) -> Result<(), AttachError> {
        if let Some(before) = self.before.lock().unwrap().as_mut() {
            before(operation);
        }
        self.calls.lock().unwrap().push(format!("{operation} {about}"));
        if self.fail.lock().unwrap().contains(operation) {
            let cause = "injected".to_owned();
            return Err(AttachError::Kernel { operation: format!("{operation} {about}"), cause });
        }
        Ok(())
    }

    fn at_interface<T>(&self, interface: &str, change: impl FnOnce(&mut Attachment) -> T) -> Result<T, AttachError> {
        let mut attached = self.attached.lock().unwrap();
        let found = attached.values_mut().find(|attachment| attachment.container_interface == interface);
        found.map(change).ok_or_else(|| AttachError::NoInterface { name: interface.to_owned() })
    }
}

#[async_trait]
impl Host for FakeHost {
    fn is_root(&self) -> bool {
        !self.not_root
    }

    fn interface_exists(&self, name: &str) -> bool {
        self.attached.lock().unwrap().contains_key(name)
    }

    async fn lock(&self, _workload: &str) -> Result<WorkloadLock, Failure> {
        if let Some(containers) = self.on_lock.lock().unwrap().take() {
            *self.containers.lock().unwrap() = Some(containers);
        }
        Ok(WorkloadLock::none())
    }

    async fn inspect(&self, name: &str) -> Result<Container, DockerError> {
        let containers = self.containers.lock().unwrap();
        let Some(containers) = containers.as_ref() else {
            return Err(DockerError::NotRunning { host: "unix:///nowhere".into(), cause: "injected".into() });
        };
        let is_it = |container: &&Container| container.name == name || container.id.starts_with(name);
        containers.values().find(is_it).cloned().ok_or_else(|| DockerError::NoSuchContainer { name: name.to_owned() })
    }

    async fn containers(&self) -> Result<Vec<Listed>, DockerError> {
        let containers = self.containers.lock().unwrap();
        let Some(containers) = containers.as_ref() else {
            return Err(DockerError::NotRunning { host: "unix:///nowhere".into(), cause: "injected".into() });
        };
        let listed = |container: &Container| Listed {
            id: container.id.clone(),
            name: container.name.clone(),
            image: container.image.clone(),
            state: if container.running { "running" } else { "exited" }.into(),
            network_mode: container.network_mode.clone(),
            ..Listed::default()
        };
        Ok(containers.values().map(listed).collect())
    }

    async fn check(&self, _netns: &NetnsRef, attachment: &Attachment) -> Result<(), AttachError> {
        self.step("check", &attachment.container_interface)?;
        if attachment.container_interface.len() > 15 {
            let name = attachment.container_interface.clone();
            return Err(AttachError::InterfaceName { name, reason: "it is longer than 15 bytes" });
        }
        if self.interface_exists(&attachment.host_interface) {
            return Err(AttachError::HostInterfaceTaken { name: attachment.host_interface.clone() });
        }
        Ok(())
    }

    async fn attach(&self, _netns: &NetnsRef, attachment: &Attachment) -> Result<Attached, AttachError> {
        self.step("attach", &attachment.host_interface)?;
        let mut attached = self.attached.lock().unwrap();
        if attached.contains_key(&attachment.host_interface) {
            return Err(AttachError::HostInterfaceTaken { name: attachment.host_interface.clone() });
        }
        attached.insert(attachment.host_interface.clone(), attachment.clone());
        Ok(Attached { mac: MacAddress([2, 0, 0, 0, 0, 1]), host_interface_index: 7 })
    }

    async fn detach(&self, host_interface: &str) -> Result<bool, AttachError> {
        self.step("detach", host_interface)?;
        Ok(self.attached.lock().unwrap().remove(host_interface).is_some())
    }

    async fn has_interface(&self, _netns: &NetnsRef, interface: &str) -> Result<bool, AttachError> {
        Ok(self.at_interface(interface, |_| ()).is_ok())
    }

    async fn add_address(
        &self,
        _netns: &NetnsRef,
        interface: &str,
        address: IpAddr,
        _gateway: Option<IpAddr>,
    ) -> Result<(), AttachError> {
        self.step("add_address", &address.to_string())?;
        self.at_interface(interface, |attachment| attachment.addresses.push(address))
    }

    async fn remove_address(&self, _netns: &NetnsRef, interface: &str, address: IpAddr) -> Result<(), AttachError> {
        self.step("remove_address", &address.to_string())?;
        self.at_interface(interface, |attachment| attachment.addresses.retain(|a| *a != address))
    }

    async fn compare(&self, instructions: Vec<Instruction>) -> Result<Comparison, calico_dataplane::Error> {
        self.calls.lock().unwrap().push(format!("compare {} instructions", instructions.len()));
        Ok(self.comparison.lock().unwrap().clone())
    }

    async fn rules(&self, interface: &str) -> Result<Listing, calico_dataplane::Error> {
        Ok(self.programmed.lock().unwrap().get(interface).cloned().unwrap_or_default())
    }
}

/// Remembers what was said.
#[derive(Default)]
pub(crate) struct Remembered(
    /// What was said.
    pub(crate) Mutex<Vec<String>>,
    /// What is typed.
    pub(crate) Mutex<String>,
    /// After so many pieces nobody reads any more; 0 for never.
    pub(crate) std::sync::atomic::AtomicUsize,
    /// The lines that are typed one by one; then nobody types any more.
    pub(crate) Mutex<std::collections::VecDeque<String>>,
);

impl Console for Remembered {
    fn say(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }

    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(format!("note: {line}"));
    }

    fn print(&self, text: &str) -> std::io::Result<()> {
        let mut said = self.0.lock().unwrap();
        said.push(text.to_owned());
        match self.2.load(std::sync::atomic::Ordering::SeqCst) {
            most if most > 0 && said.len() >= most => Err(std::io::ErrorKind::BrokenPipe.into()),
            _ => Ok(()),
        }
    }

    fn input(&self) -> std::io::Result<String> {
        Ok(self.1.lock().unwrap().clone())
    }

    fn line(&self) -> std::io::Result<Option<String>> {
        Ok(self.3.lock().unwrap().pop_front())
    }
}

/// A context and what is behind it.
pub(crate) struct Bench {
    pub(crate) ctx: Context,
    pub(crate) kv: MemoryKv,
    pub(crate) host: Arc<FakeHost>,
    pub(crate) runtime: Arc<FakeRuntime>,
    pub(crate) console: Arc<Remembered>,
    pub(crate) interrupter: Interrupter,
}

/// The node that commands run on.
pub(crate) const NODE: &str = "host-1";

impl Bench {
    /// An empty datastore and a machine where nothing runs.
    pub(crate) fn new() -> Self {
        Self::on(FakeHost { containers: Mutex::new(Some(BTreeMap::new())), ..FakeHost::default() })
    }

    /// The same for somebody who is not root.
    pub(crate) fn not_root() -> Self {
        Self::on(FakeHost { not_root: true, ..FakeHost::default() })
    }

    fn on(host: FakeHost) -> Self {
        let kv = MemoryKv::new();
        let (host, runtime, console) =
            (Arc::new(host), Arc::new(FakeRuntime::default()), Arc::new(Remembered::default()));
        let (interrupter, interrupt) = Interrupt::new();
        let ctx = Context {
            store: Store::new(Arc::new(kv.clone())),
            node: NODE.to_owned(),
            host: host.clone(),
            runtime: runtime.clone(),
            console: console.clone(),
            interrupt,
        };
        Self { ctx, kv, host, runtime, console, interrupter }
    }

    /// Everything that was said so far.
    pub(crate) fn said(&self) -> Vec<String> {
        self.console.0.lock().unwrap().clone()
    }

    /// Stores a resource.
    pub(crate) async fn put<S: calico_model::Kind>(&self, resource: Resource<S>) -> Resource<S> {
        self.ctx.store.create(resource).await.unwrap()
    }

    /// An endpoint of a Docker container.
    pub(crate) async fn endpoint(&self, node: &str, workload: &str, id: &str, profiles: &[&str]) -> WorkloadEndpoint {
        let spec = WorkloadEndpointSpec {
            orchestrator: "docker".into(),
            workload: workload.into(),
            node: node.into(),
            endpoint: id.into(),
            ip_networks: vec!["192.168.0.1/32".into()],
            interface_name: format!("cali{}", &id[..11.min(id.len())]),
            mac: "02:00:00:00:00:01".into(),
            profiles: profiles.iter().map(|profile| (*profile).to_owned()).collect(),
            ..WorkloadEndpointSpec::default()
        };
        self.put(Resource::namespaced("default", "", spec)).await
    }

    /// A node with addresses.
    pub(crate) async fn node(&self, name: &str, ipv4: &str, ipv6: Option<&str>) -> Node {
        let bgp = NodeBgp {
            ipv4_address: Some(ipv4.to_owned()),
            ipv6_address: ipv6.map(str::to_owned),
            ..NodeBgp::default()
        };
        self.put(Resource::new(name, NodeSpec { bgp: Some(bgp), ..NodeSpec::default() })).await
    }

    /// All keys and values, to see that nothing was changed.
    pub(crate) async fn everything(&self) -> Vec<(String, String)> {
        let listing = self.kv.behind().list("").await.unwrap();
        let text = |value: Vec<u8>| String::from_utf8(value).unwrap();
        listing.entries.into_iter().map(|entry| (entry.key, text(entry.value))).collect()
    }
}

/// The text of a result.
pub(crate) fn text(result: Result<Output, Failure>) -> String {
    result.unwrap_or_else(|failure| panic!("{failure}")).text
}

/// The words of a failure.
pub(crate) fn refusal(result: Result<Output, Failure>) -> String {
    match result {
        Ok(output) => panic!("succeeded: {}", output.text),
        Err(failure) => failure.to_string(),
    }
}
