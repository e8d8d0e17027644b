//! The calls of the vectors, and how our errors are called there.

use std::{collections::BTreeMap, net::IpAddr};

use calico_ipam::{
    AddressError, AffinityError, AssignError, AssignIp, AutoAssign, Config, ConfigError, ConfigureError, HandleId,
    HostReserved, IntendedUse, LookupError, Owner, OwnerUpdate, PoolError, ReleaseError, ReleaseRequest, Usage,
    parse_address,
};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::recorder::{Injection, Put};

type Notes = BTreeMap<String, String>;

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Operation {
    AutoAssign {
        host: String,
        num4: usize,
        num6: usize,
        handle: Option<String>,
        attrs: Option<Notes>,
        max_blocks: Option<u32>,
        #[serde(default)]
        pools4: Vec<IpNet>,
        #[serde(default)]
        pools6: Vec<IpNet>,
        #[serde(rename = "use")]
        usage: Option<String>,
        max_alloc: Option<usize>,
        #[serde(default)]
        inject: Vec<Injection>,
    },
    AssignIp {
        ip: IpAddr,
        host: String,
        handle: Option<String>,
        attrs: Option<Notes>,
        #[serde(rename = "use")]
        usage: Option<IntendedUseName>,
        max_alloc: Option<usize>,
        #[serde(default)]
        inject: Vec<Injection>,
    },
    ReleaseIps {
        ips: Vec<ReleaseIp>,
        #[serde(default)]
        inject: Vec<Injection>,
    },
    ReleaseByHandle {
        handle: String,
    },
    IpsByHandle {
        handle: String,
    },
    ClaimAffinity {
        cidr: IpNet,
        host: String,
    },
    ReleaseAffinity {
        cidr: IpNet,
        host: String,
        must_be_empty: bool,
    },
    ReleaseHostAffinities {
        host: String,
        must_be_empty: bool,
        #[serde(default, rename = "virtual")]
        load_balancer: bool,
    },
    RemoveIpamHost {
        host: String,
    },
    EnsureBlock {
        host: String,
        reserved4: Option<Reserved>,
        reserved6: Option<Reserved>,
        #[serde(default)]
        pools4: Vec<IpNet>,
        #[serde(default)]
        pools6: Vec<IpNet>,
    },
    GetAssignmentAttributes {
        ip: IpAddr,
    },
    SetOwnerAttributes {
        ip: IpAddr,
        handle: String,
        active: Option<Notes>,
        alternate: Option<Notes>,
        #[serde(default)]
        clear_active: bool,
        #[serde(default)]
        clear_alternate: bool,
    },
    GetUtilization,
    GarbageCollect {
        block: IpNet,
    },
    GetConfig,
    SetConfig {
        config: ConfigWords,
    },
    Put(Put),
    CreatePool {
        name: String,
        spec: Value,
    },
    UpdatePool {
        name: String,
        spec: Value,
    },
    DeletePool {
        name: String,
    },
    SetNodeLabels {
        name: String,
        labels: Notes,
    },
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) enum IntendedUseName {
    Workload,
    Tunnel,
    LoadBalancer,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReleaseIp {
    pub ip: String,
    handle: Option<String>,
    pub seq: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reserved {
    start: usize,
    end: usize,
    handle: String,
    note: String,
}

/// The settings in the words of upstream's client.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ConfigWords {
    strict_affinity: bool,
    auto_allocate_blocks: bool,
    #[serde(default)]
    max_blocks_per_host: i64,
    #[serde(default)]
    ip_cooldown_seconds: i64,
    #[serde(default, rename = "kubeVirtVMAddressPersistence")]
    vm: Option<String>,
}

impl From<ConfigWords> for Config {
    fn from(words: ConfigWords) -> Self {
        Self {
            strict_affinity: words.strict_affinity,
            auto_allocate_blocks: words.auto_allocate_blocks,
            max_blocks_per_host: words.max_blocks_per_host,
            cooldown_seconds: words.ip_cooldown_seconds,
            vm_address_persistence: words.vm,
            extra: serde_json::Map::new(),
        }
    }
}

/// A result in the words of the vectors, or a fault, or both.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub fault: Option<&'static str>,
    pub result: Option<Value>,
}

impl Outcome {
    fn of(result: Value) -> Self {
        Self { fault: None, result: Some(result) }
    }

    fn done<E>(result: Result<(), E>, name: impl FnOnce(&E) -> &'static str) -> Self {
        Self { fault: result.err().as_ref().map(name), result: None }
    }
}

fn handle_id(handle: Option<String>) -> Option<HandleId> {
    handle.map(HandleId::from)
}

impl Operation {
    pub(crate) fn injections(&self) -> Vec<Injection> {
        match self {
            Self::AutoAssign { inject, .. } | Self::AssignIp { inject, .. } | Self::ReleaseIps { inject, .. } => {
                inject.clone()
            }
            _ => Vec::new(),
        }
    }

    /// Carries out a call to our client; those that are not ours to carry out come back.
    pub(crate) async fn run(self, ipam: &calico_ipam::Ipam, base: impl Fn(IpAddr) -> u64) -> Result<Outcome, Self> {
        Ok(match self {
            Self::AutoAssign { usage, .. }
                if usage.as_deref().is_some_and(|usage| usage.parse::<IntendedUse>().is_err()) =>
            {
                Outcome { fault: Some("use-missing"), result: None }
            }
            Self::AutoAssign {
                host, num4, num6, handle, attrs, max_blocks, pools4, pools6, usage, max_alloc, ..
            } => {
                let intended_use = usage.map_or(IntendedUse::Workload, |usage| usage.parse().unwrap());
                let request = AutoAssign {
                    host,
                    num4,
                    num6,
                    handle: handle_id(handle),
                    attrs,
                    pools4,
                    pools6,
                    max_blocks,
                    intended_use,
                    namespace_labels: Notes::new(),
                    max_alloc_per_handle: max_alloc,
                };
                let (assigned, error) = ipam.auto_assign_partial(request).await;
                let fault = error.as_ref().and_then(assign_fault);
                let mut result = serde_json::Map::new();
                for (key, count, addresses) in [("v4", num4, assigned.v4), ("v6", num6, assigned.v6)] {
                    // With a fault, the vectors leave out families for which nothing was obtained.
                    let silent = addresses.is_empty() && fault.is_some();
                    if count > 0 && !silent {
                        result.insert(key.into(), json!(addresses));
                    }
                }
                Outcome { fault, result: Some(result.into()) }
            }
            Self::AssignIp { ip, host, handle, attrs, usage, max_alloc, .. } => {
                let intended_use = usage.map(|usage| match usage {
                    IntendedUseName::Workload => IntendedUse::Workload,
                    IntendedUseName::Tunnel => IntendedUse::Tunnel,
                    IntendedUseName::LoadBalancer => IntendedUse::LoadBalancer,
                });
                let handle = handle_id(handle);
                let request = AssignIp { ip, host, handle, attrs, intended_use, max_alloc_per_handle: max_alloc };
                Outcome::done(ipam.assign_ip(request).await, |error| assign_fault(error).unwrap())
            }
            Self::ReleaseIps { ips, .. } => release_ips(ipam, ips, base).await,
            Self::ReleaseByHandle { handle } => {
                let result = ipam.release_by_handle(&handle.into()).await.map(|_| ());
                Outcome::done(result, release_fault)
            }
            Self::IpsByHandle { handle } => match ipam.ips_by_handle(&handle.into()).await {
                Ok(addresses) => Outcome::of(json!({"ips": sorted(&addresses)})),
                Err(error) => Outcome { fault: Some(lookup_fault(&error)), result: None },
            },
            Self::ClaimAffinity { cidr, host } => match ipam.claim_affinity(&Owner::host(host), cidr).await {
                Ok(done) => Outcome::of(json!({"claimed": done.claimed, "failed": done.failed})),
                Err(error) => Outcome { fault: Some(affinity_fault(&error)), result: None },
            },
            Self::ReleaseAffinity { cidr, host, must_be_empty } => {
                Outcome::done(ipam.release_affinity(&Owner::host(host), cidr, must_be_empty).await, affinity_fault)
            }
            Self::ReleaseHostAffinities { host, must_be_empty, load_balancer } => {
                let owner = if load_balancer { Owner::load_balancer(host) } else { Owner::host(host) };
                Outcome::done(ipam.release_host_affinities(&owner, must_be_empty).await, affinity_fault)
            }
            Self::RemoveIpamHost { host } => Outcome::done(ipam.remove_host(&host).await, affinity_fault),
            Self::EnsureBlock { host, reserved4, reserved6, pools4, pools6 } => {
                let reserved = |words: Option<Reserved>| {
                    words.map(|words| HostReserved {
                        start: words.start,
                        end: words.end,
                        handle: words.handle.into(),
                        note: words.note,
                    })
                };
                let (reserved4, reserved6) = (reserved(reserved4), reserved(reserved6));
                let ensured = ipam.ensure_block(&host, reserved4.as_ref(), reserved6.as_ref(), &pools4, &pools6).await;
                match ensured {
                    Ok(blocks) => {
                        let key = |block: &IpNet| if block.addr().is_ipv4() { "v4" } else { "v6" };
                        Outcome::of(blocks.iter().map(|block| (key(block).to_owned(), json!(block))).collect())
                    }
                    Err(error) => Outcome { fault: assign_fault(&error), result: None },
                }
            }
            Self::GetAssignmentAttributes { ip } => match ipam.get_assignment_attributes(ip).await {
                Ok(assignment) => Outcome::of(json!({"attributes": assignment.attribute})),
                Err(error) => Outcome { fault: Some(lookup_fault(&error)), result: None },
            },
            Self::SetOwnerAttributes { ip, handle, active, alternate, clear_active, clear_alternate } => {
                let part = |given: Option<Notes>, clear: bool| if clear { Some(Notes::new()) } else { given };
                let update =
                    OwnerUpdate { active: part(active, clear_active), alternate: part(alternate, clear_alternate) };
                Outcome::done(ipam.set_owner_attributes(ip, &handle.into(), &update).await, lookup_fault)
            }
            Self::GetUtilization => Outcome::of(utilization(ipam).await),
            Self::GarbageCollect { block } => {
                ipam.garbage_collect(block).await.unwrap();
                Outcome::default()
            }
            Self::GetConfig => {
                let config = ipam.get_config().await.unwrap();
                Outcome::of(json!({"config": {
                    "autoAllocateBlocks": config.auto_allocate_blocks,
                    "ipCooldownSeconds": config.cooldown_seconds,
                    "kubeVirtVMAddressPersistence": config.vm_address_persistence,
                    "maxBlocksPerHost": config.max_blocks_per_host,
                    "strictAffinity": config.strict_affinity,
                }}))
            }
            Self::SetConfig { config } => {
                Outcome::done(ipam.set_config(config.into()).await.map(|_| ()), |error| match error {
                    ConfigureError::Invalid(ConfigError::NeitherStrictNorAuto) => "config-neither-strict-nor-auto",
                    ConfigureError::Invalid(ConfigError::MaxNeedsStrict) => "config-max-needs-strict",
                    error => panic!("{error}"),
                })
            }
            other => return Err(other),
        })
    }
}

async fn release_ips(ipam: &calico_ipam::Ipam, ips: Vec<ReleaseIp>, base: impl Fn(IpAddr) -> u64) -> Outcome {
    let mut requests = Vec::new();
    for ip in ips {
        match parse_address(&ip.ip) {
            Ok(address) => {
                let sequence = ip.seq.map(|sequence| base(address) + sequence);
                requests.push(ReleaseRequest { address, handle: handle_id(ip.handle), sequence });
            }
            Err(AddressError::Missing) => return Outcome { fault: Some("address-missing"), result: None },
            Err(_) => return Outcome { fault: Some("address-malformed"), result: None },
        }
    }
    match ipam.release_ips(&requests).await {
        Ok(released) => {
            let known = requests.iter().map(|request| request.address);
            let ok: Vec<_> = known.filter(|address| !released.unknown.contains(address)).collect();
            let unallocated = [released.already_free, released.unknown].concat();
            Outcome::of(json!({"ok": sorted(&ok), "unallocated": sorted(&unallocated)}))
        }
        Err(error) => Outcome { fault: Some(release_fault(&error)), result: None },
    }
}

/// Addresses as text, in text order.
fn sorted(addresses: &[IpAddr]) -> Vec<String> {
    let mut texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    texts.sort();
    texts
}

async fn utilization(ipam: &calico_ipam::Ipam) -> Value {
    let found = ipam.get_utilization().await.unwrap();
    let usage = |usage: &Usage| {
        json!({
            "cidr": usage.cidr,
            "capacity": u64::try_from(usage.capacity).unwrap(),
            "in_use": u64::try_from(usage.in_use).unwrap(),
            "reserved": u64::try_from(usage.reserved).unwrap(),
            "available": u64::try_from(usage.available).unwrap(),
        })
    };
    let mut pools: Vec<Value> = found
        .pools
        .iter()
        .map(|pool| {
            let mut words = usage(&pool.usage);
            words["name"] = json!(pool.name);
            words["blocks"] = pool.blocks.iter().map(usage).collect();
            words
        })
        .collect();
    // Upstream lists IPv4 orphans only, under a pool of its own making.
    let orphans: Vec<Value> = found.orphans.iter().filter(|orphan| orphan.cidr.addr().is_ipv4()).map(usage).collect();
    pools.push(json!({
        "cidr": "0.0.0.0/0", "name": "orphaned allocation blocks", "capacity": 0, "in_use": 0, "reserved": 0,
        "available": 0, "blocks": orphans,
    }));
    json!({ "pools": pools })
}

/// `None` for running short, which upstream reports by a short result only.
fn assign_fault(error: &AssignError) -> Option<&'static str> {
    Some(match error {
        AssignError::Exhausted { .. } => return None,
        AssignError::Pool(PoolError::NoneEnabled { .. }) => "no-enabled-pool",
        AssignError::Pool(PoolError::NotEnabled { .. }) => "requested-pool-not-enabled",
        AssignError::Pool(PoolError::WrongFamily { .. }) => "requested-pool-wrong-family",
        AssignError::Pool(PoolError::NoneForNode { .. }) => "no-pool-selects-node",
        AssignError::Pool(PoolError::NoneForUse { .. }) => "no-pool-for-use",
        AssignError::NotInPool { .. } => "address-not-in-enabled-pool",
        AssignError::UseNotAllowed { .. } => "pool-use-not-allowed",
        AssignError::Taken { .. } | AssignError::Cooling { .. } => "address-taken",
        AssignError::OtherOwner { .. } => "strict-block-of-another-host",
        AssignError::NoOwner { .. } => "strict-block-without-owner",
        AssignError::LostClaim { .. } => "block-claimed-by-another",
        AssignError::BlockLimit { .. } => "block-limit",
        AssignError::NoAutoAllocation { .. } => "no-block-and-no-auto-allocation",
        AssignError::HandleLimit { .. } => "handle-limit-other-address",
        AssignError::ReservedCount { .. } => "reserved-counts-invalid",
        AssignError::NoNode { .. } => "node-not-found",
        error => panic!("{error}"),
    })
}

fn release_fault(error: &ReleaseError) -> &'static str {
    match error {
        ReleaseError::NoHandle { .. } => "handle-not-found",
        ReleaseError::Mismatch { .. } => "update-conflict",
        error => panic!("{error}"),
    }
}

fn affinity_fault(error: &AffinityError) -> &'static str {
    match error {
        AffinityError::NotInPool { .. } => "cidr-not-in-enabled-pool",
        AffinityError::TooSmall { .. } => "cidr-smaller-than-block",
        AffinityError::NotEmpty { .. } => "block-not-empty",
        AffinityError::Several { errors } => affinity_fault(&errors[0]),
        error => panic!("{error}"),
    }
}

fn lookup_fault(error: &LookupError) -> &'static str {
    match error {
        LookupError::NotInPool { .. } => "address-not-in-pool",
        LookupError::Unassigned { .. } => "address-unassigned",
        LookupError::Cooling { .. } => "address-cooling",
        LookupError::OtherHandle { .. } => "handle-mismatch",
        LookupError::NoHandle { .. } => "handle-not-found",
        error => panic!("{error}"),
    }
}
