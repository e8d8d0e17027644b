//! A machine's service made of maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Mutex,
};

use async_trait::async_trait;
use calico_confd::bird;
use calico_startup::{Prepared, Progress, Request, StartupError};
use calico_store::Store;
use calico_workload::docker::{ContainerStatus, DockerError, LogLine, PullProgress, ServiceContainer};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};

use crate::{failure::Failure, health::Health, runtime::Runtime, systemd::UnitStatus};

/// A machine's service made of maps.
pub(crate) struct FakeRuntime {
    /// `None`: Docker is not running.
    containers: Mutex<Option<BTreeMap<String, ContainerStatus>>>,
    pub(crate) images: Mutex<BTreeSet<String>>,
    /// What the health port answers.
    pub(crate) outside: Mutex<Option<Health>>,
    pub(crate) sessions: Mutex<Vec<bird::Session>>,
    /// Where passwords of BGP sessions are kept.
    pub(crate) secrets: Mutex<PathBuf>,
    pub(crate) md5: Mutex<bird::Md5Failures>,
    /// What BIRD answers to which question.
    pub(crate) answers: Mutex<BTreeMap<String, String>>,
    /// What a container that is run says, and whether it then goes on running.
    pub(crate) script: Mutex<(Vec<&'static str>, bool)>,
    /// What was run last.
    pub(crate) ran: Mutex<Option<ServiceContainer>>,
    pub(crate) paths: Mutex<BTreeSet<PathBuf>>,
    pub(crate) name: Mutex<Option<String>>,
    pub(crate) prepared: Mutex<Option<Request>>,
    /// Called before each operation with its name.
    #[allow(clippy::type_complexity)]
    pub(crate) before: Mutex<Option<Box<dyn FnMut(&str) + Send>>>,
    /// Units of systemd; `None`: it does not run the machine.
    pub(crate) units: Mutex<Option<BTreeMap<String, UnitStatus>>>,
    /// The settings that the unit reads.
    pub(crate) settings: Mutex<Option<String>>,
    /// Whether Debian's BIRD has the configuration that it came with.
    pub(crate) stock_bird: Mutex<bool>,
    fail: Mutex<BTreeSet<&'static str>>,
    calls: Mutex<Vec<String>>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self {
            containers: Mutex::new(Some(BTreeMap::new())),
            images: Mutex::default(),
            outside: Mutex::default(),
            sessions: Mutex::default(),
            secrets: Mutex::new("/nowhere".into()),
            md5: Mutex::default(),
            answers: Mutex::default(),
            script: Mutex::new((vec!["node name: host-1", "Calico node started successfully"], true)),
            ran: Mutex::default(),
            paths: Mutex::default(),
            name: Mutex::default(),
            prepared: Mutex::default(),
            before: Mutex::default(),
            units: Mutex::default(),
            settings: Mutex::default(),
            stock_bird: Mutex::new(true),
            fail: Mutex::default(),
            calls: Mutex::default(),
        }
    }
}

impl FakeRuntime {
    pub(crate) fn without_docker(&self) {
        *self.containers.lock().unwrap() = None;
    }

    /// Makes an operation fail from now on.
    pub(crate) fn fail(&self, operation: &'static str) {
        self.fail.lock().unwrap().insert(operation);
    }

    pub(crate) fn run_container(&self, name: &str) {
        let id = format!("{name}-id");
        self.containers.lock().unwrap().as_mut().unwrap().insert(name.to_owned(), running(&id));
    }

    pub(crate) fn is_running(&self, name: &str) -> bool {
        self.containers.lock().unwrap().as_ref().is_some_and(|all| all.get(name).is_some_and(|one| one.running))
    }

    /// Names and ids of all containers.
    pub(crate) fn all(&self) -> Vec<(String, String)> {
        let containers = self.containers.lock().unwrap();
        containers.iter().flatten().map(|(name, status)| (name.clone(), status.id.clone())).collect()
    }

    /// What was called, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    pub(super) fn note(&self, operation: &str) {
        if let Some(before) = self.before.lock().unwrap().as_mut() {
            before(operation);
        }
        self.calls.lock().unwrap().push(operation.to_owned());
    }

    fn with_docker<T>(
        &self,
        operation: &'static str,
        act: impl FnOnce(&mut BTreeMap<String, ContainerStatus>) -> T,
    ) -> Result<T, DockerError> {
        self.note(operation);
        if self.fail.lock().unwrap().contains(operation) {
            return Err(DockerError::Api { operation: operation.into(), status: 500, message: "injected".into() });
        }
        if self.fail.lock().unwrap().contains("permission") {
            return Err(DockerError::Permission { host: "unix:///nowhere".into() });
        }
        match self.containers.lock().unwrap().as_mut() {
            Some(containers) => Ok(act(containers)),
            None => Err(DockerError::NotRunning { host: "unix:///nowhere".into(), cause: "injected".into() }),
        }
    }
}

fn running(id: &str) -> ContainerStatus {
    ContainerStatus {
        id: id.to_owned(),
        state: "running".into(),
        running: true,
        exit_code: 0,
        restart_count: 0,
        started_at: None,
        finished_at: None,
        image: "calico/node".into(),
        error: None,
    }
}

fn stop(status: &mut ContainerStatus, exit_code: i64) {
    status.running = false;
    status.state = "exited".into();
    status.exit_code = exit_code;
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn health(&self) -> Result<Option<Health>, Failure> {
        Ok(self.outside.lock().unwrap().clone())
    }

    async fn sessions(&self) -> Result<Vec<bird::Session>, bird::Error> {
        if self.fail.lock().unwrap().contains("sessions") {
            return Err(bird::Client::connect(Path::new("/nowhere/bird.ctl")).await.expect_err("nothing is there"));
        }
        Ok(self.sessions.lock().unwrap().clone())
    }

    fn bgp_secrets(&self) -> PathBuf {
        self.secrets.lock().unwrap().clone()
    }

    fn md5_failures(&self) -> bird::Md5Failures {
        *self.md5.lock().unwrap()
    }

    async fn ask_bird(&self, question: &str) -> Result<String, bird::Error> {
        let answer = self.answers.lock().unwrap().get(question).cloned();
        match answer {
            Some(answer) => Ok(answer),
            None => Err(bird::Client::connect(Path::new("/nowhere/bird.ctl")).await.expect_err("nothing is there")),
        }
    }

    fn check_bgp_port(&self) -> Result<(), StartupError> {
        if self.fail.lock().unwrap().contains("check_bgp_port") {
            let (address, holder) = ([0, 0, 0, 0].into(), "nginx (process 7)".to_owned());
            return Err(StartupError::PortTaken { port: 179, address, holder });
        }
        Ok(())
    }

    async fn prepare_kernel(&self) -> Result<Vec<String>, Failure> {
        self.note("prepare_kernel");
        if self.fail.lock().unwrap().contains("prepare_kernel") {
            return Err(Failure::new("Could not enable ipv4 forwarding."));
        }
        Ok(vec!["a warning".into()])
    }

    fn exists(&self, path: &Path) -> bool {
        self.paths.lock().unwrap().contains(path)
    }

    fn make_folder(&self, path: &Path) -> std::io::Result<()> {
        self.paths.lock().unwrap().insert(path.to_owned());
        Ok(())
    }

    fn remember_name(&self, name: &str) -> std::io::Result<()> {
        *self.name.lock().unwrap() = Some(name.to_owned());
        Ok(())
    }

    async fn forget(&self) -> Result<(), String> {
        *self.name.lock().unwrap() = None;
        Ok(())
    }

    async fn prepare(
        &self,
        _store: &Store,
        request: &Request,
        report: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Prepared, StartupError> {
        *self.prepared.lock().unwrap() = Some(request.clone());
        report(Progress::Done { step: calico_startup::Step::Address, detail: "10.5.0.1/24 of eth0".into() });
        Ok(Prepared {
            node: request.name.clone().unwrap(),
            ipv4: "10.5.0.1/24".parse().unwrap(),
            ipv6: request.ip6.map(|ip| ipnet::Ipv6Net::new(ip, 64).unwrap()),
            as_number: request.as_number,
        })
    }

    async fn container(&self, name: &str) -> Result<Option<ContainerStatus>, DockerError> {
        self.with_docker("container", |containers| containers.get(name).cloned())
    }

    async fn has_image(&self, image: &str) -> Result<bool, DockerError> {
        self.with_docker("has_image", |_| self.images.lock().unwrap().contains(image))
    }

    async fn pull(&self, image: &str, report: &mut (dyn FnMut(PullProgress) + Send)) -> Result<(), DockerError> {
        self.with_docker("pull", |_| self.images.lock().unwrap().insert(image.to_owned()))?;
        for bytes in [Some((1, 2)), Some((2, 2)), None] {
            report(PullProgress { layer: Some("abc".into()), status: "Downloading".into(), bytes });
        }
        Ok(())
    }

    async fn run(&self, service: &ServiceContainer) -> Result<String, DockerError> {
        let id = "new-id".to_owned();
        let goes_on = self.script.lock().unwrap().1;
        self.with_docker("run", |containers| {
            if containers.contains_key(&service.name) {
                return Err(DockerError::NameTaken { name: service.name.clone() });
            }
            let mut status = running(&id);
            if !goes_on {
                stop(&mut status, 1);
            }
            containers.insert(service.name.clone(), status);
            Ok(())
        })??;
        *self.ran.lock().unwrap() = Some(service.clone());
        Ok(id)
    }

    async fn start(&self, name: &str) -> Result<(), DockerError> {
        self.with_docker("start", |containers| {
            let status = containers.get_mut(name).ok_or(DockerError::NoSuchContainer { name: name.to_owned() })?;
            *status = running(&status.id.clone());
            Ok(())
        })?
    }

    async fn stop(&self, name: &str) -> Result<bool, DockerError> {
        self.with_docker("stop", |containers| match containers.get_mut(name).filter(|status| status.running) {
            Some(status) => {
                stop(status, 0);
                true
            }
            None => false,
        })
    }

    async fn rename(&self, name: &str, to: &str) -> Result<(), DockerError> {
        self.with_docker("rename", |containers| {
            if containers.contains_key(to) {
                return Err(DockerError::NameTaken { name: to.to_owned() });
            }
            let status = containers.remove(name).ok_or(DockerError::NoSuchContainer { name: name.to_owned() })?;
            containers.insert(to.to_owned(), status);
            Ok(())
        })?
    }

    async fn remove(&self, name: &str) -> Result<bool, DockerError> {
        self.with_docker("remove", |containers| containers.remove(name).is_some())
    }

    fn logs<'a>(&'a self, _name: &'a str) -> BoxStream<'a, Result<LogLine, DockerError>> {
        let (lines, goes_on) = self.script.lock().unwrap().clone();
        let lines =
            stream::iter(lines).map(|line| Ok(LogLine { stderr: line.starts_with('!'), text: line.to_owned() }));
        if goes_on { lines.chain(stream::pending()).boxed() } else { lines.boxed() }
    }

    async fn stop_unit(&self) -> Result<bool, Failure> {
        self.note("stop_unit");
        if self.fail.lock().unwrap().contains("stop_unit_has_none") {
            return Ok(false);
        }
        Ok(self.outside.lock().unwrap().take().is_some())
    }
}
