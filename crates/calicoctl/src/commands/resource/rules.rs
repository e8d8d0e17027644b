//! What the datastore as a whole allows: rules that need more than the resource itself.

use calico_model::{AnyResource, BGPPeerSpec, Fault, IPPoolSpec, Invalid, KindName, ResourceKey};
use ipnet::IpNet;

use super::{
    kinds::is_policy,
    stored::{self, Stored},
    words,
};
use crate::{context::Context, failure::Failure};

/// The tiers that every cluster has.
const BUILT_IN_TIERS: [&str; 3] = ["default", "kube-admin", "kube-baseline"];

/// The profile that upstream's programs make up: it is listed and may be named, and nobody can change it.
pub(super) const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

/// Policies that Kubernetes' own are turned into.
const KUBERNETES_POLICY: &str = "knp.default.";

/// Refuses what nobody may write by hand.
///
/// # Errors
/// Why not, and what to do instead.
pub(super) fn may_write(kind: KindName, name: &str) -> Result<(), Failure> {
    match kind {
        KindName::ClusterInformation => {
            Err(Failure::new("It is read-only.").because("it belongs to the programs of the cluster"))
        }
        KindName::NetworkPolicy if name.starts_with(KUBERNETES_POLICY) => {
            Err(Failure::new("It belongs to Kubernetes.")
                .because(format!(
                    "metadata.name begins with {KUBERNETES_POLICY}, as those of Kubernetes' own policies do"
                ))
                .hint("manage it through the API of Kubernetes, or choose another name"))
        }
        KindName::Profile if name == DEFAULT_ALLOW => {
            Err(Failure::new("It is built in and cannot be changed.")
                .because("metadata.name is that of upstream's own"))
        }
        _ => Ok(()),
    }
}

/// Refuses a new resource that does not fit to what is there.
///
/// # Errors
/// What it does not fit to; the datastore.
pub(super) async fn before_create(ctx: &Context, resource: &AnyResource) -> Result<(), Failure> {
    let kind = resource.key().kind;
    if is_policy(kind) {
        return tier_exists(ctx, resource).await;
    }
    match resource {
        AnyResource::IPPool(pool) => overlaps(ctx, resource, pool.spec.cidr).await,
        AnyResource::BGPPeer(peer) => filters_exist(ctx, resource, &peer.spec).await,
        _ => Ok(()),
    }
}

/// Refuses a change that a stored resource cannot take.
///
/// # Errors
/// Which change; the datastore.
pub(super) async fn before_update(ctx: &Context, resource: &AnyResource, stored: &Stored) -> Result<(), Failure> {
    match (resource, &stored.resource) {
        (AnyResource::IPPool(new), AnyResource::IPPool(old)) => refuse(resource, pool_changes(&new.spec, &old.spec)),
        (AnyResource::BGPPeer(peer), _) => filters_exist(ctx, resource, &peer.spec).await,
        _ => Ok(()),
    }
}

/// Refuses to delete what others still need.
///
/// # Errors
/// Who needs it; the datastore.
pub(super) async fn before_delete(ctx: &Context, key: &ResourceKey) -> Result<(), Failure> {
    if key.kind != KindName::Tier {
        return Ok(());
    }
    let tier = &key.name;
    if BUILT_IN_TIERS.contains(&tier.as_str()) {
        return Err(Failure::new("It is built in and cannot be deleted."));
    }
    let mut members = Vec::new();
    for kind in KindName::ALL.iter().copied().filter(|kind| is_policy(*kind)) {
        let listed = stored::list(&ctx.store, kind, None).await?;
        ctx.note_unreadable(&listed.unreadable);
        let is_member = |stored: &&Stored| tier_of(&stored.resource) == tier;
        let named = |stored: &Stored| words::name(kind, stored.resource.metadata());
        members.extend(listed.resources.iter().filter(is_member).map(named));
    }
    if members.is_empty() {
        return Ok(());
    }
    Err(Failure::new("It cannot be deleted: it is not empty.")
        .because(members.join(", "))
        .hint("delete its policies first, or move them to another tier"))
}

fn refuse(resource: &AnyResource, faults: Vec<Fault>) -> Result<(), Failure> {
    if faults.is_empty() {
        return Ok(());
    }
    let invalid = Invalid { kind: resource.key().kind, name: resource.metadata().name.clone(), faults };
    Err(Failure::all(words::reasons(&invalid)))
}

/// The tier of a policy.
fn tier_of(policy: &AnyResource) -> &str {
    match policy {
        AnyResource::NetworkPolicy(policy) => policy.spec.tier(),
        AnyResource::GlobalNetworkPolicy(policy) => policy.spec.tier(),
        AnyResource::StagedNetworkPolicy(policy) => policy.spec.tier(),
        AnyResource::StagedGlobalNetworkPolicy(policy) => policy.spec.tier(),
        _ => "",
    }
}

async fn tier_exists(ctx: &Context, policy: &AnyResource) -> Result<(), Failure> {
    let tier = tier_of(policy);
    let key = ResourceKey::new(KindName::Tier, None, tier);
    match ctx.store.kv().get(&key.to_string()).await? {
        Some(_) => Ok(()),
        None => {
            let refused = refuse(policy, vec![Fault::new("spec.tier", tier, "there is no such tier")]);
            refused.map_err(|failure| failure.hint("create the tier first; the tiers are: calicoctl get tiers"))
        }
    }
}

async fn overlaps(ctx: &Context, resource: &AnyResource, cidr: IpNet) -> Result<(), Failure> {
    let (pools, unreadable) = ctx.store.list::<IPPoolSpec>().await?;
    ctx.note_unreadable(&unreadable);
    // One that is there already, whoever made it, can still be changed.
    if pools.iter().any(|pool| pool.name() == resource.metadata().name) {
        return Ok(());
    }
    let meets = |other: IpNet| cidr.contains(&other) || other.contains(&cidr);
    let others = pools.iter().filter(|pool| meets(pool.spec.cidr));
    let fault = |pool: &calico_model::IPPool| {
        let reason = format!("it overlaps with {} of IPPool {}", pool.spec.cidr, pool.name());
        Fault::new("spec.cidr", cidr, reason)
    };
    refuse(resource, others.map(fault).collect())
}

async fn filters_exist(ctx: &Context, resource: &AnyResource, peer: &BGPPeerSpec) -> Result<(), Failure> {
    let mut faults = Vec::new();
    for (index, filter) in filters(peer).into_iter().enumerate() {
        let key = ResourceKey::new(KindName::BGPFilter, None, &filter);
        if ctx.store.kv().get(&key.to_string()).await?.is_none() {
            faults.push(Fault::new(format!("spec.filters[{index}]"), filter, "there is no such BGPFilter"));
        }
    }
    refuse(resource, faults)
}

fn filters(peer: &BGPPeerSpec) -> Vec<String> {
    let filters = peer.extra.get("filters").and_then(serde_json::Value::as_array);
    filters.into_iter().flatten().filter_map(|filter| filter.as_str().map(str::to_owned)).collect()
}

fn pool_changes(new: &IPPoolSpec, old: &IPPoolSpec) -> Vec<Fault> {
    let mut faults = Vec::new();
    if new.cidr != old.cidr {
        faults.push(Fault::new("spec.cidr", new.cidr, format!("it cannot be changed; it is {}", old.cidr)));
    }
    let (size, present) = (new.block_prefix_len(), old.block_prefix_len());
    if size != present {
        let reason = format!("it cannot be changed; it is {present}, and leaving it out stands for the default");
        faults.push(Fault::new("spec.blockSize", size, reason));
    }
    let for_services = |spec: &IPPoolSpec| spec.allowed_uses.iter().any(|word| word == "LoadBalancer");
    if for_services(old) && !for_services(new) {
        faults.push(Fault::new("spec.allowedUses", new.allowed_uses.join(","), "LoadBalancer cannot be taken away"));
    }
    faults
}
