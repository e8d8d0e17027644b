//! What every cluster needs in its datastore, created where nothing is.
//!
//! As upstream's node does at its start, with these differences, each on purpose: the AS number and the mesh are
//! written out, so that tools show them; the default pools neither masquerade nor encapsulate, and the IPv6 pool is
//! the fixed one that people know; `calicoVersion` stays empty, because upstream's calicoctl refuses to work beside
//! another version than its own; there is no IPAMConfiguration, because on etcd nobody acts on it.

use std::fmt;

use calico_model::{
    AsNumber, BGPConfiguration, BGPConfigurationSpec, ClusterInformation, ClusterInformationSpec, FelixConfiguration,
    FelixConfigurationSpec, IPPool, IPPoolSpec, Kind, KindName, Resource, ResourceKey, TierSpec,
};
use calico_store::{Error, Store};
use ipnet::{IpNet, Ipv4Net};
use uuid::Uuid;

use crate::{StartupError, Warning};

/// The cluster's AS number where nobody set one; first of the private range (RFC 6996).
const AS_NUMBER: AsNumber = AsNumber(64512);

/// The default pools, by name.
const POOLS: [(&str, &str); 2] =
    [("default-ipv4-ippool", "192.168.0.0/16"), ("default-ipv6-ippool", "fd80:24e2:f998:72d6::/64")];

/// Creates a resource unless there is one of its name; `true` if it was created. Somebody else's creation at the same
/// moment is as good as ours.
async fn create_missing<S: Kind>(store: &Store, resource: Resource<S>) -> Result<bool, Error> {
    // Looking first spares the datastore a refused write at every start.
    match store.get::<S>(resource.name()).await {
        Err(Error::NotFound { .. }) => {}
        // Not ours to repair, and it is there.
        Ok(_) | Err(Error::Corrupt { .. }) => return Ok(false),
        Err(error) => return Err(error),
    }
    match store.create(resource).await {
        Ok(_) => Ok(true),
        Err(Error::AlreadyExists { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// ClusterInformation and the built-in tiers.
pub(crate) async fn cluster(store: &Store) -> Result<Vec<Warning>, StartupError> {
    let fresh = ClusterInformationSpec {
        cluster_guid: Uuid::new_v4().simple().to_string(),
        datastore_ready: Some(true),
        ..ClusterInformationSpec::default()
    };
    create_missing(store, ClusterInformation::new("default", fresh.clone())).await?;
    let mut info = store.get::<ClusterInformationSpec>("default").await?;
    if info.spec.cluster_guid.is_empty() || info.spec.datastore_ready.is_none() {
        let key = ResourceKey::new(KindName::ClusterInformation, None, "default");
        let fill = |info: &mut ClusterInformation| {
            if info.spec.cluster_guid.is_empty() {
                info.spec.cluster_guid.clone_from(&fresh.cluster_guid);
            }
            info.spec.datastore_ready.get_or_insert(true);
            Ok::<_, Error>(())
        };
        info = store.modify(&key, fill).await?;
    }
    for tier in TierSpec::built_in() {
        create_missing(store, tier).await?;
    }
    let mut warnings = Vec::new();
    if info.spec.datastore_ready == Some(false) {
        let message = "the datastore is marked as not ready, so no rule will be programmed until it is";
        warnings.push(Warning::new(message, "if no migration is under way: calicoctl datastore migrate unlock"));
    }
    Ok(warnings)
}

/// Felix' and BGP's settings, of the cluster and of the node.
pub(crate) async fn settings(store: &Store, node: &str) -> Result<(), StartupError> {
    let bgp = BGPConfigurationSpec {
        as_number: Some(AS_NUMBER),
        node_to_node_mesh_enabled: Some(true),
        ..BGPConfigurationSpec::default()
    };
    create_missing(store, BGPConfiguration::new("default", bgp)).await?;
    felix(store, "default", |spec| {
        spec.log_severity_screen.get_or_insert_with(|| "Info".into());
        spec.extra.entry("reportingInterval").or_insert_with(|| "0s".into());
    })
    .await?;
    felix(store, &format!("node.{node}"), |spec| {
        spec.default_endpoint_to_host_action.get_or_insert_with(|| "Return".into());
    })
    .await?;
    Ok(())
}

/// Felix' settings under a name, completed by `fill` where it finds members missing. As upstream does it: who set one
/// member before the first start still gets the others.
async fn felix(store: &Store, name: &str, fill: fn(&mut FelixConfigurationSpec)) -> Result<(), Error> {
    let mut fresh = FelixConfigurationSpec::default();
    fill(&mut fresh);
    if create_missing(store, FelixConfiguration::new(name, fresh)).await? {
        return Ok(());
    }
    let present = match store.get::<FelixConfigurationSpec>(name).await {
        Ok(present) => present,
        // Not ours to repair; Felix goes on with its defaults.
        Err(Error::Corrupt { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut filled = present.spec.clone();
    fill(&mut filled);
    if filled == present.spec {
        return Ok(());
    }
    let change = |resource: &mut FelixConfiguration| {
        fill(&mut resource.spec);
        Ok::<_, Error>(())
    };
    store.modify(&present.key(), change).await.map(drop)
}

/// What became of the default pools.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pools {
    created: Vec<String>,
    present: usize,
    unwanted: bool,
    pub(crate) warnings: Vec<Warning>,
}

impl fmt::Display for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { created, present, unwanted, .. } = self;
        match (created.is_empty(), unwanted) {
            (false, _) => write!(f, "created {}", created.join(" and ")),
            (true, true) => write!(f, "{present} present, default ones are not wanted"),
            (true, false) => write!(f, "{present} present"),
        }
    }
}

/// The default pool of each family that has no pool at all. `own` is the host's subnet, for a warning.
pub(crate) async fn pools(store: &Store, unwanted: bool, has_ipv6: bool, own: Ipv4Net) -> Result<Pools, StartupError> {
    let (present, unreadable) = store.list::<IPPoolSpec>().await?;
    let mut pools = Pools { present: present.len(), unwanted, ..Pools::default() };
    if unwanted {
        return Ok(pools);
    }
    if let Some(unreadable) = unreadable.first() {
        // It may be of either family and cover anything.
        let message = format!("no default pools are created beside one that cannot be read: {unreadable}");
        pools.warnings.push(Warning::new(message, "repair or delete it"));
        return Ok(pools);
    }
    for (name, cidr) in POOLS {
        let cidr: IpNet = cidr.parse().expect("the constants above are prefixes");
        let is_ipv4 = matches!(cidr, IpNet::V4(_));
        let has_pool = present.iter().any(|pool| matches!(pool.spec.cidr, IpNet::V4(_)) == is_ipv4);
        if has_pool || !(is_ipv4 || has_ipv6) {
            continue;
        }
        if create_missing(store, IPPool::new(name, IPPoolSpec { cidr, ..IPPoolSpec::default() })).await? {
            pools.created.push(format!("{name} {cidr}"));
        }
        if let IpNet::V4(cidr) = cidr
            && (cidr.contains(&own.trunc()) || own.trunc().contains(&cidr))
        {
            let message = format!("the default pool {cidr} overlaps this host's own network {}", own.trunc());
            pools.warnings.push(Warning::new(
                message,
                format!("use another pool: calicoctl pool add 10.233.64.0/18, then calicoctl pool remove {cidr}"),
            ));
        }
    }
    Ok(pools)
}
