//! `pool show`

use calico_ipam::{Ipam, PoolUsage};
use calico_model::{EncapMode, IPPool, IPPoolSpec};
use ipnet::IpNet;

use super::{plan::family, stored};
use crate::{
    args::PoolFormat,
    context::Context,
    failure::{Failure, sentence},
    output::{Cell, Column, Output, Table},
};

const IPV4: &[Column] = &[Column::new("IPv4 CIDR", "cidr"), Column::new("Options", "options")];
const IPV6: &[Column] = &[Column::new("IPv6 CIDR", "cidr"), Column::new("Options", "options")];

const WIDE: &[Column] = &[
    Column::new("CIDR", "cidr"),
    Column::new("Name", "name"),
    Column::new("Options", "options"),
    Column::new("Block Size", "blockSize"),
    Column::new("IPs In Use", "inUse"),
    Column::new("IPs Total", "total"),
    Column::new("Nodes", "nodeSelector"),
    Column::hidden("family"),
    Column::hidden("natOutgoing"),
    Column::hidden("ipipMode"),
    Column::hidden("vxlanMode"),
    Column::hidden("disabled"),
    Column::hidden("disableBGPExport"),
    Column::hidden("assignmentMode"),
    Column::hidden("allowedUses"),
];

/// A pool's options, as they are typed behind `--`; `disabled` among them.
pub(super) fn options(spec: &IPPoolSpec) -> Vec<String> {
    let mut options = Vec::new();
    for (name, mode) in [("ipip", spec.ipip_mode), ("vxlan", spec.vxlan_mode)] {
        match mode.unwrap_or_default() {
            EncapMode::Never => {}
            EncapMode::Always => options.push(name.to_owned()),
            EncapMode::CrossSubnet => options.push(format!("{name}=CrossSubnet")),
        }
    }
    if spec.nat_outgoing {
        options.push("nat-outgoing".to_owned());
    }
    if spec.disabled {
        options.push("disabled".to_owned());
    }
    options
}

/// `pool show`: a table for each family, or one with everything.
pub(super) async fn show(ctx: &Context, ipv4: bool, ipv6: bool, format: PoolFormat) -> Result<Output, Failure> {
    let mut pools = stored(ctx).await?;
    pools.sort_by_key(|pool| (!pool.spec.cidr.addr().is_ipv4(), pool.spec.cidr));
    pools.retain(|pool| if pool.spec.cidr.addr().is_ipv4() { !ipv6 } else { !ipv4 });
    if format != PoolFormat::Table {
        return wide(ctx, pools).await;
    }
    let of_family = |columns, v4: bool| {
        let mut table = Table::new(columns);
        for pool in pools.iter().filter(|pool| pool.spec.cidr.addr().is_ipv4() == v4) {
            table.push(vec![pool.spec.cidr.to_string().into(), Cell::Commas(options(&pool.spec))]);
        }
        table.to_string()
    };
    let mut text = String::new();
    if !ipv6 {
        text += &of_family(IPV4, true);
    }
    if !ipv4 {
        text += &of_family(IPV6, false);
    }
    Ok(Output::of(text, serde_json::Value::Null))
}

async fn wide(ctx: &Context, pools: Vec<IPPool>) -> Result<Output, Failure> {
    let usage = match Ipam::new(ctx.store.clone()).get_utilization().await {
        Ok(usage) => usage.pools,
        Err(error) => return Err(Failure::new(sentence(&error))),
    };
    let mut table = Table::new(WIDE);
    for mut pool in pools {
        // Pools of older releases lack what came later.
        <IPPoolSpec as calico_model::Kind>::set_defaults(&mut pool);
        table.push(row(&pool, usage.iter().find(|usage| usage.name == pool.name())));
    }
    Ok(table.into())
}

fn row(pool: &IPPool, usage: Option<&PoolUsage>) -> Vec<Cell> {
    let spec = &pool.spec;
    // Programs read numbers as numbers as far as they can hold them.
    let count =
        |count: u128| Cell::Both(count.to_string(), u64::try_from(count).map_or(count.to_string().into(), Into::into));
    let total = total(spec.cidr);
    let hidden = |value: serde_json::Value| Cell::Both(String::new(), value);
    let mode = |mode: Option<EncapMode>| hidden(serde_json::json!(mode.unwrap_or_default()));
    vec![
        spec.cidr.to_string().into(),
        pool.name().into(),
        Cell::Commas(options(spec)),
        Cell::Both(spec.block_prefix_len().to_string(), spec.block_prefix_len().into()),
        usage.map_or(Cell::Absent("?"), |usage| count(usage.usage.in_use)),
        total.map_or(Cell::Absent("all"), count),
        spec.node_selector.as_str().into(),
        family(spec.cidr).into(),
        hidden(spec.nat_outgoing.into()),
        mode(spec.ipip_mode),
        mode(spec.vxlan_mode),
        hidden(spec.disabled.into()),
        hidden(spec.disable_bgp_export.into()),
        hidden(spec.assignment_mode.as_str().into()),
        hidden(serde_json::json!(spec.allowed_uses)),
    ]
}

/// The addresses of a range; `None` for all of IPv6, which are more than can be counted.
fn total(cidr: IpNet) -> Option<u128> {
    1_u128.checked_shl(u32::from(cidr.max_prefix_len() - cidr.prefix_len()))
}
