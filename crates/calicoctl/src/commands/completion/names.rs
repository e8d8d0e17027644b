//! Names that exist: what Docker and the datastore hold just now.

use calico_model::{IPPoolSpec, KindName, Profile, ProfileSpec, ResourceKey, WorkloadEndpointSpec};

use super::tree::Existing;
use crate::context::Context;

/// More are no help.
const MOST: usize = 500;

/// The names, none where somebody does not answer.
pub(super) async fn find(ctx: &Context, wanted: &Existing) -> Vec<String> {
    let mut found = match wanted {
        Existing::Containers => match ctx.host.containers().await {
            Ok(containers) => containers.into_iter().map(|container| container.name).collect(),
            Err(_) => Vec::new(),
        },
        Existing::Endpoints => {
            of(ctx, |endpoint: &calico_model::Resource<WorkloadEndpointSpec>| endpoint.spec.endpoint.clone()).await
        }
        Existing::Profiles => {
            of(ctx, |profile: &calico_model::Resource<ProfileSpec>| {
                Profile::profile_name(profile).as_typed().to_owned()
            })
            .await
        }
        Existing::Pools => of(ctx, |pool: &calico_model::Resource<IPPoolSpec>| pool.spec.cidr.to_string()).await,
        Existing::Nodes => resources(ctx, KindName::Node).await,
        Existing::Resources(kind) => resources(ctx, *kind).await,
    };
    found.retain(|name| !name.is_empty());
    found.truncate(MOST);
    found
}

async fn of<S: calico_model::Kind>(ctx: &Context, name: impl Fn(&calico_model::Resource<S>) -> String) -> Vec<String> {
    ctx.store.list::<S>().await.map(|(all, _)| all.iter().map(name).collect()).unwrap_or_default()
}

/// The names of a kind's resources, of all namespaces.
async fn resources(ctx: &Context, kind: KindName) -> Vec<String> {
    let Ok(listing) = ctx.store.kv().list(&ResourceKey::prefix(kind)).await else { return Vec::new() };
    let keys = listing.entries.iter().filter_map(|entry| entry.key.parse::<ResourceKey>().ok());
    keys.map(|key| key.name).collect()
}
