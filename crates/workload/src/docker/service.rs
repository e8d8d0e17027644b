//! A container that runs a service of ours.

use std::collections::BTreeMap;

/// When Docker starts a container again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// Whenever it ends, and with the daemon.
    Always,
    /// As `Always`, except that a stopped container stays stopped when the daemon starts.
    UnlessStopped,
}

/// A file or folder of the host inside a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Path on the host.
    pub source: String,
    /// Path in the container.
    pub target: String,
    /// Not writable from inside.
    pub read_only: bool,
}

/// A container to create and start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceContainer {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Environment, in order. No secrets: everybody who may use Docker can read it, and the printed command line
    /// shows it. Secrets are mounted as files.
    pub env: Vec<(String, String)>,
    /// Files and folders of the host, in order.
    pub mounts: Vec<Mount>,
    /// With all capabilities and devices.
    pub privileged: bool,
    /// In the host's network namespace.
    pub host_network: bool,
    /// When Docker starts it again.
    pub restart: RestartPolicy,
    /// Arguments; empty means those of the image.
    pub command: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// The `docker run` line that does what [`Docker::run_service`](super::Docker::run_service) does, as a person would
/// type it.
pub fn equivalent_command_line(service: &ServiceContainer) -> String {
    let _ = service;
    unimplemented!()
}
