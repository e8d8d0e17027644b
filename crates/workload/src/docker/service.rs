//! A container that runs a service of ours: made, started, stopped, removed.

use std::{collections::BTreeMap, time::Duration};

use bollard::{
    models::{ContainerCreateBody, HostConfig, RestartPolicy as ApiRestartPolicy, RestartPolicyNameEnum},
    query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder},
};

use super::{CALL_LIMIT, Docker, DockerError, about_container, container_name};

/// How long making, starting or removing a container may take: these touch the disk.
const HEAVY_LIMIT: Duration = Duration::from_secs(120);

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
    /// Folders of the host without what else is mounted below them. A namespace that is mounted there would live as long
    /// as the container otherwise.
    pub bare_mounts: Vec<Mount>,
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

impl Docker {
    /// Creates and starts a container; returns its full id. A container that does not start is removed again.
    ///
    /// # Errors
    /// [`DockerError::NameTaken`], [`DockerError::NoSuchImage`], [`DockerError::Api`].
    pub async fn run_service(&self, service: &ServiceContainer) -> Result<String, DockerError> {
        let ServiceContainer { name, image, .. } = service;
        container_name(name)?;
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let api = self.api.clone().with_timeout(HEAVY_LIMIT);
        let create = api.create_container(Some(options), body(service));
        let created = self.call(&format!("creating container {name}"), HEAVY_LIMIT, create).await;
        let id = created.map_err(|error| match error {
            DockerError::Api { status: 404, .. } => DockerError::NoSuchImage { image: image.clone() },
            DockerError::Api { status: 409, .. } => DockerError::NameTaken { name: name.clone() },
            error => error,
        })?;
        let start = api.start_container(&id.id, None);
        if let Err(error) = self.call(&format!("starting container {name}"), HEAVY_LIMIT, start).await {
            if let Err(left) = self.remove(&id.id, true).await {
                tracing::warn!(container = name, error = %left, "a container that did not start could not be removed");
            }
            return Err(error);
        }
        Ok(id.id)
    }

    /// Stops a container: SIGTERM, and SIGKILL after `timeout`. `Ok(false)` if there is none or it does not run.
    ///
    /// # Errors
    /// What every call can return.
    pub async fn stop(&self, name: &str, timeout: Duration) -> Result<bool, DockerError> {
        // Docker answers "stopped" for a container that did not run, and we want to know.
        match self.container_status(name).await? {
            Some(status) if status.running || status.state == "restarting" => {}
            _ => return Ok(false),
        }
        let seconds = i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX);
        let limit = timeout.saturating_add(CALL_LIMIT);
        let api = self.api.clone().with_timeout(limit);
        let stop = api.stop_container(name, Some(StopContainerOptionsBuilder::new().t(seconds).build()));
        match self.call(&format!("stopping container {name}"), limit, stop).await {
            Ok(()) => Ok(true),
            Err(DockerError::Api { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a container with its anonymous volumes; `force` kills a running one. `Ok(false)` if there is none.
    ///
    /// # Errors
    /// What every call can return; Docker refuses to remove a running container without `force`.
    pub async fn remove(&self, name: &str, force: bool) -> Result<bool, DockerError> {
        container_name(name)?;
        let options = RemoveContainerOptionsBuilder::new().v(true).force(force).build();
        let api = self.api.clone().with_timeout(HEAVY_LIMIT);
        let remove = api.remove_container(name, Some(options));
        let removed = self.call(&format!("removing container {name}"), HEAVY_LIMIT, remove).await;
        match removed.map_err(|error| about_container(name, error)) {
            Ok(()) => Ok(true),
            Err(DockerError::NoSuchContainer { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn body(service: &ServiceContainer) -> ContainerCreateBody {
    let host = HostConfig {
        binds: Some(service.mounts.iter().map(bind).collect()),
        mounts: Some(service.bare_mounts.iter().map(bare).collect()),
        privileged: Some(service.privileged),
        network_mode: service.host_network.then(|| "host".to_owned()),
        restart_policy: Some(ApiRestartPolicy {
            name: Some(match service.restart {
                RestartPolicy::No => RestartPolicyNameEnum::NO,
                RestartPolicy::Always => RestartPolicyNameEnum::ALWAYS,
                RestartPolicy::UnlessStopped => RestartPolicyNameEnum::UNLESS_STOPPED,
            }),
            maximum_retry_count: None,
        }),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(service.image.clone()),
        env: Some(service.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        cmd: (!service.command.is_empty()).then(|| service.command.clone()),
        labels: Some(service.labels.clone().into_iter().collect()),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

fn bare(mount: &Mount) -> bollard::models::Mount {
    let Mount { source, target, read_only } = mount.clone();
    bollard::models::Mount {
        typ: Some(bollard::models::MountType::BIND),
        source: Some(source),
        target: Some(target),
        read_only: Some(read_only),
        bind_options: Some(bollard::models::MountBindOptions { non_recursive: Some(true), ..Default::default() }),
        ..Default::default()
    }
}

/// The same for a command line.
fn bare_words(mount: &Mount) -> String {
    let Mount { source, target, read_only } = mount;
    let read_only = if *read_only { ",readonly" } else { "" };
    format!("type=bind,source={source},target={target}{read_only},bind-nonrecursive")
}

fn bind(mount: &Mount) -> String {
    let Mount { source, target, read_only } = mount;
    format!("{source}:{target}{}", if *read_only { ":ro" } else { "" })
}

/// The `docker run` line that does what [`Docker::run_service`] does, as a person would type it: quoted for a shell
/// where a value needs it.
pub fn equivalent_command_line(service: &ServiceContainer) -> String {
    let mut words: Vec<String> = vec!["docker".into(), "run".into(), "-d".into()];
    match service.restart {
        RestartPolicy::No => {}
        RestartPolicy::Always => words.push("--restart=always".into()),
        RestartPolicy::UnlessStopped => words.push("--restart=unless-stopped".into()),
    }
    if service.host_network {
        words.push("--net=host".into());
    }
    if service.privileged {
        words.push("--privileged".into());
    }
    words.push(format!("--name={}", service.name));
    let labels = service.labels.iter().map(|(name, value)| ("--label", format!("{name}={value}")));
    let env = service.env.iter().map(|(name, value)| ("-e", format!("{name}={value}")));
    let mounts = service.mounts.iter().map(|mount| ("-v", bind(mount)));
    let bare = service.bare_mounts.iter().map(|mount| ("--mount", bare_words(mount)));
    for (option, value) in labels.chain(env).chain(mounts).chain(bare) {
        words.extend([option.to_owned(), value]);
    }
    words.push(service.image.clone());
    words.extend(service.command.iter().cloned());
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// A word as a POSIX shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:=,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> ServiceContainer {
        let mount = |path: &str, read_only| Mount { source: path.into(), target: path.into(), read_only };
        ServiceContainer {
            name: "calico-node".into(),
            image: "calico/node".into(),
            env: vec![("HOSTNAME".into(), "h1".into()), ("IP6".into(), String::new()), ("X".into(), "it's a".into())],
            mounts: vec![mount("/var/run/calico", false), mount("/etc/calico/certs", true)],
            bare_mounts: vec![Mount { target: "/host/run".into(), ..mount("/run", true) }],
            privileged: true,
            host_network: true,
            restart: RestartPolicy::Always,
            command: vec!["run".into()],
            labels: BTreeMap::from([("org.projectcalico/service".into(), "node".into())]),
        }
    }

    #[test]
    fn the_command_line_is_what_a_person_would_type() {
        assert_eq!(
            equivalent_command_line(&service()),
            "docker run -d --restart=always --net=host --privileged --name=calico-node \
             --label org.projectcalico/service=node -e HOSTNAME=h1 -e IP6= -e 'X=it'\\''s a' \
             -v /var/run/calico:/var/run/calico -v /etc/calico/certs:/etc/calico/certs:ro \
             --mount type=bind,source=/run,target=/host/run,readonly,bind-nonrecursive calico/node run"
        );
        let bare = ServiceContainer { name: "a".into(), image: "b".into(), ..ServiceContainer::default() };
        assert_eq!(equivalent_command_line(&bare), "docker run -d --name=a b");
    }

    #[test]
    fn docker_is_asked_for_the_same() {
        let body = body(&service());
        assert_eq!(body.cmd, Some(vec!["run".to_owned()]));
        assert_eq!(body.env.expect("there is some")[2], "X=it's a");
        let host = body.host_config.expect("there is one");
        assert_eq!((host.privileged, host.network_mode.as_deref()), (Some(true), Some("host")));
        assert_eq!(host.binds.expect("there are some")[1], "/etc/calico/certs:/etc/calico/certs:ro");
        let bare = &host.mounts.expect("there is one")[0];
        assert_eq!((bare.target.as_deref(), bare.read_only), (Some("/host/run"), Some(true)));
        assert_eq!(bare.bind_options.as_ref().and_then(|options| options.non_recursive), Some(true));
        let restart = host.restart_policy.and_then(|policy| policy.name);
        assert_eq!(restart, Some(RestartPolicyNameEnum::ALWAYS));
        // An empty list of arguments would replace those of the image.
        assert_eq!(self::body(&ServiceContainer::default()).cmd, None);
    }

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for word in ["", "plain", "a b", "it's", "$HOME", "`id`", "a\"b", "ü", "*", "back\\slash", "new\nline"] {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(word))])
                .output()
                .expect("sh is everywhere");
            assert_eq!(String::from_utf8_lossy(&output.stdout), word);
        }
    }
}
