//! Pools as IPAM sees them, and which of them a request may use.
//!
//! Selection is pure: pools, a node's labels and a request in, pools or a reason out. Requested pools are used in the
//! order of the request and regardless of selectors and assignment mode; otherwise all automatic pools that select
//! the node and the namespace are used, by name.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use calico_model::IPPool;
use ipnet::IpNet;
use serde_json::Value;

use crate::{
    Family,
    error::PoolError,
    range::{MAX_BLOCK_BITS, block_of},
};

/// What an address is for. Pools may be limited to some uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IntendedUse {
    /// A workload's interface.
    #[default]
    Workload,
    /// A host's tunnel device.
    Tunnel,
    /// A service, owned by a load balancer and not by a host.
    LoadBalancer,
}

impl IntendedUse {
    /// The name in a pool's `allowedUses`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workload => "Workload",
            Self::Tunnel => "Tunnel",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

impl fmt::Display for IntendedUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is not a use of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a use of addresses (Workload, Tunnel or LoadBalancer)")]
pub struct IntendedUseError(String);

impl FromStr for IntendedUse {
    type Err = IntendedUseError;

    fn from_str(text: &str) -> Result<Self, IntendedUseError> {
        let known = [Self::Workload, Self::Tunnel, Self::LoadBalancer];
        known.into_iter().find(|usage| usage.as_str() == text).ok_or_else(|| IntendedUseError(text.to_owned()))
    }
}

/// A pool, reduced to what assignment needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The resource's name.
    pub name: String,
    /// The range.
    pub cidr: IpNet,
    /// The prefix length of its blocks.
    pub block_len: u8,
    /// New addresses may be assigned from it: not disabled, not being deleted, not marked as not allocatable.
    pub enabled: bool,
    /// Used without being asked for.
    pub automatic: bool,
    allowed_uses: Vec<String>,
    node_selector: String,
    namespace_selector: String,
}

impl Pool {
    /// Reads a pool resource.
    ///
    /// # Errors
    /// Why the pool cannot be used: its block size is outside of what blocks can be.
    pub fn new(resource: &IPPool) -> Result<Self, String> {
        let spec = &resource.spec;
        let (cidr, block_len) = (spec.cidr.trunc(), spec.block_prefix_len());
        let bits = Family::of_net(cidr).bits();
        if block_len > bits || bits - block_len > MAX_BLOCK_BITS {
            return Err(format!("pool {}: block size {block_len} is not supported", resource.name()));
        }
        let defaulted = |uses: &[String]| match uses {
            [] => vec!["Workload".to_owned(), "Tunnel".to_owned()],
            uses => uses.to_vec(),
        };
        Ok(Self {
            name: resource.name().to_owned(),
            cidr,
            block_len,
            enabled: !spec.disabled && !is_deleting(resource) && is_allocatable(resource),
            automatic: spec.assignment_mode.is_empty() || spec.assignment_mode == "Automatic",
            allowed_uses: defaulted(&spec.allowed_uses),
            node_selector: spec.node_selector.clone(),
            namespace_selector: spec.namespace_selector.clone(),
        })
    }

    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of_net(self.cidr)
    }

    /// The block of an address of this pool.
    pub fn block_of(&self, address: IpAddr) -> IpNet {
        block_of(address, self.block_len)
    }

    /// Whether addresses of the pool may be used so.
    pub fn allows(&self, usage: IntendedUse) -> bool {
        self.allowed_uses.iter().any(|allowed| allowed == usage.as_str())
    }

    /// Whether the pool is for nodes with these labels.
    ///
    /// # Errors
    /// The selector cannot be read.
    pub fn selects_node(&self, labels: &BTreeMap<String, String>) -> Result<bool, String> {
        matches("nodeSelector", &self.node_selector, labels)
    }

    /// Whether the pool is for namespaces with these labels; a workload without a namespace counts as having one
    /// without labels.
    ///
    /// # Errors
    /// The selector cannot be read.
    pub fn selects_namespace(&self, labels: &BTreeMap<String, String>) -> Result<bool, String> {
        matches("namespaceSelector", &self.namespace_selector, labels)
    }

    /// Why the pool is not used unasked, `None` if it is.
    fn unused_because(&self, node: &BTreeMap<String, String>, namespace: &BTreeMap<String, String>) -> Option<String> {
        let selected = |result: Result<bool, String>, what: &str, selector: &str| match result {
            Ok(true) => None,
            Ok(false) => Some(format!("its {what} {selector:?} does not match")),
            Err(error) => Some(error),
        };
        if !self.automatic {
            return Some("it is used only when asked for".to_owned());
        }
        selected(self.selects_node(node), "nodeSelector", &self.node_selector)
            .or_else(|| selected(self.selects_namespace(namespace), "namespaceSelector", &self.namespace_selector))
            .map(|reason| format!("{} ({}): {reason}", self.name, self.cidr))
    }
}

fn matches(what: &str, selector: &str, labels: &BTreeMap<String, String>) -> Result<bool, String> {
    if selector.trim().is_empty() {
        return Ok(true);
    }
    let parsed = calico_selector::parse(selector);
    parsed.map(|selector| selector.matches(labels)).map_err(|error| format!("its {what} {selector:?}: {error}"))
}

fn is_deleting(resource: &IPPool) -> bool {
    resource.metadata.extra.get("deletionTimestamp").is_some_and(|at| !at.is_null())
}

fn is_allocatable(resource: &IPPool) -> bool {
    let conditions = resource.status.as_ref().and_then(|status| status.get("conditions")).and_then(Value::as_array);
    !conditions.into_iter().flatten().any(|condition| {
        condition.get("type").and_then(Value::as_str) == Some("Allocatable")
            && condition.get("status").and_then(Value::as_str) == Some("False")
    })
}

/// All pools of the cluster, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pools(pub(crate) Vec<Pool>);

/// What decides about pools besides the request.
pub(crate) struct Requester<'a> {
    pub host: &'a str,
    pub family: Family,
    pub usage: IntendedUse,
    pub node_labels: &'a BTreeMap<String, String>,
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// Blocks must be at least this large: a prefix length.
    pub max_block_len: u8,
}

/// Pools that a request may use, and those that select the node for any use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    /// To assign from, in order.
    pub usable: Vec<Pool>,
    /// Affine blocks in these pools are kept, even when this request may not use them.
    pub selecting: Vec<Pool>,
}

impl Pools {
    /// The pool that holds an address.
    pub fn containing(&self, address: IpAddr) -> Option<&Pool> {
        self.0.iter().find(|pool| pool.cidr.contains(&address))
    }

    /// The enabled pool that holds an address.
    pub fn enabled_containing(&self, address: IpAddr) -> Option<&Pool> {
        self.enabled(Family::of(address)).find(|pool| pool.cidr.contains(&address))
    }

    pub(crate) fn enabled(&self, family: Family) -> impl Iterator<Item = &Pool> {
        self.0.iter().filter(move |pool| pool.enabled && pool.family() == family)
    }

    /// The pools for a request.
    pub(crate) fn select(&self, requester: &Requester<'_>, requested: &[IpNet]) -> Result<Selected, PoolError> {
        let Requester { family, usage, .. } = *requester;
        let large_enough = |pool: &&Pool| pool.block_len <= requester.max_block_len;
        if !self.enabled(family).any(|pool| large_enough(&pool)) {
            return Err(PoolError::NoneEnabled { family });
        }
        let selecting = if requested.is_empty() {
            self.automatic(requester)?
        } else {
            let find = |cidr: &IpNet| {
                let known = self.enabled(family).filter(large_enough).find(|pool| pool.cidr == cidr.trunc());
                known.cloned().ok_or(PoolError::NotEnabled { pool: *cidr })
            };
            requested.iter().map(find).collect::<Result<_, _>>()?
        };
        let usable: Vec<Pool> = selecting.iter().filter(|pool| pool.allows(usage)).cloned().collect();
        if usable.is_empty() {
            let pools = selecting.iter().map(|pool| pool.cidr).collect();
            return Err(PoolError::NoneForUse { usage, family, pools });
        }
        Ok(Selected { usable, selecting })
    }

    fn automatic(&self, requester: &Requester<'_>) -> Result<Vec<Pool>, PoolError> {
        let (mut selecting, mut reasons) = (Vec::new(), Vec::new());
        for pool in self.enabled(requester.family) {
            match pool.unused_because(requester.node_labels, requester.namespace_labels) {
                None => selecting.push(pool.clone()),
                Some(reason) => reasons.push(reason),
            }
        }
        if selecting.is_empty() {
            let (host, family) = (requester.host.to_owned(), requester.family);
            return Err(PoolError::NoneForNode { host, family, reasons });
        }
        Ok(selecting)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use calico_model::IPPoolSpec;

    use super::*;

    fn pool(name: &str, cidr: &str, change: impl FnOnce(&mut IPPool)) -> Pool {
        let spec = IPPoolSpec { cidr: cidr.parse().unwrap(), ..Default::default() };
        let mut resource = IPPool::new(name, spec);
        change(&mut resource);
        Pool::new(&resource).unwrap()
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    fn names(
        pools: &Pools,
        node: &[(&str, &str)],
        namespace: &[(&str, &str)],
        asked: &[&str],
    ) -> Result<String, PoolError> {
        let (node_labels, namespace_labels) = (&labels(node), &labels(namespace));
        let (family, usage) = (Family::V4, IntendedUse::Workload);
        let requester = Requester { host: "h", family, usage, node_labels, namespace_labels, max_block_len: 32 };
        let asked: Vec<IpNet> = asked.iter().map(|cidr| cidr.parse().unwrap()).collect();
        let selected = pools.select(&requester, &asked)?;
        Ok(selected.usable.iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn pools_that_cannot_be_used_are_not_enabled() {
        let disabled = |pool: &mut IPPool| pool.spec.disabled = true;
        let deleting = |pool: &mut IPPool| {
            pool.metadata.extra.insert("deletionTimestamp".into(), "2026-08-22T10:00:00Z".into());
        };
        let full = |pool: &mut IPPool| {
            let condition = serde_json::json!({"conditions": [{"type": "Allocatable", "status": "False"}]});
            pool.status = Some(condition);
        };
        assert!(!pool("p", "10.0.0.0/16", disabled).enabled);
        assert!(!pool("p", "10.0.0.0/16", deleting).enabled);
        assert!(!pool("p", "10.0.0.0/16", full).enabled);
        assert!(pool("p", "10.0.0.0/16", |_| ()).enabled);
    }

    #[test]
    fn absurd_block_sizes_are_refused() {
        for (cidr, len) in [("10.0.0.0/8", 8), ("10.0.0.0/8", 33), ("fd00::/64", 64), ("10.0.0.0/8", 19)] {
            let spec = IPPoolSpec { cidr: cidr.parse().unwrap(), block_size: Some(len), ..Default::default() };
            assert!(Pool::new(&IPPool::new("p", spec)).is_err(), "{cidr} {len}");
        }
    }

    #[test]
    fn selectors_and_mode_count_only_when_no_pool_is_asked_for() {
        let pools = Pools(vec![
            pool("east", "10.1.0.0/16", |p| p.spec.node_selector = "zone == 'east'".into()),
            pool("manual", "10.2.0.0/16", |p| p.spec.assignment_mode = "Manual".into()),
            pool("space", "10.3.0.0/16", |p| p.spec.namespace_selector = "has(team)".into()),
            pool("broken", "10.4.0.0/16", |p| p.spec.node_selector = "zone ==".into()),
            pool("six", "fd00::/64", |_| ()),
        ]);
        assert_eq!(names(&pools, &[("zone", "east")], &[("team", "a")], &[]).unwrap(), "east space");
        assert_eq!(names(&pools, &[], &[("team", "a")], &[]).unwrap(), "space");
        assert_eq!(names(&pools, &[], &[], &["10.4.0.0/16", "10.2.0.0/16"]).unwrap(), "broken manual");
        let Err(PoolError::NoneForNode { reasons, .. }) = names(&pools, &[], &[], &[]) else { panic!() };
        assert_eq!(reasons.len(), 4);
        assert!(reasons[0].contains("zone == 'east'"), "{reasons:?}");
    }

    #[test]
    fn every_requested_pool_must_be_enabled() {
        let pools =
            Pools(vec![pool("a", "10.1.0.0/16", |_| ()), pool("off", "10.2.0.0/16", |p| p.spec.disabled = true)]);
        let error = names(&pools, &[], &[], &["10.1.0.0/16", "10.2.0.0/16"]).unwrap_err();
        assert_eq!(error, PoolError::NotEnabled { pool: "10.2.0.0/16".parse().unwrap() });
        assert!(matches!(names(&Pools::default(), &[], &[], &[]), Err(PoolError::NoneEnabled { .. })));
    }
}
