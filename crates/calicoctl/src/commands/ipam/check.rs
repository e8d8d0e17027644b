//! `ipam check`: what is allocated and not used, used and not allocated, and what contradicts itself. It only reads.
//!
//! The text is upstream's, line by line. Upstream's asks Kubernetes for services, which there are none of here.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr};

use calico_ipam::{Allocation, Attribute, Audit, BLOCK_ROOT, Finding, Ipam, Snapshot, Use, User};
use calico_model::ClusterInformationSpec;
use serde_json::Value;
use time::OffsetDateTime;

use super::report::{Cluster, Report};
use crate::{
    args::IpamCheck,
    context::Context,
    failure::{Exit, Failure, sentence},
    output::Output,
};

/// How many hosts are named of those with the most addresses.
const TOP_NODES: usize = 20;

/// `ipam check`
pub(super) async fn check(ctx: &Context, ipam: &Ipam, args: &IpamCheck) -> Result<Output, Failure> {
    let cluster = cluster(ctx).await?;
    let snapshot = ipam.snapshot().await.map_err(|error| Failure::new(sentence(&error)))?;
    users_are_known(&snapshot)?;
    let audit = Audit::of(&snapshot, OffsetDateTime::now_utc());
    let report = Report::of(&cluster, &snapshot, &audit, args.deep);
    let json = serde_json::to_string_pretty(&report).expect("a report is maps and lists of texts and numbers");
    let mut output = Output::of(words(args, &snapshot, &audit), Value::Null);
    match args.report.as_deref() {
        Some("-") => output.text = json + "\n",
        Some(file) => {
            if let Err(error) = std::fs::write(file, json) {
                let failure = Failure::new(format!("The report cannot be written to {file}.")).cause(&error);
                return Ok(output.but(failure).exit(Exit::Failed));
            }
        }
        None => {}
    }
    let exit = if problems(&audit, args.deep) > 0 { Exit::Failed } else { Exit::Done };
    Ok(output.exit(exit))
}

/// Refuses to call anything leaked while it is not known what all endpoints and hosts use.
fn users_are_known(snapshot: &Snapshot) -> Result<(), Failure> {
    let Some((key, _)) = snapshot.unreadable_users.first() else { return Ok(()) };
    let failure = Failure::new("It is not known which addresses are in use, so leaks cannot be told.");
    let failure = snapshot.unreadable_users.iter().fold(failure, |failure, (_, cause)| failure.because(cause));
    Err(failure.hint(format!("look at it, and mend or delete it: etcdctl get {key}")))
}

/// What a report says of the cluster; nothing if there is no cluster yet.
pub(super) async fn cluster(ctx: &Context) -> Result<Cluster, Failure> {
    match ctx.store.get::<ClusterInformationSpec>("default").await {
        Ok(found) => Ok(Cluster {
            guid: found.spec.cluster_guid,
            locked: found.spec.datastore_ready == Some(false),
            revision: found.revision.map(|revision| revision.to_string()).unwrap_or_default(),
            kind: found.spec.cluster_type,
        }),
        Err(error) if error.is_not_found() => Ok(Cluster::default()),
        Err(error) => Err(error.into()),
    }
}

/// Findings that the first half of the text does not count already.
fn further(audit: &Audit) -> usize {
    let counted = |finding: &&Finding| match finding {
        Finding::DamagedBlock { .. } => false,
        Finding::Unreadable { key, .. } => !key.starts_with(BLOCK_ROOT),
        _ => true,
    };
    audit.findings.iter().filter(counted).count()
}

fn problems(audit: &Audit, deep: bool) -> usize {
    audit.problems() + if deep { further(audit) } else { 0 }
}

/// The text. Writing to a `String` does not fail.
fn words(args: &IpamCheck, snapshot: &Snapshot, audit: &Audit) -> String {
    let all = args.show_all_ips;
    let problems_shown = all || args.show_problem_ips;
    let mut text = "Checking IPAM for inconsistencies...\n\n".to_owned();
    blocks(&mut text, snapshot, audit, all);
    pools(&mut text, snapshot);
    users(&mut text, snapshot, audit, all);
    text += "Loading all handles\n";
    top_nodes(&mut text, audit);
    uses(&mut text, audit, problems_shown);
    handles(&mut text, audit, all, problems_shown);
    text += "Validating IPAMBlock structures...\n";
    for (block, fault) in &audit.damaged {
        let _ = writeln!(text, "  IPAMBlock BlockKey(cidr={block}) is invalid: {fault}");
    }
    let _ = writeln!(text, "Found {} invalid IPAMBlocks.", audit.damaged.len());
    if args.deep {
        text += "Looking for what else contradicts itself...\n";
        for finding in &audit.findings {
            let _ = writeln!(text, "  {finding}");
        }
        let _ = writeln!(text, "Found {} findings.", audit.findings.len());
    }
    let _ = writeln!(text, "Check complete; found {} problems.", problems(audit, args.deep));
    text
}

fn blocks(text: &mut String, snapshot: &Snapshot, audit: &Audit, all: bool) {
    let _ = writeln!(text, "Loading all IPAM blocks...\nFound {} IPAM blocks.", snapshot.blocks.len());
    let mut allocations = audit.allocations.iter().peekable();
    for block in snapshot.readable_blocks() {
        let owner = block.affinity.as_deref().unwrap_or("<none>");
        let _ = writeln!(text, " IPAM block {} affinity={owner}:", block.cidr);
        while let Some(allocation) = allocations.next_if(|allocation| allocation.block == block.cidr) {
            if !all {
                continue;
            }
            if allocation.users.contains(&User::Windows) {
                let _ = writeln!(text, "  {} belongs to {}", allocation.address, User::Windows);
            }
            let _ = writeln!(text, "  {} allocated; attrs {}", allocation.address, attributes(allocation));
        }
    }
    let _ = writeln!(text, "IPAM blocks record {} allocations.\n", audit.allocations.len());
}

fn attributes(allocation: &Allocation) -> String {
    let Some(Attribute { handle_id, secondary, alternate, .. }) = &allocation.attribute else {
        return "<missing>".to_owned();
    };
    let notes = |notes: &BTreeMap<String, String>| {
        notes.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
    };
    let extra = secondary.as_ref().map(notes).unwrap_or_default();
    let alternate = alternate.as_ref().filter(|notes| !notes.is_empty());
    let alternate = alternate.map(|more| format!(" Alternate:{}", notes(more))).unwrap_or_default();
    format!("Main:{} Extra:{extra}{alternate}", handle_id.as_deref().unwrap_or("<none>"))
}

fn pools(text: &mut String, snapshot: &Snapshot) {
    *text += "Loading all IPAM pools...\n";
    let active = snapshot.pools.iter().filter(|(_, enabled)| *enabled);
    for (cidr, _) in active.clone() {
        let _ = writeln!(text, "  {cidr}");
    }
    let _ = writeln!(text, "Found {} active IP pools.\n", active.count());
}

fn users(text: &mut String, snapshot: &Snapshot, audit: &Audit, all: bool) {
    let list = |text: &mut String, uses: &[Use]| {
        for Use { address, user } in uses.iter().filter(|_| all) {
            let _ = writeln!(text, "  {address} belongs to {user}");
        }
    };
    *text += "Loading all nodes.\n";
    list(text, &snapshot.node_uses);
    let _ = writeln!(text, "Found {} node tunnel IPs.\n", snapshot.node_uses.len());
    *text += "Loading all service load balancer IPs.\n\
              No configuration for LoadBalancer kubecontroller found, skipping service check\n\n\
              Loading all workload endpoints.\n";
    list(text, &snapshot.workload_uses);
    let _ = writeln!(text, "Found {} workload IPs.", snapshot.workload_uses.len());
    let _ = writeln!(text, "Workloads and nodes are using {} IPs.\n", audit.used.len());
}

fn top_nodes(text: &mut String, audit: &Audit) {
    let _ = writeln!(text, "Looking for top (up to {TOP_NODES}) nodes by allocations...");
    let mut by_node: BTreeMap<&str, usize> = BTreeMap::new();
    for allocation in &audit.allocations {
        *by_node.entry(allocation.node()).or_default() += 1;
    }
    let mut nodes: Vec<(&str, usize)> = by_node.into_iter().collect();
    nodes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (node, count) in nodes.iter().take(TOP_NODES) {
        let _ = writeln!(text, "  {node} has {count} allocations");
    }
    if let (Some((_, most)), Some((_, median))) = (nodes.first(), nodes.get(nodes.len() / 2)) {
        let _ = writeln!(text, "Node with most allocations has {most}; median is {median}");
    }
    *text += "\n";
}

fn uses(text: &mut String, audit: &Audit, shown: bool) {
    *text += "Scanning for IPs that are allocated but not actually in use...\n";
    let leaked = audit.allocations.iter().filter(|allocation| audit.leaked.contains(&allocation.address));
    let lines = leaked.map(|allocation| format!("  {} leaked; attrs {}", allocation.address, attributes(allocation)));
    sorted(text, lines.filter(|_| shown));
    let _ = writeln!(text, "Found {} IPs that are allocated in IPAM but not actually in use.", audit.leaked.len());

    *text += "Scanning for IPs that are in use by a workload or node but not allocated in IPAM...\n";
    let lines = audit.used.iter().flat_map(|(address, users)| unallocated(audit, *address, users));
    sorted(text, lines.filter(|_| shown));
    let _ = writeln!(text, "Found {} in-use IPs that are not in active IP pools.", audit.outside.len());
    let count = audit.unallocated.len();
    let _ = writeln!(
        text,
        "Found {count} in-use IPs that are in active IP pools but have no corresponding IPAM allocation.\n"
    );
}

/// What is told of an address in use.
fn unallocated(audit: &Audit, address: IpAddr, users: &[User]) -> Vec<String> {
    let doubles = (users.len() > 1).then(|| format!("  {address} has multiple owners."));
    let what = if audit.outside.contains(&address) {
        Some("is not in any active IP pool.")
    } else if audit.unallocated.contains(&address) {
        Some("and in active IPAM pool but has no IPAM allocation.")
    } else {
        None
    };
    let users = users.iter().filter_map(|user| what.map(|what| format!("  {address} in use by {user} {what}")));
    doubles.into_iter().chain(users).collect()
}

fn handles(text: &mut String, audit: &Audit, all: bool, shown: bool) {
    *text += "Scanning for IPAM handles with no matching IPs...\n";
    let idle = audit.idle_handles.iter().map(|handle| format!("  {handle} doesn't have any active IPs."));
    sorted(text, idle.filter(|_| all));
    let (idle, good) = (audit.idle_handles.len(), audit.good_handles);
    let _ = writeln!(text, "Found {idle} handles with no matching IPs (and {good} handles with matches).");

    *text += "Scanning for IPs with missing handle...\n";
    let missing =
        audit.missing_handles.iter().map(|handle| format!("  {handle} is in use in a block but doesn't exist."));
    sorted(text, missing.filter(|_| shown));
    let count = audit.missing_handles.len();
    let _ = writeln!(text, "Found {count} handles mentioned in blocks with no matching handle resource.");
}

/// Lines in the order of their text, so that two checks can be compared.
fn sorted(text: &mut String, lines: impl Iterator<Item = String>) {
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
}
