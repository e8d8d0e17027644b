//! The service calico-node on this machine: how it is started, stopped and asked.
//!
//! The trait is the seam: tests put a recording engine here and let any step fail.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use calico_confd::bird;
use calico_startup::{Prepared, Progress, Request, StartupError};
use calico_store::Store;
use calico_workload::docker::{ContainerStatus, DockerError, LogLine, PullProgress, ServiceContainer};
use futures::stream::BoxStream;

use crate::{
    failure::Failure,
    health::{self, Health},
    host::{Machine, RUN_DIR},
    systemd::Systemd,
};

/// How long the service may take to stop in order.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// The service on this machine.
#[async_trait]
pub(crate) trait Runtime: Systemd + Send + Sync {
    /// What the running service says, in a container or not; `None` if none runs.
    async fn health(&self) -> Result<Option<Health>, Failure>;

    /// BIRD's sessions.
    async fn sessions(&self) -> Result<Vec<bird::Session>, bird::Error>;

    /// Where the passwords of BGP sessions are kept, `<name>/<key>`.
    fn bgp_secrets(&self) -> PathBuf {
        calico_confd::SECRETS_DIR.into()
    }

    /// How many packets the kernel dropped because of their TCP MD5 signature; 0 where it does not say.
    fn md5_failures(&self) -> bird::Md5Failures {
        bird::md5_failures().unwrap_or_default()
    }

    /// BIRD's answer to a question; it is asked without the right to change anything.
    async fn ask_bird(&self, question: &str) -> Result<String, bird::Error>;

    /// As [`calico_startup::check_bgp_port`].
    fn check_bgp_port(&self) -> Result<(), StartupError>;

    /// Loads kernel modules and switches forwarding on; returns warnings.
    async fn prepare_kernel(&self) -> Result<Vec<String>, Failure>;

    /// True if the path exists on this machine.
    fn exists(&self, path: &Path) -> bool;

    /// Makes a folder unless it is there.
    fn make_folder(&self, path: &Path) -> std::io::Result<()>;

    /// Remembers what the service calls this host.
    fn remember_name(&self, name: &str) -> std::io::Result<()>;

    /// Takes what the service left on this host away: rules and routes in the kernel, the name, and the BIRD
    /// configuration by which a service that starts knows that it ran here before.
    async fn forget(&self) -> Result<(), String>;

    /// As [`calico_startup::prepare`].
    async fn prepare(
        &self,
        store: &Store,
        request: &Request,
        report: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Prepared, StartupError>;

    /// How a container is, `None` if there is none of the name.
    async fn container(&self, name: &str) -> Result<Option<ContainerStatus>, DockerError>;

    /// True if Docker has the image.
    async fn has_image(&self, image: &str) -> Result<bool, DockerError>;

    /// Pulls an image.
    async fn pull(&self, image: &str, report: &mut (dyn FnMut(PullProgress) + Send)) -> Result<(), DockerError>;

    /// Creates and starts a container; returns its id.
    async fn run(&self, service: &ServiceContainer) -> Result<String, DockerError>;

    /// Starts a container that was stopped.
    async fn start(&self, name: &str) -> Result<(), DockerError>;

    /// Stops a container in order; `false` if none runs.
    async fn stop(&self, name: &str) -> Result<bool, DockerError>;

    /// Gives a container another name.
    async fn rename(&self, name: &str, to: &str) -> Result<(), DockerError>;

    /// Removes a container, running or not; `false` if there is none.
    async fn remove(&self, name: &str) -> Result<bool, DockerError>;

    /// A container's output from its beginning until it ends.
    fn logs<'a>(&'a self, name: &'a str) -> BoxStream<'a, Result<LogLine, DockerError>>;

    /// Stops the systemd unit; `false` if there is none that runs.
    async fn stop_unit(&self) -> Result<bool, Failure>;
}

#[async_trait]
impl Runtime for Machine {
    async fn health(&self) -> Result<Option<Health>, Failure> {
        health::ask(self.health_port).await
    }

    async fn sessions(&self) -> Result<Vec<bird::Session>, bird::Error> {
        let mut client = bird::Client::connect(&Path::new(RUN_DIR).join("bird.ctl")).await?;
        client.restrict().await?;
        client.sessions().await
    }

    async fn ask_bird(&self, question: &str) -> Result<String, bird::Error> {
        let mut client = bird::Client::connect(&Path::new(RUN_DIR).join("bird.ctl")).await?;
        client.restrict().await?;
        Ok(client.ask(question).await?.text().to_owned())
    }

    fn check_bgp_port(&self) -> Result<(), StartupError> {
        calico_startup::check_bgp_port()
    }

    async fn prepare_kernel(&self) -> Result<Vec<String>, Failure> {
        let warnings = load_modules().await;
        // Its own warnings are told by the service, which does the same again.
        calico_startup::enable_forwarding().await.map_err(not_forwarding)?;
        Ok(warnings)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn make_folder(&self, path: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn remember_name(&self, name: &str) -> std::io::Result<()> {
        let path = Path::new(crate::context::NAME_FILE);
        std::fs::create_dir_all(path.parent().expect("the path has a folder"))?;
        // Read by others at any time: never half a name.
        let half = path.with_extension("new");
        std::fs::write(&half, name)?;
        std::fs::rename(&half, path)
    }

    async fn forget(&self) -> Result<(), String> {
        calico_dataplane::purge(&calico_dataplane::Options::default(), calico_confd::KERNEL_METRIC)
            .await
            .map_err(|error| error.to_string())?;
        for path in [Path::new(crate::context::NAME_FILE), &Path::new(RUN_DIR).join("bird.cfg")] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(format!("{}: {error}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn prepare(
        &self,
        store: &Store,
        request: &Request,
        report: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Prepared, StartupError> {
        calico_startup::prepare(store, request, report).await
    }

    async fn container(&self, name: &str) -> Result<Option<ContainerStatus>, DockerError> {
        self.docker().await?.container_status(name).await
    }

    async fn has_image(&self, image: &str) -> Result<bool, DockerError> {
        self.docker().await?.image_exists(image).await
    }

    async fn pull(&self, image: &str, report: &mut (dyn FnMut(PullProgress) + Send)) -> Result<(), DockerError> {
        self.docker().await?.pull(image, report).await
    }

    async fn run(&self, service: &ServiceContainer) -> Result<String, DockerError> {
        self.docker().await?.run_service(service).await
    }

    async fn start(&self, name: &str) -> Result<(), DockerError> {
        self.docker().await?.start(name).await
    }

    async fn stop(&self, name: &str) -> Result<bool, DockerError> {
        self.docker().await?.stop(name, STOP_PATIENCE).await
    }

    async fn rename(&self, name: &str, to: &str) -> Result<(), DockerError> {
        self.docker().await?.rename(name, to).await
    }

    async fn remove(&self, name: &str) -> Result<bool, DockerError> {
        self.docker().await?.remove(name, true).await
    }

    fn logs<'a>(&'a self, name: &'a str) -> BoxStream<'a, Result<LogLine, DockerError>> {
        use futures::{StreamExt, TryStreamExt, stream};
        let docker = async move { self.docker().await.map(|docker| docker.follow_logs(name, None)) };
        stream::once(docker).try_flatten().boxed()
    }

    async fn stop_unit(&self) -> Result<bool, Failure> {
        const UNIT: &str = "calico-node.service";
        let systemctl = |verb: &'static str| tokio::process::Command::new("systemctl").args([verb, UNIT]).output();
        match systemctl("is-active").await {
            Ok(answer) if answer.status.success() => {}
            // No systemd, no unit, or not running.
            _ => return Ok(false),
        }
        let failed = |cause: String| Failure::new(format!("The unit {UNIT} could not be stopped.")).because(cause);
        let answer = systemctl("stop").await.map_err(|error| failed(error.to_string()))?;
        if answer.status.success() {
            return Ok(true);
        }
        Err(failed(String::from_utf8_lossy(&answer.stderr).trim().to_owned()))
    }
}

/// Loads what the service needs of the kernel, where it comes in modules. The kernel would load most of it when it
/// is first used; from inside a container it cannot always.
async fn load_modules() -> Vec<String> {
    const MODULES: [&str; 3] = ["nf_tables", "nft_ct", "veth"];
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if !Path::new("/lib/modules").join(&release).is_dir() {
        return Vec::new();
    }
    let answer = tokio::process::Command::new("modprobe").arg("-a").args(MODULES).output().await;
    let cause = match answer {
        Ok(answer) if answer.status.success() => return Vec::new(),
        Ok(answer) => String::from_utf8_lossy(&answer.stderr).trim().to_owned(),
        Err(error) => format!("modprobe: {error}"),
    };
    vec![format!("kernel modules {} could not be loaded, they may be built in: {cause}", MODULES.join(", "))]
}

fn not_forwarding(error: StartupError) -> Failure {
    let message = match &error {
        StartupError::Forwarding { family, .. } => format!("Could not enable {} forwarding.", family.to_lowercase()),
        _ => "Could not enable forwarding.".to_owned(),
    };
    let failure = Failure::new(message).cause(&error);
    match error.way_out() {
        Some(way_out) => failure.hint(way_out),
        None => failure,
    }
}
