//! From what a person types to a workload of this host and its endpoints.
//!
//! Docker knows its containers best, so it is asked first. A container that it no longer knows is looked for among
//! the stored endpoints: by its full id, by the beginning of it, or by the name it was added under.

use std::path::{Path, PathBuf};

use calico_ipam::HandleId;
use calico_model::{KindName, ResourceKey, WorkloadEndpoint, WorkloadEndpointSpec, WorkloadName, normalise};
use calico_workload::{
    NetnsRef,
    docker::{Container, DockerError},
};
use sha2::{Digest, Sha256};

use super::INTERFACE_PREFIX;
use crate::{
    commands::{
        docker_failure,
        endpoint::{self, ANNOTATION_WORKLOAD},
    },
    context::Context,
    failure::Failure,
    names::TypedNames,
};

/// The namespace of all endpoints that calicoctl makes.
pub(super) const NAMESPACE: &str = "default";

/// Fewer characters than this are no beginning of an id.
const SHORTEST_ID: usize = 4;

/// A workload of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Workload {
    /// `docker` or `namespace`.
    pub(super) orchestrator: &'static str,
    /// The container's full id, or a v3 name made of the namespace's path.
    pub(super) id: String,
}

impl Workload {
    fn container(id: impl Into<String>) -> Self {
        Self { orchestrator: "docker", id: id.into() }
    }

    /// A network namespace: its path with `-` for `/`, as a v3 name, and a hash of the path, since different paths
    /// may look the same then.
    fn namespace(path: &Path) -> Self {
        let path = path.to_string_lossy();
        let dashed = normalise(path.replace('/', "-").trim_matches('-'));
        let hash = Sha256::digest(path.as_bytes());
        let hash: String = hash[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { orchestrator: "namespace", id: format!("{dashed}-{hash}") }
    }

    /// The workload's endpoints on this host, sorted. Only their own part of the datastore is read.
    async fn endpoints(&self, ctx: &Context) -> Result<Vec<WorkloadEndpoint>, Failure> {
        let doubled = |part: &str| part.replace('-', "--");
        let name = format!("{}-{}-", doubled(self.orchestrator), doubled(&self.id));
        let mut endpoints = stored(ctx, &name).await?;
        endpoints.retain(|endpoint| {
            let parts = WorkloadName::of(&endpoint.spec);
            (parts.node, parts.orchestrator, parts.workload) == (&ctx.node, self.orchestrator, &self.id)
        });
        Ok(endpoints)
    }

    /// Who holds the workload's addresses.
    pub(super) fn handle(&self) -> HandleId {
        format!("{}.{}", self.orchestrator, self.id).into()
    }

    /// The endpoint's id: 32 hex digits.
    pub(super) fn endpoint_id(&self) -> String {
        let digest = Sha256::digest(self.handle().as_str());
        digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The name of the endpoint's interface on the host.
    pub(super) fn interface(&self) -> String {
        format!("{INTERFACE_PREFIX}{}", &self.endpoint_id()[..11])
    }
}

/// A workload with its endpoints on this host, sorted.
#[derive(Debug)]
pub(super) struct Found {
    /// Whose.
    pub(super) workload: Workload,
    /// May be none.
    pub(super) endpoints: Vec<WorkloadEndpoint>,
    /// How to enter it, unless it does not run or is gone.
    pub(super) netns: Option<NetnsRef>,
    /// What Docker says of it, unless it is a namespace or gone.
    pub(super) container: Option<Container>,
}

impl Found {
    /// Looks again once the workload is locked: another command may have been at work before, and a container that was
    /// restarted meanwhile has another process, whose old number may be anybody's by now.
    pub(super) async fn read_again(&mut self, ctx: &Context) -> Result<(), Failure> {
        self.endpoints = self.workload.endpoints(ctx).await?;
        if self.container.is_some() {
            self.container = match ctx.host.inspect(&self.workload.id).await {
                Ok(container) => Some(container),
                Err(DockerError::NoSuchContainer { .. }) => None,
                Err(error) => return Err(docker_failure(error)),
            };
            self.netns = self.container.as_ref().and_then(netns_of);
        }
        Ok(())
    }

    /// Refuses a workload whose interface is gone although its record is there: its namespace is a new one.
    ///
    /// # Errors
    /// With the commands that connect it again.
    pub(super) async fn check_connected(&self, ctx: &Context, typed: &str) -> Result<(), Failure> {
        let gone = |endpoint: &&WorkloadEndpoint| !ctx.host.interface_exists(&endpoint.spec.interface_name);
        let Some(endpoint) = self.endpoints.iter().find(gone) else { return Ok(()) };
        let names = TypedNames::read(ctx).await?;
        let addresses: Vec<String> = super::of_endpoint(endpoint).iter().map(ToString::to_string).collect();
        let mut commands = vec![
            format!("calicoctl container remove {typed}"),
            format!("calicoctl container add {typed} {}", addresses.join(" ")),
        ];
        if !endpoint.spec.profiles.is_empty() {
            let profiles: Vec<&str> = endpoint.spec.profiles.iter().map(|stored| names.shown(stored)).collect();
            commands.push(format!("calicoctl container {typed} profile set {}", profiles.join(" ")));
        }
        let interface = &endpoint.spec.interface_name;
        Err(Failure::new(format!("{typed} is not connected any more: its interface {interface} is gone."))
            .because("it was restarted, or this host was; its record and its addresses are kept")
            .hint(format!("connect it again: {}", commands.join(" && "))))
    }
}

/// How to enter a container that runs.
fn netns_of(container: &Container) -> Option<NetnsRef> {
    (container.running && container.pid > 0).then_some(NetnsRef::Pid(container.pid))
}

/// This host's endpoints whose names go on, after the host's name, with `rest`. Names may be longer than they look:
/// the caller checks the parts.
async fn stored(ctx: &Context, rest: &str) -> Result<Vec<WorkloadEndpoint>, Failure> {
    let kind = ResourceKey::prefix(KindName::WorkloadEndpoint);
    let prefix = format!("{kind}{NAMESPACE}/{}{rest}", WorkloadName::node_prefix(&ctx.node));
    let (mut endpoints, unreadable) = ctx.store.list_prefix::<WorkloadEndpointSpec>(&prefix).await?;
    ctx.note_unreadable(&unreadable);
    endpoints.sort_by(|a, b| endpoint::order(a).cmp(&endpoint::order(b)));
    Ok(endpoints)
}

/// The workload that `word` names.
///
/// # Errors
/// Neither Docker nor the datastore knows it, or the datastore knows several.
pub(super) async fn find(ctx: &Context, word: &str) -> Result<Found, Failure> {
    if word.starts_with('/') {
        let path = canonical(Path::new(word));
        let workload = Workload::namespace(&path);
        let endpoints = workload.endpoints(ctx).await?;
        let netns = path.exists().then_some(NetnsRef::Path(path));
        return Ok(Found { workload, endpoints, netns, container: None });
    }
    match ctx.host.inspect(word).await {
        Ok(container) => {
            let workload = Workload::container(&container.id);
            let endpoints = workload.endpoints(ctx).await?;
            let netns = netns_of(&container);
            Ok(Found { workload, endpoints, netns, container: Some(container) })
        }
        // Without Docker the records still say enough to show and to clean up.
        Err(error @ (DockerError::NoSuchContainer { .. } | DockerError::NotRunning { .. })) => {
            match find_recorded(ctx, word).await? {
                Some(found) => Ok(found),
                None => Err(docker_failure(error)),
            }
        }
        Err(error) => Err(docker_failure(error)),
    }
}

/// A container that Docker may not know, by the stored endpoints of this host.
///
/// # Errors
/// Several containers match.
pub(super) async fn find_recorded(ctx: &Context, word: &str) -> Result<Option<Found>, Failure> {
    let all = stored(ctx, "docker-").await?;
    let is_id = word.len() >= SHORTEST_ID && word.bytes().all(|b| b.is_ascii_hexdigit());
    let named = |endpoint: &WorkloadEndpoint| {
        endpoint.metadata.annotations.get(ANNOTATION_WORKLOAD).is_some_and(|name| name == word)
    };
    let matches = |endpoint: &&WorkloadEndpoint| {
        let spec = &endpoint.spec;
        let is_ours = spec.node == ctx.node && spec.orchestrator == "docker";
        is_ours && ((is_id && spec.workload.starts_with(word)) || spec.workload == word || named(endpoint))
    };
    let mut endpoints: Vec<WorkloadEndpoint> = all.iter().filter(matches).cloned().collect();
    if endpoints.iter().any(|endpoint| endpoint.spec.workload == word) {
        endpoints.retain(|endpoint| endpoint.spec.workload == word);
    }
    let Some(first) = endpoints.first() else { return Ok(None) };
    let workload = Workload::container(&first.spec.workload);
    let others: Vec<&str> =
        endpoints.iter().map(|e| e.spec.workload.as_str()).filter(|id| *id != workload.id).collect();
    if !others.is_empty() {
        return Err(Failure::new(format!("{word} names several containers that Docker no longer knows."))
            .because(format!("{}, {}", workload.id, others.join(", ")))
            .hint("give the full id of the one that is meant"));
    }
    Ok(Some(Found { workload, endpoints, netns: None, container: None }))
}

/// One path for one namespace: links on the way to it are followed. The file itself may be gone, or be a link that
/// only the kernel understands (`/proc/<pid>/ns/net`).
fn canonical(path: &Path) -> PathBuf {
    match (path.parent().map(std::fs::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_from_the_workload_and_fit_their_places() {
        let id = "4f2a".repeat(16);
        let workload = Workload::container(&id);
        assert_eq!(workload.handle().as_str(), format!("docker.{id}"));
        assert_eq!(workload.endpoint_id().len(), 32);
        assert!(workload.endpoint_id().bytes().all(|b| b.is_ascii_hexdigit()));
        assert_eq!(workload.interface().len(), 15, "the kernel's limit");
        assert_eq!(workload.endpoint_id(), Workload::container(&id).endpoint_id());
        assert_ne!(workload.endpoint_id(), Workload::container("4f2b".repeat(16)).endpoint_id());
    }

    #[test]
    fn a_namespace_is_named_by_its_path() {
        let blue = Workload::namespace(Path::new("/run/netns/blue"));
        assert_eq!(blue.orchestrator, "namespace");
        assert!(blue.id.starts_with("run-netns-blue-"), "{}", blue.id);
        assert_ne!(blue.id, Workload::namespace(Path::new("/run/netns-blue")).id);
        assert_ne!(blue.id, Workload::namespace(Path::new("/run/netns/Blue")).id);
    }
}
