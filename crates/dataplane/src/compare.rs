//! What the kernel holds beside what it should hold, for people: nothing is written.
//!
//! The same calculation as before an apply ([`State`], read back, plan); the steps that an apply would take are the
//! differences.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use calico_policy::instruction::{Instruction, Renderer};

use crate::{
    Error, Options,
    family::Family,
    ifname::IfName,
    netlink::{Nft, Rtnl},
    op::{Op, OpKind},
    ruleset::TABLE,
    state::State,
};

/// How the kernel differs from what is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Each step that would be taken, in words. Empty if the kernel holds what is wanted.
    pub differences: Vec<String>,
    /// Set if nothing was compared, with the reason.
    pub impossible: Option<String>,
}

/// Compares the rules of this network namespace with what all instructions together ask for.
///
/// Counters, routes, settings of interfaces and single rules in other programs' chains are not looked at.
///
/// # Errors
/// [`Error::Kernel`] without the right to read rules.
pub async fn compare(instructions: Vec<Instruction>) -> Result<Comparison, Error> {
    let options = Arc::new(Options::default());
    let mut state = State::new(options.clone());
    let mut comparison = Comparison::default();
    for instruction in instructions {
        if let Err(refused) = state.absorb(instruction) {
            comparison.differences.push(format!("{} cannot be programmed: {}", refused.subject, refused.reason));
        }
    }
    if state.settings().renderer == Renderer::Iptables {
        comparison.impossible =
            Some("the rules of this host are iptables', which are compared by felix only".to_owned());
        return Ok(comparison);
    }
    let rtnl = Rtnl::open(options.route_protocol)?;
    let links = rtnl.links().await?;
    for link in links.iter().filter(|link| link.name.as_str().starts_with(&options.interface_prefix)) {
        state.link(link.name, true);
    }
    if state.follows_addresses() {
        let names: HashMap<u32, IfName> = links.iter().map(|link| (link.index, link.name)).collect();
        let addresses = rtnl.addresses().await?.into_iter();
        let named: BTreeSet<(IpAddr, IfName)> =
            addresses.filter_map(|(index, address)| Some((address, *names.get(&index)?))).collect();
        state.read_addresses(named);
    }
    state.flush();
    let nft = Nft::open()?;
    for family in Family::ALL {
        let read = nft.read_table(family).await?;
        state.read_back(family, read);
    }
    let plan = state.plan();
    let ops: Vec<&Op> = plan.transactions().flatten().collect();
    comparison.differences.extend(ops.iter().filter_map(|op| difference(op, &ops)));
    Ok(comparison)
}

/// A step in words; those that follow from another one say nothing new.
fn difference(op: &Op, all: &[&Op]) -> Option<String> {
    let family = op.family;
    match &op.kind {
        OpKind::AddTable => Some(format!("missing: table {family} {TABLE}")),
        // What fills a chain or set follows from what was said of it.
        OpKind::AddRule { .. } | OpKind::FlushSet { .. } => None,
        OpKind::AddChain(head) => {
            let what = head.comment.as_deref().unwrap_or(&head.name);
            Some(format!("missing: {what} (chain {} of {family})", head.name))
        }
        OpKind::FlushChain { name } => {
            // The chain's rules come anew, and say what it is for.
            let comments = all.iter().filter(|other| other.family == family).filter_map(|other| match &other.kind {
                OpKind::AddRule { chain, rule } if chain == name => rule.comment.as_deref(),
                _ => None,
            });
            let what = comments.into_iter().next().map_or(String::new(), |comment| format!(" ({comment} …)"));
            Some(format!("other rules in chain {name} of {family}{what}"))
        }
        OpKind::DeleteChain { name } => Some(format!("left over: chain {name} of {family}")),
        _ => Some(op.to_string()),
    }
}
