//! Docker, as far as a routed network needs it: which container is meant, and the service's own container.
//!
//! Speaks Docker's HTTP API, from version 1.41 (Docker 20.10) on. Every call has a time limit, so that a daemon that
//! hangs is an error and not a hang; calls that take long by nature (pull, load, logs, wait) limit the time to the
//! first answer or between two pieces of it.

use std::{collections::BTreeMap, path::Path, time::Duration};

use futures::Stream;

mod error;
mod service;

pub use error::DockerError;
pub use service::{Mount, RestartPolicy, ServiceContainer, equivalent_command_line};

/// A connection to a Docker daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Docker {
    api: bollard::Docker,
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
        unimplemented!()
    }

    /// The container of a name, a full id or an unambiguous beginning of one.
    ///
    /// # Errors
    /// [`DockerError::NoSuchContainer`], and what every call can return.
    pub async fn inspect(&self, name_or_id: &str) -> Result<Container, DockerError> {
        let _ = (&self.api, name_or_id);
        unimplemented!()
    }

    /// How the container of a name is; `None` if there is none.
    ///
    /// # Errors
    /// What every call can return.
    pub async fn container_status(&self, name: &str) -> Result<Option<ContainerStatus>, DockerError> {
        let _ = name;
        unimplemented!()
    }

    /// True if the daemon has the image.
    ///
    /// # Errors
    /// What every call can return.
    pub async fn image_exists(&self, image: &str) -> Result<bool, DockerError> {
        let _ = image;
        unimplemented!()
    }

    /// Pulls an image from its registry.
    ///
    /// # Errors
    /// [`DockerError::Pull`] with the registry's words.
    pub async fn pull(&self, image: &str, progress: impl FnMut(PullProgress)) -> Result<(), DockerError> {
        let _ = (image, progress);
        unimplemented!()
    }

    /// Loads the images of an archive written by `docker save`; returns their names.
    ///
    /// # Errors
    /// [`DockerError::Archive`].
    pub async fn load(&self, archive: &Path) -> Result<Vec<String>, DockerError> {
        let _ = archive;
        unimplemented!()
    }

    /// Creates and starts a container; returns its full id. A container that does not start is removed again.
    ///
    /// # Errors
    /// [`DockerError::NameTaken`], [`DockerError::NoSuchImage`], [`DockerError::Api`].
    pub async fn run_service(&self, service: &ServiceContainer) -> Result<String, DockerError> {
        let _ = service;
        unimplemented!()
    }

    /// Stops a container: SIGTERM, and SIGKILL after `timeout`. `Ok(false)` if there is none or it does not run.
    ///
    /// # Errors
    /// What every call can return.
    pub async fn stop(&self, name: &str, timeout: Duration) -> Result<bool, DockerError> {
        let _ = (name, timeout);
        unimplemented!()
    }

    /// Removes a container; `force` kills a running one. `Ok(false)` if there is none.
    ///
    /// # Errors
    /// What every call can return.
    pub async fn remove(&self, name: &str, force: bool) -> Result<bool, DockerError> {
        let _ = (name, force);
        unimplemented!()
    }

    /// The container's output, line by line, from `since` (seconds since 1970; `None`: from the beginning) until it
    /// ends.
    pub fn follow_logs(
        &self,
        name: &str,
        since: Option<i64>,
    ) -> impl Stream<Item = Result<LogLine, DockerError>> + Send {
        let _ = (name, since);
        futures::stream::empty()
    }

    /// Waits until the container ends; returns its exit code.
    ///
    /// # Errors
    /// [`DockerError::NoSuchContainer`].
    pub async fn wait(&self, name: &str) -> Result<i64, DockerError> {
        let _ = name;
        unimplemented!()
    }
}
