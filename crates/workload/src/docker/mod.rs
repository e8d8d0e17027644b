//! Docker, as far as a routed network needs it: which container is meant, and the service's own container.
//!
//! Speaks Docker's HTTP API, from version 1.41 (Docker 20.10) on. Every call has a time limit, so that a daemon that
//! hangs is an error and not a hang; calls that take long by nature (pull, load, logs, wait) limit the time to the
//! first answer or between two pieces of it.

use std::{collections::BTreeMap, env, error::Error as _, future::Future, io, time::Duration};

use bollard::{
    errors::Error as ApiError,
    models::{ContainerInspectResponse, ContainerState, ContainerSummary},
    query_parameters::ListContainersOptionsBuilder,
};

mod error;
mod images;
mod logs;
mod replace;
mod service;
#[cfg(test)]
mod tests;

pub use error::DockerError;
pub use service::{Mount, RestartPolicy, ServiceContainer, equivalent_command_line};

/// Where Docker listens when `DOCKER_HOST` does not say otherwise.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// How long the daemon may take to say which versions it speaks: nothing else is faster.
const GREETING_LIMIT: Duration = Duration::from_secs(10);

/// How long a call may take that only reads or writes what the daemon knows.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// A connection to a Docker daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Docker {
    api: bollard::Docker,
    host: String,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The full id, 64 hex digits.
    pub id: String,
    /// Its name, without the leading slash.
    pub name: String,
    /// The process id of its first process, as this host sees it; 0 when not running.
    pub pid: i32,
    /// True while it runs, paused or not.
    pub running: bool,
    /// `default`, `bridge`, `none`, `host`, `container:<id>`, or a network's name.
    pub network_mode: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The image as it was named when the container was made.
    pub image: String,
    /// When it was started last, RFC 3339; `None` if never.
    pub started_at: Option<String>,
}

/// A container in a list: what may be shown to anybody. Its environment, labels and command line, which may hold
/// secrets, are not here on purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The full id, 64 hex digits.
    pub id: String,
    /// Its name, without the leading slash.
    pub name: String,
    /// The image as it was named when the container was made.
    pub image: String,
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited`, `dead`.
    pub state: String,
    /// The same for people: `Up 3 hours`.
    pub status: String,
    /// `default`, `bridge`, `none`, `host`, `container:<id>`, or a network's name.
    pub network_mode: String,
    /// When it was made, seconds since 1970.
    pub created: i64,
}

impl From<ContainerSummary> for Listed {
    fn from(found: ContainerSummary) -> Self {
        let name = found.names.unwrap_or_default().into_iter().next().unwrap_or_default();
        Self {
            id: found.id.unwrap_or_default(),
            name: name.trim_start_matches('/').to_owned(),
            image: found.image.unwrap_or_default(),
            state: found.state.map(|state| state.to_string()).unwrap_or_default(),
            status: found.status.unwrap_or_default(),
            network_mode: found.host_config.and_then(|host| host.network_mode).unwrap_or_default(),
            created: found.created.unwrap_or_default(),
        }
    }
}

/// How a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStatus {
    /// The full id.
    pub id: String,
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited`, `dead`.
    pub state: String,
    /// True while it runs.
    pub running: bool,
    /// Exit code of the last run.
    pub exit_code: i64,
    /// How often the restart policy has restarted it.
    pub restart_count: i64,
    /// When it was started last, RFC 3339.
    pub started_at: Option<String>,
    /// When it ended last, RFC 3339; `None` while it runs the first time.
    pub finished_at: Option<String>,
    /// The image as it was named.
    pub image: String,
    /// Docker's words on why it did not start.
    pub error: Option<String>,
}

/// One report of a running pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullProgress {
    /// The layer, if it is about one.
    pub layer: Option<String>,
    /// `Downloading`, `Pull complete`, …
    pub status: String,
    /// Bytes done and bytes in all, where known.
    pub bytes: Option<(u64, u64)>,
}

/// One line of a container's output, without its line end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// True for standard error.
    pub stderr: bool,
    /// The text; bytes that are not UTF-8 are replaced.
    pub text: String,
}

impl Docker {
    /// Connects to the daemon of `DOCKER_HOST`, or of `/var/run/docker.sock`, and agrees on an API version.
    ///
    /// # Errors
    /// [`DockerError::NotRunning`], [`DockerError::Permission`], [`DockerError::Host`], [`DockerError::Timeout`].
    pub async fn connect() -> Result<Self, DockerError> {
        let host = env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        Self::connect_to(host.as_deref().unwrap_or(DEFAULT_HOST)).await
    }

    /// As [`connect`](Self::connect), to a daemon given as `unix:///path` or `tcp://host:port`.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_to(host: &str) -> Result<Self, DockerError> {
        let api = open(host)?;
        let docker = Self { api, host: host.to_owned() };
        let api = docker.call("asking for its version", GREETING_LIMIT, docker.api.clone().negotiate_version()).await?;
        Ok(Self { api, ..docker })
    }

    /// The container of a name, a full id or an unambiguous beginning of one.
    ///
    /// # Errors
    /// [`DockerError::NoSuchContainer`], [`DockerError::Ambiguous`], and what every call can return.
    pub async fn inspect(&self, name_or_id: &str) -> Result<Container, DockerError> {
        let found = self.inspect_container(name_or_id).await?;
        let state = found.state.unwrap_or_default();
        let config = found.config.unwrap_or_default();
        let running = state.running.unwrap_or(false);
        Ok(Container {
            id: found.id.unwrap_or_default(),
            name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
            pid: if running { process_id(&state) } else { 0 },
            running,
            network_mode: found.host_config.and_then(|host| host.network_mode).unwrap_or_default(),
            labels: config.labels.unwrap_or_default().into_iter().collect(),
            image: config.image.unwrap_or_default(),
            started_at: moment(state.started_at),
        })
    }

    /// How the container of a name is; `None` if there is none.
    ///
    /// # Errors
    /// What every call can return.
    pub async fn container_status(&self, name: &str) -> Result<Option<ContainerStatus>, DockerError> {
        let found = match self.inspect_container(name).await {
            Ok(found) => found,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let state = found.state.unwrap_or_default();
        Ok(Some(ContainerStatus {
            id: found.id.unwrap_or_default(),
            state: state.status.map(|status| status.to_string()).unwrap_or_default(),
            running: state.running.unwrap_or(false),
            exit_code: state.exit_code.unwrap_or(0),
            restart_count: found.restart_count.unwrap_or(0),
            started_at: moment(state.started_at),
            finished_at: moment(state.finished_at),
            image: found.config.and_then(|config| config.image).unwrap_or_default(),
            error: state.error.filter(|error| !error.is_empty()),
        }))
    }

    /// All containers, running or not, the newest first.
    ///
    /// # Errors
    /// What every call can return.
    pub async fn list(&self) -> Result<Vec<Listed>, DockerError> {
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let call = self.api.list_containers(Some(options));
        let found = self.call("listing the containers", CALL_LIMIT, call).await?;
        Ok(found.into_iter().map(Listed::from).collect())
    }

    async fn inspect_container(&self, name: &str) -> Result<ContainerInspectResponse, DockerError> {
        container_name(name)?;
        let call = self.api.inspect_container(name, None);
        let found = self.call(&format!("inspecting container {name}"), CALL_LIMIT, call).await;
        found.map_err(|error| about_container(name, error))
    }

    /// Waits for an answer, but not for ever, and puts what went wrong into words.
    async fn call<T>(
        &self,
        operation: &str,
        limit: Duration,
        answer: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, DockerError> {
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(ApiError::RequestTimeoutError)) | Err(_) => {
                Err(DockerError::Timeout { operation: operation.to_owned(), limit })
            }
            Ok(Err(error)) => Err(self.error(operation, error)),
        }
    }

    fn error(&self, operation: &str, error: ApiError) -> DockerError {
        let host = || self.host.clone();
        let operation = operation.to_owned();
        match error {
            ApiError::DockerResponseServerError { status_code: status, message } => {
                DockerError::Api { operation, status, message: message.trim().to_owned() }
            }
            ApiError::DockerStreamError { error } => {
                DockerError::Api { operation, status: 500, message: error.trim().to_owned() }
            }
            ApiError::SocketNotFoundError(path) => {
                DockerError::NotRunning { host: host(), cause: format!("there is no socket {path}") }
            }
            error => match io_cause(&error) {
                Some(io::ErrorKind::PermissionDenied) => DockerError::Permission { host: host() },
                Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotConnected) => {
                    DockerError::NotRunning { host: host(), cause: innermost(&error) }
                }
                _ => DockerError::Transport { operation, cause: innermost(&error) },
            },
        }
    }
}

fn open(host: &str) -> Result<bollard::Docker, DockerError> {
    let refuse = |cause: &str| DockerError::Host { host: host.to_owned(), cause: cause.to_owned() };
    let limit = CALL_LIMIT.as_secs();
    let version = bollard::API_DEFAULT_VERSION;
    let opened = match host.split_once("://") {
        Some(("unix", _)) => bollard::Docker::connect_with_unix(host, limit, version),
        Some(("tcp" | "http", _)) if env::var_os("DOCKER_TLS_VERIFY").is_some_and(|verify| !verify.is_empty()) => {
            return Err(refuse("TLS to Docker is not supported; use the local socket"));
        }
        Some(("tcp" | "http", _)) => bollard::Docker::connect_with_http(host, limit, version),
        _ => return Err(refuse("it must begin with unix:// or tcp://")),
    };
    opened.map_err(|error| match error {
        ApiError::SocketNotFoundError(path) => {
            DockerError::NotRunning { host: host.to_owned(), cause: format!("there is no socket {path}") }
        }
        error => refuse(&error.to_string()),
    })
}

/// Refuses what cannot be a container's name or id, before it becomes part of a URL.
fn container_name(name: &str) -> Result<(), DockerError> {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if name.bytes().all(usual) && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err(DockerError::NoSuchContainer { name: name.to_owned() })
}

/// Says which container an error is about.
fn about_container(name: &str, error: DockerError) -> DockerError {
    match error {
        DockerError::Api { status: 404, .. } => DockerError::NoSuchContainer { name: name.to_owned() },
        // Docker gives this one the status of an internal error.
        DockerError::Api { message, .. } if message.contains("ultiple IDs found") => {
            DockerError::Ambiguous { name: name.to_owned() }
        }
        error => error,
    }
}

fn process_id(state: &ContainerState) -> i32 {
    state.pid.and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0)
}

/// Docker says "year 1" for never.
fn moment(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty() && !text.starts_with("0001-"))
}

/// The kind of the system's error at the bottom of an error, if there is one.
fn io_cause(error: &ApiError) -> Option<io::ErrorKind> {
    let mut next = error.source();
    let mut kind = None;
    if let ApiError::IOError { err } = error {
        kind = Some(err.kind());
    }
    while let Some(source) = next {
        if let Some(io) = source.downcast_ref::<io::Error>() {
            kind = Some(io.kind());
        }
        next = source.source();
    }
    kind
}

/// The words of the error at the bottom: those above it only say that there was one.
fn innermost(error: &ApiError) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        words = source.to_string();
        next = source.source();
    }
    words
}
