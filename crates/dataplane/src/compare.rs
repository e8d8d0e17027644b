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
    iptables::{self, Iptables, Variant},
    netlink::{Nft, Rtnl},
    op::{Op, OpKind},
    ruleset::TABLE,
    state::State,
    writer::{has_nftables, left_by_iptables},
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
/// Counters, routes, settings of interfaces and single rules in other programs' chains are not looked at. Whoever is to
/// write the rules, of the others it is only said that they have left some.
///
/// # Errors
/// [`Error::Kernel`] without the right to read rules; [`Error::Program`] if those of iptables cannot be read.
pub async fn compare(instructions: Vec<Instruction>) -> Result<Comparison, Error> {
    let options = Arc::new(Options::default());
    let mut state = State::new(options.clone());
    let mut comparison = Comparison::default();
    for instruction in instructions {
        if let Err(refused) = state.absorb(instruction) {
            comparison.differences.push(format!("{} cannot be programmed: {}", refused.subject, refused.reason));
        }
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
    let (renderer, backend) = (state.settings().renderer, state.settings().iptables_backend);
    let has_nftables = has_nftables(&nft).await;
    if renderer == Renderer::Iptables || (renderer == Renderer::Auto && !has_nftables) {
        match iptables::choose(backend).await {
            Ok(variant) => comparison.differences.extend(with_iptables(&state, variant, options).await?),
            Err(error) => comparison.impossible = Some(error.to_string()),
        }
        for family in Family::ALL {
            if has_nftables && nft.has_table(family).await? {
                comparison.differences.push(format!("left over: table {family} {TABLE} of nftables"));
            }
        }
        return Ok(comparison);
    }
    for family in Family::ALL {
        let read = nft.read_table(family).await?;
        state.read_back(family, read);
    }
    let plan = state.plan();
    let ops: Vec<&Op> = plan.transactions().flatten().collect();
    comparison.differences.extend(ops.iter().filter_map(|op| difference(op, &ops)));
    for variant in Variant::ALL {
        for family in Family::ALL {
            if left_by_iptables(&nft, variant, family).await {
                comparison.differences.push(format!("left over: rules of {} for {family}", variant.program()));
            }
        }
    }
    Ok(comparison)
}

/// The rules are iptables'.
async fn with_iptables(state: &State, variant: Variant, options: Arc<Options>) -> Result<Vec<String>, Error> {
    let mut iptables = Iptables::open(variant, options)?;
    iptables.set_return_allowed(state.settings().return_allowed);
    // Nothing was read, so the plan makes everything.
    for op in state.plan().transactions().flatten() {
        iptables.absorb(op)?;
    }
    let mut differences = iptables.compared().await?;
    for other in Variant::ALL.into_iter().filter(|other| *other != variant) {
        for family in Family::ALL {
            if left_by_iptables(&Nft::open()?, other, family).await {
                differences.push(format!("left over: rules of {} for {family}", other.program()));
            }
        }
    }
    Ok(differences)
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
