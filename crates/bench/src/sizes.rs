//! What is shipped, and what it takes to build it.

use std::{process::Command, time::Instant};

use calico_lab::binaries_dir;
use miette::{IntoDiagnostic, Result, miette};

use crate::report::Report;

/// Size of the image's archive.
pub(crate) fn image(report: &mut Report) -> Result<()> {
    let path = binaries_dir().join("../calico-node.tar");
    let size =
        std::fs::metadata(&path).map_err(|error| miette!("{}: {error}; run `make image`", path.display()))?.len();
    report.add("image/size", size as f64 / 1e6, "MB", 1, "calico/node as written for docker load");
    for binary in ["calicoctl", "calico-node", "calico-felix"] {
        let size = std::fs::metadata(binaries_dir().join(binary)).into_diagnostic()?.len();
        report.add(format!("image/{binary}"), size as f64 / 1e6, "MB", 1, "the binary");
    }
    Ok(())
}

/// A release build of both binaries from nothing but the downloaded crates.
pub(crate) fn cold_build(report: &mut Report) -> Result<()> {
    let target = std::env::temp_dir().join(format!("calico-bench-build-{}", std::process::id()));
    let start = Instant::now();
    let status = Command::new("cargo")
        .args(["build", "--release", "--quiet", "--package", "calicoctl", "--package", "calico-node"])
        .env("CARGO_TARGET_DIR", &target)
        .status();
    let elapsed = start.elapsed();
    let removed = std::fs::remove_dir_all(&target);
    if !status.into_diagnostic()?.success() {
        return Err(miette!("the build failed"));
    }
    removed.into_diagnostic()?;
    report.add("build/cold", elapsed.as_secs_f64(), "s", 1, "cargo build --release of calicoctl and calico-node");
    Ok(())
}
