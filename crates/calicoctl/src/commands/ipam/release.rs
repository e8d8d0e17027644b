//! `ipam release`: addresses that are typed, those of a handle, or those that reports of `ipam check` call leaked.
//!
//! From reports only what has not changed since is released: an address with the sequence number and the handle that
//! the reports saw, a handle with the revision that they saw. An outdated report frees nothing that is used again.

use std::{collections::BTreeMap, net::IpAddr};

use calico_ipam::{HandleId, Ipam, ReleaseError, ReleaseRequest, Released};
use calico_model::Revision;

use super::{
    check, classic,
    report::{Cluster, LeakedHandle, Report, VERSION},
};
use crate::{
    args::IpamRelease,
    context::Context,
    failure::{Exit, Failure, sentence},
    output::Output,
};

/// `ipam release`
pub(super) async fn release(ctx: &Context, ipam: &Ipam, args: &IpamRelease) -> Result<Output, Failure> {
    if let Some(address) = &args.address {
        return classic::release(ipam, address).await;
    }
    if !args.reports.is_empty() {
        return from_reports(ctx, ipam, args).await;
    }
    if let Some(handle) = &args.handle {
        return by_handle(ipam, &handle.as_str().into()).await;
    }
    let Some(text) = &args.ip else {
        ctx.console.note("Nothing to release: say what with --ip, --handle or --from-report.");
        return Ok(Output::lines([]));
    };
    match super::address(text) {
        Ok(address) => one(ipam, address).await,
        Err(refusal) => Ok(*refusal),
    }
}

async fn one(ipam: &Ipam, address: IpAddr) -> Result<Output, Failure> {
    match ipam.release_ips(&[address.into()]).await {
        Ok(done) if done.released.is_empty() => Err(Failure::new(format!("IP address {address} is not assigned"))),
        Ok(_) => Ok(Output::line(format!("Successfully released IP address {address}"))),
        Err(error) => Err(Failure::new(sentence(&error))),
    }
}

async fn by_handle(ipam: &Ipam, handle: &HandleId) -> Result<Output, Failure> {
    match ipam.release_by_handle(handle).await {
        Ok(addresses) => {
            let words: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let listed = if words.is_empty() { String::new() } else { format!(": {}", words.join(", ")) };
            Ok(Output::line(format!("Successfully released {} addresses of handle {handle}{listed}", words.len())))
        }
        Err(error @ ReleaseError::NoHandle { .. }) => {
            Err(Failure::new(sentence(&error))
                .hint("the handle of an address is what calicoctl ipam show --ip=IP prints"))
        }
        Err(error) => Err(Failure::new(sentence(&error))),
    }
}

/// What all reports call leaked.
#[derive(Debug, Default)]
struct Leaks {
    addresses: BTreeMap<String, ReleaseRequest>,
    handles: BTreeMap<String, LeakedHandle>,
}

async fn from_reports(ctx: &Context, ipam: &Ipam, args: &IpamRelease) -> Result<Output, Failure> {
    let cluster = check::cluster(ctx).await?;
    let mut text = String::new();
    let reports = match read(&cluster, args, &mut text) {
        Ok(reports) => reports,
        Err(failure) => return Ok(Output::of(text, ()).but(failure).exit(Exit::Failed)),
    };
    let leaks = leaks(&reports)?;
    let _acting = ctx.interrupt.acting();
    release_addresses(ipam, &leaks, &mut text).await;
    release_handles(ipam, &leaks, &mut text).await;
    text += "You may now unlock the data store.\n";
    Ok(Output::of(text, ()))
}

/// Reads the reports and makes sure that they are of this cluster as it is now.
fn read(cluster: &Cluster, args: &IpamRelease, text: &mut String) -> Result<Vec<Report>, Failure> {
    let (mut reports, mut is_current) = (Vec::new(), false);
    for file in &args.reports {
        let report = read_one(file)?;
        if report.cluster_guid != cluster.guid {
            return Err(Failure::new(format!(
                "cluster does not match the provided report ({file}): mismatched cluster GUID. Refusing to release"
            ))
            .because("the report is of another cluster")
            .hint("make a report of this one: calicoctl ipam check -o FILE"));
        }
        if report.version != VERSION && !args.force {
            let version = &report.version;
            return Err(Failure::new(format!(
                "the provided report ({file}) was produced using a different version ({version}) of calicoctl. \
                 Refusing to release"
            ))
            .hint("make a new report, or add --force"));
        }
        if report.version != VERSION {
            *text += "WARNING: Report was produced using a different version of calicoctl. \
                      Ignoring due to --force option\n";
        }
        is_current |= report.cluster_information_revision == cluster.revision;
        reports.push(report);
    }
    if !is_current {
        return Err(Failure::new(
            "the provided reports are all stale - at least one should be up-to-date. Please generate a new report \
             while the data store is locked and try again",
        )
        .hint("lock it: calicoctl datastore migrate lock"));
    }
    if !cluster.locked {
        if !args.force {
            return Err(Failure::new("data store is not locked. Either lock the data store, or re-run with --force")
                .hint("lock it, and make a new report: calicoctl datastore migrate lock"));
        }
        *text += "WARNING: Data store is not locked. Ignoring due to --force option\n";
    }
    Ok(reports)
}

fn read_one(file: &str) -> Result<Report, Failure> {
    let bytes = std::fs::read(file).map_err(|error| {
        let words = match error.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            _ => error.to_string(),
        };
        Failure::new(format!("open {file}: {words}"))
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::new(format!("{file} is not a report of ipam check."))
            .cause(&error)
            .hint("make one: calicoctl ipam check -o FILE")
    })
}

/// What is leaked in all reports and has not changed between them.
fn leaks(reports: &[Report]) -> Result<Leaks, Failure> {
    let mut all: Option<Leaks> = None;
    for report in reports {
        let mut leaks = of_report(report)?;
        if let Some(before) = &all {
            leaks.addresses.retain(|ip, request| before.addresses.get(ip) == Some(request));
            leaks.handles.retain(|id, handle| before.handles.get(id) == Some(handle));
        }
        all = Some(leaks);
    }
    Ok(all.unwrap_or_default())
}

fn of_report(report: &Report) -> Result<Leaks, Failure> {
    let mut leaks = Leaks::default();
    for entry in report.allocations.values().flatten().filter(|entry| !entry.in_use) {
        let address = entry.ip.parse().map_err(|_| {
            Failure::new(format!("{:?} in the report is not an IP address.", entry.ip)).hint("make a new report")
        })?;
        let handle = Some(HandleId::from(entry.handle.as_str())).filter(|handle| !handle.is_empty());
        let request = ReleaseRequest { address, handle, sequence: entry.sequence_number };
        leaks.addresses.insert(entry.ip.clone(), request);
    }
    leaks.handles.extend(report.leaked_handles.iter().map(|handle| (handle.id.clone(), handle.clone())));
    Ok(leaks)
}

async fn release_addresses(ipam: &Ipam, leaks: &Leaks, text: &mut String) {
    if leaks.addresses.is_empty() {
        *text += "Report didn't contain any leaked IPs to clean up.\n";
        return;
    }
    let requests: Vec<ReleaseRequest> = leaks.addresses.values().cloned().collect();
    *text += &format!("Releasing {} old IPs...\n", requests.len());
    let (done, error) = match ipam.release_ips(&requests).await {
        Ok(done) => (done, None),
        Err(ReleaseError::Mismatch { mismatches, released }) => {
            let first = mismatches.first().map(|mismatch| mismatch.address().to_string()).unwrap_or_default();
            (released, Some(format!("update conflict: {first}")))
        }
        Err(error) => (Released::default(), Some(error.to_string())),
    };
    let free = done.already_free.len() + done.unknown.len();
    *text += &match error {
        None => format!("Released {} IPs successfully\n", requests.len().saturating_sub(free)),
        Some(error) => format!(
            "An error occurred while releasing some IPs: {error}.  Problems are often caused by an out-of-date IPAM \
             report.  Try regenerating the IPAM report and retry.\n"
        ),
    };
    if free > 0 {
        *text += &format!("{free} addresses marked as leaked in the report had already been cleaned up.\n");
    }
}

async fn release_handles(ipam: &Ipam, leaks: &Leaks, text: &mut String) {
    if leaks.handles.is_empty() {
        *text += "Report didn't contain any handles to clean up.\n";
        return;
    }
    *text += &format!("Deleting {} handles...\n", leaks.handles.len());
    *text += "Key: '.' = Deleted OK; 'x' = skip, handle missing/changed.\n";
    let (mut released, mut skipped, mut failed) = (0, 0, 0);
    for (id, handle) in &leaks.handles {
        match delete(ipam, handle).await {
            Ok(true) => {
                released += 1;
                *text += ".";
            }
            Ok(false) => {
                skipped += 1;
                *text += "x";
            }
            Err(error) => {
                failed += 1;
                *text += &format!("\nDeleting handle {id} failed: {error}.\n");
            }
        }
    }
    *text += &format!("\nReleased {released} handles; {skipped} skipped; {failed} errors.\n");
}

/// Deletes a handle that is as the report saw it. One with an identifier of Kubernetes was never in this datastore.
async fn delete(ipam: &Ipam, handle: &LeakedHandle) -> Result<bool, calico_ipam::AccessError> {
    match (handle.revision.parse(), &handle.uid) {
        (Ok(revision), None) => ipam.delete_idle_handle(&handle.id.as_str().into(), Revision(revision)).await,
        _ => Ok(false),
    }
}
