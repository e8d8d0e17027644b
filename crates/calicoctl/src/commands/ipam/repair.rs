//! `ipam repair`: mends what `ipam check --deep` finds beside leaks.

use calico_ipam::{Audit, Finding, Ipam};
use serde_json::json;
use time::OffsetDateTime;

use crate::{
    args::IpamRepair,
    commands::datastore::is_locked,
    context::Context,
    failure::{Exit, Failure, sentence},
    output::Output,
};

/// How often what was found is looked for again: mending one thing may show another, such as the claim of a host that
/// is gone.
const ROUNDS: usize = 5;

/// `ipam repair`
pub(super) async fn repair(ctx: &Context, ipam: &Ipam, args: &IpamRepair) -> Result<Output, Failure> {
    if !args.force && !is_locked(ctx).await? {
        return Err(Failure::new("data store is not locked. Either lock the data store, or re-run with --force")
            .because("an assignment that is under way would be taken for one that stopped half way")
            .hint("lock it: calicoctl datastore migrate lock"));
    }
    let (mut mended, mut failures) = (Vec::new(), Vec::new());
    let mut left = find(ipam).await?;
    for _ in 0..ROUNDS {
        let before = mended.len();
        failures.clear();
        for finding in &left {
            ctx.interrupt.check()?;
            match ipam.repair(finding).await {
                Ok(true) => mended.push(finding.clone()),
                Ok(false) => {}
                Err(error) => failures.push(Failure::new(sentence(&error)).about(&finding.to_string())),
            }
        }
        left = find(ipam).await?;
        if mended.len() == before {
            break;
        }
    }
    let mut text: String = mended.iter().map(|finding| format!("Mended: {finding}\n")).collect();
    text.extend(left.iter().map(|finding| format!("Left:   {finding}\n")));
    text += &format!("Mended {} findings; {} are left.\n", mended.len(), left.len());
    let output = Output::of(text, json!({ "mended": mended, "left": left }));
    Ok(match Failure::together(failures) {
        Some(failure) => output.but(failure).exit(Exit::Failed),
        None => output,
    })
}

async fn find(ipam: &Ipam) -> Result<Vec<Finding>, Failure> {
    let snapshot = ipam.snapshot().await.map_err(|error| Failure::new(sentence(&error)))?;
    Ok(Audit::of(&snapshot, OffsetDateTime::now_utc()).findings)
}
