//! `calicoctl node revoke`: shuts a host out of the datastore that this one keeps.

use calico_datastore::admin::Client;
use calico_store::Source;

use super::{Caller, keeper};
use crate::{args::NodeRevoke, context::Context, failure::Failure, output::Output};

/// `node revoke`
pub(crate) async fn run(ctx: &Context, args: &NodeRevoke, caller: &Caller) -> Result<Output, Failure> {
    revoke(ctx, args, &Client::default(), caller.etcd.source()).await
}

async fn revoke(ctx: &Context, args: &NodeRevoke, client: &Client, source: &Source) -> Result<Output, Failure> {
    ctx.require_root()?;
    let host = args.host.trim().to_ascii_lowercase();
    let failure = |error| keeper::failure_at(source, "hosts are shut out", error);
    let revoked = client.revoke(&host).await.map_err(failure)?;
    if !revoked.known {
        let hosts = client.hosts().await.map_err(keeper::failure)?;
        let known: Vec<String> = hosts.into_iter().map(|guest| guest.state.name).collect();
        let failure = Failure::new(format!("No host {host} has joined the datastore of this one."));
        return Err(match known.as_slice() {
            [] => failure
                .hint("no host has joined it at all; a host that is its own record's only: calicoctl node remove"),
            known => failure.hint(format!("these have: {}", known.join(", "))),
        });
    }
    let cut = match revoked.connections {
        0 => "it was not connected".to_owned(),
        1 => "its connection is cut".to_owned(),
        many => format!("its {many} connections are cut"),
    };
    let text = format!(
        "Host {host} is shut out; {cut}. It goes on with the rules and routes that it has.\n\
         What it keeps in the datastore stays until: calicoctl node remove --hostname={host}\n"
    );
    let data = serde_json::json!({ "host": host, "connectionsCut": revoked.connections });
    Ok(Output::of(text, data))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        commands::node_join::keeper_for_tests::Keeper,
        testing::{Bench, refusal, text},
    };

    #[tokio::test]
    async fn a_host_is_shut_out_and_a_stranger_is_told() {
        let (bench, keeper) = (Bench::new(), Keeper::start().await);
        let args = |host: &str| NodeRevoke { host: host.into(), ..NodeRevoke::default() };
        let here = Source::Embedded;
        let said = refusal(revoke(&bench.ctx, &args("host-2"), &keeper.client, &here).await);
        assert!(said.contains("No host host-2 has joined"), "{said}");
        keeper.join("host-2").await;
        let said = refusal(revoke(&bench.ctx, &args("host-3"), &keeper.client, &here).await);
        assert!(said.contains("these have: host-2"), "{said}");
        let said = text(revoke(&bench.ctx, &args("Host-2"), &keeper.client, &here).await);
        assert!(said.contains("Host host-2 is shut out") && said.contains("node remove --hostname=host-2"), "{said}");
        assert!(keeper.client.hosts().await.unwrap()[0].state.revoked.is_some());
        let said = refusal(revoke(&Bench::not_root().ctx, &args("host-2"), &keeper.client, &here).await);
        assert!(said.contains("as root"), "{said}");
    }

    #[tokio::test]
    async fn a_datastore_that_the_cluster_has_left_shuts_out_as_long_as_it_is_served() {
        let (bench, keeper) = (Bench::new(), Keeper::start().await);
        keeper.join("host-2").await;
        let etcd = Source::File { path: "/x".into(), keeper: None };
        let args = NodeRevoke { host: "host-2".into(), ..NodeRevoke::default() };
        let said = text(revoke(&bench.ctx, &args, &keeper.client, &etcd).await);
        assert!(said.contains("Host host-2 is shut out"), "{said}");
        let nobody = Client::new(std::path::Path::new("/nonexistent"));
        let said = refusal(revoke(&bench.ctx, &args, &nobody, &etcd).await);
        assert!(said.contains("is an etcd") && said.contains("hint: "), "{said}");
    }
}
