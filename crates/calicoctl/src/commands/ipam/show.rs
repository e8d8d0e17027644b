//! `ipam show`: how full the pools are, which addresses are borrowed, who has an address, the settings.

use std::{collections::BTreeMap, net::IpAddr};

use calico_ipam::{Attribute, Block, Ipam, LookupError, Usage};
use serde_json::{Value, json};

use super::sheet::Sheet;
use crate::{
    args::IpamShow,
    failure::{Failure, sentence},
    output::Output,
};

/// `ipam show`. Of several questions the first in this order is answered.
pub(super) async fn show(ipam: &Ipam, args: &IpamShow) -> Result<Output, Failure> {
    if let Some(text) = &args.ip {
        return match super::address(text) {
            Ok(address) => holder(ipam, address).await,
            Err(refusal) => Ok(*refusal),
        };
    }
    if !args.show_blocks && args.show_borrowed {
        return borrowed(ipam).await;
    }
    if !args.show_blocks && args.show_configuration {
        return configuration(ipam).await;
    }
    utilization(ipam, args.show_blocks).await
}

async fn utilization(ipam: &Ipam, with_blocks: bool) -> Result<Output, Failure> {
    let found = ipam.get_utilization().await.map_err(|error| Failure::new(sentence(&error)))?;
    let headings = &["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE"];
    let mut sheet = Sheet::of_numbers(headings, 2);
    let mut pools = Vec::new();
    for pool in &found.pools {
        sheet.push(row("IP Pool", &pool.usage));
        if with_blocks {
            pool.blocks.iter().for_each(|block| sheet.push(row("Block", block)));
        }
        let mut words = facts(&pool.usage);
        words["name"] = json!(pool.name);
        words["blocks"] = pool.blocks.iter().map(facts).collect();
        pools.push(words);
    }
    // Upstream leaves out IPv6 blocks without a pool; they are in the facts for programs.
    for orphan in found.orphans.iter().filter(|orphan| with_blocks && orphan.cidr.addr().is_ipv4()) {
        sheet.push(row("Block", orphan));
    }
    let orphans: Vec<Value> = found.orphans.iter().map(facts).collect();
    Ok(Output::of(sheet.to_string(), json!({ "pools": pools, "orphans": orphans })))
}

fn row(kind: &str, usage: &Usage) -> [String; 6] {
    let share = |count: u128| format!("{} ({:.0}%)", digits(count), 100.0 * count as f64 / usage.capacity as f64);
    [
        kind.to_owned(),
        usage.cidr.to_string(),
        digits(usage.capacity),
        share(usage.in_use),
        share(usage.reserved),
        share(usage.available),
    ]
}

fn facts(usage: &Usage) -> Value {
    // JSON readers have no larger integers; beyond them a count is as exact as a reader's numbers are.
    let number = |count: u128| u64::try_from(count).map_or_else(|_| json!(count as f64), Value::from);
    json!({
        "cidr": usage.cidr,
        "total": number(usage.capacity),
        "inUse": number(usage.in_use),
        "reserved": number(usage.reserved),
        "free": number(usage.available),
    })
}

/// A count with five significant digits, as C's `%.5g` prints it.
fn digits(count: u128) -> String {
    if count < 100_000 {
        return count.to_string();
    }
    let rounded = format!("{:.4e}", count as f64);
    let (mantissa, exponent) = rounded.split_once('e').expect("the format asks for an exponent");
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
    format!("{mantissa}e+{exponent:0>2}")
}

async fn configuration(ipam: &Ipam) -> Result<Output, Failure> {
    let config = ipam.get_config().await?;
    let persistence = config.vm_address_persistence.clone().unwrap_or_default();
    let mut sheet = Sheet::of_words(&["PROPERTY", "VALUE"]);
    sheet.push(["StrictAffinity".to_owned(), config.strict_affinity.to_string()]);
    sheet.push(["AutoAllocateBlocks".to_owned(), config.auto_allocate_blocks.to_string()]);
    sheet.push(["MaxBlocksPerHost".to_owned(), config.max_blocks_per_host.to_string()]);
    sheet.push(["KubeVirtVMAddressPersistence".to_owned(), persistence.clone()]);
    sheet.push(["IPCooldownSeconds".to_owned(), config.cooldown_seconds.to_string()]);
    let facts = json!({
        "strictAffinity": config.strict_affinity,
        "autoAllocateBlocks": config.auto_allocate_blocks,
        "maxBlocksPerHost": config.max_blocks_per_host,
        "kubeVirtVMAddressPersistence": persistence,
        "ipCooldownSeconds": config.cooldown_seconds,
    });
    Ok(Output::of(sheet.to_string(), facts))
}

async fn holder(ipam: &Ipam, address: IpAddr) -> Result<Output, Failure> {
    let assignment = match ipam.get_assignment_attributes(address).await {
        Ok(assignment) => assignment,
        Err(LookupError::NotInPool { .. } | LookupError::Unassigned { .. } | LookupError::Cooling { .. }) => {
            let facts = json!({ "ip": address, "inUse": false });
            return Ok(Output::of(format!("{address} is not assigned\n"), facts));
        }
        Err(error) => return Err(Failure::new(sentence(&error))),
    };
    let attribute = &assignment.attribute;
    let mut text = format!("IP {address} is in use\n");
    text += &format!("Handle ID: {}\n", attribute.handle_id.as_deref().unwrap_or("<none>"));
    text += &owner("Active", attribute.secondary.as_ref())
        .unwrap_or_else(|| "No Active Owner attributes defined\n".to_owned());
    text += &owner("Alternate", attribute.alternate.as_ref()).unwrap_or_default();
    let facts = json!({
        "ip": address,
        "inUse": true,
        "block": assignment.block,
        "blockOwner": assignment.block_owner,
        "handle": attribute.handle_id,
        "attributes": attribute.secondary.clone().unwrap_or_default(),
        "alternateAttributes": attribute.alternate.clone().unwrap_or_default(),
    });
    Ok(Output::of(text, facts))
}

/// What an owner noted, `None` for nothing.
fn owner(which: &str, notes: Option<&BTreeMap<String, String>>) -> Option<String> {
    let notes = notes.filter(|notes| !notes.is_empty())?;
    let lines: String = notes.iter().map(|(key, value)| format!("  {key}: {value}\n")).collect();
    Some(format!("{which} Owner Attributes:\n{lines}"))
}

/// One address on another host than its block's.
struct Borrowed {
    address: IpAddr,
    node: String,
    block: String,
    block_owner: String,
    kind: String,
    allocated_to: String,
}

async fn borrowed(ipam: &Ipam) -> Result<Output, Failure> {
    let snapshot = ipam.snapshot().await.map_err(|error| Failure::new(sentence(&error)))?;
    let (mut found, mut unclassified) = (Vec::new(), 0);
    for block in snapshot.readable_blocks() {
        for address in block.in_use() {
            let Some(attribute) = block.ordinal(address).and_then(|ordinal| block.attribute(ordinal)) else { continue };
            match note(attribute, "node") {
                None => unclassified += 1,
                Some(node) if node != block_owner(block) => found.push(describe(block, address, attribute, node)),
                Some(_) => {}
            }
        }
    }
    let headings = &["IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"];
    let mut sheet = Sheet::of_words(headings);
    for Borrowed { address, node, block, block_owner, kind, allocated_to } in &found {
        sheet.push([&address.to_string(), node, block, block_owner, kind, allocated_to]);
    }
    let mut text = sheet.to_string();
    if unclassified > 0 {
        text += &format!(
            "\nNote: found {unclassified} IP allocations without an explicit node association. \
             Unable to determine if they are borrowed.\n"
        );
    }
    let facts = |borrowed: &Borrowed| {
        json!({
            "ip": borrowed.address,
            "borrowingNode": borrowed.node,
            "block": borrowed.block,
            "blockOwner": borrowed.block_owner,
            "type": borrowed.kind,
            "allocatedTo": borrowed.allocated_to,
        })
    };
    let facts: Vec<Value> = found.iter().map(facts).collect();
    Ok(Output::of(text, json!({ "borrowed": facts, "withoutNode": unclassified })))
}

fn note<'a>(attribute: &'a Attribute, name: &str) -> Option<&'a str> {
    attribute.secondary.as_ref()?.get(name).map(String::as_str)
}

/// The owner without its kind, empty for none.
fn block_owner(block: &Block) -> &str {
    let owner = block.affinity.as_deref().unwrap_or_default();
    owner.split_once(':').map_or(owner, |(_, name)| name)
}

fn describe(block: &Block, address: IpAddr, attribute: &Attribute, node: &str) -> Borrowed {
    let namespaced = |name: &str| format!("{}/{name}", note(attribute, "namespace").unwrap_or_default());
    let (kind, allocated_to) = if let Some(name) = note(attribute, "vmi-name") {
        ("vmi", namespaced(name))
    } else if let Some(name) = note(attribute, "pod") {
        ("pod", namespaced(name))
    } else {
        (note(attribute, "type").unwrap_or_default(), String::new())
    };
    Borrowed {
        address,
        node: node.to_owned(),
        block: block.cidr.to_string(),
        block_owner: block_owner(block).to_owned(),
        kind: kind.to_owned(),
        allocated_to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_counts_have_five_digits() {
        for (count, text) in [
            (0, "0"),
            (65_536, "65536"),
            (99_999, "99999"),
            (100_000, "1e+05"),
            (1_048_576, "1.0486e+06"),
            (16_777_216, "1.6777e+07"),
            (1 << 64, "1.8447e+19"),
            (1 << 122, "5.3169e+36"),
        ] {
            assert_eq!(digits(count), text);
        }
    }
}
