//! `calicoctl version`: calicoctl's own, and that of the cluster.

use std::time::Duration;

use calico_model::ClusterInformationSpec;
use serde_json::json;

use crate::{args::Version, context::Context, failure::Failure, output::Output};

/// How long the datastore may take: what can be said without it is not worth waiting for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The commit that this program was built from, if the build said it.
const COMMIT: Option<&str> = option_env!("CALICO_COMMIT");

/// `version`. Without a datastore the client's part is printed all the same.
pub(crate) async fn version(connected: Result<&Context, &Failure>, args: &Version) -> Result<Output, Failure> {
    let client = concat!("v", env!("CARGO_PKG_VERSION"));
    let mut text = format!("Client Version:    {client}\n");
    let commit = COMMIT.filter(|commit| !commit.is_empty());
    if let Some(commit) = commit {
        text.push_str(&format!("Git commit:        {commit}\n"));
    }
    let own = json!({ "version": client, "commit": commit });
    if args.client {
        return Ok(Output::of(text, json!({ "client": own })));
    }
    match cluster(connected).await {
        Ok(Some(cluster)) => {
            let or_unknown = |value: &str| if value.is_empty() { "unknown".to_owned() } else { value.to_owned() };
            let (version, kind) = (or_unknown(&cluster.calico_version), or_unknown(&cluster.cluster_type));
            text.push_str(&format!("Cluster Version:   {version}\nCluster Type:      {kind}\n"));
            let cluster = json!({ "version": cluster.calico_version, "type": cluster.cluster_type });
            Ok(Output::of(text, json!({ "client": own, "cluster": cluster })))
        }
        Ok(None) => {
            text.push_str("Unable to detect installed Calico version\n");
            Ok(Output::of(text, json!({ "client": own, "cluster": null })))
        }
        Err(failure) => {
            let failure = failure.context("The version and type of the cluster cannot be read.");
            Ok(Output::of(text, json!({ "client": own, "cluster": null })).but(failure))
        }
    }
}

/// What the cluster says of itself; `None` if no node has ever started in it.
async fn cluster(connected: Result<&Context, &Failure>) -> Result<Option<ClusterInformationSpec>, Failure> {
    let ctx = connected.map_err(Clone::clone)?;
    match tokio::time::timeout(PATIENCE, ctx.store.get::<ClusterInformationSpec>("default")).await {
        Ok(Ok(cluster)) => Ok(Some(cluster.spec)),
        Ok(Err(error)) if error.is_not_found() => Ok(None),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Failure::new(format!("the datastore did not answer within {} s", PATIENCE.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use calico_model::Resource;

    use super::*;
    use crate::{output::Format, testing::Bench};

    fn args(client: bool) -> Version {
        Version { client, connection: Default::default(), output: Default::default() }
    }

    #[tokio::test]
    async fn the_clusters_version_stands_beside_the_clients() {
        let bench = Bench::new();
        let output = version(Ok(&bench.ctx), &args(false)).await.unwrap();
        assert!(output.text.ends_with("Unable to detect installed Calico version\n"), "{}", output.text);
        let spec = ClusterInformationSpec {
            calico_version: "v3.32.0".into(),
            cluster_type: "".into(),
            ..ClusterInformationSpec::default()
        };
        bench.put(Resource::new("default", spec)).await;
        let output = version(Ok(&bench.ctx), &args(false)).await.unwrap();
        let client = format!("Client Version:    v{}\n", env!("CARGO_PKG_VERSION"));
        assert!(output.text.starts_with(&client), "{}", output.text);
        let cluster = "Cluster Version:   v3.32.0\nCluster Type:      unknown\n";
        assert!(output.text.ends_with(cluster), "{}", output.text);
        assert!(output.render(Format::Json).contains("\"version\": \"v3.32.0\""));
    }

    #[tokio::test]
    async fn the_clients_part_needs_no_datastore() {
        let refused = Failure::new("ETCD_ENDPOINTS is wrong.");
        let output = version(Err(&refused), &args(false)).await.unwrap();
        assert!(output.text.starts_with("Client Version:"), "{}", output.text);
        assert!(output.failure.unwrap().to_string().contains("ETCD_ENDPOINTS is wrong."));
        let output = version(Err(&refused), &args(true)).await.unwrap();
        assert_eq!((output.failure, output.text.lines().next().unwrap().starts_with("Client")), (None, true));
    }
}
