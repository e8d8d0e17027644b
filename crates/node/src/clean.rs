//! `calico-node clean`: takes everything of ours out of this host's kernel, for a host that is left for good.
//!
//! The package runs it when it is purged, from a copy that its removal kept: by then the program itself is gone from
//! its place, and nothing but this program knows all that may be there.

use std::{io::ErrorKind, path::Path, process::ExitCode};

use miette::{IntoDiagnostic, Result, WrapErr, miette};

use crate::{RUN_DIR, lock::HostLock};

/// What a run leaves there by which the next one would take itself for a restart.
const TRACES: [&str; 2] = ["bird.cfg", "bird.ctl"];

/// Rules, routes, tunnels and interfaces of workloads. A second run finds nothing and is no failure.
///
/// # Errors
/// Not root; a calico-node serves this host; the kernel does not let go of something.
pub(crate) async fn clean() -> Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        return Err(miette!(help = "run it as root", "removing rules, routes and interfaces needs root"));
    }
    let run_dir = Path::new(RUN_DIR);
    std::fs::create_dir_all(run_dir).into_diagnostic().wrap_err_with(|| format!("{RUN_DIR} cannot be made"))?;
    // A service that runs would write everything again.
    let _alone = HostLock::take(&run_dir.join("calico-node.lock"))?;
    let options = calico_dataplane::Options::default();
    calico_dataplane::purge(&options, calico_confd::KERNEL_METRIC)
        .await
        .into_diagnostic()
        .wrap_err("the kernel keeps something of ours")?;
    let interfaces = calico_dataplane::remove_interfaces(&options)
        .await
        .into_diagnostic()
        .wrap_err("the kernel keeps an interface of a workload")?;
    for trace in TRACES.map(|name| run_dir.join(name)) {
        match std::fs::remove_file(&trace) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).into_diagnostic().wrap_err_with(|| format!("{} stays", trace.display()));
            }
            _ => {}
        }
    }
    println!("Rules and routes of Calico are removed, and {interfaces} interface(s) of workloads.");
    Ok(ExitCode::SUCCESS)
}
